"""Figures of hidden units: what each mediates, and how mediation is spread over layers."""

import numpy as np
import xarray as xr
from matplotlib import cm, colors
from matplotlib.figure import Figure

from vaecausal_jax.effects.unit_effects import effective_units
from vaecausal_jax.inference import Estimate, over_seeds
from vaecausal_jax.study.report.drawing import (
    WIDTH,
    dot_height,
    dots_and_means,
    family_legend,
    grid_shape,
    heat_map,
    hide_rest,
    layer_axis,
    limit_to_points,
    plain_log,
)
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    as_estimate,
    largest_by_factor,
    layers,
    panels,
    shares,
    sort_units,
    usable_seeds,
)


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
            heat_map(axes, table[:, units], "RdBu_r", norm)
            axes.set_yticks(range(num_factors), names if axes is row[0] else [""] * num_factors)
            axes.tick_params(axis="y", labelsize=7.5)
            axes.set_xticks([])
            axes.set_xlabel(unit_count(units.size, table.shape[1]), fontsize=7.5, labelpad=2)
        row[0].set_ylabel(site.replace("/", "\n"), rotation=0, ha="right", va="center", labelpad=12)
        bar = figure.colorbar(cm.ScalarMappable(norm, "RdBu_r"), ax=row[-1], pad=0.02, aspect=9)
        bar.set_ticks([-(top or 1.0), 0.0, top or 1.0], labels=[f"{-top:.2g}", "0", f"{top:.2g}"])
        bar.ax.tick_params(labelsize=7.5)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    gap = ", " if len(shown) <= 3 else "\n"
    for axes, panel in zip(grid[0], shown, strict=True):
        axes.set_title(f"{panel.label}{gap}seed {panel.seed}", fontsize=10)
    return figure


def unit_count(drawn: int, total: int) -> str:
    """How many of a layer's units are drawn."""
    return f"all {total} units" if drawn == total else f"strongest {drawn} of {total} units"


def mediation_by_layer(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> Figure | None:
    """How concentrated the mediation is in each layer, and how much units interact."""
    del pictures
    shown, sites = panels(summary, effects), layers(effects)
    figure = Figure((WIDTH, dot_height(len(sites), len(shown))), layout="constrained")
    quantities = {
        "largest_share": "Share mediated by the strongest unit\n(mean over factors)",
        "effective_units": "Effective number of units\n(mean over factors, log scale)",
        "interaction": "Interaction |noising - denoising|\n(summed over units)",
    }
    grid = figure.subplots(1, 3, sharey=True)
    for axes, (name, title) in zip(grid, quantities.items(), strict=True):
        for i, panel in enumerate(shown):
            estimates = [_of_site(summary, panel.family, name, site) for site in sites]
            ends = list(Estimate.stack(estimates).ends)
            dots = _per_seed(
                effects, panel.family, usable_seeds(summary, panel.family), sites, name
            )
            dots_and_means(axes, panel, i, len(shown), dots, ends)
        axes.set_xlabel(title)
        layer_axis(axes, sites)
        if name == "effective_units":
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        limit_to_points(axes, positive=name == "effective_units")
    family_legend(figure, shown)
    return figure


def _of_site(summary: Summary, family: str, name: str, site: str) -> Estimate:
    values = summary["families"][family].get(f"{name}/{site}")
    if values is None:
        return over_seeds(np.array([np.nan]), num_inputs=0, intervention="not measured")
    return as_estimate(values)


def _per_seed(effects: xr.Dataset, family: str, seeds: list[int], sites: list[str], name: str):
    """One number per model and layer, (seeds, layers); the same statistics as the summary's."""
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
    rows, columns = grid_shape(len(names))
    size = (WIDTH, rows * dot_height(len(sites), len(shown)) * 0.92)
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
            ends = list(Estimate.stack([estimate[f] for estimate in estimates]).ends)
            dots_and_means(axes, panel, i, len(shown), np.stack(dots, axis=1), ends)
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name)
        layer_axis(axes, sites)
    for axes in grid.flat[: len(names)]:
        limit_to_points(axes)
        axes.xaxis.set_tick_params(labelbottom=True)
    hide_rest(grid, len(names))
    figure.supxlabel("proportion mediated by the strongest single unit", fontsize=9.5)
    family_legend(figure, shown)
    return figure
