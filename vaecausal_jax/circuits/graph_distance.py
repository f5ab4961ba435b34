"""How far a graph that was found is from the true one."""

import itertools
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class GraphScore(NamedTuple):
    """How far a graph is from the true one.

    Attributes:
        shd: Structural Hamming distance: pairs of nodes whose edges differ. A missing, an added and
            a reversed edge count one each.
        f1: 2 TP / (2 TP + FP + FN) over directed edges; 1 where both graphs are empty.
        precision: TP / (TP + FP); NaN without claimed edges.
        recall: TP / (TP + FN); NaN without true edges.
        true_positives: Directed edges in both.
        false_positives: Directed edges claimed but not true; a reversed edge is one.
        false_negatives: True directed edges not claimed; a reversed edge is one too.
        reversed_edges: Pairs claimed in the opposite direction.
    """

    shd: int
    f1: float
    precision: float
    recall: float
    true_positives: int
    false_positives: int
    false_negatives: int
    reversed_edges: int


def graph_score(estimated: ArrayLike, true: ArrayLike) -> GraphScore:
    """Structural Hamming distance and F1 of a directed graph; diagonals are left out.

    Args:
        estimated: (nodes, nodes), non-zero from cause to effect.
        true: The true graph, in the same form, such as ``data.causal.adjacency(model)``,
            or zeros for independent factors.

    Raises:
        ValueError: Not square, or of different sizes, or NaN.
    """
    graphs = []
    for word, graph in (("estimated", estimated), ("true", true)):
        graph = np.asarray(graph)
        if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
            raise ValueError(f"{word} has shape {graph.shape}, expected (nodes, nodes).")
        if np.isnan(np.asarray(graph, float)).any():
            raise ValueError(f"{word} holds NaN; edges are zero or not.")
        graphs.append((graph != 0) & ~np.eye(len(graph), dtype=bool))
    claimed, real = graphs
    if claimed.shape != real.shape:
        raise ValueError(f"graphs over {len(claimed)} and {len(real)} nodes have no distance.")
    hits, added, missed = claimed & real, claimed & ~real, real & ~claimed
    differs = claimed != real
    tp, fp, fn = int(hits.sum()), int(added.sum()), int(missed.sum())
    return GraphScore(
        shd=int(np.triu(differs | differs.T).sum()),
        f1=2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
        precision=tp / (tp + fp) if tp + fp else float("nan"),
        recall=tp / (tp + fn) if tp + fn else float("nan"),
        true_positives=tp,
        false_positives=fp,
        false_negatives=fn,
        reversed_edges=int((added & missed.T).sum()),
    )


def renamed_f1(estimated: ArrayLike, true: ArrayLike, *, num_draws: int = 1000) -> float:
    """Mean F1 against the true graph with its nodes renamed in every way: what guessing scores.

    It keeps the shape of both graphs. Of more than six nodes ``num_draws`` renamings are drawn, the
    same every time.

    Args:
        estimated: As for ``graph_score``.
        true: As for ``graph_score``.
        num_draws: Renamings where there are too many for all.

    Raises:
        ValueError: As for ``graph_score``.
    """
    true, num = np.asarray(true), len(np.asarray(true))
    if num > 6:
        rng = np.random.default_rng(0)
        orders = [rng.permutation(num) for _ in range(num_draws)]
    else:
        orders = [np.array(order) for order in itertools.permutations(range(num))]
    return float(np.mean([graph_score(estimated, true[o][:, o]).f1 for o in orders]))
