"""What a study's numbers say about the claims of arXiv:2505.03530 that they can speak to.

Each claim becomes a small table and the number of seeds that would settle it. Nothing here calls a
difference significant that the seeds cannot support.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from vaecausal_jax.inference import Estimate, claim, over_seeds, seeds_to_settle, sign_flip_test
from vaecausal_jax.inference.correlation import (
    RankAgreement,
    partial_correlation,
    partial_residuals,
    rank_agreement,
)
from vaecausal_jax.study.factors import FactorEffects

EFFECTS = ("total_index_posterior_sum", "paper_effect_strength")
"""Forms of effect strength that claims are read on: normalised, and as the paper has it."""

SCORE = "dci_fast_disentanglement"
CONTROLS = ("squared_error", "kl", "active_latents")

RANKED = (
    "total_index_prior_sum",
    "total_index_posterior_sum",
    "paper_effect_strength",
    "mig",
    "dci_fast_disentanglement",
    "dci_lasso_disentanglement",
    "sap_discrete",
    "modularity",
    "explicitness",
    "factor_vae",
    "beta_vae",
    "irs",
)

CHANNEL_SHARE = 0.7
"""Proportion mediated from which the paper calls a channel a detector."""


class Comparison(NamedTuple):
    """Two families compared seed by seed.

    Attributes:
        first: The family that should be larger.
        second: The other.
        difference: first - second, with Student's interval over seeds.
        p_value: Sign-flip test.
        verdict: What that supports, in words.
        seeds_needed: To find this difference with power 0.8; None without spread.
    """

    first: str
    second: str
    difference: Estimate
    p_value: float
    verdict: str
    seeds_needed: int | None


class Claims(NamedTuple):
    """Claims 1, 2, 5 and 7 of the paper, as this study sees them.

    Attributes:
        correlation: Effect to (raw, partial): its correlation over models with DCI
            disentanglement, as it is and with squared error, KL and active latents held fixed. None
            with too few models.
        residuals: Effect to its values and those of DCI, raw and with the controls taken out, to
            plot: four rows of (models,), NaN for models left out.
        agreement: Spearman correlation of all scores and effects; None with too few models.
        order: Effect to the comparisons that FactorVAE > VAE > beta-VAE makes.
        channels: Encoder channels of each model by the number of factors of which they mediate more
            than 0.7 with their whole interval: family to (seeds, 3) counts of none, one, several.
        dead: Share of units shown to do nothing, by family.
        specificity: Specificity of units that do anything minus its null, by family.
        paper_specificity: The paper's S of the same, median over units, by family.
    """

    correlation: dict[str, tuple[Estimate, Estimate]] | None
    residuals: dict[str, np.ndarray]
    agreement: RankAgreement | None
    order: dict[str, list[Comparison]]
    channels: dict[str, np.ndarray]
    dead: dict[str, Estimate]
    specificity: dict[str, Estimate]
    paper_specificity: dict[str, Estimate]


def judge_claims(
    labels: list[tuple[str, int]],
    verdicts: list[str],
    values: dict[str, np.ndarray],
    mediated: dict[str, Estimate],
    effects: list[FactorEffects],
) -> Claims:
    """Judges every claim on the usable models.

    Args:
        labels: (family, seed) of each model.
        verdicts: ``"ok"``, or why a model is left out.
        values: One number per model, by name.
        mediated: Encoder site to the proportion mediated, (models, units, factors).
        effects: Of each model.
    """
    usable = np.array([verdict == "ok" for verdict in verdicts])
    families = list(dict.fromkeys(family for family, _ in labels))
    titles = np.array([family for family, _ in labels])
    seeds = np.array([seed for _, seed in labels])
    kept = {name: np.where(usable, v, np.nan) for name, v in values.items()}
    # Models without a finite code have no score at all, and models with codes no KL.
    for name in (SCORE, *CONTROLS):
        kept.setdefault(name, np.full(len(labels), np.nan))
    controls = {name: kept[name] for name in CONTROLS}
    # One complete row per model, and two more than there are controls to hold fixed.
    columns = [kept[name] for name in (*EFFECTS, SCORE, *CONTROLS)]
    complete = np.isfinite(np.stack(columns)).all(axis=0)
    enough = complete.sum() > len(CONTROLS) + 3

    def both(effect: str) -> tuple[Estimate, Estimate]:
        return (
            partial_correlation(kept[effect], kept[SCORE]),
            partial_correlation(kept[effect], kept[SCORE], controls),
        )

    def rows(effect: str) -> np.ndarray:
        pair = [kept[effect], kept[SCORE]]
        return np.stack([*pair, *(partial_residuals(v, controls) for v in pair)])

    def by_family(number: Any, what: str) -> dict[str, Estimate]:
        found = {}
        for family in families:
            own = [i for i in np.flatnonzero(usable & (titles == family))]
            rest = np.array([number(effects[i]) for i in own])
            if np.isfinite(rest).any():
                rest = rest[np.isfinite(rest)]
                found[family] = over_seeds(rest, num_inputs=len(rest), intervention=what)
        return found

    ranked = {name: kept[name] for name in RANKED if name in kept}
    return Claims(
        correlation={effect: both(effect) for effect in EFFECTS} if enough else None,
        residuals={effect: rows(effect) for effect in EFFECTS} if enough else {},
        agreement=rank_agreement(ranked) if usable.sum() > 3 else None,
        order={
            effect: [
                _compare(first, second, kept[effect], titles, seeds)
                for first, second in itertools.pairwise(_claimed_order(families))
            ]
            for effect in EFFECTS
        },
        channels={family: _detectors(mediated, usable & (titles == family)) for family in families},
        dead=by_family(
            lambda e: np.mean(e.classes.label == "dead"), "share of units shown to be dead"
        ),
        specificity=by_family(
            lambda e: (
                np.nanmean(np.append(e.specificity.corrected, np.nan))
                if e.specificity.active.any()
                else np.nan
            ),
            "entropic specificity of units that do anything, minus its null",
        ),
        paper_specificity=by_family(
            lambda e: (
                np.median(e.paper[np.isfinite(e.paper)]) if np.isfinite(e.paper).any() else np.nan
            ),
            "1 / (H + eps), median over units that do anything",
        ),
    )


def _claimed_order(families: list[str]) -> list[str]:
    """Those of FactorVAE, VAE and beta-VAE that were trained, the largest claimed effect first."""
    kinds = [lambda f: f.startswith("factor_vae"), lambda f: f == "vae"]
    kinds.append(lambda f: f.startswith("beta_vae"))
    return [family for kind in kinds for family in families if kind(family)]


def _compare(
    first: str, second: str, values: np.ndarray, titles: np.ndarray, seeds: np.ndarray
) -> Comparison:
    own, other = (
        {int(s): v for s, v in zip(seeds[titles == f], values[titles == f], strict=True)}
        for f in (first, second)
    )
    paired = [s for s in own if np.isfinite(own[s]) and np.isfinite(other.get(s, np.nan))]
    differences = np.array([own[s] - other[s] for s in paired])
    num = len(differences)
    difference = over_seeds(
        differences if num else np.array([np.nan]),
        num_inputs=num,
        intervention=f"{first} - {second}, seed by seed",
    )
    p_value = float(sign_flip_test(differences[None]).p_value[0]) if num > 1 else 1.0
    sd = differences.std(ddof=1) if num > 1 else 0.0
    settles = sd > 0 and differences.mean() != 0
    return Comparison(
        first,
        second,
        difference,
        p_value,
        claim(p_value, num_seeds=max(num, 1)),
        seeds_to_settle(differences.mean(), sd) if settles else None,
    )


def _detectors(mediated: dict[str, Estimate], models: np.ndarray) -> np.ndarray:
    """(models, 3): channels that mediate more than 0.7 of none, one or several factors."""
    counts = np.zeros((int(models.sum()), 3), int)
    for estimate in mediated.values():
        above = (estimate.low[models] > CHANNEL_SHARE).sum(axis=-1)
        counts += np.stack([(above == 0).sum(1), (above == 1).sum(1), (above > 1).sum(1)], axis=1)
    return counts
