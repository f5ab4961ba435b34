"""Every form equals Flax's layer in value, gradient and tangent, under vmap over both arguments."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vaecausal_jax.models import convolution as cv

FORWARD_4X4 = [cv.conv, cv.conv_lax, cv.conv_patches, cv.conv_shift_add, cv.conv_mixed]
TRANSPOSED_4X4 = [
    cv.conv_transpose,
    cv.conv_transpose_lax,
    cv.conv_transpose_patches,
    cv.conv_transpose_subpixel,
    cv.conv_transpose_overlap_add,
]
SHAPES = [(1, 1, 3, 2), (5, 8, 3, 2), (32, 33, 8, 5)]
OTHER = [(2, 2, 2), (3, 3, 1), (2, 5, 3)]


def _inputs(shape, window=(4, 4), batch=(), seeds=()):
    height, width, channels, features = shape
    key_x, key_kernel = jax.random.split(jax.random.key(sum(shape)))
    x = jax.random.normal(key_x, (*batch, height, width, channels))
    return x, jax.random.normal(key_kernel, (*seeds, *window, channels, features)) / 4


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(fn, x, kernel):
    """Value, and both gradients through a nonlinear scalar of it."""
    out, pullback = jax.vjp(fn, x, kernel)
    return out, pullback(jnp.cos(out))


@functools.cache
def _flax(layer, shape, window, stride):
    module = layer(shape[-1], window, strides=(stride, stride), padding="SAME", use_bias=False)

    def apply(x, kernel):
        return module.apply({"params": {"kernel": kernel}}, x)

    return _value_and_gradients(apply, *_inputs(shape, window))


def _assert_matches_flax(form, shape, window, stride):
    layer = nn.ConvTranspose if "transpose" in form.__name__ else nn.Conv
    ours = functools.partial(form, stride=stride)
    chex.assert_trees_all_close(
        _value_and_gradients(ours, *_inputs(shape, window)),
        _flax(layer, shape, window, stride),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.thorough
def test_transposed_convolution_of_a_point_is_the_reversed_kernel_cropped():
    kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
    x = jnp.ones((1, 1, 1))
    expected = jnp.array([[10.0, 9.0], [6.0, 5.0]])
    for form in TRANSPOSED_4X4:
        chex.assert_trees_all_close(form(x, kernel, stride=2)[..., 0], expected)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORWARD_4X4 + TRANSPOSED_4X4)
def test_forms_equal_flax_in_value_and_gradient(form, shape):
    _assert_matches_flax(form, shape, (4, 4), 2)


@pytest.mark.thorough
@pytest.mark.parametrize(("kh", "kw", "stride"), OTHER)
@pytest.mark.parametrize("form", [cv.conv, cv.conv_transpose])
def test_other_kernels_and_strides_equal_flax(form, kh, kw, stride):
    _assert_matches_flax(form, (5, 6, 3, 2), (kh, kw), stride)


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORWARD_4X4 + TRANSPOSED_4X4)
def test_vmap_over_images_and_kernels_equals_loop(form):
    x, kernels = _inputs((6, 4, 8, 3), batch=(3,), seeds=(2,))

    def one(x, kernel):
        return form(x, kernel, stride=2)

    batched = jax.vmap(jax.vmap(one, (0, None)), (None, 0))(x, kernels)
    looped = jnp.stack([jnp.stack([one(image, kernel) for image in x]) for kernel in kernels])
    chex.assert_trees_all_close(batched, looped, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("form", [cv.conv, cv.conv_transpose])
def test_gradients_under_vmap_over_kernels_equal_loop(form):
    x, kernels = _inputs((6, 4, 8, 3), batch=(3,), seeds=(2,))

    def energy(kernel):
        return jnp.sum(jax.vmap(lambda image: form(image, kernel, stride=2))(x) ** 2)

    looped = jnp.stack([jax.grad(energy)(kernel) for kernel in kernels])
    chex.assert_trees_all_close(jax.vmap(jax.grad(energy))(kernels), looped, rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORWARD_4X4 + TRANSPOSED_4X4)
def test_forward_mode_gives_the_bilinear_tangent(form):
    x, kernel = _inputs((5, 4, 8, 3))
    dx, dkernel = jnp.cos(x), jnp.sin(kernel)
    _, tangent = jax.jvp(lambda *args: form(*args, stride=2), (x, kernel), (dx, dkernel))
    expected = form(dx, kernel, stride=2) + form(x, dkernel, stride=2)
    chex.assert_trees_all_close(tangent, expected, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (4, 3, 1, 5), (4, 3, 9, 2)])
def test_the_full_transposed_convolution_is_that_of_the_padded_image(shape):
    x, kernel = _inputs(shape)
    padded = cv.conv_transpose_lax(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), kernel, stride=2)
    chex.assert_trees_all_close(cv.conv_transpose_full(x, kernel), padded[1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_accelerators_use_xlas_own_but_for_one_channel(backend, differentiated):
    use = {"stride": 2, "backend": backend, "differentiated": differentiated}
    shapes = (32, 32, 32), (4, 4, 32, 32)
    transposed = cv.conv_transpose_subpixel if backend == "gpu" else cv.conv_transpose_lax
    assert cv.conv_form(*shapes, **use) is cv.conv_lax
    assert cv.conv_transpose_form(*shapes, **use) is transposed
    shapes = (32, 32, 1), (4, 4, 1, 32)
    assert cv.conv_form(*shapes, **use) is cv.conv_patches
    assert cv.conv_transpose_form(*shapes, **use) is not transposed


@pytest.mark.parametrize(
    ("form", "x_shape", "kernel_shape", "message"),
    [
        (cv.conv, (2, 8, 8, 3), (4, 4, 3, 2), "Batch with jax.vmap"),
        (cv.conv_transpose, (8, 8, 3), (4, 4, 2, 3), "Expected one image"),
        (cv.conv_mixed, (8, 8, 3), (3, 3, 3, 2), "4x4 kernels at stride 2"),
    ],
)
def test_bad_shapes_are_refused(form, x_shape, kernel_shape, message):
    with pytest.raises(ValueError, match=message):
        form(jnp.zeros(x_shape), jnp.zeros(kernel_shape), stride=2)
