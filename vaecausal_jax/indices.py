"""What indexes: one meaning of a unit, a list of units, a position, a factor, everywhere.

One index is an integer, of Python, NumPy or JAX. Several are a list, tuple, range or array of
them, in the order given, each once; or booleans, one per choice, which are a mask. A single integer
where several may be given is a list of one. Floats, negative, repeated and absent indices are
refused: none of them says for certain what is meant.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


def is_traced(value: Any) -> bool:
    """Whether the value, or any of a list of them, is known only as the program runs."""
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, Tracer) for part in parts)


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None while any of it is traced."""
    return None if is_traced(value) else np.asarray(value)


def check_index(where: str, word: str, index: Any, size: int, hint: str = "") -> Array | None:
    """Whether a traced index is in range; None for a concrete one.

    Args:
        where: Of what, for the message: "at site 'latent/z'".
        word: What is indexed: "unit".
        index: One integer, concrete or traced.
        size: How many there are.
        hint: What to do for several.

    Raises:
        ValueError: A concrete index out of range, or what is no single integer.
    """
    traced = is_traced(index)
    is_one = isinstance(index, Tracer) and index.shape == () if traced else np.ndim(index) == 0
    if not is_one or not _are_integers(index):
        raise ValueError(
            f"{where}: {word} must be one integer, 0 .. {size - 1}, got {_shown(index)}.{hint}"
        )
    if traced:
        return (index >= 0) & (index < size)
    if not 0 <= int(index) < size:
        raise ValueError(f"{where}: {word} {index} is out of range; valid are 0 .. {size - 1}.")
    return None


def choose(where: str, word: str, given: Any, size: int) -> tuple[Array, Array | None]:
    """Several indices of which some may be known only as the program runs; all if None is given.

    Args:
        where: Of what, for the message: "at site 'latent/z'".
        word: What is indexed, in the singular: "unit".
        given: As in ``as_indices``; or traced integers (chosen,).
        size: How many there are.

    Returns:
        The indices, (chosen,), and which of them are in range; None for that if none is traced.
        Traced ones that are out of range are replaced by 0.

    Raises:
        ValueError: As in ``as_indices``; traced ones that are not integers.
    """
    if given is None:
        return jnp.arange(size), None
    if not is_traced(given):
        return jnp.asarray(as_indices(where, word, given, size)), None
    indices = jnp.asarray(given)
    if indices.ndim != 1 or not _are_integers(indices):
        raise ValueError(
            f"{where}: traced {word}s must be integers of shape (chosen,), got "
            f"{indices.dtype}{indices.shape}."
        )
    known = (indices >= 0) & (indices < size)
    return jnp.where(known, indices, 0), known


def as_indices(where: str, word: str, given: Any, size: int) -> np.ndarray:
    """Several indices as an array of integers, in the order given.

    Args:
        where: Of what, for the message: "at site 'latent/z'".
        word: What is indexed, in the singular: "unit".
        given: Integers, each once, a single one, or booleans (size,): a mask.
        size: How many there are.

    Returns:
        (chosen,) int64, one or more, each within 0 .. size - 1.

    Raises:
        ValueError: Floats, indices that are out of range, repeated or traced, none at all, or a
            mask of another length.
    """
    expected = f"expected indices within 0 .. {size - 1}, or booleans of shape ({size},)"
    if (host := concrete(given)) is None:
        raise ValueError(f"{where}: {word}s are traced; {expected}, known before the program runs.")
    if host.dtype == bool:
        if host.shape != (size,):
            raise ValueError(f"{where}: {word}s are booleans of shape {host.shape}; {expected}.")
        host = np.flatnonzero(host)
    if host.size == 0:
        raise ValueError(f"{where}: no {word} is chosen by {_shown(given)}; {expected}.")
    if host.ndim > 1 or not _are_integers(host):
        raise ValueError(f"{where}: {word}s are {_shown(given)}; {expected}.")
    host = host.reshape(-1).astype(np.int64)
    outside = host[(host < 0) | (host >= size)]
    if outside.size:
        raise ValueError(
            f"{where}: {word} {outside[0]} is out of range; valid are 0 .. {size - 1}."
        )
    values, counts = np.unique(host, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"{where}: {word} {values[counts > 1][0]} is given more than once.")
    return host


def as_mask(where: str, word: str, given: Any, size: int) -> Array:
    """Several indices as booleans (size,); booleans, which may be traced, as they are.

    Booleans that are all false choose nothing, on purpose; a list of nothing is refused.
    """
    if is_traced(given) and jnp.result_type(*jax.tree.leaves(given)) != jnp.bool_:
        raise ValueError(f"{where}: a traced group of {word}s must be booleans ({size},).")
    if is_traced(given) or np.asarray(given).dtype == bool:
        mask = jnp.asarray(given)
        if mask.shape != (size,):
            raise ValueError(
                f"{where}: {word}s are booleans of shape {mask.shape}, expected ({size},)."
            )
        return mask
    return jnp.zeros(size, bool).at[as_indices(where, word, given, size)].set(True)


def _are_integers(value: Any) -> bool:
    """Whether these are integers: booleans and floats are not, whatever their value."""
    dtype = value.dtype if isinstance(value, Tracer) else np.asarray(value).dtype
    return jnp.issubdtype(dtype, jnp.integer)


def _shown(value: Any) -> str:
    """A short text of what was given."""
    if isinstance(value, Tracer):
        return f"traced {value.dtype}{value.shape}"
    if not is_traced(value) and np.size(value) > 8:
        return f"{np.asarray(value).dtype}{np.shape(value)}"
    return " ".join(repr(value).split())
