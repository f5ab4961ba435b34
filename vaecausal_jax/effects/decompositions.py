"""What the outcomes of one pair of inputs tell: natural effects, four-way parts, inner products.

Two runs, reference ``x0`` and target ``x1``, and a mediator M give four outcomes Y(x, M(x')), and
two more where M is held at a fixed value m. Everything in mediation is a contrast of these.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class Outcomes(NamedTuple):
    """Outcomes of one pair; each has the outcome's shape.

    Attributes:
        reference: Y(x0, M(x0)).
        target: Y(x1, M(x1)).
        denoised: Y(x0, M(x1)).
        noised: Y(x1, M(x0)).
        held_reference: Y(x0, m), None where no baseline m was given.
        held_target: Y(x1, m), likewise.
    """

    reference: Array
    target: Array
    denoised: Array
    noised: Array
    held_reference: Array | None = None
    held_target: Array | None = None


class NaturalEffects(NamedTuple):
    """Effects of one pair through one mediator: arrays of the outcome's shape, or estimates."""

    total_effect: Any
    natural_direct_effect: Any
    total_direct_effect: Any
    natural_indirect_effect: Any
    total_indirect_effect: Any
    mediated_interaction: Any


class FourWay(NamedTuple):
    """VanderWeele's decomposition (2014): the four parts add up to the total effect."""

    controlled_direct_effect: Array
    reference_interaction: Array
    mediated_interaction: Array
    natural_indirect_effect: Array


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


class Mediated(NamedTuple):
    """What is kept of a pair and a mediator whatever the outcome's size.

    Attributes:
        gram: Inner products of TE, PNIE and TNIE.
        controlled: <CDE, TE>; None without a baseline.
        residual: ``identity_residual`` of the pair.
    """

    gram: Gram
    controlled: Array | None
    residual: Array


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


def natural(outcomes: Outcomes) -> NaturalEffects:
    """The six natural effects themselves: for outcomes small enough to be kept."""
    y00, y11, y01, y10 = outcomes[:4]
    return NaturalEffects(
        total_effect=y11 - y00,
        natural_direct_effect=y10 - y00,
        total_direct_effect=y11 - y01,
        natural_indirect_effect=y01 - y00,
        total_indirect_effect=y11 - y10,
        mediated_interaction=(y11 - y10) - (y01 - y00),
    )


def four_way(effects: NaturalEffects, controlled: Array) -> FourWay:
    """TE = CDE(m) + INTref(m) + INTmed + PNIE (VanderWeele 2014, Epidemiology 25(5))."""
    return FourWay(
        controlled,
        effects.natural_direct_effect - controlled,
        effects.mediated_interaction,
        effects.natural_indirect_effect,
    )


def four_way_parts(outcomes: Outcomes) -> FourWay:
    """The four parts from the outcomes of a pair.

    Raises:
        ValueError: Outcomes without those at a baseline.
    """
    if outcomes.held_reference is None or outcomes.held_target is None:
        raise ValueError("the four-way decomposition needs a baseline; give mediate(baseline=...).")
    return four_way(natural(outcomes), outcomes.held_target - outcomes.held_reference)


def identity_residual(effects: NaturalEffects) -> Array:
    """Largest failure of TE = PNDE + TNIE = TNDE + PNIE = PNDE + PNIE + INT, relative.

    In units of the largest effect, by Euclidean norms over the outcome: a scalar, rounding only
    (below 1e-5 in float32, 1e-12 in float64); 0 where nothing has any effect.
    """
    te, pnde, tnde, pnie, tnie, interaction = (a.reshape(-1) for a in effects)
    failures = te - pnde - tnie, te - tnde - pnie, te - pnde - pnie - interaction
    size = jnp.max(jnp.stack([jnp.linalg.norm(a) for a in (te, pnde, tnde, pnie, tnie)]))
    worst = jnp.max(jnp.stack([jnp.linalg.norm(a) for a in failures]))
    # NaN must not pass for an identity that holds.
    return jnp.where(size == 0, 0.0, worst / jnp.where(size == 0, 1.0, size))


def gram(y00: Array, y11: Array, y01: Array, y10: Array) -> Gram:
    """Inner products of the effects of one pair, from its four outcomes."""
    te, pnie, tnie = (a.reshape(-1) for a in (y11 - y00, y01 - y00, y11 - y10))
    return Gram(te @ te, te @ pnie, te @ tnie, pnie @ pnie, pnie @ tnie, tnie @ tnie)


def inner_products(outcomes: Outcomes) -> Mediated:
    """All that shares and four-way parts of an image need: a few numbers per pair."""
    controlled = None
    if outcomes.held_reference is not None and outcomes.held_target is not None:
        total = outcomes.target - outcomes.reference
        held = outcomes.held_target - outcomes.held_reference
        controlled = held.reshape(-1) @ total.reshape(-1)
    return Mediated(gram(*outcomes[:4]), controlled, identity_residual(natural(outcomes)))


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
