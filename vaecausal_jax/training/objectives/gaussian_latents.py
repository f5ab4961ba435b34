"""Objectives of Gaussian latents: VAE, beta-VAE, DIP-VAE, beta-TC-VAE.

Each is the ELBO with another weight or one more term: of the covariance of the latents, or of their
total correlation, by minibatch estimates of the aggregate posterior.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, elbo_terms, no_state, no_update


def vae(likelihood: Likelihood | None = None) -> Objective:
    """The VAE of Kingma and Welling (arXiv:1312.6114): negative ELBO."""
    return beta_vae(1.0, likelihood)._replace(name="vae")


def beta_vae(beta: float, likelihood: Likelihood | None = None) -> Objective:
    """beta-VAE (Higgins et al. 2017): reconstruction + beta KL."""
    likelihood = likelihood or bernoulli()

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        return reconstruction + beta * kl, terms

    return Objective("beta_vae", no_state, loss, no_update, likelihood)


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
    """DIP-VAE-II: draws the covariance of z to identity, the means' plus the mean variance.

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


def beta_tc_vae(
    beta: float,
    num_images: int,
    likelihood: Likelihood | None = None,
    *,
    stratified: bool = False,
) -> Objective:
    """beta-TC-VAE (Chen et al. 2018, arXiv:1802.04942) with alpha = gamma = 1.

    Loss: reconstruction + KL + (beta - 1) TC, the KL in closed form, TC by minibatch weighted
    sampling or by stratified sampling. The recorded TC keeps its constants (disentanglement_lib
    drops them; gradients are the same); for a value in nats to report, take the stratified one, see
    ``total_correlation``.

    Args:
        beta: Weight of the total correlation.
        num_images: Size of the data set that batches are drawn from.
        likelihood: Bernoulli if None.
        stratified: Which estimator of the aggregate posterior, see ``log_importance_weights``.
    """
    likelihood = likelihood or bernoulli()

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        latent = (trace.activations[f"latent/{name}"] for name in ("z", "mean", "logvar"))
        tc = total_correlation(*latent, num_images=num_images, stratified=stratified)
        return reconstruction + kl + (beta - 1.0) * tc, {**terms, "tc": tc}

    return Objective("beta_tc_vae", no_state, loss, no_update, likelihood)


def total_correlation(
    z: Array, mean: Array, logvar: Array, *, num_images: int, stratified: bool = False
) -> Array:
    """Estimates KL(q(z) || prod_k q(z_k)) in nats from one batch.

    The weighted estimate is good for gradients only. It takes each log density too low, by
    log batch where posteriors lie apart and by log num_images where they overlap. With K latents
    the estimate is therefore too high by (K - 1) log batch to K log num_images - log batch, and by
    (K - 1) log num_images where all overlap. The stratified weights sum to one and have no such
    offset.

    Args:
        z: Posterior samples, (batch, latents).
        mean: Posterior means, (batch, latents).
        logvar: Posterior log-variances, (batch, latents).
        num_images: Size of the data set.
        stratified: Estimator, see ``log_importance_weights``.
    """
    joint, marginals = log_aggregate_posterior(
        z, mean, logvar, num_images=num_images, stratified=stratified
    )
    return jnp.mean(joint - jnp.sum(marginals, axis=1))


def log_aggregate_posterior(
    z: Array, mean: Array, logvar: Array, *, num_images: int, stratified: bool = False
) -> tuple[Array, Array]:
    """Log densities of the aggregate posterior at ``z``: joint (batch,), marginal (batch, latents).

    The weights enter once per pair of images, after the latents of the joint are summed.
    """
    log_weights = log_importance_weights(z.shape[0], num_images, stratified=stratified)
    # [i, j, k]: log q(z_ik | x_j)
    standard = (z[:, None, :] - mean[None, :, :]) * jnp.exp(-0.5 * logvar)[None, :, :]
    log_density = -0.5 * (standard**2 + (logvar + math.log(2 * math.pi))[None, :, :])
    joint = jax.nn.logsumexp(log_density.sum(axis=2) + log_weights, axis=1)
    marginals = jax.nn.logsumexp(log_density + log_weights[:, :, None], axis=1)
    return joint, marginals


def log_importance_weights(batch_size: int, num_images: int, *, stratified: bool) -> Array:
    """Log weights [i, j] of posterior j in the estimate of q(z_i): (batch, batch).

    Minibatch weighted sampling gives 1 / (batch N) to every posterior. Minibatch stratified
    sampling (Chen et al. 2018, appendix C.2), with M = batch - 1, gives 1/N to the sample's own
    posterior (the diagonal), (N - M) / (N M) to one other, 1/M to the rest: rows sum to one.

    Raises:
        ValueError: A batch larger than the data set, or stratified sampling of fewer than 2.
    """
    if num_images < batch_size or (stratified and batch_size < 2):
        raise ValueError(
            f"batch of {batch_size} from num_images = {num_images}: num_images is the size of the "
            "data set, at least the batch (and 2)."
        )
    if not stratified:
        return jnp.full((batch_size, batch_size), -math.log(batch_size * num_images))
    m = batch_size - 1
    own, special = 1.0 / num_images, (num_images - m) / (num_images * m)
    column = (jnp.arange(batch_size)[None, :] - jnp.arange(batch_size)[:, None]) % batch_size
    weights = jnp.where(column == 0, own, jnp.where(column == 1, special, 1.0 / m))
    return jnp.log(weights)
