"""Functions whose values are named with ``checkpoint_name``, as forwards that take interventions.

The function is traced to a jaxpr, and the jaxpr is evaluated with a ``Tape``: every named value is
a site. What a call contains is looked at only where an intervention or a record needs it:

- A call (``jit``, ``remat``, a function with custom derivatives), a ``scan`` or a ``cond`` with no
  intervention inside is carried out as it stands, so the outputs are bitwise those of the plain
  function and its derivatives are its own. The values inside are computed beside it, and are dead
  code unless they are asked for.
- Where there is an intervention inside, calls are inlined, and derivatives are those of the code.
- A site inside ``scan`` has a leading axis of layers. An intervention acts on all layers, each
  live; masks select some. A ``BoxPatch`` sets its box in every layer and lets the rest follow.
  With ``unroll=True`` every layer is a site of its own, ``name[0]``, ``name[1]``, ..., and a run
  restarts at it.
- A site inside ``cond`` must be in every branch, with one shape.
- Inside ``while`` and other constructs a name is no site: how often it is reached is not known
  before the run. An intervention there is refused by name.
- A mask that selects nothing gives the plain value bit for bit, up to this: where XLA would round
  the named value and the next operation as one (a product about to be added to), a mask between
  them has each rounded.
- A name given to several values becomes ``name#0``, ``name#1``, ... in the order of the program.
- A name inside ``vmap`` names the whole batch of values, its batch axis included.
- A named value that the function does not use can be read but not intervened on: the function must
  go on with what ``checkpoint_name`` returned.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from vaecausal_jax.interventions import (
    Affine,
    BoxPatch,
    Clamp,
    CodeMap,
    Interventions,
    Replace,
    SubspaceSwap,
)
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.changed import Changed, whole
from vaecausal_jax.interventions.evaluation_mode import check_evaluation
from vaecausal_jax.interventions.sites import Intervention, Site, Sites, Tape, Trace
from vaecausal_jax.interventions.types import Fixed
from vaecausal_jax.jax_versions import CALLS, REMAT, bind, closed, scan_parts

NO_INTERVENTIONS: Interventions = {}

_INLINED = CALLS | REMAT

_OF_LAYERS = {
    Replace: ("mask", "value"),
    Affine: ("mask", "scale", "shift"),
    Clamp: ("mask", "low", "high"),
    SubspaceSwap: ("mask", "donor"),
    CodeMap: ("mask",),
    Fixed: ("value",),
}
"""Interventions that act on each layer alone, and their leaves that have the site's axes."""


def last_axis(shape: tuple[int, ...]) -> int:
    """Where units lie in Flax: on the last axis."""
    del shape
    return -1


@dataclasses.dataclass(frozen=True)
class AdaptedModel:
    """What the rest of the library takes for a model: a forward and what it is made for.

    Attributes:
        forward: ``forward(params, x, eps, interventions) -> Trace``, for one image.
        sites: Its sites.
        image_shape: Shape of ``x``.
        noise_shape: Shape of ``eps``.
    """

    forward: "Adapted"
    sites: Sites
    image_shape: tuple[int, ...]
    noise_shape: tuple[int, ...]

    def bind(self, params: Any) -> BoundModel:
        """The forward with its parameters: what every question is asked of."""
        return BoundModel(self.forward, params, self.sites)

    @property
    def has_noise(self) -> bool:
        """Whether the forward takes noise."""
        return math.prod(self.noise_shape) > 0


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A forward of the contract, made from a function with named values. Hashable.

    Attributes:
        function: ``function(params, x, eps) -> outputs``, for one image.
        unit_axes: Pairs of a site's name and the axis of its units, None for positions only.
        unit_axis_of: Shape of a value to its unit axis, for the sites without such a pair.
        unroll: Whether every layer of a ``scan`` is a site of its own.
    """

    function: Callable[..., Any]
    unit_axes: tuple[tuple[str, int | None], ...] = ()
    unit_axis_of: Callable[[tuple[int, ...]], int] = last_axis
    unroll: bool = False

    def __call__(
        self, params: Any, x: Any, eps: Any, interventions: Interventions = NO_INTERVENTIONS
    ) -> Trace:
        """Runs one image, with interventions. Batch with ``jax.vmap``; call it under ``jax.jit``.

        Raises:
            ValueError: Before anything runs: a site that is unknown, not reached, or in a construct
                that cannot be entered; an intervention that does not fit its site; a function in
                training mode, see ``check_evaluation``.
        """
        trace, _ = self._run(params, x, eps, interventions)
        return trace

    forward = __call__

    def sites(self, params: Any, x: Any, eps: Any) -> Sites:
        """The sites with shapes, dtypes and unit axes, in order, found without running anything.

        The arguments may be arrays or ``jax.ShapeDtypeStruct``.
        """
        found: dict[str, Site] = {}

        def run(params, x, eps):
            found.update(self._run(params, x, eps, {})[1])

        jax.eval_shape(run, params, x, eps)
        return Sites(found)

    def bind(self, params: Any, x: Any, eps: Any) -> BoundModel:
        """The forward with its parameters; ``x`` and ``eps`` as in ``sites``."""
        return BoundModel(self, params, self.sites(params, x, eps))

    def model(self, params: Any, x: Any, eps: Any) -> AdaptedModel:
        """The forward with its sites and the shapes of one image and its noise."""
        return AdaptedModel(self, self.sites(params, x, eps), jnp.shape(x), jnp.shape(eps))

    def _run(self, params, x, eps, interventions) -> tuple[Trace, dict[str, Site]]:
        arguments = (params, x, eps)
        program, shape = jax.make_jaxpr(self.function, return_shape=True)(*arguments)
        num_params = len(jax.tree.leaves(params))
        check_evaluation(program, [i >= num_params for i in range(len(program.in_avals))])
        tape = Tape(interventions)
        named = _distinct(list(_names_of_program(program, self.unroll)))
        _refuse(named, interventions)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        touched = frozenset(interventions)
        evaluation = _Evaluation(touched, self._axis_of, self.unroll)
        results = evaluation(program, leaves, named, tape)
        trace = tape.trace(jax.tree.unflatten(jax.tree.structure(shape), results))
        for name, _ in self.unit_axes:
            if name not in tape.sites:
                Sites(tape.sites)[name]  # raises, naming the nearest
        return trace, tape.sites

    def _axis_of(self, named: "_Named") -> int | None:
        rank = len(named.shape)
        overrides = dict(self.unit_axes)
        if named.name in overrides:
            axis = overrides[named.name]
            if axis is not None and not -rank <= axis < rank:
                raise ValueError(
                    f"at site {named.name!r}: unit axis {axis} is out of range for shape "
                    f"{named.shape}."
                )
            return axis
        inner = named.shape[named.num_layer_axes :]
        if not inner or not jnp.issubdtype(named.dtype, jnp.floating):
            return None
        return self.unit_axis_of(inner) % len(inner) + named.num_layer_axes


def from_named(
    function: Callable[..., Any],
    *,
    unit_axes: Mapping[str, int | None] | None = None,
    unroll: bool = False,
) -> Adapted:
    """Makes a forward of a function whose values are named with ``checkpoint_name``.

    Args:
        function: ``function(params, x, eps) -> outputs``, pure, for one image.
        unit_axes: Site to the axis of its units (None: positions only) where that is not the last.
        unroll: Whether every layer of a ``scan`` is a site of its own, ``name[layer]``.

    Returns:
        ``forward(params, x, eps, interventions) -> Trace``, with ``forward.sites(params, x, eps)``.
    """
    return Adapted(function, tuple((unit_axes or {}).items()), unroll=unroll)


class _Named(NamedTuple):
    """One occurrence of a name in a program.

    Attributes:
        name: The site's name.
        shape: Shape of the value, axes of layers first.
        dtype: Its dtype.
        num_layer_axes: How many scans it lies in.
        is_used: Whether the program goes on with the named value.
        barrier: The construct that hides it, or empty.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    num_layer_axes: int = 0
    is_used: bool = True
    barrier: str = ""


def _names_of_program(program: ClosedJaxpr, unroll: bool) -> Iterator[_Named]:
    jaxpr = program.jaxpr
    used = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    used |= {id(atom) for atom in jaxpr.outvars}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "name":
            value = equation.outvars[0]
            yield _Named(
                equation.params["name"],
                value.aval.shape,
                value.aval.dtype,
                is_used=id(value) in used,
            )
        else:
            yield from _names_of_equation(equation, unroll)


def _names_of_equation(equation: JaxprEqn, unroll: bool) -> Iterator[_Named]:
    """The names inside an operation, in the order in which its evaluation reaches them."""
    kind, parts = equation.primitive.name, _programs(equation)
    inside = [list(_names_of_program(part, unroll)) for part in parts]
    if not any(inside):
        return
    if kind in _INLINED:
        yield from inside[0]
    elif kind == "scan" and unroll:
        for layer in range(equation.params["length"]):
            yield from (named._replace(name=f"{named.name}[{layer}]") for named in inside[0])
    elif kind == "scan":
        length = equation.params["length"]
        for named in inside[0]:
            axes = named.num_layer_axes + 1
            yield named._replace(shape=(length, *named.shape), num_layer_axes=axes)
    elif kind == "cond" and all(names == inside[0] for names in inside):
        yield from inside[0]
    else:
        barrier = "cond, but not alike in all its branches" if kind == "cond" else kind
        yield from (named._replace(barrier=barrier) for named in itertools.chain(*inside))


def _programs(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs nested in an operation."""
    if equation.primitive.name in _INLINED:
        return [closed(equation.params[_INLINED[equation.primitive.name]])]
    groups = [p if isinstance(p, tuple | list) else (p,) for p in equation.params.values()]
    return [closed(part) for part in itertools.chain(*groups) if hasattr(part, "eqns")]


def _distinct(named: list[_Named]) -> list[_Named]:
    """Numbers the names that occur more than once."""
    total, seen = Counter(one.name for one in named), Counter()
    numbered = []
    for one in named:
        if total[one.name] > 1:
            numbered.append(one._replace(name=f"{one.name}#{seen[one.name]}"))
            seen[one.name] += 1
        else:
            numbered.append(one)
    return numbered


def _refuse(named: list[_Named], interventions: Interventions) -> None:
    for one in named:
        if one.name in interventions and one.barrier:
            raise ValueError(
                f"site {one.name!r} lies inside {one.barrier}, where values cannot be replaced. "
                "Name a value outside it, or write the loop with lax.scan."
            )
        if one.name in interventions and not one.is_used:
            raise ValueError(
                f"site {one.name!r} is named, but the function does not use the named value, so an "
                f"intervention would do nothing. Write h = checkpoint_name(h, {one.name!r})."
            )


class _Evaluation(NamedTuple):
    """Evaluates programs with the sites that ``touched`` names replaced."""

    touched: frozenset[str]
    axis_of: Callable[[_Named], int | None]
    unroll: bool

    def __call__(
        self,
        program: ClosedJaxpr,
        arguments: list[Any],
        named: list[_Named],
        tape: "Tape | _LayerTape",
    ) -> list[Any]:
        """The results of a program whose names, in order, are ``named``."""
        jaxpr, rest = program.jaxpr, iter(named)
        values = dict(zip(jaxpr.constvars, program.consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom):
            return atom.val if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if equation.primitive.name == "name":
                one = next(rest)
                value = tape(one.name, operands[0], unit_axis=self.axis_of(one))
                results = bind(equation, [value])  # still named for remat policies outside
            else:
                count = sum(1 for _ in _names_of_equation(equation, self.unroll))
                inside = list(itertools.islice(rest, count))
                results = self._nested(equation, operands, inside, tape)
            values |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _nested(self, equation, operands, inside, tape):
        if all(one.barrier for one in inside):
            return bind(equation, operands)
        enter = {"scan": self._scan, "cond": self._cond}.get(equation.primitive.name, self._inline)
        results = enter(equation, operands, inside, tape)
        # Callbacks must not run twice; whatever else is computed twice is dead code once.
        if equation.effects or not self.touched.isdisjoint(one.name for one in inside):
            return results
        return bind(equation, operands)

    def _inline(self, equation, operands, inside, tape):
        return self(_programs(equation)[0], operands, inside, tape)

    def _cond(self, equation, operands, inside, tape):
        visible = [one for one in inside if not one.barrier]
        steps = {one.name: tape.take(one.name, self._site(one)) for one in visible}

        def branch(program):
            def run(*operands):
                local = _LayerTape(steps)
                return self(program, list(operands), inside, local), local.values

            return run

        index, *operands = operands
        branches = [branch(program) for program in _programs(equation)]
        results, values = lax.switch(index, branches, *operands)
        for one in visible:
            tape.record(one.name, self._site(one), values[one.name])
        return results

    def _scan(self, equation, operands, inside, tape):
        num_consts, num_carry = scan_parts(equation)
        consts, operands = operands[:num_consts], operands[num_consts:]
        carry, rows = operands[:num_carry], operands[num_carry:]
        (program,) = _programs(equation)
        length, reverse = equation.params["length"], equation.params["reverse"]
        if self.unroll:
            size = len(inside) // max(length, 1)
            layers: list[Any] = [None] * length
            for layer in reversed(range(length)) if reverse else range(length):
                row = [leaf[layer] for leaf in rows]
                part = inside[layer * size : (layer + 1) * size]
                results = self(program, [*consts, *carry, *row], part, tape)
                carry, layers[layer] = results[:num_carry], results[num_carry:]
            return [*carry, *(jnp.stack(leaves) for leaves in zip(*layers, strict=True))]

        visible = [one for one in inside if not one.barrier]
        steps = {
            one.name: [_by_layer(one, step) for step in tape.take(one.name, self._site(one))]
            for one in visible
        }
        leaves = {name: [leaves for _, leaves in of_site] for name, of_site in steps.items()}
        within = [
            one._replace(shape=one.shape[1:], num_layer_axes=one.num_layer_axes - 1)
            for one in inside
        ]

        def body(carry, row):
            row, leaves = row
            local = _LayerTape(
                {
                    name: tuple(
                        step._replace(**of_layer)
                        for (step, _), of_layer in zip(steps[name], leaves[name], strict=True)
                    )
                    for name in steps
                }
            )
            results = self(program, [*consts, *carry, *row], within, local)
            return results[:num_carry], (results[num_carry:], local.values)

        unroll = equation.params["unroll"]
        carry, (rows, values) = lax.scan(
            body, carry, (rows, leaves), length=length, reverse=reverse, unroll=unroll
        )
        for one in visible:
            tape.record(one.name, self._site(one), values[one.name])
        return [*carry, *rows]

    def _site(self, one: _Named) -> Site:
        axis = self.axis_of(one)
        return Site(one.shape, one.dtype, None if axis is None else axis % len(one.shape))


class _LayerTape:
    """The tape inside one layer of a scan, or one branch: its interventions are checked already."""

    def __init__(self, steps: Mapping[str, tuple[Intervention, ...]]):
        self._steps = steps
        self.values: dict[str, Array] = {}

    def __call__(self, name: str, value: Array, *, unit_axis: int | None) -> Array:
        del unit_axis
        for step in self._steps.get(name, ()):
            value = whole(step.apply(value))
        self.values[name] = value
        return value

    def take(self, name: str, site: Site) -> tuple[Intervention, ...]:
        """The interventions at a site of a scan or a branch further in."""
        del site
        return self._steps.get(name, ())

    def record(self, name: str, site: Site, value: Array) -> None:
        """Records a value of a scan or a branch further in."""
        del site
        self.values[name] = value


def _by_layer(one: _Named, step: Any) -> tuple[Any, dict[str, Array]]:
    """An intervention and those of its leaves that differ by layer, with a full axis of layers."""
    if isinstance(step, BoxPatch):
        nothing, everything = jnp.zeros(one.shape, bool), jnp.ones(step.inside.shape, bool)
        mask = whole(Changed(nothing, everything, step.start))
        step = Replace(mask, whole(step.apply(step.clean)))
    if type(step) not in _OF_LAYERS:
        raise ValueError(
            f"at site {one.name!r}: {type(step).__name__} cannot be applied layer by layer inside "
            "lax.scan. Adapt with unroll=True, or use one of "
            f"{', '.join(kind.__name__ for kind in (*_OF_LAYERS, BoxPatch))}."
        )
    inner_rank = len(one.shape) - one.num_layer_axes
    if isinstance(step, SubspaceSwap) and step.basis.ndim - 1 > inner_rank:
        raise ValueError(
            f"at site {one.name!r}: a basis of shape {step.basis.shape} mixes layers of a "
            f"lax.scan, which run one after another; it may act on the last {inner_rank} axes."
        )
    length = one.shape[0]
    leaves = {field: jnp.asarray(getattr(step, field)) for field in _OF_LAYERS[type(step)]}
    return step, {
        field: jnp.broadcast_to(leaf, (length, *leaf.shape[1:]))
        for field, leaf in leaves.items()
        if leaf.ndim > 0
    }
