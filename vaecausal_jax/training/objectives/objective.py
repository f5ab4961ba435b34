"""The contract of an objective, and what the Gaussian families share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from vaecausal_jax.interventions.sites import Trace
from vaecausal_jax.training.objectives.likelihoods import Likelihood

Terms = dict[str, Array]


class Objective(NamedTuple):
    """A training objective.

    Attributes:
        name: Family name.
        init: (key, params) to the objective's own state: a discriminator, moving averages, or ().
        loss: (params, state, trace, images, key) to (scalar to minimise, terms to record).
        update: (params, state, trace, images, key) to (params, state, terms), called after each
            gradient step on ``params``; it learns what that gradient does not.
        likelihood: The likelihood by which its loss reads the outputs, if any; the trainer checks
            it against the model's head.
    """

    name: str
    init: Callable[[Array, Any], Any]
    loss: Callable[[Any, Any, Trace, Array, Array], tuple[Array, Terms]]
    update: Callable[[Any, Any, Trace, Array, Array], tuple[Any, Any, Terms]]
    likelihood: Likelihood | None = None


def kl_per_latent(mean: Array, logvar: Array) -> Array:
    """KL from N(mean, exp(logvar)) to N(0, 1) in nats, elementwise."""
    return 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)


def elbo_terms(likelihood: Likelihood, trace: Trace, images: Array) -> tuple[Array, Array, Terms]:
    """Reconstruction and KL in nats per image, and the terms every Gaussian family records."""
    if "latent/logvar" not in trace.activations:
        raise ValueError(
            needs("this objective", "Gaussian latents", "site 'latent/logvar'", trace.activations)
        )
    reconstruction = -jnp.mean(likelihood.log_prob(trace.outputs, images))
    latents = trace.activations["latent/mean"], trace.activations["latent/logvar"]
    per_latent = jnp.mean(kl_per_latent(*latents), axis=0)
    kl = jnp.sum(per_latent)
    return (
        reconstruction,
        kl,
        {
            "reconstruction": reconstruction,
            "kl": kl,
            "kl_per_latent": per_latent,
        },
    )


def needs(name: str, what: str, missing: str, present: Any) -> str:
    """The message for a model that lacks what the objective reads."""
    return f"{name} needs a model with {what}: no {missing} among {', '.join(sorted(present))}."


def no_state(key: Array, params: Any) -> tuple[()]:
    """The state of an objective that has none."""
    return ()


def no_update(params: Any, state: Any, trace: Trace, images: Array, key: Array) -> Any:
    """The update of an objective that learns by the gradient alone."""
    return params, state, {}
