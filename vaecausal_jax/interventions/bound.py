"""A network with its parameters: what every question is asked of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from vaecausal_jax.interventions.sites import Forward, Sites, Trace, list_sites

NOTHING: Mapping[str, Any] = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BoundModel:
    """A forward of the contract, its parameters, and its sites.

    A pytree whose leaves are the parameters: an argument of ``jit``, and under ``vmap`` several
    trained models at once. ``model.bind(params)`` makes one of a model, ``bind`` one of any
    forward.

    Attributes:
        forward: ``forward(params, x, eps, interventions) -> Trace``, for one image.
        params: Its parameters.
        sites: Its sites.
    """

    forward: Forward = dataclasses.field(metadata={"static": True})
    params: Any
    sites: Sites = dataclasses.field(default=Sites({}), metadata={"static": True})

    def __call__(self, x: Any, eps: Any, interventions: Mapping[str, Any] = NOTHING) -> Trace:
        """Runs one image, with interventions. Batch it with ``jax.vmap``, under ``jax.jit``."""
        return self.forward(self.params, x, eps, interventions)

    def with_params(self, params: Any) -> "BoundModel":
        """The same network with other parameters, such as those of another seed."""
        return dataclasses.replace(self, params=params)


def bind(forward: Forward, params: Any, x: Any, eps: Any) -> BoundModel:
    """Binds any forward of the contract to its parameters.

    Args:
        forward: ``forward(params, x, eps, interventions) -> Trace``, for one image.
        params: Its parameters.
        x: One image, or its shape and dtype, to find the sites with; nothing is run.
        eps: Its noise, likewise.

    Raises:
        ValueError: As ``list_sites``.
    """
    return BoundModel(forward, params, list_sites(forward, params, x, eps))
