"""Circuits of every factor, and what the graph of effects between units looks like, in all models.

``measure`` has patched every unit between minimal pairs, both ways: they find a factor's circuit,
and the pairs that were drawn for swaps judge it. What runs here are the circuits and the effects of
units on the units that read them, each one program for all models of an architecture. Untrained
networks go the same way: what they show too, training has not made.
"""

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.by_factor import SelectedCircuit, circuit_overlap, select_circuit
from vaecausal_jax.circuits.effect_graphs import (
    EdgeSamples,
    EffectGraph,
    edge_p_values,
    found_edges,
    pair_effects,
)
from vaecausal_jax.circuits.evaluation import SHARES, FaithfulnessSamples, curve_areas
from vaecausal_jax.circuits.masks import flat_scores, random_circuits, stack_circuits
from vaecausal_jax.circuits.scorers import Arms
from vaecausal_jax.circuits.selectors import select_top
from vaecausal_jax.circuits.structure import graph_structure
from vaecausal_jax.circuits.tasks import (
    ablation_references,
    circuit_metrics,
    make_task,
    task_values,
)
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects.paths import INPUT, Pair
from vaecausal_jax.inference import Estimate
from vaecausal_jax.interventions.sites import Trace, outputs
from vaecausal_jax.models import Model
from vaecausal_jax.processes import to_host
from vaecausal_jax.study.compilation import compile_for_few_runs
from vaecausal_jax.study.config import StudyConfig
from vaecausal_jax.study.estimates import Arrays, unit_sites
from vaecausal_jax.study.inputs import Inputs, image_outcome

ABLATIONS = ("corrupt", "resample", "mean", "zero")
"""What everything outside a circuit is held at."""

MOTIFS = ("bi_fan", "diamond", "coherent_diamond")
"""Motifs that degrees do not fix, and that a network without skips has a place for."""

LEAST_PAIRS = (16, 8)
"""Minimal pairs, and swap pairs, of a factor from which on its circuits are sought and judged."""

_NUM_NULL = 20
"""Null graphs, and random circuits of a circuit's size, of each model: means over seeds count."""

_MIN_EDGE = 0.01
"""Least signed effect of an edge, in SD of the unit that reads."""


def has_circuits(config: StudyConfig) -> bool:
    """Whether a study has pairs enough for circuits."""
    return config.num_pairs >= LEAST_PAIRS[0] and config.num_swap_pairs >= LEAST_PAIRS[1]


def untrained(config: StudyConfig, model: Model) -> Any:
    """Parameters of the untrained networks, (controls, ...)."""
    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), 13), config.num_untrained
    )
    return jax.vmap(model.init)(keys)


def circuit_arrays(
    config: StudyConfig,
    model: Model,
    params: Any,
    inputs: Inputs,
    arrays: dict[str, Arrays],
    begin: Callable[[int], None],
) -> Arrays:
    """Circuits and effect graphs of several models.

    Args:
        config: The study's.
        model: Their architecture.
        params: Their parameters, leading axis of models.
        inputs: What they are probed with.
        arrays: ``site/<site>`` to its measurements, leading axis of the same models.
        begin: Called with each model's number as it begins.

    Returns:
        ``mask``: the circuits, (models, factors, units) of all sites in order. ``undecided``: how
        many parts are, (models, factors). ``metric``: of the circuit and of the best units, as many
        as ``sizes`` (models, sizes) says, on the pairs that judge: (models, factors, ablations, 1 +
        sizes, pairs).
        ``overlap_encoder``, ``overlap_decoder``: mean likeness (Jaccard) of the circuits of two
        factors, minus that of random circuits of their sizes, (models,). ``modularity``: of the
        partition by factor, minus its null. ``edges``: share of edges found. ``motif_<name>``: log2
        of its count over its null's mean. NaN where there is no circuit, edge or motif.
    """
    nodes = tuple(unit_sites(arrays))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 14))
    names = list(range(inputs.pairs.change.shape[0]))
    outcome = image_outcome if config.mediation_outcome == "image" else outputs
    pairs = jax.tree.map(lambda a: a[:, : config.num_pairs], inputs.swaps)
    images = inputs.x[: config.num_unit_images], inputs.eps[: config.num_unit_images]
    one = jax.tree.map(lambda leaf: leaf[0], (params, pairs))
    masks = {n: jnp.zeros((2 + len(SHARES), model.sites[n].num_units), bool) for n in nodes}
    begin(0)
    lowered = (
        jax.jit(_graph(model, nodes)).lower(one[0], *images),
        jax.jit(_judge(model, nodes, outcome)).lower(one[0], masks, one[1], keys[0]),
    )
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        graph_of, judge = pool.map(compile_for_few_runs, lowered)
    rows: list[dict[str, Any]] = []
    for number in range(len(arrays[f"site/{nodes[0]}"]["total"])):
        begin(number)
        own = jax.tree.map(lambda leaf, i=number: leaf[i], params)
        edges = graph_of(own, *images)
        found = {k: _found(arrays, nodes, number, k, config.num_pairs) for k in names}
        metric = []
        for k, one in found.items():
            stack = stack_circuits([one.circuit, *(select_top(one.scores, n) for n in _sizes(one))])
            metric.append(judge(own, stack, jax.tree.map(lambda a, k=k: a[k], pairs), keys[0]))
        graph = _effect_graph(nodes, to_host(edges))
        key = jax.random.fold_in(keys[1], number)
        rows.append(
            {
                "mask": np.stack([flat_scores(one.circuit)[0] for one in found.values()]) > 0,
                "undecided": [flat_scores(one.undecided)[0].sum() for one in found.values()],
                "metric": np.stack([np.asarray(m, np.float32) for m in metric]),
                "sizes": np.array(_sizes(found[0])),
                **_overlaps(key, found),
                **_structure(key, graph, found),
            }
        )
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


def circuit_values(arrays: Arrays) -> dict[str, np.ndarray]:
    """One number per model, means over factors; NaN where no factor has one."""
    num_units = arrays["mask"].shape[-1]
    restored, total = _restored(arrays)
    whole = total.sum(axis=-1)
    f = restored.sum(axis=-1) / np.where(whole != 0, whole, np.nan)[..., None]
    corrupt = f[:, :, ABLATIONS.index("corrupt")]
    has_any = arrays["mask"].any(axis=-1)
    # Small networks round two shares to one size.
    sizes, first = np.unique(arrays["sizes"][0], return_index=True)
    areas = [[curve_areas(sizes / num_units, row[1 + first])[0] for row in own] for own in corrupt]
    return {
        "circuit_share": arrays["mask"].mean(axis=(1, 2)),
        "circuit_undecided": arrays["undecided"].mean(axis=1) / num_units,
        "circuit_faithfulness": _mean(np.where(has_any, corrupt[..., 0], np.nan)),
        "circuit_cpr": _mean(np.array(areas)),
        "circuit_overlap_encoder": arrays["overlap_encoder"],
        "circuit_overlap_decoder": arrays["overlap_decoder"],
        "circuit_modularity": arrays["modularity"],
        "circuit_edges": arrays["edges"],
        **{f"circuit_{name}": arrays[f"motif_{name}"] for name in MOTIFS},
    }


def circuit_faithfulness(config: StudyConfig, arrays: Arrays) -> Estimate:
    """Faithfulness of circuits, with intervals over pairs, (models, factors, ablations)."""
    restored, total = _restored(arrays)
    key = jax.random.fold_in(jax.random.key(config.seed), 15)
    found = [
        FaithfulnessSamples(restored[..., a, 0, :], total[..., a, :]).estimate(
            key, ablation=name, level=0.95
        )
        for a, name in enumerate(ABLATIONS)
    ]
    return Estimate.stack(found, axis=-1)


def _restored(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """m(C) - m(empty) of every circuit, and m(full) - m(empty)."""
    metric = arrays["metric"].astype(float)
    empty = metric[..., 1, :]
    return metric - empty[..., None, :], metric[..., -1, :] - empty


def _found(
    arrays: Mapping[str, Arrays],
    nodes: tuple[str, ...],
    model: int,
    factor: int,
    num_pairs: int,
) -> SelectedCircuit:
    """A factor's circuit, from all units patched between its pairs.

    Of a factor that changes nothing no part carries a share, and all are undecided.
    """
    own = slice(factor * num_pairs, (factor + 1) * num_pairs)

    def samples(name: str) -> dict[str, np.ndarray]:
        return {node: arrays[f"site/{node}"][name][model][:, own] for node in nodes}

    total = float(arrays[f"site/{nodes[0]}"]["total"][model, 0, own].mean())
    arms = Arms(samples("total_total"), samples("total_pure"))
    if total == 0:
        none = {node: np.zeros(len(effects), bool) for node, effects in arms.noising.items()}
        scores = {node: mask.astype(float) for node, mask in none.items()}
        return SelectedCircuit(none, scores, {node: ~mask for node, mask in none.items()})
    return select_circuit(arms, total)


def _sizes(found: SelectedCircuit) -> list[int]:
    """The field's grid of sizes, from none to all; of fixed length."""
    num = sum(mask.size for mask in found.circuit.values())
    return [0, *(max(1, round(share * num)) for share in SHARES)]


def _judge(model: Model, nodes: tuple[str, ...], outcome: Callable[[Trace], Array]):
    """(params, circuits, pairs, key) to the metric, (ablations, circuits, pairs)."""

    def judge(params: Any, circuits: dict[str, Array], pairs: Pairs, key: Array) -> Array:
        task = make_task(model.bind(params), pairs, nodes=nodes, outcome=outcome)
        references = ablation_references(key, task)
        num = len(task.pairs.x1)
        joined = jax.tree.map(
            lambda *parts: jnp.concatenate(parts), *(references[name] for name in ABLATIONS)
        )
        repeated = task.take(np.tile(np.arange(num), len(ABLATIONS)))
        found = circuit_metrics(repeated, circuits, joined)
        return jnp.swapaxes(found.reshape(-1, len(ABLATIONS), num), 0, 1)

    return judge


def _graph(model: Model, nodes: tuple[str, ...]):
    """(params, x, eps) to the effects of all edges between units, image by image."""

    def effects(params: Any, x: Array, eps: Array) -> dict[Pair, tuple[Array, Array]]:
        donor = jnp.roll(x, 1, axis=0)
        task = make_task(model.bind(params), Pairs(donor, x, eps), nodes=nodes)
        natural, other = task_values(task, x), task_values(task, donor)
        between = [p for p in task.wires.pairs if p[0] in nodes and p[1] in nodes]
        return {pair: pair_effects(task, pair, natural, other) for pair in between}

    return effects


def _effect_graph(
    nodes: tuple[str, ...], edges: dict[Pair, tuple[np.ndarray, np.ndarray]]
) -> EffectGraph:
    """The effects with their tests, without intervals; layers in the order of the sites."""
    samples = {p: EdgeSamples(*(a.swapaxes(1, 2) for a in two)) for p, two in edges.items()}
    sizes = {p[side]: s.signed.shape[side] for p, s in samples.items() for side in (0, 1)}
    labels = {name: tuple(map(str, range(sizes[name]))) for name in nodes if name in sizes}

    def plain(values: np.ndarray) -> Estimate:
        unknown = np.full_like(values, np.nan)
        return Estimate(
            values,
            unknown,
            unknown,
            null=0.0,
            num_inputs=num,
            num_seeds=1,
            level=0.95,
            method="no interval",
            intervention="one unit resampled as read by another",
        )

    num = next(iter(samples.values())).signed.shape[-1]
    return EffectGraph(
        labels,
        {p: plain(np.sqrt(s.squared.mean(axis=-1))) for p, s in samples.items()},
        {p: plain(s.signed.mean(axis=-1)) for p, s in samples.items()},
        edge_p_values(samples, min_effect=_MIN_EDGE),
        {},
        {},
        _MIN_EDGE,
    )


def _overlaps(key: Array, found: Mapping[int, SelectedCircuit]) -> dict[str, float]:
    """Mean likeness of the circuits of two factors beyond random ones, of encoder and decoder."""
    circuits = {str(k): one.circuit for k, one in found.items()}
    above = np.triu_indices(len(circuits), k=1)
    random = [
        random_circuits(jax.random.fold_in(key, k), one.circuit, _NUM_NULL)
        for k, one in found.items()
    ]
    overlaps = {}
    for part in ("encoder", "decoder"):
        drawn = [
            circuit_overlap(
                {str(k): {n: m[i] for n, m in own.items()} for k, own in enumerate(random)},
                part=f"{part}/",
            )[above]
            for i in range(_NUM_NULL)
        ]
        excess = circuit_overlap(circuits, part=f"{part}/")[above] - np.mean(drawn, axis=0)
        overlaps[f"overlap_{part}"] = _mean(excess)
    return overlaps


def _structure(
    key: Array, graph: EffectGraph, found: Mapping[int, SelectedCircuit]
) -> dict[str, float]:
    """Modularity by factor and motifs, beside their nulls."""
    kept = [mask for pair, mask in found_edges(graph).items() if INPUT not in pair]
    edges = sum(int(mask.sum()) for mask in kept) / sum(mask.size for mask in kept)
    empty = {"edges": edges, "modularity": np.nan} | {f"motif_{name}": np.nan for name in MOTIFS}
    if edges == 0:
        return empty
    structure = graph_structure(
        key,
        graph,
        {str(k): one.circuit for k, one in found.items()},
        {str(k): one.scores for k, one in found.items()},
        num_null=_NUM_NULL,
        num_optimised=0,
    )
    motifs = {name: structure.motifs[name] for name in MOTIFS}
    return {
        **empty,
        "modularity": structure.by_factor.excess,
        **{
            f"motif_{name}": float(np.log2(motif.count / motif.null_mean))
            for name, motif in motifs.items()
            if motif.count > 0 and motif.null_mean > 0
        },
    }


def _mean(values: np.ndarray) -> Any:
    """Mean over the last axis of what is finite; NaN of nothing."""
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=-1)
    return total / np.where(finite.any(axis=-1), finite.sum(axis=-1), np.nan)
