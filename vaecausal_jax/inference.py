"""Estimates: a number with its interval, its sample sizes and its null.

Images are resampled in pairs: all arms of a contrast share a weight, and all units share the
weights, so one matrix product bootstraps a whole sweep.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import special

from vaecausal_jax.sites import Array

MIN_SEEDS = 6
"""Fewest paired seeds at which a two-sided sign-flip test can reach p < 0.05 (2 / 2^6 = 0.031)."""


class Estimate(NamedTuple):
    """A number, or an array of them, that can be published.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        null: What the same statistic gives where nothing was intervened on.
        num_inputs: Images behind each number.
        num_seeds: Trained models behind each number.
        level: Coverage aimed at.
        method: How the interval was made.
        intervention: What was done, in words.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    null: float
    num_inputs: int
    num_seeds: int
    level: float
    method: str
    intervention: str

    @property
    def caution(self) -> str:
        """What this estimate cannot support, in a sentence; empty where nothing needs saying."""
        if self.num_seeds >= MIN_SEEDS:
            return ""
        if self.num_seeds == 1:
            return "One trained model: any interval covers images, not seeds."
        smallest = 2.0 / 2.0**self.num_seeds
        return (
            f"{self.num_seeds} seeds: a paired sign-flip test cannot go below p = {smallest:.3g}; "
            f"{MIN_SEEDS} are needed to claim a difference between models."
        )


def poisson_weights(key: Array, num_replicates: int, num_samples: int) -> Array:
    """Bootstrap weights: independent Poisson(1) counts, (replicates, samples) float32."""
    return jax.random.poisson(key, 1.0, (num_replicates, num_samples)).astype(jnp.float32)


def bootstrap_mean(
    key: Array,
    samples: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
    num_replicates: int = 1000,
) -> Estimate:
    """Mean over images with a percentile bootstrap interval.

    Args:
        key: Typed PRNG key.
        samples: (..., images): per-image effects, e.g. one row a unit.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.
        num_replicates: Bootstrap replicates.
    """
    ones = jnp.ones_like(samples)
    return bootstrap_ratio(
        key,
        samples,
        ones,
        intervention=intervention,
        null=null,
        level=level,
        num_replicates=num_replicates,
    )._replace(method="paired bootstrap over images (percentile)")


def bootstrap_ratio(
    key: Array,
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
    num_replicates: int = 1000,
) -> Estimate:
    """Ratio of sums over images with a percentile bootstrap of the pair.

    Args:
        key: Typed PRNG key.
        numerator: (..., images).
        denominator: (..., images), broadcastable to it. NaN where its sum is zero: there is no
            effect to take a share of.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.
        num_replicates: Bootstrap replicates.

    Raises:
        ValueError: Fewer than two images, shapes that do not match, or a level outside (0, 1).
    """
    _check_level(level)
    numerator, denominator = jnp.asarray(numerator), jnp.asarray(denominator)
    if numerator.shape[-1] != denominator.shape[-1] or numerator.shape[-1] < 2:
        raise ValueError(
            f"numerator {numerator.shape} and denominator {denominator.shape} need the same, at "
            "least two, images on their last axis."
        )
    value, bounds = _ratio_and_bounds(key, numerator, denominator, level, num_replicates)
    low, high = np.asarray(bounds)
    return Estimate(
        np.asarray(value),
        low,
        high,
        null,
        numerator.shape[-1],
        1,
        level,
        "bootstrap of the pair (numerator, denominator) over images (percentile)",
        intervention,
    )


def over_seeds(
    values: ArrayLike,
    *,
    num_inputs: int,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
) -> Estimate:
    """Mean over trained models with Student's t interval on their values.

    Each seed's value already averages its images, so the spread between seeds holds both sources of
    variance, sigma_seed^2 / S + sigma_input^2 / (S N); more images cannot replace seeds.

    Args:
        values: (seeds, ...), one value a trained model.
        num_inputs: Images behind each value.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.

    Raises:
        ValueError: No leading axis of at least one seed, or a level outside (0, 1).
    """
    _check_level(level)
    by_seed = np.asarray(values)
    if by_seed.shape[:1] in {(), (0,)}:
        raise ValueError(f"values has shape {by_seed.shape}, expected (seeds, ...), one or more.")
    num_seeds = by_seed.shape[0]
    mean = by_seed.mean(axis=0)
    if num_seeds > 1:
        quantile = special.stdtrit(num_seeds - 1, 0.5 + level / 2)
        half = quantile * by_seed.std(axis=0, ddof=1) / np.sqrt(num_seeds)
    else:
        half = np.full_like(mean, np.nan)
    return Estimate(
        np.asarray(mean),
        np.asarray(mean - half),
        np.asarray(mean + half),
        null,
        num_inputs,
        num_seeds,
        level,
        "Student t over seeds",
        intervention,
    )


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, got {level}.")


@functools.partial(jax.jit, static_argnames="num_replicates")
def _ratio_and_bounds(
    key: Array, numerator: Array, denominator: Array, level: float, num_replicates: int
) -> tuple[Array, Array]:
    denominator = jnp.broadcast_to(denominator, numerator.shape)
    weights = poisson_weights(key, num_replicates, numerator.shape[-1])
    sums = jnp.tensordot(weights, jnp.moveaxis(numerator, -1, 0), axes=1)
    totals = jnp.tensordot(weights, jnp.moveaxis(denominator, -1, 0), axes=1)
    tails = jnp.array([0.5 - level / 2, 0.5 + level / 2])
    # JAX's nanquantile, unlike NumPy's, is quiet about a row that is all NaN.
    bounds = jnp.nanquantile(_divide(sums, totals), tails, axis=0)
    return _divide(numerator.sum(-1), denominator.sum(-1)), bounds


def _divide(numerator: Array, denominator: Array) -> Array:
    safe = jnp.where(denominator != 0, denominator, 1.0)
    return jnp.where(denominator != 0, numerator / safe, jnp.nan)
