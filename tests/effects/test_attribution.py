"""Gradient surrogates against the exact patch: closed forms, limits, and what they cannot see."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import attribution as vs
from vaecausal_jax.effects.attribution import Quadrature, gauss_legendre
from vaecausal_jax.effects.mediation import paired_rows
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Site, Sites, Tape, Trace, list_sites, outputs
from vaecausal_jax.sweeps.grid import Block, sweep
from vaecausal_jax.sweeps.patching import Rows, patch_units


def double(function, *arguments):
    """Runs a function of arrays under jit, in float64; NumPy in, NumPy out."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


def left_riemann(num_nodes):
    return Quadrature(np.arange(num_nodes) / num_nodes, np.full(num_nodes, 1 / num_nodes))


def total_change(y, row):
    return jnp.sum(y - row.clean)


def along_reference(y, row):
    return jnp.vdot(y - row.clean, row.reference)


def squared_distance(y, row):
    """From the reference; what it is in the clean run."""
    return jnp.sum((y - row.reference) ** 2) - jnp.sum((row.clean - row.reference) ** 2)


def effects_on(downstream, h0, h1, rules=()):
    """Name (or rule) to effects of each unit on the sum of ``downstream(h)`` as h0 becomes h1."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = downstream(tape("h", x)) + eps
        tape.close()
        return Trace(y, tape.activations)

    def run(h0, h1, eps):
        sites = list_sites(forward, None, h0[0], eps[0])
        rows = Rows(h0, eps, h0, h1, jax.vmap(downstream)(h0))
        case = (BoundModel(forward, None, sites), "h", rows, total_change)
        return {
            "exact": patch_units(*case),
            "first": vs.attribution_patching(*case),
            "second": vs.hessian_corrected(*case),
            "unit": [vs.integrated_gradients(*case, rule=rule) for rule in rules],
            "site": [vs.integrated_gradients_activations(*case, rule=rule) for rule in rules],
        }

    h0, h1 = np.atleast_2d(h0).astype(float), np.atleast_2d(h1).astype(float)
    return jax.tree.map(lambda a: a[:, 0], double(run, h0, h1, np.zeros((1, 1))))


@pytest.mark.thorough
def test_parabola_has_the_worked_values():
    # T8: 3h - 2h^2 from .3 to 1.7; the second order is 2.52 - 3.92.
    rules = [gauss_legendre(1), left_riemann(5), left_riemann(20)]
    effects = effects_on(lambda h: 3 * h - 2 * h**2, 0.3, 1.7, rules)
    np.testing.assert_allclose(effects["exact"], -1.4, atol=1e-10)
    np.testing.assert_allclose(effects["first"], 2.52, atol=1e-10)
    np.testing.assert_allclose(effects["second"].estimate, -1.4, atol=1e-10)
    np.testing.assert_allclose(effects["second"].reliability, 3.92 / 2.52, atol=1e-10)
    gauss, five, twenty = effects["unit"]
    np.testing.assert_allclose(gauss, -1.4, atol=1e-10)
    # -H dh^2 / 2m with H = -4 and dh = 1.4.
    np.testing.assert_allclose(five + 1.4, 0.784, atol=1e-10)
    np.testing.assert_allclose(twenty + 1.4, 0.196, atol=1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_gauss_legendre_is_exact_to_twice_its_nodes_and_off_by_the_known_term_after(num_nodes):
    # T8: two nodes integrate a cubic, and a quartic.
    coefficients = np.random.default_rng(num_nodes).normal(size=2 * num_nodes + 1)
    rules = [gauss_legendre(num_nodes)]
    effects = effects_on(lambda h: jnp.polyval(coefficients, h), -0.4, 0.9, rules)
    np.testing.assert_allclose(effects["unit"][0], effects["exact"], rtol=1e-10)

    degree = 2 * num_nodes + 1
    effects = effects_on(lambda h: h**degree, -0.4, 0.9, rules)
    known = 1.3**degree / math.comb(2 * num_nodes, num_nodes) ** 2
    np.testing.assert_allclose(effects["exact"] - effects["unit"][0], known, rtol=1e-9)


def test_patch_over_the_kink_of_a_relu_is_invisible_to_derivatives_and_not_flagged():
    # T8: exact 2, but neither slope nor curvature at -1. Two thirds of the path have slope 1.
    effects = effects_on(jax.nn.relu, -1, 2, [left_riemann(300)])
    np.testing.assert_array_equal(effects["exact"], 2)
    np.testing.assert_array_equal(effects["first"], 0)
    np.testing.assert_array_equal(effects["second"].estimate, 0)
    np.testing.assert_array_equal(effects["second"].reliability, 0)
    np.testing.assert_allclose(effects["unit"][0], 2, atol=3 / 300)


def test_reliability_is_zero_without_curvature_and_infinite_without_slope():
    effects = effects_on(
        lambda h: h * jnp.array([0.0, 2.0, 0.0]) + h[2] ** 2, np.zeros(3), np.ones(3)
    )
    np.testing.assert_array_equal(effects["second"].reliability, [0, 0, np.inf])


@pytest.mark.parametrize("seed", range(2))
def test_quadratic_form_has_its_slopes_curvatures_and_shapley_values(seed):
    rng = np.random.default_rng(seed)
    slope, h0, h1 = rng.normal(size=(3, 4))
    curvature = rng.normal(size=(4, 4))
    curvature = curvature + curvature.T
    effects = effects_on(
        lambda h: (h @ slope + h @ curvature @ h / 2)[None], h0, h1, [gauss_legendre(1)]
    )
    dh = h1 - h0
    first = (slope + curvature @ h0) * dh
    second = np.diag(curvature) * dh**2 / 2
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    close(effects["exact"], first + second)
    close(effects["first"], first)
    close(effects["second"].estimate, first + second)
    close(effects["second"].reliability, np.abs(second / first))
    close(effects["unit"][0], first + second)
    # On a shared path each interaction falls equally to its two units: Shapley's values.
    close(effects["site"][0], first + dh * (curvature @ dh) / 2)


def head(params, x):
    return jnp.tanh(jnp.einsum("cdp,d->cp", params[0], x))


def tail(params, x, h):
    return jnp.tanh(jnp.einsum("ycp,cp->y", params[1], h)) * (1 + params[2] @ x)


def smooth(params, x, eps, interventions):
    """Three channels of two positions, and a skip past them."""
    tape = Tape(interventions)
    y = tail(params, x, tape("h", head(params, x), unit_axis=0)) + eps
    tape.close()
    return Trace(y, tape.activations)


SITES = Sites({"h": Site((3, 2), np.dtype("float64"), 0)})


def smooth_case(seed):
    """Parameters, rows with total effects as reference, and donors' inputs; two pairs, float64."""
    rng = np.random.default_rng(seed)
    params = tuple(rng.normal(size=n) for n in ((3, 4, 2), (5, 3, 2), (5, 4)))
    x0, x1, eps = (rng.normal(size=(2, n)) for n in (4, 4, 5))

    def run(params, x0, x1, eps):
        rows = paired_rows(BoundModel(smooth, params), Pairs(x0, x1, eps), "h", outputs)
        total_effect = jnp.roll(rows.clean, 2, axis=0) - rows.clean
        return params, rows._replace(reference=total_effect), jnp.concatenate([x1, x0])

    return double(run, params, x0, x1, eps)


RULE = gauss_legendre(2)


def every_surrogate(params, rows, donor_x, rule, swept=sweep):
    """Name to (units, runs) of the exact patch and of each surrogate on the smooth network."""
    case = (BoundModel(smooth, params, SITES), "h", rows)
    along = {"rule": rule, "sweep": swept}
    return {
        "exact": patch_units(*case, along_reference, sweep=swept),
        "first": vs.attribution_patching(*case, along_reference, sweep=swept),
        "second": vs.hessian_corrected(*case, along_reference, sweep=swept),
        "unit": vs.integrated_gradients(*case, along_reference, **along),
        "site": vs.integrated_gradients_activations(*case, along_reference, **along),
        "input": vs.integrated_gradients_inputs(*case, donor_x, along_reference, **along),
    }


@pytest.mark.thorough
def test_derivatives_are_those_of_the_exact_patch_as_the_donor_nears_the_natural_value():
    params, rows, donor_x = case = smooth_case(1)
    step = 1e-4
    up, down = (
        double(
            every_surrogate,
            params,
            rows._replace(donor=rows.natural + amount * (rows.donor - rows.natural)),
            donor_x,
            RULE,
        )["exact"]
        for amount in (step, -step)
    )
    slope, curvature = (up - down) / (2 * step), (up + down) / step**2
    result = double(every_surrogate, *case, RULE)
    assert result["first"].shape == (3, 4)
    np.testing.assert_allclose(result["first"], slope, atol=1e-6)
    np.testing.assert_allclose(result["second"].estimate, slope + curvature / 2, atol=1e-5)
    ratio = np.abs(result["second"].estimate - result["first"]) / np.abs(result["first"])
    np.testing.assert_allclose(result["second"].reliability, ratio, rtol=1e-8)


@pytest.mark.thorough
def test_many_nodes_give_the_exact_patch_of_a_unit_and_shares_that_add_up_to_that_of_the_site():
    params, rows, _ = case = smooth_case(2)
    few, many = (double(every_surrogate, *case, rule) for rule in (RULE, gauss_legendre(40)))
    assert np.abs(few["unit"] - few["exact"]).max() > 1e-4
    np.testing.assert_allclose(many["unit"], many["exact"], atol=1e-10)

    def patch_all(x, natural, donor, effect):
        return (tail(params, x, donor) - tail(params, x, natural)) @ effect

    whole = double(jax.vmap(patch_all), rows.x, rows.natural, rows.donor, rows.reference)
    np.testing.assert_allclose(many["site"].sum(axis=0), whole, atol=1e-10)
    assert np.abs(many["site"] - many["exact"]).max() > 0.01


def test_gradients_along_the_path_of_the_input_equal_a_loop_over_runs_and_nodes():
    params, rows, donor_x = case = smooth_case(3)

    def gradient(x, effect):
        return jax.grad(lambda h: tail(params, x, h) @ effect)(head(params, x))

    result = double(every_surrogate, *case, RULE)["input"]
    for run in range(4):
        total = np.zeros((3, 2))
        for t, weight in zip(*RULE, strict=True):
            x = (1 - t) * rows.x[run] + t * donor_x[run]
            total += weight * double(gradient, x, rows.reference[run])
        expected = np.sum(total * (rows.donor[run] - rows.natural[run]), axis=1)
        np.testing.assert_allclose(result[:, run], expected, rtol=1e-9)


def test_gradient_at_the_natural_end_of_any_path_is_attribution_patching():
    start = Quadrature(np.zeros(2), np.array([0.3, 0.7]))
    result = double(every_surrogate, *smooth_case(4), start)
    for path in ("unit", "site", "input"):
        np.testing.assert_allclose(result[path], result["first"], rtol=1e-9)


def test_donors_equal_to_the_natural_values_have_no_effect_at_all():
    params, rows, donor_x = smooth_case(5)
    result = double(every_surrogate, params, rows._replace(donor=rows.natural), donor_x, RULE)
    for leaf in jax.tree.leaves(result):
        np.testing.assert_array_equal(leaf, np.zeros((3, 4)))


@pytest.mark.thorough
def test_jit_and_vmap_over_models_equal_eager_calls_whatever_the_block():
    cases = smooth_case(6), smooth_case(7)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    blocked = functools.partial(
        every_surrogate, rule=RULE, swept=functools.partial(sweep, block=Block(2, 3))
    )
    together = jax.tree.leaves(double(jax.vmap(blocked), *stacked))
    with jax.enable_x64(True):
        eager = jax.tree.leaves(every_surrogate(*jax.tree.map(jnp.asarray, cases[1]), RULE))
    for both_models, one in zip(together, eager, strict=True):
        np.testing.assert_allclose(both_models[1], one, rtol=1e-9)


def vae_effects(model, site, metric, rules=()):
    """Effects of each unit as in ``effects_on``, with the donors' clean outcomes as reference."""

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 3)
        x0, x1 = jax.random.uniform(keys[0], (2, 3, *model.image_shape))
        eps = jax.random.normal(keys[1], (3, *model.noise_shape))
        params = model.init(keys[2])
        rows = paired_rows(model.bind(params), Pairs(x0, x1, eps), site, outputs)
        rows = rows._replace(reference=jnp.roll(rows.clean, 3, axis=0))
        case = (model.bind(params), site, rows, metric)
        return {
            "exact": patch_units(*case),
            "first": vs.attribution_patching(*case),
            "second": vs.hessian_corrected(*case),
            "unit": [vs.integrated_gradients(*case, rule=rule) for rule in rules],
        }

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


LINEAR = models.linear_vae(6, latent_size=3)
MLP = models.mlp_vae((3, 4, 1), latent_size=3, encoder_dense=(5,), decoder_dense=(6, 5))
CONV = models.conv_vae(
    (8, 8, 1),
    latent_size=2,
    encoder_channels=(2,),
    encoder_dense=(),
    decoder_dense=(),
    decoder_channels=(2, 4),
)


@pytest.mark.thorough
def test_first_order_is_exact_in_a_linear_network():
    effects = vae_effects(LINEAR, "latent/mean", along_reference)
    tolerance = 1e-5 * np.abs(effects["exact"]).max()
    np.testing.assert_allclose(effects["first"], effects["exact"], atol=tolerance)
    np.testing.assert_array_equal(effects["second"].reliability, 0)
    np.testing.assert_array_equal(effects["second"].estimate, effects["first"])


@pytest.mark.thorough
@pytest.mark.parametrize(("model", "site"), [(MLP, "decoder/dense1"), (CONV, "decoder/conv0")])
def test_second_order_is_exact_for_squared_distance_where_only_linear_layers_follow(model, site):
    effects = vae_effects(model, site, squared_distance)
    changes = effects["exact"]
    assert changes.shape == (model.sites[site].num_units, 6)
    tolerance = 1e-5 * np.abs(changes).max()
    np.testing.assert_allclose(effects["second"].estimate, changes, atol=tolerance)
    assert np.abs(effects["first"] - changes).max() > 1000 * tolerance


@pytest.fixture(scope="module")
def relu_effects():
    rules = [gauss_legendre(1), gauss_legendre(64)]
    return vae_effects(MLP, "latent/mean", squared_distance, rules)


@pytest.mark.thorough
def test_paths_of_units_converge_in_a_relu_network_as_nodes_resolve_its_kinks(relu_effects):
    one, many = (
        agreement(relu_effects["exact"].ravel(), path.ravel(), floor=0.05)
        for path in relu_effects["unit"]
    )
    assert one.largest_relative_error > 0.1
    assert many.largest_relative_error < 0.05
    assert many.sign_errors == 0
    assert many.rank_correlation > 0.99


def plain_regression(exact, surrogate, num):
    """The control variate whose slope is fitted on the very runs it corrects."""
    x = surrogate[..., :num]
    dx, dy = (a - a.mean(-1, keepdims=True) for a in (x, exact))
    squares = np.sum(dx**2, -1)
    slope = np.sum(dx * dy, -1) / np.where(squares > 0, squares, 1)
    return exact.mean(-1) - slope * (x.mean(-1) - surrogate.mean(-1))


def test_control_variate_is_unbiased_over_every_sample_of_a_small_population():
    # Three exact runs of four, each in one of three states: all 81 samples and their probability.
    x, y, chance = np.array([0.0, 1.0, 4.0]), np.array([0.3, 2.0, -1.0]), np.array([0.5, 0.3, 0.2])
    states = np.array(list(itertools.product(range(3), repeat=4)))
    exact, surrogate, weights = y[states[:, :3]], x[states], chance[states].prod(axis=1)
    result = double(vs.control_variate_mean, exact, surrogate, np.arange(3))
    np.testing.assert_allclose(weights @ result.mean, chance @ y, atol=1e-12)
    assert abs(weights @ plain_regression(exact, surrogate, 3) - chance @ y) > 0.01


def test_control_variate_averages_to_the_full_sweep_over_all_subsets_of_its_runs(relu_effects):
    exact, surrogate = (relu_effects[name].astype(float) for name in ("exact", "first"))
    subsets = np.array(list(itertools.combinations(range(6), 4)))

    def estimate(patched, subset):
        return vs.control_variate_mean(patched, surrogate, subset).mean

    patched = np.moveaxis(exact[:, subsets], 1, 0)
    means = double(jax.vmap(estimate), patched, subsets)
    np.testing.assert_allclose(means.mean(axis=0), exact.mean(axis=1), rtol=1e-9)
    assert np.all(means.std(axis=0) > 1e-3 * np.abs(exact).max())


@pytest.mark.parametrize(("num", "rho"), [(100, 0.0), (100, 0.7), (100, 0.95), (12, 0.7)])
def test_control_variate_has_the_variance_of_the_formula_and_knows_it(num, rho):
    # T22: Var = sd^2 / n (1 - rho^2 (1 - n / N)).
    total, replicates = 5 * num, 4000
    x, noise = np.random.default_rng(0).normal(size=(2, replicates, total))
    y = 2 + 3 * (rho * x + np.sqrt(1 - rho**2) * noise)
    result = double(vs.control_variate_mean, y[:, :num], 5 + 0.2 * x, np.arange(num))
    variance = 9 / num * (1 - rho**2 * (1 - num / total))
    assert abs(result.mean.mean() - 2) < 4 * np.sqrt(variance / replicates)
    # Estimating the slope adds its share to what the surrogate leaves unexplained.
    expected = variance + 9 / num * (1 - rho**2) * (1 - num / total) / (num - 3)
    tolerance = 4 * np.sqrt(2 / replicates)
    np.testing.assert_allclose(result.mean.var() / expected, 1, atol=tolerance)
    claimed = np.mean(result.standard_error**2)
    np.testing.assert_allclose(claimed / result.mean.var(), 1, atol=tolerance)
    half = stats.t.ppf(0.975, num - 2) * result.standard_error
    assert 0.93 <= np.mean(np.abs(result.mean - 2) <= half) <= 0.97
    gain = np.median(result.variance_reduction)
    np.testing.assert_allclose(gain, 9 / num / variance, rtol=2 / num + 0.03)
    np.testing.assert_allclose(result.coefficient.mean(), 15 * rho, atol=0.2)


def test_surrogate_that_is_exact_up_to_scale_gives_the_mean_over_all_runs():
    surrogate = np.random.default_rng(0).exponential(size=(2, 50))
    effects, subset = 1.5 - 0.5 * surrogate, np.array([40, 3, 17, 8, 22])
    result = double(vs.control_variate_mean, effects[:, subset], surrogate, subset)
    np.testing.assert_allclose(result.mean, effects.mean(axis=1), rtol=1e-10)
    np.testing.assert_allclose(result.coefficient, -0.5, rtol=1e-10)
    np.testing.assert_allclose(result.variance_reduction, 50 / 5, rtol=1e-10)
    error = effects[:, subset].std(axis=1, ddof=1) / np.sqrt(50)
    np.testing.assert_allclose(result.standard_error, error, rtol=1e-10)


def test_without_unpatched_runs_or_without_a_surrogate_the_mean_is_the_plain_one():
    effects, surrogate = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    estimate = jax.jit(vs.control_variate_mean)
    everything = estimate(effects, surrogate, np.arange(8)[::-1])
    nothing = estimate(0 * effects, 0 * surrogate, np.arange(8))
    # Their mean rounds: a constant must not look like a surrogate that varies.
    constants = np.array([0.1, -7e3, 1 / 3], np.float32)[:, None] * np.ones(30, np.float32)
    dead = estimate(effects[:, 1:], constants, np.arange(7))
    np.testing.assert_allclose(everything.mean, effects.mean(axis=1), rtol=1e-5)
    error = effects.std(axis=1, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(everything.standard_error, error, rtol=1e-5)
    np.testing.assert_allclose(everything.variance_reduction, 1, rtol=1e-5)
    np.testing.assert_allclose(dead.mean, effects[:, 1:].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(dead.coefficient, 0)
    for field, value in zip(nothing, (0, 0, 1, 0), strict=True):
        np.testing.assert_array_equal(field, np.full(3, value))


agreement = jax.jit(vs.surrogate_agreement, static_argnames="floor")


def test_agreement_has_the_values_worked_by_hand():
    exact = np.array([[10.0, -5.0, 0.05, 1.0], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    surrogate = np.array([[9.0, 4.0, -0.05, 0.0], [0, 0, 0, 1], [0, 0, 0, 0]], np.float32)
    # Errors relative to 10, 5, the floor 0.1, and 1; ranks 4 1 2 3 against 4 3 1 2.
    found = agreement(exact, surrogate)
    np.testing.assert_allclose(found.largest_relative_error, [1.8, np.inf, 0])
    np.testing.assert_allclose(found.sign_errors, [2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(found.rank_correlation, [0.4, np.nan, np.nan], rtol=1e-6)
    found = agreement(exact, surrogate, floor=0.0)
    np.testing.assert_allclose(found.largest_relative_error, [2, np.inf, 0])
    np.testing.assert_allclose(found.sign_errors, [3 / 4, np.nan, np.nan])


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_scipys_also_with_ties(seed):
    exact, surrogate = np.random.default_rng(seed).integers(-5, 6, (2, 4, 30)).astype(np.float32)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(exact, surrogate, strict=True)]
    np.testing.assert_allclose(agreement(exact, surrogate).rank_correlation, expected, rtol=1e-5)
    perfect = agreement(exact, 3 * exact)
    np.testing.assert_allclose(perfect.rank_correlation, 1, rtol=1e-6)
    np.testing.assert_allclose(perfect.largest_relative_error, 2)
    np.testing.assert_array_equal(perfect.sign_errors, 0)


VQ = models.vq_vae(
    (4, 4, 1), num_codes=3, code_size=2, encoder_channels=(2,), decoder_channels=(2,)
)
IMAGES, VALUES = jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 2, 2, 2))
ROWS = Rows(IMAGES, jnp.zeros((2, 0)), VALUES, VALUES, IMAGES, IMAGES)
ALL = {"first", "second", "unit", "site", "input"}


@pytest.mark.parametrize(
    ("names", "changed", "message"),
    [
        (ALL, {"name": "latent/y"}, "unknown site 'latent/y'. Did you mean 'latent/z'"),
        (
            ALL,
            {"name": "latent/codes"},
            r"site 'latent/codes' \(int32\(2, 2\), unit axis None\) has no units with a gradient. "
            "Use patch_units, or a site that has: .*latent/z",
        ),
        (ALL, {"rows": ROWS._replace(donor=VALUES[0])}, r"donor has shape \(2, 2\), expected \(2,"),
        (ALL, {"rows": ROWS._replace(natural=IMAGES)}, r"natural has shape \(4, 4, 1\), expected"),
        (ALL, {"rows": ROWS._replace(x=IMAGES[:1])}, r"leading axis, got contexts.*\.x \(1, "),
        (ALL, {"metric": lambda y, row: y}, r"one number per run, got shape \(4, 4, 1\)"),
        ({"input"}, {"donor_x": VALUES}, r"donor_x has shape \(2, 2, 2, 2\), expected"),
        (
            {"unit", "site", "input"},
            {"rule": Quadrature(np.array([0.0, 0.5]), np.ones(1))},
            r"rule has nodes \(2,\) and weights \(1,\)",
        ),
        ({"unit", "site", "input"}, {"rule": Quadrature(0.5, 1.0)}, r"rule has nodes \(\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(names, changed, message):
    def run(params, name="latent/z", rows=ROWS, metric=along_reference, donor_x=None, rule=RULE):
        case = (VQ.bind(params), name, rows)
        end = rows.x if donor_x is None else donor_x
        calls = {
            "first": lambda: vs.attribution_patching(*case, metric),
            "second": lambda: vs.hessian_corrected(*case, metric),
            "unit": lambda: vs.integrated_gradients(*case, metric, rule=rule),
            "site": lambda: vs.integrated_gradients_activations(*case, metric, rule=rule),
            "input": lambda: vs.integrated_gradients_inputs(*case, end, metric, rule=rule),
        }
        for call in names:
            with pytest.raises(ValueError, match=message):
                calls[call]()

    jax.eval_shape(lambda key: run(VQ.init(key), **changed), jax.random.key(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gauss_legendre(0), "num_nodes must be at least 1, got 0"),
        (
            lambda: vs.control_variate_mean(jnp.ones(2), jnp.ones(5), jnp.arange(2)),
            r"exact \(2,\), surrogate \(5,\) and subset \(2,\) must be .* 3 <= n <= N",
        ),
        (lambda: vs.control_variate_mean(jnp.ones(4), jnp.ones(3), jnp.arange(4)), "3 <= n <= N"),
        (
            lambda: vs.control_variate_mean(jnp.ones((2, 3)), jnp.ones(5), jnp.arange(3)),
            r"exact \(2, 3\), surrogate \(5,\)",
        ),
        (
            lambda: vs.control_variate_mean(jnp.ones(3), jnp.ones(5), np.array([0, 1, 1])),
            "subset: run 1 is given more than once",
        ),
        (
            lambda: vs.control_variate_mean(jnp.ones(3), jnp.ones(5), np.array([0, 1, 5])),
            "subset: run 5 is out of range; valid are 0 .. 4",
        ),
        (
            lambda: vs.control_variate_mean(jnp.ones(3), jnp.ones(5), np.array([0, 1, -1])),
            "subset: run -1 is out of range",
        ),
        (lambda: vs.surrogate_agreement(jnp.ones((2, 3)), jnp.ones(3)), "need one shape"),
        (lambda: vs.surrogate_agreement(jnp.ones(1), jnp.ones(1)), "at least two effects"),
        (lambda: vs.surrogate_agreement(jnp.ones(2), jnp.ones(2), floor=1.0), r"floor must lie in"),
    ],
)
def test_samples_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
