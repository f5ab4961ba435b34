"""What the effect graph of a whole model looks like: modules and motifs, each beside its null.

Of the units alone: factors and the outcome are no part of it. Edges are those that survive the
test. Two partitions are scored, under the layered null (``modularity``):

    by factor   each unit with the factor of whose effect it carries most; found from other runs
                than the edges, so that the null keeps it
    optimised   the best that was found, and found anew on every null graph
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vaecausal_jax.circuits.effect_graphs import FACTORS, EffectGraph, layer_adjacencies
from vaecausal_jax.circuits.masks import Masks, Scores
from vaecausal_jax.circuits.modularity import ModularityTest, modularity_test
from vaecausal_jax.circuits.motifs import Motif, motif_census
from vaecausal_jax.circuits.partitions import factor_partition
from vaecausal_jax.effects.paths import OUTCOME


class GraphStructure(NamedTuple):
    """Modules and motifs of the units of one model.

    Attributes:
        nodes: (site, unit) of each node, as in the labels of the partitions.
        by_factor: Modularity of the partition by factor; labels count factors, -1 is a unit in no
            factor's circuit.
        optimised: Modularity of the best partition found; None if it was not sought.
        motifs: Name to motif.
    """

    nodes: list[tuple[str, str]]
    by_factor: ModularityTest
    optimised: ModularityTest | None
    motifs: dict[str, Motif]


def graph_structure(
    key: Array,
    graph: EffectGraph,
    circuits: Mapping[str, Masks],
    scores: Mapping[str, Scores],
    *,
    q: float = 0.05,
    num_null: int = 100,
    num_optimised: int = 20,
) -> GraphStructure:
    """Modules and motifs of the edges that survive at the false discovery rate q.

    Args:
        key: Typed PRNG key.
        graph: Effects between units.
        circuits: Factor to circuit of nodes, over the sites of the graph.
        scores: Factor to the share of its effect that each unit carries.
        q: False discovery rate of edges.
        num_null: Null graphs for the partition by factor and for motifs.
        num_optimised: Null graphs that are partitioned anew, which takes longer; 0 to seek no best
            partition.

    Raises:
        ValueError: No circuits, or a graph with edges that skip layers.
    """
    if not circuits:
        raise ValueError("circuits holds no factor.")
    units = _units_only(graph)
    sizes, levels = layer_adjacencies(units, q=q)
    signed, _ = layer_adjacencies(units, signed=True, q=q)
    nodes = [node for level in levels for node in level]
    keys = jax.random.split(key, 3)
    carried = np.stack(
        [_in_order(nodes, units, circuits[name], scores[name]) for name in circuits], axis=-1
    )
    return GraphStructure(
        nodes=nodes,
        by_factor=modularity_test(
            keys[0], sizes, partition=factor_partition(carried)[: len(nodes)], num_null=num_null
        ),
        optimised=(
            modularity_test(keys[1], sizes, num_null=num_optimised) if num_optimised else None
        ),
        motifs=motif_census(keys[2], signed, num_null=num_null),
    )


def _units_only(graph: EffectGraph) -> EffectGraph:
    ends = (FACTORS, OUTCOME)

    def between_units(table):
        return {pair: value for pair, value in table.items() if not set(pair) & set(ends)}

    return graph._replace(
        labels={layer: names for layer, names in graph.labels.items() if layer not in ends},
        size=between_units(graph.size),
        signed=between_units(graph.signed),
        p_value=between_units(graph.p_value),
    )


def _in_order(
    nodes: list[tuple[str, str]], graph: EffectGraph, circuit: Masks, scores: Scores
) -> np.ndarray:
    """Each node's share of a factor's effect; 0 outside its circuit."""
    share = {
        (site, name): abs(float(scores[site][unit])) if circuit[site][unit] else 0.0
        for site, names in graph.labels.items()
        for unit, name in enumerate(names)
    }
    return np.array([share[node] for node in nodes])
