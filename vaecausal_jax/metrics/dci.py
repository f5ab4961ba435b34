"""DCI: disentanglement, completeness and informativeness, under named estimators.

The three numbers describe a matrix of importances, and depend on who fills it: on one beta-VAE D is
0.26 by boosted trees, 0.20 by a depth-8 forest, 0.09 by an unlimited one, 0.59 by lasso. So there
is no plain "DCI" here. It also depends on the number of rows (0.26 at 4,000, 0.31 at 10,000), and
completeness on the number of codes: its entropy has base K.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy import stats
from sklearn import ensemble, linear_model

from vaecausal_jax.metrics.arrays import check_codes, check_row_order, factor_levels, split_rows
from vaecausal_jax.metrics.solvers.boosted_trees import fit_boosted_trees

_SMALL = 1e-11
"""Added to importances before their entropy, as in disentanglement_lib."""


class DCI(NamedTuple):
    """Eastwood and Williams' three scores.

    Attributes:
        disentanglement: Mean of ``per_code`` weighted by the codes' total importance.
        completeness: Mean of ``per_factor`` weighted by the factors' total importance.
        informativeness: Mean over factors of how well the predictor does on the test rows.
        informativeness_train: The same on the training rows.
        per_code: One minus the entropy, base F, of each code's importances, (codes,).
        per_factor: One minus the entropy, base K, of each factor's importances, (factors,).
        importance: (codes, factors).
    """

    disentanglement: float
    completeness: float
    informativeness: float
    informativeness_train: float
    per_code: np.ndarray
    per_factor: np.ndarray
    importance: np.ndarray


class Split(NamedTuple):
    """Codes and factor levels of the training and of the test rows.

    Attributes:
        train_codes: (rows, codes).
        train_levels: (rows, factors), integers from 0 without gaps.
        test_codes: (test rows, codes).
        test_levels: (test rows, factors); -1 for a level that no training row has.
        sizes: Number of levels of each factor among the training rows.
    """

    train_codes: np.ndarray
    train_levels: np.ndarray
    test_codes: np.ndarray
    test_levels: np.ndarray
    sizes: tuple[int, ...]


def split_train_test(
    codes: ArrayLike,
    factors: ArrayLike,
    num_train: int | None,
    *,
    least: int = 1,
    least_factors: int = 1,
) -> Split:
    """The first ``num_train`` rows to train on, two thirds if None, and the others to test on.

    Raises:
        ValueError: Codes or factors of the wrong shape, fewer codes or factors than asked for, no
            rows left, rows that are sorted or grouped (``arrays.check_row_order``), or a factor
            with one level among the training rows.
    """
    codes = np.asarray(check_codes(codes, least=least))
    num_train = split_rows(len(codes), num_train)
    everything = factor_levels(factors, len(codes), least=least_factors)
    check_row_order(codes, factors, num_train)
    _check_varies(everything.index[:num_train], f"the first {num_train} of {len(codes)} rows")
    train = factor_levels(everything.index[:num_train], num_train)
    known = np.full((max(everything.sizes), len(train.sizes)), -1)
    np.put_along_axis(known, everything.index[:num_train], train.index, axis=0)
    test_levels = np.take_along_axis(known, everything.index[num_train:], axis=0)
    return Split(codes[:num_train], train.index, codes[num_train:], test_levels, train.sizes)


def disentanglement(importance: ArrayLike) -> tuple[float, np.ndarray]:
    """D and D_i of an importance matrix: one minus the entropy of each code's row.

    D_i = 1 - H_F(P_i), P_i the row of code i normalised, H_F the entropy in base F; D = sum_i w_i
    D_i with w_i the row's share of all importance, equal where there is none. A dead code has no
    weight (one public implementation stops at the first and gives all later codes none either).

    Args:
        importance: (codes, factors), non-negative; two factors or more.

    Raises:
        ValueError: A single factor, whose entropy has no base; or importances that are negative or
            not finite.
    """
    return _concentration(_importances(importance), "factor")


def completeness(importance: ArrayLike) -> tuple[float, np.ndarray]:
    """C and C_j: as ``disentanglement`` of the columns, with entropies in base K.

    Args:
        importance: (codes, factors), non-negative; two codes or more.

    Raises:
        ValueError: A single code; or importances that are negative or not finite.
    """
    return _concentration(_importances(importance).T, "code")


def dci_gbt(
    codes: ArrayLike, factors: ArrayLike, *, num_train: int | None = None, seed: int = 0
) -> DCI:
    """DCI by gradient-boosted trees, the field's protocol (disentanglement_lib).

    Importance is that of scikit-learn's ``GradientBoostingClassifier`` with its defaults (100
    rounds, depth 3, shrinkage 0.1, one tree a class), one classifier a factor; informativeness is
    accuracy. Factors are unordered classes. 10,000 training and 5,000 test rows take minutes here,
    seconds with ``dci_boosted``. The seed breaks ties between thresholds and moves D by about
    0.001; disentanglement_lib passes none and draws from NumPy's global generator, which this
    equals after ``numpy.random.seed(seed)``. Framework: Eastwood and Williams 2018, openreview
    By-7dz-AZ.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.
        seed: Of the trees.

    Raises:
        ValueError: See ``split_train_test``.
    """
    state = np.random.RandomState(seed)
    return _from_predictors(
        split_train_test(codes, factors, num_train, least=2, least_factors=2),
        lambda: ensemble.GradientBoostingClassifier(random_state=state),
        lambda model: model.feature_importances_,
    )


def dci_boosted(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    num_train: int | None = None,
    num_rounds: int = 100,
    learning_rate: float = 0.1,
) -> DCI:
    """DCI by the same boosted trees as ``dci_gbt``, fitted in JAX.

    Not an approximation: ``boosted_trees`` runs the identical algorithm on all classes of all
    factors at once, so it differs by tie-breaking alone. On the eight reference representations D
    and C are within 0.002 of scikit-learn's, in a twentieth of its processor time.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.
        num_rounds: Trees a class.
        learning_rate: Shrinkage of each tree.

    Raises:
        ValueError: See ``split_train_test``.
    """
    split = split_train_test(codes, factors, num_train, least=2, least_factors=2)
    fit = fit_boosted_trees(*split, num_rounds=num_rounds, learning_rate=learning_rate)
    return _summary(fit.importance, fit.train_accuracy, fit.test_accuracy)


def dci_fast(codes: ArrayLike, factors: ArrayLike, *, num_train: int | None = None) -> DCI:
    """DCI by half as many boosted trees of twice the step: the quick estimator.

    ``dci_boosted`` with 50 rounds and shrinkage 0.2. To trust because it changes neither the rows
    nor the thresholds nor the trees, only how finely the same descent is stepped: boosting follows
    the product of rounds and shrinkage. On the eight reference representations D and C are within
    0.01 of scikit-learn's. Shortcuts that change more moved D further: stopping after 50 rounds by
    0.07, 32 to 256 bins per code by 0.09, a depth-8 forest by 0.3.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.

    Raises:
        ValueError: See ``split_train_test``.
    """
    return dci_boosted(codes, factors, num_train=num_train, num_rounds=50, learning_rate=0.2)


def dci_forest(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    num_train: int | None = None,
    num_trees: int = 100,
    max_depth: int | None = 8,
    seed: int = 0,
) -> DCI:
    """DCI by random forests: importance is mean impurity decrease, informativeness accuracy.

    Depth matters: unlimited trees split on noise and halve D. Eastwood and Williams grow 10
    regression trees of a depth tuned by cross-validation and report an error instead of accuracy.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.
        num_trees: Trees per factor.
        max_depth: Of each tree; None for no limit.
        seed: Of the trees.

    Raises:
        ValueError: See ``split_train_test``.
    """
    state = np.random.RandomState(seed)
    return _from_predictors(
        split_train_test(codes, factors, num_train, least=2, least_factors=2),
        lambda: ensemble.RandomForestClassifier(num_trees, max_depth=max_depth, random_state=state),
        lambda model: model.feature_importances_,
    )


def dci_lasso(
    codes: ArrayLike, factors: ArrayLike, *, num_train: int | None = None, alpha: float = 0.02
) -> DCI:
    """DCI by L1 regression, as first published (Eastwood and Williams 2018, openreview By-7dz-AZ).

    Importance is the absolute weight of each standardised code in the lasso of the standardised
    level. It takes levels as numbers, so unordered factors such as shape count as ordered, and sees
    linear relations only. Informativeness is R^2, on the test rows at most 1 and possibly negative;
    the paper gives the root of 1 - R^2, an error. Another implementation tunes alpha by 10-fold
    cross-validation, scales to [0, 1], and reports max(0, 1 - 12 MSE) on its training rows.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.
        alpha: Weight of the L1 penalty.

    Raises:
        ValueError: See ``split_train_test``.
    """
    codes = np.asarray(check_codes(codes, least=2))
    num_train = split_rows(len(codes), num_train)
    levels = factor_levels(factors, len(codes), least=2).index.astype(np.float64)
    check_row_order(codes, factors, num_train)
    _check_varies(levels[:num_train], f"the first {num_train} of {len(codes)} rows")
    _check_varies(levels[num_train:], f"the last {len(codes) - num_train} rows, which test")
    train, test = standardise(codes[:num_train], codes[num_train:])
    train_target, test_target = standardise(levels[:num_train], levels[num_train:])
    model = linear_model.Lasso(alpha=alpha).fit(train, train_target)
    importance = np.abs(model.coef_).reshape(levels.shape[1], -1).T
    errors = (
        (model.predict(x).reshape(y.shape) - y) ** 2
        for x, y in ((train, train_target), (test, test_target))
    )
    train_error, test_error = (error.mean(axis=0) for error in errors)
    return _summary(importance, 1 - train_error, 1 - test_error / test_target.var(axis=0))


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, centred and scaled by the training rows; a constant column becomes zeros.

    In the precision given; in double, with columns scaled to one first, where squares would
    overflow or vanish in that.
    """
    with np.errstate(over="ignore", under="ignore"):
        mean = train.mean(axis=0, keepdims=True)
        scale = train.std(axis=0, keepdims=True)
    lost = ~np.isfinite(scale) | ((scale == 0) & (train != train[:1]).any(axis=0))
    if lost.any():
        size = np.abs(train.astype(np.float64)).max(axis=0, keepdims=True)
        size = np.where(size > 0, size, 1.0)
        return standardise(train / size, test / size)
    scale = np.where(scale > 0, scale, 1.0)
    return (train - mean) / scale, (test - mean) / scale


def _check_varies(levels: np.ndarray, where: str) -> None:
    constant = (levels == levels[:1]).all(axis=0)
    if constant.any():
        raise ValueError(
            f"factor {np.argmax(constant)} has one level in {where}, so nothing can be known about "
            "it there: give more rows, shuffle codes and factors together, or leave the column out."
        )


def _importances(importance: ArrayLike) -> np.ndarray:
    matrix = np.asarray(importance, np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"importance has shape {matrix.shape}, expected (codes, factors).")
    wrong = ~np.isfinite(matrix) | (matrix < 0)
    if wrong.any():
        code, factor = np.argwhere(wrong)[0]
        raise ValueError(
            f"importance[{code}, {factor}] is {matrix[code, factor]}, expected a finite number, at "
            "least 0."
        )
    return matrix


def _concentration(matrix: np.ndarray, word: str) -> tuple[float, np.ndarray]:
    if matrix.shape[1] < 2:
        raise ValueError(
            f"importance is of one {word}, expected 2 or more: how it is spread over one says "
            "nothing, and its entropy has no base."
        )
    parts = 1.0 - stats.entropy(matrix + _SMALL, axis=1, base=matrix.shape[1])
    weights = matrix.sum(axis=1)
    weights = weights if weights.sum() > 0 else np.ones_like(weights)
    return float(np.average(parts, weights=weights)), parts


def _from_predictors(
    split: Split, make_model: Callable, importance_of: Callable[..., np.ndarray]
) -> DCI:
    """Fits one classifier a factor, in order, so that one stream of randomness serves all."""
    columns, train_accuracy, test_accuracy = [], [], []
    for train_level, test_level in zip(split.train_levels.T, split.test_levels.T, strict=True):
        model = make_model().fit(split.train_codes, train_level)
        columns.append(np.abs(importance_of(model)))
        train_accuracy.append(np.mean(model.predict(split.train_codes) == train_level))
        test_accuracy.append(np.mean(model.predict(split.test_codes) == test_level))
    return _summary(np.stack(columns, axis=1), np.array(train_accuracy), np.array(test_accuracy))


def _summary(importance: np.ndarray, train: np.ndarray, test: np.ndarray) -> DCI:
    d, per_code = disentanglement(importance)
    c, per_factor = completeness(importance)
    return DCI(d, c, float(test.mean()), float(train.mean()), per_code, per_factor, importance)
