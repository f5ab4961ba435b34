"""Causal-intervention interpretability for variational autoencoders, in JAX.

Models are pure functions with named sites, ``forward(params, x, eps, interventions) -> Trace``;
interventions are pytrees; a question is a sweep; an answer is an estimate. See the README.
"""

from vaecausal_jax import (
    circuits,
    data,
    effects,
    factors,
    inference,
    interventions,
    models,
    sweeps,
    training,
    zoo,
)
from vaecausal_jax.compilation_cache import use_compilation_cache
from vaecausal_jax.data import Pairs, Runs
from vaecausal_jax.inference import Estimate
from vaecausal_jax.interventions.bound import BoundModel, bind
from vaecausal_jax.interventions.sites import Site, Sites, Tape, Trace, list_sites
from vaecausal_jax.jax_versions import avoid_faulty_sums
from vaecausal_jax.models import Model
from vaecausal_jax.sweeps import Rows, UnitTable, patch_units, sweep
from vaecausal_jax.training import TrainConfig, make_train, objectives

__version__ = "0.1.0"

avoid_faulty_sums()

__all__ = [
    "BoundModel",
    "Estimate",
    "Model",
    "Pairs",
    "Rows",
    "Runs",
    "Site",
    "Sites",
    "Tape",
    "Trace",
    "TrainConfig",
    "UnitTable",
    "bind",
    "circuits",
    "data",
    "effects",
    "factors",
    "inference",
    "interventions",
    "list_sites",
    "make_train",
    "models",
    "objectives",
    "patch_units",
    "sweep",
    "sweeps",
    "training",
    "use_compilation_cache",
    "zoo",
]
