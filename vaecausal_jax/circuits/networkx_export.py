"""Effect graphs as networkx graphs, for whatever that library can do."""

import networkx as nx
import numpy as np

from vaecausal_jax.circuits.effect_graphs import EffectGraph, found_edges


def to_networkx(graph: EffectGraph, *, q: float | None = None) -> nx.DiGraph:
    """The effect graph as a directed graph.

    Nodes are (layer, name) with attributes ``layer`` and ``depth``, the layer's place. Edges have
    ``weight`` (RMS effect), ``signed``, ``low`` and ``high`` of the RMS effect, and ``p_value``
    (adjusted).

    Args:
        graph: The graph.
        q: False discovery rate at which edges must be found; all with any effect if None.
    """
    found = nx.DiGraph()
    for depth, (layer, names) in enumerate(graph.labels.items()):
        found.add_nodes_from(((layer, name) for name in names), layer=layer, depth=depth)
    chosen = found_edges(graph, q=q) if q is not None else None
    for pair, size in graph.size.items():
        sources, targets = graph.labels[pair[0]], graph.labels[pair[1]]
        kept = size.value > 0 if chosen is None else chosen[pair]
        for u, v in zip(*np.nonzero(kept), strict=True):
            found.add_edge(
                (pair[0], sources[u]),
                (pair[1], targets[v]),
                weight=float(size.value[u, v]),
                signed=float(graph.signed[pair].value[u, v]),
                low=float(size.low[u, v]),
                high=float(size.high[u, v]),
                p_value=float(graph.p_value[pair][u, v]),
            )
    return found
