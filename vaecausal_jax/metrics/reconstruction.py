"""How well a model reconstructs: squared error, cross-entropy, structural similarity, ELBO.

For one image, (height, width, channels) in [0, 1], the sample's own numbers and no network's
features: batch with ``jax.vmap``. KL per latent is ``objectives.kl_per_latent``, active units
``effects.active_units``.
"""

import math
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
        kl: KL from the prior, one a latent, (latents,).
    """

    value: Array
    reconstruction: Array
    kl: Array


def elbo(likelihood: Likelihood, outputs: Array, image: Array, mean: Array, logvar: Array) -> Elbo:
    """Evidence lower bound of one image (Kingma and Welling 2014, arXiv:1312.6114).

    One-sample estimate log p(x | z) - KL(q(z | x) || p(z)) where ``outputs`` decode a sample z. On
    the decoded mean it is not a bound; some published "reconstructions" are that.

    Args:
        likelihood: How outputs are read.
        outputs: The decoder's, (height, width, channels).
        image: (height, width, channels).
        mean: Of the posterior, (latents,).
        logvar: Of the posterior, (latents,).
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

    Not zero for a perfect reconstruction of a grey image, but that image's own entropy.

    Raises:
        ValueError: Shapes that differ, or a concrete image outside [0, 1].
    """
    image = native(image)
    _check_same_shape(image, logits)
    check_unit(image, "cross-entropy reads")
    # log(1 + exp(l)) - x l
    return jnp.mean(jnp.logaddexp(logits, 0.0) - image * logits)


def structural_similarity(
    image: Array, reconstruction: Array, *, data_range: float = 1.0, sigma: float = 1.5
) -> Array:
    """SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861): 1 for equal images.

    Mean over windows and channels of (2 m m' + c1)(2 cov + c2) / ((m^2 + m'^2 + c1)(v + v' + c2))
    with Gaussian windows of 11 x 11 pixels wholly inside the image, c1 = (0.01 range)^2 and
    c2 = (0.03 range)^2. Population moments, as in the paper; scikit-image's default differs (7 x 7
    uniform windows, sample moments) and agrees with ``gaussian_weights=True,
    use_sample_covariance=False`` up to the border, which it pads and then crops.

    Args:
        image: (height, width, channels), 11 x 11 or more.
        reconstruction: Of the same shape.
        data_range: Of the pixel values.
        sigma: Of the window, in pixels.

    Raises:
        ValueError: Shapes that differ, whole numbers, or an image smaller than the window.
    """
    image, reconstruction = _of_floats(image, reconstruction)
    size = 2 * math.ceil(3.33 * sigma) + 1
    if min(image.shape[:2]) < size:
        raise ValueError(f"image has shape {image.shape}, smaller than the {size} x {size} window.")
    offsets = jnp.arange(size) - size // 2
    window = jnp.exp(-(offsets**2) / (2 * sigma**2))
    window /= window.sum()

    def blur(x):
        return _slide(_slide(x, window, 0), window, 1)

    # Second moments about each image's mean, lest bright images lose theirs to rounding.
    centre_x, centre_y = jnp.mean(image), jnp.mean(reconstruction)
    x, y = image - centre_x, reconstruction - centre_y
    shift_x, shift_y = blur(x), blur(y)
    variance_x = blur(x**2) - shift_x**2
    variance_y = blur(y**2) - shift_y**2
    covariance = blur(x * y) - shift_x * shift_y
    mean_x, mean_y = shift_x + centre_x, shift_y + centre_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return jnp.mean(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2))


def _slide(x: Array, window: Array, axis: int) -> Array:
    """Weighted sum along one axis, windows inside the image only."""
    valid = x.shape[axis] - window.size + 1
    parts = (jnp.take(x, jnp.arange(i, i + valid), axis=axis) for i in range(window.size))
    return sum((w * part for w, part in zip(window, parts, strict=True)), jnp.zeros(()))


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
