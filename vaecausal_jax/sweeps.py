"""Sweeps: one compiled program over many interventions and many images.

Every question of this library is ``run(point, context)`` evaluated over a grid: points are what is
varied (a unit, a dose, a stacked intervention), contexts are what it is averaged over (an image,
its noise, its donor). ``run`` reduces on the device, so that only the effects leave it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaecausal_jax.interventions import select, set_to
from vaecausal_jax.sites import Array, Forward, Outcome, Sites, outputs


class Rows(NamedTuple):
    """Runs to be patched at one site.

    Attributes:
        x: Inputs, (runs, ...).
        eps: Noise, (runs, ...).
        natural: The site's value in each run, (runs, *site shape).
        donor: What to patch in, (runs, *site shape).
    """

    x: Array
    eps: Array
    natural: Array
    donor: Array


def sweep(
    run: Callable[[Any, Any], Any], points: Any, contexts: Any, *, chunk: int | None = None
) -> Any:
    """Evaluates ``run(point, context)`` at every point and context.

    Points are taken ``chunk`` at a time, all contexts at once, so memory does not grow with the
    number of points. Layers before an intervened site do not depend on the point and are computed
    once: sweep one site at a time.

    Args:
        run: Function of one point and one context, such as a forward followed by a reduction.
        points: Pytree, leading axis of points: unit indices, or ``interventions.stack(...)``.
        contexts: Pytree, leading axis of contexts, e.g. ``(images, noise)``.
        chunk: Points evaluated together; by default 1 on a CPU, where larger blocks fall out of the
            cache, and 32 elsewhere.

    Returns:
        The result of ``run`` with leading axes (points, contexts).

    Raises:
        ValueError: No points, or leaves of points (or of contexts) that differ in length.
    """
    num_points = _leading_axis("points", points)
    _leading_axis("contexts", contexts)
    if chunk is None:
        chunk = 1 if jax.default_backend() == "cpu" else 32
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}.")

    def at_point(point):
        return jax.vmap(lambda context: run(point, context))(contexts)

    if chunk == 1:
        return jax.lax.map(at_point, points)
    return jax.lax.map(at_point, points, batch_size=min(chunk, num_points))


def patch_units(
    forward: Forward,
    params: Any,
    sites: Sites,
    name: str,
    rows: Rows,
    reduce: Callable[[Array], Any],
    *,
    outcome: Outcome = outputs,
    chunk: int | None = None,
) -> Any:
    """Puts the donor's value of one unit into every run, unit by unit.

    Each run restarts at the site from its own natural value, so that a network without skip
    connections computes only the layers after the site.

    Args:
        forward: ``forward(params, x, eps, interventions) -> Trace``.
        params: Its parameters.
        sites: Its sites.
        name: The site to sweep.
        rows: The runs to patch.
        reduce: Outcomes of all runs under one patch, (runs, *outcome), to what is kept of them.
        outcome: Trace to the array of interest.
        chunk: See ``sweep``.

    Returns:
        The reduced outcomes with a leading axis of units (of positions, where the site holds VQ
        codes).
    """
    site = sites[name]
    lengths = [n for axis, n in enumerate(site.shape) if axis != site.unit_axis]

    def run(part, everything):
        where = (
            {"position": tuple(jnp.unravel_index(part, lengths))}
            if site.unit_axis is None
            else {"unit": part}
        )
        mask, _ = select(name, site, **where)

        def patched(x, eps, natural, donor):
            whole = set_to(sites, name, jnp.where(mask, donor, natural))
            return outcome(forward(params, x, eps, whole))

        return reduce(jax.vmap(patched)(*everything))

    num_parts = site.num_units if site.unit_axis is not None else site.num_positions
    return jax.tree.map(
        lambda leaf: leaf[:, 0],
        sweep(run, jnp.arange(num_parts), jax.tree.map(lambda a: a[None], rows), chunk=chunk),
    )


def _leading_axis(word: str, tree: Any) -> int:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
        raise ValueError(
            f"all leaves of {word} need one common, non-zero leading axis, got {sorted(lengths)}."
        )
    return lengths.pop()[0]
