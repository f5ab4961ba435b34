"""Objectives with an opponent: FactorVAE and the adversarial VAE.

A discriminator tells two kinds of vectors apart: codes from permuted codes, or images from decoded
ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

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
    its logit difference estimates TC. The discriminator's loss sends no gradient to the encoder,
    and the encoder's loss none to the discriminator.

    Args:
        gamma: Weight of the total correlation.
        likelihood: Bernoulli if None.
        widths: Hidden layers of the discriminator (leaky ReLU 0.2).
        learning_rate: Of the discriminator's Adam, with betas (0.5, 0.9).
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


def adversarial_vae(
    weight: float,
    image_size: int,
    likelihood: Likelihood | None = None,
    *,
    widths: tuple[int, ...] = (256, 256),
    learning_rate: float = 1e-4,
) -> Objective:
    """ELBO plus an adversarial term on the decoded image.

    The loss is reconstruction + KL - weight E log D(decoded image), where D is the probability of
    being data that a discriminator gives the image (the non-saturating form). It serves AVAE
    (Plumerault, Le Borgne and Hudelot 2020, arXiv:2012.11551), which gives the decoder additional
    noise for the details that the posterior leaves out; take the model ``models.adversarial_vae``.
    Unlike in the paper, one decoder is trained by both terms, as in VAE/GAN (Larsen et al. 2016,
    arXiv:1512.09300), and the encoder does not pass over decoded images a second time. The loss
    sends no gradient to the discriminator, and the discriminator's loss none to the model.

    Args:
        weight: Weight of the adversarial term, in nats per image.
        image_size: Number of values in an image, which the discriminator reads flattened.
        likelihood: Bernoulli if None.
        widths: Hidden layers of the discriminator (leaky ReLU 0.2).
        learning_rate: Of the discriminator's Adam, with betas (0.5, 0.9).
    """
    likelihood = likelihood or bernoulli()
    opponent = adversary(widths, learning_rate)

    def init(key, params):
        return opponent.init(key, image_size)

    def decoded(trace):
        return likelihood.mean(trace.outputs).reshape(trace.outputs.shape[0], -1)

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        weights, _ = state
        taken_for_data = jax.nn.log_softmax(opponent.logits(weights, decoded(trace)))[:, 0]
        adversarial = -jnp.mean(taken_for_data)
        return reconstruction + kl + weight * adversarial, {**terms, "adversarial": adversarial}

    def update(params, state, trace, images, key):
        state, value = opponent.step(state, images.reshape(images.shape[0], -1), decoded(trace))
        return params, state, {"discriminator_loss": value}

    return Objective("adversarial_vae", init, loss, update, likelihood)


class Discriminator(nn.Module):
    """Dense network from vectors to two logits: (real, made)."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Maps (batch, size) to (batch, 2)."""
        for width in self.widths:
            z = nn.leaky_relu(nn.Dense(width)(z), 0.2)
        return nn.Dense(2)(z)


class Adversary(NamedTuple):
    """A discriminator and its optimiser; the state is (weights, optimiser state).

    Attributes:
        init: (key, size of the vectors) to state.
        logits: (weights, vectors) to (batch, 2): real, made.
        step: (state, real, made) to (state, cross-entropy); no gradient leaves it.
    """

    init: Callable[[Array, int], Any]
    logits: Callable[[Any, Array], Array]
    step: Callable[[Any, Array, Array], tuple[Any, Array]]


def adversary(widths: tuple[int, ...], learning_rate: float) -> Adversary:
    """A discriminator trained by Adam with betas (0.5, 0.9), the field's setting.

    Args:
        widths: Hidden layers.
        learning_rate: Of Adam.
    """
    network = Discriminator(widths)
    optimizer = optax.adam(learning_rate, b1=0.5, b2=0.9)

    def init(key, size):
        weights = network.init(key, jnp.zeros((1, size)))["params"]
        return weights, optimizer.init(weights)

    def logits(weights, vectors) -> Array:
        return jnp.asarray(network.apply({"params": weights}, vectors))

    def step(state, real, made):
        real, made = jax.lax.stop_gradient((real, made))
        weights, optimizer_state = state

        def cross_entropy(weights):
            log_real = jax.nn.log_softmax(logits(weights, real))
            log_made = jax.nn.log_softmax(logits(weights, made))
            return -0.5 * (jnp.mean(log_real[:, 0]) + jnp.mean(log_made[:, 1]))

        value, gradient = jax.value_and_grad(cross_entropy)(weights)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(weights, updates), optimizer_state), value

    return Adversary(init, logits, step)
