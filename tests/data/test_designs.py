"""Donors, sweeps, correlated factors and held-out combinations, on a world one can count."""

import itertools

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import designs

FACTORS = (
    vd.Factor("shape", (1.0, 2.0, 3.0), num_distinct=3, cyclic=False),
    vd.Factor("turn", (0.0, 0.25, 0.5, 0.75, 1.0), num_distinct=4, cyclic=True),
    vd.Factor("x", (0.0, 1.0, 2.0, 3.0), num_distinct=4, cyclic=False),
    vd.Factor("colour", (0.0,), num_distinct=1, cyclic=False),
)
GRID = np.array(list(itertools.product(range(3), range(5), range(4), range(1))), np.int32)


@flax.struct.dataclass
class Levels:
    """An image is its row of distinct levels; turn 4 repeats turn 0."""

    factors: tuple[vd.Factor, ...] = flax.struct.field(pytree_node=False, default=FACTORS)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False, default=(1, 4, 1))

    def image(self, factors):
        distinct = jnp.asarray([factor.num_distinct for factor in self.factors])
        return (factors % distinct).astype(jnp.float32).reshape(self.image_shape)


DATA = Levels()


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "num"), [("shape", 2), ("turn", 3), ("x", 1)])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_donors_share_all_but_the_tested_factor_and_never_the_image(name, num, wrap):
    donors = wrap(lambda key: vd.conditional_donors(key, DATA, GRID, name, num))(jax.random.key(0))
    assert donors.shape == (60, num, 4)
    assert donors.dtype == jnp.int32
    position = vd.factor_position(DATA, name)
    changed = np.asarray(donors) != GRID[:, None]
    np.testing.assert_array_equal(np.delete(changed, position, axis=2), False)
    images = vd.images(DATA, np.asarray(donors).reshape(-1, 4)).reshape(60, num, 4)
    seen = np.concatenate([vd.images(DATA, GRID).reshape(60, 1, 4), images], axis=1)
    for shown in seen[:, :, position]:
        assert len(set(shown.tolist())) == num + 1


def test_all_donors_of_a_row_are_all_its_other_images():
    donors = vd.conditional_donors(jax.random.key(1), DATA, np.array([[0, 4, 0, 0]]), "turn", 3)
    assert set(np.asarray(donors)[0, :, 1].tolist()) == {1, 2, 3}


def test_donors_are_uniform_over_the_other_levels():
    rows = np.tile([[0, 4, 1, 0]], (3000, 1))
    levels = vd.conditional_donors(jax.random.key(2), DATA, rows, "turn")[:, 0, 1]
    counts = np.bincount(levels, minlength=5)
    # Binomial with mean 1000 and standard deviation 26; never 0 nor 4, which are the row's image.
    np.testing.assert_array_equal(counts[[0, 4]], 0)
    assert np.abs(counts[1:4] - 1000).max() < 130


def test_a_sweep_shows_each_distinct_level_once():
    swept = vd.do_sweep(DATA, GRID, "turn")
    assert swept.shape == (4, 60, 4)
    for level in range(4):
        chex.assert_trees_all_equal(swept[level], vd.do_factor(GRID, 1, level))
    assert vd.do_sweep(DATA, np.array([0, 4, 0, 0]), "x").shape == (4, 4)


@pytest.mark.slow
def test_orientations_0_and_39_of_dsprites_never_meet():
    data = vd.dsprites_exact()
    rows = vd.sample_factors(jax.random.key(0), data, 4000)
    rows = jnp.concatenate([vd.do_factor(rows, 2, 0), vd.do_factor(rows, 2, 39)])
    donors = vd.conditional_donors(jax.random.key(1), data, rows, "orientation", 38)[..., 2]
    assert set(np.unique(donors)) == set(range(1, 39))
    source, target = vd.minimal_levels(jax.random.key(2), data, "orientation", 50_000)
    levels = np.stack([source[:, 2], target[:, 2]])
    assert not np.any(np.isin(levels, (0, 39)).all(axis=0))
    assert vd.do_sweep(data, rows[:3], "orientation").shape[0] == 39


def frequencies(data, num=40_000, seed=0):
    rows = jax.jit(lambda key: vd.sample_factors(key, data, num))(jax.random.key(seed))
    assert rows.dtype == jnp.int32
    counts = np.zeros(vd.factor_sizes(data))
    np.add.at(counts, tuple(np.asarray(rows).T), 1)
    return counts / num


def test_weighted_factors_have_their_joint_distribution_and_the_others_stay_uniform():
    weights = np.array([[0.0, 2.0, 0.0, 1.0], [1.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    found = frequencies(vd.weighted(DATA, ("shape", "x"), weights))
    expected = weights[:, None, :, None] / weights.sum() / 5
    # Each count is binomial: standard deviation below 0.0014.
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=0.007)
    np.testing.assert_array_equal(found[np.broadcast_to(expected == 0, found.shape)], 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_correlated_factors_follow_the_published_density(sign):
    data = vd.correlated(DATA, "shape", "x", width=0.3, sign=sign)
    table = np.zeros((3, 4))
    for a in range(3):
        for b in range(4):
            other = b if sign == 1 else 3 - b
            table[a, b] = np.exp(-((a / 2 - other / 3) ** 2) / (2 * 0.3**2))
    table /= table.sum()
    chex.assert_trees_all_close(
        designs.dependence(DATA, "shape", "x", width=0.3, sign=sign), table, atol=1e-12
    )
    np.testing.assert_allclose(frequencies(data).sum(axis=(1, 3)), table, atol=0.013)


def test_width_runs_from_independence_to_a_copy():
    tables = [designs.dependence(DATA, "x", "turn", width=w) for w in (np.inf, 1.0, 0.2, 0.01)]
    information = [vd.mutual_information(table) for table in tables]
    assert information[0] == pytest.approx(0.0, abs=1e-12)
    assert information == sorted(information)
    # Four levels each, of which turn 0 has two labels: x = 0 is 2/5 of the mass.
    masses = np.array([2, 1, 1, 1]) / 5
    assert information[-1] == pytest.approx(-np.sum(masses * np.log(masses)), abs=1e-6)


def test_repeated_levels_are_correlated_like_what_they_repeat():
    table = designs.dependence(DATA, "turn", "x", width=0.2)
    np.testing.assert_array_equal(table[4], table[0])


def test_mutual_information_of_a_two_by_two_table_by_hand():
    assert vd.mutual_information(np.array([[3, 0], [0, 3]])) == pytest.approx(np.log(2))
    assert vd.mutual_information(np.outer([1, 2], [3, 4])) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.thorough
def test_a_weighted_set_is_a_data_set():
    data = vd.correlated(DATA, "shape", "x", width=0.1)
    assert (data.factors, data.image_shape) == (DATA.factors, DATA.image_shape)
    rows = vd.sample_factors(jax.random.key(0), data, 8)
    chex.assert_trees_all_equal(vd.images(data, rows), vd.images(DATA, rows))
    chex.assert_trees_all_equal(
        jax.jit(lambda key, data: vd.sample_images(key, data, 8))(jax.random.key(0), data),
        vd.images(DATA, rows),
    )
    source, target = vd.minimal_levels(jax.random.key(1), data, "shape", 200)
    changed = np.asarray(source != target)
    np.testing.assert_array_equal(changed, np.tile([True, False, False, False], (200, 1)))


def test_interventions_leave_the_distribution_that_conditioning_would_keep():
    data = vd.correlated(DATA, "shape", "x", width=1e-3)
    source, target = vd.minimal_levels(jax.random.key(0), data, "shape", 100)
    assert data.contains(source).all()
    assert not data.contains(target).all()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("combination", "held"),
    [
        ({"shape": 2}, lambda r: r[:, 0] == 2),
        ({"shape": 2, "x": [0, 3]}, lambda r: (r[:, 0] == 2) & np.isin(r[:, 2], [0, 3])),
        ({"turn": 0, "x": range(2)}, lambda r: np.isin(r[:, 1], [0, 4]) & (r[:, 2] < 2)),
        ({"turn": [4]}, lambda r: np.isin(r[:, 1], [0, 4])),
    ],
)
def test_held_out_combinations_are_on_one_side_and_all_else_on_the_other(combination, held):
    split = vd.hold_out(DATA, combination)
    expected = held(GRID)
    np.testing.assert_array_equal(split.test.contains(GRID), expected)
    np.testing.assert_array_equal(split.train.contains(GRID), ~expected)
    for side, cells in ((split.train, ~expected), (split.test, expected)):
        found = frequencies(side, 20_000).reshape(-1)
        np.testing.assert_array_equal(found[~cells], 0.0)
        np.testing.assert_allclose(found[cells], 1 / cells.sum(), atol=0.016)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_split_shares_no_image_and_trains_on_every_level(seed):
    split = vd.random_split(jax.random.key(seed), DATA, ("shape", "turn", "x"), 0.3)
    held = np.asarray(split.test.contains(GRID))
    np.testing.assert_array_equal(split.train.contains(GRID), ~held)
    images = np.asarray(vd.images(DATA, GRID)).reshape(60, 4)
    train, test = ({tuple(row) for row in images[side]} for side in (~held, held))
    assert not train & test
    assert len(test) == round(0.3 * 48)
    for position in range(3):
        assert set(GRID[~held][:, position]) == set(GRID[:, position])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: vd.conditional_donors(jax.random.key(0), DATA, GRID, "turn", 4),
            "from 1 to 3, the other distinct levels of 'turn', got 4",
        ),
        (lambda: vd.conditional_donors(jax.random.key(0), DATA, GRID, "trn"), "mean 'turn'"),
        (
            lambda: vd.conditional_donors(jax.random.key(0), DATA, GRID, "colour"),
            "'colour' has one distinct level",
        ),
        (
            lambda: vd.conditional_donors(jax.random.key(0), DATA, GRID[0], "x"),
            r"shape \(row, factor\), got \(4,\)",
        ),
        (lambda: vd.do_sweep(DATA, GRID, "colour"), "'colour' has one distinct level"),
        (lambda: vd.do_sweep(DATA, GRID + 3, "x"), "'shape' has levels 0 to 2"),
        (lambda: vd.weighted(DATA, ("shape", "x"), np.ones((4, 3))), r"of shape \(3, 4\)"),
        (lambda: vd.weighted(DATA, ("x", "x"), np.ones((4, 4))), "more different factors"),
        (lambda: vd.weighted(DATA, ("x",), np.array([1, -1, 1, 1])), "not negative"),
        (lambda: vd.weighted(DATA, ("x",), np.array([1, np.nan, 1, 1])), "finite"),
        (lambda: vd.weighted(DATA, ("x",), np.zeros(4)), "not all zero"),
        (lambda: vd.correlated(DATA, "x", "shpe", width=1.0), "did you mean 'shape'"),
        (lambda: vd.correlated(DATA, "x", "shape", width=0.0), "width must be positive"),
        (lambda: vd.correlated(DATA, "x", "shape", width=1.0, sign=0), "sign must be 1 or -1"),
        (lambda: vd.correlated(DATA, "x", "colour", width=1.0), "one distinct level"),
        (lambda: vd.hold_out(DATA, {"x": range(4)}), "leaves no rows to train on"),
        (lambda: vd.hold_out(DATA, {"x": [4]}), "'x' has levels 0 to 3, got 4"),
        (lambda: vd.hold_out(DATA, {"x": []}), "'x' has levels 0 to 3, got none"),
        (lambda: vd.hold_out(DATA, {}), "at least one factor"),
        (lambda: vd.random_split(jax.random.key(0), DATA, ("x",), 0.2), "two different factors"),
        (lambda: vd.random_split(jax.random.key(0), DATA, ("x", "shape"), 1.0), "between 0 and 1"),
        (
            lambda: vd.random_split(jax.random.key(0), DATA, ("x", "shape"), 0.9),
            "would leave a level unseen in training",
        ),
        (lambda: vd.mutual_information(np.ones(3)), "a table of two factors"),
    ],
)
def test_bad_inputs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.thorough
def test_combinations_too_many_for_float32_are_refused():
    factor = vd.Factor("many", tuple(map(float, range(5000))), 5000, cyclic=False)
    data = Levels((factor, factor._replace(name="more")), (1, 2, 1))
    with pytest.raises(ValueError, match="25000000 combinations of .* too rare to be drawn"):
        vd.weighted(data, ("many", "more"), np.ones((5000, 5000)))
