"""What every score takes and returns: codes (rows, codes) and factors (rows, factors).

Factors fix the shapes of every table, so they are concrete; codes may be traced, which is how many
models are scored at once: ``jax.vmap(mig, in_axes=(0, None))(codes_of_models, factors)``.
"""

from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax.typing import ArrayLike


class Score(NamedTuple):
    """A score and what it was read from.

    Attributes:
        value: The score.
        parts: What it averages: one number a factor, or a code; the score's docstring says which.
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
        if array.dtype.kind not in "fiub":
            raise ValueError(f"codes have dtype {array.dtype}, expected real numbers.")
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise ValueError(f"codes[{row}, {column}] is {array[row, column]}, expected finite.")
    return array


def factor_levels(factors: ArrayLike, num_rows: int, *, least: int = 1) -> Levels:
    """Factors of any numeric dtype as integer levels, in ascending order of their values.

    Args:
        factors: (rows, factors).
        num_rows: Rows of the codes they belong to.
        least: Fewest factors that the caller can score.

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
    columns = [_levels(column, j) for j, column in enumerate(np.ascontiguousarray(array.T))]
    return Levels(
        np.stack([index for index, _ in columns], axis=1), tuple(size for _, size in columns)
    )


def split_rows(num_rows: int, num_train: int | None) -> int:
    """Number of leading rows that train; two thirds, the field's 10,000 of 15,000, if None.

    Raises:
        ValueError: Nothing left to train or to test on.
    """
    if num_train is None:
        num_train = -(-2 * num_rows // 3)
    if not 0 < num_train < num_rows:
        raise ValueError(f"num_train is {num_train}, expected 1 to {num_rows - 1} of the rows.")
    return num_train


def _levels(column: np.ndarray, position: int) -> tuple[np.ndarray, int]:
    kind = column.dtype.kind
    if kind not in "fiub" or (kind == "f" and not np.isfinite(column).all()):
        raise ValueError(
            f"factor {position}, of dtype {column.dtype}, has entries that are no finite numbers."
        )
    if column.dtype.kind == "f" and (column % 1 == 0).all() and np.abs(column).max() < 2**53:
        column = column.astype(np.int64)
    if column.dtype.kind != "f":
        low = int(column.min())
        if int(column.max()) - low < 4 * len(column):  # Counting beats sorting.
            index = column.astype(np.int64) - low
            present = np.bincount(index) > 0
            if not present.all():
                index = (np.cumsum(present) - 1)[index]
            return _several(index, int(present.sum()), position)
    values, index = np.unique(column, return_inverse=True)
    if column.dtype.kind == "f" and 2 * len(values) > len(column):
        raise ValueError(
            f"factor {position} looks continuous: {len(values)} values in {len(column)} rows. "
            "Bin it first, with vaecausal_jax.disentanglement.discretise(factors, 20)."
        )
    return _several(index, len(values), position)


def _several(index: np.ndarray, size: int, position: int) -> tuple[np.ndarray, int]:
    if size < 2:
        raise ValueError(
            f"factor {position} has one level, so nothing can be known about it: leave the column "
            "out (such as the colour of dSprites)."
        )
    return index.astype(np.int32), size
