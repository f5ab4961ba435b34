"""The published dSprites: redrawn on the device to the pixel, or read from the published archive.

dSprites (Matthey, Higgins, Hassabis and Lerchner 2017,
https://github.com/deepmind/dsprites-dataset) has 737,280 binary 64 x 64 images. ``DSprites`` draws
them from recovered geometry, so nothing need be downloaded; ``load_dsprites`` reads the archive,
for results on the very pixels that were published. Both have the same factors in the same order and
can stand in for one another.

Its factor ``orientation`` has 40 levels with both ends of the circle, so level 39 repeats level 0.
"""

import functools
import math
import os
import pathlib
import zipfile
import zlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data import sprite_geometry as geometry
from vaecausal_jax.data.dataset import Factor, factors_at, images, num_images
from vaecausal_jax.data.files import check_header, find_file, flat_file, read_exactly
from vaecausal_jax.data.stored import StoredImages

ARCHIVE_NAME = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
ARCHIVE_VARIABLE = "VAECAUSAL_DSPRITES"
"""Environment variable with the archive's path, or that of the folder that holds it."""

WHITE_PIXELS = 128_328_862
"""White pixels in the archive: its published mean 0.042494423521889584 times all its pixels."""

FACTORS = (
    Factor("shape", geometry.SHAPE_CODES, num_distinct=3, cyclic=False),
    Factor("scale", tuple(np.linspace(0.5, 1.0, 6).tolist()), num_distinct=6, cyclic=False),
    Factor(
        "orientation",
        tuple(np.linspace(0.0, 2.0 * np.pi, 40).tolist()),
        num_distinct=39,
        cyclic=True,
    ),
    Factor("x", tuple(np.linspace(0.0, 1.0, 32).tolist()), num_distinct=32, cyclic=False),
    Factor("y", tuple(np.linspace(0.0, 1.0, 32).tolist()), num_distinct=32, cyclic=False),
)
"""The published grid, row-major with y fastest, without the colour factor (it has one level)."""

_SOURCE = f"the archive {ARCHIVE_NAME} published at github.com/deepmind/dsprites-dataset"

# Lengths are counted in 1/62 of a pixel: then pixel centres (odd multiples of 31) and the 32 sprite
# centres (16 + 32 k / 31 pixels) are whole numbers, and offsets between them exact in float32.
_PER_PIXEL = 62
_PIXELS = _PER_PIXEL // 2 * np.arange(1, 2 * geometry.CANVAS, 2)
_CENTRES = _PER_PIXEL * int(geometry.CENTRE_START) + 2 * int(geometry.CENTRE_SPAN) * np.arange(32)
_SCALES = _PER_PIXEL * np.array(FACTORS[1].values)
_COS, _SIN = (table(FACTORS[2].values[:39]) for table in (np.cos, np.sin))
# The heart's outline at every whole degree, which includes all its knots.
_HEART_RADII = np.interp(np.arange(-90, 91), geometry.HEART_ANGLES, geometry.HEART_RADII)


@flax.struct.dataclass
class DSprites:
    """All of dSprites, drawn by the hard rule of the published images; a pytree without leaves.

    A pixel is 1 when its centre lies strictly inside the outline, else 0. Against 332 published
    images 322 are exact, with 16 wrong pixels in the rest (hearts); squares and ellipses are exact.
    """

    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False, default=FACTORS)
    image_shape: tuple[int, int, int] = flax.struct.field(
        pytree_node=False, default=(geometry.CANVAS, geometry.CANVAS, 1)
    )

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (64, 64, 1) at integer levels (factor,)."""
        shape, scale, orientation, x, y = (factors[position] for position in range(5))
        inside = _inside(shape, scale, orientation, x, y)
        return inside.astype(jnp.float32)[:, :, None]


def dsprites_exact() -> DSprites:
    """Builds dSprites as drawn from its recovered geometry: nothing is read or stored."""
    return DSprites()


def _inside(
    shape: jax.Array, scale: jax.Array, orientation: jax.Array, x: jax.Array, y: jax.Array
) -> jax.Array:
    """Returns which pixel centres (h, w) lie strictly inside the sprite."""
    pixels, centres = jnp.asarray(_PIXELS, jnp.int32), jnp.asarray(_CENTRES, jnp.int32)
    dx = (pixels - centres[x]).astype(jnp.float32)[None, :]
    dy = (pixels - centres[y]).astype(jnp.float32)[:, None]
    angle = orientation % len(_COS)
    cos, sin = (jnp.asarray(table, jnp.float32)[angle] for table in (_COS, _SIN))
    u, v = jnp.abs(cos * dx - sin * dy), sin * dx + cos * dy
    unit = jnp.asarray(_SCALES, jnp.float32)[scale]
    square = jnp.maximum(u, jnp.abs(v)) < unit * geometry.SQUARE_HALF_SIDE
    ellipse = _in_ellipse(u, jnp.abs(v), unit)
    return jnp.where(shape == 0, square, jnp.where(shape == 1, ellipse, _in_heart(u, v, unit)))


def _in_ellipse(u: jax.Array, v: jax.Array, unit: jax.Array) -> jax.Array:
    """Whether points of one quadrant, u and v (h, w) not negative, lie within all sides there."""
    a, b = geometry.ELLIPSE_SEMI_AXES
    step = 2.0 * math.pi / geometry.ELLIPSE_SIDES
    angles = [side * step for side in range(geometry.ELLIPSE_SIDES // 4 + 1)]
    heights = [math.cos(angle) / a * u + math.sin(angle) / b * v for angle in angles]
    return functools.reduce(jnp.maximum, heights) < unit * math.cos(step / 2.0)


def _in_heart(u: jax.Array, v: jax.Array, unit: jax.Array) -> jax.Array:
    """Whether points of the right half, u (h, w) not negative, lie within the outline."""
    v = v - unit * geometry.HEART_CENTRE[1]
    degrees = jnp.arctan2(v, u) * (180.0 / math.pi) + 90.0
    start = jnp.clip(jnp.floor(degrees), 0.0, 179.0)
    knot, weight = start.astype(jnp.int32), degrees - start
    radii = jnp.asarray(_HEART_RADII, jnp.float32)
    radius = radii[knot] + weight * (radii[knot + 1] - radii[knot])
    return jnp.sqrt(u**2 + v**2) < unit * radius


def cached_dsprites(path: str | os.PathLike[str], *, verify: bool = True) -> StoredImages:
    """Maps the redrawn dSprites from a file of one bit per pixel (377 MB), drawn at first use.

    What ``load_dsprites`` returns, from geometry instead of the archive: the images of
    ``DSprites``, in the same order and layout. On a CPU the file's pages are the data; an
    accelerator copies them. Drawing goes on where it was interrupted.

    Args:
        path: The file, of your choice; a small note is kept beside it.
        verify: Whether to check the file against the checksum noted when it was drawn.

    Raises:
        ValueError: The file holds something else, or is damaged.
    """
    data = dsprites_exact()
    count = 1536

    @jax.jit
    def draw(start: jax.Array) -> jax.Array:
        drawn = images(data, factors_at(data, start + jnp.arange(count)))
        return jnp.packbits(drawn.reshape(count, -1).astype(jnp.uint8), axis=1)

    def fill(start: int, stop: int) -> np.ndarray:
        rows = [draw(jnp.int32(first)) for first in range(start, stop, count)]
        return np.concatenate(rows)[: stop - start]

    bits = flat_file(
        path,
        fill,
        shape=(num_images(data), math.prod(data.image_shape) // 8),
        holds={"images": "dSprites, drawn from its geometry, one bit a pixel"},
        block=32 * count,
        verify=verify,
    )
    return StoredImages(jax.device_put(bits), data.factors, data.image_shape)


def load_dsprites(
    path: str | os.PathLike[str] | None = None, *, verify: bool = True
) -> StoredImages:
    """Reads the published dSprites archive, checked, at one bit per pixel (377 MB).

    The images stream out of the archive in blocks, so the peak is little more than the result.

    Args:
        path: The ``.npz`` file or the folder that holds it; by default the environment variable
            VAECAUSAL_DSPRITES.
        verify: Whether to check the number of white pixels, which follows from the published mean.

    Raises:
        FileNotFoundError: No such file, or neither path nor variable given.
        ValueError: Not a complete archive, or its keys, shapes, types, factors or pixels differ
            from the published ones.
    """
    return _load(
        find_file(path, variable=ARCHIVE_VARIABLE, names=(ARCHIVE_NAME,), source=_SOURCE),
        factors=FACTORS,
        image_size=geometry.CANVAS,
        white_pixels=WHITE_PIXELS if verify else None,
    )


def _load(
    file: pathlib.Path, *, factors: tuple[Factor, ...], image_size: int, white_pixels: int | None
) -> StoredImages:
    """Reads an archive in the published format, whose grid and image size may be smaller."""
    num = math.prod(factor.size for factor in factors)
    try:
        # The member `metadata` is a Python 2 pickle: it is never opened.
        with zipfile.ZipFile(file) as archive:
            missing = {"imgs.npy", "latents_values.npy", "latents_classes.npy"} - {
                *archive.namelist()
            }
            if missing:
                raise ValueError(f"{file} lacks {sorted(missing)}: expected {_SOURCE}.")
            _check_latents(file, archive, factors)
            bits, white = _read_bits(file, archive, (num, image_size, image_size))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} is truncated or not an archive: expected {_SOURCE}.") from error
    if white_pixels is not None and white != white_pixels:
        raise ValueError(f"{file} has {white} white pixels, expected {white_pixels} of {_SOURCE}.")
    return StoredImages(jax.device_put(bits), factors, (image_size, image_size, 1))


def _check_latents(
    file: pathlib.Path, archive: zipfile.ZipFile, factors: tuple[Factor, ...]
) -> None:
    """Raises unless the labels are the grid of ``factors``, row-major, after a constant colour."""
    names, sizes = [factor.name for factor in factors], [factor.size for factor in factors]
    levels = [range(1), *(range(size) for size in sizes)]
    values = [(1.0,), *(factor.values for factor in factors)]
    shape = (math.prod(sizes), len(levels))
    for key, grid in (("latents_classes", levels), ("latents_values", values)):
        with archive.open(f"{key}.npy") as member:
            found = np.lib.format.read_array(member, allow_pickle=False)
        if found.shape != shape:
            raise ValueError(f"{file}: expected {key} of shape {shape}, got {found.shape}.")
        columns = np.moveaxis(found.reshape(1, *sizes, -1), -1, 0)
        for name, column, axis in zip(["colour", *names], columns, np.ix_(*grid), strict=True):
            if not np.allclose(column, axis, rtol=0.0, atol=1e-5):
                raise ValueError(
                    f"{file}: {name} in {key} is not on the expected grid, {axis.size} levels in "
                    f"row-major order of (colour, {', '.join(names)})."
                )


def _read_bits(
    file: pathlib.Path, archive: zipfile.ZipFile, shape: tuple[int, int, int]
) -> tuple[np.ndarray, int]:
    """Streams the images out of the archive: packed bits (image, byte) and the white pixels."""
    num, pixels = shape[0], shape[1] * shape[2]
    bits = _aligned_empty((num, (pixels + 7) // 8))
    white, block = 0, 4096
    with archive.open("imgs.npy") as member:
        check_header(file, member, name="imgs", shape=shape, source=_SOURCE)
        for start in range(0, num, block):
            count = min(block, num - start)
            rows = np.frombuffer(read_exactly(member, count * pixels), np.uint8)
            rows = rows.reshape(count, pixels)
            if rows.max() > 1:
                raise ValueError(f"{file}: pixels must be 0 or 1, got {rows.max()}.")
            white += int(np.count_nonzero(rows))
            bits[start : start + count] = np.packbits(rows, axis=1)
    return bits, white


def _aligned_empty(shape: tuple[int, int]) -> np.ndarray:
    """Returns an array that JAX adopts on CPU; one off a 64-byte boundary would be copied."""
    memory = np.empty(math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + math.prod(shape)].reshape(shape)
