"""The truth about compiled autoencoders under independent standard normal factors."""

import jax.numpy as jnp
import numpy as np

from vaecausal_jax.circuits.modularity import bipartite_modularity
from vaecausal_jax.circuits.planted.closed_forms import (
    entropic_specificity,
    relu_change,
    relu_variance,
)
from vaecausal_jax.circuits.planted.network import Edge, Truth, Weights, clean
from vaecausal_jax.effects.specificity import capacity

NODE_SITES = ("encoder/blocks", "latent/mean", "latent/z", "decoder/features", "decoder/units")


def gaussian_truth(weights: Weights) -> Truth:
    """Everything about the network in closed form.

    The pairs are two independent draws of the factors, with the latents' noise shared.

    Raises:
        ValueError: ReLU units with a bias, whose moments have no closed form here.
    """
    if np.any(weights.bias):
        raise ValueError("gaussian_truth needs ReLU units without a bias.")
    effects, varies = site_effects(weights)
    structure = structural_truth(weights, effects, varies)
    energies = latent_energies(weights, weights.pixels @ weights.readout_map)
    spread = relu_variance((weights.features @ weights.units).T, weights.pixels).sum()
    amplitudes = np.sqrt(unit_energies(weights))
    return structure._replace(
        effects=effects,
        indices=latent_energies(weights, weights.pixels).sum(1) / spread,
        energies=energies,
        specificity=entropic_specificity(energies),
        modularity=bipartite_modularity(
            amplitudes, structure.modules["decoder/units"], np.arange(weights.num_factors)
        ),
        factor_graph=_leaks(np.abs(weights.latent_map.T) @ energies),
    )


def structural_truth(
    weights: Weights, effects: dict[str, np.ndarray], varies: dict[str, np.ndarray]
) -> Truth:
    """What follows from the weights and from which units vary and have an effect.

    Args:
        weights: The network.
        effects: Site to squared effects of patching each unit between runs.
        varies: Site to whether the unit differs between runs.
    """
    nodes = {site: effect > 1e-9 * effect.max(initial=0.0) for site, effect in effects.items()}
    writes = clean(weights.pixels @ weights.readout_map)
    serves = np.where(nodes["decoder/units"], np.abs(writes).argmax(1), -1)
    leads_out = np.abs(writes).sum(1) > 0
    directions = weights.latent_map.T @ weights.features
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return Truth(
        nodes=nodes,
        edges=_edges(weights, nodes, varies),
        distractors={site: varies[site] & ~nodes[site] for site in nodes},
        dormant={"decoder/units": ~varies["decoder/units"] & leads_out},
        modules={"decoder/units": serves},
        roles=_roles(weights, nodes["decoder/units"], writes),
        capacities=np.asarray(capacity(jnp.asarray(directions)), float),
        subspaces={"decoder/features": directions / np.where(lengths > 0, lengths, 1.0)},
    )


def site_effects(weights: Weights) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """E |y(x0; h_u <- h_u(x1)) - y(x0)|^2 of every unit, and whether it varies at all.

    All values are rows over the noise (factors of x0, factors of x1, eps).
    """
    num_factors, num_latents = weights.num_factors, len(weights.sigma)
    reference, target = np.split(np.eye(2 * num_factors + num_latents)[: 2 * num_factors], 2)
    eps = np.eye(2 * num_factors + num_latents)[2 * num_factors :] * weights.sigma[:, None]
    shape = (weights.render @ weights.blocks).T
    runs = {"encoder/blocks": [shape @ reference, shape @ target]}
    runs["latent/mean"] = [weights.mean.T @ rows for rows in runs["encoder/blocks"]]
    runs["latent/z"] = [rows + eps for rows in runs["latent/mean"]]
    runs["decoder/features"] = [weights.features.T @ rows for rows in runs["latent/z"]]
    before, after = (weights.units.T @ rows for rows in runs["decoder/features"])
    downstream = {
        "encoder/blocks": weights.mean @ weights.features @ weights.units,
        "latent/mean": weights.features @ weights.units,
        "latent/z": weights.features @ weights.units,
        "decoder/features": weights.units,
    }
    effects, varies = {}, {}
    for site, kernel in downstream.items():
        change = clean(runs[site][1] - runs[site][0])
        effects[site] = np.array(
            [
                relu_change(before, before + np.outer(row, step), weights.pixels).sum()
                for row, step in zip(kernel, change, strict=True)
            ]
        )
        varies[site] = np.any(change != 0, axis=1)
    one = np.ones((1, 1))
    squared_step = np.array(
        [relu_change(a[None], b[None], one).sum() for a, b in zip(before, after, strict=True)]
    )
    effects["decoder/units"] = squared_step * (weights.pixels**2).sum(1)
    varies["decoder/units"] = squared_step > 0
    return effects, varies


def latent_energies(weights: Weights, write: np.ndarray) -> np.ndarray:
    """E |dy|^2 / 2 of each output as one latent is redrawn from the prior: (latents, outputs).

    Args:
        weights: The network.
        write: (units, outputs) from the ReLU units to the outputs of interest.
    """
    kernel = weights.features @ weights.units
    before = np.concatenate([kernel, np.zeros_like(kernel)]).T
    energies = []
    for latent in range(len(kernel)):
        after = before.copy()
        after[:, [latent, latent + len(kernel)]] = after[:, [latent + len(kernel), latent]]
        energies.append(relu_change(before, after, write) / 2)
    return np.array(energies)


def unit_energies(weights: Weights) -> np.ndarray:
    """E |dr_l|^2 / 2 of each read-out as one ReLU unit is redrawn: (units, factors).

    The unit's variance under the prior times the square of its weight.
    """
    rows = (weights.features @ weights.units).T
    variance = (rows**2).sum(1) * (0.5 - 0.5 / np.pi)
    return variance[:, None] * (weights.pixels @ weights.readout_map) ** 2


def _edges(weights: Weights, nodes: dict, varies: dict) -> dict[Edge, np.ndarray]:
    """Edges with a weight, from a unit that varies to one that has an effect."""
    outputs = np.ones(weights.pixels.shape[1], bool)
    kernels = {
        ("encoder/blocks", "latent/mean"): weights.mean,
        ("latent/mean", "latent/z"): np.eye(len(weights.sigma)),
        ("latent/z", "decoder/features"): weights.features,
        ("decoder/features", "decoder/units"): weights.units,
        ("decoder/units", "decoder/pixels"): weights.pixels,
    }
    return {
        (source, target): (clean(kernel) != 0)
        & varies[source][:, None]
        & nodes.get(target, outputs)[None]
        for (source, target), kernel in kernels.items()
    }


def _roles(weights: Weights, causal: np.ndarray, writes: np.ndarray) -> dict[str, np.ndarray]:
    reads = clean((weights.latent_map.T @ weights.features @ weights.units).T) != 0
    writes = np.where(causal[:, None], writes, 0.0)
    num_writes = (writes != 0).sum(1)
    return {
        "hub": num_writes >= 2,
        "relay": (reads & (writes != 0)).sum(1) > 0,
        "mixer": (reads.sum(1) >= 2) & (num_writes > 0),
        "inhibitor": (writes < 0).sum(1) > 0,
        "dead": num_writes == 0,
    }


def _leaks(energies: np.ndarray) -> np.ndarray:
    graph = energies > 1e-9 * energies.max(initial=0.0)
    return graph & ~np.eye(len(graph), dtype=bool)
