"""Mediation of any family of mediators: closed forms, one pair at a time, and published numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import decompositions, mediation, mediators
from vaecausal_jax.effects import mediation_estimates as me
from vaecausal_jax.effects.decompositions import NaturalEffects
from vaecausal_jax.inference import Bootstrap, bootstrap_mean, false_discovery
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites
from vaecausal_jax.sweeps.unit_tables import UnitTable


def structural(equations):
    """A forward from a function of (params, x, eps, tape): one structural causal model."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("y", equations(params, x, eps, tape))
        tape.close()
        return Trace(y, tape.activations)

    return forward


NUM = 40
T, B = (-0.4, 1.5, 0.9), (0.3, 0.8)
interacting = structural(
    lambda p, x, eps, tape: (m := tape("m", B[0] + B[1] * x + eps)) * T[1] + T[0] * x + T[2] * x * m
)
SITES = list_sites(interacting, None, jnp.zeros(1), jnp.zeros(1))


@pytest.fixture(scope="module")
def scalar_runs():
    return jax.random.normal(jax.random.key(0), (3, NUM, 1))


def test_four_parts_of_an_interacting_mediator_are_those_of_the_formula(scalar_runs):
    # T2, per sample, m* = 0.7.
    m = 0.7
    x0, x1, eps = scalar_runs
    found = mediation.mediate(
        BoundModel(interacting, None),
        Pairs(x0, x1, eps),
        mediators.unit(SITES, "m"),
        jnp.arange(1),
        baseline={"m": jnp.full(1, m)},
        effect=decompositions.four_way_parts,
    )
    a0, a1, e = (np.asarray(a)[:, 0] for a in scalar_runs)
    d = a1 - a0
    expected = (
        (T[0] + T[2] * m) * d,
        T[2] * (B[0] + B[1] * a0 + e - m) * d,
        T[2] * B[1] * d**2,
        (T[1] + T[2] * a0) * B[1] * d,
    )
    for value, part in zip(found, expected, strict=True):
        assert value.shape == (1, NUM, 1)
        np.testing.assert_allclose(value[0, :, 0], part, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_estimates_of_an_interacting_mediator_hold_the_published_numbers():
    # T2 numbers, x: 0 -> 1, mean over e.
    eps = jax.random.normal(jax.random.key(1), (4000, 1))
    zeros, ones = jnp.zeros_like(eps), jnp.ones_like(eps)
    effects = mediation.mediate(
        BoundModel(interacting, None),
        Pairs(zeros, ones, eps),
        mediators.unit(SITES, "m"),
        jnp.arange(1),
        effect=decompositions.natural,
    )
    expected = NaturalEffects(1.79, -0.13, 0.59, 1.20, 1.92, 0.72)
    for samples, value in zip(effects, expected, strict=True):
        estimate = bootstrap_mean(
            jax.random.key(2), jnp.moveaxis(samples, 1, -1), intervention="x: 0 -> 1"
        )
        assert estimate.value.shape == (1, 1)
        # 4 standard errors; parts without e have none, and rounding only.
        error = max(float((estimate.high - estimate.low)[0, 0]), 1e-5)
        assert abs(estimate.value[0, 0] - value) < error, (estimate, value)


# A network with two hidden layers and a skip path from the input, so that no layer is a cut.


def skipping_equations(params, x, eps, tape):
    a, b, c, d = params
    h = tape("h", jnp.tanh(a @ x + eps))
    g = tape("g", jax.nn.relu(b @ h))
    return c @ g + d @ x


skipping = structural(skipping_equations)
PARAMS = tuple(
    jnp.asarray(np.random.default_rng(i).normal(size=s), jnp.float32)
    for i, s in enumerate([(5, 3), (4, 5), (6, 4), (6, 3)])
)
RUNS = tuple(jax.random.normal(jax.random.key(7), (2, 8, 3))) + (
    jax.random.normal(jax.random.key(8), (8, 5)),
)
NET = list_sites(skipping, PARAMS, RUNS[0][0], RUNS[2][0])
DIRECTIONS = jnp.asarray(np.random.default_rng(9).normal(size=(3, 5)), jnp.float32)
FAMILIES = {
    "units": (mediators.unit(NET, "h"), jnp.arange(5)),
    "groups": (mediators.group(NET, "g"), jnp.array([[True, False, True, False], [True] * 4])),
    "directions": (mediators.direction(NET, "h"), DIRECTIONS),
    "subspaces": (mediators.subspace(NET, "h"), jnp.stack([DIRECTIONS[:2], DIRECTIONS[1:]])),
    "sites": (mediators.whole(NET, "h", "g"), jnp.array([[True, False], [False, True]])),
    "groups of several sites": (
        mediators.groups(NET),
        {
            "h": jnp.array([[True, False, False, False, True], [False] * 5]),
            "g": jnp.array([[False, True, False, False], [True, True, False, False]]),
        },
    ),
}


def one_by_one(mediator, points, baseline=None):
    """Every mediator and pair through ``natural_effects`` and ``controlled_direct_effect``."""
    num = jax.tree.leaves(points)[0].shape[0]

    def one(point, x0, x1, eps):
        bound = functools.partial(mediator, point)
        found = mediation.natural_effects(BoundModel(skipping, PARAMS), Pairs(x0, x1, eps), bound)
        held = mediation.controlled_direct_effect(
            BoundModel(skipping, PARAMS), Pairs(x0, x1, eps), bound(baseline)
        )
        return found, held

    pairs = jax.jit(jax.vmap(one, (None, 0, 0, 0)))
    made = [pairs(jax.tree.map(lambda a, i=i: a[i], points), *RUNS) for i in range(num)]
    return jax.tree.map(lambda *a: np.stack(a), *made)


@pytest.fixture(scope="module")
def baseline():
    return jax.jit(lambda p, *run: mediation.mean_activations(BoundModel(skipping, p), *run))(
        PARAMS, RUNS[0], RUNS[2]
    )


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_mediators_is_swept_as_one_by_one(family, baseline):
    mediator, points = FAMILIES[family]
    found = mediation.mediate(
        BoundModel(skipping, PARAMS), Pairs(*RUNS), mediator, points, baseline=baseline
    )
    effects, held = one_by_one(mediator, points, baseline)
    te, pnie, tnie = (
        effects.total_effect,
        effects.natural_indirect_effect,
        effects.total_indirect_effect,
    )
    expected = [
        np.sum(a * b, -1)
        for a, b in ((te, te), (te, pnie), (te, tnie), (pnie, pnie), (pnie, tnie), (tnie, tnie))
    ]
    for value, product in zip(found.gram, expected, strict=True):
        np.testing.assert_allclose(value, product, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.controlled, np.sum(held * te, -1), rtol=1e-4, atol=1e-4)
    assert np.all(np.asarray(found.residual) < 1e-5)


def test_a_subspace_that_is_the_whole_site_mediates_as_the_site_does():
    basis = jnp.eye(5)[None]
    groups = jnp.ones((1, 5), bool)
    by_span, by_group = (
        mediation.mediate(BoundModel(skipping, PARAMS), Pairs(*RUNS), make(NET, "h"), points)
        for make, points in ((mediators.subspace, basis), (mediators.group, groups))
    )
    for a, b in zip(by_span.gram, by_group.gram, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_direction_has_no_length():
    short, long = (
        mediation.mediate(
            BoundModel(skipping, PARAMS),
            Pairs(*RUNS),
            mediators.direction(NET, "h"),
            scale * DIRECTIONS,
        ).gram
        for scale in (0.01, 7.0)
    )
    for a, b in zip(short, long, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_dependent_rows_and_units_out_of_range_are_never_a_silent_nothing():
    twice = jnp.stack([DIRECTIONS[0], DIRECTIONS[0]])[None]
    for mediator, points in (
        (mediators.subspace(NET, "h"), twice),
        (mediators.unit(NET, "h"), jnp.array([5])),
    ):
        gram = mediation.mediate(BoundModel(skipping, PARAMS), Pairs(*RUNS), mediator, points).gram
        assert np.isnan(gram.total_total).all()


def test_identity_residuals_are_rounding_in_both_precisions():
    mediator, points = FAMILIES["groups of several sites"]
    found = mediation.mediate(BoundModel(skipping, PARAMS), Pairs(*RUNS), mediator, points)
    assert 0 < found.residual.max() < 1e-5
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (PARAMS, RUNS))
        sites = list_sites(skipping, wide[0], wide[1][0][0], wide[1][2][0])
        found = mediation.mediate(
            BoundModel(skipping, wide[0]), Pairs(*wide[1]), mediators.groups(sites), points
        )
        assert found.residual.dtype == jnp.float64
        assert found.residual.max() < 1e-12


def test_a_residual_tells_identities_that_fail_and_nan_from_ones_that_hold():
    one = jnp.ones(3)
    holds = NaturalEffects(3 * one, one, one, 2 * one, 2 * one, 0 * one)
    assert decompositions.identity_residual(holds) == 0
    fails = holds._replace(total_effect=4 * one)
    np.testing.assert_allclose(decompositions.identity_residual(fails), 1 / 4)
    assert np.isnan(decompositions.identity_residual(holds._replace(total_effect=jnp.nan * one)))
    assert decompositions.identity_residual(NaturalEffects(*[0 * one] * 6)) == 0


def test_places_of_a_map_of_codes_are_mediators():
    table = jnp.array([0.0, 1.0, 5.0])

    def equations(params, x, eps, tape):
        codes = tape("codes", jnp.round(x).astype(jnp.int32), unit_axis=None)
        return table[codes].reshape(-1) + eps

    forward = structural(equations)
    x0 = jnp.array([[[0.0, 1.0], [2.0, 0.0]]])
    x1 = jnp.array([[[0.0, 2.0], [0.0, 1.0]]])
    sites = list_sites(forward, None, x0[0], jnp.zeros(4))
    mediator = mediators.position(sites, "codes")
    points = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = mediation.mediate(
        BoundModel(forward, None), Pairs(x0, x1, jnp.zeros((1, 4))), mediator, points
    )
    np.testing.assert_array_equal(found.gram.total_total[:, 0], [0, 16, 25, 1])
    np.testing.assert_array_equal(found.gram.total[:, 0], [42] * 4)


# --- estimates ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def summary():
    """Units of both layers of a network of which the first two are silent downstream."""
    params = (PARAMS[0], PARAMS[1].at[:, :2].set(0.0), *PARAMS[2:])
    x0, x1 = jax.random.normal(jax.random.key(3), (2, 60, 3))
    eps = 0.3 * jax.random.normal(jax.random.key(4), (60, 5))
    baseline = mediation.mean_activations(BoundModel(skipping, params), x0, eps)
    mediated = mediation.mediate(
        BoundModel(skipping, params),
        Pairs(x0, x1, eps),
        mediators.unit(NET, "h"),
        jnp.arange(5),
        baseline=baseline,
    )
    return me.estimate_mediation(
        jax.random.key(5),
        mediated,
        intervention="units of h",
        bootstrap=Bootstrap(num_replicates=300),
    )


@pytest.mark.thorough
def test_shares_add_up_and_their_intervals_hold_them(summary):
    np.testing.assert_allclose(
        summary.proportion_mediated.value + summary.proportion_direct.value, 1, atol=1e-5
    )
    four = (
        summary.controlled.value
        + summary.reference_interaction.value
        + summary.interaction.value
        + summary.denoising.value
    )
    np.testing.assert_allclose(four, 1, atol=1e-4)
    np.testing.assert_allclose(
        summary.proportion_eliminated.value, 1 - summary.controlled.value, atol=1e-5
    )
    np.testing.assert_allclose(
        summary.proportion_interaction.value,
        summary.reference_interaction.value + summary.interaction.value,
        atol=1e-5,
    )
    for estimate in summary[:9]:
        assert estimate.value.shape == (5,)
        assert np.all(estimate.low <= estimate.value + 1e-6)
        assert np.all(estimate.value <= estimate.high + 1e-6)
        assert estimate.num_inputs == 60
    assert summary.residual < 1e-5
    assert summary.defined


def test_units_that_lead_nowhere_mediate_nothing_and_the_others_something(summary):
    np.testing.assert_allclose(summary.proportion_mediated.value[:2], 0, atol=1e-5)
    np.testing.assert_allclose(summary.off_axis.value[:2], 0, atol=1e-5)
    found = false_discovery(summary.p_value) <= 0.05
    np.testing.assert_array_equal(found[:2], False)
    assert found[2:].any()
    assert np.all(summary.family_p_value >= summary.p_value)


def test_below_the_floor_there_is_nothing_to_take_a_share_of():
    mediator, points = FAMILIES["units"]
    found = mediation.mediate(BoundModel(skipping, PARAMS), Pairs(*RUNS), mediator, points)
    estimates = me.estimate_mediation(
        jax.random.key(0),
        found,
        intervention="units",
        floor=1e6,
        bootstrap=Bootstrap(num_replicates=20),
        num_flips=99,
    )
    assert not estimates.defined
    assert np.isnan(estimates.proportion_mediated.value).all()
    assert estimates.controlled is None


def test_pairs_of_one_base_image_are_one_observation():
    mediator, points = FAMILIES["units"]
    found = mediation.mediate(BoundModel(skipping, PARAMS), Pairs(*RUNS), mediator, points)
    copies = jax.tree.map(lambda a: jnp.repeat(a, 3, axis=1), found)
    options = {"intervention": "units", "num_flips": 255}
    plain = me.estimate_mediation(
        jax.random.key(0), found, bootstrap=Bootstrap(num_replicates=200), **options
    )
    clustered = me.estimate_mediation(
        jax.random.key(0),
        copies,
        bootstrap=Bootstrap(num_replicates=200, clusters=np.repeat(np.arange(8), 3)),
        **options,
    )
    np.testing.assert_allclose(
        clustered.proportion_mediated.low, plain.proportion_mediated.low, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(clustered.p_value, plain.p_value)
    assert "8 clusters" in clustered.proportion_mediated.method


def gate_and(s):
    return jax.nn.relu(s[0] + s[1] - 1)


def gate_or(s):
    return 1 - jax.nn.relu(1 - s[0] - s[1])


@pytest.mark.parametrize(("gate", "gap"), [(gate_and, 1), (gate_or, -1), (jnp.sum, 0)])
def test_interactions_are_positive_for_and_negative_for_or(gate, gap):
    # T9: corrupt (0, 0), clean (1, 1).
    forward = structural(lambda p, x, eps, tape: gate(tape("s", x))[None])
    sites = list_sites(forward, None, jnp.zeros(2), jnp.zeros(1))
    pairs = Pairs(jnp.zeros((4, 2)), jnp.ones((4, 2)), jnp.zeros((4, 1)))
    found = mediation.unit_mediation(BoundModel(forward, None, sites), pairs, "s")
    shares = decompositions.mediation_shares(found.values)
    expected = np.full((2, 4), gap)
    np.testing.assert_array_equal(shares.interaction / shares.denominator, expected)


@pytest.mark.thorough
def test_depth_profile_counts_the_units_that_carry_an_effect():
    # Three of four units carry a third each of a scalar; flips of equal pairs give noise only.
    share = jnp.array([1.0, 1.0, 1.0, 0.0])[:, None] / 3
    size = 1 + jax.random.uniform(jax.random.key(0), (1, 50))
    part = share * size
    gram = decompositions.Gram(size + 0 * part, part, part, part, part, part)
    table = UnitTable(tuple(("h", unit) for unit in range(4)), gram)
    found = me.depth_profile(jax.random.key(1), table, bootstrap=Bootstrap(num_replicates=50))
    np.testing.assert_allclose(found.effective_units["h"].value, 3, rtol=1e-4)
    np.testing.assert_allclose(found.largest_share["h"].value, 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(found.interaction["h"].value, 0, atol=1e-6)
    assert 0 < found.largest_share["h"].null < 0.1


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mediators.unit(NET, "hh"), "unknown site 'hh'"),
        (lambda: mediators.subspace(NET, "hh"), "unknown site 'hh'"),
        (lambda: mediators.whole(NET, "h", "gg"), "unknown site 'gg'"),
        (lambda: mediators.whole(NET), "at least one site"),
        (lambda: mediators.position(NET, "h"), r"'h' \(5,\) has no positions"),
        (
            lambda: mediators.whole(NET, "h")(jnp.ones(2, bool), {"h": jnp.ones(5)}),
            r"shape \(2,\), expected one boolean per site: \(1,\) for h",
        ),
        (
            lambda: mediation.mediate(
                BoundModel(skipping, PARAMS), Pairs(*RUNS), lambda point, run: {}, jnp.arange(2)
            ),
            "returned no intervention",
        ),
        (
            lambda: mediation.mediate(
                BoundModel(skipping, PARAMS),
                Pairs(*RUNS),
                *FAMILIES["units"],
                baseline={"g": jnp.ones(4)},
            ),
            "unknown site 'h'.*Valid choices: g",
        ),
        (
            lambda: mediation.mediate(
                BoundModel(skipping, PARAMS),
                Pairs(*RUNS),
                *FAMILIES["units"],
                effect=decompositions.four_way_parts,
            ),
            "needs a baseline",
        ),
        (
            lambda: mediation.unit_mediation(
                BoundModel(skipping, PARAMS, NET), Pairs(*RUNS), ["h", "gg"]
            ),
            "unknown site 'gg'",
        ),
        (
            lambda: mediation.mediate(
                BoundModel(skipping, PARAMS),
                Pairs(*RUNS),
                mediators.group(NET, "h"),
                jnp.ones((1, 4), bool),
            ),
            r"units are booleans of shape \(4,\), expected \(5,\)",
        ),
    ],
)
def test_mediators_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sites_without_units_are_refused():
    codes = models.vq_vae((8, 8, 1), num_codes=5, code_size=2)
    with pytest.raises(ValueError, match="'latent/codes' .* has no units; use mediators.position"):
        mediators.group(codes.sites, "latent/codes")
