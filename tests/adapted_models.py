"""Small VAEs of other people's making, with random weights: what the adapters are for.

Every entry has the model as its author would write it, the adapted forward, and an oracle that
replaces one site's value by hand, without the library.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vaecausal_jax.models import adapters
from vaecausal_jax.models.adapters import nnx as nnx_adapter

IMAGE = (8, 8, 1)


class Case(NamedTuple):
    """One model.

    ``replaced(params, x, eps, site, value)`` is the oracle; ``cut`` a site that all paths pass,
    ``skipped`` one that a path goes round.
    """

    plain: Callable[..., Any]
    forward: adapters.Adapted
    params: Any
    replaced: Callable[..., Any]
    num_noise: int
    cut: str
    skipped: str


def linen_case(module, num_noise, cut, skipped):
    def plain(params, x, eps):
        return module.apply({"params": params}, x, eps)

    def replaced(params, x, eps, site, value):
        def interceptor(next_function, args, kwargs, context):
            out = next_function(*args, **kwargs)
            return value if "/".join(context.module.path) == site else out

        with nn.intercept_methods(interceptor):
            return plain(params, x, eps)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(IMAGE), jnp.zeros(num_noise))
    params = random_like(shapes["params"])
    return Case(plain, adapters.from_linen(module), params, replaced, num_noise, cut, skipped)


def named_case(function, params, num_noise, cut, skipped, **options):
    def replaced(params, x, eps, site, value):
        return function(params, x, eps, lambda h, name: value if name == site else h)

    plain = functools.partial(function, name=checkpoint_name)
    forward = adapters.from_named(plain, **options)
    return Case(plain, forward, params, replaced, num_noise, cut, skipped)


def random_like(shapes):
    """Weights of unit gain; scales, which Flax starts at one, about one."""
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        fan_in = max(math.prod(leaf.shape[:-1]), 1)
        start = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(start + rng.normal(size=leaf.shape) / fan_in**0.5, leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


# A convolutional VAE with skip connections, in Linen


class ResidualBlock(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, h):
        inner = nn.Conv(self.channels, (3, 3), name="conv0")(nn.relu(h))
        inner = nn.Conv(self.channels, (3, 3), name="conv1")(nn.relu(inner))
        return h + inner


class ResNetVAE(nn.Module):
    @nn.compact
    def __call__(self, x, eps):
        h = nn.Conv(4, (4, 4), (2, 2), name="stem")(x)
        h = ResidualBlock(4, name="block0")(h)
        h = ResidualBlock(4, name="block1")(h)
        mean, logvar = jnp.split(nn.Dense(6, name="posterior")(h.reshape(-1)), 2)
        z = mean + jnp.exp(0.5 * logvar) * eps
        h = nn.Dense(64, name="grow")(z).reshape(4, 4, 4)
        h = ResidualBlock(4, name="block2")(h)
        return nn.ConvTranspose(1, (4, 4), (2, 2), name="logits")(h)


def resnet():
    return linen_case(ResNetVAE(), 3, "grow", "block0/conv1")


# A deep VAE whose encoder is one scanned layer


def scanned_vae(params, x, eps, name):
    h = name(jnp.tanh(params["stem"] @ x.reshape(-1)), "encoder/stem")

    def layer(h, weights):
        branch = name(jnp.tanh(weights @ h), "encoder/branch")
        return h + branch, None

    h, _ = jax.lax.scan(layer, h, params["layers"])
    mean, logvar = jnp.split(params["posterior"] @ h, 2)
    z = name(mean + jnp.exp(0.5 * logvar) * eps, "latent/z")
    h = name(jnp.tanh(params["decoder"] @ z), "decoder/dense0")
    return (params["logits"] @ h).reshape(IMAGE)


def scanned(**options):
    params = random_like(
        {
            "stem": jax.ShapeDtypeStruct((6, 64), jnp.float32),
            "layers": jax.ShapeDtypeStruct((3, 6, 6), jnp.float32),
            "posterior": jax.ShapeDtypeStruct((8, 6), jnp.float32),
            "decoder": jax.ShapeDtypeStruct((5, 4), jnp.float32),
            "logits": jax.ShapeDtypeStruct((64, 5), jnp.float32),
        }
    )
    return named_case(scanned_vae, params, 4, "latent/z", "encoder/branch", **options)


# Two levels of latents


def hierarchical_vae(params, x, eps, name):
    eps_top, eps_bottom = jnp.split(eps, [2])
    low = name(jnp.tanh(params["low"] @ x.reshape(-1)), "encoder/low")
    high = name(jnp.tanh(params["high"] @ low), "encoder/high")
    mean, logvar = jnp.split(params["top"] @ high, 2)
    top = name(mean + jnp.exp(0.5 * logvar) * eps_top, "latent/top")
    prior = params["prior"] @ top
    mean, logvar = jnp.split(prior + params["bottom"] @ low, 2)
    bottom = name(mean + jnp.exp(0.5 * logvar) * eps_bottom, "latent/bottom")
    h = name(jax.nn.relu(params["mix"] @ jnp.concatenate([top, bottom])), "decoder/mix")
    return (params["logits"] @ h).reshape(IMAGE)


def hierarchical():
    shapes = {
        "low": (6, 64),
        "high": (5, 6),
        "top": (4, 5),
        "prior": (6, 2),
        "bottom": (6, 6),
        "mix": (7, 5),
        "logits": (64, 7),
    }
    params = random_like({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()})
    return named_case(hierarchical_vae, params, 5, "decoder/mix", "latent/top")


# Flax NNX


class NNXVAE(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 6, rngs=rngs)
        self.second = nnx.Linear(6, 6, rngs=rngs)
        self.posterior = nnx.Linear(6, 6, rngs=rngs)
        self.decoder = nnx.Linear(3, 5, rngs=rngs)
        self.logits = nnx.Linear(5, 64, rngs=rngs)

    def __call__(self, x, eps):
        h = nnx.relu(self.first(x.reshape(-1)))
        h = h + jnp.tanh(self.second(h))
        mean, logvar = jnp.split(self.posterior(h), 2)
        z = mean + jnp.exp(0.5 * logvar) * eps
        return self.logits(nnx.relu(self.decoder(z))).reshape(IMAGE)


class Constant(nnx.Module):
    def __init__(self, value):
        self.value = nnx.Variable(value)

    def __call__(self, h):
        del h
        return self.value[...]


def nnx_vae():
    model = NNXVAE(nnx.Rngs(0))
    forward, params = nnx_adapter.from_nnx(model)
    graph, params = nnx.split(model)

    def plain(params, x, eps):
        return nnx.merge(graph, params)(x, eps)

    def replaced(params, x, eps, site, value):
        copy = nnx.merge(graph, params)
        setattr(copy, site, Constant(value))
        return copy(x, eps)

    return Case(plain, forward, params, replaced, 3, "decoder", "second")


# Equinox


def equinox_vae():
    import equinox as eqx

    from vaecausal_jax.models.adapters.equinox import from_equinox

    class EquinoxVAE(eqx.Module):
        stem: eqx.nn.Conv2d
        block: eqx.nn.Conv2d
        posterior: eqx.nn.Linear
        decoder: eqx.nn.MLP

        def __init__(self, key):
            keys = jax.random.split(key, 4)
            self.stem = eqx.nn.Conv2d(1, 3, 4, 2, 1, key=keys[0])
            self.block = eqx.nn.Conv2d(3, 3, 3, padding=1, key=keys[1])
            self.posterior = eqx.nn.Linear(48, 6, key=keys[2])
            self.decoder = eqx.nn.MLP(3, 64, 5, 1, key=keys[3])

        def __call__(self, x, eps):
            h = self.stem(jnp.moveaxis(x, -1, 0))
            h = h + jax.nn.relu(self.block(h))
            mean, logvar = jnp.split(self.posterior(h.reshape(-1)), 2)
            z = mean + jnp.exp(0.5 * logvar) * eps
            return self.decoder(z).reshape(IMAGE)

    model = EquinoxVAE(jax.random.key(3))
    forward, params = from_equinox(model)
    static = eqx.partition(model, eqx.is_inexact_array)[1]

    def plain(params, x, eps):
        return eqx.combine(params, static)(x, eps)

    def replaced(params, x, eps, site, value):
        copy = eqx.combine(params, static)
        constant = eqx.nn.Lambda(lambda h: value)
        if site == "decoder/layers/0":
            place = lambda m: m.decoder.layers[0]  # noqa: E731
        else:
            place = lambda m: getattr(m, site)  # noqa: E731
        return eqx.tree_at(place, copy, constant)(x, eps)

    return Case(plain, forward, params, replaced, 3, "decoder/layers/0", "block")


# The published Flax layout of diffusers' AutoencoderKL, small, images channels last


class ResnetBlock2D(nn.Module):
    out_channels: int
    groups: int = 2

    def setup(self):
        self.norm1 = nn.GroupNorm(self.groups, epsilon=1e-6)
        self.conv1 = nn.Conv(self.out_channels, (3, 3))
        self.norm2 = nn.GroupNorm(self.groups, epsilon=1e-6)
        self.conv2 = nn.Conv(self.out_channels, (3, 3))
        self.conv_shortcut = nn.Conv(self.out_channels, (1, 1), padding="VALID")

    def __call__(self, h):
        inner = self.conv1(nn.swish(self.norm1(h)))
        inner = self.conv2(nn.swish(self.norm2(inner)))
        if h.shape[-1] != self.out_channels:
            h = self.conv_shortcut(h)
        return h + inner


class AttentionBlock(nn.Module):
    channels: int
    groups: int = 2

    def setup(self):
        self.group_norm = nn.GroupNorm(self.groups, epsilon=1e-6)
        self.query, self.key, self.value = (nn.Dense(self.channels) for _ in range(3))
        self.proj_attn = nn.Dense(self.channels)

    def __call__(self, h):
        height, width, channels = h.shape
        flat = self.group_norm(h).reshape(height * width, channels)
        query, key, value = self.query(flat), self.key(flat), self.value(flat)
        weights = nn.softmax(query @ key.T / channels**0.5, axis=-1)
        return h + self.proj_attn(weights @ value).reshape(h.shape)


class Downsample2D(nn.Module):
    channels: int

    def setup(self):
        self.conv = nn.Conv(self.channels, (3, 3), (2, 2), padding="VALID")

    def __call__(self, h):
        return self.conv(jnp.pad(h, ((0, 1), (0, 1), (0, 0))))


class Upsample2D(nn.Module):
    channels: int

    def setup(self):
        self.conv = nn.Conv(self.channels, (3, 3))

    def __call__(self, h):
        return self.conv(jnp.repeat(jnp.repeat(h, 2, axis=0), 2, axis=1))


class DownBlock(nn.Module):
    channels: int
    is_last: bool

    def setup(self):
        self.resnets = [ResnetBlock2D(self.channels)]
        if not self.is_last:
            self.downsamplers = [Downsample2D(self.channels)]

    def __call__(self, h):
        h = self.resnets[0](h)
        return h if self.is_last else self.downsamplers[0](h)


class UpBlock(nn.Module):
    channels: int
    is_last: bool

    def setup(self):
        self.resnets = [ResnetBlock2D(self.channels) for _ in range(2)]
        if not self.is_last:
            self.upsamplers = [Upsample2D(self.channels)]

    def __call__(self, h):
        for resnet in self.resnets:
            h = resnet(h)
        return h if self.is_last else self.upsamplers[0](h)


class MidBlock(nn.Module):
    channels: int

    def setup(self):
        self.resnets = [ResnetBlock2D(self.channels) for _ in range(2)]
        self.attentions = [AttentionBlock(self.channels)]

    def __call__(self, h):
        return self.resnets[1](self.attentions[0](self.resnets[0](h)))


class KLEncoder(nn.Module):
    channels: tuple[int, ...]
    latents: int

    def setup(self):
        last = len(self.channels) - 1
        self.conv_in = nn.Conv(self.channels[0], (3, 3))
        self.down_blocks = [DownBlock(c, i == last) for i, c in enumerate(self.channels)]
        self.mid_block = MidBlock(self.channels[-1])
        self.conv_norm_out = nn.GroupNorm(2, epsilon=1e-6)
        self.conv_out = nn.Conv(2 * self.latents, (3, 3))

    def __call__(self, x):
        h = self.conv_in(x)
        for block in self.down_blocks:
            h = block(h)
        return self.conv_out(nn.swish(self.conv_norm_out(self.mid_block(h))))


class KLDecoder(nn.Module):
    channels: tuple[int, ...]

    def setup(self):
        last = len(self.channels) - 1
        self.conv_in = nn.Conv(self.channels[-1], (3, 3))
        self.mid_block = MidBlock(self.channels[-1])
        self.up_blocks = [UpBlock(c, i == last) for i, c in enumerate(self.channels[::-1])]
        self.conv_norm_out = nn.GroupNorm(2, epsilon=1e-6)
        self.conv_out = nn.Conv(1, (3, 3))

    def __call__(self, z):
        h = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            h = block(h)
        return self.conv_out(nn.swish(self.conv_norm_out(h)))


class AutoencoderKL(nn.Module):
    channels: tuple[int, ...] = (4, 6)
    latents: int = 2

    def setup(self):
        self.encoder = KLEncoder(self.channels, self.latents)
        self.decoder = KLDecoder(self.channels)
        self.quant_conv = nn.Conv(2 * self.latents, (1, 1), padding="VALID")
        self.post_quant_conv = nn.Conv(self.latents, (1, 1), padding="VALID")

    def __call__(self, x, eps):
        mean, logvar = jnp.split(self.quant_conv(self.encoder(x)), 2, axis=-1)
        z = mean + jnp.exp(0.5 * jnp.clip(logvar, -30, 20)) * eps.reshape(mean.shape)
        return self.decoder(self.post_quant_conv(z))


def autoencoder_kl():
    return linen_case(
        AutoencoderKL(), 32, "post_quant_conv", "encoder/mid_block/attentions_0/proj_attn"
    )


CASES = {
    "resnet": resnet,
    "scanned": scanned,
    "hierarchical": hierarchical,
    "nnx": nnx_vae,
    "equinox": equinox_vae,
    "autoencoder_kl": autoencoder_kl,
}
