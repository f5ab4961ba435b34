"""How far the numbers can be trusted, as HTML: quality of read-outs, runs off the manifold."""

import numpy as np
import xarray as xr

from vaecausal_jax.study.report.labels import (
    family_label,
    hundredths,
    interval_of,
    join,
    number,
    percent,
)
from vaecausal_jax.study.report.panels import Summary, as_estimate, layers, panels, usable_seeds
from vaecausal_jax.study.report.template import note, table

MIN_QUALITY = 0.7
"""R^2 (or accuracy) on reconstructions below which effects on a factor are not to be believed."""


def readout(summary: Summary, effects: xr.Dataset) -> str:
    """How well factors are read off rendered images and reconstructions, and mistaken."""
    quality, names = summary["readout"], list(summary["factors"])
    found = {p.family: _reconstructed(summary, p.family, names) for p in panels(summary, effects)}
    head = ["Images", *names]
    drawn = [_plain(quality["rendered"].get(name)) for name in names]
    rows = [["of the data", *drawn]]
    for family, values in found.items():
        rows.append([f"reconstructed by {family_label(family)}", *map(_plain, values)])
    scores = table(
        "How well each factor is read off images: R^2, or the accuracy of a categorical factor; "
        "reconstructions are the mean over usable seeds",
        head,
        rows,
    )
    confusion = as_estimate(quality["confusion"])
    cells = [
        [interval_of(confusion[k, read], show=hundredths) for read in range(len(names))]
        for k in range(len(names))
    ]
    mistaken = table(
        "Confusion: change of each read-out (column) as one factor of a rendered image (row) grows "
        "by one SD [interval over pairs]; 1 on the diagonal and 0 elsewhere would be perfect",
        ["Factor changed", *names],
        [[name, *row] for name, row in zip(names, cells, strict=True)],
    )
    return scores + _warnings(found, names) + mistaken


def _reconstructed(summary: Summary, family: str, names: list[str]) -> list[float]:
    usable = usable_seeds(summary, family)
    models = zip(summary["models"], summary["readout"]["reconstructed"], strict=True)
    own = [q for m, q in models if m["family"] == family and m["seed"] in usable]
    values = [[q.get(name) for name in names] for q in own]
    return [float(v) for v in np.asarray(values, float).mean(axis=0)]


def _warnings(found: dict[str, list[float]], names: list[str]) -> str:
    weak = {
        family: [n for n, v in zip(names, values, strict=True) if not v >= MIN_QUALITY]
        for family, values in found.items()
    }
    said = [f"{family_label(f)}: {join(factors)}" for f, factors in weak.items() if factors]
    if not said:
        return ""
    return note(
        f"Below {MIN_QUALITY} on reconstructions, so that effects on these factors are not to be "
        f"believed: {'; '.join(said)}."
    )


def _plain(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else hundredths(value)


def off_manifold(summary: Summary, effects: xr.Dataset) -> str:
    """Runs that leave the support of natural activations, and outputs that re-encode elsewhere."""
    shown = panels(summary, effects)
    if not shown:
        return "<p>No model is usable.</p>"
    rows = []
    for site in layers(effects):
        estimates = [summary["families"][p.family].get(f"off_support/{site}") for p in shown]
        cells = ["-" if e is None else interval_of(as_estimate(e), show=percent) for e in estimates]
        rows.append([site, *cells])
    for name, words in (
        ("reencode_gap", "re-encode gap, latents redrawn (SD)"),
        ("natural_gap", "re-encode gap, latents left alone (SD)"),
    ):
        means = []
        for p in shown:
            own = effects[name].sel(family=p.family, seed=usable_seeds(summary, p.family))
            means.append(float(own.sel(statistic="value").mean(skipna=False)))
        rows.append([words, *map(_gap, means)])
    return table(
        "Share of runs, with a unit redrawn from another image, that lie farther out than 95% of "
        "natural ones (5% is what natural runs give), by layer; mean over usable seeds [interval]",
        ["Layer", *(p.label for p in shown)],
        rows,
    ) + (
        "<p>The re-encode gap is how far the encoder, given the output, misses the latents that "
        "made it. Where it is much larger for redrawn latents than for those left alone, the "
        "interventions leave what the model knows.</p>"
    )


def _gap(value: float) -> str:
    return number(value) if np.isfinite(value) else "-"
