"""Figures of numbers of models: forms of effect strength, scores, their relation, modularity."""

import numpy as np
import xarray as xr
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from vaecausal_jax.inference import over_seeds
from vaecausal_jax.study.report.drawing import (
    MARKERS,
    WIDTH,
    error_bars,
    family_legend,
    family_rows,
    grid_shape,
    heat_map,
    hide_rest,
    limit_to_points,
    seeds_and_mean,
    write_cells,
)
from vaecausal_jax.study.report.labels import (
    COMPARED,
    EFFECTS,
    SCORES,
    STRENGTHS,
    hundredths,
    interval_of,
)
from vaecausal_jax.study.report.models import counted, seeds_key
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    as_estimate,
    families,
    family_color,
    numbers,
    panels,
    ranked_alike,
    strengths,
    usable_seeds,
)


def effect_strengths(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Every form of effect strength side by side, by family."""
    del pictures
    titles = [panel.family for panel in panels(summary, effects)]
    figure = Figure((WIDTH, 0.36 * len(titles) + 1.35), layout="constrained")
    grid = figure.subplots(1, len(STRENGTHS), sharey=True)
    for axes, (name, (title, unit)) in zip(grid, STRENGTHS.items(), strict=True):
        for i, family in enumerate(titles):
            dots = strengths(summary, effects, family, name)
            mean = over_seeds(dots, num_inputs=0, intervention=title)
            seeds_and_mean(axes, i, family_color(summary, family), dots, mean)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(unit, fontsize=8)
        family_rows(axes, [counted(summary, family) for family in titles], num_ticks=3)
        limit_to_points(axes)
    return figure


def scores(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Disentanglement scores by family, each beside its chance level."""
    del effects, pictures
    titles = [family for family in families(summary) if usable_seeds(summary, family)]
    found = {n: words for n, words in SCORES.items() if n in summary["families"][titles[0]]}
    if not found:
        return None
    rows, columns = grid_shape(len(found) + 1, 4)
    figure = Figure((WIDTH, rows * (0.36 * len(titles) + 1.1)), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, title) in zip(grid.flat, found.items(), strict=False):
        for i, family in enumerate(titles):
            row = summary["families"][family]
            if name not in row:
                continue
            color = family_color(summary, family)
            dots = numbers(summary, family, name)
            seeds_and_mean(axes, i, color, dots, as_estimate(row[name]))
            chance = as_estimate(row[f"{name}/chance"]).value
            axes.plot(chance, i, "|", color="#444444", ms=15, mew=1.6)
        axes.set_title(title)
        family_rows(axes, [counted(summary, family) for family in titles])
        limit_to_points(axes)
    hide_rest(grid, len(found))
    mark = Line2D([], [], ls="", marker="|", ms=13, mew=1.6, color="#444444")
    mean = as_estimate(summary["families"][titles[0]][next(iter(found))])
    seeds_key(grid.flat[len(found)], mean, (mark, "chance: factors shuffled"))
    return figure


def effects_and_scores(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Effect strength against DCI disentanglement, raw and with the controls taken out."""
    del pictures
    claims = summary["claims"]
    if not claims["correlation"]:
        return None
    shown = panels(summary, effects)
    figure = Figure((WIDTH, 3.4), layout="constrained")
    grid = figure.subplots(1, 2 * len(EFFECTS))
    titles = np.array([m["family"] for m in summary["models"]])
    for e, (name, heading) in enumerate(EFFECTS.items()):
        rows = np.asarray(claims["residuals"][name], float).reshape(4, -1)
        for column, (pair, correlation) in enumerate(
            zip((rows[:2], rows[2:]), claims["correlation"][name], strict=True)
        ):
            axes = grid[2 * e + column]
            for i, panel in enumerate(shown):
                own = titles == panel.family
                marker = MARKERS[i % len(MARKERS)]
                axes.plot(*pair[:, own], marker, ls="", color=panel.color, ms=5, alpha=0.85)
            r = as_estimate(correlation)
            kind = "controls taken out" if column else "as measured"
            axes.set_title(f"{kind}\nr = {interval_of(r, show=hundredths)}", fontsize=9)
            axes.set_xlabel(heading + (", residual" if column else ""), fontsize=8.5)
            what = "DCI disentanglement, residual" if column else "DCI disentanglement"
            axes.set_ylabel(what, fontsize=8.5)
            axes.grid(True)
            axes.set_axisbelow(True)
            axes.locator_params(nbins=4)
    family_legend(figure, shown)
    return figure


def rank_agreement(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """How alike effect strengths and scores rank the models."""
    del effects, pictures
    if not (agreement := summary["claims"]["agreement"]):
        return None
    table = np.asarray(agreement["correlation"], float)
    headings = {name: words for name, (words, _) in COMPARED.items()} | SCORES
    labels = [str(headings.get(name, name)) for name in agreement["names"]]
    # Each pair once, and no name with itself.
    below = np.tri(len(labels), k=-1, dtype=bool)
    norm = colors.Normalize(-1.0, 1.0)
    figure = Figure((WIDTH * 0.8, 0.36 * len(labels) + 2.0), layout="constrained")
    axes = figure.subplots()
    heat_map(axes, np.where(below, table, np.nan)[1:, :-1], "RdBu_r", norm, bad="white")
    write_cells(axes, np.where(below, table, np.nan)[1:, :-1], norm, "RdBu_r")
    for row, column in np.argwhere((below & np.logical_or(*ranked_alike(agreement)))[1:, :-1]):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="black", lw=1.4))
    axes.set_yticks(range(len(labels) - 1), labels[1:])
    axes.set_xticks(range(len(labels) - 1), labels[:-1], rotation=40, ha="right")
    bar = figure.colorbar(cm.ScalarMappable(norm, "RdBu_r"), ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("Spearman correlation over models")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def modularity(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Modularity of effects of every model beside what unrelated changes would give."""
    del pictures
    titles = [panel.family for panel in panels(summary, effects)]
    headings = {
        "decoder": "Read in the first layer of the decoder",
        "reencoded": "Read in the latent means of the re-encoded output",
    }
    most = max(len(usable_seeds(summary, family)) for family in titles)
    height = len(titles) * max(0.4, 0.13 * most + 0.1) + 1.3
    figure = Figure((WIDTH, height), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for axes, (where, heading) in zip(grid, headings.items(), strict=True):
        for i, family in enumerate(titles):
            _modularity_row(axes, summary, where, i, family)
        axes.set_title(heading)
        family_rows(axes, [counted(summary, family) for family in titles])
        limit_to_points(axes)
        low, high = axes.get_xlim()
        if high - low < 0.02:  # Differences of rounding are none.
            axes.set_xlim((low + high) / 2 - 0.05, (low + high) / 2 + 0.05)
        axes.set_xlabel("modularity M of effects")
    handles = [
        Line2D([], [], marker="o", ms=4.5, color="#444444"),
        Line2D([], [], ls="", marker="|", ms=11, mew=1.6, color="#444444"),
    ]
    labels = ["one model, interval over images", "its null: signs at random"]
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _modularity_row(axes: Axes, summary: Summary, where: str, row: int, family: str) -> None:
    seeds = usable_seeds(summary, family)
    color = family_color(summary, family)
    places = row + (np.arange(len(seeds)) - (len(seeds) - 1) / 2) * 0.8 / len(seeds)
    models = zip(summary["models"], summary["modularity"][where], strict=True)
    own = {m["seed"]: values for m, values in models if m["family"] == family}
    for place, seed in zip(places, seeds, strict=True):
        if (values := own[seed]) is None:
            continue
        value = as_estimate(values["value"])
        bars = error_bars(*map(np.atleast_1d, value.ends))
        axes.errorbar(value.value, place, xerr=bars, fmt="o", ms=4.5, color=color, lw=1.2)
        null = np.nan if value.null is None else float(np.asarray(value.null, float))
        axes.plot(null, place, "|", color="#444444", ms=9, mew=1.6)
