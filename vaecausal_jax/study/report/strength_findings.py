"""Sentences about numbers of models: effect strengths, scores, their relation, modularity."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from vaecausal_jax.study.report.labels import (
    EFFECTS,
    SCORES,
    STRENGTHS,
    family_label,
    hundredths,
    interval_of,
    join,
)
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    as_estimate,
    panels,
    ranked_alike,
    strengths,
)


def say_strengths(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How each form orders the families, and whether they agree."""
    del pictures
    titles = [panel.family for panel in panels(summary, effects)]
    orders: dict[str, list[str]] = {}
    for name, (heading, _) in STRENGTHS.items():
        means = {f: strengths(summary, effects, f, name).mean() for f in titles}
        if len(titles) < 2 or not np.isfinite(list(means.values())).all():
            continue
        order = " > ".join(family_label(f) for f in sorted(titles, key=lambda f: -means[f]))
        orders.setdefault(order, []).append(heading.replace(",\n", " from the ").replace("\n", " "))
    if not orders:
        return []
    said = "; ".join(f"{order} by {join(headings)}" for order, headings in orders.items())
    agree = "All forms agree" if len(orders) == 1 else f"The forms give {len(orders)} orders"
    return [f"{agree} of the families' means, whatever their intervals: {said}."]


def say_scores(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The best family by score, beside chance."""
    del effects, pictures
    sentences = []
    for name in ("mig", "dci_fast_disentanglement", "factor_vae"):
        rows = {f: row for f, row in summary["families"].items() if row and name in row}
        means = {f: as_estimate(row[name]) for f, row in rows.items()}
        means = {f: mean for f, mean in means.items() if np.isfinite(mean.value)}
        if not means:
            continue
        best = max(means, key=lambda f: float(means[f].value))
        chance = as_estimate(rows[best][f"{name}/chance"]).value
        sentences.append(
            f"{SCORES[name]} is highest in {family_label(best)}: {interval_of(means[best])}, where "
            f"chance gives {chance:.2f}."
        )
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
        f"{mixed.sum() * (1 - agreement['level']):.1f} would."
    ]


def say_modularity(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Modularity beyond its null, by family."""
    del effects, pictures
    places = {"decoder": "first decoder layer", "reencoded": "re-encoded output"}
    sentences = []
    for where, place in places.items():
        said = _by_family(summary["families"], f"modularity_excess_{where}")
        if said:
            sentences.append(
                f"Read in the {place}, M exceeds its null by {join(said)}; an interval that holds "
                "0 shows no modularity of the model."
            )
    return sentences


def _by_family(rows: Mapping, name: str) -> list[str]:
    means = {f: as_estimate(row[name]) for f, row in rows.items() if name in row}
    return [
        f"{interval_of(mean, show=hundredths)} in {family_label(f)}"
        for f, mean in means.items()
        if np.isfinite(mean.value)
    ]
