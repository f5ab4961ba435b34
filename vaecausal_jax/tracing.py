"""Traced functions: evaluated in two stages, and asked which of their values are the same.

A loop over points must not repeat what is the same for all of them. XLA moves some of it out of the
loop, but leaves the rearranging of a kernel inside, which can cost more than the kernel's use.
Here the split is made by hand, into what depends on the first arguments alone and the rest: the
function is traced, and every operation whose operands are known is carried out at once, through the
calls of ``jit`` and of functions with custom derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal

from vaecausal_jax.jax_versions import CALLS, REMAT, bind, closed


class _Unknown:
    """Stands for a value of the second stage."""


_UNKNOWN = _Unknown()


def stage(function: Callable[..., Any], known: tuple[Any, ...], later: tuple[Any, ...]):
    """Evaluates now what depends on ``known`` and on captured values alone.

    Operations with effects, such as callbacks, wait for the second stage. Loops and conditionals
    are carried out whole in one stage or the other.

    Args:
        function: ``function(*known, *later)``, of pytrees of arrays.
        known: Its first arguments.
        later: Its other arguments, or anything of their shapes and types.

    Returns:
        A function of the other arguments with the value of ``function``.
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(*known, *later)
    finished: dict[tuple[int, ...], list[Any]] = {}
    num_later = len(jax.tree.leaves(later))
    arguments = [*jax.tree.leaves(known), *[_UNKNOWN] * num_later]
    _evaluate(program, arguments, finished, (), last=False)

    def rest(*later: Any) -> Any:
        arguments = [*jax.tree.leaves(known), *jax.tree.leaves(later)]
        results = _evaluate(program, arguments, finished, (), last=True)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rest


def _evaluate(
    program: ClosedJaxpr,
    arguments: list[Any],
    finished: dict[tuple[int, ...], list[Any]],
    path: tuple[int, ...],
    *,
    last: bool,
) -> list[Any]:
    """One stage of a program; ``finished`` holds what the first stage did, by place."""
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for number, equation in enumerate(jaxpr.eqns):
        place = (*path, number)
        operands = [read(atom) for atom in equation.invars]
        if place in finished:
            results = finished[place]
        elif equation.primitive.name in CALLS:
            nested = closed(equation.params[CALLS[equation.primitive.name]])
            results = _evaluate(nested, operands, finished, place, last=last)
        elif last or (not equation.effects and not any(o is _UNKNOWN for o in operands)):
            results = bind(equation, operands)
            if not last:
                finished[place] = results
        else:
            results = [_UNKNOWN] * len(equation.outvars)
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


_SAME = {"name", "copy", "copy_p", "optimization_barrier"}
"""Operations whose result is their operand."""


def origins(program: ClosedJaxpr, given: Sequence[object] = ()) -> list[object]:
    """What each output of a program is: one object for one value, whatever it is handed on through.

    Values are followed through names, copies, ``jit`` and rematerialisation. The same operation
    carried out twice makes two.

    Args:
        program: As from ``jax.make_jaxpr``.
        given: What its inputs are; all different if empty.
    """
    jaxpr = program.jaxpr
    given = given or [object() for _ in jaxpr.invars]
    known: dict[Any, object] = dict(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> object:
        return object() if isinstance(atom, Literal) else known.setdefault(atom, object())

    for equation in jaxpr.eqns:
        name, operands = equation.primitive.name, map(read, equation.invars)
        if name in _SAME:
            known |= dict(zip(equation.outvars, operands, strict=True))
        elif name in CALLS | REMAT:
            nested = closed(equation.params[(CALLS | REMAT)[name]])
            known |= dict(zip(equation.outvars, origins(nested, list(operands)), strict=True))
    return [read(atom) for atom in jaxpr.outvars]
