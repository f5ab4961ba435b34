"""Estimates that do not flatter: squared effects without noise, selection without luck."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def squared_mean_effect(samples: Array) -> Array:
    """Unbiased |mean effect|^2: the U-statistic (n |mean d|^2 - mean |d|^2) / (n - 1).

    The plain |mean d|^2 is too large by tr Cov(d) / n, for a dead unit as for any other. This one
    averages the products of different samples, and may be negative.

    Args:
        samples: (samples, ...): effects of one unit, of any shape.

    Returns:
        A scalar.

    Raises:
        ValueError: Fewer than two samples.
    """
    num_samples = samples.shape[0] if samples.ndim else 0
    if num_samples < 2:
        raise ValueError(
            f"samples has shape {samples.shape}, expected (samples, ...), two or more."
        )
    mean = samples.mean(0)
    # |d|^2 about the mean: the same number without the difference of two large ones.
    spread = jnp.sum((samples - mean[None]) ** 2)
    return jnp.sum(mean**2) - spread / (num_samples * (num_samples - 1))


def split_halves(key: Array, samples: Any) -> tuple[Any, Any]:
    """Random halves of the images: choose on one, estimate and test on the other.

    The largest of many noisy effects is overestimated by the sample that chose it.

    Args:
        key: Typed PRNG key.
        samples: Pytree with leaves (..., images), split alike.

    Returns:
        (discovery, estimation); the second half is the larger by one for an odd number.

    Raises:
        ValueError: Leaves that differ in their number of images, or have fewer than two.
    """
    lengths = {jnp.shape(leaf)[-1:] for leaf in jax.tree.leaves(samples)}
    if len(lengths) != 1 or lengths <= {(), (0,), (1,)}:
        raise ValueError(
            "all leaves of samples need one common last axis of at least two images, got lengths "
            f"{sorted(lengths)}."
        )
    num_images = lengths.pop()[0]
    order = jax.random.permutation(key, num_images)
    halves = order[: num_images // 2], order[num_images // 2 :]
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[..., i], samples) for i in halves)
    return first, second
