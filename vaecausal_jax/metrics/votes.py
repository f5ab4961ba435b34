"""Scores by votes of codes over rows that share a factor: FactorVAE, Z-max, Z-diff features.

The rows that share a factor's level are drawn from a table of codes that is computed once. On a
full grid, or on rows drawn uniformly from it, that is the published sampling without rendering an
image for every vote. All votes are one program, and codes may be traced, so ``jax.vmap`` scores
many models on the same rows.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.metrics.arrays import Levels, Score, check_codes, factor_levels

GREATEST_CODE = 1e15
"""Beyond this spread the variances of codes overflow single precision, or their ratios do."""


class Groups(NamedTuple):
    """Rows of a table that agree on something, one grouping per factor.

    Attributes:
        order: The rows, group after group, (factors, rows).
        begin: Where in ``order`` each row's group begins, (factors, rows).
        count: Rows in each row's group, (factors, rows).
    """

    order: np.ndarray
    begin: np.ndarray
    count: np.ndarray


def factor_vae_score(
    key: Array,
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
    threshold: float = 0.05,
) -> Score:
    """FactorVAE score, also called Z-min variance (Kim and Mnih 2018, arXiv:1802.05983).

    A vote fixes a random factor at a random level in a batch and names the code of least variance
    (ddof 1) relative to its variance over all rows. The majority factor of each code among the
    training votes is its class; the score is the accuracy of that table on the evaluation votes.
    Chance is 1/F. Codes with a standard deviation below the threshold do not vote, as in
    disentanglement_lib's study: without it dead codes do, and one pretrained beta-TC-VAE scores
    0.745 instead of 0.586. With no active code the score is 0.

    Args:
        key: Typed PRNG key.
        codes: (rows, codes); may be traced.
        factors: (rows, factors), two or more, of levels.
        num_train: Votes that make the table.
        num_eval: Votes that test it.
        batch_size: Rows per vote.
        threshold: Least standard deviation of an active code; 0 for none.

    Returns:
        Score whose parts are the accuracies on votes of each factor and whose matrix counts
        training votes.

    Raises:
        ValueError: Codes or factors of the wrong shape, a factor with one level, or codes whose
            variances overflow single precision.
    """
    codes, levels = _codes_and_levels(codes, factors, least=2)
    groups = group_rows(levels.index)
    sizes = (num_train, num_eval, batch_size)
    return Score(*_vote(key, codes, groups, None, sizes, threshold, -1))


def z_max_variance_score(
    key: Array,
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
    threshold: float = 0.05,
) -> Score:
    """Z-max variance score, of Relevance Factor VAE (Kim et al. 2019, arXiv:1902.01568).

    As ``factor_vae_score`` with the roles turned: all factors but one are fixed, and the code of
    largest relative variance votes. Needs rows that differ in one factor alone, so a full grid or
    coarse levels. Zaidi et al. (arXiv:2012.09276) rescale it by chance, see ``above_chance``.

    Args:
        key: Typed PRNG key.
        codes: (rows, codes); may be traced.
        factors: (rows, factors), two or more, of levels.
        num_train: Votes that make the table.
        num_eval: Votes that test it.
        batch_size: Rows per vote.
        threshold: Least standard deviation of an active code; 0 for none.

    Returns:
        Score whose parts are the accuracies on votes of each factor and whose matrix counts
        training votes.

    Raises:
        ValueError: As ``factor_vae_score``; or a factor in which no two rows differ alone.
    """
    codes, levels = _codes_and_levels(codes, factors, least=2)
    width = levels.index.shape[1]
    others = [np.delete(levels.index, j, axis=1) for j in range(width)]
    index = [np.unique(other, axis=0, return_inverse=True)[1] for other in others]
    groups = group_rows(np.stack([i.reshape(-1) for i in index], axis=1))
    anchors = [np.flatnonzero(count > 1) for count in groups.count]
    for j, rows in enumerate(anchors):
        if not len(rows):
            raise ValueError(
                f"no two rows agree on all factors but factor {j}: pass a full grid, or bin the "
                "factors more coarsely."
            )
    # Padded by repetition to one length: the draw is uniform over each factor's own number.
    longest = max(map(len, anchors))
    table = np.stack([np.resize(rows, longest) for rows in anchors])
    choices = table, np.array([len(rows) for rows in anchors])
    sizes = (num_train, num_eval, batch_size)
    return Score(*_vote(key, codes, groups, choices, sizes, threshold, 1))


def difference_features(
    key: Array, codes: ArrayLike, factors: ArrayLike, *, num: int, batch_size: int = 64
) -> tuple[Array, Array]:
    """Z-diff features: mean over pairs that share one factor of abs(z - z').

    Each pair of a feature has its own level of the shared factor; the other factors are free.

    Args:
        key: Typed PRNG key.
        codes: (rows, codes); may be traced.
        factors: (rows, factors), of levels.
        num: Number of features.
        batch_size: Pairs averaged in one.

    Returns:
        Features (num, codes) and the factor shared in each, (num,).
    """
    codes, levels = _codes_and_levels(codes, factors)
    return _difference_features(key, codes, group_rows(levels.index), num, batch_size)


def above_chance(accuracy: ArrayLike, num_factors: int) -> Array:
    """Accuracy rescaled to 0 at chance, (a - 1/F) / (1 - 1/F), as in Zaidi et al. (2012.09276)."""
    chance = 1.0 / num_factors
    return (jnp.asarray(accuracy) - chance) / (1.0 - chance)


def group_rows(labels: np.ndarray) -> Groups:
    """Groups the rows of a table by each column of labels, integers from 0: (rows, factors)."""
    return Groups(*(np.stack(part) for part in zip(*map(_group, labels.T), strict=True)))


def _group(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.bincount(labels).astype(np.int32)
    begin = np.cumsum(counts, dtype=np.int32) - counts
    return rows_by_level(labels, len(counts)), begin[labels], counts[labels]


def rows_by_level(labels: np.ndarray, num_levels: int) -> np.ndarray:
    """The rows of a column of levels, level after level.

    NumPy sorts small integers stably by radix.
    """
    small = labels.astype(np.min_scalar_type(num_levels))
    return np.argsort(small, kind="stable").astype(np.int32)


def _codes_and_levels(
    codes: ArrayLike, factors: ArrayLike, *, least: int = 1
) -> tuple[Array, Levels]:
    """Codes in JAX's default precision, and levels."""
    checked = check_codes(codes)
    levels = factor_levels(factors, checked.shape[0], least=least)
    if isinstance(checked, np.ndarray):
        # No score here depends on a code's origin, and single precision does.
        checked = checked.astype(np.float64) - checked[:1]
        largest = np.abs(checked).max(axis=0)
        if largest.max() > GREATEST_CODE:
            raise ValueError(
                f"code {np.argmax(largest)} spreads over {largest.max():.3g}, expected less than "
                f"{GREATEST_CODE:g}, beyond which variances overflow single precision: divide the "
                "codes by a common number."
            )
    return jnp.asarray(checked, jnp.result_type(float)), levels


@functools.partial(jax.jit, static_argnames="sizes")
def _vote(key, codes, groups, choices, sizes, threshold, sign):
    """Accuracy, accuracy by factor and training votes of a majority table.

    The code of largest variance times ``sign`` votes.
    """
    num_train, num_eval, batch_size = sizes
    num_factors = groups.order.shape[0]
    variance = jnp.var(codes, axis=0, ddof=1)
    active = jnp.sqrt(variance) >= threshold
    factor_key, anchor_key, row_key = jax.random.split(key, 3)
    shape = (num_train + num_eval,)
    factor = jax.random.randint(factor_key, shape, 0, num_factors)
    if choices is None:
        anchor = jax.random.randint(anchor_key, shape, 0, codes.shape[0])
    else:
        table, number = choices
        anchor = table[factor, _below(anchor_key, shape, number[factor])]
    rows = _matching_rows(row_key, groups, factor[:, None], anchor[:, None], batch_size)
    relative = _variance(codes, rows) / jnp.where(active, variance, 1.0)[None, :]
    # Not an argmax: XLA's CPU compiler fuses the variances into it, and is a quarter slower.
    _, largest = jax.lax.top_k(jnp.where(active[None, :], sign * relative, -jnp.inf), 1)
    vote = largest[:, 0]
    votes = jnp.zeros((codes.shape[1], num_factors))
    train = votes.at[vote[:num_train], factor[:num_train]].add(1.0)
    test = votes.at[vote[num_train:], factor[num_train:]].add(1.0)
    of_code = jax.nn.one_hot(jnp.argmax(train, axis=1), num_factors)
    right = jnp.where(active.any(), jnp.sum(test * of_code, axis=0), 0.0)
    by_factor = right / jnp.maximum(test.sum(axis=0), 1.0)
    return right.sum() / num_eval, by_factor, train


@functools.partial(jax.jit, static_argnames=("num", "batch_size"))
def _difference_features(key, codes, groups, num, batch_size):
    factor_key, anchor_key, row_key = jax.random.split(key, 3)
    factor = jax.random.randint(factor_key, (num,), 0, groups.order.shape[0])
    first = jax.random.randint(anchor_key, (num, batch_size), 0, codes.shape[0])
    second = _matching_rows(row_key, groups, factor[:, None], first, batch_size)
    total = jnp.zeros((num, codes.shape[1]), codes.dtype)
    for i in range(batch_size):
        total += jnp.abs(codes[first[:, i]] - codes[second[:, i]])
    return total / batch_size, factor


def _matching_rows(key, groups, factor, anchor, batch_size):
    """Rows drawn with replacement from the anchors' groups, (num, batch)."""
    begin, count = groups.begin[factor, anchor], groups.count[factor, anchor]
    drawn = begin + _below(key, (factor.shape[0], batch_size), count)
    return groups.order[factor, drawn]


def _below(key, shape, bound):
    """Uniform integers in [0, bound): the rounding of a product, a draw cheaper than randint."""
    drawn = (jax.random.uniform(key, shape) * bound).astype(jnp.int32)
    return jnp.minimum(drawn, bound - 1)


def _variance(codes, rows):
    """Variance (ddof 1) of each code over each batch of rows, (num, codes).

    Sums about the batch's first row, so that a code that does not vary has variance exactly zero.
    Added up row by row: ten times faster on a CPU than to gather the batches and reduce them.
    """
    batch_size = rows.shape[1]
    origin = codes[rows[:, 0]]
    total, squares = jnp.zeros_like(origin), jnp.zeros_like(origin)
    for i in range(1, batch_size):
        deviation = codes[rows[:, i]] - origin
        total += deviation
        squares += deviation**2
    return jnp.maximum(squares - total**2 / batch_size, 0.0) / (batch_size - 1)
