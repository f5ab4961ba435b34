"""Effect strengths against models whose Sobol indices are known, and against plain loops."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import unit_effects as effects
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites
from vaecausal_jax.models.networks import nearest_codes
from vaecausal_jax.sweeps.grid import Block, sweep

NUM = 20_000


def decoder(function):
    """A forward with one site, the latent z = x, and a decoder of it."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("y", function(params, tape("z", x)))
        tape.close()
        return Trace(y, tape.activations)

    return forward


def prior_effects(forward, params, num_latents, num=NUM, **options):
    x, eps = jnp.zeros((num, num_latents)), jnp.zeros((num, 0))
    sites = list_sites(forward, params, x[0], eps[0])
    base, donor = jax.random.normal(jax.random.key(0), (2, num, num_latents))
    return effects.resample_effects(
        BoundModel(forward, params, sites), Runs(x, eps, {"z": donor}, {"z": base}), **options
    ).values


def ratio(numerator, denominator):
    """Ratio of sums over images, and four of its standard errors (delta method)."""
    value = np.sum(numerator, -1) / np.sum(denominator, -1)
    residual = numerator - value[..., None] * denominator
    error = np.std(residual, -1) / np.mean(denominator, -1) / np.sqrt(numerator.shape[-1])
    return value, 4 * error


def assert_index(unit_effects, expected):
    value, tolerance = ratio(*map(np.asarray, effects.total_index(unit_effects)))
    assert np.all(np.abs(value - expected) <= tolerance), (value, expected, tolerance)


WEIGHTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
linear = decoder(lambda w, z: w @ z)


@pytest.fixture(scope="module")
def linear_effects():
    return prior_effects(linear, jnp.asarray(WEIGHTS), 3)


def test_total_index_of_a_linear_decoder_is_the_share_of_squared_weights(linear_effects):
    # T5, METHODS 7.1(a).
    energy = (WEIGHTS**2).sum(0)
    assert_index(linear_effects, energy / energy.sum())
    numerator, denominator = map(np.asarray, effects.total_index(linear_effects))
    value, tolerance = ratio(numerator.sum(0)[None], denominator[:1])
    np.testing.assert_allclose(value, 1, atol=tolerance[0])


def test_total_indices_of_a_bilinear_decoder_exceed_one_together():
    # T6: y = a z1 + b z2 + c z1 z2.
    a, b, c = 1.0, 0.5, 0.8
    forward = decoder(lambda p, z: (a * z[0] + b * z[1] + c * z[0] * z[1])[None])
    variance = a**2 + b**2 + c**2
    expected = np.array([(a**2 + c**2) / variance, (b**2 + c**2) / variance])
    assert_index(prior_effects(forward, None, 2), expected)
    assert expected.sum() > 1


@pytest.mark.parametrize(
    ("gate", "index"), [(lambda s: s[0] * s[1], 2 / 3), (lambda s: (s[0] - s[1]) ** 2, 1.0)]
)
def test_total_index_of_gates_is_that_of_their_four_states(gate, index):
    # T9: exact when the four states and the two donor bits are enumerated.
    forward = decoder(lambda p, s: gate(s)[None])
    states = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4), -1).reshape(-1, 4).astype(np.float32)
    base, donor = jnp.asarray(states[:, :2]), jnp.asarray(states[:, 2:])
    eps = jnp.zeros((16, 0))
    sites = list_sites(forward, None, base[0], eps[0])
    made = effects.resample_effects(
        BoundModel(forward, None, sites), Runs(base, eps, {"z": donor})
    ).values
    numerator, denominator = effects.total_index(made)
    # The spread is unbiased for a random sample; of an enumeration the plain variance is exact.
    value = numerator.sum(1) / (denominator.sum(1) * 15 / 16)
    np.testing.assert_allclose(value, index, rtol=1e-6)


def test_an_even_output_has_no_signed_effect_but_a_magnitude():
    # T7: y = z^2.
    forward = decoder(lambda p, z: z**2)
    sites = list_sites(forward, None, jnp.zeros(1), jnp.zeros(0))
    up, down = (
        forward(None, jnp.zeros(1), jnp.zeros(0), vi.shift_by(sites, "z", d)).outputs
        for d in (0.7, -0.7)
    )
    assert up - down == 0
    squared = np.asarray(prior_effects(forward, None, 1).squared[0])
    error = squared.std() / np.sqrt(NUM)
    np.testing.assert_allclose(squared.mean(), 4, atol=4 * error)


def vq_toy(params, x, eps, interventions):
    """One position, codes at -1, 1 and 2, decoded as they are."""
    tape = Tape(interventions)
    pre = tape("pre", x)
    codes = tape("codes", nearest_codes(pre[:, None], params), unit_axis=None)
    y = tape("y", params[codes, 0])
    tape.close()
    return Trace(y, tape.activations)


BOOK = jnp.array([[-1.0], [1.0], [2.0]])


@pytest.mark.thorough
def test_shifts_within_a_voronoi_cell_have_no_effect_and_codes_have_all_of_it():
    # T26. The cells' borders lie at 0 and 1.5: values within 0.2 of a code stay in its cell.
    keys = jax.random.split(jax.random.key(0), 3)
    codes, donors = (jax.random.randint(key, (4000, 1), 0, 3) for key in keys[:2])
    x = BOOK[codes, 0] + jax.random.uniform(keys[2], codes.shape, minval=-0.2, maxval=0.2)
    eps = jnp.zeros((4000, 0))
    sites = list_sites(vq_toy, BOOK, x[0], eps[0])
    still = effects.shift_effects(
        BoundModel(vq_toy, BOOK, sites), x, eps, {"pre": jnp.array([0.29])}
    ).values
    np.testing.assert_array_equal(still.squared, 0)
    moved = effects.shift_effects(
        BoundModel(vq_toy, BOOK, sites), x, eps, {"pre": jnp.array([0.8])}
    ).values
    assert moved.squared.mean() > 0
    donor = donors.astype(jnp.int32)
    resampled = effects.resample_effects(
        BoundModel(vq_toy, BOOK, sites), Runs(x, eps, {"codes": donor})
    ).values
    assert resampled.squared.shape == (1, 4000)
    assert_index(resampled, 1.0)


def test_total_index_does_not_depend_on_scale_rotation_or_size_of_the_output(linear_effects):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0].astype(np.float32)

    def turned(trace):
        return jnp.tile(7.0 * rotation @ trace.outputs, 4)

    other = prior_effects(linear, jnp.asarray(WEIGHTS), 3, outcome=turned)
    np.testing.assert_allclose(other.squared, 4 * 49 * linear_effects.squared, rtol=1e-3, atol=1e-3)
    value, expected = (
        ratio(*map(np.asarray, effects.total_index(e)))[0] for e in (other, linear_effects)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-4)


# --- against loops ------------------------------------------------------------------------------

MODEL = models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5,))


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 3, leaf.dtype),
        jax.eval_shape(MODEL.init, jax.random.key(0)),
    )
    x = jnp.asarray(rng.uniform(size=(4, 4, 4, 1)), float)
    return params, x, jnp.asarray(rng.normal(size=(4, 3)), float)


def loop(run, make):
    """|y' - y| by part and image, through NumPy."""
    params, x, eps = run
    clean = [np.asarray(MODEL.forward(params, x[i], eps[i]).outputs, float) for i in range(4)]
    return np.array(
        [
            [
                np.sqrt(
                    np.sum((MODEL.forward(params, x[i], eps[i], step(i)).outputs - clean[i]) ** 2)
                )
                for i in range(4)
            ]
            for step in make
        ]
    ), np.stack(clean)


@pytest.mark.parametrize("block", [None, Block(2, 3)])
def test_shift_effects_equal_the_loop(run, block):
    site, dose = "decoder/dense0", jnp.array([0.5, -1.0, 2.0, 0.0, 3.0])
    params, x, eps = run
    made = effects.shift_effects(
        MODEL.bind(params), x, eps, {site: dose}, sweep=functools.partial(sweep, block=block)
    ).values
    distance, clean = loop(
        run,
        [lambda i, u=u: vi.shift_by(MODEL.sites, site, float(dose[u]), unit=u) for u in range(5)],
    )
    np.testing.assert_allclose(effects.paper_effect_strength(made), distance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made.squared, distance**2, rtol=1e-4, atol=1e-6)
    spread = np.var(clean, axis=0, ddof=1).sum()
    np.testing.assert_allclose(np.mean(made.spread), spread, rtol=1e-4)
    # Clean and shifted runs are two programs, so that a dose of zero leaves rounding.
    np.testing.assert_allclose(made.squared[3], 0, atol=1e-10)


def test_resample_effects_of_natural_and_of_held_values_equal_the_loop(run):
    params, x, eps = run
    base, donor = jax.random.normal(jax.random.key(3), (2, 4, 3))
    sites = MODEL.sites

    def patched(i, u):
        return vi.patch(sites, "latent/z", donor[i], unit=u)

    net, donors = MODEL.bind(params), {"latent/z": donor}
    natural, _ = loop(run, [lambda i, u=u: patched(i, u) for u in range(3)])
    made = effects.resample_effects(net, Runs(x, eps, donors)).values
    np.testing.assert_allclose(effects.paper_effect_strength(made), natural, rtol=1e-4)

    made = effects.resample_effects(net, Runs(x, eps, donors, {"latent/z": base})).values
    for u in range(3):
        for i in range(4):
            held = vi.patch(sites, "latent/z", base[i])
            y = MODEL.forward(params, x[i], eps[i], held).outputs
            moved = MODEL.forward(params, x[i], eps[i], vi.combine(held, patched(i, u))).outputs
            squared = np.sum((moved - y) ** 2)
            np.testing.assert_allclose(made.squared[u, i], squared, rtol=2e-4)


def test_an_image_as_its_own_donor_has_no_effect(run):
    params, x, eps = run
    donor = jax.vmap(MODEL.forward, (None, 0, 0))(params, x, eps).activations["latent/z"]
    made = effects.resample_effects(
        MODEL.bind(params), Runs(x, eps, {"latent/z": donor}, {"latent/z": donor})
    ).values
    np.testing.assert_array_equal(made.squared, 0)
    chex.assert_tree_all_finite(effects.total_index(made))


def test_active_units_are_those_whose_mean_varies():
    means = jnp.array([[0.0, 3.0, -0.05], [0.0, -3.0, 0.05]])
    np.testing.assert_array_equal(effects.active_units(means), [False, True, False])
    np.testing.assert_array_equal(effects.active_units(means, 0.001), [False, True, True])


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_effective_units_of_equal_shares_is_their_number(convert):
    shares = np.array([[1.0, 0.25, 0.0], [0.0, 0.25, 0.0], [-1.0, 0.25, 0.0], [0.0, 0.25, 0.0]])
    found = effects.effective_units(convert(shares))
    assert isinstance(found, type(convert(shares)))
    np.testing.assert_allclose(found, [1.0, 4.0, np.nan])
    np.testing.assert_array_equal(effects.effective_units(convert(shares.T), axis=1), found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda *run: effects.shift_effects(*run, {"latent/z": jnp.ones(4)}),
            r"dose has shape \(4,\), expected one per unit of 'latent/z': \(3,\)",
        ),
        (
            lambda *run: effects.shift_effects(*run, {"latent/z": 1.0}),
            r"dose has shape \(\)",
        ),
        (
            lambda net, x, eps: effects.resample_effects(
                net, Runs(x, eps, {"latent/z": jnp.ones((4, 1))})
            ),
            r"donor has shape \(1,\), expected \(3,\)",
        ),
        (
            lambda net, x, eps: effects.resample_effects(
                net,
                Runs(x, eps, {"latent/z": jnp.ones((4, 3))}, {"latent/z": jnp.ones((4, 1))}),
            ),
            r"base has shape \(1,\), expected \(3,\)",
        ),
        (
            lambda net, x, eps: effects.resample_effects(
                net, Runs(x, eps, {"latent/zz": jnp.ones((4, 3))})
            ),
            "unknown site 'latent/zz'.*Did you mean 'latent/z'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message, run):
    params, x, eps = run
    with pytest.raises(ValueError, match=message):
        call(MODEL.bind(params), x, eps)
