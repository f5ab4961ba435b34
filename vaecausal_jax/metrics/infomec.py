"""InfoMEC: modularity, compactness and explicitness for quantised latents, by information.

Hsu et al. 2023, "Disentanglement via Latent Quantization", arXiv:2305.18378. Ratios corrected for
chance and read from normalised mutual information, with inactive latents left out, so that they
compare models with codebooks (and, by a nearest-neighbour estimate, continuous ones).
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from sklearn import feature_selection, metrics, preprocessing

from vaecausal_jax.metrics.arrays import Levels, check_codes, factor_levels
from vaecausal_jax.metrics.dci import standardise
from vaecausal_jax.metrics.information import joint_information
from vaecausal_jax.metrics.predictability import fit_logistic


class InfoMEC(NamedTuple):
    """The three scores; 1 is best, 0 is chance.

    Attributes:
        modularity: InfoM: whether a latent informs of one factor.
        explicitness: InfoE: share of a factor's entropy that a linear classifier explains.
        compactness: InfoC: whether one latent informs of a factor.
        active: Latents that vary, (codes,).
        matrix: I(z_i; v_j) / H(v_j), (codes, factors).
    """

    modularity: float
    explicitness: float
    compactness: float
    active: np.ndarray
    matrix: np.ndarray


def infomec(codes: ArrayLike, factors: ArrayLike) -> InfoMEC:
    """InfoMEC of discrete codes, such as the indices of scalar codebooks.

    With R the normalised information of the active latents, InfoM is the mean over latents of
    max_j R_ij / sum_j R_ij and InfoC the mean over factors of max_i R_ij / sum_i R_ij, each
    rescaled from [1/n, 1] to [0, 1], n the number of factors or of active latents. InfoE is the
    mean over factors of 1 - (cross-entropy of an unpenalised logistic regression on one-hot codes,
    balanced classes) / log(levels), on the rows it was fitted to. InfoC of one active latent is 1.

    Args:
        codes: (rows, codes), of levels: every distinct value is a class.
        factors: (rows, factors), two or more, of levels.

    Raises:
        ValueError: Codes or factors of the wrong shape, a factor with one level, no active latent.
    """
    codes = np.asarray(check_codes(codes))
    levels = factor_levels(factors, len(codes), least=2)
    active = (codes != codes[:1]).any(axis=0)
    _need_active(active)
    matrix = np.zeros((codes.shape[1], len(levels.sizes)))
    names = [f"code {i}" for i in np.flatnonzero(active)]
    quantised = factor_levels(codes[:, active], len(codes), names=names)
    info = joint_information(quantised, levels)
    matrix[active] = np.asarray(info.mutual) / np.asarray(info.factor_entropy)
    one_hot = preprocessing.OneHotEncoder().fit_transform(quantised.index)
    return _infomec(matrix, active, one_hot, levels)


def infomec_continuous(
    codes: ArrayLike, factors: ArrayLike, *, num_neighbours: int = 10, seed: int = 0
) -> InfoMEC:
    """InfoMEC of continuous codes, with nearest-neighbour mutual information (Ross 2014).

    As ``infomec``, on standardised codes. A latent is active if its range is above a twentieth of
    the largest range.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), two or more, of levels.
        num_neighbours: Of the estimate.
        seed: Of the tiny noise that separates equal codes.

    Raises:
        ValueError: Codes or factors of the wrong shape, a factor with one level, no active latent.
    """
    codes = np.asarray(check_codes(codes), np.float64)
    levels = factor_levels(factors, len(codes), least=2)
    spread = np.ptp(codes, axis=0)
    active = spread > spread.max() / 20
    _need_active(active)
    for j, column in enumerate(levels.index.T):
        if np.bincount(column).max() < 2:
            raise ValueError(
                f"factor {j} has no level with two rows, and the estimate looks for neighbours "
                "within a level: give more rows, or bin the factor more coarsely."
            )
    scaled, _ = standardise(codes, codes)
    columns = []
    for column in levels.index.T:
        mutual = feature_selection.mutual_info_classif(
            scaled, column, n_neighbors=num_neighbours, random_state=seed
        )
        columns.append(mutual / metrics.mutual_info_score(column, column))
    return _infomec(np.stack(columns, axis=1), active, scaled, levels)


def _infomec(matrix, active, features, levels: Levels) -> InfoMEC:
    used = matrix[active]
    explained = [
        1.0 - _cross_entropy(features, column) / np.log(size)
        for column, size in zip(levels.index.T, levels.sizes, strict=True)
    ]
    return InfoMEC(
        _preference(used), float(np.mean(explained)), _preference(used.T), active, matrix
    )


def _preference(rows: np.ndarray) -> float:
    """Mean over rows of largest / sum, rescaled so that equal entries give 0."""
    width = rows.shape[1]
    if width == 1:
        return 1.0
    sums = rows.sum(axis=1)
    share = np.where(sums > 0, rows.max(axis=1) / np.where(sums > 0, sums, 1.0), 1.0 / width)
    return float((share.mean() - 1.0 / width) / (1.0 - 1.0 / width))


def _cross_entropy(features, column: np.ndarray) -> float:
    # Without penalty: C infinite. Without features its prediction would be uniform, so the marginal
    # entropy that it is compared with is the log of the number of levels.
    model = fit_logistic(features, column, C=np.inf, class_weight="balanced")
    return float(metrics.log_loss(column, model.predict_proba(features)))


def _need_active(active: np.ndarray) -> None:
    if not active.any():
        raise ValueError("no active latent: all codes are constant, so there is nothing to score.")
