"""Do scores rank models alike, and does an effect go with a score once the rest is held fixed?

Every number is that of one trained model. The intervals cover other models of the same kind;
several models of one seed, or seeds of one family, are not independent, and no formula here knows
of it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy import stats as jax_stats
from jax.typing import ArrayLike
from scipy import special, stats

from vaecausal_jax.inference.estimate import Estimate, check_level


def spearman(a: Array, b: Array) -> Array:
    """Spearman's rank correlation along the last axis; traceable.

    Ties share their mean rank. NaN where either is constant.

    Args:
        a: (..., samples).
        b: (..., samples), broadcastable to it.
    """
    a, b = (jax_stats.rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (a, b))
    scale = jnp.sum(a * a, -1) * jnp.sum(b * b, -1)
    safe = jnp.where(scale > 0, scale, 1.0)
    return jnp.where(scale > 0, jnp.sum(a * b, -1) / jnp.sqrt(safe), jnp.nan)


class RankAgreement(NamedTuple):
    """How alike columns rank models.

    Attributes:
        names: Names of the columns.
        correlation: Spearman's, (columns, columns); NaN where a column is constant, or fewer than
            three models have both numbers.
        low: Lower end of its interval; NaN with fewer than four models.
        high: Upper end.
        num_models: Models that have both numbers, (columns, columns).
        level: Coverage.
    """

    names: tuple[str, ...]
    correlation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_models: np.ndarray
    level: float


def rank_agreement(table: Mapping[str, ArrayLike], *, level: float = 0.95) -> RankAgreement:
    """Spearman correlation of every two columns over models, metrics and effects alike.

    Ties share their mean rank. The interval is Fisher's with Bonett and Wright's variance for ranks
    (2000, doi:10.1007/BF02294183): tanh(atanh r -+ q sqrt((1 + r^2 / 2) / (n - 3))), wide for few
    models as it should be, and NaN where r is -1 or 1. A model without one of the numbers (NaN) is
    left out of that pair.

    Args:
        table: Name of a score or effect to its value in each model, (models,).
        level: Coverage.

    Raises:
        ValueError: Fewer than two columns, columns that are not (models,) of one length, infinite
            values, or a level outside (0, 1).
    """
    check_level(level)
    columns = {name: np.asarray(values, np.float64) for name, values in table.items()}
    shapes = {name: values.shape for name, values in columns.items()}
    if (
        len(columns) < 2
        or len(set(shapes.values())) > 1
        or any(len(s) != 1 for s in shapes.values())
    ):
        raise ValueError(f"expected two or more columns (models,) of one length, got {shapes}.")
    for name, values in columns.items():
        _check_finite(name, values)
    width = len(columns)
    correlation, counts = np.full((width, width), np.nan), np.zeros((width, width), int)
    for i, x in enumerate(columns.values()):
        for j, y in enumerate(columns.values()):
            both = ~(np.isnan(x) | np.isnan(y))
            counts[i, j] = both.sum()
            if counts[i, j] > 2:
                correlation[i, j] = _correlation(stats.rankdata(x[both]), stats.rankdata(y[both]))
    low, high = _fisher(correlation, counts - 3.0, 1 + correlation**2 / 2, level)
    return RankAgreement(tuple(columns), correlation, low, high, counts, level)


def partial_correlation(
    x: ArrayLike,
    y: ArrayLike,
    controls: Sequence[ArrayLike] | Mapping[str, ArrayLike] = (),
    *,
    ranks: bool = False,
    level: float = 0.95,
) -> Estimate:
    """Correlation of two numbers over models with others held fixed, linearly.

    It is the correlation of what least squares on the controls leaves of each. The interval is
    Fisher's, with n - k - 3 degrees of freedom for k independent controls. With ``ranks`` all
    columns are ranked first (Spearman's partial correlation). Without controls it is the plain
    correlation. It is NaN where the controls explain all of a column, and has no interval where
    too few models are left.

    Args:
        x: A number of each model, such as its causal effect strength, (models,).
        y: Another, such as its DCI by a named estimator, (models,).
        controls: Numbers held fixed, such as reconstruction, KL and active units, each (models,).
        ranks: Whether to rank first.
        level: Coverage.

    Returns:
        Estimate over the models that have every number; both counts are theirs.

    Raises:
        ValueError: Shapes that differ, infinite values, fewer than three models, or a level outside
            (0, 1).
    """
    check_level(level)
    names = list(controls) if isinstance(controls, Mapping) else []
    held = list(controls.values()) if isinstance(controls, Mapping) else list(controls)
    columns = _complete([x, y, *held])
    if ranks:
        columns = stats.rankdata(columns, axis=1)
    num = len(columns.T)
    left, rank = _residuals(columns[:2], columns[2:])
    value = np.asarray(_correlation(left[0], left[1]))
    low, high = _fisher(value, np.asarray(num - rank - 3.0), np.ones(()), level)
    kind = "Spearman" if ranks else "Pearson"
    words = f", {len(held)} controls held fixed" + (f" ({', '.join(names)})" if names else "")
    method = f"Fisher's z over {num} models"
    if np.isnan(low):
        method = (
            f"no interval: Fisher's z needs a correlation inside (-1, 1) of more than {rank + 3} "
            f"models with {rank} controls, got {float(value):.3g} of {num}"
        )
    return Estimate(
        value, low, high, 0.0, num, num, level, method, f"{kind}{words if held else ''}"
    )


def partial_residuals(
    x: ArrayLike, controls: Sequence[ArrayLike] | Mapping[str, ArrayLike]
) -> np.ndarray:
    """What least squares on the controls and a constant leaves of a number, to plot, (models,).

    NaN for a model without one of the numbers.

    Args:
        x: (models,).
        controls: Each (models,).
    """
    held = list(controls.values()) if isinstance(controls, Mapping) else list(controls)
    values = np.asarray(x, np.float64)
    kept = ~np.isnan(np.stack([values, *(np.asarray(c, np.float64) for c in held)])).any(axis=0)
    columns = _complete([values, *held])
    result = np.full(values.shape, np.nan)
    result[kept] = _residuals(columns[:1], columns[1:])[0][0]
    return result


def _complete(columns: Sequence[ArrayLike]) -> np.ndarray:
    """Columns of the models that have every number, (columns, models)."""
    arrays = [np.asarray(column, np.float64) for column in columns]
    if any(a.ndim != 1 or a.shape != arrays[0].shape for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ValueError(f"expected columns (models,) of one length, got {shapes}.")
    table = np.stack(arrays)
    for position, column in enumerate(table):
        _check_finite(f"column {position}", column)
    table = table[:, ~np.isnan(table).any(axis=0)]
    if table.shape[1] < 3:
        raise ValueError(f"{table.shape[1]} models have every number, expected 3 or more.")
    return table


def _residuals(targets: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, int]:
    """What the controls leave of each target, and how many of them are independent."""
    scale = np.maximum(np.abs(controls).max(axis=1, keepdims=True, initial=0.0), 1e-300)
    design = (controls / scale).T
    design = design - design.mean(axis=0, keepdims=True)
    centred = (targets - targets.mean(axis=1, keepdims=True)).T
    solution, _, rank, _ = np.linalg.lstsq(design, centred, rcond=1e-10)
    left = centred - design @ solution
    # What is left of rounding is nothing.
    size = np.abs(centred).max(axis=0, initial=0.0)
    return np.where(np.abs(left) > 1e-10 * size[None, :], left, 0.0).T, int(rank)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt(np.sum(x**2) * np.sum(y**2))
    return float(np.clip(np.sum(x * y) / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def _fisher(
    r: np.ndarray, freedom: np.ndarray, variance: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of tanh(atanh r -+ q sqrt(variance / freedom)).

    NaN without a degree of freedom, and where r is -1 or 1: few models often agree in every rank by
    chance, and this interval would have no width.
    """
    usable = np.where(freedom > 0, freedom, np.nan)
    half = special.ndtri(0.5 + level / 2) * np.sqrt(variance / usable)
    inside = np.arctanh(np.where(np.abs(r) < 1 - 1e-12, r, np.nan))
    return np.tanh(inside - half), np.tanh(inside + half)


def _check_finite(name: str, values: np.ndarray) -> None:
    if np.isinf(values).any():
        raise ValueError(f"{name} has infinite values: leave those models out, as NaN.")
