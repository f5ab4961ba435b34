"""Weights of others: against their reference outputs, and against a plain NumPy PyTorch network."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.models import burgess_vae, pretrained

MODEL = burgess_vae((64, 64, 1))


@pytest.fixture(scope="module")
def run():
    """The forward on a batch with eps = 0, so that the decoder runs on the mean; compiled once."""

    @jax.jit
    def forward(params, images):
        eps = jnp.zeros((images.shape[0], 10))
        return jax.vmap(MODEL.forward, in_axes=(None, 0, 0))(params, images, eps)

    return forward


def random_weights(seed=0):
    """A state dictionary of random arrays of the documented shapes."""
    rng = np.random.default_rng(seed)
    shapes = {
        **{f"encoder.{name}": (32, 32, 4, 4) for name in ("conv2", "conv3", "conv_64")},
        "encoder.conv1": (32, 1, 4, 4),
        "encoder.lin1": (256, 512),
        "encoder.lin2": (256, 256),
        "encoder.mu_logvar_gen": (20, 256),
        "decoder.lin1": (256, 10),
        "decoder.lin2": (256, 256),
        "decoder.lin3": (512, 256),
        **{f"decoder.{name}": (32, 32, 4, 4) for name in ("convT_64", "convT1", "convT2")},
        "decoder.convT3": (32, 1, 4, 4),
    }
    arrays = {}
    for name, shape in shapes.items():
        outputs = shape[1] if "convT" in name else shape[0]
        fan_in = np.prod(shape) / outputs
        arrays[f"{name}.weight"] = rng.normal(size=shape) * np.sqrt(2 / fan_in)
        arrays[f"{name}.bias"] = 0.1 * rng.normal(size=outputs)
    return {name: values.astype(np.float32) for name, values in arrays.items()}


# PyTorch's layers by definition, one image, channels first.


def torch_conv(x, weight, bias):
    """4x4, stride 2, padding 1: (in, h, w) to (out, h / 2, w / 2)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(1, 2))[:, ::2, ::2]
    return np.einsum("ihwkl,oikl->ohw", windows, weight) + bias[:, None, None]


def torch_conv_transpose(x, weight, bias):
    """4x4, stride 2, padding 1: (in, h, w) to (out, 2 h, 2 w), each input stamped on the output."""
    _, height, width = x.shape
    canvas = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for i in range(height):
        for j in range(width):
            stamp = np.einsum("c,cokl->okl", x[:, i, j], weight)
            canvas[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += stamp
    return canvas[:, 1:-1, 1:-1] + bias[:, None, None]


def torch_linear(x, weight, bias):
    return weight @ x + bias


def torch_network(arrays, image):
    """Mean, log-variance and the logits of the mean, in float64."""

    def layer(function, name, x, relu=True):
        weight, bias = (arrays[f"{name}.{part}"].astype(float) for part in ("weight", "bias"))
        y = function(x, weight, bias)
        return np.maximum(y, 0.0) if relu else y

    h = image.astype(float)
    for name in ("conv1", "conv2", "conv3", "conv_64"):
        h = layer(torch_conv, f"encoder.{name}", h)
    h = h.reshape(-1)
    for name in ("lin1", "lin2"):
        h = layer(torch_linear, f"encoder.{name}", h)
    mean, logvar = layer(torch_linear, "encoder.mu_logvar_gen", h, relu=False).reshape(10, 2).T
    h = mean
    for name in ("lin1", "lin2", "lin3"):
        h = layer(torch_linear, f"decoder.{name}", h)
    h = h.reshape(32, 4, 4)
    for name in ("convT_64", "convT1", "convT2"):
        h = layer(torch_conv_transpose, f"decoder.{name}", h)
    return mean, logvar, layer(torch_conv_transpose, "decoder.convT3", h, relu=False)


def test_random_weights_give_what_the_pytorch_network_gives(run):
    arrays = random_weights()
    image = np.random.default_rng(1).uniform(size=(1, 64, 64)).astype(np.float32)
    mean, logvar, logits = torch_network(arrays, image)
    # A batch of 16 as in the test below, so that one program serves both.
    images = np.broadcast_to(image[0, :, :, None], (16, 64, 64, 1))
    trace = run(pretrained.from_burgess(arrays), images)
    assert np.abs(mean).max() > 0.3
    assert np.std(logits) > 0.05
    for site, expected in (("latent/mean", mean), ("latent/logvar", logvar)):
        np.testing.assert_allclose(trace.activations[site][0], expected, rtol=1e-4, atol=1e-5)
    scale = np.abs(logits).max()
    np.testing.assert_allclose(trace.outputs[0, :, :, 0], logits[0], rtol=1e-4, atol=1e-5 * scale)


def test_mapped_parameters_fill_the_model_exactly():
    params = pretrained.from_burgess(random_weights())
    expected = jax.eval_shape(MODEL.init, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), expected)


@pytest.mark.thorough
def test_export_undoes_import_bit_for_bit():
    arrays = random_weights()
    back = pretrained.to_burgess(pretrained.from_burgess(arrays))
    assert set(back) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)
    params = MODEL.init(jax.random.key(0))
    again = pretrained.from_burgess(pretrained.to_burgess(params))
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_exported_weights_give_pytorch_the_same_logits(run):
    torch = pytest.importorskip("torch")
    params = MODEL.init(jax.random.key(3))
    state = {name: torch.tensor(a) for name, a in pretrained.to_burgess(params).items()}
    functional = torch.nn.functional
    images = np.random.default_rng(1).uniform(size=(16, 64, 64, 1)).astype(np.float32)
    h = torch.tensor(images.transpose(0, 3, 1, 2))

    def both(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    for name in ("conv1", "conv2", "conv3", "conv_64"):
        h = functional.conv2d(h, *both(f"encoder.{name}"), stride=2, padding=1).relu()
    h = h.flatten(1)
    for name in ("lin1", "lin2"):
        h = functional.linear(h, *both(f"encoder.{name}")).relu()
    mean, logvar = functional.linear(h, *both("encoder.mu_logvar_gen")).view(-1, 10, 2).unbind(-1)
    h = mean
    for name in ("lin1", "lin2", "lin3"):
        h = functional.linear(h, *both(f"decoder.{name}")).relu()
    h = h.view(-1, 32, 4, 4)
    for name in ("convT_64", "convT1", "convT2"):
        h = functional.conv_transpose2d(h, *both(f"decoder.{name}"), stride=2, padding=1).relu()
    logits = functional.conv_transpose2d(h, *both("decoder.convT3"), stride=2, padding=1)
    trace = run(params, images)
    scale = logits.abs().max().item()
    np.testing.assert_allclose(trace.activations["latent/logvar"], logvar, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trace.outputs[..., 0], logits[:, 0], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {k: v for k, v in p.items() if k != "mean"}, "no layer 'mean' in params"),
        (lambda p: {**p, "encoder": {}}, "no layer 'encoder/conv0' in params"),
        (
            lambda p: {
                **p,
                "logvar": {"kernel": np.zeros((256, 10)), "bias": np.zeros(10)},
                "decoder": {**p["decoder"], "dense0": p["decoder"]["dense1"]},
            },
            r"decoder.lin1 would have weight \(256, 256\)",
        ),
    ],
)
def test_params_that_cannot_be_exported_are_refused_by_name(change, message):
    params = pretrained.from_burgess(random_weights())
    with pytest.raises(ValueError, match=message):
        pretrained.to_burgess(change(params))


@pytest.mark.parametrize("family", pretrained.DSPRITES_FILES)
def test_pretrained_models_reproduce_their_reference_outputs(family, run, shared):
    folder = shared / "pretrained_dsprites"
    file = folder / pretrained.DSPRITES_FILES[family]
    with np.load(file.with_name(f"{file.stem}_reference.npz")) as arrays:
        reference = dict(arrays)
    with np.load(shared / "dsprites" / "dsprites_real_332.npz") as frames:
        images = frames["imgs"][reference["frame_index"]].astype(np.float32)
    assert images.shape == (16, 64, 64)
    assert set(np.unique(images)) == {0.0, 1.0}
    trace = run(pretrained.load_dsprites_vae(folder, family), images[..., None])
    for name in ("mean", "logvar"):
        np.testing.assert_allclose(
            trace.activations[f"latent/{name}"], reference[name], rtol=1e-5, atol=1e-5
        )
    logits = reference["logits_of_mean"]
    error = np.abs(trace.outputs[..., 0] - logits).max(axis=(1, 2))
    assert (error < 1e-4 * np.abs(logits).max(axis=(1, 2))).all()
    np.testing.assert_array_equal(trace.outputs[..., 0] > 0, logits > 0)


# Errors.


def without(name):
    return {key: value for key, value in random_weights().items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("encoder.conv1.weight"), "no array 'encoder.conv1.weight' among ['decoder.convT1"),
        (without("decoder.convT3.bias"), "no array 'decoder.convT3.bias'"),
        ({}, "no array 'encoder.conv1.weight' among []"),
        (
            {**random_weights(), "encoder.lin1.weight": np.zeros((512, 256))},
            "encoder.lin1.weight has shape (512, 256), expected (256, 512)",
        ),
        (
            {**random_weights(), "encoder.conv1.weight": np.zeros((32, 3, 4, 4))},
            "encoder.conv1.weight has shape (32, 3, 4, 4), expected (32, 1, 4, 4)",
        ),
        (
            {**random_weights(), "decoder.convT3.bias": np.zeros(32)},
            "decoder.convT3.bias has shape (32,), expected (1,)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(arrays, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pretrained.from_burgess(arrays)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no file {tmp_path}/betaH.npz: expected the weights"):
        pretrained.load_dsprites_vae(tmp_path, "beta_vae")


def test_unknown_family_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match=r"unknown family 'betavae'. Did you mean 'beta_vae'\?"):
        pretrained.load_dsprites_vae(tmp_path, "betavae")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_file_that_is_no_npz_is_refused_by_name(content, tmp_path):
    (tmp_path / "VAE.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/VAE.npz is not an npz archive"):
        pretrained.load_dsprites_vae(tmp_path, "vae")


def test_weights_loaded_from_a_file_are_those_given(tmp_path):
    arrays = random_weights()
    np.savez(tmp_path / "VAE.npz", **arrays)
    loaded = pretrained.load_dsprites_vae(tmp_path, "vae")
    mapped = pretrained.from_burgess(arrays)
    jax.tree.map(np.testing.assert_array_equal, loaded, mapped)
