"""Joining and stacking interventions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vaecausal_jax.interventions.sites import as_steps
from vaecausal_jax.interventions.types import Affine, Interventions, Replace


def combine(*interventions: Interventions) -> Interventions:
    """Joins mappings. At a site named more than once they apply in the given order."""
    joined: dict[str, Any] = {}
    for mapping in interventions:
        for name, intervention in mapping.items():
            before = as_steps(name, joined[name]) if name in joined else ()
            steps = (*before, *as_steps(name, intervention))
            joined[name] = _single_or_all(steps)
    return joined


def as_affine(interventions: Interventions) -> Interventions:
    """Rewrites each ``Replace`` as the ``Affine`` of scale 0, to stack with shifts and scales."""

    def rewrite(step):
        if not isinstance(step, Replace):
            return step
        return Affine(step.mask, jnp.zeros((), step.value.dtype), step.value)

    rewritten = {n: tuple(map(rewrite, as_steps(n, i))) for n, i in interventions.items()}
    return {name: _single_or_all(steps) for name, steps in rewritten.items()}


def stack(interventions: Sequence[Interventions]) -> Interventions:
    """Stacks mappings along a new leading axis, ready for ``vmap`` or a sweep.

    Where some replace and others shift or scale, all become ``Affine``; leaves of different shapes
    are broadcast to a common one.

    Raises:
        ValueError: The mappings differ in sites or in types of intervention, or subspaces in rank.
    """
    if not interventions:
        raise ValueError("stack needs at least one intervention, got none.")
    structures = [jax.tree.structure(i) for i in interventions]
    if len(set(structures)) > 1:
        interventions = [as_affine(i) for i in interventions]
        structures = [jax.tree.structure(i) for i in interventions]
    for position, structure in enumerate(structures):
        if structure != structures[0]:
            raise ValueError(
                f"interventions 0 and {position} cannot be stacked, their structures differ: "
                f"{_describe(interventions[0])} against {_describe(interventions[position])}. "
                "Group a sweep by site, or combine() each with no-ops at the other sites."
            )

    def stack_leaves(path, *leaves):
        shapes = {jnp.shape(leaf) for leaf in leaves}
        place = jax.tree_util.keystr(path)
        if len(shapes) > 1 and place.endswith((".basis", ".table")):
            raise ValueError(f"cannot stack {place}: its shapes differ, {sorted(shapes)}.")
        shape = jnp.broadcast_shapes(*shapes)
        return jnp.stack([jnp.broadcast_to(leaf, shape) for leaf in leaves])

    return jax.tree.map_with_path(stack_leaves, *interventions)


def _single_or_all(steps: tuple[Any, ...]) -> Any:
    return steps if len(steps) > 1 else next(iter(steps), ())


def _describe(interventions: Interventions) -> str:
    return ", ".join(
        f"{name}: {'+'.join(type(step).__name__ for step in as_steps(name, i))}"
        for name, i in interventions.items()
    )
