"""MPI3D as published: 1,036,800 images of a robot arm with an object, in four archives.

Gondal et al. 2019, "On the Transfer of Inductive Bias from Simulation to the Real World: a New
Disentanglement Dataset" (arXiv:1906.03292), https://github.com/rr-learning/disentanglement_dataset.
Each archive holds one array, ``images`` (num, 64, 64, 3) uint8, row-major over seven factors and
without labels. The number of images tells the grid: 1,036,800 have six colours and six shapes,
460,800 (real complex objects, and subsets in circulation under the other names) four and four. A
rendered stand-in that needs no file is in ``mpi3d_standin``.
"""

import math
import os
import pathlib
import zipfile
import zlib
from typing import IO

import numpy as np

from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.files import (
    check_header,
    check_md5,
    find_file,
    flat_file,
    mapped_member,
    read_exactly,
)
from vaecausal_jax.data.stored import StreamedImages
from vaecausal_jax.errors import unknown_choice

FILE_NAMES = {
    "toy": "mpi3d_toy.npz",
    "realistic": "mpi3d_realistic.npz",
    "real": "mpi3d_real.npz",
    "real_complex": "real3d_complicated_shapes_ordered.npz",
}
FILE_VARIABLE = "VAECAUSAL_MPI3D"
"""Environment variable with an archive's path, or that of the folder that holds it."""

FACTOR_NAMES = (
    "object_color",
    "object_shape",
    "object_size",
    "camera_height",
    "background_color",
    "horizontal_axis",
    "vertical_axis",
)
FACTOR_SIZES = (6, 6, 2, 3, 3, 40, 40)
COMPLEX_FACTOR_SIZES = (4, 4, 2, 3, 3, 40, 40)

# The real images were replaced in 2025 and the complex ones have no published checksum.
_MD5 = {
    "toy": "55889cb7c7dfc655d6e0277beee88868",
    "realistic": "59a6225b88b635365f70c91b3e52f70f",
}
_MEMBER = "images.npy"


def load_mpi3d(
    path: str | os.PathLike[str] | None = None,
    *,
    variant: str = "toy",
    cache: str | os.PathLike[str] | None = None,
    verify: bool = False,
) -> StreamedImages:
    """Opens an archive of MPI3D; images are read when they are asked for.

    The published archives (12.7 GB) hold their images uncompressed and are mapped where they are.
    One that was compressed again is decoded once, block by block, to a flat file: ``cache``, which
    is found again the next time, or else a temporary file that ends with the process.

    Args:
        path: The ``.npz`` file or the folder that holds it; by default the environment variable
            VAECAUSAL_MPI3D.
        variant: "toy", "realistic", "real" or "real_complex": which file of a folder, and which
            checksum. A file is opened whatever its name.
        cache: Where to keep the images of a compressed archive; by default in the folder of the
            environment variable VAECAUSAL_CACHE, if it is set.
        verify: Whether to check the archive's MD5, which reads all of it. Only those of the toy and
            realistic images are known: the real images were replaced in April 2025.

    Raises:
        FileNotFoundError: No such file, or neither path nor variable given.
        ValueError: An unknown variant, another file, a truncated one, or a cache of something else.
    """
    if variant not in FILE_NAMES:
        raise ValueError(unknown_choice("variant", variant, FILE_NAMES))
    if verify and variant not in _MD5:
        raise ValueError(
            f"no checksum is known for the {variant} images (those of {sorted(_MD5)} are): "
            "verify=False checks their shape and type alone."
        )
    source = _source(variant)
    file = find_file(path, variable=FILE_VARIABLE, names=(FILE_NAMES[variant],), source=source)
    return _load(
        file,
        (FACTOR_SIZES, COMPLEX_FACTOR_SIZES),
        (64, 64, 3),
        cache=cache,
        md5=_MD5[variant] if verify else None,
        source=source,
    )


def _source(variant: str) -> str:
    return (
        f"the archive {FILE_NAMES[variant]} published by "
        "https://github.com/rr-learning/disentanglement_dataset"
    )


def _load(
    file: pathlib.Path,
    grids: tuple[tuple[int, ...], ...],
    image_shape: tuple[int, int, int],
    *,
    cache: str | os.PathLike[str] | None,
    md5: str | None,
    source: str,
) -> StreamedImages:
    """Opens an archive in the published format, on the first of the grids that has its length."""
    try:
        with zipfile.ZipFile(file) as archive:
            if _MEMBER not in archive.namelist():
                raise ValueError(f"{file} lacks ['{_MEMBER}']: expected {source}.")
            with archive.open(_MEMBER) as content:
                sizes = _grid_of(file, content, grids, source)
        if md5 is not None:
            check_md5(file, md5, source=source)
        shape = (math.prod(sizes), *image_shape)
        pixels = mapped_member(file, _MEMBER, shape=shape, source=source)
        if pixels is None:
            pixels = _decoded(file, cache, shape, source)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} is truncated or not an archive: expected {source}.") from error
    mapped = pixels
    return StreamedImages(lambda rows: mapped[rows], _factors(sizes), image_shape)


def _grid_of(
    file: pathlib.Path, content: IO[bytes], grids: tuple[tuple[int, ...], ...], source: str
) -> tuple[int, ...]:
    """The grid with as many points as the array has images; shape and type are checked later."""
    try:
        np.lib.format.read_magic(content)
        found, _, _ = np.lib.format.read_array_header_1_0(content)
    except ValueError as error:
        raise ValueError(f"{file}: {_MEMBER} is not a NumPy array: expected {source}.") from error
    for sizes in grids:
        if found[:1] == (math.prod(sizes),):
            return sizes
    counts = " or ".join(str(math.prod(sizes)) for sizes in grids)
    raise ValueError(f"{file}: expected {counts} images, got shape {found}: expected {source}.")


def _factors(sizes: tuple[int, ...]) -> tuple[Factor, ...]:
    return tuple(
        Factor(name, tuple(float(level) for level in range(size)), size, cyclic=False)
        for name, size in zip(FACTOR_NAMES, sizes, strict=True)
    )


def _decoded(
    file: pathlib.Path,
    cache: str | os.PathLike[str] | None,
    shape: tuple[int, ...],
    source: str,
) -> np.ndarray:
    with zipfile.ZipFile(file) as archive, archive.open(_MEMBER) as content:
        check_header(file, content, name=_MEMBER, shape=shape, source=source)
        start_of_rows, row = content.tell(), math.prod(shape[1:])

        def fill(start: int, stop: int) -> np.ndarray:
            content.seek(start_of_rows + start * row)
            data = read_exactly(content, (stop - start) * row)
            return np.frombuffer(data, np.uint8).reshape(stop - start, *shape[1:])

        holds = {"images": "MPI3D", "source_bytes": file.stat().st_size}
        return flat_file(cache, fill, shape=shape, holds=holds, name=f"{file.stem}.npy")
