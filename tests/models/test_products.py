"""`product` is `rows @ weights` under every transformation, and stays a plain product."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from vaecausal_jax.models.products import product, sum_last

IMAGES, ROWS, CHANNELS, FEATURES = 3, 5, 4, 2


def _draw(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


def _nonlinear(multiply, rows, weights):
    return jnp.sum(jnp.sin(multiply(rows, weights)))


def _both(transform, *arguments):
    """The transform of our product and of `@`."""
    chex.assert_trees_all_close(
        jax.jit(transform(product))(*arguments),
        transform(jnp.matmul)(*arguments),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_product_by_hand():
    rows = jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    weights = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]])
    expected = np.array([[[1.0, 2.0, 3.0]], [[3.0, 4.0, 5.0]]])
    np.testing.assert_array_equal(product(rows, weights), expected)


@pytest.mark.parametrize(
    ("rows", "weights", "axes"),
    [
        ((IMAGES, ROWS, CHANNELS), (CHANNELS, FEATURES), (0, None)),
        ((ROWS, IMAGES, CHANNELS), (CHANNELS, FEATURES), (1, None)),
        ((ROWS, CHANNELS, IMAGES), (CHANNELS, FEATURES), (2, None)),
        ((IMAGES, ROWS, CHANNELS), (IMAGES, CHANNELS, FEATURES), (0, 0)),
        ((ROWS, CHANNELS), (CHANNELS, IMAGES, FEATURES), (None, 1)),
    ],
)
def test_vmap_equals_that_of_matmul(rows, weights, axes):
    _both(lambda multiply: jax.vmap(multiply, axes), _draw(*rows), _draw(*weights))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "derivative", [jax.grad, jax.jacfwd, jax.hessian, lambda f, *a: jax.jacrev(jax.grad(f, *a), *a)]
)
@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_of_a_vmapped_product(derivative, argument):
    def transform(multiply):
        mapped = jax.vmap(multiply, (0, None))
        return derivative(functools.partial(_nonlinear, mapped), argument)

    _both(transform, _draw(2, 3, CHANNELS), _draw(CHANNELS, FEATURES))


def test_vmap_over_images_and_seeds_of_a_gradient():
    def transform(multiply):
        per_image = jax.grad(functools.partial(_nonlinear, multiply), (0, 1))
        return jax.vmap(jax.vmap(per_image, (0, None)), (None, 0))

    _both(transform, _draw(IMAGES, ROWS, CHANNELS), _draw(2, CHANNELS, FEATURES))


def test_gradient_through_scan_and_remat():
    def transform(multiply):
        def loss(rows, weights):
            step = jax.checkpoint(lambda carry, _: (jnp.tanh(multiply(carry, weights)), None))
            return jnp.sum(jax.lax.scan(step, rows, None, length=3)[0] ** 2)

        return jax.grad(lambda rows, weights: jax.vmap(loss, (0, None))(rows, weights).sum(), 1)

    _both(transform, _draw(IMAGES, ROWS, CHANNELS), _draw(CHANNELS, CHANNELS))


def test_gradient_inside_shard_map():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    spec = jax.sharding.PartitionSpec

    def transform(multiply):
        def loss(rows, weights):
            return jax.lax.psum(_nonlinear(jax.vmap(multiply, (0, None)), rows, weights), "images")

        sharded = jax.shard_map(
            loss, mesh=mesh, in_specs=(spec("images"), spec()), out_specs=spec()
        )
        return jax.grad(sharded, (0, 1))

    _both(transform, _draw(4, ROWS, CHANNELS), _draw(CHANNELS, FEATURES))


def test_vmapped_gradient_contracts_one_axis():
    """What the primitive is for: in the kernel's gradient, images and rows are one axis."""

    def loss(weights, rows):
        return _nonlinear(jax.vmap(product, (0, None)), rows, weights)

    rows, weights = _draw(IMAGES, ROWS, CHANNELS), _draw(CHANNELS, FEATURES)
    dots = [
        [operand.aval.shape for operand in equation.invars]
        for equation in jax.make_jaxpr(jax.grad(loss))(weights, rows).eqns
        if equation.primitive.name == "dot_general"
    ]
    assert dots == [[(CHANNELS, IMAGES * ROWS), (IMAGES * ROWS, FEATURES)]]


def test_precision_is_that_of_tracing_in_value_and_gradient():
    def loss(rows, weights):
        return _nonlinear(jax.vmap(product, (0, None)), rows, weights)

    arguments = _draw(IMAGES, ROWS, CHANNELS), _draw(CHANNELS, FEATURES)
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(*arguments)
    text = traced.lower().as_text()
    assert text.count("dot_general") == text.count("[HIGHEST, HIGHEST]") == 3


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_other_devices(platform):
    gradient = jax.jit(jax.grad(functools.partial(_nonlinear, jax.vmap(product, (0, None)))))
    exported = export.export(gradient, platforms=[platform])(
        _draw(IMAGES, ROWS, CHANNELS), _draw(CHANNELS, FEATURES)
    )
    assert exported.platforms == (platform,)


@pytest.mark.parametrize("num_axes", [0, 1, 2, 3])
def test_sums_over_the_last_axes_in_value_and_gradient(num_axes):
    values = _draw(IMAGES, ROWS, CHANNELS)
    axes = tuple(range(3 - num_axes, 3))
    found, pullback = jax.vjp(lambda v: sum_last(v, num_axes), values)
    np.testing.assert_allclose(found, np.sum(np.float64(values), axes), rtol=1e-6, atol=1e-6)
    weights = _draw(*found.shape) if found.shape else jnp.float32(2.0)
    expected = np.broadcast_to(np.expand_dims(weights, axes), values.shape)
    np.testing.assert_array_equal(pullback(weights)[0], expected)


def test_a_sum_of_an_infinity_is_infinite_and_of_a_nan_nan():
    assert sum_last(jnp.array([1.0, jnp.inf]), 1) == jnp.inf
    assert jnp.isnan(sum_last(jnp.array([1.0, jnp.nan]), 1))
