"""What a study leaves on disk: finished parts, labelled arrays (Zarr) and tables (JSON).

Every write goes to a neighbouring name first and is renamed when complete, so a file that exists is
whole.
"""

import json
import math
import os
import pathlib
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from vaecausal_jax.manifests import difference, write_text


class Parts:
    """The finished measurements of one study: named groups of arrays that survive a crash.

    Args:
        folder: The study's folder.
        spec: What determines its numbers, as JSON values.

    Raises:
        ValueError: The folder holds parts of another spec; the message names the difference.
    """

    def __init__(self, folder: str | os.PathLike, spec: Mapping[str, Any]):
        self._folder = pathlib.Path(folder) / "parts"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "spec.json"
        spec = json.loads(json.dumps(spec))
        if path.exists():
            try:
                saved = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}). Delete {self._folder}.") from error
            if differing := difference(saved, spec):
                raise ValueError(
                    f"{folder} holds another study ({differing}). Choose another output folder, "
                    "or delete that one."
                )
        else:
            write_text(path, json.dumps(spec, indent=1))

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished part, or None.

        Raises:
            ValueError: A file that is damaged, by name.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}). Delete it, and it is measured again."
            ) from error

    def write(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Keeps the arrays of a part."""
        path = self._path(name)
        partial = path.with_suffix(".partial")
        entries: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items()}
        with partial.open("wb") as file:
            np.savez(file, **entries)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name.replace('/', '.')}.npz"


def checkpoint_folder(folder: str | os.PathLike, title: str) -> pathlib.Path:
    """Where a family's checkpoints live inside a study's folder."""
    return pathlib.Path(folder) / "checkpoints" / title


def write_json(folder: str | os.PathLike, name: str, values: Any) -> pathlib.Path:
    """Writes strict JSON: arrays as lists, NaN and infinities as null."""
    path = pathlib.Path(folder) / name
    write_text(path, json.dumps(_plain(values), indent=1, allow_nan=False))
    return path


def read_json(folder: str | os.PathLike, name: str) -> Any:
    """Reads back what ``write_json`` wrote."""
    return json.loads((pathlib.Path(folder) / name).read_text())


def write_effects(folder: str | os.PathLike, effects: xr.Dataset) -> pathlib.Path:
    """Writes labelled arrays as ``effects.zarr``; ``xarray.open_zarr`` reads them."""
    path = pathlib.Path(folder) / "effects.zarr"
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    effects.to_zarr(partial, mode="w", consolidated=True, zarr_format=2)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    return path


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
