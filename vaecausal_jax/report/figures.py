"""Figures of a study: pure functions of (summary, effects, pictures), each a Matplotlib Figure.

No global plotting state is touched. Latents and units of different seeds do not correspond, so a
figure with one axis entry a latent or unit shows the first usable seed and says so; what is
averaged over seeds is a number a model.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib import cm, colors, ticker
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.lines import Line2D

from vaecausal_jax.inference import Estimate, over_seeds

Summary = Mapping[str, Any]
Pictures = Mapping[str, Any]
FigureFn = Callable[[Summary, xr.Dataset, Pictures], Figure | None]

ACTIVE_KL = 0.01
"""A latent is active where its mean KL exceeds this many nats, as in ``training``."""

MAX_UNITS = 40
"""Units of a layer drawn in the effect maps."""

WIDTH = 11.0
DPI = 130
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
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
NAMES = {
    "beta_tc_vae": "beta-TC-VAE",
    "dip_vae_ii": "DIP-VAE-II",
    "dip_vae_i": "DIP-VAE-I",
    "factor_vae": "FactorVAE",
    "beta_vae": "beta-VAE",
    "vq_vae": "VQ-VAE",
    "vae": "VAE",
}
COMPARED = {
    "reconstruction": ("Reconstruction error", "nats per image"),
    "kl": ("KL to the prior", "nats per image"),
    "active_latents": ("Active latents", f"KL > {ACTIVE_KL} nats, mean varies"),
    "squared_error": ("Squared error", "per pixel"),
    "total_index_prior_sum": ("Prior total index", "sum over latents"),
    "total_index_posterior_sum": ("Posterior total index", "sum over latents"),
    "paper_effect_strength": ("Paper effect strength", "raw L2, mean over latents"),
}
"""One number a model, with heading and unit."""


class Panel(NamedTuple):
    """What a panel of one family shows.

    Attributes:
        family: Title in the summary.
        label: Name for readers.
        seed: The first usable seed.
        model: Its index on the axis of models.
        effects: The family's and seed's part of the effects.
        order: Latents, largest KL first.
        kl: KL of each latent in nats, in the latents' own order.
        color: The family's colour.
    """

    family: str
    label: str
    seed: int
    model: int
    effects: xr.Dataset
    order: np.ndarray
    kl: np.ndarray
    color: str


def family_label(title: str) -> str:
    """``beta_vae_4`` to ``beta-VAE (4)``; unknown names only lose their underscores."""
    for name, label in NAMES.items():
        if title == name:
            return label
        if match := re.fullmatch(rf"{name}_([0-9.e+-]+)", title):
            return f"{label} ({match[1]})"
    return title.replace("_", " ")


def as_estimate(values: Any) -> Estimate:
    """An Estimate from its JSON form, null read as NaN; an Estimate is returned as it is."""
    if isinstance(values, Estimate):
        return values
    ends = {
        end: np.asarray(np.nan if values[end] is None else values[end], float)
        for end in ("value", "low", "high")
    }
    return Estimate(**{**values, **ends})


def families(summary: Summary) -> list[str]:
    """Titles in order, excluded ones included."""
    return list(dict.fromkeys(model["family"] for model in summary["models"]))


def usable_seeds(summary: Summary, family: str) -> list[int]:
    """Seeds of a family that enter means."""
    models = [m for m in summary["models"] if m["family"] == family]
    return [m["seed"] for m in models if m["verdict"] == "ok"]


def panels(summary: Summary, effects: xr.Dataset) -> list[Panel]:
    """The first usable model of every family that has one."""
    keys = [(m["family"], m["seed"]) for m in summary["models"]]
    found = []
    for i, family in enumerate(families(summary)):
        if not (seeds := usable_seeds(summary, family)):
            continue
        own = effects.sel(family=family, seed=seeds[0])
        kl = own["kl_per_latent"].values
        found.append(
            Panel(
                family,
                family_label(family),
                seeds[0],
                keys.index((family, seeds[0])),
                own,
                np.argsort(-kl),
                kl,
                PALETTE[i % len(PALETTE)],
            )
        )
    return found


def layers(effects: xr.Dataset) -> list[str]:
    """Sites in order of computation that have more than one unit (one alone mediates all)."""
    sites, counts = np.unique(effects["site"].values, return_counts=True)
    several = set(sites[counts > 1])
    return [str(site) for site in dict.fromkeys(effects["site"].values) if site in several]


def shares(
    effects: xr.Dataset, site: str, name: str = "proportion_mediated", end: str = "value"
) -> xr.DataArray:
    """Values (or ``low``, ``high``) of a unit-by-factor variable at one site."""
    rows = np.flatnonzero(effects["site"].values == site)
    return effects[name].isel(unit=rows).sel(statistic=end)


def largest_by_factor(effects: xr.Dataset, site: str, family: str, seeds: list[int]) -> Estimate:
    """Largest share of one unit, by factor: mean over seeds with an interval, each (factors,)."""
    values = shares(effects.sel(family=family, seed=seeds), site)
    largest = np.fmax.reduce(values.transpose("seed", "unit", "factor").values, axis=1)
    num_pairs = int(effects["proportion_mediated"].attrs.get("num_inputs", 0))
    return over_seeds(largest, num_inputs=num_pairs, intervention="units patched one by one")


def effective_units(mediated: np.ndarray) -> np.ndarray:
    """Participation ratio of positive shares over units, axis 0: (sum p)^2 / sum p^2."""
    positive = np.fmax(mediated, 0.0)
    square = (positive**2).sum(axis=0)
    return positive.sum(axis=0) ** 2 / np.where(square > 0, square, np.nan)


def traversals(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Images along every latent, with originals and reconstructions above."""
    if "traversals" not in pictures:
        return None
    shown = panels(summary, effects)
    num_latents = len(shown[0].order)
    rows, columns = _grid(len(shown))
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
    _mosaic(axes, np.stack([np.asarray(row) for row in rows]))
    axes.set_title(f"{panel.label}, seed {panel.seed}", fontweight="bold")
    axes.set_yticks(_centres(2, height), ["image", "output"])
    axes.set_xticks([])


def _traversal_grid(axes: Axes, panel: Panel, pictures: Pictures) -> None:
    images = np.asarray(pictures["traversals"][panel.model])[panel.order]
    _, num_values, height, width = images.shape[:4]
    _mosaic(axes, images)
    labels = [f"z{i}  {_nats(panel.kl[i])}" for i in panel.order]
    axes.set_yticks(_centres(len(labels), height), labels)
    _grey_inactive(axes.get_yticklabels(), panel.kl[panel.order])
    values = np.linspace(-2.0, 2.0, num_values)
    ends = (0, num_values // 2, num_values - 1)
    axes.set_xticks(_centres(num_values, width)[list(ends)], [f"{values[i]:g}" for i in ends])
    axes.set_xlabel("value the latent is set to (prior SD)")
    axes.set_ylabel("latent and its KL (nats)")


def _mosaic(axes: Axes, images: np.ndarray) -> None:
    """Draws images (rows, columns, height, width, channels) with white gaps of two pixels."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    rows, columns, height, width, channels = padded.shape
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    joined = np.clip(np.nan_to_num(joined), 0.0, 1.0)
    if channels == 1:
        axes.imshow(joined[..., 0], cmap="gray", vmin=0.0, vmax=1.0)
    else:
        axes.imshow(joined[..., :3])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _centres(num: int, size: int) -> np.ndarray:
    return (np.arange(num) + 0.5) * (size + 2) - 0.5


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
            color = PALETTE[families(summary).index(family) % len(PALETTE)]
            lines = np.asarray(histories[family][term])
            steps = summary["config"]["record_every"] * np.arange(1, lines.shape[1] + 1)
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
    _plain_log(figure.axes[0].yaxis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    _legend(figure, handles, labels)
    return figure


def _plain_log(axis: Any) -> None:
    """Ordinary numbers on a logarithmic axis that may span less than a decade."""
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def input_level(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """How far each factor of the image moves each latent mean."""
    del pictures
    shown = panels(summary, effects)
    moved = [p.effects["factor_to_latent"].sel(statistic="value") for p in shown]
    top = max((np.nanmax(m.values, initial=0.0) for m in moved), default=0.0)
    rows, columns = _grid(len(shown))
    num_factors = effects.sizes["factor"]
    figure = Figure((WIDTH, rows * (0.36 * num_factors + 1.25)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    norm = colors.Normalize(0.0, top or 1.0)
    for axes, panel, values in zip(grid.flat, shown, moved, strict=False):
        table = values.transpose("factor", "latent").values[:, panel.order]
        _heat(axes, table, "Blues", norm)
        if table.shape[1] * columns <= 33:
            _write_cells(axes, table, norm)
        axes.set_title(f"{panel.label}, seed {panel.seed}")
        axes.set_yticks(range(num_factors), [str(f) for f in effects["factor"].values])
        _latent_axis(axes, panel, crowded=table.shape[1] * columns > 33)
    _hide_rest(grid, len(shown))
    figure.supxlabel(f"latent, largest KL first (grey: at most {ACTIVE_KL} nats)", fontsize=9.5)
    bar = figure.colorbar(cm.ScalarMappable(norm, "Blues"), ax=grid, shrink=0.9, pad=0.01)
    bar.set_label("mean |change| (SD of the latent's mean)")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def _latent_axis(axes: Axes, panel: Panel, crowded: bool, with_kl: bool = False) -> None:
    """Names the latents, in order of KL, below a panel; turned where they would collide."""
    gap = "  " if crowded else "\n"
    labels = [f"z{i}{gap}{_nats(panel.kl[i])}" if with_kl else f"z{i}" for i in panel.order]
    turn = 90 if crowded else 0
    axes.set_xticks(range(len(labels)), labels, rotation=turn, fontsize=7.5 if with_kl else 8.5)
    _grey_inactive(axes.get_xticklabels(), panel.kl[panel.order])


def _write_cells(axes: Axes, table: np.ndarray, norm: colors.Normalize) -> None:
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            ink = "white" if norm(value) > 0.6 else "#222222"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5, c=ink)


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
    _legend(figure, handles, labels)
    return figure


_INDICES = ("total_index_prior", "total_index_posterior")


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
            yerr=_bars(*ends),
            fmt=marker,
            ms=4.5,
            color=panel.color,
            mfc=fill,
            lw=1.2,
            label=_index_label(variable, effects),
        )
    _latent_axis(axes, panel, crowded, with_kl=True)
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
    _label_ends(axes, doses[-1], last, gap=0.062 * top)
    axes.set_xlabel("dose (SD of the latent's aggregate posterior)")
    axes.yaxis.grid(True)
    axes.yaxis.set_tick_params(labelleft=True)


def _label_ends(axes: Axes, x: float, curves: list[tuple[float, str, Any]], gap: float) -> None:
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


def unit_effects(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """Proportion mediated of the strongest units of every layer, by factor."""
    del pictures
    shown, sites = panels(summary, effects), layers(effects)
    num_factors = effects.sizes["factor"]
    figure = Figure((WIDTH, len(sites) * (0.135 * num_factors + 0.42) + 0.7), layout="constrained")
    grid = figure.subplots(len(sites), len(shown), squeeze=False)
    names = [str(f) for f in effects["factor"].values]
    for row, site in zip(grid, sites, strict=True):
        tables = [shares(p.effects, site).transpose("factor", "unit").values for p in shown]
        top = max(np.fmax.reduce(np.abs(t), axis=None, initial=0.0) for t in tables)
        norm = colors.Normalize(-(top or 1.0), top or 1.0)
        for axes, table in zip(row, tables, strict=True):
            units = sort_units(table)
            _heat(axes, table[:, units], "RdBu_r", norm)
            axes.set_yticks(range(num_factors), names if axes is row[0] else [""] * num_factors)
            axes.tick_params(axis="y", labelsize=7.5)
            axes.set_xticks([])
            axes.set_xlabel(_unit_count(units.size, table.shape[1]), fontsize=7.5, labelpad=2)
        row[0].set_ylabel(site.replace("/", "\n"), rotation=0, ha="right", va="center", labelpad=12)
        bar = figure.colorbar(cm.ScalarMappable(norm, "RdBu_r"), ax=row[-1], pad=0.02, aspect=9)
        bar.set_ticks([-(top or 1.0), 0.0, top or 1.0], labels=[f"{-top:.2g}", "0", f"{top:.2g}"])
        bar.ax.tick_params(labelsize=7.5)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    gap = ", " if len(shown) <= 3 else "\n"
    for axes, panel in zip(grid[0], shown, strict=True):
        axes.set_title(f"{panel.label}{gap}seed {panel.seed}", fontsize=10)
    return figure


def sort_units(table: np.ndarray) -> np.ndarray:
    """The strongest units of (factors, units), by dominant factor and then by strength."""
    size = np.nan_to_num(np.abs(table))
    strength, dominant = size.max(axis=0), size.argmax(axis=0)
    strongest = np.argsort(-strength, kind="stable")[:MAX_UNITS]
    return strongest[np.lexsort((-strength[strongest], dominant[strongest]))]


def _unit_count(drawn: int, total: int) -> str:
    return f"all {total} units" if drawn == total else f"strongest {drawn} of {total} units"


def mediation_by_layer(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """How concentrated the mediation is in each layer, and how much units interact."""
    del pictures
    shown, sites = panels(summary, effects), layers(effects)
    figure = Figure((WIDTH, _dot_height(len(sites), len(shown))), layout="constrained")
    quantities = {
        "largest_share": "Share mediated by the strongest unit\n(mean over factors)",
        "effective_units": "Effective number of units\n(mean over factors, log scale)",
        "interaction": "Interaction |noising - denoising|\n(summed over units)",
    }
    grid = figure.subplots(1, 3, sharey=True)
    for axes, (name, title) in zip(grid, quantities.items(), strict=True):
        for i, panel in enumerate(shown):
            estimates = [_of_site(summary, panel.family, name, site) for site in sites]
            ends = [np.array([getattr(e, k) for e in estimates]) for k in ("value", "low", "high")]
            dots = _per_seed(
                effects, panel.family, usable_seeds(summary, panel.family), sites, name
            )
            _dots(axes, panel, i, len(shown), dots, ends)
        axes.set_xlabel(title)
        _layer_axis(axes, sites)
        if name == "effective_units":
            axes.set_xscale("log")
            _plain_log(axes.xaxis)
        _limit(axes, positive=name == "effective_units")
    _family_legend(figure, shown)
    return figure


def _of_site(summary: Summary, family: str, name: str, site: str) -> Estimate:
    values = summary["families"][family].get(f"{name}/{site}")
    if values is None:
        return over_seeds(np.array([np.nan]), num_inputs=0, intervention="not measured")
    return as_estimate(values)


def _per_seed(effects: xr.Dataset, family: str, seeds: list[int], sites: list[str], name: str):
    """One number a model and layer, (seeds, layers); the same statistics as the summary's."""
    own = effects.sel(family=family, seed=seeds)
    columns = []
    for site in sites:
        mediated = shares(own, site).transpose("unit", "seed", "factor").values
        if name == "largest_share":
            by_factor = np.fmax.reduce(mediated, axis=0)
        elif name == "effective_units":
            by_factor = effective_units(mediated)
        else:
            gap = shares(own, site, "interaction").transpose("unit", "seed", "factor").values
            by_factor = np.abs(gap).sum(axis=0)
        columns.append(by_factor.mean(axis=-1))
    return np.stack(columns, axis=1)


def mediation_by_factor(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """The strongest unit's share of each factor's effect, layer by layer."""
    del pictures
    shown, sites = panels(summary, effects), layers(effects)
    names = [str(f) for f in effects["factor"].values]
    rows, columns = _grid(len(names))
    size = (WIDTH, rows * _dot_height(len(sites), len(shown)) * 0.92)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False)
    for i, panel in enumerate(shown):
        seeds = usable_seeds(summary, panel.family)
        own = effects.sel(family=panel.family, seed=seeds)
        for f, (axes, _) in enumerate(zip(grid.flat, names, strict=False)):
            dots = [
                np.fmax.reduce(shares(own, s).transpose("seed", "unit", "factor").values[..., f], 1)
                for s in sites
            ]
            estimates = [largest_by_factor(effects, s, panel.family, seeds) for s in sites]
            ends = [
                np.array([getattr(e, k)[f] for e in estimates]) for k in ("value", "low", "high")
            ]
            _dots(axes, panel, i, len(shown), np.stack(dots, axis=1), ends)
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name)
        _layer_axis(axes, sites)
    for axes in grid.flat[: len(names)]:
        _limit(axes)
        axes.xaxis.set_tick_params(labelbottom=True)
    _hide_rest(grid, len(names))
    figure.supxlabel("proportion mediated by the strongest single unit", fontsize=9.5)
    _family_legend(figure, shown)
    return figure


def comparison(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """One number a model, by family: every seed, the mean and its interval."""
    del effects, pictures
    titles = [family for family in families(summary) if usable_seeds(summary, family)]
    rows, columns = _grid(len(COMPARED), 4)
    size = (WIDTH, rows * (0.36 * len(titles) + 1.2))
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, (title, unit)) in zip(grid.flat, COMPARED.items(), strict=False):
        for i, family in enumerate(titles):
            color = PALETTE[families(summary).index(family) % len(PALETTE)]
            own = [m for m in summary["models"] if m["family"] == family and m["verdict"] == "ok"]
            dots = np.array([np.nan if m[name] is None else m[name] for m in own], float)
            mean = as_estimate(summary["families"][family][name])
            axes.plot(dots, np.full(dots.size, i + 0.2), "o", ms=4, mfc="none", mec=color, mew=0.9)
            bars = _bars(*(np.atleast_1d(e) for e in (mean.value, mean.low, mean.high)))
            axes.errorbar(mean.value, i - 0.1, xerr=bars, fmt="D", ms=5, color=color, capsize=3)
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.set_yticks(range(len(titles)), [_counted(summary, family) for family in titles])
        axes.set_ylim(len(titles) - 0.5, -0.5)
        axes.xaxis.grid(True)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
        _limit(axes)
    _hide_rest(grid, len(COMPARED))
    _comparison_key(grid.flat[-1], as_estimate(summary["families"][titles[0]]["kl"]))
    return figure


def _comparison_key(axes: Axes, estimate: Estimate) -> None:
    """Says in the empty last panel what the marks are."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, mfc="none", mec="#444444"),
        Line2D([], [], marker="D", ms=5, color="#444444"),
    ]
    interval = f"mean and {estimate.level:.0%} interval\n({estimate.method})"
    axes.set_visible(True)
    axes.set_axis_off()
    axes.legend(handles, ["one trained model", interval], loc="center left", frameon=False)


def _counted(summary: Summary, family: str) -> str:
    num = len(usable_seeds(summary, family))
    return f"{family_label(family)}, n = {num}"


FIGURES: dict[str, FigureFn] = {
    "traversals": traversals,
    "training": training,
    "comparison": comparison,
    "input_level": input_level,
    "latent_level": latent_level,
    "unit_effects": unit_effects,
    "mediation_by_layer": mediation_by_layer,
    "mediation_by_factor": mediation_by_factor,
}
"""In the order of the report; a function returns None where its data is absent."""


def all_figures(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> dict[str, Figure]:
    """Every figure that the data allows; none if no model is usable."""
    if not panels(summary, effects):
        return {}
    with matplotlib.rc_context(STYLE):
        drawn = {name: make(summary, effects, pictures) for name, make in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _dots(axes: Axes, panel: Panel, rank: int, num: int, dots: np.ndarray, ends: list) -> None:
    """A family's seeds, (seeds, layers), its means and intervals, one row a layer."""
    step = 0.8 / num
    places = np.arange(dots.shape[1]) + (rank - (num - 1) / 2) * step
    marker = MARKERS[rank % len(MARKERS)]
    for line in dots:
        axes.plot(line, places, "|", color=panel.color, ms=5, alpha=0.55, mew=1.0)
    axes.errorbar(ends[0], places, xerr=_bars(*ends), fmt=marker, ms=4.2, color=panel.color, lw=1.2)


def _layer_axis(axes: Axes, sites: list[str]) -> None:
    axes.set_yticks(range(len(sites)), sites)
    axes.set_ylim(len(sites) - 0.5, -0.5)
    for row in range(0, len(sites), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, lw=0)
    axes.xaxis.grid(True)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _limit(axes: Axes, *, positive: bool = False) -> None:
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


def _bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Error bars; a percentile interval need not contain the value, and none is of length 0."""
    return np.nan_to_num(np.stack([np.fmax(value - low, 0.0), np.fmax(high - value, 0.0)]))


def _heat(axes: Axes, table: np.ndarray, cmap: str, norm: colors.Normalize) -> None:
    ramp = matplotlib.colormaps[cmap].with_extremes(bad="#DDDDDD")
    axes.imshow(np.ma.masked_invalid(table), cmap=ramp, norm=norm, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _nats(kl: Any) -> str:
    """Enough digits to tell which side of ``ACTIVE_KL`` a latent is on."""
    return f"{kl:.3f}" if kl < 0.1 else f"{kl:.2f}"


def _grey_inactive(labels: list, kl: np.ndarray) -> None:
    for label, nats in zip(labels, kl, strict=True):
        if not nats > ACTIVE_KL:
            label.set_color("#9A9A9A")


def _family_legend(figure: Figure, shown: list[Panel]) -> None:
    handles = [
        Line2D([], [], color=p.color, marker=MARKERS[i % len(MARKERS)], lw=1.2)
        for i, p in enumerate(shown)
    ]
    _legend(figure, handles, [p.label for p in shown])


def _legend(figure: Figure, handles: list, labels: list) -> None:
    columns = 2 if max(map(len, labels)) > 30 else 4
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def _grid(num: int, most: int = 3) -> tuple[int, int]:
    columns = min(most, num)
    return -(-num // columns), columns


def _hide_rest(grid: np.ndarray, num: int) -> None:
    for axes in grid.flat[num:]:
        axes.set_visible(False)


def _dot_height(num_layers: int, num_families: int) -> float:
    return 1.3 + num_layers * max(0.34, 0.105 * num_families + 0.07)
