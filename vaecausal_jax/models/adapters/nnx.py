"""Flax NNX modules as they are: a site for what every submodule returns."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from vaecausal_jax.interventions.evaluation_mode import check_state, leaves_by_path
from vaecausal_jax.models.adapters.named_values import Adapted, from_named
from vaecausal_jax.models.adapters.naming import naming_class, site_name

REMEDY = "Call model.eval() before from_nnx, and let noise come from eps."


def from_nnx(
    model: nnx.Module,
    call: Callable[..., Any] | None = None,
    *,
    unit_axes: Mapping[str, int | None] | None = None,
    unroll: bool = False,
) -> tuple[Adapted, Any]:
    """Makes a forward of an NNX module, and hands back its parameters.

    What a submodule's ``__call__`` returns is the site of its path, ``encoder/layers/0``; several
    arrays are ``path[0]``, several calls ``path#0``; a module reached on two paths has the first.
    The model is split once, and every run merges a copy. Variables other than ``nnx.Param`` are
    held as they are now; a run that changes statistics or draws random numbers is refused.

    Args:
        model: The module; it is left alone.
        call: ``call(model, x, eps) -> outputs`` for one image; ``model(x, eps)`` by default.
        unit_axes: See ``from_named``.
        unroll: See ``from_named``.

    Returns:
        The forward and ``params``, the state of ``nnx.Param``.
    """
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def run(params, x, eps):
        # Fresh variables, of this trace: the module may write to them.
        copy = nnx.merge(graph, params, jax.tree.map(lambda leaf: leaf, rest))
        for path, module in list(nnx.iter_graph(copy)):
            if path and isinstance(module, nnx.Module) and callable(module):
                module.__class__ = naming_class(type(module), site_name(path))
        before = leaves_by_path(nnx.state(copy, nnx.Not(nnx.Param)))
        outputs = copy(x, eps) if call is None else call(copy, x, eps)
        after = leaves_by_path(nnx.state(copy, nnx.Not(nnx.Param)))
        check_state(before, after, type(model).__name__, REMEDY)
        return outputs

    return from_named(run, unit_axes=unit_axes, unroll=unroll), params
