"""Path-specific effects: which consumer sees which run (Avin, Shpitser and Pearl 2005).

A patch of a unit is seen by everything downstream. An *edge* intervention is seen by one consumer:
unit v reads unit u from the run in hand if the edge (u, v) is in the set, and from a reference run
if it is not; what v then is, its own consumers see likewise, edge by edge. With the reference at
``x0`` and the run at ``x1`` this is the path-specific effect through the set; with an ablated
reference it is a circuit of edges (path patching, Goldowsky-Dill et al. 2023, arXiv:2304.05969).

Nothing is known of the network but the contract of a forward. Which site reads which is found by
fixing all sites before it and asking what its value still depends on (``wiring``). A consumer that
reads a mix of two runs is a forward in which the sites it reads are replaced by that mix and it
alone is looked at; the compiler removes the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data.pairs import Pairs, check_pair
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.indices import check_index
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Site, measure, outputs
from vaecausal_jax.interventions.types import Fixed
from vaecausal_jax.jax_versions import used_inputs

INPUT = "input"
"""The node of the whole input x, of one unit: what no site comes before."""

OUTCOME = "outcome"
"""The node of the outcome: the entries of a vector are its units, or an image's channels."""

Pair = tuple[str, str]
"""Source and target node, by name."""

Edges = Mapping[Pair, ArrayLike]
"""(source, target) to booleans (source units, target units), or to shares of [0, 1] of the run's
value in what is read. A pair that is absent has no edges in the set."""

Values = Mapping[str, Array]
"""Node to its value in a run, ``INPUT`` and ``OUTCOME`` among them."""


class Node(NamedTuple):
    """A value of the network as units that can be read one by one.

    Attributes:
        shape: Shape of the value, for one image.
        dtype: Its dtype.
        axis: The axis that counts units; None where the value is one unit or each position is one.
        num_units: How many units.
    """

    shape: tuple[int, ...]
    dtype: Any
    axis: int | None
    num_units: int

    def spread(self, per_unit: Array) -> Array:
        """(units,) as an array of the value's rank, which broadcasts to it."""
        if self.num_units == 1:
            return per_unit.reshape((1,) * len(self.shape))
        if self.axis is None:
            return per_unit.reshape(self.shape)
        along = [self.num_units if i == self.axis else 1 for i in range(len(self.shape))]
        return per_unit.reshape(along)

    def take(self, value: Array, unit: Any) -> Array:
        """One unit of a value, without the axis of units."""
        check_index("node", "unit", unit, self.num_units)
        if self.num_units == 1:
            return value
        if self.axis is None:
            return value.reshape(-1)[unit]
        return jnp.take(value, unit, axis=self.axis)

    def box(self, value: Array, unit: Any) -> tuple[Array, tuple[Any, ...]]:
        """One unit of a value with all axes, and the first index of that part along each."""
        check_index("node", "unit", unit, self.num_units)
        if self.num_units == 1:
            return value, (0,) * len(self.shape)
        if self.axis is None:
            start = tuple(jnp.unravel_index(unit, self.shape))
            return jax.lax.dynamic_slice(value, start, (1,) * len(self.shape)), start
        start = tuple(unit if i == self.axis else 0 for i in range(len(self.shape)))
        size = [1 if i == self.axis else length for i, length in enumerate(self.shape)]
        return jax.lax.dynamic_slice(value, start, size), start

    def join(self, parts: Array) -> Array:
        """The value whose units, as from ``take``, are stacked on a leading axis."""
        if self.num_units == 1:
            return parts[0]
        if self.axis is None:
            return parts.reshape(self.shape)
        return jnp.moveaxis(parts, 0, self.axis)

    def by_unit(self, value: Array) -> Array:
        """(units, positions) of a value: the inverse of ``join``, positions flattened."""
        if self.num_units > 1 and self.axis is not None:
            value = jnp.moveaxis(value, self.axis, 0)
        return value.reshape(self.num_units, -1)


class Wiring(NamedTuple):
    """Which nodes read which.

    Attributes:
        nodes: Name to node in the order of the forward: ``INPUT``, the sites, ``OUTCOME``.
        parents: Name to the nodes that it reads with no other node between.
    """

    nodes: dict[str, Node]
    parents: dict[str, tuple[str, ...]]

    @property
    def pairs(self) -> list[Pair]:
        """All (source, target) with edges between them, targets in the forward's order."""
        return [(s, target) for target, sources in self.parents.items() for s in sources]

    def edge_shape(self, pair: Pair) -> tuple[int, int]:
        """(source units, target units) of a pair.

        Raises:
            ValueError: Nodes that do not exist, or of which the second does not read the first.
        """
        source, target = pair
        for name in pair:
            if name not in self.nodes:
                raise ValueError(unknown_choice("node", name, self.nodes))
        if source not in self.parents[target]:
            raise ValueError(
                f"{target!r} does not read {source!r} directly; it reads "
                f"{', '.join(self.parents[target]) or 'nothing'}."
            )
        return self.nodes[source].num_units, self.nodes[target].num_units


def wiring(
    net: BoundModel,
    x: Any,
    eps: Any,
    *,
    nodes: Sequence[str] = (),
    outcome: Outcome = outputs,
) -> Wiring:
    """Finds which nodes read which, without running anything.

    Args:
        net: The network with its parameters.
        x: One input, or its shape and dtype.
        eps: Its noise, likewise.
        nodes: Sites that are nodes; all if empty. A site that is none is part of the edges through
            it, such as an image of one channel between two layers of units.
        outcome: Trace to the array of interest: the last node.

    Raises:
        ValueError: An unknown site, or one named like the two nodes that are always there.
    """
    net.sites.check_known()
    for name in (INPUT, OUTCOME):
        if name in net.sites:
            raise ValueError(f"a site may not be named {name!r}; that is a node of its own.")
    for name in nodes:
        net.sites[name]  # An unknown one is a ValueError.
    chosen = [name for name in net.sites if not nodes or name in nodes]
    x, eps = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (x, eps))
    known = {INPUT: _whole_node(x)}
    values = {INPUT: x}
    parents: dict[str, tuple[str, ...]] = {INPUT: ()}
    noise = jnp.zeros(eps.shape, eps.dtype)
    for name in [*chosen, OUTCOME]:

        def value_of(values, name=name):
            return _evaluate(net, noise, name, values, outcome)

        program, shape = jax.make_jaxpr(value_of, return_shape=True)(values)
        used = used_inputs(program)
        # Leaves of a dictionary come in the order of its sorted keys.
        parents[name] = tuple(n for n in values if dict(zip(sorted(values), used, strict=True))[n])
        known[name] = _outcome_node(shape) if name == OUTCOME else _site_node(net.sites[name])
        values[name] = jax.ShapeDtypeStruct(shape.shape, shape.dtype)
    return Wiring(known, parents)


def all_edges(wires: Wiring) -> dict[Pair, Array]:
    """The set of all edges: under it a run is itself."""
    return {pair: jnp.ones(wires.edge_shape(pair), bool) for pair in wires.pairs}


def no_edges(wires: Wiring) -> dict[Pair, Array]:
    """The empty set: under it the outcome is the reference's, recomputed."""
    return {pair: jnp.zeros(wires.edge_shape(pair), bool) for pair in wires.pairs}


def along_path(wires: Wiring, *names: str) -> dict[Pair, Array]:
    """All edges between consecutive nodes of a path, such as (INPUT, "m1", "m2", OUTCOME).

    Raises:
        ValueError: Fewer than two nodes, or two of which the second does not read the first.
    """
    if len(names) < 2:
        raise ValueError(f"a path needs at least two nodes, got {names}.")
    pairs = zip(names[:-1], names[1:], strict=True)
    return {pair: jnp.ones(wires.edge_shape(pair), bool) for pair in pairs}


def natural_values(
    net: BoundModel,
    wires: Wiring,
    x: Array,
    eps: Array,
    *,
    outcome: Outcome = outputs,
) -> dict[str, Array]:
    """Every node's value in the plain run of one input.

    Raises:
        ValueError: An input of another shape than the wiring was found with, such as several.
    """
    given = jax.tree.map(jnp.shape, x)
    if hasattr(x, "shape") and given != wires.nodes[INPUT].shape:
        raise ValueError(
            f"the input has shape {given}, expected {wires.nodes[INPUT].shape}: one run at a time. "
            "Use jax.vmap over runs or pairs."
        )
    trace = net(x, eps, {})
    values = {n: trace.activations[n] for n in wires.nodes if n not in (INPUT, OUTCOME)}
    return {INPUT: x, **values, OUTCOME: measure(outcome, trace)}


def run_edges(
    net: BoundModel,
    wires: Wiring,
    x: Array,
    eps: Array,
    edges: Edges,
    reference: Values,
    *,
    outcome: Outcome = outputs,
) -> dict[str, Array]:
    """One input's run in which each consumer reads each unit from it or from the reference.

    Unit v computes its value from its parents: u as it is in this run where (u, v) is an edge of
    the set, u as it is in the reference where not. Costs one evaluation of a layer for each of its
    units. For one image; batch with ``jax.vmap``. Differentiable in ``edges`` where they are
    floats.

    Args:
        net: The network with its parameters.
        wires: From ``wiring``, with the same ``outcome``.
        x: The input of this run.
        eps: Noise.
        edges: The edge set; see ``Edges``.
        reference: Value of every node that is read without an edge: of a run at another input
            (``natural_values``), means, zeros.
        outcome: Trace to the array of interest.

    Returns:
        Node to its value in this run; ``OUTCOME`` to the outcome.

    Raises:
        ValueError: Edges between nodes that are not connected, of the wrong shape or dtype, or a
            reference that lacks a node or does not fit it.
    """
    edges = {pair: _checked_edges(wires, pair, mask) for pair, mask in edges.items()}
    _check_reference(wires, reference)
    values = {INPUT: jnp.asarray(x)}
    for target, sources in wires.parents.items():
        if target == INPUT:
            continue
        node = wires.nodes[target]
        columns = {}
        for source in sources:
            absent = jnp.zeros((wires.nodes[source].num_units, node.num_units), bool)
            columns[source] = edges.get((source, target), absent).T

        def read(columns, unit, target=target, node=node):
            seen = {
                source: mix(wires.nodes[source].spread(column), values[source], reference[source])
                for source, column in columns.items()
            }
            if INPUT not in seen:
                seen[INPUT] = x
            return node.take(_evaluate(net, eps, target, seen, outcome), unit)

        values[target] = node.join(jax.vmap(read)(columns, jnp.arange(node.num_units)))
    return values


def path_effect(
    net: BoundModel,
    wires: Wiring,
    pair: Pairs,
    edges: Edges,
    *,
    outcome: Outcome = outputs,
) -> Array:
    """What changing x0 into x1 does to the outcome through a set of edges alone, for one pair.

    Y(edges from the world of x1, all others from that of x0) - Y(x0). With all edges it is the
    total effect. Since every mechanism is known, all path-specific effects can be computed;
    obstacles to identification concern observational data.
    """
    check_pair(pair)
    reference = natural_values(net, wires, pair.x0, pair.eps, outcome=outcome)
    run = run_edges(net, wires, pair.x1, pair.eps, edges, reference, outcome=outcome)
    return run[OUTCOME] - reference[OUTCOME]


def sequential_edges(wires: Wiring, order: Sequence[str] = ()) -> list[dict[Pair, Array]]:
    """Edge sets by which the world switches node by node, from the output side by default.

    All edges between sites and into the outcome are in every set; the input's edges are added one
    consumer at a time. Successive differences are the effect that enters at each consumer, on top
    of those before it in the order: K + 1 numbers for K sites, which add up to the total effect.

    Args:
        wires: From ``wiring``.
        order: The consumers of the input in the order in which they are switched.

    Returns:
        Sets for ``sequential_effects``, the empty change first.
    """
    consumers = [target for source, target in wires.pairs if source == INPUT]
    order = list(order) or consumers[::-1]
    if sorted(order) != sorted(consumers):
        raise ValueError(
            f"order must hold each consumer of the input once, {consumers}, got {order}."
        )
    full, none = all_edges(wires), no_edges(wires)

    def switched(count):
        seen = order[:count]
        return {(s, t): none[s, t] if s == INPUT and t not in seen else full[s, t] for s, t in full}

    return [switched(count) for count in range(len(order) + 1)]


def sequential_effects(
    net: BoundModel,
    wires: Wiring,
    pair: Pairs,
    *,
    order: Sequence[str] = (),
    outcome: Outcome = outputs,
) -> dict[str, Array]:
    """The total effect, divided by where the change of the input enters; for one pair.

    They depend on the order wherever the network interacts; averaged over orders they are Shapley
    values.

    Args:
        net: The network with its parameters.
        wires: From ``wiring``, with the same ``outcome``.
        pair: One pair of runs.
        order: Consumers of the input as they are switched; the last in the forward first if empty.
        outcome: Trace to the array of interest.

    Returns:
        Consumer to the effect of switching it, in the order; they add up to the total effect.
    """
    sets = sequential_edges(wires, order)
    consumers = list(order) or [t for s, t in wires.pairs if s == INPUT][::-1]
    runs = [path_effect(net, wires, pair, edges, outcome=outcome) for edges in sets]
    changes = [after - before for before, after in zip(runs[:-1], runs[1:], strict=True)]
    return dict(zip(consumers, changes, strict=True))


def mix(mask: Array, value: Array, reference: Array) -> Array:
    """The value where a boolean mask is true, else the reference; a share of both if it is float.

    Booleans select, exactly; floats interpolate, differentiably.
    """
    reference = jnp.asarray(reference, value.dtype)
    if mask.dtype == jnp.bool_:
        return jnp.where(mask, value, reference)
    return reference + mask.astype(value.dtype) * (value - reference)


def node_sites(wires: Wiring) -> list[str]:
    """The nodes that are sites, in the forward's order."""
    return [name for name in wires.nodes if name not in (INPUT, OUTCOME)]


def _evaluate(net: BoundModel, eps, name, values, outcome) -> Array:
    """One node's value from those before it, which are fixed."""
    fixed = {n: Fixed(v) for n, v in values.items() if n not in (INPUT, OUTCOME)}
    trace = net(values[INPUT], eps, fixed)
    return measure(outcome, trace) if name == OUTCOME else trace.activations[name]


def _whole_node(x: Any) -> Node:
    return Node(tuple(x.shape), x.dtype, None, 1)


def _site_node(site: Site) -> Node:
    if site.unit_axis is None:
        return Node(site.shape, site.dtype, None, site.num_positions)
    return Node(site.shape, site.dtype, site.unit_axis, site.num_units)


def _outcome_node(shape: Any) -> Node:
    """As ``list_sites`` has it: units on the last axis."""
    if shape.ndim == 0:
        return Node((), shape.dtype, None, 1)
    return Node(tuple(shape.shape), shape.dtype, shape.ndim - 1, shape.shape[-1])


def _checked_edges(wires: Wiring, pair: Pair, mask: Any) -> Array:
    expected, mask = wires.edge_shape(pair), jnp.asarray(mask)
    if mask.shape != expected:
        raise ValueError(
            f"edges {pair} have shape {mask.shape}, expected (source units, target units) "
            f"{expected}."
        )
    if not (mask.dtype == jnp.bool_ or jnp.issubdtype(mask.dtype, jnp.floating)):
        raise ValueError(f"edges {pair} have dtype {mask.dtype}, expected bool or floating point.")
    if mask.dtype != jnp.bool_ and not jnp.issubdtype(wires.nodes[pair[0]].dtype, jnp.floating):
        raise ValueError(
            f"edges {pair} are shares, but {pair[0]!r} holds {wires.nodes[pair[0]].dtype}, of "
            "which no mixture exists; use booleans."
        )
    return mask


def _check_reference(wires: Wiring, reference: Values) -> None:
    for name in dict.fromkeys(source for source, _ in wires.pairs):
        if name not in reference:
            raise ValueError(f"the reference has no value of node {name!r}.")
        shape, node = jnp.shape(reference[name]), wires.nodes[name]
        if shape != node.shape:
            raise ValueError(
                f"the reference of node {name!r} has shape {shape}, expected {node.shape}."
            )
