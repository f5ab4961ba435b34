"""How well what was found agrees with what was planted: ranks, calls, sizes, modules and graphs.

The usual scores are scikit-learn's, for inputs that it refuses too. NaN scores, of what a finder
could not judge, rank below all others. A score that has nothing to be about, such as the area under
a curve without any negative, is NaN. Needs the ``study`` extra.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from scipy import stats
from sklearn import metrics

from vaecausal_jax.circuits.partitions import checked_labels
from vaecausal_jax.inference import Estimate

CALL_THRESHOLD = 0.01
"""Share of the largest score above which ``called`` counts a unit as found."""


def auroc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Chance that a true one scores above a false one, ties counted half (Mann & Whitney).

    Args:
        scores: Any shape; larger for more likely.
        truth: Booleans of that shape.
    """
    scores, truth = _ranked(scores, truth)
    if truth.all() or not truth.any():
        return float("nan")
    return float(metrics.roc_auc_score(truth, scores))


def average_precision(scores: ArrayLike, truth: ArrayLike) -> float:
    """Mean precision over the true ones found as the threshold falls; ties enter together.

    Random scores give the prevalence.

    Args:
        scores: Any shape.
        truth: Booleans of that shape.
    """
    scores, truth = _ranked(scores, truth)
    return float(metrics.average_precision_score(truth, scores)) if truth.any() else float("nan")


def called(scores: ArrayLike, *, threshold: float = CALL_THRESHOLD) -> np.ndarray:
    """Which scores exceed a share of the largest: what a finder without tests claims to have found.

    Args:
        scores: Any shape; NaN is not called.
        threshold: The share, from 0 up to 1.
    """
    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold}.")
    scores = np.asarray(scores, float)
    largest = np.max(np.nan_to_num(scores, nan=0.0), initial=0.0)
    return scores > threshold * largest


def false_discovery_proportion(found: ArrayLike, truth: ArrayLike) -> float:
    """Share of what was found that is not true; 0 where nothing was found.

    Its mean over replicates is the realised false discovery rate.
    """
    found, truth = _paired_booleans(found, truth)
    return float(np.sum(found & ~truth) / max(found.sum(), 1))


def false_positive_rate(found: ArrayLike, distractors: ArrayLike) -> float:
    """Share of the distractors that were found; NaN without distractors."""
    found, distractors = _paired_booleans(found, distractors)
    return float(found[distractors].mean()) if distractors.any() else float("nan")


def effect_rmse(found: ArrayLike, truth: ArrayLike) -> float:
    """Root mean squared error over the root mean square of the true effects."""
    found, truth = _paired(found, truth)
    size = np.sqrt(np.mean(truth**2))
    return float(np.sqrt(np.mean((found - truth) ** 2)) / size) if size > 0 else float("nan")


def rank_correlation(found: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's; NaN where either is constant."""
    found, truth = _paired(found, truth)
    if len(found) < 2 or np.ptp(found) == 0 or np.ptp(truth) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(found), stats.rankdata(truth))[0, 1])


def interval_coverage(estimate: Estimate, truth: ArrayLike, *, tolerance: float = 1e-5) -> float:
    """Share of intervals that hold the truth.

    Args:
        estimate: Of as many values as the truth.
        truth: The true values.
        tolerance: Share of the largest true value by which an interval without width may miss it:
            the rounding of float32.
    """
    low, value = _paired(estimate.low, truth)
    high, _ = _paired(estimate.high, truth)
    slack = tolerance * np.abs(value).max(initial=0.0)
    return float(np.mean((low - slack <= value) & (value <= high + slack)))


def adjusted_rand(found: ArrayLike, truth: ArrayLike) -> float:
    """Agreement of two partitions over pairs, 0 by chance and 1 at best (Hubert & Arabie 1985).

    Args:
        found: Integer labels, (nodes,); a negative label is a module of its own.
        truth: The true labels, (nodes,).
    """
    return _agreement(metrics.adjusted_rand_score, found, truth)


def normalised_mutual_information(found: ArrayLike, truth: ArrayLike) -> float:
    """Mutual information of two partitions over the mean of their entropies, in [0, 1].

    Args:
        found: See ``adjusted_rand``.
        truth: The true labels, (nodes,).
    """
    return _agreement(metrics.normalized_mutual_info_score, found, truth)


def f1(found: ArrayLike, truth: ArrayLike) -> float:
    """Harmonic mean of precision and recall; 1 where there is nothing to find and nothing found."""
    found, truth = _paired_booleans(found, truth)
    return float(metrics.f1_score(truth, found)) if np.any(found | truth) else 1.0


def roles_f1(found: Any, truth: Mapping[str, ArrayLike]) -> float:
    """F1 over all roles of all units together.

    Args:
        found: ``circuits.roles.UnitRoles``, or a mapping from role to booleans.
        truth: Role to booleans (units,); only these are compared.
    """
    names = list(truth)
    of = found if isinstance(found, Mapping) else found._asdict()
    return f1(np.stack([of[n] for n in names]), np.stack([np.asarray(truth[n]) for n in names]))


def passes_to_reach(
    score: Callable[[int], tuple[float, float]], sizes: Sequence[int], *, target: float = 0.99
) -> float:
    """Forward passes of the smallest sample at which a score reaches its target; infinite if never.

    Args:
        score: Number of pairs to (score, forward passes).
        sizes: Numbers of pairs to try, in this order.
        target: Of the score.
    """
    for num in sizes:
        reached, passes = score(num)
        if reached >= target:
            return passes
    return float("inf")


def _paired(found: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    found, truth = np.asarray(found, float), np.asarray(truth, float)
    if found.shape != truth.shape or truth.size == 0:
        raise ValueError(
            f"found has shape {found.shape}, expected that of the truth, {truth.shape}, and not "
            "empty."
        )
    return found.ravel(), truth.ravel()


def _paired_booleans(found: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    for word, values in (("found", found), ("truth", truth)):
        if np.asarray(values).dtype != bool:
            raise ValueError(
                f"{word} is {np.asarray(values).dtype}, expected booleans; see called."
            )
    found, truth = _paired(found, truth)
    return found.astype(bool), truth.astype(bool)


def _ranked(scores: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    if np.asarray(truth).dtype != bool:
        raise ValueError(f"truth is {np.asarray(truth).dtype}, expected booleans.")
    scores, truth = _paired(scores, truth)
    # Ranks have the order and the ties of the scores, and are finite.
    scores = np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return stats.rankdata(scores), truth.astype(bool)


def _agreement(score: Callable[..., float], found: ArrayLike, truth: ArrayLike) -> float:
    """A score of two partitions, each negative label a module of its own."""
    found, truth = (checked_labels(a.astype(int), len(a)) for a in _paired(found, truth))
    with warnings.catch_warnings():
        # Many lone nodes are as many classes, of which scikit-learn warns.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return float(score(truth, found))
