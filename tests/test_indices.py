"""One meaning of an index wherever the library takes one: a walk over its public functions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_api import public_functions

from vaecausal_jax import interventions
from vaecausal_jax.circuits import stability
from vaecausal_jax.circuits.planted import network
from vaecausal_jax.data import dataset, sprites
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import attribution, mediation, shapley, support, unit_effects
from vaecausal_jax.factors import factor_effects, interchange
from vaecausal_jax.indices import as_indices, as_mask, check_index
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Site, Sites, Tape
from vaecausal_jax.metrics import causal
from vaecausal_jax.sweeps import patching

UNITS = 4
SITES = Sites({"h": Site((UNITS,), jnp.dtype(jnp.float32), 0)})
MAP = Sites({"map": Site((UNITS, 2), jnp.dtype(jnp.float32), 1)})
X0, X1 = jax.random.normal(jax.random.key(0), (2, 3, UNITS))
EPS = jnp.zeros((3, 1))
BANK = jax.random.normal(jax.random.key(1), (8, UNITS))
LEVELS = jnp.asarray(np.indices((2, 2, 2)).reshape(3, -1).T)
BASIS = jnp.eye(UNITS)[:2]


def forward(params, x, eps, interventions):
    del params, eps
    tape = Tape(interventions)
    h = tape("h", x)
    return tape.trace(jnp.cumsum(h**2))


def rows():
    y0 = jnp.cumsum(X0**2, axis=1)
    return patching.Rows(X0, EPS, X0, X1, y0)


NET = BoundModel(forward, None, SITES)
RUNS = (NET, Pairs(X0, X1, EPS), "h")
WHERE = {
    "set_to": lambda **where: interventions.set_to(SITES, "h", 2.0, **where),
    "shift_by": lambda **where: interventions.shift_by(SITES, "h", 2.0, **where),
    "scale_by": lambda **where: interventions.scale_by(SITES, "h", 2.0, **where),
    "clamp_to": lambda **where: interventions.clamp_to(SITES, "h", -0.1, 0.1, **where),
    "patch": lambda **where: interventions.patch(SITES, "h", X1[0], **where),
    "steer": lambda **where: interventions.steer(SITES, "h", jnp.ones(UNITS), 2.0, **where),
    "swap_subspace": lambda **where: interventions.swap_subspace(SITES, "h", BASIS, X1[0], **where),
    "ablate_zero": lambda **where: interventions.ablate_zero(SITES, "h", **where),
    "ablate_mean": lambda **where: interventions.ablate_mean(SITES, "h", BANK, **where),
    "ablate_resample": lambda **where: interventions.ablate_resample(
        jax.random.key(0), SITES, "h", BANK, **where
    ),
    "ablate_resample_conditional": lambda **where: interventions.ablate_resample_conditional(
        jax.random.key(0), SITES, "h", BANK, bank_factors=LEVELS, factors=LEVELS[0], free=1, **where
    ),
    "ablate_optimal": lambda **where: interventions.ablate_optimal(
        lambda put: jnp.sum(forward(None, X0[0], EPS[0], put).outputs ** 2),
        SITES,
        "h",
        BANK,
        num_steps=2,
        **where,
    ),
    "select": lambda **where: interventions.select("h", SITES["h"], **where),
}
"""What takes ``unit``, ``group`` and ``position``, itself or by handing them on to ``select``."""

OF_CODES = {"swap_codes", "map_codes"}
"""These hand them on for a site of codes, which has positions and no units."""


def after(where):
    """The patched value, or the mask."""
    given = WHERE[where]

    def run(**selected):
        result = given(**selected)
        return result[0] if where == "select" else forward(None, X0[0], EPS[0], result).outputs

    return run


SEVERAL = {
    **{f"{name}(group)": lambda given, n=name: after(n)(group=given) for name in WHERE},
    "ablate_resample_conditional(free)": lambda given: (
        interventions.ablate_resample_conditional(
            jax.random.key(3),
            SITES,
            "h",
            BANK[jnp.arange(16) % 8],
            bank_factors=np.indices((2, 2, 2, 2)).reshape(4, -1).T,
            factors=np.zeros(4, int),
            free=given,
        )["h"].value
    ),
    "unit_grams(units)": lambda given: mediation.unit_grams(*RUNS, units=given),
    "unit_mediation(sites)": lambda given: mediation.unit_mediation(*RUNS[:2], {"h": given}).values,
    "resample_effects(sites)": lambda given: (
        unit_effects.resample_effects(NET, Runs(X0, EPS, {"h": X1}), {"h": given}).values
    ),
    "UnitTable.sel": lambda given: (
        mediation.unit_mediation(*RUNS[:2], "h").sel({"h": given}).values
    ),
    "patch_units(units)": lambda given: patching.patch_units(
        BoundModel(forward, None, SITES), "h", rows(), lambda y, row: y - row.clean, units=given
    ),
    "unit_starts(units)": lambda given: patching.unit_starts("h", SITES["h"], given),
    "unit_support_scores(units)": lambda given: support.unit_support_scores(
        SITES, "h", BANK, BANK[::-1], units=given, neighbours=2
    ),
    "mediation_tensor(units)": lambda given: (
        factor_effects.mediation_tensor(
            BoundModel(forward, None, SITES), Pairs(X0[None], X1[None], EPS[None]), {"h": given}
        ).values
    ),
    "aligned_group(members)": lambda given: interchange.aligned_group(SITES, "h", given).fit(
        jax.random.key(0),
        None,
        None,  # pyright: ignore
    ),
}
"""What takes a list, of four to choose from."""

ONE = {
    **{f"{name}(unit)": lambda given, n=name: after(n)(unit=given) for name in WHERE},
    "set_to(position)": lambda given: (
        interventions.set_to(MAP, "map", 2.0, position=given)["map"].mask
    ),
    "do_factor(position)": lambda given: dataset.do_factor(np.zeros((2, UNITS), int), given, 1),
    "changed_only(factor)": lambda given: network.changed_only(X0, X1, given),
}
"""What takes one of four."""


def assert_same(result, expected):
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


INDEXING = {"unit", "units", "group", "position", "free", "members"}
OTHERWISE = {
    "indices": "the rule itself",
    "data.rays.camera": "a place in a room",
    "circuits.scorers.patched_values": "inside a sweep, see paths.Node",
    "circuits.planted.network.pairs_of": "see changed_only",
    "manifests.name_of": "the name of a folder",
    "study.estimates.unit_values": "estimates by site",
}


def test_every_function_that_indexes_is_held_to_the_rule():
    tried = {name.split("(")[0] for name in {**SEVERAL, **ONE}} | OF_CODES
    missing = []
    for name, function in public_functions().items():
        parameters = inspect.signature(function).parameters
        indexes = INDEXING & set(parameters) or (
            "where" in parameters and parameters["where"].kind is inspect.Parameter.VAR_KEYWORD
        )
        known = any(name.startswith(prefix) for prefix in OTHERWISE)
        if indexes and not known and name.rpartition(".")[2] not in tried:
            missing.append(name)
    assert not missing, f"{missing} take an index: add a call of each to SEVERAL or ONE"


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(SEVERAL))
def test_a_list_of_indices_has_one_meaning(name):
    call = SEVERAL[name]
    pair = call([0, 2])
    for given in (
        (0, 2),
        np.array([0, 2]),
        np.array([0, 2], np.uint8),
        jnp.array([0, 2]),
        range(0, 4, 2),
        [np.int64(0), np.int32(2)],
        np.array([True, False, True, False]),
        [True, False, True, False],
        jnp.array([True, False, True, False]),
    ):
        assert_same(call(given), pair)
    for given in (1, np.int64(1), np.array(1), jnp.array(1)):
        assert_same(call(given), call([1]))
    for given, message in (
        (1.0, "are 1.0"),
        ([1.0], r"are \[1.0\]"),
        (True, "booleans of shape"),
        ([], "no .* is chosen"),
        ([0, 0], "0 is given more than once"),
        ([2, -1], "-1 is out of range"),
        ([4], "4 is out of range"),
        ([[0, 1]], r"are \[\[0, 1\]\]"),
        (np.ones(3, bool), r"booleans of shape \(3,\)"),
        ("h", "'h'"),
        (slice(0, 2), "slice"),
    ):
        with pytest.raises(ValueError, match=message):
            call(given)


@pytest.mark.parametrize("name", ["unit_grams(units)", "patch_units(units)"])
def test_a_list_is_answered_in_its_order(name):
    backwards = SEVERAL[name]([2, 0])
    assert_same(jax.tree.map(lambda a: a[::-1], backwards), SEVERAL[name]([0, 2]))


@pytest.mark.parametrize("name", sorted(ONE))
def test_one_index_has_one_meaning(name):
    call = ONE[name]
    second = call(1)
    for given in (np.int64(1), np.uint8(1), np.array(1), jnp.array(1)):
        assert_same(call(given), second)
    for given in (1.0, True, np.True_, "1", -1, 4):
        with pytest.raises(ValueError, match="must be one integer|out of range"):
            call(given)
    if "position" not in name:
        for given in ([1], (1, 2), range(1), np.array([1])):
            with pytest.raises(ValueError, match="must be one integer"):
                call(given)


@pytest.mark.parametrize("name", ["unit_grams(units)", "patch_units(units)"])
def test_traced_units_out_of_range_are_nan_and_no_neighbour(name):
    found = jax.jit(SEVERAL[name])(jnp.array([0, 9, -1]))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
    for leaf, right in zip(leaves, jax.tree.leaves(SEVERAL[name](0)), strict=True):
        np.testing.assert_allclose(leaf[:1], right, rtol=1e-6)
    # Sizes of the total effect alone do not depend on the unit.
    wrong = [leaf[1:] for leaf in leaves if not (leaf == leaf[:1]).all()]
    assert wrong
    assert all(np.isnan(leaf).all() for leaf in wrong)
    with pytest.raises(ValueError, match="traced units must be integers"):
        jax.jit(SEVERAL[name])(jnp.array([0.0]))


def test_positions_may_be_a_tuple_a_list_or_an_array():
    sites = Sites({"map": Site((3, 2, 4), jnp.dtype(jnp.float32), 2)})
    masks = [
        interventions.set_to(sites, "map", 0.0, position=given)["map"].mask
        for given in ((2, 1), [2, 1], np.array([2, 1]), jnp.array([2, 1]), (np.uint8(2), 1))
    ]
    for mask in masks:
        assert_same(mask, masks[0])
    assert np.argwhere(masks[0][..., 0]).tolist() == [[2, 1]]
    with pytest.raises(ValueError, match="position must be one integer"):
        interventions.set_to(sites, "map", 0.0, position=(2, True))


def test_a_mask_may_be_all_false_and_is_then_the_plain_run():
    put = interventions.set_to(SITES, "h", 9.0, group=np.zeros(UNITS, bool))
    assert_same(forward(None, X0[0], EPS[0], put), forward(None, X0[0], EPS[0], {}))


def test_the_rule_names_what_was_given():
    with pytest.raises(ValueError, match=r"at x: unit must be one integer, 0 .. 3, got 1.5"):
        check_index("at x", "unit", 1.5, 4)
    with pytest.raises(ValueError, match=r"at x: units are float64\(9,\); expected indices within"):
        as_indices("at x", "unit", np.ones(9), 4)
    with pytest.raises(ValueError, match=r"a traced group of units must be booleans \(4,\)"):
        jax.jit(lambda g: as_mask("at x", "unit", g, 4))(jnp.array([1]))


def test_doing_a_factor_that_is_not_there_is_refused():
    levels = np.zeros((2, 3), int)
    assert dataset.do_factor(levels, 2, 1)[:, 2].tolist() == [1, 1]
    with pytest.raises(ValueError, match="position 3 is out of range"):
        dataset.do_factor(levels, 3, 1)
    with pytest.raises(ValueError, match="levels are integers, got float32"):
        dataset.do_factor(levels, 0, 1.5)  # pyright: ignore
    data = sprites()
    with pytest.raises(ValueError, match="image indices are integers"):
        dataset.factors_at(data, 1.5)  # pyright: ignore
    with pytest.raises(ValueError, match="no factor 3"):
        dataset.factor_position(data, 3)  # pyright: ignore


def test_sets_and_orders_are_not_taken_for_each_other():
    with pytest.raises(ValueError, match=r"chosen is int64\(2, 1\), expected booleans"):
        causal.unconfoundedness(np.array([[0], [1]]))
    with pytest.raises(ValueError, match="player 1 is given more than once"):
        shapley.subsets_of_orders(jnp.array([[0, 1, 1]]))
    with pytest.raises(ValueError, match=r"subsets is int32\(1, 4\), expected booleans"):
        shapley.latent_game(*RUNS, subsets=jnp.ones((1, 4), int))
    with pytest.raises(ValueError, match="unit 0 is given more than once"):
        stability.align_circuit({"h": np.ones(3, bool)}, {"h": np.array([0, 0, 1])})
    with pytest.raises(ValueError, match="has 2 units, expected all 3"):
        stability.align_circuit({"h": np.ones(3, bool)}, {"h": np.array([0, 1])})
    with pytest.raises(ValueError, match="run 1.5|are"):
        attribution.control_variate_mean(jnp.ones(3), jnp.ones(5), np.array([0.0, 1.0, 2.0]))
