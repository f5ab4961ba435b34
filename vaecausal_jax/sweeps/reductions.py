"""What a sweep keeps over its contexts, taken in block by block so that memory does not grow.

A ``Reduction`` is four functions of one point's state; ``sweep`` maps them over points. States of
two disjoint sets of contexts merge, so that devices can each take a part.

Values may be booleans, integers or floating; sums are taken in float32, or in the value's own type
where that is wider.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaecausal_jax.interventions.sites import summed_in

Array = jax.Array


class Reduction(NamedTuple):
    """How the values of one point over all contexts become one result.

    Attributes:
        init: Structure of one value (``jax.ShapeDtypeStruct`` leaves) to the empty state.
        update: (state, values (contexts, ...), index (contexts,), valid (contexts,)) to the state
            with these contexts taken in; values that are not valid are padding.
        merge: Two states of disjoint contexts to one.
        finish: State to the result.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Array, Array], Any]
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]


class Moments(NamedTuple):
    """Count, mean and unbiased variance over contexts, of each entry of the value."""

    count: Array
    mean: Any
    variance: Any


class Covariance(NamedTuple):
    """Count, mean (entries,) and unbiased covariance (entries, entries) of a vector value."""

    count: Array
    mean: Array
    covariance: Array


class TopK(NamedTuple):
    """The largest values, from the largest down, and the contexts they belong to."""

    values: Array
    contexts: Array


class _Sum(NamedTuple):
    """A running sum and what rounding has kept out of it (Neumaier 1974)."""

    high: Array
    low: Array


class _State(NamedTuple):
    count: Array
    mean: _Sum
    square: _Sum


def moments() -> Reduction:
    """Mean and variance of every entry of the value, in one pass.

    Blocks are centred on their own mean and joined by the formula of Chan, Golub and LeVeque
    (1979), with compensated additions, so that a million contexts lose no more than a few.

    Returns:
        A reduction whose result is ``Moments``, with the value's structure.

    Raises:
        ValueError: At trace time, complex values.
    """
    return Reduction(
        init=lambda value: jax.tree.map(
            lambda leaf: _empty(leaf.shape, _summed_in("moments", leaf.dtype), 1), value
        ),
        update=lambda state, values, index, valid: _per_leaf(
            lambda s, v: _join(s, _block(v, valid, _squares)), state, values
        ),
        merge=lambda a, b: jax.tree.map(_join, a, b, is_leaf=_is_state),
        finish=_finish_moments,
    )


def covariance() -> Reduction:
    """Mean and covariance of a vector value (entries,), in one pass, as ``moments``.

    Returns:
        A reduction whose result is ``Covariance``.

    Raises:
        ValueError: At trace time, a value that is not one vector, or complex.
    """

    def init(value):
        if len(getattr(value, "shape", ())) != 1:
            raise ValueError(f"covariance needs one vector as value, got {value}.")
        return _empty(value.shape, _summed_in("covariance", value.dtype), 2)

    def finish(state):
        square = state.square.high + state.square.low
        return Covariance(state.count, _total(state.mean), square / (state.count - 1.0))

    return Reduction(
        init,
        lambda state, values, index, valid: _join(state, _block(values, valid, _products)),
        _join,
        finish,
    )


def top_k(k: int) -> Reduction:
    """The ``k`` contexts with the largest scalar value.

    Returns:
        A reduction whose result is ``TopK``, of float32 or wider; -1 marks places that no context
        fills. Integers beyond 2^24 are compared as rounded to float32.

    Raises:
        ValueError: At trace time, a value that is not a real scalar; or k below 1.
    """
    if k < 1:
        raise ValueError(f"top_k needs k of at least 1, got {k}.")

    def init(value):
        _check_scalar("top_k", value)
        dtype = _summed_in("top_k", value.dtype)
        return TopK(jnp.full(k, -jnp.inf, dtype), jnp.full(k, -1, jnp.int32))

    def best(a, b):
        values = jnp.concatenate([a.values, b.values])
        largest, place = jax.lax.top_k(values, k)
        return TopK(largest, jnp.concatenate([a.contexts, b.contexts])[place])

    def update(state, values, index, valid):
        values = jnp.where(valid, values.astype(state.values.dtype), -jnp.inf)
        return best(state, TopK(values, jnp.where(valid, index, -1).astype(jnp.int32)))

    return Reduction(init, update, best, lambda state: state)


def histogram(edges: Array) -> Reduction:
    """Counts of a scalar value between edges, with the two open ends as first and last bin.

    Args:
        edges: (bins - 1,) increasing. Bin i holds edges[i - 1] <= value < edges[i]; NaN is counted
            in the last bin.

    Returns:
        A reduction whose result is (bins,) int32.
    """

    def init(value):
        _check_scalar("histogram", value)
        _summed_in("histogram", value.dtype)
        return jnp.zeros(edges.shape[0] + 1, jnp.int32)

    def update(state, values, index, valid):
        del index
        # Integers are compared as they are; else edges between half-precision values stay there.
        whole = all(jnp.issubdtype(a.dtype, jnp.integer) for a in (edges, values))
        both = summed_in(edges.dtype), summed_in(values.dtype)
        common = jnp.result_type(edges, values) if whole else jnp.promote_types(*both)
        bins = jnp.searchsorted(edges.astype(common), values.astype(common), side="right")
        return state.at[bins].add(valid.astype(jnp.int32))

    return Reduction(init, update, jnp.add, lambda state: state)


def together(**reductions: Reduction) -> Reduction:
    """Several reductions of the same values in one pass; the result is a dictionary."""

    def each(name_of_function, *arguments):
        return {
            name: getattr(reduction, name_of_function)(*(a[name] for a in arguments))
            for name, reduction in reductions.items()
        }

    return Reduction(
        init=lambda value: {name: r.init(value) for name, r in reductions.items()},
        update=lambda state, *taken: {
            name: r.update(state[name], *taken) for name, r in reductions.items()
        },
        merge=lambda a, b: each("merge", a, b),
        finish=lambda state: each("finish", state),
    )


def _is_state(node: Any) -> bool:
    return isinstance(node, _State)


def _per_leaf(function, state, values):
    return jax.tree.map(function, state, values, is_leaf=_is_state)


def _summed_in(name: str, dtype: Any) -> Any:
    """Float32, or a wider type of the value's own.

    Raises:
        ValueError: A complex value.
    """
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} needs real values, got {jnp.dtype(dtype)}; keep the modulus, or real and "
            "imaginary part side by side."
        )
    return summed_in(dtype)


def _empty(shape, dtype, power) -> _State:
    zeros, squares = jnp.zeros(shape, dtype), jnp.zeros(shape * power, dtype)
    return _State(jnp.zeros((), dtype), _Sum(zeros, zeros), _Sum(squares, squares))


def _squares(centred: Array) -> Array:
    return jnp.sum(centred**2, axis=0)


def _products(centred: Array) -> Array:
    return centred.T @ centred


def _block(values: Array, valid: Array, square: Callable[[Array], Array]) -> _State:
    """The state of one block of contexts alone."""
    values = values.astype(summed_in(values.dtype))
    weight = valid.astype(values.dtype).reshape(-1, *(1,) * (values.ndim - 1))
    values = jnp.where(weight > 0, values, 0.0)
    count = jnp.sum(valid.astype(values.dtype))
    mean = jnp.sum(values, axis=0) / jnp.maximum(count, 1.0)
    squares = square((values - mean[None]) * weight)
    return _State(count, _Sum(mean, jnp.zeros_like(mean)), _Sum(squares, jnp.zeros_like(squares)))


def _join(a: _State, b: _State) -> _State:
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    difference = _total(b.mean) - _total(a.mean)
    if a.square.high.ndim == a.mean.high.ndim:
        between = difference**2
    else:
        between = difference[:, None] * difference[None, :]
    mean = _add(a.mean, difference * share)
    square = _add(_add(a.square, _total(b.square)), between * (a.count * share))
    return _State(count, mean, square)


def _add(total: _Sum, term: Array) -> _Sum:
    high = total.high + term
    # The smaller summand's lost digits, exactly.
    lost = jnp.where(
        jnp.abs(total.high) >= jnp.abs(term),
        (total.high - high) + term,
        (term - high) + total.high,
    )
    return _Sum(high, total.low + lost)


def _total(value: _Sum) -> Array:
    return value.high + value.low


def _finish_moments(state):
    def pick(get):
        return jax.tree.map(get, state, is_leaf=_is_state)

    count = jax.tree.leaves(state, is_leaf=_is_state)[0].count
    return Moments(
        count,
        pick(lambda s: _total(s.mean)),
        pick(lambda s: _total(s.square) / (s.count - 1.0)),
    )


def _check_scalar(name: str, value: Any) -> None:
    if getattr(value, "shape", None) != ():
        raise ValueError(f"{name} needs one scalar as value, got {value}.")
