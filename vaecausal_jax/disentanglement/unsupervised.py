"""Dependence between codes, without factors: Gaussian total correlation and Wasserstein distance.

Computed from covariance matrices with NumPy in double precision: the quantities are differences of
close numbers. Means of collapsed, correlated units make the total correlation of mean codes explode
(2.5 and 7.2 nats for two pretrained models): leave inactive units out first, with
``vaecausal_jax.effects.active_units``. The binned counterpart is ``mutual_information_score``.
"""

import numpy as np
from jax.typing import ArrayLike

from vaecausal_jax.disentanglement.arrays import check_codes


def gaussian_total_correlation(codes: ArrayLike) -> float:
    """Total correlation in nats of a Gaussian with the codes' covariance S.

    (sum_i log S_ii - log det S) / 2, or -log det(correlation) / 2: zero for uncorrelated codes,
    infinite for a duplicated or constant one.

    Args:
        codes: (rows, codes).

    Raises:
        ValueError: Codes that are not (rows, codes) of finite numbers.
    """
    covariance = _covariance(codes)
    sign, log_determinant = np.linalg.slogdet(covariance)
    if sign <= 0:
        return float("inf")
    return 0.5 * (np.log(np.diag(covariance)).sum() - log_determinant)


def gaussian_wasserstein(codes: ArrayLike) -> tuple[float, float]:
    """Squared 2-Wasserstein distance between that Gaussian and the product of its marginals.

    2 tr S - 2 tr (D^1/2 S D^1/2)^1/2 with D the diagonal of S, and the same divided by tr S, which
    does not depend on the codes' common scale. The root is taken from eigenvalues: disentanglement_
    lib's general matrix root can return small imaginary parts.

    Args:
        codes: (rows, codes).

    Returns:
        The distance, and the distance over the trace (0 where all codes are constant).

    Raises:
        ValueError: Codes that are not (rows, codes) of finite numbers.
    """
    covariance = _covariance(codes)
    scale = np.sqrt(np.diag(covariance))
    eigenvalues = np.linalg.eigvalsh(scale[:, None] * covariance * scale[None, :])
    trace = np.trace(covariance)
    distance = 2 * trace - 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return distance, distance / trace if trace > 0 else 0.0


def _covariance(codes: ArrayLike) -> np.ndarray:
    values = np.asarray(check_codes(codes), np.float64)
    return np.atleast_2d(np.cov(values, rowvar=False))
