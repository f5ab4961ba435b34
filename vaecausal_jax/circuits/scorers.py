"""Scorers: how much each node or edge matters to a task, by patching, gradients or correlation.

    node_noising, edge_noising      what is lost when one part alone is corrupted in the target run
    node_denoising, edge_denoising  what is gained when it alone is restored in the reference run
    node_effects, edge_effects      whichever of the two is larger: redundant parts are not missed,
                                    and parts that need others restore nothing, alone
    node_attribution, edge_attribution    gradients at the target run (AtP, EAP)
    node_integrated, edge_integrated      gradients along the inputs' path (EAP-IG)
    node_correlation                no intervention at all: the baseline that causes nothing

Each maps a ``Task`` to ``Scores``, means over pairs of its metric's change: with the default metric
``share_of_total`` turns them into shares of the total effect. ``*_samples`` keep the pairs, for
intervals and stability. Learned masks are in ``circuits.learned``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.circuits.tasks import Scores, Task, outcomes, task_values
from vaecausal_jax.effects import attribution
from vaecausal_jax.effects.attribution import Quadrature
from vaecausal_jax.effects.paths import INPUT, OUTCOME, Node
from vaecausal_jax.interventions import Affine, BoxPatch
from vaecausal_jax.interventions.sites import measure
from vaecausal_jax.interventions.types import Fixed
from vaecausal_jax.sweeps.grid import Block, sweep
from vaecausal_jax.sweeps.patching import Rows, patch_units

Samples = dict[Any, np.ndarray]
"""Scores pair by pair: a last axis of pairs."""


class Arms(NamedTuple):
    """Effects of patching each part alone, pair by pair.

    Attributes:
        noising: metric(target) - metric(target run, part from the reference run).
        denoising: metric(reference run, part from the target run) - metric(reference).
    """

    noising: Samples
    denoising: Samples


def node_samples(task: Task, *, block: Block | None = None) -> Arms:
    """Exact effects of patching each node, both ways: one forward a node, pair and arm."""
    return _both_arms(task, lambda runs: _node_patches(runs, block))


def edge_samples(task: Task, *, block: Block | None = None) -> Arms:
    """Exact effects of patching each edge, both ways.

    The consumer is recomputed with one unit that it reads from the other run, everything else it
    reads natural; what it then is runs on to the outcome. One layer and one forward an edge, pair
    and arm.
    """
    return _both_arms(task, lambda runs: _edge_patches(runs, block))


def node_noising(task: Task) -> Scores:
    """What is lost when a node takes its value in the reference run: necessity."""
    return mean_scores(node_samples(task).noising)


def node_denoising(task: Task) -> Scores:
    """What is gained in the reference run when a node takes its target value: sufficiency."""
    return mean_scores(node_samples(task).denoising)


def node_effects(task: Task) -> Scores:
    """The larger of a node's noising and denoising effects, in absolute value."""
    return _larger(node_samples(task))


def edge_noising(task: Task) -> Scores:
    """What is lost when one consumer reads one unit from the reference run."""
    return mean_scores(edge_samples(task).noising)


def edge_denoising(task: Task) -> Scores:
    """What is gained in the reference run when one consumer reads one unit from the target run."""
    return mean_scores(edge_samples(task).denoising)


def edge_effects(task: Task) -> Scores:
    """The larger of an edge's noising and denoising effects, in absolute value."""
    return _larger(edge_samples(task))


def node_attribution(task: Task) -> Scores:
    """First-order noising effects of nodes, one backward a pair (attribution patching)."""
    return node_integrated(task, rule=_AT_TARGET)


def edge_attribution(task: Task) -> Scores:
    """First-order noising effects of edges (EAP; Syed et al. 2023, arXiv:2310.10348)."""
    return edge_integrated(task, rule=_AT_TARGET)


def node_integrated(task: Task, *, rule: Quadrature | None = None) -> Scores:
    """Gradients averaged as the input goes straight from x0 to x1, times the node's change.

    Node form of EAP-IG (Hanna et al. 2024, arXiv:2403.17806), by Gauss-Legendre nodes instead of
    its Riemann sum.

    Args:
        task: The task; all its nodes hold floating values.
        rule: Rule on [0, 1], from reference to target; ``gauss_legendre(5)`` if None.
    """
    scores = _path_gradients(task, rule)
    change = _changes(task)
    return {
        name: np.asarray(
            jax.vmap(node.by_unit)((gradient * change[name][None]).sum(0)).sum(-1).mean(0)
        )
        for name, (node, gradient) in scores.items()
        if name != OUTCOME
    }


def edge_integrated(
    task: Task, *, rule: Quadrature | None = None, block: Block | None = None
) -> Scores:
    """EAP-IG: the gradient at what v computes, times v's first-order change through u alone.

    score(u, v) = mean over the path of <dL/dv, (dv/du) (h_u(x1) - h_u(x0))>: one backward for all
    nodes, then one Jacobian-vector product of one layer a unit. Exact where the network is affine.

    Args:
        task: The task; all its nodes hold floating values.
        rule: See ``node_integrated``.
        block: See ``sweep``.
    """
    rule = attribution.gauss_legendre(5) if rule is None else rule
    gradients = _path_gradients(task, rule)
    change = _changes(task)
    moments = jnp.asarray(rule.nodes, task.x1.dtype)
    along = jax.vmap(lambda t: task_values(task, task.x0 + t * (task.x1 - task.x0)))(moments)
    scores = {}
    for source, target in task.wires.pairs:
        node, end = task.wires.nodes[source], task.wires.nodes[target]
        parents = task.wires.parents[target]

        def score(unit, row, source=source, target=target, node=node, end=end):
            values, eps, step, gradient = row
            mask = node.spread(jnp.arange(node.num_units) == unit)
            tangent = jnp.where(mask, step, 0.0)

            def consumer(value):
                return read_node(task, target, {**values, source: value}, eps)

            _, moved = jax.jvp(consumer, (values[source],), (tangent,))
            return end.by_unit(moved * gradient).sum(-1)

        keep = {n: along[n] for n in {*parents, INPUT}}
        repeated = [
            jnp.broadcast_to(a[None], (moments.size, *a.shape)) for a in (task.eps, change[source])
        ]
        rows = (keep, *repeated, gradients[target][1])
        rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
        found = sweep(score, jnp.arange(node.num_units), rows, block=block)
        # (source units, nodes of the rule x pairs, target units)
        found = found.reshape(node.num_units, moments.size, -1, end.num_units).sum(1)
        scores[source, target] = np.asarray(found.mean(1))
    return scores


def node_correlation(task: Task, factors0: ArrayLike, factors1: ArrayLike) -> Scores:
    """Largest absolute correlation of each unit with a ground-truth factor, over all inputs.

    Nothing is intervened on: a unit that goes with a factor and drives nothing scores as high as
    one that does. A convolution's unit is its mean over positions. A constant unit scores 0.

    Args:
        task: The task.
        factors0: (pairs, factors) behind the reference inputs.
        factors1: (pairs, factors) behind the target inputs.

    Raises:
        ValueError: Factors that do not fit the pairs.
    """
    factors = np.concatenate([np.asarray(f, float) for f in (factors0, factors1)])
    if factors.ndim != 2 or len(factors) != 2 * len(task.x0):
        raise ValueError(
            f"factors0 and factors1 have shapes {np.shape(factors0)} and {np.shape(factors1)}, "
            f"expected ({len(task.x0)}, factors) each."
        )
    runs = [task_values(task, x) for x in (task.x0, task.x1)]
    scores = {}
    for name in task.node_sites:
        both = jnp.concatenate([run[name] for run in runs])
        units = np.asarray(jax.vmap(task.wires.nodes[name].by_unit)(both).mean(-1), float)
        scores[name] = np.abs(_correlation(units, factors)).max(1)
    return scores


def mean_scores(samples: Samples) -> Scores:
    """Means over pairs."""
    return {key: np.asarray(values, float).mean(-1) for key, values in samples.items()}


def share_of_total(task: Task, scores: Scores) -> Scores:
    """Scores divided by the mean metric of the target: shares of the total effect.

    Raises:
        ValueError: No total effect to take shares of.
    """
    y0, y1 = outcomes(task)
    total = float(jax.vmap(task.metric)(y1, y0, y1).mean())
    if total == 0:
        raise ValueError("the outcome does not differ between x0 and x1: no shares of no effect.")
    return {key: value / total for key, value in scores.items()}


def flat_scores(scores: Scores) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """All scores as one vector, and what each is of: (site, unit), or (source, u, target, v)."""
    values, labels = [], []
    for key, value in scores.items():
        value = np.asarray(value)
        values.append(value.ravel())
        for index in np.ndindex(value.shape):
            if isinstance(key, tuple):
                labels.append((key[0], index[0], key[1], index[1]))
            else:
                labels.append((key, index[0]))
    return (np.concatenate(values) if values else np.zeros(0)), labels


def read_node(task: Task, name: str, values: dict[str, Any], eps: Array) -> Array:
    """A node's value where what it reads has the given values, or ``BoxPatch``es of them."""
    fixed = {
        n: v if isinstance(v, BoxPatch) else Fixed(v)
        for n, v in values.items()
        if n not in (INPUT, OUTCOME, name)
    }
    trace = task.forward(task.params, values[INPUT], eps, fixed)
    return measure(task.outcome, trace) if name == OUTCOME else trace.activations[name]


_AT_TARGET = Quadrature(np.ones(1), np.ones(1))


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
    low, high = task_values(task, task.x0), task_values(task, task.x1)
    y0, y1 = low[OUTCOME], high[OUTCOME]
    join = jnp.concatenate
    runs = _Runs(
        task,
        join([task.x1, task.x0]),
        join([task.eps, task.eps]),
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


def _node_patches(runs: _Runs, block: Block | None) -> Samples:
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
                block=block,
            )
        )
    return found


def _edge_patches(runs: _Runs, block: Block | None) -> Samples:
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
                patched = measure(task.outcome, task.forward(task.params, natural[INPUT], eps, put))
            return task.metric(patched, y0, y1) - task.metric(y, y0, y1)

        natural = {n: runs.natural[n] for n in names} | {INPUT: runs.x}
        rows = (natural, runs.donor[source], runs.eps, runs.y, runs.y0, runs.y1)
        points = np.indices((start.num_units, end.num_units)).reshape(2, -1).T
        values = sweep(change, jnp.asarray(points), rows, block=block)
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


def _path_gradients(task: Task, rule: Quadrature | None) -> dict[str, tuple[Node, Array]]:
    """Node to the metric's gradient in its value, (rule, pairs, ...), times the rule's weights."""
    rule = attribution.gauss_legendre(5) if rule is None else rule
    dtype = task.x1.dtype
    moments, weights = (jnp.asarray(part, dtype) for part in (rule.nodes, rule.weights))
    names = [*task.node_sites, OUTCOME]
    for name in names:
        if not jnp.issubdtype(task.wires.nodes[name].dtype, jnp.floating):
            raise ValueError(
                f"node {name!r} holds {task.wires.nodes[name].dtype}, which has no gradient. Use "
                "node_effects or edge_effects."
            )
    y0, y1 = outcomes(task)

    def gradient(t, x0, x1, eps, y0, y1):
        def score(shifts):
            put = {
                n: Affine(jnp.ones((1,) * a.ndim, bool), jnp.ones((), a.dtype), a)
                for n, a in shifts.items()
                if n != OUTCOME
            }
            trace = task.forward(task.params, x0 + t * (x1 - x0), eps, put)
            return task.metric(measure(task.outcome, trace) + shifts[OUTCOME], y0, y1)

        nodes = task.wires.nodes
        return jax.grad(score)({n: jnp.zeros(nodes[n].shape, nodes[n].dtype) for n in names})

    over_pairs = jax.vmap(gradient, (None, 0, 0, 0, 0, 0))
    found = jax.jit(jax.vmap(over_pairs, (0, None, None, None, None, None)))(
        moments, task.x0, task.x1, task.eps, y0, y1
    )
    return {
        n: (task.wires.nodes[n], g * weights.reshape(-1, *(1,) * (g.ndim - 1)).astype(g.dtype))
        for n, g in found.items()
    }


def _changes(task: Task) -> dict[str, Array]:
    low, high = task_values(task, task.x0), task_values(task, task.x1)
    return {name: high[name] - low[name] for name in low}


def _larger(arms: Arms) -> Scores:
    noising, denoising = mean_scores(arms.noising), mean_scores(arms.denoising)
    return {k: np.maximum(np.abs(noising[k]), np.abs(denoising[k])) for k in noising}


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlations of the columns of two tables, 0 where one is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)))
    return np.where(scale > 0, a.T @ b / np.where(scale > 0, scale, 1.0), 0.0)
