"""Whether a forward is a function of its image and noise alone, as it is once training is over.

A network left in training mode is another function of one image than of a batch: batch
normalisation subtracts from a single image its own mean, and so removes whatever an intervention
did before it; dropout draws a mask. Nothing fails, and effects are zero or those of another
network. A traced forward shows both, whoever wrote it.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from vaecausal_jax.jax_versions import CALLS, REMAT, closed

DRAWS = {"random_bits", "rng_bit_generator", "rng_uniform", "threefry2x32", "random_gamma"}
"""Operations that draw random numbers."""

SAME_VALUES = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "name",
    "optimization_barrier",
    "reshape",
    "sharding_constraint",
    "squeeze",
    "stop_gradient",
    "transpose",
}
"""Operations that hand on their operand's values."""

MIXES = {"add", "concatenate", "div", "mul", "neg", "select_n", "slice", "stack", "sub"}
"""Operations after which a mean is still that mean, moved and scaled."""

SUMS = {"reduce_sum", "psum", "psum_invariant"}


class _Known(NamedTuple):
    """What is known of a value.

    Attributes:
        root: Which value this is, whatever its shape and dtype.
        of_input: Whether it depends on the image or the noise.
        means: Roots of the values of which this holds the mean over a batch of one image.
        summed: Roots of the values of which this holds a sum over any axes.
    """

    root: object
    of_input: bool
    means: frozenset[object] = frozenset()
    summed: frozenset[object] = frozenset()


def check_evaluation(program: ClosedJaxpr, inputs: Sequence[bool]) -> None:
    """Refuses a forward of one image that normalises over a batch or draws random numbers.

    Args:
        program: The traced forward.
        inputs: For each argument of the program, whether it is of the image or the noise, and not
            of the parameters.

    Raises:
        ValueError: A value from which its mean over a batch of one image is subtracted; or random
            numbers that come from no argument of the run, so that all images have the same.
    """
    _Walk().program(program, [_Known(object(), given) for given in inputs])


def leaves_by_path(state: Any) -> dict[Any, Any]:
    """The leaves that a module's state has now: modules may write to it in place."""
    return dict(jax.tree_util.tree_leaves_with_path(state))


def check_state(before: dict[Any, Any], after: dict[Any, Any], module: str, remedy: str) -> None:
    """Refuses a forward that has changed its module's statistics, which counters are not.

    Args:
        before: ``leaves_by_path`` of the module's state, without its parameters.
        after: The same after the call.
        module: The module, for the message.
        remedy: How to call it in evaluation mode.

    Raises:
        ValueError: Floats that are other values than before.
    """
    for path, leaf in after.items():
        changed = path in before and before[path] is not leaf
        if changed and jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"the forward changes {jax.tree_util.keystr(path)} of {module}, as batch and "
                f"spectral normalisation do in training. {remedy}"
            )


class _Walk:
    """One walk through a program, in order; the last named value is told in messages."""

    def __init__(self):
        self._place = ""

    def program(self, program: ClosedJaxpr, known: Sequence[_Known]) -> list[_Known]:
        """What is known of a program's results."""
        jaxpr = program.jaxpr
        values = {variable: _Known(object(), False) for variable in jaxpr.constvars}
        values |= dict(zip(jaxpr.invars, known, strict=True))
        literal = _Known(object(), False)

        def read(atom: Any) -> _Known:
            return literal if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            results = self._equation(equation, operands)
            values |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, operands: list[_Known]) -> list[_Known]:
        kind, of_input = equation.primitive.name, any(one.of_input for one in operands)
        nested = CALLS | REMAT
        if kind in nested:
            return self.program(closed(equation.params[nested[kind]]), operands)
        if kind in DRAWS and not of_input:
            raise ValueError(
                f"the forward draws random numbers{self._place}, the same for every image and run. "
                "Let them come from eps; if this is dropout, call the model in evaluation mode."
            )
        if kind == "name":
            self._place = f" after {equation.params['name']!r}"
        self._enter(equation, of_input)
        if kind == "sub" and operands[0].root in operands[1].means:
            shape = _shape(equation.invars[0])
            raise ValueError(
                f"the forward subtracts from a value of shape {shape}{self._place} its mean over a "
                "batch of one image, or over a single value, as batch normalisation does in "
                "training: what an intervention did before it is lost. Call the model in "
                "evaluation mode, with running averages."
            )
        known = _Known(object(), of_input)
        if kind in SAME_VALUES:
            known = operands[0]._replace(of_input=of_input)
        elif kind in SUMS:
            known = _summed(equation, operands[0])
        elif kind in MIXES:
            known = known._replace(
                means=frozenset().union(*(one.means for one in operands)),
                summed=frozenset().union(*(one.summed for one in operands)),
            )
        if len(equation.outvars) == 1:
            return [known]
        return [known._replace(root=object()) for _ in equation.outvars]

    def _enter(self, equation: JaxprEqn, of_input: bool) -> None:
        """Looks into loops and branches; whatever they are given may be of the image."""
        groups = [p if isinstance(p, tuple | list) else (p,) for p in equation.params.values()]
        for part in itertools.chain(*groups):
            if hasattr(part, "eqns"):
                inside = closed(part)
                fresh = [_Known(object(), of_input) for _ in inside.jaxpr.invars]
                self.program(inside, fresh)


def _summed(equation: JaxprEqn, operand: _Known) -> _Known:
    """Of a sum: is it over a batch of one image, or over one value only?"""
    shape = _shape(equation.invars[0])
    axes = [int(axis) for axis in equation.params["axes"] if not isinstance(axis, str)]
    of_one_value = all(shape[axis] == 1 for axis in axes)
    of_batch = 0 in axes and shape[0] == 1 and len(axes) < len(shape)
    means, summed = operand.means, operand.summed
    if of_one_value or of_batch:
        means |= {operand.root}
    if of_batch:
        means |= summed
    return _Known(object(), operand.of_input, means, summed | {operand.root})


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape
