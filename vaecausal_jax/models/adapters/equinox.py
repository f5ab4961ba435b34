"""Equinox modules as they are: a site for what every submodule returns."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vaecausal_jax.models.adapters.named_values import Adapted
from vaecausal_jax.models.adapters.naming import naming_class, site_name

try:
    import equinox as eqx
except ImportError as error:
    raise ImportError(
        "vaecausal_jax.models.adapters.equinox needs Equinox: pip install equinox"
    ) from error


def from_equinox(
    model: Any,
    call: Callable[..., Any] | None = None,
    *,
    unit_axes: Mapping[str, int | None] | None = None,
    unroll: bool = False,
) -> tuple[Adapted, Any]:
    """Makes a forward of an Equinox module, and hands back its parameters.

    What a submodule's ``__call__`` returns is the site of its path in the tree,
    ``encoder/layers/0``; several arrays are ``path[0]``, several calls ``path#0``. Units lie on
    the first axis, Equinox's axis of channels, and on the last of (sequence, features).

    Args:
        model: The module; it is left alone.
        call: ``call(model, x, eps) -> outputs`` for one image; ``model(x, eps)`` by default.
        unit_axes: See ``from_named``.
        unroll: See ``from_named``.

    Returns:
        The forward and ``params``, the model with ``None`` for all but its floating arrays.

    Raises:
        ValueError: A module with ``inference=False``: dropout, batch or spectral normalisation in
            training.
    """
    for path, module in _modules(model, ()):
        if getattr(module, "inference", None) is False and getattr(module, "p", 1) != 0:
            raise ValueError(
                f"{site_name(path) or 'the model'}, {type(module).__name__}, is in training mode. "
                "Give from_equinox the model in evaluation mode: eqx.nn.inference_mode(model)."
            )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def run(params, x, eps):
        copy = eqx.combine(params, static)
        for path, module in list(_modules(copy, ())):
            if path and callable(module):
                # Modules are frozen; this copy is ours.
                object.__setattr__(module, "__class__", naming_class(type(module), site_name(path)))
        return copy(x, eps) if call is None else call(copy, x, eps)

    axes = tuple((unit_axes or {}).items())
    return Adapted(run, axes, _channels_first, unroll), params


def _modules(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(node, eqx.Module):
        yield path, node
        parts = [(f.name, getattr(node, f.name, None)) for f in dataclasses.fields(node)]
    elif isinstance(node, list | tuple):
        parts = list(enumerate(node))
    elif isinstance(node, dict):
        parts = list(node.items())
    else:
        return
    for key, part in parts:
        yield from _modules(part, (*path, key))


def _channels_first(shape: tuple[int, ...]) -> int:
    return -1 if len(shape) == 2 else 0
