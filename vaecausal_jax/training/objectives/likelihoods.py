"""Likelihoods: how a decoder's outputs are read as a distribution over what it decodes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.data.scales import check_unit, native
from vaecausal_jax.models.products import sum_last


class Likelihood(NamedTuple):
    """How the decoder's outputs are read as a distribution over images.

    Attributes:
        name: Such as ``"bernoulli"`` or ``"gaussian"``.
        head: Name of the decoder's last site under this likelihood.
        log_prob: (outputs, images) to log p in nats, summed over the last three axes.
        mean: outputs to the expected image.
    """

    name: str
    head: str
    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]


def bernoulli() -> Likelihood:
    """Independent Bernoulli pixels; outputs are logits. Images may be grey.

    Concrete images outside [0, 1] raise a ValueError: their "probability" has no bound.
    """

    def log_prob(logits, images):
        images = native(images)
        check_unit(images, "a bernoulli likelihood reads")
        # log(1 + e^l) without overflow; cheaper on a CPU than logaddexp. The exponent is -|l|,
        # written so that the gradient at l = 0 is right: that of abs would not cancel the kink.
        positive = jax.nn.relu(logits)
        softplus = positive + jnp.log1p(jnp.exp(logits - 2.0 * positive))
        return sum_last(images * logits - softplus, 3)

    return Likelihood("bernoulli", "logits", log_prob, jax.nn.sigmoid)


def gaussian(variance: float = 1.0) -> Likelihood:
    """Independent Gaussian pixels with fixed variance; outputs are means."""
    constant = math.log(2 * math.pi * variance)

    def log_prob(means, images):
        images = native(images)
        return -0.5 * sum_last((images - means) ** 2 / variance + constant, 3)

    return Likelihood("gaussian", "mean", log_prob, lambda means: means)


def multinomial() -> Likelihood:
    """One multinomial over all entries of the outputs; counts in, logits out.

    log p = sum_i x_i log softmax(logits)_i, without the multinomial coefficient, which depends on
    the data alone (Liang et al. 2018, arXiv:1802.05814). The expected "image" holds each entry's
    probability.
    """
    axes = (-3, -2, -1)

    def log_prob(logits, counts):
        counts = native(counts)
        return sum_last(counts * jax.nn.log_softmax(logits, axis=axes), 3)

    def mean(logits):
        return jax.nn.softmax(logits, axis=axes)

    return Likelihood("multinomial", "logits", log_prob, mean)
