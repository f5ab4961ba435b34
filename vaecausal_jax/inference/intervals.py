"""Intervals in closed form: Student's over seeds, Fieller's for a ratio."""

import numpy as np
from jax.typing import ArrayLike
from scipy import special

from vaecausal_jax.inference.estimate import Estimate, check_level


def over_seeds(
    values: ArrayLike,
    *,
    num_inputs: int,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
) -> Estimate:
    """Mean over trained models with Student's t interval on their values.

    Each seed's value already averages its images. If every seed has other images, the spread
    between seeds holds both sources of variance, sigma_seed^2 / S + sigma_input^2 / (S N). If all
    see the same images, the interval covers new models on THESE images; ``bootstrap_two_level``
    covers new images too. One seed shows no spread: it has no interval.

    Args:
        values: (seeds, ...), one value per trained model.
        num_inputs: Images behind each value.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.

    Raises:
        ValueError: No leading axis of at least one seed, or a level outside (0, 1).
    """
    check_level(level)
    by_seed = np.asarray(values)
    if by_seed.shape[:1] in {(), (0,)}:
        raise ValueError(f"values has shape {by_seed.shape}, expected (seeds, ...), one or more.")
    num_seeds = by_seed.shape[0]
    mean = by_seed.mean(axis=0)
    if num_seeds > 1:
        quantile = special.stdtrit(num_seeds - 1, 0.5 + level / 2)
        # Rounding of the mean is no spread.
        equal = (by_seed == by_seed[:1]).all(axis=0)
        half = quantile * np.where(equal, 0.0, by_seed.std(axis=0, ddof=1)) / np.sqrt(num_seeds)
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


def fieller_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    intervention: str,
    null: float = 0.0,
    level: float = 0.95,
) -> Estimate:
    """Ratio of sums over images with Fieller's interval (1954): no resampling.

    The ratios r at which a t test of numerator - r * denominator does not reject; the ratio itself
    is one. Where the denominator itself may be zero at this level, no bounded interval covers: the
    ends are infinite. They are NaN where the denominator's sum is zero.

    Args:
        numerator: (..., images).
        denominator: (..., images), broadcastable to it.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        level: Coverage.

    Raises:
        ValueError: Fewer than two images, shapes that do not match, or a level outside (0, 1).
    """
    check_level(level)
    above, below = np.asarray(numerator, float), np.asarray(denominator, float)
    if above.shape[-1] != below.shape[-1] or above.shape[-1] < 2:
        raise ValueError(
            f"numerator {above.shape} and denominator {below.shape} need the same, at least two, "
            "images on their last axis."
        )
    above, below = np.broadcast_arrays(above, below)
    num_images = above.shape[-1]
    factor = special.stdtrit(num_images - 1, 0.5 + level / 2) ** 2 / (num_images - 1) / num_images
    top, bottom = above.mean(-1), below.mean(-1)
    nonzero = bottom != 0
    value = np.where(nonzero, top / np.where(nonzero, bottom, 1.0), np.nan)
    rest = above - value[..., None] * below
    # Up to rounding, whose root the formula would take for a spread.
    proportional = (np.abs(rest) <= 1e-15 * np.abs(above)).all(-1)
    above, below = above - top[..., None], below - bottom[..., None]
    # a r^2 - 2 b r + c <= 0
    a = bottom**2 - factor * (below**2).sum(-1)
    b = top * bottom - factor * (above * below).sum(-1)
    c = top**2 - factor * (above**2).sum(-1)
    bounded = a > 0
    safe = np.where(bounded, a, 1.0)
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    ends = (np.where(proportional, value, (b + sign * root) / safe) for sign in (-1, 1))
    low, high = ends
    return Estimate(
        value,
        np.minimum(np.where(bounded, low, -np.inf), value),
        np.maximum(np.where(bounded, high, np.inf), value),
        null,
        num_images,
        1,
        level,
        "Fieller's interval over images",
        intervention,
    )
