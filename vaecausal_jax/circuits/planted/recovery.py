"""What the library's public functions find in a planted network, and how near the truth it is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.graph_distance import graph_score
from vaecausal_jax.circuits.modularity import bipartite_modularity
from vaecausal_jax.circuits.partitions import factor_partition
from vaecausal_jax.circuits.planted import scores
from vaecausal_jax.circuits.planted.finders import denoising
from vaecausal_jax.circuits.planted.network import Planted, Truth
from vaecausal_jax.circuits.roles import UnitRoles, unit_roles
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects.mediation import paired_rows
from vaecausal_jax.effects.specificity import UnitClasses, classify_units, specificity
from vaecausal_jax.effects.unit_effects import UnitEffects, resample_effects, total_index
from vaecausal_jax.inference import (
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    false_discovery,
    sign_flip_test,
)
from vaecausal_jax.interventions import patch
from vaecausal_jax.interventions.sites import Trace
from vaecausal_jax.sweeps.patching import Rows, patch_units


class Recovered(NamedTuple):
    """Measurements, named as in ``Truth``.

    Attributes:
        effects: Site to estimate, (units,).
        indices: (latents,) total indices under the prior.
        energies: (latents, factors), under the prior.
        specificity: (latents,) entropic.
        classes: Of the site's units, from their effects on the read-outs.
        labels: (units,): the factor each affects most, -1 for none.
        modularity: Of units by factors under these labels.
        roles: Of the site's units.
        factor_graph: (factors, factors) booleans.
    """

    effects: dict[str, Estimate]
    indices: Estimate
    energies: np.ndarray
    specificity: np.ndarray
    classes: UnitClasses
    labels: np.ndarray
    modularity: float
    roles: UnitRoles
    factor_graph: np.ndarray


def recover(
    key: Array,
    planted: Planted,
    num_pairs: int,
    *,
    site: str = "decoder/units",
    latents: str = "latent/z",
    q: float = 0.05,
    least: float = 1e-3,
    num_flips: int = 9999,
) -> Recovered:
    """Measures everything that ``Truth`` holds.

    Args:
        key: Typed PRNG key.
        planted: The network.
        num_pairs: Pairs of runs behind each number.
        site: The site whose units are sorted into classes, modules and roles.
        latents: The site of the latents.
        q: False discovery rate.
        least: Smallest effect that counts as a role or a leak, in SD of what is affected: above
            the rounding of float32.
        num_flips: Random sign flips behind the tests.
    """
    measure_key, *keys = jax.random.split(key, 6)
    # One program: as many small ones take longer to compile than all of this to run.
    measured = jax.jit(lambda key: _measure(key, planted, num_pairs, site, latents))(measure_key)
    effects = bootstrap_mean(
        keys[0],
        jnp.concatenate(list(measured.effects.values())),
        intervention="unit taken from the target",
    )
    indices = bootstrap_ratio(
        keys[1], *total_index(measured.prior), intervention="latent redrawn from the prior"
    )
    writes, reads, leaks = (
        np.asarray(a) for a in (measured.writes, measured.reads, measured.leaks)
    )
    amplitudes = np.sqrt(np.asarray(measured.unit_energies, float))
    amplitudes = np.where(amplitudes > least * amplitudes.max(initial=0.0), amplitudes, 0.0)
    partition = factor_partition(amplitudes)
    labels, factors = np.split(partition, [len(amplitudes)])
    test = sign_flip_test(leaks, key=keys[2], num_flips=num_flips)
    graph = (false_discovery(test.p_value) <= q) & (np.abs(leaks.mean(-1)) > least)
    return Recovered(
        effects=_by_site(effects, measured.effects),
        indices=indices,
        energies=np.asarray(measured.energies),
        specificity=np.asarray(specificity(measured.energies).entropic),
        classes=classify_units(keys[3], writes, q=q, num_flips=num_flips),
        labels=labels,
        modularity=bipartite_modularity(amplitudes, labels, factors),
        roles=unit_roles(
            keys[4], reads, writes, q=q, min_read=least, min_write=least, num_flips=num_flips
        ),
        factor_graph=graph & ~np.eye(len(graph), dtype=bool),
    )


def recovery_scores(
    found: Recovered, truth: Truth, *, site: str = "decoder/units"
) -> dict[str, float]:
    """Errors and agreements, by name; only those whose truth is known.

    Errors of indices, specificity and modularity are the largest absolute ones.
    """
    result = {}
    if truth.effects is not None:
        names = list(found.effects)
        true = np.concatenate([truth.effects[name] for name in names])
        joined = Estimate.concatenate([found.effects[name] for name in names])
        result["effect_rmse"] = scores.effect_rmse(joined.value, true)
        result["effect_rank_correlation"] = scores.rank_correlation(joined.value, true)
        result["interval_coverage"] = scores.interval_coverage(joined, true)
    if truth.indices is not None:
        result["index_error"] = float(np.abs(found.indices.value - truth.indices).max())
    if truth.specificity is not None:
        result["specificity_error"] = _largest_gap(found.specificity, truth.specificity)
    if truth.modularity is not None:
        result["modularity_error"] = abs(found.modularity - truth.modularity)
    if site in truth.modules:
        result["module_ari"] = scores.adjusted_rand(found.labels, truth.modules[site])
        result["module_nmi"] = scores.normalised_mutual_information(
            found.labels, truth.modules[site]
        )
    if truth.roles is not None:
        result["role_f1"] = scores.roles_f1(found.roles, truth.roles)
    if truth.factor_graph is not None:
        result["graph_shd"] = float(graph_score(found.factor_graph, truth.factor_graph).shd)
    return result


class _Measured(NamedTuple):
    """Arrays behind ``Recovered``; see the functions that make them."""

    effects: dict[str, Array]
    prior: UnitEffects
    energies: Array
    writes: Array
    unit_energies: Array
    reads: Array
    leaks: Array


def _measure(key: Array, planted: Planted, num: int, site: str, latents: str) -> _Measured:
    pairs_key, prior_key, single_key = jax.random.split(key, 3)
    pairs = planted.sample(pairs_key, num)
    exact = denoising(planted.net, pairs)
    prior, energies = _prior_effects(prior_key, planted, pairs, latents)
    writes, unit_energies = _write_samples(planted, pairs, site)
    reads, leaks = _read_samples(single_key, planted, num, site)
    return _Measured(exact.samples, prior, energies, writes, unit_energies, reads, leaks)


def _prior_effects(
    key: Array, planted: Planted, pairs: Pairs, latents: str
) -> tuple[UnitEffects, Array]:
    """Effects of redrawing each latent from the prior; energies on read-outs (latents, factors)."""
    base, donor = jax.random.normal(key, (2, len(pairs.eps), *planted.net.sites[latents].shape))
    net = planted.net
    effects = resample_effects(
        net, Runs(pairs.x0, pairs.eps, {latents: donor}, {latents: base})
    ).values

    def read(trace: Trace) -> Array:
        return planted.readout(trace.outputs)

    def held(x, eps, z):
        return read(planted.net(x, eps, patch(planted.net.sites, latents, z)))

    rows = Rows(pairs.x0, pairs.eps, base, donor, jax.vmap(held)(pairs.x0, pairs.eps, base))
    squared = patch_units(net, latents, rows, lambda y, row: (y - row.clean) ** 2, outcome=read)
    return effects, squared.mean(1) / 2


def _write_samples(planted: Planted, pairs: Pairs, site: str) -> tuple[Array, Array]:
    """Change of each read-out as the unit rises, in its SD, (units, factors, pairs); energies."""

    def read(trace: Trace) -> Array:
        return planted.readout(trace.outputs)

    rows = paired_rows(planted.net, pairs, site, read)
    change = patch_units(planted.net, site, rows, lambda y, row: y - row.clean, outcome=read)
    rises = jnp.sign(_units(planted, site, rows.donor) - _units(planted, site, rows.natural))
    writes = jnp.moveaxis(_in_sd(change * rises.T[..., None], rows.clean), -1, 1)
    # Both runs of a pair are one observation.
    num = len(pairs.eps)
    return (writes[..., :num] + writes[..., num:]) / 2, (change**2).mean(1) / 2


def _read_samples(key: Array, planted: Planted, num: int, site: str) -> tuple[Array, Array]:
    """Change of each unit as a factor rises, (units, factors, pairs), and of each read-out.

    In SD over the reference runs; of read-outs (factors, read-outs, pairs).
    """
    num_factors = jax.eval_shape(lambda: planted.sample(key, 1)).factors0.shape[1]
    all_pairs = [
        planted.sample(one, num, factor)
        for factor, one in enumerate(jax.random.split(key, num_factors))
    ]
    pairs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_pairs)
    run = jax.vmap(jax.vmap(planted.net))
    before, after = (run(x, pairs.eps) for x in (pairs.x0, pairs.x1))
    rises = jnp.sign(pairs.factors1 - pairs.factors0).sum(-1)[..., None]
    read = jax.vmap(jax.vmap(planted.readout))

    def change(values: Callable[[Trace], Array]) -> Array:
        first, second = values(before), values(after)
        spread = first.reshape(-1, first.shape[-1])
        return _in_sd((second - first) * rises, spread)

    reads = change(lambda t: jax.vmap(lambda v: _units(planted, site, v))(t.activations[site]))
    return jnp.moveaxis(reads, -1, 0), jnp.moveaxis(change(lambda t: read(t.outputs)), -1, 1)


def _in_sd(change: Array, values: Array) -> Array:
    """Changes (..., numbers) in standard deviations of each number over (runs, numbers)."""
    spread = values.std(0)
    spread = jnp.where(spread > 0, spread, 1.0)
    return change / spread.reshape((1,) * (change.ndim - 1) + spread.shape)


def _units(planted: Planted, site: str, values: Array) -> Array:
    """(runs, *site) to (runs, units): the mean over the positions of a unit."""
    return planted.net.sites[site].by_part(values).mean(2).T


def _by_site(estimate: Estimate, samples: dict[str, Array]) -> dict[str, Estimate]:
    """One estimate of all sites' units, cut at the sites."""
    ends = np.cumsum([len(values) for values in samples.values()])[:-1]
    starts = [0, *ends]
    stops = [*ends, len(estimate.value)]
    return {
        name: estimate[start:stop] for name, start, stop in zip(samples, starts, stops, strict=True)
    }


def _largest_gap(found: np.ndarray, truth: np.ndarray) -> float:
    """Of entries that are defined; infinite where one is defined and the other not."""
    if np.any(np.isnan(found) != np.isnan(truth)):
        return float("inf")
    return float(np.nanmax(np.abs(found - truth)))
