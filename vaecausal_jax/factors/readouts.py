"""Read-outs: differentiable estimates of ground-truth factors from an image, and their errors.

Effects on pixels do not say which factor moved. A read-out does: it writes an image as columns that
stand for factors, one column for an ordered factor, cosine and sine for a cyclic one, a score for
each class of a categorical one, and it says by how much each factor differs between two images.
``probes.train_probe`` learns one, ``factors.sprite_moments`` solves for one.

No read-out is perfect. ``readout_confusion`` measures on images of known factors how the read-out
of factor l moves when only factor k changes, and ``calibrate`` takes that out of measured effects.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data import Dataset, Factor, factor_names, factor_position, images
from vaecausal_jax.data.dataset import minimal_levels
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.inference import Estimate, bootstrap_ratio
from vaecausal_jax.interventions.sites import Outcome, Trace

CATEGORICAL = ("shape", "object_shape", "category", "instance", "label")
"""Factors whose levels have no order, where the caller does not say which."""

PHASE_SD = math.pi / math.sqrt(3.0)
"""Standard deviation of an angle uniform on the circle, in radians."""


class FactorCode(Protocol):
    """How one factor is written into columns of a read-out."""

    @property
    def name(self) -> str:
        """The factor."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...

    def encode(self, levels: Array) -> Array:
        """The true columns (width,) at integer levels (factors,) of all factors."""
        ...

    def link(self, raw: Array) -> Array:
        """A network's unbounded outputs (width,) as columns."""
        ...

    def loss(self, raw: Array, truth: Array) -> Array:
        """What a probe minimises: a network's outputs against true columns."""
        ...

    def value(self, columns: Array) -> Array:
        """The factor as one number, in standard deviations of the factor over its levels."""
        ...

    def change(self, before: Array, after: Array) -> Array:
        """By how much the factor differs, signed, in the same unit."""
        ...

    def agrees(self, columns: Array, truth: Array) -> Array:
        """Whether the nearest level is that of the true columns."""
        ...


@dataclasses.dataclass(frozen=True)
class Ordered:
    """A factor on a line: its standardised value."""

    name: str
    position: int
    values: tuple[float, ...]
    width: int = 1

    def encode(self, levels: Array) -> Array:
        """Standardised value at a row of levels."""
        return jnp.asarray(self.values)[levels[self.position]][None]

    def link(self, raw: Array) -> Array:
        """The output itself."""
        return raw

    def loss(self, raw: Array, truth: Array) -> Array:
        """Squared error."""
        return jnp.sum((raw - truth) ** 2)

    def value(self, columns: Array) -> Array:
        """The column."""
        return columns[0]

    def change(self, before: Array, after: Array) -> Array:
        """Difference of the columns."""
        return after[0] - before[0]

    def agrees(self, columns: Array, truth: Array) -> Array:
        """Whether the nearest level is the true one."""
        values = np.unique(self.values)
        edges = jnp.asarray((values[1:] + values[:-1]) / 2)
        return jnp.sum(columns[0] > edges) == jnp.sum(truth[0] > edges)


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """A factor on a circle: cosine and sine of its phase.

    The phase is the angle times the order of the image's symmetry, which may depend on another
    factor: a square turned by a quarter is the same image, and its phase the same.

    Attributes:
        name: The factor.
        position: Its place in a row of levels.
        num_distinct: Levels that go once around.
        orders: Order of the symmetry at each level of the factor at ``order_position``.
        order_position: The factor that decides, or None where one order holds for all images.
    """

    name: str
    position: int
    num_distinct: int
    orders: tuple[int, ...] = (1,)
    order_position: int | None = None
    width: int = 2

    def encode(self, levels: Array) -> Array:
        """Cosine and sine of the phase at a row of levels."""
        which = 0 if self.order_position is None else levels[self.order_position]
        # Reduced as integers: exact however often the phase goes around.
        step = (levels[self.position] * jnp.asarray(self.orders)[which]) % self.num_distinct
        phase = 2 * jnp.pi * step / self.num_distinct
        return jnp.stack([jnp.cos(phase), jnp.sin(phase)])

    def link(self, raw: Array) -> Array:
        """The outputs themselves; their length says how sure the probe is."""
        return raw

    def loss(self, raw: Array, truth: Array) -> Array:
        """Squared error."""
        return jnp.sum((raw - truth) ** 2)

    def value(self, columns: Array) -> Array:
        """The phase, from -pi to pi, over its standard deviation."""
        return safe_angle(columns[0], columns[1]) / PHASE_SD

    def change(self, before: Array, after: Array) -> Array:
        """The phase from before to after, the shorter way around."""
        cross = before[0] * after[1] - before[1] * after[0]
        return safe_angle(before @ after, cross) / PHASE_SD

    def agrees(self, columns: Array, truth: Array) -> Array:
        """Whether the phase is off by less than half a level."""
        return jnp.abs(self.change(columns, truth)) * PHASE_SD < jnp.pi / self.num_distinct


@dataclasses.dataclass(frozen=True)
class Categorical:
    """A factor without an order: the score of each class, which sum to 1.

    As one number it is the expected class; between classes that are not neighbours that number
    depends on how they are listed, as anything signed must.
    """

    name: str
    position: int
    width: int

    def encode(self, levels: Array) -> Array:
        """One at the class, zero elsewhere."""
        return jax.nn.one_hot(levels[self.position] % self.width, self.width)

    def link(self, raw: Array) -> Array:
        """Softmax."""
        return jax.nn.softmax(raw)

    def loss(self, raw: Array, truth: Array) -> Array:
        """Cross-entropy in nats."""
        return optax.losses.softmax_cross_entropy(raw, truth)

    def value(self, columns: Array) -> Array:
        """The expected class, standardised over equally frequent classes."""
        classes = np.arange(self.width)
        weights = (classes - classes.mean()) / max(classes.std(), 1e-30)
        return columns @ jnp.asarray(weights, columns.dtype)

    def change(self, before: Array, after: Array) -> Array:
        """Difference of the expected classes."""
        return self.value(after - before)

    def agrees(self, columns: Array, truth: Array) -> Array:
        """Whether the class of the highest score is the true one."""
        return jnp.argmax(columns) == jnp.argmax(truth)


@flax.struct.dataclass
class Readout:
    """A pure function from an image to columns that stand for factors; a pytree.

    Attributes:
        params: Arrays that the function needs.
        function: ``function(params, image) -> (columns,)``.
        codes: How each factor is written, in the order of their columns.
    """

    params: Any
    function: Callable[[Any, Array], Array] = flax.struct.field(pytree_node=False)
    codes: tuple[FactorCode, ...] = flax.struct.field(pytree_node=False)

    def __call__(self, image: Array) -> Array:
        """The columns (columns,) of one image (h, w, c)."""
        return self.function(self.params, image)

    @property
    def names(self) -> tuple[str, ...]:
        """Factors, in order."""
        return tuple(code.name for code in self.codes)

    @property
    def cyclic(self) -> tuple[bool, ...]:
        """Which of them lie on a circle."""
        return tuple(isinstance(code, Cyclic) for code in self.codes)

    def truth(self, levels: Array) -> Array:
        """What a perfect read-out gives at levels (factors,)."""
        return jnp.concatenate([code.encode(levels) for code in self.codes])

    def values(self, columns: Array) -> Array:
        """Each factor as one standardised number, (factors,)."""
        return jnp.stack([c.value(a) for c, a in zip(self.codes, self.split(columns), strict=True)])

    def change(self, before: Array, after: Array) -> Array:
        """By how much each factor differs between two read-outs: signed, in SD, (factors,)."""
        parts = zip(self.codes, self.split(before), self.split(after), strict=True)
        return jnp.stack([code.change(a, b) for code, a, b in parts])

    def agrees(self, columns: Array, truth: Array) -> Array:
        """For which factors both name the same level, (factors,) of booleans."""
        parts = zip(self.codes, self.split(columns), self.split(truth), strict=True)
        return jnp.stack([code.agrees(a, b) for code, a, b in parts])

    def outcome(self, to_image: Callable[[Array], Array]) -> Outcome:
        """The read-out of a forward's output: an outcome for sweeps, patches and mediation.

        Args:
            to_image: The decoder's outputs to an image, ``jax.nn.sigmoid`` for logits.
        """

        def read(trace: Trace) -> Array:
            return self(to_image(trace.outputs))

        return read

    def split(self, columns: Array) -> list[Array]:
        """The columns of each factor."""
        ends = np.cumsum([code.width for code in self.codes])
        if columns.shape != (ends[-1],):
            raise ValueError(
                f"columns have shape {columns.shape}, expected ({ends[-1]},) of one image; vmap "
                "over images."
            )
        return jnp.split(columns, ends[:-1])


def factor_codes(
    data: Dataset,
    *,
    categorical: Collection[str] | None = None,
    symmetries: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> tuple[FactorCode, ...]:
    """How the factors of a data set are written: cyclic as it says, categorical as told.

    Args:
        data: The data set.
        categorical: Names of the factors without an order; those in ``CATEGORICAL`` if None.
        symmetries: Cyclic factor to (another factor, order of the image's symmetry at each of its
            levels), e.g. ``{"orientation": ("shape", (4, 2, 1))}`` for square, ellipse and heart.

    Raises:
        ValueError: A name that is no factor, or orders that do not fit the factor's levels.
    """
    names = factor_names(data)
    symmetries = symmetries or {}
    for name in (*(categorical or ()), *symmetries):
        factor_position(data, name)
    chosen = CATEGORICAL if categorical is None else categorical
    codes = []
    for position, factor in enumerate(data.factors):
        if factor.name in symmetries:
            by, orders = symmetries[factor.name]
            where = factor_position(data, by)
            if not factor.cyclic or len(orders) != data.factors[where].size:
                raise ValueError(
                    f"symmetries of {factor.name!r} need a cyclic factor and one order for each of "
                    f"the {data.factors[where].size} levels of {by!r}, got {orders}."
                )
            codes.append(Cyclic(factor.name, position, factor.num_distinct, tuple(orders), where))
        elif factor.cyclic:
            codes.append(Cyclic(factor.name, position, factor.num_distinct))
        elif factor.name in chosen:
            codes.append(Categorical(factor.name, position, factor.num_distinct))
        else:
            codes.append(Ordered(factor.name, position, _standardised(factor)))
    assert len(codes) == len(names)
    return tuple(codes)


def factor_pairs(
    key: Array, data: Dataset, codes: tuple[FactorCode, ...], num: int, noise_shape: tuple[int, ...]
) -> Pairs:
    """Minimal pairs of every factor, each turned so that its factor grows.

    Signed effects can then be averaged over pairs. A cyclic factor grows the shorter way around, a
    categorical one towards classes listed later.

    Args:
        key: Typed PRNG key.
        data: The data set.
        codes: As from ``factor_codes``, or ``Readout.codes``.
        num: Pairs per factor.
        noise_shape: Of one run's ``eps``, ``model.noise_shape``.

    Returns:
        Pairs with a leading axis of factors, (factors, pairs, ...); ``change`` is in SD and
        positive.

    Raises:
        ValueError: Codes of other factors, or a factor that cannot be changed alone.
    """
    if tuple(code.name for code in codes) != factor_names(data):
        raise ValueError(
            f"codes of {tuple(code.name for code in codes)} do not fit the factors "
            f"{factor_names(data)}."
        )
    noise_key, *keys = jax.random.split(key, len(codes) + 1)
    low, high, change = [], [], []
    for pair_key, code in zip(keys, codes, strict=True):
        source, target = minimal_levels(pair_key, data, code.name, num)
        before, after = (jax.vmap(code.encode)(levels) for levels in (source, target))
        moved = jax.vmap(code.change)(before, after)
        down = (moved < 0)[:, None]
        low.append(jnp.where(down, target, source))
        high.append(jnp.where(down, source, target))
        change.append(jnp.abs(moved))
    # One call draws all images: it is compiled once, however many factors there are.
    x = images(data, jnp.concatenate([*low, *high]))
    x0, x1 = x.reshape(2, len(codes), num, *x.shape[1:])
    eps = jax.random.normal(noise_key, (len(codes), num, *noise_shape), x.dtype)
    return Pairs(x0, x1, eps, jnp.stack(low), jnp.stack(high), jnp.stack(change))


def readout_changes(readout: Readout, pairs: Pairs) -> Array:
    """Changes that the read-out sees between the images of each pair: (factors, pairs, factors)."""
    return _changes(readout, pairs.x0, pairs.x1)


def readout_confusion(key: Array, changes: ArrayLike, true_change: ArrayLike) -> Estimate:
    """C[k, l]: how far the read-out of factor l moves when factor k moves by one SD and no other.

    sum_i dr_l dg_k / sum_i dg_k^2 over minimal pairs, the slope through the origin: the identity
    for a perfect read-out; exact in few pairs where the read-out is linear.

    Args:
        key: Typed PRNG key, of the intervals' bootstrap over pairs.
        changes: (changed factors, pairs, factors), as from ``readout_changes``.
        true_change: (changed factors, pairs), ``Pairs.change``.

    Returns:
        Estimate with arrays (changed factor, factor read).
    """
    changes, true_change = jnp.asarray(changes, float), jnp.asarray(true_change, float)
    if changes.ndim != 3 or changes.shape[:2] != true_change.shape:
        raise ValueError(
            f"changes {changes.shape} and true_change {true_change.shape} do not fit: expected "
            "(factors, pairs, factors) and (factors, pairs)."
        )
    product = jnp.moveaxis(changes * true_change[..., None], 1, 2)
    return bootstrap_ratio(
        key,
        product,
        true_change[:, None] ** 2,
        intervention="one factor of a rendered image changed",
    )


def calibrate(effects: ArrayLike, confusion: ArrayLike, *, limit: float = 100.0) -> np.ndarray:
    """E_true = E_measured C^-1: what a read-out without confusion would have measured.

    Exact where the read-out is linear in the factors. Report both: the inverse amplifies noise by
    up to the condition number of C, and a read-out that cannot tell two factors apart is refused.

    Args:
        effects: (..., factors), signed effects on read-outs; NaN rows stay NaN.
        confusion: C, (factors, factors): changed factor by read-out.
        limit: Largest condition number accepted.

    Raises:
        ValueError: C not square, not finite or ill-conditioned, or effects on other factors.
    """
    effects, matrix = np.asarray(effects, float), np.asarray(confusion, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"confusion has shape {matrix.shape}, expected (factors, factors).")
    if effects.ndim < 1 or effects.shape[-1] != len(matrix):
        raise ValueError(
            f"effects have shape {effects.shape}, expected (..., {len(matrix)}), one per factor."
        )
    if not np.isfinite(matrix).all():
        raise ValueError("confusion is not finite: some factor was never changed.")
    condition = np.linalg.cond(matrix)
    if not condition <= limit:
        raise ValueError(
            f"the confusion matrix has condition number {condition:.3g}, above the limit "
            f"{limit:g}: this read-out cannot tell its factors apart. Train a better probe, leave "
            "out a factor, or report uncalibrated effects."
        )
    rows = effects.reshape(-1, len(matrix))
    return np.linalg.solve(matrix.T, rows.T).T.reshape(effects.shape)


def readout_scores(readout: Readout, x: Array, levels: Array) -> dict[str, float]:
    """How well each factor is read: R^2, or the accuracy of a categorical factor.

    Args:
        readout: The read-out.
        x: Images that it was not fitted to, (images, h, w, c).
        levels: Their true levels, (images, factors).

    Raises:
        ValueError: A factor that has one level in these images, so that there is nothing to read.
    """
    columns, truth, agree = _read(readout, x, jnp.asarray(levels))
    agree, scores, start = np.asarray(agree), {}, 0
    for i, code in enumerate(readout.codes):
        read, true = (np.asarray(a)[:, start : start + code.width] for a in (columns, truth))
        start += code.width
        spread = np.sum((true - true.mean(0)) ** 2)
        if spread == 0:
            raise ValueError(
                f"factor {code.name!r} has one level in the {len(x)} images given: give images in "
                "which it varies."
            )
        scores[code.name] = (
            float(agree[:, i].mean())
            if isinstance(code, Categorical)
            else float(1 - np.sum((read - true) ** 2) / spread)
        )
    return scores


@jax.jit
def _changes(readout: Readout, x0: Array, x1: Array) -> Array:
    one = jax.vmap(lambda a, b: readout.change(readout(a), readout(b)))
    return jax.lax.map(lambda pair: one(*pair), (x0, x1))


@jax.jit
def _read(readout: Readout, x: Array, levels: Array) -> tuple[Array, Array, Array]:
    columns = jax.lax.map(readout, x, batch_size=64)
    truth = jax.vmap(readout.truth)(levels)
    return columns, truth, jax.vmap(readout.agrees)(columns, truth)


def check_factor(readout: Readout, name: str) -> int:
    """Position of a factor among those read, or ValueError with the nearest name."""
    if name not in readout.names:
        raise ValueError(unknown_choice("factor", name, readout.names))
    return readout.names.index(name)


def _standardised(factor: Factor) -> tuple[float, ...]:
    values = np.asarray(factor.values)
    distinct = values[: factor.num_distinct]
    sd = distinct.std()
    return tuple(((values - distinct.mean()) / (sd if sd > 0 else 1.0)).tolist())


def safe_angle(cosine: Array, sine: Array) -> Array:
    """Angle from cosine and sine, with gradient zero instead of NaN where both are zero."""
    nowhere = (cosine == 0) & (sine == 0)
    return jnp.arctan2(sine, jnp.where(nowhere, 1.0, cosine))
