"""Modularity: how much more of a graph's weight stays within modules than its null expects.

Each null model is a *modularity matrix* B over all nodes, so scaled that

    Q = sum_ij B_ij [c_i = c_j]

and scoring, optimising and testing a partition are written once for all of them:

    newman_matrix      undirected     (A_ij - s_i s_j / 2m) / 2m                physics/0602124
    directed_matrix    directed       (A_ij - s_i^out s_j^in / W) / W           arXiv:0709.4500
    bipartite_matrix   two sets       (A_ij - r_i c_j / W) / W                  arXiv:0707.1616
    layered_matrix     feed-forward   (A_ij - s_i^out s_j^in / W_l) / W, by pair l of layers
    signed_matrix      any of these, positive and negative weights apart        arXiv:0812.3030

The ordinary nulls expect edges between all layers, which a feed-forward network cannot have: a
dense one, without any structure, scores 1/6 when its four layers are cut in two by depth. Under the
layered null it scores 0. An optimised Q is positive on noise too, and so is that of a partition
read off the weights themselves: ``modularity_test`` makes the partition anew on every null graph.

Labels are integers, one a node; a negative label is a module of that node alone. Q of a graph
without edges is NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.circuits.null_graphs import (
    Graph,
    is_layered,
    shuffle_weights,
    symmetric_matrix,
    weight_matrix,
)
from vaecausal_jax.circuits.partitions import (
    NO_GAIN,
    best_partition,
    checked_labels,
    partition_quality,
)


class ModularityTest(NamedTuple):
    """A modularity beside that of random graphs.

    Attributes:
        value: Q of the graph.
        excess: Q minus the mean of the null graphs'.
        null_mean: Mean Q of the null graphs, each with a partition of its own.
        null_sd: Standard deviation of it.
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
    return directed_matrix(symmetric_matrix(adjacency), resolution=resolution)


def directed_matrix(adjacency: ArrayLike, *, resolution: float = 1.0) -> np.ndarray:
    """Modularity matrix of a directed graph (Leicht & Newman 2008): rows are sources."""
    adjacency = _not_negative(weight_matrix(adjacency, "adjacency"))
    if adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(
            f"adjacency has shape {adjacency.shape}, expected (nodes, nodes). For edges between "
            "two sets of nodes use bipartite_matrix."
        )
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
    return _joined([_minus_null(matrix, total, resolution) for matrix in layers])


def signed_matrix(
    graph: Graph, *, of: Callable[..., np.ndarray] = newman_matrix, resolution: float = 1.0
) -> np.ndarray:
    """Modularity matrix of a graph with negative weights (Gomez, Jensen & Arenas 2009).

    Q = (W+ Q+ - W- Q-) / (W+ + W-), each sign against its own null: modules hold positive edges and
    are held apart by negative ones.

    Args:
        graph: Whatever ``of`` takes, of any sign.
        of: ``newman_matrix``, ``directed_matrix``, ``bipartite_matrix`` or ``layered_matrix``.
        resolution: See ``newman_matrix``.
    """
    layered = is_layered(graph)
    matrices = layer_matrices(graph)
    parts = []
    for sign in (1.0, -1.0):
        part = [np.maximum(sign * matrix, 0.0) for matrix in matrices]
        weight = sum(matrix.sum() for matrix in part)
        parts.append((weight, of(part if layered else part[0], resolution=resolution)))
    (positive, above), (negative, below) = parts
    total = positive + negative
    if total == 0:
        return above
    # One sign may have no edges: its matrix is NaN, its weight zero.
    signed = np.zeros_like(above)
    if positive > 0:
        signed += positive / total * above
    if negative > 0:
        signed -= negative / total * below
    return signed


def newman_modularity(adjacency: ArrayLike, labels: ArrayLike, *, resolution: float = 1.0) -> float:
    """Q of a partition of an undirected graph; see ``newman_matrix``."""
    return partition_quality(newman_matrix(adjacency, resolution=resolution), labels)


def directed_modularity(
    adjacency: ArrayLike, labels: ArrayLike, *, resolution: float = 1.0
) -> float:
    """Q of a partition of a directed graph; see ``directed_matrix``."""
    return partition_quality(directed_matrix(adjacency, resolution=resolution), labels)


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
        labels: Module of each node: one array a layer, or one for all nodes in order.
        resolution: See ``newman_matrix``.
    """
    return partition_quality(layered_matrix(layers, resolution=resolution), _joined_labels(labels))


def signed_modularity(
    graph: Graph,
    labels: ArrayLike | Sequence[ArrayLike],
    *,
    of: Callable[..., np.ndarray] = newman_matrix,
    resolution: float = 1.0,
) -> float:
    """Q of a partition of a graph with negative weights; see ``signed_matrix``."""
    matrix = signed_matrix(graph, of=of, resolution=resolution)
    return partition_quality(matrix, _joined_labels(labels))


def normalised_cut(adjacency: ArrayLike, labels: ArrayLike) -> float:
    """Sum over modules of cut(c) / vol(c): weight that leaves it over all weight at its nodes.

    0 for modules without edges between them; a module without any edge counts for nothing. Weights
    are taken as undirected, A + A'. NaN for a graph without edges. Filan et al. 2021
    (arXiv:2103.03386).

    Args:
        adjacency: (nodes, nodes), not negative; ``join_layers`` makes one of layers.
        labels: Integer module of each node; negative for a node alone.
    """
    adjacency = _not_negative(weight_matrix(adjacency, "adjacency"))
    if adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(
            f"adjacency has shape {adjacency.shape}, expected (nodes, nodes); see join_layers."
        )
    labels = checked_labels(labels, len(adjacency))
    undirected = adjacency + adjacency.T
    if undirected.sum() == 0:
        return float("nan")
    member = np.eye(labels.max(initial=0) + 1)[labels]
    volume = member.T @ undirected.sum(1)
    within = np.einsum("ic,ij,jc->c", member, undirected, member, optimize=True)
    some = volume > 0
    return float(np.sum((volume - within)[some] / volume[some]))


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
        graph: A matrix between two sets of nodes, or one a pair of adjacent layers; or whatever
            else ``matrix`` and ``shuffle`` take.
        matrix: Graph to modularity matrix. Options go in by ``functools.partial``.
        partition: Graph to labels, done anew on every null graph, such as ``factor_partition``; or
            fixed labels that were not read off these weights. ``best_partition`` of the modularity
            matrix if None.
        shuffle: ``(key, graph, num_graphs)`` to null graphs: ``shuffle_weights``, ``swap_edges``,
            or for ``newman_matrix`` their symmetric forms.
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


def layer_matrices(graph: Graph) -> list[np.ndarray]:
    """The weights of each pair of adjacent layers, checked; one matrix is one pair.

    Raises:
        ValueError: No layers, a weight that is not finite, or pairs that do not fit together.
    """
    matrices = [
        weight_matrix(matrix, f"layer pair {pair}")
        for pair, matrix in enumerate(graph if is_layered(graph) else [graph])
    ]
    if not matrices:
        raise ValueError("layers is empty, expected at least one matrix (sources, targets).")
    for pair, (before, after) in enumerate(zip(matrices, matrices[1:], strict=False)):
        if before.shape[1] != after.shape[0]:
            raise ValueError(
                f"layer pair {pair} ends in {before.shape[1]} nodes, but pair {pair + 1} starts "
                f"from {after.shape[0]}."
            )
    return matrices


def join_layers(layers: Graph) -> np.ndarray:
    """The matrices of adjacent layers as one adjacency of a directed graph, (nodes, nodes)."""
    return _joined(layer_matrices(layers))


def _joined(matrices: list[np.ndarray]) -> np.ndarray:
    ends = np.cumsum([0, matrices[0].shape[0], *(matrix.shape[1] for matrix in matrices)])
    joined = np.zeros((ends[-1], ends[-1]))
    for matrix, first, middle, last in zip(matrices, ends, ends[1:], ends[2:], strict=False):
        joined[first:middle, middle:last] = matrix
    return joined


def _minus_null(weights: np.ndarray, total: float, resolution: float) -> np.ndarray:
    """(A - gamma s^out s^in / W) / total, with W the sum of these weights."""
    if total == 0:
        return np.full_like(weights, np.nan)
    own = weights.sum()
    null = np.outer(weights.sum(1), weights.sum(0)) / own if own > 0 else 0.0
    return (weights - resolution * null) / total


def _not_negative(matrix: np.ndarray) -> np.ndarray:
    if (matrix < 0).any():
        raise ValueError(
            f"weights must not be negative, got {matrix.min()}: take their size, or use "
            "signed_matrix."
        )
    return matrix


def _joined_labels(labels: Any) -> np.ndarray:
    if isinstance(labels, list | tuple) and any(np.ndim(part) == 1 for part in labels):
        return np.concatenate([np.asarray(part) for part in labels])
    return np.asarray(labels)


def _graph_at(graphs: Any, index: int) -> Any:
    return [a[index] for a in graphs] if isinstance(graphs, list | tuple) else graphs[index]
