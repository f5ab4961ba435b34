"""Sentences about factors: unit classes, reading and writing, factor graphs, doses."""

import numpy as np
import xarray as xr

from vaecausal_jax.study.factors import MIN_EFFECT
from vaecausal_jax.study.report.factors import MIN_SUPPORT
from vaecausal_jax.study.report.labels import number, percent
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    as_estimate,
    factor_graph_of,
    layers,
    panels,
    read_write_sites,
    shares,
    strongest_latents,
)


def say_classes(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Where units serve one factor, and where they do nothing."""
    del pictures
    sentences = []
    for panel in panels(summary, effects):
        tables = summary["unit_classes"].get(panel.family, {})
        share = {
            name: {
                site: float(as_estimate(tables[site][name]).value)
                for site in layers(effects)
                if site in tables and np.isfinite(as_estimate(tables[site][name]).value)
            }
            for name in ("monosemantic", "polysemantic", "dead")
        }
        if not all(share.values()):
            continue
        most = {name: max(s, key=s.__getitem__) for name, s in share.items()}
        said = [
            f"{name} in {most[name]} ({percent(s[most[name]])})"
            if s[most[name]] > 0
            else f"{name}: none"
            for name, s in share.items()
        ]
        sentences.append(
            f"In {panel.label} units are most often, by layer: {said[0]}; {said[1]}; {said[2]}."
        )
    return sentences


def say_read_write(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """The latent that writes most, and how far units write what they read."""
    del pictures
    names = [str(f) for f in effects["factor"].values]
    sites = read_write_sites(effects)
    sentences = []
    for panel in panels(summary, effects) if sites else []:
        ends = [
            shares(panel.effects, sites[0], "write", end).transpose("unit", "factor").values
            for end in ("value", "low", "high")
        ]
        if not np.isfinite(ends[0]).any():
            continue
        u, f = np.unravel_index(np.nanargmax(np.abs(ends[0])), ends[0].shape)
        value, low, high = (number(end[u, f], [e[u, f] for e in ends]) for end in ends)
        unit = f"z{u}" if sites[0] == "latent/z" else f"unit {u} of {sites[0]}"
        sentences.append(
            f"In {panel.label}, raised by one SD, {unit} writes most: {value} [{low}, {high}] SD "
            f"into {names[f]}.{_agreement_words(panel.effects, sites)}"
        )
    return sentences


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
    names = [str(f) for f in effects["factor"].values]
    sentences = []
    for panel in panels(summary, effects):
        graph = factor_graph_of(summary, panel.family)
        if not graph.control.any():
            sentences.append(
                f"In {panel.label} no swap of one latent moves its own factor by "
                f"{MIN_EFFECT} SD: its graph shows nothing."
            )
            continue
        off = ~np.eye(len(names), dtype=bool)
        count = len(names) * (len(names) - 1)
        found, open_ = graph.edges[off].sum(), count - graph.decided[off].sum()
        agreement = "" if np.isnan(graph.f1) else f" F1 against the true graph is {graph.f1:.2f}."
        sentences.append(
            f"In {panel.label} the swap moves its own factor for {graph.controls} factors per "
            f"model. Of {count} possible edges {found:.1f} are found per model and {open_:.1f} are "
            f"undecided.{agreement}"
        )
    return sentences


def say_doses(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """What the strongest latent moves, and how many doses leave the data."""
    del pictures
    names = [str(f) for f in effects["factor"].values]
    sentences = []
    doses = effects["dose"].values
    for panel in panels(summary, effects) if doses.size else []:
        latent = int(strongest_latents(panel)[0])
        dose = doses[np.argmin(np.abs(doses - 1.0))]
        own = panel.effects["factor_response"].sel(dose=dose).isel(latent=latent)
        ends = own.transpose("statistic", "factor").values
        support = panel.effects["dose_support"].values
        if not np.isfinite(ends[0]).any():
            continue
        f = int(np.nanargmax(np.abs(ends[0])))
        value, low, high = (number(end, ends[:, f]) for end in ends[:, f])
        sentences.append(
            f"In {panel.label}, z{latent} shifted by {dose:+g} SD moves {names[f]} most, by "
            f"{value} [{low}, {high}] SD; {np.mean(support < MIN_SUPPORT):.0%} of all latents and "
            "doses are off the support of the data."
        )
    return sentences
