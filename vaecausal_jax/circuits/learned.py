"""Learned circuits: masks trained through the gradient of the run that they mask.

Subnetwork probing (Cao et al. 2021, arXiv:2104.03514) for nodes, and edge pruning (Bhaskar et al.
2024, arXiv:2406.16778) for edges: each part has a hard-concrete gate (Louizos et al. 2018,
arXiv:1712.01312), and what is minimised is the circuit's distance from the full run plus a price
per part.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vaecausal_jax.circuits.masks import Masks, Scores
from vaecausal_jax.circuits.tasks import Task, outcomes, run_circuit
from vaecausal_jax.effects.paths import OUTCOME, Values

_BETA, _LOW, _HIGH = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard-concrete distribution, as published."""


def learn_masks(
    key: Array,
    task: Task,
    circuit: Masks,
    reference: Values,
    *,
    price: float,
    num_steps: int = 500,
    learning_rate: float = 0.1,
    batch_size: int = 16,
) -> Scores:
    """Scores of nodes or edges: how probable it is that a trained gate is open at all.

    Minimises E |Y(circuit) - Y(x1)|^2 / E |TE|^2 + price * (expected share of open gates) by Adam;
    the gates outside the circuit given stay closed. Training starts with P(open) = 0.93; a gate
    that changes nothing closes at any price above 0.

    Args:
        key: Typed PRNG key, for batches and gates.
        task: The task.
        circuit: Which parts may be open, e.g. ``node_circuit(task)``.
        reference: What closed gates let through, (pairs, ...): see ``ablation_references``.
        price: Of all gates together, as a share of the total effect: 0.1 says that the whole
            network is worth a tenth of it.
        num_steps: Adam steps.
        learning_rate: Of the gates' log-odds.
        batch_size: Pairs per step, drawn with replacement.

    Raises:
        ValueError: A price that is negative, no steps, or a task without effect.
    """
    if not price >= 0 or num_steps < 1 or batch_size < 1:
        raise ValueError(
            f"price must not be negative, num_steps and batch_size at least 1, got {price}, "
            f"{num_steps} and {batch_size}."
        )
    allowed = {name: jnp.asarray(mask, bool) for name, mask in circuit.items()}
    total_parts = sum(int(mask.sum()) for mask in allowed.values())
    y0, y1 = outcomes(task)
    scale = float(jnp.mean(jnp.sum((y1 - y0).reshape(len(y0), -1) ** 2, axis=1)))
    if scale == 0 or total_parts == 0:
        raise ValueError("nothing to learn: x0 and x1 have the same outcome, or no part may open.")
    data = (task.pairs.x1, task.pairs.eps, y1, {n: reference[n] for n in reference if n != OUTCOME})
    optimizer = optax.adam(learning_rate)

    def loss(logits, keys, rows):
        gates = _sample_gates(keys, logits)
        gates = {n: jnp.where(allowed[n], g, 0.0) for n, g in gates.items()}

        def distance(row):
            x, eps, y1, held = row
            return jnp.sum((run_circuit(task, gates, x, eps, held) - y1) ** 2)

        is_open = {n: jnp.where(allowed[n], open_probability(a), 0.0) for n, a in logits.items()}
        share = sum(jnp.sum(p) for p in is_open.values()) / total_parts
        return jnp.mean(jax.vmap(distance)(rows)) / scale + price * share

    @jax.jit
    def train(key, data):
        def step(state, key):
            logits, optimizer_state = state
            row_key, gate_key = jax.random.split(key)
            chosen = jax.random.randint(row_key, (batch_size,), 0, len(task.pairs.x1))
            rows = jax.tree.map(lambda a: a[chosen], data)
            updates, optimizer_state = optimizer.update(
                jax.grad(loss)(logits, gate_key, rows), optimizer_state
            )
            return (jax.tree.map(jnp.add, logits, updates), optimizer_state), None

        start = {n: jnp.full(mask.shape, 1.0) for n, mask in allowed.items()}
        (logits, _), _ = jax.lax.scan(
            step, (start, optimizer.init(start)), jax.random.split(key, num_steps)
        )
        return {n: jnp.where(allowed[n], open_probability(a), 0.0) for n, a in logits.items()}

    return {name: np.asarray(p) for name, p in train(key, data).items()}


def open_probability(logits: Array) -> Array:
    """P(gate > 0) of a hard-concrete gate: sigmoid(logits - beta ln(-low / high))."""
    return jax.nn.sigmoid(logits - _BETA * np.log(-_LOW / _HIGH))


def _sample_gates(key: Array, logits: dict[Any, Array]) -> dict[Any, Array]:
    """Gates in [0, 1], with a part of their mass on either end."""
    gates = {}
    for number, (name, value) in enumerate(logits.items()):
        noise = jax.random.logistic(jax.random.fold_in(key, number), value.shape, value.dtype)
        stretched = jax.nn.sigmoid((noise + value) / _BETA) * (_HIGH - _LOW) + _LOW
        gates[name] = jnp.clip(stretched, 0.0, 1.0)
    return gates
