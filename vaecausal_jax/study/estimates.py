"""From measurements to estimates: every number with its interval over pairs or images.

Leading axis of models throughout: seeds of the first family, then of the second, ...
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax import inference
from vaecausal_jax.data import Dataset
from vaecausal_jax.effects.decompositions import Gram
from vaecausal_jax.effects.modularity import EffectModularity, effect_modularity
from vaecausal_jax.effects.strengths import EffectStrengths, StrengthSamples, estimate_strengths
from vaecausal_jax.effects.unit_effects import effective_units
from vaecausal_jax.inference import Bootstrap, Estimate
from vaecausal_jax.study.config import StudyConfig
from vaecausal_jax.study.estimate_codes import (
    Arrays,
    code_estimates,
    code_image_values,
    code_values,
)
from vaecausal_jax.training.trainer import ACTIVE_KL


class Estimates(NamedTuple):
    """Every estimate of a study, leading axis of models; computed once, tabulated twice.

    Attributes:
        units: Site to the estimates of ``unit_estimates``.
        latent: As from ``latent_estimates``.
        input: As from ``input_estimates``.
        modularity: Of the effects of latents, by where they were read: one of each model, None
            where fewer than two latents do anything.
        models: One number per model, by name.
        images: What each image gave of those that are means over images, (models, images).
        codes: Of models with codes, as from ``code_estimates``; they have no ``latent``, ``input``
            and ``modularity``, which others have.
    """

    units: dict[str, dict[str, Estimate]]
    latent: dict[str, Estimate]
    input: dict[str, Estimate]
    modularity: dict[str, list[EffectModularity | None]]
    models: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    codes: dict[str, Estimate]


def _bootstrap(config: StudyConfig) -> Bootstrap:
    return Bootstrap(num_replicates=config.num_replicates)


def estimate_all(config: StudyConfig, data: Dataset, arrays: dict[str, Arrays]) -> Estimates:
    """All estimates of a study from its measurements."""
    units = by_site(arrays, unit_estimates(config, data, all_units(arrays)))
    if "codes" in arrays["health"]:
        codes = code_estimates(config, data, arrays)
        models = {**code_values(arrays, codes), **unit_values(units), **arrays["scores"]}
        return Estimates(units, {}, {}, {}, models, code_image_values(arrays), codes)
    latent = latent_estimates(config, data, arrays)
    modularity = {
        where: [_modularity(config, changes, where) for changes in by_model]
        for where, by_model in arrays["modularity"].items()
    }
    models = {
        **latent_values(arrays["health"], latent),
        **unit_values(units),
        **modularity_values(modularity),
        **arrays["scores"],
    }
    moved = input_estimates(config, data, arrays)
    return Estimates(units, latent, moved, modularity, models, image_values(arrays), {})


def unit_sites(arrays: dict[str, Arrays]) -> list[str]:
    """Sites whose units were patched one by one."""
    return [name.removeprefix("site/") for name in arrays if name.startswith("site/")]


def all_units(arrays: dict[str, Arrays]) -> Arrays:
    """What was measured of the units of all sites, on one axis of units: (models, units, ...).

    Numbers of a site as a whole are left out. One call then estimates all, and is compiled once.
    """
    parts = [arrays[f"site/{site}"] for site in unit_sites(arrays)]
    joined = {
        name: np.concatenate([part[name] for part in parts], axis=1)
        for name in parts[0]
        if not name.startswith("site_") and name != "resample_spread"
    }
    # Of the clean outputs, the same whichever site is looked at.
    return {**joined, "resample_spread": parts[0]["resample_spread"]}


def by_site(
    arrays: dict[str, Arrays], estimates: dict[str, Estimate]
) -> dict[str, dict[str, Estimate]]:
    """Estimates of all units, taken apart: site to name to (models, its units, ...)."""
    sites = unit_sites(arrays)
    counts = [arrays[f"site/{site}"]["total"].shape[1] for site in sites]
    ends = np.cumsum([0, *counts])
    return {
        site: {name: estimate[:, start:stop] for name, estimate in estimates.items()}
        for site, start, stop in zip(sites, ends, ends[1:], strict=False)
    }


def unit_estimates(config: StudyConfig, data: Dataset, part: Arrays) -> dict[str, Estimate]:
    """Shares and strengths of every unit, with intervals over pairs or images.

    Returns:
        ``proportion_mediated``, ``denoising``, ``interaction``, ``off_axis``, ``read``, ``write``:
        (models, units, factors). ``resample_index``, ``off_support``: (models, units).
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    num_factors = len(data.factors)
    by_factor = {
        name: values.reshape(*values.shape[:2], num_factors, config.num_pairs)
        for name, values in part.items()
        if values.ndim == 3 and name in Gram._fields
    }
    total, noising = by_factor["total"], by_factor["total_total"]
    denoising = by_factor["total_pure"]
    residual = by_factor["total_indirect"] - noising**2 / np.where(total > 0, total, 1.0)
    what = "units patched between minimal pairs"

    def share(numerator: np.ndarray, intervention: str) -> Estimate:
        return inference.bootstrap_ratio(
            key,
            numerator,
            total,
            intervention=intervention,
            bootstrap=_bootstrap(config),
        )

    def mean(samples: np.ndarray, intervention: str, null: float = 0.0) -> Estimate:
        return inference.bootstrap_mean(
            key,
            samples,
            intervention=intervention,
            null=null,
            bootstrap=_bootstrap(config),
        )

    spread = np.broadcast_to(part["resample_spread"][:, None], part["resample_squared"].shape)
    return {
        "proportion_mediated": share(noising, f"{what}, target run <- reference"),
        "denoising": share(denoising, f"{what}, reference run <- target"),
        "interaction": share(noising - denoising, f"{what}, noising - denoising"),
        "off_axis": share(np.maximum(residual, 0.0), f"{what}, change outside the total effect"),
        "resample_index": inference.bootstrap_ratio(
            key,
            part["resample_squared"],
            2.0 * spread,
            intervention="units redrawn from another image",
            bootstrap=_bootstrap(config),
        ),
        "read": mean(part["read"], "change of units, in SD, as one factor grows"),
        "write": mean(part["written"], "units raised by one SD, change of factors read off, in SD"),
        # Of natural runs five in a hundred are farther from the others than this.
        "off_support": mean(
            (part["support"] > 0.95).astype(np.float32),
            "units redrawn: share of runs farther out than 95 % of natural ones",
            null=0.05,
        ),
    }


def latent_estimates(
    config: StudyConfig, data: Dataset, arrays: dict[str, Arrays]
) -> dict[str, Estimate]:
    """Every form of effect strength of every latent, and what the model makes of the results.

    Returns:
        (models, latents): ``total_index_prior``, ``first_order_prior``,
        ``interaction_share_prior``, ``total_index_posterior``, ``nats``, ``efficiency``,
        ``paper_effect_strength``, ``reencode_gap``, ``natural_gap``; (models, doses, latents):
        ``dose_response``; (models, positive doses, latents): ``slope``, ``curvature``;
        (models, factors, doses, latents): ``factor_response``.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    num_outputs = math.prod(data.image_shape)

    def strengths(m: int, base: str, doses: np.ndarray, **options: Any) -> EffectStrengths:
        fields = {
            name.removeprefix(f"{base}_"): values[m]
            for name, values in arrays["latent"].items()
            if name.startswith(f"{base}_")
        }
        samples = StrengthSamples(
            **{"nats": None, **fields, "doses": doses, "num_outputs": num_outputs}
        )
        return estimate_strengths(key, samples, bootstrap=_bootstrap(config), **options)

    sizes = np.asarray(config.doses)
    found: dict[str, list[Estimate]] = {}
    for m, spread in enumerate(arrays["latent"]["data_spread"]):
        prior = strengths(
            m, "prior", np.zeros(0), intervention="latents drawn from the prior in all arms"
        )
        posterior = strengths(
            m,
            "posterior",
            np.concatenate([-sizes[::-1], sizes]),
            intervention="latents of another image's posterior sample",
            output_sd=float(np.sqrt(spread.mean() / num_outputs)),
            kl=arrays["health"]["kl"][m],
        )
        row = {
            "total_index_prior": prior.total_index,
            "first_order_prior": prior.first_order,
            "interaction_share_prior": prior.interaction_share,
            "total_index_posterior": posterior.total_index,
            "nats": posterior.nats,
            "efficiency": posterior.efficiency,
            "paper_effect_strength": posterior.paper_effect_strength,
            "dose_response": _latents_last(posterior.dose_response),
            "slope": _latents_last(posterior.slope),
            "curvature": _latents_last(posterior.curvature),
            "factor_response": _latents_last(posterior.signed_response),
        }
        for name, estimate in row.items():
            found.setdefault(name, []).append(estimate)
    gaps = {
        "reencode_gap": ("gap_own", "latents redrawn, re-encoded: how far off, in SD"),
        "natural_gap": ("gap_natural", "latents left alone, re-encoded: how far off, in SD"),
    }
    return {name: Estimate.stack(estimates) for name, estimates in found.items()} | {
        name: inference.bootstrap_mean(
            key,
            arrays["latent"][field],
            intervention=what,
            bootstrap=_bootstrap(config),
        )
        for name, (field, what) in gaps.items()
    }


def input_estimates(config: StudyConfig, data: Dataset, arrays: dict[str, Arrays]):
    """Level 1: how far each factor moves each latent mean, in SD: (models, factors, latents)."""
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    change = arrays["input"]["mean_change"]
    change = change.reshape(change.shape[0], len(data.factors), config.num_pairs, -1)
    sd = arrays["health"]["mean"].std(axis=1)[:, None, :, None]
    moved = np.moveaxis(np.abs(change), 2, -1) / np.where(sd > 0, sd, np.inf)
    return {
        "factor_to_latent": inference.bootstrap_mean(
            key, moved, intervention="one factor of the image changed, all else equal"
        )
    }


def health_values(arrays: Arrays) -> dict[str, np.ndarray]:
    """Per model: reconstruction and KL (nats an image), squared error a pixel, active latents."""
    kl = arrays["kl"].mean(axis=1)
    return {
        "reconstruction": arrays["reconstruction"].mean(axis=1),
        "squared_error": arrays["squared_error"].mean(axis=1),
        "kl": kl.sum(axis=1),
        "active_latents": ((kl > ACTIVE_KL) & (arrays["mean"].var(axis=1) > 0.01)).sum(axis=1),
    }


def latent_values(health: Arrays, latent: dict[str, Estimate]) -> dict[str, np.ndarray]:
    """One number per model, to compare families by."""
    return {
        **health_values(health),
        "total_index_prior_sum": latent["total_index_prior"].value.sum(axis=1),
        "total_index_posterior_sum": latent["total_index_posterior"].value.sum(axis=1),
        "interaction_share_prior_sum": latent["interaction_share_prior"].value.sum(axis=1),
        "paper_effect_strength": latent["paper_effect_strength"].value.mean(axis=1),
        "nats_sum": latent["nats"].value.sum(axis=1),
        "reencode_gap": latent["reencode_gap"].value.mean(axis=1),
    }


def unit_values(units: dict[str, dict[str, Estimate]]) -> dict[str, np.ndarray]:
    """One number per model and site, ``<number>/<site>``."""
    values = {}
    for site, shares in units.items():
        mediated = shares["proportion_mediated"].value
        values[f"largest_share/{site}"] = mediated.max(axis=1).mean(axis=1)
        values[f"effective_units/{site}"] = effective_units(mediated, axis=1).mean(axis=1)
        values[f"interaction/{site}"] = np.abs(shares["interaction"].value).sum(1).mean(axis=1)
        values[f"off_support/{site}"] = shares["off_support"].value.mean(axis=1)
    return values


def image_values(arrays: dict[str, Arrays]) -> dict[str, np.ndarray]:
    """What each image gave of the ``latent_values`` that are means over images: (models, images).

    Shares are linearised, so that their mean over images is the ratio of sums that is reported.
    """
    health, latent = arrays["health"], arrays["latent"]

    def share(base: str, numerator: np.ndarray) -> np.ndarray:
        spread = 2.0 * jnp.asarray(latent[f"{base}_spread"])
        return np.asarray(inference.linearised_ratio(jnp.asarray(numerator), spread))

    squared = {base: latent[f"{base}_squared"].sum(axis=1) for base in ("prior", "posterior")}
    interaction = latent["prior_squared"] + latent["prior_complement"]
    interaction = interaction - 2.0 * latent["prior_spread"][:, None]
    return {
        "reconstruction": health["reconstruction"],
        "squared_error": health["squared_error"],
        "kl": health["kl"].sum(axis=2),
        **{f"total_index_{base}_sum": share(base, total) for base, total in squared.items()},
        "interaction_share_prior_sum": share("prior", interaction.sum(axis=1)),
        "paper_effect_strength": np.sqrt(latent["posterior_squared"]).mean(axis=1),
        "nats_sum": latent["posterior_nats"].sum(axis=1),
        "reencode_gap": latent["gap_own"].mean(axis=1),
    }


def modularity_values(
    modularity: dict[str, list[EffectModularity | None]],
) -> dict[str, np.ndarray]:
    """The paper's modularity of each model, and what it exceeds its null by."""
    values = {}
    for where, models in modularity.items():
        values[f"modularity_{where}"] = np.array(
            [np.nan if m is None else float(m.value.value) for m in models]
        )
        values[f"modularity_excess_{where}"] = np.array(
            [np.nan if m is None else float(m.excess.value) for m in models]
        )
    return values


def _modularity(config: StudyConfig, changes: np.ndarray, where: str) -> EffectModularity | None:
    """None where no image has two latents that change anything, which has no modularity."""
    moves = np.isfinite(changes).all() & ((np.abs(changes).max(axis=2) > 0).sum(axis=0) > 1)
    if moves.sum() < 2:
        return None
    return effect_modularity(
        jax.random.fold_in(jax.random.key(config.seed), 7),
        changes,
        intervention=f"latents redrawn, {where} activations",
        bootstrap=_bootstrap(config),
    )


def _latents_last(estimate: Estimate | None) -> Estimate:
    """Ends of (latents, ...) as (..., latents)."""
    assert estimate is not None  # Only without doses, and a study has some.
    return estimate.rearrange(lambda array: np.moveaxis(array, 0, -1))
