"""Encoders, latents and decoders as Linen modules that name their values on a tape.

A network maps one image: ``network(x, eps, tape) -> outputs``. Sites are named after activation
functions, in the order ``input/image``, ``encoder/*``, ``latent/*``, ``decoder/*``.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.interventions.changed import Value, whole
from vaecausal_jax.interventions.sites import Tape
from vaecausal_jax.models import layers


class Dense(nn.Module):
    """A dense layer over the last ``axes`` axes of its input; parameters as Flax's ``nn.Dense``."""

    features: int
    axes: int = 1

    @nn.compact
    def __call__(self, x: Value) -> Value:
        """Maps (*leading, *contracted) to (*leading, features)."""
        inputs = math.prod(x.shape[len(x.shape) - self.axes :])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return layers.dense(x, kernel, bias, axes=self.axes)


class Conv(nn.Module):
    """A stride-``stride`` convolution of one image with SAME padding, or its transpose.

    Parameters are laid out as Flax's ``nn.Conv`` and ``nn.ConvTranspose``; only the arithmetic
    differs (see ``vaecausal_jax.models.convolution``).
    """

    features: int
    kernel_size: int
    stride: int
    convolve: Callable[..., Value] = layers.conv

    @nn.compact
    def __call__(self, x: Value) -> Value:
        """Maps (height, width, in) to (height', width', features)."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return self.convolve(x, kernel, bias, stride=self.stride)


class ConvEncoder(nn.Module):
    """Stride-2 convolutions, then dense layers, ReLU after each."""

    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    dense: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Value, tape: Tape) -> Value:
        """Maps an image to a feature vector."""
        layers = zip(self.channels, self.kernel_sizes, strict=True)
        for i, (features, size) in enumerate(layers):
            x = _relu(Conv(features, size, 2, name=f"conv{i}")(x))
            x = tape(f"encoder/conv{i}", x)
        return _dense_stack(x, self.dense, "encoder", tape)


class ConvDecoder(nn.Module):
    """Dense layers to a small map, then stride-2 4x4 transposed convolutions, ReLU between."""

    dense: tuple[int, ...]
    channels: tuple[int, ...]
    image_shape: tuple[int, int, int]
    head: str

    @nn.compact
    def __call__(self, z: Value, tape: Tape) -> Value:
        """Maps a latent vector to the image's logits or means."""
        height, width, image_channels = self.image_shape
        down = 2 ** len(self.channels)
        start = (height // down, width // down, self.channels[0])
        h = _dense_stack(z, (*self.dense, math.prod(start)), "decoder", tape)
        h = layers.unflatten(h, start)
        return _upsample(h, (*self.channels[1:], image_channels), self.head, tape)


class MLPEncoder(nn.Module):
    """Dense layers on the flattened image."""

    dense: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Value, tape: Tape) -> Value:
        """Maps an image to a feature vector."""
        return _dense_stack(x, self.dense, "encoder", tape)


class MLPDecoder(nn.Module):
    """Dense layers to the flattened image; with no hidden layer, a linear decoder."""

    dense: tuple[int, ...]
    image_shape: tuple[int, int, int]
    head: str

    @nn.compact
    def __call__(self, z: Value, tape: Tape) -> Value:
        """Maps a latent vector to the image's logits or means."""
        height, width, channels = self.image_shape
        h = _dense_stack(z, self.dense, "decoder", tape)
        pixels = Dense(height * width * channels, name=self.head)(h)
        return tape(f"decoder/{self.head}", whole(pixels).reshape(self.image_shape))


class GaussianVAE(nn.Module):
    """A VAE with diagonal Gaussian posterior: ``z = mean + exp(logvar / 2) eps``.

    With ``shared_variance`` the log-variance is one free parameter a latent, the same for all
    images, as in the linear VAE of Lucas et al. 2019 (arXiv:1911.02469). With ``whitening`` the
    decoder is reached through a site of whitened latents.
    """

    encoder: nn.Module
    decoder: nn.Module
    latent_size: int
    shared_variance: bool = False
    whitening: bool = False

    @nn.compact
    def __call__(self, x: Array, eps: Array, tape: Tape) -> Value:
        """Maps an image and its noise (latent,) to the decoder's outputs."""
        h = self.encoder(tape("input/image", x), tape)
        logvar = None
        if self.shared_variance:
            logvar = self.param("logvar", nn.initializers.zeros_init(), (self.latent_size,))
        z = _sample_latents(h, eps, tape, self.latent_size, logvar)
        if self.whitening:
            z = Whitening(self.latent_size, name="whitening")(z, tape)
        return self.decoder(z, tape)


class Whitening(nn.Module):
    """Linear coordinates of the latents, and back: site ``latent/whitened``.

    Its parameters are not trained by gradient (``objectives.fit_whitening`` sets them); at first
    they change nothing.
    """

    latent_size: int

    @nn.compact
    def __call__(self, z: Value, tape: Tape) -> Array:
        """Maps (latents,) to the same through its whitened coordinates."""
        size = (self.latent_size, self.latent_size)

        def fixed(name, initial, shape):
            return jax.lax.stop_gradient(self.param(name, initial, shape))

        shift = fixed("shift", nn.initializers.zeros_init(), size[:1])
        to = fixed("to", _identity, size)
        back = fixed("back", _identity, size)
        white = whole(tape("latent/whitened", to @ (whole(z) - shift)))
        return back @ white + shift


class DetailVAE(nn.Module):
    """A Gaussian VAE whose decoder has noise of its own, site ``latent/detail``.

    For what the posterior leaves out: the details that make an image look like one (Plumerault et
    al. 2020, arXiv:2012.11551).
    """

    encoder: nn.Module
    decoder: nn.Module
    latent_size: int

    @nn.compact
    def __call__(self, x: Array, eps: Array, tape: Tape) -> Value:
        """Maps an image and its noise (latent + detail,) to the decoder's outputs."""
        h = self.encoder(tape("input/image", x), tape)
        z = whole(_sample_latents(h, eps[: self.latent_size], tape, self.latent_size))
        detail = whole(tape("latent/detail", eps[self.latent_size :]))
        return self.decoder(jnp.concatenate([z, detail.astype(z.dtype)]), tape)


class SemiSupervisedVAE(nn.Module):
    """A code of a class and of Gaussian latents (Li et al. 2017, arXiv:1709.05047).

    An image is (1, values + classes, 1), of which the encoder reads the values. Sites:
    ``latent/class_logits``, ``latent/class`` its probabilities, which the decoder reads beside
    ``latent/z``, and ``decoder/columns``, the values' outputs and then the class's logits.
    """

    encoder: nn.Module
    decoder: nn.Module
    latent_size: int
    num_classes: int

    @nn.compact
    def __call__(self, x: Array, eps: Array, tape: Tape) -> Value:
        """Maps a row and its noise (latent,) to the outputs of its values and class."""
        row = whole(tape("input/image", x))
        h = self.encoder(row[:, : -self.num_classes], tape)
        logits = Dense(self.num_classes, len(h.shape), name="classes")(h)
        logits = whole(tape("latent/class_logits", logits))
        chosen = whole(tape("latent/class", nn.softmax(logits)))
        z = whole(_sample_latents(h, eps, tape, self.latent_size))
        values = whole(self.decoder(jnp.concatenate([chosen, z]), tape))
        outputs = jnp.concatenate([values, logits[None, :, None]], axis=1)
        return tape("decoder/columns", outputs, unit_axis=1)


class VectorQuantised(nn.Module):
    """VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): each position takes its nearest code.

    Sites: ``latent/pre`` before quantisation, ``latent/codes`` the code numbers, ``latent/z`` the
    codes' embeddings. Gradients pass straight through where the code is the natural one; where an
    intervention chose another, ``z`` does not depend on the encoder and its gradient is zero.
    """

    channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    num_codes: int
    code_size: int
    image_shape: tuple[int, int, int]
    head: str

    @nn.compact
    def __call__(self, x: Array, eps: Array, tape: Tape) -> Value:
        """Maps an image to the decoder's outputs; ``eps`` is empty, the model has no noise."""
        h = tape("input/image", x)
        for i, features in enumerate(self.channels):
            h = _relu(Conv(features, 4, 2, name=f"encoder_conv{i}")(h))
            h = tape(f"encoder/conv{i}", h)
        pre = whole(tape("latent/pre", Dense(self.code_size, name="to_codes")(h)))
        uniform = nn.initializers.variance_scaling(1.0, "fan_out", "uniform")
        codebook = self.param("codebook", uniform, (self.num_codes, self.code_size))
        natural = nearest_codes(pre, codebook)
        codes = whole(tape("latent/codes", natural, unit_axis=None))
        chosen = codebook.at[codes].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )
        # The bracket is exactly zero: it carries the gradient and leaves the value alone.
        through = jnp.where((codes == natural)[..., None], pre - jax.lax.stop_gradient(pre), 0.0)
        z = tape("latent/z", jax.lax.stop_gradient(chosen) + through)
        h = _relu(Dense(self.decoder_channels[0], name="from_codes")(z))
        h = tape("decoder/dense0", h)
        return _upsample(h, (*self.decoder_channels[1:], self.image_shape[-1]), self.head, tape)


def nearest_codes(pre: Array, codebook: Array) -> Array:
    """Index of the nearest code at each position: (..., dim) and (codes, dim) to (...) int32."""
    flat = pre.reshape(-1, pre.shape[-1])
    distances = jnp.sum(codebook**2, axis=1)[None, :] - 2.0 * flat @ codebook.T
    # The first of the smallest, by two plain minima: XLA's argmin is slow on a CPU.
    nearest = distances == jnp.min(distances, axis=1, keepdims=True)
    numbers = jnp.arange(codebook.shape[0], dtype=jnp.int32)[None, :]
    codes = jnp.min(jnp.where(nearest, numbers, codebook.shape[0]), axis=1)
    return codes.reshape(pre.shape[:-1])


def _sample_latents(
    h: Value, eps: Array, tape: Tape, latent_size: int, logvar: Array | None = None
) -> Value:
    """The posterior's mean, log-variance and sample, called inside a compact module."""
    mean = tape("latent/mean", Dense(latent_size, len(h.shape), name="mean")(h))
    if logvar is None:
        spread = Dense(latent_size, len(h.shape), name="logvar")(h)
    else:
        spread = logvar.astype(mean.dtype)
    spread = tape("latent/logvar", spread)
    z = layers.elementwise(lambda m, v, e: m + jnp.exp(0.5 * v) * e, mean, spread, eps)
    return tape("latent/z", z)


def _identity(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.eye(shape[0])


def _upsample(h: Value, features: tuple[int, ...], head: str, tape: Tape) -> Value:
    """Transposed convolutions, called inside a compact module; the last one is the head."""
    *hidden, last = features
    for i, width in enumerate(hidden):
        h = _relu(Conv(width, 4, 2, layers.conv_transpose, name=f"conv{i}")(h))
        h = tape(f"decoder/conv{i}", h)
    return tape(f"decoder/{head}", Conv(last, 4, 2, layers.conv_transpose, name=head)(h))


def _dense_stack(x: Value, features: tuple[int, ...], part: str, tape: Tape) -> Value:
    """Dense layers with ReLU, called inside a compact module; the first flattens its input."""
    for i, width in enumerate(features):
        x = _relu(Dense(width, len(x.shape), name=f"dense{i}")(x))
        x = tape(f"{part}/dense{i}", x)
    return x


def _relu(x: Value) -> Value:
    return layers.elementwise(nn.relu, x)
