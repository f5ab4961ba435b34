"""Dependence between codes, without factors: Gaussian total correlation and Wasserstein distance.

Computed from covariance matrices with NumPy in double precision: the quantities are differences of
close numbers. Means of collapsed, correlated units make the total correlation of mean codes explode
(2.5 and 7.2 nats for two pretrained models): leave inactive units out first, with
``effects.unit_effects.active_units``. The binned counterpart is ``mutual_information_score``.
"""

import math

import numpy as np
from jax.typing import ArrayLike

from vaecausal_jax.metrics.arrays import check_codes


def gaussian_total_correlation(codes: ArrayLike) -> float:
    """Total correlation in nats of a Gaussian with the codes' covariance S.

    (sum_i log S_ii - log det S) / 2, or -log det(correlation) / 2: zero for uncorrelated codes,
    infinite for a constant one and for collinear ones, such as a duplicate or a sum of others.

    Collinear is decided by rank, in double precision: the smallest singular value of the codes,
    standardised and over sqrt(rows), is at most 16 sqrt(K) eps m, with eps the spacing of the
    codes' own type at 1 and m the largest entry of a code over its standard deviation. That is what
    rounding them moves it by. Where it is above that, but so small that it is lost in a covariance
    (below 1e-6 of the largest), the determinant is taken from the singular values.

    Args:
        codes: (rows, codes), more rows than codes.

    Raises:
        ValueError: Codes that are not (rows, codes) of finite numbers, or not more rows than codes,
            whose covariance has no full rank whatever the codes are.
    """
    checked = np.asarray(check_codes(codes))
    rows, width = checked.shape
    if rows <= width:
        raise ValueError(
            f"{rows} rows of {width} codes: their covariance cannot have full rank, expected at "
            f"least {width + 1} rows."
        )
    singular, tolerance = _singular_values(checked)
    if singular[-1] <= tolerance:
        return float("inf")
    if singular[-1] < 1e-6 * singular[0]:
        return float(-np.log(singular).sum())
    covariance = _covariance(checked)
    _, log_determinant = np.linalg.slogdet(covariance)
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


def _singular_values(codes: np.ndarray) -> tuple[np.ndarray, float]:
    """Of the standardised codes over sqrt(rows), and how far rounding the codes can move them."""
    values = codes.astype(np.float64)
    largest = np.abs(values).max(axis=0, keepdims=True)
    values = values / np.where(largest > 0, largest, 1.0)
    if (values == values[:1]).all(axis=0).any():
        return np.zeros(values.shape[1]), 0.0
    centred = values - values.mean(axis=0, keepdims=True)
    scale = centred.std(axis=0, keepdims=True)
    eps = np.finfo(codes.dtype if codes.dtype.kind == "f" else np.float64).eps
    singular = np.linalg.svd(centred / scale / math.sqrt(len(values)), compute_uv=False)
    return singular, float(16 * math.sqrt(values.shape[1]) * eps / scale.min())


def _covariance(codes: ArrayLike) -> np.ndarray:
    values = np.asarray(check_codes(codes), np.float64)
    return np.atleast_2d(np.cov(values, rowvar=False))
