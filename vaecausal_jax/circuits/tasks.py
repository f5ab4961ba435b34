"""What a circuit is a circuit of, and how it is run.

A *task* is a behaviour to be explained: pairs of inputs, the reference ("corrupt") ``x0`` and the
target ("clean") ``x1``, an outcome that differs between them, and a metric of it. Its candidates
are nodes (units of sites) or edges between them.

A *circuit* is a dictionary of masks of nodes or of edges (``masks``). It is run on ``x1`` with
everything outside it ablated: held at a reference, one of ``ablation_references``. A node outside
is held whatever reads it; an edge outside is held for the one unit that reads it
(``effects.paths``). Sites that a circuit of nodes does not name are left alone; pairs of sites that
a circuit of edges does not name are ablated. Masks of floats mix run and reference, so that
circuits can be learned.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.masks import Masks, is_edge_circuit
from vaecausal_jax.data.pairs import Pairs, check_pairs
from vaecausal_jax.effects import paths
from vaecausal_jax.effects.mediation import mean_activations
from vaecausal_jax.effects.paths import OUTCOME, Values, Wiring
from vaecausal_jax.effects.shapley import inner_product
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions import Affine, Replace
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, measure, outputs
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced

Metric = Callable[[Array, Array, Array], Array]
"""``metric(y, y0, y1) -> scalar``: how far an outcome is from the reference's to the target's."""


class Task(NamedTuple):
    """A behaviour and its candidate nodes and edges; make one with ``make_task``.

    Attributes:
        net: The network with its parameters.
        wires: Nodes and what they read.
        pairs: References ("corrupt") and targets ("clean"); all arms of a pair share its noise.
        outcome: Trace to the array of interest.
        metric: (y, y0, y1) to a scalar; 0 at y0.
    """

    net: BoundModel
    wires: Wiring
    pairs: Pairs
    outcome: Outcome
    metric: Metric

    @property
    def node_sites(self) -> list[str]:
        """Sites whose units are candidates, in the forward's order."""
        return paths.node_sites(self.wires)

    def take(self, pairs: Any) -> "Task":
        """The task on some of its pairs (indices), such as one half."""
        return self._replace(pairs=self.pairs.take(np.asarray(pairs)))

    def swapped(self) -> "Task":
        """The task with reference and target exchanged."""
        return self._replace(pairs=self.pairs.swapped())


def make_task(
    net: BoundModel,
    pairs: Pairs,
    *,
    nodes: Sequence[str] = (),
    outcome: Outcome = outputs,
    metric: Metric = inner_product,
) -> Task:
    """A task, with its wiring found and its arguments checked.

    Args:
        net: The network with its parameters.
        pairs: References and targets.
        nodes: Sites whose units are candidates; all if empty. Leave out the image and the outputs
            of a network whose images have one channel: each would be one node that everything
            passes through.
        outcome: Trace to the array of interest; a factor read-out, say.
        metric: By default <y - y0, y1 - y0>, linear in y, 0 at the reference; sums over pairs then
            make shares of the total effect.

    Raises:
        ValueError: Unknown sites, or pairs that differ in number or shape.
    """
    check_pairs(pairs)
    wires = paths.wiring(net, pairs.x1[0], pairs.eps[0], nodes=nodes, outcome=outcome)
    return Task(net, wires, pairs, outcome, metric)


def node_circuit(task: Task, value: bool = True) -> dict[str, Array]:
    """All candidate nodes, or none of them."""
    nodes = task.wires.nodes
    return {name: jnp.full(nodes[name].num_units, value) for name in task.node_sites}


def edge_circuit(task: Task, value: bool = True) -> dict[paths.Pair, Array]:
    """All candidate edges, or none of them."""
    return paths.all_edges(task.wires) if value else paths.no_edges(task.wires)


def task_values(task: Task, x: Array) -> dict[str, Array]:
    """Every node's natural values at some inputs, (pairs, ...) each."""

    def run(x, eps):
        return paths.natural_values(task.net, task.wires, x, eps, outcome=task.outcome)

    return jax.jit(jax.vmap(run))(x, task.pairs.eps)


def ablation_references(key: Array, task: Task) -> dict[str, dict[str, Array]]:
    """The ablations a circuit is judged under: what everything outside it is held at.

    Args:
        key: Typed PRNG key, for the donors of "resample".
        task: The task.

    Returns:
        Name to values of every node, (pairs, ...) each: "corrupt", the pair's own reference run;
        "resample", the target run of another pair; "mean", the mean over target runs; "zero".
        The last two only where no node holds codes, which have no mean.

    Raises:
        ValueError: One pair, which has no donor.
    """
    if len(task.pairs.x1) < 2:
        raise ValueError("resampling needs at least two pairs, got one.")
    corrupt, clean = task_values(task, task.pairs.x0), task_values(task, task.pairs.x1)
    shift = jax.random.randint(key, (), 1, len(task.pairs.x1))
    references = {
        "corrupt": corrupt,
        "resample": jax.tree.map(lambda a: jnp.roll(a, shift, axis=0), clean),
    }
    if all(jnp.issubdtype(a.dtype, jnp.floating) for a in clean.values()):
        means = mean_activations(task.net, task.pairs.x1, task.pairs.eps)
        means = {n: means.get(n, value.mean(0)) for n, value in clean.items()}
        references["mean"] = jax.tree.map(
            lambda mean, a: jnp.broadcast_to(mean[None], a.shape), means, clean
        )
        references["zero"] = jax.tree.map(jnp.zeros_like, clean)
    return references


def run_circuit(task: Task, circuit: Masks, x: Array, eps: Array, reference: Values) -> Array:
    """The outcome of one input when only the circuit runs on it; everything else is ablated.

    Args:
        task: The task; its pairs are not used.
        circuit: Masks of nodes or of edges, not both.
        x: One input.
        eps: Its noise.
        reference: Node to the value it is held at, for this input.

    Raises:
        ValueError: Masks that do not fit, or of both kinds.
    """
    check_circuit(task, circuit)
    if is_edge_circuit(circuit):
        run = paths.run_edges(
            task.net, task.wires, x, eps, circuit, reference, outcome=task.outcome
        )
        return run[OUTCOME]
    held = {
        name: _held(task.wires.nodes[name].spread(jnp.asarray(mask)), reference[name])
        for name, mask in circuit.items()
    }
    return measure(task.outcome, task.net(x, eps, held))


def circuit_metrics(
    task: Task, circuits: Masks, reference: Values, *, sweep: SweepFn = sweep
) -> Array:
    """Metric of several circuits on the target input of every pair, as one sweep.

    Args:
        task: The task.
        circuits: Masks with a leading axis of circuits.
        reference: Node to values (pairs, ...), see ``ablation_references``.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        (circuits, pairs).
    """
    sweep = unreduced(sweep)
    y0, y1 = outcomes(task)
    sources = {n: reference[n] for n in reference if n != OUTCOME}

    def run(circuit, pair):
        x, eps, y0, y1, held = pair
        return task.metric(run_circuit(task, circuit, x, eps, held), y0, y1)

    return sweep(run, dict(circuits), (task.pairs.x1, task.pairs.eps, y0, y1, sources))


def outcomes(task: Task) -> tuple[Array, Array]:
    """Plain outcomes of the reference and target inputs, (pairs, ...) each."""

    def run(x, eps):
        return measure(task.outcome, task.net(x, eps))

    run = jax.jit(jax.vmap(run))
    return run(task.pairs.x0, task.pairs.eps), run(task.pairs.x1, task.pairs.eps)


def check_circuit(task: Task, circuit: Masks) -> None:
    """Raises ValueError unless the masks fit the task's candidates."""
    if is_edge_circuit(circuit):
        expected = {pair: task.wires.edge_shape(pair) for pair in circuit}
    else:
        for name in circuit:
            if name not in task.node_sites:
                raise ValueError(unknown_choice("node", name, task.node_sites))
        expected = {name: (task.wires.nodes[name].num_units,) for name in circuit}
    for key, mask in circuit.items():
        if jnp.shape(mask) != expected[key]:
            raise ValueError(
                f"mask of {key!r} has shape {jnp.shape(mask)}, expected {expected[key]}."
            )


def _held(mask: Array, reference: Array) -> Any:
    """The intervention that leaves a share of a site and holds the rest at the reference."""
    if mask.dtype == jnp.bool_:
        return Replace(~mask, reference)
    share = mask.astype(reference.dtype)
    return Affine(jnp.ones_like(mask, bool), share, (1 - share) * reference)
