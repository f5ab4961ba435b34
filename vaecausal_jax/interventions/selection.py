"""Which part of a site an intervention touches, and how a bad index is made loud."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vaecausal_jax.interventions.types import check_leaf
from vaecausal_jax.sites import Array, Site


def select(
    name: str,
    site: Site,
    *,
    unit: Any = None,
    group: Any = None,
    position: Any = None,
    mask: Any = None,
) -> tuple[Array, Array | None]:
    """The part of a site that an intervention touches.

    Several selectors intersect; none selects all.

    Args:
        name: Site name, for messages.
        site: The site.
        unit: One index along the unit axis; may be traced (a sweep over units).
        group: Several unit indices, or booleans of shape (units,).
        position: Index along each axis that is not the unit axis, e.g. (row, column).
        mask: Booleans of the site's shape; axes may have length 1.

    Returns:
        (mask, valid): booleans of the site's rank, and a scalar that is false if a traced index is
        out of range, or None if no index is traced. Where it is false the mask is all true and the
        constructors fill in NaN (in a VQ site, a code outside the book): a mistake is never a
        silent no-op.

    Raises:
        ValueError: A concrete index out of range, or a selector that does not fit the site.
    """
    rank = len(site.shape)
    selected, in_range = jnp.ones((1,) * rank, bool), []
    if unit is not None or group is not None:
        if site.unit_axis is None:
            raise ValueError(f"site {name!r} {site.shape} has no unit axis; select by position.")
        along = [1] * rank
        along[site.unit_axis] = site.num_units
    if unit is not None:
        in_range.append(check_index(name, "unit", unit, site.num_units))
        selected &= (jnp.arange(site.num_units) == unit).reshape(along)
    if group is not None:
        selected &= _group_mask(name, group, site.num_units).reshape(along)
    if position is not None:
        axes = [axis for axis in range(rank) if axis != site.unit_axis]
        position = position if isinstance(position, tuple | list) else (position,)
        if len(position) != len(axes) or not axes:
            raise ValueError(
                f"at site {name!r}: position {position} has {len(position)} indices, the site "
                f"{site.shape} has {len(axes)} position axes."
            )
        for axis, index in zip(axes, position, strict=True):
            in_range.append(check_index(name, "position", index, site.shape[axis]))
            shape = tuple(site.shape[axis] if a == axis else 1 for a in range(rank))
            selected = selected & (jnp.arange(site.shape[axis]) == index).reshape(shape)
    if mask is not None:
        mask = jnp.asarray(mask)
        check_leaf(name, "mask", mask, site, jnp.bool_)
        selected = selected & mask
    traced = [one for one in in_range if one is not None]
    if not traced:
        return selected, None
    valid = jnp.all(jnp.stack(traced))
    return selected | ~valid, valid


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None while it is traced."""
    return None if isinstance(value, Tracer) else np.asarray(value)


def check_index(name: str, word: str, index: Any, size: int) -> Array | None:
    """Whether a traced index is in range; None for a concrete one.

    Raises:
        ValueError: A concrete index out of range, or what is no single integer.
    """
    if np.shape(index) != () or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ValueError(
            f"at site {name!r}: {word} must be one integer, got {index!r}. Use group= for several "
            "units."
        )
    host = concrete(index)
    if host is not None and not 0 <= host < size:
        raise ValueError(
            f"at site {name!r}: {word} {host} is out of range; valid are 0 .. {size - 1}."
        )
    return None if host is not None else (index >= 0) & (index < size)


def _group_mask(name: str, group: Any, num_units: int) -> Array:
    host, group = concrete(group), jnp.asarray(group)
    if group.dtype == jnp.bool_:
        if group.shape != (num_units,):
            raise ValueError(
                f"at site {name!r}: group has shape {group.shape}, expected ({num_units},)."
            )
        return group
    if group.ndim != 1 or not jnp.issubdtype(group.dtype, jnp.integer) or group.size == 0:
        raise ValueError(
            f"at site {name!r}: group must be a non-empty list of unit indices or booleans of "
            f"shape ({num_units},), got {group.dtype}{group.shape}."
        )
    if host is None:
        raise ValueError(f"at site {name!r}: a traced group must be booleans ({num_units},).")
    outside = host[(host < 0) | (host >= num_units)]
    if outside.size:
        raise ValueError(
            f"at site {name!r}: unit {outside[0]} is out of range; valid are 0 .. {num_units - 1}."
        )
    return jnp.zeros(num_units, bool).at[group].set(True)
