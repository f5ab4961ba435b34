"""Circuits of factors and the graph of effects, as tables: families beside untrained networks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaecausal_jax.inference import over_seeds
from vaecausal_jax.study.report.labels import family_label, hundredths, interval_of, number, percent
from vaecausal_jax.study.report.panels import Summary, as_estimate, families, usable_seeds
from vaecausal_jax.study.report.template import escape, note, table

COLUMNS = {
    "circuit_share": ("units in a factor's circuit", percent),
    "circuit_undecided": ("undecided", percent),
    "circuit_faithfulness": ("faithfulness of circuits", hundredths),
    "circuit_cpr": ("CPR", hundredths),
    "circuit_overlap_encoder": ("overlap of two, encoder", hundredths),
    "circuit_overlap_decoder": ("overlap of two, decoder", hundredths),
}
GRAPH = {
    "circuit_edges": ("edges found", percent),
    "circuit_modularity": ("modularity by factor", number),
    "circuit_bi_fan": ("bi-fans", hundredths),
    "circuit_diamond": ("diamonds", hundredths),
    "circuit_coherent_diamond": ("coherent diamonds", hundredths),
}


def circuits(summary: Summary) -> str:
    """The section of circuits, or how many pairs it takes."""
    config = summary["config"]
    if "circuits" not in summary:
        return (
            "<p>Circuits take 16 minimal pairs of each factor (num_pairs), which find them, and 8 "
            "others (num_swap_pairs), which judge; this study has "
            f"{config['num_pairs']} and {config.get('num_swap_pairs', 0)}.</p>"
        )
    rows = {
        family_label(family): summary["families"][family]
        for family in families(summary)
        if summary["families"].get(family)
    }
    for title, values in summary["circuits"]["untrained"].items():
        rows[title] = {name: _over_networks(np.asarray(own, float)) for name, own in values.items()}
    others = min(config["num_pairs"], config["num_swap_pairs"])
    return (
        "<p>A factor's circuit: the units that carry more than 1% of its effect, noised or "
        f"denoised (FDR 5%), by {config['num_pairs']} minimal pairs. {others} others judge "
        "it: faithfulness is the share of the effect that is left when all other units are "
        "held at the unchanged image; CPR the same of the best units, averaged over all "
        "sizes. Undecided units are in no circuit and not shown to carry less than 1%. Overlap is "
        "the Jaccard likeness of two factors' circuits minus that of random circuits of their "
        "sizes. Where a factor is spread over the many units of a layer, each with less than 1%, "
        "the whole layer is held and nothing passes: faithfulness is 0.</p>"
        + _table("Circuits, mean over factors; over seeds [interval]", rows, COLUMNS)
        + "<p>The graph of effects: each unit on each that reads it. An edge is an effect of "
        "more than 0.01 SD (FDR 5%). Modularity is that of units grouped by the factor they carry "
        "most, minus its null's mean; motifs are log2 of their count over their null's, which "
        "keeps every unit's degrees.</p>"
        + _table("Graph of effects between units; over seeds [interval]", rows, GRAPH)
        + _exemplars(summary)
        + note(
            "What an untrained network shows as well is of the architecture: a number of "
            "the models counts by what it has beyond that row."
        )
    )


def _table(caption: str, rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, Any]) -> str:
    body = [
        [label, *(_cell(values.get(name), show) for name, (_, show) in columns.items())]
        for label, values in rows.items()
    ]
    return table(caption, ["", *(words for words, _ in columns.values())], body)


def _cell(values: Any, show: Any) -> str:
    if values is None or not np.isfinite(as_estimate(values).value):
        return "-"
    return interval_of(as_estimate(values), show=show)


def _over_networks(values: np.ndarray) -> Any:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    return over_seeds(finite, num_inputs=finite.size, intervention="untrained networks")


def _exemplars(summary: Summary) -> str:
    """Faithfulness of every factor's circuit under each ablation, in one model of each family."""
    found = as_estimate(summary["circuits"]["faithfulness"])
    units = np.asarray(summary["circuits"]["units"])
    keys = [(m["family"], m["seed"]) for m in summary["models"]]
    names, ablations = list(summary["factors"]), summary["circuits"]["ablations"]
    parts = []
    for family in families(summary):
        if not (seeds := usable_seeds(summary, family)):
            continue
        model = keys.index((family, seeds[0]))
        body = [
            [
                name,
                str(int(units[model, k])),
                *(
                    _cell(found[model, k, a], hundredths) if units[model, k] else "-"
                    for a in range(len(ablations))
                ),
            ]
            for k, name in enumerate(names)
        ]
        head = ["factor", "units", *(f"held at: {name}" for name in ablations)]
        title = f"{family_label(family)}, seed {seeds[0]}"
        parts.append(
            f"<details><summary>{escape(title)}</summary>"
            + table("Faithfulness of each factor's circuit [interval over pairs]", head, body)
            + "</details>"
        )
    return "".join(parts)
