"""FactorVAE: total correlation by a density ratio."""

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.training.objectives.discriminator import adversary
from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, elbo_terms, needs


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
    opponent = adversary(widths, learning_rate)

    def init(key, params):
        if "mean" not in params:
            raise ValueError(needs("factor_vae", "Gaussian latents", "params['mean']", params))
        return opponent.init(key, params["mean"]["bias"].shape[0])

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
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        weights, _ = state
        logits = opponent.logits(weights, trace.activations["latent/z"])
        tc = jnp.mean(logits[:, 0] - logits[:, 1])
        return reconstruction + kl + gamma * tc, {**terms, "tc": tc}

    def update(params, state, trace, images, key):
        trace, images, other = split(trace, images)
        permuted = permute_latents(key, other)
        state, value = opponent.step(state, trace.activations["latent/z"], permuted)
        return params, state, {"discriminator_loss": value}

    return Objective("factor_vae", init, loss, update, likelihood)


def permute_latents(key: Array, z: Array) -> Array:
    """Permutes each latent across the batch, independently: (batch, latents), same marginals."""
    return jax.random.permutation(key, z, axis=0, independent=True)
