"""Causal mediation: how much of a change of the input reaches the output through chosen values.

Weights are fixed and every counterfactual can be run, with the same noise in all arms, so nested
counterfactuals are exact sample by sample and no identification assumption is needed (Pearl 2001,
arXiv:1301.2300; Vig et al. 2020, arXiv:2004.12265).

Two runs, reference ``x0`` ("corrupted") and target ``x1`` ("clean"), and a mediator M give four
outcomes Y(x, M(x')):

    total effect            TE   = Y(x1, M(x1)) - Y(x0, M(x0))
    pure direct effect      PNDE = Y(x1, M(x0)) - Y(x0, M(x0))
    total direct effect     TNDE = Y(x1, M(x1)) - Y(x0, M(x1))
    pure indirect effect    PNIE = Y(x0, M(x1)) - Y(x0, M(x0))    denoising: sufficiency
    total indirect effect   TNIE = Y(x1, M(x1)) - Y(x1, M(x0))    noising: necessity
    mediated interaction    INT  = TNIE - PNIE

TE = PNDE + TNIE = TNDE + PNIE always; TE = PNDE + PNIE only where INT is zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vaecausal_jax.interventions import Interventions, patch
from vaecausal_jax.patching import Rows, unit_patch, unit_starts
from vaecausal_jax.sites import Array, Forward, Outcome, Sites, outputs, unknown_choice
from vaecausal_jax.sweeps import Block, Skip, sweep


class NaturalEffects(NamedTuple):
    """Effects of one pair of inputs through one mediator; each has the outcome's shape."""

    total_effect: Array
    natural_direct_effect: Array
    total_direct_effect: Array
    natural_indirect_effect: Array
    total_indirect_effect: Array
    mediated_interaction: Array


class FourWay(NamedTuple):
    """VanderWeele's decomposition (2014): the four parts add up to the total effect."""

    controlled_direct_effect: Array
    reference_interaction: Array
    mediated_interaction: Array
    natural_indirect_effect: Array


def natural_effects(
    forward: Forward,
    params: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    mediator: Callable[[dict[str, Array]], Interventions],
    *,
    outcome: Outcome = outputs,
) -> NaturalEffects:
    """Total, natural direct and natural indirect effects of changing x0 into x1, for one pair.

    Args:
        forward: ``forward(params, x, eps, interventions) -> Trace``.
        params: Its parameters.
        x0: Reference input.
        x1: Target input.
        eps: Noise, shared by all four runs.
        mediator: A run's activations to the interventions that impose its mediator on another run,
            e.g. ``lambda a: patch(sites, name, a[name], unit=3)``. Any set of sites and units.
        outcome: Trace to the array of interest.

    Returns:
        The effects, each of the outcome's shape. Batch with ``jax.vmap``.
    """
    y00, y11, y01, y10 = _four_runs(forward, params, x0, x1, eps, mediator, outcome)
    return NaturalEffects(
        total_effect=y11 - y00,
        natural_direct_effect=y10 - y00,
        total_direct_effect=y11 - y01,
        natural_indirect_effect=y01 - y00,
        total_indirect_effect=y11 - y10,
        mediated_interaction=(y11 - y10) - (y01 - y00),
    )


def controlled_direct_effect(
    forward: Forward,
    params: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    baseline: Interventions,
    *,
    outcome: Outcome = outputs,
) -> Array:
    """Y(x1, m) - Y(x0, m) with the mediator held at a fixed value m: what ablation measures."""
    target = outcome(forward(params, x1, eps, baseline))
    return target - outcome(forward(params, x0, eps, baseline))


def four_way(effects: NaturalEffects, controlled: Array) -> FourWay:
    """TE = CDE(m) + INTref(m) + INTmed + PNIE (VanderWeele 2014, Epidemiology 25(5))."""
    return FourWay(
        controlled,
        effects.natural_direct_effect - controlled,
        effects.mediated_interaction,
        effects.natural_indirect_effect,
    )


class Gram(NamedTuple):
    """Inner products of TE, PNIE and TNIE over the outcome: what a sweep keeps of an image.

    Every share, residual and magnitude follows from these six numbers per (unit, pair).
    """

    total: Array
    total_pure: Array
    total_total: Array
    pure: Array
    pure_total: Array
    total_indirect: Array


def gram(y00: Array, y11: Array, y01: Array, y10: Array) -> Gram:
    """Inner products of the effects of one pair, from its four outcomes."""
    te, pnie, tnie = (a.reshape(-1) for a in (y11 - y00, y01 - y00, y11 - y10))
    return Gram(te @ te, te @ pnie, te @ tnie, pnie @ pnie, pnie @ tnie, tnie @ tnie)


def unit_mediation(
    forward: Forward,
    params: Any,
    sites: Sites,
    name: str,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    outcome: Outcome = outputs,
    units: Array | None = None,
    block: Block | None = None,
    mesh: Mesh | None = None,
) -> Gram:
    """Patches every unit of a site between paired inputs, in both directions.

    Denoising puts the unit's value from x1 into the run on x0; noising the reverse. A convolution's
    unit is a whole channel.

    Args:
        forward: ``forward(params, x, eps, interventions) -> Trace``.
        params: Its parameters.
        sites: Its sites.
        name: The site to sweep.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise, (pairs, ...), shared by all arms of a pair.
        outcome: Trace to the array of interest.
        units: Which units; all if None.
        block: See ``sweep``; its contexts are pairs.
        mesh: See ``sweep``.

    Returns:
        Gram with leaves of shape (units, pairs).
    """
    rows = paired_rows(forward, params, name, x0, x1, eps, outcome)
    pairs = jax.tree.map(lambda leaf: jnp.stack(jnp.split(leaf, 2), axis=1), rows)
    arm, skip = unit_patch(
        forward, params, name, sites[name], lambda patched, row: patched, outcome
    )

    def both_arms(start, pair):
        y01, y10 = jax.vmap(arm, (None, 0))(start, pair)
        return gram(pair.clean[0], pair.clean[1], y01, y10)

    def changes(start, pair):
        return jnp.any(jax.vmap(skip.changes, (None, 0))(start, pair))

    def unchanged(pair):
        y00, y11 = pair.clean
        return gram(y00, y11, y00, y11)

    return sweep(
        both_arms,
        unit_starts(name, sites[name], units),
        pairs,
        skip=Skip(changes, unchanged),
        block=block,
        mesh=mesh,
    )


def site_mediation(
    forward: Forward,
    params: Any,
    sites: Sites,
    name: str,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    outcome: Outcome = outputs,
) -> Gram:
    """Patches a whole site between paired inputs, in both directions: Gram leaves (pairs,).

    In a network without skip connections a site is a cut, and the indirect effect is the total one.
    """
    rows = paired_rows(forward, params, name, x0, x1, eps, outcome)

    def patched(x, noise, donor):
        return outcome(forward(params, x, noise, patch(sites, name, donor)))

    y01, y10 = jnp.split(jax.vmap(patched)(rows.x, rows.eps, rows.donor), 2)
    y00, y11 = jnp.split(rows.clean, 2)
    return jax.vmap(gram)(y00, y11, y01, y10)


def paired_rows(
    forward: Forward, params: Any, name: str, x0: Array, x1: Array, eps: Array, outcome: Outcome
) -> Rows:
    """Both runs of each pair, each with the other as donor: references first, then targets."""
    x, noise = jnp.concatenate([x0, x1]), jnp.concatenate([eps, eps])

    def clean(image, noise):
        trace = forward(params, image, noise, {})
        if name not in trace.activations:
            raise ValueError(unknown_choice("site", name, trace.activations))
        return trace.activations[name], outcome(trace)

    natural, y = jax.vmap(clean)(x, noise)
    return Rows(x, noise, natural, jnp.roll(natural, x0.shape[0], axis=0), y)


class MediationShares(NamedTuple):
    """Per (unit, pair) contributions; estimate each as a ratio of sums over ``denominator``.

    Attributes:
        denoising: <PNIE, TE>: what the unit alone restores.
        noising: <TNIE, TE>: what is lost without it. Its share is the proportion mediated.
        interaction: noising - denoising; positive for synergy, negative for redundancy.
        off_axis: |TNIE|^2 outside the direction of TE: collateral change.
        denominator: |TE|^2.
    """

    denoising: Array
    noising: Array
    interaction: Array
    off_axis: Array
    denominator: Array


def mediation_shares(grams: Gram) -> MediationShares:
    """Contributions to the projected shares of METHODS: PM = sum <TNIE, TE> / sum |TE|^2.

    PM + PD = 1 exactly, where PD is the same share of the pure direct effect; PM may leave [0, 1]
    when parts oppose, and is not clipped.
    """
    safe = jnp.where(grams.total > 0, grams.total, 1.0)
    return MediationShares(
        denoising=grams.total_pure,
        noising=grams.total_total,
        interaction=grams.total_total - grams.total_pure,
        off_axis=jnp.maximum(grams.total_indirect - grams.total_total**2 / safe, 0.0),
        denominator=grams.total,
    )


def _four_runs(forward, params, x0, x1, eps, mediator, outcome):
    reference = forward(params, x0, eps, {})
    target = forward(params, x1, eps, {})
    denoised = forward(params, x0, eps, mediator(target.activations))
    noised = forward(params, x1, eps, mediator(reference.activations))
    return outcome(reference), outcome(target), outcome(denoised), outcome(noised)
