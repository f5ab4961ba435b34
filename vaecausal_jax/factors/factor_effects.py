"""From factor k through unit u to the read-out of factor l: read, write and mediation tensors.

    read       R[u, k]    = E |h_u(x^k) - h_u(x)| / SD(h_u)        x^k differs from x in factor k
    write      W[u, l]    = E r_l(y(x; h_u + SD)) - r_l(y(x))
    mediation  M[u, k, l] = E r_l(y(x^k)) - r_l(y(x^k; h_u <- h_u(x)))    TNIE of u on r_l

In a linear network M[u, k, l] = (dh_u / dg_k) dg_k (dr_l / dh_u). A unit that is read out as a
factor other than the one that moved it (k != l) leaks. Each function sweeps the units of one site,
pair by pair or image by image, so that intervals and tests can follow; ``tensor_estimate`` makes
them, with false discoveries controlled over all sites at once.

Pairs are turned so that the changed factor grows (``readouts.factor_pairs``): signed effects would
average to zero otherwise.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data.pairs import Pairs, check_pair, check_pairs
from vaecausal_jax.effects.mediation import paired_rows
from vaecausal_jax.effects.unit_effects import clean_runs
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.inference import (
    Bootstrap,
    Estimate,
    bootstrap_mean,
    false_discovery,
    minimum_effect_test,
)
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import (
    Change,
    Outcome,
    Site,
    difference,
    measure,
    outputs,
)
from vaecausal_jax.interventions.types import check_arithmetic
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced
from vaecausal_jax.sweeps.patching import Rows, patch_units
from vaecausal_jax.sweeps.unit_tables import Chosen, UnitTable, choose_units, unit_table


class TensorEstimate(NamedTuple):
    """A tensor of units with its interval and what survives the false discovery rate.

    Attributes:
        estimate: Means over pairs, (units, ...).
        p_value: Of |effect| <= delta, adjusted for false discoveries over all units given.
        significant: Whether that is at most q.
    """

    estimate: Estimate
    p_value: np.ndarray
    significant: np.ndarray

    @property
    def filtered(self) -> np.ndarray:
        """The means, zero where they are not significant."""
        return np.where(self.significant, self.estimate.value, 0.0)


def unit_sd(name: str, site: Site, values: Array) -> Array:
    """Standard deviation of each unit over runs and positions: (units,).

    Raises:
        ValueError: A site without units: VQ codes are labels and have no spread.
    """
    _check_units(name, site)
    return jnp.std(site.by_part(values), axis=(1, 2))


def read_tensor(net: BoundModel, pairs: Pairs, sites: Chosen = None) -> UnitTable:
    """|h_u(x1) - h_u(x0)| / SD(h_u) of every pair, (units, factors, pairs).

    Averaged over positions; SD is over all runs of all pairs. A unit that never changes reads
    nothing: 0. The null is 0 exactly, since both runs share their noise.

    Args:
        net: The network with its parameters.
        pairs: Minimal pairs of every factor, (factors, pairs, ...).
        sites: Which; see ``choose_units``. None takes all with units.

    Raises:
        ValueError: A site without units.
    """
    check_pair(pairs)
    flat = pairs.flat()
    check_pairs(flat)
    chosen = _with_units(net, sites, flat.x0, flat.eps)

    def values(x: Array, eps: Array) -> dict[str, Array]:
        activations = net(x, eps).activations
        return {name: activations[name] for name in chosen}

    before, after = (jax.vmap(values)(x, flat.eps) for x in (flat.x0, flat.x1))

    def read(name: str, units: Any) -> Array:
        size = moved(name, net.sites[name], before[name], after[name])
        size = size if units is None else size[units]
        return size.reshape(-1, *pairs.eps.shape[:2])

    return unit_table(net, chosen, read)


def moved(name: str, site: Site, before: Array, after: Array) -> Array:
    """|after - before| in SD of each unit over both, averaged over positions: (units, runs).

    Args:
        name: The site's name, for messages.
        site: The site.
        before: Its values in some runs, (runs, *site shape).
        after: Its values in their counterparts.

    Raises:
        ValueError: A site without units.
    """
    sd = unit_sd(name, site, jnp.concatenate([before, after]))
    size = jnp.mean(jnp.abs(site.by_part(after - before)), axis=2)
    return jnp.where(sd > 0, 1.0 / jnp.where(sd > 0, sd, 1.0), 0.0)[:, None] * size


def write_tensor(
    net: BoundModel,
    x: Array,
    eps: Array,
    sites: Chosen = None,
    *,
    outcome: Outcome = outputs,
    change: Change = difference,
    doses: Mapping[str, Array] | None = None,
    sweep: SweepFn = sweep,
) -> UnitTable:
    """Change of every read-out as each unit is raised by its SD: (units, factors, images).

    Args:
        net: The network with its parameters.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        sites: Which; see ``choose_units``. None takes all with units.
        outcome: Trace to read-out columns: ``readout.outcome(jax.nn.sigmoid)``.
        change: Columns before and after to signed changes: ``readout.change``.
        doses: Site to (units,), what is added to each unit; its SD over these runs if None.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: A site without units, or a dose of another shape.
    """
    sweep = unreduced(sweep)
    chosen = _with_units(net, sites, x, eps)
    for name in chosen:
        check_arithmetic(name, net.sites[name])
    for name in doses or {}:
        if name not in chosen:
            raise ValueError(unknown_choice("site of a dose", name, chosen))

    def written(name: str, units: Any) -> Array:
        site = net.sites[name]
        natural, clean = clean_runs(net, name, x, eps, None, functools.partial(measure, outcome))
        given = (doses or {}).get(name)
        dose = unit_sd(name, site, natural) if given is None else jnp.asarray(given)
        if dose.shape != (site.num_units,):
            raise ValueError(
                f"dose has shape {dose.shape}, expected ({site.num_units},) at {name!r}."
            )
        rows = Rows(x, eps, natural, natural + site.spread(dose)[None], clean)
        found = patch_units(
            net,
            name,
            rows,
            lambda patched, row: change(row.clean, patched),
            outcome=outcome,
            units=units,
            sweep=sweep,
        )
        return jnp.moveaxis(found, 2, 1)

    return unit_table(net, chosen, written)


def mediation_tensor(
    net: BoundModel,
    pairs: Pairs,
    sites: Chosen = None,
    *,
    outcome: Outcome = outputs,
    change: Change = difference,
    sweep: SweepFn = sweep,
) -> UnitTable:
    """TNIE of every unit on every read-out, pair by pair: (units, changed, read, pairs).

    The run on the target image, in which factor k has grown, loses what the unit carried of it. At
    a site of VQ codes the units are positions.

    Args:
        net: The network with its parameters.
        pairs: Minimal pairs of every factor, (factors, pairs, ...).
        sites: Which; see ``choose_units``.
        outcome: Trace to read-out columns: ``readout.outcome(jax.nn.sigmoid)``.
        change: Columns before and after to signed changes: ``readout.change``.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.
    """
    sweep = unreduced(sweep)
    check_pair(pairs)
    flat = pairs.flat()
    check_pairs(flat)
    chosen = choose_units(net, sites, flat.x0, flat.eps, outcome)

    def mediated(name: str, units: Any) -> Array:
        both = paired_rows(net, flat, name, outcome)
        targets = jax.tree.map(lambda a: a[len(flat.x0) :], both)
        lost = patch_units(
            net,
            name,
            targets,
            lambda patched, row: change(patched, row.clean),
            outcome=outcome,
            units=units,
            sweep=sweep,
        )
        lost = lost.reshape(lost.shape[0], *pairs.x0.shape[:2], -1)
        return jnp.moveaxis(lost, 3, 2)

    return unit_table(net, chosen, mediated)


def tensor_estimate(
    key: Array,
    samples: ArrayLike,
    *,
    intervention: str,
    q: float = 0.05,
    delta: float = 0.0,
    bootstrap: Bootstrap = Bootstrap(),
) -> TensorEstimate:
    """Means over pairs with intervals, and which survive: one family of tests over all units.

    Args:
        key: Typed PRNG key.
        samples: (units, ..., pairs), the values of a table from the functions above:
            ``table.map(lambda samples: tensor_estimate(key, samples, ...))``.
        intervention: What was done, in words.
        q: False discovery rate (Benjamini-Hochberg).
        delta: Smallest effect of interest, in SD of a factor; with enough pairs every effect
            differs from zero.
        bootstrap: How intervals are made; the tests know no clusters.

    Raises:
        ValueError: Fewer than two pairs, q outside (0, 1), or clusters.
    """
    bootstrap.without("tensor_estimate", "clusters")
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie between 0 and 1, got {q}.")
    p_value = false_discovery(minimum_effect_test(samples, delta))
    estimate = bootstrap_mean(key, samples, intervention=intervention, bootstrap=bootstrap)
    return TensorEstimate(estimate, p_value, p_value <= q)


def leakage(tensor: ArrayLike) -> np.ndarray:
    """Share of |M| off the diagonal, sum_{k != l} |M_kl| / sum |M|; NaN where nothing is mediated.

    Args:
        tensor: (..., factors, factors): (units, changed, read) for each unit's leakage, or its mean
            over units. Give ``TensorEstimate.filtered``: noise leaks (F - 1) / F.
    """
    size = np.abs(np.asarray(tensor, float))
    if size.ndim < 2 or size.shape[-1] != size.shape[-2]:
        raise ValueError(f"tensor has shape {size.shape}, expected (..., factors, factors).")
    total = size.sum((-2, -1))
    off = total - np.trace(size, axis1=-2, axis2=-1)
    return np.where(total > 0, off / np.where(total > 0, total, 1.0), np.nan)


def read_write_agreement(read: ArrayLike, write: ArrayLike) -> np.ndarray:
    """Cosine between what a unit reads and what it writes, over factors; NaN where either is zero.

    Reading is not signed. Give |W| to ask whether a unit writes what it reads, whatever the sign.

    Args:
        read: (..., factors).
        write: (..., factors).
    """
    read, write = np.asarray(read, float), np.asarray(write, float)
    if read.shape != write.shape:
        raise ValueError(f"read {read.shape} and write {write.shape} need one shape.")
    lengths = np.linalg.norm(read, axis=-1) * np.linalg.norm(write, axis=-1)
    product = np.sum(read * write, axis=-1)
    return np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1.0), np.nan)


def _with_units(net: BoundModel, sites: Chosen, x: Array, eps: Array) -> dict[str, Any]:
    """The sites chosen; of all, those that have units."""
    chosen = choose_units(net, sites, x, eps)
    if sites is None:
        return {name: units for name, units in chosen.items() if net.sites[name].num_units}
    for name in chosen:
        _check_units(name, net.sites[name])
    return chosen


def _check_units(name: str, site: Site) -> None:
    if site.unit_axis is None:
        raise ValueError(
            f"site {name!r} {site.shape} holds codes without units: labels have no size to read "
            "and no SD to be raised by. mediation_tensor patches its positions."
        )
