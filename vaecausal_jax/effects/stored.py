"""Whole questions as parts of a stored sweep: what to vary, over what, and what to keep.

Each function returns ``Part``s for ``sweeps.stored.run_stored``, which computes, writes and resumes
them. Nothing is computed here; ``sum(part.runs for part in parts)`` is the cost to announce.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vaecausal_jax.data import Dataset
from vaecausal_jax.effects import attribution, mediation, support
from vaecausal_jax.interventions import set_to
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import outputs
from vaecausal_jax.models import Model
from vaecausal_jax.rows import check_pairs, check_rows
from vaecausal_jax.sweeps.grid import sweep
from vaecausal_jax.sweeps.patching import Rows, patch_units, unit_patch, unit_starts
from vaecausal_jax.sweeps.stored import Part

_CHECKED = 128
"""Pairs or images whose patched activations are compared with natural ones."""


def unit_patching(
    model: Model,
    params: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    sites: Sequence[str] = (),
    mesh: Mesh | None = None,
) -> list[Part]:
    """Every unit of every site patched between paired inputs, denoising and noising.

    Args:
        model: The model.
        params: Its parameters.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise shared by both, (pairs, ...).
        sites: Which sites; all but the outputs if empty.
        mesh: See ``sweep``.

    Returns:
        A part per site, with the inner products of ``mediation.Gram``, (unit, pair) each, and
        ``support``: how far out the patched activations lie, see ``support_scores``;
        (unit, arm, checked pair), for the first 128 pairs. Arm 0 patches the reference, arm 1 the
        target; NaN where a site holds codes, which have no distances.
    """

    def part(name):
        site = model.sites[name]

        def compute(inputs, index):
            net, x0, x1, eps = _bound(model, inputs)
            gram = mediation.unit_mediation(net, name, x0, x1, eps, units=index, mesh=mesh)
            return {**gram._asdict(), "support": _pair_support(model, name, inputs, index)}

        num_units = site.num_parts
        dims = _same_dims(mediation.Gram._fields, "unit", "pair")
        dims |= {"support": ("unit", "arm", "checked")}
        return Part(name, compute, inputs, num_units, dims, {}, 2 * num_units * len(x0))

    inputs = _pair_inputs(params, x0, x1, eps)
    return [part(name) for name in sites or _inner_sites(model)]


def group_patching(
    model: Model,
    params: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    groups: Mapping[str, Any],
    *,
    mesh: Mesh | None = None,
) -> list[Part]:
    """Groups of units patched together between paired inputs, denoising and noising.

    Args:
        model: The model.
        params: Its parameters.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise shared by both, (pairs, ...).
        groups: Site to booleans (groups, units); ``whole_sites(model)`` patches each site whole.
        mesh: See ``sweep``.

    Returns:
        A part per site, with the inner products of ``mediation.Gram``, (group, pair) each.

    Raises:
        ValueError: Groups that do not fit their site.
    """

    def part(name, masks):
        site = model.sites[name]
        masks = np.asarray(masks)
        if masks.dtype != bool or masks.ndim != 2 or masks.shape[1] != site.num_units:
            raise ValueError(
                f"groups of {name!r} are {masks.dtype}{masks.shape}, expected booleans (groups, "
                f"{site.num_units})."
            )

        def compute(inputs, index):
            def both_arms(mask, pair):
                arm = _joint_patch(model, inputs["params"], name)
                y01, y10 = jax.vmap(arm, (None, 0))(mask, pair)
                return mediation.gram(pair.clean[0], pair.clean[1], y01, y10)

            pairs = _pairs(model, name, inputs)
            return sweep(both_arms, jnp.asarray(masks)[index], pairs, mesh=mesh)._asdict()

        dims = _same_dims(mediation.Gram._fields, "group", "pair")
        sizes = {"units": ("group", masks.sum(axis=1))}
        return Part(name, compute, inputs, len(masks), dims, sizes, 2 * len(masks) * len(x0))

    inputs = _pair_inputs(params, x0, x1, eps)
    return [part(name, masks) for name, masks in groups.items()]


def whole_sites(model: Model, sites: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """One group per site that holds all its units; sites without units are left out."""
    names = sites or _inner_sites(model)
    return {
        n: np.ones((1, model.sites[n].num_units), bool) for n in names if model.sites[n].num_units
    }


def unit_pairs(
    model: Model,
    params: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    sites: Sequence[str],
    max_runs: int = 1_000_000,
    mesh: Mesh | None = None,
) -> list[Part]:
    """Interaction of every two units of a site when x1's values are patched into runs on x0.

    With v(S) = <Y(x0; S <- x1) - Y(x0), TE>, the interaction is v({i, j}) - v({i}) - v({j}): the
    dividend of the pair, positive for synergy, negative for redundancy.

    Args:
        model: The model.
        params: Its parameters.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise shared by both, (pairs, ...).
        sites: Which sites.
        max_runs: The most forward passes that may be asked for.
        mesh: See ``sweep``.

    Returns:
        A part per site: ``joint`` v({i, j}), ``interaction``, each (units, pair), and ``total``
        |TE|^2, with labels ``first`` and ``second`` of the units.

    Raises:
        ValueError: More runs than ``max_runs``, before anything is computed.
    """

    def part(name):
        site = model.sites[name]
        first, second = np.triu_indices(site.num_units, 1)

        def compute(inputs, index):
            rows = _paired_rows(model, name, inputs)
            # References only: the second half are the targets' runs.
            total = jnp.roll(rows.clean, -len(x0), axis=0) - rows.clean
            rows = jax.tree.map(lambda a: a[: len(x0)], rows._replace(reference=total))

            def along(patched, row):
                return jnp.vdot(patched - row.clean, row.reference)

            def joint(units, row):
                mask = (jnp.arange(site.num_units)[:, None] == units[None, :]).any(axis=1)
                return along(_joint_patch(model, inputs["params"], name)(mask, row), row)

            single = patch_units(model.bind(inputs["params"]), name, rows, along, mesh=mesh)
            both = jnp.stack([jnp.asarray(first)[index], jnp.asarray(second)[index]], axis=1)
            value = sweep(joint, both, rows, mesh=mesh)
            return {
                "joint": value,
                "interaction": value - single[both[:, 0]] - single[both[:, 1]],
                "total": jnp.broadcast_to(
                    jax.vmap(jnp.vdot)(rows.reference, rows.reference)[None], value.shape
                ),
            }

        runs = (len(first) + site.num_units) * len(x0)
        dims = _same_dims(("joint", "interaction", "total"), "units", "pair")
        coords = {"first": ("units", first), "second": ("units", second)}
        return Part(name, compute, inputs, len(first), dims, coords, runs)

    inputs = _pair_inputs(params, x0, x1, eps)
    parts = [part(name) for name in sites]
    runs = sum(part.runs for part in parts)
    if runs > max_runs:
        raise ValueError(
            f"all pairs of units of {list(sites)} over {len(x0)} pairs of images take {runs} runs, "
            f"more than max_runs {max_runs}. Take fewer images or smaller sites, or raise max_runs."
        )
    return parts


def latent_doses(
    model: Model,
    params: Any,
    x: Array,
    eps: Array,
    doses: Sequence[float],
    *,
    mesh: Mesh | None = None,
) -> list[Part]:
    """Every latent shifted by every dose, in standard deviations of its aggregate posterior.

    Args:
        model: The model; it has a site ``latent/z``.
        params: Its parameters.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        doses: The doses.
        mesh: See ``sweep``.

    Returns:
        One part: ``squared`` |y' - y|^2 and ``signed`` mean pixel change, (point, image), and
        ``support``, how far out the shifted latents lie (``support_scores``), (point,
        checked image), for the first 128 images; with labels ``latent`` and ``dose``.
    """
    check_rows(x=x, eps=eps)
    name = "latent/z"
    site = model.sites[name]
    latent, dose = (a.ravel() for a in np.meshgrid(np.arange(site.num_units), doses, indexing="ij"))

    def compute(inputs, index):
        trace = jax.vmap(model.forward, (None, 0, 0))(inputs["params"], inputs["x"], inputs["eps"])
        z = trace.activations[name]
        rows = Rows(inputs["x"], inputs["eps"], z, z, trace.outputs)
        sd = jnp.std(z, axis=0)

        def effect(patched, row):
            change = patched - row.clean
            return {"squared": jnp.sum(change**2), "signed": jnp.mean(change)}

        run, _ = unit_patch(model.bind(inputs["params"]), name, site, effect)

        def shifted(point, row):
            start, dose = point
            return run(start, row._replace(donor=row.natural + dose * sd))

        units, sizes = jnp.asarray(latent)[index], jnp.asarray(dose)[index]
        points = unit_starts(name, site, units), sizes
        effects = sweep(shifted, points, rows, mesh=mesh)
        steps = jax.nn.one_hot(units, site.num_units) * (sizes[:, None] * sd[None, :])
        return {**effects, "support": _shift_support(z[:_CHECKED], steps)}

    inputs = {"params": params, "x": x, "eps": eps}
    dims = _same_dims(("squared", "signed"), "point", "image") | {"support": ("point", "checked")}
    coords = {"latent": ("point", latent), "dose": ("point", dose)}
    return [Part(name, compute, inputs, len(latent), dims, coords, len(latent) * len(x))]


def factor_sweeps(
    model: Model,
    params: Any,
    data: Dataset,
    factors: Array,
    eps: Array,
    *,
    mesh: Mesh | None = None,
) -> list[Part]:
    """do(factor = level) on the input, for every factor and every level with images of its own.

    Args:
        model: The model; it has a site ``latent/mean``.
        params: Its parameters.
        data: What renders the images.
        factors: Levels of the base images, (images, factors).
        eps: Noise, (images, ...).
        mesh: See ``sweep``.

    Returns:
        A part per factor: ``mean_change`` of the latent means (level, image, latent), and
        ``squared`` change of the outputs (level, image).
    """
    check_rows(factors=factors, eps=eps)

    def part(position, factor):
        def compute(inputs, index):
            def run(level, context):
                row, noise = context
                image = inputs["data"].image

                def outcome(levels):
                    trace = model.forward(inputs["params"], image(levels), noise, {})
                    return trace.activations["latent/mean"], trace.outputs

                (mean0, y0), (mean1, y1) = outcome(row), outcome(row.at[position].set(level))
                return {"mean_change": mean1 - mean0, "squared": jnp.sum((y1 - y0) ** 2)}

            return sweep(run, index, (inputs["factors"], inputs["eps"]), mesh=mesh)

        dims = {"mean_change": ("level", "image", "latent"), "squared": ("level", "image")}
        # Orientation 39 of dSprites is orientation 0 again: no level of its own.
        num_levels = factor.num_distinct
        coords = {"value": ("level", np.array(factor.values[:num_levels]))}
        runs = (num_levels + 1) * len(eps)
        return Part(f"input/{factor.name}", compute, inputs, num_levels, dims, coords, runs)

    inputs = {"params": params, "data": data, "factors": factors, "eps": eps}
    return [part(position, factor) for position, factor in enumerate(data.factors)]


def attributions(
    model: Model,
    params: Any,
    x0: Array,
    x1: Array,
    eps: Array,
    *,
    sites: Sequence[str] = (),
    num_nodes: int = 5,
) -> list[Part]:
    """Gradient surrogates of ``unit_patching``'s ``total_pure`` and ``total_total``.

    Args:
        model: The model.
        params: Its parameters.
        x0: Reference inputs, (pairs, ...).
        x1: Target inputs, (pairs, ...).
        eps: Noise shared by both, (pairs, ...).
        sites: Which sites; all with units but the outputs if empty.
        num_nodes: Gauss-Legendre nodes of the integrated gradient.

    Returns:
        A part per site: ``attribution`` (AtP), ``hessian`` and its ``reliability``, ``integrated``
        (EAP-IG along the inputs), each (pair, arm, unit); arm 0 predicts <PNIE, TE>, arm 1
        <TNIE, TE>.
    """

    def part(name):
        def compute(inputs, index):
            chosen = {**inputs, **{k: inputs[k][index] for k in ("x0", "x1", "eps")}}
            rows = _paired_rows(model, name, chosen)
            rows = rows._replace(reference=jnp.roll(rows.clean, len(index), axis=0) - rows.clean)
            other = jnp.roll(rows.x, len(index), axis=0)
            net = model.bind(inputs["params"])
            rule = attribution.gauss_legendre(num_nodes)
            hessian = attribution.hessian_corrected(net, name, rows, _along_reference)
            results = {
                "attribution": attribution.attribution_patching(net, name, rows, _along_reference),
                "hessian": hessian.estimate,
                "reliability": hessian.reliability,
                "integrated": attribution.integrated_gradients_inputs(
                    net, name, rows, other, _along_reference, rule=rule
                ),
            }
            # (units, arms x pairs) to (pairs, arms, units)
            return {
                key: jnp.moveaxis(value.reshape(value.shape[0], 2, len(index)), 2, 0).swapaxes(1, 2)
                for key, value in results.items()
            }

        results = ("attribution", "hessian", "reliability", "integrated")
        dims = _same_dims(results, "pair", "arm", "unit")
        # Forward and backward, twice that for a Hessian product, both arms.
        runs = 2 * len(x0) * (3 + 3 * num_nodes + 6 * model.sites[name].num_units)
        arms = {"arm": ("arm", ["denoising", "noising"])}
        return Part(name, compute, inputs, len(x0), dims, arms, runs)

    inputs = _pair_inputs(params, x0, x1, eps)
    names = sites or [n for n in _inner_sites(model) if model.sites[n].num_units]
    return [part(name) for name in names]


def _same_dims(names: Sequence[str], *axes: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(names, axes)


def _along_reference(outcome: Array, row: Rows) -> Array:
    return jnp.vdot(outcome - row.clean, row.reference)


def _pair_inputs(params: Any, x0: Array, x1: Array, eps: Array) -> dict[str, Any]:
    check_pairs(x0, x1, eps)
    return {"params": params, "x0": x0, "x1": x1, "eps": eps}


def _bound(model: Model, inputs: Mapping[str, Any]) -> tuple[BoundModel, Array, Array, Array]:
    """The network, and the pairs, of the inputs of a part."""
    return model.bind(inputs["params"]), inputs["x0"], inputs["x1"], inputs["eps"]


def _inner_sites(model: Model) -> list[str]:
    """All sites but the last, the outputs themselves."""
    return list(model.sites)[:-1]


def _paired_rows(model: Model, name: str, inputs: Mapping[str, Any]) -> Rows:
    net, x0, x1, eps = _bound(model, inputs)
    return mediation.paired_rows(net, name, x0, x1, eps, outputs)


def _pairs(model: Model, name: str, inputs: Mapping[str, Any]) -> Rows:
    """Rows with both arms of a pair together: (pairs, 2, ...)."""
    net, x0, x1, eps = _bound(model, inputs)
    return mediation.pair_rows(net, name, x0, x1, eps, outputs)


def _pair_support(model: Model, name: str, inputs: Mapping[str, Any], units: Array) -> Array:
    """Support scores of the first pairs with each unit patched, both ways: (units, 2, pairs)."""
    first = {key: inputs[key][:_CHECKED] for key in ("x0", "x1", "eps")}
    rows = _paired_rows(model, name, {**inputs, **first})
    num = len(rows.natural)
    if not jnp.issubdtype(rows.natural.dtype, jnp.floating):
        return jnp.full((len(units), 2, num // 2), jnp.nan)
    scores = support.unit_support_scores(
        model.sites, name, rows.natural, rows.donor, units=units, neighbours=_neighbours(num)
    )
    return scores.reshape(len(units), 2, num // 2)


def _shift_support(z: Array, steps: Array) -> Array:
    """Support scores of codes (images, latents) after each step, (steps, images)."""
    if len(z) < 2:
        return jnp.full((len(steps), len(z)), jnp.nan)
    shifted = (z[None] + steps[:, None]).reshape(-1, z.shape[1])
    own = jnp.tile(jnp.arange(len(z)), len(steps))
    scores = support.support_scores(shifted, z, own=own, neighbours=_neighbours(len(z)))
    return scores.reshape(len(steps), len(z))


def _neighbours(num: int) -> int:
    return min(5, num - 1)


def _joint_patch(model: Model, params: Any, name: str) -> Callable[[Array, Rows], Array]:
    """A run with the donor's values in all units of a mask (units,)."""
    site = model.sites[name]

    def run(mask: Array, row: Rows) -> Array:
        value = jnp.where(site.spread(mask), row.donor, row.natural)
        return model.forward(params, row.x, row.eps, set_to(model.sites, name, value)).outputs

    return run
