"""Which factor combinations are set aside, so that nothing that is fitted ever sees them."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data import Dataset, index_of


def held_out(
    data: Dataset, levels: Array | np.ndarray, *, fraction: float = 0.2, salt: int = 0
) -> Array:
    """Whether each factor combination is set aside: the same answer whoever asks, and when.

    A hash of the image index (the finaliser of MurmurHash3) below ``fraction`` of its range, so the
    split needs no list and no key; pure and traceable.

    Args:
        data: The data set.
        levels: (..., factors).
        fraction: Of all combinations.
        salt: Another one gives another split.

    Raises:
        ValueError: A fraction outside (0, 1).
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}.")
    h = index_of(data, levels).astype(jnp.uint32) + jnp.uint32(salt * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> shift)) * jnp.uint32(factor)
    return h < jnp.uint32(int(fraction * 2**32))
