"""Scores read from mutual information between binned codes and factors: MIG and its family.

All use the plug-in estimate in nats on a table of counts. Codes are cut into equal-width bins
between their own extremes, as in disentanglement_lib: an outlier squeezes the bins of its code, and
a factor with more levels than bins cannot reach its entropy (a perfect code of dSprites scores a
MIG of 0.885 with 20 bins). Its protocol is the 10,000 training rows, means as codes, 20 bins.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.metrics.arrays import Levels, Score, check_codes, factor_levels


class Information(NamedTuple):
    """Mutual information between codes and factors, in nats.

    Attributes:
        mutual: I(z_i; v_j), (codes, factors).
        code_entropy: H(z_i) of the binned codes, (codes,).
        factor_entropy: H(v_j), (factors,).
    """

    mutual: Array
    code_entropy: Array
    factor_entropy: Array


def discretise(values: ArrayLike, num_bins: int = 20) -> Any:
    """Cuts each column into equal-width bins between its own minimum and maximum.

    The edges are those of ``numpy.histogram``, bit for bit and in the precision given; a value on
    an edge belongs to the bin above, the maximum to the last. A constant column is one bin.

    Args:
        values: (rows, columns).
        num_bins: Number of bins.

    Returns:
        Bins from 0 to ``num_bins - 1``, (rows, columns) unsigned integers; NumPy's unless traced.

    Raises:
        ValueError: Fewer than 2 or more than 4096 bins, or values that are not (rows, columns) of
            finite numbers.
    """
    if not 2 <= num_bins <= 4096:
        raise ValueError(f"num_bins is {num_bins}, expected 2 to 4096.")
    columns = check_codes(values).T
    if not jnp.issubdtype(columns.dtype, jnp.floating):
        columns = columns.astype(float)
    if isinstance(columns, np.ndarray):
        columns = np.ascontiguousarray(columns)
    low, high = columns.min(axis=1, keepdims=True), columns.max(axis=1, keepdims=True)
    ticks = np.arange(num_bins).astype(columns.dtype)[None, :]
    if isinstance(columns, np.ndarray):
        edges = ticks * ((high - low) / num_bins) + low
    else:
        edges = _traced_edges(low, high, ticks)
    dtype = np.min_scalar_type(num_bins)
    above = ((columns >= edges[:, i : i + 1]).astype(dtype) for i in range(1, num_bins))
    return functools.reduce(operator.add, above).T


def _traced_edges(low: Array, high: Array, ticks: np.ndarray) -> Any:
    """Those edges in XLA, which must be kept from rounding them otherwise.

    It would divide by a constant as a product with the reciprocal: the divisor is hidden from it.
    It would fuse multiply and add: the step is split in two with so few bits that both products
    are exact.
    """
    step = (high - low) / (ticks.size + 0.0 * low)
    bits = jax.lax.bitcast_convert_type(step, f"uint{8 * ticks.itemsize}")
    coarse = jax.lax.bitcast_convert_type(bits & ~bits.dtype.type(0xFFF), step.dtype)
    return (ticks * coarse + ticks * (step - coarse)) + low


def information(codes: ArrayLike, factors: ArrayLike, *, num_bins: int = 20) -> Information:
    """Plug-in mutual information and entropies of binned codes and factors, in nats.

    Args:
        codes: (rows, codes); may be traced.
        factors: (rows, factors), of levels.
        num_bins: See ``discretise``.

    Raises:
        ValueError: Codes or factors that are not (rows, codes) and (rows, factors) of the same
            rows, that are not finite, or a factor with one level.
    """
    return _binned(codes, factors, num_bins)


def joint_information(codes: Levels, factors: Levels) -> Information:
    """As ``information``, between two tables of levels: every level is a bin."""
    sizes = max(codes.sizes), max(factors.sizes)
    return _information(codes.index, factors.index, *sizes)


def mig(codes: ArrayLike, factors: ArrayLike, *, num_bins: int = 20) -> Score:
    """Mutual information gap (Chen et al. 2018, arXiv:1802.04942).

    Mean over factors of (I(z_a; v) - I(z_b; v)) / H(v), a and b the two most informative codes. As
    in disentanglement_lib on mean codes; the paper takes samples from the posterior, estimates
    H(z | v) from its densities, and leaves out shape. Some reimplementations read (rows, codes)
    transposed and report about 0.001 for any model.

    Args:
        codes: (rows, codes), two or more; may be traced.
        factors: (rows, factors), of levels.
        num_bins: Bins of a code.

    Returns:
        Score whose parts are the factors' gaps and whose matrix is I in nats.

    Raises:
        ValueError: See ``information``; or a single code.
    """
    return _mig(_binned(codes, factors, num_bins, least_codes=2))


def mig_sup(codes: ArrayLike, factors: ArrayLike, *, num_bins: int = 20) -> Score:
    """MIG-sup, the gap seen from the codes (Li et al. 2020, arXiv:2002.10549).

    Mean over codes of the gap between the two largest I(z; v) / H(v) over factors: 1 if every code
    knows one factor entirely, 0 if a code knows two alike or nothing, so an inactive code lowers
    it. One public implementation divides by H(z) instead.

    Args:
        codes: (rows, codes); may be traced.
        factors: (rows, factors), two or more, of levels.
        num_bins: Bins of a code.

    Returns:
        Score whose parts are the codes' gaps and whose matrix is I / H(v).

    Raises:
        ValueError: See ``information``; or a single factor.
    """
    return _mig_sup(_binned(codes, factors, num_bins, least_factors=2))


def jemmig(codes: ArrayLike, factors: ArrayLike, *, num_bins: int = 20) -> Score:
    """Joint entropy minus mutual information gap, normalised (Do and Tran 2020, arXiv:1908.09961).

    With a and b the two most informative codes of v, the paper's score of the factor is
    H(z_a, v) - I(z_a; v) + I(z_b; v), best at 0 and at most H(v) + log(bins). Here it is one minus
    its ratio to that bound, averaged over factors: unlike MIG it falls when z_a also carries what
    is not v.

    Args:
        codes: (rows, codes), two or more; may be traced.
        factors: (rows, factors), of levels.
        num_bins: Bins of a code.

    Returns:
        Score whose parts are the factors' normalised scores and whose matrix is I in nats.

    Raises:
        ValueError: See ``information``; or a single code.
    """
    return _jemmig(_binned(codes, factors, num_bins, least_codes=2), num_bins)


def modularity(codes: ArrayLike, factors: ArrayLike, *, num_bins: int = 20) -> Score:
    """Modularity: does a code inform of one factor only (Ridgeway and Mozer 2018, 1802.05312).

    Mean over codes of 1 - (sum_j I_j^2 - max_j I_j^2) / ((F - 1) max_j I_j^2); 0 for a code without
    any information. Binned noise is never exactly uninformative, so inactive codes count: pure
    noise scores about 0.66, and five tiny noise codes take a perfect five from 1.00 to 0.84.

    Args:
        codes: (rows, codes); may be traced.
        factors: (rows, factors), two or more, of levels.
        num_bins: Bins of a code.

    Returns:
        Score whose parts are the codes' and whose matrix is I in nats.

    Raises:
        ValueError: See ``information``; or a single factor.
    """
    return _modularity(_binned(codes, factors, num_bins, least_factors=2))


def mutual_information_score(codes: ArrayLike, *, num_bins: int = 20) -> Score:
    """Mean mutual information between two different codes, in nats: 0 if independent.

    The plug-in estimate is biased upwards by about (bins - 1)^2 / (2 rows).

    Args:
        codes: (rows, codes), two or more; may be traced.
        num_bins: Bins of a code.

    Returns:
        Score whose parts are the codes' means over the others and whose matrix is I(z_i; z_j) with
        zeros on the diagonal.
    """
    bins = discretise(check_codes(codes, least=2), num_bins)
    return _between(_information(bins, bins, num_bins, num_bins))


def _binned(
    codes: ArrayLike,
    factors: ArrayLike,
    num_bins: int,
    *,
    least_codes: int = 1,
    least_factors: int = 1,
) -> Information:
    checked = check_codes(codes, least=least_codes)
    levels = factor_levels(factors, checked.shape[0], least=least_factors)
    bins = discretise(checked, num_bins)
    return _information(bins, levels.index, num_bins, max(levels.sizes))


@functools.partial(jax.jit, static_argnames=("num_bins", "num_levels"))
def _information(bins: ArrayLike, levels: ArrayLike, num_bins: int, num_levels: int) -> Information:
    """Mutual information and both entropies from the table of counts of every pair."""
    bins, levels = (jnp.asarray(a, jnp.int32).T for a in (bins, levels))
    codes, factors, rows = bins.shape[0], levels.shape[0], bins.shape[1]
    pair = jnp.arange(codes)[:, None] * factors + jnp.arange(factors)[None, :]
    cell = (pair[:, :, None] * num_bins + bins[:, None, :]) * num_levels + levels[None, :, :]
    shape = (codes, factors, num_bins, num_levels)
    counts = jnp.zeros(np.prod(shape)).at[cell.reshape(-1)].add(1.0).reshape(shape)
    of_code, of_factor = counts.sum(axis=3, keepdims=True), counts.sum(axis=2, keepdims=True)
    ratio = counts * rows / jnp.maximum(of_code * of_factor, 1.0)
    terms = counts / rows * jnp.log(jnp.where(counts > 0, ratio, 1.0))
    mutual = jnp.maximum(jnp.sum(terms, axis=(2, 3)), 0.0)
    of_code, of_factor = of_code[:, 0, :, 0] / rows, of_factor[0, :, 0, :] / rows
    return Information(mutual, _entropy(of_code), _entropy(of_factor))


@jax.jit
def _mig(info: Information) -> Score:
    gaps = _gap(info.mutual.T) / info.factor_entropy
    return Score(jnp.mean(gaps), gaps, info.mutual)


@jax.jit
def _mig_sup(info: Information) -> Score:
    share = info.mutual / info.factor_entropy[None, :]
    gaps = _gap(share)
    return Score(jnp.mean(gaps), gaps, share)


@functools.partial(jax.jit, static_argnames="num_bins")
def _jemmig(info: Information, num_bins: int) -> Score:
    best = jnp.argmax(info.mutual, axis=0)
    joint = info.code_entropy[best] + info.factor_entropy - jnp.max(info.mutual, axis=0)
    raw = joint - _gap(info.mutual.T)
    parts = 1.0 - raw / (info.factor_entropy + jnp.log(num_bins))
    return Score(jnp.mean(parts), parts, info.mutual)


@jax.jit
def _modularity(info: Information) -> Score:
    squared = info.mutual**2
    largest = jnp.max(squared, axis=1)
    others = jnp.sum(squared, axis=1) - largest
    spread = others / jnp.where(largest > 0, largest * (squared.shape[1] - 1), 1.0)
    parts = jnp.where(largest > 0, 1.0 - spread, 0.0)
    return Score(jnp.mean(parts), parts, info.mutual)


@jax.jit
def _between(info: Information) -> Score:
    mutual = info.mutual
    between = jnp.where(jnp.eye(mutual.shape[0], dtype=bool), 0.0, mutual)
    parts = jnp.sum(between, axis=1) / (mutual.shape[0] - 1)
    return Score(jnp.mean(parts), parts, between)


def _entropy(probability: Array) -> Array:
    return -jnp.sum(jax.scipy.special.xlogy(probability, probability), axis=-1)


def _gap(values: Array) -> Array:
    """Largest minus second largest along the last axis."""
    top = jax.lax.top_k(values, 2)[0]
    return top[..., 0] - top[..., 1]
