"""Graphs as matrices of edge weights between adjacent layers: checked, and joined into one.

A graph is one matrix (sources, targets), or a sequence of them, one per pair of adjacent layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Graph = Any
"""(sources, targets), or one such matrix per pair of adjacent layers."""


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


def layer_sizes(matrices: Sequence[np.ndarray]) -> list[int]:
    """Nodes of each layer, given the weights of each pair of adjacent ones."""
    return [matrices[0].shape[0], *(matrix.shape[1] for matrix in matrices)]


def join_layers(layers: Graph) -> np.ndarray:
    """The matrices of adjacent layers as one adjacency of a directed graph, (nodes, nodes)."""
    matrices = layer_matrices(layers)
    blocks = {(i, i + 1): matrix for i, matrix in enumerate(matrices)}
    return join_blocks(blocks, layer_sizes(matrices))


def join_blocks(blocks: Mapping[tuple[int, int], np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """One adjacency (nodes, nodes) of the edges between any two layers.

    Args:
        blocks: (from layer, to layer) to weights, layers counted from 0.
        sizes: Nodes of each layer.
    """
    ends = np.cumsum([0, *sizes])
    joined = np.zeros((ends[-1], ends[-1]))
    for (source, target), matrix in blocks.items():
        joined[ends[source] : ends[source + 1], ends[target] : ends[target + 1]] = matrix
    return joined
