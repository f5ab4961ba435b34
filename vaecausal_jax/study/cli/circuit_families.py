"""Circuits of every trained model of a study, compared between families."""

import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from vaecausal_jax.inference import Estimate, over_seeds
from vaecausal_jax.manifests import write_text, written_whole
from vaecausal_jax.study.report.drawing import STYLE
from vaecausal_jax.study.report.labels import family_label

Numbers = dict[str, float]

TITLES = {
    "units": "units in a factor's circuit, share of all",
    "undecided": "units that too few pairs left undecided, share of all",
    "faithfulness": "faithfulness, median over ablations",
    "smallest": "units that make 0.9 of a factor's effect, share of all",
    "cpr": "CPR: area under faithfulness over size",
    "cmd": "CMD: area between faithfulness and 1",
    "overlap_encoder": "overlap of factors' circuits, encoder",
    "overlap_decoder": "overlap of factors' circuits, decoder",
    "modularity_by_factor": "modularity by factor, minus its null",
    "modularity_optimised": "modularity optimised, minus its null",
    "motif_bi_fan": "bi-fans, z",
    "motif_diamond": "diamonds, z",
    "motif_coherent_diamond": "coherent diamonds, z",
    "motif_incoherent_diamond": "incoherent diamonds, z",
}
"""What families are compared by, in the order of the page; the rest is in the tables."""


def circuit_numbers(tables: Mapping[str, Any]) -> Numbers:
    """One number per model for each thing that circuits are compared by; NaN where undefined.

    Means over factors: ``units``, ``faithfulness``, ``smallest`` (the best units that reach 0.9),
    ``cpr``, ``cmd``; each of them by factor as ``units/<factor>``, ... Mean over pairs of factors:
    ``overlap_<part>``. Of the effect graph: ``modularity_<partition>`` (minus its null) and
    ``modularity_<partition>_z``, ``motif_<name>`` (z).

    Args:
        tables: Of one model, as in its circuits.json.
    """
    numbers: Numbers = {}
    by_factor = {
        name: {
            "units": f["num_units"] / f["num_candidates"],
            "undecided": f["num_undecided"] / f["num_candidates"],
            "faithfulness": _nan(f["faithfulness_range"][1]),
            "smallest": _nan(f["smallest_faithful"]) / f["num_candidates"],
            "cpr": _nan(f["cpr"]),
            "cmd": _nan(f["cmd"]),
        }
        for name, f in tables["factors"].items()
    }
    for word in ("units", "undecided", "faithfulness", "smallest", "cpr", "cmd"):
        values = {name: row[word] for name, row in by_factor.items()}
        numbers |= {f"{word}/{name}": value for name, value in values.items()}
        numbers[word] = _mean(list(values.values()))
    for part, table in tables["overlap"].items():
        rows = np.array([[_nan(v) for v in row] for row in table])
        pairs = rows[np.triu_indices(len(rows), k=1)]
        numbers[f"overlap_{part.replace(' ', '_')}"] = _mean(pairs)
    structure = tables["structure"] or {"modularity": {}, "motifs": {}}
    for partition, found in structure["modularity"].items():
        numbers[f"modularity_{partition}"] = _nan(found["excess"])
        numbers[f"modularity_{partition}_z"] = _nan(found["z"])
    for name, motif in structure["motifs"].items():
        numbers[f"motif_{name}"] = _nan(motif["z"])
    return numbers


def compare_circuits(
    models: Mapping[tuple[str, int], Numbers],
) -> dict[str, dict[str, Estimate]]:
    """Family to number to its mean over the seeds that have it, with Student's t interval."""
    families = list(dict.fromkeys(family for family, _ in models))
    names = list(dict.fromkeys(name for numbers in models.values() for name in numbers))
    compared: dict[str, dict[str, Estimate]] = {}
    for family in families:
        own = [numbers for (title, _), numbers in models.items() if title == family]
        compared[family] = {}
        for name in names:
            values = np.array([numbers.get(name, np.nan) for numbers in own])
            values = values[np.isfinite(values)]
            if values.size:
                compared[family][name] = over_seeds(
                    values, num_inputs=values.size, intervention="one circuit a model"
                )
    return compared


def write_comparison(folder: pathlib.Path, models: Mapping[tuple[str, int], Numbers]) -> None:
    """Writes families.json, families.png and index.html, which links the models' own pages."""
    compared = compare_circuits(models)
    tables = {
        "families": {
            family: {
                name: {
                    "value": _number(e.value),
                    "low": _number(e.low),
                    "high": _number(e.high),
                    "num_seeds": e.num_seeds,
                    "method": e.method,
                }
                for name, e in row.items()
            }
            for family, row in compared.items()
        },
        "models": [
            {"family": family, "seed": seed, **{k: _number(v) for k, v in numbers.items()}}
            for (family, seed), numbers in models.items()
        ],
    }
    write_text(folder / "families.json", json.dumps(tables, indent=1))
    with written_whole(folder / "families.png") as file:
        draw_families(models, compared).savefig(file, format="png", dpi=130)
    write_text(folder / "index.html", _page(models, compared))


def draw_families(
    models: Mapping[tuple[str, int], Numbers], compared: Mapping[str, Mapping[str, Estimate]]
) -> Figure:
    """A panel for each thing of ``TITLES``: circles are models, diamonds means with intervals."""
    shown = [name for name in TITLES if any(name in row for row in compared.values())]
    columns = 3
    rows = -(-len(shown) // columns)
    families = list(compared)
    with rc_context(STYLE):
        height = 0.9 + rows * (0.75 + 0.32 * len(families))
        figure = Figure(figsize=(11.0, height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, name in zip(panels.flat, shown, strict=False):
            for place, family in enumerate(families):
                values = [n.get(name, np.nan) for (f, _), n in models.items() if f == family]
                axes.plot(values, [place] * len(values), "o", ms=5, mfc="none", color="#777777")
                if (estimate := compared[family].get(name)) is None:
                    continue
                if np.isfinite(estimate.low):
                    axes.plot([estimate.low, estimate.high], [place] * 2, lw=1.6, color="#1B4F8A")
                axes.plot(estimate.value, place, "D", ms=6, color="#1B4F8A")
            if "modularity" in name or "motif" in name:
                axes.axvline(0.0, color="#AAAAAA", lw=0.8, ls=":", zorder=0)
            axes.set_title(TITLES[name], fontsize=9)
            axes.margins(x=0.12)
        panels[0, 0].set_yticks(range(len(families)), [family_label(f) for f in families])
        panels[0, 0].set_ylim(len(families) - 0.4, -0.6)
    return figure


def _page(
    models: Mapping[tuple[str, int], Numbers], compared: Mapping[str, Mapping[str, Estimate]]
) -> str:
    families = list(compared)
    shown = [name for name in TITLES if any(name in row for row in compared.values())]
    head = "".join(f"<th>{html.escape(family_label(f))}</th>" for f in families)
    rows = [
        f"<tr><td>{html.escape(TITLES[name])}</td>"
        + "".join(f"<td>{_text(compared[f].get(name))}</td>" for f in families)
        + "</tr>"
        for name in shown
    ]
    links = "".join(
        f'<li><a href="{family}/seed{seed}/report.html">{html.escape(family_label(family))}, '
        f"seed {seed}</a></li>"
        for family, seed in models
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Circuits of families</title>
<style>body {{ font: 15px/1.45 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }}
td, th {{ padding: .25em .8em; text-align: left; border-bottom: 1px solid #ddd }}
ul {{ columns: 3 }}</style>
<h1>Circuits of families</h1>
<p>Every trained model has its own circuits; each number is the mean over models, with Student's t
interval over them (n models). A factor's circuit are the units that each carry more than the least
share of its effect; where a layer carries it by many units that each do less, nothing of that layer
is in the circuit and faithfulness is near 0, which the units that make 0.9 together tell apart from
a factor without any circuit. Overlap is Jaccard's, over pairs of factors. Modularity is that of
the edges between units that survive the test, under the layered null, minus the mean of null
graphs; by factor, each unit counts for the factor of whose effect it carries most. z says by how
many standard deviations a motif exceeds graphs with the same degrees.</p>
<table><tr><th></th>{head}</tr>{"".join(rows)}</table>
<p><img src="families.png" alt="families" style="width:100%"></p>
<h2>Models</h2>
<ul>{links}</ul>
</html>
"""


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "undefined"
    value = f"{float(estimate.value):.3g}"
    if not np.isfinite(estimate.low):
        return f"{value} (n {estimate.num_seeds})"
    low, high = float(estimate.low), float(estimate.high)
    return f"{value} [{low:.3g}, {high:.3g}] (n {estimate.num_seeds})"


def _nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values: Any) -> float:
    """Mean of what is known; NaN if nothing is."""
    values = np.asarray(values, float)
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
