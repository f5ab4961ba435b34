"""Bootstrap estimates over images, over clusters of them, or over seeds.

Means, ratios of sums, functions of many ratios (the largest share, an effective number), and the
middle half of many models.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import stats

from vaecausal_jax.inference.estimate import Estimate, check_level, least_replicates, method_from
from vaecausal_jax.inference.resampling import (
    Interval,
    divide,
    expanded_level,
    holding,
    middle,
    percentile,
    resample_ratio,
    simultaneous,
    sum_clusters,
    weighted,
)

_PAIR = "bootstrap of the pair (numerator, denominator)"


class Bootstrap(NamedTuple):
    """How intervals are made: one value for all those of an analysis.

    Attributes:
        num_replicates: Bootstrap replicates; fewer than 1 / (1 - level) give no interval.
        level: Coverage.
        clusters: (images,) labels of images to be resampled together, e.g. the base image where
            several interventions share one. By default each image is resampled alone.
        interval: Function of a ``Resampled`` and the level. ``percentile`` suits most samples,
            ``bca`` skewed ones, ``studentised`` those of fewer than about 30 images; with
            ``simultaneous`` the last axis before the images is a curve, held as a whole.
    """

    num_replicates: int = 1000
    level: float = 0.95
    clusters: ArrayLike | None = None
    interval: Interval = percentile

    def without(self, function: str, *fields: str) -> "Bootstrap":
        """The same, for a function that some fields mean nothing to.

        Raises:
            ValueError: One of these fields is set.
        """
        for name in fields:
            if getattr(self, name) is not self._field_defaults[name]:
                raise ValueError(f"{function} takes no {name} in its Bootstrap.")
        return self


def bootstrap_mean(
    key: Array,
    samples: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    bootstrap: Bootstrap = Bootstrap(),
) -> Estimate:
    """Mean over images with a bootstrap interval.

    Args:
        key: Typed PRNG key.
        samples: Effects per image, (..., images), e.g. one row per unit.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        bootstrap: How its interval is made.

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
        bootstrap=bootstrap,
    )
    return estimate._replace(method=estimate.method.replace(_PAIR, "paired bootstrap"))


def bootstrap_ratio(
    key: Array,
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    bootstrap: Bootstrap = Bootstrap(),
) -> Estimate:
    """Ratio of sums over images with a bootstrap of the pair.

    Args:
        key: Typed PRNG key.
        numerator: (..., images).
        denominator: (..., images), broadcastable to it. NaN where its sum is zero: there is no
            effect to take a share of.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        bootstrap: How its interval is made.

    Raises:
        ValueError: Fewer than two images or clusters, shapes that do not match, or a level outside
            (0, 1).
    """
    num_replicates, level, clusters, interval = bootstrap
    if interval is simultaneous and np.ndim(numerator) < 2:
        raise ValueError(
            f"numerator {np.shape(numerator)} is no curve, expected (..., points, images)."
        )
    pair = _checked_pair(numerator, denominator, clusters, level)
    value, low, high = map(
        np.asarray,
        _ratio_interval(key, pair.numerator, pair.denominator, level, num_replicates, interval),
    )
    # Rounding of equal samples is no spread.
    flat = np.asarray(_all_equal(pair.numerator) & _all_equal(pair.denominator)) & ~np.isnan(low)
    return Estimate(
        value,
        np.where(flat, value, low),
        np.where(flat, value, high),
        null,
        pair.num_images,
        1,
        level,
        method_from(num_replicates, level, f"{_PAIR} over {pair.unit} ({interval.__name__})"),
        intervention,
    )


def bootstrap_function(
    key: Array,
    function: Callable[[Array], Array],
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    *,
    intervention: str,
    num_flips: int = 200,
    bootstrap: Bootstrap = Bootstrap(),
) -> Estimate:
    """A function of ratios of sums, such as their largest, with a bootstrap interval.

    The ends are percentiles of the function over replicates of all ratios together, moved out to
    its value where they lie beside it: resampling adds noise, and the largest of noisier effects is
    larger. Its null is not zero, since the largest of many noisy effects is large. The null given
    here is the function's mean over flips of the numerators' signs, image by image and in common
    for all ratios.

    Args:
        key: Typed PRNG key.
        function: Maps ratios (...) to its value, traceably, e.g. ``lambda r: r.max(0)``.
        numerator: (..., images).
        denominator: (..., images), broadcastable to it; if None ones, which gives means.
        intervention: What was done, in words.
        num_flips: Sign patterns behind the null.
        bootstrap: How its interval is made, by percentiles; clusters are flipped together, too.

    Raises:
        ValueError: Fewer than two images or clusters, shapes that do not match, a level outside
            (0, 1), or another ``interval``.
    """
    bootstrap.without("bootstrap_function", "interval")
    num_replicates, level, clusters, _ = bootstrap
    if denominator is None:
        denominator = np.ones(np.shape(numerator)[-1:])
    pair = _checked_pair(numerator, denominator, clusters, level)
    value, low, high, null = _function_interval(
        key, pair.numerator, pair.denominator, function, level, num_replicates, num_flips
    )
    null = np.asarray(null)
    return Estimate(
        np.asarray(value),
        np.asarray(low),
        np.asarray(high),
        null if null.ndim else float(null),
        pair.num_images,
        1,
        level,
        method_from(
            num_replicates,
            level,
            f"bootstrap over {pair.unit} of a function of all of them (percentile); null by sign "
            "flips",
        ),
        intervention,
    )


def interquartile_mean(
    key: Array,
    values: ArrayLike,
    *,
    num_inputs: int,
    intervention: str,
    null: float = 0.0,
    bootstrap: Bootstrap = Bootstrap(num_replicates=2000),
) -> Estimate:
    """Mean of the middle half of all trained models, which one failed model does not decide.

    Seeds are resampled within each stratum (data set, family, factor), and the strata stay as they
    are (Agarwal et al. 2021, arXiv:2108.13264). With few seeds percentiles are too narrow; they
    are widened by ``expanded_level``.

    Args:
        key: Typed PRNG key.
        values: (seeds, strata), or (seeds,).
        num_inputs: Images behind each value.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        bootstrap: How its interval is made; seeds have no clusters.

    Raises:
        ValueError: Another shape, fewer than two seeds, a level outside (0, 1), or clusters or
            another ``interval``.
    """
    num_replicates, level, _, _ = bootstrap.without("interquartile_mean", "clusters", "interval")
    check_level(level)
    values = np.asarray(values, float)
    if values.ndim not in (1, 2) or values.shape[0] < 2 or values.size == 0:
        raise ValueError(
            f"values has shape {values.shape}, expected (seeds, strata), two or more seeds."
        )
    values = values.reshape(len(values), -1)
    num_seeds = len(values)
    draws = np.asarray(jax.random.randint(key, (num_replicates, *values.shape), 0, num_seeds))
    replicates = np.take_along_axis(values[None], draws, axis=1).reshape(num_replicates, -1)
    expanded = expanded_level(level, num_seeds)
    value = stats.trim_mean(values.ravel(), 0.25)
    low = high = np.nan
    if num_replicates >= least_replicates(level):
        low, high = np.quantile(
            stats.trim_mean(replicates, 0.25, axis=1), [0.5 - expanded / 2, 0.5 + expanded / 2]
        )
    return Estimate(
        np.asarray(value),
        np.minimum(low, value),
        np.maximum(high, value),
        null,
        num_inputs,
        num_seeds,
        level,
        method_from(num_replicates, level, "interquartile mean, seeds resampled within strata"),
        intervention,
    )


class _Pair(NamedTuple):
    """Checked numerators and denominators, one sum per cluster where there are clusters.

    Attributes:
        numerator: (..., samples).
        denominator: Of the same rank; axes of length 1 stay, so that a shared denominator is
            resampled once.
        num_images: Images behind them.
        unit: What is resampled, in words.
    """

    numerator: Array
    denominator: Array
    num_images: int
    unit: str


def _checked_pair(
    numerator: ArrayLike, denominator: ArrayLike, clusters: ArrayLike | None, level: float
) -> _Pair:
    check_level(level)
    numerator, denominator = jnp.asarray(numerator, float), jnp.asarray(denominator, float)
    num_images = numerator.shape[-1] if numerator.ndim else 0
    if denominator.shape[-1:] != (num_images,) or num_images < 2:
        raise ValueError(
            f"numerator {numerator.shape} and denominator {denominator.shape} need the same, at "
            "least two, images on their last axis: one image shows no spread."
        )
    if np.broadcast_shapes(numerator.shape, denominator.shape) != numerator.shape:
        raise ValueError(
            f"denominator {denominator.shape} does not broadcast to numerator {numerator.shape}."
        )
    unit = "images"
    if clusters is not None:
        numerator, denominator = (sum_clusters(clusters, a) for a in (numerator, denominator))
        unit = f"{numerator.shape[-1]} clusters of images"
        if numerator.shape[-1] < 2:
            raise ValueError("clusters has one label, expected at least two clusters to resample.")
    axes = tuple(range(numerator.ndim - denominator.ndim))
    return _Pair(numerator, jnp.expand_dims(denominator, axes), num_images, unit)


@jax.jit
def _all_equal(samples: Array) -> Array:
    return jnp.all(samples == samples[..., :1], axis=-1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _ratio_interval(key, numerator, denominator, level, num_replicates, interval):
    resampled = resample_ratio(key, numerator, denominator, num_replicates=num_replicates)
    return resampled.value, *interval(resampled, level)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _function_interval(key, numerator, denominator, function, level, num_replicates, num_flips):
    weight_key, flip_key = jax.random.split(key)
    resampled = resample_ratio(weight_key, numerator, denominator, num_replicates=num_replicates)
    value = function(resampled.value)
    values = jax.vmap(function)(resampled.values)
    num_images = numerator.shape[-1]
    ends = middle(values, expanded_level(level, num_images))
    if num_replicates < least_replicates(level):
        ends = jnp.full_like(value, jnp.nan), jnp.full_like(value, jnp.nan)
    signs = jax.random.rademacher(flip_key, (num_flips, num_images), numerator.dtype)
    flipped = divide(weighted(signs, numerator), denominator.sum(-1)[None])
    return value, *holding(value, *ends), jax.vmap(function)(flipped).mean(0)
