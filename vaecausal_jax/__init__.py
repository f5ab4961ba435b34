"""Causal-intervention interpretability for variational autoencoders, in JAX.

Models are pure functions with named sites, ``forward(params, x, eps, interventions) -> Trace``;
interventions are pytrees; a question is a sweep; an answer is an estimate. See the README.
"""

from vaecausal_jax import (
    adapters,
    circuits,
    code_effects,
    data,
    effect_modularity,
    effects,
    factor_graph,
    games,
    inference,
    interchange,
    interventions,
    manifold,
    mediation,
    mediation_estimates,
    mediators,
    models,
    objectives,
    patching,
    paths,
    probes,
    readouts,
    reductions,
    specificity,
    sprite_inversion,
    strengths,
    surrogates,
    tensors,
    training,
)
from vaecausal_jax.inference import Estimate
from vaecausal_jax.jax_versions import avoid_faulty_sums
from vaecausal_jax.models import Model
from vaecausal_jax.sites import Site, Sites, Tape, Trace, list_sites
from vaecausal_jax.sweeps import sweep
from vaecausal_jax.training import TrainConfig, make_train

__version__ = "0.1.0"

avoid_faulty_sums()

__all__ = [
    "Estimate",
    "Model",
    "Site",
    "Sites",
    "Tape",
    "Trace",
    "TrainConfig",
    "adapters",
    "circuits",
    "code_effects",
    "data",
    "effect_modularity",
    "effects",
    "factor_graph",
    "games",
    "inference",
    "interchange",
    "interventions",
    "list_sites",
    "make_train",
    "manifold",
    "mediation",
    "mediation_estimates",
    "mediators",
    "models",
    "objectives",
    "patching",
    "paths",
    "probes",
    "readouts",
    "reductions",
    "specificity",
    "sprite_inversion",
    "strengths",
    "surrogates",
    "sweep",
    "tensors",
    "training",
]
