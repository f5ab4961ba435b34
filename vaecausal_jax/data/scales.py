"""On which scale images are: numbers in [0, 1], bytes of 0 to 255, or only 0 and 1.

A concrete array can be looked at, so that what is sure is converted and what is not is refused.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

_SLACK = 1e-3
"""By how much resized images may leave [0, 1]."""

_BLOCK = 4096


def is_concrete(values: Any) -> bool:
    """Whether the values can be looked at here: an array, not traced, all of it on this host."""
    if isinstance(values, jax.core.Tracer):
        return False
    if isinstance(values, jax.Array):
        return values.is_fully_addressable
    return isinstance(values, np.ndarray)


def native(values: Any) -> Any:
    """The same numbers in the machine's byte order: JAX reads another one wrongly, or fails.

    Raises:
        ValueError: No real numbers.
    """
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        return values
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating, jnp.bool_)):
        raise ValueError(f"images have dtype {dtype}, expected uint8 or floats: real numbers.")
    if isinstance(values, np.ndarray) and not dtype.isnative:
        return values.astype(dtype.newbyteorder("="))
    return values


def check_unit(images: Any, what: str) -> None:
    """Raises unless concrete images lie in [0, 1], up to what resizing adds.

    Raises:
        ValueError: A value outside or no number; the message says how to bring it there.
    """
    if not is_concrete(images) or not images.size:
        return
    low, high = extremes(images)
    if low >= -_SLACK and high <= 1.0 + _SLACK:
        return
    raise ValueError(f"{what} images in [0, 1], got {_described(images, low, high)}.")


def only_zeros_and_ones(pixels: Any) -> bool:
    """Whether no concrete whole number exceeds 1, and one is 1: images of bits, not of bytes."""
    some = False
    for start in range(0, len(pixels), _BLOCK):
        with jax.ensure_compile_time_eval():  # Inside jit, an array of outside can be looked at.
            block = np.asarray(pixels[start : start + _BLOCK])
        if not block.size:
            continue
        if block.max() > 1 or block.min() < 0:  # Most sets answer with their first images.
            return False
        some = some or bool(block.any())
    return some


def whole_numbers_divisor(pixels: Any) -> Any:
    """What images of whole numbers are divided by: 255, or 1 where they are only 0 and 1.

    Of traced pixels it is found when the program runs, and NaN where they are neither.

    Raises:
        ValueError: Concrete pixels that are negative or above 255.
    """
    if pixels.dtype == bool:
        return 1.0
    if not is_concrete(pixels):
        low, high = (jnp.asarray(f(pixels), jnp.float32) for f in (jnp.min, jnp.max))
        return jnp.where((low < 0) | (high > 255), jnp.nan, jnp.where(high > 1, 255.0, 1.0))
    if pixels.dtype != np.uint8:
        low, high = extremes(pixels)
        if low < 0 or high > 255:
            raise ValueError(
                "expected images of whole numbers from 0 to 255 (or only 0 and 1), got "
                f"{_described(pixels, low, high)}."
            )
    return 1.0 if only_zeros_and_ones(pixels) else 255.0


def extremes(values: Any) -> tuple[float, float]:
    """Least and greatest of concrete values, NaN if one is."""
    if isinstance(values, np.ndarray):
        return float(values.min()), float(values.max())
    with jax.ensure_compile_time_eval():
        return float(jnp.min(values)), float(jnp.max(values))


def _described(values: Any, low: float, high: float) -> str:
    said = f"{values.dtype} from {low:.4g} to {high:.4g}"
    if np.isnan(low) or np.isnan(high):
        return f"{values.dtype} with NaN: leave those images out, or fill them"
    if low >= 0 and high <= 255:
        return f"{said}: if these are bytes, pass images / 255"
    if low >= 0 and high <= 65535:
        return f"{said}: if these are of 16 bits, pass images / 65535"
    if low >= -1 - _SLACK and high <= 1 + _SLACK:
        return f"{said}: if that is their range, pass (images + 1) / 2"
    return f"{said}: pass (images - low) / (high - low) with the ends of their scale"
