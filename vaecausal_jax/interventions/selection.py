"""Which part of a site an intervention touches."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.indices import as_mask, check_index
from vaecausal_jax.interventions.sites import Site
from vaecausal_jax.interventions.types import check_leaf


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
        group: Several unit indices, or booleans of shape (units,), which may be traced.
        position: Index along each axis that is not the unit axis, e.g. (row, column), each of which
            may be traced.
        mask: Booleans of the site's shape; axes may have length 1.

    Returns:
        (mask, valid): booleans of the site's rank, and a scalar that is false if a traced index is
        out of range, or None if no index is traced. Where it is false the mask is all true and the
        constructors fill in NaN (in a VQ site, a code outside the book): a mistake is never a
        silent no-op.

    Raises:
        ValueError: A concrete index out of range, or a selector that does not fit the site.
    """
    rank, where = len(site.shape), f"at site {name!r}"
    selected, in_range = jnp.ones((1,) * rank, bool), []
    if (unit is not None or group is not None) and site.unit_axis is None:
        raise ValueError(f"site {name!r} {site.shape} has no unit axis; select by position.")
    if unit is not None:
        hint = " Use group= for several units."
        in_range.append(check_index(where, "unit", unit, site.num_units, hint))
        selected &= site.spread(jnp.arange(site.num_units) == unit)
    if group is not None:
        selected &= site.spread(as_mask(where, "unit", group, site.num_units))
    if position is not None:
        axes = [axis for axis in range(rank) if axis != site.unit_axis]
        several = isinstance(position, tuple | list | range) or np.ndim(position) == 1
        position = tuple(position) if several else (position,)
        if len(position) != len(axes) or not axes:
            raise ValueError(
                f"{where}: position {position} has {len(position)} indices, the site {site.shape} "
                f"has {len(axes)} position axes."
            )
        for axis, index in zip(axes, position, strict=True):
            in_range.append(check_index(where, "position", index, site.shape[axis]))
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
