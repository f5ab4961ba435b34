"""Partitions of a graph's nodes into modules: read off effects, or optimised, and their quality.

All that is known of the graph is its modularity matrix B (see ``modularity``), and the quality of a
partition is Q = sum_ij B_ij [c_i = c_j]. Labels are integers, one per node; a negative label is a
module of that node alone.
"""

import numpy as np
from jax.typing import ArrayLike
from scipy import linalg
from scipy.sparse import linalg as sparse_linalg

NO_GAIN = 1e-12
"""Differences of Q up to which partitions are equally good."""

_SMALL = 100
"""Nodes up to which all eigenvectors are found at once; beyond, the leading one by Lanczos."""


def partition_quality(matrix: ArrayLike, labels: ArrayLike) -> float:
    """Q = sum_ij B_ij [c_i = c_j].

    Args:
        matrix: A modularity matrix, (nodes, nodes).
        labels: Integer module of each node, (nodes,); negative for a node alone.

    Raises:
        ValueError: Labels that are not one integer per node.
    """
    matrix = np.asarray(matrix, float)
    labels = checked_labels(labels, len(matrix))
    return float(np.sum(matrix, where=labels[:, None] == labels[None, :]))


def factor_partition(effects: ArrayLike) -> np.ndarray:
    """The partition that "circuits by factor" predicts: each unit with the factor it affects most.

    Args:
        effects: (units, factors), effects or energies; their size counts.

    Returns:
        (units + factors,): the units' labels, then the factors' own 0 .. F - 1, as
        ``bipartite_matrix`` orders them. Units without any effect, or with one that is not known,
        are alone (-1); of equal effects the first counts.
    """
    size = np.abs(np.asarray(effects, float))
    if size.ndim != 2:
        raise ValueError(f"effects has shape {size.shape}, expected (units, factors).")
    alone = np.isnan(size).any(1) | (size.max(1, initial=0.0) == 0)
    units = np.where(alone, -1, np.argmax(np.nan_to_num(size), axis=1)) if size.shape[1] else alone
    return np.concatenate([units.astype(int), np.arange(size.shape[1])])


def spectral_bisection(matrix: ArrayLike) -> np.ndarray:
    """Two modules by the signs of the modularity matrix's leading eigenvector: 0 or 1 per node.

    All in one where no split of this kind raises Q.
    """
    symmetric = _symmetrised(matrix)
    value, vector = _leading_eigenvector(symmetric)
    labels = (vector < 0).astype(int)
    if value <= NO_GAIN or partition_quality(symmetric, labels) <= symmetric.sum():
        return np.zeros(len(symmetric), int)
    return labels


def best_partition(matrix: ArrayLike, *, max_modules: int | None = None) -> np.ndarray:
    """A partition of high Q: spectral splits or merged nodes, then moves of single nodes.

    Modules are split in two by ``spectral_bisection`` while that raises Q (Newman 2006), and from
    the other end single nodes are merged while that does. From both, nodes are moved one by one;
    the better partition counts. Deterministic; finding the best is NP-hard, and this need not be
    it.

    Args:
        matrix: A modularity matrix, (nodes, nodes).
        max_modules: The most modules; no limit if None.

    Returns:
        Labels 0, 1, ... in the order of first appearance.

    Raises:
        ValueError: A matrix with NaN, that is of a graph without edges; or max_modules below 1.
    """
    if max_modules is not None and max_modules < 1:
        raise ValueError(f"max_modules must be at least 1, got {max_modules}.")
    symmetric = _symmetrised(matrix)
    most = len(symmetric) if max_modules is None else min(max_modules, len(symmetric))
    starts = _split_recursively(symmetric, most), np.arange(len(symmetric))
    found = [_moved(symmetric, _merged(symmetric, labels, most), most) for labels in starts]
    best = max(found, key=lambda labels: partition_quality(symmetric, labels))
    return _in_order(best)


def checked_labels(labels: ArrayLike, num_nodes: int) -> np.ndarray:
    """Labels with modules of their own for the negative ones.

    Raises:
        ValueError: Labels that are not one integer per node.
    """
    labels = np.asarray(labels)
    if labels.shape != (num_nodes,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype}{labels.shape}, expected one integer per node: "
            f"({num_nodes},)."
        )
    alone = labels < 0
    return np.where(alone, labels.max(initial=0) + 1 + np.cumsum(alone), labels)


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(labels.max(initial=0) + 1)[labels]


def _symmetrised(matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(matrix, float)
    if np.isnan(matrix).any():
        raise ValueError("the modularity matrix has NaN: a graph without edges has no modules.")
    return (matrix + matrix.T) / 2


def _leading_eigenvector(symmetric: np.ndarray) -> tuple[float, np.ndarray]:
    size = len(symmetric)
    if np.abs(symmetric).max() <= NO_GAIN:
        return 0.0, np.ones(size)
    if size <= _SMALL:
        values, vectors = linalg.eigh(symmetric)
        return values[-1], vectors[:, -1]
    # Only signs are read: a rough vector does, and a fixed start makes it the same every time.
    start = np.random.default_rng(0).normal(size=size)
    values, vectors = sparse_linalg.eigsh(symmetric, 1, which="LA", v0=start)
    return values[0], vectors[:, 0]


def _in_order(labels: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _split_recursively(matrix: np.ndarray, most: int) -> np.ndarray:
    labels = np.zeros(len(matrix), int)
    num_modules, waiting = 1, [0]
    while waiting and num_modules < most:
        nodes = np.flatnonzero(labels == waiting.pop(0))
        # Of a part, the matrix whose rows sum to zero: what is outside stays as it is.
        part = matrix[np.ix_(nodes, nodes)]
        half = spectral_bisection(part - np.diag(part.sum(1)))
        if half.any() and not half.all():
            labels[nodes[half == 1]] = num_modules
            waiting += [labels[nodes[half == 0][0]], num_modules]
            num_modules += 1
    return labels


def _merged(matrix: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Unites the two modules whose union gains most, while that raises Q or they are too many."""
    member = _one_hot(labels)
    between = member.T @ matrix @ member
    np.fill_diagonal(between, -np.inf)
    owner = np.arange(len(between))
    for left in range(len(between), 1, -1):
        one, other = np.unravel_index(np.argmax(between), between.shape)
        if left <= most and not between[one, other] > NO_GAIN:
            break
        between[one] += between[other]
        between[:, one] += between[:, other]
        between[other] = between[:, other] = between[one, one] = -np.inf
        owner[owner == other] = one
    return np.unique(owner[labels], return_inverse=True)[1]


def _moved(matrix: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Passes in which every node moves once, best gain first, as far as Q was highest.

    A node moves even where that lowers Q, so that a pass can leave a local optimum (Kernighan & Lin
    1970).
    """
    num_nodes = len(matrix)
    node_range = np.arange(num_nodes)
    # One spare column, where allowed: a move into a module of its own.
    num_columns = min(labels.max(initial=0) + 2, most)
    while True:
        current = labels.copy()
        to = matrix @ np.eye(num_columns)[current]
        gains, moves = np.zeros(num_nodes), []
        waiting = np.ones(num_nodes, bool)
        for step in range(num_nodes):
            own = to[node_range, current] - np.diag(matrix)
            gain = to - own[:, None]
            gain[node_range, current] = -np.inf
            gain[~waiting] = -np.inf
            node, column = np.unravel_index(np.argmax(gain), gain.shape)
            gains[step] = 2 * gain[node, column]
            if gains[step] == -np.inf:
                break
            to[:, current[node]] -= matrix[:, node]
            to[:, column] += matrix[:, node]
            current[node], waiting[node] = column, False
            moves.append((node, column))
        total = np.cumsum(gains[: len(moves)])
        if not len(moves) or not total.max() > NO_GAIN:
            return labels
        labels = labels.copy()
        for node, column in moves[: np.argmax(total) + 1]:
            labels[node] = column
        labels = np.unique(labels, return_inverse=True)[1]
        num_columns = min(labels.max() + 2, most)
