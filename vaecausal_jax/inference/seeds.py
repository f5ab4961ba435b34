"""What trained models allow one to claim: how many it takes, and which of their units match."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import optimize, special


def smallest_p(num_seeds: int, *, paired: bool = True) -> float:
    """The smallest p-value that an exact two-sided test over seeds can give.

    2 / 2^n for sign flips of n paired seeds, 2 / C(2n, n) for permutations of two groups of n.
    """
    return min(1.0, 2.0 / (2**num_seeds if paired else math.comb(2 * num_seeds, num_seeds)))


def seeds_to_reach(alpha: float, *, paired: bool = True) -> int:
    """Fewest seeds (of each group, if not paired) at which ``smallest_p`` reaches ``alpha``.

    For one of m comparisons give alpha / m.
    """
    _check_fraction("alpha", alpha)
    num_seeds = 1
    while smallest_p(num_seeds, paired=paired) > alpha:
        num_seeds += 1
    return num_seeds


def claim(p_value: float, *, num_seeds: int, alpha: float = 0.05, paired: bool = True) -> str:
    """What a p-value over seeds supports, in a sentence.

    The word "significant" is given only where an exact test over these seeds can reach ``alpha``,
    and did. Otherwise the sentence says how many seeds are needed, whatever p was computed.

    Args:
        p_value: p-value of a test whose sample is trained models.
        num_seeds: Pairs of models, or models of each group.
        alpha: Level, after any correction for the number of comparisons.
        paired: Whether seeds were compared in pairs.
    """
    _check_fraction("alpha", alpha)
    seeds = f"{num_seeds} {'paired seeds' if paired else 'seeds a group'}"
    smallest = smallest_p(num_seeds, paired=paired)
    if smallest > alpha:
        needed = seeds_to_reach(alpha, paired=paired)
        test = "sign-flip" if paired else "permutation"
        return (
            f"No claim at {alpha:g} from {seeds}: an exact {test} test cannot go below p = "
            f"{smallest:.3g}; {needed} are needed."
        )
    if p_value <= alpha:
        return f"Significant at {alpha:g} over {seeds} (p = {p_value:.3g})."
    return f"No difference shown at {alpha:g} over {seeds} (p = {p_value:.3g})."


def seeds_to_settle(
    difference: float, sd: float, *, alpha: float = 0.05, power: float = 0.8, paired: bool = True
) -> int:
    """Seeds (of each group, if not paired) at which a t test finds the difference.

    Power of the two-sided t test from the noncentral t distribution; never fewer than an exact test
    needs to reach ``alpha``.

    Args:
        difference: The true difference to be found, e.g. the one observed or the smallest of
            interest.
        sd: Standard deviation between seeds: of the paired differences, or within a group.
        alpha: Level of the test.
        power: Chance of finding it.
        paired: Whether seeds are compared in pairs.

    Raises:
        ValueError: No difference, no spread, or alpha or power outside (0, 1).
    """
    _check_fraction("alpha", alpha)
    _check_fraction("power", power)
    size = abs(difference) / sd if sd > 0 else math.nan
    if not 0 < size < math.inf:
        raise ValueError(
            f"difference {difference} with sd {sd}: no number of seeds settles a difference of 0, "
            "and a positive spread between seeds is needed."
        )

    def reaches(num_seeds: int) -> bool:
        freedom = num_seeds - 1 if paired else 2 * num_seeds - 2
        shift = size * math.sqrt(num_seeds if paired else num_seeds / 2)
        quantile = special.stdtrit(freedom, 1 - alpha / 2)
        missed = special.nctdtr(freedom, shift, quantile) - special.nctdtr(
            freedom, shift, -quantile
        )
        return bool(1 - missed >= power)

    enough = max(2, seeds_to_reach(alpha, paired=paired))
    if reaches(enough):
        return enough
    too_few = enough
    while not reaches(enough):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if reaches(middle) else (middle, enough)
    return enough


class UnitMatching(NamedTuple):
    """Which units of different models do the same.

    Attributes:
        order: (seeds, units): ``order[s, u]`` is the unit of seed s that corresponds to unit u of
            the first seed, so that ``np.take_along_axis(effects, order[..., None], 1)`` aligns
            effects (seeds, units, features).
        similarity: (seeds, units): cosine of the profiles so matched.
        quality: (seeds,): mean similarity.
        null: (seeds,): the quality of the best matching once every unit's features are shuffled.
    """

    order: np.ndarray
    similarity: np.ndarray
    quality: np.ndarray
    null: np.ndarray


def match_units(key: Array, profiles: ArrayLike, *, num_null: int = 20) -> UnitMatching:
    """Matches the units of every seed to those of the first, one to one, by their effects.

    Maximises the summed cosine of effect profiles (Hungarian algorithm). An optimal matching of
    noise looks good too: compare ``quality`` with its ``null`` before averaging matched units.

    Args:
        key: Typed PRNG key.
        profiles: (seeds, units, features), e.g. energies of each unit's effect on each factor. Take
            absolute values first where a unit's sign is arbitrary.
        num_null: Shuffles behind ``null``.

    Raises:
        ValueError: Not (seeds, units, features).
    """
    profiles = np.asarray(profiles, float)
    if profiles.ndim != 3 or 0 in profiles.shape:
        raise ValueError(f"profiles has shape {profiles.shape}, expected (seeds, units, features).")
    length = np.linalg.norm(profiles, axis=-1, keepdims=True)
    profiles = profiles / np.where(length > 0, length, 1.0)

    def match(other):
        cosine = profiles[0] @ other.T
        units, partners = optimize.linear_sum_assignment(cosine, maximize=True)
        return partners, cosine[units, partners]

    order, similarity = map(np.stack, zip(*map(match, profiles), strict=True))
    shuffled = np.asarray(
        jax.random.permutation(
            key, np.repeat(profiles[None], num_null, 0), axis=-1, independent=True
        )
    )
    null = np.array([[match(other)[1].mean() for other in draw] for draw in shuffled]).mean(0)
    return UnitMatching(order, similarity, similarity.mean(1), null)


def _check_fraction(word: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{word} must lie between 0 and 1, such as 0.05, got {value}.")
