"""Motifs: small subgraphs that a circuit has more, or fewer, of than its degrees alone explain.

Counts by matrix algebra, A the 0/1 adjacency, sources by targets, of a graph without loops:

    fan-out, fan-in      two edges from, into one node             sum C(degree, 2)
    chain                i -> j -> k                               1' A A 1
    bi-fan               i, i' -> j, j'                            sum_{i<i'} C((A A')_ii', 2)
    diamond              i -> j, j' -> k                           sum_ik C((A A)_ik, 2)
    feed-forward loop    i -> j -> k and i -> k                    sum A * (A A)

Subgraphs count whether or not there are more edges between their nodes. A loop or diamond is
coherent if its two paths have the same product of signs. A VAE without skip connections cannot have
feed-forward loops between its units; the census says so, in words, instead of reporting zero.
Milo et al. 2002, "Network Motifs: Simple Building Blocks of Complex Networks".
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
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
from vaecausal_jax.circuits.null_graphs import trade_edges

Counts = dict[str, float]


class Motif(NamedTuple):
    """How often a motif occurs, and how often by chance.

    Attributes:
        count: In the graph; NaN where the graph has no place for one.
        null_mean: Mean over null graphs.
        null_sd: Standard deviation over null graphs.
        z: (count - null_mean) / null_sd; NaN where all null graphs have the same number.
        p_value: Two-sided, from the ranks of the count among the null graphs'; never 0.
        note: What a NaN means, in words.
    """

    count: float
    null_mean: float
    null_sd: float
    z: float
    p_value: float
    note: str


def fan_outs(adjacency: ArrayLike) -> float:
    """Pairs of edges that leave one node."""
    return _pairs(_edges(adjacency).sum(1))


def fan_ins(adjacency: ArrayLike) -> float:
    """Pairs of edges that enter one node."""
    return _pairs(_edges(adjacency).sum(0))


def bi_fans(adjacency: ArrayLike) -> float:
    """Pairs of sources with a pair of common targets; C(a, 2) C(b, 2) in a complete a x b graph."""
    edges = _edges(adjacency)
    common = edges @ edges.T
    return (_pairs(common) - _pairs(np.diag(common))) / 2


def chains(first: ArrayLike, second: ArrayLike | None = None) -> float:
    """Paths of two edges, the first of ``first`` and the second of ``second``.

    Args:
        first: (sources, middle); or, alone, the adjacency of one set of nodes.
        second: (middle, targets).
    """
    positive, negative = _signed_paths(first, second)
    return float((positive + negative).sum(dtype=float))


def diamonds(first: ArrayLike, second: ArrayLike | None = None) -> float:
    """Pairs of paths of two edges between the same ends: C(n, 2) through n middle nodes.

    Args:
        first: See ``chains``.
        second: See ``chains``.
    """
    positive, negative = _signed_paths(first, second)
    return _pairs(positive + negative)


def signed_diamonds(first: ArrayLike, second: ArrayLike | None = None) -> tuple[float, float]:
    """Diamonds whose two paths have the same sign (coherent), and opposite ones (incoherent).

    Args:
        first: See ``chains``; the signs of the weights count.
        second: See ``chains``.
    """
    positive, negative = _signed_paths(first, second)
    incoherent = float(np.sum(positive * negative, dtype=float))
    return _pairs(positive) + _pairs(negative), incoherent


def signed_feed_forward_loops(adjacency: ArrayLike) -> tuple[float, float]:
    """Feed-forward loops whose path has the sign of the edge (coherent), and the opposite one.

    Args:
        adjacency: (nodes, nodes); the signs of the weights count.
    """
    positive, negative = _signed_paths(adjacency, None)
    above, below = _signs(adjacency)
    coherent = np.sum(above * positive + below * negative, dtype=float)
    incoherent = np.sum(above * negative + below * positive, dtype=float)
    return float(coherent), float(incoherent)


def motif_counts(adjacency: ArrayLike) -> Counts:
    """All counts of one directed graph, by name.

    Args:
        adjacency: (nodes, nodes) weights; 0 is no edge, negative weights inhibit.

    Raises:
        ValueError: Not square, not finite, or with an edge from a node to itself.
    """
    matrix = weight_matrix(adjacency, "adjacency")
    if matrix.shape[0] != matrix.shape[1] or np.any(np.diag(matrix)):
        raise ValueError(
            f"adjacency {matrix.shape} must be square with a zero diagonal; for matrices between "
            "layers use motif_census, or the counts one by one."
        )
    coherent, incoherent = signed_diamonds(matrix)
    agreeing, opposing = signed_feed_forward_loops(matrix)
    return {
        "fan_out": fan_outs(matrix),
        "fan_in": fan_ins(matrix),
        "chain": chains(matrix),
        "bi_fan": bi_fans(matrix),
        "diamond": coherent + incoherent,
        "coherent_diamond": coherent,
        "incoherent_diamond": incoherent,
        "feed_forward_loop": agreeing + opposing,
        "coherent_feed_forward_loop": agreeing,
        "incoherent_feed_forward_loop": opposing,
    }


def motif_census(
    key: Array,
    layers: Graph,
    *,
    skips: Mapping[tuple[int, int], ArrayLike] | None = None,
    shuffle: Callable[[Array, Any, int], Any] = trade_edges,
    num_null: int = 100,
) -> dict[str, Motif]:
    """Counts of a feed-forward graph's motifs, and how unusual they are for its degrees.

    Null graphs trade edges within each pair of layers, so that every node keeps its positive and
    negative edges into every other layer.

    Args:
        key: Typed PRNG key.
        layers: For each pair of adjacent layers, its weights (sources, targets); 0 is no edge. Of
            effects, pass those that survive a test: noise has edges everywhere.
        skips: Edges that skip layers: (from layer, to layer) to weights, layers counted from 0.
        shuffle: ``(key, graph, num_graphs)`` to null graphs of each pair of layers, such as
            ``trade_edges`` or ``shuffle_weights``.
        num_null: Null graphs.

    Returns:
        Name to motif, with the names of ``motif_counts``.

    Raises:
        ValueError: Weights that do not fit together or are not finite, a skip that skips nothing,
            or fewer than two null graphs.
    """
    if num_null < 2:
        raise ValueError(f"num_null must be at least 2, got {num_null}.")
    blocks, sizes = _blocks(layers, skips or {})
    places = list(blocks)

    def counts(matrices: Sequence[np.ndarray]) -> Counts:
        if skips:
            return motif_counts(join_blocks(dict(zip(places, matrices, strict=True)), sizes))
        return _layered_counts(matrices)

    count = counts(list(blocks.values()))
    random = shuffle(key, [blocks[place] for place in places], num_null)
    nulls = [counts([graphs[i] for graphs in random]) for i in range(num_null)]
    absent = _absent(len(sizes), bool(skips))
    return {
        name: _compare(count[name], np.array([null[name] for null in nulls]), absent.get(name, ""))
        for name in count
    }


def _layered_counts(layers: Sequence[np.ndarray]) -> Counts:
    """``motif_counts`` of a graph without skips, which meets itself in adjacent layers alone."""
    paths = list(itertools.pairwise(layers))
    coherent, incoherent = np.sum([signed_diamonds(*two) for two in paths] or [(0, 0)], axis=0)
    return {
        "fan_out": sum(map(fan_outs, layers)),
        "fan_in": sum(map(fan_ins, layers)),
        "chain": sum(chains(*two) for two in paths),
        "bi_fan": sum(map(bi_fans, layers)),
        "diamond": float(coherent + incoherent),
        "coherent_diamond": float(coherent),
        "incoherent_diamond": float(incoherent),
        "feed_forward_loop": 0.0,
        "coherent_feed_forward_loop": 0.0,
        "incoherent_feed_forward_loop": 0.0,
    }


def _compare(count: float, nulls: np.ndarray, absent: str) -> Motif:
    nan = float("nan")
    if absent:
        return Motif(nan, nan, nan, nan, nan, absent)
    mean, sd = float(nulls.mean()), float(nulls.std(ddof=1))
    ranks = 1 + np.sum(nulls >= count), 1 + np.sum(nulls <= count)
    p_value = min(1.0, 2 * min(ranks) / (1 + len(nulls)))
    if sd == 0:
        return Motif(count, mean, sd, nan, p_value, "All null graphs have the same number.")
    return Motif(count, mean, sd, (count - mean) / sd, p_value, "")


def _absent(num_layers: int, has_skips: bool) -> dict[str, str]:
    """Motifs that the graph has no place for, and why."""
    absent = {}
    if not has_skips:
        reason = (
            "No edge skips a layer, so a path of two edges has no direct edge beside it: there can "
            "be no feed-forward loop between units."
        )
        for kind in ("", "coherent_", "incoherent_"):
            absent[f"{kind}feed_forward_loop"] = reason
    if num_layers < 3:
        for name in ("chain", "diamond", "coherent_diamond", "incoherent_diamond"):
            absent[name] = "Two layers have no path of two edges."
    return absent


def _blocks(
    layers: Graph, skips: Mapping[tuple[int, int], ArrayLike]
) -> tuple[dict[tuple[int, int], np.ndarray], list[int]]:
    matrices = layer_matrices(layers)
    sizes = layer_sizes(matrices)
    blocks = {(pair, pair + 1): matrix for pair, matrix in enumerate(matrices)}
    for (start, end), weights in skips.items():
        if not 0 <= start < end - 1 < len(sizes) - 1:
            raise ValueError(
                f"skip {(start, end)} must lead from a layer to one at least two after it, within "
                f"0 .. {len(sizes) - 1}."
            )
        matrix = weight_matrix(weights, f"skip {(start, end)}")
        if matrix.shape != (sizes[start], sizes[end]):
            raise ValueError(
                f"skip {(start, end)} has shape {matrix.shape}, expected "
                f"{(sizes[start], sizes[end])}."
            )
        blocks[start, end] = matrix
    return blocks, sizes


def _signs(matrix: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative edges as 0/1; float32 counts up to 2^24 paths between two nodes."""
    matrix = weight_matrix(matrix)
    return (matrix > 0).astype(np.float32), (matrix < 0).astype(np.float32)


def _edges(matrix: ArrayLike) -> np.ndarray:
    above, below = _signs(matrix)
    return above + below


def _signed_paths(first: ArrayLike, second: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Paths of two edges with a positive and with a negative product, (sources, targets)."""
    above, below = _signs(first)
    after = (above, below) if second is None else _signs(second)
    if above.shape[1] != after[0].shape[0]:
        raise ValueError(
            f"first {above.shape} and second {after[0].shape} do not meet in one layer of nodes."
        )
    return above @ after[0] + below @ after[1], above @ after[1] + below @ after[0]


def _pairs(counts: np.ndarray) -> float:
    """Sum of C(count, 2)."""
    counts = counts.astype(float)
    return float(np.sum(counts * (counts - 1)) / 2)
