"""Tables of mixed columns: each has a Gaussian, Bernoulli, categorical or count likelihood.

A row is an "image" of shape (1, width, 1). Each column is encoded to one number or several, side by
side, so that any model of vectors (``models.mlp_vae((1, width, 1), head="columns")``), any
objective and any intervention takes the row as it is. It follows HI-VAE (Nazabal et al. 2020,
arXiv:1807.03653), without its missing values.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.training.objectives.likelihoods import Likelihood


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        name: Name of its likelihood.
        width: Numbers that encode one entry, and outputs that describe its distribution.
        encode: NumPy entries (rows,) to (rows, width).
        log_prob: (outputs, encoded), each (..., width), to log p in nats, (...,).
        mean: Outputs (..., width) to the encoding of the expected entry.
    """

    name: str
    width: int
    encode: Callable[[np.ndarray], np.ndarray]
    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]


def gaussian_column(variance: float = 1.0) -> Column:
    """Real numbers, to be standardised first; the output is the mean, the variance is fixed."""
    constant = math.log(2 * math.pi * variance)

    def log_prob(outputs, x):
        return -0.5 * ((x[..., 0] - outputs[..., 0]) ** 2 / variance + constant)

    return Column("gaussian", 1, lambda x: x[:, None], log_prob, lambda outputs: outputs)


def bernoulli_column() -> Column:
    """Zeros and ones; the output is a logit."""

    def encode(x):
        if not np.isin(x, (0, 1)).all():
            raise ValueError(f"a Bernoulli column holds 0 and 1, got {_other(x, (0, 1))}.")
        return x[:, None]

    def log_prob(outputs, x):
        logit = outputs[..., 0]
        return x[..., 0] * logit - jnp.logaddexp(logit, 0.0)

    return Column("bernoulli", 1, encode, log_prob, jax.nn.sigmoid)


def categorical_column(num_levels: int) -> Column:
    """Levels 0 to ``num_levels - 1``, encoded one-hot; outputs are logits.

    A row of zeros in place of a one-hot has log-probability 0: an entry that is not known.

    Args:
        num_levels: Two or more.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels is {num_levels}, expected 2 or more.")

    def encode(x):
        valid = range(num_levels)
        if not np.isin(x, valid).all():
            raise ValueError(
                f"a categorical column holds levels 0 to {num_levels - 1}, got {_other(x, valid)}."
            )
        return np.eye(num_levels)[x.astype(int)]

    def log_prob(outputs, x):
        return jnp.sum(x * jax.nn.log_softmax(outputs, axis=-1), axis=-1)

    return Column("categorical", num_levels, encode, log_prob, lambda o: jax.nn.softmax(o, axis=-1))


def count_column() -> Column:
    """Counts, encoded as log(1 + count) to keep them small; the output is the log of the rate.

    The likelihood is the Poisson distribution of the count itself.
    """

    def encode(x):
        if (x < 0).any() or (x % 1 != 0).any():
            wrong = x[(x < 0) | (x % 1 != 0)][0]
            raise ValueError(f"a count column holds whole numbers from 0 on, got {wrong}.")
        return np.log1p(x)[:, None]

    def log_prob(outputs, x):
        log_rate = outputs[..., 0]
        # Encoded counts are constants: rounding undoes the encoding's rounding, and no gradient.
        count = jnp.round(jnp.expm1(x[..., 0]))
        return count * log_rate - jnp.exp(log_rate) - jax.scipy.special.gammaln(count + 1.0)

    return Column("count", 1, encode, log_prob, lambda o: jnp.log1p(jnp.exp(o)))


def mixed(columns: Sequence[Column]) -> Likelihood:
    """Reads the columns of "images" (1, width, 1) as independent, each by its likelihood.

    Nats of densities (Gaussian) and of probabilities add up to a density; its level depends on the
    units of the real columns.

    Args:
        columns: One or more, in the order of ``encode_table``.
    """
    if not columns:
        raise ValueError("columns is empty, expected one column or more.")
    stops = np.cumsum([column.width for column in columns]).tolist()
    slices = [slice(stop - c.width, stop) for c, stop in zip(columns, stops, strict=True)]

    def each(*arrays):
        for a in arrays:
            if a.shape[-3:] != (1, stops[-1], 1):
                raise ValueError(f"rows have shape {a.shape[-3:]}, expected (1, {stops[-1]}, 1).")
        flat = [a[..., 0, :, 0] for a in arrays]
        return [(c, *(a[..., part] for a in flat)) for c, part in zip(columns, slices, strict=True)]

    def log_prob(outputs, rows):
        return sum(
            (c.log_prob(o, x) for c, o, x in each(outputs, rows)), jnp.zeros(outputs.shape[:-3])
        )

    def mean(outputs):
        parts = [c.mean(o) for c, o in each(outputs)]
        return jnp.concatenate(parts, axis=-1)[..., None, :, None]

    return Likelihood("mixed", "columns", log_prob, mean)


def encode_table(columns: Sequence[Column], entries: Sequence[ArrayLike]) -> np.ndarray:
    """Encodes a table as "images", (rows, 1, width, 1) float32.

    Args:
        columns: What each column holds.
        entries: The entries of each column, (rows,).

    Raises:
        ValueError: Another number of columns, columns of different length, entries that are not
            finite or that the column cannot hold.
    """
    arrays = [np.asarray(x, np.float64) for x in entries]
    if len(arrays) != len(columns) or any(a.shape != (arrays[0].size,) for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ValueError(f"expected {len(columns)} columns (rows,) of one length, got {shapes}.")
    parts = []
    for position, (column, x) in enumerate(zip(columns, arrays, strict=True)):
        if not np.isfinite(x).all():
            raise ValueError(f"column {position} has entries that are not finite.")
        parts.append(column.encode(x))
    return np.concatenate(parts, axis=1).astype(np.float32)[:, None, :, None]


def _other(x: np.ndarray, valid) -> float:
    return x[~np.isin(x, valid)][0]
