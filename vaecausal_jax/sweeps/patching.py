"""Activation patching: a donor run's values put into other runs, part by part of a site."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vaecausal_jax.indices import choose
from vaecausal_jax.interventions import BoxPatch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Site, measure, outputs
from vaecausal_jax.sweeps.grid import Skip, SweepFn, sweep

NO_START = -1
"""In place of where a unit's box begins, where there is no such unit."""


class Rows(NamedTuple):
    """Runs to be patched at one site; leaves have a leading axis of runs.

    Attributes:
        x: Inputs, (runs, ...).
        eps: Noise, (runs, ...).
        natural: The site's value in each run, (runs, *site shape).
        donor: What to patch in, (runs, *site shape).
        clean: Outcomes of the runs unpatched, (runs, *outcome).
        reference: Whatever else an effect is measured against, any pytree with leading axis runs.
    """

    x: Array
    eps: Array
    natural: Array
    donor: Array
    clean: Array
    reference: Any = ()


def patch_units(
    net: BoundModel,
    name: str,
    rows: Rows,
    effect: Callable[[Array, Rows], Any],
    *,
    outcome: Outcome = outputs,
    units: Any = None,
    sweep: SweepFn = sweep,
) -> Any:
    """Puts the donor's value of one unit into every run, unit by unit.

    Each run restarts at the site from its own natural value; networks written with
    ``models.layers`` compute after it only what the unit changes; and a unit whose value is the
    donor's already is not run at all.

    Args:
        net: The network with its parameters.
        name: The site to sweep.
        rows: The runs to patch.
        effect: (patched outcome, the row of the run) to what is kept of one run.
        outcome: Trace to the array of interest.
        units: Which units (positions, where the site holds VQ codes), as indices or booleans; all
            if None.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh, a block or a reduction.

    Returns:
        Effects with leading axes (units, runs), or (units,) after a reduction.
    """
    site = net.sites[name]
    starts = unit_starts(name, site, units)
    run, skip = unit_patch(net, name, site, effect, outcome)
    return sweep(run, starts, rows, skip=skip)


def unit_starts(name: str, site: Site, units: Any = None) -> Array:
    """First index of each unit's box along every axis of its site, (units, rank).

    ``NO_START`` where a traced unit is out of range.

    Args:
        name: The site's name, for messages.
        site: The site.
        units: Which units (positions, where there are no units), as in ``as_indices``; all if None.

    Raises:
        ValueError: A concrete unit out of range or repeated, or what indexes no units.
    """
    chosen, known = choose(f"at site {name!r}", "unit", units, site.num_parts)
    if site.unit_axis is None:
        starts = jnp.stack(jnp.unravel_index(chosen, site.shape), axis=-1)
    else:
        on_axis = jnp.arange(len(site.shape)) == site.unit_axis
        starts = jnp.where(on_axis[None, :], chosen[:, None], 0)
    return starts if known is None else jnp.where(known[:, None], starts, NO_START)


def unit_patch(
    net: BoundModel,
    name: str,
    site: Site,
    effect: Callable[[Array, Rows], Any],
    outcome: Outcome = outputs,
) -> tuple[Callable[[Array, Rows], Any], Skip]:
    """The run of a sweep over units, and what it may skip: functions of a unit's start and a row.

    ``unit_starts`` gives the points. At ``NO_START`` the outcome is NaN.
    """
    size = site.part_shape

    def run(start, row):
        inside = lax.dynamic_slice(row.donor, tuple(start), size)
        patch = {name: BoxPatch(row.natural, inside, tuple(start))}
        patched = measure(outcome, net(row.x, row.eps, patch))
        is_unit = jnp.all(start != NO_START)
        return effect(jax.tree.map(lambda y: jnp.where(is_unit, y, jnp.nan), patched), row)

    def changes(start, row):
        inside = [lax.dynamic_slice(a, tuple(start), size) for a in (row.donor, row.natural)]
        return jnp.any(inside[0] != inside[1]) | jnp.any(start == NO_START)

    return run, Skip(changes, lambda row: effect(row.clean, row))
