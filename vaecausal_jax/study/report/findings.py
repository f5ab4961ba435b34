"""Sentences computed from the data: their every number comes from this study.

A sentence whose numbers are missing is left out rather than softened. ``say_<figure>`` takes what
the figure takes, and gives no sentence, or one per family or quantity.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from scipy import special

from vaecausal_jax.effects.unit_effects import effective_units
from vaecausal_jax.inference import MIN_SEEDS, Estimate, over_seeds
from vaecausal_jax.study.report.evidence import leaders, named, say_apart
from vaecausal_jax.study.report.labels import (
    COMPARED,
    family_label,
    fixed,
    hundredths,
    interval_of,
    join,
    number,
)
from vaecausal_jax.study.report.panels import (
    Panel,
    Pictures,
    Summary,
    as_estimate,
    by_seed,
    layers,
    panels,
    shares,
    usable_seeds,
)

INFORMATIVE_KL = 0.1
"""Latents above it enter sentences: below, a change in units of a latent's own SD says little."""

MOST_LAYERS = 3
"""More layers than this that are not told apart are not named."""


def say_traversals(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How many latents are active, and where most of the KL lies; no interval tells these apart."""
    del pictures
    sentences = []
    for panel in panels(summary, effects):
        active = int(summary["models"][panel.model]["active_latents"])
        largest = " and ".join(f"{fixed(panel.kl[z])} in z{z}" for z in panel.order[:2])
        sentences.append(
            f"In {panel.place}, {active} of {panel.kl.size} latents are active; of "
            f"{fixed(panel.kl.sum())} nats {largest}."
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
            f"{fixed(last - before, sign=True)} nats from the tenth before."
        )
    return sentences


def say_comparison(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Which families differ, and how far reconstructions are from what no model can remove."""
    del effects
    quantities = {
        _lower(COMPARED[name][0]): {
            f: found for f in summary["families"] if (found := by_seed(summary, f, name))
        }
        for name in ("reconstruction", "kl", "total_index_posterior_sum")
    }
    return [*say_apart(quantities), *_above_floor(summary, pictures)]


def _above_floor(summary: Summary, pictures: Pictures) -> list[str]:
    """The reconstruction error beyond the entropy of the images' own pixels."""
    if (floor := pictures.get("entropy_floor")) is None:
        return []
    said = [
        f"{interval_of(as_estimate(row['reconstruction']).map(lambda v: v - floor))} in "
        f"{family_label(family)}"
        for family, row in summary["families"].items()
        if "reconstruction" in row
    ]
    return [
        f"Of every reconstruction error {number(floor)} nats are the entropy of the images' grey "
        f"pixels under the Bernoulli likelihood, which no model can remove; above it are "
        f"{join(said)}."
    ]


def say_input(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Factors that move one latent more than any other, and those for which none stands out."""
    del pictures
    sentences = []
    names = [str(f) for f in effects["factor"].values]
    for panel in panels(summary, effects):
        used = np.flatnonzero(panel.kl > INFORMATIVE_KL)
        if used.size < 2:
            continue
        moved = panel.effects["factor_to_latent"].transpose("statistic", "factor", "latent")
        ends = moved.values[:, :, used]
        if not np.isfinite(ends[0]).all():
            continue
        first = [leaders(*ends[:, f]) for f in range(len(names))]
        own = [
            f"{name} (z{used[top[0]]})"
            for name, top in zip(names, first, strict=True)
            if len(top) == 1
        ]
        several = [name for name, top in zip(names, first, strict=True) if len(top) > 1]
        said = [f"one latent is moved most by {join(own)}"] if own else []
        if several:
            said.append(f"no latent stands out for {join(several)}")
        sentences.append(
            f"In {panel.place}, of latents with more than {INFORMATIVE_KL} nats, {'; '.join(said)}."
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
        top = leaders(*ends)
        sizes = [f"z{z} ({_bracketed(ends[:, z])})" for z in top]
        strongest = (
            f"the strongest latent in use is z{top[0]}, total index {_bracketed(ends[:, top[0]])}"
            f"{_dose_words(panel, int(top[0]))}"
            if len(top) == 1
            else f"the strongest latents in use, not told apart, are {named(sizes)} by total index"
        )
        total = as_estimate(summary["families"][panel.family]["total_index_posterior_sum"])
        interval = (
            f" [{fixed(total.low)}, {fixed(total.high)}]"
            if np.isfinite(total.low)
            else " (one seed)"
        )
        sentences.append(
            f"In {panel.place}, {strongest}. Over seeds the posterior indices add up to "
            f"{fixed(total.value)}{interval}."
        )
    return sentences


def _bracketed(ends: np.ndarray) -> str:
    value, low, high = map(fixed, ends)
    return f"{value} [{low}, {high}]"


def _dose_words(panel: Panel, latent: int) -> str:
    doses = panel.effects["dose"].values
    if not doses.size:
        return ""
    dose = doses[np.argmin(np.abs(doses - 1.0))]
    change = panel.effects["dose_response"].sel(statistic="value", dose=dose).values[latent]
    return f"; shifting it by {dose:+g} SD changes the image by {fixed(change)} SD"


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
        num = sum(len(tables[s]) for s in encoder)
        over = [
            (shares(panel.effects, s, end="low").transpose("unit", "factor").values > 0.7).sum(
                axis=1
            )
            for s in encoder
        ]
        single = sum(int((counts == 1).sum()) for counts in over)
        several = sum(int((counts > 1).sum()) for counts in over)
        total = sum(table.size for table in tables.values())
        sentences.append(
            f"In {panel.place}, the largest share of all is of unit {unit} of {site}: it mediates "
            f"{sizes[site]:.0%} of the effect of {names[factor]}, flattered as the largest of "
            f"{total} on the same pairs. Of {num} encoder channels, {single or 'none'} mediate "
            "more than 0.7, with their whole interval, of exactly one factor's effect, "
            f"{several or 'none'} of several factors'."
        )
    return sentences


def say_layers(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Where mediation is narrowest and widest, and where units interact; what seeds tell apart."""
    del pictures
    sentences = []
    hidden = [s for s in layers(effects) if not s.startswith("latent/")]
    for panel in panels(summary, effects):
        row = summary["families"][panel.family]
        said = []
        for name, most, least, show in (
            ("effective_units", "through the most units", "through the fewest", number),
            ("interaction", "with most interaction of units", "with the least", hundredths),
        ):
            found = {s: as_estimate(row[f"{name}/{s}"]) for s in hidden if f"{name}/{s}" in row}
            ends = np.array([estimate.ends for estimate in found.values()], float).reshape(-1, 3).T
            if len(found) < 2 or not np.isfinite(ends).all():
                continue
            flipped = -ends[0], -ends[2], -ends[1]
            for words, places in ((most, leaders(*ends)), (least, leaders(*flipped))):
                if len(places) <= MOST_LAYERS and len(places) < len(found):
                    layers_ = [
                        f"{site} ({interval_of(found[site], show=show)})"
                        for site in np.array(list(found))[places]
                    ]
                    open_ = ", not told apart" if len(layers_) > 1 else ""
                    said.append(f"{words} in {join(layers_)}{open_}")
        if said:
            sentences.append(f"In {panel.label} a factor's effect runs {'; '.join(said)}.")
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
        spread = over_seeds(np.asarray(numbers), num_inputs=0, intervention="units patched")
        ends = np.array(spread.ends, float)
        if not np.isfinite(ends).all():
            continue
        top = leaders(*ends)
        if len(top) == len(names):
            sentences.append(
                f"In {panel.label}, {len(seeds)} seeds do not tell apart over how many units the "
                f"layer {site} spreads the factors."
            )
            continue
        said = [f"{names[f]} over {interval_of(spread[f])} units" for f in top]
        open_ = ", not told apart" if len(top) > 1 else ""
        sentences.append(f"In {panel.label} the layer {site} spreads most {named(said)}{open_}.")
    return sentences


def say_differences(differences: Mapping[str, Any]) -> list[str]:
    """How many differences from the first family stand out, and what they cannot support."""
    return [_chance(differences), *_cautions(differences)]


def _chance(differences: Mapping[str, Any]) -> str:
    """Which differences stand out from all that were looked at."""
    found = [
        (family_label(family), heading, as_estimate(row[name]))
        for family, row in differences.items()
        for name, (heading, _) in COMPARED.items()
        if name in row
    ]
    found = [kept for kept in found if np.isfinite(kept[2].ends).all()]
    if not found:
        return "No difference has an interval: that takes two seeds or more a family."
    level, num = found[0][2].level, len(found)
    apart: dict[str, list[str]] = {}
    for label, heading, estimate in found:
        wide = _corrected(estimate, num)
        if estimate.num_seeds >= MIN_SEEDS and (wide.low > 0 or wide.high < 0):
            sign = "higher" if estimate.value > 0 else "lower"
            apart.setdefault(label, []).append(f"{_lower(heading)} {sign}")
    uncorrected = sum(bool(e.low > 0 or e.high < 0) for _, _, e in found)
    said = "; ".join(f"{family}: {', '.join(words)}" for family, words in apart.items())
    return (
        f"{uncorrected} of {num} {level:.0%} intervals exclude 0, where about "
        f"{num * (1 - level):.1f} would were there no difference at all; corrected for being {num} "
        f"{f'these differ: {said}' if said else 'none does'}."
    )


def _corrected(estimate: Estimate, num: int) -> Estimate:
    """Widened as Student's interval is for one of so many comparisons (Bonferroni)."""
    freedom = estimate.num_seeds - 1
    tails = (1 - estimate.level) / 2
    wider = special.stdtrit(freedom, 1 - tails / num) / special.stdtrit(freedom, 1 - tails)
    value, low, high = estimate.ends
    return estimate._replace(low=value - wider * (value - low), high=value + wider * (high - value))


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
