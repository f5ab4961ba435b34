"""What may replace an activation: pytrees of arrays with ``check`` and ``apply``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from vaecausal_jax.interventions.changed import Changed
from vaecausal_jax.interventions.sites import Site, summed_in

Interventions = Mapping[str, Any]
"""Site name to an intervention, or a tuple of them applied in order."""


class Replace(NamedTuple):
    """``value`` where the mask is true, ``h`` itself elsewhere: do(h = value).

    Does not read what it replaces, so a forward whose whole site is replaced skips the layers
    before it, and a NaN that is replaced is gone.
    """

    mask: Array
    value: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless mask and value fit the site."""
        check_leaf(name, "mask", self.mask, site, jnp.bool_)
        check_leaf(name, "value", self.value, site, site.dtype)

    def apply(self, value: Array) -> Array:
        """Returns the replaced value, same shape and dtype."""
        return jnp.where(self.mask, self.value, value)


class Affine(NamedTuple):
    """``scale * h + shift`` where the mask is true, ``h`` itself elsewhere.

    Covers set (scale 0), shift (scale 1) and scale (shift 0) in one tree structure, so that a sweep
    over any mix of them is one compiled program. Unselected values pass bit for bit.
    """

    mask: Array
    scale: Array
    shift: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless mask, scale and shift fit the site."""
        check_leaf(name, "mask", self.mask, site, jnp.bool_)
        check_leaf(name, "scale", self.scale, site, site.dtype)
        check_leaf(name, "shift", self.shift, site, site.dtype)

    def apply(self, value: Array) -> Array:
        """Returns the replaced value, same shape and dtype."""
        return jnp.where(self.mask, self.scale * value + self.shift, value)


class Clamp(NamedTuple):
    """``min(max(h, low), high)`` where the mask is true."""

    mask: Array
    low: Array
    high: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless mask and bounds fit the site."""
        check_leaf(name, "mask", self.mask, site, jnp.bool_)
        check_leaf(name, "low", self.low, site, site.dtype)
        check_leaf(name, "high", self.high, site, site.dtype)

    def apply(self, value: Array) -> Array:
        """Returns the replaced value, same shape and dtype."""
        return jnp.where(self.mask, jnp.minimum(jnp.maximum(value, self.low), self.high), value)


class SubspaceSwap(NamedTuple):
    """Replaces the part of ``h`` inside a subspace by the same part of a donor value.

    ``h + B* B (donor - h)`` with orthonormal rows B, computed in float32 at a site of half
    precision and rounded to the site's dtype. The basis acts on the site's last axes: shape
    (rank, channels) swaps directions of channel space at every position, (rank, height, width,
    channels) directions of the whole site. Distributed alignment search (Geiger et al. 2023,
    arXiv:2303.02536) swaps exactly this.

    Attributes:
        mask: Where to swap; scalar or site-shaped, axes of length 1 allowed.
        basis: (rank, *last axes of the site), rows orthonormal, float32 at a site of half
            precision.
        donor: The value swapped in; site-shaped, axes of length 1 allowed.
    """

    mask: Array
    basis: Array
    donor: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless mask, basis and donor fit the site."""
        check_leaf(name, "mask", self.mask, site, jnp.bool_)
        check_leaf(name, "donor", self.donor, site, site.dtype)
        check_dtype(name, "basis", self.basis, basis_dtype(name, site))
        rest = self.basis.shape[1:]
        if not rest or rest != site.shape[len(site.shape) - len(rest) :]:
            raise ValueError(
                f"at site {name!r}: basis has shape {self.basis.shape}, expected (rank, "
                f"*trailing axes of {site.shape}), such as (1, {site.shape[-1]})."
            )

    def apply(self, value: Array) -> Array:
        """Returns the replaced value, same shape and dtype."""
        axes = tuple(range(1, self.basis.ndim))
        last = tuple(range(value.ndim - len(axes), value.ndim))
        wide, donor = (a.astype(self.basis.dtype) for a in (value, self.donor))
        difference = jnp.broadcast_to(donor, value.shape) - wide
        coordinates = jnp.tensordot(difference, self.basis.conj(), axes=(last, axes))
        moved = wide + jnp.tensordot(coordinates, self.basis, axes=((coordinates.ndim - 1,), (0,)))
        return jnp.where(self.mask, moved.astype(value.dtype), value)


class BoxPatch(NamedTuple):
    """A clean run's value with other values inside one box: what a sweep over units puts in.

    Equal in effect to a ``Replace`` of the whole site, so layers before it are dead code; and the
    layers after it compute only what the box changes (see ``vaecausal_jax.models.layers``).

    Attributes:
        clean: The site's value in the clean run.
        inside: Values inside the box; rank of the site, axes of the box's lengths.
        start: First index of the box, one scalar an axis. A box that sticks out gives NaN, or the
            largest integer; at a site of booleans or bytes, which have no value that would show
            it, its start must be concrete or come from ``patching.unit_starts``.
    """

    clean: Array
    inside: Array
    start: tuple[Any, ...]

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless clean value and box fit the site."""
        check_dtype(name, "clean", self.clean, site.dtype)
        check_dtype(name, "inside", self.inside, site.dtype)
        if self.clean.shape != site.shape:
            raise ValueError(
                f"at site {name!r}: clean has shape {self.clean.shape}, expected {site.shape}."
            )
        size = self.inside.shape
        if not len(size) == len(self.start) == len(site.shape) or any(
            not 0 < given <= length for given, length in zip(size, site.shape, strict=True)
        ):
            raise ValueError(
                f"at site {name!r}: a box of shape {size} with {len(self.start)} start indices "
                f"does not fit in {site.shape}; it needs the site's rank and lengths up to its own."
            )

    def apply(self, value: Array) -> Changed:
        """Returns the patched value; what it replaces is not read."""
        del value
        ends = zip(self.start, self.inside.shape, self.clean.shape, strict=True)
        fits = [(first >= 0) & (first + size <= length) for first, size, length in ends]
        inside = self.inside
        if loud_value(inside.dtype) is not None and fits:
            inside = poison(inside, jnp.all(jnp.stack(fits)))
        return Changed(self.clean, inside, tuple(jnp.asarray(first) for first in self.start))


class CodeMap(NamedTuple):
    """Rewrites the codes of a VQ model: code ``k`` becomes ``table[k]`` where the mask is true.

    To put a given code at a given position use ``swap_codes``; this one renames codes wherever
    they occur.
    """

    mask: Array
    table: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless the site holds integer codes and the table integers."""
        check_leaf(name, "mask", self.mask, site, jnp.bool_)
        if not jnp.issubdtype(site.dtype, jnp.integer):
            raise ValueError(
                f"at site {name!r}: CodeMap needs integer codes, but the site is {site.dtype}. "
                "Use it at 'latent/codes' of a VQ model."
            )
        check_dtype(name, "table", self.table, site.dtype)
        if jnp.ndim(self.table) != 1:
            raise ValueError(
                f"at site {name!r}: table has shape {jnp.shape(self.table)}, expected (codes,)."
            )

    def apply(self, value: Array) -> Array:
        """Returns the replaced codes; a code the table lacks becomes one outside the codebook."""
        renamed = self.table.at[value].get(
            mode="fill",
            fill_value=jnp.iinfo(self.table.dtype).max,
            wrap_negative_indices=False,
        )
        return jnp.where(self.mask, renamed, value)


def check_dtype(name: str, word: str, value: Any, dtype: Any) -> None:
    """Raises ValueError unless the value has exactly this dtype."""
    given = jnp.result_type(value)
    if given != jnp.dtype(dtype):
        raise ValueError(
            f"at site {name!r}: {word} has dtype {given}, expected {jnp.dtype(dtype)}. If that is "
            "what you mean, convert it with .astype()."
        )


def check_leaf(name: str, word: str, value: Any, site: Site, dtype: Any) -> None:
    """Raises ValueError unless the value is a scalar or has the site's shape, axes of 1 allowed."""
    check_dtype(name, word, value, dtype)
    shape = jnp.shape(value)
    fits = len(shape) == len(site.shape) and all(
        given in (1, length) for given, length in zip(shape, site.shape, strict=True)
    )
    if shape != () and not fits:
        raise ValueError(
            f"at site {name!r}: {word} has shape {shape}, expected {site.shape} (axes may have "
            "length 1) or a scalar. Interventions are for one image; vmap over a batch."
        )


def check_arithmetic(name: str, site: Site) -> None:
    """Raises ValueError at a site whose values cannot be shifted and scaled."""
    dtype = jnp.dtype(site.dtype)
    small = jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits <= 16
    if dtype == jnp.bool_ or small or jnp.issubdtype(dtype, jnp.unsignedinteger):
        what = "are no numbers" if dtype == jnp.bool_ else "would wrap around"
        raise ValueError(
            f"at site {name!r}: {dtype} values {what} when shifted or scaled. Use set_to, patch or "
            "clamp_to, or name a floating value instead."
        )


def basis_dtype(name: str, site: Site) -> Any:
    """The dtype in which a subspace of a site is computed: the site's, or float32 if it is half.

    Raises:
        ValueError: A site that is not floating or complex.
    """
    if not jnp.issubdtype(site.dtype, jnp.inexact):
        raise ValueError(
            f"at site {name!r}: a subspace needs floating values, and the site is {site.dtype}. "
            "Use set_to, patch or swap_codes."
        )
    return summed_in(site.dtype)


def loud_value(dtype: Any) -> Any:
    """A value that cannot pass for a natural one; None for booleans and bytes, which have none."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.nan if jnp.finfo(dtype).bits > 8 else None  # Small floats may have none.
    if jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits > 8:
        return jnp.iinfo(dtype).max
    return None


def poison(value: Array, valid: Array | None, what: str = "unit or position") -> Array:
    """The value, or where an index was out of range something that cannot pass unnoticed.

    Args:
        value: Of any dtype.
        valid: A scalar that is false where an index was out of range; None where all are known.
        what: What ``valid`` is about, for messages.

    Raises:
        ValueError: An index that is known only as the program runs, and no value that would show
            that it is wrong.
    """
    if valid is None:
        return value
    loud = loud_value(value.dtype)
    if loud is None:
        raise ValueError(
            f"a traced {what} cannot be used with {value.dtype} values: nothing in them could show "
            "that it does not fit. Give it concretely, or booleans as group= or mask=."
        )
    return jnp.where(valid, value, jnp.asarray(loud, value.dtype))


class Fixed(NamedTuple):
    """A site's whole value, whatever the network computes there; also cuts the traced program."""

    value: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless the value has the site's shape and dtype."""
        if (self.value.shape, self.value.dtype) != (site.shape, site.dtype):
            raise ValueError(
                f"at site {name!r}: got {self.value.dtype}{self.value.shape}, expected "
                f"{site.dtype}{site.shape}."
            )

    def apply(self, value: Array) -> Array:
        """Returns the fixed value; what it replaces is not read."""
        del value
        return self.value
