"""Drawings of circuits and of faithfulness curves; needs matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from vaecausal_jax.circuits.by_factor import FactorMap
from vaecausal_jax.circuits.effect_graphs import FACTORS, EffectGraph, found_edges
from vaecausal_jax.circuits.evaluation import Curve
from vaecausal_jax.circuits.masks import Masks
from vaecausal_jax.circuits.motifs import Motif
from vaecausal_jax.circuits.structure import GraphStructure
from vaecausal_jax.study.report.drawing import STYLE

POSITIVE, NEGATIVE, IDLE = "#B2182B", "#2166AC", "#D0D0D0"
"""Colours of positive and negative effects, and of what is outside the circuit."""

_MAX_EDGES = 400
"""Edges drawn of one circuit, the largest: more are a carpet."""


def draw_circuit(
    graph: EffectGraph,
    circuit: Masks,
    *,
    title: str,
    q: float = 0.05,
    scores: Mapping[str, Any] | None = None,
    factor: str | None = None,
    min_size: float = 0.0,
) -> Figure:
    """A circuit of nodes, layer by layer, with the effects among them.

    Layers run from left to right, units from top to bottom in the order of their share of the
    effect. Edges are those between units of the circuit whose signed effect is found at the false
    discovery rate q; their width is the RMS effect, their colour its sign. Small grey dots are the
    units outside. At most 400 edges are drawn, the largest; the caption says how many there are.

    Args:
        graph: Effects between the sites.
        circuit: Masks of nodes, by site.
        title: Its first line.
        q: False discovery rate.
        scores: Share of each unit, by site: the size of its dot, and its place.
        factor: Its edges into the circuit are drawn, where the graph has a layer of factors.
        min_size: Least RMS effect to draw, in SD.

    Raises:
        ValueError: Sites that the graph does not have, or a circuit of edges.
    """
    for site in circuit:
        if site not in graph.labels:
            raise ValueError(f"site {site!r} is no layer of the graph: {list(graph.labels)}.")
    shown = {layer: np.asarray(circuit[layer], bool) for layer in graph.labels if layer in circuit}
    if factor is not None and FACTORS in graph.labels:
        shown = {FACTORS: np.array([n == factor for n in graph.labels[FACTORS]]), **shown}
    ends = [t for _, t in graph.size if t not in shown and t != FACTORS]
    for layer in dict.fromkeys(ends):  # read-outs: all of them belong
        if layer not in circuit and layer in graph.labels:
            shown[layer] = np.ones(len(graph.labels[layer]), bool)
    shown = {layer: shown[layer] for layer in graph.labels if layer in shown}
    weights = {
        layer: np.abs(np.asarray(scores[layer], float))
        if scores is not None and layer in scores
        else mask.astype(float)
        for layer, mask in shown.items()
    }
    places = _places(shown, weights)
    segments, sizes, signs = _edges(graph, shown, places, q, min_size)
    order = np.argsort(sizes)[-_MAX_EDGES:]
    largest = sizes.max(initial=0.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, 1.25 * len(shown) + 1.5), 6.4), layout="constrained")
        axes = figure.add_subplot()
        if order.size:
            relative = sizes[order] / largest
            colors = [
                to_rgba(POSITIVE if signs[i] > 0 else NEGATIVE, 0.15 + 0.75 * r)
                for i, r in zip(order, relative, strict=True)
            ]
            axes.add_collection(
                LineCollection([segments[i] for i in order], colors=colors, lw=0.3 + 3 * relative)
            )
        _dots(axes, graph, shown, weights, places)
        _layer_names(axes, shown, places)
        drawn = f"{order.size} of {sizes.size}" if order.size < sizes.size else f"{sizes.size}"
        axes.set_title(f"{title}\n{_count(shown, circuit)}; {drawn} edges at FDR {q:g}")
        handles = [Line2D([], [], color=c, lw=2) for c in (POSITIVE, NEGATIVE)]
        handles.append(Line2D([], [], color=IDLE, marker="o", ms=3, lw=0))
        words = ["raises", "lowers", "outside the circuit"]
        if largest > 0:
            words[0] += f" (widest: {largest:.2g} SD)"
        figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_curves(curves: Mapping[str, Curve], *, title: str = "") -> Figure:
    """Faithfulness against circuit size, one curve each with its interval, on both axes."""
    if not curves:
        raise ValueError("draw_curves needs at least one curve.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 4.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        palette = matplotlib.colormaps["tab10"](np.arange(10))
        for number, (name, curve) in enumerate(curves.items()):
            color = palette[number % len(palette)]
            estimate = curve.faithfulness
            for axes, kept in zip(panels, (curve.shares >= 0, curve.shares > 0), strict=True):
                axes.fill_between(
                    curve.shares[kept],
                    estimate.low[kept],
                    estimate.high[kept],
                    color=color,
                    alpha=0.15,
                    lw=0,
                )
                axes.plot(curve.shares[kept], estimate.value[kept], "o-", ms=3, lw=1.3, color=color)
            smallest = "none" if np.isnan(curve.smallest) else f"{curve.smallest:g}"
            panels[0].plot(
                [],
                [],
                color=color,
                label=f"{name}: CPR {curve.cpr:.2f}, CMD {curve.cmd:.2f}, "
                f"{curve.threshold:g} at {smallest} parts",
            )
        for axes, word in zip(panels, ("", " (logarithmic)"), strict=True):
            for height in (0.0, 1.0):
                axes.axhline(height, color="#AAAAAA", lw=0.8, ls=":", zorder=0)
            axes.set_xlabel(f"share of parts in the circuit{word}")
        panels[1].set_xscale("log")
        panels[0].set_ylabel("faithfulness")
        # An undefined or wild end must not rule the axis.
        values = np.concatenate([c.faithfulness.value for c in curves.values()])
        values = values[np.isfinite(values)]
        low, high = values.min(initial=0.0), values.max(initial=1.0)
        panels[0].set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(title)
    return figure


def draw_overlap(tables: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Heat maps of likeness between the circuits of factors, one a part of the network."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(tables) + 0.8, 3.9), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            _heat_map(axes, table, names)
            axes.set_title(title)
    return figure


def draw_factor_map(found: FactorMap, *, q: float = 0.05) -> Figure:
    """Where each factor's circuit leads; shares beyond chance at the rate q are framed."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.3), layout="constrained")
        axes = figure.add_subplot()
        _heat_map(axes, found.share, found.factors)
        for row, column in zip(*np.nonzero(found.p_value <= q), strict=True):
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec="#222222", lw=1.6)
            )
        axes.set_ylabel("from the circuit of")
        axes.set_xlabel("to the circuit of")
        axes.set_title(f"share of effect between circuits\n(framed: beyond chance, FDR {q:g})")
    return figure


def draw_modules(structure: GraphStructure, factors: Sequence[str]) -> Figure:
    """Where modules lie: the share of each site's units in each, by factor and optimised."""
    sites = list(dict.fromkeys(site for site, _ in structure.nodes))
    of_site = np.array([sites.index(site) for site, _ in structure.nodes])
    by_factor, optimised = structure.by_factor, structure.optimised
    partitions = {"by factor": (by_factor, _factor_members(by_factor.labels, factors))}
    if optimised is not None:
        partitions["optimised"] = optimised, _largest_modules(optimised.labels)
    with matplotlib.rc_context(STYLE):
        tables = []
        for word, (test, rows) in partitions.items():
            share = np.stack([np.bincount(of_site[m], minlength=len(sites)) for m in rows.values()])
            tables.append((word, test, rows, share / np.bincount(of_site, minlength=len(sites))))
        height = 1.6 + 0.3 * max(len(rows) for _, _, rows, _ in tables)
        figure = Figure(figsize=(11.5, height), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (word, test, rows, share) in zip(panels, tables, strict=True):
            _heat_map(axes, share, sites, list(rows))
            axes.set_aspect("auto")
            axes.set_title(
                f"{word}: Q {test.value:.3f}, null {test.null_mean:.3f}, z {test.z:.1f}", fontsize=9
            )
        figure.suptitle("share of each site's units in each module")
    return figure


def _factor_members(labels: np.ndarray, factors: Sequence[str]) -> dict[str, np.ndarray]:
    members = {factor: labels == number for number, factor in enumerate(factors)}
    return {**members, "none": labels < 0}


def _largest_modules(labels: np.ndarray, num: int = 9) -> dict[str, np.ndarray]:
    modules, sizes = np.unique(labels[labels >= 0], return_counts=True)
    order = modules[np.argsort(-sizes, kind="stable")][:num]
    members = {f"module {place + 1}": labels == m for place, m in enumerate(order)}
    rest = np.isin(labels, order, invert=True)
    return {**members, "others": rest} if rest.any() else members


def draw_motifs(motifs: Mapping[str, Motif], *, title: str = "") -> Figure:
    """Z of every motif that the graph has a place for and whose null varies; p beside it."""
    shown = {name: m for name, m in motifs.items() if np.isfinite(m.z)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.1 + 0.4 * max(len(shown), 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(range(len(shown)), [m.z for m in shown.values()], height=0.6, color="#5B7FA6")
        axes.axvline(0.0, color="#222222", lw=0.8)
        names = [
            f"{n.replace('_', ' ')} ({m.count:.3g}, p {m.p_value:.2g})" for n, m in shown.items()
        ]
        axes.set_yticks(range(len(shown)), names)
        axes.invert_yaxis()
        axes.set_xlabel("z against graphs with the same degrees")
        axes.set_title(title)
    return figure


def _places(
    shown: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Where each unit stands: members spread over the height, the others in a column beside them.

    (units, 2) a layer; members in order of weight from the top.
    """
    places = {}
    for column, (layer, mask) in enumerate(shown.items()):
        where = np.zeros((mask.size, 2))
        for members, x in ((mask, column), (~mask, column + 0.22)):
            units = np.flatnonzero(members)
            units = units[np.argsort(-weights[layer][units], kind="stable")]
            num = units.size
            # Few members stand together in the middle.
            reach = min(1.0, 0.09 * (num - 1)) / 2 if members is mask else 0.5
            heights = np.linspace(0.5 + reach, 0.5 - reach, num) if num > 1 else [0.5] * num
            where[units] = np.c_[np.full(num, x), heights]
        places[layer] = where
    return places


def _edges(graph, shown, places, q, min_size):
    """Line segments between members, their RMS effects and their signs."""
    segments, sizes, signs = [np.zeros((0, 2, 2))], [np.zeros(0)], [np.zeros(0)]
    for pair, kept in found_edges(graph, q=q).items():
        source, target = pair
        if source not in shown or target not in shown:
            continue
        size = graph.size[pair].value
        kept = kept & shown[source][:, None] & shown[target][None] & (size > min_size)
        u, v = np.nonzero(kept)
        segments.append(np.stack([places[source][u], places[target][v]], axis=1))
        sizes.append(size[u, v])
        signs.append(np.sign(graph.signed[pair].value[u, v]))
    return np.concatenate(segments), np.concatenate(sizes), np.concatenate(signs)


def _dots(axes: Axes, graph, shown, weights, places) -> None:
    for layer, mask in shown.items():
        where = places[layer]
        axes.scatter(*where[~mask].T, s=2.5, color=IDLE, zorder=2, lw=0)
        largest = weights[layer][mask].max(initial=0.0)
        area = 14 + 50 * weights[layer][mask] / (largest if largest > 0 else 1.0)
        area = area * min(1.0, 30 / max(mask.sum(), 1))
        axes.scatter(*where[mask].T, s=area, color="#333333", zorder=3, lw=0)
        if mask.sum() <= 26:
            for unit in np.flatnonzero(mask):
                axes.annotate(
                    graph.labels[layer][unit],
                    where[unit],
                    xytext=(-6, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=6.5,
                    zorder=4,
                    bbox={"pad": 0.4, "fc": "white", "ec": "none", "alpha": 0.75},
                )


def _layer_names(axes: Axes, shown, places) -> None:
    names = [f"{layer.replace('/', chr(10))}\n{m.sum()} of {m.size}" for layer, m in shown.items()]
    axes.set_xticks(range(len(shown)), names)
    axes.set_xlim(-0.6, len(shown) - 0.5)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _count(shown, circuit) -> str:
    inside = sum(int(np.asarray(mask).sum()) for mask in circuit.values())
    total = sum(np.asarray(mask).size for mask in circuit.values())
    return f"{inside} of {total} units"


def _heat_map(
    axes: Axes, table: np.ndarray, names: Sequence[str], rows: Sequence[str] | None = None
) -> None:
    ramp = matplotlib.colormaps["Greys"].with_extremes(bad="#F0D0D0")
    # Two empty circuits have no likeness: a table may hold nothing finite.
    top = table[np.isfinite(table)].max(initial=1e-9)
    axes.imshow(np.ma.masked_invalid(table), cmap=ramp, vmin=0, vmax=top)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            ink = "white" if value > 0.6 * top else "#222222"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, c=ink)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    rows = names if rows is None else rows
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
