"""Modularity: how much more of a graph's weight stays within modules than its null expects.

Each null model is a *modularity matrix* B over all nodes, so scaled that

    Q = sum_ij B_ij [c_i = c_j]

and scoring, optimising and testing a partition are written once for all of them:

    newman_matrix      undirected     (A_ij - s_i s_j / 2m) / 2m                physics/0602124
    bipartite_matrix   two sets       (A_ij - r_i c_j / W) / W                  arXiv:0707.1616
    layered_matrix     feed-forward   (A_ij - s_i^out s_j^in / W_l) / W, by pair l of layers

Newman's null expects edges between all layers, which a feed-forward network cannot have: a
dense one, without any structure, scores 1/6 when its four layers are cut in two by depth. Under the
layered null it scores 0. An optimised Q is positive on noise too, and so is that of a partition
read off the weights themselves: ``modularity_test`` makes the partition anew on every null graph.

Labels are integers, one per node; a negative label is a module of that node alone. Q of a graph
without edges is NaN. For graphs within one set of nodes networkx has more:
``nx.community.modularity`` for directed ones, ``nx.normalized_cut_size`` (``networkx_export``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.circuits.layers import (
    Graph,
    join_blocks,
    layer_matrices,
    layer_sizes,
    weight_matrix,
)
from vaecausal_jax.circuits.null_graphs import shuffle_weights
from vaecausal_jax.circuits.partitions import NO_GAIN, best_partition, partition_quality


class ModularityTest(NamedTuple):
    """A modularity beside that of random graphs.

    Attributes:
        value: Q of the graph.
        excess: Q minus the mean of the null graphs'.
        null_mean: Mean Q of the null graphs, each partitioned anew.
        null_sd: Standard deviation of Q over the null graphs.
        z: excess / null_sd; NaN where all null graphs score alike.
        p_value: Share of graphs with at least this Q, the graph itself among them.
        labels: The graph's partition.
        nulls: Q of each null graph.
    """

    value: float
    excess: float
    null_mean: float
    null_sd: float
    z: float
    p_value: float
    labels: np.ndarray
    nulls: np.ndarray


def newman_matrix(adjacency: ArrayLike, *, resolution: float = 1.0) -> np.ndarray:
    """Modularity matrix of an undirected graph (Newman 2006).

    Args:
        adjacency: (nodes, nodes), symmetric, not negative; the diagonal holds a loop's weight
            twice.
        resolution: Gamma, multiplies the null; above 1 for smaller modules (Fortunato & Barthelemy
            2007, physics/0607100).

    Raises:
        ValueError: An adjacency that is not symmetric, negative or not finite.
    """
    adjacency = _not_negative(_symmetric(adjacency))
    return _minus_null(adjacency, adjacency.sum(), resolution)


def bipartite_matrix(weights: ArrayLike, *, resolution: float = 1.0) -> np.ndarray:
    """Modularity matrix of a graph between two sets (Barber 2007), such as units and factors.

    Args:
        weights: (rows, columns), not negative.
        resolution: See ``newman_matrix``.

    Returns:
        (rows + columns, rows + columns): row nodes first.
    """
    return layered_matrix([weight_matrix(weights, "weights")], resolution=resolution)


def layered_matrix(layers: Graph, *, resolution: float = 1.0) -> np.ndarray:
    """Modularity matrix of a feed-forward graph, each pair of layers against its own null.

    Args:
        layers: For each pair of adjacent layers, its weights (sources, targets), not negative; one
            matrix is one pair.
        resolution: See ``newman_matrix``.

    Returns:
        (nodes, nodes), over the nodes of all layers in order.
    """
    layers = [_not_negative(matrix) for matrix in layer_matrices(layers)]
    total = sum(matrix.sum() for matrix in layers)
    blocks = {(i, i + 1): _minus_null(a, total, resolution) for i, a in enumerate(layers)}
    return join_blocks(blocks, layer_sizes(layers))


def newman_modularity(adjacency: ArrayLike, labels: ArrayLike, *, resolution: float = 1.0) -> float:
    """Q of a partition of an undirected graph; see ``newman_matrix``."""
    return partition_quality(newman_matrix(adjacency, resolution=resolution), labels)


def bipartite_modularity(
    weights: ArrayLike,
    row_labels: ArrayLike,
    column_labels: ArrayLike,
    *,
    resolution: float = 1.0,
) -> float:
    """Q_B of a partition of rows and columns into common modules; see ``bipartite_matrix``."""
    matrix = bipartite_matrix(weights, resolution=resolution)
    return partition_quality(matrix, _joined_labels([row_labels, column_labels]))


def layered_modularity(
    layers: Graph, labels: ArrayLike | Sequence[ArrayLike], *, resolution: float = 1.0
) -> float:
    """Q_L of a partition of a feed-forward graph; see ``layered_matrix``.

    Args:
        layers: Weights of each pair of adjacent layers.
        labels: Module of each node: one array per layer, or one for all nodes in order.
        resolution: See ``newman_matrix``.
    """
    return partition_quality(layered_matrix(layers, resolution=resolution), _joined_labels(labels))


def modularity_test(
    key: Array,
    graph: Graph,
    *,
    matrix: Callable[[Any], np.ndarray] = layered_matrix,
    partition: ArrayLike | Callable[[Any], ArrayLike] | None = None,
    shuffle: Callable[[Array, Any, int], Any] = shuffle_weights,
    num_null: int = 100,
) -> ModularityTest:
    """Q, what random graphs score, and how unusual Q is among them.

    Args:
        key: Typed PRNG key.
        graph: A matrix between two sets of nodes, or one per pair of adjacent layers; or whatever
            else ``matrix`` and ``shuffle`` take.
        matrix: Graph to modularity matrix. Options go in by ``functools.partial``.
        partition: Graph to labels, done anew on every null graph, such as ``factor_partition``; or
            fixed labels that were not read off these weights. ``best_partition`` of the modularity
            matrix if None.
        shuffle: ``(key, graph, num_graphs)`` to null graphs: ``shuffle_weights``, ``trade_edges``,
            or your own for other graphs.
        num_null: Null graphs.

    Returns:
        NaN in all numbers for a graph without edges.

    Raises:
        ValueError: Fewer than two null graphs, or what ``matrix`` and ``shuffle`` refuse.
    """
    if num_null < 2:
        raise ValueError(f"num_null must be at least 2, got {num_null}.")

    def score(graph):
        weights = matrix(graph)
        if np.isnan(weights).any():
            return np.nan, np.full(len(weights), -1)
        if partition is None:
            labels = best_partition(weights)
        else:
            labels = _joined_labels(partition(graph) if callable(partition) else partition)
        return partition_quality(weights, labels), labels

    value, labels = score(graph)
    if np.isnan(value):
        nan = float("nan")
        return ModularityTest(nan, nan, nan, nan, nan, nan, labels, np.full(num_null, nan))
    random = shuffle(key, graph, num_null)
    nulls = np.array([score(_graph_at(random, i))[0] for i in range(num_null)])
    mean, sd = nulls.mean(), nulls.std(ddof=1)
    sd = 0.0 if sd <= NO_GAIN else sd
    return ModularityTest(
        value=value,
        excess=float(value - mean),
        null_mean=float(mean),
        null_sd=float(sd),
        z=float((value - mean) / sd) if sd > 0 else float("nan"),
        p_value=float((1 + np.sum(nulls >= value - NO_GAIN)) / (1 + num_null)),
        labels=labels,
        nulls=nulls,
    )


def _minus_null(weights: np.ndarray, total: float, resolution: float) -> np.ndarray:
    """(A - gamma s^out s^in / W) / total, with W the sum of these weights."""
    if total == 0:
        return np.full_like(weights, np.nan)
    own = weights.sum()
    null = np.outer(weights.sum(1), weights.sum(0)) / own if own > 0 else 0.0
    return (weights - resolution * null) / total


def _symmetric(values: Any) -> np.ndarray:
    """Values as the float64 adjacency of an undirected graph, exactly symmetric."""
    matrix = weight_matrix(values, "adjacency")
    size = np.abs(matrix).max(initial=0.0)
    if matrix.shape[0] != matrix.shape[1] or np.abs(matrix - matrix.T).max(initial=0) > 1e-6 * size:
        raise ValueError(
            f"adjacency {matrix.shape} is not symmetric, as an undirected graph's is. For a matrix "
            "between two sets of nodes use the bipartite form."
        )
    return (matrix + matrix.T) / 2


def _not_negative(matrix: np.ndarray) -> np.ndarray:
    if (matrix < 0).any():
        raise ValueError(f"weights must not be negative, got {matrix.min()}: take their size.")
    return matrix


def _joined_labels(labels: Any) -> np.ndarray:
    if isinstance(labels, list | tuple) and any(np.ndim(part) == 1 for part in labels):
        return np.concatenate([np.asarray(part) for part in labels])
    return np.asarray(labels)


def _graph_at(graphs: Any, index: int) -> Any:
    return [a[index] for a in graphs] if isinstance(graphs, list | tuple) else graphs[index]
