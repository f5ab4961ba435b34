"""Scores of nodes and edges by gradients: a few backward passes instead of a forward per part.

    node_attribution, edge_attribution    gradients at the target run (AtP, EAP)
    node_integrated, edge_integrated      gradients along the inputs' path (EAP-IG)

They approximate the noising effects of ``scorers``, and miss what is flat at the runs that they
look at.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.masks import Scores
from vaecausal_jax.circuits.scorers import read_node
from vaecausal_jax.circuits.tasks import Task, outcomes, task_values
from vaecausal_jax.effects.attribution import Quadrature, gauss_legendre
from vaecausal_jax.effects.paths import INPUT, OUTCOME, Node
from vaecausal_jax.interventions import Affine
from vaecausal_jax.interventions.sites import measure
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced

_AT_TARGET = Quadrature(np.ones(1), np.ones(1))


def node_attribution(task: Task) -> Scores:
    """First-order noising effects of nodes, one backward per pair (attribution patching)."""
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
    task: Task, *, rule: Quadrature | None = None, sweep: SweepFn = sweep
) -> Scores:
    """EAP-IG: the gradient at what v computes, times v's first-order change through u alone.

    score(u, v) = mean over the path of <dL/dv, (dv/du) (h_u(x1) - h_u(x0))>: it takes one backward
    for all nodes, then one Jacobian-vector product of one layer per unit. Exact where the network
    is affine.

    Args:
        task: The task; all its nodes hold floating values.
        rule: See ``node_integrated``.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.
    """
    sweep = unreduced(sweep)
    rule = gauss_legendre(5) if rule is None else rule
    gradients = _path_gradients(task, rule)
    change = _changes(task)
    x0, x1, noise = task.pairs.runs
    moments = jnp.asarray(rule.nodes, x1.dtype)
    along = jax.vmap(lambda t: task_values(task, x0 + t * (x1 - x0)))(moments)
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
            jnp.broadcast_to(a[None], (moments.size, *a.shape)) for a in (noise, change[source])
        ]
        rows = (keep, *repeated, gradients[target][1])
        rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
        found = sweep(score, jnp.arange(node.num_units), rows)
        # (source units, nodes of the rule x pairs, target units)
        found = found.reshape(node.num_units, moments.size, -1, end.num_units).sum(1)
        scores[source, target] = np.asarray(found.mean(1))
    return scores


def _path_gradients(task: Task, rule: Quadrature | None) -> dict[str, tuple[Node, Array]]:
    """Node to the metric's gradient in its value, (rule, pairs, ...), times the rule's weights."""
    rule = gauss_legendre(5) if rule is None else rule
    dtype = task.pairs.x1.dtype
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
            trace = task.net(x0 + t * (x1 - x0), eps, put)
            return task.metric(measure(task.outcome, trace) + shifts[OUTCOME], y0, y1)

        nodes = task.wires.nodes
        return jax.grad(score)({n: jnp.zeros(nodes[n].shape, nodes[n].dtype) for n in names})

    over_pairs = jax.vmap(gradient, (None, 0, 0, 0, 0, 0))
    found = jax.jit(jax.vmap(over_pairs, (0, None, None, None, None, None)))(
        moments, task.pairs.x0, task.pairs.x1, task.pairs.eps, y0, y1
    )
    return {
        n: (task.wires.nodes[n], g * weights.reshape(-1, *(1,) * (g.ndim - 1)).astype(g.dtype))
        for n, g in found.items()
    }


def _changes(task: Task) -> dict[str, Array]:
    low, high = task_values(task, task.pairs.x0), task_values(task, task.pairs.x1)
    return {name: high[name] - low[name] for name in low}
