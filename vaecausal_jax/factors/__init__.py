"""Factors: what an image shows, read off reconstructions, and how units and subspaces carry it.

A read-out maps an image to its factors (``readouts``, ``probes``, ``sprite_moments``); ``nearest``
reads levels without one. The effects
of units on what is read are in ``factor_effects``, those of one factor's representation on all
factors in ``factor_graphs``, and whether a part of a site stands for a factor in ``interchange``.
"""

from vaecausal_jax.factors.factor_effects import (
    leakage,
    mediation_tensor,
    read_tensor,
    tensor_estimate,
    write_tensor,
)
from vaecausal_jax.factors.factor_graphs import (
    FactorGraph,
    factor_graph,
    scm_pairs,
    swap_effects,
)
from vaecausal_jax.factors.interchange import (
    Interchanges,
    aligned_group,
    continuous_iia,
    interchange_report,
    sample_interchanges,
    search_boundary,
    search_subspace,
)
from vaecausal_jax.factors.nearest import nearest_levels, readability
from vaecausal_jax.factors.probes import (
    Probe,
    train_probe,
)
from vaecausal_jax.factors.readouts import (
    Readout,
    calibrate,
    factor_codes,
    factor_pairs,
    readout_scores,
)
from vaecausal_jax.factors.sprite_moments import (
    sprite_readout,
)

__all__ = [
    "FactorGraph",
    "Interchanges",
    "Probe",
    "Readout",
    "aligned_group",
    "calibrate",
    "continuous_iia",
    "factor_codes",
    "factor_graph",
    "factor_pairs",
    "interchange_report",
    "leakage",
    "mediation_tensor",
    "nearest_levels",
    "read_tensor",
    "readability",
    "readout_scores",
    "sample_interchanges",
    "scm_pairs",
    "search_boundary",
    "search_subspace",
    "sprite_readout",
    "swap_effects",
    "tensor_estimate",
    "train_probe",
    "write_tensor",
]
