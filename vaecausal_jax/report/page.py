"""The report: one self-contained HTML page with its figures, and sentences computed from the data.

Every statement under a figure is made of numbers of this study; a sentence whose numbers are
missing is left out rather than softened.
"""

import base64
import html
import io
import pathlib
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from vaecausal_jax.inference import MIN_SEEDS
from vaecausal_jax.report.figures import (
    ACTIVE_KL,
    COMPARED,
    DPI,
    MAX_UNITS,
    Panel,
    Pictures,
    Summary,
    all_figures,
    as_estimate,
    effective_units,
    families,
    family_label,
    largest_by_factor,
    layers,
    panels,
    shares,
    usable_seeds,
)

INFORMATIVE_KL = 0.1
"""Latents above it enter sentences: below, a change in units of a latent's own SD says little."""

SentenceFn = Callable[[Summary, xr.Dataset, Pictures], list[str]]


class Caption(NamedTuple):
    """What stands beside a figure.

    Attributes:
        title: Heading.
        reading: What it shows and how to read it.
        findings: Sentences computed from the data.
    """

    title: str
    reading: str
    findings: SentenceFn


def write_report(
    folder: str | pathlib.Path, summary: Summary, effects: xr.Dataset, pictures: Pictures
) -> pathlib.Path:
    """Writes ``figures/*.png`` and ``report.html`` into a study's folder.

    Args:
        folder: Where; made if absent.
        summary: The tables of ``summary.json``, as loaded.
        effects: The labelled arrays of ``effects.zarr``.
        pictures: ``originals`` (8, height, width, channels) in [0, 1], ``reconstructions`` (models,
            8, ...), ``traversals`` (models, latents, 7, ...) and ``histories`` (family to loss term
            to (seeds, records)); models as in ``summary["models"]``. A figure whose pictures are
            absent is left out.

    Returns:
        The path of the page.
    """
    folder, effects = pathlib.Path(folder), effects.compute()
    images = {
        name: _png(figure) for name, figure in all_figures(summary, effects, pictures).items()
    }
    for name, data in images.items():
        _write(folder / "figures" / f"{name}.png", data)
    return _write(folder / "report.html", page(summary, effects, pictures, images).encode())


def page(
    summary: Summary, effects: xr.Dataset, pictures: Pictures, images: Mapping[str, bytes]
) -> str:
    """The whole page as HTML; ``images`` are PNG files by figure name."""
    title = f"Causal interventions on {_join([family_label(f) for f in families(summary)])}"
    figures = [
        _figure(number, images[name], caption, caption.findings(summary, effects, pictures))
        for number, (name, caption) in enumerate(
            ((n, c) for n, c in CAPTIONS.items() if n in images), start=1
        )
    ]
    return PAGE.substitute(
        title=_text(title),
        style=STYLE,
        study=_what_was_run(summary, effects),
        excluded=_excluded(summary),
        headline=_headline(summary),
        differences=_differences(summary),
        figures="\n".join(figures),
        units=_top_units(summary, effects),
        reading=_how_to_read(summary, effects),
        checks=_checks(summary),
        snippet=_text(SNIPPET),
    )


# Sections


def _what_was_run(summary: Summary, effects: xr.Dataset) -> str:
    config, device = summary["config"], summary["device"]
    factors = ", ".join(f"{name} ({size})" for name, size in summary["factors"].items())
    trained = (
        f"{config['num_seeds']} seeds a family, {config['num_steps']:,} gradient steps of "
        f"{config['batch_size']} images, Adam at {config['learning_rate']:g}"
        + (" with cosine decay" if config["decay_learning_rate"] else "")
    )
    if config["data"] == "pretrained":
        trained = "Weights trained by others; one model a family"
    data = {
        "sprites": "Rendered sprites",
        "dsprites": "dSprites",
        "pretrained": "dSprites (the models' training data)",
    }.get(config["data"], config["data"])
    size = np.shape(effects["kl_per_latent"])[-1]
    count = device["count"]
    units = config.get("num_unit_images")
    units = f" ({units} of them to resample hidden units)" if units else ""
    rows = {
        "Data": f"{data}; factors (levels): {factors}",
        "Families": "; ".join(_strength(f, config["data"]) for f in config["families"]),
        "Training": trained,
        "Latents": f"{size}",
        "Probes": f"{config['num_images']} images{units}, {config['num_pairs']} minimal pairs a "
        f"factor ({config['num_pairs'] * len(summary['factors'])} in all), the same for all models",
        "Mediation outcome": f"{config['mediation_outcome']} of the decoder",
        "Device": f"{count} x {device['kind']} ({device['platform']}), matrix products at "
        f"precision {summary['matmul_precision']}",
        "Versions": ", ".join(f"{name} {v}" for name, v in summary["versions"].items()),
        "Randomness": f"root seed {config['seed']}",
    }
    items = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in rows.items())
    return f"<dl class='facts'>{items}</dl>"


def _strength(family: Mapping[str, Any], data: str) -> str:
    symbols = {"beta": "beta", "fact": "gamma", "dip_": "lambda_od"}
    label = family_label(family["name"])
    symbol = symbols.get(family["name"][:4])
    if symbol is None or data == "pretrained":
        return label
    return f"{label}, {symbol} = {family['strength']:g}"


def _excluded(summary: Summary) -> str:
    if not summary["excluded"]:
        return f"<p>None. All {len(summary['models'])} models enter the means.</p>"
    items = "".join(
        f"<li><strong>{_text(family_label(m['family']))}, seed {m['seed']}</strong>: "
        f"{_text(m['verdict'])}</li>"
        for m in summary["excluded"]
    )
    return (
        f"<p>{len(summary['excluded'])} of {len(summary['models'])} models are left out of every "
        f"mean and interval below:</p><ul>{items}</ul>"
    )


def _headline(summary: Summary) -> str:
    tables = {family: summary["families"].get(family) or {} for family in families(summary)}
    table = _estimate_table("Mean over usable seeds [interval]", tables)
    alone = [f for f, row in tables.items() if row and as_estimate(row["kl"]).num_seeds == 1]
    if not alone:
        return table
    names = _join([family_label(family) for family in alone])
    caution = as_estimate(tables[alone[0]]["kl"]).caution
    return table + _note(f"{names}: {caution} Means over one model have no interval here.")


def _note(words: str) -> str:
    return f"<p class='note'>{_text(words)}</p>"


def _differences(summary: Summary) -> str:
    differences = summary["differences"]
    if not differences:
        return "<p>There is no second family with a usable seed in common: nothing to compare.</p>"
    first = family_label(families(summary)[0])
    table = _estimate_table(f"Difference from {first}, seed by seed [interval]", differences)
    sentences = [_chance(differences), *_cautions(differences)]
    return table + "".join(_note(sentence) for sentence in sentences)


def _cautions(differences: Mapping[str, Any]) -> list[str]:
    """What too few seeds cannot support, in the estimates' words; with families if mixed."""
    said: dict[str, list[str]] = {}
    for family, row in differences.items():
        said.setdefault(as_estimate(row["kl"]).caution, []).append(family_label(family))
    if len(said) == 1:
        return [caution for caution in said if caution]
    return [f"{_join(labels)}: {caution}" for caution, labels in said.items() if caution]


def _chance(differences: Mapping[str, Any]) -> str:
    """How many intervals exclude zero, which, and how many would by chance."""
    apart: dict[str, list[str]] = {}
    num, level = 0, 0.95
    for family, row in differences.items():
        for name, (heading, _) in COMPARED.items():
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


def _estimate_table(caption: str, rows: Mapping[str, Any]) -> str:
    head = "".join(
        f"<th scope='col'>{_text(heading)}<br><small>{_text(unit)}</small></th>"
        for heading, unit in COMPARED.values()
    )
    body = []
    for family, values in rows.items():
        cells = "".join(_cell(values.get(name)) for name in COMPARED)
        num = next((as_estimate(v).num_seeds for v in values.values()), 0)
        size = f"{num} seed{'s' * (num != 1)}" if num else "no usable seed"
        name = f"{_text(family_label(family))}<br><small>{size}</small>"
        body.append(f"<tr><th scope='row'>{name}</th>{cells}</tr>")
    methods = [as_estimate(v) for row in rows.values() for v in row.values()]
    interval = f"{methods[0].level:.0%}, {methods[0].method}" if methods else ""
    return (
        f"<div class='wide'><table><caption>{_text(caption.replace('interval', interval))}"
        f"</caption><thead><tr><th scope='col'>Family</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(values: Any) -> str:
    if values is None:
        return "<td>-</td>"
    estimate = as_estimate(values)
    ends = np.array([estimate.value, estimate.low, estimate.high])
    value, low, high = (_number(end, ends) for end in ends)
    shown = f"<data value='{float(estimate.value)!r}'>{value}</data>"
    if np.isfinite(ends).all():
        shown += f"<br><small>[{low}, {high}]</small>"
    return f"<td>{shown}</td>"


def _figure(number: int, image: bytes, caption: Caption, findings: list[str]) -> str:
    alt = f"{caption.title}. {' '.join(findings) or caption.reading}"
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in findings)
    found = f"<ul class='finding'>{items}</ul>" if items else ""
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return (
        f"<figure><h3>Figure {number}. {_text(caption.title)}</h3>"
        f"<div class='wide'><img src='{source}' alt='{_text(alt)}'></div>"
        f"<figcaption><p>{_text(caption.reading)}</p>{found}</figcaption></figure>"
    )


def _top_units(summary: Summary, effects: xr.Dataset) -> str:
    shown = {(p.family, p.seed): p for p in panels(summary, effects)}
    sites = set(layers(effects))
    best: dict[tuple[str, int], dict[str, dict[str, Any]]] = {key: {} for key in shown}
    for row in summary["top_units"]:
        key = (row["family"], row["seed"])
        if key in shown and row["site"] in sites and row["proportion_mediated"] is not None:
            best[key].setdefault(row["site"], {}).setdefault(row["factor"], row)
    factors = list(summary["factors"])
    head = "".join(f"<th scope='col'>{_text(f)}</th>" for f in factors)
    parts = []
    for key, by_site in best.items():
        body = "".join(
            f"<tr><th scope='row'>{_text(site)}</th>"
            + "".join(_unit_cell(row.get(factor)) for factor in factors)
            + "</tr>"
            for site, row in by_site.items()
        )
        parts.append(
            f"<details open><summary>{_text(shown[key].label)}, seed {key[1]}</summary>"
            "<div class='wide'><table class='small'><thead><tr><th scope='col'>Layer</th>"
            f"{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
        )
    level = effects["proportion_mediated"].attrs.get("level", 0.95)
    return (
        "<p>The unit that mediates most of each factor's effect, its proportion mediated and "
        f"{level:.0%} bootstrap interval over pairs. The best of many units is flattered by having "
        "been chosen on the same pairs.</p>" + "".join(parts)
    )


def _unit_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "<td>-</td>"
    ends = ""
    if row["low"] is not None and row["high"] is not None:
        ends = f" <small>[{row['low']:.2f}, {row['high']:.2f}]</small>"
    return f"<td>#{row['unit']}: {row['proportion_mediated']:.2f}{ends}</td>"


def _how_to_read(summary: Summary, effects: xr.Dataset) -> str:
    definitions = dict(DEFINITIONS)
    definitions["Intervals"] = INTERVALS + " " + _methods(summary, effects)
    items = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in definitions.items())
    return f"<dl>{items}</dl>"


def _methods(summary: Summary, effects: xr.Dataset) -> str:
    """The interval methods and nulls that the estimates themselves name."""
    named: dict[str, list[str]] = {}
    nulls = set()
    for name, variable in effects.data_vars.items():
        if "method" in variable.attrs:
            named.setdefault(str(variable.attrs["method"]), []).append(str(name))
            nulls.add(float(variable.attrs["null"]))
    said = [f"By {method}: {', '.join(sorted(names))}." for method, names in named.items()]
    where = ", ".join(f"{null:g}" for null in sorted(nulls))
    return " ".join(said) + f" Value under no intervention (null): {where}."


def _checks(summary: Summary) -> str:
    rows = []
    for name, value in summary["checks"].items():
        verdict = "as it must be, up to rounding"
        if value is None or not abs(value) < 1e-3:
            verdict = "larger than rounding: do not trust this study before this is explained"
        words = name.replace("_", " ")
        shown = "not finite" if value is None else f"{value:.2g}"
        rows.append(f"<li>{_text(words[0].upper() + words[1:])}: {shown} ({verdict}).</li>")
    return f"<ul>{''.join(rows)}</ul>"


# Findings: sentences whose every number comes from this study


def _say_traversals(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
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


def _say_training(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
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
            f"In {family_label(family)} the reconstruction error went from {_number(mean[0])} to "
            f"{_number(mean[-1])} nats; its mean over the last tenth of the steps differs by "
            f"{last - before:+.2f} nats from the tenth before."
        )
    return sentences


def _say_comparison(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    del effects, pictures
    sentences = []
    for name in ("reconstruction", "kl", "total_index_posterior_sum"):
        means = {
            f: float(as_estimate(row[name]).value)
            for f, row in summary["families"].items()
            if row and np.isfinite(as_estimate(row[name]).value)
        }
        if len(means) < 2:
            continue
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        sentences.append(
            f"{COMPARED[name][0]} is lowest in {family_label(low)} ({_number(means[low])}) and "
            f"highest in {family_label(high)} ({_number(means[high])})."
        )
    return sentences


def _say_input(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
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


def _say_latent(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
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


def _say_units(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
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


def _say_layers(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
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


def _say_factors(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """For each family, the factor that its first decoder layer spreads most."""
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


CAPTIONS: dict[str, Caption] = {
    "traversals": Caption(
        "Reconstructions and latent traversals",
        "Above, images and what each model makes of them. Below, the first image's code with one "
        "latent set to values from -2 to 2, latents sorted by KL; a row that does not change is a "
        "latent the decoder ignores. Grey labels: latents of at most "
        f"{ACTIVE_KL} nats.",
        _say_traversals,
    ),
    "training": Caption(
        "Training curves",
        "One line a seed, one colour a family; dashed lines are excluded models. Curves that still "
        "fall at the right end mean undertrained models, and effects that would move on.",
        _say_training,
    ),
    "comparison": Caption(
        "Comparison of families",
        "Hollow circles are trained models, diamonds their mean, bars the interval over seeds, n "
        "the number of usable seeds. Effect strengths of models that reconstruct differently well "
        "are to be compared with care.",
        _say_comparison,
    ),
    "input_level": Caption(
        "Input level: what each factor moves",
        "Mean absolute change of each latent's mean when one factor of the image is changed, in "
        "standard deviations of that latent's mean over images. A column with one dark cell is a "
        "latent that follows one factor. An almost inactive latent is measured in its own tiny "
        "standard deviation and can look dark: columns are sorted by KL for that reason.",
        _say_input,
    ),
    "latent_level": Caption(
        "Latent level: how strongly each latent acts",
        "Above, the share of the output's variance that involves each latent, redrawn from the "
        "prior (a property of the decoder) or from another image's posterior (the model in use); "
        "grey dots are the other seeds, rank by rank of KL. Below, the image's change when a "
        "latent is shifted, dark to light in order of KL; bands are bootstrap intervals.",
        _say_latent,
    ),
    "unit_effects": Caption(
        "Activation patching: units by factors",
        "Proportion of each factor's effect that one unit (a column) mediates, layer by layer; red "
        "carries the effect, blue opposes it, white does nothing, grey is "
        "undefined. Units are sorted by dominant "
        f"factor, then by strength; at most {MAX_UNITS} of the strongest are drawn. Each layer has "
        "its own scale. A column dark in one row only serves one factor. Latent and unit numbers "
        "of different seeds do not correspond, so one seed is shown.",
        _say_units,
    ),
    "mediation_by_layer": Caption(
        "Mediation by layer",
        "Left, the share of a factor's effect that the strongest single unit mediates; middle, "
        "over how many units the effect is spread (participation ratio); right, how far noising "
        "and denoising disagree, summed over units: the part of mediation that needs several "
        "units. Ticks are seeds, marks their mean, bars the Student t interval over seeds; "
        "intervals that leave the axis are cut.",
        _say_layers,
    ),
    "mediation_by_factor": Caption(
        "Mediation by layer, one factor at a time",
        "Share of each factor's effect that the strongest unit of a layer mediates; marks as in "
        "the figure before. A maximum over many units is biased upwards, more so in wide layers "
        "and with few pairs.",
        _say_factors,
    ),
}
"""By figure name, in the order of the page."""

DEFINITIONS = {
    "Active latent": f"One with a KL above {ACTIVE_KL} nats whose mean varies over images "
    "(variance above 0.01). A latent may pass the first and not the second.",
    "Minimal pair": "Two images, reference and target, that differ in one factor only. All runs of "
    "a pair share the same noise. The total effect of the factor is the difference of the two "
    "outputs.",
    "Proportion mediated (noising)": "The target run with one unit's value taken from the "
    "reference run: the loss it causes, projected on the total effect and divided by its squared "
    "size, as a ratio of sums over pairs. 1: the effect is lost without the unit; 0: the unit does "
    "not matter; below 0 or above 1: parts oppose each other. It is not clipped. Null value 0.",
    "Denoising": "The reference run with one unit's value taken from the target run: what the unit "
    "alone restores. Same projection, same null.",
    "Interaction": "Noising minus denoising. Positive: the unit acts together with others "
    "(synergy); negative: others can stand in for it (redundancy). 0 in a layer from which the "
    "rest of the network is linear.",
    "Effective number of units": "Participation ratio of the positive shares, (sum p)^2 / sum p^2: "
    "1 if one unit mediates everything, the width of the layer if all mediate alike.",
    "Total index": "Mean squared change of the output when one latent is redrawn, over twice the "
    "output's variance. With latents from the prior it is the Sobol total index: the indices add "
    "up to 1 in an additive decoder, and to more where latents interact. With posterior samples "
    "latents may be dependent, and it is a resample index. A latent redrawn as itself gives 0.",
    "Dose response": "Root mean square change of the image, in standard deviations of the model's "
    "images, when a latent is shifted by a multiple of its aggregate-posterior standard deviation.",
    "Paper effect strength": "The raw L2 distance of images when a latent is redrawn from another "
    "image's posterior sample, averaged (arXiv:2505.03530, formula known at second hand). Traps: "
    "it grows with the square root of the number of pixels, with contrast and with dose, a "
    "model that reconstructs badly tends to score low, and dead latents drag the mean down. "
    "Compare it only among models on the same images, beside the total index.",
}

INTERVALS = (
    "Intervals within one model come from a bootstrap over images or pairs and say nothing about "
    "other seeds. Intervals over seeds use one value a trained model, so that they hold both the "
    "seeds' and the images' variance. "
    f"Claims about families need at least {MIN_SEEDS} paired seeds."
)

SNIPPET = """import xarray as xr
effects = xr.open_zarr("effects.zarr", consolidated=False)
effects.proportion_mediated.sel(family=effects.family[0], seed=0, statistic="value")"""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1d1d1d;
  background: #fff; margin: 0 auto; max-width: 1120px; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; break-after: avoid; border-bottom: 1px solid #ddd;
  padding-bottom: .25rem; }
h3 { font-size: 1.05rem; margin: 0 0 .6rem; }
p, li, dd { max-width: 52rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
a { color: #0b5b8f; }
dl.facts { display: grid; grid-template-columns: 10rem 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0 0 .6rem; } dl.facts dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem;
  width: 100%; }
caption { text-align: left; color: #444; padding: .3rem 0; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; }
th[scope=row], th:first-child { text-align: left; }
small { color: #595959; font-weight: 400; }
table.small { font-size: .82rem; }
figure { margin: 2rem 0 2.6rem; }
figure img { width: 100%; min-width: 44rem; height: auto; display: block; }
figcaption p { margin: .5rem 0; }
.finding { background: #f3f7fa; border-left: 4px solid #0b5b8f; padding: .6rem .9rem .6rem 2rem;
  max-width: 52rem; margin: .6rem 0; } .finding li { max-width: none; }
.note { background: #fdf6e7; border-left: 4px solid #c98a00; padding: .6rem .9rem;
  max-width: 52rem; }
details { margin: .8rem 0; } summary { font-weight: 600; cursor: pointer; }
pre { background: #f5f5f5; padding: .8rem 1rem; overflow-x: auto; }
@media (max-width: 40rem) { dl.facts { grid-template-columns: 1fr; }
  dl.facts dd { margin-bottom: .5rem; } }
@media print { body { max-width: none; font-size: 10.5pt; padding: 0; } nav { display: none; }
  figure, tr { break-inside: avoid; } figure img { min-width: 0; } .wide { overflow: visible; }
  table { font-size: 8pt; } th, td { padding: .2rem .3rem; } }
"""

PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1>
<p>Trained models, intervened on at four levels: the input, the latents, the activations of every
layer (patching), and what they mediate. Written by vaecausal_jax from the study's numbers.</p>
<nav><a href="#models">Models</a><a href="#figures">Figures</a><a href="#units">Top units</a><a
href="#reading">How to read the numbers</a><a href="#checks">Checks</a><a
href="#data">Data</a></nav>
</header>
<main>
<section id="study"><h2>What was run</h2>$study</section>
<section id="excluded"><h2>Excluded models</h2>$excluded</section>
<section id="models"><h2>The models in numbers</h2>$headline
<h2>Differences from the first family</h2>$differences</section>
<section id="figures"><h2>Figures</h2>
$figures
</section>
<section id="units"><h2>Top units by layer and factor</h2>$units</section>
<section id="reading"><h2>How to read the numbers</h2>$reading</section>
<section id="checks"><h2>Identity checks</h2>
<p>What holds exactly in any such network, measured on these models with the same code.</p>
$checks</section>
<section id="data"><h2>Raw data</h2>
<p>Beside this page: <code>summary.json</code> (every table, each number with its interval, sample
sizes, null and method), <code>effects.zarr</code> (all effects of all models, units and seeds) and
<code>figures/</code> (the figures as PNG).</p>
<pre><code>$snippet</code></pre></section>
</main>
</body>
</html>
""")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """Writes to a neighbouring name and renames, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    return partial.replace(path)


def _text(words: Any) -> str:
    return html.escape(str(words), quote=True)


def _number(value: Any, like: Any = None) -> str:
    """Three significant digits of the largest of ``like``, so that an interval lines up."""
    sizes = np.abs(np.asarray([value] if like is None else like, float))
    size = float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))
    if not np.isfinite(value):
        return "not finite"
    decimals = 2 if size == 0 else int(np.clip(2 - np.floor(np.log10(size)), 0, 8))
    return f"{float(value):.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
