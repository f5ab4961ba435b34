"""The whole family of effect strengths of a site's units, from one sweep.

    total index         T = E|y' - y|^2 / (2 Var y), the unit redrawn: the headline, in [0, 1]
    first order         S = 1 - E|y'' - y|^2 / (2 Var y), everything but the unit redrawn
    interaction share   T - S
    dose response       RMS change, in SD of the outputs, of a shift by doses of the unit's SD
    nats                KL(p(y|z) || p(y|z')), what the change costs to encode
    factor units        change of a read-out over its range
    efficiency          T over the KL that the latent costs
    paper_*             E|y' - y|, the raw form ascribed to arXiv:2505.03530

T and S are the aggregated Sobol indices (Gamboa et al. 2014, arXiv:1311.1797) where the units are
independent, as latents drawn from the prior are; otherwise resample indices, of the same form.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects.unit_effects import clean_runs, held_runs, output_spread
from vaecausal_jax.inference import (
    Bootstrap,
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    linearised_ratio,
    simultaneous,
)
from vaecausal_jax.interventions import BoxPatch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import (
    Change,
    Outcome,
    difference,
    measure,
    outputs,
)
from vaecausal_jax.interventions.types import check_arithmetic
from vaecausal_jax.models.products import sum_last
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced
from vaecausal_jax.sweeps.patching import unit_starts

Divergence = Callable[[Array, Array], Array]
"""KL(p(.|y) || p(.|y')) in nats from the decoder's outputs y and y' of one image."""


class StrengthSamples(NamedTuple):
    """What a sweep keeps of every unit and image; doses run from the most negative up.

    Attributes:
        squared: |y' - y|^2, the unit redrawn, (units, images).
        complement: |y'' - y|^2, everything but the unit redrawn, (units, images).
        nats: KL of the redrawn run, (units, images); None without a divergence.
        readout: Change of r(y) to r(y'), (units, read-outs, images).
        doses: In the units' own SD, (doses,): minus the given ones, then those.
        dose_squared: |y_d - y|^2, (units, doses, images).
        slope_squared: |y_d - y_-d|^2 / (2 d)^2, (units, positive doses, images).
        curvature_squared: |y_d - 2 y + y_-d|^2 / d^4, (units, positive doses, images).
        dose_readout: Change of r(y) to r(y_d), (units, read-outs, doses, images).
        support: Share of the unit's natural values beyond its mean plus the dose, (units, doses).
        spread: |y - mean y|^2 of the clean outcomes, (images,).
        unit_sd: Standard deviation of each unit, (units,).
        num_outputs: Number of scalars in an outcome.
    """

    squared: Array
    complement: Array
    nats: Array | None
    readout: Array
    doses: np.ndarray
    dose_squared: Array
    slope_squared: Array
    curvature_squared: Array
    dose_readout: Array
    support: Array
    spread: Array
    unit_sd: Array
    num_outputs: int


class EffectStrengths(NamedTuple):
    """Every form of effect strength side by side; intervals over images, null 0 for all.

    Attributes:
        total_index: (units,).
        first_order: (units,).
        interaction_share: T - S, (units,): 0 where a unit's effect does not depend on the others.
        nats: (units,); None without a divergence.
        factor_units: E|r' - r| / range, (units, read-outs).
        efficiency: T per nat of KL, (units,); None without the latents' KL.
        paper_effect_strength: E|y' - y|, (units,); grows with pixels, dose and contrast.
        dose_response: RMS change an output in output SD, (units, doses), with simultaneous bands.
        slope: RMS |y_d - y_-d| / 2d, in output SD per unit SD, (units, positive doses).
        curvature: RMS |y_d - 2 y + y_-d| / d^2, (units, positive doses).
        signed_response: E[r(y_d) - r(y)] over range, (units, read-outs, doses), with bands.
        signed_slope: E[r(y_d) - r(y_-d)] / 2d, (units, read-outs, positive doses): 0 for an even
            response, whatever its magnitude.
        signed_curvature: E[r(y_d) - 2 r(y) + r(y_-d)] / d^2, (units, read-outs, positive doses).
        doses: (doses,), in SD of each unit.
        support: Share of natural values beyond each dose, (units, doses).
        on_support: Whether that share is at least ``min_support``: elsewhere the curve tells what
            the network would do with values it hardly sees.
    """

    total_index: Estimate
    first_order: Estimate
    interaction_share: Estimate
    nats: Estimate | None
    factor_units: Estimate
    efficiency: Estimate | None
    paper_effect_strength: Estimate
    dose_response: Estimate | None
    slope: Estimate | None
    curvature: Estimate | None
    signed_response: Estimate | None
    signed_slope: Estimate | None
    signed_curvature: Estimate | None
    doses: np.ndarray
    support: np.ndarray
    on_support: np.ndarray


def bernoulli_nats(logits: Array, other: Array) -> Array:
    """KL between independent Bernoulli pixels of one image, from their logits, summed."""
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    log_q, log_not_q = jax.nn.log_sigmoid(other), jax.nn.log_sigmoid(-other)
    p = jax.nn.sigmoid(logits)
    return sum_last(p * (log_p - log_q) + (1 - p) * (log_not_p - log_not_q), logits.ndim)


def gaussian_nats(variance: float) -> Divergence:
    """|y - y'|^2 / (2 variance): KL between Gaussian images of one fixed variance a pixel."""
    return lambda means, other: jnp.sum((means - other) ** 2) / (2 * variance)


def mean_output(y: Array) -> Array:
    """The mean over an outcome, (1,): the read-out of signed responses where none is given."""
    return jnp.mean(y)[None]


def strength_samples(
    net: BoundModel,
    runs: Runs,
    name: str,
    *,
    doses: Sequence[float] = (0.5, 1.0, 2.0),
    unit_sd: Array | None = None,
    outcome: Outcome = outputs,
    divergence: Divergence | None = None,
    readout: Callable[[Array], Array] = mean_output,
    change: Change = difference,
    sweep: SweepFn = sweep,
) -> StrengthSamples:
    """Redraws, freezes and shifts every unit of a site, in one sweep.

    Args:
        net: The network with its parameters.
        runs: The runs, and what their units are redrawn from.
        name: The site to sweep.
        doses: Positive, increasing, in SD of each unit; each is given with both signs.
        unit_sd: (units,) what a dose is counted in; by default each unit's SD over the base values.
        outcome: Trace to the array whose change is measured.
        divergence: ``bernoulli_nats``, ``gaussian_nats(variance)``, or None.
        readout: Outcome to columns (columns,): factor read-outs, or the mean output.
        change: Columns before and after to signed changes (read-outs,): ``Readout.change``, which
            knows that an angle turns, or their difference.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: A site without units, or values, doses or a read-out that do not fit.
    """
    sweep = unreduced(sweep)
    site, sizes = net.sites[name], np.asarray(doses, float)
    if site.unit_axis is None:
        raise ValueError(
            f"site {name!r} {site.shape} has no units; for VQ codes use code_effects.code_effects."
        )
    if sizes.ndim != 1 or np.any(sizes <= 0) or np.any(np.diff(sizes) <= 0):
        raise ValueError(f"doses must be positive and increasing, got {sizes.tolist()}.")
    if len(sizes):
        check_arithmetic(name, site)
    (donor, base), x, eps = held_runs(net, runs, name), runs.x, runs.eps

    def both(trace):
        return measure(outcome, trace), trace.outputs

    natural, (y, raw) = clean_runs(net, name, x, eps, base, both)
    if jax.eval_shape(readout, y[0]).ndim != 1:
        raise ValueError(
            f"readout must return (read-outs,), got {jax.eval_shape(readout, y[0]).shape}."
        )
    values = site.by_part(natural).reshape(site.num_units, -1)
    unit_sd = jnp.std(values, axis=1) if unit_sd is None else jnp.asarray(unit_sd, site.dtype)
    if unit_sd.shape != (site.num_units,):
        raise ValueError(f"unit_sd has shape {unit_sd.shape}, expected ({site.num_units},).")
    signed = np.concatenate([-sizes[::-1], sizes])
    size = site.part_shape

    def run(point, row):
        start, sd = point
        x, eps, natural, donor, y, raw = row
        own, other = (lax.dynamic_slice(a, tuple(start), size) for a in (natural, donor))

        def arm(rest, inside):
            return both(net(x, eps, {name: BoxPatch(rest, inside, tuple(start))}))

        redrawn, redrawn_raw = arm(natural, other)
        frozen, _ = arm(donor, own)
        kept = {
            "squared": jnp.sum((redrawn - y) ** 2),
            "complement": jnp.sum((frozen - y) ** 2),
            "readout": change(readout(y), readout(redrawn)),
        }
        if divergence is not None:
            kept["nats"] = divergence(raw, redrawn_raw)
        if len(sizes):
            amounts = jnp.asarray(signed, site.dtype) * sd
            dosed, _ = jax.vmap(lambda amount: arm(natural, own + amount))(amounts)
            moved = (dosed - y[None]).reshape(len(signed), -1)
            up, down = moved[len(sizes) :], moved[: len(sizes)][::-1]
            kept |= {
                "dose_squared": jnp.sum(moved**2, axis=1),
                "slope_squared": jnp.sum((up - down) ** 2, axis=1),
                "curvature_squared": jnp.sum((up + down) ** 2, axis=1),
                "dose_readout": jax.vmap(lambda shifted: change(readout(y), readout(shifted)))(
                    dosed
                ).T,
            }
        return kept

    points = unit_starts(name, site), unit_sd
    kept = sweep(run, points, (x, eps, natural, donor, y, raw))
    # The sweep's axis of images last, as inference has it.
    kept = {key: jnp.moveaxis(value, 1, -1) for key, value in kept.items()}
    num = site.num_units, len(sizes), len(x)
    kept.setdefault("dose_squared", jnp.zeros((num[0], 0, num[2])))
    kept.setdefault("slope_squared", jnp.zeros((num[0], 0, num[2])))
    kept.setdefault("curvature_squared", jnp.zeros((num[0], 0, num[2])))
    kept.setdefault("dose_readout", jnp.zeros((num[0], kept["readout"].shape[1], 0, num[2])))
    scale = jnp.asarray(sizes, y.dtype)[None, :, None]
    return StrengthSamples(
        squared=kept["squared"],
        complement=kept["complement"],
        nats=kept.get("nats"),
        readout=kept["readout"],
        doses=signed,
        dose_squared=kept["dose_squared"],
        slope_squared=kept["slope_squared"] / (2 * scale) ** 2,
        curvature_squared=kept["curvature_squared"] / scale**4,
        dose_readout=kept["dose_readout"],
        support=_beyond(values, unit_sd, signed),
        spread=output_spread(y),
        unit_sd=unit_sd,
        num_outputs=y[0].size,
    )


def estimate_strengths(
    key: Array,
    samples: StrengthSamples,
    *,
    intervention: str,
    output_sd: float | None = None,
    readout_range: ArrayLike = 1.0,
    kl: ArrayLike | None = None,
    min_support: float = 0.01,
    bootstrap: Bootstrap = Bootstrap(),
) -> EffectStrengths:
    """Every form of effect strength, with intervals, from one sweep's samples.

    Args:
        key: Typed PRNG key.
        samples: As from ``strength_samples``.
        intervention: Where redrawn values came from, in words.
        output_sd: SD of a scalar of the outcome, such as a pixel of the data; by default that of
            the clean outcomes, averaged over outputs as variances.
        readout_range: (read-outs,) or a number: what one whole factor is worth.
        kl: (images, units): nats that each latent costs, for ``efficiency``.
        min_support: Share of natural values beyond a dose that counts as on support.
        bootstrap: How intervals are made; those of responses to doses hold whole curves.

    Raises:
        ValueError: As ``bootstrap_ratio``, or ``kl`` of another shape.
    """
    num_units, num_images = samples.squared.shape
    redrawn = f"{intervention}, one unit redrawn"
    shifted = "units shifted by doses of their SD"
    ranges = jnp.broadcast_to(jnp.asarray(readout_range, float), samples.readout.shape[1:2])
    twice = jnp.broadcast_to(2.0 * samples.spread[None], samples.squared.shape)
    shares = {
        "total_index": (samples.squared, twice, redrawn),
        "first_order": (twice - samples.complement, twice, f"{intervention}, all others redrawn"),
        "interaction_share": (
            samples.squared + samples.complement - twice,
            twice,
            f"{redrawn}, total - first order",
        ),
    }
    if kl is not None:
        kl = jnp.asarray(kl, float)
        if kl.shape != (num_images, num_units):
            raise ValueError(f"kl has shape {kl.shape}, expected ({num_images}, {num_units}).")
        index = linearised_ratio(samples.squared, twice)
        shares["efficiency"] = index, kl.T, f"{redrawn}, total index per nat of its KL"
    means = {
        "factor_units": (
            jnp.abs(samples.readout) / ranges[None, :, None],
            f"{redrawn}, read-outs over range",
        ),
        "paper_effect_strength": (jnp.sqrt(samples.squared), f"{redrawn}, raw L2"),
    }
    if samples.nats is not None:
        means["nats"] = samples.nats, f"{redrawn}, KL in nats"
    num_doses = len(samples.doses) // 2
    bands: dict[str, Estimate] = {}
    if num_doses:
        variance = (
            jnp.mean(samples.spread) / samples.num_outputs
            if output_sd is None
            else jnp.asarray(output_sd) ** 2
        )
        per_output = samples.num_outputs * variance
        responses = samples.dose_readout / ranges[None, :, None, None]
        up, down = responses[:, :, num_doses:], responses[:, :, :num_doses][:, :, ::-1]
        scale = jnp.asarray(samples.doses[num_doses:], responses.dtype)[None, None, :, None]
        means |= {
            "slope": (samples.slope_squared / per_output, f"{shifted}, RMS slope"),
            "curvature": (samples.curvature_squared / per_output, f"{shifted}, RMS curvature"),
            "signed_slope": ((up - down) / (2 * scale), f"{shifted}, signed slope of read-outs"),
            "signed_curvature": ((up + down) / scale**2, f"{shifted}, signed curvature"),
        }
        curves = jnp.concatenate([samples.dose_squared[:, None] / per_output, responses], axis=1)
        whole = bootstrap._replace(interval=simultaneous)
        band = bootstrap_mean(key, curves, intervention=shifted, bootstrap=whole)
        bands = {
            "dose_response": _root(_pick(band, np.s_[:, 0], f"{shifted}, RMS in output SD")),
            "signed_response": _pick(band, np.s_[:, 1:], f"{shifted}, read-outs over range"),
        }
    found = _estimate_all(
        shares, lambda n, d: bootstrap_ratio(key, n, d, intervention="", bootstrap=bootstrap)
    )
    found |= _estimate_all(
        means, lambda n: bootstrap_mean(key, n, intervention="", bootstrap=bootstrap)
    )
    found |= bands
    found |= {name: _root(found[name]) for name in ("slope", "curvature") if name in found}
    return EffectStrengths(
        total_index=found["total_index"],
        first_order=found["first_order"],
        interaction_share=found["interaction_share"],
        nats=found.get("nats"),
        factor_units=found["factor_units"],
        efficiency=found.get("efficiency"),
        paper_effect_strength=found["paper_effect_strength"],
        dose_response=found.get("dose_response"),
        slope=found.get("slope"),
        curvature=found.get("curvature"),
        signed_response=found.get("signed_response"),
        signed_slope=found.get("signed_slope"),
        signed_curvature=found.get("signed_curvature"),
        doses=samples.doses,
        support=np.asarray(samples.support),
        on_support=np.asarray(samples.support) >= min_support,
    )


def _estimate_all(
    named: dict[str, tuple[Any, ...]], estimate: Callable[..., Estimate]
) -> dict[str, Estimate]:
    """Estimates of many arrays (..., images) in one call, which resamples all of them together."""
    arrays = [[a.reshape(-1, a.shape[-1]) for a in parts] for *parts, _ in named.values()]
    all_rows = estimate(*(jnp.concatenate(column) for column in zip(*arrays, strict=True)))
    found, start = {}, 0
    for name, (first, *_, what) in named.items():
        shape = first.shape[:-1]
        rows = np.s_[start : start + math.prod(shape)]
        found[name] = _pick(all_rows, rows, what, shape)
        start = rows.stop
    return found


def _pick(
    estimate: Estimate, part: Any, intervention: str, shape: tuple[int, ...] | None = None
) -> Estimate:
    picked = estimate[part]._replace(intervention=intervention)
    return picked if shape is None else picked.rearrange(lambda array: array.reshape(shape))


def _root(estimate: Estimate) -> Estimate:
    """The square root of an estimate of a mean square; an end below zero is cut off there."""
    return estimate.map(lambda squared: np.sqrt(np.maximum(squared, 0)))


def _beyond(values: Array, sd: Array, doses: np.ndarray) -> Array:
    """Share of (units, values) further out than the mean plus each dose, on the dose's side."""
    centred = values - values.mean(1, keepdims=True)
    ordered = jnp.sort(centred, axis=1)
    reach = jnp.asarray(doses, values.dtype)[None] * sd[:, None]
    below = jax.vmap(lambda v, r: jnp.searchsorted(v, r, side="left"))(ordered, reach)
    not_above = jax.vmap(lambda v, r: jnp.searchsorted(v, r, side="right"))(ordered, reach)
    share = jnp.where(jnp.asarray(doses > 0)[None], values.shape[1] - below, not_above)
    return share / values.shape[1]
