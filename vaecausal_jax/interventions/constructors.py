"""Constructors that set, shift, scale, clamp, swap and steer the selected part of a site."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.indices import concrete
from vaecausal_jax.interventions.selection import select
from vaecausal_jax.interventions.sites import Site, Sites
from vaecausal_jax.interventions.types import (
    Affine,
    Clamp,
    CodeMap,
    Interventions,
    Replace,
    SubspaceSwap,
    basis_dtype,
    check_arithmetic,
    check_dtype,
    check_leaf,
    poison,
)


def set_to(sites: Sites, name: str, value: Any, **where: Any) -> Interventions:
    """Sets the selected part of a site to ``value``.

    Args:
        sites: The model's sites.
        name: Site name.
        value: Scalar or array of the site's shape (axes may have length 1).
        **where: ``unit``, ``group``, ``position`` or ``mask``, see ``select``; all of it if none.

    Returns:
        An interventions mapping.

    Raises:
        ValueError: Unknown site, or a shape, dtype, unit or position that does not fit.
    """
    site = sites[name]
    mask, valid = select(name, site, **where)
    return {name: Replace(mask, poison(as_leaf(name, "value", value, site), valid))}


def shift_by(sites: Sites, name: str, amount: Any, **where: Any) -> Interventions:
    """Adds ``amount`` (scalar or array, in the site's own units) to the selected part.

    Raises:
        ValueError: As ``set_to``; or a site of booleans or of integers that would wrap around.
    """
    return _affine(sites, name, 1, amount, where)


def scale_by(sites: Sites, name: str, factor: Any, **where: Any) -> Interventions:
    """Multiplies the selected part by ``factor`` (scalar or array); raises as ``shift_by``."""
    return _affine(sites, name, factor, 0, where)


def clamp_to(sites: Sites, name: str, low: Any, high: Any, **where: Any) -> Interventions:
    """Limits the selected part to the interval from ``low`` to ``high``."""
    site = sites[name]
    if jnp.issubdtype(site.dtype, jnp.complexfloating):
        raise ValueError(
            f"at site {name!r}: clamp_to needs values with an order, and the site is {site.dtype}. "
            "Use set_to or scale_by."
        )
    mask, valid = select(name, site, **where)
    low_host, high_host = concrete(low), concrete(high)
    low, high = (as_leaf(name, word, v, site) for word, v in (("low", low), ("high", high)))
    if low_host is not None and high_host is not None and np.any(low_host > high_host):
        raise ValueError(f"at site {name!r}: clamp_to got low {low_host} above high {high_host}.")
    clamp = Clamp(mask, poison(low, valid), poison(high, valid))
    clamp.check(name, site)
    return {name: clamp}


def swap_subspace(sites: Sites, name: str, basis: Any, donor: Any, **where: Any) -> Interventions:
    """Swaps the subspace spanned by the rows of ``basis`` to a donor's value there.

    Args:
        sites: The model's sites.
        name: Site name.
        basis: (rank, *trailing axes of the site). Rows need not be orthonormal: the span counts.
        donor: Site-shaped value to take the subspace from, as in ``Trace.activations``.
        **where: See ``select``.

    Raises:
        ValueError: Also when the rows of a concrete basis are linearly dependent. Traced ones give
            NaN.
    """
    site = sites[name]
    mask, valid = select(name, site, **where)
    host, dtype = concrete(basis), basis_dtype(name, site)
    basis = jnp.asarray(basis)
    basis = (
        basis.astype(dtype) if basis.dtype == site.dtype else as_dtype(name, "basis", basis, dtype)
    )
    SubspaceSwap(mask, basis, as_leaf(name, "donor", donor, site)).check(name, site)
    flat = basis.reshape(basis.shape[0], -1)
    rank = flat.shape[0] if host is None else np.linalg.matrix_rank(np.asarray(flat))
    if rank < flat.shape[0] or flat.shape[0] > flat.shape[1]:
        raise ValueError(
            f"at site {name!r}: the {flat.shape[0]} rows of the basis are linearly dependent "
            f"(rank {min(rank, flat.shape[1])})."
        )
    rows, triangle = jnp.linalg.qr(flat.T)
    # The part of each row outside the span of those before it; rounding alone leaves a few eps.
    outside = jnp.abs(jnp.diag(triangle)) / jnp.linalg.norm(triangle, axis=0)
    independent = jnp.all(outside > 10 * flat.shape[1] * jnp.finfo(flat.dtype).eps)
    valid = independent if valid is None else valid & independent
    donor = poison(as_leaf(name, "donor", donor, site), valid)
    return {name: SubspaceSwap(mask | ~valid, rows.T.reshape(basis.shape), donor)}


def swap_direction(sites: Sites, name: str, direction: Any, donor: Any) -> Interventions:
    """Swaps one direction: ``swap_subspace`` of rank one, ``direction`` without the rank axis."""
    return swap_subspace(sites, name, jnp.asarray(direction)[None], donor)


def swap_codes(
    sites: Sites, name: str, codes: Any, *, num_codes: int, **where: Any
) -> Interventions:
    """Puts given codes at the selected positions of a VQ model.

    Args:
        sites: The model's sites.
        name: The site of the codes, ``"latent/codes"``.
        codes: An integer, or integers of the site's shape.
        num_codes: Size of the codebook, to check the codes against.
        **where: ``position`` or ``mask``, see ``select``.

    Raises:
        ValueError: A concrete code outside 0 .. num_codes - 1. A traced one gives NaN outputs.
    """
    _check_codes(name, concrete(codes), num_codes)
    return set_to(sites, name, codes, **where)


def map_codes(sites: Sites, name: str, table: Any, **where: Any) -> Interventions:
    """Renames codes by a table of new codes, one entry a code of the codebook."""
    site = sites[name]
    mask, valid = select(name, site, **where)
    host, table = concrete(table), jnp.asarray(table)
    step = CodeMap(mask, table)
    step.check(name, site)
    _check_codes(name, host, table.size)
    return {name: step._replace(table=poison(table, valid))}


def patch(sites: Sites, name: str, donor: Any, **where: Any) -> Interventions:
    """Sets the selected part to a donor run's value: activation patching, or swap.

    Args:
        sites: The model's sites.
        name: Site name.
        donor: Site-shaped value, as in ``Trace.activations[name]`` of the donor run.
        **where: See ``select``.
    """
    donor = jnp.asarray(donor)
    if donor.shape != sites[name].shape:
        raise ValueError(
            f"at site {name!r}: donor has shape {donor.shape}, expected {sites[name].shape} "
            "(one image's activation; vmap over images)."
        )
    return set_to(sites, name, donor, **where)


def steer(sites: Sites, name: str, direction: Any, dose: Any, **where: Any) -> Interventions:
    """Adds ``dose * direction``; the direction spans the site's last axes or all of them."""
    site = sites[name]
    check_arithmetic(name, site)
    direction = as_dtype(name, "direction", direction, site.dtype)
    padded = (1,) * (len(site.shape) - direction.ndim) + direction.shape
    return _affine(sites, name, 1, dose * direction.reshape(padded), where)


def _affine(
    sites: Sites, name: str, scale: Any, shift: Any, where: Mapping[str, Any]
) -> Interventions:
    site = sites[name]
    check_arithmetic(name, site)
    mask, valid = select(name, site, **where)
    scale = as_leaf(name, "scale", scale, site)
    shift = poison(as_leaf(name, "value", shift, site), valid)
    return {name: Affine(mask, scale, shift)}


def _check_codes(name: str, codes: np.ndarray | None, num_codes: int) -> None:
    outside = np.zeros(0) if codes is None else codes[(codes < 0) | (codes >= num_codes)]
    if outside.size:
        raise ValueError(
            f"at site {name!r}: code {outside.flat[0]} is outside the codebook; valid codes are "
            f"0 .. {num_codes - 1}."
        )


def as_dtype(name: str, word: str, value: Any, dtype: Any) -> Array:
    """Converts Python numbers that the dtype can hold; an array must have the dtype already."""
    if isinstance(value, bool | int | float | complex) and not isinstance(value, np.generic):
        if not _holds(dtype, value):
            kind = "integer" if jnp.issubdtype(dtype, jnp.integer) else "value"
            raise ValueError(
                f"at site {name!r}: {word} {value} is no {kind} that {jnp.dtype(dtype)} can hold."
            )
        return jnp.asarray(value, dtype)
    value = jnp.asarray(value)
    check_dtype(name, word, value, dtype)
    return value


def _holds(dtype: Any, value: bool | int | float | complex) -> bool:
    """Whether a dtype has a Python number, up to rounding."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return True
    if isinstance(value, complex):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return jnp.issubdtype(dtype, jnp.floating)
    if jnp.issubdtype(dtype, jnp.floating):
        return abs(value) <= float(jnp.finfo(dtype).max)
    if dtype == jnp.bool_:
        return value in (0, 1)
    limits = jnp.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def as_leaf(name: str, word: str, value: Any, site: Site) -> Array:
    """Converts a value to an array that fits the site, or raises ValueError."""
    value = as_dtype(name, word, value, site.dtype)
    check_leaf(name, word, value, site, site.dtype)
    return value
