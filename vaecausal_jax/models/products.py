"""Matrix products where XLA's CPU compiler, left alone, does something slower.

`jax.vmap` of `rows @ weights` over images gives a product of a (images, rows, channels) array. That
is as fast as of a tall matrix (images * rows, channels), but its gradient in the weights is not:
a sum over two axes, for which XLA's CPU compiler rearranges an operand and takes a slow product.
`product` is `rows @ weights` whose rule under `vmap` stacks the images' rows. What surrounds it
(derivatives of any mode and order, `vmap` over weights, `scan`, `shard_map`) finds JAX's own rules.

`sum_last` is a sum, taken as a product with ones: what is fused into a sum runs slowly, a logarithm
most of all.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from vaecausal_jax.jax_versions import varying_axes


def product(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """`rows @ weights`, for rows (*leading, channels) and weights (channels, features)."""
    if varying_axes(rows) != varying_axes(weights):
        return rows @ weights  # In `shard_map`, JAX's own product sums the gradient over devices.
    tall = rows.reshape(-1, rows.shape[-1])
    # Read while tracing, as JAX's own products do: lowering may come after the setting has ended.
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore
    flat = _product.bind(tall, weights, precision=precision)
    return flat.reshape(*rows.shape[:-1], weights.shape[-1])


def sum_last(values: jax.Array, num_axes: int) -> jax.Array:
    """Sums the last `num_axes` axes; equal to `jnp.sum` to rounding."""
    ones = jnp.ones(values.shape[values.ndim - num_axes :], values.dtype)
    return jnp.tensordot(values, ones, num_axes, precision=lax.Precision.HIGHEST)


def _plain(rows, weights, *, precision):
    return lax.dot(rows, weights, precision=precision)


def _abstract(rows, weights, **setting):
    plain = functools.partial(_plain, **setting)
    return jax.make_jaxpr(plain)(rows, weights).out_avals[0]


def _batched(operands, axes, **setting):
    rows, weights = operands
    rows_axis, weights_axis = axes
    if weights_axis is not None:
        return jax.vmap(functools.partial(_plain, **setting), in_axes=axes)(rows, weights), 0
    rows = jnp.moveaxis(rows, rows_axis, 0)
    flat = _product.bind(rows.reshape(-1, rows.shape[-1]), weights, **setting)
    return flat.reshape(*rows.shape[:-1], weights.shape[-1]), 0


_product = Primitive("product")
_product.def_impl(jax.jit(_plain, static_argnames="precision"))
_product.def_abstract_eval(_abstract)
mlir.register_lowering(_product, mlir.lower_fun(_plain, multiple_results=False))
batching.primitive_batchers[_product] = _batched
ad.defbilinear(
    _product,
    lambda cotangent, rows, weights, **setting: _product.bind(cotangent, weights.T, **setting),
    lambda cotangent, rows, weights, **setting: _plain(rows.T, cotangent, **setting),
)
