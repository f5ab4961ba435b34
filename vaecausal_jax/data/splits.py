"""Splits by combinations of factors, so that nothing that is fitted ever sees the other side.

``hold_out`` and ``random_split`` give the two sides as data sets; two labels of one image
(orientations 0 and 39 of dSprites) are never on different sides. ``held_out`` needs neither list
nor key: a hash says of any row on which side it is.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data.dataset import Dataset, factor_position, index_of, sample_factors
from vaecausal_jax.data.designs import Weighted, distinct_levels, weighted


class Split(NamedTuple):
    """The two sides of a split by combinations of factors; no image is on both."""

    train: Weighted
    test: Weighted


def hold_out(data: Dataset, combination: Mapping[str, int | Iterable[int]]) -> Split:
    """Splits off the rows that have all of the given levels: ``{"shape": 2, "x": range(16, 32)}``.

    Test rows have every named factor among its levels, train rows have not; both are uniform. A
    level that repeats another is held out with it.

    Raises:
        ValueError: An unknown factor, a level outside it, or a side without rows.
    """
    names = tuple(combination)
    if not names:
        raise ValueError("expected at least one factor to hold levels of out, got none.")
    held = np.ones((), bool)
    for name in names:
        factor = data.factors[factor_position(data, name)]
        asked = combination[name]
        levels = [asked] if isinstance(asked, int | np.integer) else list(asked)
        wrong = [level for level in levels if not 0 <= level < factor.size]
        if wrong or not levels:
            raise ValueError(
                f"factor {name!r} has levels 0 to {factor.size - 1}, got "
                f"{wrong[0] if wrong else 'none'}."
            )
        distinct = distinct_levels(factor)
        held = held[..., None] & np.isin(distinct, distinct[np.array(levels)])
    if held.all():
        raise ValueError(f"holding out {dict(combination)} leaves no rows to train on.")
    return Split(weighted(data, names, ~held), weighted(data, names, held))


def random_split(
    key: jax.Array, data: Dataset, factor_names: Iterable[str], test_fraction: float
) -> Split:
    """Holds out a random fraction of the combinations of some factors, each level seen in training.

    Combinations are taken in random order, passing over those that would leave a level of a named
    factor without a combination to train on; both sides are uniform over theirs.

    Raises:
        ValueError: Fewer than two factors, unknown ones, or a fraction that is not between 0 and 1
            or cannot be reached.
    """
    names = tuple(factor_names)
    factors = [data.factors[factor_position(data, name)] for name in names]
    if len(set(names)) < 2:
        raise ValueError(f"combinations take two different factors or more, got {names}.")
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction}.")
    sizes = tuple(factor.num_distinct for factor in factors)
    total = math.prod(sizes)
    wanted = max(1, round(test_fraction * total))
    left = [np.full(size, total // size) for size in sizes]
    held = np.zeros(sizes, bool)
    for index in np.asarray(jax.random.permutation(key, total)):
        cell = np.unravel_index(index, sizes)
        if all(counts[level] > 1 for counts, level in zip(left, cell, strict=True)):
            held[cell] = True
            for counts, level in zip(left, cell, strict=True):
                counts[level] -= 1
            wanted -= 1
        if not wanted:
            break
    if wanted:
        raise ValueError(
            f"test_fraction {test_fraction} of the combinations of {names} would leave a level "
            f"unseen in training; at most {held.sum() / total:.3g} was held out."
        )
    table = held[np.ix_(*(distinct_levels(factor) for factor in factors))]
    return Split(weighted(data, names, ~table), weighted(data, names, table))


def held_out(
    data: Dataset, levels: Array | np.ndarray, *, fraction: float = 0.2, salt: int = 0
) -> Array:
    """Whether each factor combination is set aside: the same answer whoever asks, and when.

    A hash of the image index (the finaliser of MurmurHash3) below ``fraction`` of its range, so the
    split needs no list and no key; pure and traceable.

    Args:
        data: The data set.
        levels: (..., factors).
        fraction: Of all combinations.
        salt: Another one gives another split.

    Raises:
        ValueError: A fraction outside (0, 1).
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}.")
    h = index_of(data, levels).astype(jnp.uint32) + jnp.uint32(salt * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> shift)) * jnp.uint32(factor)
    return h < jnp.uint32(int(fraction * 2**32))


def held_out_rows(key: Array, data: Dataset, num: int, *, fraction: float = 0.2) -> Array:
    """Draws rows of levels (num, factors) that are held out.

    Raises:
        ValueError: A data set so small that none is.
    """
    levels = sample_factors(key, data, int(np.ceil(4 * num / fraction)) + 64)
    mine = np.flatnonzero(np.asarray(held_out(data, levels, fraction=fraction)))
    if not mine.size:
        raise ValueError(f"no factor combination is held out at fraction {fraction}.")
    return levels[np.resize(mine, num)]
