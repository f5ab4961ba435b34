"""Effect strength of vector-quantised models: codes redrawn, and how far a shift must go to matter.

A shift before quantisation changes nothing until it crosses a cell's border, so the near-zero
effect strength that shifts find in VQ models says something of the shift, not of the model. Here
codes themselves are redrawn: at one position, of one value wherever it occurs, or the whole map.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects.unit_effects import UnitEffects, clean_runs, held_runs, resample_effects
from vaecausal_jax.interventions import set_to
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Sites, measure, outputs
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced


class CodeEffects(NamedTuple):
    """Change of the output when codes are taken from a donor's map.

    Attributes:
        position: One position at a time, (positions, images).
        code: Every position that holds code k, (codes, images).
        whole: The whole map, (1, images): total index 1 where the donor is independent.
        occurrence: Number of positions that hold code k, (codes, images).
    """

    position: UnitEffects
    code: UnitEffects
    whole: UnitEffects
    occurrence: Array


class CrossingRates(NamedTuple):
    """What shifts before quantisation do, (units, doses, images).

    Attributes:
        crossed: Share of positions whose code changes.
        squared: |y' - y|^2: rounding at most, where no code changes.
    """

    crossed: Array
    squared: Array


def code_effects(
    net: BoundModel,
    runs: Runs,
    *,
    num_codes: int,
    name: str = "latent/codes",
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> CodeEffects:
    """Redraws codes by position, by code value and all at once.

    ``effects.total_index`` of each field is the aggregated total index of its kind.

    Args:
        net: The network with its parameters.
        runs: The runs, and the codes to take at ``name``: other images' maps, or draws from the
            codes' empirical distribution.
        num_codes: Size of the codebook.
        name: The site of the codes.
        outcome: Trace to the array of interest.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: A site that holds no codes, or values that do not fit it.
    """
    sweep = unreduced(sweep)
    _check_codes(net.sites, name)
    (donor, base), x, eps = held_runs(net, runs, name), runs.x, runs.eps
    position = resample_effects(net, runs, name, outcome=outcome, sweep=sweep).values
    measured = functools.partial(measure, outcome)
    natural, y = clean_runs(net, name, x, eps, base, measured)

    def squared(codes, row):
        x, eps, y = row
        return jnp.sum((measure(outcome, net(x, eps, set_to(net.sites, name, codes))) - y) ** 2)

    def of_code(code, row):
        x, eps, natural, donor, y = row
        return squared(jnp.where(natural == code, donor, natural), (x, eps, y))

    def of_map(_, row):
        x, eps, _, donor, y = row
        return squared(donor, (x, eps, y))

    rows = x, eps, natural, donor, y
    numbers = jnp.arange(num_codes, dtype=natural.dtype)
    by_code = sweep(of_code, numbers, rows)
    by_map = sweep(of_map, jnp.zeros(1), rows)
    flat = natural.reshape(1, len(x), -1)
    occurrence = jnp.sum(flat == numbers[:, None, None], axis=-1)

    def scored(values):
        return UnitEffects(values, jnp.broadcast_to(position.spread[:1], values.shape))

    return CodeEffects(position, scored(by_code), scored(by_map), occurrence)


def crossing_rates(
    net: BoundModel,
    x: Array,
    eps: Array,
    doses: Array,
    *,
    unit_sd: Array | None = None,
    pre: str = "latent/pre",
    codes: str = "latent/codes",
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> CrossingRates:
    """How many codes change when one channel is shifted before quantisation, by size of the shift.

    Args:
        net: The network with its parameters.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        doses: (doses,), of either sign.
        unit_sd: (units,) what a dose is counted in; the scale of the site ``pre`` if None.
        pre: The site before quantisation.
        codes: The site of the codes.
        outcome: Trace to the array of interest.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: Unknown sites, doses that are not a vector, or not one SD per unit.
    """
    sweep = unreduced(sweep)
    _check_codes(net.sites, codes)
    if jnp.ndim(doses) != 1 or jnp.size(doses) == 0:
        raise ValueError(f"doses has shape {jnp.shape(doses)}, expected (doses,), one or more.")
    site = net.sites[pre]
    if site.unit_axis is None:
        raise ValueError(f"site {pre!r} {site.shape} has no units to shift.")
    num_units = site.num_units
    scale = jnp.ones(num_units, site.dtype) if unit_sd is None else jnp.asarray(unit_sd, site.dtype)
    if scale.shape != (num_units,):
        raise ValueError(f"unit_sd has shape {scale.shape}, expected ({num_units},).")
    natural, (clean, y) = clean_runs(
        net,
        pre,
        x,
        eps,
        None,
        lambda t: (t.activations[codes], measure(outcome, t)),
    )

    def run(point, row):
        unit, dose = point
        x, eps, natural, clean, y = row
        selected = site.spread(jnp.arange(site.num_units) == unit)
        moved = jnp.where(selected, natural + dose, natural)
        trace = net(x, eps, set_to(net.sites, pre, moved))
        changed = trace.activations[codes] != clean
        squared = jnp.sum((measure(outcome, trace) - y) ** 2)
        return CrossingRates(jnp.mean(changed.astype(squared.dtype)), squared)

    doses = jnp.asarray(doses, site.dtype)
    units = jnp.repeat(jnp.arange(num_units), len(doses))
    points = units, (scale[:, None] * doses[None]).reshape(-1)
    found = sweep(run, points, (x, eps, natural, clean, y))
    return jax.tree.map(lambda a: a.reshape(num_units, len(doses), len(x)), found)


def _check_codes(sites: Sites, name: str) -> None:
    site = sites[name]
    if site.unit_axis is not None or not jnp.issubdtype(site.dtype, jnp.integer):
        raise ValueError(f"site {name!r} holds {site.dtype}{site.shape}, expected integer codes.")
