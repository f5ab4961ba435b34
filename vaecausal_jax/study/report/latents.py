"""Figures of latents: what each draws, what moves it, and how strongly it acts."""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec

from vaecausal_jax.study.report.drawing import (
    WIDTH,
    error_bars,
    grey_inactive,
    grid_shape,
    heat_map,
    hide_rest,
    label_ends,
    latent_axis,
    legend_above,
    mosaic,
    tile_centres,
    write_cells,
)
from vaecausal_jax.study.report.labels import nats
from vaecausal_jax.study.report.panels import Panel, Pictures, Summary, panels, usable_seeds
from vaecausal_jax.training.trainer import ACTIVE_KL

_INDICES = ("total_index_prior", "total_index_posterior")


def traversals(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Images along every latent, with originals and reconstructions above."""
    if "traversals" not in pictures:
        return None
    shown = panels(summary, effects)
    num_latents = len(shown[0].order)
    rows, columns = grid_shape(len(shown))
    cell = min((WIDTH / columns - 0.95) / 7.0, 0.55)
    aspect = np.shape(pictures["originals"])[1] / np.shape(pictures["originals"])[2]
    height = rows * (cell * aspect * (num_latents + 2) + 1.1)
    figure = Figure((WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)  # pyright: ignore
    outer = figure.add_gridspec(rows, columns)
    for i, panel in enumerate(shown):
        inner = GridSpecFromSubplotSpec(
            2, 1, outer[i // columns, i % columns], height_ratios=[2.0, num_latents]
        )
        _strip(figure.add_subplot(inner[0]), panel, pictures)
        _traversal_grid(figure.add_subplot(inner[1]), panel, pictures)
    return figure


def _strip(axes: Axes, panel: Panel, pictures: Pictures) -> None:
    rows = [pictures["originals"][:7], pictures["reconstructions"][panel.model][:7]]
    height = np.shape(rows[0])[1]
    mosaic(axes, np.stack([np.asarray(row) for row in rows]))
    axes.set_title(f"{panel.label}, seed {panel.seed}", fontweight="bold")
    axes.set_yticks(tile_centres(2, height), ["image", "output"])
    axes.set_xticks([])


def _traversal_grid(axes: Axes, panel: Panel, pictures: Pictures) -> None:
    images = np.asarray(pictures["traversals"][panel.model])[panel.order]
    _, num_values, height, width = images.shape[:4]
    mosaic(axes, images)
    labels = [f"z{i}  {nats(panel.kl[i])}" for i in panel.order]
    axes.set_yticks(tile_centres(len(labels), height), labels)
    grey_inactive(axes.get_yticklabels(), panel.kl[panel.order])
    values = np.linspace(-2.0, 2.0, num_values)
    ends = (0, num_values // 2, num_values - 1)
    axes.set_xticks(tile_centres(num_values, width)[list(ends)], [f"{values[i]:g}" for i in ends])
    axes.set_xlabel("value the latent is set to (prior SD)")
    axes.set_ylabel("latent and its KL (nats)")


def input_level(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """How far each factor of the image moves each latent mean."""
    del pictures
    shown = panels(summary, effects)
    moved = [p.effects["factor_to_latent"].sel(statistic="value") for p in shown]
    top = max((np.nanmax(m.values, initial=0.0) for m in moved), default=0.0)
    rows, columns = grid_shape(len(shown))
    num_factors = effects.sizes["factor"]
    figure = Figure((WIDTH, rows * (0.36 * num_factors + 1.25)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    norm = colors.Normalize(0.0, top or 1.0)
    for axes, panel, values in zip(grid.flat, shown, moved, strict=False):
        table = values.transpose("factor", "latent").values[:, panel.order]
        heat_map(axes, table, "Blues", norm)
        if table.shape[1] * columns <= 33:
            write_cells(axes, table, norm, "Blues")
        axes.set_title(f"{panel.label}, seed {panel.seed}")
        axes.set_yticks(range(num_factors), [str(f) for f in effects["factor"].values])
        latent_axis(axes, panel, crowded=table.shape[1] * columns > 33)
    hide_rest(grid, len(shown))
    figure.supxlabel(f"latent, largest KL first (grey: at most {ACTIVE_KL} nats)", fontsize=9.5)
    bar = figure.colorbar(cm.ScalarMappable(norm, "Blues"), ax=grid, shrink=0.9, pad=0.01)
    bar.set_label("mean |change| (SD of the latent's mean)")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def latent_level(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Total index of every latent, and the response to doses."""
    del pictures
    shown = panels(summary, effects)
    columns = min(3, len(shown))
    blocks = -(-len(shown) // columns)
    figure = Figure((WIDTH, 5.7 * blocks), layout="constrained")
    grid = figure.subplots(2 * blocks, columns, squeeze=False, sharey="row")
    tops = [_top(effects, names) for names in (("dose_response",), _INDICES)]
    for i, panel in enumerate(shown):
        block, column = divmod(i, columns)
        index_axes, dose_axes = grid[2 * block : 2 * block + 2, column]
        crowded = len(panel.order) * columns > 30
        _index_panel(index_axes, panel, effects, usable_seeds(summary, panel.family), crowded)
        index_axes.set_ylim(0.0, tops[1])
        _dose_panel(dose_axes, panel, tops[0])
        if column == 0:
            index_axes.set_ylabel("total index (share of variance)")
            dose_axes.set_ylabel("RMS change of the image (SD)")
    for i in range(len(shown), columns * blocks):
        for row in (2 * (i // columns), 2 * (i // columns) + 1):
            grid[row, i % columns].set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    legend_above(figure, handles, labels)
    return figure


def _top(effects: xr.Dataset, names: tuple[str, ...]) -> float:
    """An upper limit that keeps every interval of these variables inside."""
    ends = np.concatenate([effects[name].values.ravel() for name in names])
    return 1.06 * float(np.max(ends, where=np.isfinite(ends), initial=1e-6))


def _index_panel(
    axes: Axes, panel: Panel, effects: xr.Dataset, seeds: list[int], crowded: bool
) -> None:
    places = np.arange(len(panel.order))
    for variable, offset, marker, fill in zip(
        _INDICES, (-0.17, 0.17), "os", (panel.color, "white"), strict=True
    ):
        for seed in seeds[1:]:
            other = effects.sel(family=panel.family, seed=seed)
            order = np.argsort(-other["kl_per_latent"].values)
            values = other[variable].sel(statistic="value").values[order]
            axes.plot(places + offset, values, ".", color="#B5B5B5", ms=4, zorder=1)
        ends = panel.effects[variable].transpose("statistic", "latent").values[:, panel.order]
        axes.errorbar(
            places + offset,
            ends[0],
            yerr=error_bars(*ends),
            fmt=marker,
            ms=4.5,
            color=panel.color,
            mfc=fill,
            lw=1.2,
            label=_index_label(variable, effects),
        )
    latent_axis(axes, panel, crowded, with_kl=True)
    axes.set_xlabel("latent and its KL (nats)")
    axes.set_title(f"{panel.label}, seed {panel.seed}")
    axes.yaxis.grid(True)
    axes.yaxis.set_tick_params(labelleft=True)


def _index_label(variable: str, effects: xr.Dataset) -> str:
    level = effects[variable].attrs.get("level", 0.95)
    source = variable.removeprefix("total_index_")
    return f"latents redrawn from the {source}, {level:.0%} bootstrap interval over images"


def _dose_panel(axes: Axes, panel: Panel, top: float) -> None:
    response = panel.effects["dose_response"].transpose("statistic", "dose", "latent").values
    doses = panel.effects["dose"].values
    at = np.searchsorted(doses, 0.0)
    ramp = matplotlib.colormaps["viridis"]
    last = []
    for rank, latent in enumerate(panel.order):
        inactive = not panel.kl[latent] > ACTIVE_KL
        color = "#BDBDBD" if inactive else ramp(0.92 * rank / max(len(panel.order) - 1, 1))
        curve, low, high = (np.insert(ends[:, latent], at, 0.0) for ends in response)
        x = np.insert(doses, at, 0.0)
        axes.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
        axes.plot(x, curve, "-", color=color, lw=1.3, marker=".", ms=4)
        last.append((curve[-1], f"z{latent}", color))
    axes.set_ylim(0.0, top)
    label_ends(axes, doses[-1], last, gap=0.062 * top)
    axes.set_xlabel("dose (SD of the latent's aggregate posterior)")
    axes.yaxis.grid(True)
    axes.yaxis.set_tick_params(labelleft=True)
