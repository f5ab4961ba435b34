"""Circuits: graphs of effects between units, their modules and their motifs.

A *task* (``make_task``) says which behaviour is to be explained; a scorer maps it to scores of
nodes or edges, a selector maps scores to a circuit, and a circuit runs with everything outside it
ablated (``run_circuit``). Graphs, partitions and motifs need no task: they take plain arrays.
"""

from vaecausal_jax.circuits.scorers import (
    edge_attribution,
    edge_denoising,
    edge_effects,
    edge_integrated,
    edge_noising,
    edge_samples,
    flat_scores,
    mean_scores,
    node_attribution,
    node_correlation,
    node_denoising,
    node_effects,
    node_integrated,
    node_noising,
    node_samples,
    share_of_total,
)
from vaecausal_jax.circuits.selectors import (
    select_above,
    select_greedily,
    select_significant,
    select_top,
)
from vaecausal_jax.circuits.tasks import (
    Task,
    ablation_references,
    circuit_metrics,
    edge_circuit,
    make_task,
    node_circuit,
    num_parts,
    run_circuit,
    stack_circuits,
)

__all__ = [
    "Task",
    "ablation_references",
    "circuit_metrics",
    "edge_attribution",
    "edge_circuit",
    "edge_denoising",
    "edge_effects",
    "edge_integrated",
    "edge_noising",
    "edge_samples",
    "flat_scores",
    "make_task",
    "mean_scores",
    "node_attribution",
    "node_circuit",
    "node_correlation",
    "node_denoising",
    "node_effects",
    "node_integrated",
    "node_noising",
    "node_samples",
    "num_parts",
    "run_circuit",
    "select_above",
    "select_greedily",
    "select_significant",
    "select_top",
    "share_of_total",
    "stack_circuits",
]
