"""Is a patched network still one that data could produce? The report that goes with a sweep.

A patch puts together values that no image gives together, and downstream layers may answer in ways
that say nothing about the model in use. Three checks:

    re-encode gap      |mu(D(z'))_i - z'_i| / SD_i: does the model agree that the image shows z'?
    support score      distance of the patched activations to the k-th nearest natural ones, as a
                       quantile of natural leave-one-out distances: 1 is farther than any of them
    dormant direction  does a subspace patch work by a component that natural data leaves still?
                       (the interpretability illusion of Makelov et al. 2023, arXiv:2311.17030; see
                       Wu et al. 2024, arXiv:2401.12631, for how far it matters)
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vaecausal_jax.data.pairs import Pairs, check_pairs
from vaecausal_jax.indices import choose
from vaecausal_jax.interventions import patch, swap_subspace
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Sites, measure, outputs

HIGHEST = lax.Precision.HIGHEST


class ReencodeGap(NamedTuple):
    """How far a model, shown its own output, is from the code that made it.

    Attributes:
        own: At the latent that was changed, in its SD, (latents, images).
        others: Root mean square over all other latents, each in its SD, (latents, images).
        natural: |mu(D(z))_i - z_i| / SD_i of the code left alone: what to compare with, (latents,
            images).
    """

    own: Array
    others: Array
    natural: Array


class SubspaceCheck(NamedTuple):
    """Whether a subspace patch works by what it should; see ``check_subspace``.

    Attributes:
        subspace_effect: Size of the patch's effect on each pair, (pairs,).
        site_effect: Size of the effect of patching the whole site, (pairs,).
        dormant_share: Share of the subspace that lies where natural data does not vary, 0 .. 1.
        disconnected_share: Share of it that the outcome does not depend on, to first order.
        dormant_effect_share: Share of the patch's effect that is gone when it moves only along
            what natural data varies along.
        exceeds: Whether the patch does more than the whole site: sum |subspace effect|^2 above sum
            |site effect|^2.
        dormant: Whether most of its effect comes from dormant directions.
        flagged: Either: the subspace should not be said to carry the factor.
    """

    subspace_effect: Array
    site_effect: Array
    dormant_share: Array
    disconnected_share: Array
    dormant_effect_share: Array
    exceeds: Array
    dormant: Array
    flagged: Array


def reencode_gaps(
    respond: Callable[[Array], Array], codes: Array, donors: Array, *, sd: Array | None = None
) -> ReencodeGap:
    """Re-encode gaps as each latent in turn takes its donor's value.

    In a linear VAE with decoder noise sigma^2 and data variance lambda_i along latent i, mu(D(z'))
    shrinks z'_i by 1 - sigma^2 / lambda_i, so the gap is sigma^2 / lambda_i |z'_i| / SD_i, and
    nothing elsewhere that was not there before.

    Args:
        respond: Code to re-encoded code, as in ``metrics.latent_responses``.
        codes: (images, latents).
        donors: (images, latents): what each latent is set to.
        sd: (latents,); of ``codes`` if None.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if codes.ndim != 2 or codes.shape != donors.shape:
        raise ValueError(
            f"codes {codes.shape} and donors {donors.shape} need one shape, (images, latents)."
        )
    sd = jnp.std(codes, axis=0) if sd is None else jnp.asarray(sd)
    if sd.shape != codes.shape[1:]:
        raise ValueError(f"sd has shape {sd.shape}, expected {codes.shape[1:]}.")
    num_latents = codes.shape[1]

    def gaps(z):
        return _over(jnp.abs(jax.vmap(respond)(z) - z), sd[None])

    def at(latent):
        gap = gaps(codes.at[:, latent].set(donors[:, latent]))
        rest = jnp.where(jnp.arange(num_latents)[None] == latent, 0.0, gap)
        others = jnp.sqrt(jnp.sum(rest**2, axis=1) / max(num_latents - 1, 1))
        return gap[:, latent], others

    own, others = lax.map(at, jnp.arange(num_latents))
    return ReencodeGap(own, others, gaps(codes).T)


def support_scores(
    queries: Array,
    bank: Array,
    *,
    own: Array | None = None,
    neighbours: int = 5,
    chunk: int = 64,
) -> Array:
    """How far activations are from natural ones, as quantiles of natural distances: (queries,).

    The share of natural vectors whose distance to their own ``neighbours``-th nearest other one is
    below the query's; ties count half. Natural vectors score evenly between 0 and 1; above .95 lie
    5 in 100 of them; 1 is farther out than all of them.

    Args:
        queries: (queries, *site shape), patched activations.
        bank: (natural, *site shape).
        own: (queries,): index in the bank of the run that each query was made from, which is then
            no neighbour of it, as for natural vectors. -1, or None, for none.
        neighbours: k, at most one less than the bank holds.
        chunk: Queries compared together.

    Raises:
        ValueError: Shapes that do not fit, or a bank too small.
    """
    _check_bank(queries, bank, neighbours)
    own = jnp.full(len(queries), -1) if own is None else jnp.asarray(own)
    if own.shape != (len(queries),):
        raise ValueError(f"own has shape {own.shape}, expected ({len(queries)},).")
    return _support(queries, bank, own, neighbours, chunk)


def unit_support_scores(
    sites: Sites,
    name: str,
    natural: Array,
    donor: Array,
    *,
    units: Any = None,
    neighbours: int = 5,
) -> Array:
    """``support_scores`` of every run with every unit patched from its donor: (units, images).

    The natural runs are the bank, each left out for its own patches. Patching unit u changes a
    squared distance by that of u alone, so a whole site costs about as much as one table of
    distances.

    Args:
        sites: The model's sites.
        name: The site; its units, or the positions of a site without.
        natural: (images, *site shape), activations of natural runs.
        donor: (images, *site shape), what each run's units are taken from.
        units: Which units, as in ``unit_starts``; all if None.
        neighbours: See ``support_scores``.

    Raises:
        ValueError: Shapes that do not fit, or too few images.
    """
    site = sites[name]
    if natural.shape[1:] != site.shape or donor.shape != natural.shape:
        raise ValueError(
            f"at site {name!r}: natural {natural.shape} and donor {donor.shape} need one shape, "
            f"(images, *{site.shape})."
        )
    _check_bank(natural, natural, neighbours)
    natural, donor = site.by_part(natural), site.by_part(donor)
    chosen, known = choose(f"at site {name!r}", "unit", units, len(natural))
    scores = _unit_support(natural, donor, chosen, neighbours)
    return scores if known is None else jnp.where(known[:, None], scores, jnp.nan)


def check_subspace(
    net: BoundModel,
    pairs: Pairs,
    name: str,
    basis: Array,
    *,
    natural: Array | None = None,
    outcome: Outcome = outputs,
    tolerance: float = 1e-4,
    margin: float = 0.05,
    limit: float = 0.5,
    max_probes: int = 32,
    key: Array | None = None,
) -> SubspaceCheck:
    """Compares a subspace patch with a patch of the whole site, and looks for dormant directions.

    Directions of the site's last axis are dormant where natural variance is below ``tolerance`` of
    that of the most variable direction, and disconnected where the mean square of the outcome's
    derivative is, likewise. A subspace with dormant directions that are connected and varying ones
    that are not can steer the output by a path that no image uses.

    Args:
        net: The network with its parameters.
        pairs: References are the runs that are patched, targets the donors.
        name: The site.
        basis: (rank, last axis); rows independent, the span counts.
        natural: (runs, *site shape), activations that say what varies; both runs of the pairs if
            None. Fewer runs than directions leave some dormant that are not.
        outcome: Trace to the array of interest.
        tolerance: Of the largest variance, or the largest squared derivative.
        margin: By which the patch may exceed the whole site, as a share.
        limit: Share of the effect from dormant directions that is too much.
        max_probes: Derivatives taken a run: of each scalar of the outcome, or of this many random
            sums of them if there are more.
        key: Typed PRNG key of those sums; always the same ones if None.

    Raises:
        ValueError: A basis that does not fit the last axis, or is not of full rank.
    """
    check_pairs(pairs)
    x0, _, eps = pairs.runs
    size = net.sites[name].shape[-1] if net.sites[name].shape else 0
    basis = jnp.asarray(basis)
    if basis.ndim != 2 or basis.shape[1] != size:
        raise ValueError(
            f"at site {name!r}: basis has shape {basis.shape}, expected (rank, {size}), directions "
            "of the last axis."
        )
    # Refuses a basis whose rows depend on one another, and gives orthonormal ones.
    swap = swap_subspace(
        net.sites, name, basis, jnp.zeros(net.sites[name].shape, net.sites[name].dtype)
    )
    rows = swap[name].basis

    def runs(x0, x1, eps):
        reference, target = net(x0, eps, {}), net(x1, eps, {})
        return measure(outcome, reference), reference.activations[name], target.activations[name]

    clean, value, donor = jax.vmap(runs)(*pairs.runs)
    natural = jnp.concatenate([value, donor]) if natural is None else natural
    flat = natural.reshape(len(natural), -1, size)
    centred = (flat - flat.mean(0)[None]).reshape(-1, size)
    varying = _span(jnp.matmul(centred.T, centred, precision=HIGHEST) / len(centred), tolerance)

    def held(x, eps, site_value):
        return measure(outcome, net(x, eps, patch(net.sites, name, site_value))).reshape(-1)

    probes = _probes(jax.random.key(0) if key is None else key, clean[0].size, max_probes)

    def slopes(x, eps, site_value):
        _, pullback = jax.vjp(lambda value: held(x, eps, value), site_value)
        slope = jax.vmap(lambda probe: pullback(probe)[0])(probes).reshape(-1, size)
        return jnp.matmul(slope.T, slope, precision=HIGHEST)

    connected = _span(lax.map(lambda run: slopes(*run), (x0, eps, value)).mean(0), tolerance)

    def moved(step):
        values = value + step
        return jax.vmap(held)(x0, eps, values) - clean.reshape(len(clean), -1)

    along = jnp.matmul(
        jnp.matmul(donor - value, rows.T, precision=HIGHEST), rows, precision=HIGHEST
    )
    subspace = moved(along)
    site = moved(donor - value)
    varied = moved(jnp.matmul(along, varying, precision=HIGHEST))
    total, whole = jnp.sum(subspace**2), jnp.sum(site**2)
    dormant_effect = jnp.where(
        total > 0, 1.0 - jnp.sum(subspace * varied) / jnp.where(total > 0, total, 1.0), 0.0
    )
    # Effects that rounding alone could make are none.
    floor = (10 * jnp.finfo(clean.dtype).eps) ** 2 * jnp.sum(clean**2)
    exceeds = total > whole * (1 + margin) ** 2 + floor
    dormant = (dormant_effect > limit) & (total > floor)
    return SubspaceCheck(
        subspace_effect=jnp.linalg.norm(subspace, axis=1),
        site_effect=jnp.linalg.norm(site, axis=1),
        dormant_share=_outside(rows, varying),
        disconnected_share=_outside(rows, connected),
        dormant_effect_share=dormant_effect,
        exceeds=exceeds,
        dormant=dormant,
        flagged=exceeds | dormant,
    )


def _outside(rows: Array, kept: Array) -> Array:
    """The share of orthonormal rows outside a projection, 0 to 1 whatever the rounding."""
    return jnp.clip(1.0 - jnp.sum((rows @ kept) * rows) / len(rows), 0.0, 1.0)


def _span(gram: Array, tolerance: float) -> Array:
    """Projection onto the directions of a Gram matrix above a share of the largest one."""
    sizes, directions = jnp.linalg.eigh(gram)
    kept = (sizes > tolerance * jnp.max(sizes)) & (sizes > 0)
    return jnp.matmul(directions * kept[None, :], directions.T, precision=HIGHEST)


def _probes(key: Array, size: int, most: int) -> Array:
    """Rows whose squares average to those of all outcomes: the identity, or random signs."""
    if size <= most:
        return jnp.eye(size)
    return jax.random.rademacher(key, (most, size), float) / math.sqrt(most)


def _over(gap: Array, sd: Array) -> Array:
    """A gap in SD; without any spread no gap is 0 and any gap infinite."""
    return jnp.where(sd > 0, gap / jnp.where(sd > 0, sd, 1.0), jnp.where(gap == 0, 0.0, jnp.inf))


def _squares(a: Array, b: Array) -> Array:
    """Squared distances between rows, (rows of a, rows of b)."""
    lengths = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :]
    return jnp.maximum(lengths - 2 * jnp.matmul(a, b.T, precision=HIGHEST), 0.0)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _support(queries: Array, bank: Array, own: Array, neighbours: int, chunk: int) -> Array:
    centre = bank.reshape(len(bank), -1).mean(0)
    # Centred: distances come from squares of close numbers.
    queries, bank = (a.reshape(len(a), -1) - centre[None] for a in (queries, bank))
    natural = _leave_one_out(_squares(bank, bank), neighbours)

    def score(query):
        vector, index = query
        return _kth(_squares(vector[None], bank), index[None], neighbours)[0]

    return _quantile(lax.map(score, (queries, own), batch_size=chunk), natural)


@functools.partial(jax.jit, static_argnums=3)
def _unit_support(natural: Array, donor: Array, units: Array, neighbours: int) -> Array:
    """Of values (units, images, positions)."""
    centre = natural.mean(1, keepdims=True)
    natural, donor = natural - centre, donor - centre
    total = lax.scan(
        lambda sum_, a: (sum_ + _squares(a, a), None),
        jnp.zeros((natural.shape[1],) * 2, natural.dtype),
        natural,
    )[0]
    distances = _leave_one_out(total, neighbours)
    index = jnp.arange(natural.shape[1])

    def at_unit(unit):
        values, taken = natural[unit], donor[unit]
        moved = jnp.maximum(total - _squares(values, values), 0.0) + _squares(taken, values)
        return _quantile(_kth(moved, index, neighbours), distances)

    return lax.map(at_unit, units)


def _kth(squares: Array, own: Array, neighbours: int) -> Array:
    """Distance to the k-th nearest of each row, its own column left out."""
    columns = jnp.arange(squares.shape[1])
    others = jnp.where(columns[None] == own[:, None], jnp.inf, squares)
    return jnp.sqrt(-lax.top_k(-others, neighbours)[0][:, -1])


def _leave_one_out(squares: Array, neighbours: int) -> Array:
    return jnp.sort(_kth(squares, jnp.arange(len(squares)), neighbours))


def _quantile(distance: Array, ordered: Array) -> Array:
    """Share of the ordered distances below, half of those that are equal."""
    below = jnp.searchsorted(ordered, distance, side="left")
    upto = jnp.searchsorted(ordered, distance, side="right")
    return (below + upto) / (2.0 * len(ordered))


def _check_bank(queries: Array, bank: Array, neighbours: int) -> None:
    if queries.shape[1:] != bank.shape[1:] or bank.ndim < 2:
        raise ValueError(
            f"queries {queries.shape} and bank {bank.shape} need one shape after their first axis."
        )
    if not 1 <= neighbours < len(bank):
        raise ValueError(
            f"neighbours is {neighbours}, expected 1 to {len(bank) - 1}, one less than the bank's "
            f"{len(bank)} vectors."
        )
