"""Interventions as values: what replaces an activation, and the constructors that make them.

``forward(params, x, eps, interventions)`` takes a mapping from site name to one of the types here
(or a tuple of them, applied in order). All are pytrees of arrays: they stack, vmap, jit, grad and
shard like any other argument. Every constructor takes the model's ``sites`` first, checks its
arguments against them, and returns such a mapping; ``combine`` joins mappings.

Array leaves either have the site's shape, or the same rank with some axes of length 1, or are
scalars. Anything else is refused, so that a batch axis cannot slip in by broadcasting.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from vaecausal_jax.sites import Array, Site, Sites, as_steps

Interventions = Mapping[str, Any]


class Replace(NamedTuple):
    """``value`` where the mask is true, ``h`` itself elsewhere: do(h = value).

    Does not read what it replaces, so a forward whose whole site is replaced skips the layers
    before it, and a NaN that is replaced is gone.
    """

    mask: Array
    value: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless mask and value fit the site."""
        _check_leaf(name, "mask", self.mask, site, jnp.bool_)
        _check_leaf(name, "value", self.value, site, site.dtype)

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
        _check_leaf(name, "mask", self.mask, site, jnp.bool_)
        _check_leaf(name, "scale", self.scale, site, site.dtype)
        _check_leaf(name, "shift", self.shift, site, site.dtype)

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
        _check_leaf(name, "mask", self.mask, site, jnp.bool_)
        _check_leaf(name, "low", self.low, site, site.dtype)
        _check_leaf(name, "high", self.high, site, site.dtype)

    def apply(self, value: Array) -> Array:
        """Returns the replaced value, same shape and dtype."""
        return jnp.where(self.mask, jnp.minimum(jnp.maximum(value, self.low), self.high), value)


class SubspaceSwap(NamedTuple):
    """Replaces the part of ``h`` inside a subspace by the same part of a donor value.

    ``h + B' B (donor - h)`` with orthonormal rows B. The basis acts on the site's last axes: shape
    (rank, channels) swaps directions of channel space at every position, (rank, height, width,
    channels) directions of the whole site. Distributed alignment search (Geiger et al. 2023,
    arXiv:2303.02536) swaps exactly this.

    Attributes:
        mask: Where to swap; scalar or site-shaped, axes of length 1 allowed.
        basis: (rank, *last axes of the site), rows orthonormal.
        donor: The value swapped in; site-shaped, axes of length 1 allowed.
    """

    mask: Array
    basis: Array
    donor: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless mask, basis and donor fit the site."""
        _check_leaf(name, "mask", self.mask, site, jnp.bool_)
        _check_leaf(name, "donor", self.donor, site, site.dtype)
        _check_dtype(name, "basis", self.basis, site.dtype)
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
        difference = jnp.broadcast_to(self.donor, value.shape) - value
        coordinates = jnp.tensordot(difference, self.basis, axes=(last, axes))
        moved = value + jnp.tensordot(coordinates, self.basis, axes=((coordinates.ndim - 1,), (0,)))
        return jnp.where(self.mask, moved, value)


class CodeMap(NamedTuple):
    """Rewrites the codes of a VQ model: code ``k`` becomes ``table[k]`` where the mask is true.

    To put a given code at a given position use ``swap_codes``; this one renames codes wherever
    they occur.
    """

    mask: Array
    table: Array

    def check(self, name: str, site: Site) -> None:
        """Raises ValueError unless the site holds integer codes and the table integers."""
        _check_leaf(name, "mask", self.mask, site, jnp.bool_)
        if not jnp.issubdtype(site.dtype, jnp.integer):
            raise ValueError(
                f"at site {name!r}: CodeMap needs integer codes, but the site is {site.dtype}. "
                "Use it at 'latent/codes' of a VQ model."
            )
        _check_dtype(name, "table", self.table, site.dtype)
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
    return {name: Replace(mask, _poison(_as_leaf(name, "value", value, site), valid))}


def shift_by(sites: Sites, name: str, amount: Any, **where: Any) -> Interventions:
    """Adds ``amount`` (scalar or array, in the site's own units) to the selected part."""
    return _affine(sites, name, 1, amount, where)


def scale_by(sites: Sites, name: str, factor: Any, **where: Any) -> Interventions:
    """Multiplies the selected part by ``factor`` (scalar or array)."""
    return _affine(sites, name, factor, 0, where)


def clamp_to(sites: Sites, name: str, low: Any, high: Any, **where: Any) -> Interventions:
    """Limits the selected part to the interval from ``low`` to ``high``."""
    site = sites[name]
    mask, valid = select(name, site, **where)
    low_host, high_host = _concrete(low), _concrete(high)
    low, high = (_as_leaf(name, word, v, site) for word, v in (("low", low), ("high", high)))
    if low_host is not None and high_host is not None and np.any(low_host > high_host):
        raise ValueError(f"at site {name!r}: clamp_to got low {low_host} above high {high_host}.")
    clamp = Clamp(mask, _poison(low, valid), _poison(high, valid))
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
    host = _concrete(basis)
    basis = _as_dtype(name, "basis", basis, site.dtype)
    SubspaceSwap(mask, basis, _as_leaf(name, "donor", donor, site)).check(name, site)
    flat = basis.reshape(basis.shape[0], -1)
    rank = flat.shape[0] if host is None else np.linalg.matrix_rank(host.reshape(flat.shape))
    if rank < flat.shape[0] or flat.shape[0] > flat.shape[1]:
        raise ValueError(
            f"at site {name!r}: the {flat.shape[0]} rows of the basis are linearly dependent "
            f"(rank {min(rank, flat.shape[1])})."
        )
    rows, triangle = jnp.linalg.qr(flat.T)
    # The part of each row outside the span of those before it; rounding alone leaves a few eps.
    outside = jnp.abs(jnp.diag(triangle)) / jnp.linalg.norm(triangle, axis=0)
    valid &= jnp.all(outside > 10 * flat.shape[1] * jnp.finfo(flat.dtype).eps)
    donor = _poison(_as_leaf(name, "donor", donor, site), valid)
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
    _check_codes(name, _concrete(codes), num_codes)
    return set_to(sites, name, codes, **where)


def map_codes(sites: Sites, name: str, table: Any, **where: Any) -> Interventions:
    """Renames codes by a table of new codes, one entry a code of the codebook."""
    site = sites[name]
    mask, valid = select(name, site, **where)
    host, table = _concrete(table), jnp.asarray(table)
    step = CodeMap(mask, table)
    step.check(name, site)
    _check_codes(name, host, table.size)
    return {name: step._replace(table=_poison(table, valid))}


def ablate_zero(sites: Sites, name: str, **where: Any) -> Interventions:
    """Sets the selected part to zero."""
    return set_to(sites, name, 0, **where)


def ablate_mean(sites: Sites, name: str, bank: Any, **where: Any) -> Interventions:
    """Sets the selected part to its mean over a bank of natural activations.

    Args:
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape), e.g. ``Trace.activations[name]`` of a batch.
        **where: See ``select``.
    """
    return set_to(sites, name, jnp.mean(_as_bank(name, bank, sites[name]), axis=0), **where)


def ablate_resample(key: Array, sites: Sites, name: str, bank: Any, **where: Any) -> Interventions:
    """Sets the selected part to that of one sample drawn uniformly from a bank.

    Args:
        key: Typed PRNG key.
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape).
        **where: See ``select``.
    """
    bank = _as_bank(name, bank, sites[name])
    row = jax.random.randint(key, (), 0, bank.shape[0])
    return set_to(sites, name, bank[row], **where)


def ablate_resample_conditional(
    key: Array,
    sites: Sites,
    name: str,
    bank: Any,
    *,
    bank_factors: Any,
    factors: Any,
    free: int | Sequence[int],
    **where: Any,
) -> Interventions:
    """Sets the selected part to that of a sample which shares all factors but the free ones.

    Args:
        key: Typed PRNG key.
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape).
        bank_factors: (samples, factors) integer levels of the bank's images.
        factors: (factors,) levels of the image intervened on.
        free: Position or positions of the factors that may differ.
        **where: See ``select``.

    Raises:
        ValueError: No sample of the bank qualifies (concrete factors). Under ``jit`` that cannot be
            known, and the value is NaN.
    """
    site = sites[name]
    bank, bank_factors = _as_bank(name, bank, site), jnp.asarray(bank_factors)
    factors = jnp.asarray(factors)
    if bank_factors.shape != (bank.shape[0], *factors.shape) or factors.ndim != 1:
        raise ValueError(
            f"at site {name!r}: bank_factors has shape {bank_factors.shape} and factors "
            f"{factors.shape}, expected ({bank.shape[0]}, F) and (F,)."
        )
    held = np.ones(factors.shape[0], bool)
    held[np.asarray(free)] = False
    matches = jnp.all((bank_factors == factors[None, :]) | ~jnp.asarray(held)[None, :], axis=1)
    host = _concrete(matches)
    if host is not None and not host.any():
        raise ValueError(
            f"at site {name!r}: none of the {host.size} samples of the bank shares the factors "
            f"{np.asarray(factors).tolist()} outside position(s) {free}."
        )
    row = jax.random.categorical(key, jnp.where(matches, 0.0, -jnp.inf))
    return set_to(sites, name, _poison(bank[row], jnp.any(matches)), **where)


def ablate_optimal(
    loss_fn: Callable[[Interventions], Array],
    sites: Sites,
    name: str,
    bank: Any,
    *,
    num_steps: int = 200,
    learning_rate: float = 0.05,
    **where: Any,
) -> Interventions:
    """Sets the selected part to the constant that minimises the expected loss after ablation.

    Optimal ablation (Li and Janson 2024, arXiv:2409.09951): the least-loss constant, so that what
    is measured is the loss of information and not the shock of an unnatural value. Found by Adam
    from the mean, on the scale of the bank's standard deviation; where the downstream is linear and
    the loss squared it is the mean.

    Args:
        loss_fn: Interventions to the expected loss over the caller's images (scalar).
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape), for the starting point and the scale.
        num_steps: Adam steps.
        learning_rate: In standard deviations of the bank.
        **where: See ``select``.
    """
    bank = _as_bank(name, bank, sites[name])
    mean, spread = jnp.mean(bank, axis=0), jnp.std(bank, axis=0)
    spread = jnp.where(spread > 0, spread, 1.0)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def step(carry, _):
        offset, state = carry
        gradient = jax.grad(lambda o: loss_fn(set_to(sites, name, mean + o * spread, **where)))(
            offset
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(offset, updates), state), None

    start = jnp.zeros_like(mean)
    (offset, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)
    return set_to(sites, name, mean + jnp.asarray(offset) * spread, **where)


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
    direction = _as_dtype(name, "direction", direction, site.dtype)
    padded = (1,) * (len(site.shape) - direction.ndim) + direction.shape
    return _affine(sites, name, 1, dose * direction.reshape(padded), where)


def combine(*interventions: Interventions) -> Interventions:
    """Joins mappings. At a site named more than once they apply in the given order."""
    joined: dict[str, Any] = {}
    for mapping in interventions:
        for name, intervention in mapping.items():
            before = as_steps(name, joined[name]) if name in joined else ()
            steps = (*before, *as_steps(name, intervention))
            joined[name] = _single_or_all(steps)
    return joined


def as_affine(interventions: Interventions) -> Interventions:
    """Rewrites each ``Replace`` as the ``Affine`` of scale 0, to stack with shifts and scales."""

    def rewrite(step):
        if not isinstance(step, Replace):
            return step
        return Affine(step.mask, jnp.zeros((), step.value.dtype), step.value)

    rewritten = {n: tuple(map(rewrite, as_steps(n, i))) for n, i in interventions.items()}
    return {name: _single_or_all(steps) for name, steps in rewritten.items()}


def stack(interventions: Sequence[Interventions]) -> Interventions:
    """Stacks mappings along a new leading axis, ready for ``vmap`` or a sweep.

    Where some replace and others shift or scale, all become ``Affine``; leaves of different shapes
    are broadcast to a common one.

    Raises:
        ValueError: The mappings differ in sites or in types of intervention, or subspaces in rank.
    """
    if not interventions:
        raise ValueError("stack needs at least one intervention, got none.")
    structures = [jax.tree.structure(i) for i in interventions]
    if len(set(structures)) > 1:
        interventions = [as_affine(i) for i in interventions]
        structures = [jax.tree.structure(i) for i in interventions]
    for position, structure in enumerate(structures):
        if structure != structures[0]:
            raise ValueError(
                f"interventions 0 and {position} cannot be stacked, their structures differ: "
                f"{_describe(interventions[0])} against {_describe(interventions[position])}. "
                "Group a sweep by site, or combine() each with no-ops at the other sites."
            )

    def stack_leaves(path, *leaves):
        shapes = {jnp.shape(leaf) for leaf in leaves}
        place = jax.tree_util.keystr(path)
        if len(shapes) > 1 and place.endswith((".basis", ".table")):
            raise ValueError(f"cannot stack {place}: its shapes differ, {sorted(shapes)}.")
        shape = jnp.broadcast_shapes(*shapes)
        return jnp.stack([jnp.broadcast_to(leaf, shape) for leaf in leaves])

    return jax.tree.map_with_path(stack_leaves, *interventions)


def select(
    name: str,
    site: Site,
    *,
    unit: Any = None,
    group: Any = None,
    position: Any = None,
    mask: Any = None,
) -> tuple[Array, Array]:
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
        out of range. The mask is then all true and the constructors fill in NaN (in a VQ site, a
        code outside the book): a mistake is never a silent no-op.

    Raises:
        ValueError: A concrete index out of range, or a selector that does not fit the site.
    """
    rank = len(site.shape)
    selected, valid = jnp.ones((1,) * rank, bool), jnp.array(True)
    if unit is not None or group is not None:
        if site.unit_axis is None:
            raise ValueError(f"site {name!r} {site.shape} has no unit axis; select by position.")
        along = [1] * rank
        along[site.unit_axis] = site.num_units
    if unit is not None:
        valid &= _check_index(name, "unit", unit, site.num_units)
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
            valid &= _check_index(name, "position", index, site.shape[axis])
            shape = tuple(site.shape[axis] if a == axis else 1 for a in range(rank))
            selected = selected & (jnp.arange(site.shape[axis]) == index).reshape(shape)
    if mask is not None:
        mask = jnp.asarray(mask)
        _check_leaf(name, "mask", mask, site, jnp.bool_)
        selected = selected & mask
    return selected | ~valid, valid


def _affine(
    sites: Sites, name: str, scale: Any, shift: Any, where: Mapping[str, Any]
) -> Interventions:
    site = sites[name]
    mask, valid = select(name, site, **where)
    scale = _as_leaf(name, "scale", scale, site)
    shift = _poison(_as_leaf(name, "value", shift, site), valid)
    return {name: Affine(mask, scale, shift)}


def _single_or_all(steps: tuple[Any, ...]) -> Any:
    return steps if len(steps) > 1 else next(iter(steps), ())


def _describe(interventions: Interventions) -> str:
    return ", ".join(
        f"{name}: {'+'.join(type(step).__name__ for step in as_steps(name, i))}"
        for name, i in interventions.items()
    )


def _poison(value: Array, valid: Array) -> Array:
    """The value, or where an index was out of range something that cannot pass unnoticed."""
    loud = jnp.nan if jnp.issubdtype(value.dtype, jnp.floating) else jnp.iinfo(value.dtype).max
    return jnp.where(valid, value, jnp.asarray(loud, value.dtype))


def _concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None while it is traced."""
    return None if isinstance(value, Tracer) else np.asarray(value)


def _check_index(name: str, word: str, index: Any, size: int) -> Array:
    if np.shape(index) != () or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ValueError(
            f"at site {name!r}: {word} must be one integer, got {index!r}. Use group= for several "
            "units."
        )
    host = _concrete(index)
    if host is not None and not 0 <= host < size:
        raise ValueError(
            f"at site {name!r}: {word} {host} is out of range; valid are 0 .. {size - 1}."
        )
    return jnp.asarray((index >= 0) & (index < size))


def _check_codes(name: str, codes: np.ndarray | None, num_codes: int) -> None:
    outside = np.zeros(0) if codes is None else codes[(codes < 0) | (codes >= num_codes)]
    if outside.size:
        raise ValueError(
            f"at site {name!r}: code {outside.flat[0]} is outside the codebook; valid codes are "
            f"0 .. {num_codes - 1}."
        )


def _group_mask(name: str, group: Any, num_units: int) -> Array:
    host, group = _concrete(group), jnp.asarray(group)
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


def _as_dtype(name: str, word: str, value: Any, dtype: Any) -> Array:
    """Converts Python numbers freely; arrays only within their kind (float, int, bool)."""
    if isinstance(value, bool | int | float):
        if jnp.issubdtype(dtype, jnp.integer) and not float(value).is_integer():
            raise ValueError(f"at site {name!r}: {word} {value} is no integer; dtype is {dtype}.")
        return jnp.asarray(value, dtype)
    value = jnp.asarray(value)
    _check_dtype(name, word, value, dtype)
    return value


def _as_leaf(name: str, word: str, value: Any, site: Site) -> Array:
    value = _as_dtype(name, word, value, site.dtype)
    _check_leaf(name, word, value, site, site.dtype)
    return value


def _as_bank(name: str, bank: Any, site: Site) -> Array:
    bank = jnp.asarray(bank)
    if bank.shape[1:] != site.shape or bank.ndim == 0 or bank.shape[0] == 0:
        raise ValueError(
            f"at site {name!r}: bank has shape {bank.shape}, expected (samples, "
            f"{', '.join(map(str, site.shape))})."
        )
    return bank


def _check_dtype(name: str, word: str, value: Any, dtype: Any) -> None:
    given = jnp.result_type(value)
    if given != jnp.dtype(dtype):
        raise ValueError(
            f"at site {name!r}: {word} has dtype {given}, expected {jnp.dtype(dtype)}."
        )


def _check_leaf(name: str, word: str, value: Any, site: Site, dtype: Any) -> None:
    _check_dtype(name, word, value, dtype)
    shape = jnp.shape(value)
    fits = len(shape) == len(site.shape) and all(
        given in (1, length) for given, length in zip(shape, site.shape, strict=True)
    )
    if shape != () and not fits:
        raise ValueError(
            f"at site {name!r}: {word} has shape {shape}, expected {site.shape} (axes may have "
            "length 1) or a scalar. Interventions are for one image; vmap over a batch."
        )
