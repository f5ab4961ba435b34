"""Expected effects in a decoder of one ReLU layer under Gaussian inputs, in closed form.

Every value before the ReLU is a row times one standard normal vector xi, in the run as it is and in
the run after an intervention alike. Then

    E relu(a.xi) relu(b.xi) = |a| |b| (sin t + (pi - t) cos t) / 2 pi,   t the angle of a and b

(Cho & Saul 2009) gives the covariance of all units across both runs, and with it the mean squared
change of anything linear in them. NumPy, float64: an oracle, not a program for a device.
"""

import numpy as np


def relu_moments(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """E relu(a_i.xi) relu(b_j.xi) for rows a (units, noise) and b (others, noise)."""
    lengths = np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    cosine = np.clip(first @ second.T / np.where(lengths > 0, lengths, 1.0), -1.0, 1.0)
    angle = np.arccos(cosine)
    return lengths * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)


def relu_variance(rows: np.ndarray, write: np.ndarray) -> np.ndarray:
    """Variance of each output of relu(rows xi) write: (outputs,).

    Args:
        rows: (units, noise).
        write: (units, outputs).
    """
    means = np.linalg.norm(rows, axis=1) / np.sqrt(2 * np.pi)
    return _quadratic(relu_moments(rows, rows) - np.outer(means, means), write)


def relu_change(before: np.ndarray, after: np.ndarray, write: np.ndarray) -> np.ndarray:
    """E (y' - y)^2 of each output as the ReLU's input goes from before to after: (outputs,).

    Args:
        before: (units, noise).
        after: (units, noise), in terms of the same noise.
        write: (units, outputs).
    """
    crossed = relu_moments(before, after)
    covariance = relu_moments(before, before) + relu_moments(after, after) - crossed - crossed.T
    return _quadratic(covariance, write)


def entropic_specificity(energies: np.ndarray) -> np.ndarray:
    """1 - H / ln F of the shares along the last axis; NaN where all energies are zero."""
    total = energies.sum(-1, keepdims=True)
    shares = np.divide(energies, total, out=np.full_like(energies, np.nan), where=total > 0)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return 1 + (shares * logarithms).sum(-1) / np.log(energies.shape[-1])


def _quadratic(covariance: np.ndarray, write: np.ndarray) -> np.ndarray:
    return np.maximum(np.einsum("uo,uv,vo->o", write, covariance, write, optimize=True), 0.0)
