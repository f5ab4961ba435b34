"""Causal-intervention interpretability for variational autoencoders, in JAX.

Models are pure functions with named sites, ``forward(params, x, eps, interventions) -> Trace``;
interventions are pytrees; a question is a sweep; an answer is an estimate. See the README.
"""

from vaecausal_jax import (
    data,
    effects,
    games,
    inference,
    interventions,
    mediation,
    models,
    objectives,
    patching,
    reductions,
    specificity,
    surrogates,
    training,
)
from vaecausal_jax.inference import Estimate
from vaecausal_jax.models import Model
from vaecausal_jax.sites import Site, Sites, Tape, Trace, list_sites
from vaecausal_jax.sweeps import sweep
from vaecausal_jax.training import TrainConfig, make_train

__version__ = "0.1.0"

__all__ = [
    "Estimate",
    "Model",
    "Site",
    "Sites",
    "Tape",
    "Trace",
    "TrainConfig",
    "data",
    "effects",
    "games",
    "inference",
    "interventions",
    "list_sites",
    "make_train",
    "mediation",
    "models",
    "objectives",
    "patching",
    "reductions",
    "specificity",
    "surrogates",
    "sweep",
    "training",
]
