"""Values that differ from those of a clean run in one place.

After a patch of one unit most of a network's values are those of the clean run. ``Changed`` says
so, and the layers of ``vaecausal_jax.models.layers`` use it.
"""

from typing import Any, NamedTuple

import jax
from jax import lax

Array = jax.Array


class Changed(NamedTuple):
    """A value that differs from a clean one inside a box only.

    Attributes:
        clean: The whole value in the clean run.
        inside: The value in the box; its shape is the box's.
        start: First index of the box, one scalar an axis; may be traced.
    """

    clean: Array
    inside: Array
    start: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole value."""
        return self.clean.shape

    @property
    def dtype(self) -> Any:
        """Its dtype."""
        return self.clean.dtype


Value = Array | Changed


def whole(value: Value) -> Array:
    """The value as one array."""
    if isinstance(value, Changed):
        return lax.dynamic_update_slice(value.clean, value.inside, value.start)
    return value


def change(value: Changed) -> Array:
    """What was added to the clean value inside the box."""
    return value.inside - box(value.clean, value)


def box(array: Array, where: Changed) -> Array:
    """The part of an array, of the same whole shape, that lies in the box."""
    return lax.dynamic_slice(array, where.start, where.inside.shape)
