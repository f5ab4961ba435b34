"""Architectures: functions from sizes to a ``Model``.

The six families differ in their objective (``training.objectives``); VAE, beta-VAE, FactorVAE,
beta-TC-VAE and DIP-VAE run on any of ``conv_vae``, ``mlp_vae`` and ``linear_vae``. Further families
add a head: ``whitened`` to any of these, ``adversarial_vae``, ``semi_supervised_vae``.
"""

import dataclasses

from vaecausal_jax.models.model import Model
from vaecausal_jax.models.networks import (
    ConvDecoder,
    ConvEncoder,
    DetailVAE,
    GaussianVAE,
    MLPDecoder,
    MLPEncoder,
    SemiSupervisedVAE,
    VectorQuantised,
)


def conv_vae(
    image_shape: tuple[int, int, int] = (64, 64, 1),
    *,
    latent_size: int = 10,
    encoder_channels: tuple[int, ...] = (32, 32, 64, 64),
    encoder_kernels: tuple[int, ...] | None = None,
    encoder_dense: tuple[int, ...] = (256,),
    decoder_dense: tuple[int, ...] = (256,),
    decoder_channels: tuple[int, ...] = (64, 64, 32, 32),
    head: str = "logits",
) -> Model:
    """The field's convolutional VAE (Locatello et al. 2019, arXiv:1811.12359).

    The defaults are its sizes at 64x64. ``burgess_vae`` is the other house style.

    Args:
        image_shape: (height, width, channels); height and width divisible by 2 per layer.
        latent_size: Number of latents.
        encoder_channels: Stride-2 convolutions, one a value.
        encoder_kernels: Their kernel sizes; 4 throughout if None. disentanglement_lib has
            (4, 4, 2, 2), its paper prints 4.
        encoder_dense: Hidden dense layers after the convolutions.
        decoder_dense: Hidden dense layers before the one that is reshaped to the first map.
        decoder_channels: Channels that enter each 4x4 stride-2 transposed convolution.
        head: Name of the last site: ``"logits"`` (Bernoulli) or ``"mean"`` (Gaussian).

    Raises:
        ValueError: Sizes that do not divide, or lists of different lengths.
    """
    kernels = encoder_kernels or (4,) * len(encoder_channels)
    if len(kernels) != len(encoder_channels):
        raise ValueError(
            f"encoder_kernels {kernels} and encoder_channels {encoder_channels} differ in length."
        )
    _check_divides(image_shape, len(encoder_channels), "encoder_channels")
    _check_divides(image_shape, len(decoder_channels), "decoder_channels")
    network = GaussianVAE(
        ConvEncoder(tuple(encoder_channels), tuple(kernels), tuple(encoder_dense)),
        ConvDecoder(tuple(decoder_dense), tuple(decoder_channels), _triple(image_shape), head),
        latent_size,
    )
    return Model(network, _triple(image_shape), (latent_size,))


def burgess_vae(
    image_shape: tuple[int, int, int] = (64, 64, 1), *, latent_size: int = 10, head: str = "logits"
) -> Model:
    """The network of Burgess et al. 2018 (arXiv:1804.03599): 32 channels, two dense layers of 256.

    Four convolutions at 64x64, three at 32x32.
    """
    num_layers = 4 if image_shape[0] >= 64 else 3
    return conv_vae(
        image_shape,
        latent_size=latent_size,
        encoder_channels=(32,) * num_layers,
        encoder_dense=(256, 256),
        decoder_dense=(256, 256),
        decoder_channels=(32,) * num_layers,
        head=head,
    )


def mlp_vae(
    image_shape: tuple[int, int, int] = (64, 64, 1),
    *,
    latent_size: int = 10,
    encoder_dense: tuple[int, ...] = (256, 256),
    decoder_dense: tuple[int, ...] = (256, 256),
    head: str = "logits",
) -> Model:
    """A fully connected VAE with ReLU layers."""
    network = GaussianVAE(
        MLPEncoder(tuple(encoder_dense)),
        MLPDecoder(tuple(decoder_dense), _triple(image_shape), head),
        latent_size,
    )
    return Model(network, _triple(image_shape), (latent_size,))


def linear_vae(data_size: int, *, latent_size: int) -> Model:
    """The linear VAE, whose optimum is known in closed form (Lucas et al. 2019, arXiv:1911.02469).

    Images have shape (1, data_size, 1); the posterior variance is one parameter a latent.
    """
    image_shape = (1, data_size, 1)
    network = GaussianVAE(
        MLPEncoder(()), MLPDecoder((), image_shape, "mean"), latent_size, shared_variance=True
    )
    return Model(network, image_shape, (latent_size,))


def vq_vae(
    image_shape: tuple[int, int, int] = (64, 64, 1),
    *,
    num_codes: int = 512,
    code_size: int = 64,
    encoder_channels: tuple[int, ...] = (32, 32, 64),
    decoder_channels: tuple[int, ...] = (64, 32, 32),
    head: str = "logits",
) -> Model:
    """A VQ-VAE: convolutions, one code a position, transposed convolutions.

    Raises:
        ValueError: Sizes that do not divide, or encoder and decoder of different depth.
    """
    if len(encoder_channels) != len(decoder_channels):
        raise ValueError(
            f"encoder_channels {encoder_channels} and decoder_channels {decoder_channels} must "
            "have one length: the decoder undoes the encoder's strides."
        )
    _check_divides(image_shape, len(encoder_channels), "encoder_channels")
    network = VectorQuantised(
        tuple(encoder_channels),
        tuple(decoder_channels),
        num_codes,
        code_size,
        _triple(image_shape),
        head,
    )
    return Model(network, _triple(image_shape), (0,))


def whitened(model: Model) -> Model:
    """The model with a site ``latent/whitened`` between ``latent/z`` and the decoder.

    Its parameters have a further entry, ``whitening``, which ``objectives.whitening_vae`` or
    ``objectives.fit_whitening`` sets; as initialised it changes nothing. Trained parameters of the
    plain model serve with it: ``{**params, "whitening": whitened(model).init(key)["whitening"]}``.

    Raises:
        ValueError: A model without Gaussian latents.
    """
    if not isinstance(model.network, GaussianVAE):
        raise ValueError(
            f"the network is {type(model.network).__name__}, expected GaussianVAE, as of conv_vae, "
            "burgess_vae, mlp_vae or linear_vae."
        )
    return dataclasses.replace(model, network=model.network.clone(whitening=True))


def adversarial_vae(
    image_shape: tuple[int, int, int] = (64, 64, 1),
    *,
    latent_size: int = 10,
    detail_size: int = 4,
    encoder_dense: tuple[int, ...] = (256, 256),
    decoder_dense: tuple[int, ...] = (256, 256),
    head: str = "logits",
) -> Model:
    """A fully connected VAE whose decoder reads ``detail_size`` numbers of noise beside the code.

    Its noise is (latents + details,). Train it by ``objectives.adversarial_vae``.
    """
    network = DetailVAE(
        MLPEncoder(tuple(encoder_dense)),
        MLPDecoder(tuple(decoder_dense), _triple(image_shape), head),
        latent_size,
    )
    return Model(network, _triple(image_shape), (latent_size + detail_size,))


def semi_supervised_vae(
    num_values: int,
    num_classes: int,
    *,
    latent_size: int = 10,
    encoder_dense: tuple[int, ...] = (256, 256),
    decoder_dense: tuple[int, ...] = (256, 256),
) -> Model:
    """A fully connected VAE of rows (1, values + classes, 1) with the class as part of its code.

    Train it by ``objectives.semi_supervised_vae``.
    """
    network = SemiSupervisedVAE(
        MLPEncoder(tuple(encoder_dense)),
        MLPDecoder(tuple(decoder_dense), (1, num_values, 1), "values"),
        latent_size,
        num_classes,
    )
    return Model(network, (1, num_values + num_classes, 1), (latent_size,))


def _triple(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The same as a tuple: lists are accepted, but a model must be hashable."""
    height, width, channels = image_shape
    return height, width, channels


def _check_divides(image_shape: tuple[int, int, int], depth: int, word: str) -> None:
    step = 2**depth
    height, width, _ = image_shape
    if height % step or width % step:
        raise ValueError(
            f"image size {height}x{width} is not divisible by {step}, which the {depth} stride-2 "
            f"layers of {word} need."
        )
