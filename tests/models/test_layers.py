"""Layers on changed values: equal to the layer on the whole value, wherever the box lies."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as iv
from vaecausal_jax import models
from vaecausal_jax.interventions.changed import Changed, change, whole
from vaecausal_jax.models import layers
from vaecausal_jax.sweeps.patching import unit_starts

KEY = jax.random.key(0)


def changed(shape, size, start, key=KEY):
    clean = jax.random.normal(key, shape)
    inside = jax.random.normal(jax.random.fold_in(key, 1), size)
    return Changed(clean, inside, tuple(jnp.asarray(i) for i in start))


def test_a_changed_value_is_the_clean_one_with_the_box_written_over():
    value = Changed(jnp.zeros((2, 3)), jnp.array([[5.0, 6.0]]), (jnp.array(1), jnp.array(1)))
    np.testing.assert_array_equal(whole(value), [[0, 0, 0], [0, 5, 6]])
    np.testing.assert_array_equal(change(value), [[5, 6]])
    assert value.shape == (2, 3)
    assert value.dtype == jnp.float32


def test_a_dense_layer_adds_the_changed_unit_times_its_row():
    kernel, bias = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([10.0, 20.0])
    value = Changed(jnp.array([1.0, 1.0]), jnp.array([3.0]), (jnp.array(1),))
    np.testing.assert_array_equal(layers.dense(value, kernel, bias), [20.0, 34.0])


BOXES = [  # shape, box, start
    ((4, 6, 5), (4, 6, 1), (0, 0, 3)),
    ((4, 6, 5), (1, 1, 1), (0, 5, 2)),
    ((4, 6, 5), (1, 1, 5), (3, 0, 0)),
    ((4, 6, 5), (2, 3, 2), (1, 2, 3)),
    ((4, 6, 5), (3, 5, 5), (1, 1, 0)),
    ((4, 6, 5), (3, 5, 5), (0, 0, 0)),
    ((4, 6, 5), (4, 6, 5), (0, 0, 0)),
    ((4, 6, 9), (4, 6, 9), (0, 0, 0)),
    ((4, 6, 9), (2, 2, 9), (2, 4, 0)),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("shape", "box", "start"), BOXES)
@pytest.mark.parametrize("window", [4, 3])
@pytest.mark.parametrize("layer", [layers.conv, layers.conv_transpose])
def test_convolutions_of_a_changed_box_equal_those_of_the_whole(layer, window, shape, box, start):
    value = changed(shape, box, start)
    kernel = jax.random.normal(KEY, (window, window, shape[2], 2))
    apply = functools.partial(layer, kernel=kernel, bias=jnp.array([1.0, -1.0]), stride=2)
    chex.assert_trees_all_close(whole(apply(value)), apply(whole(value)), rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("start", [(0, 0), (1, 2), (3, 5), (0, 3), (3, 0)])
def test_the_reach_of_a_position_is_the_same_wherever_the_index_is_traced(start):
    kernel = jax.random.normal(KEY, (4, 4, 3, 2))

    @jax.jit
    def both(start):
        value = changed((4, 6, 3), (1, 1, 3), (*start, 0))
        apply = functools.partial(layers.conv_transpose, kernel=kernel, bias=jnp.ones(2), stride=2)
        local = apply(value)
        assert local.inside.shape == (4, 4, 2)
        return whole(local), apply(whole(value))

    chex.assert_trees_all_close(*both(jnp.array(start)), rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(("shape", "box", "start"), BOXES)
@pytest.mark.parametrize("axes", [1, 3])
def test_dense_layers_over_trailing_axes_equal_those_of_the_whole(axes, shape, box, start):
    value = changed(shape, box, start)
    kernel = jax.random.normal(KEY, (int(np.prod(shape[3 - axes :])), 7))
    apply = functools.partial(layers.dense, kernel=kernel, bias=jnp.arange(7.0), axes=axes)
    chex.assert_trees_all_close(whole(apply(value)), apply(whole(value)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("box", [(1,), (3,), (12,)])
def test_unflattening_keeps_one_unit_and_writes_out_more(box):
    value = changed((12,), box, (0,) if box == (12,) else (7,))
    unflat = layers.unflatten(value, (2, 2, 3))
    chex.assert_trees_all_equal(whole(unflat), whole(value).reshape(2, 2, 3))
    assert isinstance(unflat, Changed) == (box == (1,))


def test_elementwise_functions_of_one_or_several_changed_values():
    value, other = changed((5,), (2,), (1,)), jnp.arange(5.0)
    product = layers.elementwise(lambda a, b: a * b, value, other)
    assert isinstance(product, Changed)
    chex.assert_trees_all_close(whole(product), whole(value) * other)
    square = layers.elementwise(lambda a, b: a * b, value, changed((5,), (1,), (4,)))
    chex.assert_trees_all_close(square, whole(value) * whole(changed((5,), (1,), (4,))))


NETWORKS = {
    "conv": models.conv_vae(
        (16, 16, 2),
        latent_size=3,
        encoder_channels=(3, 4),
        encoder_kernels=(4, 2),
        encoder_dense=(6,),
        decoder_dense=(5,),
        decoder_channels=(9, 3),
    ),
    "no dense": models.conv_vae(
        (8, 8, 1),
        latent_size=2,
        encoder_channels=(3,),
        encoder_dense=(),
        decoder_dense=(),
        decoder_channels=(2,),
    ),  # fmt: skip
    "mlp": models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5, 4)),
    "linear": models.linear_vae(6, latent_size=2),
    "vq": models.vq_vae(
        (8, 8, 1), num_codes=5, code_size=3, encoder_channels=(4, 3), decoder_channels=(3, 4)
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("network", NETWORKS)
def test_a_box_patch_at_every_site_equals_replacing_the_whole_site(network):
    model = NETWORKS[network]
    params = model.init(jax.random.key(1))
    x = jax.random.uniform(jax.random.key(2), model.image_shape)
    eps = jax.random.normal(jax.random.key(3), model.noise_shape)
    natural = model.forward(params, x, eps).activations

    @functools.partial(jax.jit, static_argnums=0)
    def both(name, start, donor):
        site = model.sites[name]
        size = tuple(1 if a in (site.unit_axis, -1) else n for a, n in enumerate(site.shape))
        size = size if site.unit_axis is not None else (1,) * len(site.shape)
        inside = jax.lax.dynamic_slice(donor, tuple(start), size)
        patch = iv.BoxPatch(natural[name], inside, tuple(start))
        value = whole(patch.apply(natural[name]))
        local = model.forward(params, x, eps, {name: patch})
        plain = model.forward(params, x, eps, iv.set_to(model.sites, name, value))
        return local.outputs, plain.outputs

    for name, site in model.sites.items():
        donor = jnp.roll(natural[name], 1) + jnp.asarray(1, site.dtype)
        if not jnp.issubdtype(site.dtype, jnp.floating):
            donor %= 5
        starts = unit_starts(name, site)
        for start in starts[:: max(1, len(starts) // 3)]:
            chex.assert_trees_all_close(*both(name, start, donor), rtol=2e-5, atol=2e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("network", ["no dense", "mlp"])
def test_a_box_that_holds_the_clean_values_changes_nothing_bit_for_bit(network):
    model = NETWORKS[network]
    params = model.init(jax.random.key(1))
    x, eps = jnp.ones(model.image_shape) / 3, jnp.ones(model.noise_shape)
    clean = model.forward(params, x, eps)
    for name, site in model.sites.items():
        value = clean.activations[name]
        inside, start = value[(slice(1),) * len(site.shape)], (0,) * len(site.shape)
        patch = {name: iv.BoxPatch(value, inside, start)}
        chex.assert_trees_all_equal(model.forward(params, x, eps, patch).outputs, clean.outputs)


@pytest.mark.parametrize("start", [-1, 5])
def test_a_box_outside_its_site_gives_nan(start):
    model = NETWORKS["mlp"]
    params = model.init(KEY)
    patch = iv.BoxPatch(jnp.zeros(5), jnp.ones(1), (jnp.array(start),))
    x, eps = jnp.zeros(model.image_shape), jnp.zeros(3)
    assert jnp.isnan(model.forward(params, x, eps, {"decoder/dense0": patch}).outputs).all()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (iv.BoxPatch(jnp.zeros(4), jnp.ones(1), (0,)), r"clean has shape \(4,\), expected \(5,\)"),
        (iv.BoxPatch(jnp.zeros(5), jnp.ones((1, 1)), (0,)), "does not fit in"),
        (iv.BoxPatch(jnp.zeros(5), jnp.ones(6), (0,)), "does not fit in"),
        (iv.BoxPatch(jnp.zeros(5), jnp.ones(1), ()), "with 0 start indices"),
        (iv.BoxPatch(jnp.zeros(5), jnp.ones(1, jnp.int32), (0,)), "inside has dtype int32"),
        (iv.BoxPatch(jnp.zeros(5, jnp.int32), jnp.ones(1), (0,)), "clean has dtype int32"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(patch, message):
    model = NETWORKS["mlp"]
    params = model.init(KEY)
    with pytest.raises(ValueError, match=message):
        model.forward(params, jnp.zeros((4, 4, 1)), jnp.zeros(3), {"decoder/dense0": patch})
