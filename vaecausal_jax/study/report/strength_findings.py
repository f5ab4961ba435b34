"""Sentences about numbers of models: effect strengths, scores, their relation, modularity."""

import numpy as np
import xarray as xr

from vaecausal_jax.inference import over_seeds
from vaecausal_jax.study.report.evidence import against_null, say_apart
from vaecausal_jax.study.report.labels import (
    EFFECTS,
    SCORES,
    STRENGTHS,
    hundredths,
    interval_of,
)
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    as_estimate,
    families,
    panels,
    ranked_alike,
    strengths,
    usable_seeds,
)


def say_strengths(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Which families differ by which form of effect strength."""
    del pictures
    titles = [panel.family for panel in panels(summary, effects)]
    quantities = {}
    for name, (heading, _) in STRENGTHS.items():
        if not all(is_determined(summary, effects, family, name) for family in titles):
            continue
        words = heading.replace(",\n", " from the ").replace("\n", " ")
        quantities[words[0].lower() + words[1:]] = {
            family: dict(
                zip(
                    usable_seeds(summary, family),
                    strengths(summary, effects, family, name),
                    strict=True,
                )
            )
            for family in titles
        }
    return say_apart(quantities)


def is_determined(summary: Summary, effects: xr.Dataset, family: str, name: str) -> bool:
    """Whether the images determine a form of effect strength in every model of a family.

    First-order indices and interaction shares are shares of a variance; their unbiased estimates
    leave the range of shares where few images leave them undetermined.
    """
    if not name.startswith(("first_order", "interaction_share")):
        return True
    own = effects[name].sel(family=family, seed=usable_seeds(summary, family), statistic="value")
    values = own.transpose("seed", "latent").values
    total = values.sum(axis=1)
    # Interactions are shared by several latents: only each one's share is bounded by 1.
    largest = total if name.startswith("first_order") else values.max(axis=1)
    return bool((total >= 0).all() and (largest <= 1).all())


def say_scores(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Every score minus chance, seed by seed: above, not shown to differ, below."""
    del pictures
    sentences = []
    for name, heading in SCORES.items():
        columns = f"score_{name}", f"score_{name}_chance"
        if not set(columns) <= set(effects):
            continue
        differences = {}
        for family in families(summary):
            if not (seeds := usable_seeds(summary, family)):
                continue
            own = effects.sel(family=family, seed=seeds)
            excess = np.atleast_1d(own[columns[0]].values - own[columns[1]].values)
            differences[family] = over_seeds(
                excess, num_inputs=0, intervention="score minus chance"
            )
        if said := against_null(differences, "chance", show=hundredths):
            sentences.append(f"{heading} is {said}.")
    return sentences


def say_relation(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The correlations with their intervals."""
    del effects, pictures
    sentences = []
    for name, heading in EFFECTS.items():
        raw, partial = (as_estimate(r) for r in summary["claims"]["correlation"][name])
        if np.isfinite([raw.value, partial.value]).all():
            sentences.append(
                f"Over {raw.num_seeds} models the {heading} and DCI disentanglement correlate at "
                f"{interval_of(raw, show=hundredths)}, and at "
                f"{interval_of(partial, show=hundredths)} with squared error, KL and "
                "active latents held fixed."
            )
    return sentences


def say_agreement(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How many effects and scores can be said to rank models alike."""
    del effects, pictures
    agreement = summary["claims"]["agreement"]
    is_score = np.array([name in SCORES for name in agreement["names"]])
    alike, opposed = ranked_alike(agreement)
    mixed = ~is_score[:, None] & is_score & (np.asarray(agreement["num_models"]) > 4)
    if not mixed.any():
        return []
    return [
        f"Of {mixed.sum()} pairs of an effect strength and a score, {(mixed & alike).sum()} "
        f"rank the models alike and {(mixed & opposed).sum()} in opposite ways, by their whole "
        f"{agreement['level']:.0%} interval; by chance alone about "
        f"{mixed.sum() * (1 - agreement['level']):.1f} would, were models independent."
    ]


def say_modularity(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Modularity beside its null, by family."""
    del effects, pictures
    places = {"decoder": "first decoder layer", "reencoded": "re-encoded output"}
    sentences = []
    for where, place in places.items():
        means = {
            family: as_estimate(row[f"modularity_excess_{where}"])
            for family, row in summary["families"].items()
            if f"modularity_excess_{where}" in row
        }
        if said := against_null(means, "its null", show=hundredths):
            sentences.append(f"Read in the {place}, M is {said}.")
    return sentences
