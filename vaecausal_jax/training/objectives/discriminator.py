"""A network that tells two kinds of vectors apart, for FactorVAE and the adversarial VAE."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array


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
    """A discriminator with its own optimiser; its state is (weights, optimiser state).

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
        learning_rate: Adam's.
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
