"""Scorers by patching: how much each node or edge matters to a task, exactly.

    noising       what is lost when one part alone takes its reference value in the target run
    denoising     what is gained when one part alone takes its target value in the reference run
    node_effects, edge_effects    the larger of the two: redundant parts are not missed when noised,
                                  and parts that need others restore nothing alone

``node_samples`` and ``edge_samples`` keep the pairs, for intervals, tests and stability;
``mean_scores`` turns either arm into ``Scores``, means over pairs of the metric's change. With the
default metric, divide by its mean over the target runs for shares of the total effect. Scores by
gradients are in ``attribution``, learned masks in ``learned``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.masks import Samples, Scores
from vaecausal_jax.circuits.tasks import Task, task_values
from vaecausal_jax.effects.paths import INPUT, OUTCOME, Node
from vaecausal_jax.interventions import BoxPatch
from vaecausal_jax.interventions.sites import measure
from vaecausal_jax.interventions.types import Fixed
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced
from vaecausal_jax.sweeps.patching import Rows, patch_units


class Arms(NamedTuple):
    """Effects of patching each part alone, pair by pair.

    Attributes:
        noising: metric(target) - metric(target run, part from the reference run).
        denoising: metric(reference run, part from the target run) - metric(reference).
    """

    noising: Samples
    denoising: Samples


def node_samples(task: Task, *, sweep: SweepFn = sweep) -> Arms:
    """Exact effects of patching each node, both ways: one forward per node, pair and arm."""
    sweep = unreduced(sweep)
    return _both_arms(task, lambda runs: _node_patches(runs, sweep))


def edge_samples(task: Task, *, sweep: SweepFn = sweep) -> Arms:
    """Exact effects of patching each edge, both ways.

    The consumer is recomputed with one of the units that it reads taken from the other run, and
    all else that it reads natural; its new value runs on to the outcome. The cost is one layer and
    one forward per edge, pair and arm.
    """
    sweep = unreduced(sweep)
    return _both_arms(task, lambda runs: _edge_patches(runs, sweep))


def node_effects(task: Task) -> Scores:
    """The larger of a node's noising and denoising effects, in absolute value."""
    return _larger(node_samples(task))


def edge_effects(task: Task) -> Scores:
    """The larger of an edge's noising and denoising effects, in absolute value."""
    return _larger(edge_samples(task))


def mean_scores(samples: Samples) -> Scores:
    """Means over pairs."""
    return {key: np.asarray(values, float).mean(-1) for key, values in samples.items()}


def read_node(task: Task, name: str, values: dict[str, Any], eps: Array) -> Array:
    """A node's value where what it reads has the given values, or ``BoxPatch``es of them."""
    fixed = {
        n: v if isinstance(v, BoxPatch) else Fixed(v)
        for n, v in values.items()
        if n not in (INPUT, OUTCOME, name)
    }
    trace = task.net(values[INPUT], eps, fixed)
    return measure(task.outcome, trace) if name == OUTCOME else trace.activations[name]


class _Runs(NamedTuple):
    """Runs to be patched: both arms of every pair, target runs first."""

    task: Task
    x: Array
    eps: Array
    natural: dict[str, Array]
    donor: dict[str, Array]
    y: Array
    y0: Array
    y1: Array


def _both_arms(task: Task, patches: Any) -> Arms:
    """Metric changes of every part, when noised in the target and denoised in the reference."""
    low, high = task_values(task, task.pairs.x0), task_values(task, task.pairs.x1)
    y0, y1 = low[OUTCOME], high[OUTCOME]
    join = jnp.concatenate
    runs = _Runs(
        task,
        join([task.pairs.x1, task.pairs.x0]),
        join([task.pairs.eps, task.pairs.eps]),
        {name: join([high[name], low[name]]) for name in low},
        {name: join([low[name], high[name]]) for name in low},
        join([y1, y0]),
        join([y0, y0]),
        join([y1, y1]),
    )
    halves = {key: np.split(np.asarray(v), 2, axis=-1) for key, v in patches(runs).items()}
    return Arms(
        {key: -noised for key, (noised, _) in halves.items()},
        {key: denoised for key, (_, denoised) in halves.items()},
    )


def _node_patches(runs: _Runs, sweep: SweepFn) -> Samples:
    """metric(patched) - metric(plain) of every node, (units, pairs)."""
    task = runs.task

    def change(patched, row):
        y0, y1 = row.reference
        return task.metric(patched, y0, y1) - task.metric(row.clean, y0, y1)

    found = {}
    for name in task.node_sites:
        rows = Rows(
            runs.x, runs.eps, runs.natural[name], runs.donor[name], runs.y, (runs.y0, runs.y1)
        )
        found[name] = np.asarray(
            patch_units(
                task.net,
                name,
                rows,
                change,
                outcome=task.outcome,
                sweep=sweep,
            )
        )
    return found


def _edge_patches(runs: _Runs, sweep: SweepFn) -> Samples:
    """metric(patched) - metric(plain) of every edge, (source units, target units, pairs)."""
    task, found = runs.task, {}
    for source, target in task.wires.pairs:
        start, end = task.wires.nodes[source], task.wires.nodes[target]
        names = {*task.wires.parents[target], target, INPUT}

        def change(point, row, source=source, target=target, start=start, end=end):
            natural, donor, eps, y, y0, y1 = row
            value = end.box(
                read_node(
                    task, target, patched_values(natural, donor, source, start, point[0]), eps
                ),
                point[1],
            )
            if target == OUTCOME:
                patched = jax.lax.dynamic_update_slice(y, *value)
            else:
                put = {target: BoxPatch(natural[target], *value)}
                patched = measure(task.outcome, task.net(natural[INPUT], eps, put))
            return task.metric(patched, y0, y1) - task.metric(y, y0, y1)

        natural = {n: runs.natural[n] for n in names} | {INPUT: runs.x}
        rows = (natural, runs.donor[source], runs.eps, runs.y, runs.y0, runs.y1)
        points = np.indices((start.num_units, end.num_units)).reshape(2, -1).T
        values = sweep(change, jnp.asarray(points), rows)
        found[source, target] = np.asarray(values).reshape(start.num_units, end.num_units, -1)
    return found


def patched_values(
    natural: dict[str, Array], donor: Array, source: str, node: Node, unit: Any
) -> dict[str, Any]:
    """Natural values of what a node reads, with one unit of the source from the donor."""
    inside, start = node.box(donor, unit)
    if source == INPUT:
        return {**natural, INPUT: inside}
    return {**natural, source: BoxPatch(natural[source], inside, start)}


def _larger(arms: Arms) -> Scores:
    noising, denoising = mean_scores(arms.noising), mean_scores(arms.denoising)
    return {k: np.maximum(np.abs(noising[k]), np.abs(denoising[k])) for k in noising}
