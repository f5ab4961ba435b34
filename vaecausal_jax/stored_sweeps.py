"""Sweeps that are written to disk as they go, and go on where they stopped.

A folder holds ``manifest.json``, which pins what is computed and by what, and ``effects.zarr``, one
Zarr group for each part of the sweep. The points of a part are computed slab by slab, and a slab is
one file of each array, written whole (by TensorStore) or not at all. What is there is finished.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from vaecausal_jax.checkpoint import versions
from vaecausal_jax.manifests import difference, tree_digest, write_text

Progress = Callable[[str, int, int], None]

SLAB_POINTS = 256
"""Points a slab by default: seldom enough to write, often enough to lose little."""


class Part(NamedTuple):
    """One labelled piece of a sweep.

    Attributes:
        name: Its group in the store, such as ``decoder/conv0``.
        compute: ``compute(inputs, index)``: results of the points numbered ``index`` (points,), a
            dictionary of arrays with a leading axis of points. Jitted once for a whole part.
        inputs: Pytree of arrays: parameters, images, noise. Their digest is pinned.
        num_points: How many points there are.
        dims: Names of each array's axes, by array; the first is that of the points.
        coords: Labels by name: the axis that they run along, and one label a place.
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
    of an uninterrupted call.

    Args:
        folder: Where the results live.
        parts: What to compute.
        spec: What determines the numbers, as JSON values; pinned in the manifest together with
            versions, device kind, slab size and digests of all inputs.
        slab_points: Points computed and written together; a part with fewer is one slab.
        progress: Called as (part, points done, points in all) at the start and after each slab.

    Returns:
        The path of the Zarr store. ``xarray.open_zarr(path, group=part.name)`` reads a part.

    Raises:
        ValueError: A folder of another sweep, with the difference named; parts of one name.
        OSError: A disk that cannot take more. What was written stays, and is not computed again.
    """
    folder = pathlib.Path(folder)
    if len({part.name for part in parts}) < len(parts) or not parts:
        raise ValueError(f"parts need names of their own: {[part.name for part in parts]}.")
    _check_manifest(folder, _manifest(parts, spec, slab_points))
    path = folder / "effects.zarr"
    sizes = {part.name: min(slab_points, part.num_points) for part in parts}
    computes = {part.name: jax.jit(part.compute) for part in parts}
    stores = _open_store(path, parts, computes, sizes)
    total, done = sum(part.num_points for part in parts), 0
    progress(parts[0].name, done, total)
    for part in parts:
        compute, arrays, size = computes[part.name], stores[part.name], sizes[part.name]
        for number in range(math.ceil(part.num_points / size)):
            stop = min((number + 1) * size, part.num_points)
            missing = {k: a for k, a in arrays.items() if not _slab_file(path, part, a, number)}
            if missing:
                # The last slab may be short: its last point is repeated, so that one program does.
                index = jnp.minimum(number * size + jnp.arange(size), part.num_points - 1)
                values = compute(part.inputs, index)
                for name, array in missing.items():
                    slab = np.asarray(values[name])[: stop - number * size]
                    _write(array[number * size : stop], slab, path, done, total)
            done += stop - number * size
            progress(part.name, done, total)
    return path


def _manifest(parts: Sequence[Part], spec: Mapping[str, Any], slab_points: int) -> dict[str, Any]:
    digests: dict[int, str] = {}
    for part in parts:
        if id(part.inputs) not in digests:
            digests[id(part.inputs)] = tree_digest(part.inputs)
    device = jax.devices()[0]
    manifest = {
        "spec": dict(spec),
        "versions": versions(),
        "device": f"{device.platform} {device.device_kind}",
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "slab_points": slab_points,
        "parts": {p.name: {"points": p.num_points, "inputs": digests[id(p.inputs)]} for p in parts},
    }
    return json.loads(json.dumps(manifest))


def _check_manifest(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    if not path.exists():
        write_text(path, json.dumps(manifest, indent=1))
        return
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete {folder}.") from error
    if differing := difference(saved, manifest):
        raise ValueError(
            f"{folder} holds another sweep ({differing}). Choose another output folder, or delete "
            "that one."
        )


def _open_store(path, parts, computes, sizes) -> dict[str, dict[str, tensorstore.TensorStore]]:
    """The arrays of all parts, made if absent, with the groups and labels that xarray reads."""
    metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}}
    stores = {}
    for part in parts:
        for parent in pathlib.PurePosixPath(part.name).parents[:-1]:
            metadata[f"{parent}/.zgroup"] = {"zarr_format": 2}
        metadata[f"{part.name}/.zgroup"] = {"zarr_format": 2}
        metadata[f"{part.name}/.zattrs"] = {"runs": part.runs}
        index = jax.ShapeDtypeStruct((sizes[part.name],), jnp.int32)
        shapes = jax.eval_shape(computes[part.name], part.inputs, index)
        if differing := sorted(set(shapes) ^ set(part.dims)):
            raise ValueError(f"part {part.name!r}: dims and results differ in {differing}.")
        stores[part.name] = {
            name: _open_array(
                path / part.name / name,
                (part.num_points, *shape.shape[1:]),
                shape.shape,
                shape.dtype,
            )
            for name, shape in shapes.items()
        }
        for name, (_, labels) in part.coords.items():
            _write_labels(path / part.name / name, np.asarray(labels))
        dims = {**part.dims, **{name: (axis,) for name, (axis, _) in part.coords.items()}}
        for name, axes in dims.items():
            array = f"{part.name}/{name}"
            labels = [c for c, (axis, _) in part.coords.items() if axis in axes and c not in axes]
            metadata[f"{array}/.zattrs"] = {"_ARRAY_DIMENSIONS": list(axes)}
            if name in part.dims and labels:
                metadata[f"{array}/.zattrs"]["coordinates"] = " ".join(labels)
            metadata[f"{array}/.zarray"] = json.loads((path / array / ".zarray").read_text())
    for name, content in metadata.items():
        if not name.endswith(".zarray"):
            write_text(path / name, json.dumps(content))
    consolidated = {"zarr_consolidated_format": 1, "metadata": metadata}
    write_text(path / ".zmetadata", json.dumps(consolidated))
    return stores


def _write_labels(path: pathlib.Path, labels: np.ndarray) -> None:
    labels = labels.astype("S") if labels.dtype.kind == "U" else labels
    array = _open_array(path, labels.shape, labels.shape, labels.dtype)
    # TensorStore sees the characters of fixed-length strings as one more axis.
    array.write(labels[:, None].view("S1") if labels.dtype.kind == "S" else labels).result()


def _open_array(path, shape, chunks, dtype) -> tensorstore.TensorStore:
    dtype = np.dtype(dtype)
    return tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {
                "shape": list(shape),
                "chunks": list(chunks),
                "dtype": dtype.str,
                "compressor": None,
                "fill_value": None,
            },
            "open": True,
            "create": True,
            # A slab that is all fill value must leave a file too: files say what is finished.
            "store_data_equal_to_fill_value": True,
        }
    ).result()


def _slab_file(path, part, array, number) -> bool:
    name = array.kvstore.path.rstrip("/").rsplit("/", 1)[-1]
    rest = [0] * (array.rank - 1)
    return (path / part.name / name / ".".join(map(str, [number, *rest]))).is_file()


def _write(target, values, path, done, total) -> None:
    try:
        target.write(values).result()
    except (OSError, ValueError) as error:
        raise OSError(
            f"cannot write to {path}: {error}. The {done} of {total} points before are kept; make "
            "room and run the same again to go on."
        ) from error
