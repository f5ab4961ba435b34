"""Laws of what is generic over data sets, on a world small enough to enumerate."""

import itertools

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd

FACTORS = (
    vd.Factor("shape", (1.0, 2.0), num_distinct=2, cyclic=False),
    vd.Factor("turn", (0.0, 0.5, 1.0), num_distinct=2, cyclic=True),
    vd.Factor("x", (0.0, 1.0, 2.0, 3.0), num_distinct=4, cyclic=False),
)


@flax.struct.dataclass
class Table:
    """Images of three pixels, one a factor; turn 2 repeats turn 0."""

    pixels: jax.Array
    factors: tuple[vd.Factor, ...] = flax.struct.field(pytree_node=False, default=FACTORS)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False, default=(1, 3, 1))

    def image(self, factors):
        distinct = jnp.asarray([factor.num_distinct for factor in self.factors])
        return (self.pixels * (factors % distinct)).reshape(self.image_shape)


@pytest.fixture
def table():
    return Table(jnp.asarray([0.1, 0.2, 0.3]))


GRID = np.array(list(itertools.product(range(2), range(3), range(4))), np.int32)


def test_names_sizes_and_number_of_images(table):
    assert vd.factor_names(table) == ("shape", "turn", "x")
    assert vd.factor_sizes(table) == (2, 3, 4)
    assert vd.num_images(table) == 24
    assert vd.factor_position(table, "x") == 2


def test_index_is_row_major_with_the_last_factor_fastest(table):
    np.testing.assert_array_equal(vd.index_of(table, GRID), np.arange(24))
    assert vd.index_of(table, np.array([1, 2, 3])) == 12 + 8 + 3


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_factors_at_inverts_index_of(table, wrap):
    rows = wrap(lambda index: vd.factors_at(table, index))(jnp.arange(24))
    np.testing.assert_array_equal(rows, GRID)
    assert rows.dtype == jnp.int32
    np.testing.assert_array_equal(wrap(lambda rows: vd.index_of(table, rows))(rows), np.arange(24))
    np.testing.assert_array_equal(vd.factors_at(table, 23), [1, 2, 3])


def test_images_equal_a_loop_and_jit_with_the_data_as_argument(table):
    loop = jnp.stack([table.image(row) for row in GRID])
    chex.assert_trees_all_equal(vd.images(table, GRID), loop)
    chex.assert_trees_all_equal(jax.jit(vd.images)(table, GRID), loop)


@pytest.mark.parametrize("seed", [0, 1])
def test_sampling_is_uniform_over_the_grid(table, seed):
    rows = vd.sample_factors(jax.random.key(seed), table, 24_000)
    assert rows.shape == (24_000, 3)
    assert rows.dtype == jnp.int32
    counts = np.bincount(np.asarray(vd.index_of(table, rows)), minlength=24)
    # Each count is binomial with mean 1000 and standard deviation 31.
    assert np.abs(counts - 1000).max() < 160


def test_sample_images_draws_the_images_of_sample_factors(table):
    key = jax.random.key(3)
    expected = vd.images(table, vd.sample_factors(key, table, 5))
    chex.assert_trees_all_equal(vd.sample_images(key, table, 5), expected)


def test_sampling_is_the_same_inside_scan(table):
    keys = jax.random.split(jax.random.key(0), 3)
    scanned = jax.lax.scan(lambda _, key: (None, vd.sample_images(key, table, 4)), None, keys)[1]
    chex.assert_trees_all_close(
        scanned, jnp.stack([vd.sample_images(key, table, 4) for key in keys])
    )


def test_do_factor_sets_one_factor_and_nothing_else(table):
    done = vd.do_factor(GRID, 2, 1)
    np.testing.assert_array_equal(done[:, :2], GRID[:, :2])
    np.testing.assert_array_equal(done[:, 2], 1)
    np.testing.assert_array_equal(vd.do_factor(GRID, 2, GRID[:, 2]), GRID)


@pytest.mark.parametrize("name", ["shape", "turn", "x"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_minimal_pairs_differ_in_one_factor_and_in_the_image(table, name, wrap):
    source, target = wrap(lambda key: vd.minimal_levels(key, table, name, 500))(jax.random.key(0))
    changed = np.asarray(source != target)
    np.testing.assert_array_equal(changed.sum(axis=1), 1)
    np.testing.assert_array_equal(changed[:, vd.factor_position(table, name)], True)
    vd.check_factors(table, source)
    vd.check_factors(table, target)
    difference = jnp.abs(vd.images(table, source) - vd.images(table, target))
    assert difference.max(axis=(1, 2, 3)).min() > 0.05


def test_minimal_pairs_reach_every_other_distinct_level(table):
    source, target = vd.minimal_levels(jax.random.key(1), table, "x", 2000)
    steps = set(zip(np.asarray(source)[:, 2], np.asarray(target)[:, 2], strict=True))
    assert steps == {(a, b) for a in range(4) for b in range(4) if a != b}


def test_values_are_not_checked_under_jit(table):
    rows = jax.jit(lambda rows: vd.do_factor(rows, 0, 7))(GRID)
    jax.jit(lambda rows: vd.images(table, rows))(rows)
    with pytest.raises(ValueError, match="'shape' has levels 0 to 1, got 7"):
        vd.images(table, rows)


def single_level():
    return Table(jnp.ones(1), (vd.Factor("only", (0.0,), 1, cyclic=False),), (1, 1, 1))


def too_many_images():
    big = tuple(vd.Factor(name, (0.0,) * 2048, 2048, cyclic=False) for name in "abc")
    return Table(jnp.ones(3), big)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: vd.factor_position(d, "shpe"), "no factor 'shpe': did you mean 'shape'"),
        (lambda d: vd.minimal_levels(jax.random.key(0), d, "turns", 3), "did you mean 'turn'"),
        (lambda d: vd.images(d, np.array([[0, 3, 0]])), "'turn' has levels 0 to 2, got 3"),
        (lambda d: vd.index_of(d, np.array([0, 0, -1])), "'x' has levels 0 to 3, got -1"),
        (
            lambda d: vd.check_factors(d, np.zeros((2, 4), int)),
            r"last axis of 3 .*got shape \(2, 4\)",
        ),
        (lambda d: vd.check_factors(d, np.int32(0)), r"got shape \(\)"),
        (lambda d: vd.check_factors(d, np.zeros(3)), "integer levels, got float"),
        (lambda d: jax.jit(lambda f: vd.images(d, f))(jnp.zeros((2, 3))), "integer levels, got"),
        (lambda d: vd.factors_at(d, 24), "image index 24 is outside 0 to 23"),
        (lambda d: vd.factors_at(d, np.array([0, -1])), "image index -1 is outside 0 to 23"),
        (
            lambda _: vd.minimal_levels(jax.random.key(0), single_level(), "only", 1),
            "'only' has one distinct level",
        ),
        (lambda _: vd.factors_at(too_many_images(), 0), "8589934592 images overflow"),
    ],
)
def test_bad_inputs_are_named(table, call, message):
    with pytest.raises(ValueError, match=message):
        call(table)
