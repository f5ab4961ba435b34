"""Scores of how well factors can be predicted from codes: SAP, explicitness, BetaVAE.

Trained scores split their rows: the leading ones train, the others test. The field's protocol has
10,000 to train on and 5,000 to test.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import stats
from sklearn import exceptions, linear_model

from vaecausal_jax.metrics.arrays import Score, check_codes, factor_levels
from vaecausal_jax.metrics.dci import split_train_test, standardise
from vaecausal_jax.metrics.solvers.linear_svm import one_code_accuracy
from vaecausal_jax.metrics.solvers.softmax_regression import SoftmaxRegression
from vaecausal_jax.metrics.votes import difference_features


class Explicitness(NamedTuple):
    """Explicitness on both parts of the rows.

    Attributes:
        value: Mean over factors on the test rows.
        train: Mean over factors on the training rows.
        parts: Each factor's on the test rows, (factors,).
    """

    value: float
    train: float
    parts: np.ndarray


def sap_continuous(codes: ArrayLike, factors: ArrayLike) -> Score:
    """Separated attribute predictability of continuous factors (Kumar et al. 2018, 1711.00848).

    Mean over factors of the gap between the two largest squared correlations with a code. A code
    with variance at most 1e-12 scores 0. Levels are taken as numbers: there is no binning and no
    split. Invariant to scaling a code.

    Args:
        codes: (rows, codes), two or more.
        factors: (rows, factors), numbers.

    Returns:
        Score whose parts are the factors' gaps and whose matrix holds squared correlations.

    Raises:
        ValueError: Codes or factors of the wrong shape, or a constant factor.
    """
    tables = check_codes(codes, least=2), check_codes(factors)
    if len(tables[0]) != len(tables[1]):
        raise ValueError(f"{len(tables[0])} rows of codes and {len(tables[1])} rows of factors.")
    # Columns as rows, so that sums run along memory.
    codes, factors = (np.array(table.T, np.float64, order="C") for table in tables)
    constant = (factors == factors[:, :1]).all(axis=1)
    if constant.any():
        raise ValueError(f"factor {np.argmax(constant)} is constant: leave the column out.")
    for x in (codes, factors):
        x -= x.mean(axis=1, keepdims=True)
    of_code, of_factor = (np.einsum("ij,ij->i", x, x) for x in (codes, factors))
    alive = of_code > 1e-12 * (codes.shape[1] - 1)
    scale = np.where(alive, of_code, 1.0)[:, None] * of_factor[None, :]
    square = (codes @ factors.T) ** 2 / scale
    return _gap_score(np.where(alive[:, None], square, 0.0))


def sap_discrete(codes: ArrayLike, factors: ArrayLike, *, num_train: int | None = None) -> Score:
    """Separated attribute predictability of discrete factors (Kumar et al. 2018, 1711.00848).

    Mean over factors of the gap between the two best test accuracies of a linear SVM on one code
    (C 0.01, balanced classes), disentanglement_lib's setting; the machines are solved exactly, all
    at once (``linear_svm``). One slope and intercept a class cannot separate the levels of an
    ordered factor, so a perfect code of dSprites scores 0.24 only. Depends on the codes' scale,
    through the penalty: 0.036 at a tenth of the scale where 0.065 before.

    Args:
        codes: (rows, codes), two or more.
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.

    Returns:
        Score whose parts are the factors' gaps and whose matrix holds accuracies.

    Raises:
        ValueError: See ``dci.split_train_test``; or a single code.
    """
    return _gap_score(one_code_accuracy(*split_train_test(codes, factors, num_train, least=2)))


def explicitness(
    codes: ArrayLike, factors: ArrayLike, *, num_train: int | None = None
) -> Explicitness:
    """Explicitness: area under the ROC curve of a linear classifier (Ridgeway and Mozer 2018).

    One multinomial logistic regression a factor on standardised codes (scikit-learn's defaults: L2,
    C = 1), mean over its classes of one-against-rest AUC on the test rows, mean over factors. It is
    the raw AUC, 0.5 at chance, as in disentanglement_lib; the paper (arXiv:1802.05312) rescales to
    2 AUC - 1. Blind to rotations of the codes. A level absent from the test rows is left out of the
    mean, where disentanglement_lib fails. The regression is solved to its optimum
    (``softmax_regression``); where L-BFGS stops after 100 steps, areas differ by about 1e-4.

    Args:
        codes: (rows, codes).
        factors: (rows, factors), of levels.
        num_train: Leading rows that train; two thirds if None.

    Raises:
        ValueError: See ``dci.split_train_test``.
    """
    split = split_train_test(codes, factors, num_train)
    train, test = standardise(split.train_codes, split.test_codes)
    train_parts, parts = [], []
    for j, test_level in enumerate(split.test_levels.T):
        train_level = split.train_levels[:, j]
        if (test_level == test_level[0]).all() or (test_level < 0).all():
            raise ValueError(
                f"factor {j} has one level, or only levels that training did not see, in the "
                f"{len(test_level)} rows that test: there is no area under a ROC curve. Give more "
                "rows, or shuffle codes and factors together."
            )
        model = SoftmaxRegression(train, train_level)
        train_parts.append(_area(model.probabilities(train), train_level))
        parts.append(_area(model.probabilities(test), test_level))
    return Explicitness(float(np.mean(parts)), float(np.mean(train_parts)), np.array(parts))


def beta_vae_score(
    key: Array,
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
) -> Score:
    """BetaVAE score, also called Z-diff (Higgins et al. 2017, openreview Sy2fzU9gl).

    Accuracy, on new features, of a linear classifier that tells which factor a batch of pairs
    shared from the mean abs(z - z') of its pairs, see ``difference_features``. The classifier is
    disentanglement_lib's: multinomial logistic regression with scikit-learn's defaults on unscaled
    features, stopped after 100 steps, converged or not. Chance is 1/F; saturates early, a plain VAE
    reaches 0.87. Zaidi et al. (arXiv:2012.09276) use 200 pairs and rescale by ``above_chance``.

    Args:
        key: Typed PRNG key.
        codes: (rows, codes).
        factors: (rows, factors), two or more, of levels.
        num_train: Features that train.
        num_eval: Features that test.
        batch_size: Pairs averaged in a feature.

    Returns:
        Score whose parts are the accuracies on each factor and whose matrix is the mean training
        feature of each factor.

    Raises:
        ValueError: Codes or factors of the wrong shape, or a factor with one level.
    """
    num_factors = len(factor_levels(factors, len(check_codes(codes)), least=2).sizes)
    drawn = difference_features(
        key, codes, factors, num=num_train + num_eval, batch_size=batch_size
    )
    features, shared = (np.asarray(a) for a in drawn)
    model = fit_logistic(features[:num_train], shared[:num_train])
    right = np.equal(model.predict(features), shared)
    test = np.arange(len(shared)) >= num_train
    of_factor = [shared == j for j in range(num_factors)]
    parts = [np.mean(right[test & of]) for of in of_factor]
    means = [features[~test & of].mean(axis=0) for of in of_factor]
    return Score(float(np.mean(right[test])), np.array(parts), np.stack(means, axis=1))


def fit_logistic(x, y: np.ndarray, **options) -> linear_model.LogisticRegression:
    """Scikit-learn's logistic regression after its 100 steps, converged or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        return linear_model.LogisticRegression(**options).fit(x, y)


def _area(probability: np.ndarray, levels: np.ndarray) -> float:
    """Mean area under the ROC curve of the classes that some rows are of and some are not."""
    ranks = stats.rankdata(probability, axis=0)
    own = levels[:, None] == np.arange(probability.shape[1])
    positive = own.sum(axis=0)
    pairs = positive * (len(levels) - positive)
    above = np.sum(ranks * own, axis=0) - positive * (positive + 1) / 2
    return float(np.mean(above[pairs > 0] / pairs[pairs > 0]))


def _gap_score(matrix: np.ndarray) -> Score:
    ordered = np.sort(matrix, axis=0)
    parts = ordered[-1] - ordered[-2]
    return Score(float(parts.mean()), parts, matrix)
