"""Figures of whole models: how they trained, and one number per model compared over families."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vaecausal_jax.inference import Estimate
from vaecausal_jax.study.report.drawing import (
    WIDTH,
    family_rows,
    grid_shape,
    hide_rest,
    legend_above,
    limit_to_points,
    plain_log,
    seeds_and_mean,
)
from vaecausal_jax.study.report.labels import COMPARED, family_label
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    as_estimate,
    families,
    family_color,
    numbers,
    usable_seeds,
)


def training(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Reconstruction and KL over gradient steps; every seed a line."""
    del effects
    histories = pictures.get("histories") or {}
    titles = [family for family in families(summary) if family in histories]
    if not titles:
        return None
    verdicts = {(m["family"], m["seed"]): m["verdict"] for m in summary["models"]}
    figure = Figure((WIDTH, 3.9), layout="constrained")
    for axes, term in zip(figure.subplots(1, 2), ("reconstruction", "kl"), strict=True):
        for family in titles:
            if term not in histories[family]:
                continue
            color = family_color(summary, family)
            lines = np.asarray(histories[family][term])
            steps = pictures["record_every"] * np.arange(1, lines.shape[1] + 1)
            for seed, line in enumerate(lines):
                dashed = verdicts.get((family, seed), "ok") != "ok"
                label = family_label(family) if seed == 0 else None
                style = "--" if dashed else "-"
                axes.plot(steps, line, style, color=color, lw=1.1, alpha=0.8, label=label)
        axes.set_xlabel("gradient step")
        axes.set_ylabel("nats per image" + (" (log scale)" if term == "reconstruction" else ""))
        axes.set_title({"reconstruction": "Reconstruction error", "kl": "KL to the prior"}[term])
        axes.grid(True)
    figure.axes[0].set_yscale("log")
    plain_log(figure.axes[0].yaxis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend_above(figure, handles, labels)
    return figure


def comparison(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """One number per model, by family: every seed, the mean and its interval."""
    del effects, pictures
    titles = [family for family in families(summary) if usable_seeds(summary, family)]
    rows, columns = grid_shape(len(COMPARED), 4)
    size = (WIDTH, rows * (0.36 * len(titles) + 1.2))
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, (title, unit)) in zip(grid.flat, COMPARED.items(), strict=False):
        for i, family in enumerate(titles):
            color = family_color(summary, family)
            dots = numbers(summary, family, name)
            if name not in summary["families"][family]:
                continue  # Models with codes have no KL and no latents.
            mean = as_estimate(summary["families"][family][name])
            seeds_and_mean(axes, i, color, dots, mean)
        axes.set_title(title)
        axes.set_xlabel(unit)
        family_rows(axes, [counted(summary, family) for family in titles])
        limit_to_points(axes)
    hide_rest(grid, len(COMPARED))
    seeds_key(grid.flat[-1], as_estimate(summary["families"][titles[0]]["reconstruction"]))
    return figure


def seeds_key(axes: Axes, estimate: Estimate, *more: tuple[Line2D, str]) -> None:
    """Says in the empty last panel what the marks are."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, mfc="none", mec="#444444"),
        Line2D([], [], marker="D", ms=5, color="#444444"),
    ]
    interval = f"mean and {estimate.level:.0%} interval"
    axes.set_visible(True)
    axes.set_axis_off()
    labels = ["one trained model", interval, *(words for _, words in more)]
    handles += [mark for mark, _ in more]
    axes.legend(handles, labels, loc="center left", frameon=False)


def counted(summary: Summary, family: str) -> str:
    """A family's name and how many of its models are usable."""
    num = len(usable_seeds(summary, family))
    return f"{family_label(family)}, n = {num}"
