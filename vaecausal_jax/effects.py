"""Causal effect strength: how much the output changes when a latent or unit is intervened on.

One sweep gives the per-image numbers; the named statistics are means or ratios of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaecausal_jax.interventions import combine, patch, shift_by
from vaecausal_jax.sites import Array, Forward, Outcome, Site, Sites, outputs
from vaecausal_jax.sweeps import sweep


class UnitEffects(NamedTuple):
    """Size of the output's change, per part of a site and image.

    Attributes:
        squared: |y' - y|^2, (parts, images).
        distance: |y' - y|, (parts, images).
        spread: |y - mean y|^2 of the clean outputs, (images,); unbiased, its mean is the variance
            summed over pixels.
        num_outputs: Number of scalars in an output.
    """

    squared: Array
    distance: Array
    spread: Array
    num_outputs: int


def unit_part(site: Site) -> Callable[[Array], dict[str, Array]]:
    """Selects unit ``i``; the default part of a site with units."""
    del site
    return lambda index: {"unit": index}


def position_part(site: Site) -> Callable[[Array], dict[str, Any]]:
    """Selects position ``i`` in row-major order; the default part of a site of VQ codes."""
    lengths = [length for axis, length in enumerate(site.shape) if axis != site.unit_axis]

    def select(index):
        return {"position": tuple(jnp.unravel_index(index, lengths))}

    return select


def resample_effects(
    forward: Forward,
    params: Any,
    sites: Sites,
    name: str,
    x: Array,
    eps: Array,
    donor: Array,
    *,
    base: Array | None = None,
    outcome: Outcome = outputs,
    chunk: int | None = None,
) -> UnitEffects:
    """Replaces one unit (or VQ position) at a time by its value in an independent donor.

    With ``base`` and ``donor`` both drawn from the prior at ``latent/z`` this is the pick-freeze
    sample of the total Sobol index of each latent. With natural values it is the resample index of
    the model in use.

    Args:
        forward: ``forward(params, x, eps, interventions) -> Trace``.
        params: Its parameters.
        sites: Its sites.
        name: The site to sweep.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...), shared by clean and intervened runs.
        donor: Values to take units from, (images, *site shape), independent of the base row by row.
        base: Values the site is held at in all arms, (images, *site shape); natural if None.
        outcome: Trace to the array of interest.
        chunk: See ``sweep``.

    Returns:
        Effects of every unit, or of every position where the site has no units.
    """
    site = sites[name]
    part = unit_part(site) if site.unit_axis is not None else position_part(site)
    num_parts = site.num_units or site.num_positions

    def held(row):
        return {} if base is None else patch(sites, name, row)

    def intervene(index, context):
        row, donor_row = context
        return combine(held(row), patch(sites, name, donor_row, **part(index)))

    rows = donor if base is None else base
    return _effects(
        forward,
        params,
        x,
        eps,
        jnp.arange(num_parts),
        (rows, donor),
        held,
        intervene,
        outcome,
        chunk,
    )


def shift_effects(
    forward: Forward,
    params: Any,
    sites: Sites,
    name: str,
    x: Array,
    eps: Array,
    dose: Array,
    *,
    outcome: Outcome = outputs,
    chunk: int | None = None,
) -> UnitEffects:
    """Adds ``dose[u]`` to unit ``u``, one unit at a time.

    Args:
        forward: ``forward(params, x, eps, interventions) -> Trace``.
        params: Its parameters.
        sites: Its sites.
        name: The site to sweep.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        dose: (units,) in the site's own scale, e.g. one standard deviation of each unit.
        outcome: Trace to the array of interest.
        chunk: See ``sweep``.
    """
    site = sites[name]
    if jnp.shape(dose) != (site.num_units,):
        raise ValueError(
            f"dose has shape {jnp.shape(dose)}, expected one a unit of {name!r}: "
            f"({site.num_units},)."
        )

    def intervene(point, context):
        unit, amount = point
        return shift_by(sites, name, amount, unit=unit)

    points = jnp.arange(site.num_units), dose
    return _effects(
        forward, params, x, eps, points, (x,), lambda row: {}, intervene, outcome, chunk
    )


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
    return effects.squared, 2.0 * jnp.broadcast_to(effects.spread[None], effects.squared.shape)


def paper_effect_strength(effects: UnitEffects) -> Array:
    """E_x |D(z) - D(z~)|_2 per image, (parts, images): the form ascribed to arXiv:2505.03530.

    It grows with the square root of the number of pixels, with dose and with contrast: compare it
    only within one model, dose and image size.
    """
    return effects.distance


def standardised_effect(effects: UnitEffects, pixel_sd: Array) -> Array:
    """Mean squared change per pixel in units of ``pixel_sd`` squared: (parts, images).

    The square root of its mean is the RMS change in SD units.
    """
    return effects.squared / (effects.num_outputs * pixel_sd**2)


def active_units(means: Array, threshold: float = 0.01) -> Array:
    """Latents whose posterior mean varies over images (Burda et al. 2016, arXiv:1509.00519).

    Args:
        means: (images, latents).
        threshold: Of the variance.
    """
    return jnp.var(means, axis=0) > threshold


def _effects(forward, params, x, eps, points, rows, held, intervene, outcome, chunk) -> UnitEffects:
    def clean(image, noise, *row):
        return outcome(forward(params, image, noise, held(row[0])))

    natural = jax.vmap(clean)(x, eps, *rows)

    def run(point, context):
        image, noise, y, row = context
        patched = outcome(forward(params, image, noise, intervene(point, row)))
        return jnp.sum((patched - y) ** 2)

    squared = sweep(run, points, (x, eps, natural, rows), chunk=chunk)
    return UnitEffects(squared, jnp.sqrt(squared), output_spread(natural), natural[0].size)
