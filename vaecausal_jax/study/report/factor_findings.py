"""Sentences about factors: unit classes, reading and writing, factor graphs, doses."""

import numpy as np
import xarray as xr

from vaecausal_jax.inference import over_seeds
from vaecausal_jax.study.factors import MIN_EFFECT
from vaecausal_jax.study.report.evidence import leaders, named
from vaecausal_jax.study.report.factors import CLASS_WORDS, MIN_SUPPORT
from vaecausal_jax.study.report.labels import interval_of, join, number, percent
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    factor_graph_of,
    panels,
    read_write_sites,
    shares,
    strongest_latents,
    usable_seeds,
)


def say_classes(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How many units are of which class, and for which of the factors they were judged by."""
    del pictures
    if "unit_class" not in effects:
        return []
    names = np.array([str(f) for f in effects["factor"].values])
    sentences = []
    for panel in panels(summary, effects):
        if not panel.readable.any():
            continue
        own = effects.sel(family=panel.family, seed=usable_seeds(summary, panel.family))
        label = own["unit_class"].transpose("seed", "unit").values
        top = own["top_factor"].transpose("seed", "unit").values
        label, top = (values[:, (label != "").all(axis=0)] for values in (label, top))
        share = {
            name: over_seeds(
                (label == name).mean(axis=1), num_inputs=0, intervention="units raised by one SD"
            )
            for name in CLASS_WORDS
        }
        said = [
            f"{interval_of(share[name], show=percent)} {words}"
            + (_of_which(label == name, top, names) if name == "monosemantic" else "")
            for name, words in CLASS_WORDS.items()
        ]
        sentences.append(
            f"In {panel.label}, judged by {join(list(names[panel.readable]))}, of all units of the "
            f"layers of {_models(len(label))}: {'; '.join(said)}."
        )
    return sentences


def _of_which(those: np.ndarray, top: np.ndarray, names: np.ndarray) -> str:
    """Units by the factor that they serve, over all models: `` (8 for scale, 1 for x)``."""
    counts = [(int((top[those] == f).sum()), name) for f, name in enumerate(names)]
    said = ", ".join(f"{count} for {name}" for count, name in sorted(counts, reverse=True) if count)
    return f" ({said})" if said else ""


def _models(num: int) -> str:
    return "one model" if num == 1 else f"{num} models"


def say_read_write(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Which latents write most into which factor, and how far units write what they read."""
    del pictures
    names = np.array([str(f) for f in effects["factor"].values])
    sentences = []
    sites = read_write_sites(effects)
    for panel in panels(summary, effects) if sites else []:
        if not panel.readable.any():
            continue
        unit = "z{}" if sites[0] == "latent/z" else f"unit {{}} of {sites[0]}"
        ends = [
            shares(panel.effects, sites[0], "write", end).transpose("unit", "factor").values
            for end in ("value", "low", "high")
        ]
        ends = [end[:, panel.readable] for end in ends]
        if not np.isfinite(ends[0]).any():
            continue
        top = leaders(*(end.ravel() for end in _sizes(*ends)))
        places = [np.unravel_index(place, ends[0].shape) for place in top]
        into = [f"{unit.format(u)} into {names[panel.readable][f]}" for u, f in places]
        if len(into) == 1:
            size = _with_ends(np.array([end[places[0]] for end in ends]))
            said = (
                f"the largest effect is of {into[0]}, {size} SD, flattered as the "
                f"largest of {ends[0].size} on the same images"
            )
        else:
            said = f"the largest effects are of {named(into)}, not told apart"
        sentences.append(
            f"In {panel.place}, raised by one SD, {said}.{_agreement_words(panel.effects, sites)}"
        )
    return sentences


def _sizes(
    value: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intervals of absolute values: of an interval that holds 0, from 0."""
    nearer = np.minimum(np.abs(low), np.abs(high))
    least = np.where((low <= 0) & (high >= 0), 0.0, nearer)
    return np.abs(value), least, np.maximum(np.abs(low), np.abs(high))


def _agreement_words(own: xr.Dataset, sites: list[str]) -> str:
    words = []
    for site in sites:
        values = own["read_write_agreement"].values[own["site"].values == site]
        if np.isfinite(values).any():
            words.append(f"{np.nanmedian(values):.2f} in {site}")
    said = " and ".join(words)
    return f" Median cosine between what a unit reads and writes: {said}." if words else ""


def say_graph(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """How many edges a family has, how many are undecided, and how they agree with the world's."""
    del pictures
    sentences = []
    for panel in panels(summary, effects):
        graph = factor_graph_of(summary, panel.family)
        num = int(graph.readable.sum())
        if num < 2:
            continue
        if not graph.control.any():
            sentences.append(
                f"In {panel.label} no swap of one latent is shown to move its own factor by "
                f"{MIN_EFFECT} SD: its graph shows nothing."
            )
            continue
        off = ~np.eye(len(graph.readable), dtype=bool)
        count = num * (num - 1)
        found, open_ = graph.edges[off].sum(), count - graph.decided[off].sum()
        agreement = ""
        if not np.isnan(graph.f1):
            agreement = (
                f" F1 against the true graph is {graph.f1:.2f}, against it with factors renamed "
                f"{graph.renamed:.2f}; models of a world without causes may score as well."
            )
        sentences.append(
            f"In {panel.label} the swap is shown to move its own factor for {graph.controls} "
            f"factors per model. Of {count} possible edges between factors that can be read "
            f"{found:.1f} are found per model and {open_:.1f} are undecided.{agreement}"
        )
    return sentences


def say_doses(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """What the strongest latent moves, and how many doses leave the data."""
    del pictures
    names = np.array([str(f) for f in effects["factor"].values])
    sentences = []
    doses = effects["dose"].values
    for panel in panels(summary, effects) if doses.size else []:
        if not panel.readable.any():
            continue
        latent = int(strongest_latents(panel)[0])
        dose = doses[np.argmin(np.abs(doses - 1.0))]
        own = panel.effects["factor_response"].sel(dose=dose).isel(latent=latent)
        ends = own.transpose("statistic", "factor").values[:, panel.readable]
        support = panel.effects["dose_support"].values
        if not np.isfinite(ends[0]).any():
            continue
        moved = [
            f"{names[panel.readable][f]} by {_with_ends(ends[:, f])} SD"
            for f in leaders(*_sizes(*ends))
        ]
        open_ = ", not told apart" if len(moved) > 1 else ""
        sentences.append(
            f"In {panel.place}, z{latent}, chosen for its large response on these images, shifted "
            f"by {dose:+g} SD moves most {named(moved)}{open_}; "
            f"{np.mean(support < MIN_SUPPORT):.0%} of all latents and doses are off the support of "
            "the data."
        )
    return sentences


def _with_ends(ends: np.ndarray) -> str:
    value, low, high = (number(end, ends) for end in ends)
    return f"{value} [{low}, {high}]"
