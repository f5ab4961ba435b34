"""3DShapes as published: 480,000 images of a shape in a room, from the file ``3dshapes.h5``.

Burgess and Kim 2018, https://github.com/google-deepmind/3d-shapes. The file holds ``images``
(480000, 64, 64, 3) uint8 and ``labels`` (480000, 6), row-major over the six factors. A rendered
stand-in that needs no file is in ``shapes3d_standin``.
"""

import importlib
import math
import os
import pathlib
from typing import Any

import numpy as np

from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.files import check_md5, find_file, flat_file
from vaecausal_jax.data.stored import StreamedImages

FILE_NAME = "3dshapes.h5"
FILE_VARIABLE = "VAECAUSAL_SHAPES3D"
"""Environment variable with the file's path, or that of the folder that holds it."""

FACTOR_NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
FACTOR_SIZES = (10, 10, 10, 8, 4, 15)
FILE_MD5 = "099a2078d58cec4daad0702c55d06868"

_SOURCE = f"the file {FILE_NAME} published at https://storage.googleapis.com/3d-shapes/{FILE_NAME}"


def load_shapes3d(
    path: str | os.PathLike[str] | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    verify: bool = True,
) -> StreamedImages:
    """Opens the published 3DShapes; images are read when they are asked for.

    The published file is compressed in pieces that each span thousands of images, so single images
    cannot be read from it. They are decoded once, block by block, to a flat file of 5.9 GB that is
    mapped: ``cache``, which is found again the next time, or else a temporary file that ends with
    the process. A file that holds its images uncompressed is mapped where it is.

    Args:
        path: ``3dshapes.h5`` or the folder that holds it; by default the environment variable
            VAECAUSAL_SHAPES3D.
        cache: Where to keep the decoded images; by default in the folder of the environment
            variable VAECAUSAL_CACHE, if it is set.
        verify: Whether to check the file's MD5 (267 MB).

    Raises:
        FileNotFoundError: No such file, or neither path nor variable given.
        ImportError: h5py is not installed.
        ValueError: Another file, a damaged or truncated one, or a cache of something else.
    """
    file = find_file(path, variable=FILE_VARIABLE, names=(FILE_NAME,), source=_SOURCE)
    return _load(file, FACTOR_SIZES, (64, 64, 3), cache=cache, md5=FILE_MD5 if verify else None)


def _load(
    file: pathlib.Path,
    sizes: tuple[int, ...],
    image_shape: tuple[int, int, int],
    *,
    cache: str | os.PathLike[str] | None,
    md5: str | None,
) -> StreamedImages:
    """Opens a file in the published format, whose grid and images may be smaller."""
    h5py = optional_module("h5py", needed_for=FILE_NAME)
    num = math.prod(sizes)
    try:
        with h5py.File(file) as archive:
            missing = {"images", "labels"} - {*archive}
            if missing:
                raise ValueError(f"{file} lacks {sorted(missing)}: expected {_SOURCE}.")
            for key, shape, kind in (
                ("images", (num, *image_shape), "uint8"),
                ("labels", (num, len(sizes)), "float64"),
            ):
                found = archive[key]
                if found.shape != shape or found.dtype != kind:
                    raise ValueError(
                        f"{file}: expected {key} of shape {shape} and type {kind}, got "
                        f"{found.shape} and {found.dtype}: expected {_SOURCE}."
                    )
            if md5 is not None:
                check_md5(file, md5, source=_SOURCE)
            factors = _factors(file, archive["labels"][()], sizes)
            pixels = _map_images(file, archive["images"], cache)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{file} is truncated or no HDF5 file: expected {_SOURCE}.") from error
    return StreamedImages(lambda rows: pixels[rows], factors, image_shape)


def optional_module(name: str, *, needed_for: str, package: str | None = None) -> Any:
    """Imports a module that only some loaders need.

    Raises:
        ImportError: It is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"reading {needed_for} needs {package or name}, which comes with the study extra: "
            'python -m pip install "vaecausal_jax[study]"'
        ) from error


def _factors(file: pathlib.Path, labels: np.ndarray, sizes: tuple[int, ...]) -> tuple[Factor, ...]:
    """The factors with the file's own values, which must lie row-major on the grid."""
    columns = np.moveaxis(labels.reshape(*sizes, -1), -1, 0)
    factors = []
    for axis, (name, size, column) in enumerate(zip(FACTOR_NAMES, sizes, columns, strict=True)):
        first = tuple(slice(None) if k == axis else 0 for k in range(len(sizes)))
        values = column[first]
        along = values.reshape([size if k == axis else 1 for k in range(len(sizes))])
        if not np.array_equal(column, np.broadcast_to(along, sizes)) or np.any(
            np.diff(values) <= 0
        ):
            raise ValueError(
                f"{file}: {name} in labels is not on the expected grid, {size} rising levels in "
                f"row-major order of {FACTOR_NAMES}: expected {_SOURCE}."
            )
        cyclic = name.endswith("hue")
        factors.append(Factor(name, tuple(values.tolist()), size, cyclic))
    return tuple(factors)


def _map_images(
    file: pathlib.Path, images: Any, cache: str | os.PathLike[str] | None
) -> np.ndarray:
    offset = images.id.get_offset()
    if images.chunks is None and offset is not None:
        return np.memmap(file, np.uint8, "r", offset=offset, shape=images.shape)
    # Whole pieces of the file at a time, else each would be decompressed again and again.
    rows = images.chunks[0] if images.chunks else 1024
    return flat_file(
        cache,
        lambda start, stop: images[start:stop],
        shape=images.shape,
        holds={"images": "3DShapes", "source_bytes": file.stat().st_size},
        name="3dshapes.npy",
        block=rows * max(1, 2**26 // (rows * math.prod(images.shape[1:]))),
    )
