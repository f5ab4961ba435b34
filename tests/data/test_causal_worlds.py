"""Worlds whose factors cause one another: tables by hand, exact effects, counterfactuals, twins."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import causal, causal_worlds
from vaecausal_jax.data.causal_sprites import CAUSES

FACTORS = (
    vd.Factor("a", (0.0, 1.0), num_distinct=2, cyclic=False),
    vd.Factor("b", (0.0, 1.0, 2.0), num_distinct=3, cyclic=False),
    vd.Factor("c", (0.0, 1.0), num_distinct=2, cyclic=False),
)


@flax.struct.dataclass
class Levels:
    """An image is its row of levels."""

    factors: tuple[vd.Factor, ...] = flax.struct.field(pytree_node=False, default=FACTORS)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False, default=(1, 3, 1))

    def image(self, factors):
        return factors.astype(jnp.float32).reshape(self.image_shape)


# c -> b -> a: the order of causes is not that of the factors.
B_GIVEN_C = np.array([[0.5, 0.25, 0.25], [0.0, 0.25, 0.75]])
A_GIVEN_B = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
C = np.array([0.25, 0.75])


def chain():
    causes = {"a": ("b",), "b": ("c",)}
    return vd.causal_world(Levels(), causes, {"a": A_GIVEN_B, "b": B_GIVEN_C, "c": C})


def random_world(seed):
    """Any graph over three factors, with random tables."""
    random = np.random.default_rng(seed)
    order = random.permutation(3)
    names, sizes = ["a", "b", "c"], [2, 3, 2]
    causes, tables = {}, {}
    for place, factor in enumerate(order):
        parents = [p for p in order[:place] if random.random() < 0.6]
        causes[names[factor]] = tuple(names[p] for p in parents)
        shape = (*(sizes[p] for p in parents), sizes[factor])
        tables[names[factor]] = random.gamma(1.0, size=shape) + 0.02
    return vd.causal_world(Levels(), causes, tables)


def test_a_level_is_the_quantile_of_its_row():
    world = chain()
    noise = {
        "c": jnp.array([0.0, 0.24, 0.25, 0.99, 0.5, 0.5]),
        "b": jnp.array([0.49, 0.5, 0.0, 0.25, 0.24, 0.99]),
        "a": jnp.array([0.74, 0.75, 0.49, 0.24, 0.5, 0.25]),
    }
    # By hand from the tables above, columns a, b, c.
    expected = [[0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 2, 1], [1, 1, 1], [1, 2, 1]]
    np.testing.assert_array_equal(world.levels(noise), expected)


def test_the_graph_is_in_the_order_of_the_factors():
    np.testing.assert_array_equal(
        vd.true_graph(chain()), [[False, False, False], [True, False, False], [False, True, False]]
    )


def test_interventional_means_by_hand():
    # do(c = 1): b has probabilities 0, 1/4, 3/4; a is 1 with 1/4 * 1/2 + 3/4 * 3/4 = 11/16.
    means = vd.interventional_means(chain(), "c")[1]
    sd_b = np.sqrt(2 / 3)
    np.testing.assert_allclose(means, [(11 / 16 - 0.5) / 0.5, 0.75 / sd_b, 1.0], rtol=1e-12)
    # An effect has no effect on its cause: c keeps its mean of 3/4.
    np.testing.assert_allclose(vd.interventional_means(chain(), "a")[:, 2], 0.5, rtol=1e-12)


def test_shares_are_of_total_effects():
    shares = vd.effect_shares(chain())
    np.testing.assert_allclose(np.diag(shares), 1.0, rtol=1e-12)
    assert shares[2, 0] > 0.0  # c acts on a through b.
    assert shares[0, 1] == shares[0, 2] == shares[1, 2] == 0.0
    # By hand: P(a = 1 | do(c)) is 7/16 or 11/16, and P(a = 1) = 10/16.
    between = 0.25 * (7 / 16 - 10 / 16) ** 2 + 0.75 * (11 / 16 - 10 / 16) ** 2
    np.testing.assert_allclose(shares[2, 0], between / (10 / 16 * 6 / 16), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_draws_have_the_exact_distribution_observed_and_under_do(seed):
    world = random_world(seed)
    num = 20_000
    noise = causal.sample_noise(jax.random.key(seed), world.model, num)
    for do in ({}, {"b": 1}):
        rows = np.asarray(world.levels(noise, do))
        exact = causal_worlds.interventional_table(world, do)
        counts = np.zeros(exact.shape)
        np.add.at(counts, tuple(rows.T), 1.0)
        sd = np.sqrt(exact * (1 - exact) / num)
        assert (np.abs(counts / num - exact) <= 5.0 * sd + 1e-9).all()
        assert exact.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_factor_moves_its_descendants_alone(seed):
    world = random_world(seed)
    graph = vd.true_graph(world).astype(int)
    reached = sum(np.linalg.matrix_power(graph, power) for power in range(1, 3)) > 0
    for position, name in enumerate("abc"):
        before, after = vd.causal_levels(jax.random.key(seed), world, name, 500)
        moved = (np.asarray(before) != np.asarray(after)).any(axis=0)
        assert moved[position]
        others = np.arange(3) != position
        assert (moved[others] <= reached[position][others]).all()
        assert (vd.effect_shares(world)[position][others & ~reached[position]] < 1e-20).all()


def test_setting_a_factor_to_its_own_level_changes_nothing():
    world = random_world(1)
    noise = causal.sample_noise(jax.random.key(0), world.model, 100)
    rows = world.levels(noise)
    np.testing.assert_array_equal(world.levels(noise, {"b": rows[:, 1]}), rows)


def test_causal_pairs_hold_their_images_and_share_noise():
    pairs = vd.causal_pairs(jax.random.key(0), chain(), "c", 7, (2,))
    np.testing.assert_array_equal(pairs.x0, vd.images(chain(), pairs.factors0))
    np.testing.assert_array_equal(pairs.x1, vd.images(chain(), pairs.factors1))
    assert pairs.eps.shape == (7, 2)
    assert (pairs.factors0[:, 2] != pairs.factors1[:, 2]).all()


def test_the_twin_has_the_marginals_and_no_edge():
    world = random_world(2)
    twin = vd.without_causes(world)
    assert not vd.true_graph(twin).any()
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        ours, theirs = (
            causal_worlds.interventional_table(w, {}).sum(axis=others) for w in (world, twin)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(vd.effect_shares(twin), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("sizes", [(3, 6), (8, 8), (6, 8, 6), (2, 2)])
@pytest.mark.parametrize("width", [0.2, 0.5])
def test_smooth_tables_keep_everything_uniform(sizes, width):
    weights = (1.0, -0.5)[: len(sizes) - 1]
    table = vd.smooth_table(sizes, weights, width=width)
    np.testing.assert_allclose(table.sum(axis=-1), 1.0, rtol=1e-12)
    marginal = table.reshape(-1, sizes[-1]).mean(axis=0)
    np.testing.assert_allclose(marginal, 1 / sizes[-1], rtol=1e-9)
    # A cause pushes the way its weight points.
    mean = table @ np.arange(sizes[-1])
    assert (np.diff(mean, axis=0) > 0).all()
    if len(sizes) == 3:
        assert (np.diff(mean, axis=1) < 0).all()


def test_a_share_exceeds_one_where_a_confounder_cancels_the_effect():
    opposed = np.array([[0.05, 0.95], [0.95, 0.05]])
    steps = np.array([[[0, 1, 0], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]]]) + 0.01  # b = a + 1 - c
    world = vd.causal_world(
        Levels(), {"a": ("c",), "b": ("a", "c")}, {"a": 1 - opposed, "b": steps}
    )
    assert vd.effect_shares(world)[0, 1] > 1.0


def test_a_last_level_of_no_probability_is_never_drawn():
    row = np.random.default_rng(0).random(3) * np.array([1.0, 1.0, 0.0])
    world = vd.without_causes(vd.causal_world(Levels(), {}, {"b": row}))
    assert causal_worlds.interventional_table(world, {})[:, 2].max() == 0.0
    assert world.draw(jax.random.key(0), 1000)[:, 1].max() == 1


def test_another_size_keeps_the_distribution():
    world = vd.causal_sprites()
    small = vd.resized(world, 16)
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        vd.sample_factors(key, small, 100), vd.sample_factors(key, world, 100)
    )


def test_a_world_is_an_ordinary_data_set():
    world = vd.causal_sprites()
    draw = jax.jit(lambda world, key: vd.sample_images(key, world, 5))
    assert draw(world, jax.random.key(0)).shape == (5, 32, 32, 1)
    source, changed = vd.minimal_levels(jax.random.key(1), world, "scale", 50)
    differ = np.asarray(source != changed)
    assert differ[:, 1].all()
    assert not np.delete(differ, 1, axis=1).any()


def test_the_default_world_is_what_its_page_says():
    world, twin = vd.causal_sprites(), vd.independent_sprites()
    graph = {(a, b) for b, causes in CAUSES.items() for a in causes}
    names = vd.factor_names(world)
    edges = {(names[a], names[b]) for a, b in np.argwhere(vd.true_graph(world))}
    assert edges == graph
    assert not vd.true_graph(twin).any()
    shares = vd.effect_shares(world)
    direct = np.array([shares[names.index(a), names.index(b)] for a, b in edges])
    assert ((direct > 0.2) & (direct < 0.3)).all()
    joint = causal_worlds.interventional_table(world, {})
    for axis, factor in enumerate(world.factors):
        others = tuple(a for a in range(5) if a != axis)
        np.testing.assert_allclose(joint.sum(axis=others), 1 / factor.size, rtol=1e-9)
    assert joint.min() > 0.0
    rows = causal_worlds.all_rows(world)
    images = np.asarray(vd.images(world, rows)).reshape(len(rows), -1)
    assert len(np.unique(images, axis=0)) == len(rows) == 6912


@pytest.mark.parametrize(
    ("causes", "tables", "message"),
    [
        ({"d": ()}, {}, "no factor 'd'|factor 'd'"),
        ({"a": ("bb",)}, {}, "cause of 'a' 'bb'"),
        ({"a": "b"}, {}, "must be a tuple of different names, got 'b'"),
        ({"a": ("b", "b")}, {}, "must be a tuple of different names"),
        ({"a": ("b",)}, {}, r"'a' has causes \('b',\) and no table of shape \(3, 2\)"),
        ({"a": ("b",)}, {"a": np.ones((2, 3))}, r"shape \(2, 3\), expected \(3, 2\)"),
        ({}, {"a": np.array([1.0, -1.0])}, "not negative"),
        ({}, {"a": np.zeros(2)}, "no row of zeros"),
        (
            {"a": ("c",), "c": ("a",)},
            {"a": np.ones((2, 2)), "c": np.ones((2, 2))},
            "the graph has a cycle",
        ),
    ],
)
def test_bad_worlds_are_refused(causes, tables, message):
    with pytest.raises(ValueError, match=message):
        vd.causal_world(Levels(), causes, tables)


NOISE = {name: jnp.zeros(3) for name in "abc"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: vd.interventional_means(w, "d"), "'d'"),
        (lambda w: causal_worlds.interventional_table(w, {"a": 2}), "levels 0 to 1, got 2"),
        (lambda w: w.levels({"a": jnp.zeros(3)}), "the noise of 'c', 'b' is missing"),
        (lambda w: vd.causal_levels(jax.random.key(0), w, "x", 3), "'x'"),
        (lambda w: vd.smooth_table((3, 4), (0.0,), width=0.1), "one weight per cause"),
        (lambda w: vd.smooth_table((3, 4), (1.0,), width=0.0), "width must be positive"),
        (lambda w: vd.smooth_table((2, 5), (1.0,), width=0.01), "gives a uniform effect"),
        (lambda w: w.levels(NOISE, {"b": 3}), "'b' has levels 0 to 2, got 3"),
        (lambda w: w.levels(NOISE, {"b": jnp.array([0, -1, 1])}), "levels 0 to 2, got -1"),
        (lambda w: w.levels(NOISE, {"b": 1.0}), "levels are integers, got float32 for 'b'"),
        (lambda w: w.levels(NOISE, {"d": 1}), "factor to set 'd'"),
        (lambda w: vd.shaded_sprites(8), "at least 16"),
    ],
)
def test_bad_questions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(chain())
