"""How far the numbers can be trusted, as HTML: quality of read-outs, runs off the manifold."""

import numpy as np
import xarray as xr

from vaecausal_jax.study.gate import MIN_QUALITY, is_readable
from vaecausal_jax.study.report.labels import (
    family_label,
    hundredths,
    interval_of,
    join,
    number,
    percent,
)
from vaecausal_jax.study.report.panels import (
    Summary,
    as_estimate,
    layers,
    panels,
    quality_of,
    usable_seeds,
)
from vaecausal_jax.study.report.template import escape, note, table


def opening(summary: Summary) -> str:
    """Which factors can be read in which families, before anything is said of them."""
    names = np.array(list(summary["factors"]))
    alike: dict[tuple[bool, ...], list[str]] = {}
    for family, quality in quality_of(summary).items():
        alike.setdefault(tuple(is_readable(quality)), []).append(family_label(family))
    if not alike:
        return ""
    said = [
        f"in {join(labels)} {_can_be_read(names, np.array(readable))}"
        for readable, labels in alike.items()
    ]
    return (
        "<p>Factors are read off a model's outputs, and count as read where this succeeds on its "
        f"reconstructions with an R^2 (or accuracy) of {MIN_QUALITY} or more, mean over usable "
        f"seeds: {escape('; '.join(said))}. No class, edge or sentence below that rests on reading "
        "is about a factor that cannot be read, and figures hatch it. What units mediate of the "
        "factors of the input is read off pixels and is not concerned.</p>"
    )


def _can_be_read(names: np.ndarray, readable: np.ndarray) -> str:
    if readable.all():
        return "every factor can be read"
    if not readable.any():
        return "no factor can be read"
    lost = join(list(names[~readable]))
    return f"{join(list(names[readable]))} can be read and {lost} cannot"


def readout(summary: Summary) -> str:
    """How well factors are read off rendered images and reconstructions, and mistaken."""
    quality, names = summary["readout"], list(summary["factors"])
    found = quality_of(summary)
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


def _warnings(found: dict[str, np.ndarray], names: list[str]) -> str:
    weak = {family: list(np.array(names)[~is_readable(values)]) for family, values in found.items()}
    said = [f"{family_label(f)}: {join(factors)}" for f, factors in weak.items() if factors]
    if not said:
        return ""
    return note(
        f"Below {MIN_QUALITY} on reconstructions, so that effects on these factors are not to be "
        f"believed and nothing is said of them: {'; '.join(said)}."
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
