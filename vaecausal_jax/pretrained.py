"""VAEs trained by others: PyTorch weights of the Burgess architecture into our parameters.

The layout of github.com/YannDubs/disentangling-vae (MIT), whose dSprites checkpoints are studied by
``vaecausal study --preset pretrained``. The mapping, PyTorch to Flax:

    conv          (out, in, h, w)   to  (h, w, in, out)
    transposed    (in, out, h, w)   to  (h, w, in, out), flipped in h and w
    dense         (out, in)         to  (in, out)
    first dense after a map: inputs reordered from (channel, row, column) to (row, column, channel)
    last dense before a map: outputs likewise
    mean and log-variance: one layer of 2 K outputs, interleaved
"""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaecausal_jax.sites import unknown_choice

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

    channels_last = np.arange(512).reshape(_MAP).transpose(1, 2, 0).reshape(-1)
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
            f"no file {path}: expected the weights of a {family} as npz, one array a parameter "
            "under its PyTorch name."
        )
    try:
        with path.open("rb") as file, np.load(file) as loaded:
            arrays = dict(loaded)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an npz archive: {error}") from error
    return from_burgess(arrays)


def _bias_shape(layer: str) -> tuple[int, ...]:
    outputs = _SHAPES[layer][1] if "convT" in layer else _SHAPES[layer][0]
    return (outputs,)
