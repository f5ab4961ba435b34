"""DIP-VAE: the covariance of latents drawn to the identity."""

import jax.numpy as jnp
from jax import Array

from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, elbo_terms, no_state, no_update


def dip_vae_i(
    lambda_od: float, lambda_d: float | None = None, likelihood: Likelihood | None = None
) -> Objective:
    """DIP-VAE-I (Kumar et al. 2018, arXiv:1711.00848): draws the means' covariance to identity.

    Args:
        lambda_od: Weight of squared off-diagonal entries.
        lambda_d: Weight of squared (diagonal - 1); 10 lambda_od if None, the field's protocol.
        likelihood: Bernoulli if None.
    """
    lambda_d = 10.0 * lambda_od if lambda_d is None else lambda_d
    return _dip("dip_vae_i", lambda_od, lambda_d, likelihood, covariance_of_means)


def dip_vae_ii(
    lambda_od: float, lambda_d: float | None = None, likelihood: Likelihood | None = None
) -> Objective:
    """DIP-VAE-II: as I, on the covariance of z, which adds the mean posterior variance.

    Args:
        lambda_od: Weight of squared off-diagonal entries.
        lambda_d: Weight of squared (diagonal - 1); lambda_od if None, the field's protocol.
        likelihood: Bernoulli if None.
    """
    lambda_d = lambda_od if lambda_d is None else lambda_d

    def covariance(mean, logvar):
        return covariance_of_means(mean, logvar) + jnp.diag(jnp.mean(jnp.exp(logvar), axis=0))

    return _dip("dip_vae_ii", lambda_od, lambda_d, likelihood, covariance)


def covariance_of_means(mean: Array, logvar: Array) -> Array:
    """Covariance over the batch, divided by the batch size: (latents, latents)."""
    centred = mean - jnp.mean(mean, axis=0, keepdims=True)
    return centred.T @ centred / mean.shape[0]


def dip_penalty(covariance: Array, lambda_od: float, lambda_d: float) -> Array:
    """lambda_od sum offdiag^2 + lambda_d sum (diag - 1)^2; zero at the identity."""
    diagonal = jnp.diag(covariance)
    off_diagonal = covariance - jnp.diag(diagonal)
    return lambda_od * jnp.sum(off_diagonal**2) + lambda_d * jnp.sum((diagonal - 1.0) ** 2)


def _dip(name, lambda_od, lambda_d, likelihood, covariance_fn) -> Objective:
    likelihood = likelihood or bernoulli()

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        latents = trace.activations["latent/mean"], trace.activations["latent/logvar"]
        penalty = dip_penalty(covariance_fn(*latents), lambda_od, lambda_d)
        return reconstruction + kl + penalty, {**terms, "dip_penalty": penalty}

    return Objective(name, no_state, loss, no_update, likelihood)
