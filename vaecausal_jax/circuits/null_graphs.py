"""Random graphs that keep something of a given one: what structure is measured against.

Each matrix of a layered graph is randomised by itself; 0 is no edge. Shuffled weights keep the
weights and nothing else. Traded edges also keep how many edges, positive and negative, enter and
leave every node (Strona et al. 2014, doi:10.1038/ncomms5114). Functions return ``num_graphs``
random graphs, stacked on a new leading axis of each matrix. For graphs within one set of nodes see
networkx, ``double_edge_swap`` and ``directed_edge_swap``.
"""

import math
from typing import Any

import jax
import numpy as np
from jax import Array

from vaecausal_jax.circuits.layers import Graph, is_layered, weight_matrix

_LEAST_TRADES = 1000
"""Of all sources of a graph together."""

_CELLS = 4 << 20
"""Entries of the matrices in which edges are traded together."""


def shuffle_weights(key: Array, graph: Graph, num_graphs: int) -> Any:
    """Graphs with the entries of each matrix in random order, zeros among them.

    Args:
        key: Typed PRNG key.
        graph: One matrix, or one per pair of adjacent layers.
        num_graphs: How many.
    """
    rng = generator(key)
    return _each_matrix(lambda a: _shuffled(rng, a, num_graphs), graph)


def trade_edges(key: Array, graph: Graph, num_graphs: int, *, trades_per_row: int = 20) -> Any:
    """Graphs in which pairs of sources shared out their targets anew, many times over.

    In a trade two sources put the targets that only one of them has into one pool and draw from it
    as many as they put in, positive and negative edges apart. All sources trade at once, two and
    two at random (global curveball, Carstens et al. 2018, arXiv:1804.08487). Every node keeps its
    positive and negative degrees, and all graphs with these degrees are equally likely in the
    limit. Each source's weights go to its targets in random order.

    Args:
        key: Typed PRNG key.
        graph: One matrix between two sets of nodes, or one per pair of adjacent layers.
        num_graphs: How many.
        trades_per_row: Trades of every source; more where that makes fewer than 1,000 in all, since
            three sources need as many trades as thirty.
    """
    rng = generator(key)

    def traded(matrix):
        together = max(1, _CELLS // max(matrix.size, 1))
        sizes = [min(together, num_graphs - i) for i in range(0, num_graphs, together)]
        return np.concatenate([_traded(rng, matrix, size, trades_per_row) for size in sizes])

    return _each_matrix(traded, graph)


def generator(key: Array) -> np.random.Generator:
    """NumPy's generator, seeded by a typed JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _each_matrix(function: Any, graph: Graph) -> Any:
    """A function of one matrix at every matrix of a graph, each checked."""
    if is_layered(graph):
        return [function(weight_matrix(a, f"layer pair {i}")) for i, a in enumerate(graph)]
    return function(weight_matrix(graph))


def _shuffled(rng: np.random.Generator, matrix: np.ndarray, num_graphs: int) -> np.ndarray:
    flat = np.repeat(matrix.reshape(1, -1), num_graphs, axis=0)
    return rng.permuted(flat, axis=1).reshape(num_graphs, *matrix.shape)


def _traded(rng, matrix, num_graphs, trades_per_row) -> np.ndarray:
    height, width = matrix.shape
    signs = np.repeat(np.sign(matrix).astype(np.int8)[None], num_graphs, axis=0)
    order = np.repeat(np.arange(height)[None], num_graphs, axis=0)
    graph, half = np.arange(num_graphs)[:, None], height // 2
    for _ in range(max(trades_per_row, math.ceil(_LEAST_TRADES / max(height, 1)))):
        order = rng.permuted(order, axis=1)
        pair = order[:, :half], order[:, half : 2 * half]
        shares = _shared_out(rng, *(signs[graph, side] for side in pair))
        for side, share in zip(pair, shares, strict=True):
            signs[graph, side] = share
    graphs = np.zeros((num_graphs, height, width))
    for sign in (1, -1):
        rows, columns = np.nonzero(np.sign(matrix) == sign)
        # Row after row, each row's weights in random order.
        shuffled = np.argsort(rows + rng.random((num_graphs, len(rows))), axis=1)
        graphs[signs == sign] = matrix[rows, columns][shuffled].ravel()
    return graphs


def _shared_out(rng, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One trade between rows of signs, (..., width) each."""
    shape, width = first.shape, first.shape[-1]
    first, second = first.ravel(), second.ravel()
    for sign in (1, -1):
        put_in = (first == sign) & (second == 0)
        pool = np.flatnonzero(put_in | ((first == 0) & (second == sign)))
        trade = pool // width
        place = np.argsort(trade * (1 << 31) + rng.integers(1 << 31, size=len(pool)))
        # The trades are in order still: the first of each in this order are drawn.
        begin = np.searchsorted(trade, trade)
        drawn = np.empty(len(pool), bool)
        count = put_in.reshape(-1, width).sum(1)
        drawn[place] = np.arange(len(pool)) - begin < count[trade]
        first[pool] = np.where(drawn, sign, 0)
        second[pool] = np.where(drawn, 0, sign)
    return first.reshape(shape), second.reshape(shape)
