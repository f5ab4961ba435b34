"""Modularity against closed forms and networkx, its null graphs against what they must keep."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax.circuits import modularity as vm
from vaecausal_jax.circuits import partitions as vp
from vaecausal_jax.circuits.layers import join_layers
from vaecausal_jax.circuits.null_graphs import shuffle_weights, trade_edges

KEY = jax.random.key(0)


def blocks(num, size, leak):
    """Equal modules, within-weight 1, every other edge the leak."""
    return np.kron(np.eye(num), np.ones((size, size))) * (1 - leak) + leak


def random_symmetric(rng, num):
    weights = rng.random((num, num)) * (rng.random((num, num)) < 0.4)
    return np.triu(weights, 1) + np.triu(weights, 1).T


# Closed forms


@pytest.mark.parametrize("num", [2, 3, 5])
@pytest.mark.parametrize("leak", [0.0, 0.15, 1.0])
def test_equal_modules_score_one_minus_what_leaves_them_and_one_over_their_number(num, leak):
    outside = (num - 1) * leak / (1 + (num - 1) * leak)
    labels = np.repeat(np.arange(num), 4)
    weights = blocks(num, 4, leak)
    expected = 1 - outside - 1 / num
    assert vm.newman_modularity(weights, labels) == pytest.approx(expected, abs=1e-12)
    assert vm.bipartite_modularity(weights, labels, labels) == pytest.approx(expected, abs=1e-12)


def test_unequal_strengths_have_the_published_modularity():
    strength = np.array([2, 1.5, 1, 0.5])
    eps, share = 0.15, strength / strength.sum()
    weights = strength[:, None] * (np.eye(4) * (1 - eps) + eps)
    s = 1 + 3 * eps
    expected = 1 / s - np.sum(share * (share + eps * (1 - share))) / s
    found = vm.bipartite_modularity(weights, np.arange(4), np.arange(4))
    assert found == pytest.approx(expected, abs=1e-12)
    assert found == pytest.approx(0.41034, abs=5e-6)
    # Units that share a factor's weight in any proportion are the same modules.
    split = np.concatenate([0.3 * weights, 0.7 * weights])
    twice = np.tile(np.arange(4), 2)
    assert vm.bipartite_modularity(split, twice, np.arange(4)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [1, 3, 6])
def test_a_depth_split_of_a_dense_network_scores_a_sixth_under_the_ordinary_null_only(width):
    layers = [np.ones((width, width))] * 3
    labels = np.repeat([0, 0, 1, 1], width)
    joined = join_layers(layers)
    ordinary = vm.newman_modularity(joined + joined.T, labels)
    assert ordinary == pytest.approx(1 / 6, abs=1e-12)
    assert vm.layered_modularity(layers, labels) == pytest.approx(0, abs=1e-12)
    # The ordinary null finds such a split by itself; the layered one finds nothing.
    found = vp.best_partition(vm.newman_matrix(joined + joined.T))
    assert vm.newman_modularity(joined + joined.T, found) >= 1 / 6 - 1e-12
    assert vm.layered_modularity(layers, vp.best_partition(vm.layered_matrix(layers))) == (
        pytest.approx(0, abs=1e-12)
    )


def test_layered_modularity_takes_labels_by_layer_and_layers_of_any_width():
    rng = np.random.default_rng(0)
    sizes = (3, 5, 2, 4)
    layers = [rng.random(shape) for shape in itertools.pairwise(sizes)]
    labels = [rng.integers(3, size=size) for size in sizes]
    total = sum(matrix.sum() for matrix in layers)
    expected = 0.0
    for matrix, above, below in zip(layers, labels, labels[1:], strict=False):
        for i, j in np.ndindex(matrix.shape):
            null = matrix[i].sum() * matrix[:, j].sum() / matrix.sum()
            expected += (matrix[i, j] - null) * (above[i] == below[j]) / total
    assert vm.layered_modularity(layers, labels) == pytest.approx(expected, abs=1e-12)
    assert vm.layered_modularity(layers, np.concatenate(labels)) == pytest.approx(expected)
    one = vm.bipartite_modularity(layers[0], labels[0], labels[1])
    assert vm.layered_modularity(layers[:1], labels[:2]) == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize(("size", "published"), [(20, 0.098), (8, 0.144)])
def test_two_way_spectral_splits_of_noise_have_the_published_modularity(size, published):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        matrix = vm.bipartite_matrix(np.abs(rng.normal(size=(size, size))))
        found.append(vp.partition_quality(matrix, vp.spectral_bisection(matrix)))
    assert np.mean(found) == pytest.approx(published, abs=0.004)


# Oracles


@pytest.mark.parametrize("resolution", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_undirected_modularity_equals_networkx(seed, resolution):
    nx = pytest.importorskip("networkx")
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=12)
    modules = [set(np.flatnonzero(labels == k).tolist()) for k in range(4)]
    modules = [module for module in modules if module]
    weights = random_symmetric(rng, 12)
    expected = nx.algorithms.community.modularity(
        nx.from_numpy_array(weights), modules, resolution=resolution
    )
    found = vm.newman_modularity(weights, labels, resolution=resolution)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_loop_counts_twice_on_the_diagonal_as_in_networkx():
    nx = pytest.importorskip("networkx")
    graph = nx.Graph([(0, 1, {"weight": 2.0}), (1, 2, {"weight": 1.0}), (2, 2, {"weight": 3.0})])
    adjacency = nx.to_numpy_array(graph)
    adjacency[2, 2] *= 2
    expected = nx.algorithms.community.modularity(graph, [{0, 1}, {2}])
    assert vm.newman_modularity(adjacency, np.array([0, 0, 1])) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimised_partition_of_a_small_graph_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    weights = random_symmetric(rng, 8)
    matrix = vm.newman_matrix(weights)
    best = max(
        vp.partition_quality(matrix, np.array(labels))
        for labels in itertools.product(range(3), repeat=8)
    )
    found = vp.partition_quality(matrix, vp.best_partition(matrix, max_modules=3))
    assert found == pytest.approx(best, abs=1e-12)


def test_the_optimised_partition_is_no_worse_than_that_of_networkx():
    nx = pytest.importorskip("networkx")
    graph = nx.karate_club_graph()
    matrix = vm.newman_matrix(nx.to_numpy_array(graph, weight=None))
    greedy = nx.algorithms.community.greedy_modularity_communities(graph)
    theirs = nx.algorithms.community.modularity(graph, greedy, weight=None)
    assert vp.partition_quality(matrix, vp.best_partition(matrix)) >= max(theirs, 0.4197)


# Partitions


@pytest.mark.parametrize(("num", "size"), [(2, 3), (4, 3), (7, 3), (6, 20)])
def test_planted_modules_are_found_whatever_the_order_of_the_units(num, size):
    rng = np.random.default_rng(num)
    weights, labels = blocks(num, size, 0.05), np.repeat(np.arange(num), size)
    rows, columns = rng.permutation(len(labels)), rng.permutation(len(labels))
    found = vp.best_partition(vm.bipartite_matrix(weights[rows][:, columns]))
    true = np.concatenate([labels[rows], labels[columns]])
    same = true[:, None] == true[None]
    np.testing.assert_array_equal(found[:, None] == found[None], same)


def test_a_large_graph_without_structure_stays_whole():
    matrix = vm.bipartite_matrix(np.ones((70, 60)))
    assert not vp.spectral_bisection(matrix).any()
    assert vp.partition_quality(matrix, vp.best_partition(matrix)) == pytest.approx(0, abs=1e-9)


def test_max_modules_bounds_the_modules_and_labels_follow_first_appearance():
    matrix = vm.newman_matrix(blocks(4, 3, 0.0))
    for most in (1, 2, 3, 4, 9):
        labels = vp.best_partition(matrix, max_modules=most)
        assert len(np.unique(labels)) == min(most, 4)
        assert labels[0] == 0
        assert list(dict.fromkeys(labels.tolist())) == list(range(len(np.unique(labels))))


def test_higher_resolution_finds_smaller_modules():
    # A ring of cliques: the resolution limit joins neighbours at gamma 1.
    num, size = 30, 3
    ring = blocks(num, size, 0.0)
    np.fill_diagonal(ring, 0)
    for k in range(num):
        i, j = k * size, ((k + 1) % num) * size + 1
        ring[i, j] = ring[j, i] = 1
    coarse, fine = (
        len(np.unique(vp.best_partition(vm.newman_matrix(ring, resolution=gamma))))
        for gamma in (1.0, 4.0)
    )
    assert coarse < num
    assert fine >= num


def test_units_belong_to_the_factor_they_affect_most_and_idle_ones_to_none():
    effects = np.array([[0.1, -3.0], [2.0, 1.0], [0.0, 0.0], [np.nan, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(vp.factor_partition(effects), [1, 0, -1, -1, 0, 0, 1])


def test_negative_labels_are_modules_of_one_node_each():
    weights = blocks(2, 2, 0.5)
    alone = vm.newman_modularity(weights, np.array([0, 0, -1, -1]))
    apart = vm.newman_modularity(weights, np.array([0, 0, 1, 2]))
    assert alone == pytest.approx(apart, abs=1e-15)


def test_one_module_scores_zero_and_a_graph_without_edges_nan():
    weights = random_symmetric(np.random.default_rng(0), 6)
    one = np.zeros(6, int)
    assert vm.newman_modularity(weights, one) == pytest.approx(0, abs=1e-15)
    assert vm.newman_modularity(weights, one, resolution=2.0) == pytest.approx(-1)
    empty = np.zeros((6, 6))
    assert np.isnan(vm.newman_modularity(empty, one))
    assert np.isnan(vm.bipartite_modularity(empty, one, one))
    # One idle layer pair of several is no matter.
    layers = [blocks(2, 3, 0.0), np.zeros((6, 2))]
    labels = [np.repeat([0, 1], 3)] * 2 + [np.zeros(2, int)]
    assert vm.layered_modularity(layers, labels) == pytest.approx(0.5)


def test_one_node_and_jax_arrays_are_graphs_too():
    assert vm.newman_modularity(jnp.ones((1, 1)), jnp.zeros(1, int)) == pytest.approx(0)
    np.testing.assert_array_equal(vp.best_partition(vm.newman_matrix(jnp.ones((1, 1)))), [0])
    two = jnp.arange(2)
    assert vm.bipartite_modularity(jnp.eye(2), two, two) == pytest.approx(0.5)


# Against the null


def test_planted_modules_stand_out_and_noise_does_not():
    rng = np.random.default_rng(0)
    noise = np.abs(rng.normal(size=(12, 4)))
    planted = 0.3 * noise + np.repeat(np.eye(4), 3, axis=0)
    real = vm.modularity_test(KEY, planted, num_null=40)
    none = vm.modularity_test(KEY, noise, num_null=40)
    assert real.z > 4
    assert real.p_value == pytest.approx(1 / 41)
    assert none.p_value > 0.05
    assert none.value > 0.1, "an optimised partition of noise has modularity, which is the point"
    assert real.excess == pytest.approx(real.value - real.nulls.mean())
    assert real.z == pytest.approx(real.excess / real.nulls.std(ddof=1))


def test_partitions_read_off_the_weights_are_read_off_the_null_graphs_too():
    effects = np.abs(np.random.default_rng(1).normal(size=(15, 5)))
    circular = vm.modularity_test(KEY, effects, partition=vp.factor_partition(effects), num_null=50)
    honest = vm.modularity_test(KEY, effects, partition=vp.factor_partition, num_null=50)
    assert circular.p_value == pytest.approx(1 / 51), "fixed labels make noise look modular"
    assert honest.p_value > 0.05
    assert honest.value == circular.value


def test_a_null_without_variance_has_no_z():
    # Every graph with these degrees is the complete one.
    result = vm.modularity_test(KEY, np.ones((3, 4)), shuffle=trade_edges, num_null=5)
    assert np.isnan(result.z)
    assert result.value == pytest.approx(0)
    assert result.p_value == 1.0


def test_a_graph_without_edges_has_no_test():
    result = vm.modularity_test(KEY, [np.zeros((3, 3)), np.zeros((3, 2))], num_null=5)
    assert np.isnan([result.value, result.z, result.p_value, result.excess]).all()


def test_every_null_model_can_be_tested():
    symmetric = (blocks(3, 4, 0.0) > 0) * 1.0
    np.fill_diagonal(symmetric, 0)

    def relabelled(key, adjacency, num_graphs):
        upper = shuffle_weights(key, adjacency[np.triu_indices(12, 1)][None], num_graphs)[:, 0]
        graphs = np.zeros((num_graphs, 12, 12))
        graphs[:, *np.triu_indices(12, 1)] = upper
        return graphs + graphs.swapaxes(1, 2)

    result = vm.modularity_test(
        KEY, symmetric, matrix=vm.newman_matrix, shuffle=relabelled, num_null=10
    )
    assert result.value == pytest.approx(2 / 3)
    assert result.p_value == pytest.approx(1 / 11)
    layers = [blocks(3, 3, 0.1), blocks(3, 3, 0.1)]
    for shuffle in (shuffle_weights, trade_edges):
        sparse = [matrix * (matrix > 0.5) for matrix in layers]
        result = vm.modularity_test(KEY, sparse, shuffle=shuffle, num_null=10)
        assert result.p_value == pytest.approx(1 / 11)
        assert len(result.labels) == 27


# Null graphs


@pytest.mark.parametrize("seed", range(3))
def test_trades_keep_the_signed_degrees_and_the_weights_of_each_source(seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(6, 9)) * (rng.random((6, 9)) < 0.4)
    graphs = trade_edges(jax.random.key(seed), weights, 7)
    assert graphs.shape == (7, 6, 9)
    for graph in graphs:
        for sign in (1, -1):
            for axis in (0, 1):
                np.testing.assert_array_equal(
                    (sign * graph > 0).sum(axis), (sign * weights > 0).sum(axis)
                )
        np.testing.assert_allclose(np.sort(graph, axis=1), np.sort(weights, axis=1))
    assert all(np.any(graph != weights) for graph in graphs)


def test_trades_reach_every_graph_of_the_same_degrees_equally_often():
    # One edge a node each way: the 6 permutations of 3.
    graphs = trade_edges(KEY, np.eye(3), 1200)
    _, counts = np.unique(graphs.reshape(1200, 9), axis=0, return_counts=True)
    assert len(counts) == 6
    # Chi-square of 5 degrees of freedom: 20.5 at p = 0.001.
    assert np.sum((counts - 200) ** 2 / 200) < 20.5


@pytest.mark.parametrize("second", [1.0, -1.0])
def test_trades_reach_every_crowded_graph_equally_often(second):
    start = np.array([[1, second, 0, 0], [0, 1, second, 0], [1, 0, 1, second]])
    # Every matrix of -1, 0 and 1 with the same positive and negative edges at every node.
    every = (np.arange(3**12)[:, None] // 3 ** np.arange(12) % 3 - 1).reshape(-1, 3, 4)
    same = np.ones(len(every), bool)
    for sign in (1, -1):
        for axis in (0, 1):
            degrees = (every == sign).sum(1 + axis)
            same &= np.all(degrees == (start == sign).sum(axis), axis=1)
    graphs = trade_edges(KEY, start, 3000)
    found, counts = np.unique(graphs.reshape(3000, 12), axis=0, return_counts=True)
    assert len(found) == same.sum()
    expected = 3000 / len(found)
    statistic = np.sum((counts - expected) ** 2 / expected)
    assert statistic < stats.chi2.isf(0.001, len(found) - 1)


def test_shuffles_keep_the_weights_and_the_layers_apart():
    rng = np.random.default_rng(0)
    layers = [rng.random((3, 4)), np.zeros((4, 2))]
    first, second = shuffle_weights(KEY, layers, 6)
    assert first.shape == (6, 3, 4)
    assert not second.any()
    np.testing.assert_allclose(
        np.sort(first.reshape(6, -1), axis=1), np.tile(np.sort(layers[0].ravel()), (6, 1))
    )


def test_null_graphs_follow_from_the_key():
    weights = np.random.default_rng(0).random((5, 5))
    same, again = (shuffle_weights(KEY, weights, 2) for _ in range(2))
    np.testing.assert_array_equal(same, again)
    assert np.any(shuffle_weights(jax.random.key(1), weights, 2) != same)


# Refusals

SQUARE = np.ones((3, 3))
LABELS = np.zeros(3, int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vm.newman_modularity(np.triu(SQUARE), LABELS), "not symmetric"),
        (lambda: vm.newman_modularity(np.ones((3, 2)), LABELS), "not symmetric"),
        (lambda: vm.newman_modularity(-SQUARE, LABELS), "must not be negative.*take their size"),
        (lambda: vm.newman_modularity(SQUARE * np.nan, LABELS), "9 weights that are not finite"),
        (lambda: vm.bipartite_modularity(np.ones(3), LABELS, LABELS), r"shape \(3,\)"),
        (lambda: vm.newman_modularity(SQUARE, LABELS[:2]), r"one integer per node: \(3,\)"),
        (lambda: vm.newman_modularity(SQUARE, LABELS * 1.0), "float64"),
        (lambda: vm.layered_matrix([]), "layers is empty"),
        (lambda: vm.layered_matrix([SQUARE, np.ones((2, 2))]), "pair 0 ends in 3 nodes"),
        (lambda: vp.factor_partition(np.ones(3)), r"expected \(units, factors\)"),
        (lambda: vp.best_partition(SQUARE * np.nan), "without edges has no modules"),
        (lambda: vp.best_partition(SQUARE, max_modules=0), "at least 1"),
        (lambda: vm.modularity_test(KEY, SQUARE, num_null=1), "at least 2"),
    ],
)
def test_bad_graphs_are_refused_with_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
