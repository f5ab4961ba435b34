"""Sections of the page as HTML: what was run, tables of estimates, top units, checks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from vaecausal_jax.inference import Estimate, over_seeds
from vaecausal_jax.study.report.findings import say_differences
from vaecausal_jax.study.report.labels import (
    COMPARED,
    DATA,
    family_label,
    interval_of,
    join,
    number,
    percent,
)
from vaecausal_jax.study.report.panels import Summary, as_estimate, families, layers, panels
from vaecausal_jax.study.report.template import DEFINITIONS, INTERVALS, escape, note, table


def what_was_run(summary: Summary, effects: xr.Dataset) -> str:
    """The study's settings, machine and versions."""
    config, device = summary["config"], summary["device"]
    factors = ", ".join(f"{name} ({size})" for name, size in summary["factors"].items())
    trained = (
        f"{config['num_seeds']} seeds per family, {config['num_steps']:,} gradient steps of "
        f"{config['batch_size']} images, Adam at {config['learning_rate']:g}"
        + (" with cosine decay" if config["decay_learning_rate"] else "")
    )
    if config["data"] == "pretrained":
        trained = "Weights trained by others; one model a family"
    if config.get("models") == "zoo":
        trained = f"{config['num_seeds']} models per family of the zoo: `vaecausal zoo list`"
    data = DATA.get(config["data"], config["data"])
    latents = [
        f"{effects.sizes['latent']}" if "kl_per_latent" in effects else "",
        f"a map of {effects.sizes['position']} codes" if "position" in effects.sizes else "",
    ]
    count = device["count"]
    units = config.get("num_unit_images")
    units = f" ({units} of them to resample hidden units)" if units else ""
    rows = {
        "Data": f"{data}; factors (levels): {factors}",
        "Families": "; ".join(_strength(f, config["data"]) for f in config["families"]),
        "Training": trained,
        "Latents": "; ".join(filter(None, latents)),
        "Probes": f"{config['num_images']} images{units}, {config['num_pairs']} minimal pairs a "
        f"factor ({config['num_pairs'] * len(summary['factors'])} in all), the same for all models",
        "Mediation outcome": f"{config['mediation_outcome']} of the decoder",
        "Device": f"{count} x {device['kind']} ({device['platform']}), matrix products at "
        f"precision {summary['matmul_precision']}",
        "Versions": ", ".join(f"{name} {v}" for name, v in summary["versions"].items()),
        "Randomness": f"root seed {config['seed']}",
    }
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items())
    return f"<dl class='facts'>{items}</dl>"


def _strength(family: Mapping[str, Any], data: str) -> str:
    symbols = {"beta": "beta", "fact": "gamma", "dip_": "lambda_od"}
    label = family_label(family["name"])
    symbol = symbols.get(family["name"][:4])
    if symbol is None or data == "pretrained":
        return label
    return f"{label}, {symbol} = {family['strength']:g}"


def excluded(summary: Summary) -> str:
    """Which models no mean contains, and why."""
    if not summary["excluded"]:
        return f"<p>None. All {len(summary['models'])} models enter the means.</p>"
    items = "".join(
        f"<li><strong>{escape(family_label(m['family']))}, seed {m['seed']}</strong>: "
        f"{escape(m['verdict'])}</li>"
        for m in summary["excluded"]
    )
    return (
        f"<p>{len(summary['excluded'])} of {len(summary['models'])} models are left out of every "
        f"mean and interval below:</p><ul>{items}</ul>"
    )


def headline(summary: Summary) -> str:
    """The table of families."""
    tables = {family: summary["families"].get(family) or {} for family in families(summary)}
    means = _estimate_table("Mean over usable seeds [interval]", tables)
    shown = {f: as_estimate(row["reconstruction"]) for f, row in tables.items() if row}
    alone = [family for family, mean in shown.items() if mean.num_seeds == 1]
    if not alone:
        return means
    names = join([family_label(family) for family in alone])
    caution = shown[alone[0]].caution
    return means + note(f"{names}: {caution}")


def codes(summary: Summary) -> str:
    """Effects of models whose latents are a map of codes; nothing where there are none."""
    if "codes" not in summary:
        return ""
    found = {name: np.asarray(as_estimate(e).value) for name, e in summary["codes"].items()}
    models = summary["models"][-len(found["crossed"]) :]
    usable = np.array([model["verdict"] == "ok" for model in models])
    if not usable.any():
        return ""
    num_inputs = int(as_estimate(summary["codes"]["crossed"]).num_inputs)

    def mean(values: np.ndarray, show: Any = number) -> str:
        over = over_seeds(values[usable], num_inputs=num_inputs, intervention="see the caption")
        return interval_of(over, show=show)

    shifts = [
        [
            f"{dose:g} SD",
            mean(found["crossed"][:, i], percent),
            *(mean(found[n][:, i]) for n in ("shift_index", "shift_length")),
        ]
        for i, dose in enumerate(summary["config"]["doses"])
    ]
    redraws = {
        "position_index": "one position at a time, summed",
        "code_index": "one code wherever it stands, summed",
        "whole_index": "the whole map",
    }
    label = escape(family_label(models[0]["family"]))
    return (
        f"<h2>Codes</h2><p>{label} holds a map of codes where the others hold Gaussian latents. It "
        "has no KL, no index under the prior, no dose-response of latents and no modularity of "
        "effects: positions of a map act on places of their own, whatever was learnt. Its "
        "posterior total index and paper effect strength elsewhere on this page are of one "
        "position's code redrawn from another image; its disentanglement scores read the "
        "embeddings of its codes averaged over positions.</p>"
        + table(
            "One channel shifted before quantisation, mean over channels; over seeds [interval]",
            ("Shift", "Codes that change", "Total index", "Raw L2"),
            shifts,
        )
        + table(
            "Codes redrawn from another image; over seeds [interval]",
            ("Redrawn", "Total index"),
            [[words, mean(found[name].sum(axis=1))] for name, words in redraws.items()],
        )
    )


def differences(summary: Summary) -> str:
    """The table of differences from the first family, with what it can and cannot support."""
    differences = summary["differences"]
    if not differences:
        return "<p>There is no second family with a usable seed in common: nothing to compare.</p>"
    first = family_label(families(summary)[0])
    compared = _estimate_table(f"Difference from {first}, seed by seed [interval]", differences)
    return compared + "".join(note(sentence) for sentence in say_differences(differences))


def _estimate_table(caption: str, rows: Mapping[str, Any]) -> str:
    head = "".join(
        f"<th scope='col'>{escape(heading)}<br><small>{escape(unit)}</small></th>"
        for heading, unit in COMPARED.values()
    )
    body = []
    for family, values in rows.items():
        cells = "".join(_cell(values.get(name)) for name in COMPARED)
        num = next((as_estimate(v).num_seeds for v in values.values()), 0)
        size = f"{num} seed{'s' * (num != 1)}" if num else "no usable seed"
        name = f"{escape(family_label(family))}<br><small>{size}</small>"
        body.append(f"<tr><th scope='row'>{name}</th>{cells}</tr>")
    shown = {
        COMPARED[name][0]: as_estimate(v)
        for row in rows.values()
        for name, v in row.items()
        if name in COMPARED
    }
    interval = _say_intervals(shown) if shown else ""
    return (
        f"<div class='wide'><table><caption>{escape(caption.replace('interval', interval))}"
        f"</caption><thead><tr><th scope='col'>Family</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _say_intervals(estimates: Mapping[str, Estimate]) -> str:
    """Level and method of a table's intervals; those of few columns are named with them."""
    columns: dict[str, list[str]] = {}
    for name, estimate in estimates.items():
        columns.setdefault(estimate.method, []).append(name.lower())
    main, *others = sorted(columns, key=lambda method: -len(columns[method]))
    rest = "".join(f"; {', '.join(columns[method])}: {method}" for method in others)
    return f"{next(iter(estimates.values())).level:.0%}, {main}{rest}"


def _cell(values: Any) -> str:
    if values is None:
        return "<td>-</td>"
    estimate = as_estimate(values)
    ends = np.array(estimate.ends)
    value, low, high = (number(end, ends) for end in ends)
    shown = f"<data value='{float(estimate.value)!r}'>{value}</data>"
    if np.isfinite(ends).all():
        shown += f"<br><small>[{low}, {high}]</small>"
    return f"<td>{shown}</td>"


def top_units(summary: Summary, effects: xr.Dataset) -> str:
    """For each layer and factor, the unit that mediates most."""
    shown = {(p.family, p.seed): p for p in panels(summary, effects)}
    sites = set(layers(effects))
    best: dict[tuple[str, int], dict[str, dict[str, Any]]] = {key: {} for key in shown}
    for row in summary["top_units"]:
        key = (row["family"], row["seed"])
        if key in shown and row["site"] in sites and row["proportion_mediated"] is not None:
            best[key].setdefault(row["site"], {}).setdefault(row["factor"], row)
    factors = list(summary["factors"])
    head = "".join(f"<th scope='col'>{escape(f)}</th>" for f in factors)
    parts = []
    for key, by_site in best.items():
        body = "".join(
            f"<tr><th scope='row'>{escape(site)}</th>"
            + "".join(_unit_cell(row.get(factor)) for factor in factors)
            + "</tr>"
            for site, row in by_site.items()
        )
        parts.append(
            f"<details open><summary>{escape(shown[key].label)}, seed {key[1]}</summary>"
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


def how_to_read(summary: Summary, effects: xr.Dataset) -> str:
    """Definitions of the quantities and of their intervals."""
    definitions = dict(DEFINITIONS)
    definitions["Intervals"] = INTERVALS + " " + _methods(summary, effects)
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in definitions.items())
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


def checks(summary: Summary) -> str:
    """The identity checks, each with a verdict."""
    rows = []
    for name, value in summary["checks"].items():
        verdict = "as it must be, up to rounding"
        if value is None or not abs(value) < 1e-3:
            verdict = "larger than rounding: do not trust this study before this is explained"
        words = name.replace("_", " ")
        shown = "not finite" if value is None else f"{value:.2g}"
        rows.append(f"<li>{escape(words[0].upper() + words[1:])}: {shown} ({verdict}).</li>")
    return f"<ul>{''.join(rows)}</ul>"
