"""What every score takes and returns: codes (rows, codes) and factors (rows, factors).

Factors fix the shapes of every table, so they are concrete; codes may be traced, which is how many
models are scored at once: ``jax.vmap(mig, in_axes=(0, None))(codes_of_models, factors)``.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import stats

_RAREST = 1e-9
"""Chance below which the levels that leading rows miss are the order's doing, not the draw's."""

_GREATEST_DEVIATION = 9.0
"""Standard errors beyond which leading rows are no sample of all; 6 where rows are resampled."""

_GREATEST_DIFFERENCE = 0.5
"""What a code's mean (in SD) or correlation must differ by beside that: rows drawn in clusters may
deviate by many standard errors, but not by much."""


class Score(NamedTuple):
    """A score and what it was read from.

    Attributes:
        value: The score.
        parts: What it averages: one number per factor or per code, as the score says.
        matrix: The association it was read from, (codes, factors).
    """

    value: Any
    parts: Any
    matrix: Any


class Levels(NamedTuple):
    """Factors as integer levels.

    Attributes:
        index: Level of each row, (rows, factors) int32, from 0 without gaps.
        sizes: Number of levels of each factor.
    """

    index: np.ndarray
    sizes: tuple[int, ...]


def check_codes(codes: ArrayLike, *, least: int = 1) -> Any:
    """The codes as an array: NumPy's in its own precision, or a tracer as it is.

    Half precision becomes single, which it is exactly and in which squares do not overflow; truth
    values become 0 and 1, and any byte order the machine's.

    Raises:
        ValueError: Not (rows, codes) with two rows and ``least`` codes, not real, or not finite.
    """
    if isinstance(codes, jax.core.Tracer):
        array: Any = codes
    else:
        array = np.asarray(codes)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < least:
        batched = " Use jax.vmap over models." if array.ndim == 3 else ""
        raise ValueError(
            f"codes have shape {array.shape}, expected (rows, codes) with at least 2 rows and "
            f"{least} code{'s' if least > 1 else ''}.{batched}"
        )
    if isinstance(array, np.ndarray):
        array = _native(array)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"codes have dtype {array.dtype}, expected real numbers.")
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise ValueError(f"codes[{row}, {column}] is {array[row, column]}, expected finite.")
    return array


def factor_levels(
    factors: ArrayLike, num_rows: int, *, least: int = 1, names: Sequence[str] | None = None
) -> Levels:
    """Factors of any numeric dtype as integer levels, in ascending order of their values.

    Args:
        factors: (rows, factors).
        num_rows: Rows of the codes they belong to.
        least: Fewest factors that the caller can score.
        names: What messages call the columns; ``factor 0``, ``factor 1``, ... if None.

    Raises:
        ValueError: Traced factors, another shape, an entry that is no finite number, a factor with
            a single level, or one that looks continuous: not of whole numbers, and more than half
            of them distinct.
    """
    if isinstance(factors, jax.core.Tracer):
        raise ValueError(
            "factors are traced, but their levels fix the shapes of the tables: map over codes "
            "alone, jax.vmap(score, in_axes=(0, None))(codes, factors), and leave out jax.jit."
        )
    array = np.asarray(factors)
    if array.ndim != 2 or array.shape[0] != num_rows or array.shape[1] < least:
        raise ValueError(
            f"factors have shape {array.shape}, expected ({num_rows}, factors), one row a row of "
            f"codes, with at least {least} factor{'s' if least > 1 else ''}."
        )
    names = [f"factor {j}" for j in range(array.shape[1])] if names is None else names
    columns = [
        _levels(column, name)
        for name, column in zip(names, np.ascontiguousarray(array.T), strict=True)
    ]
    return Levels(
        np.stack([index for index, _ in columns], axis=1), tuple(size for _, size in columns)
    )


def split_rows(num_rows: int, num_train: int | None) -> int:
    """Number of leading rows that train; two thirds, the field's 10,000 of 15,000, if None.

    Raises:
        ValueError: Nothing left to train or to test on.
    """
    if num_rows < 3 and num_train is None:
        raise ValueError(
            f"{num_rows} rows are too few to train on two thirds of them and to test on the rest: "
            "expected 3 or more, 15,000 in the field's protocol."
        )
    if num_train is None:
        num_train = -(-2 * num_rows // 3)
    if not 0 < num_train < num_rows:
        raise ValueError(f"num_train is {num_train}, expected 1 to {num_rows - 1} of the rows.")
    return num_train


def check_row_order(codes: ArrayLike, factors: ArrayLike, num_train: int | None = None) -> None:
    """Raises unless the leading rows could be a random sample of all, as a split takes them to be.

    Archives store their rows in grid order, in which the leading ones lack levels of the slowest
    factor. A factor is refused where levels are all on one side of the split and a random order
    would do that, to any levels, with probability below 1e-9, which takes 45 rows or more; codes
    where their mean rank, or its correlation with a factor, differs between the sides, such as
    those of several models one after another. Rows in random order pass.

    Args:
        codes: (rows, codes), concrete.
        factors: (rows, factors), of levels.
        num_train: Number of leading rows; two thirds if None.

    Raises:
        ValueError: Rows in an order; the message names the factor and level, or the code.
    """
    codes, table = np.asarray(check_codes(codes)), np.asarray(factors)
    num_train = split_rows(len(codes), num_train)
    levels = factor_levels(table, len(codes))
    for j, (index, size) in enumerate(zip(levels.index.T, levels.sizes, strict=True)):
        lead, total = (np.bincount(i, minlength=size) for i in (index[:num_train], index))
        alone = np.where((lead == 0) | (lead == total), total, 0)
        split = int(alone[lead > 0].sum()), int(alone[lead == 0].sum())
        if _log_chance(split, num_train, len(index), size) < math.log(_RAREST):
            level = int(np.argmax(alone))
            value = np.unique(table[:, j])[level]
            where = f"the first {num_train}", f"the other {len(index) - num_train}"
            inside, outside = where if lead[level] else where[::-1]
            raise ValueError(
                f"factor {j} has level {value} in {total[level]} of {inside} rows and in none of "
                f"{outside}: {_SORTED} {_shuffle(len(index))}"
            )
    ranks = _standardised(stats.rankdata(codes, axis=0))
    terms = {"mean rank": ranks}
    for j, column in enumerate(_standardised(levels.index).T):
        terms[f"rank correlation with factor {j}"] = ranks * column[:, None]
    error = math.sqrt(1 / num_train + 1 / (len(codes) - num_train))
    for what, term in terms.items():
        lead, rest = term[:num_train].mean(axis=0), term[num_train:].mean(axis=0)
        code = int(np.argmax(np.abs(lead - rest)))
        if abs(lead[code] - rest[code]) > max(_GREATEST_DEVIATION * error, _GREATEST_DIFFERENCE):
            raise ValueError(
                f"code {code} has a {what} of {lead[code]:.2f} in the first {num_train} rows and "
                f"of {rest[code]:.2f} in the other {len(codes) - num_train} (ranks standardised): "
                f"{_SORTED} {_shuffle(len(codes))}"
            )


_SORTED = "the rows are sorted or grouped, and the leading ones are no sample of all."


def _shuffle(num_rows: int) -> str:
    return (
        f"Shuffle first: rows = numpy.random.default_rng(0).permutation({num_rows}); codes, "
        "factors = codes[rows], factors[rows]."
    )


def _log_chance(alone: tuple[int, int], num_train: int, num_rows: int, num_levels: int) -> float:
    """Log of a bound on the chance that so many rows lie in levels that are on one side alone.

    That of these very rows lying as they do in a random order, times the 3^levels ways in which
    levels can be on one side, the other, or both.
    """
    free = num_rows - sum(alone)
    ways = _log_choose(free, num_train - alone[0]) - _log_choose(num_rows, num_train)
    return ways + num_levels * math.log(3)


def _log_choose(number: int, chosen: int) -> float:
    return math.lgamma(number + 1) - math.lgamma(chosen + 1) - math.lgamma(number - chosen + 1)


def _standardised(columns: np.ndarray) -> np.ndarray:
    centred = columns - columns.mean(axis=0, keepdims=True)
    scale = centred.std(axis=0, keepdims=True)
    return centred / np.where(scale > 0, scale, 1.0)


def _native(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, and in a type that NumPy computes with."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _levels(column: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    kind = column.dtype.kind
    if kind not in "fiub" or (kind == "f" and not np.isfinite(column).all()):
        raise ValueError(
            f"{name}, of dtype {column.dtype}, has entries that are no finite numbers."
        )
    if column.dtype.kind == "f" and (column % 1 == 0).all() and float(np.abs(column).max()) < 2**53:
        column = column.astype(np.int64)
    if column.dtype.kind != "f":
        low = int(column.min())
        if int(column.max()) - low < 4 * len(column):  # Counting beats sorting.
            index = column.astype(np.int64) - low
            present = np.bincount(index) > 0
            if not present.all():
                index = (np.cumsum(present) - 1)[index]
            return _several(index, int(present.sum()), name)
    values, index = np.unique(column, return_inverse=True)
    if column.dtype.kind == "f" and 2 * len(values) > len(column):
        raise ValueError(
            f"{name} looks continuous: {len(values)} values in {len(column)} rows. "
            f"Bin it first, with vaecausal_jax.metrics.discretise({name.split()[0]}s, 20)."
        )
    return _several(index, len(values), name)


def _several(index: np.ndarray, size: int, name: str) -> tuple[np.ndarray, int]:
    if size < 2:
        raise ValueError(
            f"{name} has one level, so nothing can be known about it: leave the column "
            "out (such as the colour of dSprites)."
        )
    return index.astype(np.int32), size
