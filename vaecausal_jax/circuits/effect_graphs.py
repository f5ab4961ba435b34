"""The effect graph: how much each unit moves each unit that reads it, everything else frozen.

Nodes are the units of every layer, latents, read-outs and ground-truth factors. The edge u -> v is
the change of v, in standard deviations of v, when u takes its value in a donor run and all else
that v reads stays as it is: path patching, one sweep per pair of layers. After a linear layer it is
the weight times the size of u's change over the SD of v, exactly. A convolution's unit is a whole
channel, and its change the RMS over positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.layers import join_blocks
from vaecausal_jax.circuits.scorers import patched_values, read_node
from vaecausal_jax.circuits.tasks import Task, task_values
from vaecausal_jax.data.pairs import Pairs, check_pairs
from vaecausal_jax.effects.paths import INPUT, OUTCOME, Pair, natural_values
from vaecausal_jax.inference import (
    Bootstrap,
    Estimate,
    bootstrap_mean,
    false_discovery,
    minimum_effect_test,
)
from vaecausal_jax.processes import to_host
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced

FACTORS = "factors"
"""The layer of ground-truth factors, read by whatever reads the input."""

_ROWS = 4096
"""Edges bootstrapped together: memory is rows x replicates."""


class EdgeSamples(NamedTuple):
    """Effects of the edges between two layers, each (source units, target units, images).

    Attributes:
        squared: Mean over positions of the squared change of v, in variances of v.
        signed: Change of v times change of u, over the SD of v and the RMS change of u: its mean is
            the signed effect. Its absolute value is at most the RMS, and equal where v follows u
            linearly; for channels, of means over positions.
    """

    squared: np.ndarray
    signed: np.ndarray


class EffectGraph(NamedTuple):
    """Effects between units, with intervals and tests.

    Attributes:
        labels: Layer to names of its nodes, layers in the forward's order.
        size: (source, target) to RMS effects (source units, target units), in SD of v.
        signed: (source, target) to signed effects, of the same shape.
        p_value: Of no signed effect (beyond ``min_effect``), adjusted for false discoveries over
            the whole graph (Benjamini and Hochberg). NaN where v never varies.
        spread: Layer to SD of each node over runs, positions pooled; none for factors.
        step: Layer to RMS change of each node between run and donor, mean over positions; none for
            factors and the outcome.
        min_effect: The least signed effect that the tests ask for.
    """

    labels: dict[str, tuple[str, ...]]
    size: dict[Pair, Estimate]
    signed: dict[Pair, Estimate]
    p_value: dict[Pair, np.ndarray]
    spread: dict[str, np.ndarray]
    step: dict[str, np.ndarray]
    min_effect: float


def effect_graph(
    key: Array,
    task: Task,
    *,
    readouts: Sequence[str] = (),
    factors: Mapping[str, Pairs] | None = None,
    min_effect: float = 0.0,
    bootstrap: Bootstrap = Bootstrap(num_replicates=500),
    sweep: SweepFn = sweep,
) -> EffectGraph:
    """Every edge of a network as an effect.

    Args:
        key: Typed PRNG key, for the bootstrap.
        task: Runs are its targets, donors its references, drawn independently:
            ``make_task(net, Pairs(donor, x, eps), nodes=..., outcome=...)``.
        readouts: Names of the read-outs.
        factors: Name to pairs that differ in this factor alone, with their ``change``; their layer
            replaces the input's.
        min_effect: Least signed effect, in SD, that counts. With many images every weight differs
            from zero, and rounding, which patched and natural runs need not share, may: 0 asks for
            any effect at all.
        bootstrap: How intervals are made; the tests know no clusters.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: Inputs that differ in number, fewer than two, unknown sites, or names that do
            not fit.
    """
    bootstrap.without("effect_graph", "clusters")
    num = check_pairs(task.pairs)
    if num < 2:
        raise ValueError(f"an effect graph needs at least two images, got {num}.")
    labels = _labels(task, readouts, factors)
    samples, spread, step = effect_samples(task, sweep=sweep)
    if factors is not None:
        samples = {pair: s for pair, s in samples.items() if pair[0] != INPUT}
        samples = _factor_effects(task, factors, spread) | samples
        spread = {n: s for n, s in spread.items() if n != INPUT}
        step = {n: s for n, s in step.items() if n != INPUT}
    size, signed = {}, {}
    for pair, found in samples.items():
        what = f"{pair[0]} resampled as read by {pair[1]}"
        squared = _estimates(key, found.squared, what, bootstrap)
        size[pair] = squared.map(lambda square: np.sqrt(np.maximum(square, 0)))
        signed[pair] = _estimates(key, found.signed, what, bootstrap)
    p_value = edge_p_values(samples, min_effect=min_effect)
    return EffectGraph(labels, size, signed, p_value, spread, step, min_effect)


def edge_p_values(
    samples: Mapping[Pair, EdgeSamples], *, min_effect: float = 0.0
) -> dict[Pair, np.ndarray]:
    """p-values of no signed effect, adjusted over the whole graph: see ``EffectGraph``."""
    found = {pair: minimum_effect_test(s.signed, min_effect) for pair, s in samples.items()}
    adjusted = false_discovery(np.concatenate([p.ravel() for p in found.values()]))
    ends = np.cumsum([p.size for p in found.values()])[:-1]
    parts = zip(found.items(), np.split(adjusted, ends), strict=True)
    return {pair: part.reshape(p.shape) for (pair, p), part in parts}


def effect_samples(
    task: Task, *, sweep: SweepFn = sweep
) -> tuple[dict[Pair, EdgeSamples], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Effects of all edges image by image: runs on the task's ``x1``, donors ``x0``.

    Args:
        task: The task; its metric is not used.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        (source, target) to samples; the SD of each node over runs and donors; the RMS change of
        each node's mean over positions.
    """
    natural, donor = task_values(task, task.pairs.x1), task_values(task, task.pairs.x0)
    samples = {}
    for pair in task.wires.pairs:
        found = pair_effects(task, pair, natural, donor, sweep=sweep)
        samples[pair] = EdgeSamples(*(a.swapaxes(1, 2) for a in to_host(found)))
    spread, step = {}, {}
    for name in task.wires.nodes:
        spread[name], _, step[name] = to_host(_scales(task, name, natural, donor))
    return samples, spread, step


def pair_effects(
    task: Task,
    pair: Pair,
    natural: Mapping[str, Array],
    donor: Mapping[str, Array],
    *,
    sweep: SweepFn = sweep,
) -> tuple[Array, Array]:
    """Effects of the edges between two layers as one sweep over units of the source; traceable.

    Args:
        task: The task; only its forward, wiring and noise are used.
        pair: Source and target.
        natural: Values of all nodes in the runs (``task_values``).
        donor: The same in the donors.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        What ``EdgeSamples`` holds, (source units, images, target units) each.
    """
    sweep = unreduced(sweep)
    source, target = pair
    start, end = task.wires.nodes[source], task.wires.nodes[target]
    spread, _, _ = _scales(task, target, natural, donor)
    _, moved, step = _scales(task, source, natural, donor)

    def effect(unit, row):
        values, given, eps, sd, own, scale = row
        patched = read_node(task, target, patched_values(values, given, source, start, unit), eps)
        change = end.by_unit((patched - values[target]).astype(sd.dtype))
        along = change.mean(1) * own[unit]
        return _in_sd((change**2).mean(1), sd**2), _in_sd(along, sd * scale[unit])

    names = {*task.wires.parents[target], target, INPUT}
    num = len(task.pairs.eps)
    rows = (
        {n: natural[n] for n in names},
        donor[source],
        task.pairs.eps,
        _repeated(spread, num),
        moved,
        _repeated(step, num),
    )
    return sweep(effect, jnp.arange(start.num_units), rows)


def edge_values(
    graph: EffectGraph, *, signed: bool = False, q: float | None = None
) -> dict[Pair, np.ndarray]:
    """Effects as plain arrays, 0 where an effect is not found at the false discovery rate q.

    Args:
        graph: The graph.
        signed: Signed effects instead of sizes.
        q: False discovery rate; every effect is kept if None.
    """
    chosen = graph.signed if signed else graph.size
    if q is None:
        return {pair: estimate.value for pair, estimate in chosen.items()}
    found = found_edges(graph, q=q)
    return {pair: np.where(found[pair], e.value, 0.0) for pair, e in chosen.items()}


def found_edges(graph: EffectGraph, *, q: float = 0.05) -> dict[Pair, np.ndarray]:
    """Which edges survive at the false discovery rate q: a circuit of edges."""
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie between 0 and 1, got {q}.")
    return {pair: p <= q for pair, p in graph.p_value.items()}


def dense_adjacency(
    graph: EffectGraph, *, signed: bool = False, q: float | None = None
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """All effects as one matrix (nodes, nodes), sources by targets, and (layer, name) of each."""
    place = {layer: i for i, layer in enumerate(graph.labels)}
    values = edge_values(graph, signed=signed, q=q)
    blocks = {(place[source], place[target]): block for (source, target), block in values.items()}
    labels = [(layer, name) for layer, names in graph.labels.items() for name in names]
    return join_blocks(blocks, [len(names) for names in graph.labels.values()]), labels


def layer_adjacencies(
    graph: EffectGraph, *, signed: bool = False, q: float | None = None
) -> tuple[list[np.ndarray], list[list[tuple[str, str]]]]:
    """Effects as one matrix per pair of adjacent layers, and (layer, name) of each layer's nodes.

    Sites at the same depth, such as the means and log-variances of latents, share a layer.

    Raises:
        ValueError: A skip connection, which no list of adjacent layers can hold.
    """
    matrix, labels = dense_adjacency(graph, signed=signed, q=q)
    depth: dict[str, int] = {}
    for layer in graph.labels:
        before = [depth[source] for source, target in graph.size if target == layer]
        depth[layer] = max(before, default=-1) + 1
    for source, target in graph.size:
        if depth[target] != depth[source] + 1:
            raise ValueError(
                f"the edges from {source!r} to {target!r} skip a layer; use dense_adjacency."
            )
    levels = [
        [i for i, (layer, _) in enumerate(labels) if depth[layer] == level]
        for level in range(max(depth.values()) + 1)
    ]
    matrices = [
        matrix[np.ix_(before, after)] for before, after in zip(levels[:-1], levels[1:], strict=True)
    ]
    return matrices, [[labels[i] for i in level] for level in levels]


def _units(node: Any, values: Array) -> Array:
    """(images, units, positions), floating."""
    values = jax.vmap(node.by_unit)(values)
    return values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(float)


def _spread(*runs: Array) -> Array:
    """SD over images of each unit, variances averaged over positions; exactly 0 if constant.

    Runs of one image lie side by side, so that images which are spread over devices stay there.
    """
    units = jnp.stack(runs, axis=1)
    centred = units - units[:1, :1]
    return jnp.sqrt(jnp.var(centred, axis=(0, 1), ddof=1).mean(-1))


def _in_sd(change: Array, scale: Array) -> Array:
    """The quotient; without any scale 0 if nothing changed, else NaN."""
    safe = jnp.where(scale > 0, scale, 1.0)
    return jnp.where(scale > 0, change / safe, jnp.where(change == 0, 0.0, jnp.nan))


def _scales(
    task: Task, name: str, natural: Mapping[str, Array], donor: Mapping[str, Array]
) -> tuple[Array, Array, Array]:
    """SD of a node's units, their change (images, units) from run to donor, and its RMS."""
    run, other = (_units(task.wires.nodes[name], values[name]) for values in (natural, donor))
    moved = (other - run).mean(-1)
    return _spread(run, other), moved, jnp.sqrt((moved**2).mean(0))


def _repeated(per_unit: Array, num: int) -> Array:
    return jnp.broadcast_to(per_unit[None], (num, *per_unit.shape))


def _factor_effects(
    task: Task, factors: Mapping[str, Pairs], spread: Mapping[str, Any]
) -> dict[Pair, EdgeSamples]:
    """Effects of each factor on whatever reads the input, image by image."""
    for name, pairs in factors.items():
        check_pairs(pairs)
        if pairs.change is None:
            raise ValueError(
                f"the pairs of factor {name!r} have no change, whose sign turns effects: give "
                "Pairs(x0, x1, eps, change=...)."
            )
    numbers = {len(pairs.x0) for pairs in factors.values()}
    if len(numbers) != 1:
        raise ValueError(f"all factors need one number of pairs, got {sorted(numbers)}.")
    targets = [target for source, target in task.wires.pairs if source == INPUT]

    def change(x0, x1, eps, step):
        before = natural_values(task.net, task.wires, x0, eps, outcome=task.outcome)
        run = {**before, INPUT: x1}
        results = {}
        for target in targets:
            node = task.wires.nodes[target]
            sd = jnp.asarray(spread[target])
            moved = node.by_unit(read_node(task, target, run, eps) - before[target])
            squared = _in_sd((moved.astype(sd.dtype) ** 2).mean(1), sd**2)
            results[target] = squared, _in_sd(moved.mean(1) * jnp.sign(step), sd)
        return results

    run = jax.jit(jax.vmap(change))
    found = [run(*pairs.runs, pairs.change) for pairs in factors.values()]
    return {
        (FACTORS, target): EdgeSamples(
            *(np.stack([np.asarray(f[target][part]).T for f in found]) for part in (0, 1))
        )
        for target in targets
    }


def _labels(
    task: Task, readouts: Sequence[str], factors: Mapping[str, Pairs] | None
) -> dict[str, tuple[str, ...]]:
    nodes = task.wires.nodes
    labels = {n: tuple(str(i) for i in range(node.num_units)) for n, node in nodes.items()}
    if readouts:
        if len(readouts) != nodes[OUTCOME].num_units:
            raise ValueError(
                f"readouts names {len(readouts)} read-outs, the outcome has "
                f"{nodes[OUTCOME].num_units}."
            )
        labels[OUTCOME] = tuple(readouts)
    if factors is None:
        return labels
    if not factors:
        raise ValueError("factors holds no factor; give None to leave them out.")
    return {FACTORS: tuple(factors), **{n: v for n, v in labels.items() if n != INPUT}}


def _estimates(key: Array, samples: np.ndarray, what: str, bootstrap: Bootstrap) -> Estimate:
    """Means over images with intervals, a few thousand edges at a time."""
    rows = samples.reshape(-1, samples.shape[-1])
    size = min(_ROWS, len(rows))
    padded = np.concatenate([rows, np.zeros((-len(rows) % size, rows.shape[1]), rows.dtype)])
    parts = [
        bootstrap_mean(
            key,
            padded[first : first + size],
            intervention=what,
            bootstrap=bootstrap,
        )
        for first in range(0, len(padded), size)
    ]
    joined = Estimate.concatenate(parts)[: len(rows)]
    return joined.rearrange(lambda array: array.reshape(samples.shape[:-1]))
