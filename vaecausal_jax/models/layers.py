"""Layers that take arrays, or ``Changed`` values and compute only what changed.

A linear layer maps the clean part, which does not depend on the patch and is computed once for a
whole sweep, and adds the layer's response to the change alone: one row of a dense kernel, one input
channel of a convolution, the neighbourhood of one position. The result equals the layer applied to
the whole value, up to rounding. On arrays these are the plain layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vaecausal_jax.interventions.changed import Changed, Value, box, change, whole
from vaecausal_jax.models.convolution import conv as convolve
from vaecausal_jax.models.convolution import conv_transpose as convolve_transposed
from vaecausal_jax.models.convolution import conv_transpose_full

Array = jax.Array


def elementwise(function: Callable[..., Array], *values: Value) -> Value:
    """``function`` of values of one shape, inside the box only where just one of them changed."""
    changed = [value for value in values if isinstance(value, Changed)]
    if len(changed) != 1:
        return function(*map(whole, values))
    (where,) = changed
    clean = [value.clean if isinstance(value, Changed) else value for value in values]
    inside = [v.inside if isinstance(v, Changed) else box(v, where) for v in values]
    return Changed(function(*clean), function(*inside), where.start)


def dense(x: Value, kernel: Array, bias: Array, *, axes: int = 1) -> Value:
    """A dense layer over the last ``axes`` axes of ``x``, flattened.

    Args:
        x: (*leading, *contracted).
        kernel: (inputs, features), inputs the size of the contracted axes.
        bias: (features,).
        axes: How many axes are contracted.

    Returns:
        (*leading, features).
    """
    lead = len(x.shape) - axes

    def plain(x: Array) -> Array:
        return x.reshape(*x.shape[:lead], -1) @ kernel + _along_last(bias, lead + 1)

    if not isinstance(x, Changed):
        return plain(x)
    rows = kernel.reshape(*x.shape[lead:], -1)
    rows = lax.dynamic_slice(rows, (*x.start[lead:], 0), (*x.inside.shape[lead:], rows.shape[-1]))
    response = jnp.tensordot(change(x), rows, axes)
    return _added(plain(x.clean), response, (*x.start[:lead], 0))


def conv(x: Value, kernel: Array, bias: Array, *, stride: int) -> Value:
    """A "SAME" convolution of one image (height, width, in); a changed box grows to all rows."""
    clean = x.clean if isinstance(x, Changed) else x
    out = convolve(clean, kernel, stride=stride) + _along_last(bias, 3)
    if not isinstance(x, Changed):
        return out
    return out + convolve(_over_the_map(x), _channels(kernel, x), stride=stride)


def conv_transpose(x: Value, kernel: Array, bias: Array, *, stride: int) -> Value:
    """A "SAME" transposed convolution of one image (height, width, in).

    At kernel 4x4 and stride 2 rows a .. b of the input reach rows 2a - 1 .. 2b + 2 of the output,
    and only those are computed. Other kernels take the change over the whole map.
    """
    clean = x.clean if isinstance(x, Changed) else x
    out = convolve_transposed(clean, kernel, stride=stride) + _along_last(bias, 3)
    if not isinstance(x, Changed):
        return out
    if (*kernel.shape[:2], stride) != (4, 4, 2) or x.inside.shape[:2] == x.shape[:2]:
        response = convolve_transposed(_over_the_map(x), _channels(kernel, x), stride=stride)
        return out + response
    response = conv_transpose_full(change(x), _channels(kernel, x))
    # At the map's edge part of the reach falls outside it: move the box in, its content the
    # other way.
    start, offset, size = [], [], []
    for first, reach, length in zip(x.start[:2], response.shape[:2], out.shape[:2], strict=True):
        size.append(min(reach, length))
        start.append(jnp.clip(2 * first - 1, 0, length - size[-1]))
        offset.append(start[-1] - (2 * first - 1) + 1)
    response = jnp.pad(response, ((1, 1), (1, 1), (0, 0)))
    response = lax.dynamic_slice(response, (*offset, 0), (*size, response.shape[-1]))
    return _added(out, response, (*start, 0))


def unflatten(x: Value, shape: tuple[int, ...]) -> Value:
    """A vector as a map (height, width, channels)."""
    if not isinstance(x, Changed):
        return x.reshape(shape)
    if x.inside.shape != (1,):
        return whole(x).reshape(shape)
    inside = x.inside.reshape((1,) * len(shape))
    return Changed(x.clean.reshape(shape), inside, tuple(jnp.unravel_index(x.start[0], shape)))


def _added(clean: Array, response: Array, start: tuple[Any, ...]) -> Value:
    """The clean value plus a response inside a box; an array if the box is everything."""
    if response.shape == clean.shape:
        return clean + response
    inside = lax.dynamic_slice(clean, start, response.shape) + response
    return Changed(clean, inside, start)


def _over_the_map(x: Changed) -> Array:
    """The change over all rows and columns of a map, in the box's channels."""
    spread = jnp.zeros((*x.shape[:2], x.inside.shape[2]), x.dtype)
    return lax.dynamic_update_slice(spread, change(x), (*x.start[:2], 0))


def _channels(kernel: Array, x: Changed) -> Array:
    """The part of a kernel (kh, kw, in, out) that reads the box's channels."""
    return lax.dynamic_slice_in_dim(kernel, x.start[2], x.inside.shape[2], axis=2)


def _along_last(bias: Array, rank: int) -> Array:
    return bias.reshape((1,) * (rank - 1) + bias.shape)
