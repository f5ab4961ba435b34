"""Whether a circuit lacks a part, has one too many, or could be smaller.

Completeness compares the circuit with the network when both lose the same parts; minimality asks
what each part of the circuit is needed for; the exhaustive search finds the smallest faithful one.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.evaluation import FaithfulnessSamples, faithfulness_samples
from vaecausal_jax.circuits.masks import (
    Masks,
    all_subsets_of,
    as_booleans,
    stack_circuits,
    without_each,
)
from vaecausal_jax.circuits.tasks import Task
from vaecausal_jax.effects.paths import Values
from vaecausal_jax.inference import Estimate
from vaecausal_jax.sweeps.grid import SweepFn, sweep


class Completeness(NamedTuple):
    """How alike the circuit and the network are once the same parts are taken from both.

    Attributes:
        gap: |f(C minus K) - f(full minus K)| of each knock-out K, (knock-outs,).
        largest: The largest gap; C is incomplete if it is far from 0 (Wang et al. 2022).
        worst: The parts whose loss shows it, a circuit.
    """

    gap: np.ndarray
    largest: float
    worst: dict[Any, np.ndarray]


def completeness(
    task: Task, circuit: Masks, reference: Values, knockouts: Masks, *, sweep: SweepFn = sweep
) -> Completeness:
    """Compares the circuit and the whole network with the same parts of the circuit knocked out.

    A circuit that lacks a backup falls when its main part is lost, while the network does not
    (Wang et al. 2022, arXiv:2211.00593). Over all subsets the largest gap is exact; take
    ``all_subsets_of`` for small circuits, ``random_subsets_of`` otherwise.

    Args:
        task: The task.
        circuit: The circuit.
        reference: What is ablated to.
        knockouts: Masks with a leading axis of knock-outs, true where a part is lost.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.
    """
    circuit = {key: jnp.asarray(mask, bool) for key, mask in circuit.items()}
    lost = {key: jnp.asarray(knockouts[key], bool) for key in circuit}
    both = {key: jnp.concatenate([circuit[key][None] & ~lost[key], ~lost[key]]) for key in circuit}
    samples = faithfulness_samples(task, both, reference, sweep=sweep)
    gap = np.abs(np.subtract(*np.split(samples.ratio(), 2)))
    worst = int(np.argmax(np.where(np.isnan(gap), -1, gap)))
    return Completeness(
        gap, float(gap[worst]), {key: np.asarray(mask[worst]) for key, mask in lost.items()}
    )


def minimality(
    key: Array,
    task: Task,
    circuit: Masks,
    reference: Values,
    *,
    ablation: str,
    level: float = 0.95,
    sweep: SweepFn = sweep,
) -> tuple[Estimate, list[tuple[Any, ...]]]:
    """What each part of a circuit is needed for: f(C) - f(C without the part).

    Args:
        key: Typed PRNG key.
        task: The task.
        circuit: The circuit.
        reference: What is ablated to.
        ablation: Its name.
        level: Coverage.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        Estimate (parts,), and the label of each part; see ``flat_scores``.

    Raises:
        ValueError: An empty circuit.
    """
    without, labels = without_each(circuit)
    joined = stack_circuits([as_booleans(circuit)])
    joined = {k: jnp.concatenate([joined[k], without[k]]) for k in joined}
    samples = faithfulness_samples(task, joined, reference, sweep=sweep)
    lost = FaithfulnessSamples(samples.restored[:1] - samples.restored[1:], samples.total)
    return lost.estimate(key, ablation=ablation, level=level), labels


def smallest_by_search(
    task: Task, circuit: Masks, reference: Values, *, threshold: float = 0.9
) -> dict[Any, np.ndarray]:
    """The smallest faithful circuit within a small one, by trying every subset.

    Of equally small ones the most faithful is returned. It says how far a selector's circuit is
    from the smallest; at most 14 parts can be searched.

    Raises:
        ValueError: Too many parts, or no subset that reaches the threshold.
    """
    subsets = all_subsets_of(circuit)
    values = faithfulness_samples(task, subsets, reference).ratio()
    size = sum(mask.reshape(len(values), -1).sum(1) for mask in subsets.values())
    if not (values >= threshold).any():
        raise ValueError(f"no subset reaches {threshold}; the best has {np.nanmax(values):.3g}.")
    order = np.lexsort((-values, np.where(values >= threshold, size, np.inf)))
    return {key: mask[order[0]] for key, mask in subsets.items()}
