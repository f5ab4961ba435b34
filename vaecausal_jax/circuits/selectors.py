"""Selectors: from scores of nodes or edges to a circuit.

Scores of all sites compete together. What is compared is their absolute value: a part that works
against the behaviour belongs to its circuit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.masks import (
    Masks,
    Samples,
    Scores,
    as_booleans,
    flat_scores,
    is_edge_circuit,
    ranking,
    unflatten,
)
from vaecausal_jax.circuits.tasks import Task, outcomes, run_circuit
from vaecausal_jax.effects.paths import OUTCOME, Values
from vaecausal_jax.inference import false_discovery, minimum_effect_test


def select_top(scores: Scores, num: int) -> dict[Any, np.ndarray]:
    """The ``num`` parts of largest absolute score; of ties, those that come first.

    Raises:
        ValueError: More parts than there are, a negative number, or NaN among the scores.
    """
    values, _ = flat_scores(scores)
    if not 0 <= num <= values.size:
        raise ValueError(f"num must lie between 0 and the {values.size} scored parts, got {num}.")
    chosen = np.zeros(values.size, bool)
    chosen[ranking(scores)[:num]] = True
    return unflatten(scores, chosen)


def select_significant(
    samples: Samples, *, q: float = 0.05, min_effect: float = 0.0
) -> dict[Any, np.ndarray]:
    """The parts whose mean effect over pairs exceeds a least one, at a false discovery rate.

    Tests |mean| > min_effect by Student's t (``minimum_effect_test``); Benjamini and Hochberg over
    all parts together. With many pairs anything differs from zero: give the least effect that
    matters.

    Args:
        samples: Effects with a last axis of pairs, such as ``node_samples(task).noising``.
        q: False discovery rate.
        min_effect: Least mean effect, in the metric's units.

    Raises:
        ValueError: q outside (0, 1), a negative least effect, or fewer than two pairs.
    """
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie between 0 and 1, got {q}.")
    p_values = {key: minimum_effect_test(value, min_effect) for key, value in samples.items()}
    adjusted = false_discovery(flat_scores(p_values)[0])
    return unflatten(p_values, adjusted <= q)


def select_greedily(
    task: Task,
    circuit: Masks,
    reference: Values,
    *,
    tolerance: float,
    scores: Scores | None = None,
    divergence: Callable[[Array, Array], Array] | None = None,
) -> dict[Any, np.ndarray]:
    """Prunes parts one by one, from the outputs back, and keeps those that are missed.

    A part is removed, for good, if the run's distance from the full run then grows by less than
    ``tolerance``. This is the algorithm of ACDC (Conmy et al. 2023, arXiv:2304.14997), with the
    squared distance of outcomes, over that of the mean total effect, in place of its KL. The whole
    search is one compiled loop with one run of the circuit per part and pair.

    Args:
        task: The task.
        circuit: Where to start: all parts, or those worth trying.
        reference: What is ablated to, (pairs, ...): see ``ablation_references``.
        tolerance: Largest growth that is no loss, as a share of |TE|^2.
        scores: Parts are tried from the smallest absolute score up; from the last to the first of
            each site, sites from the output side, if None.
        divergence: (outcome, full outcome) of one pair to a distance, instead of the squared
            distance over the mean |TE|^2.

    Raises:
        ValueError: A circuit that does not fit, or a negative tolerance.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}.")
    circuit = as_booleans(circuit)
    held, _ = flat_scores(circuit)
    order = _backwards(task, circuit) if scores is None else ranking(_like(scores, circuit))[::-1]
    order = order[held[order].astype(bool)]
    y0, y1 = outcomes(task)
    total = float(jnp.mean(jnp.sum((y1 - y0).reshape(len(y0), -1) ** 2, axis=1)))
    scale = total if total > 0 else 1.0
    apart = divergence or (lambda y, full: jnp.sum((y - full) ** 2) / scale)
    reference = {n: reference[n] for n in reference if n != OUTCOME}

    @jax.jit
    def search(flat, y1, x, eps, reference):
        def distance(flat):
            masks = unflatten(circuit, flat)

            def one(pair):
                x, eps, y1, held = pair
                return apart(run_circuit(task, masks, x, eps, held), y1)

            return jnp.mean(jax.lax.map(one, (x, eps, y1, reference), batch_size=16))

        def attempt(state, part):
            flat, before = state
            without = flat.at[part].set(False)
            after = distance(without)
            missed = ~(after - before < tolerance)
            return (jnp.where(missed, flat, without), jnp.where(missed, before, after)), None

        (flat, _), _ = jax.lax.scan(attempt, (flat, distance(flat)), jnp.asarray(order))
        return flat

    kept = search(jnp.asarray(held, bool), y1, task.pairs.x1, task.pairs.eps, reference)
    return {k: np.asarray(v) for k, v in unflatten(circuit, np.asarray(kept)).items()}


def _like(scores: Scores, circuit: Masks) -> Scores:
    if set(scores) != set(circuit):
        differing = sorted(map(str, set(scores) ^ set(circuit)))
        raise ValueError(f"scores and circuit differ: {differing} in one of them only.")
    return {key: scores[key] for key in circuit}


def _backwards(task: Task, circuit: Masks) -> np.ndarray:
    """Positions of the parts, those nearest the outcome first."""
    depth = {name: i for i, name in enumerate(task.wires.nodes)}
    edges = is_edge_circuit(circuit)
    _, labels = flat_scores({k: np.asarray(v) for k, v in circuit.items()})

    def place(label):
        return (depth[label[2]], depth[label[0]]) if edges else (depth[label[0]],)

    return np.array(sorted(range(len(labels)), key=lambda i: place(labels[i]))[::-1], int)
