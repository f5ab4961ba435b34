"""Which rows of factors to look at: donors, sweeps and correlated factors.

All of it is generic over ``Dataset`` and speaks of distinct levels only: two labels of one image
(orientations 0 and 39 of dSprites) are never a donor and its receiver, or two steps of one sweep. A
``Weighted`` set is the same set of images with another distribution over some of its factors; it is
a ``Dataset``, so training, sampling and ``minimal_pairs`` take it as it is. Intervening on a factor
still sets it whatever the others are: that is what tells an intervention from conditioning where
factors are correlated, and its images may leave a training split.
"""

from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data.dataset import (
    Dataset,
    Factor,
    changeable_factor,
    check_factors,
    do_factor,
    factor_position,
    uniform_factors,
)


def conditional_donors(
    key: jax.Array, data: Dataset, factors: jax.Array | np.ndarray, factor_name: str, num: int = 1
) -> jax.Array:
    """Draws donors that share all factors of a row but the one named, in which they all differ.

    The donors' levels are a uniform draw without replacement from the distinct levels other than
    the row's own, so a donor never shows the receiver's image, nor two of a row's donors the same.

    Args:
        key: PRNG key.
        data: The world.
        factors: Levels (row, factor) of the receivers.
        factor_name: The tested factor.
        num: Donors per row.

    Returns:
        Levels (row, num, factor) int32.

    Raises:
        ValueError: No such factor, a factor that cannot be changed, or more donors than levels.
    """
    position, num_distinct = changeable_factor(data, factor_name)
    check_factors(data, factors)
    rows = jnp.asarray(factors, jnp.int32)
    if rows.ndim != 2:
        raise ValueError(f"expected factors of shape (row, factor), got {rows.shape}.")
    if not 1 <= num < num_distinct:
        raise ValueError(
            f"num must be from 1 to {num_distinct - 1}, the other distinct levels of "
            f"{factor_name!r}, got {num}."
        )

    def steps(row_key: jax.Array) -> jax.Array:
        return 1 + jax.random.permutation(row_key, num_distinct - 1)[:num]

    step = jax.vmap(steps)(jax.random.split(key, rows.shape[0])).astype(jnp.int32)
    level = (rows[:, position, None] + step) % num_distinct
    return do_factor(jnp.repeat(rows[:, None, :], num, axis=1), position, level)


def do_sweep(data: Dataset, factors: jax.Array | np.ndarray, factor_name: str) -> jax.Array:
    """Sets one factor of every row to each of its distinct levels in turn, the others as they are.

    Returns:
        Levels (level, ..., factor) int32 for ``factors`` (..., factor).

    Raises:
        ValueError: No such factor, or one that cannot be changed.
    """
    position, num_distinct = changeable_factor(data, factor_name)
    check_factors(data, factors)
    rows = jnp.asarray(factors, jnp.int32)
    return jax.vmap(lambda level: do_factor(rows, position, level))(
        jnp.arange(num_distinct, dtype=jnp.int32)
    )


@flax.struct.dataclass
class Weighted:
    """A set of images with its own distribution over some factors, the others uniform.

    Attributes:
        data: The images.
        cumulative: (cell,) cumulative probabilities of the combinations of the weighted factors, in
            row-major order of ``positions``.
        positions: Where the weighted factors stand in a row.
    """

    data: Dataset
    cumulative: jax.Array
    positions: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the images."""
        return self.data.factors

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.data.image_shape

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at integer levels (factor,), drawn or not."""
        return self.data.image(factors)

    def draw(self, key: jax.Array, num: int) -> jax.Array:
        """Draws ``num`` rows of levels (num, factor) int32, with replacement."""
        others_key, cell_key = jax.random.split(key)
        rows = uniform_factors(others_key, self.data, num)
        # In (0, 1], so that a cell without weight is never the first to reach it.
        quantile = 1.0 - jax.random.uniform(cell_key, (num,))
        cell = jnp.searchsorted(self.cumulative, quantile, side="left")
        sizes = tuple(self.factors[position].size for position in self.positions)
        for position, level in zip(self.positions, jnp.unravel_index(cell, sizes), strict=True):
            rows = do_factor(rows, position, level.astype(jnp.int32))
        return rows

    def contains(self, factors: jax.Array | np.ndarray) -> jax.Array:
        """Returns whether rows (..., factor) have positive probability, bool (...)."""
        check_factors(self, factors)
        rows = jnp.asarray(factors)
        sizes = tuple(self.factors[position].size for position in self.positions)
        cell = jnp.zeros(rows.shape[:-1], jnp.int32)
        for position, size in zip(self.positions, sizes, strict=True):
            cell = cell * size + rows[..., position].astype(jnp.int32)
        weights = jnp.diff(self.cumulative, prepend=jnp.zeros(1, self.cumulative.dtype))
        return weights[cell] > 0.0


def weighted(
    data: Dataset, factor_names: Iterable[str], weights: jax.Array | np.ndarray
) -> Weighted:
    """Gives some factors a joint distribution.

    Args:
        data: The images.
        factor_names: The factors, one name per axis of ``weights``.
        weights: Their joint weights, concrete and not negative, of any positive sum.

    Raises:
        ValueError: An unknown or repeated factor, weights of another shape, negative, not finite or
            all zero.
    """
    names = tuple(factor_names)
    positions = tuple(factor_position(data, name) for name in names)
    if not names or len(set(positions)) < len(positions):
        raise ValueError(f"expected one or more different factors, got {names}.")
    table = np.asarray(weights, np.float64)
    sizes = tuple(data.factors[position].size for position in positions)
    if table.shape != sizes:
        raise ValueError(f"expected weights of shape {sizes} for {names}, got {table.shape}.")
    if not np.isfinite(table).all() or table.min() < 0.0 or table.sum() <= 0.0:
        raise ValueError("weights must be finite, not negative and not all zero.")
    probabilities = table.reshape(-1) / table.sum()
    cumulative = np.cumsum(probabilities)
    cumulative = (cumulative / cumulative[-1]).astype(np.float32)
    # Combinations too rare for float32 are never drawn; together they may not matter.
    lost = probabilities[np.diff(cumulative, prepend=np.float32(0)) <= 0.0].sum()
    if lost > 1e-4:
        raise ValueError(
            f"of the {table.size} combinations of {names}, those too rare to be drawn in float32 "
            f"sum to {lost:.2g}: weight fewer factors."
        )
    return Weighted(data, jnp.asarray(cumulative), positions)


def correlated(data: Dataset, first: str, second: str, *, width: float, sign: int = 1) -> Weighted:
    """Makes two factors dependent: their levels scatter about the diagonal of their grid.

    p(a, b) is proportional to exp(-(a / (A - 1) - b / (B - 1))^2 / (2 width^2)) for levels a < A
    and b < B, with b counted from its end where ``sign`` is -1; all other factors stay uniform and
    independent. This is the shape of Traeuble et al. 2021, "On Disentangled Representations Learned
    from Correlated Data" (arXiv:2006.07886), with the width as a fraction of the range: 0.1 is
    strong, 1 weak, infinity uniform. Repeated levels (orientation 39) take the place of the level
    that they repeat. ``mutual_information`` says how strong a table is.

    Raises:
        ValueError: Unknown factors, one factor twice, a single level, a width that is not positive,
            or a sign other than 1 and -1.
    """
    return weighted(data, (first, second), dependence(data, first, second, width=width, sign=sign))


def dependence(
    data: Dataset, first: str, second: str, *, width: float, sign: int = 1
) -> np.ndarray:
    """Returns the joint probabilities (levels of first, levels of second) of ``correlated``."""
    if not width > 0.0:
        raise ValueError(f"width must be positive, got {width}.")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign}.")
    places = []
    for name in (first, second):
        _, num_distinct = changeable_factor(data, name)
        levels = distinct_levels(data.factors[factor_position(data, name)])
        places.append(levels / (num_distinct - 1))
    other = places[1] if sign == 1 else 1.0 - places[1]
    offsets = places[0][:, None] - other[None, :]
    table = np.exp(-0.5 * (offsets / width) ** 2)
    return table / table.sum()


def mutual_information(weights: jax.Array | np.ndarray) -> float:
    """Returns the mutual information, in nats, of the two factors of a joint table of weights."""
    table = np.asarray(weights, np.float64)
    if table.ndim != 2:
        raise ValueError(f"expected a table of two factors, got shape {table.shape}.")
    joint = table / table.sum()
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    positive = joint > 0.0
    return float(np.sum(joint[positive] * np.log(joint[positive] / product[positive])))


def distinct_levels(factor: Factor) -> np.ndarray:
    """Returns the distinct level that each level of a factor shows, (levels,)."""
    return np.arange(factor.size) % factor.num_distinct
