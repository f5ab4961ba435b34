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

from vaecausal_jax.data import Dataset
from vaecausal_jax.data.pairs import Pairs, check_pairs
from vaecausal_jax.effects import attribution, mediation, support
from vaecausal_jax.effects.decompositions import Gram, gram
from vaecausal_jax.interventions import set_to
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.rows import check_rows
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced
from vaecausal_jax.sweeps.patching import Rows, patch_units, unit_patch, unit_starts
from vaecausal_jax.sweeps.stored import Part

NUM_CHECKED = 128
"""Pairs or images whose patched activations are compared with natural ones, by default."""


def unit_patching(
    net: BoundModel,
    pairs: Pairs,
    *,
    sites: Sequence[str] = (),
    num_checked: int = NUM_CHECKED,
    sweep: SweepFn = sweep,
) -> list[Part]:
    """Every unit of every site patched between paired inputs, denoising and noising.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared.
        sites: Which sites; all but the outputs if empty.
        num_checked: Of how many pairs patched activations are compared with natural ones.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        A part per site, with the inner products of ``Gram``, (unit, pair) each, and
        ``support``: how far out the patched activations lie, see ``support_scores``;
        (unit, arm, checked pair). Arm 0 patches the reference, arm 1 the
        target; NaN where a site holds codes, which have no distances.
    """
    sweep = unreduced(sweep)

    def part(name):
        site = net.sites[name]

        def compute(inputs, index):
            gram = mediation.unit_grams(*_given(net, inputs), name, units=index, sweep=sweep)
            return {
                **gram._asdict(),
                "support": _pair_support(net, name, inputs, index, num_checked),
            }

        num_units = site.num_parts
        dims = _same_dims(Gram._fields, "unit", "pair")
        dims |= {"support": ("unit", "arm", "checked")}
        return Part(name, compute, inputs, num_units, dims, {}, 2 * num_units * len(pairs.x0))

    inputs = _pair_inputs(net, pairs)
    return [part(name) for name in sites or _inner_sites(net)]


def group_patching(
    net: BoundModel,
    pairs: Pairs,
    groups: Mapping[str, Any],
    *,
    sweep: SweepFn = sweep,
) -> list[Part]:
    """Groups of units patched together between paired inputs, denoising and noising.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared.
        groups: Site to booleans (groups, units); ``whole_sites(net)`` patches each site whole.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        A part per site, with the inner products of ``Gram``, (group, pair) each.

    Raises:
        ValueError: Groups that do not fit their site.
    """
    sweep = unreduced(sweep)

    def part(name, masks):
        site = net.sites[name]
        masks = np.asarray(masks)
        if masks.dtype != bool or masks.ndim != 2 or masks.shape[1] != site.num_units:
            raise ValueError(
                f"groups of {name!r} are {masks.dtype}{masks.shape}, expected booleans (groups, "
                f"{site.num_units})."
            )

        def compute(inputs, index):
            def both_arms(mask, pair):
                arm = _joint_patch(net.with_params(inputs["params"]), name)
                y01, y10 = jax.vmap(arm, (None, 0))(mask, pair)
                return gram(pair.clean[0], pair.clean[1], y01, y10)

            rows = mediation.pair_rows(*_given(net, inputs), name)
            return sweep(both_arms, jnp.asarray(masks)[index], rows)._asdict()

        dims = _same_dims(Gram._fields, "group", "pair")
        sizes = {"units": ("group", masks.sum(axis=1))}
        return Part(name, compute, inputs, len(masks), dims, sizes, 2 * len(masks) * len(pairs.x0))

    inputs = _pair_inputs(net, pairs)
    return [part(name, masks) for name, masks in groups.items()]


def whole_sites(net: BoundModel, sites: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """One group per site that holds all its units; sites without units are left out."""
    names = sites or _inner_sites(net)
    return {n: np.ones((1, net.sites[n].num_units), bool) for n in names if net.sites[n].num_units}


def unit_pairs(
    net: BoundModel,
    pairs: Pairs,
    *,
    sites: Sequence[str],
    max_runs: int = 1_000_000,
    sweep: SweepFn = sweep,
) -> list[Part]:
    """Interaction of every two units of a site when x1's values are patched into runs on x0.

    With v(S) = <Y(x0; S <- x1) - Y(x0), TE>, the interaction is v({i, j}) - v({i}) - v({j}): the
    dividend of the pair, positive for synergy, negative for redundancy.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared.
        sites: Which sites.
        max_runs: The most forward passes that may be asked for.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        A part per site: ``joint`` v({i, j}), ``interaction``, each (units, pair), and ``total``
        |TE|^2, with labels ``first`` and ``second`` of the units.

    Raises:
        ValueError: More runs than ``max_runs``, before anything is computed.
    """
    sweep = unreduced(sweep)

    def part(name):
        site = net.sites[name]
        first, second = np.triu_indices(site.num_units, 1)

        def compute(inputs, index):
            rows = mediation.paired_rows(*_given(net, inputs), name)
            # References only: the second half are the targets' runs.
            total = jnp.roll(rows.clean, -len(pairs.x0), axis=0) - rows.clean
            rows = jax.tree.map(lambda a: a[: len(pairs.x0)], rows._replace(reference=total))

            def along(patched, row):
                return jnp.vdot(patched - row.clean, row.reference)

            def joint(units, row):
                mask = (jnp.arange(site.num_units)[:, None] == units[None, :]).any(axis=1)
                return along(_joint_patch(net.with_params(inputs["params"]), name)(mask, row), row)

            single = patch_units(net.with_params(inputs["params"]), name, rows, along, sweep=sweep)
            both = jnp.stack([jnp.asarray(first)[index], jnp.asarray(second)[index]], axis=1)
            value = sweep(joint, both, rows)
            return {
                "joint": value,
                "interaction": value - single[both[:, 0]] - single[both[:, 1]],
                "total": jnp.broadcast_to(
                    jax.vmap(jnp.vdot)(rows.reference, rows.reference)[None], value.shape
                ),
            }

        runs = (len(first) + site.num_units) * len(pairs.x0)
        dims = _same_dims(("joint", "interaction", "total"), "units", "pair")
        coords = {"first": ("units", first), "second": ("units", second)}
        return Part(name, compute, inputs, len(first), dims, coords, runs)

    inputs = _pair_inputs(net, pairs)
    parts = [part(name) for name in sites]
    runs = sum(part.runs for part in parts)
    if runs > max_runs:
        raise ValueError(
            f"all pairs of units of {list(sites)} over {len(pairs.x0)} pairs of images take {runs} "
            f"runs, more than max_runs {max_runs}. Take fewer images or smaller sites, or raise "
            "max_runs."
        )
    return parts


def latent_doses(
    net: BoundModel,
    x: Array,
    eps: Array,
    doses: Sequence[float],
    *,
    num_checked: int = NUM_CHECKED,
    sweep: SweepFn = sweep,
) -> list[Part]:
    """Every latent shifted by every dose, in standard deviations of its aggregate posterior.

    Args:
        net: The network with its parameters; it has a site ``latent/z``.
        x: Inputs, (images, ...).
        eps: Noise, (images, ...).
        doses: The doses.
        num_checked: Of how many images shifted latents are compared with natural ones.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        One part: ``squared`` |y' - y|^2 and ``signed`` mean pixel change, (point, image), and
        ``support``, how far out the shifted latents lie (``support_scores``), (point,
        checked image); with labels ``latent`` and ``dose``.
    """
    sweep = unreduced(sweep)
    check_rows(x=x, eps=eps)
    name = "latent/z"
    site = net.sites[name]
    latent, dose = (a.ravel() for a in np.meshgrid(np.arange(site.num_units), doses, indexing="ij"))

    def compute(inputs, index):
        net_given = net.with_params(inputs["params"])
        trace = jax.vmap(net_given)(inputs["x"], inputs["eps"])
        z = trace.activations[name]
        rows = Rows(inputs["x"], inputs["eps"], z, z, trace.outputs)
        sd = jnp.std(z, axis=0)

        def effect(patched, row):
            change = patched - row.clean
            return {"squared": jnp.sum(change**2), "signed": jnp.mean(change)}

        run, _ = unit_patch(net_given, name, site, effect)

        def shifted(point, row):
            start, dose = point
            return run(start, row._replace(donor=row.natural + dose * sd))

        units, sizes = jnp.asarray(latent)[index], jnp.asarray(dose)[index]
        points = unit_starts(name, site, units), sizes
        effects = sweep(shifted, points, rows)
        steps = jax.nn.one_hot(units, site.num_units) * (sizes[:, None] * sd[None, :])
        return {**effects, "support": _shift_support(z[:num_checked], steps)}

    inputs = {"params": net.params, "x": x, "eps": eps}
    dims = _same_dims(("squared", "signed"), "point", "image") | {"support": ("point", "checked")}
    coords = {"latent": ("point", latent), "dose": ("point", dose)}
    return [Part(name, compute, inputs, len(latent), dims, coords, len(latent) * len(x))]


def factor_sweeps(
    net: BoundModel,
    data: Dataset,
    factors: Array,
    eps: Array,
    *,
    sweep: SweepFn = sweep,
) -> list[Part]:
    """Sets every factor of the input to every level with images of its own, all others held.

    Args:
        net: The network with its parameters; it has a site ``latent/mean``.
        data: What renders the images.
        factors: Levels of the base images, (images, factors).
        eps: Noise, (images, ...).
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        A part per factor: ``mean_change`` of the latent means (level, image, latent), and
        ``squared`` change of the outputs (level, image).
    """
    sweep = unreduced(sweep)
    check_rows(factors=factors, eps=eps)

    def part(position, factor):
        def compute(inputs, index):
            def run(level, context):
                row, noise = context
                image = inputs["data"].image

                def outcome(levels):
                    trace = net.with_params(inputs["params"])(image(levels), noise)
                    return trace.activations["latent/mean"], trace.outputs

                (mean0, y0), (mean1, y1) = outcome(row), outcome(row.at[position].set(level))
                return {"mean_change": mean1 - mean0, "squared": jnp.sum((y1 - y0) ** 2)}

            return sweep(run, index, (inputs["factors"], inputs["eps"]))

        dims = {"mean_change": ("level", "image", "latent"), "squared": ("level", "image")}
        # Orientation 39 of dSprites is orientation 0 again: no level of its own.
        num_levels = factor.num_distinct
        coords = {"value": ("level", np.array(factor.values[:num_levels]))}
        runs = (num_levels + 1) * len(eps)
        return Part(f"input/{factor.name}", compute, inputs, num_levels, dims, coords, runs)

    inputs = {"params": net.params, "data": data, "factors": factors, "eps": eps}
    return [part(position, factor) for position, factor in enumerate(data.factors)]


def attributions(
    net: BoundModel,
    pairs: Pairs,
    *,
    sites: Sequence[str] = (),
    num_nodes: int = 5,
) -> list[Part]:
    """Gradient surrogates of ``unit_patching``'s ``total_pure`` and ``total_total``.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared.
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
            rows = mediation.paired_rows(*_given(net, chosen), name)
            rows = rows._replace(reference=jnp.roll(rows.clean, len(index), axis=0) - rows.clean)
            other = jnp.roll(rows.x, len(index), axis=0)
            given = net.with_params(inputs["params"])
            rule = attribution.gauss_legendre(num_nodes)
            hessian = attribution.hessian_corrected(given, name, rows, _along_reference)
            results = {
                "attribution": attribution.attribution_patching(
                    given, name, rows, _along_reference
                ),
                "hessian": hessian.estimate,
                "reliability": hessian.reliability,
                "integrated": attribution.integrated_gradients_inputs(
                    given, name, rows, other, _along_reference, rule=rule
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
        runs = 2 * len(pairs.x0) * (3 + 3 * num_nodes + 6 * net.sites[name].num_units)
        arms = {"arm": ("arm", ["denoising", "noising"])}
        return Part(name, compute, inputs, len(pairs.x0), dims, arms, runs)

    inputs = _pair_inputs(net, pairs)
    names = sites or [n for n in _inner_sites(net) if net.sites[n].num_units]
    return [part(name) for name in names]


def _same_dims(names: Sequence[str], *axes: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(names, axes)


def _along_reference(outcome: Array, row: Rows) -> Array:
    return jnp.vdot(outcome - row.clean, row.reference)


def _pair_inputs(net: BoundModel, pairs: Pairs) -> dict[str, Any]:
    check_pairs(pairs)
    return {"params": net.params, "x0": pairs.x0, "x1": pairs.x1, "eps": pairs.eps}


def _given(net: BoundModel, inputs: Mapping[str, Any]) -> tuple[BoundModel, Pairs]:
    """The network and the pairs of a part's inputs, which are arguments of its program."""
    return net.with_params(inputs["params"]), Pairs(inputs["x0"], inputs["x1"], inputs["eps"])


def _inner_sites(net: BoundModel) -> list[str]:
    """All sites but the last, the outputs themselves."""
    return list(net.sites)[:-1]


def _pair_support(
    net: BoundModel, name: str, inputs: Mapping[str, Any], units: Array, num_checked: int
) -> Array:
    """Support scores of the first pairs with each unit patched, both ways: (units, 2, pairs)."""
    first = {key: inputs[key][:num_checked] for key in ("x0", "x1", "eps")}
    rows = mediation.paired_rows(*_given(net, {**inputs, **first}), name)
    num = len(rows.natural)
    if not jnp.issubdtype(rows.natural.dtype, jnp.floating):
        return jnp.full((len(units), 2, num // 2), jnp.nan)
    scores = support.unit_support_scores(
        net.sites, name, rows.natural, rows.donor, units=units, neighbours=_neighbours(num)
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


def _joint_patch(net: BoundModel, name: str) -> Callable[[Array, Rows], Array]:
    """A run with the donor's values in all units of a mask (units,)."""
    site = net.sites[name]

    def run(mask: Array, row: Rows) -> Array:
        value = jnp.where(site.spread(mask), row.donor, row.natural)
        return net(row.x, row.eps, set_to(net.sites, name, value)).outputs

    return run
