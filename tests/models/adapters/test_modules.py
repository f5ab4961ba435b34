"""Modules that name nothing: which sites they have, by path and call."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vaecausal_jax.interventions import set_to
from vaecausal_jax.models import adapters
from vaecausal_jax.models.adapters.nnx import from_nnx

X, EPS = jnp.array([0.3, -0.7, 1.1]), jnp.zeros(0)


class Heads(nn.Module):
    @nn.compact
    def __call__(self, h):
        return {"mean": nn.Dense(2, name="mean")(h), "scale": nn.softplus(h)}

    def embed(self, h):
        return 2 * h


class Shared(nn.Module):
    def setup(self):
        self.layer = nn.Dense(3)
        self.heads = Heads()

    def __call__(self, x, eps):
        h = self.layer(jnp.tanh(self.layer(x)))
        h = checkpoint_name(self.heads.embed(h), "named")
        return self.heads(h)["mean"]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, h, _):
        return jnp.tanh(nn.Dense(3, name="dense")(h)), None


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x, eps):
        scanned = nn.scan(
            nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        h, _ = scanned(name="layers")(x, None)
        return nn.Dense(2, name="out")(h)


def linen(module):
    params = module.init(jax.random.key(0), X, EPS)["params"]
    return adapters.from_linen(module), params, module.apply({"params": params}, X, EPS)


def test_linen_sites_are_paths_calls_methods_and_parts():
    forward, params, plain = linen(Shared())
    sites = forward.sites(params, X, EPS)
    assert list(sites) == [
        "layer#0",
        "layer#1",
        "heads.embed",
        "named",
        "heads/mean",
        "heads['mean']",
        "heads['scale']",
        "Shared",
    ]
    np.testing.assert_array_equal(forward(params, X, EPS).outputs, plain)
    got = forward(params, X, EPS, set_to(sites, "layer#0", 0.5)).outputs
    kernel, bias = params["layer"]["kernel"], params["layer"]["bias"]
    h = 2 * (jnp.full(3, jnp.tanh(0.5)) @ kernel + bias)
    head = params["heads"]["mean"]
    np.testing.assert_allclose(got, h @ head["kernel"] + head["bias"], rtol=1e-6)


def test_linen_scan_and_remat_give_an_axis_of_layers_or_a_site_a_layer():
    forward, params, plain = linen(Deep())
    trace = forward(params, X, EPS)
    np.testing.assert_array_equal(trace.outputs, plain)
    assert trace.activations["layers/dense"].shape == (4, 3)
    dense = params["layers"]["dense"]
    h, pre = X, []
    for kernel, bias in zip(dense["kernel"], dense["bias"], strict=True):
        pre.append(h @ kernel + bias)
        h = jnp.tanh(pre[-1])
    np.testing.assert_allclose(trace.activations["layers/dense"], jnp.stack(pre), rtol=1e-5)
    unrolled = adapters.from_linen(Deep(), unroll=True)
    assert "layers/dense[3]" in unrolled.sites(params, X, EPS)


def test_linen_takes_a_function_for_other_methods_and_collections():
    module = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True), nn.Dense(2)])
    variables = module.init(jax.random.key(0), X)
    forward = adapters.from_linen(lambda v, x, eps: module.apply(v, x))
    sites = forward.sites(variables, X, EPS)
    assert list(sites) == ["layers_0", "layers_1", "layers_2", "Sequential"]
    np.testing.assert_array_equal(forward(variables, X, EPS).outputs, module.apply(variables, X))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, h):
        return jnp.tanh(self.dense(h)), h.sum()


class Net(nnx.Module):
    def __init__(self, rngs):
        self.block = Block(rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, eps):
        h, _ = self.block(x)
        h, _ = self.block(h)
        return self.drop(self.norm(h[None, :])[0])


def test_nnx_sites_are_paths_calls_and_parts_and_the_model_is_left_alone():
    model = Net(nnx.Rngs(0))
    model.eval()
    before = nnx.state(model)
    forward, params = from_nnx(model)
    sites = forward.sites(params, X, EPS)
    assert list(sites) == [
        "block/dense#0",
        "block[0]#0",
        "block[1]#0",
        "block/dense#1",
        "block[0]#1",
        "block[1]#1",
        "norm",
        "drop",
    ]
    first, second = (forward(params, X, EPS).outputs for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert type(model.block) is Block
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))),
        nnx.to_pure_dict(nnx.filter_state(before, nnx.Not(nnx.RngState))),
    )


def test_nnx_calls_as_the_caller_says():
    model = Net(nnx.Rngs(0))
    model.eval()
    forward, params = from_nnx(model, lambda m, x, eps: m.block.dense(x))
    assert list(forward.sites(params, X, EPS)) == ["block/dense"]
    np.testing.assert_array_equal(forward(params, X, EPS).outputs, model.block.dense(X))
    doubled = jax.tree.map(lambda a: 2 * a, params)
    np.testing.assert_allclose(forward(doubled, X, EPS).outputs, 2 * model.block.dense(X))


@pytest.mark.thorough
def test_equinox_sites_are_tree_paths_with_channels_first_and_jit_inside():
    eqx = pytest.importorskip("equinox")
    equinox = pytest.importorskip("vaecausal_jax.models.adapters.equinox")

    class Model(eqx.Module):
        parts: dict
        layers: tuple
        attend: eqx.nn.MultiheadAttention

        def __call__(self, x, eps):
            h = self.parts["conv"](x[None, :])
            h = eqx.filter_jit(self.layers[0])(h.reshape(-1))
            h = jax.nn.relu(self.layers[0](h))
            h = self.attend(*[h.reshape(3, 2)] * 3)
            return self.layers[1](h)

    keys = jax.random.split(jax.random.key(0), 4)
    model = Model(
        {"conv": eqx.nn.Conv1d(1, 2, 3, padding=1, key=keys[0])},
        (eqx.nn.Linear(6, 6, key=keys[1]), eqx.nn.Lambda(jnp.tanh)),
        eqx.nn.MultiheadAttention(1, 2, key=keys[3]),
    )
    forward, params = equinox.from_equinox(model, unit_axes={"parts/conv": 0})
    sites = forward.sites(params, X, EPS)
    assert sites["parts/conv"].unit_axis == 0
    assert sites["layers/0#0"].shape == (6,)
    assert sites["layers/0#1"].shape == (6,)
    assert sites["attend"].unit_axis == 1
    assert list(sites)[-1] == "layers/1"
    adapted = jax.jit(lambda p: forward(p, X, EPS).outputs)(params)
    np.testing.assert_array_equal(adapted, eqx.filter_jit(model)(X, EPS))
    got = forward(params, X, EPS, set_to(sites, "layers/1", 0.25, unit=1)).outputs
    np.testing.assert_array_equal(got[:, 1], 0.25)
    assert type(model.layers[0]) is eqx.nn.Linear
    gradient = jax.grad(lambda p: jnp.sum(forward(p, X, EPS).outputs))(params)
    expected = eqx.filter_grad(lambda m: jnp.sum(m(X, EPS)))(model)
    got, expected = jax.tree.leaves(gradient), jax.tree.leaves(expected)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_package_imports_without_equinox_and_says_so_where_it_is_needed():
    code = (
        "import sys; sys.modules['equinox'] = None\n"
        "import vaecausal_jax.models.adapters\n"
        "try:\n    import vaecausal_jax.models.adapters.equinox\n"
        "except ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert "needs Equinox: pip install equinox" in run.stdout, run.stderr
