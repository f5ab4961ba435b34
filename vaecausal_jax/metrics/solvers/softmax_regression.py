"""Multinomial logistic regression by Newton's method, each step a few passes over the rows.

For the 40 levels of an orientation scikit-learn's Newton solver builds a Hessian of (classes *
codes)^2 entries per step, and its L-BFGS stops after 100 passes, short of the optimum. Here
conjugate gradients take each step, in a basis in which the Hessian is, where the fit starts, the
identity between classes: a few products with it are enough.
"""

import numpy as np
from scipy import linalg, optimize, special

_GREATEST_GRADIENT = 0.01
"""Of the loss summed over rows, in the fit's own basis. Random fits end below a tenth of it."""


class SoftmaxRegression:
    """The optimum of ``sklearn.linear_model.LogisticRegression()``: L2, C = 1.

    Minimises the negative log-likelihood of softmax(w x + b), summed over rows, plus half the sum
    of squared weights; intercepts are free. Of two classes scikit-learn penalises one vector, the
    difference of these two, which is a penalty of twice the size on each.

    Args:
        x: (rows, codes).
        level: Class of each row, integers from 0 without gaps, (rows,).

    Raises:
        ArithmeticError: The optimiser stopped short of the optimum.
    """

    def __init__(self, x: np.ndarray, level: np.ndarray):
        rows = _with_intercept(x)
        num_classes = int(level.max()) + 1
        penalty = np.append(np.full(x.shape[1], 2.0 if num_classes == 2 else 1.0), 0.0)
        # The Hessian at the start is this, over the number of classes, between classes.
        start = rows @ rows.T + num_classes * np.diag(penalty)
        root = linalg.cholesky(start, lower=True)
        basis = linalg.solve_triangular(root, np.eye(len(rows)), lower=True)
        problem = _Problem(basis @ rows, level, num_classes, (basis * penalty) @ basis.T)
        found = optimize.minimize(
            problem.loss_and_gradient,
            np.zeros(num_classes * len(rows)),
            jac=True,
            hessp=problem.hessian_product,
            method="Newton-CG",
            options={"xtol": 1e-4},
        )
        # Rounding can end the line search, and with it "success", at the optimum.
        gradient = np.abs(found.jac).max()
        if not gradient < _GREATEST_GRADIENT:
            raise ArithmeticError(
                f"the logistic regression stopped at a gradient of {gradient:.3g}, expected less "
                f"than {_GREATEST_GRADIENT}: {found.message}"
            )
        self._weights = found.x.reshape(num_classes, -1) @ basis

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class, (rows, classes)."""
        return special.softmax(self._weights @ _with_intercept(x), axis=0).T


class _Problem:
    """Loss, gradient and products with the Hessian; weights are (classes, codes), laid out flat."""

    def __init__(self, rows, level, num_classes, penalty):
        self._rows, self._penalty = rows, penalty
        self._shape = num_classes, len(rows)
        self._sums = (np.arange(num_classes)[:, None] == level) @ rows.T
        # A step need not be exact, so the Hessian is in single precision.
        self._single = rows.astype(np.float32)

    def loss_and_gradient(self, weights):
        weights = weights.reshape(self._shape)
        logits = weights @ self._rows
        largest = logits.max(axis=0)
        probability = np.exp(logits - largest)
        total = probability.sum(axis=0)
        probability /= total
        self._probability = probability.astype(np.float32)
        log_likelihood = np.sum(weights * self._sums) - np.sum(largest + np.log(total))
        shrinkage = weights @ self._penalty
        gradient = probability @ self._rows.T - self._sums + shrinkage
        return np.sum(weights * shrinkage) / 2 - log_likelihood, gradient.ravel()

    def hessian_product(self, _, direction):
        """At the weights ``loss_and_gradient`` saw last, which are the optimiser's present ones."""
        direction = direction.reshape(self._shape)
        change = direction.astype(np.float32) @ self._single
        change *= self._probability
        change -= self._probability * change.sum(axis=0)
        return (change @ self._single.T + direction @ self._penalty).ravel()


def _with_intercept(x):
    """Codes as rows, and a row of ones."""
    return np.append(np.asarray(x, np.float64).T, np.ones((1, len(x))), axis=0)
