"""What every image world shares: factors, the map from factors to an image, and what follows.

A data set here is a function from ground-truth factors to an image, with the grid that the factors
live on. That is all that sampling, indexing, interventions on a factor (``do_factor``) and
counterfactual pairs (``minimal_pairs``) need, so they are written once, for rendered and for stored
images alike. A row of factors holds integer levels, one per factor, in the order of
``data.factors``.
"""

import difflib
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.indices import check_index

_MAX_INDEX = 2**31 - 1


class Factor(NamedTuple):
    """One ground-truth factor of variation.

    Attributes:
        name: Such as "orientation".
        values: The physical value of each level.
        num_distinct: Number of levels that give different images. Level ``num_distinct + k``
            repeats the images of level k: 39 of the 40 orientations of dSprites are distinct.
        cyclic: Whether the last distinct level is a neighbour of the first.
    """

    name: str
    values: tuple[float, ...]
    num_distinct: int
    cyclic: bool

    @property
    def size(self) -> int:
        """Number of levels."""
        return len(self.values)


class Dataset(Protocol):
    """Images indexed by their ground-truth factors.

    Implementations are pytrees (arrays as leaves, the rest static), so a data set is an ordinary
    argument of a jitted function.
    """

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors, the slowest-changing first."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        ...

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image at integer levels (factor,): float32 (h, w, c) in [0, 1].

        Pure and for one example; ``images`` is the batched form. Levels outside the grid are not
        detected under ``jit``: see ``check_factors``.
        """
        ...


@runtime_checkable
class Drawn(Protocol):
    """What a ``Dataset`` adds when its rows are not drawn uniformly over the grid."""

    def draw(self, key: jax.Array, num: int) -> jax.Array:
        """Draws ``num`` rows of levels (num, factor) int32."""
        ...


@runtime_checkable
class Unpaired(Protocol):
    """What a ``Dataset`` adds when nobody can change one of its factors and no other."""

    @property
    def no_minimal_pairs(self) -> str:
        """Why not, and what there is instead, in a sentence."""
        ...


def factor_names(data: Dataset) -> tuple[str, ...]:
    """Returns the names of the factors, in order."""
    return tuple(factor.name for factor in data.factors)


def factor_sizes(data: Dataset) -> tuple[int, ...]:
    """Returns the number of levels of each factor, in order."""
    return tuple(factor.size for factor in data.factors)


def num_images(data: Dataset) -> int:
    """Returns the number of factor combinations."""
    total = 1
    for size in factor_sizes(data):
        total *= size
    return total


def factor_position(data: Dataset, name: str) -> int:
    """Returns where the factor called ``name`` stands in a row of factors.

    Raises:
        ValueError: No factor has that name; the message gives the nearest one.
    """
    names = factor_names(data)
    if name not in names:
        nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
        raise ValueError(f"no factor {name!r}: did you mean {nearest!r}? Factors: {names}.")
    return names.index(name)


def check_factors(data: Dataset, factors: jax.Array | np.ndarray) -> None:
    """Raises unless ``factors`` (..., factor) holds integer levels inside the grid.

    Values can only be checked while they are concrete: under ``jit`` and ``vmap`` shape and type
    are checked, and a level outside the grid passes.

    Raises:
        ValueError: Wrong length of the last axis, not integers, or a level outside its factor.
    """
    shape, dtype = jnp.shape(factors), jnp.result_type(factors)
    if not shape or shape[-1] != len(data.factors):
        names = ", ".join(factor_names(data))
        raise ValueError(
            f"expected a last axis of {len(data.factors)} ({names}), got shape {shape}."
        )
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"factors are integer levels, got {dtype}.")
    if isinstance(factors, jax.core.Tracer):
        return
    levels = np.asarray(factors).reshape(-1, shape[-1])
    for position, factor in enumerate(data.factors):
        column = levels[:, position]
        wrong = column[(column < 0) | (column >= factor.size)]
        if wrong.size:
            raise ValueError(
                f"factor {factor.name!r} has levels 0 to {factor.size - 1}, got {wrong[0]}."
            )


def _strides(data: Dataset) -> tuple[int, ...]:
    """Returns how far the image index moves for one level of each factor."""
    if num_images(data) > _MAX_INDEX:
        raise ValueError(f"{num_images(data)} images overflow a 32-bit index ({_MAX_INDEX}).")
    sizes = factor_sizes(data)
    return tuple(int(np.prod(sizes[position + 1 :])) for position in range(len(sizes)))


def index_of(data: Dataset, factors: jax.Array | np.ndarray) -> jax.Array:
    """Returns the row-major image index (the last factor fastest) of levels (..., factor).

    The index is int32. A grid too large for that is a ValueError, as are concrete levels off it.
    """
    check_factors(data, factors)
    strides = jnp.asarray(_strides(data), jnp.int32)
    return jnp.tensordot(jnp.asarray(factors, jnp.int32), strides, axes=1)


def factors_at(data: Dataset, index: int | jax.Array | np.ndarray) -> jax.Array:
    """Returns the levels (..., factor) at image index (...), the inverse of ``index_of``.

    Raises:
        ValueError: A concrete index outside the data set (under ``jit`` values cannot be checked).
    """
    strides, total = _strides(data), num_images(data)
    if not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ValueError(f"image indices are integers, got {jnp.result_type(index)}.")
    if not isinstance(index, jax.core.Tracer):
        concrete = np.asarray(index)
        wrong = concrete[(concrete < 0) | (concrete >= total)]
        if wrong.size:
            raise ValueError(f"image index {wrong.flat[0]} is outside 0 to {total - 1}.")
    index = jnp.asarray(index, jnp.int32)
    pairs = zip(strides, factor_sizes(data), strict=True)
    return jnp.stack([index // stride % size for stride, size in pairs], axis=-1)


def sample_factors(key: jax.Array, data: Dataset, num: int) -> jax.Array:
    """Draws ``num`` rows of levels (num, factor) int32, with replacement.

    Uniformly over the grid, unless the data set has its own distribution (``Drawn``).
    """
    if isinstance(data, Drawn):
        return data.draw(key, num)
    return uniform_factors(key, data, num)


def uniform_factors(key: jax.Array, data: Dataset, num: int) -> jax.Array:
    """Draws ``num`` rows of levels (num, factor) int32, uniformly over the grid."""
    sizes = jnp.asarray(factor_sizes(data), jnp.int32)
    shape = (num, len(data.factors))
    return jax.random.randint(key, shape, 0, jnp.broadcast_to(sizes[None, :], shape), jnp.int32)


def images(data: Dataset, factors: jax.Array | np.ndarray) -> jax.Array:
    """Returns the images (num, h, w, c) at levels (num, factor), which are checked."""
    check_factors(data, factors)
    return jax.vmap(data.image)(jnp.asarray(factors))


def sample_images(key: jax.Array, data: Dataset, num: int) -> jax.Array:
    """Draws ``num`` images (num, h, w, c) of rows as in ``sample_factors``."""
    return images(data, sample_factors(key, data, num))


def do_factor(
    factors: jax.Array | np.ndarray, position: int, level: int | jax.Array | np.ndarray
) -> jax.Array:
    """Sets the factor at ``position`` of levels (..., factor) to ``level`` (...), and nothing else.

    Where factors are independent causes this is do(factor = level). In a ``CausalWorld`` the
    effects of the factor stay as they are: ``CausalWorld.levels`` lets them follow.

    Raises:
        ValueError: A position that is no integer or out of range, or a level that is no integer.
    """
    rows = jnp.asarray(factors)
    if not rows.ndim:
        raise ValueError(f"expected factors of shape (..., factor), got {rows.shape}.")
    check_index("do_factor", "position", position, rows.shape[-1])
    if not jnp.issubdtype(jnp.result_type(level), jnp.integer):
        raise ValueError(f"levels are integers, got {jnp.result_type(level)}.")
    return rows.at[..., position].set(level)


def changeable_factor(data: Dataset, factor_name: str) -> tuple[int, int]:
    """Returns the position and the number of distinct levels of a factor that can be changed alone.

    Raises:
        ValueError: No such factor, one distinct level, or photographs, whose factors nobody can
            set.
    """
    if isinstance(data, Unpaired):
        raise ValueError(data.no_minimal_pairs)
    position = factor_position(data, factor_name)
    num_distinct = data.factors[position].num_distinct
    if num_distinct < 2:
        raise ValueError(f"factor {factor_name!r} has one distinct level: it cannot be changed.")
    return position, num_distinct


def minimal_levels(
    key: jax.Array, data: Dataset, factor_name: str, num: int
) -> tuple[jax.Array, jax.Array]:
    """Draws rows of levels and their counterparts, which differ in ``factor_name`` alone.

    The first is drawn as in ``sample_factors``, the second's level uniformly over the distinct
    levels other than the first's, so a pair is never two labels of one image (orientation 0 and
    2 pi). ``minimal_pairs`` gives their images.

    Returns:
        Levels before and after, (num, factor) int32 each.

    Raises:
        ValueError: As in ``changeable_factor``.
    """
    position, _ = changeable_factor(data, factor_name)
    source_key, step_key = jax.random.split(key)
    source = sample_factors(source_key, data, num)
    level = another_level(step_key, data, factor_name, source)
    return source, do_factor(source, position, level)


def another_level(key: jax.Array, data: Dataset, factor_name: str, rows: jax.Array) -> jax.Array:
    """Draws, for rows (num, factor), a distinct level of one factor other than the row's, (num,).

    Raises:
        ValueError: As in ``changeable_factor``.
    """
    position, num_distinct = changeable_factor(data, factor_name)
    step = jax.random.randint(key, (len(rows),), 1, num_distinct, jnp.int32)
    return (rows[:, position] + step) % num_distinct
