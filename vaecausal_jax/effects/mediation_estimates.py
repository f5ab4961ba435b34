"""Mediation as numbers that can be published: shares of a total effect, each with its interval.

For images a share is projected, sum <part, TE> / sum |TE|^2 over pairs: a ratio of sums, so that
pairs in which little happens weigh little, and parts that add up to TE have shares that add to one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.effects.decompositions import Gram, Mediated, mediation_shares
from vaecausal_jax.effects.unit_effects import effective_units
from vaecausal_jax.inference import (
    Bootstrap,
    Estimate,
    bootstrap_function,
    bootstrap_ratio,
    sign_flip_test,
    sum_clusters,
)
from vaecausal_jax.sweeps.unit_tables import UnitTable


class MediationEstimates(NamedTuple):
    """Shares of the total effect of a family of mediators, each (mediators,); null 0.

    Attributes:
        proportion_mediated: TNIE: lost without the mediator (necessity). PM.
        proportion_direct: PNDE: what bypasses it. PD = 1 - PM exactly.
        denoising: PNIE: restored by the mediator alone (sufficiency).
        interaction: INTmed = TNIE - PNIE, noising minus denoising.
        off_axis: |TNIE|^2 outside the direction of TE, over |TE|^2.
        controlled: CDE(m): what is left with the mediator held. None, as all below, without a
            baseline.
        reference_interaction: INTref(m) = PNDE - CDE(m).
        proportion_interaction: INTref + INTmed.
        proportion_eliminated: TE - CDE(m): what holding the mediator removes.
        p_value: Sign-flip tests of no mediated effect, <TNIE, TE> of pairs (or clusters); adjust
            with ``false_discovery``.
        family_p_value: The same, adjusted for all mediators by the largest statistic.
        residual: Largest relative failure of the identities between effects: rounding only.
        defined: Whether the mean |TE|^2 exceeds the floor, below which shares are NaN.
    """

    proportion_mediated: Estimate
    proportion_direct: Estimate
    denoising: Estimate
    interaction: Estimate
    off_axis: Estimate
    controlled: Estimate | None
    reference_interaction: Estimate | None
    proportion_interaction: Estimate | None
    proportion_eliminated: Estimate | None
    p_value: np.ndarray
    family_p_value: np.ndarray
    residual: float
    defined: bool


class DepthProfile(NamedTuple):
    """How an effect is spread over the units of each site; fields map site to its estimate.

    Attributes:
        largest_share: Of any one unit's proportion mediated.
        effective_units: Number of units that carry it, (sum p)^2 / sum p^2 of positive shares.
        interaction: Sum over units of |noising - denoising|.
    """

    largest_share: dict[str, Estimate]
    effective_units: dict[str, Estimate]
    interaction: dict[str, Estimate]


def estimate_mediation(
    key: Array,
    mediated: Mediated,
    *,
    intervention: str,
    floor: float = 0.0,
    num_flips: int = 9999,
    bootstrap: Bootstrap = Bootstrap(),
) -> MediationEstimates:
    """Shares with intervals over pairs, from what a sweep of ``mediate`` kept.

    Args:
        key: Typed PRNG key.
        mediated: Leaves (mediators, pairs).
        intervention: What was patched, in words.
        floor: Mean |TE|^2 at or below which there is nothing to take a share of, e.g. the mean of
            ``effects.noise_floor``.
        num_flips: Sign patterns behind the p-values.
        bootstrap: How intervals are made; clusters are pairs that share a base image, which the
            tests flip together.

    Raises:
        ValueError: As ``bootstrap_ratio``.
    """
    shares = mediation_shares(mediated.gram)
    denominator = shares.denominator
    defined = bool(jnp.mean(denominator) > floor)
    below = denominator if defined else jnp.zeros_like(denominator)
    boot_key, flip_key = jax.random.split(key)

    def share(numerator, what):
        return bootstrap_ratio(
            boot_key,
            numerator,
            below,
            intervention=f"{intervention}: {what}",
            bootstrap=bootstrap,
        )

    direct = denominator - shares.noising
    held = mediated.controlled
    tested = shares.noising
    if bootstrap.clusters is not None:
        tested = sum_clusters(bootstrap.clusters, tested)
    test = sign_flip_test(tested, key=flip_key, num_flips=num_flips)
    return MediationEstimates(
        proportion_mediated=share(shares.noising, "target run <- reference"),
        proportion_direct=share(direct, "target run with the mediator of the reference"),
        denoising=share(shares.denoising, "reference run <- target"),
        interaction=share(shares.interaction, "noising - denoising"),
        off_axis=share(shares.off_axis, "change outside the direction of the total effect"),
        controlled=None if held is None else share(held, "mediator held at the baseline"),
        reference_interaction=None
        if held is None
        else share(direct - held, "pure direct - controlled direct"),
        proportion_interaction=None
        if held is None
        else share(direct - held + shares.interaction, "reference + mediated interaction"),
        proportion_eliminated=None
        if held is None
        else share(denominator - held, "total - controlled direct"),
        p_value=test.p_value,
        family_p_value=test.family_p_value,
        residual=float(jnp.max(mediated.residual)),
        defined=defined,
    )


def proportion_mediated(
    key: Array,
    gram: Gram,
    *,
    intervention: str = "each unit of the target run <- its value in the reference run",
    bootstrap: Bootstrap = Bootstrap(),
) -> Estimate:
    """What is lost without each mediator, as a share of the total effect: TNIE; null 0.

    ``unit_mediation(net, pairs).map(lambda gram: proportion_mediated(key, gram))`` has one for
    every unit of a network.

    Args:
        key: Typed PRNG key.
        gram: Inner products, leaves (mediators, pairs).
        intervention: What was patched, in words.
        bootstrap: How intervals are made.
    """
    shares = mediation_shares(gram)
    return bootstrap_ratio(
        key, shares.noising, shares.denominator, intervention=intervention, bootstrap=bootstrap
    )


def depth_profile(
    key: Array,
    effects: UnitTable,
    *,
    bootstrap: Bootstrap = Bootstrap(),
) -> DepthProfile:
    """How concentrated and how interacting the mediation of each site is, from its units' Grams.

    The whole of a site mediates everything in a network without skips; what varies with depth is
    over how many units. Each number stands beside what sign flips of the pairs would give.

    Args:
        key: Typed PRNG key.
        effects: From ``unit_mediation``, of sites in the order of depth.
        bootstrap: How intervals are made; clusters are pairs that share a base image.
    """
    shares = {name: mediation_shares(effects.sel(name).values) for name in effects.sites}

    def of(function, part):
        return {
            name: bootstrap_function(
                key,
                function,
                getattr(share, part),
                share.denominator,
                intervention=f"units of {name} patched between paired inputs",
                bootstrap=bootstrap,
            )
            for name, share in shares.items()
        }

    return DepthProfile(
        of(_largest, "noising"), of(effective_units, "noising"), of(_total_size, "interaction")
    )


def _largest(shares: Array) -> Array:
    return shares.max(0)


def _total_size(shares: Array) -> Array:
    return jnp.abs(shares).sum(0)
