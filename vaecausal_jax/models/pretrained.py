"""VAEs trained by others: PyTorch weights of the Burgess architecture to our parameters and back.

The layout of github.com/YannDubs/disentangling-vae (MIT), whose dSprites checkpoints are studied by
``vaecausal study --preset pretrained``. The mapping, PyTorch to Flax:

    conv          (out, in, h, w)   to  (h, w, in, out)
    transposed    (in, out, h, w)   to  (h, w, in, out), flipped in h and w
    dense         (out, in)         to  (in, out)
    first dense after a map: inputs reordered from (channel, row, column) to (row, column, channel)
    last dense before a map: outputs reordered from (channel, row, column) to (row, column, channel)
    mean and log-variance: one layer of 2 K outputs, interleaved
"""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaecausal_jax.errors import unknown_choice

DSPRITES_FILES = {
    "vae": "VAE.npz",
    "beta_vae": "betaH.npz",
    "factor_vae": "factor.npz",
    "beta_tc_vae": "btcvae.npz",
}
"""Family to file, in a folder of state dictionaries saved as npz."""

_MAP = (32, 4, 4)
_SHAPES = {
    "encoder.conv1": (32, 1, 4, 4),
    "encoder.conv2": (32, 32, 4, 4),
    "encoder.conv3": (32, 32, 4, 4),
    "encoder.conv_64": (32, 32, 4, 4),
    "encoder.lin1": (256, 512),
    "encoder.lin2": (256, 256),
    "encoder.mu_logvar_gen": (20, 256),
    "decoder.lin1": (256, 10),
    "decoder.lin2": (256, 256),
    "decoder.lin3": (512, 256),
    "decoder.convT_64": (32, 32, 4, 4),
    "decoder.convT1": (32, 32, 4, 4),
    "decoder.convT2": (32, 32, 4, 4),
    "decoder.convT3": (32, 1, 4, 4),
}

_LAYERS = {
    "encoder.conv1": ("encoder", "conv0"),
    "encoder.conv2": ("encoder", "conv1"),
    "encoder.conv3": ("encoder", "conv2"),
    "encoder.conv_64": ("encoder", "conv3"),
    "encoder.lin1": ("encoder", "dense0"),
    "encoder.lin2": ("encoder", "dense1"),
    "decoder.lin1": ("decoder", "dense0"),
    "decoder.lin2": ("decoder", "dense1"),
    "decoder.lin3": ("decoder", "dense2"),
    "decoder.convT_64": ("decoder", "conv0"),
    "decoder.convT1": ("decoder", "conv1"),
    "decoder.convT2": ("decoder", "conv2"),
    "decoder.convT3": ("decoder", "logits"),
}
"""PyTorch's layer to ours; the heads apart."""


def from_burgess(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of ``burgess_vae((64, 64, 1))`` from a PyTorch state dictionary of arrays.

    Args:
        arrays: ``encoder.conv1.weight`` and so on, in PyTorch's layouts.

    Raises:
        ValueError: An array that is missing or of another shape.
    """
    for prefix, shape in _SHAPES.items():
        for name, expected in (
            (f"{prefix}.weight", shape),
            (f"{prefix}.bias", _bias_shape(prefix)),
        ):
            if name not in arrays:
                raise ValueError(f"no array {name!r} among {sorted(arrays)}.")
            if arrays[name].shape != expected:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {expected}.")

    def layer(name: str, kernel: np.ndarray, bias: np.ndarray | None = None) -> dict[str, Any]:
        bias = arrays[f"{name}.bias"] if bias is None else bias
        return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}

    def conv(name: str) -> dict[str, Any]:
        return layer(name, arrays[f"{name}.weight"].transpose(2, 3, 1, 0))

    def transposed(name: str) -> dict[str, Any]:
        return layer(name, arrays[f"{name}.weight"].transpose(2, 3, 0, 1)[::-1, ::-1])

    def dense(name: str) -> dict[str, Any]:
        return layer(name, arrays[f"{name}.weight"].T)

    channels_last = _channels_last()
    heads, biases = arrays["encoder.mu_logvar_gen.weight"].T, arrays["encoder.mu_logvar_gen.bias"]
    return {
        "encoder": {
            "conv0": conv("encoder.conv1"),
            "conv1": conv("encoder.conv2"),
            "conv2": conv("encoder.conv3"),
            "conv3": conv("encoder.conv_64"),
            "dense0": layer("encoder.lin1", arrays["encoder.lin1.weight"].T[channels_last]),
            "dense1": dense("encoder.lin2"),
        },
        "mean": layer("", heads[:, 0::2], biases[0::2]),
        "logvar": layer("", heads[:, 1::2], biases[1::2]),
        "decoder": {
            "dense0": dense("decoder.lin1"),
            "dense1": dense("decoder.lin2"),
            "dense2": layer(
                "decoder.lin3",
                arrays["decoder.lin3.weight"].T[:, channels_last],
                arrays["decoder.lin3.bias"][channels_last],
            ),
            "conv0": transposed("decoder.convT_64"),
            "conv1": transposed("decoder.convT1"),
            "conv2": transposed("decoder.convT2"),
            "logits": transposed("decoder.convT3"),
        },
    }


def to_burgess(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state dictionary of parameters of ``burgess_vae((64, 64, 1))``, as arrays.

    The inverse of ``from_burgess``, bit for bit: ``{name: torch.tensor(a) for name, a in ...}`` is
    what the network of the public repository loads.

    Args:
        params: What ``burgess_vae((64, 64, 1)).init`` gives, trained or not.

    Raises:
        ValueError: A layer that is missing or of another shape.
    """
    names = {ours: theirs for theirs, ours in _LAYERS.items()}
    arrays: dict[str, np.ndarray] = {}

    def layer(*path: str) -> tuple[np.ndarray, np.ndarray]:
        found: Any = params
        for step in path:
            if not isinstance(found, Mapping) or step not in found:
                raise ValueError(f"no layer {'/'.join(path)!r} in params, expected burgess_vae's.")
            found = found[step]
        return np.asarray(found["kernel"]), np.asarray(found["bias"])

    def put(name: str, weight: np.ndarray, bias: np.ndarray) -> None:
        if weight.shape != _SHAPES[name] or bias.shape != _bias_shape(name):
            raise ValueError(
                f"{name} would have weight {weight.shape} and bias {bias.shape}, expected "
                f"{_SHAPES[name]} and {_bias_shape(name)}: export takes burgess_vae((64, 64, 1))."
            )
        arrays[f"{name}.weight"], arrays[f"{name}.bias"] = map(np.ascontiguousarray, (weight, bias))

    channels_first = np.argsort(_channels_last())
    for path, name in names.items():
        kernel, bias = layer(*path)
        if "convT" in name:
            kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        elif kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            kernel = kernel.T
        if name == "encoder.lin1" and kernel.shape[1] == len(channels_first):
            kernel = kernel[:, channels_first]
        if name == "decoder.lin3" and len(bias) == len(channels_first):
            kernel, bias = kernel[channels_first], bias[channels_first]
        put(name, kernel, bias)
    heads = [layer(name) for name in ("mean", "logvar")]
    weight = np.stack([kernel.T for kernel, _ in heads], axis=1)
    put(
        "encoder.mu_logvar_gen",
        weight.reshape(-1, weight.shape[-1]),
        np.stack([bias for _, bias in heads], axis=1).reshape(-1),
    )
    return arrays


def load_dsprites_vae(folder: str | os.PathLike, family: str) -> dict[str, Any]:
    """Parameters of one pretrained dSprites VAE.

    Args:
        folder: Where the files of ``DSPRITES_FILES`` are.
        family: One of its keys.

    Raises:
        ValueError: An unknown family, a folder without the file, or a file that is no npz archive.
    """
    if family not in DSPRITES_FILES:
        raise ValueError(unknown_choice("family", family, DSPRITES_FILES))
    path = pathlib.Path(folder) / DSPRITES_FILES[family]
    if not path.is_file():
        raise ValueError(
            f"no file {path}: expected the weights of a {family} as npz, one array per parameter "
            "under its PyTorch name."
        )
    try:
        with path.open("rb") as file, np.load(file) as loaded:
            arrays = dict(loaded)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an npz archive: {error}") from error
    return from_burgess(arrays)


def _channels_last() -> np.ndarray:
    """For each flat (row, column, channel) its place in (channel, row, column)."""
    return np.arange(512).reshape(_MAP).transpose(1, 2, 0).reshape(-1)


def _bias_shape(layer: str) -> tuple[int, ...]:
    outputs = _SHAPES[layer][1] if "convT" in layer else _SHAPES[layer][0]
    return (outputs,)
