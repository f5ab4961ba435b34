"""Unsupervised disentanglement ranking: do models trained from different seeds agree code by code?

Needs no factors, but two or more models of one size and the KL of each of their codes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy import stats
from sklearn import linear_model

from vaecausal_jax.metrics.arrays import check_codes


class Agreement(NamedTuple):
    """Unsupervised disentanglement ranking of several models.

    Attributes:
        value: Score of each model: the median over its partners, (models,).
        pairs: Score of each pair, predictor first, NaN on the diagonal, (models, models).
        similarity: Between codes of two models, predictor first, (models, models, codes, codes).
    """

    value: np.ndarray
    pairs: np.ndarray
    similarity: np.ndarray


def udr_lasso(
    codes: ArrayLike, kl: ArrayLike, *, threshold: float = 0.01, alpha: float = 0.1
) -> Agreement:
    """Unsupervised disentanglement ranking with lasso weights (Duan et al. 2020, 1905.12614).

    Two models agree if each code of one is predicted by one code of the other. The similarity of
    code a of model i to code b of model j is the absolute weight of a in the L1 regression of b on
    all codes of i, standardised. With m the largest of a row or column and s its sum, the pair
    scores the mean of m^2 / s over rows and over columns, averaged; a model scores the median over
    its partners as predictors. Inactive codes are zeroed and left out. The protocol is 1,000 rows.

    Args:
        codes: (models, rows, codes): two models or more of one size, on the same inputs.
        kl: KL from the prior of each code in nats, mean over inputs, (models, codes).
        threshold: Least KL of an active code.
        alpha: Weight of the L1 penalty.

    Returns:
        Agreement. A pair in which a model has no active code scores 0.

    Raises:
        ValueError: Fewer than two models, or shapes that do not match.
    """

    def similarity(x, y):
        model = linear_model.Lasso(alpha=alpha).fit(x, y)
        return np.abs(model.coef_).reshape(y.shape[1], x.shape[1]).T

    return _udr(codes, kl, threshold, similarity)


def udr_spearman(codes: ArrayLike, kl: ArrayLike, *, threshold: float = 0.01) -> Agreement:
    """Unsupervised disentanglement ranking with absolute rank correlations, see ``udr_lasso``.

    Args:
        codes: (models, rows, codes).
        kl: KL of each code in nats, (models, codes).
        threshold: Least KL of an active code.

    Returns:
        Agreement; unlike the lasso's, pairs are symmetric.

    Raises:
        ValueError: Fewer than two models, or shapes that do not match.
    """

    def similarity(x, y):
        left, right = (_standardise(stats.rankdata(a, axis=0)) for a in (x, y))
        return np.abs(left.T @ right) / len(left)

    return _udr(codes, kl, threshold, similarity)


def relative_strength(similarity: np.ndarray) -> float:
    """How close a (codes, codes) similarity is to a matching: mean of max^2 / sum, both ways."""
    if not similarity.size:
        return 0.0
    total = 0.0
    for axis in (0, 1):
        sums = similarity.sum(axis=axis)
        strength = similarity.max(axis=axis) ** 2 / np.where(sums > 0, sums, 1.0)
        total += strength.mean()
    return total / 2


def _udr(
    codes: ArrayLike,
    kl: ArrayLike,
    threshold: float,
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Agreement:
    stacked, divergence = np.asarray(codes, np.float64), np.asarray(kl)
    if stacked.ndim != 3 or len(stacked) < 2 or divergence.shape != stacked.shape[::2]:
        raise ValueError(
            f"codes have shape {stacked.shape} and kl {divergence.shape}, expected (models, rows, "
            "codes) with two models or more, and (models, codes)."
        )
    if not np.isfinite(divergence).all():
        model, code = np.argwhere(~np.isfinite(divergence))[0]
        raise ValueError(
            f"kl[{model}, {code}] is {divergence[model, code]}, expected finite: leave out models "
            "that diverged."
        )
    active = divergence > threshold
    scaled = [
        _standardise(check_codes(model)) * on[None, :]
        for model, on in zip(stacked, active, strict=True)
    ]
    num, width = active.shape
    between, pairs = np.zeros((num, num, width, width)), np.full((num, num), np.nan)
    for i in range(num):
        for j in range(num):
            if i != j:
                between[i, j] = similarity(scaled[i], scaled[j])
                pairs[i, j] = relative_strength(between[i, j][np.ix_(active[i], active[j])])
    return Agreement(np.nanmedian(pairs, axis=0), pairs, between)


def _standardise(columns: np.ndarray) -> np.ndarray:
    centred = columns - columns.mean(axis=0, keepdims=True)
    scale = centred.std(axis=0, keepdims=True)
    return centred / np.where(scale > 0, scale, 1.0)
