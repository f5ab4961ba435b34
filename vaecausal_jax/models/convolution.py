"""Strided convolutions of one image, in the form that is fast on the backend at hand.

XLA's CPU convolutions are good in a single forward call, but inside `lax.scan` their gradients
run on slow generic loops (some 40 times slower, layer by layer), and `vmap` over kernels turns them
into grouped convolutions. Matrix products have neither fault, so on a CPU a convolution is here a
matrix product and some moving of data. The forms differ only in what is moved:

    patches          gather every window before the product
    shift_add        product first, then add the shifted results (least data where windows overlap)
    mixed            gather along rows, add along columns
    overlap_add      transposed: each input pixel paints a 4x4 block, blocks are added
    subpixel         transposed: a 2x2 convolution of XLA's to blocks of pixels
    lax              XLA's own convolution: right on GPU and TPU, and the reference

All equal `flax.linen.Conv` / `flax.linen.ConvTranspose` with `padding="SAME"`, without bias, on
kernels in Flax's layout `(kh, kw, in, out)`. The form that is fastest forward does not have the
fastest gradient, so a convolution that is differentiated takes another: a custom rule here
differentiates that other form plainly, in any mode and order. Products are `product`, whose
gradient in the kernel stays one product under `vmap`. Channels are taken apart with `jnp.split`,
not by slicing: the gradient of a split is one concatenation, that of slices a slow sum of padded
arrays.

`benchmarks/convolution.py` measures the forms; the rules in `conv_form` and
`conv_transpose_form` come from it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vaecausal_jax.jax_versions import platform
from vaecausal_jax.models.products import product

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Convolves one image with "SAME" padding.

    Args:
        x: image `(height, width, in)`; batch with `jax.vmap`.
        kernel: `(kh, kw, in, out)`.
        stride: step in both directions.

    Returns:
        `(ceil(height / stride), ceil(width / stride), out)`.
    """
    _check(x, kernel)
    return _in_form(x, kernel, stride, conv_form)


def conv_transpose(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Convolves one image, dilated by `stride`, with "SAME" padding and the kernel not flipped.

    Args:
        x: image `(height, width, in)`; batch with `jax.vmap`.
        kernel: `(kh, kw, in, out)`.
        stride: enlargement in both directions.

    Returns:
        `(stride * height, stride * width, out)`.
    """
    _check(x, kernel)
    return _in_form(x, kernel, stride, conv_transpose_form)


def conv_form(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    *,
    stride: int,
    backend: str,
    differentiated: bool,
) -> Callable[..., jax.Array]:
    """Chooses the form of `conv` by shape and use, at trace time.

    On a CPU: few input channels make all other forms move tiny pieces, so gather windows. XLA's own
    is fastest forward, and slowest in its gradient. A 4x4 kernel at stride 2 sees each pixel four
    times, so gather half and add half; where the map is large and the output is no wider than the
    input, adding alone moves least.

    Elsewhere XLA's own, but for one input channel: that is what a sweep over channels asks of the
    next layer, each point with a kernel of its own, and XLA would convolve every point's channel
    with every point's kernel (`benchmarks.tpu_programs`). The first layer of images of one channel
    is one of them: a product with 16 numbers per window there, not measured.
    """
    *window, channels, features = kernel_shape
    if backend != "cpu":
        return conv_patches if channels == 1 else conv_lax
    if not differentiated:
        return conv_patches if channels < 8 else conv_lax
    if (*window, stride) != (4, 4, 2) or channels < 4:
        return conv_patches
    if min(x_shape[:2]) >= 32 and features <= channels:
        return conv_shift_add
    return conv_mixed


def conv_transpose_form(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    *,
    stride: int,
    backend: str,
    differentiated: bool,
) -> Callable[..., jax.Array]:
    """Chooses the form of `conv_transpose` by shape and use, at trace time.

    On a CPU, for a 4x4 kernel at stride 2: gathering moves `4 * in` values per pixel and
    overlap-add `16 * out`, but gathering computes the borders twice. Forward, gathering pays for a
    few input channels; it has the faster gradient where it moves less. Elsewhere as `conv_form`;
    but on a GPU cuDNN would convolve the map with zeros between its pixels, four times the
    arithmetic.
    """
    del x_shape  # The rule does not need it; a measured one may.
    *window, channels, features = kernel_shape
    if (*window, stride) != (4, 4, 2):
        return conv_transpose_lax
    if backend != "cpu" and channels > 1:
        return conv_transpose_subpixel if backend == "gpu" else conv_transpose_lax
    gather = 4 * features > channels if differentiated else channels < 8
    return conv_transpose_patches if gather else conv_transpose_overlap_add


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _in_form(x: jax.Array, kernel: jax.Array, stride: int, choose: Callable) -> jax.Array:
    return _chosen(x, kernel, stride, choose, differentiated=False)(x, kernel)


@_in_form.defjvp
def _in_form_jvp(stride, choose, primals, tangents):
    x, kernel = primals
    form = _chosen(x, kernel, stride, choose, differentiated=True)
    return jax.jvp(form, primals, tangents)


def _chosen(x, kernel, stride, choose, *, differentiated):
    form = choose(
        x.shape,
        kernel.shape,
        stride=stride,
        backend=platform(),
        differentiated=differentiated,
    )
    return functools.partial(form, stride=stride)


def conv_lax(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Any kernel and stride, by XLA's convolution."""
    strides = (stride, stride)
    return lax.conv_general_dilated(
        x[None], kernel, strides, "SAME", dimension_numbers=_DIMENSIONS
    )[0]


def conv_patches(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Any kernel and stride: gathers every window (kh * kw * in), then one product."""
    kh, kw, channels, features = kernel.shape
    height, width = (-(-size // stride) for size in x.shape[:2])
    x = jnp.pad(x, (_same(x.shape[0], kh, stride), _same(x.shape[1], kw, stride), (0, 0)))
    if kh % stride == kw % stride == 0:
        # Without stride on blocks of pixels: fewer and longer pieces to gather.
        kh, kw, s = kh // stride, kw // stride, stride
        x = x.reshape(height + kh - 1, s, width + kw - 1, s * channels).swapaxes(1, 2)
        x = x.reshape(height + kh - 1, width + kw - 1, s * s * channels)
        kernel = kernel.reshape(kh, s, kw, s, channels, features).swapaxes(1, 2)
        stride = 1
    windows = [
        x[i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(kh)
        for j in range(kw)
    ]
    return product(jnp.concatenate(windows, axis=-1), kernel.reshape(-1, features))


def conv_shift_add(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """4x4 at stride 2: 2x2 blocks of pixels, one product to 4 * out, four shifted sums."""
    _check_4x4(kernel, stride)
    rows = _row_pairs(x)
    height, _, width, channels = rows.shape
    blocks = rows.swapaxes(1, 2).reshape(height, width, 2 * channels)
    # Kernel index i = 2 * (which block) + (row in the block), and likewise for columns.
    weights = kernel.reshape(2, 2, 2, 2, *kernel.shape[2:]).transpose(1, 3, 4, 0, 2, 5)
    parts = product(blocks, weights.reshape(2 * channels, -1))
    top_left, top_right, bottom_left, bottom_right = jnp.split(parts, 4, axis=-1)
    top = top_left[:-1, :-1] + top_right[:-1, 1:]
    return top + bottom_left[1:, :-1] + bottom_right[1:, 1:]


def conv_mixed(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """4x4 at stride 2: gathers four rows of column pairs (8 * in), product to 2 * out, one sum."""
    _check_4x4(kernel, stride)
    rows = _row_pairs(x)
    height, _, _, channels = rows.shape
    gathered = [rows[i // 2 : i // 2 + height - 1, i % 2] for i in range(4)]
    weights = kernel.reshape(4, 2, 2, *kernel.shape[2:]).transpose(0, 2, 3, 1, 4)
    parts = product(jnp.concatenate(gathered, axis=-1), weights.reshape(4 * channels, -1))
    left, right = jnp.split(parts, 2, axis=-1)
    return left[:, :-1] + right[:, 1:]


def conv_transpose_lax(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Any kernel and stride, by XLA's convolution."""
    strides = (stride, stride)
    return lax.conv_transpose(x[None], kernel, strides, "SAME", dimension_numbers=_DIMENSIONS)[0]


def conv_transpose_patches(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """4x4 at stride 2: gathers 2x2 windows (4 * in), product to 2x2 blocks of pixels (4 * out)."""
    _check_4x4(kernel, stride)
    return _blocks_of_windows(x, kernel)[1:-1, 1:-1]


def conv_transpose_subpixel(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """4x4 at stride 2: XLA's 2x2 convolution to 2x2 blocks of pixels (4 * out).

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network" (2016, arXiv:1609.05158).
    """
    _check_4x4(kernel, stride)
    channels = x.shape[-1]
    weights = _transposed_weights(kernel).transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, channels, -1)
    pad = ((1, 1), (1, 1))
    blocks = lax.conv_general_dilated(x[None], weights, (1, 1), pad, dimension_numbers=_DIMENSIONS)[
        0
    ]
    return _interleave(blocks)[1:-1, 1:-1]


def conv_transpose_overlap_add(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """4x4 at stride 2: product to 16 * out, then adds the 2x2 blocks that fall together."""
    _check_4x4(kernel, stride)
    return _overlapping_blocks(x, kernel)[1:-1, 1:-1]


def conv_transpose_full(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """4x4 at stride 2 without the crop of "SAME": all that is reached, one pixel more a side.

    Args:
        x: image `(height, width, in)`.
        kernel: `(4, 4, in, out)`.

    Returns:
        `(2 * height + 2, 2 * width + 2, out)`.
    """
    _check(x, kernel)
    _check_4x4(kernel, 2)
    form = _blocks_of_windows if kernel.shape[2] < 8 else _overlapping_blocks
    return form(x, kernel)


def _blocks_of_windows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width, channels = x.shape
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    corners = [x[a : a + height + 1, b : b + width + 1] for a in (0, 1) for b in (0, 1)]
    weights = _transposed_weights(kernel).transpose(0, 2, 4, 1, 3, 5).reshape(4 * channels, -1)
    return _interleave(product(jnp.concatenate(corners, axis=-1), weights))


def _overlapping_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    weights = _transposed_weights(kernel).transpose(4, 0, 2, 1, 3, 5).reshape(x.shape[-1], -1)
    parts = jnp.split(product(x, weights), 4, axis=-1)
    corners = [(a, b) for a in (0, 1) for b in (0, 1)]
    blocks = [
        jnp.pad(part, ((1 - a, a), (1 - b, b), (0, 0)))
        for part, (a, b) in zip(parts, corners, strict=True)
    ]
    return _interleave(blocks[0] + blocks[1] + blocks[2] + blocks[3])


def _same(size: int, window: int, stride: int) -> tuple[int, int]:
    """Flax's "SAME" padding: what the last window lacks, the smaller half before."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _row_pairs(x: jax.Array) -> jax.Array:
    """Pads for 4x4 at stride 2, to `(h + 1, row in pair, w + 1, pair of columns * in)`: no copy."""
    height, width, channels = x.shape
    h, w = (height + 1) // 2, (width + 1) // 2
    x = jnp.pad(x, ((1, 2 * h + 1 - height), (1, 2 * w + 1 - width), (0, 0)))
    return x.reshape(h + 1, 2, w + 1, 2 * channels)


def _transposed_weights(kernel: jax.Array) -> jax.Array:
    """Kernel as `(a, p, b, q, in, out)`: input pixel `m - 1 + a` to output pixel `2m - 1 + p`.

    Output `o` reads input `i` through kernel index `2i + 2 - o = 2a + (1 - p)`, so the parity
    axes are reversed; `b, q` are the same for columns.
    """
    return kernel.reshape(2, 2, 2, 2, *kernel.shape[2:])[:, ::-1, :, ::-1]


def _interleave(blocks: jax.Array) -> jax.Array:
    """`(h, w, 2 * 2 * out)` blocks of pixels to the image `(2h, 2w, out)`."""
    height, width, features = blocks.shape
    rows = blocks.reshape(height, width, 2, features // 2).swapaxes(1, 2)
    return rows.reshape(2 * height, 2 * width, features // 4)


def _check(x: jax.Array, kernel: jax.Array) -> None:
    if x.ndim != 3 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "Expected one image (height, width, in) and a kernel (kh, kw, in, out), got shapes "
            f"{x.shape} and {kernel.shape}. Batch with jax.vmap."
        )


def _check_4x4(kernel: jax.Array, stride: int) -> None:
    if (*kernel.shape[:2], stride) != (4, 4, 2):
        raise ValueError(
            f"This form is for 4x4 kernels at stride 2, got {kernel.shape[0]}x{kernel.shape[1]} at "
            f"stride {stride}. Use conv or conv_transpose, which choose a form."
        )
