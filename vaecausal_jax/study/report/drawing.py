"""What figures are drawn with: style, sizes, axes, marks and legends."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from vaecausal_jax.inference import Estimate
from vaecausal_jax.study.report.labels import nats
from vaecausal_jax.study.report.panels import Panel
from vaecausal_jax.training.trainer import ACTIVE_KL

WIDTH = 11.0
DPI = 130
MARKERS = "osD^vPX*"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": False,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "image.interpolation": "nearest",
}


def grid_shape(num: int, most: int = 3) -> tuple[int, int]:
    """Rows and columns that hold ``num`` panels."""
    columns = min(most, num)
    return -(-num // columns), columns


def dot_height(num_layers: int, num_families: int) -> float:
    """Height in inches of a panel of dots, one row per layer."""
    return 1.3 + num_layers * max(0.34, 0.105 * num_families + 0.07)


def hide_rest(grid: np.ndarray, num: int) -> None:
    """Hides the panels of a grid after the first ``num``."""
    for axes in grid.flat[num:]:
        axes.set_visible(False)


def legend_above(figure: Figure, handles: list, labels: list) -> None:
    """One legend for the whole figure, above it."""
    columns = 2 if max(map(len, labels)) > 30 else 4
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def family_legend(figure: Figure, shown: list[Panel]) -> None:
    """The legend of families, by colour and marker."""
    handles = [
        Line2D([], [], color=p.color, marker=MARKERS[i % len(MARKERS)], lw=1.2)
        for i, p in enumerate(shown)
    ]
    legend_above(figure, handles, [p.label for p in shown])


def mosaic(axes: Axes, images: np.ndarray) -> None:
    """Draws images (rows, columns, height, width, channels) with white gaps of two pixels."""
    gaps = np.array([(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    padded = np.pad(images, gaps, constant_values=1.0)
    rows, columns, height, width, channels = padded.shape
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    joined = np.clip(np.nan_to_num(joined), 0.0, 1.0)
    if channels == 1:
        axes.imshow(joined[..., 0], cmap="gray", vmin=0.0, vmax=1.0)
    else:
        axes.imshow(joined[..., :3])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def tile_centres(num: int, size: int) -> np.ndarray:
    """Tick positions of ``num`` images of ``size`` pixels in a mosaic."""
    return (np.arange(num) + 0.5) * (size + 2) - 0.5


def heat_map(
    axes: Axes, table: np.ndarray, cmap: str, norm: colors.Normalize, *, bad: str = "#DDDDDD"
) -> None:
    """Draws a table as coloured cells, undefined ones grey."""
    ramp = matplotlib.colormaps[cmap].with_extremes(bad=bad)
    axes.imshow(np.ma.masked_invalid(table), cmap=ramp, norm=norm, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def hatch(axes: Axes, rows: np.ndarray, width: int, *, pattern: str = "xxx") -> None:
    """Hatches rows of a heat map: their numbers show nothing."""
    for row in rows:
        corner = (-0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, width, 1, fill=False, hatch=pattern, lw=0, ec="#777777"))


def hatch_columns(axes: Axes, columns: np.ndarray, height: int) -> None:
    """Hatches columns of a heat map."""
    for column in columns:
        corner = (column - 0.5, -0.5)
        axes.add_patch(Rectangle(corner, 1, height, fill=False, hatch="xxx", lw=0, ec="#777777"))


def write_cells(
    axes: Axes, table: np.ndarray, norm: colors.Normalize, cmap: str, *, digits: int = 1
) -> None:
    """Writes each cell's number on a heat map, white where the cell is dark."""
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            light = np.dot(matplotlib.colormaps[cmap](norm(value))[:3], (0.3, 0.59, 0.11))
            ink = "white" if light < 0.55 else "#222222"
            words = f"{round(float(value), digits) + 0.0:.{digits}f}"
            axes.text(column, row, words, ha="center", va="center", fontsize=7.5, c=ink)


def latent_axis(axes: Axes, panel: Panel, crowded: bool, with_kl: bool = False) -> None:
    """Names the latents, in order of KL, below a panel; turned where they would collide."""
    gap = "  " if crowded else "\n"
    labels = [f"z{i}{gap}{nats(panel.kl[i])}" if with_kl else f"z{i}" for i in panel.order]
    turn = 90 if crowded else 0
    axes.set_xticks(range(len(labels)), labels, rotation=turn, fontsize=7.5 if with_kl else 8.5)
    grey_inactive(axes.get_xticklabels(), panel.kl[panel.order])


def grey_inactive(labels: list, kl: np.ndarray) -> None:
    """Greys the labels of latents of at most ``ACTIVE_KL`` nats."""
    for label, size in zip(labels, kl, strict=True):
        if not size > ACTIVE_KL:
            label.set_color("#9A9A9A")


def layer_axis(axes: Axes, sites: list[str]) -> None:
    """Names the layers from the top down, every second row shaded."""
    axes.set_yticks(range(len(sites)), sites)
    axes.set_ylim(len(sites) - 0.5, -0.5)
    for row in range(0, len(sites), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, lw=0)
    axes.xaxis.grid(True)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def dots_and_means(
    axes: Axes, panel: Panel, rank: int, num: int, dots: np.ndarray, ends: list
) -> None:
    """A family's seeds, (seeds, layers), its means and intervals, one row per layer."""
    step = 0.8 / num
    places = np.arange(dots.shape[1]) + (rank - (num - 1) / 2) * step
    marker = MARKERS[rank % len(MARKERS)]
    for line in dots:
        axes.plot(line, places, "|", color=panel.color, ms=5, alpha=0.55, mew=1.0)
    axes.errorbar(
        ends[0], places, xerr=error_bars(*ends), fmt=marker, ms=4.2, color=panel.color, lw=1.2
    )


def seeds_and_mean(axes: Axes, row: int, color: str, dots: np.ndarray, mean: Estimate) -> None:
    """A family's models as hollow circles, and their mean with its interval, in one row."""
    axes.plot(dots, np.full(dots.size, row + 0.2), "o", ms=4, mfc="none", mec=color, mew=0.9)
    bars = error_bars(*map(np.atleast_1d, mean.ends))
    axes.errorbar(mean.value, row - 0.1, xerr=bars, fmt="D", ms=5, color=color, lw=1.4)


def family_rows(axes: Axes, labels: list[str], *, num_ticks: int = 4) -> None:
    """Names the rows of a panel that has one per family, from the top down."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.grid(True)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(num_ticks))


def error_bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Error bars; a percentile interval need not contain the value, and none is of length 0."""
    return np.nan_to_num(np.stack([np.fmax(value - low, 0.0), np.fmax(high - value, 0.0)]))


def limit_to_points(axes: Axes, *, positive: bool = False) -> None:
    """Axis limits from the points; a very wide interval is cut at the edge instead of ruling."""
    points = np.concatenate([np.asarray(line.get_xdata(), float) for line in axes.lines])
    bars = [c for c in axes.collections if isinstance(c, LineCollection)]
    ends = [segment for bar in bars for segment in bar.get_segments()]
    points = points[np.isfinite(points)]
    if points.size == 0:
        return
    # A bar at a NaN has no vertices.
    reach = np.array([x for end in ends for x, *_ in np.reshape(end, (-1, 2))])
    reach = reach[np.isfinite(reach)]
    span = np.ptp(points) or max(abs(points[0]) * 0.2, 1e-6)
    low = max(min(reach.min(initial=np.inf), points.min()), points.min() - span) - 0.07 * span
    high = min(max(reach.max(initial=-np.inf), points.max()), points.max() + span) + 0.07 * span
    if positive:
        low = max(low, 0.8 * points.min())
    axes.set_xlim(low, high)


def plain_log(axis: Any) -> None:
    """Ordinary numbers on a logarithmic axis that may span less than a decade."""
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def label_ends(axes: Axes, x: float, curves: list[tuple[float, str, Any]], gap: float) -> None:
    """Names the ten highest curves at their right end, pushed apart where they would overlap."""
    finite = sorted((c for c in curves if np.isfinite(c[0])), key=lambda curve: curve[0])[-10:]
    height = -np.inf
    for value, text, color in finite:
        height = max(value, height + gap)
        axes.annotate(
            text,
            (x, value),
            xytext=(x * 1.06, height),
            fontsize=7.5,
            color=color,
            va="center",
            annotation_clip=False,
        )
    axes.set_xlim(axes.get_xlim()[0], x * 1.28)
