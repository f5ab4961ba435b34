"""Image worlds whose factors cause one another: a data set with a structural causal model over it.

A ``CausalWorld`` is an ordinary ``Dataset`` (levels, minimal pairs, donors, scores, read-outs), but
its rows are drawn from a causal model over the levels instead of uniformly. What is true of the
model travels with it, exactly: the graph (``true_graph``), what setting a factor does to every
other (``interventional_means``, ``effect_shares``) and each row's counterfactual
(``causal_pairs``).

A minimal pair and a causal pair differ: ``minimal_pairs`` changes one factor and holds all others,
as a hand would that repaints one thing; ``causal_pairs`` changes it and lets its effects follow.

Mechanisms are tables. A factor's level given its causes' levels has a conditional distribution, of
which it is the quantile at its noise, uniform on [0, 1). The counterfactual is thereby the
comonotone one: who stood high among their peers stands as high among the new ones.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data import causal
from vaecausal_jax.data.dataset import (
    Dataset,
    Factor,
    another_level,
    factor_names,
    factor_sizes,
    num_images,
)
from vaecausal_jax.data.pairs import Pairs, level_pairs
from vaecausal_jax.errors import unknown_choice

_MOST_ROWS = 2_000_000
"""Worlds up to this many rows are counted row by row."""


@dataclasses.dataclass(frozen=True)
class LevelTable:
    """The mechanism of a factor: its level is a quantile of a conditional table.

    Attributes:
        parents: The causes, one axis of the table each.
        sizes: Their numbers of levels.
        edges: Cumulative probabilities of the levels, one row per combination of the causes'
            levels (the last cause fastest), each ending in 1.
    """

    parents: tuple[str, ...]
    sizes: tuple[int, ...]
    edges: tuple[tuple[float, ...], ...]

    def __call__(self, parents: dict[str, jax.Array], noise: jax.Array) -> jax.Array:
        """The level, as a float: a causal model's variables are."""
        row = jnp.zeros((), jnp.int32)
        for name, size in zip(self.parents, self.sizes, strict=True):
            row = row * size + parents[name].astype(jnp.int32)
        edges = jnp.asarray(self.edges, jnp.float32)[row]
        return jnp.sum(noise >= edges[:-1]).astype(jnp.result_type(float))

    @property
    def probabilities(self) -> np.ndarray:
        """Of each level given the causes: (*sizes, levels), float64."""
        steps = np.diff(np.array(self.edges), axis=1, prepend=0.0)
        return steps.reshape(*self.sizes, -1)


@flax.struct.dataclass
class CausalWorld:
    """Images by their levels, with a causal model of the levels. Build it with ``causal_world``.

    A pytree with the leaves of ``data``.

    Attributes:
        data: The images.
        model: The structural causal model over the factors' levels; its variables are the factors.
    """

    data: Dataset
    model: causal.SCM = flax.struct.field(pytree_node=False)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the images."""
        return self.data.factors

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.data.image_shape

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at integer levels (factor,), likely or not."""
        return self.data.image(factors)

    def draw(self, key: jax.Array, num: int) -> jax.Array:
        """Draws ``num`` rows of levels (num, factor) int32 from the causal model."""
        return self.levels(causal.sample_noise(key, self.model, num))

    def levels(
        self, noise: Mapping[str, jax.Array], do: Mapping[str, jax.Array | int] | None = None
    ) -> jax.Array:
        """Rows of levels (num, factor) int32 under do(factor = level, ...) and the given noise.

        Args:
            noise: Factor to noise (num,), as from ``data.causal.sample_noise(key, world.model,
                num)``. Runs that share it are one another's counterfactuals.
            do: Factor to the level it is set to, a scalar or (num,).

        Raises:
            ValueError: A name that is no factor, a factor without noise, or a level that is no
                integer or, where values are concrete, outside its factor.
        """
        do = dict(do or {})
        causal.check_known("factor to set", do, factor_names(self))
        for factor in self.factors:
            if factor.name in do:
                _check_level(factor, do[factor.name])
        num = jnp.shape(next(iter(noise.values())))[:1]
        do = {name: jnp.broadcast_to(level, num) for name, level in do.items()}
        values = jax.vmap(lambda n, d: causal.intervene(self.model, n, d))(dict(noise), do)
        columns = [values[name] for name in factor_names(self)]
        return jnp.stack(columns, axis=-1).astype(jnp.int32)


def _check_level(factor: Factor, level: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(level), jnp.integer):
        raise ValueError(f"levels are integers, got {jnp.result_type(level)} for {factor.name!r}.")
    if isinstance(level, jax.core.Tracer):
        return
    levels = np.asarray(level).reshape(-1)
    wrong = levels[(levels < 0) | (levels >= factor.size)]
    if wrong.size:
        raise ValueError(f"{factor.name!r} has levels 0 to {factor.size - 1}, got {wrong[0]}.")


def causal_world(
    data: Dataset, causes: Mapping[str, Sequence[str]], tables: Mapping[str, np.ndarray]
) -> CausalWorld:
    """Lets the factors of a data set cause one another.

    Args:
        data: The images.
        causes: The direct causes of the factors that have any, in the order of their table's axes.
            All others are independent roots.
        tables: Of a factor, the probabilities of its levels given its causes' levels: one axis per
            cause, in order, then one of the factor's own. Rows need not sum to 1; a root without a
            table is uniform. Causes need not be ordered, effects should be (see the module).

    Raises:
        ValueError: A name that is no factor, a cause twice, a cycle, a factor with causes and
            without table; a table of another shape, with negative values, or with a row of zeros.
    """
    names, sizes = (
        factor_names(data),
        dict(zip(factor_names(data), factor_sizes(data), strict=True)),
    )
    causal.check_known("factor", causes, names)
    causal.check_known("factor in tables", tables, names)
    for name, given in causes.items():
        if isinstance(given, str) or len(set(given)) < len(given):
            raise ValueError(
                f"the causes of {name!r} must be a tuple of different names, got {given!r}."
            )
    parents = {name: tuple(causes.get(name, ())) for name in names}
    mechanisms = {}
    for name in names:
        causal.check_known(f"cause of {name!r}", parents[name], names)
        shape = (*(sizes[cause] for cause in parents[name]), sizes[name])
        if name not in tables and parents[name]:
            raise ValueError(f"{name!r} has causes {parents[name]} and no table of shape {shape}.")
        table = np.asarray(tables.get(name, np.ones(shape)), np.float64)
        if table.shape != shape:
            raise ValueError(
                f"the table of {name!r} has shape {table.shape}, expected {shape}: an axis for "
                f"each of {(*parents[name], name)}."
            )
        rows = table.reshape(-1, shape[-1])
        if not np.isfinite(rows).all() or rows.min() < 0.0 or rows.sum(axis=1).min() <= 0.0:
            raise ValueError(
                f"the table of {name!r} must be finite and not negative, with no row of zeros."
            )
        edges = np.cumsum(rows / rows.sum(axis=1, keepdims=True), axis=1)
        edges = np.minimum(edges, 1.0)
        edges[:, -1] = 1.0
        mechanisms[name] = LevelTable(parents[name], shape[:-1], tuple(map(tuple, edges.tolist())))
    return CausalWorld(data, causal.scm(parents, mechanisms, causal.Uniform(0.0, 1.0)))


def smooth_table(sizes: Sequence[int], weights: Sequence[float], *, width: float) -> np.ndarray:
    """A table by which uniform, independent causes push an effect along that stays uniform.

    Levels are placed on [0, 1]. The effect's place scatters about the weighted mean of its causes'
    places, p proportional to exp(-distance^2 / (2 width^2)), and the table is then balanced until
    uniform and independent causes give a uniform effect (Sinkhorn and Knopp 1967): the world
    without its edges has the same marginals. Causes that depend on one another do not.

    Args:
        sizes: Levels of each cause, then of the effect.
        weights: One per cause; a negative one pushes down.
        width: Of the scatter, as a fraction of the range: 0.2 is strong, 1 weak.

    Returns:
        Probabilities (*causes, effect), each row summing to 1.

    Raises:
        ValueError: Lengths that do not match, no weight, a width that is not positive, or one so
            small that no such table is found.
    """
    *causes, levels = sizes
    if len(causes) != len(weights) or not causes or not any(weights):
        raise ValueError(f"expected one weight per cause, not all 0; got {weights} for {sizes}.")
    if not width > 0.0:
        raise ValueError(f"width must be positive, got {width}.")
    places = [np.linspace(0.0, 1.0, size) for size in causes]
    target = np.zeros(causes)
    for axis, (place, weight) in enumerate(zip(places, weights, strict=True)):
        place = place if weight >= 0 else 1.0 - place
        shape = [-1 if other == axis else 1 for other in range(len(causes))]
        target = target + abs(weight) * place.reshape(shape)
    target = target.reshape(-1, 1) / np.sum(np.abs(weights))
    rows = np.exp(-0.5 * ((target - np.linspace(0.0, 1.0, levels)) / width) ** 2)
    for _ in range(10_000):
        rows /= rows.sum(axis=1, keepdims=True)
        marginal = rows.mean(axis=0) * levels
        if np.abs(marginal - 1.0).max() < 1e-12:
            return rows.reshape(*sizes)
        if not (marginal > 0.0).all():
            break
        rows /= marginal[None]
    raise ValueError(
        f"no table of width {width} over {tuple(sizes)} gives a uniform effect: give a larger one."
    )


def without_causes(world: CausalWorld) -> CausalWorld:
    """The twin: the same images and the same marginals, and no factor that causes another."""
    marginals = interventional_table(world, {})
    tables = {}
    for axis, name in enumerate(factor_names(world)):
        others = tuple(a for a in range(len(world.factors)) if a != axis)
        tables[name] = marginals.sum(axis=others)
    return causal_world(world.data, {}, tables)


def true_graph(world: CausalWorld) -> np.ndarray:
    """The graph over the factors in the data set's order, bool (cause, effect)."""
    order = [world.model.observed.index(name) for name in factor_names(world)]
    return causal.adjacency(world.model)[np.ix_(order, order)]


def descendants(world: CausalWorld) -> np.ndarray:
    """Which factor acts on which, directly or through others, bool (cause, effect)."""
    graph = true_graph(world)
    reached = graph.copy()
    for _ in range(len(graph)):
        reached |= reached @ graph
    return reached


def interventional_table(world: CausalWorld, do: Mapping[str, int]) -> np.ndarray:
    """The exact joint distribution of all factors under do(factor = level, ...), float64.

    Returns:
        Probabilities with one axis per factor, in the data set's order.

    Raises:
        ValueError: A name that is no factor, a level outside it, or a world too large to count.
    """
    names, sizes = factor_names(world), factor_sizes(world)
    causal.check_known("factor", do, names)
    if num_images(world) > _MOST_ROWS:
        raise ValueError(
            f"the world has {num_images(world)} rows; up to {_MOST_ROWS} are counted one by one."
        )
    joint = np.ones(sizes)
    model = world.model
    for name, parents, mechanism in zip(model.names, model.parents, model.mechanisms, strict=True):
        axis = names.index(name)
        if name in do:
            if not 0 <= do[name] < sizes[axis]:
                raise ValueError(f"{name!r} has levels 0 to {sizes[axis] - 1}, got {do[name]}.")
            table, axes = np.eye(sizes[axis])[do[name]], (axis,)
        else:
            table, axes = _table(name, mechanism), (*map(names.index, parents), axis)
        table = table.transpose(np.argsort(axes))
        joint = joint * table.reshape([n if a in axes else 1 for a, n in enumerate(sizes)])
    return joint


def _table(name: str, mechanism: causal.Mechanism) -> np.ndarray:
    if not isinstance(mechanism, LevelTable):
        raise ValueError(
            f"the mechanism of {name!r} is {type(mechanism).__name__}: only tables can be counted; "
            "build the world with causal_world."
        )
    return mechanism.probabilities


def interventional_means(world: CausalWorld, cause: str) -> np.ndarray:
    """The exact mean of every factor under do(cause = level), (level, factor), float64.

    In standard deviations of each factor over its levels, from its mean: E[b | do(a = l)]. A factor
    that is named, not measured (shape), counts its levels.
    """
    names = factor_names(world)
    if cause not in names:
        raise ValueError(unknown_choice("factor", cause, names))
    size = factor_sizes(world)[names.index(cause)]
    places = [_standardised(factor) for factor in world.factors]
    means = np.empty((size, len(names)))
    for level in range(size):
        joint = interventional_table(world, {cause: level})
        for axis, place in enumerate(places):
            others = tuple(a for a in range(len(names)) if a != axis)
            means[level, axis] = joint.sum(axis=others) @ place
    return means


def effect_shares(world: CausalWorld) -> np.ndarray:
    """How much of each factor's variance another one, set at random, moves: (cause, effect).

    Var_l E[b | do(a = l)] / Var(b) with l drawn from the marginal of a, exact; total effects, so a
    cause of a cause counts. The diagonal is 1. It can exceed 1 where a cause of a acts against it,
    so that b varies less when nothing is set. NaN for a factor that does not vary.
    """
    joint = interventional_table(world, {})
    names = factor_names(world)
    shares = np.empty((len(names), len(names)))
    variances = np.empty(len(names))
    marginals = []
    for axis, factor in enumerate(world.factors):
        marginal = joint.sum(axis=tuple(a for a in range(len(names)) if a != axis))
        place = _standardised(factor)
        variances[axis] = marginal @ (place - marginal @ place) ** 2
        marginals.append(marginal)
    for row, (name, marginal) in enumerate(zip(names, marginals, strict=True)):
        means = interventional_means(world, name)
        moved = marginal @ (means - marginal @ means) ** 2
        shares[row] = moved / np.where(variances > 0.0, variances, np.nan)
    return shares


def _standardised(factor: Factor) -> np.ndarray:
    values = np.asarray(factor.values)
    return (values - values.mean()) / (values.std() or 1.0)


def causal_levels(
    key: jax.Array, world: CausalWorld, factor_name: str, num: int
) -> tuple[jax.Array, jax.Array]:
    """Draws rows and their counterfactuals under do(factor = another level).

    The level is drawn as ``minimal_levels`` draws it; the effects of the factor follow, with the
    noise of the row.

    Returns:
        Levels before and after, (num, factor) int32 each.

    Raises:
        ValueError: As in ``changeable_factor``.
    """
    noise_key, step_key = jax.random.split(key)
    noise = causal.sample_noise(noise_key, world.model, num)
    before = world.levels(noise)
    level = another_level(step_key, world, factor_name, before)
    return before, world.levels(noise, {factor_name: level})


def causal_pairs(
    key: jax.Array, world: CausalWorld, factor_name: str, num: int, noise_shape: Sequence[int]
) -> Pairs:
    """Draws pairs of an image and its exact counterfactual under do(factor = another level).

    Args:
        key: Typed PRNG key.
        world: The world.
        factor_name: The factor that is set; its effects follow.
        num: How many pairs.
        noise_shape: Shape of one run's ``eps``: ``model.noise_shape``.

    Raises:
        ValueError: As in ``changeable_factor``.
    """
    levels_key, noise_key = jax.random.split(key)
    before, after = causal_levels(levels_key, world, factor_name, num)
    return level_pairs(noise_key, world, before, after, noise_shape)


def all_rows(data: Dataset) -> np.ndarray:
    """Every row of levels (rows, factor) int32 of a small world, the last factor fastest."""
    if num_images(data) > _MOST_ROWS:
        raise ValueError(f"the world has {num_images(data)} rows, more than {_MOST_ROWS}.")
    return np.array(list(itertools.product(*map(range, factor_sizes(data)))), np.int32)
