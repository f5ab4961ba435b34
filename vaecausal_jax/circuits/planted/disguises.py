"""Disguises: other weights of a compiled network, under which its circuits stay known.

Permuted, rescaled and rotated networks compute the same function. Distractors and dormant units
leave the function alone too, and look like causes to whoever only correlates, or only reads
weights. Noise changes the function, and the truth with it.
"""

import jax
import numpy as np
from jax import Array

from vaecausal_jax.circuits.planted.network import Weights


def permute_units(key: Array, weights: Weights) -> Weights:
    """The ReLU units in random order."""
    order = np.asarray(jax.random.permutation(key, len(weights.bias)))
    return weights._replace(
        units=weights.units[:, order], bias=weights.bias[order], pixels=weights.pixels[order]
    )


def rescale_units(key: Array, weights: Weights, *, spread: float = 1.0) -> Weights:
    """Each ReLU unit times a positive number, its outgoing weights divided by it.

    Args:
        key: Typed PRNG key.
        weights: The network.
        spread: Standard deviation of the numbers' logarithms.
    """
    scale = np.exp(spread * _normal(key, weights.bias.shape))
    return weights._replace(
        units=weights.units * scale[None],
        bias=weights.bias * scale,
        pixels=weights.pixels / scale[:, None],
    )


def rotate_features(key: Array, weights: Weights) -> Weights:
    """The linear layer in a random orthogonal basis: its truth is subspaces, not units."""
    size = weights.features.shape[1]
    rotation, triangle = np.linalg.qr(_normal(key, (size, size)))
    rotation *= np.sign(np.diag(triangle))[None]
    return weights._replace(features=weights.features @ rotation, units=rotation.T @ weights.units)


def add_distractors(key: Array, weights: Weights, num: int) -> Weights:
    """ReLU units that copy random units' inputs, and lead nowhere."""
    like = _random_active(key, weights, num)
    return weights._replace(
        units=np.concatenate([weights.units, weights.units[:, like]], axis=1),
        bias=np.concatenate([weights.bias, weights.bias[like]]),
        pixels=np.concatenate([weights.pixels, np.zeros((num, weights.pixels.shape[1]))]),
    )


def add_dormant(key: Array, weights: Weights, num: int) -> Weights:
    """ReLU units that copy random units' outgoing weights, and are never active."""
    like = _random_active(key, weights, num)
    return weights._replace(
        units=np.concatenate([weights.units, np.zeros((weights.units.shape[0], num))], axis=1),
        bias=np.concatenate([weights.bias, np.zeros(num)]),
        pixels=np.concatenate([weights.pixels, weights.pixels[like]]),
    )


def add_distractor_latents(key: Array, weights: Weights, num: int) -> Weights:
    """Latents that encode random factors a second time, and are not decoded."""
    like = np.asarray(jax.random.randint(key, (num,), 0, weights.mean.shape[1]))
    return weights._replace(
        mean=np.concatenate([weights.mean, weights.mean[:, like]], axis=1),
        sigma=np.concatenate([weights.sigma, weights.sigma[like]]),
        features=np.concatenate([weights.features, np.zeros((num, weights.features.shape[1]))]),
    )


def perturb(key: Array, weights: Weights, *, scale: float) -> Weights:
    """Every weight into and out of the ReLU units times 1 + scale N(0, 1): zeros stay zeros."""
    into, out = jax.random.split(key)
    return weights._replace(
        units=weights.units * (1 + scale * _normal(into, weights.units.shape)),
        pixels=weights.pixels * (1 + scale * _normal(out, weights.pixels.shape)),
    )


def all_at_once(key: Array, weights: Weights, noise: float, num_distractors: int) -> Weights:
    """Noise, distractors, dormant units, extra latents, rescaling, permutation and rotation."""
    keys = iter(jax.random.split(key, 7))
    weights = perturb(next(keys), weights, scale=noise)
    weights = add_distractors(next(keys), weights, num_distractors)
    weights = add_dormant(next(keys), weights, num_distractors // 2)
    weights = add_distractor_latents(next(keys), weights, num_distractors // 4)
    weights = rescale_units(next(keys), weights)
    weights = permute_units(next(keys), weights)
    return rotate_features(next(keys), weights)


def _random_active(key: Array, weights: Weights, num: int) -> np.ndarray:
    """Units that read something and write something, drawn with replacement."""
    active = np.any(weights.units != 0, axis=0) & np.any(weights.pixels != 0, axis=1)
    chosen = np.asarray(jax.random.randint(key, (num,), 0, active.sum()))
    return np.flatnonzero(active)[chosen]


def _normal(key: Array, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape), np.float64)
