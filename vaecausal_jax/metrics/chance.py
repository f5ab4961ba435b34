"""What a number means: floors and ceilings, chance level and interval of any score.

A score is ``score(codes, factors)``, to a number or to several, so everything here is written once.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import special, stats

from vaecausal_jax.inference import Estimate
from vaecausal_jax.inference.estimate import check_level
from vaecausal_jax.metrics.arrays import check_codes, factor_levels

ScoreFn = Callable[[Any, Any], Any]
"""``score(codes, factors)`` of (rows, codes) and (rows, factors), to a number or a few."""


class _Resamples(NamedTuple):
    """What a score gives resampled rows, or why its spread over them is not known."""

    scores: list[np.ndarray]
    missing: str = ""


def reference_codes(
    key: Array, factors: ArrayLike, *, num_noise: int | None = None
) -> dict[str, np.ndarray]:
    """Codes whose disentanglement is known, for the rows of a factor grid.

    ``perfect``: the factor levels, standardised. ``rotated``: perfect codes times an orthogonal
    matrix, the same information on no axis: of 100 random matrices the one that mixes axes most
    (least sum of fourth powers), because a single one may by luck keep some. ``duplicated``: each
    perfect code twice.
    ``collapsed``: zeros, a posterior equal to the prior. ``noise``: standard normal.

    Args:
        key: Typed PRNG key.
        factors: (rows, factors), of levels.
        num_noise: Columns of the noise: as many as factors if None. Some floors depend on it.

    Returns:
        Name to codes, (rows, factors), or twice as many columns where duplicated; float32.
    """
    levels = factor_levels(factors, len(np.asarray(factors))).index
    seed = np.asarray(jax.random.key_data(key)).tolist()
    rotation_rng, noise_rng = np.random.default_rng(seed).spawn(2)
    perfect = (levels - levels.mean(axis=0)) / levels.std(axis=0)
    width = levels.shape[1]
    rotation = np.eye(1)
    if width > 1:
        drawn = stats.ortho_group.rvs(width, size=100, random_state=rotation_rng)
        rotation = drawn[np.argmin(np.sum(drawn**4, axis=(1, 2)))]
    codes = {
        "perfect": perfect,
        "rotated": perfect @ rotation,
        "duplicated": np.concatenate([perfect, perfect], axis=1),
        "collapsed": np.zeros_like(perfect),
        "noise": noise_rng.normal(size=(len(perfect), num_noise or width)),
    }
    return {name: values.astype(np.float32) for name, values in codes.items()}


def floors_and_ceilings(key: Array, score: ScoreFn, factors: ArrayLike) -> dict[str, np.ndarray]:
    """The score of each of ``reference_codes`` on these factors: what it can and cannot reach.

    Args:
        key: Typed PRNG key.
        score: ``score(codes, factors)``.
        factors: (rows, factors), of levels.
    """
    codes = reference_codes(key, factors)
    return {name: np.asarray(score(values, factors)) for name, values in codes.items()}


def shuffle_rows(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Breaks the tie between codes and factors, and nothing else."""
    return codes[rng.permutation(len(codes))]


def shuffle_columns(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Breaks the tie between codes as well: each column is shuffled independently."""
    return rng.permuted(codes, axis=0)


def estimate_score(
    key: Array,
    score: ScoreFn,
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    description: str,
    num_train: int | None = None,
    num_replicates: int = 20,
    num_shuffles: int = 5,
    shuffle: Callable[[np.random.Generator, np.ndarray], np.ndarray] = shuffle_rows,
    level: float = 0.95,
) -> Estimate:
    """A score with a bootstrap interval and its chance level.

    The interval is value +- t * s with s the standard deviation over resampled rows and t Student's
    quantile for so many replicates. It is centred on the value because a resample's duplicates bias
    plug-in information upwards: percentiles would miss the value itself. It covers rows, not seeds.
    The chance level (``null``) is the mean score of shuffled codes.

    A resample may lack what all rows have, such as the second level of a factor, and the score
    refuse it (ValueError, or a number that is not finite): another is drawn. There is no interval
    where more than half are refused, or where a factor's levels rest on one row without which there
    is no score: one row shows no spread. ``Estimate.caution`` then says why.

    Args:
        key: Typed PRNG key.
        score: ``score(codes, factors)``; one that draws votes keeps its own key.
        codes: (rows, codes).
        factors: (rows, factors).
        description: What the score is and how it was set, in words.
        num_train: If the score trains on the leading rows, how many: rows are then resampled inside
            each part, so that no row trains and tests.
        num_replicates: Bootstrap replicates; 0 for no interval.
        num_shuffles: Shuffles; 0 for no chance level.
        shuffle: How chance is made; ``shuffle_columns`` for scores of codes alone.
        level: Coverage.

    Raises:
        ValueError: One replicate, a level outside (0, 1), or whatever the score refuses.
    """
    if num_replicates == 1 or min(num_replicates, num_shuffles) < 0:
        raise ValueError(
            f"num_replicates is {num_replicates} and num_shuffles {num_shuffles}, expected 0 or at "
            "least 2 replicates, and no negative number."
        )
    check_level(level)
    codes, factors = np.asarray(check_codes(codes)), np.asarray(factors)
    value = np.asarray(score(codes, factors), np.float64)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    ends = [0, len(codes)] if num_train is None else [0, num_train, len(codes)]
    parts = list(zip(ends[:-1], ends[1:], strict=True))
    known = np.isfinite(value)

    def scored(rows):
        # What resampled rows lack is no fault of the data's: no warning, but another resample.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                found = np.asarray(score(codes[rows], factors[rows]), np.float64)
            except ValueError as error:
                return None, str(error)
        return (found, "") if np.isfinite(found[known]).all() else (None, "it is not finite")

    replicates, missing = _resamples(rng, scored, factors, parts, num_replicates)
    chance = [np.asarray(score(shuffle(rng, codes), factors)) for _ in range(num_shuffles)]
    half = np.full_like(value, np.nan)
    if replicates:
        quantile = special.stdtrit(num_replicates - 1, 0.5 + level / 2)
        half[known] = quantile * np.std(replicates, axis=0, ddof=1)[known]
    return Estimate(
        value,
        value - half,
        value + half,
        _mean(chance, value),
        len(codes),
        1,
        level,
        missing or f"bootstrap standard error over rows, {num_replicates} replicates (Student t)",
        description,
    )


def _resamples(
    rng: np.random.Generator,
    scored: Callable[[np.ndarray], tuple[np.ndarray | None, str]],
    factors: np.ndarray,
    parts: list[tuple[int, int]],
    num_replicates: int,
) -> _Resamples:
    """The score of rows drawn with replacement inside each part, (first row, end).

    ``scored`` takes rows and returns their score, or None and why there is none.
    """
    for factor, row, other in _lone_rows(factors, parts) if num_replicates else ():
        without = np.arange(len(factors))
        without[row] = other
        if scored(without)[0] is None:
            return _Resamples(
                [],
                f"no interval: row {row} alone has another level of factor {factor} than all that "
                "it is resampled with, and one row shows no spread",
            )
    replicates, refused, reason = [], 0, ""
    while len(replicates) < num_replicates:
        found, said = scored(np.concatenate([rng.integers(a, b, b - a) for a, b in parts]))
        if found is not None:
            replicates.append(found)
            continue
        refused, reason = refused + 1, said
        if refused > num_replicates:
            drawn = refused + len(replicates)
            return _Resamples(
                [],
                f"no interval: {refused} of {drawn} resamples cannot be scored, the last because: "
                f"{reason.rstrip('.')}",
            )
    return _Resamples(replicates)


def _lone_rows(factors: np.ndarray, parts: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Factors with one level in all rows of a part but one: (factor, that row, another row)."""
    found = []
    for factor, column in enumerate(factors.reshape(len(factors), -1).T):
        for begin, end in parts:
            _, first, counts = np.unique(column[begin:end], return_index=True, return_counts=True)
            if sorted(counts) == [1, end - begin - 1]:
                row, other = first[np.argsort(counts, kind="stable")]
                found.append((factor, begin + int(row), begin + int(other)))
    return found


def _mean(chance: list[np.ndarray], like: np.ndarray) -> Any:
    return np.mean(chance, axis=0) if chance else np.full_like(like, np.nan)
