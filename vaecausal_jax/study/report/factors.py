"""Figures of factors: which units serve which, what swapping them moves, and doses of latents."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib import cm, colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from vaecausal_jax.study.report.drawing import (
    WIDTH,
    grid_shape,
    hatch,
    hatch_columns,
    heat_map,
    hide_rest,
    layer_axis,
    legend_above,
    write_cells,
)
from vaecausal_jax.study.report.labels import nats
from vaecausal_jax.study.report.panels import (
    PALETTE,
    Panel,
    Pictures,
    Summary,
    factor_graph_of,
    layers,
    panels,
    read_write_sites,
    shares,
    sort_units,
    strongest_latents,
    usable_seeds,
)
from vaecausal_jax.study.report.units import unit_count

CLASS_COLORS = {
    "monosemantic": "#0072B2",
    "polysemantic": "#E69F00",
    "undetermined": "#C9D3DA",
    "undetected": "#E8DCC0",
    "dead": "#6B6B6B",
}

CLASS_WORDS = {name: name for name in CLASS_COLORS} | {
    "undetected": "no effect found",
    "dead": "shown to be dead",
}

MIN_SUPPORT = 0.01
"""Doses that fewer natural runs than this reach are drawn as extrapolation."""

NUM_LATENTS = 4


def unit_classes(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Share of the units of each class, layer by layer."""
    del pictures
    tables = summary["unit_classes"]
    shown = [p for p in panels(summary, effects) if p.family in tables]
    sites = [s for s in layers(effects) if all(s in tables[p.family] for p in shown)]
    shares_of = {
        panel.family: np.array(
            [[tables[panel.family][s][c]["value"] for s in sites] for c in CLASS_COLORS], float
        )
        for panel in shown
    }
    if not any(np.isfinite(table).any() for table in shares_of.values()):
        return None
    rows, columns = grid_shape(len(shown))
    figure = Figure((WIDTH, rows * (0.27 * len(sites) + 0.75) + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    for axes, panel in zip(grid.flat, shown, strict=False):
        left = np.zeros(len(sites))
        table = np.nan_to_num(shares_of[panel.family])
        for width, color in zip(table, CLASS_COLORS.values(), strict=True):
            axes.barh(np.arange(len(sites)), width, left=left, color=color, height=0.72)
            left += width
        num = len(usable_seeds(summary, panel.family))
        axes.set_title(f"{panel.label}, mean over {num} seed{'s' * (num != 1)}")
        layer_axis(axes, sites)
        axes.set_xlim(0.0, 1.0)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.xaxis.set_tick_params(labelbottom=True)
    hide_rest(grid, len(shown))
    figure.supxlabel("share of a layer's units", fontsize=9.5)
    handles = [Patch(color=color) for color in CLASS_COLORS.values()]
    legend_above(figure, handles, [CLASS_WORDS[name] for name in CLASS_COLORS])
    return figure


def read_write(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """What units read of each factor beside what they write into it."""
    del pictures
    shown, sites = panels(summary, effects), read_write_sites(effects)
    if not sites:
        return None
    names = [str(f) for f in effects["factor"].values]
    height = len(shown) * (max(0.16 * len(names), 0.5) + 0.5) + 1.2
    figure = Figure((WIDTH, height), layout="constrained")
    grid = figure.subplots(len(shown), 2 * len(sites), squeeze=False)
    for s, site in enumerate(sites):
        tables = [
            [shares(p.effects, site, name).transpose("factor", "unit").values for p in shown]
            for name in ("read", "write")
        ]
        for column, (own, what) in enumerate(zip(tables, ("read", "write"), strict=True)):
            # What cannot be read does not set the scale.
            kept = [
                t[p.readable] if what == "write" else t for t, p in zip(own, shown, strict=True)
            ]
            top = max(np.nanmax(np.abs(t), initial=0.0) for t in kept) or 1.0
            cmap, low = ("Blues", 0.0) if what == "read" else ("RdBu_r", -top)
            norm = colors.Normalize(low, top)
            for row, panel in enumerate(shown):
                axes = grid[row, 2 * s + column]
                order = _order(panel, site, tables[1][row])
                heat_map(axes, own[row][:, order], cmap, norm)
                if what == "write":
                    hatch(axes, np.flatnonzero(~panel.readable), len(order))
                num_units = own[row].shape[1]
                first = 2 * s + column == 0
                _name_map(axes, panel, names, site, order, num_units=num_units, first=first)
            grid[0, 2 * s + column].set_title(f"{site}\n{what}s")
            unit = "SD of the unit" if what == "read" else "SD of the factor"
            _bar_below(figure, grid[:, 2 * s + column], norm, cmap, unit)
    return figure


def _order(panel: Panel, site: str, written: np.ndarray) -> np.ndarray:
    """Latents by KL, as in the other figures; units of a layer by what they write."""
    if site.startswith("latent/") and written.shape[1] == panel.order.size:
        return panel.order
    return sort_units(written)


def _name_map(
    axes: Axes,
    panel: Panel,
    names: Sequence[str],
    site: str,
    order: np.ndarray,
    *,
    num_units: int,
    first: bool,
) -> None:
    axes.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=7.5)
    if first:
        axes.set_ylabel(f"{panel.label}\nseed {panel.seed}", fontsize=8.5)
    axes.set_xticks([])
    if site.startswith("latent/"):
        turn = 90 if len(order) > 10 else 0
        axes.set_xticks(range(len(order)), [f"z{u}" for u in order], fontsize=6.5, rotation=turn)
    else:
        axes.set_xlabel(unit_count(len(order), num_units), fontsize=7.5, labelpad=2)


def _bar_below(figure: Figure, column: np.ndarray, norm: colors.Normalize, cmap: str, unit: str):
    mappable = cm.ScalarMappable(norm, cmap)
    bar = figure.colorbar(mappable, ax=list(column), location="bottom", aspect=22, pad=0.015)
    bar.set_label(unit, fontsize=8)
    bar.locator = ticker.MaxNLocator(3)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def factor_graph(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """What swapping the latent of one factor does to all, beside the true graph."""
    del pictures
    names = [str(f) for f in effects["factor"].values]
    graphs = [(p, factor_graph_of(summary, p.family)) for p in panels(summary, effects)]
    top = max(np.nanmax(np.abs(g.effect), initial=0.0) for _, g in graphs) or 1.0
    norm = colors.Normalize(-top, top)
    rows, columns = grid_shape(len(graphs) + 1, 4)
    size = max(0.33 * len(names), 1.5)
    figure = Figure((WIDTH, rows * (size + 1.35)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (panel, graph) in zip(grid.flat, graphs, strict=False):
        heat_map(axes, graph.effect, "RdBu_r", norm)
        write_cells(axes, graph.effect, norm, "RdBu_r", digits=2 if len(names) < 6 else 1)
        _frame(axes, (graph.edges > 0.5) & np.isfinite(graph.effect))
        lost = np.flatnonzero(~graph.readable)
        idle = np.flatnonzero(graph.readable & (graph.control <= 0.5))
        hatch(axes, idle, len(names), pattern="///")
        hatch(axes, lost, len(names))
        hatch_columns(axes, lost, len(names))
        axes.set_title(f"{panel.label}\n{graph.controls} factors moved")
    truth, true = grid.flat[len(graphs)], np.asarray(summary["true_graph"], bool)
    heat_map(truth, np.where(np.eye(len(names), dtype=bool), np.nan, 0.0), "RdBu_r", norm)
    _frame(truth, true)
    count = int(true.sum())
    truth.set_title(f"True graph\n{count or 'no'} edge{'s' * (count != 1)}")
    for axes in grid.flat[: len(graphs) + 1]:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("factor read off")
        axes.yaxis.set_tick_params(labelleft=axes.get_subplotspec().is_first_col())
    for row in grid:
        row[0].set_ylabel("factor swapped")
    hide_rest(grid, len(graphs) + 1)
    bar = figure.colorbar(cm.ScalarMappable(norm, "RdBu_r"), ax=grid, shrink=0.8, pad=0.01)
    bar.set_label("change of the read-out (SD)")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def _frame(axes: Axes, edges: np.ndarray) -> None:
    for row, column in np.argwhere(edges):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="black", lw=1.6))


def factor_doses(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """How factors read off the image follow the strongest latents as these are shifted."""
    del pictures
    shown, names = panels(summary, effects), [str(f) for f in effects["factor"].values]
    if not effects["dose"].size:
        return None
    columns = min(NUM_LATENTS, effects.sizes["latent"])
    figure = Figure((WIDTH, 1.95 * len(shown) + 0.9), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False, sharex=True, sharey="row")
    for row, panel in zip(grid, shown, strict=True):
        for axes, latent in zip(row, strongest_latents(panel)[:columns], strict=True):
            _response_panel(axes, panel, int(latent))
        row[0].set_ylabel(f"{panel.label}, seed {panel.seed}\nchange (SD of factor)", fontsize=8.5)
    figure.supxlabel("dose (SD of the latent's aggregate posterior)", fontsize=9.5)
    handles = [Line2D([], [], color=PALETTE[f % len(PALETTE)]) for f in range(len(names))]
    extra = {}
    if leaves_support(shown):
        extra["off the data's support"] = Line2D([], [], color="#777777", ls="--")
    if not all(panel.readable.all() for panel in shown):
        extra["cannot be read"] = Line2D([], [], color="#777777", ls=":")
    legend_above(figure, [*handles, *extra.values()], [*names, *extra])
    return figure


def leaves_support(shown: Sequence[Panel]) -> bool:
    """Whether some dose of a latent that is drawn is off the support of the data."""
    drawn = [
        panel.effects["dose_support"]
        .transpose("latent", "dose")
        .values[strongest_latents(panel)[:NUM_LATENTS]]
        for panel in shown
    ]
    return any((support < MIN_SUPPORT).any() for support in drawn)


def _response_panel(axes: Axes, panel: Panel, latent: int) -> None:
    own = panel.effects.isel(latent=latent)
    doses, at = own["dose"].values, np.searchsorted(own["dose"].values, 0.0)
    inside = np.insert(own["dose_support"].transpose("dose").values >= MIN_SUPPORT, at, True)
    x = np.insert(doses, at, 0.0)
    response = own["factor_response"].transpose("statistic", "factor", "dose").values
    near = np.flatnonzero(inside)
    middle = slice(near.min(), near.max() + 1)
    for low, high in ((x[0], x[middle][0]), (x[middle][-1], x[-1])):
        if high > low:
            axes.axvspan(low, high, color="#F1F1F1", zorder=0, lw=0)
    for f, readable in enumerate(panel.readable):
        color = PALETTE[f % len(PALETTE)]
        curve, low, high = (np.insert(ends[f], at, 0.0) for ends in response)
        if not readable:
            axes.plot(x, curve, ":", color=color, lw=1.0, alpha=0.6)
            continue
        axes.fill_between(x, low, high, color=color, alpha=0.14, lw=0)
        axes.plot(x, curve, "--", color=color, lw=1.0, alpha=0.7)
        axes.plot(x[middle], curve[middle], "-", color=color, lw=1.4, marker=".", ms=4)
    axes.axhline(0.0, color="#BBBBBB", lw=0.7, zorder=1)
    axes.set_title(f"z{latent}, {nats(panel.kl[latent])} nats", fontsize=9)
    axes.yaxis.grid(True)
    axes.set_axisbelow(True)
