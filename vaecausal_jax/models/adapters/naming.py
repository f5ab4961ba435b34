"""Naming what a module returns, for modules that name nothing themselves."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name


def name_outputs(name: str, outputs: Any) -> Any:
    """Names every array of a module's outputs: ``name``, or ``name[0]`` and so on for several."""

    def named(path, leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        return checkpoint_name(leaf, name + jax.tree_util.keystr(path))

    return jax.tree.map_with_path(named, outputs)


def site_name(path: Iterable[Any]) -> str:
    """A path of attributes and indices as the name of a site."""
    return "/".join(map(str, path))


@functools.lru_cache(maxsize=4096)
def naming_class(cls: type, name: str) -> type:
    """The class with a ``__call__`` whose outputs are named; one class a name, however often."""

    def call(self, *args, **kwargs):
        return name_outputs(name, cls.__call__(self, *args, **kwargs))

    body = {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (cls,), body)
