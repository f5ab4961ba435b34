"""Flax Linen modules as they are: a site for what every submodule returns."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from vaecausal_jax.interventions.evaluation_mode import check_state, leaves_by_path
from vaecausal_jax.models.adapters.named_values import Adapted, from_named
from vaecausal_jax.models.adapters.naming import name_outputs, site_name

REMEDY = (
    "Call the module in evaluation mode (use_running_average=True, deterministic=True, "
    "update_stats=False, no mutable collections)."
)


def from_linen(
    module: nn.Module | Callable[..., Any],
    *,
    unit_axes: Mapping[str, int | None] | None = None,
    unroll: bool = False,
) -> Adapted:
    """Makes a forward of a Linen module, or of a function that applies some.

    A submodule's output is the site of its path, ``encoder/Dense_0``; that of another method,
    ``encoder.embed``; what the outermost module returns, its class's name. Several arrays are
    ``path[0]``, ``path['mean']``; several calls ``path#0``, ``path#1``. Values named with
    ``checkpoint_name`` inside are sites too. Under ``nn.scan`` a site has an axis of layers. A
    module in training mode is refused as it is traced.

    Args:
        module: Called as ``module.apply({"params": params}, x, eps)``; or ``function(params, x,
            eps) -> outputs``, for one image, for everything else: other collections, methods,
            signatures, several modules.
        unit_axes: See ``from_named``.
        unroll: See ``from_named``.
    """
    if isinstance(module, nn.Module):
        function = lambda params, x, eps: module.apply({"params": params}, x, eps)  # noqa: E731
    else:
        function = module

    def run(params, x, eps):
        with nn.intercept_methods(_name):
            return function(params, x, eps)

    return from_named(run, unit_axes=unit_axes, unroll=unroll)


def _name(next_function, args, kwargs, context):
    module = context.module
    before = _state(module)
    outputs = next_function(*args, **kwargs)
    name = site_name(module.path or (type(module).__name__,))
    check_state(before, _state(module), name, REMEDY)
    method = context.method_name
    if method.startswith("_") and method != "__call__" or method == "setup":
        return outputs
    return name_outputs(name if method == "__call__" else f"{name}.{method}", outputs)


def _state(module: nn.Module) -> dict[Any, Any]:
    """The module's variables but its parameters; empty before it is bound."""
    variables = {} if module.scope is None else module.variables
    return leaves_by_path({kind: v for kind, v in variables.items() if kind != "params"})
