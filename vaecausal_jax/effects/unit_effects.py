"""Causal effect strength: how much the output changes when a latent or unit is intervened on.

One sweep gives the per-image numbers; the named statistics are means or ratios of them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data.pairs import Runs, check_runs
from vaecausal_jax.interventions import patch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Trace, measure, outputs
from vaecausal_jax.interventions.types import check_arithmetic
from vaecausal_jax.rows import check_rows
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced
from vaecausal_jax.sweeps.patching import Rows, patch_units
from vaecausal_jax.sweeps.unit_tables import Chosen, UnitTable, choose_units, unit_table


class UnitEffects(NamedTuple):
    """Size of the output's change, per part of a site and image.

    Attributes:
        squared: |y' - y|^2, (parts, images).
        spread: |y - mean y|^2 of the clean outputs, (parts, images), the same for every part of a
            site; unbiased, its mean is the variance summed over pixels.
    """

    squared: Array
    spread: Array


def resample_effects(
    net: BoundModel,
    runs: Runs,
    sites: Chosen = None,
    *,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> UnitTable:
    """Replaces one unit (or VQ position) at a time by its value in an independent donor.

    With base and donors both drawn from the prior at ``latent/z`` this is the pick-freeze sample of
    the total Sobol index of each latent. With natural values it is the resample index of the model
    in use.

    Args:
        net: The network with its parameters.
        runs: The runs, and what their units are redrawn from.
        sites: Which, see ``choose_units``. If None, all that have donors; of activations of whole
            runs, those that do not hold the input or the outputs.
        outcome: Trace to the array of interest.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        A table of ``UnitEffects``, leaves (units, images).

    Raises:
        ValueError: A site without donors, or values that do not fit.
    """
    sweep = unreduced(sweep)
    check_runs(runs)
    if sites is None and not set(net.sites) <= set(runs.donors):
        sites = tuple(runs.donors)
    chosen = choose_units(net, sites, runs.x, runs.eps, outcome)
    # All sites are checked before any is swept.
    held = {name: held_runs(net, runs, name) for name in chosen}

    def effects(name: str, units: Any) -> UnitEffects:
        donor, base = held[name]
        measured = functools.partial(measure, outcome)
        natural, y = clean_runs(net, name, runs.x, runs.eps, base, measured)
        rows = Rows(runs.x, runs.eps, natural, donor, y)
        return _effects(net, name, rows, units, outcome, sweep)

    return unit_table(net, chosen, effects)


def shift_effects(
    net: BoundModel,
    x: Array,
    eps: Array,
    doses: Mapping[str, Array],
    *,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> UnitTable:
    """Adds ``doses[site][u]`` to unit ``u``, one unit at a time.

    Args:
        net: The network with its parameters.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        doses: Site to (units,) in the site's own scale, e.g. one standard deviation of each unit.
        outcome: Trace to the array of interest.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        A table of ``UnitEffects``, leaves (units, images).
    """
    sweep = unreduced(sweep)
    for name, dose in doses.items():
        site = net.sites[name]
        if jnp.shape(dose) != (site.num_units,):
            raise ValueError(
                f"dose has shape {jnp.shape(dose)}, expected one per unit of {name!r}: "
                f"({site.num_units},)."
            )
        check_arithmetic(name, site)

    def effects(name: str, units: Any) -> UnitEffects:
        natural, y = clean_runs(net, name, x, eps, None, functools.partial(measure, outcome))
        donor = natural + net.sites[name].spread(jnp.asarray(doses[name]))[None]
        return _effects(net, name, Rows(x, eps, natural, donor, y), units, outcome, sweep)

    return unit_table(net, dict.fromkeys(doses), effects)


def output_spread(outcomes: Array) -> Array:
    """|y - mean y|^2 per image, scaled so that its mean is the unbiased total variance.

    Args:
        outcomes: (images, *outcome).
    """
    num = outcomes.shape[0]
    flat = outcomes.reshape(num, -1)
    centred = flat - jnp.mean(flat, axis=0, keepdims=True)
    return jnp.sum(centred**2, axis=1) * (num / max(num - 1, 1))


def total_index(effects: UnitEffects) -> tuple[Array, Array]:
    """Numerator and denominator, per image, of T = E|y' - y|^2 / (2 E|y - E y|^2).

    For independent coordinates T is the aggregated total Sobol index (Gamboa et al. 2014,
    arXiv:1311.1797), in [0, 1]: invariant to image size, contrast and isometries of the output.
    Estimate it as a ratio of sums: shapes (parts, images) both.
    """
    return effects.squared, 2.0 * effects.spread


def paper_effect_strength(effects: UnitEffects) -> Array:
    """E_x |D(z) - D(z~)|_2 per image, (parts, images): the form ascribed to arXiv:2505.03530.

    It grows with the square root of the number of pixels, with dose and with contrast: compare it
    only within one model, dose and image size.
    """
    return jnp.sqrt(effects.squared)


def noise_floor(
    net: BoundModel,
    x: Array,
    eps: Array,
    other_eps: Array,
    *,
    outcome: Outcome = outputs,
) -> Array:
    """|y(x, e) - y(x, e')|^2 of nothing but redrawn noise, per image, (images,).

    What a contrast whose arms do not share their noise adds to every squared effect, on average
    2 sum_j sigma_j^2 |w_j|^2 for a linear decoder. Arms here share it; this is the size below which
    an effect would be lost otherwise, and a floor for the denominators of shares.
    """

    def run(image, noise):
        return measure(outcome, net(image, noise, {}))

    check_rows(x=x, eps=eps, other_eps=other_eps)
    change = jax.vmap(run)(x, eps) - jax.vmap(run)(x, other_eps)
    return jnp.sum(change.reshape(len(x), -1) ** 2, axis=1)


def active_units(means: Array, threshold: float = 0.01) -> Array:
    """Latents whose posterior mean varies over images (Burda et al. 2016, arXiv:1509.00519).

    Args:
        means: (images, latents).
        threshold: Of the variance.
    """
    return jnp.var(means, axis=0) > threshold


def effective_units(shares: Array | np.ndarray, *, axis: int = 0) -> Any:
    """Number of units that an effect is spread over: (sum p)^2 / sum p^2 of positive shares p.

    The participation ratio: 1 if one unit mediates everything, their number if all mediate alike,
    NaN if no share is positive or one is NaN. NumPy arrays stay NumPy arrays, in their precision.

    Args:
        shares: Proportions mediated, or other sizes on one scale.
        axis: Of the units.
    """
    xp = shares.__array_namespace__()
    positive = xp.maximum(shares, 0.0)
    square = (positive**2).sum(axis=axis)
    return positive.sum(axis=axis) ** 2 / xp.where(square > 0, square, xp.nan)


def held_runs(net: BoundModel, runs: Runs, name: str) -> tuple[Array, Array | None]:
    """Donor and base of a site, whose shapes fit it.

    Raises:
        ValueError: An unknown site, one without donors, or values of another shape or number.
    """
    check_runs(runs)
    site = net.sites[name]
    donor, base = runs.at(name)
    for word, given in (("donor", donor), ("base", base)):
        if given is not None and given.shape[1:] != site.shape:
            raise ValueError(
                f"at site {name!r}: {word} has shape {given.shape[1:]}, expected {site.shape}, "
                "after its axis of images."
            )
    return donor, base


def clean_runs(
    net: BoundModel,
    name: str,
    x: Array,
    eps: Array,
    base: Array | None,
    outcome: Callable[[Trace], Any],
) -> tuple[Array, Any]:
    """The site's values that are intervened on, natural ones if base is None, and the outcomes."""

    def natural_run(image, noise):
        trace = net(image, noise, {})
        return trace.activations[name], outcome(trace)

    def held_run(image, noise, value):
        return outcome(net(image, noise, patch(net.sites, name, value)))

    net.sites[name]  # An unknown one is a ValueError.
    check_rows(x=x, eps=eps, base=base)
    if base is None:
        return jax.vmap(natural_run)(x, eps)
    return base, jax.vmap(held_run)(x, eps, base)


def _effects(
    net: BoundModel, name: str, rows: Rows, units: Any, outcome: Outcome, sweep: SweepFn
) -> UnitEffects:
    def squared_change(patched: Array, row: Rows) -> Array:
        return jnp.sum((patched - row.clean) ** 2)

    squared = patch_units(
        net, name, rows, squared_change, outcome=outcome, units=units, sweep=sweep
    )
    spread = output_spread(rows.clean)
    return UnitEffects(squared, jnp.broadcast_to(spread[None], squared.shape))
