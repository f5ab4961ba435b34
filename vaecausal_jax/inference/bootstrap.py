"""Bootstrap estimates over images, or over clusters of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.inference.estimate import Estimate, check_level, method_from
from vaecausal_jax.inference.resampling import (
    Interval,
    percentile,
    resample_ratio,
    simultaneous,
    sum_clusters,
)

_PAIR = "bootstrap of the pair (numerator, denominator)"


def bootstrap_mean(
    key: Array,
    samples: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
    num_replicates: int = 1000,
    clusters: ArrayLike | None = None,
    interval: Interval = percentile,
) -> Estimate:
    """Mean over images with a bootstrap interval.

    Args:
        key: Typed PRNG key.
        samples: (..., images): per-image effects, e.g. one row a unit.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.
        num_replicates: See ``bootstrap_ratio``.
        clusters: See ``bootstrap_ratio``.
        interval: See ``bootstrap_ratio``.

    Raises:
        ValueError: As ``bootstrap_ratio``.
    """
    samples = jnp.asarray(samples, float)
    if samples.shape[-1:] in {(), (0,), (1,)}:
        raise ValueError(
            f"samples has shape {samples.shape}, expected (..., images), two or more: one image "
            "shows no spread."
        )
    estimate = bootstrap_ratio(
        key,
        samples,
        jnp.ones(samples.shape[-1:], samples.dtype),
        intervention=intervention,
        null=null,
        level=level,
        num_replicates=num_replicates,
        clusters=clusters,
        interval=interval,
    )
    return estimate._replace(method=estimate.method.replace(_PAIR, "paired bootstrap"))


def bootstrap_ratio(
    key: Array,
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
    num_replicates: int = 1000,
    clusters: ArrayLike | None = None,
    interval: Interval = percentile,
) -> Estimate:
    """Ratio of sums over images with a bootstrap of the pair.

    Args:
        key: Typed PRNG key.
        numerator: (..., images).
        denominator: (..., images), broadcastable to it. NaN where its sum is zero: there is no
            effect to take a share of.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.
        num_replicates: Bootstrap replicates; fewer than 1 / (1 - level) give no interval.
        clusters: (images,) labels of images to be resampled together, e.g. the base image where
            several interventions share one. Each image alone by default.
        interval: Function of a ``Resampled`` and the level. ``percentile`` suits most samples,
            ``bca`` skewed ones, ``studentised`` those of fewer than about 30 images; with
            ``simultaneous`` the last axis before the images is a curve, held as a whole.

    Raises:
        ValueError: Fewer than two images or clusters, shapes that do not match, or a level outside
            (0, 1).
    """
    check_level(level)
    numerator, denominator = jnp.asarray(numerator, float), jnp.asarray(denominator, float)
    num_images = numerator.shape[-1] if numerator.ndim else 0
    if interval is simultaneous and numerator.ndim < 2:
        raise ValueError(
            f"numerator {numerator.shape} is no curve, expected (..., points, images)."
        )
    if denominator.shape[-1:] != (num_images,) or num_images < 2:
        raise ValueError(
            f"numerator {numerator.shape} and denominator {denominator.shape} need the same, at "
            "least two, images on their last axis: one image shows no spread."
        )
    unit = "images"
    if clusters is not None:
        numerator, denominator = (sum_clusters(clusters, a) for a in (numerator, denominator))
        unit = f"{numerator.shape[-1]} clusters of images"
        if numerator.shape[-1] < 2:
            raise ValueError("clusters has one label, expected at least two clusters to resample.")
    if np.broadcast_shapes(numerator.shape, denominator.shape) != numerator.shape:
        raise ValueError(
            f"denominator {denominator.shape} does not broadcast to numerator {numerator.shape}."
        )
    # Axes of length 1 stay: a shared denominator is resampled once.
    axes = tuple(range(numerator.ndim - denominator.ndim))
    denominator = jnp.expand_dims(denominator, axes)
    value, low, high = map(
        np.asarray,
        _ratio_interval(key, numerator, denominator, level, num_replicates, interval),
    )
    # Rounding of equal samples is no spread.
    flat = np.asarray(_all_equal(numerator) & _all_equal(denominator)) & ~np.isnan(low)
    return Estimate(
        value,
        np.where(flat, value, low),
        np.where(flat, value, high),
        null,
        num_images,
        1,
        level,
        method_from(num_replicates, level, f"{_PAIR} over {unit} ({interval.__name__})"),
        intervention,
    )


@jax.jit
def _all_equal(samples: Array) -> Array:
    return jnp.all(samples == samples[..., :1], axis=-1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _ratio_interval(key, numerator, denominator, level, num_replicates, interval):
    resampled = resample_ratio(key, numerator, denominator, num_replicates=num_replicates)
    return resampled.value, *interval(resampled, level)
