"""The library's public functions, found by walking it, for laws that hold of all of a kind."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import vaecausal_jax


def public_functions() -> dict[str, Callable[..., Any]]:
    """Every function without a leading underscore, by ``module.function``, where it is defined."""
    found = {}
    for module in pkgutil.walk_packages(vaecausal_jax.__path__, "vaecausal_jax."):
        if module.ispkg:
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            # Compiled functions are callable too, but no routines.
            is_function = callable(value) and not isinstance(value, type) and name[0] != "_"
            if is_function and getattr(value, "__module__", None) == module.name:
                found[f"{module.name.removeprefix('vaecausal_jax.')}.{name}"] = value
    return found


def functions_with(*parameters: str) -> dict[str, Callable[..., Any]]:
    """The public functions that take all of these parameters."""
    return {
        name: function
        for name, function in public_functions().items()
        if set(parameters) <= set(inspect.signature(function).parameters)
    }
