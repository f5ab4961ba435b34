"""What a study leaves on disk: finished parts, labelled arrays (Zarr) and tables (JSON).

Every write goes to a neighbouring name first and is renamed when complete, so a file that exists is
whole.
"""

import contextlib
import errno
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

from vaecausal_jax.json_values import difference, json_values, plain_dtype, read_object
from vaecausal_jax.manifests import (
    escaped,
    partial_name,
    remove_leftovers,
    unescaped,
    write_text,
    written_whole,
)
from vaecausal_jax.processes import from_first, tree_from_first

# The names of parts differ in more than case: some file systems ignore it.
_UNSAFE_IN_PART = "[^a-z0-9_-]"
# Dots would be taken for the ending that NumPy gives to an array's file.
_UNSAFE_IN_ARRAY = r"[^a-zA-Z0-9_/-]"


class Parts:
    """The finished measurements of one study: named groups of arrays that survive a crash.

    Of several processes the first one reads and writes; all must call together.

    Args:
        folder: The study's folder.
        spec: What determines its numbers, as JSON values.

    Raises:
        ValueError: The folder holds parts of another spec; the message names the difference.
    """

    def __init__(self, folder: str | os.PathLike, spec: Mapping[str, Any]):
        self._folder = pathlib.Path(folder) / "parts"
        from_first(lambda: self._open(json_values(spec, "spec")))

    def _open(self, spec: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)
        path = self._folder / "spec.json"
        if path.exists():
            saved = read_object(path, f"Delete {self._folder}.")
            if differing := difference(saved, spec):
                raise ValueError(
                    f"{self._folder.parent} holds another study ({differing}). Choose another "
                    "output folder, or delete that one."
                )
        else:
            write_text(path, json.dumps(spec, indent=1))

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished part, or None.

        Raises:
            ValueError: A file that is damaged, by name.
        """
        found: dict[str, np.ndarray] = {}

        def load() -> dict[str, Any] | None:
            arrays = self._load(name)
            found.update(arrays or {})
            return arrays and {key: [list(a.shape), a.dtype.str] for key, a in arrays.items()}

        kinds = from_first(load)
        if kinds is None:
            return None
        blank = {key: np.zeros(shape, dtype) for key, (shape, dtype) in kinds.items()}
        return tree_from_first(found or blank)

    def _load(self, name: str) -> dict[str, np.ndarray] | None:
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return {unescaped(key): values for key, values in arrays.items()}
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}). Delete it, and it is measured again."
            ) from error

    def write(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Keeps the arrays of a part: numbers, booleans or text.

        Types that NumPy does not have, such as bfloat16, are kept as float32 or as integers of 8
        bits, which hold every value exactly.

        Raises:
            ValueError: An array of anything else, by name.
        """
        entries = {key: _storable(f"{key} of part {name!r}", a) for key, a in arrays.items()}
        from_first(lambda: self._save(name, entries))

    def _save(self, name: str, entries: Mapping[str, np.ndarray]) -> None:
        with written_whole(self._path(name)) as file, zipfile.ZipFile(file, "w") as archive:
            for key, values in entries.items():
                entry = f"{escaped(key, _UNSAFE_IN_ARRAY)}.npy"
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / _part_file(name)


def _part_file(name: str) -> str:
    return ".".join(escaped(piece, _UNSAFE_IN_PART) for piece in name.split("/")) + ".npz"


def _storable(who: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind in "SU":
        # NumPy has texts of no characters, which its files do not bring back.
        return array if array.dtype.itemsize else array.astype(f"{array.dtype.kind}1")
    try:
        return array.astype(plain_dtype(array.dtype), copy=False)
    except ValueError as error:
        raise ValueError(f"the values of {who} {error}, or text.") from error


def checkpoint_folder(folder: str | os.PathLike, title: str) -> pathlib.Path:
    """Where a family's checkpoints live inside a study's folder."""
    return pathlib.Path(folder) / "checkpoints" / escaped(title)


def write_json(folder: str | os.PathLike, name: str, values: Any) -> pathlib.Path:
    """Writes strict JSON: arrays as lists, NaN and infinities as null.

    Raises:
        ValueError: A value that JSON cannot hold, by name.
    """
    path = pathlib.Path(folder) / name
    values = json_values(_plain(values, name), name)
    write_text(path, json.dumps(values, indent=1, allow_nan=False))
    return path


def read_json(folder: str | os.PathLike, name: str) -> Any:
    """Reads back what ``write_json`` wrote.

    Raises:
        ValueError: A file that is damaged, by name.
    """
    path = pathlib.Path(folder) / name
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it, and make it again.") from error


def write_effects(folder: str | os.PathLike, effects: xr.Dataset) -> pathlib.Path:
    """Writes labelled arrays as ``effects.zarr``; ``xarray.open_zarr`` reads them.

    Of several writers the last one to finish wins.
    """
    path = pathlib.Path(folder) / "effects.zarr"
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    partial = partial_name(path)
    try:
        effects.to_zarr(partial, mode="w", consolidated=True, zarr_format=2)
        _replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _replace_folder(new: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a finished folder its name; what had the name before is removed."""
    while True:
        old = partial_name(path)
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)
        try:
            new.rename(path)
            return
        except OSError as error:  # Another writer has taken the name in between.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with contextlib.suppress(OSError):
                    old.rename(path)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _plain(value: Any, name: str) -> Any:
    """Named tuples as mappings, arrays as lists, and None for numbers that are not finite."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        plain = {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
        if len(plain) < len(value):
            raise ValueError(f"two keys of {name} are one as text: {sorted(map(str, value))}.")
        return plain
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{place}]") for place, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return _plain(json_values(value, name), name)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
