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
from jax.sharding import Mesh

from vaecausal_jax.effects.decompositions import (
    FourWay,
    Gram,
    Mediated,
    MediationShares,
    NaturalEffects,
    Outcomes,
    four_way,
    four_way_parts,
    gram,
    identity_residual,
    inner_products,
    mediation_shares,
    natural,
)
from vaecausal_jax.effects.mediators import Mediator
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions import Interventions, patch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, measure, outputs
from vaecausal_jax.rows import check_pairs, check_rows
from vaecausal_jax.sweeps.grid import Block, Skip, sweep
from vaecausal_jax.sweeps.patching import Rows, unit_patch, unit_starts
from vaecausal_jax.sweeps.reductions import Reduction

__all__ = [
    "FourWay",
    "Gram",
    "Mediated",
    "MediationShares",
    "NaturalEffects",
    "Outcomes",
    "controlled_direct_effect",
    "four_way",
    "four_way_parts",
    "gram",
    "identity_residual",
    "inner_products",
    "mean_activations",
    "mediate",
    "mediation_shares",
    "natural",
    "natural_effects",
    "pair_rows",
    "paired_rows",
    "site_mediation",
    "unit_mediation",
]


def natural_effects(
    net: BoundModel,
    x0: Array,
    x1: Array,
    eps: Array,
    mediator: Callable[[dict[str, Array]], Interventions],
    *,
    outcome: Outcome = outputs,
) -> NaturalEffects:
    """Total, natural direct and natural indirect effects of changing x0 into x1, for one pair.

    Args:
        net: The network with its parameters.
        x0: Reference input.
        x1: Target input.
        eps: Noise, shared by all four runs.
        mediator: A run's activations to the interventions that impose its mediator on another run,
            e.g. ``lambda a: patch(sites, name, a[name], unit=3)``. Any set of sites and units.
        outcome: Trace to the array of interest.

    Returns:
        The effects, each of the outcome's shape. Batch with ``jax.vmap``.
    """
    return natural(_runs(net, x0, x1, eps, mediator, outcome))


def controlled_direct_effect(
    net: BoundModel,
    x0: Array,
    x1: Array,
    eps: Array,
    baseline: Interventions,
    *,
    outcome: Outcome = outputs,
) -> Array:
    """Y(x1, m) - Y(x0, m) with the mediator held at a fixed value m: what ablation measures."""
    target = measure(outcome, net(x1, eps, baseline))
    return target - measure(outcome, net(x0, eps, baseline))


def mediate(
    net: BoundModel,
    mediator: Mediator,
    points: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    outcome: Outcome = outputs,
    baseline: Mapping[str, Array] | None = None,
    effect: Callable[[Outcomes], Any] = inner_products,
    reduction: Reduction | None = None,
    block: Block | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """Mediation of paired inputs through a family of mediators of any kind.

    The clean runs, and the layers that a mediator does not touch, are computed once per pair and
    serve all points. For single units ``unit_mediation`` does less work still.

    Args:
        net: The network with its parameters.
        mediator: ``mediator(point, activations) -> interventions``, e.g. ``mediators.group(sites,
            name)``, ``.direction``, ``.groups`` (several sites), ``.unit``.
        points: What it is swept over: a pytree with a leading axis of mediators.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise, (pairs, ...), shared by all arms of a pair.
        outcome: Trace to the array of interest: an image, a read-out, a scalar.
        baseline: Site to the value at which a mediator is held for the controlled direct effect:
            ``mean_activations``, or the optimal constants of ``ablate_optimal``.
        effect: What is kept of a pair's ``Outcomes``: inner products by default; ``natural`` keeps
            the effects themselves, ``four_way_parts`` those of the decomposition at the baseline.
        reduction: See ``sweep``.
        block: See ``sweep``; its contexts are pairs.
        mesh: See ``sweep``.

    Returns:
        ``Mediated``, or what ``effect`` returns, with leading axes (mediators, pairs); or
        (mediators,) after a reduction.

    Raises:
        ValueError: Sites, points or a baseline that do not fit, or a mediator without intervention.
    """
    check_pairs(x0, x1, eps)

    def run(point, pair):
        x0, x1, eps = pair
        bound = functools.partial(mediator, point)
        return effect(_runs(net, x0, x1, eps, bound, outcome, baseline))

    return sweep(run, points, (x0, x1, eps), reduction=reduction, block=block, mesh=mesh)


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
    name: str,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    outcome: Outcome = outputs,
    units: Any = None,
    block: Block | None = None,
    mesh: Mesh | None = None,
) -> Gram:
    """Patches every unit of a site between paired inputs, in both directions.

    Denoising puts the unit's value from x1 into the run on x0; noising the reverse. A convolution's
    unit is a whole channel.

    Args:
        net: The network with its parameters.
        name: The site to sweep.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise, (pairs, ...), shared by all arms of a pair.
        outcome: Trace to the array of interest.
        units: Which units, as indices or as booleans; all if None.
        block: See ``sweep``; its contexts are pairs.
        mesh: See ``sweep``.

    Returns:
        Gram with leaves of shape (units, pairs).
    """
    pairs = pair_rows(net, name, x0, x1, eps, outcome)
    arm, skip = unit_patch(net, name, net.sites[name], lambda patched, row: patched, outcome)

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
        unit_starts(name, net.sites[name], units),
        pairs,
        skip=Skip(changes, unchanged),
        block=block,
        mesh=mesh,
    )


def site_mediation(
    net: BoundModel,
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
    rows = pair_rows(net, name, x0, x1, eps, outcome)

    def patched(x, noise, donor):
        return measure(outcome, net(x, noise, patch(net.sites, name, donor)))

    denoised, noised = _arms(jax.vmap(jax.vmap(patched))(rows.x, rows.eps, rows.donor))
    return jax.vmap(gram)(*_arms(rows.clean), denoised, noised)


def _arms(values: Array) -> tuple[Array, Array]:
    return values[:, 0], values[:, 1]


def pair_rows(
    net: BoundModel, name: str, x0: Array, x1: Array, eps: Array, outcome: Outcome
) -> Rows:
    """Both runs of each pair, each with the other as donor: leading axes (pairs, 2).

    Runs of one pair lie side by side, so that pairs which are spread over devices stay where they
    are.
    """
    check_pairs(x0, x1, eps)
    x, noise = jnp.stack([x0, x1], axis=1), jnp.stack([eps, eps], axis=1)

    def clean(image, noise):
        trace = net(image, noise, {})
        if name not in trace.activations:
            raise ValueError(unknown_choice("site", name, trace.activations))
        return trace.activations[name], measure(outcome, trace)

    natural, y = jax.vmap(jax.vmap(clean))(x, noise)
    return Rows(x, noise, natural, natural[:, ::-1], y)


def paired_rows(
    net: BoundModel, name: str, x0: Array, x1: Array, eps: Array, outcome: Outcome
) -> Rows:
    """The runs of ``pair_rows`` on one axis: all references, then all targets."""
    pairs = pair_rows(net, name, x0, x1, eps, outcome)
    return jax.tree.map(lambda leaf: jnp.concatenate(_arms(leaf)), pairs)


def _runs(net: BoundModel, x0, x1, eps, mediator, outcome, baseline=None) -> Outcomes:
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
