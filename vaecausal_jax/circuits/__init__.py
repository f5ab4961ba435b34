"""Circuits: graphs of effects between units, their modules and their motifs.

A *task* (``make_task``) says which behaviour is to be explained. A scorer maps it to scores of
nodes or edges, a selector maps scores to a circuit, and a circuit runs with everything outside it
ablated (``run_circuit``). Graphs, partitions and motifs need no task: they take plain arrays.

These are the verbs of the room. Everything else is found in its module:

    masks, tasks                         circuits as arrays; how they run
    scorers, attribution, learned        scores by patching, gradients, trained gates
    selectors                            from scores to a circuit
    evaluation, minimality               faithfulness; completeness, minimality, exhaustive search
    hypothesis_tests, stability          p-values; resampled pairs and other models
    by_factor, roles                     a circuit per factor; roles of units
    effect_graphs, networkx_export       effects between all units
    layers, null_graphs                  graphs as matrices; random ones
    structure, modularity, partitions, motifs    what a graph looks like
    graph_distance                       how far a graph is from the true one
    planted                              networks whose circuits are known
"""

from vaecausal_jax.circuits.attribution import edge_integrated, node_integrated
from vaecausal_jax.circuits.by_factor import circuit_overlap, factor_circuits, factor_map
from vaecausal_jax.circuits.effect_graphs import effect_graph
from vaecausal_jax.circuits.evaluation import faithfulness, faithfulness_curve
from vaecausal_jax.circuits.learned import learn_masks
from vaecausal_jax.circuits.modularity import layered_modularity, modularity_test
from vaecausal_jax.circuits.motifs import motif_census
from vaecausal_jax.circuits.partitions import best_partition
from vaecausal_jax.circuits.roles import unit_roles
from vaecausal_jax.circuits.scorers import edge_samples, node_samples
from vaecausal_jax.circuits.selectors import select_significant, select_top
from vaecausal_jax.circuits.stability import selection_stability
from vaecausal_jax.circuits.structure import graph_structure
from vaecausal_jax.circuits.tasks import (
    ablation_references,
    edge_circuit,
    make_task,
    node_circuit,
    run_circuit,
)

__all__ = [
    "ablation_references",
    "best_partition",
    "circuit_overlap",
    "edge_circuit",
    "edge_integrated",
    "edge_samples",
    "effect_graph",
    "factor_circuits",
    "factor_map",
    "faithfulness",
    "faithfulness_curve",
    "graph_structure",
    "layered_modularity",
    "learn_masks",
    "make_task",
    "modularity_test",
    "motif_census",
    "node_circuit",
    "node_integrated",
    "node_samples",
    "run_circuit",
    "select_significant",
    "select_top",
    "selection_stability",
    "unit_roles",
]
