"""The same Linen model through an adapter and through other people's tools: the same effects.

In float64: an effect is a difference of close numbers, and small ones lose digits in float32.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import unit_effects
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.models import adapters

NUM_IMAGES, PIXELS, LATENTS, UNITS = 3, 12, 2, 5


class DenseVAE(nn.Module):
    @nn.compact
    def __call__(self, x, eps):
        h = nn.tanh(nn.Dense(7, name="encoder")(x))
        mean, logvar = jnp.split(nn.Dense(2 * LATENTS, name="posterior")(h), 2)
        z = mean + jnp.exp(0.5 * logvar) * eps
        h = nn.tanh(nn.Dense(UNITS, name="decoder")(z))
        return nn.Dense(PIXELS, name="logits")(h)


@pytest.fixture(scope="module", autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def question(double):
    """The model, its inputs, and our answer: squared effect of each unit of a donor's."""
    module = DenseVAE()
    keys = jax.random.split(jax.random.key(0), 4)
    x, donor = jax.random.normal(keys[0], (2, NUM_IMAGES, PIXELS))
    eps = jax.random.normal(keys[1], (NUM_IMAGES, LATENTS))
    params = module.init(keys[2], x[0], eps[0])["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    forward = adapters.from_linen(module)
    sites = forward.sites(params, x[0], eps[0])
    source = jax.vmap(lambda d, e: forward(params, d, e).activations["decoder"])(donor, eps)
    ours = unit_effects.resample_effects(
        BoundModel(forward, params, sites), Runs(x, eps, {"decoder": source})
    ).values
    assert np.all(ours.squared > 1e-8)
    return module, params, x, eps, donor, np.asarray(ours.squared)


@pytest.mark.thorough
def test_penzai_on_the_same_linen_module_gives_the_same_effects(question):
    unflaxify = pytest.importorskip("penzai.toolshed.unflaxify")
    pz = pytest.importorskip("penzai").pz
    module, params, x, eps, donor, ours = question

    @pz.pytree_dataclass
    class Swap(pz.nn.Layer):
        layer: pz.nn.Layer
        value: jax.Array
        unit: int = dataclasses.field(metadata={"pytree_node": False})
        seen: list = dataclasses.field(metadata={"pytree_node": False})

        def __call__(self, argument, **side_inputs):
            h = self.layer(argument, **side_inputs)
            self.seen.append(h)
            return h if self.unit < 0 else h.at[self.unit].set(self.value[self.unit])

    def run(x, eps, value, unit):
        seen = []
        tree = unflaxify.unflaxify_apply(module, {"params": params}, x, eps)

        def decoder(tree):
            calls = tree.submodule_calls.items()
            return next(c for (_, method), c in calls if method == "decoder.__call__")

        layer = pz.select(tree).at(decoder).apply(lambda c: Swap(c, value, unit, seen))
        return layer(unflaxify.ArgsAndKwargs.capture(x, eps)), seen[0]

    for image in range(NUM_IMAGES):
        noise, unused = eps[image], jnp.zeros(UNITS)
        clean, _ = run(x[image], noise, unused, -1)
        _, source = run(donor[image], noise, unused, -1)
        for unit in range(UNITS):
            patched, _ = run(x[image], noise, source, unit)
            theirs = np.sum(np.square(patched - clean))
            np.testing.assert_allclose(ours[unit, image], theirs, rtol=1e-9)


@pytest.fixture(scope="module")
def twin(question):
    """The model in PyTorch, with the same weights."""
    torch = pytest.importorskip("torch")
    _, params, x, eps, donor, _ = question

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(PIXELS, 7)
            self.posterior = torch.nn.Linear(7, 2 * LATENTS)
            self.decoder = torch.nn.Linear(LATENTS, UNITS)
            self.logits = torch.nn.Linear(UNITS, PIXELS)

        def forward(self, x, eps):
            mean, logvar = self.posterior(torch.tanh(self.encoder(x))).chunk(2, -1)
            z = mean + torch.exp(0.5 * logvar) * eps
            return self.logits(torch.tanh(self.decoder(z)))

    model = Twin().double().eval()
    with torch.no_grad():
        for name, layer in model.named_children():
            layer.weight.copy_(torch.tensor(np.array(params[name]["kernel"].T)))
            layer.bias.copy_(torch.tensor(np.array(params[name]["bias"])))
    return torch, model, *(torch.tensor(np.array(a)) for a in (x, eps, donor))


def test_hooks_on_a_pytorch_twin_give_the_same_effects(question, twin):
    torch, model, x, eps, donor = twin
    with torch.no_grad():
        kept = []
        handle = model.decoder.register_forward_hook(lambda *a: kept.append(a[2].clone()))
        clean, _ = model(x, eps), model(donor, eps)
        handle.remove()
        for unit in range(UNITS):

            def hook(layer, args, output, unit=unit):
                output[:, unit] = kept[1][:, unit]
                return output

            handle = model.decoder.register_forward_hook(hook)
            theirs = (model(x, eps) - clean).square().sum(1).numpy()
            handle.remove()
            np.testing.assert_allclose(question[-1][unit], theirs, rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_nnsight_on_a_pytorch_twin_gives_the_same_effects(question, twin):
    nnsight = pytest.importorskip("nnsight")
    torch, model, x, eps, donor = twin
    traced = nnsight.NNsight(model)
    with torch.no_grad():
        with traced.trace(donor, eps):
            source = traced.decoder.output.save()
        clean = model(x, eps)
        for unit in range(UNITS):
            with traced.trace(x, eps):
                traced.decoder.output[:, unit] = source[:, unit]
                patched = traced.output.save()
            theirs = (patched - clean).square().sum(1).numpy()
            np.testing.assert_allclose(question[-1][unit], theirs, rtol=1e-9)
