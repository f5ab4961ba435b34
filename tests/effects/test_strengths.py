"""Effect strengths against closed forms, and what shifts and codes do to a quantised model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import codes as code_effects
from vaecausal_jax.effects import strengths, unit_effects
from vaecausal_jax.inference import Bootstrap
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites
from vaecausal_jax.models.networks import nearest_codes

NUM = 3000
KEY = jax.random.key(5)


def decoder(function):
    """A forward with one site, the latent z = x, and a decoder of it."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("y", function(params, tape("z", x)))
        tape.close()
        return Trace(y, tape.activations)

    return forward


def prior_samples(forward, params, num_latents, num=NUM, **options):
    base, donor = jax.random.normal(jax.random.key(0), (2, num, num_latents))
    eps = jnp.zeros((num, 0))
    sites = list_sites(forward, params, base[0], eps[0])
    return strengths.strength_samples(
        BoundModel(forward, params, sites), Runs(base, eps, {"z": donor}), "z", **options
    )


def assert_within_errors(estimate, expected, num_errors=4):
    """Within so many standard errors, from the interval's half width."""
    error = (estimate.high - estimate.low) / (2 * 1.96)
    gap = np.abs(estimate.value - expected)
    assert np.all(gap <= num_errors * error + 1e-5), (estimate.value, expected, error)


WEIGHTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
SD = np.array([1.0, 0.5, 2.0], np.float32)


@pytest.fixture(scope="module")
def linear():
    """A linear decoder, all forms at once; a dose is counted in given SDs."""
    samples = prior_samples(
        decoder(lambda w, z: w @ z),
        jnp.asarray(WEIGHTS),
        3,
        unit_sd=jnp.asarray(SD),
        doses=(1.0, 2.0),
        divergence=strengths.gaussian_nats(0.5),
        readout=lambda y: y[:2],
    )
    kl = jnp.broadcast_to(jnp.array([[1.0, 2.0, 4.0]]), (NUM, 3))
    return samples, strengths.estimate_strengths(
        KEY,
        samples,
        intervention="prior",
        output_sd=2.0,
        readout_range=(1.0, 4.0),
        kl=kl,
        bootstrap=Bootstrap(num_replicates=100),
    )


@pytest.mark.thorough
def test_a_linear_decoder_has_shares_of_squared_weights_and_no_interaction(linear):
    # T5: T = S = |w_j|^2 / |W|^2.
    _, found = linear
    energy = (WEIGHTS**2).sum(0)
    assert_within_errors(found.total_index, energy / energy.sum())
    assert_within_errors(found.first_order, energy / energy.sum())
    assert_within_errors(found.interaction_share, 0)


def test_a_linear_decoder_has_the_nats_of_its_squared_change(linear):
    # KL = |w (z' - z)|^2 / (2 s^2), E (z' - z)^2 = 2.
    samples, found = linear
    np.testing.assert_allclose(samples.nats, samples.squared / (2 * 0.5), rtol=1e-5)
    assert_within_errors(found.nats, 2 * (WEIGHTS**2).sum(0) / (2 * 0.5))


def test_paper_form_is_the_mean_distance(linear):
    # E|z' - z| = 2 / sqrt(pi).
    _, found = linear
    assert_within_errors(
        found.paper_effect_strength, np.linalg.norm(WEIGHTS, axis=0) * 2 / np.sqrt(np.pi)
    )


def test_read_outs_change_by_their_rows_over_their_range(linear):
    _, found = linear
    expected = np.abs(WEIGHTS[:2].T) / np.array([1.0, 4.0]) * 2 / np.sqrt(np.pi)
    assert_within_errors(found.factor_units, expected)


def test_efficiency_is_effect_per_nat(linear):
    _, found = linear
    energy = (WEIGHTS**2).sum(0)
    assert_within_errors(found.efficiency, energy / energy.sum() / np.array([1, 2, 4]))


def test_doses_of_a_linear_decoder_give_straight_lines_in_output_sd(linear):
    _, found = linear
    doses = np.array([-2.0, -1, 1, 2])
    np.testing.assert_array_equal(found.doses, doses)
    per_sd = SD * np.linalg.norm(WEIGHTS, axis=0) / np.sqrt(5) / 2.0
    np.testing.assert_allclose(
        found.dose_response.value, per_sd[:, None] * np.abs(doses), rtol=1e-4
    )
    np.testing.assert_allclose(found.slope.value, per_sd[:, None] * [[1, 1]], rtol=1e-4)
    np.testing.assert_allclose(found.curvature.value, 0, atol=1e-4)
    line = (SD * WEIGHTS[:2] / np.array([[1.0], [4.0]])).T
    np.testing.assert_allclose(
        found.signed_response.value, line[..., None] * doses, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        found.signed_slope.value, line[..., None] * np.ones(2), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(found.signed_curvature.value, 0, atol=1e-5)


def test_support_is_the_share_of_natural_values_beyond_the_dose(linear):
    samples, found = linear
    base = np.asarray(jax.random.normal(jax.random.key(0), (2, NUM, 3)))[0]
    centred = base - base.mean(0)
    for u in range(3):
        for d, dose in enumerate(found.doses):
            reach = dose * SD[u]
            share = np.mean(centred[:, u] >= reach if dose > 0 else centred[:, u] <= reach)
            np.testing.assert_allclose(found.support[u, d], share, atol=2 / NUM)
    np.testing.assert_array_equal(found.on_support, found.support >= 0.01)
    # Doses of 4 SD (the third latent's are counted in twice its own) lie beyond almost all.
    np.testing.assert_array_equal(found.on_support[2], [False, True, True, False])
    assert samples.unit_sd.shape == (3,)


@pytest.mark.thorough
def test_a_bilinear_decoder_has_the_indices_of_the_formula():
    # T6: y = a z1 + b z2 + c z1 z2.
    a, b, c = 1.0, 0.5, 0.8
    samples = prior_samples(
        decoder(lambda p, z: (a * z[0] + b * z[1] + c * z[0] * z[1])[None]), None, 2, doses=()
    )
    found = strengths.estimate_strengths(
        KEY, samples, intervention="prior", bootstrap=Bootstrap(num_replicates=100)
    )
    variance = a**2 + b**2 + c**2
    assert_within_errors(found.first_order, np.array([a**2, b**2]) / variance)
    assert_within_errors(found.total_index, np.array([a**2 + c**2, b**2 + c**2]) / variance)
    assert_within_errors(found.interaction_share, c**2 / variance)
    assert found.dose_response is None
    assert found.nats is None
    assert found.efficiency is None
    assert found.support.shape == (2, 0)


@pytest.mark.thorough
def test_an_even_output_has_magnitude_and_curvature_but_no_signed_slope():
    # T7: y = z^2, y(z + d) - y(z - d) = 4 z d, y(z + d) - 2 y + y(z - d) = 2 d^2.
    samples = prior_samples(
        decoder(lambda p, z: z**2), None, 1, doses=(0.5, 1.0), unit_sd=jnp.ones(1)
    )
    found = strengths.estimate_strengths(
        KEY, samples, intervention="prior", output_sd=1.0, bootstrap=Bootstrap(num_replicates=100)
    )
    assert_within_errors(found.signed_slope, 0)
    np.testing.assert_allclose(found.signed_curvature.value, 2, rtol=1e-3)
    assert_within_errors(found.slope, 2)
    np.testing.assert_allclose(found.curvature.value, 2, rtol=1e-3)
    np.testing.assert_allclose(samples.squared.mean(), 4, rtol=0.2)
    # E(2 z d + d^2)^2 = 4 d^2 + d^4.
    dose = found.doses
    assert_within_errors(found.dose_response, np.sqrt(4 * dose**2 + dose**4))


def ishigami(p, x):
    a, b = 7.0, 0.1
    return (jnp.sin(x[0]) + a * jnp.sin(x[1]) ** 2 + b * x[2] ** 4 * jnp.sin(x[0]))[None]


def sobol_g(p, x):
    a = jnp.array([0.0, 1.0, 4.5, 9.0])
    return jnp.prod((jnp.abs(4 * x - 2) + a) / (1 + a))[None]


def g_indices():
    a = np.array([0.0, 1.0, 4.5, 9.0])
    v = 1 / 3 / (1 + a) ** 2
    total = np.prod(1 + v) - 1
    return v / total, v * np.prod(1 + v) / (1 + v) / total


def uniform_strengths(forward, num_latents, low, high):
    base, donor = jax.random.uniform(
        jax.random.key(1), (2, 6000, num_latents), minval=low, maxval=high
    )
    eps = jnp.zeros((len(base), 0))
    sites = list_sites(forward, None, base[0], eps[0])
    samples = strengths.strength_samples(
        BoundModel(forward, None, sites), Runs(base, eps, {"z": donor}), "z", doses=()
    )
    return strengths.estimate_strengths(
        KEY, samples, intervention="redrawn", bootstrap=Bootstrap(num_replicates=100)
    )


@pytest.mark.thorough
def test_ishigami_has_its_published_indices():
    found = uniform_strengths(decoder(ishigami), 3, -np.pi, np.pi)
    assert_within_errors(found.first_order, [0.3139, 0.4424, 0.0])
    assert_within_errors(found.total_index, [0.5576, 0.4424, 0.2437])


@pytest.mark.slow
def test_sobol_g_has_its_closed_form_indices():
    found = uniform_strengths(decoder(sobol_g), 4, 0, 1)
    first, total = g_indices()
    assert_within_errors(found.first_order, first)
    assert_within_errors(found.total_index, total)


@pytest.mark.parametrize("seed", range(3))
def test_nats_of_bernoulli_images_are_those_of_their_probabilities(seed):
    logits, other = jax.random.normal(jax.random.key(seed), (2, 4, 4, 1)) * 3
    p, q = (1 / (1 + np.exp(-np.asarray(v, float))) for v in (logits, other))
    expected = np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    np.testing.assert_allclose(strengths.bernoulli_nats(logits, other), expected, rtol=1e-5)
    assert strengths.bernoulli_nats(logits, logits) == 0
    assert np.isfinite(strengths.bernoulli_nats(jnp.full(3, 300.0), jnp.full(3, -300.0)))


def test_channels_are_shifted_and_redrawn_whole_and_positions_count_for_support():
    # y = sum over positions: one SD on a channel of four positions is four SD of the sum.
    forward = decoder(lambda p, z: z.sum((0, 1)))
    base, donor = jax.random.normal(jax.random.key(2), (2, 50, 2, 2, 3))
    sites = list_sites(forward, None, base[0], jnp.zeros(0))
    found = strengths.strength_samples(
        BoundModel(forward, None, sites),
        Runs(base, jnp.zeros((50, 0)), {"z": donor}),
        "z",
        doses=(1.0,),
    )
    sd = np.asarray(base).std((0, 1, 2))
    np.testing.assert_allclose(found.unit_sd, sd, rtol=1e-5)
    expected = np.broadcast_to(((4 * sd) ** 2)[:, None, None], (3, 2, 50))
    np.testing.assert_allclose(found.dose_squared, expected, rtol=1e-3)
    change = np.asarray(donor - base).sum((1, 2)).T
    np.testing.assert_allclose(found.squared, change**2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        found.complement, (change**2).sum(0, keepdims=True) - change**2, rtol=1e-3, atol=1e-3
    )
    assert found.support.shape == (3, 2)


def test_noise_of_its_own_in_each_arm_adds_the_noise_floor_to_squared_effects():
    # T19: y = W (mu + sigma e).
    sigma = jnp.array([0.5, 1.0, 2.0])
    weights = jnp.asarray(WEIGHTS)

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = weights @ tape("z", tape("mean", x) + sigma * eps)
        tape.close()
        return Trace(y, tape.activations)

    keys = jax.random.split(jax.random.key(3), 3)
    x, eps, other = (jax.random.normal(key, (NUM, 3)) for key in keys)
    floor = np.asarray(unit_effects.noise_floor(BoundModel(forward, None), x, eps, other))
    expected = 2 * np.sum(np.asarray(sigma) ** 2 * (WEIGHTS**2).sum(0))
    np.testing.assert_allclose(floor.mean(), expected, atol=4 * floor.std() / np.sqrt(NUM))
    np.testing.assert_array_equal(
        unit_effects.noise_floor(BoundModel(forward, None), x, eps, eps), 0
    )
    # A shift of the mean, with the arms' noise shared and not.
    run = jax.vmap(lambda a, e: forward(None, a, e, {}).outputs)
    moved = x + jnp.array([[1.0, 0.0, 0.0]])
    shared = np.sum((np.asarray(run(moved, eps) - run(x, eps))) ** 2, 1)
    independent = np.sum((np.asarray(run(moved, other) - run(x, eps))) ** 2, 1)
    np.testing.assert_allclose(shared, (WEIGHTS[:, 0] ** 2).sum(), rtol=1e-3)
    excess = independent - shared
    np.testing.assert_allclose(excess.mean(), expected, atol=4 * excess.std() / np.sqrt(NUM))


# --- vector quantisation ------------------------------------------------------------------------

BOOK = jnp.array([[-1.0], [1.0], [2.0]])


def quantised(params, x, eps, interventions):
    """Two positions, codes at -1, 1 and 2, decoded as they are; borders at 0 and 1.5."""
    tape = Tape(interventions)
    pre = tape("latent/pre", x)
    codes = tape("latent/codes", nearest_codes(pre, params), unit_axis=None)
    y = tape("y", params[codes, 0])
    tape.close()
    return Trace(y, tape.activations)


@pytest.fixture(scope="module")
def codes():
    keys = jax.random.split(jax.random.key(0), 3)
    own, donor = (jax.random.randint(key, (NUM, 2), 0, 3) for key in keys[:2])
    x = BOOK[own] + jax.random.uniform(keys[2], (NUM, 2, 1), minval=-0.2, maxval=0.2)
    eps = jnp.zeros((NUM, 0))
    sites = list_sites(quantised, BOOK, x[0], eps[0])
    return sites, x, eps, donor.astype(jnp.int32), np.asarray(own)


def index(found):
    above, below = map(np.asarray, unit_effects.total_index(found))
    value = above.sum(1) / below.sum(1)
    residual = above - value[:, None] * below
    return value, 4 * residual.std(1) / below.mean() / np.sqrt(NUM)


def test_codes_redrawn_by_position_value_and_map_have_the_total_index_of_theory(codes):
    # T26: positions are independent and alike: half each, one together.
    sites, x, eps, donor, own = codes
    found = code_effects.code_effects(
        BoundModel(quantised, BOOK, sites), Runs(x, eps, {"latent/codes": donor}), num_codes=3
    )
    for part, expected in ((found.position, [0.5, 0.5]), (found.whole, [1.0])):
        value, tolerance = index(part)
        assert np.all(np.abs(value - expected) <= tolerance)
    book = np.asarray(BOOK)[:, 0]
    expected = np.stack(
        [np.where(own == k, (book[np.asarray(donor)] - book[own]) ** 2, 0).sum(1) for k in range(3)]
    )
    np.testing.assert_allclose(found.code.squared, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.occurrence, [(own == k).sum(1) for k in range(3)])
    np.testing.assert_allclose(
        found.code.squared.sum(0), found.whole.squared[0], rtol=1e-5, atol=1e-6
    )


def test_shifts_cross_borders_only_beyond_the_distance_to_them(codes):
    # T26: values lie within 0.2 of their codes; no border is nearer than 0.3.
    sites, x, eps, _, own = codes
    doses = jnp.array([0.0, 0.29, -0.29, 0.6, 10.0])
    found = code_effects.crossing_rates(BoundModel(quantised, BOOK, sites), x, eps, doses)
    assert found.crossed.shape == (1, 5, NUM)
    np.testing.assert_array_equal(found.crossed[0, :3], 0)
    np.testing.assert_array_equal(found.squared[0, :3], 0)
    # A shift of 0.6 takes all values at 1 past 1.5 except those below 0.9.
    values = np.asarray(x)[..., 0]
    np.testing.assert_allclose(
        found.crossed[0, 3], np.mean((own == 1) & (values > 0.9), axis=1), atol=1e-6
    )
    np.testing.assert_allclose(found.crossed[0, 4], np.mean(own != 2, axis=1), atol=1e-6)
    assert np.all((np.asarray(found.squared) > 0) == (np.asarray(found.crossed) > 0))


def test_doses_in_standard_deviations_are_shifts_of_that_size(codes):
    sites, x, eps, _, _ = codes
    net, sd = BoundModel(quantised, BOOK, sites), jnp.array([0.3])
    counted = code_effects.crossing_rates(net, x, eps, jnp.array([1.0, -2.0]), unit_sd=sd)
    shifted = code_effects.crossing_rates(net, x, eps, jnp.array([0.3, -0.6]))
    np.testing.assert_array_equal(counted.crossed, shifted.crossed)
    np.testing.assert_allclose(counted.squared, shifted.squared, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s),
                Runs(x, e, {"latent/codes": jnp.zeros((3, 2), jnp.int32)}),
                "latent/codes",
            ),
            "has no units; for VQ codes use code_effects",
        ),
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s),
                Runs(x, e, {"latent/pre": x}),
                "latent/pre",
                doses=(1.0, 0.5),
            ),
            r"positive and increasing, got \[1.0, 0.5\]",
        ),
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s),
                Runs(x, e, {"latent/pre": x}),
                "latent/pre",
                doses=(0.0, 0.5),
            ),
            "positive and increasing",
        ),
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s), Runs(x, e, {"latent/pre": x[:2]}), "latent/pre"
            ),
            "donor has 2",
        ),
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s),
                Runs(x, e, {"latent/pre": x}),
                "latent/pre",
                readout=jnp.sum,
            ),
            r"readout must return \(read-outs,\), got \(\)",
        ),
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s),
                Runs(x, e, {"latent/pre": x}),
                "latent/pre",
                unit_sd=jnp.ones(2),
            ),
            r"unit_sd has shape \(2,\), expected \(1,\)",
        ),
        (
            lambda s, x, e: strengths.strength_samples(
                BoundModel(quantised, BOOK, s), Runs(x, e, {"latent/prey": x}), "latent/prey"
            ),
            "unknown site 'latent/prey'.*Did you mean 'latent/pre'",
        ),
        (
            lambda s, x, e: code_effects.code_effects(
                BoundModel(quantised, BOOK, s),
                Runs(x, e, {"latent/pre": x}),
                num_codes=3,
                name="latent/pre",
            ),
            "expected integer codes",
        ),
        (
            lambda s, x, e: code_effects.crossing_rates(
                BoundModel(quantised, BOOK, s), x, e, jnp.float32(1)
            ),
            r"doses has shape \(\)",
        ),
        (
            lambda s, x, e: code_effects.crossing_rates(
                BoundModel(quantised, BOOK, s), x, e, jnp.ones(1), unit_sd=jnp.ones(2)
            ),
            r"unit_sd has shape \(2,\), expected \(1,\)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message, codes):
    x, eps = jnp.zeros((3, 2, 1)), jnp.zeros((3, 0))
    with pytest.raises(ValueError, match=message):
        call(codes[0], x, eps)


def test_kl_of_another_shape_is_refused(linear):
    with pytest.raises(ValueError, match=r"kl has shape \(3,\)"):
        strengths.estimate_strengths(KEY, linear[0], intervention="prior", kl=jnp.ones(3))
