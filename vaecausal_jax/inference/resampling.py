"""The bootstrap as arrays: replicates of a statistic, and the intervals read off them.

Pure and traceable, for use inside larger programs; ``bootstrap`` makes estimates of them. All units
of a sweep share the weights, so that one matrix product resamples them all.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import special

from vaecausal_jax.inference.estimate import check_level, least_replicates

HIGHEST = jax.lax.Precision.HIGHEST


class Resampled(NamedTuple):
    """A statistic and its bootstrap; XLA removes what an interval does not read.

    Attributes:
        value: The statistic, (...).
        error: Its standard error, linearised, (...).
        values: The statistic of each replicate, (replicates, ...); NaN where it is undefined.
        errors: Its standard error within each replicate, (replicates, ...).
        jackknife: The statistic without each image in turn, (..., images).
    """

    value: Array
    error: Array
    values: Array
    errors: Array
    jackknife: Array


Interval = Callable[[Resampled, float], tuple[Array, Array]]
"""The lower and upper end at a level of coverage: ``percentile``, ``bca``, ``studentised`` or
``simultaneous``. Both are NaN where the value is, and where the replicates are fewer than
``least_replicates``."""


def poisson_weights(key: Array, num_replicates: int, num_samples: int) -> Array:
    """Bootstrap weights: independent Poisson(1) counts, (replicates, samples) float32."""
    # By inversion, several times faster than jax.random.poisson; P(count > 11) is 1e-9.
    steps = jnp.asarray(special.pdtr(np.arange(12), 1.0), jnp.float32)
    uniform = jax.random.uniform(key, (num_replicates, num_samples), jnp.float32)
    return jnp.sum(uniform[..., None] > steps[None, None], axis=-1).astype(jnp.float32)


def sum_clusters(clusters: ArrayLike, samples: ArrayLike) -> Array:
    """Sums over images that are not independent, such as interventions on one base image.

    Each cluster's sum is one independent observation; bootstrap, flip or test the sums.

    Args:
        clusters: (images,) labels; equal ones belong together.
        samples: (..., images).

    Returns:
        (..., clusters), in the order of the sorted labels.

    Raises:
        ValueError: Other than one label per image.
    """
    labels, members = np.unique(np.asarray(clusters), return_inverse=True)
    samples = jnp.asarray(samples)
    if np.shape(clusters) != samples.shape[-1:]:
        raise ValueError(
            f"clusters has shape {np.shape(clusters)}, expected one label per image: "
            f"{samples.shape[-1:]}."
        )
    first = jnp.moveaxis(samples, -1, 0)
    return jnp.moveaxis(jax.ops.segment_sum(first, members, len(labels)), 0, -1)


def resample_ratio(
    key: Array, numerator: Array, denominator: Array, *, num_replicates: int
) -> Resampled:
    """Bootstraps R = sum(numerator) / sum(denominator), pairs together; a mean has ones below.

    A replicate with weights w is R* = sum(w n) / sum(w d), and its standard error that of the
    linearised ratio, sqrt(n / (n - 1) sum(w (n_i - R* d_i)^2)) / sum(w d).

    Neither unit matters: both are divided by powers of two, which changes no digit.

    Args:
        key: Typed PRNG key.
        numerator: (..., images).
        denominator: Of the same rank, (..., images); axes other than the last may have length 1.
        num_replicates: Poisson replicates.

    Raises:
        ValueError: Fewer than two images, which show no spread, or no replicates.
    """
    num_samples = numerator.shape[-1] if numerator.ndim else 0
    if num_samples < 2 or num_replicates < 1:
        raise ValueError(
            f"numerator has shape {numerator.shape} and num_replicates is {num_replicates}, "
            "expected (..., images), at least two, and at least one replicate."
        )
    weights = poisson_weights(key, num_replicates, num_samples)
    denominator = in_range(denominator)
    above, below = _power_of_two(numerator), _power_of_two(denominator)
    numerator, denominator, unit = numerator / above, denominator / below, above / below
    total = denominator.sum(-1)
    value = divide(numerator.sum(-1), total)
    # Corrected for rounding, so that samples without any spread have residuals of exactly zero.
    value += divide((numerator - value[..., None] * denominator).sum(-1), total)
    residual = numerator - value[..., None] * denominator
    totals = weighted(weights, denominator)
    # From residuals, not as R* - R: squares of close numbers are to be subtracted.
    change = divide(weighted(weights, residual), totals)
    squares = (
        weighted(weights, residual**2)
        - 2 * change * weighted(weights, residual * denominator)
        + change**2 * weighted(weights, denominator**2)
    )
    correction = math.sqrt(num_samples / (num_samples - 1))
    error = correction * divide(jnp.sqrt((residual**2).sum(-1)), jnp.abs(total))
    errors = correction * divide(jnp.sqrt(jnp.maximum(squares, 0.0)), jnp.abs(totals))
    values = divide(weighted(weights, numerator), totals)
    jackknife = value[..., None] - divide(residual, total[..., None] - denominator)
    of_one = unit[..., 0]
    return Resampled(
        value * of_one,
        error * of_one,
        values * of_one[None],
        errors * of_one[None],
        jackknife * unit,
    )


def _power_of_two(samples: Array) -> Array:
    """The one just below the largest sample, (..., 1); 1 where there is none, or it is infinite."""
    size = jnp.max(jnp.abs(samples), axis=-1, keepdims=True)
    # Its reciprocal must not be subnormal: XLA divides by multiplying.
    exponent = jnp.minimum(jnp.frexp(size)[1] - 1, jnp.finfo(size.dtype).maxexp - 2)
    power = jnp.ldexp(jnp.ones_like(size), exponent)
    return jnp.where((size > 0) & jnp.isfinite(size), power, 1.0)


def in_range(denominator: Array) -> Array:
    """The denominators, or 0 or NaN in place of all of them where floats have lost their digits.

    Squares of changes below about 1e-15 have lost digits in float32, and of those beyond 1e19 all:
    a ratio of such numbers would be one of noise, and is NaN instead.
    """
    limits = jnp.finfo(denominator.dtype)
    size = jnp.max(jnp.abs(denominator), axis=-1, keepdims=True)
    denominator = jnp.where(size < limits.tiny / limits.eps, 0.0, denominator)
    return jnp.where(jnp.isinf(size), jnp.nan, denominator)


def linearised_ratio(numerator: Array, denominator: Array) -> Array:
    """R + (n_i - R d_i) / mean(d): per-image numbers whose mean is R = sum(n) / sum(d).

    To first order their spread is that of the ratio, so that whatever takes a mean of images, such
    as ``resample_two_level``, takes ratios too.

    Args:
        numerator: (..., images).
        denominator: Broadcastable to it.
    """
    denominator = jnp.broadcast_to(in_range(denominator), numerator.shape)
    above, below = _power_of_two(numerator), _power_of_two(denominator)
    numerator, denominator = numerator / above, denominator / below
    mean = denominator.mean(-1, keepdims=True)
    ratio = divide(numerator.mean(-1, keepdims=True), mean)
    return (ratio + divide(numerator - ratio * denominator, mean)) * (above / below)


def expanded_level(level: float, num_samples: int) -> float:
    """The level at which a percentile interval of few samples covers as a Student t interval does.

    A plain bootstrap of n samples is too narrow by sqrt((n - 1) / n) and by the ratio of normal to
    t quantiles: 0.90 instead of 0.95 at n = 6. Tails of Phi(-sqrt(n / (n - 1)) t) repair both.
    Hesterberg, "What Teachers Should Know About the Bootstrap" (2015, arXiv:1411.5279).

    Raises:
        ValueError: A level outside (0, 1), or fewer than two samples.
    """
    check_level(level)
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}, expected two or more to show a spread.")
    quantile = special.stdtrit(num_samples - 1, 0.5 + level / 2)
    return float(1 - 2 * special.ndtr(-np.sqrt(num_samples / (num_samples - 1)) * quantile))


def percentile(resampled: Resampled, level: float) -> tuple[Array, Array]:
    """Quantiles of the replicates at the expanded level; stays within the statistic's range."""
    expanded = expanded_level(level, resampled.jackknife.shape[-1])
    ends = holding(resampled.value, *middle(resampled.values, expanded))
    return _if_enough(resampled, level, *ends)


def bca(resampled: Resampled, level: float) -> tuple[Array, Array]:
    """Bias-corrected and accelerated percentiles, at the expanded level, for skewed samples.

    Efron, "Better Bootstrap Confidence Intervals" (1987); the acceleration is the jackknife's.
    """
    value, values, jackknife = resampled.value, resampled.values, resampled.jackknife
    expanded = expanded_level(level, jackknife.shape[-1])
    below = jnp.mean(values < value[None], axis=0) + jnp.mean(values == value[None], axis=0) / 2
    edge = 0.5 / values.shape[0]
    bias = jax.scipy.special.ndtri(jnp.clip(below, edge, 1 - edge))
    spread = jackknife.mean(-1, keepdims=True) - jackknife
    length = jnp.sqrt((spread**2).sum(-1, keepdims=True))
    acceleration = ((spread / jnp.where(length > 0, length, 1.0)) ** 3).sum(-1) / 6
    # Beyond 8 every quantile is an outermost replicate, at few samples an infinite one too.
    quantile = min(special.ndtri(0.5 + expanded / 2), 8.0)

    def fraction(shifted):
        slope = 1 - acceleration * shifted
        moved = bias + shifted / jnp.where(slope > 0, slope, 1.0)
        # Past its pole the transformation has left the last replicate behind.
        return jnp.where(slope > 0, jax.scipy.special.ndtr(moved), jnp.where(shifted > 0, 1.0, 0.0))

    lower, upper = fraction(bias - quantile), fraction(bias + quantile)
    defined = jnp.isfinite(acceleration)
    ends = (jnp.where(defined, end, jnp.nan) for end in quantiles(values, lower, upper))
    return _if_enough(resampled, level, *holding(value, *ends))


def studentised(resampled: Resampled, level: float) -> tuple[Array, Array]:
    """Bootstrap t: quantiles of (value* - value) / error*, in units of the error.

    Covers best where samples are few or skewed, and is wider there. Below about eight samples a
    replicate may hold one of them only, its error is zero, and an end may be infinite.
    """
    change = resampled.values - resampled.value[None]
    pivot = jnp.where(
        resampled.errors > 0,
        divide(change, resampled.errors),
        jnp.where(change == 0, 0.0, jnp.sign(change) * jnp.inf),
    )
    below, above = middle(pivot, level)
    # Pivots on one side of 0 alone would leave the value itself outside.
    below, above = jnp.minimum(below, 0.0), jnp.maximum(above, 0.0)
    # Without any spread the interval is the value, whatever the pivot.
    step = [jnp.where(resampled.error > 0, resampled.error * q, 0.0) for q in (above, below)]
    return _if_enough(resampled, level, resampled.value - step[0], resampled.value - step[1])


def simultaneous(resampled: Resampled, level: float) -> tuple[Array, Array]:
    """Bands that hold a whole curve at the level, not each point: the last axis is the curve's.

    value -+ c * error, with c the quantile over replicates of the largest |value* - value| / error*
    along the curve: as wide as the dependence of its points needs. Montiel Olea & Plagborg-Moller,
    "Simultaneous confidence bands" (2019). Points that never vary are known, and widen nothing.
    """
    change = jnp.abs(resampled.values - resampled.value[None])
    pivot = jnp.where(
        resampled.errors > 0,
        divide(change, resampled.errors),
        jnp.where(change == 0, 0.0, jnp.inf),
    )
    # Undefined points are NaN in the result and no part of the maximum.
    pivot = jnp.where((resampled.error[None] > 0) & ~jnp.isnan(pivot), pivot, 0.0)
    _, factor = quantiles(pivot.max(-1), *(jnp.full(pivot.shape[1:-1], level),) * 2)
    half = jnp.where(resampled.error > 0, factor[..., None] * resampled.error, 0.0)
    return _if_enough(resampled, level, resampled.value - half, resampled.value + half)


def holding(value: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """The ends, moved out to the value where it lies beyond one; NaN where the value or an end is.

    Nearly all replicates may lie on one side of the value: those of a statistic that resampling
    biases, such as a largest share. An interval so widened covers no less often.
    """
    # Behind a barrier, so that no digit depends on what is done with them here.
    value, low, high = jax.lax.optimization_barrier((value, low, high))
    low, high = jnp.minimum(low, value), jnp.maximum(high, value)
    known = ~(jnp.isnan(low) | jnp.isnan(high))
    return jnp.where(known, low, jnp.nan), jnp.where(known, high, jnp.nan)


def _if_enough(resampled: Resampled, level: float, low: Array, high: Array) -> tuple[Array, Array]:
    """The ends, or NaN where the replicates are too few for the level."""
    if len(resampled.values) >= least_replicates(level):
        return low, high
    nan = jnp.full_like(resampled.value, jnp.nan)
    return nan, nan


def weighted(weights: Array, samples: Array) -> Array:
    """Sums over images under each row of weights: (replicates, ...)."""
    axes = ((1,), (samples.ndim - 1,))
    return jnp.tensordot(weights.astype(samples.dtype), samples, axes=axes, precision=HIGHEST)


def divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, NaN where the denominator is zero."""
    safe = jnp.where(denominator != 0, denominator, 1.0)
    return jnp.where(denominator != 0, numerator / safe, jnp.nan)


def middle(values: Array, level: float) -> tuple[Array, Array]:
    """The ends of the middle ``level`` of the leading axis; NaN is left out.

    The quantiles at (1 - level) / 2 and (1 + level) / 2, from the few largest and smallest values:
    sorting all takes XLA several times as long on a CPU.
    """
    tail, last = 0.5 - level / 2, jnp.sum(~jnp.isnan(values), axis=0) - 1
    num_top = min(math.ceil(tail * (len(values) - 1)) + 2, len(values))
    columns = jnp.moveaxis(values, 0, -1)

    def upper(columns):
        top = jax.lax.top_k(jnp.where(jnp.isnan(columns), -jnp.inf, columns), num_top)[0]
        position = tail * last
        end = _interpolated(jnp.moveaxis(top, -1, 0), position, last)
        return jnp.where(last < 0, jnp.nan, end)

    return -upper(-columns), upper(columns)


def quantiles(values: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Two quantiles over the leading axis, at fractions given for each column; NaN is left out."""
    ordered = jnp.sort(values, axis=0)
    last = jnp.sum(~jnp.isnan(values), axis=0) - 1

    ends = (jnp.clip(fraction, 0.0, 1.0) * last for fraction in (lower, upper))
    low, high = (_interpolated(ordered, position, last) for position in ends)
    return low, high


def _interpolated(ordered: Array, position: Array, last: Array) -> Array:
    """The value at a position of each ordered column, between two of its neighbours."""
    before = jnp.floor(position).astype(int)
    low, high = (
        jnp.take_along_axis(ordered, jnp.clip(i, 0, last)[None], axis=0)[0]
        for i in (before, before + 1)
    )
    weight = position - before
    # Between an infinity and a number lies that infinity; two alike have no difference.
    between = jnp.where(
        jnp.isinf(low - high), (1 - weight) * low + weight * high, low + weight * (high - low)
    )
    return jnp.where((low == high) | (weight == 0), low, between)
