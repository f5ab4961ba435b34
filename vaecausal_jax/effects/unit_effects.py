"""Causal effect strength: how much the output changes when a latent or unit is intervened on.

One sweep gives the per-image numbers; the named statistics are means or ratios of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vaecausal_jax.interventions import patch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Sites, Trace, measure, outputs
from vaecausal_jax.interventions.types import check_arithmetic
from vaecausal_jax.rows import check_rows
from vaecausal_jax.sweeps.grid import Block
from vaecausal_jax.sweeps.patching import Rows, patch_units


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


def resample_effects(
    net: BoundModel,
    name: str,
    x: Array,
    eps: Array,
    donor: Array,
    *,
    base: Array | None = None,
    outcome: Outcome = outputs,
    block: Block | None = None,
    mesh: Mesh | None = None,
) -> UnitEffects:
    """Replaces one unit (or VQ position) at a time by its value in an independent donor.

    With ``base`` and ``donor`` both drawn from the prior at ``latent/z`` this is the pick-freeze
    sample of the total Sobol index of each latent. With natural values it is the resample index of
    the model in use.

    Args:
        net: The network with its parameters.
        name: The site to sweep.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...), shared by clean and intervened runs.
        donor: Values to take units from, (images, *site shape), independent of the base row by row.
        base: Values the site is held at in all arms, (images, *site shape); natural if None.
        outcome: Trace to the array of interest.
        block: See ``sweep``.
        mesh: See ``sweep``.

    Returns:
        Effects of every unit, or of every position where the site has no units.
    """
    check_rows(x=x, eps=eps, donor=donor, base=base)
    check_values(net.sites, name, donor=donor, base=base)
    measured = functools.partial(measure, outcome)
    natural, y = clean_runs(net, name, x, eps, base, measured)
    rows = Rows(x, eps, natural, donor, y)
    return _effects(net, name, rows, outcome, block, mesh)


def shift_effects(
    net: BoundModel,
    name: str,
    x: Array,
    eps: Array,
    dose: Array,
    *,
    outcome: Outcome = outputs,
    block: Block | None = None,
    mesh: Mesh | None = None,
) -> UnitEffects:
    """Adds ``dose[u]`` to unit ``u``, one unit at a time.

    Args:
        net: The network with its parameters.
        name: The site to sweep.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        dose: (units,) in the site's own scale, e.g. one standard deviation of each unit.
        outcome: Trace to the array of interest.
        block: See ``sweep``.
        mesh: See ``sweep``.
    """
    site = net.sites[name]
    if jnp.shape(dose) != (site.num_units,):
        raise ValueError(
            f"dose has shape {jnp.shape(dose)}, expected one per unit of {name!r}: "
            f"({site.num_units},)."
        )
    check_arithmetic(name, site)

    measured = functools.partial(measure, outcome)
    natural, y = clean_runs(net, name, x, eps, None, measured)
    rows = Rows(x, eps, natural, natural + site.spread(dose)[None], y)
    return _effects(net, name, rows, outcome, block, mesh)


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


def check_values(sites: Sites, name: str, **values: Array | None) -> None:
    """Raises ValueError unless each value given has the site's shape after its axis of images."""
    for word, given in values.items():
        if given is None:
            continue
        if given.shape[1:] != sites[name].shape:
            raise ValueError(
                f"at site {name!r}: {word} has shape {given.shape[1:]}, expected "
                f"{sites[name].shape}, after its axis of images."
            )


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


def _effects(net: BoundModel, name, rows, outcome, block, mesh) -> UnitEffects:
    def squared_change(patched: Array, row: Rows) -> Array:
        return jnp.sum((patched - row.clean) ** 2)

    squared = patch_units(
        net,
        name,
        rows,
        squared_change,
        outcome=outcome,
        block=block,
        mesh=mesh,
    )
    y = rows.clean
    return UnitEffects(squared, jnp.sqrt(squared), output_spread(y), y[0].size)
