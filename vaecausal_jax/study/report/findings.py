"""Sentences computed from the data: their every number comes from this study.

A sentence whose numbers are missing is left out rather than softened. ``say_<figure>`` takes what
the figure takes, and gives no sentence, or one per family or quantity.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from vaecausal_jax.effects.unit_effects import effective_units
from vaecausal_jax.study.report.labels import COMPARED, family_label, join, number
from vaecausal_jax.study.report.panels import (
    Panel,
    Pictures,
    Summary,
    as_estimate,
    largest_by_factor,
    layers,
    panels,
    shares,
    usable_seeds,
)

INFORMATIVE_KL = 0.1
"""Latents above it enter sentences: below, a change in units of a latent's own SD says little."""


def say_traversals(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How many latents are active, and which carries most."""
    del pictures
    sentences = []
    for panel in panels(summary, effects):
        top, total = panel.order[0], panel.kl.sum()
        active = int(summary["models"][panel.model]["active_latents"])
        sentences.append(
            f"In {panel.label}, {active} of {panel.kl.size} latents are active; z{top} carries "
            f"most, {panel.kl[top]:.2f} of {total:.2f} nats."
        )
    return sentences


def say_training(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How far the reconstruction error fell, and whether it still falls."""
    del effects
    sentences = []
    for family, history in (pictures.get("histories") or {}).items():
        if not (seeds := usable_seeds(summary, family)):
            continue
        mean = np.asarray(history["reconstruction"])[seeds].mean(axis=0)
        tenth = max(1, mean.size // 10)
        if mean.size < 2 * tenth:
            continue
        last, before = mean[-tenth:].mean(), mean[-2 * tenth : -tenth].mean()
        sentences.append(
            f"In {family_label(family)} the reconstruction error went from {number(mean[0])} to "
            f"{number(mean[-1])} nats; its mean over the last tenth of the steps differs by "
            f"{last - before:+.2f} nats from the tenth before."
        )
    return sentences


def say_comparison(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Which families are lowest and highest."""
    del effects, pictures
    sentences = []
    for name in ("reconstruction", "kl", "total_index_posterior_sum"):
        means = {
            f: float(as_estimate(row[name]).value)
            for f, row in summary["families"].items()
            if name in row and np.isfinite(as_estimate(row[name]).value)
        }
        if len(means) < 2:
            continue
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        sentences.append(
            f"{COMPARED[name][0]} is lowest in {family_label(low)} ({number(means[low])}) and "
            f"highest in {family_label(high)} ({number(means[high])})."
        )
    return sentences


def say_input(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The factor most confined to one latent, and the one least followed."""
    del pictures
    sentences = []
    names = [str(f) for f in effects["factor"].values]
    for panel in panels(summary, effects):
        active = np.flatnonzero(panel.kl > INFORMATIVE_KL)
        if active.size < 2:
            continue
        moved = panel.effects["factor_to_latent"].sel(statistic="value")
        table = moved.transpose("factor", "latent").values[:, active]
        if not np.isfinite(table).all():
            continue
        order = np.argsort(-table, axis=1)
        first, second = (np.take_along_axis(table, order[:, i : i + 1], 1)[:, 0] for i in (0, 1))
        gap = np.argmax(first - second)
        weak = np.argmin(first)
        sentences.append(
            f"In {panel.label}, of latents with more than {INFORMATIVE_KL} nats, the factor most "
            f"confined to one is {names[gap]}: it moves z{active[order[gap, 0]]} by "
            f"{first[gap]:.2f} SD and the next, z{active[order[gap, 1]]}, by {second[gap]:.2f} SD; "
            f"{names[weak]} moves none by more than {first[weak]:.2f} SD."
        )
    return sentences


def say_latent(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The strongest latent in use, its dose response, and the sum of the indices."""
    del pictures
    sentences = []
    for panel in panels(summary, effects):
        ends = panel.effects["total_index_posterior"].transpose("statistic", "latent").values
        if not np.isfinite(ends[0]).all():
            continue
        top = int(ends[0].argmax())
        total = as_estimate(summary["families"][panel.family]["total_index_posterior_sum"])
        interval = (
            f" [{total.low:.2f}, {total.high:.2f}]" if np.isfinite(total.low) else " (one seed)"
        )
        sentences.append(
            f"In {panel.label} the strongest latent in use is z{top}, total index "
            f"{ends[0, top]:.2f} [{ends[1, top]:.2f}, {ends[2, top]:.2f}]"
            f"{_dose_words(panel, top)}. Over seeds the posterior indices add up to "
            f"{total.value:.2f}{interval}."
        )
    return sentences


def _dose_words(panel: Panel, latent: int) -> str:
    doses = panel.effects["dose"].values
    if not doses.size:
        return ""
    dose = doses[np.argmin(np.abs(doses - 1.0))]
    change = panel.effects["dose_response"].sel(statistic="value", dose=dose).values[latent]
    return f"; shifting it by {dose:+g} SD changes the image by {change:.2f} SD"


def say_units(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The strongest hidden unit, and how many channels serve one factor or several."""
    del pictures
    sentences = []
    names = [str(f) for f in effects["factor"].values]
    hidden = [s for s in layers(effects) if not s.startswith("latent/")]
    encoder = [s for s in hidden if s.startswith("encoder/conv")]
    for panel in panels(summary, effects):
        tables = {s: shares(panel.effects, s).transpose("unit", "factor").values for s in hidden}
        sizes = {s: np.fmax.reduce(t, axis=None) for s, t in tables.items()}
        site = max(sizes, key=lambda s: np.nan_to_num(sizes[s], nan=-np.inf))
        if not np.isfinite(sizes[site]):
            continue
        unit, factor = np.argwhere(tables[site] == sizes[site])[0]
        low, high = (
            shares(panel.effects, site, end=end).transpose("unit", "factor").values[unit, factor]
            for end in ("low", "high")
        )
        num = sum(len(tables[s]) for s in encoder)
        over = [(tables[s] > 0.7).sum(axis=1) for s in encoder]
        single = sum(int((counts == 1).sum()) for counts in over)
        several = sum(int((counts > 1).sum()) for counts in over)
        sentences.append(
            f"In {panel.label} the strongest hidden unit is unit {unit} of {site}: it mediates "
            f"{sizes[site]:.0%} [{low:.0%}, {high:.0%}] of the effect of {names[factor]}. Of {num} "
            f"encoder channels, {single or 'none'} mediate more than 0.7 of exactly one factor's "
            f"effect, {several or 'none'} of several factors'."
        )
    return sentences


def say_layers(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Where mediation is narrowest and widest, and where units interact."""
    del pictures
    sentences = []
    hidden = [s for s in layers(effects) if not s.startswith("latent/")]
    for panel in panels(summary, effects):
        row = summary["families"][panel.family]
        value = {
            name: {
                site: float(as_estimate(row[f"{name}/{site}"]).value)
                for site in hidden
                if f"{name}/{site}" in row and np.isfinite(as_estimate(row[f"{name}/{site}"]).value)
            }
            for name in ("effective_units", "interaction")
        }
        units, gaps = value["effective_units"], value["interaction"]
        if not units or not gaps:
            continue
        narrow, wide = min(units, key=units.__getitem__), max(units, key=units.__getitem__)
        most, least = max(gaps, key=gaps.__getitem__), min(gaps, key=gaps.__getitem__)
        sentences.append(
            f"In {panel.label} a factor's effect runs through {units[narrow]:.1f} units on average "
            f"in {narrow}, the fewest of all hidden layers, and through {units[wide]:.0f} in "
            f"{wide}, the most; units interact most in {most} ({gaps[most]:.2f}) and least in "
            f"{least} ({gaps[least]:.2f})."
        )
    return sentences


def say_factors(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The factor that the first decoder layer spreads most."""
    del pictures
    sentences = []
    names = [str(f) for f in effects["factor"].values]
    site = next((s for s in layers(effects) if s.startswith("decoder/")), None)
    if site is None:
        return []
    for panel in panels(summary, effects):
        seeds = usable_seeds(summary, panel.family)
        own = effects.sel(family=panel.family, seed=seeds)
        numbers = effective_units(shares(own, site).transpose("unit", "seed", "factor").values)
        spread = numbers.mean(axis=0)
        largest = largest_by_factor(effects, site, panel.family, seeds)
        if not np.isfinite(spread).all():
            continue
        f = int(spread.argmax())
        interval = ""
        if np.isfinite(largest.low[f]):
            interval = f" [{largest.low[f]:.0%}, {largest.high[f]:.0%}]"
        sentences.append(
            f"In {panel.label} the layer {site} spreads {names[f]} over {spread[f]:.0f} units on "
            f"average, more than any other factor; the strongest unit mediates "
            f"{largest.value[f]:.0%}{interval} of it."
        )
    return sentences


def say_differences(differences: Mapping[str, Any]) -> list[str]:
    """How many differences from the first family stand out, and what they cannot support."""
    return [_chance(differences), *_cautions(differences)]


def _chance(differences: Mapping[str, Any]) -> str:
    """How many intervals exclude zero, which, and how many would by chance."""
    apart: dict[str, list[str]] = {}
    num, level = 0, 0.95
    for family, row in differences.items():
        for name, (heading, _) in COMPARED.items():
            if name not in row:
                continue
            estimate = as_estimate(row[name])
            if not np.isfinite([estimate.low, estimate.high]).all():
                continue
            num, level = num + 1, estimate.level
            if estimate.low > 0 or estimate.high < 0:
                sign = "higher" if estimate.value > 0 else "lower"
                apart.setdefault(family_label(family), []).append(f"{_lower(heading)} {sign}")
    if num == 0:
        return "No difference has an interval: that takes two seeds or more a family."
    said = "; ".join(f"{family}: {', '.join(found)}" for family, found in apart.items())
    return (
        f"{sum(map(len, apart.values()))} of {num} {level:.0%} intervals exclude 0"
        + (f" ({said})" if said else "")
        + ". They are not corrected for being many: were there no difference at all, about "
        f"{num * (1 - level):.1f} would."
    )


def _lower(heading: str) -> str:
    return heading if heading[1].isupper() else heading[0].lower() + heading[1:]


def _cautions(differences: Mapping[str, Any]) -> list[str]:
    """What too few seeds cannot support, in the estimates' words; with families if mixed."""
    said: dict[str, list[str]] = {}
    for family, row in differences.items():
        said.setdefault(as_estimate(row["reconstruction"]).caution, []).append(family_label(family))
    if len(said) == 1:
        return [caution for caution in said if caution]
    return [f"{join(labels)}: {caution}" for caution, labels in said.items() if caution]
