"""The contract that a forward keeps, and the values that may be put into it.

A forward names its values on a ``Tape`` and returns a ``Trace``; ``Sites`` say what they are.

``forward(params, x, eps, interventions)`` takes a mapping from site name to one of the types here
(or a tuple of them, applied in order). All are pytrees of arrays: they stack, vmap, jit, grad and
shard like any other argument. Every constructor takes the model's ``sites`` first, checks its
arguments against them, and returns such a mapping; ``combine`` joins mappings.

Array leaves either have the site's shape, or the same rank with some axes of length 1, or are
scalars. Anything else is refused, so that a batch axis cannot slip in by broadcasting.
"""

from vaecausal_jax.interventions.ablations import (
    ablate_mean,
    ablate_optimal,
    ablate_resample,
    ablate_resample_conditional,
    ablate_zero,
)
from vaecausal_jax.interventions.bound import BoundModel, bind
from vaecausal_jax.interventions.combine import as_affine, combine, stack
from vaecausal_jax.interventions.constructors import (
    clamp_to,
    map_codes,
    patch,
    scale_by,
    set_to,
    shift_by,
    steer,
    swap_codes,
    swap_direction,
    swap_subspace,
)
from vaecausal_jax.interventions.selection import select
from vaecausal_jax.interventions.sites import Site, Sites, Tape, Trace, list_sites
from vaecausal_jax.interventions.types import (
    Affine,
    BoxPatch,
    Clamp,
    CodeMap,
    Interventions,
    Replace,
    SubspaceSwap,
)

__all__ = [
    "Affine",
    "BoundModel",
    "BoxPatch",
    "Clamp",
    "CodeMap",
    "Interventions",
    "Replace",
    "Site",
    "Sites",
    "SubspaceSwap",
    "Tape",
    "Trace",
    "ablate_mean",
    "ablate_optimal",
    "ablate_resample",
    "ablate_resample_conditional",
    "ablate_zero",
    "as_affine",
    "bind",
    "clamp_to",
    "combine",
    "list_sites",
    "map_codes",
    "patch",
    "scale_by",
    "select",
    "set_to",
    "shift_by",
    "stack",
    "steer",
    "swap_codes",
    "swap_direction",
    "swap_subspace",
]
