"""Mediators to sweep over: what carries an effect, as a function of a point and a run's values.

A mediator is ``mediator(point, activations) -> interventions``: it takes its values from one run's
activations and imposes them on another run. Points are stacked and swept by ``mediation.mediate``;
the constructors below make the common ones, and any function of the same form will do.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions import Interventions, combine, patch, swap_subspace
from vaecausal_jax.interventions.sites import Sites

Activations = Mapping[str, Array]
Mediator = Callable[[Any, Activations], Interventions]


def unit(sites: Sites, name: str) -> Mediator:
    """One unit (a whole channel of a convolution) or latent of a site; points are its index.

    An index out of range gives NaN, since a point of a sweep cannot be refused.
    """
    _check_units(sites, name)
    return lambda index, run: patch(sites, name, _value(run, name), unit=index)


def position(sites: Sites, name: str) -> Mediator:
    """One place of a site, all its units; points are (axes,) indices, as for VQ codes."""
    num_axes = len(sites[name].shape) - (sites[name].unit_axis is not None)
    if num_axes == 0:
        raise ValueError(f"site {name!r} {sites[name].shape} has no positions, only units.")

    def mediator(index, run):
        return patch(sites, name, _value(run, name), position=tuple(index))

    return mediator


def group(sites: Sites, name: str) -> Mediator:
    """Units of one site that move together; points are booleans (units,), all true for a layer."""
    _check_units(sites, name)
    return lambda members, run: patch(sites, name, _value(run, name), group=members)


def groups(sites: Sites) -> Mediator:
    """Units of several sites that move together; points map site to booleans (units,)."""

    def mediator(members, run):
        for name in members:
            _check_units(sites, name)
        return combine(*(group(sites, name)(m, run) for name, m in members.items()))

    return mediator


def whole(sites: Sites, *names: str) -> Mediator:
    """Any of several whole sites; points are booleans (sites,) in the order of the names."""
    for name in names:
        sites[name]  # An unknown one is a ValueError.
    if not names:
        raise ValueError("whole() needs at least one site.")

    def mediator(chosen, run):
        if jnp.shape(chosen) != (len(names),):
            raise ValueError(
                f"a point has shape {jnp.shape(chosen)}, expected one boolean per site: "
                f"({len(names)},) for {', '.join(names)}."
            )
        # Reshaped to the rank of the site, which a mask must have.
        masks = [chosen[i].reshape((1,) * len(sites[n].shape)) for i, n in enumerate(names)]
        parts = zip(names, masks, strict=True)
        return combine(*(patch(sites, n, _value(run, n), mask=mask) for n, mask in parts))

    return mediator


def direction(sites: Sites, name: str) -> Mediator:
    """One direction of a site; points are vectors over its last axes, of any length but zero."""
    return lambda vector, run: subspace(sites, name)(vector[None], run)


def subspace(sites: Sites, name: str) -> Mediator:
    """A subspace of a site; points are (rank, *last axes), rows independent or NaN results."""
    sites[name]  # An unknown one is a ValueError.
    return lambda basis, run: swap_subspace(sites, name, basis, _value(run, name))


def _check_units(sites: Sites, name: str) -> None:
    if sites[name].unit_axis is None:
        raise ValueError(
            f"site {name!r} {sites[name].shape} has no units; use mediators.position or whole."
        )


def _value(run: Activations, name: str) -> Array:
    if name not in run:
        raise ValueError(unknown_choice("site", name, run))
    return run[name]
