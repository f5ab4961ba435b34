"""Images that exist already: as bits or bytes on the device, or on disk and fetched when asked for.

All three map levels to an image as a renderer does, so they serve as a ``Dataset`` wherever one is
taken. The protocol's ``image`` is pure, and reading a file that nobody changes is pure too: the
image of a row is always the same. ``StreamedImages`` therefore hands the lookup to the host in a
``jax.pure_callback``, one call for a whole vmapped batch, and moves bytes, never floats; it works
under jit, vmap and scan, and keeps only the batch in memory. Where a set fits the device,
``on_device`` turns it into ``ByteImages``, whose lookup is a gather with no call to the host.
"""

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data.dataset import Dataset, Drawn, Factor, Unpaired, index_of, num_images
from vaecausal_jax.data.scales import is_concrete, only_zeros_and_ones

_ENOUGH = 16
"""So many images with no pixel above 1 are images of bits."""

ReadImages = Callable[[np.ndarray], np.ndarray]
"""Image indices (num,) in the order of ``index_of`` to pixels (num, h, w, c) uint8, on the host."""


@flax.struct.dataclass
class StoredImages:
    """Binary images kept in memory at one bit per pixel.

    Attributes:
        bits: (image, ceil(h * w / 8)) uint8, the pixels of each image packed row by row, the first
            in the highest bit (``numpy.packbits``), images in the order of ``index_of``.
        factors: The grid of factors.
        image_shape: (h, w, 1).
    """

    bits: jax.Array
    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, 1) at integer levels (factor,)."""
        row = self.bits[index_of(self, factors)]
        shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8)
        pixels = (row[:, None] >> shifts[None, :]) & 1
        return (
            pixels.reshape(-1)[: math.prod(self.image_shape)]
            .reshape(self.image_shape)
            .astype(jnp.float32)
        )


@flax.struct.dataclass
class ByteImages:
    """Images kept in the device's memory at one byte per channel.

    Attributes:
        pixels: (image, h, w, c) uint8 from 0 to 255, images in the order of ``index_of``.
        factors: The grid of factors.
        image_shape: (h, w, c).

    Raises:
        ValueError: Concrete pixels of another type, or of 0 and 1 alone, which would all be black.
    """

    pixels: jax.Array
    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def __post_init__(self):
        """Looks at pixels that are images: trees are rebuilt with other leaves too."""
        if not is_concrete(self.pixels) or self.pixels.shape[1:] != self.image_shape:
            return
        _check_bytes(self.pixels)
        if only_zeros_and_ones(self.pixels):
            raise ValueError(
                "pixels are only 0 and 1, and ByteImages reads 0 to 255: pass 255 * pixels, or "
                "StoredImages of numpy.packbits(pixels.reshape(len(pixels), -1), axis=1)."
            )

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at integer levels (factor,)."""
        return _unit(self.pixels[index_of(self, factors)])


@flax.struct.dataclass
class StreamedImages:
    """Images that stay on the host until they are asked for; a pytree without leaves.

    Attributes:
        read: The host's lookup; two sets are one to ``jax.jit`` when their ``read`` is the same
            object.
        factors: The grid of factors.
        image_shape: (h, w, c).
    """

    read: ReadImages = flax.struct.field(pytree_node=False)
    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at integer levels (factor,).

        Under ``jit`` an index outside the set stops the program with an error of the runtime.
        """
        pixels = jax.pure_callback(
            self._fetch,
            jax.ShapeDtypeStruct(self.image_shape, jnp.uint8),
            index_of(self, factors),
            vmap_method="broadcast_all",
        )
        return _unit(pixels)

    def _fetch(self, index: jax.Array) -> np.ndarray:
        rows, total = np.asarray(index), num_images(self)
        flat = rows.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= total):
            raise ValueError(f"image index outside 0 to {total - 1}: {flat.min()} to {flat.max()}.")
        pixels = self.read(flat)
        _check_bytes(pixels)
        if flat.size >= _ENOUGH and only_zeros_and_ones(pixels):
            raise ValueError(
                f"{flat.size} images have pixels of only 0 and 1, and StreamedImages reads 0 to "
                "255: let read return 255 * pixels."
            )
        return pixels.reshape(*rows.shape, *self.image_shape)


@flax.struct.dataclass
class Resized:
    """Another set's images at another size. Build it with ``resized``."""

    data: Dataset
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the set itself."""
        return self.data.factors

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at integer levels (factor,)."""
        image = jax.image.resize(self.data.image(factors), self.image_shape, "linear")
        return jnp.clip(image, 0.0, 1.0)


@flax.struct.dataclass
class ResizedDrawn(Resized):
    """The same of a set with its own distribution, which it keeps."""

    def draw(self, key: jax.Array, num: int) -> jax.Array:
        """Draws rows of levels as the set itself does."""
        return self.data.draw(key, num)  # pyright: ignore[reportAttributeAccessIssue]


@flax.struct.dataclass
class ResizedPhotographs(Resized):
    """The same of a set without minimal pairs, which it has no more than the set itself."""

    @property
    def no_minimal_pairs(self) -> str:
        """Why not, in the set's own words."""
        return self.data.no_minimal_pairs  # pyright: ignore[reportAttributeAccessIssue]


def resized(data: Dataset, image_size: int) -> Dataset:
    """Returns the same set with square images of another size; the set itself if it has that size.

    Anti-aliased triangle filter (``jax.image.resize``), on the device, image by image.

    Raises:
        ValueError: A size below one pixel, or images that are not square.
    """
    height, width, channels = data.image_shape
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}.")
    if height != width:
        raise ValueError(f"resized takes square images, got {height} x {width}.")
    if image_size == height:
        return data
    kind = Resized
    if isinstance(data, Drawn):
        kind = ResizedDrawn
    elif isinstance(data, Unpaired):
        kind = ResizedPhotographs
    return kind(data, (image_size, image_size, channels))


def on_device(data: StreamedImages, *, block: int = 4096) -> ByteImages:
    """Reads a streamed set whole into the device's memory, at one byte per channel.

    It takes ``num_images * h * w * c`` bytes there and, while it is read, on the host: 224 MB for
    one camera of a SmallNORB file, 5.9 GB for 3DShapes, 12.7 GB for MPI3D. A set of 0 and 1 alone
    becomes one of 0 and 255.

    Raises:
        ValueError: ``data.read`` gives another type than uint8.
    """
    pixels = np.empty((num_images(data), *data.image_shape), np.uint8)
    for start in range(0, len(pixels), block):
        rows = np.arange(start, min(start + block, len(pixels)))
        read = data.read(rows)
        _check_bytes(read)
        pixels[rows] = read
    if only_zeros_and_ones(pixels):
        pixels *= 255
    return ByteImages(jax.device_put(pixels), data.factors, data.image_shape)


def _check_bytes(pixels: np.ndarray | jax.Array) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels are {pixels.dtype}{pixels.shape}, expected uint8 from 0 to 255: of floats in "
            "[0, 1] pass numpy.round(255 * pixels).astype(numpy.uint8)."
        )


def _unit(pixels: jax.Array) -> jax.Array:
    return pixels.astype(jnp.float32) / 255.0
