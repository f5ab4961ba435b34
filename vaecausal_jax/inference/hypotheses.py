"""Tests: is there an effect, is it large enough to matter, is it small enough not to, in families.

Sign flips need no distribution, only that under the null an effect is as likely as its negative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import special

from vaecausal_jax.inference.resampling import HIGHEST

BLOCK = 128
"""Sign patterns evaluated together: memory is BLOCK x tests."""


class SignFlipTest(NamedTuple):
    """Two-sided tests of no effect, one per leading index of the samples.

    Attributes:
        statistic: Student's t; 0 where every sample is 0, infinite where all others are equal.
        p_value: Of each test by itself.
        family_p_value: Adjusted so that the chance of any false rejection in the family is at most
            the level at which it is compared (step-down max-T).
        num_flips: Sign patterns behind the p-values.
        exact: Whether these are all there are.
    """

    statistic: np.ndarray
    p_value: np.ndarray
    family_p_value: np.ndarray
    num_flips: int
    exact: bool


def sign_flip_test(
    samples: ArrayLike, *, key: Array | None = None, num_flips: int = 9999
) -> SignFlipTest:
    """Flips the signs of paired effects, in common for all units, and counts larger statistics.

    All 2^n patterns are enumerated where they are few enough, and p is their fraction; otherwise
    p = (1 + count) / (1 + num_flips) of random ones, never 0. Common flips keep the dependence
    between units, which the family's maximum then accounts for (Westfall & Young 1993).

    Args:
        samples: (..., images): paired effects, their null value subtracted; or sums of clusters
            (``sum_clusters``), or differences of models, seed by seed.
        key: Typed PRNG key, needed where the patterns are too many.
        num_flips: Random patterns, and the most that are enumerated.

    Returns:
        NaN p-values for units that have NaN among their samples; they are no part of the family.

    Raises:
        ValueError: Fewer than two samples, or too many to enumerate and no key.
    """
    mean, error, freedom = _mean_and_error(samples)
    samples = jnp.asarray(samples, float)
    num_samples = freedom + 1
    # A pattern and its negative give the same |t|: the first sign stays.
    exact = num_samples - 1 <= np.log2(num_flips)
    if exact:
        counts = np.arange(2 ** (num_samples - 1))[:, None]
        flips = jnp.asarray(1.0 - 2.0 * (counts >> np.arange(num_samples) & 1), samples.dtype)
    elif key is None:
        raise ValueError(
            f"{num_samples} samples have more sign patterns than num_flips = {num_flips}; give a "
            "key to draw random ones."
        )
    else:
        flips = jax.random.rademacher(key, (num_flips, num_samples), samples.dtype)
    rows = samples.reshape(-1, num_samples)
    statistic, *counts = map(np.asarray, count_larger_flips(flips, rows))
    extra = 0 if exact else 1
    p_values = [(extra + count) / (extra + len(flips)) for count in counts]
    # Step down: no test is rejected before those with larger statistics.
    order = np.argsort(-np.abs(statistic), kind="stable")
    p_values[1][order] = np.maximum.accumulate(p_values[1][order])
    known = np.isfinite(np.asarray(samples)).all(-1)
    own, family = (np.where(known, p.reshape(known.shape), np.nan) for p in p_values)
    return SignFlipTest(_ratio(mean, error), own, family, len(flips), exact)


@jax.jit
def count_larger_flips(flips: Array, rows: Array) -> tuple[Array, Array, Array]:
    """Statistics r = sum(d) / |d|, monotone in t, and how many flips reach them; traceable.

    Args:
        flips: (patterns, images) of 1 and -1.
        rows: (units, images): one family.

    Returns:
        (r, flips in which |r*| of the unit reaches |r|, flips in which the largest |r*| among units
        with no larger |r| does).
    """
    known = jnp.isfinite(rows).all(1, keepdims=True)
    rows = jnp.where(known, rows, 0.0)
    scale = jnp.abs(rows).max(1, keepdims=True)
    rows = rows / jnp.where(scale > 0, scale, 1.0)
    length = jnp.sqrt((rows**2).sum(1, keepdims=True))
    rows = rows / jnp.where(length > 0, length, 1.0)
    statistic = rows.sum(1)
    order = jnp.argsort(jnp.abs(statistic))
    # Equal statistics summed in another order are ties, not smaller ones.
    reached = jnp.abs(statistic)[order] * (1 - 1e-5) - 1e-6

    def count(counts, block):
        flipped = jnp.abs(jnp.matmul(block, rows[order].T, precision=HIGHEST))
        largest = jax.lax.cummax(flipped, axis=1)
        found = [jnp.sum(a >= reached[None], axis=0) for a in (flipped, largest)]
        return (counts[0] + found[0], counts[1] + found[1]), None

    # NaN in the last block compares as false.
    missing = -len(flips) % BLOCK
    blocks = jnp.pad(flips, ((0, missing), (0, 0)), constant_values=jnp.nan)
    start = jnp.zeros(len(rows), int)
    (own, family), _ = jax.lax.scan(
        count, (start, start), blocks.reshape(-1, BLOCK, flips.shape[1])
    )
    back = jnp.argsort(order)
    return statistic, own[back], family[back]


def false_discovery(p_values: ArrayLike, *, dependent: bool = False) -> np.ndarray:
    """Adjusted p-values: rejecting those up to q keeps the false discovery rate at most q.

    Benjamini & Hochberg (1995), for independent or positively dependent tests; Benjamini &
    Yekutieli (2001) for any dependence. NaN marks what was not tested, counts for nothing and
    stays. All axes are one family.

    Args:
        p_values: Any shape.
        dependent: Whether to guard against any dependence.

    Raises:
        ValueError: A p-value outside [0, 1].
    """
    p_values = np.asarray(p_values, float)
    tested = p_values[~np.isnan(p_values)]
    if tested.size and not (tested.min() >= 0 and tested.max() <= 1):
        raise ValueError(f"p-values lie in [0, 1], got {tested.min()} .. {tested.max()}.")
    ranks = np.arange(1, tested.size + 1)
    factor = tested.size * (np.sum(1 / ranks) if dependent else 1.0)
    order = np.argsort(tested)
    # SciPy's false_discovery_control has p (m / i), which rounds otherwise than p m / i: decisions
    # differ where p-values are counts of flips and lie exactly on a level.
    scaled = tested[order] * factor / ranks
    adjusted = np.full(p_values.shape, np.nan)
    from_largest = np.minimum.accumulate(scaled[::-1])[::-1]
    tested[order] = np.minimum(from_largest, 1.0)
    adjusted[~np.isnan(p_values)] = tested
    return adjusted


def hierarchical_discovery(p_values: ArrayLike, *, q: float = 0.05) -> np.ndarray:
    """Discoveries in two steps: which families hold any effect, then which effects they hold.

    Families, such as units, are selected by Benjamini-Hochberg at q on Simes' p-values; their
    tests, such as factors, by Benjamini-Hochberg at q times the share of families selected, which
    pays for the selection: the false discovery rate within selected families is at most q on
    average (Benjamini & Bogomolov 2014). Where effects come together it finds more than one large
    family does.

    Args:
        p_values: (families, tests); NaN marks what was not tested.
        q: False discovery rate.

    Returns:
        (families, tests): which are discoveries.

    Raises:
        ValueError: Not (families, tests), a p-value outside [0, 1], or q outside (0, 1).
    """
    p_values = np.asarray(p_values, float)
    if p_values.ndim != 2:
        raise ValueError(f"p_values has shape {p_values.shape}, expected (families, tests).")
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie between 0 and 1, got {q}.")
    within = np.stack([false_discovery(family) for family in p_values])
    tested = ~np.isnan(within).all(1)
    # Simes' p-value is the smallest adjusted one.
    simes = np.where(tested, np.where(np.isnan(within), np.inf, within).min(1), np.nan)
    selected = false_discovery(simes) <= q
    share = selected.sum() / max(tested.sum(), 1)
    return selected[:, None] & (within <= q * share)


def minimum_effect_test(samples: ArrayLike, delta: ArrayLike) -> np.ndarray:
    """p-values of |mean effect| <= delta against |mean effect| > delta.

    With many images any effect differs from zero; this asks whether it differs by enough to matter.
    The p-value is P(T >= (|m| - delta) / se) + P(T >= (|m| + delta) / se), Student's T with n - 1
    degrees of freedom: the two-sided t test at delta = 0, the one-sided test of m > delta far from
    zero.

    Args:
        samples: (..., images).
        delta: Smallest effect of interest, (...) or a number, not negative.
    """
    mean, error, freedom = _mean_and_error(samples)
    delta = _positive("delta", delta)
    beyond = _ratio(np.abs(mean) - delta, error), _ratio(np.abs(mean) + delta, error)
    return special.stdtr(freedom, -beyond[0]) + special.stdtr(freedom, -beyond[1])


def equivalence_test(samples: ArrayLike, margin: ArrayLike) -> np.ndarray:
    """p-values of |mean effect| >= margin against |mean effect| < margin.

    It is the larger p-value of two one-sided t tests (Schuirmann 1987). A large p of a test of no
    effect is no evidence that there is none; a small one of this test is.

    Args:
        samples: (..., images).
        margin: Largest effect that counts as none, (...) or a number, not negative.
    """
    mean, error, freedom = _mean_and_error(samples)
    margin = _positive("margin", margin)
    return special.stdtr(freedom, -_ratio(margin - np.abs(mean), error))


def equivalence_margin(samples: ArrayLike, *, level: float = 0.95) -> np.ndarray:
    """The smallest margin that ``equivalence_test`` passes at 1 - level: |m| + t(level) se."""
    mean, error, freedom = _mean_and_error(samples)
    return np.abs(mean) + special.stdtrit(freedom, level) * error


def _mean_and_error(samples: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    samples = np.asarray(samples, float)
    num_samples = samples.shape[-1] if samples.ndim else 0
    if num_samples < 2:
        raise ValueError(f"samples has shape {samples.shape}, expected (..., images), two or more.")
    error = samples.std(-1, ddof=1) / np.sqrt(num_samples)
    return samples.mean(-1), error, num_samples - 1


def _positive(word: str, value: ArrayLike) -> np.ndarray:
    value = np.asarray(value, float)
    if np.any(value < 0):
        raise ValueError(f"{word} must not be negative, got {value.min()}.")
    return value


def _ratio(distance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Distance in standard errors; without any spread every distance is infinitely many."""
    far = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    return np.where(error == 0, far, distance / np.where(error == 0, 1.0, error))
