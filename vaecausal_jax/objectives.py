"""Objectives: what makes a VAE a beta-VAE, FactorVAE, beta-TC-VAE, DIP-VAE or VQ-VAE.

An ``Objective`` is three pure functions of a batched ``Trace`` (every array with a leading batch
axis). A new family is a new function here; neither networks nor the trainer know about it. All
losses are in nats per image: summed over pixels and latents, averaged over the batch.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vaecausal_jax.sites import Array, Trace

Terms = dict[str, Array]


class Likelihood(NamedTuple):
    """How the decoder's outputs are read as a distribution over images.

    Attributes:
        name: ``"bernoulli"`` or ``"gaussian"``.
        head: Name of the decoder's last site under this likelihood.
        log_prob: (outputs, images) to log p in nats, summed over the last three axes.
        mean: outputs to the expected image.
    """

    name: str
    head: str
    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]


class Objective(NamedTuple):
    """A training objective.

    Attributes:
        name: Family name.
        init: (key, params) to the objective's own state: a discriminator, moving averages, or ().
        loss: (params, state, trace, images, key) to (scalar to minimise, terms to record).
        update: (params, state, trace, images, key) to (params, state, terms), called after each
            gradient step on ``params``; what is not learned by that gradient is learned here.
        likelihood: The one its loss reads the outputs by, if any; the trainer checks it against the
            model's head.
    """

    name: str
    init: Callable[[Array, Any], Any]
    loss: Callable[[Any, Any, Trace, Array, Array], tuple[Array, Terms]]
    update: Callable[[Any, Any, Trace, Array, Array], tuple[Any, Any, Terms]]
    likelihood: Likelihood | None = None


def bernoulli() -> Likelihood:
    """Independent Bernoulli pixels; outputs are logits. Images may be grey: the field's habit."""

    def log_prob(logits, images):
        # log(1 + e^l) without overflow; cheaper on a CPU than logaddexp. The exponent is -|l|,
        # written so that the gradient at l = 0 is right: that of abs would not cancel the kink.
        positive = jax.nn.relu(logits)
        softplus = positive + jnp.log1p(jnp.exp(logits - 2.0 * positive))
        return jnp.sum(images * logits - softplus, axis=(-3, -2, -1))

    return Likelihood("bernoulli", "logits", log_prob, jax.nn.sigmoid)


def gaussian(variance: float = 1.0) -> Likelihood:
    """Independent Gaussian pixels with fixed variance; outputs are means."""
    constant = math.log(2 * math.pi * variance)

    def log_prob(means, images):
        return -0.5 * jnp.sum((images - means) ** 2 / variance + constant, axis=(-3, -2, -1))

    return Likelihood("gaussian", "mean", log_prob, lambda means: means)


def kl_per_latent(mean: Array, logvar: Array) -> Array:
    """KL from N(mean, exp(logvar)) to N(0, 1) in nats, elementwise."""
    return 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)


def vae(likelihood: Likelihood | None = None) -> Objective:
    """The VAE of Kingma and Welling (arXiv:1312.6114): negative ELBO."""
    return beta_vae(1.0, likelihood)._replace(name="vae")


def beta_vae(beta: float, likelihood: Likelihood | None = None) -> Objective:
    """beta-VAE (Higgins et al. 2017): reconstruction + beta KL."""
    likelihood = likelihood or bernoulli()

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = _elbo(likelihood, trace, images)
        return reconstruction + beta * kl, terms

    return Objective("beta_vae", _no_state, loss, _no_update, likelihood)


def factor_vae(
    gamma: float,
    likelihood: Likelihood | None = None,
    *,
    widths: tuple[int, ...] = (1000,) * 6,
    learning_rate: float = 1e-4,
    second_batch: bool = False,
) -> Objective:
    """FactorVAE (Kim and Mnih 2018, arXiv:1802.05983): ELBO - gamma TC by a density ratio.

    The discriminator tells codes from codes permuted per dimension across the batch; the mean of
    its logit difference estimates TC. Its gradient never reaches the encoder, nor the encoder's
    loss the discriminator.

    Args:
        gamma: Weight of the total correlation.
        likelihood: Bernoulli if None.
        widths: Hidden layers of the discriminator (leaky ReLU 0.2).
        learning_rate: The discriminator's, Adam with betas (0.5, 0.9).
        second_batch: If true the batch is split: one half trains the VAE, the other is permuted,
            as in the paper (of an odd batch the last image is left out). If false the same codes
            serve twice, as in disentanglement_lib.
    """
    likelihood = likelihood or bernoulli()
    discriminator = Discriminator(widths)
    optimizer = optax.adam(learning_rate, b1=0.5, b2=0.9)

    def init(key, params):
        if "mean" not in params:
            raise ValueError(_needs("factor_vae", "Gaussian latents", "params['mean']", params))
        latent_size = params["mean"]["bias"].shape[0]
        weights = discriminator.init(key, jnp.zeros((1, latent_size)))["params"]
        return weights, optimizer.init(weights)

    def discriminate(weights, z) -> Array:
        return jnp.asarray(discriminator.apply({"params": weights}, z))

    def split(trace, images):
        if not second_batch:
            return trace, images, trace.activations["latent/z"]
        half = images.shape[0] // 2
        if half < 1:
            raise ValueError("second_batch splits the batch in two: it needs 2 images, got 1.")
        first, second = (jax.tree.map(lambda a: a[:half], trace), trace.activations["latent/z"])
        return first, images[:half], second[half : 2 * half]

    def loss(params, state, trace, images, key):
        trace, images, _ = split(trace, images)
        reconstruction, kl, terms = _elbo(likelihood, trace, images)
        weights, _ = state
        logits = discriminate(weights, trace.activations["latent/z"])
        tc = jnp.mean(logits[:, 0] - logits[:, 1])
        return reconstruction + kl + gamma * tc, {**terms, "tc": tc}

    def update(params, state, trace, images, key):
        trace, images, other = split(trace, images)
        real = jax.lax.stop_gradient(trace.activations["latent/z"])
        permuted = permute_latents(key, jax.lax.stop_gradient(other))
        weights, optimizer_state = state

        def cross_entropy(weights):
            log_real = jax.nn.log_softmax(discriminate(weights, real))
            log_permuted = jax.nn.log_softmax(discriminate(weights, permuted))
            return -0.5 * (jnp.mean(log_real[:, 0]) + jnp.mean(log_permuted[:, 1]))

        value, gradient = jax.value_and_grad(cross_entropy)(weights)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        state = optax.apply_updates(weights, updates), optimizer_state
        return params, state, {"discriminator_loss": value}

    return Objective("factor_vae", init, loss, update, likelihood)


class Discriminator(nn.Module):
    """Dense network from codes to two logits: (real, permuted)."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Maps (batch, latents) to (batch, 2)."""
        for width in self.widths:
            z = nn.leaky_relu(nn.Dense(width)(z), 0.2)
        return nn.Dense(2)(z)


def permute_latents(key: Array, z: Array) -> Array:
    """Permutes each latent across the batch, independently: (batch, latents), same marginals."""
    return jax.random.permutation(key, z, axis=0, independent=True)


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
        reconstruction, kl, terms = _elbo(likelihood, trace, images)
        latent = (trace.activations[f"latent/{name}"] for name in ("z", "mean", "logvar"))
        tc = total_correlation(*latent, num_images=num_images, stratified=stratified)
        return reconstruction + kl + (beta - 1.0) * tc, {**terms, "tc": tc}

    return Objective("beta_tc_vae", _no_state, loss, _no_update, likelihood)


def total_correlation(
    z: Array, mean: Array, logvar: Array, *, num_images: int, stratified: bool = False
) -> Array:
    """Estimates KL(q(z) || prod_k q(z_k)) in nats from one batch.

    The weighted estimate is good for gradients only. It takes each log density too low, by
    log batch where posteriors lie apart and by log num_images where they overlap, so with K latents
    it is too high by (K - 1) log batch to K log num_images - log batch, and by
    (K - 1) log num_images where all overlap. The stratified weights sum to one: no such offset.

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

    The weights enter once a pair of images, after the latents of the joint are summed.
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


def vq_vae(
    likelihood: Likelihood | None = None,
    *,
    commitment: float = 0.25,
    decay: float | None = 0.99,
) -> Objective:
    """VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937).

    Distances are summed over the code's dimensions and averaged over positions, as in the paper.

    Args:
        likelihood: Bernoulli if None.
        commitment: Weight of the distance that pulls the encoder to its code.
        decay: The codebook follows moving averages with this decay; if None it is learned by the
            gradient of its own distance term. A code that was not used stays where it is.
    """
    likelihood = likelihood or bernoulli()

    def init(key, params):
        if "codebook" not in params:
            raise ValueError(_needs("vq_vae", "a codebook", "params['codebook']", params))
        if decay is None:
            return ()
        codebook = params["codebook"]
        return jnp.ones(codebook.shape[0], codebook.dtype), codebook

    def loss(params, state, trace, images, key):
        reconstruction = -jnp.mean(likelihood.log_prob(trace.outputs, images))
        pre, codes = trace.activations["latent/pre"], trace.activations["latent/codes"]
        chosen = params["codebook"][codes]
        to_code = jnp.mean(jnp.sum((pre - jax.lax.stop_gradient(chosen)) ** 2, axis=-1))
        total = reconstruction + commitment * to_code
        if decay is None:
            to_encoder = jnp.mean(jnp.sum((jax.lax.stop_gradient(pre) - chosen) ** 2, axis=-1))
            total += to_encoder
        used = jnp.bincount(codes.reshape(-1), length=params["codebook"].shape[0]) / codes.size
        entropy = -jnp.sum(jax.scipy.special.xlogy(used, used))
        terms = {
            "reconstruction": reconstruction,
            "code_distance": to_code,
            "code_entropy": entropy,
        }
        return total, terms

    def update(params, state, trace, images, key):
        if decay is None:
            return params, state, {}
        counts, sums = state
        pre = trace.activations["latent/pre"].reshape(-1, sums.shape[1])
        codes = trace.activations["latent/codes"].reshape(-1)
        one_hot = jax.nn.one_hot(codes, counts.shape[0], dtype=pre.dtype)
        counts = decay * counts + (1.0 - decay) * one_hot.sum(axis=0)
        sums = decay * sums + (1.0 - decay) * one_hot.T @ pre
        alive = counts[:, None] > 1e-5
        codebook = jnp.where(alive, sums / counts[:, None], params["codebook"])
        return {**params, "codebook": codebook}, (counts, sums), {}

    return Objective("vq_vae", init, loss, update, likelihood)


def _elbo(likelihood: Likelihood, trace: Trace, images: Array) -> tuple[Array, Array, Terms]:
    """Reconstruction and KL in nats per image, and the terms every Gaussian family records."""
    if "latent/logvar" not in trace.activations:
        raise ValueError(
            _needs("this objective", "Gaussian latents", "site 'latent/logvar'", trace.activations)
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


def _dip(name, lambda_od, lambda_d, likelihood, covariance_fn) -> Objective:
    likelihood = likelihood or bernoulli()

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = _elbo(likelihood, trace, images)
        latents = trace.activations["latent/mean"], trace.activations["latent/logvar"]
        penalty = dip_penalty(covariance_fn(*latents), lambda_od, lambda_d)
        return reconstruction + kl + penalty, {**terms, "dip_penalty": penalty}

    return Objective(name, _no_state, loss, _no_update, likelihood)


def _needs(name: str, what: str, missing: str, present: Any) -> str:
    return f"{name} needs a model with {what}: no {missing} among {', '.join(sorted(present))}."


def _no_state(key: Array, params: Any) -> tuple[()]:
    return ()


def _no_update(params: Any, state: Any, trace: Trace, images: Array, key: Array) -> Any:
    return params, state, {}
