"""SmallNORB as published: photographs of fifty toys under all cameras and lights.

LeCun, Huang and Bottou 2004, https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/. Each half (training
and testing) has three files in its binary matrix format (not MATLAB's): ``dat``, 24,300
pairs of 96 x 96 images from two cameras; ``cat``, the category; ``info``, the instance, elevation,
azimuth and lighting.

The photographs come shuffled and are presented here as the grid that they fill: category, instance,
elevation, azimuth, lighting, each combination once. Two things about it:

* Instance is nested in category: instance 4 of the animals and instance 4 of the cars have nothing
  in common but the number. A pair that differs in category or in instance alone shows two toys
  under one camera and light; only elevation, azimuth and lighting change the view of the same toy.
* The halves share no toy: instances 4, 6, 7, 8 and 9 of every category are in training, 0, 1, 2, 3
  and 5 in testing. A set of one half has five instances, the factor's values say which.
"""

import gzip
import math
import os
import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np

from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.files import check_md5, flat_file, given_path, read_exactly
from vaecausal_jax.data.stored import StreamedImages
from vaecausal_jax.errors import unknown_choice

FILE_VARIABLE = "VAECAUSAL_SMALLNORB"
"""Environment variable with the path of the folder that holds the files."""

CATEGORIES = ("animal", "human", "airplane", "truck", "car")
"""The toys of category 0 to 4."""

_STEMS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
_MD5 = {
    "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat.gz": "66054832f9accfe74a0f4c36a75bc0a2",
    "smallnorb-5x46789x9x18x6x2x96x96-training-cat.mat.gz": "23c8b86101fbf0904a000b43d3ed2fd9",
    "smallnorb-5x46789x9x18x6x2x96x96-training-info.mat.gz": "51dee1210a742582ff607dfd94e332e3",
    "smallnorb-5x01235x9x18x6x2x96x96-testing-dat.mat.gz": "e4ad715691ed5a3a5f138751a4ceb071",
    "smallnorb-5x01235x9x18x6x2x96x96-testing-cat.mat.gz": "5aa791cd7e6016cf957ce9bdb93b8603",
    "smallnorb-5x01235x9x18x6x2x96x96-testing-info.mat.gz": "a9454f3864d7fd4bb3ea7fc3eb84924e",
}
_TYPES = {
    0x1E3D4C51: np.dtype("<f4"),
    0x1E3D4C53: np.dtype("<f8"),
    0x1E3D4C54: np.dtype("<i4"),
    0x1E3D4C55: np.dtype("u1"),
    0x1E3D4C56: np.dtype("<i2"),
}


class _Levels(NamedTuple):
    """What the labels of each half must be; every combination of them occurs once."""

    category: tuple[int, ...] = (0, 1, 2, 3, 4)
    train_instances: tuple[int, ...] = (4, 6, 7, 8, 9)
    test_instances: tuple[int, ...] = (0, 1, 2, 3, 5)
    elevation: tuple[int, ...] = tuple(range(9))
    azimuth: tuple[int, ...] = tuple(range(0, 36, 2))
    lighting: tuple[int, ...] = tuple(range(6))

    def instances(self, half: str) -> tuple[int, ...]:
        return self.train_instances if half == "train" else self.test_instances


def load_smallnorb(
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    camera: int = 0,
    cache: str | os.PathLike[str] | None = None,
    verify: bool = True,
) -> StreamedImages:
    """Opens the published SmallNORB as a grid; images are read when they are asked for.

    Images are (96, 96, 1), as published; ``resized(data, 64)`` gives the usual 64 x 64. The factors
    are category, instance, elevation (degrees from the horizontal), azimuth (degrees) and lighting.
    A ``dat`` file that is not compressed is mapped where it is; from a ``.gz`` the images are
    decoded once, to ``cache`` or else to a temporary file that ends with the process.

    Args:
        path: The folder with the three files of each half, named as published, with or without
            ``.gz``; by default the environment variable VAECAUSAL_SMALLNORB.
        split: "train" or "test", five instances of each category, or "all", ten.
        camera: 0 (left) or 1 (right) of each stereo pair.
        cache: A file name for decoded images; "-train" or "-test" is put before its ending. By
            default in the folder of the environment variable VAECAUSAL_CACHE, if it is set.
        verify: Whether to check the MD5 of files that end in ``.gz``, as published.

    Raises:
        FileNotFoundError: No such file, or neither path nor variable given.
        ValueError: An unknown split or camera; another file, a damaged or truncated one; labels
            that do not fill the grid.
    """
    return _load(
        given_path(path, variable=FILE_VARIABLE, source=_source("train", "dat")),
        split,
        camera,
        cache=cache,
        verify=verify,
        levels=_Levels(),
        side=96,
    )


def _source(half: str, kind: str) -> str:
    return (
        f"the file {_STEMS[half]}-{kind}.mat (or .mat.gz) published at "
        "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
    )


def _load(
    folder: pathlib.Path,
    split: str,
    camera: int,
    *,
    cache: str | os.PathLike[str] | None,
    verify: bool,
    levels: _Levels,
    side: int,
) -> StreamedImages:
    """Opens files in the published format, whose grid and images may be smaller."""
    halves = {"train": ("train",), "test": ("test",), "all": ("train", "test")}
    if split not in halves:
        raise ValueError(unknown_choice("split", split, halves))
    if camera not in (0, 1):
        raise ValueError(f"camera must be 0 (left) or 1 (right), got {camera}.")
    instances = tuple(sorted(i for half in halves[split] for i in levels.instances(half)))
    grid = (levels.category, instances, levels.elevation, levels.azimuth, levels.lighting)
    # Row of the photograph at each point of the grid, the second half's rows after the first's.
    place = np.full([len(axis) for axis in grid], -1)
    photographs = []
    for half in halves[split]:
        labels = _labels(folder, half, levels, verify)
        cells = tuple(np.searchsorted(axis, labels[:, k]) for k, axis in enumerate(grid))
        place[cells] = sum(map(len, photographs)) + np.arange(len(labels))
        shape = (len(labels), 2, side, side)
        photographs.append(_photographs(folder, half, shape, cache, verify))
    order, starts = place.reshape(-1), np.cumsum([0, *map(len, photographs)])

    def read(index: np.ndarray) -> np.ndarray:
        rows = order[index]
        pixels = np.empty((len(rows), side, side), np.uint8)
        for start, stop, photos in zip(starts[:-1], starts[1:], photographs, strict=True):
            here = (rows >= start) & (rows < stop)
            pixels[here] = photos[rows[here] - start, camera]
        return pixels[..., None]

    return StreamedImages(read, _factors(grid), (side, side, 1))


def _factors(grid: tuple[tuple[int, ...], ...]) -> tuple[Factor, ...]:
    category, instance, elevation, azimuth, lighting = (np.array(axis, float) for axis in grid)
    return tuple(
        Factor(name, tuple(values.tolist()), len(values), cyclic=name == "azimuth")
        for name, values in (
            ("category", category),
            ("instance", instance),
            ("elevation", 30.0 + 5.0 * elevation),
            ("azimuth", 10.0 * azimuth),
            ("lighting", lighting),
        )
    )


def _labels(folder: pathlib.Path, half: str, levels: _Levels, verify: bool) -> np.ndarray:
    """Category, instance, elevation, azimuth and lighting (photograph, 5) of one half."""
    grid = (
        levels.category,
        levels.instances(half),
        levels.elevation,
        levels.azimuth,
        levels.lighting,
    )
    num = math.prod(map(len, grid))
    columns = []
    for kind, shape in (("cat", (num,)), ("info", (num, 4))):
        file = _find(folder, half, kind, verify)
        columns.append(_matrix(file, shape, "<i4", _source(half, kind)).reshape(num, -1))
    labels = np.concatenate(columns, axis=1)
    for name, column, axis in zip(
        ("category", "instance", "elevation", "azimuth", "lighting"), labels.T, grid, strict=True
    ):
        wrong = column[~np.isin(column, axis)]
        if wrong.size:
            raise ValueError(
                f"{folder}: {name} {wrong[0]} is not among the {half} half's {axis}: expected "
                f"{_source(half, 'info')}."
            )
    if len(np.unique(labels, axis=0)) < num:
        raise ValueError(
            f"{folder}: the labels of the {half} half repeat a combination, expected each of {num} "
            f"once: expected {_source(half, 'info')}."
        )
    return labels


def _find(folder: pathlib.Path, half: str, kind: str, verify: bool) -> pathlib.Path:
    name = f"{_STEMS[half]}-{kind}.mat"
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            if verify and file.name in _MD5:
                check_md5(file, _MD5[file.name], source=_source(half, kind))
            return file
    raise FileNotFoundError(
        f"no file {folder / name} or {name}.gz: expected {_source(half, kind)}."
    )


def _open(file: pathlib.Path) -> Any:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _read_header(file: pathlib.Path, content: Any, shape: tuple[int, ...], kind: str, source: str):
    """Reads magic number, rank and dimensions (three at least, as published) and check them."""
    magic, rank = np.frombuffer(read_exactly(content, 8), "<i4").tolist()
    if magic not in _TYPES:
        raise ValueError(f"{file} has the unknown magic number {magic:#x}: expected {source}.")
    # A rank that no file has would be taken for a length.
    dims = np.frombuffer(read_exactly(content, 4 * max(3, min(rank, 8))), "<i4").tolist()
    found = tuple(dims[:rank])
    if _TYPES[magic] != np.dtype(kind) or found != shape:
        raise ValueError(
            f"{file}: expected a matrix of shape {shape} and type {np.dtype(kind)}, got {found} "
            f"and {_TYPES[magic]}: expected {source}."
        )


def _matrix(file: pathlib.Path, shape: tuple[int, ...], kind: str, source: str) -> np.ndarray:
    try:
        with _open(file) as content:
            _read_header(file, content, shape, kind, source)
            size = math.prod(shape) * np.dtype(kind).itemsize
            return np.frombuffer(read_exactly(content, size), kind).reshape(shape)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is truncated or damaged: expected {source}.") from error


def _photographs(
    folder: pathlib.Path,
    half: str,
    shape: tuple[int, ...],
    cache: str | os.PathLike[str] | None,
    verify: bool,
) -> np.ndarray:
    """The pairs of photographs (photograph, camera, h, w) of one half, mapped."""
    file, source = _find(folder, half, "dat", verify), _source(half, "dat")
    try:
        with _open(file) as content:
            _read_header(file, content, shape, "u1", source)
            start_of_rows = content.tell()
            if file.suffix != ".gz":
                whole = start_of_rows + math.prod(shape)
                if file.stat().st_size < whole:
                    raise EOFError
                return np.memmap(file, np.uint8, "r", offset=start_of_rows, shape=shape)
            row = math.prod(shape[1:])

            def fill(start: int, stop: int) -> np.ndarray:
                content.seek(start_of_rows + start * row)
                data = read_exactly(content, (stop - start) * row)
                return np.frombuffer(data, np.uint8).reshape(stop - start, *shape[1:])

            if cache is not None:
                cache = pathlib.Path(cache)
                cache = cache.with_name(f"{cache.stem}-{half}{cache.suffix}")
            holds = {"images": f"SmallNORB {half}", "source_bytes": file.stat().st_size}
            return flat_file(cache, fill, shape=shape, holds=holds, name=f"smallnorb-{half}.npy")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is truncated or damaged: expected {source}.") from error
