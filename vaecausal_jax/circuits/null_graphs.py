"""Random graphs that keep something of a given one: what structure is measured against.

A graph is a matrix of edge weights (sources, targets), or a sequence of them between adjacent
layers, each randomised by itself; 0 is no edge. Shuffled weights keep the weights and nothing else.
Swapped and traded edges also keep how many edges, positive and negative, enter and leave every node
(Maslov & Sneppen 2002, cond-mat/0205380; Strona et al. 2014, doi:10.1038/ncomms5114): swaps serve
any graph, trades take a fraction of the time between two sets of nodes. Functions return
``num_graphs`` random graphs, stacked on a new leading axis of each matrix. The symmetric forms are
for undirected graphs within one set.
"""

import math
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Graph = Any
"""(sources, targets), or one such matrix a pair of adjacent layers."""

_CHUNK = 4096
"""Swaps whose random numbers are drawn together."""

_LEAST_TRADES = 1000
"""Of all sources of a graph together."""

_CELLS = 4 << 20
"""Entries of the matrices in which edges are traded together."""


def shuffle_weights(key: Array, graph: Graph, num_graphs: int) -> Any:
    """Graphs with the entries of each matrix in random order, zeros among them.

    Args:
        key: Typed PRNG key.
        graph: One matrix, or one a pair of adjacent layers.
        num_graphs: How many.
    """
    rng = generator(key)
    return each_matrix(lambda a: _shuffled(rng, a, num_graphs), graph)


def shuffle_weights_symmetric(key: Array, adjacency: ArrayLike, num_graphs: int) -> np.ndarray:
    """Undirected graphs (graphs, nodes, nodes) whose weights went to random pairs of nodes.

    The diagonal stays as it is.

    Raises:
        ValueError: An adjacency that is not symmetric.
    """
    adjacency = symmetric_matrix(adjacency)
    rows, columns = np.triu_indices(len(adjacency), 1)
    shuffled = _shuffled(generator(key), adjacency[rows, columns][None], num_graphs)[:, 0]
    graphs = np.repeat(np.diag(np.diag(adjacency))[None], num_graphs, axis=0)
    graphs[:, rows, columns] = graphs[:, columns, rows] = shuffled
    return graphs


def swap_edges(
    key: Array,
    graph: Graph,
    num_graphs: int,
    *,
    swaps_per_edge: float = 10.0,
    loops: bool = True,
) -> Any:
    """Graphs in which pairs of edges exchanged their targets, many times over.

    A swap turns a -> b, c -> d into a -> d, c -> b, and is dropped where one of these exists or the
    edges differ in sign: positive and negative degrees are kept, and dropped swaps count, so that
    all graphs with these degrees are equally likely in the limit. Weights stay with their source.

    Args:
        key: Typed PRNG key.
        graph: One matrix, or one a pair of adjacent layers, whose edges are swapped within it.
        num_graphs: How many.
        swaps_per_edge: Attempts, as a multiple of the number of edges.
        loops: Whether row i and column i are different nodes, as in a matrix between two sets. If
            false the matrix is of one set of nodes, square, and gets no edges from one to itself.

    Raises:
        ValueError: Without ``loops``, a matrix that is not square or has loops already.
    """
    rng = generator(key)

    def swapped(matrix):
        if not loops and (matrix.shape[0] != matrix.shape[1] or np.any(np.diag(matrix))):
            raise ValueError(
                f"loops=False needs a square matrix with a zero diagonal, got {matrix.shape} with "
                f"{np.count_nonzero(np.diag(matrix))} loops."
            )
        edges = np.argwhere(matrix)
        return _swapped(rng, matrix, edges, num_graphs, swaps_per_edge, loops, mirrored=False)

    return each_matrix(swapped, graph)


def trade_edges(key: Array, graph: Graph, num_graphs: int, *, trades_per_row: int = 20) -> Any:
    """Graphs in which pairs of sources shared out their targets anew, many times over.

    In a trade two sources put the targets that only one of them has into one pool and draw from it
    as many as they put in, positive and negative edges apart. All sources trade at once, two and
    two at random (global curveball, Carstens et al. 2018, arXiv:1804.08487). What is kept and the
    limit are those of ``swap_edges``, of which a trade makes many. Each source's weights go to its
    targets in random order.

    Args:
        key: Typed PRNG key.
        graph: One matrix between two sets of nodes, or one a pair of adjacent layers.
        num_graphs: How many.
        trades_per_row: Trades of every source; more where that makes fewer than 1,000 in all, since
            three sources need as many trades as thirty.
    """
    rng = generator(key)

    def traded(matrix):
        together = max(1, _CELLS // max(matrix.size, 1))
        sizes = [min(together, num_graphs - i) for i in range(0, num_graphs, together)]
        return np.concatenate([_traded(rng, matrix, size, trades_per_row) for size in sizes])

    return each_matrix(traded, graph)


def swap_edges_symmetric(
    key: Array, adjacency: ArrayLike, num_graphs: int, *, swaps_per_edge: float = 10.0
) -> np.ndarray:
    """``swap_edges`` of an undirected graph without loops: (graphs, nodes, nodes).

    Raises:
        ValueError: An adjacency that is not symmetric, or has loops.
    """
    adjacency = symmetric_matrix(adjacency)
    if np.any(np.diag(adjacency)):
        raise ValueError("adjacency has loops, expected a zero diagonal.")
    edges = np.argwhere(np.triu(adjacency, 1))
    return _swapped(
        generator(key), adjacency, edges, num_graphs, swaps_per_edge, loops=False, mirrored=True
    )


def generator(key: Array) -> np.random.Generator:
    """NumPy's generator, seeded by a typed JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def each_matrix(function: Any, graph: Graph) -> Any:
    """A function of one matrix at every matrix of a graph, each checked."""
    if is_layered(graph):
        return [function(weight_matrix(a, f"layer pair {i}")) for i, a in enumerate(graph)]
    return function(weight_matrix(graph))


def is_layered(graph: Graph) -> bool:
    """Whether a graph is a sequence of matrices rather than one, which may be nested lists."""
    return isinstance(graph, list | tuple) and (len(graph) == 0 or np.ndim(graph[0]) == 2)


def weight_matrix(values: Any, word: str = "graph") -> np.ndarray:
    """Values as a float64 matrix.

    Raises:
        ValueError: Not two axes, or a weight that is not finite.
    """
    matrix = np.asarray(values, float)
    if matrix.ndim != 2:
        raise ValueError(f"{word} has shape {matrix.shape}, expected (sources, targets).")
    wrong = np.argwhere(~np.isfinite(matrix))
    if len(wrong):
        raise ValueError(
            f"{word} has {len(wrong)} weights that are not finite, the first at "
            f"{tuple(wrong[0].tolist())}. Set edges that were not measured to 0, or leave their "
            "nodes out."
        )
    return matrix


def symmetric_matrix(values: Any) -> np.ndarray:
    """Values as the float64 adjacency of an undirected graph.

    Raises:
        ValueError: Not square and symmetric.
    """
    matrix = weight_matrix(values, "adjacency")
    size = np.abs(matrix).max(initial=0.0)
    if matrix.shape[0] != matrix.shape[1] or np.abs(matrix - matrix.T).max(initial=0) > 1e-6 * size:
        raise ValueError(
            f"adjacency {matrix.shape} is not symmetric, as an undirected graph's is. Use the "
            "directed form, or for a matrix between two sets of nodes the bipartite one."
        )
    return (matrix + matrix.T) / 2


def _shuffled(rng: np.random.Generator, matrix: np.ndarray, num_graphs: int) -> np.ndarray:
    flat = np.repeat(matrix.reshape(1, -1), num_graphs, axis=0)
    return rng.permuted(flat, axis=1).reshape(num_graphs, *matrix.shape)


def _swapped(rng, matrix, edges, num_graphs, swaps_per_edge, loops, mirrored) -> np.ndarray:
    """Runs all graphs' chains side by side, one attempted swap of each a step."""
    graphs = np.repeat(matrix[None], num_graphs, axis=0)
    if len(edges) < 2:
        return graphs
    ends = np.repeat(edges[None], num_graphs, axis=0)
    graph = np.arange(num_graphs)
    remaining = int(np.ceil(swaps_per_edge * len(edges)))
    while remaining > 0:
        steps = min(remaining, _CHUNK)
        remaining -= steps
        # The second may be the first, which swaps nothing: where every swap is possible, as between
        # permutations, their number would otherwise fix the parity of what is reached.
        first, second = rng.integers(len(edges), size=(2, steps, num_graphs))
        turned = rng.integers(2, size=first.shape) if mirrored else np.zeros(first.shape, int)
        for e, f, turn in zip(first, second, turned, strict=True):
            a, b = ends[graph, e].T
            c, d = ends[graph, f, turn], ends[graph, f, 1 - turn]
            kept, moved = graphs[graph, a, b], graphs[graph, c, d]
            free = (graphs[graph, a, d] == 0) & (graphs[graph, c, b] == 0)
            free &= np.sign(kept) == np.sign(moved)
            if not loops:
                free &= (a != d) & (b != c)
            g, a, b, c, d, e, f = (v[free] for v in (graph, a, b, c, d, e, f))
            new = ((a, b, 0.0), (c, d, 0.0), (a, d, kept[free]), (c, b, moved[free]))
            for source, target, weight in new:
                graphs[g, source, target] = weight
                if mirrored:
                    graphs[g, target, source] = weight
            ends[g, e], ends[g, f] = np.stack([a, d], 1), np.stack([c, b], 1)
    return graphs


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
