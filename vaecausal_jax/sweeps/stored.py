"""Sweeps that are written to disk as they go, and go on where they stopped.

A folder holds ``manifest.json``, which pins what is computed and by what, and ``effects.zarr``, one
Zarr group (format 2) for each part of the sweep, ``group_of(part.name)``. The points of a part are
computed slab by slab, and a slab is one file of each array, written whole or not at all. A slab
that is there, and has the size that it must have, is finished.
"""

import contextlib
import errno
import functools
import itertools
import json
import math
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.json_values import difference, json_values, plain_dtype, read_object, tree_digest
from vaecausal_jax.locks import run_lock
from vaecausal_jax.manifests import (
    UNSAFE,
    escaped,
    group_of,
    remove_leftovers,
    versions,
    write_text,
    written_whole,
)
from vaecausal_jax.processes import entered_by_first, from_first, gathered, to_host

__all__ = [
    "SLAB_POINTS",
    "Part",
    "Progress",
    "group_of",
    "num_stored",
    "run_stored",
    "variable_of",
]

Progress = Callable[[str, int, int], None]

SLAB_POINTS = 256
"""Points per slab by default: seldom enough to write, often enough to lose little."""


class Part(NamedTuple):
    """One labelled piece of a sweep.

    Attributes:
        name: Its name, such as ``decoder/conv0``; ``group_of(name)`` is its group in the store.
        compute: ``compute(inputs, index)``: results of the points numbered ``index`` (points,), a
            dictionary of arrays with a leading axis of points. Jitted once for a whole part.
        inputs: Pytree of arrays: parameters, images, noise. Their digest is pinned.
        num_points: How many points there are; there may be none.
        dims: Names of each array's axes, by array; the first is that of the points.
        coords: Labels by name: the axis that they run along, and one label per place: text, numbers
            or booleans.
        runs: How many forward passes the part takes at most.
    """

    name: str
    compute: Callable[[Any, jax.Array], Mapping[str, jax.Array]]
    inputs: Any
    num_points: int
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, tuple[str, Any]]
    runs: int


def run_stored(
    folder: str | os.PathLike,
    parts: Sequence[Part],
    spec: Mapping[str, Any],
    *,
    slab_points: int = SLAB_POINTS,
    progress: Progress = lambda what, done, total: None,
) -> pathlib.Path:
    """Computes what the folder does not hold yet.

    Called again after any interruption it computes the missing slabs only, with bitwise the result
    of an uninterrupted call. While it runs, no other process may write to the folder
    (``locks.run_lock``). Of several processes the first one writes; all must call it together.

    ``xarray.open_zarr(path, group=group_of(part.name))`` reads a part; for ordinary names, such as
    ``decoder/conv0``, the group is the name itself. Arrays, axes and labels are named by
    ``variable_of``, which leaves ordinary names as they are too. ``xarray.open_datatree(path)``
    reads all parts, unless one lies within another (``decoder`` and ``decoder/conv0``) and gives
    an axis of the same name another size.

    Results of NumPy's types are stored as they are. Zarr's format 2 has no bfloat16 and no floats
    of 8 bits, so they are stored as float32, and integers of 2 or 4 bits as 8, which holds every
    value exactly; the attribute ``dtype`` says what they were.

    Args:
        folder: Where the results live.
        parts: What to compute.
        spec: What determines the numbers, as JSON values (``json_values``); pinned in the
            manifest together with versions, device kind, slab size and digests of all inputs.
        slab_points: Points computed and written together; a part with fewer is one slab.
        progress: Called as (part, points done, points in all) at the start and after each slab.

    Returns:
        The path of the Zarr store.

    Raises:
        ValueError: A folder of another sweep, with the difference named; a folder that another
            process writes to; a file that is damaged, with what to delete; parts that share a name
            or a place in the store; results or labels that do not fit their axes.
        OSError: A disk that cannot take more. What was written stays, and is not computed again.
    """
    folder = pathlib.Path(folder)
    _check_names(parts)
    if slab_points < 1:
        raise ValueError(f"slab_points is {slab_points}, expected 1 or more.")
    manifest = _manifest(parts, spec, slab_points)
    path = folder / "effects.zarr"
    total, done = sum(part.num_points for part in parts), 0
    computes = {part.name: jax.jit(part.compute) for part in parts}
    arrays = {p.name: _arrays(p, computes[p.name], slab_points) for p in parts}
    with entered_by_first(run_lock(folder)):

        def open_folder() -> dict[str, list[list[str]]]:
            _check_manifest(folder / "manifest.json", manifest)
            missing = _open_store(path, parts, arrays, slab_points)
            with _room(path, 0, total):
                if not (folder / "manifest.json").exists():
                    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))
                _write_metadata(path, parts, arrays)
            return missing

        missing = from_first(open_folder)
        progress(parts[0].name, done, total)
        for part in parts:
            size = _slab_size(part, slab_points)
            for number, names in enumerate(missing[part.name]):
                stop = min((number + 1) * size, part.num_points)
                if names:
                    # The last slab may be short: its last point is repeated, for one program.
                    index = jnp.minimum(number * size + jnp.arange(size), part.num_points - 1)
                    values = computes[part.name](part.inputs, index)
                    slabs = to_host({name: values[name] for name in names})
                    slabs = {name: slab[: stop - number * size] for name, slab in slabs.items()}
                    keep = functools.partial(_write_slabs, path, arrays[part.name], number, slabs)
                    with _room(path, done, total):
                        from_first(keep)
                done += stop - number * size
                progress(part.name, done, total)
    return path


def num_stored(
    folder: str | os.PathLike, parts: Sequence[Part], *, slab_points: int = SLAB_POINTS
) -> int:
    """How many points of the parts a folder holds already; nothing is computed or checked."""
    done = 0
    for part in parts:
        group = pathlib.Path(folder, "effects.zarr", group_of(part.name))
        size = _slab_size(part, slab_points)
        for start in range(0, part.num_points, size):
            files = (
                group / variable_of(name) / _chunk_name(start // size, len(dims))
                for name, dims in part.dims.items()
            )
            if all(file.exists() for file in files):
                done += min(size, part.num_points - start)
    return done


def variable_of(name: str) -> str:
    """The name of an array, an axis or a label in the data set: an ordinary name is left as it is.

    Slashes and spaces, which xarray takes for groups and lists, are percent-encoded like all that
    ``manifests.escaped`` encodes.
    """
    return escaped(name, UNSAFE + r"|\s")


# What a store holds.


class _Array(NamedTuple):
    """An array of the store: of results, or of labels, which are at hand.

    Attributes:
        who: What it is called in messages.
        place: Its folder in the store.
        shape: All of its axes.
        chunks: Those of one file, a slab.
        dtype: NumPy's type.
        attributes: What xarray reads beside it.
        labels: The labels, or None for results.
    """

    who: str
    place: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    attributes: dict[str, Any]
    labels: np.ndarray | None = None


def _check_names(parts: Sequence[Part]) -> None:
    """Raises a ValueError unless everything in the store has a place that is its alone."""
    if len({part.name for part in parts}) < len(parts) or not parts:
        raise ValueError(f"parts need names of their own: {[part.name for part in parts]}.")
    places: dict[str, tuple[str, str]] = {}
    arrays = set()
    for part in parts:
        group = group_of(part.name)
        found = {f"part {part.name!r}": group}
        for what, names in (("array", part.dims), ("label", part.coords)):
            for name in names:
                found[f"{what} {name!r} of part {part.name!r}"] = f"{group}/{variable_of(name)}"
        for who, place in found.items():
            # File systems that ignore case are common, and stores are copied to them.
            key = unicodedata.normalize("NFC", place.casefold())
            if key in places:
                raise ValueError(_clash(*places[key], who, place))
            places[key] = who, place
            if place != group:
                arrays.add(key)
    for key, (who, place) in places.items():
        for end in (match.start() for match in re.finditer("/", key)):
            if key[:end] in arrays:
                raise ValueError(_clash(*places[key[:end]], who, place))


def _clash(who: str, place: str, other: str, other_place: str) -> str:
    meet = f"{who} and {other} would meet in the store, at {place!r} and {other_place!r}"
    case = "" if other_place.startswith(place) else ", on file systems that ignore case"
    return f"{meet}{case}. Rename one of them, or store them in two folders."


def _slab_size(part: Part, slab_points: int) -> int:
    return int(max(1, min(slab_points, part.num_points)))


def _arrays(part: Part, compute: Callable[..., Any], slab_points: int) -> dict[str, _Array]:
    """All arrays of a part by name, results before labels, checked to fit together."""
    if part.num_points < 0:
        raise ValueError(f"part {part.name!r} has {part.num_points} points, expected 0 or more.")
    size = _slab_size(part, slab_points)
    index = jax.ShapeDtypeStruct((size,), jnp.int32)
    results = jax.eval_shape(compute, part.inputs, index)
    if differing := sorted(set(results) ^ set(part.dims)):
        raise ValueError(f"part {part.name!r}: dims and results differ in {differing}.")
    group = group_of(part.name)
    sizes: dict[str, tuple[int, str]] = {}
    arrays = {}
    for name, result in results.items():
        who, dims = f"array {name!r} of part {part.name!r}", part.dims[name]
        if len(dims) != len(result.shape) or result.shape[:1] != (size,):
            raise ValueError(
                f"{who} has the shape {result.shape} for {size} points, expected the axes {dims}, "
                "of which the first is that of the points."
            )
        shape = (int(part.num_points), *result.shape[1:])
        for dim, num in zip(dims, shape, strict=True):
            known, other = sizes.setdefault(dim, (num, who))
            if known != num:
                raise ValueError(f"axis {dim!r} has {num} places in {who}, {known} in {other}.")
        try:
            dtype = plain_dtype(result.dtype)
        except ValueError as error:
            raise ValueError(f"the values of {who} {error}.") from error
        attributes = _attributes(part, dims)
        if dtype != result.dtype:
            attributes["dtype"] = str(result.dtype)
        chunks = (size, *(max(1, num) for num in shape[1:]))
        place = f"{group}/{variable_of(name)}"
        arrays[name] = _Array(who, place, shape, chunks, dtype, attributes)
    for name, (axis, given) in part.coords.items():
        who = f"label {name!r} of part {part.name!r}"
        labels = _label_values(who, given)
        if axis in sizes and len(labels) != sizes[axis][0]:
            raise ValueError(f"{who} has {len(labels)} places, {sizes[axis][1]} {sizes[axis][0]}.")
        arrays[name] = _Array(
            who,
            f"{group}/{variable_of(name)}",
            labels.shape,
            (max(1, len(labels)),),
            labels.dtype,
            {"_ARRAY_DIMENSIONS": [variable_of(axis)]},
            labels,
        )
    return arrays


def _attributes(part: Part, dims: Sequence[str]) -> dict[str, Any]:
    """What xarray reads beside an array: its axes, and the labels along them."""
    attributes: dict[str, Any] = {"_ARRAY_DIMENSIONS": [variable_of(dim) for dim in dims]}
    labels = [c for c, (axis, _) in part.coords.items() if axis in dims and c not in dims]
    if labels:
        attributes["coordinates"] = " ".join(map(variable_of, labels))
    return attributes


def _label_values(who: str, labels: Any) -> np.ndarray:
    """Labels as an array of text, numbers or booleans."""
    array = np.asarray(labels)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.ravel()):
        array = array.astype(str)
    if array.ndim != 1:
        raise ValueError(f"{who} has the shape {array.shape}, expected one label per place.")
    if array.dtype.kind == "S":
        try:
            array = _texts(array)
        except UnicodeDecodeError as error:
            raise ValueError(f"{who} holds bytes that are no text ({error}).") from error
    if array.dtype.kind == "U":
        # NumPy has texts of no characters, Zarr has not.
        return array if array.dtype.itemsize else array.astype(f"{array.dtype.kind}1")
    try:
        return array.astype(plain_dtype(array.dtype))
    except ValueError as error:
        raise ValueError(f"the values of {who} {error}, or text.") from error


# What a folder holds already.


def _manifest(parts: Sequence[Part], spec: Mapping[str, Any], slab_points: int) -> dict[str, Any]:
    digests: dict[int, str] = {}
    for part in parts:
        if id(part.inputs) not in digests:
            digests[id(part.inputs)] = tree_digest(gathered(part.inputs))
    device = jax.devices()[0]
    manifest = {
        "spec": json_values(spec, "spec"),
        "versions": versions(),
        "device": f"{device.platform} {device.device_kind}",
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "slab_points": slab_points,
        "parts": {p.name: {"points": p.num_points, "inputs": digests[id(p.inputs)]} for p in parts},
    }
    return json_values(manifest, "manifest")


def _check_manifest(path: pathlib.Path, manifest: dict[str, Any]) -> None:
    if not path.exists():
        store = path.with_name("effects.zarr")
        if store.exists():
            raise ValueError(
                f"{store} has no {path.name} beside it that says what it holds. Choose another "
                "output folder, or delete it."
            )
        return
    saved = read_object(path, f"Delete {path.parent}.")
    if differing := difference(saved, manifest):
        raise ValueError(
            f"{path.parent} holds another sweep ({differing}). Choose another output folder, or "
            "delete that one."
        )


def _open_store(
    path: pathlib.Path,
    parts: Sequence[Part],
    arrays: Mapping[str, Mapping[str, _Array]],
    slab_points: int,
) -> dict[str, list[list[str]]]:
    """Checks what a store holds already; by part and slab, the arrays that it lacks.

    Raises:
        ValueError: A file that is damaged, or that is not of these arrays.
    """
    remove_leftovers(path, "**/*")
    for place in (".zmetadata", *_metadata(parts, arrays)):
        if (path / place).exists():
            read_object(path / place, "Delete it, and it is written again.")
    missing = {}
    for part in parts:
        num_slabs = math.ceil(part.num_points / _slab_size(part, slab_points))
        slabs: list[list[str]] = [[] for _ in range(num_slabs)]
        for name, array in arrays[part.name].items():
            if array.labels is not None:
                _check_labels(path, array)
                continue
            saved = _saved(path, array)
            if saved and (differing := difference(saved, _zarray(array))):
                raise ValueError(
                    f"{path / array.place} differs from {array.who} ({differing}). Delete it, and "
                    "it is computed again."
                )
            for number, slab in enumerate(slabs):
                if 0 not in array.shape and not _is_whole(path / _chunk(array, number), array):
                    slab.append(name)
        missing[part.name] = slabs
    return missing


def _saved(path: pathlib.Path, array: _Array) -> dict[str, Any] | None:
    file = path / array.place / ".zarray"
    return read_object(file, "Delete it, and it is written again.") if file.exists() else None


def _is_whole(file: pathlib.Path, array: _Array) -> bool:
    """Whether a slab is there; a ValueError if it has another size than it must have."""
    if not file.exists():
        return False
    size, expected = file.stat().st_size, math.prod(array.chunks) * array.dtype.itemsize
    if size != expected or not file.is_file():
        raise ValueError(
            f"{file} has {size} bytes, expected {expected}: it was cut short or overwritten. "
            "Delete it, and it is computed again."
        )
    return True


def _check_labels(path: pathlib.Path, array: _Array) -> None:
    """Raises a ValueError if a store holds other labels, or damaged ones.

    They are not in the manifest, and may be all that tells two sweeps apart: doses, for instance.
    """
    saved, file, labels = _saved(path, array), path / _chunk(array, 0), array.labels
    if saved is None or labels is None or not file.exists():
        return
    try:
        found = np.frombuffer(file.read_bytes(), saved["dtype"])
        (expected,) = saved["shape"]
        if len(found) != expected:
            raise ValueError(f"it holds {len(found)} labels, expected {expected}")
        found = _texts(found)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} is damaged ({error}). Delete it, and it is written again."
        ) from error
    if found.dtype.kind in "biuf" and np.array_equal(found, labels, equal_nan=True):
        return
    # As text, in which NaN equals itself.
    pairs = itertools.zip_longest(*(map(repr, a.tolist()) for a in (found, _texts(labels))))
    for place, (old, new) in enumerate(pairs):
        if old != new:
            raise ValueError(
                f"{path} holds another sweep ({array.who}: saved {old}, given {new} at {place}). "
                "Choose another output folder, or delete that one."
            )


def _texts(labels: Any) -> np.ndarray:
    """Labels with text as text, also where it was stored as bytes, as it once was."""
    return np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels


# What is written.


def _metadata(
    parts: Sequence[Part], arrays: Mapping[str, Mapping[str, _Array]]
) -> dict[str, dict[str, Any]]:
    """The contents of all metadata files by their place in the store."""
    metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}}
    for part in parts:
        group = group_of(part.name)
        for parent in (*pathlib.PurePosixPath(group).parents, group):
            metadata[str(pathlib.PurePosixPath(parent) / ".zgroup")] = {"zarr_format": 2}
        metadata[f"{group}/.zattrs"] = {"runs": int(part.runs)}
        for array in arrays[part.name].values():
            metadata[f"{array.place}/.zattrs"] = array.attributes
            metadata[f"{array.place}/.zarray"] = _zarray(array)
    # Sorted, as zarr-python 3.1 loses groups whose neighbours do not follow each other.
    return dict(sorted(metadata.items()))


def _zarray(array: _Array) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": list(array.shape),
        "chunks": list(array.chunks),
        "dtype": array.dtype.str,
        "compressor": None,
        "fill_value": None,
        "filters": None,
        "order": "C",
        "dimension_separator": ".",
    }


def _chunk(array: _Array, number: int) -> str:
    """The place of the file that holds a slab of an array."""
    return f"{array.place}/{_chunk_name(number, len(array.shape))}"


def _chunk_name(number: int, rank: int) -> str:
    return ".".join([str(number), *["0"] * (rank - 1)])


def _write_metadata(
    path: pathlib.Path, parts: Sequence[Part], arrays: Mapping[str, Mapping[str, _Array]]
) -> None:
    """Writes groups, attributes and labels, so that xarray can read the store from now on."""
    labels = [a for named in arrays.values() for a in named.values() if a.labels is not None]
    for array in labels:
        if _saved(path, array) != _zarray(array):
            # Labels stored as bytes: never beside metadata that call them text.
            (path / _chunk(array, 0)).unlink(missing_ok=True)
    metadata = _metadata(parts, arrays)
    consolidated = {"zarr_consolidated_format": 1, "metadata": metadata}
    for place, content in {**metadata, ".zmetadata": consolidated}.items():
        text = json.dumps(content)
        if not (path / place).exists() or (path / place).read_bytes() != text.encode():
            write_text(path / place, text)
    for array in labels:
        if array.labels is not None and not (path / _chunk(array, 0)).exists():
            _write_chunk(path, array, 0, array.labels)


def _write_chunk(path: pathlib.Path, array: _Array, number: int, values: np.ndarray) -> None:
    """Writes one file of an array; what lies beyond its last point is zero."""
    if values.size:
        chunk = np.zeros(array.chunks, array.dtype)
        chunk[tuple(map(slice, values.shape))] = values
        with written_whole(path / _chunk(array, number)) as file:
            file.write(chunk.tobytes())


def _write_slabs(
    path: pathlib.Path,
    arrays: Mapping[str, _Array],
    number: int,
    slabs: Mapping[str, np.ndarray],
) -> None:
    for name, slab in slabs.items():
        _write_chunk(path, arrays[name], number, slab)


@contextlib.contextmanager
def _room(path: pathlib.Path, done: int, total: int) -> Iterator[None]:
    """Says of a disk that cannot take more what is kept and how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        full = OSError(
            f"cannot write to {path}: {error}. The {done} of {total} points before are kept; make "
            "room and run the same again to go on."
        )
        full.errno = error.errno
        raise full from error
