"""Finders: what says how much each unit and edge matters, given a network and pairs of runs.

A finder is any function ``(net, pairs) -> Scores``. To try your own:

    def saliency(net, pairs):
        def score(name):
            def outcome(x, eps, shift):
                moved = interventions.shift_by(net.sites, name, shift)
                return jnp.sum(net(x, eps, moved).outputs ** 2)

            zero = jnp.zeros(net.sites[name].shape)
            slopes = jax.vmap(jax.grad(outcome, 2), (0, 0, None))(pairs.x0, pairs.eps, zero)
            return jnp.abs(slopes).mean(0)

        return Scores({name: score(name) for name in inner_sites(net.sites)})

and hand ``{**FINDERS, "saliency": jax.jit(saliency)}`` to ``benchmarks.planted.compare``.

Scores are not negative and comparable across sites; all arms of a pair share its noise. Along the
total effect TE means the inner product of the change of the outputs with y(x1) - y(x0).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.circuits.attribution import (
    edge_attribution,
    edge_integrated,
    node_attribution,
    node_integrated,
)
from vaecausal_jax.circuits.learned import learn_masks
from vaecausal_jax.circuits.planted.network import Edge
from vaecausal_jax.circuits.scorers import edge_effects
from vaecausal_jax.circuits.tasks import Task, edge_circuit, make_task, node_circuit, task_values
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import attribution
from vaecausal_jax.effects.mediation import paired_rows, unit_mediation
from vaecausal_jax.effects.unit_effects import resample_effects
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Sites
from vaecausal_jax.sweeps.patching import Rows, patch_units

BACKWARD = 2
"""What a gradient costs beyond its forward, in forwards."""


class Scores(NamedTuple):
    """What a finder found.

    Attributes:
        nodes: Site to (units,); empty if the finder has no opinion on nodes.
        edges: (source, target) to (sources, targets), of consecutive sites; empty if the finder has
            no opinion on edges.
        samples: Site to (units, pairs): estimates of ``Truth.effects`` pair by pair, where the
            finder makes such.
        passes: Forward passes it took; NaN if unknown.
    """

    nodes: dict[str, Array]
    edges: dict[Edge, Array] = {}  # noqa: RUF012 - never changed
    samples: dict[str, Array] = {}  # noqa: RUF012 - never changed
    passes: float = float("nan")


Finder = Callable[[BoundModel, Pairs], Scores]


def denoising(net: BoundModel, pairs: Pairs) -> Scores:
    """Exact patching in one direction: mean |PNIE|^2 of the target's unit in the reference run."""
    return _patched(net, pairs)


def noising(net: BoundModel, pairs: Pairs) -> Scores:
    """Exact patching in the other: mean |TNIE|^2 of the reference's unit in the target run."""
    return _patched(net, pairs.swapped())._replace(samples={})


def both_directions(net: BoundModel, pairs: Pairs) -> Scores:
    """Exact patching both ways, the larger counting: sees the inputs of AND and of OR."""
    nodes, samples, names = {}, {}, inner_sites(net.sites)
    table = unit_mediation(net, pairs, names)
    for name in names:
        grams = table.sel(name).values
        nodes[name] = jnp.maximum(grams.pure.mean(1), grams.total_indirect.mean(1))
        samples[name] = grams.pure
    units = sum(net.sites[name].num_units for name in nodes)
    passes = 2 * len(pairs.eps) * (units + len(nodes))
    return Scores(nodes, samples=samples, passes=passes)


def resample_index(net: BoundModel, pairs: Pairs) -> Scores:
    """Mean squared effect of taking a unit's value from another image, at the reference run."""
    donors = jax.vmap(net)(jnp.roll(pairs.x1, 1, axis=0), pairs.eps).activations
    names = inner_sites(net.sites)
    effects = resample_effects(net, Runs(pairs.x0, pairs.eps, donors), names)
    nodes = {name: effects.sel(name).values.squared.mean(1) for name in names}
    units = sum(net.sites[name].num_units for name in nodes)
    return Scores(nodes, passes=len(pairs.eps) * (units + len(nodes) + 1))


def attribution_patching(net: BoundModel, pairs: Pairs) -> Scores:
    """AtP: |gradient times change| along TE, at both ends of each pair."""
    cost = 2 * len(pairs.eps) * (1 + BACKWARD)
    return _surrogate(net, pairs, attribution.attribution_patching, cost)


def hessian_corrected(net: BoundModel, pairs: Pairs) -> Scores:
    """AtP with its second-order term, one Hessian-vector product per unit."""

    def surrogate(net, *arguments):
        return attribution.hessian_corrected(net, *arguments).estimate

    units = sum(net.sites[name].num_units for name in inner_sites(net.sites))
    cost = 2 * len(pairs.eps) * 2 * (1 + BACKWARD) * units / len(inner_sites(net.sites))
    return _surrogate(net, pairs, surrogate, cost)


def integrated_gradients(net: BoundModel, pairs: Pairs) -> Scores:
    """Gradients along the site's path between the two runs, 16 midpoints, times the change."""
    rule = attribution.gauss_legendre(16)

    def surrogate(net, *arguments):
        return attribution.integrated_gradients_activations(net, *arguments, rule=rule)

    cost = 2 * len(pairs.eps) * 16 * (1 + BACKWARD)
    return _surrogate(net, pairs, surrogate, cost)


def correlation(net: BoundModel, pairs: Pairs) -> Scores:
    """Largest |correlation| of a unit with a factor, over all runs: no intervention at all."""
    x, eps = jnp.concatenate([pairs.x0, pairs.x1]), jnp.concatenate([pairs.eps, pairs.eps])
    activations = jax.vmap(net)(x, eps).activations
    factors = jnp.concatenate([pairs.factors0, pairs.factors1])
    nodes = {}
    for name in inner_sites(net.sites):
        means = _unit_means(net.sites, name, activations[name])
        nodes[name] = jnp.abs(_correlations(means, factors)).max(1)
    return Scores(nodes, passes=2 * len(pairs.eps))


def random(net: BoundModel, pairs: Pairs) -> Scores:
    """Uniform numbers: AUROC 0.5 give or take, average precision the prevalence."""
    del pairs
    keys = jax.random.split(jax.random.key(0), len(net.sites))
    names = inner_sites(net.sites)
    nodes = {
        name: jax.random.uniform(key, (net.sites[name].num_units,))
        for name, key in zip(names, keys, strict=False)
    }
    return Scores(nodes, passes=0.0)


def edge_patching(net: BoundModel, pairs: Pairs) -> Scores:
    """Exact effects of single edges along TE, both directions, the larger counting."""
    task = _task(net, pairs)
    edges = _sizes(edge_effects(task))
    num = sum(values.size for values in edges.values())
    return Scores({}, edges, passes=2.0 * len(pairs.eps) * (num + len(edges)))


def eap(net: BoundModel, pairs: Pairs) -> Scores:
    """Gradients at the target run: attribution patching of nodes and of edges (EAP)."""
    task = _task(net, pairs)
    return Scores(
        _sizes(node_attribution(task)),
        _sizes(edge_attribution(task)),
        passes=float(len(pairs.eps) * (2 + BACKWARD)),
    )


def eap_ig(net: BoundModel, pairs: Pairs) -> Scores:
    """Gradients along the inputs' path, five nodes: EAP-IG of nodes and of edges."""
    task = _task(net, pairs)
    return Scores(
        _sizes(node_integrated(task)),
        _sizes(edge_integrated(task)),
        passes=float(len(pairs.eps) * (2 + 5 * (1 + BACKWARD))),
    )


def learned_masks(net: BoundModel, pairs: Pairs) -> Scores:
    """Subnetwork probing: how likely a trained gate of each node, and of each edge, is open."""
    task = _task(net, pairs)
    key, steps, batch = jax.random.key(0), 500, 16
    reference = task_values(task, task.pairs.x0)

    def learn(circuit):
        scores = learn_masks(
            key, task, circuit, reference, price=0.01, num_steps=steps, batch_size=batch
        )
        return {part: jnp.asarray(score) for part, score in scores.items()}

    passes = 2 * steps * batch * (1 + BACKWARD) + 4 * len(pairs.eps)
    return Scores(learn(node_circuit(task)), learn(edge_circuit(task)), passes=float(passes))


FINDERS: dict[str, Finder] = {
    "patching, both directions": jax.jit(both_directions),
    "patching, denoising": jax.jit(denoising),
    "patching, noising": jax.jit(noising),
    "resample index": jax.jit(resample_index),
    "edge patching": edge_patching,
    "attribution patching": jax.jit(attribution_patching),
    "hessian corrected": jax.jit(hessian_corrected),
    "integrated gradients": jax.jit(integrated_gradients),
    "EAP, at the target": eap,
    "EAP-IG": eap_ig,
    "learned masks": learned_masks,
    "correlation": jax.jit(correlation),
    "random": jax.jit(random),
}


def inner_sites(sites: Sites) -> list[str]:
    """Sites with units, without the outputs themselves and the input."""
    named = [name for name in sites if sites[name].num_units and not name.startswith("input/")]
    return named[:-1]


def _task(net: BoundModel, pairs: Pairs) -> Task:
    # The input and the outputs are ends of edges, not nodes to be scored.
    nodes = [n for n in net.sites if net.sites[n].num_units and not n.startswith("input/")]
    return make_task(net, pairs, nodes=nodes)


def _sizes(signed: dict[Any, Any]) -> dict[Any, Any]:
    return {key: abs(values) for key, values in signed.items()}


def _patched(net: BoundModel, pairs: Pairs) -> Scores:
    samples = {}
    for name in inner_sites(net.sites):
        rows = paired_rows(net, pairs, name)
        rows = jax.tree.map(lambda leaf: leaf[: len(pairs.eps)], rows)
        samples[name] = patch_units(
            net,
            name,
            rows,
            lambda y, row: jnp.sum((y - row.clean) ** 2),
        )
    units = sum(net.sites[name].num_units for name in samples)
    nodes = {name: effects.mean(1) for name, effects in samples.items()}
    # paired_rows runs both ends of each pair.
    return Scores(nodes, {}, samples, len(pairs.eps) * (units + 2 * len(nodes)))


def _surrogate(net: BoundModel, pairs: Pairs, surrogate: Any, cost: float) -> Scores:
    def along(y: Array, row: Rows) -> Array:
        return jnp.vdot(y - row.clean, row.reference)

    nodes = {}
    for name in inner_sites(net.sites):
        rows = paired_rows(net, pairs, name)
        other = jnp.roll(rows.clean, len(pairs.eps), axis=0)
        rows = rows._replace(reference=other - rows.clean)
        nodes[name] = jnp.abs(surrogate(net, name, rows, along)).mean(1)
    return Scores(nodes, passes=cost * len(nodes) + 2 * len(pairs.eps) * len(nodes))


def _unit_means(sites: Sites, name: str, values: Array) -> Array:
    """(images, *site) to (images, units), each the mean over its positions.

    Raises:
        ValueError: A site without units.
    """
    if sites[name].unit_axis is None:
        raise ValueError(f"site {name!r} has no units.")
    return sites[name].by_part(values).mean(2).T


def _correlations(values: Array, factors: Array) -> Array:
    """Pearson's, (units, factors); 0 for what does not vary."""

    def standard(a):
        centred = a - a.mean(0, keepdims=True)
        length = jnp.sqrt((centred**2).sum(0, keepdims=True))
        return jnp.where(length > 1e-6, centred / jnp.where(length > 0, length, 1.0), 0.0)

    return standard(values).T @ standard(factors)
