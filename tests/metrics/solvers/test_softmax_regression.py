"""Softmax regression: stationary, scikit-learn's optimum, and never short of it in silence."""

import numpy as np
import pytest
from sklearn import linear_model

from vaecausal_jax.metrics.solvers import softmax_regression
from vaecausal_jax.metrics.solvers.softmax_regression import SoftmaxRegression


def drawn(seed, num_classes=5, rows=300, width=4):
    rng = np.random.default_rng(seed)
    rest = rng.integers(0, num_classes, rows - num_classes)
    level = np.append(np.arange(num_classes), rest)
    return level[:, None] * rng.normal(size=width) + rng.normal(size=(rows, width)), level


def with_column(column):
    x, level = drawn(3)
    x[:, 1] = column(x, level)
    return x, level


CASES = {
    "two classes": drawn(0, num_classes=2),
    "many classes": drawn(1, num_classes=20),
    "one code": drawn(2, width=1),
    "a copy": with_column(lambda x, level: x[:, 0]),
    "a constant": with_column(lambda x, level: 3.0),
    "the level itself": with_column(lambda x, level: level),
    "a great scale": with_column(lambda x, level: 1000.0 * level),
    "a class of one row": (drawn(4)[0], np.append(np.arange(3), np.ones(297, int))),
}


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_scikit_learns_at_its_optimum(case):
    x, level = CASES[case]
    model = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=1000)
    expected = model.fit(x, level).predict_proba(x)
    np.testing.assert_allclose(SoftmaxRegression(x, level).probabilities(x), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_the_fit_is_stationary(seed):
    num_classes = 3 + seed
    x, level = drawn(seed, num_classes)
    model = SoftmaxRegression(x, level)
    residual = np.eye(num_classes)[level] - model.probabilities(x)
    # Intercepts: as many of each class as were seen. Weights: the penalty's pull.
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(model._weights[:, :-1], residual.T @ x, atol=1e-3)


def test_without_information_the_frequencies_remain():
    x, level = np.zeros((10, 2)), np.repeat([0, 1, 2], [5, 3, 2])
    found = SoftmaxRegression(x, level).probabilities(np.zeros((1, 2)))
    np.testing.assert_allclose(found, [[0.5, 0.3, 0.2]], atol=1e-6)


def test_a_fit_that_stops_early_is_an_error(monkeypatch):
    minimize = softmax_regression.optimize.minimize

    def hurried(*arguments, options, **rest):
        return minimize(*arguments, options={"maxiter": 1}, **rest)

    monkeypatch.setattr(softmax_regression.optimize, "minimize", hurried)
    with pytest.raises(ArithmeticError, match="stopped at a gradient of .*expected less than 0.01"):
        SoftmaxRegression(*drawn(0))
