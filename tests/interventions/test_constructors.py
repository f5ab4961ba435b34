"""Interventions against answers worked out by loops over NumPy arrays."""

import itertools
import math

import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vaecausal_jax import interventions as vi
from vaecausal_jax.interventions.sites import Site, Sites, Tape, Trace, list_sites

SITES = Sites(
    {
        "conv": Site((2, 3, 4), jnp.float32, 2),
        "first": Site((4, 2, 3), jnp.float32, 0),
        "dense": Site((3,), jnp.float32, 0),
        "codes": Site((2, 3), jnp.int32, None),
    }
)
RNG = np.random.default_rng(0)
VALUES = {
    "conv": RNG.normal(size=(2, 3, 4)).astype(np.float32),
    "first": RNG.normal(size=(4, 2, 3)).astype(np.float32),
    "dense": RNG.normal(size=3).astype(np.float32),
    "codes": RNG.integers(0, 5, (2, 3)).astype(np.int32),
}
DONOR = RNG.normal(size=(2, 3, 4)).astype(np.float32)
BANK = RNG.normal(size=(6, 2, 3, 4)).astype(np.float32)
MASK = RNG.random((2, 3, 4)) < 0.5


def run(interventions, name, value=None):
    """The site's value after the interventions, as a forward sees it."""
    tape = Tape(interventions)
    value = VALUES[name] if value is None else value
    out = tape(name, jnp.asarray(value), unit_axis=SITES[name].unit_axis)
    tape.close()
    return np.asarray(out)


def selected(shape, claim):
    """Booleans, true at the indices of which the claim holds."""
    return np.array([claim(*i) for i in np.ndindex(*shape)]).reshape(shape)


# Selectors at site "conv" (height, width, channels), and what they select, index by index.
SELECTORS = {
    "all": ({}, lambda h, w, c: True),
    "unit": ({"unit": 3}, lambda h, w, c: c == 3),
    "group of indices": ({"group": [0, 2]}, lambda h, w, c: c in (0, 2)),
    "group of booleans": (
        {"group": np.array([True, False, False, True])},
        lambda h, w, c: c in (0, 3),
    ),
    "position": ({"position": (1, 2)}, lambda h, w, c: (h, w) == (1, 2)),
    "unit at position": (
        {"unit": 1, "position": (0, 2)},
        lambda h, w, c: (h, w, c) == (0, 2, 1),
    ),
    "mask": ({"mask": MASK}, lambda h, w, c: MASK[h, w, c]),
    "one row": ({"mask": np.array([[[False]], [[True]]])}, lambda h, w, c: h == 1),
    "group in mask": (
        {"group": [1, 2], "mask": MASK},
        lambda h, w, c: c > 0 and c < 3 and MASK[h, w, c],
    ),
    "nothing": ({"mask": np.zeros((1, 1, 1), bool)}, lambda h, w, c: False),
}
DIRECTION = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
TYPES = {
    "set to a number": (lambda **w: vi.set_to(SITES, "conv", 0.7, **w), lambda h: 0 * h + 0.7),
    "set to an array": (lambda **w: vi.set_to(SITES, "conv", DONOR, **w), lambda h: DONOR),
    "set per channel": (
        lambda **w: vi.set_to(SITES, "conv", DIRECTION[None, None], **w),
        lambda h: np.broadcast_to(DIRECTION, h.shape),
    ),
    "shift": (lambda **w: vi.shift_by(SITES, "conv", -1.5, **w), lambda h: h - 1.5),
    "shift by an array": (lambda **w: vi.shift_by(SITES, "conv", DONOR, **w), lambda h: h + DONOR),
    "scale": (lambda **w: vi.scale_by(SITES, "conv", 3, **w), lambda h: 3 * h),
    "clamp": (
        lambda **w: vi.clamp_to(SITES, "conv", -0.2, 0.3, **w),
        lambda h: np.clip(h, -0.2, 0.3),
    ),
    "zero": (lambda **w: vi.ablate_zero(SITES, "conv", **w), np.zeros_like),
    "mean": (
        lambda **w: vi.ablate_mean(SITES, "conv", BANK, **w),
        lambda h: sum(BANK[i] for i in range(6)) / 6,
    ),
    "patch": (lambda **w: vi.patch(SITES, "conv", DONOR, **w), lambda h: DONOR),
    "steer": (
        lambda **w: vi.steer(SITES, "conv", DIRECTION, 2.0, **w),
        lambda h: h + 2 * DIRECTION,
    ),
}


@pytest.mark.parametrize(
    ("selector", "kind"), list(itertools.product(SELECTORS, TYPES)), ids=lambda word: word
)
def test_intervention_replaces_the_selected_values_and_no_other(selector, kind):
    where, claim = SELECTORS[selector]
    make, answer = TYPES[kind]
    h, out = VALUES["conv"], run(make(**where), "conv")
    expected = np.where(selected(h.shape, claim), answer(h), h)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    untouched = ~selected(h.shape, claim)
    np.testing.assert_array_equal(out[untouched], h[untouched])


def test_units_and_positions_follow_the_unit_axis_wherever_it_is():
    h = VALUES["first"]
    out = run(vi.set_to(SITES, "first", 9.0, unit=2, position=(1, 0)), "first")
    expected = h.copy()
    expected[2, 1, 0] = 9.0
    np.testing.assert_array_equal(out, expected)


def test_swapping_a_subspace_moves_its_coordinates_and_leaves_the_complement():
    basis = RNG.normal(size=(2, 4)).astype(np.float32)
    h, out = VALUES["conv"], run(vi.swap_subspace(SITES, "conv", basis, DONOR), "conv")
    projector = basis.T @ np.linalg.inv(basis @ basis.T) @ basis
    for row, column in np.ndindex(2, 3):
        expected = h[row, column] + projector @ (DONOR - h)[row, column]
        np.testing.assert_allclose(out[row, column], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(basis @ out[row, column], basis @ DONOR[row, column], atol=1e-5)


def test_swapping_a_subspace_of_the_whole_site_uses_one_projection():
    basis = RNG.normal(size=(3, 2, 3, 4)).astype(np.float32)
    h, out = VALUES["conv"], run(vi.swap_subspace(SITES, "conv", basis, DONOR), "conv")
    flat = basis.reshape(3, -1)
    projector = flat.T @ np.linalg.inv(flat @ flat.T) @ flat
    expected = h.ravel() + projector @ (DONOR - h).ravel()
    np.testing.assert_allclose(out.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_swapping_a_subspace_depends_on_its_span_only():
    basis = RNG.normal(size=(2, 4)).astype(np.float32)
    mixed = np.array([[2.0, 1.0], [-1.0, 3.0]], np.float32) @ basis
    a, b = (run(vi.swap_subspace(SITES, "conv", rows, DONOR), "conv") for rows in (basis, mixed))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_swapping_all_directions_is_setting():
    out = run(vi.swap_subspace(SITES, "conv", np.eye(4, dtype=np.float32), DONOR), "conv")
    np.testing.assert_allclose(out, DONOR, atol=1e-6)


def test_swapping_the_direction_of_one_unit_is_setting_that_unit():
    donor = np.array([5.0, 6.0, 7.0], np.float32)
    out = run(vi.swap_direction(SITES, "dense", np.array([0, -2, 0], np.float32), donor), "dense")
    np.testing.assert_allclose(
        out, run(vi.set_to(SITES, "dense", donor, unit=1), "dense"), rtol=1e-6
    )


def test_swapping_a_subspace_at_a_position_leaves_the_others_bitwise():
    step = vi.swap_subspace(SITES, "conv", DIRECTION[None], DONOR, position=(0, 1))
    h, out = VALUES["conv"], run(step, "conv")
    changed = selected(h.shape, lambda h, w, c: (h, w) == (0, 1))
    np.testing.assert_array_equal(out[~changed], h[~changed])
    unit = DIRECTION / np.linalg.norm(DIRECTION)
    expected = h[0, 1] + unit * (unit @ (DONOR - h)[0, 1])
    np.testing.assert_allclose(out[0, 1], expected, rtol=1e-5, atol=1e-6)


def test_codes_are_swapped_where_selected_and_renamed_wherever_they_occur():
    h = VALUES["codes"]
    out = run(vi.swap_codes(SITES, "codes", 4, num_codes=5, position=(1, 1)), "codes")
    expected = h.copy()
    expected[1, 1] = 4
    np.testing.assert_array_equal(out, expected)

    new = np.arange(6).reshape(2, 3).astype(np.int32) % 5
    out = run(vi.swap_codes(SITES, "codes", new, num_codes=5, mask=new > 2), "codes")
    np.testing.assert_array_equal(out, np.where(new > 2, new, h))

    table = [1, 0, 2, 4, 4]
    out = run(vi.map_codes(SITES, "codes", table), "codes")
    np.testing.assert_array_equal(out, [[table[code] for code in row] for row in h])


def test_a_code_that_the_table_lacks_becomes_no_code_at_all():
    out = run(vi.map_codes(SITES, "codes", [1, 0]), "codes", np.array([[0, 1, 2]] * 2, np.int32))
    np.testing.assert_array_equal(out, [[1, 0, np.iinfo(np.int32).max]] * 2)


def test_resampling_takes_whole_rows_of_the_bank_and_all_of_them_equally_often():
    keys = jax.random.split(jax.random.key(0), 3000)
    steps = jax.vmap(lambda key: vi.ablate_resample(key, SITES, "conv", BANK))(keys)
    drawn = np.asarray(steps["conv"].value)
    rows = np.abs(drawn[:, None] - BANK[None]).max((2, 3, 4)) == 0
    np.testing.assert_array_equal(rows.sum(1), 1)
    share, error = rows.mean(0), math.sqrt(1 / 6 * 5 / 6 / 3000)
    np.testing.assert_allclose(share, 1 / 6, atol=4 * error)


def test_conditional_resampling_draws_only_donors_that_share_the_held_factors():
    levels = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [0, 1]])
    keys = jax.random.split(jax.random.key(0), 2000)

    def draw(key):
        return vi.ablate_resample_conditional(
            key, SITES, "conv", BANK, bank_factors=levels, factors=np.array([0, 1]), free=0
        )

    drawn = np.asarray(jax.vmap(draw)(keys)["conv"].value)
    rows = np.abs(drawn[:, None] - BANK[None]).max((2, 3, 4)) == 0
    share = rows.mean(0)
    np.testing.assert_array_equal(share[[0, 2, 3]], 0)
    np.testing.assert_allclose(share[[1, 4, 5]], 1 / 3, atol=4 * math.sqrt(2 / 9 / 2000))


def test_conditional_resampling_without_a_donor_is_nan_where_it_cannot_be_an_error():
    @jax.jit
    def draw(factors):
        return vi.ablate_resample_conditional(
            jax.random.key(0),
            SITES,
            "dense",
            BANK[:, 0, 0, :3],
            bank_factors=jnp.zeros((6, 2), int),
            factors=factors,
            free=0,
        )

    assert np.isnan(run(draw(jnp.array([0, 3])), "dense")).all()
    assert np.isfinite(run(draw(jnp.array([3, 0])), "dense")).all()


def readout(weights):
    def loss(interventions, bank, power=1):
        def one(h):
            return weights @ Tape(interventions)("dense", h) ** power - weights @ h**power

        return jnp.mean(jax.vmap(one)(bank) ** 2)

    return loss


def test_optimal_constant_under_a_linear_readout_and_squared_loss_is_the_mean():
    bank, weights = jnp.asarray(BANK[:, 0, 0, :3]), jnp.array([0.0, 2.0, 0.0])
    step = vi.ablate_optimal(lambda i: readout(weights)(i, bank), SITES, "dense", bank, unit=1)
    np.testing.assert_allclose(step["dense"].value[1], BANK[:, 0, 0, 1].mean(), atol=1e-4)


def test_optimal_constant_is_found_where_it_is_not_the_mean():
    # (c^2 - h^2)^2 has its least expected value at c^2 = E h^2, far from the mean.
    bank = jnp.asarray(BANK[:, 0, 0, :3]) + 2.0
    loss = readout(jnp.array([0.0, 1.0, 0.0]))
    step = vi.ablate_optimal(lambda i: loss(i, bank, 2), SITES, "dense", bank, unit=1)
    root = math.sqrt(np.mean(np.asarray(bank)[:, 1] ** 2))
    np.testing.assert_allclose(step["dense"].value[1], root, atol=1e-3)
    assert loss(step, bank, 2) <= loss(vi.ablate_mean(SITES, "dense", bank, unit=1), bank, 2)


def test_ablations_of_a_relu_unit_form_the_known_ladder():
    # h = relu(z), z ~ N(0, 1): zero 1/2, mean 1/2 - 1/(2 pi), resample 1 - 1/pi (METHODS T25).
    z, donors = jax.random.normal(jax.random.key(1), (2, 100_000))
    bank = jnp.tile(jax.nn.relu(donors)[:, None], (1, 3))
    keys = jax.random.split(jax.random.key(2), len(z))

    def effect(make):
        def one(z, key):
            h = jnp.full(3, jax.nn.relu(z))
            return (Tape(make(key))("dense", h)[0] - h[0]) ** 2

        squared = jax.vmap(one)(z, keys)
        return np.mean(squared), 4 * np.std(squared) / math.sqrt(len(z))

    ladder = {
        0.5: lambda key: vi.ablate_zero(SITES, "dense"),
        0.5 - 0.5 / math.pi: lambda key: vi.ablate_mean(SITES, "dense", bank),
        1 - 1 / math.pi: lambda key: vi.ablate_resample(key, SITES, "dense", bank),
    }
    for expected, make in ladder.items():
        value, tolerance = effect(make)
        np.testing.assert_allclose(value, expected, atol=tolerance)


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(
    hnp.arrays(np.bool_, (2, 3, 4)), st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)
)
def test_disjoint_parts_commute_and_make_their_union(mask, value, other):
    a = vi.set_to(SITES, "conv", value, mask=mask)
    b = vi.shift_by(SITES, "conv", other, mask=~mask)
    forwards, backwards = run(vi.combine(a, b), "conv"), run(vi.combine(b, a), "conv")
    np.testing.assert_array_equal(forwards, backwards)
    np.testing.assert_array_equal(forwards[mask], np.float32(value))
    np.testing.assert_array_equal(
        run(vi.set_to(SITES, "conv", DONOR, mask=mask), "conv")[~mask], VALUES["conv"][~mask]
    )


def test_combine_keeps_the_order_and_joins_sites():
    joined = vi.combine(
        vi.shift_by(SITES, "dense", 1.0),
        vi.set_to(SITES, "conv", 0.0),
        vi.scale_by(SITES, "dense", 2.0),
        vi.combine(vi.shift_by(SITES, "dense", -3.0), vi.scale_by(SITES, "dense", 10.0)),
    )
    assert set(joined) == {"dense", "conv"}
    out = run({"dense": joined["dense"]}, "dense")
    np.testing.assert_allclose(out, 10 * ((VALUES["dense"] + 1) * 2 - 3), rtol=1e-6)
    assert vi.combine() == {}


def test_the_last_value_set_wins():
    steps = vi.combine(vi.set_to(SITES, "dense", 1.0), vi.set_to(SITES, "dense", 2.0, unit=1))
    np.testing.assert_array_equal(run(steps, "dense"), [1, 2, 1])
    steps = vi.combine(vi.set_to(SITES, "dense", 2.0, unit=1), vi.set_to(SITES, "dense", 1.0))
    np.testing.assert_array_equal(run(steps, "dense"), [1, 1, 1])


def test_what_is_replaced_is_not_read_and_what_is_kept_is_not_touched():
    h = np.array([np.nan, 1.0, np.inf], np.float32)
    kept = run(vi.set_to(SITES, "dense", 2.0, unit=0), "dense", h)
    np.testing.assert_array_equal(kept, [2, 1, np.inf])
    for step in (
        vi.shift_by(SITES, "dense", 2.0, unit=1),
        vi.clamp_to(SITES, "dense", 3.0, 4.0, unit=1),
        vi.swap_subspace(
            SITES, "dense", np.eye(3, dtype=np.float32)[1:2], jnp.full(3, 3.0), unit=1
        ),
    ):
        np.testing.assert_array_equal(run(step, "dense", h)[[0, 2]], h[[0, 2]])


# --- as pytrees -----------------------------------------------------------------------------

MIXED = [
    vi.set_to(SITES, "dense", 2.0, unit=0),
    vi.set_to(SITES, "dense", VALUES["dense"] + 1, group=[1, 2]),
    vi.shift_by(SITES, "dense", -1.0, unit=2),
    vi.scale_by(SITES, "dense", 3.0),
    vi.steer(SITES, "dense", np.array([1, 0, -1], np.float32), 0.5),
]


def test_stacking_sets_shifts_and_scales_under_vmap_equals_the_loop():
    stacked = vi.stack(MIXED)
    assert isinstance(stacked["dense"], vi.Affine)
    h = jnp.asarray(VALUES["dense"])
    out = jax.vmap(lambda step: Tape(step)("dense", h))(stacked)
    loop = np.stack([run(step, "dense") for step in MIXED])
    np.testing.assert_allclose(out, loop, rtol=1e-6)


def test_stacking_one_type_keeps_it():
    h = jnp.asarray(VALUES["conv"])
    steps = [
        [vi.set_to(SITES, "conv", 1.0, unit=u) for u in range(4)],
        [vi.clamp_to(SITES, "conv", -0.1, 0.1 * u, unit=u) for u in range(4)],
        [vi.swap_subspace(SITES, "conv", row[None], DONOR) for row in np.eye(4, dtype=np.float32)],
        [
            vi.combine(vi.set_to(SITES, "conv", 1.0, unit=u), vi.shift_by(SITES, "conv", 1.0))
            for u in range(4)
        ],
    ]
    for several in steps:
        stacked = vi.stack(several)
        assert jax.tree.structure(stacked) == jax.tree.structure(several[0])
        out = jax.vmap(lambda step: Tape(step)("conv", h))(stacked)
        loop = np.stack([run(step, "conv") for step in several])
        np.testing.assert_allclose(out, loop, rtol=1e-6, atol=1e-6)


def test_interventions_survive_flattening_and_tree_maps():
    for step in (
        *MIXED,
        vi.clamp_to(SITES, "dense", 0.0, 1.0),
        vi.map_codes(SITES, "codes", [0, 1]),
    ):
        leaves, structure = jax.tree.flatten(step)
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), step)
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf, step), step)
    chex.assert_tree_all_finite(MIXED)


def test_a_vmapped_unit_and_dose_make_a_stacked_intervention():
    units = jnp.arange(3)
    made = jax.vmap(lambda u: vi.shift_by(SITES, "dense", u.astype(float), unit=u))(units)
    np.testing.assert_array_equal(made["dense"].mask, np.eye(3, dtype=bool))
    np.testing.assert_array_equal(made["dense"].shift, [0.0, 1.0, 2.0])


def test_a_group_may_be_named_under_jit():
    step = jax.jit(lambda v: vi.set_to(SITES, "dense", v, group=[0, 2]))(jnp.array(4.0))
    np.testing.assert_array_equal(run(step, "dense"), [4, VALUES["dense"][1], 4])


@pytest.mark.parametrize(
    "make",
    [
        lambda u: vi.set_to(SITES, "dense", 1.0, unit=u),
        lambda u: vi.shift_by(SITES, "dense", 1.0, unit=u),
        lambda u: vi.scale_by(SITES, "dense", 1.0, unit=u),
        lambda u: vi.clamp_to(SITES, "dense", 0.0, 1.0, unit=u),
        lambda u: vi.patch(SITES, "dense", jnp.ones(3), unit=u),
        lambda u: vi.swap_subspace(SITES, "dense", jnp.eye(3)[:1], jnp.ones(3), unit=u),
    ],
)
def test_a_traced_unit_out_of_range_gives_nan_and_never_a_no_op(make):
    make = jax.jit(make)
    for unit in (-1, 3):
        assert np.isnan(run(make(unit), "dense")).any()
    assert np.isfinite(run(make(2), "dense")).all()


def test_a_traced_basis_that_is_dependent_gives_nan():
    swap = jax.jit(lambda basis: vi.swap_subspace(SITES, "dense", basis, jnp.ones(3)))
    assert np.isfinite(run(swap(jnp.eye(3)[:2]), "dense")).all()
    for basis in (np.ones((2, 3)), np.zeros((1, 3)), [[0.1, 0.2, 0.3], [0.3, 0.6, 0.9]]):
        assert np.isnan(run(swap(jnp.asarray(basis, jnp.float32)), "dense")).all()


def forward(params, x, eps, interventions):
    tape = Tape(interventions)
    h = tape("dense", jnp.tanh(params * x))
    y = tape("mean", jnp.sum(h**3)[None])
    tape.close()
    return Trace(y, tape.activations)


TOY = list_sites(forward, 1.0, jnp.zeros(3), jnp.zeros(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda dose: vi.shift_by(TOY, "dense", dose, unit=1),
        lambda dose: vi.scale_by(TOY, "dense", dose),
        lambda dose: vi.set_to(TOY, "dense", dose, group=[0, 2]),
        lambda dose: vi.steer(TOY, "dense", np.array([1, -1, 2], np.float32), dose),
        lambda dose: vi.clamp_to(TOY, "dense", dose, 5.0),
    ],
    ids=["shift", "scale", "set", "steer", "clamp"],
)
def test_gradient_with_respect_to_the_dose_equals_the_finite_difference(make):
    with jax.enable_x64(True):
        x = jnp.array([0.3, -0.4, 1.2], jnp.float32)

        def y(dose):
            return forward(1.0, x, jnp.zeros(0), make(dose)).outputs[0]

        dose, step = jnp.float32(0.7), jnp.float32(1e-2)
        finite = (y(dose + step) - y(dose - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(y)(dose), finite, rtol=1e-3)


# --- mistakes -------------------------------------------------------------------------------

KEY = jax.random.key(0)
BAD_INPUTS = {
    "unknown site": (
        lambda: vi.set_to(SITES, "dens", 1.0),
        "unknown site 'dens'.*Did you mean 'dense'",
    ),
    "batch axis": (
        lambda: vi.set_to(SITES, "dense", jnp.zeros((5, 3))),
        r"shape \(5, 3\).*vmap over a batch",
    ),
    "batch size": (
        lambda: vi.set_to(SITES, "dense", jnp.zeros(5)),
        r"value has shape \(5,\), expected \(3,\)",
    ),
    "missing batch": (
        lambda: vi.set_to(SITES, "conv", jnp.zeros(4)),
        r"shape \(4,\), expected \(2, 3, 4\)",
    ),
    "patch of length 1": (
        lambda: vi.patch(SITES, "dense", jnp.zeros(1)),
        r"donor has shape \(1,\), expected \(3,\)",
    ),
    "batched donor": (
        lambda: vi.patch(SITES, "dense", jnp.zeros((2, 3))),
        "one image's activation; vmap over images",
    ),
    "int array": (
        lambda: vi.set_to(SITES, "dense", jnp.zeros(3, int)),
        "value has dtype int32, expected float32",
    ),
    "float array": (
        lambda: vi.set_to(SITES, "codes", jnp.zeros((2, 3))),
        "value has dtype float32, expected int32",
    ),
    "float number": (
        lambda: vi.set_to(SITES, "codes", 1.5),
        "value 1.5 is no integer that int32 can hold",
    ),
    "unit too large": (
        lambda: vi.set_to(SITES, "dense", 1.0, unit=3),
        r"unit 3 is out of range; valid are 0 \.\. 2",
    ),
    "unit negative": (lambda: vi.set_to(SITES, "dense", 1.0, unit=-1), r"unit -1 is out of range"),
    "unit fractional": (
        lambda: vi.set_to(SITES, "dense", 1.0, unit=1.0),
        "unit must be one integer",
    ),
    "unit a list": (lambda: vi.set_to(SITES, "dense", 1.0, unit=[0, 1]), "one integer.*Use group="),
    "unit a boolean": (
        lambda: vi.set_to(SITES, "dense", 1.0, unit=True),
        "unit must be one integer",
    ),
    "unit of codes": (
        lambda: vi.set_to(SITES, "codes", 1, unit=0),
        "has no unit axis; select by position",
    ),
    "group of codes": (lambda: vi.set_to(SITES, "codes", 1, group=[0]), "has no unit axis"),
    "group too large": (
        lambda: vi.set_to(SITES, "dense", 1.0, group=[0, 7]),
        "unit 7 is out of range",
    ),
    "group negative": (
        lambda: vi.set_to(SITES, "dense", 1.0, group=[-1]),
        "unit -1 is out of range",
    ),
    "group empty": (
        lambda: vi.set_to(SITES, "dense", 1.0, group=[]),
        "no unit is chosen by",
    ),
    "group mask": (
        lambda: vi.set_to(SITES, "dense", 1.0, group=np.ones(2, bool)),
        r"shape \(2,\), expected \(3,\)",
    ),
    "group traced": (
        lambda: jax.jit(lambda g: vi.set_to(SITES, "dense", 1.0, group=g))(jnp.array([0])),
        r"a traced group of units must be booleans \(3,\)",
    ),
    "position rank": (
        lambda: vi.set_to(SITES, "conv", 1.0, position=1),
        r"has 1 indices.*has 2 position axes",
    ),
    "position in dense": (
        lambda: vi.set_to(SITES, "dense", 1.0, position=1),
        "has 0 position axes",
    ),
    "position too large": (
        lambda: vi.set_to(SITES, "conv", 1.0, position=(2, 0)),
        "position 2 is out of range",
    ),
    "mask shape": (
        lambda: vi.set_to(SITES, "dense", 1.0, mask=np.ones(2, bool)),
        r"mask has shape \(2,\)",
    ),
    "mask dtype": (
        lambda: vi.set_to(SITES, "dense", 1.0, mask=np.ones(3)),
        "mask has dtype float32, expected bool",
    ),
    "clamp": (
        lambda: vi.clamp_to(SITES, "dense", 2.0, 1.0),
        r"clamp_to got low 2\.0 above high 1\.0",
    ),
    "clamp under jit": (
        lambda: jax.jit(lambda: vi.clamp_to(SITES, "dense", 2.0, 1.0))(),
        "above high",
    ),
    "dependent basis": (
        lambda: vi.swap_subspace(SITES, "dense", jnp.ones((2, 3)), jnp.ones(3)),
        r"the 2 rows of the basis are linearly dependent \(rank 1\)",
    ),
    "basis too tall": (
        lambda: jax.jit(lambda b: vi.swap_subspace(SITES, "dense", b, jnp.ones(3)))(
            jnp.ones((4, 3))
        ),
        "the 4 rows of the basis are linearly dependent",
    ),
    "basis width": (
        lambda: vi.swap_subspace(SITES, "conv", jnp.ones((1, 3)), DONOR),
        r"basis has shape \(1, 3\), expected \(rank, \*trailing axes of .*such as \(1, 4\)",
    ),
    "basis without rank": (
        lambda: vi.swap_subspace(SITES, "dense", jnp.ones(3), jnp.ones(3)),
        "basis has shape",
    ),
    "donor of a swap": (
        lambda: vi.swap_direction(SITES, "dense", jnp.ones(3), jnp.ones(2)),
        "donor has shape",
    ),
    "code too large": (
        lambda: vi.swap_codes(SITES, "codes", 5, num_codes=5),
        r"code 5 is outside the codebook; valid codes are 0 \.\. 4",
    ),
    "code negative": (
        lambda: vi.swap_codes(SITES, "codes", np.array([[0, -1, 0]] * 2), num_codes=5),
        "code -1 is outside the codebook",
    ),
    "table entry": (lambda: vi.map_codes(SITES, "codes", [0, 2]), "code 2 is outside the codebook"),
    "table rank": (
        lambda: vi.map_codes(SITES, "codes", [[0, 1]]),
        r"table has shape \(1, 2\), expected \(codes,\)",
    ),
    "table of floats": (
        lambda: vi.map_codes(SITES, "codes", jnp.zeros(3)),
        "table has dtype float32",
    ),
    "table at a float site": (
        lambda: vi.map_codes(SITES, "dense", [0, 1, 2]),
        "CodeMap needs integer codes",
    ),
    "bank without samples": (
        lambda: vi.ablate_mean(SITES, "dense", jnp.zeros(3)),
        r"bank has shape \(3,\), expected \(samples, 3\)",
    ),
    "bank empty": (
        lambda: vi.ablate_resample(KEY, SITES, "dense", jnp.zeros((0, 3))),
        r"bank has shape \(0, 3\)",
    ),
    "bank of another site": (
        lambda: vi.ablate_mean(SITES, "conv", jnp.zeros((5, 3))),
        "bank has shape",
    ),
    "no donor": (
        lambda: vi.ablate_resample_conditional(
            KEY,
            SITES,
            "dense",
            jnp.zeros((2, 3)),
            bank_factors=np.zeros((2, 2), int),
            factors=np.array([1, 1]),
            free=0,
        ),
        r"none of the 2 samples of the bank shares the factors \[1, 1\] outside position\(s\) 0",
    ),
    "factors of the bank": (
        lambda: vi.ablate_resample_conditional(
            KEY,
            SITES,
            "dense",
            jnp.zeros((2, 3)),
            bank_factors=np.zeros((3, 2), int),
            factors=np.array([1, 1]),
            free=0,
        ),
        r"bank_factors has shape \(3, 2\)",
    ),
    "direction width": (
        lambda: vi.steer(SITES, "conv", jnp.ones(3), 1.0),
        "expected \\(2, 3, 4\\)",
    ),
    "direction of integers": (
        lambda: vi.steer(SITES, "dense", [1, 0, 0], 1.0),
        "direction has dtype int32",
    ),
    "array in combine": (lambda: vi.combine({"dense": jnp.ones(3)}), "expected an intervention"),
    "empty stack": (lambda: vi.stack([]), "at least one intervention"),
    "stack of sites": (
        lambda: vi.stack([vi.set_to(SITES, "dense", 1.0), vi.set_to(SITES, "conv", 1.0)]),
        r"0 and 1 cannot be stacked.*dense: Affine against conv: Affine.*Group a sweep by site",
    ),
    "stack of types": (
        lambda: vi.stack([vi.set_to(SITES, "dense", 1.0), vi.clamp_to(SITES, "dense", 0.0, 1.0)]),
        "dense: Affine against dense: Clamp",
    ),
    "stack of ranks": (
        lambda: vi.stack(
            [vi.swap_subspace(SITES, "dense", jnp.eye(3)[:r], jnp.ones(3)) for r in (1, 2)]
        ),
        r"cannot stack \['dense'\].basis: its shapes differ, \[\(1, 3\), \(2, 3\)\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_refused_with_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_double_precision_at_a_single_precision_site_is_refused():
    with jax.enable_x64(True), pytest.raises(ValueError, match="float64, expected float32"):
        vi.set_to(SITES, "dense", np.zeros(3))
