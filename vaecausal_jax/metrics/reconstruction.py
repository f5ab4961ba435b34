"""How well a model reconstructs: ELBO, squared error, cross-entropy.

Each takes one image, (height, width, channels) in [0, 1]; batch with ``jax.vmap``. KL per latent is
``objectives.kl_per_latent``, active units ``effects.active_units``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from vaecausal_jax.data.scales import check_unit, native
from vaecausal_jax.training.objectives import Likelihood, kl_per_latent


class Elbo(NamedTuple):
    """Evidence lower bound in nats per image and its terms: value = -reconstruction - sum kl.

    Attributes:
        value: Lower bound on log p(x).
        reconstruction: -log p(x | z), summed over pixels.
        kl: KL of each latent from the prior, (latents,).
    """

    value: Array
    reconstruction: Array
    kl: Array


def elbo(likelihood: Likelihood, outputs: Array, image: Array, mean: Array, logvar: Array) -> Elbo:
    """Evidence lower bound of one image (Kingma and Welling 2014, arXiv:1312.6114).

    The estimate from one sample is log p(x | z) - KL(q(z | x) || p(z)), where ``outputs`` decode a
    sample z. Where they decode the mean it is no bound, as in some published "reconstructions".

    Args:
        likelihood: How outputs are read.
        outputs: Outputs of the decoder, (height, width, channels).
        image: (height, width, channels).
        mean: Posterior mean, (latents,).
        logvar: Posterior log-variance, (latents,).
    """
    reconstruction = -likelihood.log_prob(outputs, image)
    kl = kl_per_latent(mean, logvar)
    return Elbo(-reconstruction - jnp.sum(kl), reconstruction, kl)


def mean_squared_error(image: Array, reconstruction: Array) -> Array:
    """Mean over pixels of the squared difference.

    Raises:
        ValueError: Shapes that differ, or whole numbers, whose differences wrap around.
    """
    image, reconstruction = _of_floats(image, reconstruction)
    return jnp.mean((image - reconstruction) ** 2)


def binary_cross_entropy(image: Array, logits: Array) -> Array:
    """Mean over pixels of -x log p - (1 - x) log(1 - p), p = sigmoid(logits), in nats.

    For a perfect reconstruction of a grey image it is the image's entropy, not zero.

    Raises:
        ValueError: Shapes that differ, or a concrete image outside [0, 1].
    """
    image = native(image)
    _check_same_shape(image, logits)
    check_unit(image, "cross-entropy reads")
    # log(1 + exp(l)) - x l
    return jnp.mean(jnp.logaddexp(logits, 0.0) - image * logits)


def _of_floats(image: Array, other: Array) -> tuple[Array, Array]:
    image, other = native(image), native(other)
    _check_same_shape(image, other)
    for x in (image, other):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"images have dtype {x.dtype}, expected floats in [0, 1]: pass image / 255 of "
                "bytes, image.astype(float) of 0 and 1."
            )
    return image, other


def _check_same_shape(image: Array, other: Array) -> None:
    if image.shape != other.shape or image.ndim != 3:
        raise ValueError(
            f"expected two images (height, width, channels) of one shape, got {image.shape} and "
            f"{other.shape}. Batch with jax.vmap."
        )
