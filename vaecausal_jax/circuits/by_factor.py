"""A circuit for every ground-truth factor, what circuits share, and the graph of factors they make.

A factor's task is its minimal pairs: inputs that differ in this factor alone. Its circuit are the
units that carry at least a least share of the change, found on one half of the pairs and judged on
the other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.effect_graphs import EffectGraph, edge_values
from vaecausal_jax.circuits.evaluation import Curve, faithfulness_curve, faithfulness_grid
from vaecausal_jax.circuits.masks import (
    Masks,
    Scores,
    flat_scores,
    jaccard,
    stack_circuits,
    unflatten,
)
from vaecausal_jax.circuits.null_graphs import generator
from vaecausal_jax.circuits.scorers import Arms, mean_scores, node_samples
from vaecausal_jax.circuits.selectors import select_significant
from vaecausal_jax.circuits.tasks import Task, ablation_references, make_task, outcomes
from vaecausal_jax.data.pairs import Pairs, check_pairs
from vaecausal_jax.inference import Estimate, equivalence_test, false_discovery, split_halves
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, outputs


class FactorCircuit(NamedTuple):
    """One factor's circuit.

    Attributes:
        circuit: Its masks.
        scores: Shares of the total effect of every part, from the half it was found on.
        faithfulness: Ablation to f(C) on the other half, with interval.
        curve: Faithfulness of the top-k circuits on the other half, under "corrupt".
        undecided: Parts outside the circuit that were not shown to carry less than the least share
            either: too few pairs to tell.
    """

    circuit: dict[Any, np.ndarray]
    scores: Scores
    faithfulness: dict[str, Estimate]
    curve: Curve
    undecided: dict[Any, np.ndarray]


class FactorMap(NamedTuple):
    """The computational graph, each unit counted for the factors whose circuits hold it.

    Attributes:
        factors: Their names.
        share: (factors, factors) share of all effect between circuits that leads from the units of
            one factor to those of another. Off the diagonal, where circuits meet.
        null: Mean of it when the units of each layer are shuffled.
        p_value: Of a share no larger than chance, adjusted (Benjamini and Hochberg).
    """

    factors: tuple[str, ...]
    share: np.ndarray
    null: np.ndarray
    p_value: np.ndarray


def factor_circuits(
    key: Array,
    net: BoundModel,
    pairs: Mapping[str, Pairs],
    *,
    nodes: Sequence[str] = (),
    outcome: Outcome = outputs,
    samples_fn: Callable[[Task], Arms] = node_samples,
    q: float = 0.05,
    min_share: float = 0.01,
) -> dict[str, FactorCircuit]:
    """Finds and judges the circuit of every factor.

    A part belongs if its mean noising or denoising effect is more than ``min_share`` of the total,
    either way, at a false discovery rate q over all parts: units that back each other up are not
    missed, and units that need each other restore nothing alone, but each fails only one of the
    two. What is in no circuit is either shown to carry less (``equivalence_test`` in both arms, at
    the same rate) or ``undecided``: with few pairs, absence from a circuit says little.

    Args:
        key: Typed PRNG key.
        net: The network with its parameters.
        pairs: Factor to pairs that differ in it alone, eight or more.
        nodes: Sites whose units are candidates; see ``make_task``.
        outcome: Trace to the array of interest.
        samples_fn: Task to effects of its parts: ``node_samples`` or ``edge_samples``.
        q: False discovery rate.
        min_share: Least share of the total effect that counts.

    Raises:
        ValueError: No factors, fewer than eight pairs, or a factor that changes nothing.
    """
    if not pairs:
        raise ValueError("pairs holds no factor.")
    found = {}
    for number, (name, of_factor) in enumerate(pairs.items()):
        num = check_pairs(of_factor)
        if num < 8:
            raise ValueError(f"factor {name!r} has {num} pairs, expected 8 or more.")
        half_key, donor_key, weight_key = jax.random.split(jax.random.fold_in(key, number), 3)
        task = make_task(net, of_factor, nodes=nodes, outcome=outcome)
        first, second = split_halves(half_key, jnp.arange(num))
        explore, confirm = task.take(first), task.take(second)
        y0, y1 = outcomes(explore)
        total = float(jnp.mean(jax.vmap(task.metric)(y1, y0, y1)))
        if total == 0:
            raise ValueError(f"factor {name!r} changes nothing in the outcome.")
        circuit, scores, undecided = select_circuit(
            samples_fn(explore), total, q=q, min_share=min_share
        )
        references = ablation_references(donor_key, confirm)
        judged, _ = faithfulness_grid(weight_key, confirm, stack_circuits([circuit]), references)
        curve = faithfulness_curve(
            weight_key, confirm, scores, references["corrupt"], ablation="corrupt"
        )
        found[name] = FactorCircuit(circuit, scores, judged, curve, undecided)
    return found


class SelectedCircuit(NamedTuple):
    """What ``select_circuit`` finds; see ``FactorCircuit``."""

    circuit: dict[Any, np.ndarray]
    scores: Scores
    undecided: dict[Any, np.ndarray]


def select_circuit(
    arms: Arms, total: float, *, q: float = 0.05, min_share: float = 0.01
) -> SelectedCircuit:
    """The parts that carry more than a least share of a total effect, in either arm.

    Args:
        arms: Effects of every part, noised and denoised, pair by pair.
        total: Mean total effect over the same pairs, not 0.
        q: False discovery rate, half of it for each arm.
        min_share: Least share of the total effect that counts.

    Returns:
        The circuit; of every part the larger of its mean effects as a share of the total; the parts
        that are undecided.
    """
    least = min_share * abs(total)
    chosen = [select_significant(arm, q=q / 2, min_effect=least) for arm in arms]
    circuit = {key: chosen[0][key] | chosen[1][key] for key in chosen[0]}
    means = [{k: mean / total for k, mean in mean_scores(arm).items()} for arm in arms]
    scores = {
        k: np.where(np.abs(means[0][k]) >= np.abs(means[1][k]), means[0][k], means[1][k])
        for k in circuit
    }
    return SelectedCircuit(circuit, scores, _undecided(arms, circuit, q, least))


def circuit_overlap(circuits: Mapping[str, Masks], *, part: str = "") -> np.ndarray:
    """Jaccard likeness of every two circuits, (circuits, circuits).

    Args:
        circuits: Name to circuit, of nodes or of edges.
        part: Only sites (targets, for edges) whose names begin so, such as "encoder/".

    Raises:
        ValueError: No site begins so.
    """
    chosen = {name: _restricted(circuit, part) for name, circuit in circuits.items()}
    return np.array([[jaccard(a, b) for b in chosen.values()] for a in chosen.values()])


def shared_nodes(circuits: Mapping[str, Masks]) -> dict[Any, np.ndarray]:
    """How many of the circuits hold each part."""
    first = next(iter(circuits.values()))
    return {
        key: np.sum([np.asarray(c[key], bool) for c in circuits.values()], axis=0) for key in first
    }


def factor_map(
    key: Array, graph: EffectGraph, circuits: Mapping[str, Masks], *, num_null: int = 999
) -> FactorMap:
    """Collapses the effect graph onto factors: where each factor's circuit leads.

    G[k, l] = sum over edges u -> v of size(u, v) P[u, k] P[v, l], divided by the sum of all its
    entries; P[u, k] is 1 over the number of circuits that hold u if k's does, else 0. The null
    shuffles the rows of P within each layer, so that the number of units and of factors a unit
    serves stay.

    Args:
        key: Typed PRNG key.
        graph: Effects between the sites of the circuits.
        circuits: Factor to circuit of nodes.
        num_null: Shuffles.

    Raises:
        ValueError: No edge between units of circuits.
    """
    names = tuple(circuits)
    members = {}
    for site in next(iter(circuits.values())):
        held = np.stack([np.asarray(c[site], float) for c in circuits.values()], axis=-1)
        members[site] = held / np.maximum(held.sum(-1, keepdims=True), 1)
    sizes = {
        pair: np.nan_to_num(values)
        for pair, values in edge_values(graph).items()
        if pair[0] in members and pair[1] in members
    }

    def collapsed(members):
        table = sum(members[s].T @ values @ members[t] for (s, t), values in sizes.items())
        table = np.asarray(table, float)
        return table / table.sum() if table.ndim and table.sum() > 0 else None

    share = collapsed(members)
    if share is None:
        raise ValueError("the graph has no effect between units of the circuits.")
    rng = generator(key)
    draws = [
        collapsed({s: rng.permutation(p, axis=0) for s, p in members.items()})
        for _ in range(num_null)
    ]
    nulls = np.stack([np.zeros_like(share) if d is None else d for d in draws])
    p_value = (1 + (nulls >= share[None] * (1 - 1e-12)).sum(0)) / (1 + num_null)
    return FactorMap(names, share, nulls.mean(0), false_discovery(p_value))


def _undecided(arms: Arms, circuit: Masks, q: float, least: float) -> dict[Any, np.ndarray]:
    """Parts neither in the circuit nor shown, at rate q, to have less than the least effect."""
    p_values = {
        key: np.max([equivalence_test(arm[key], least) for arm in arms], axis=0) for key in circuit
    }
    small = unflatten(p_values, false_discovery(flat_scores(p_values)[0]) <= q)
    return {key: ~small[key] & ~circuit[key] for key in circuit}


def _restricted(circuit: Masks, part: str) -> dict[Any, Any]:
    chosen = {
        key: mask
        for key, mask in circuit.items()
        if (key[1] if isinstance(key, tuple) else key).startswith(part)
    }
    if not chosen:
        raise ValueError(f"no site of the circuits begins with {part!r}: {list(circuit)}.")
    return chosen
