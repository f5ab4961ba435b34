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

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.data.pairs import Pairs, check_pair, check_pairs
from vaecausal_jax.effects.decompositions import (
    Gram,
    NaturalEffects,
    Outcomes,
    gram,
    inner_products,
    natural,
)
from vaecausal_jax.effects.mediators import Mediator
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions import Interventions, patch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, measure, outputs
from vaecausal_jax.rows import check_rows
from vaecausal_jax.sweeps.grid import Skip, SweepFn, sweep
from vaecausal_jax.sweeps.patching import Rows, unit_patch, unit_starts
from vaecausal_jax.sweeps.unit_tables import Chosen, UnitTable, choose_units, unit_table


def natural_effects(
    net: BoundModel,
    pair: Pairs,
    mediator: Callable[[dict[str, Array]], Interventions],
    *,
    outcome: Outcome = outputs,
) -> NaturalEffects:
    """Total, natural direct and natural indirect effects of changing x0 into x1, for one pair.

    Args:
        net: The network with its parameters.
        pair: One pair of runs, whose noise all four arms share.
        mediator: A run's activations to the interventions that impose its mediator on another run,
            e.g. ``lambda a: patch(sites, name, a[name], unit=3)``. Any set of sites and units.
        outcome: Trace to the array of interest.

    Returns:
        The effects, each of the outcome's shape. Batch with ``jax.vmap``.
    """
    return natural(_runs(net, pair, mediator, outcome))


def controlled_direct_effect(
    net: BoundModel,
    pair: Pairs,
    baseline: Interventions,
    *,
    outcome: Outcome = outputs,
) -> Array:
    """Y(x1, m) - Y(x0, m) with the mediator held at a fixed value m: what ablation measures."""
    check_pair(pair)
    target = measure(outcome, net(pair.x1, pair.eps, baseline))
    return target - measure(outcome, net(pair.x0, pair.eps, baseline))


def mediate(
    net: BoundModel,
    pairs: Pairs,
    mediator: Mediator,
    points: Any,
    *,
    outcome: Outcome = outputs,
    baseline: Mapping[str, Array] | None = None,
    effect: Callable[[Outcomes], Any] = inner_products,
    sweep: SweepFn = sweep,
) -> Any:
    """Mediation of paired inputs through a family of mediators of any kind.

    The clean runs, and the layers that a mediator does not touch, are computed once per pair and
    serve all points. For single units ``unit_mediation`` does less work still.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared; all arms of a pair share its noise.
        mediator: ``mediator(point, activations) -> interventions``, e.g. ``mediators.group(sites,
            name)``, ``.direction``, ``.groups`` (several sites), ``.unit``.
        points: What it is swept over: a pytree with a leading axis of mediators.
        outcome: Trace to the array of interest: an image, a read-out, a scalar.
        baseline: Site to the value at which a mediator is held for the controlled direct effect:
            ``mean_activations``, or the optimal constants of ``ablate_optimal``.
        effect: What is kept of a pair's ``Outcomes``: inner products by default; ``natural`` keeps
            the effects themselves, ``four_way_parts`` those of the decomposition at the baseline.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh, a block or a reduction.

    Returns:
        ``Mediated``, or what ``effect`` returns, with leading axes (mediators, pairs); or
        (mediators,) after a reduction.

    Raises:
        ValueError: Sites, points or a baseline that do not fit, or a mediator without intervention.
    """
    check_pairs(pairs)

    def run(point, runs):
        bound = functools.partial(mediator, point)
        return effect(_runs(net, Pairs(*runs), bound, outcome, baseline))

    return sweep(run, points, pairs.runs)


def mean_activations(net: BoundModel, x: Array, eps: Array) -> dict[str, Array]:
    """Mean over images of every floating site: the baseline of mean ablation.

    Args:
        net: The network with its parameters.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
    """
    check_rows(x=x, eps=eps)
    values = jax.vmap(lambda image, noise: net(image, noise).activations)(x, eps)
    return {
        name: value.mean(0)
        for name, value in values.items()
        if jnp.issubdtype(value.dtype, jnp.floating)
    }


def unit_mediation(
    net: BoundModel,
    pairs: Pairs,
    sites: Chosen = None,
    *,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> UnitTable:
    """Patches every unit of some sites, or of all, between paired inputs, in both directions.

    Denoising puts the unit's value from x1 into the run on x0; noising the reverse. A convolution's
    unit is a whole channel.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared; all arms of a pair share its noise.
        sites: Which: a site, a pattern such as ``"decoder/*"``, several, a mapping from site to
            units, or every site between the input and the outputs; see ``choose_units``.
        outcome: Trace to the array of interest.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh, a block or a reduction.

    Returns:
        A table of ``Gram``, leaves (units, pairs).
    """
    check_pairs(pairs)
    chosen = choose_units(net, sites, pairs.x0, pairs.eps, outcome)

    def grams(name: str, units: Any) -> Gram:
        return unit_grams(net, pairs, name, units=units, outcome=outcome, sweep=sweep)

    return unit_table(net, chosen, grams)


def unit_grams(
    net: BoundModel,
    pairs: Pairs,
    name: str,
    *,
    units: Any = None,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> Gram:
    """``unit_mediation`` at one site, whose units may be known only as the program runs."""
    rows = pair_rows(net, pairs, name, outcome)
    arm, skip = unit_patch(net, name, net.sites[name], lambda patched, row: patched, outcome)

    def both_arms(start, pair):
        y01, y10 = jax.vmap(arm, (None, 0))(start, pair)
        return gram(pair.clean[0], pair.clean[1], y01, y10)

    def changes(start, pair):
        return jnp.any(jax.vmap(skip.changes, (None, 0))(start, pair))

    def unchanged(pair):
        y00, y11 = pair.clean
        return gram(y00, y11, y00, y11)

    starts = unit_starts(name, net.sites[name], units)
    return sweep(both_arms, starts, rows, skip=Skip(changes, unchanged))


def site_mediation(net: BoundModel, pairs: Pairs, name: str, *, outcome: Outcome = outputs) -> Gram:
    """Patches a whole site between paired inputs, in both directions: Gram leaves (pairs,).

    In a network without skip connections a site is a cut, and the indirect effect is the total one.
    """
    rows = pair_rows(net, pairs, name, outcome)

    def patched(x, noise, donor):
        return measure(outcome, net(x, noise, patch(net.sites, name, donor)))

    denoised, noised = _arms(jax.vmap(jax.vmap(patched))(rows.x, rows.eps, rows.donor))
    return jax.vmap(gram)(*_arms(rows.clean), denoised, noised)


def _arms(values: Array) -> tuple[Array, Array]:
    return values[:, 0], values[:, 1]


def pair_rows(net: BoundModel, pairs: Pairs, name: str, outcome: Outcome = outputs) -> Rows:
    """Both runs of each pair, each with the other as donor: leading axes (pairs, 2).

    Runs of one pair lie side by side, so that pairs which are spread over devices stay where they
    are.
    """
    check_pairs(pairs)
    x0, x1, eps = pairs.runs
    x, noise = jnp.stack([x0, x1], axis=1), jnp.stack([eps, eps], axis=1)

    def clean(image, noise):
        trace = net(image, noise, {})
        if name not in trace.activations:
            raise ValueError(unknown_choice("site", name, trace.activations))
        return trace.activations[name], measure(outcome, trace)

    natural, y = jax.vmap(jax.vmap(clean))(x, noise)
    return Rows(x, noise, natural, natural[:, ::-1], y)


def paired_rows(net: BoundModel, pairs: Pairs, name: str, outcome: Outcome = outputs) -> Rows:
    """The runs of ``pair_rows`` on one axis: all references, then all targets."""
    rows = pair_rows(net, pairs, name, outcome)
    return jax.tree.map(lambda leaf: jnp.concatenate(_arms(leaf)), rows)


def _runs(net: BoundModel, pair: Pairs, mediator, outcome, baseline=None) -> Outcomes:
    check_pair(pair)
    x0, x1, eps = pair.runs
    reference = net(x0, eps, {})
    target = net(x1, eps, {})

    def forced(x, run):
        interventions = mediator(run)
        if not interventions:
            raise ValueError("the mediator returned no intervention: nothing would be mediated.")
        return measure(outcome, net(x, eps, interventions))

    return Outcomes(
        measure(outcome, reference),
        measure(outcome, target),
        forced(x0, target.activations),
        forced(x1, reference.activations),
        None if baseline is None else forced(x0, baseline),
        None if baseline is None else forced(x1, baseline),
    )
