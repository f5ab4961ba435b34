"""Interventional robustness: how little a code moves while a factor is held fixed.

Codes may be traced, so ``jax.vmap`` scores many models on the same rows; NumPy's are scored in
NumPy.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaecausal_jax.metrics.arrays import Score, check_codes, factor_levels
from vaecausal_jax.metrics.information import discretise
from vaecausal_jax.metrics.votes import rows_by_level


def irs(
    codes: ArrayLike, factors: ArrayLike, *, quantile: float = 0.99, num_bins: int | None = None
) -> Score:
    """Interventional robustness score (Suter et al. 2019, arXiv:1811.00007).

    It says how little a code moves while a factor is held fixed and the others vary. With d_i the
    largest deviation of z_i from its mean,
    IRS_ij = 1 - E_v[quantile of abs(z_i - E[z_i | v_j = v])] / d_i, where each level v weighs
    alike. A code scores its best factor; codes are averaged with weights d_i.

    The paper's quantile is 1, disentanglement_lib's 0.99; it also cuts factors into 20 bins, here
    only if ``num_bins`` is given. Noise scores about 0.37. Constant codes have no weight; if all
    are constant the score is 0. For z = g_1 + c g_2 on {-1, 1}^2, c <= 1: 1/(1 + c) at quantile 1.

    Args:
        codes: (rows, codes); may be traced.
        factors: (rows, factors), of levels, or of any numbers if ``num_bins`` is given.
        quantile: Quantile of the deviations, linearly interpolated.
        num_bins: Equal-width bins that factors are cut into, if any.

    Returns:
        Score whose parts are the codes' and whose matrix is IRS_ij.

    Raises:
        ValueError: Codes or factors of the wrong shape, a factor with one level, or a quantile
            outside (0, 1].
    """
    if not 0.0 < quantile <= 1.0:
        raise ValueError(f"quantile is {quantile}, expected above 0, at most 1.")
    if num_bins is not None:
        factors = discretise(factors, num_bins)
    table = check_codes(codes)
    levels = factor_levels(factors, len(table))
    columns = np.ascontiguousarray(levels.index.T)
    if isinstance(table, np.ndarray):  # Nothing to compile, and its partition selects faster.
        groups = [_padded_groups(index, _longest(index)) for index in columns]
        return Score(*_irs(table, groups, xp=np, quantile=quantile))
    # Rounded up, so that resampled rows mostly meet the same compiled program.
    groups = [_padded_groups(index, _round_up(_longest(index))) for index in columns]
    return Score(*_compiled_irs(table, groups, xp=jnp, quantile=quantile))


def _longest(index: np.ndarray) -> int:
    return int(np.bincount(index).max())


def _round_up(length: int) -> int:
    """To a number of four leading bits."""
    unit = 1 << max(length.bit_length() - 4, 0)
    return math.ceil(length / unit) * unit


def _padded_groups(index: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each level, (levels, length), padded with any row; and their counts, (levels,)."""
    counts = np.bincount(index)
    slot = (np.cumsum(counts) - counts)[:, None] + np.arange(length)[None, :]
    return np.take(rows_by_level(index, len(counts)), slot, mode="clip"), counts


def _irs(codes, groups, *, xp, quantile):
    """The score, its parts and its matrix, in NumPy or in JAX."""
    codes = codes.astype(xp.result_type(codes.dtype, np.float32))
    # No deviation depends on a code's origin, and rounding does.
    columns = (codes - codes[:1]).T.copy()
    largest = abs(columns - columns.mean(axis=1, keepdims=True)).max(axis=1)
    moved = [_mean_quantile(columns, *group, xp=xp, quantile=quantile) for group in groups]
    scale = xp.where(largest > 0, largest, 1.0)[:, None]
    matrix = xp.where(largest[:, None] > 0, 1.0 - xp.stack(moved, axis=1) / scale, 0.0)
    parts = matrix.max(axis=1)
    total = largest.sum()
    return (parts * largest).sum() / xp.where(total > 0, total, 1.0), parts, matrix


_compiled_irs = jax.jit(_irs, static_argnames=("xp", "quantile"))


def _mean_quantile(columns, rows, counts, *, xp, quantile):
    """Mean over levels of the quantile of deviations from the level's mean, (codes,)."""
    longest = rows.shape[1]
    member = (xp.arange(longest)[None, :] < counts[:, None]).astype(columns.dtype)[None]
    values = xp.take(columns, rows, axis=1)
    mean = xp.sum(values * member, axis=2, keepdims=True) / xp.sum(member, axis=2, keepdims=True)
    # No deviation is less than the padding's, zero.
    deviation = xp.abs(values - mean) * member
    # The quantile lies among the largest few: how many is known from the longest group.
    num_top = min(math.ceil((1.0 - quantile) * (longest - 1)) + 2, longest)
    top = _largest(deviation, num_top)
    # From the largest down, so that single precision is exact near the end that matters.
    from_top = (1.0 - quantile) * (counts - 1)
    upper = xp.floor(from_top).astype(int)
    lower = xp.minimum(upper + 1, counts - 1)
    high, low = (top[:, np.arange(len(counts)), i] for i in (upper, lower))
    return xp.mean(high - (from_top - upper)[None, :] * (high - low), axis=1)


def _largest(values, num):
    """The largest along the last axis, in descending order."""
    if isinstance(values, jax.Array):
        return jax.lax.top_k(values, num)[0]
    cut = values.shape[-1] - num
    return np.sort(np.partition(values, cut, axis=-1)[..., cut:], axis=-1)[..., ::-1]
