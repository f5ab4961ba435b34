"""From measurements to tables: every number an estimate, over images and over seeds."""

from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from vaecausal_jax import inference, mediation
from vaecausal_jax.checkpoint import versions
from vaecausal_jax.data import Dataset, factor_names
from vaecausal_jax.effects import effective_units
from vaecausal_jax.inference import Estimate
from vaecausal_jax.models import Model
from vaecausal_jax.study.config import StudyConfig, as_json
from vaecausal_jax.training import ACTIVE_KL

Arrays = dict[str, np.ndarray]


class Trained(NamedTuple):
    """All models of a study, stacked.

    Attributes:
        model: Their common architecture.
        params: Leading axis of models: seeds of the first family, then of the second, ...
        labels: (family, seed) of each.
        verdicts: ``"ok"``, or why a model is left out of every mean.
        histories: Loss terms by family, (seeds, records, ...); empty for pretrained models.
    """

    model: Model
    params: Any
    labels: list[tuple[str, int]]
    verdicts: list[str]
    histories: dict[str, Arrays]

    @property
    def families(self) -> list[str]:
        """Titles in order."""
        return list(dict.fromkeys(family for family, _ in self.labels))

    @property
    def num_seeds(self) -> int:
        """Models a family."""
        return len(self.labels) // len(self.families)


class Estimates(NamedTuple):
    """Every estimate of a study, leading axis of models; computed once, tabulated twice.

    Attributes:
        units: Site to the estimates of ``unit_estimates``.
        latent: As from ``latent_estimates``.
        input: As from ``input_estimates``.
        models: One number a model, by name.
    """

    units: dict[str, dict[str, Estimate]]
    latent: dict[str, Estimate]
    input: dict[str, Estimate]
    models: dict[str, np.ndarray]


def estimate_all(config: StudyConfig, data: Dataset, arrays: dict[str, Arrays]) -> Estimates:
    """All estimates of a study from its measurements."""
    units = {
        site: unit_estimates(config, data, arrays[f"site/{site}"], site)
        for site in unit_sites(arrays)
    }
    latent = latent_estimates(config, arrays["latent"])
    models = {**model_values(arrays["health"], latent, units), **arrays["scores"]}
    return Estimates(units, latent, input_estimates(config, data, arrays), models)


def unit_sites(arrays: dict[str, Arrays]) -> list[str]:
    """Sites whose units were patched one by one."""
    return [name.removeprefix("site/") for name in arrays if name.startswith("site/")]


def unit_estimates(
    config: StudyConfig, data: Dataset, part: Arrays, site: str
) -> dict[str, Estimate]:
    """Shares and strengths of every unit of a site, with intervals over pairs or images.

    Returns:
        ``proportion_mediated``, ``denoising``, ``interaction``, ``off_axis``: (models, units,
        factors). ``resample_index``: (models, units).
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    num_factors = len(data.factors)
    by_factor = {
        name: values.reshape(*values.shape[:2], num_factors, config.num_pairs)
        for name, values in part.items()
        if values.ndim == 3 and name in mediation.Gram._fields
    }
    total, noising = by_factor["total"], by_factor["total_total"]
    denoising = by_factor["total_pure"]
    residual = by_factor["total_indirect"] - noising**2 / np.where(total > 0, total, 1.0)
    what = f"units of {site} patched between minimal pairs"

    def share(numerator: np.ndarray, intervention: str) -> Estimate:
        return inference.bootstrap_ratio(
            key, numerator, total, intervention=intervention, num_replicates=400
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
            intervention=f"units of {site} redrawn from another image",
            num_replicates=400,
        ),
    }


def latent_estimates(config: StudyConfig, arrays: Arrays) -> dict[str, Estimate]:
    """Strength of every latent: (models, latents), doses (models, doses, latents)."""
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    prior, posterior = arrays["prior_squared"], arrays["posterior_squared"]
    pixel_variance = arrays["data_spread"].mean(axis=-1)[:, None, None, None]
    return {
        "total_index_prior": inference.bootstrap_ratio(
            key,
            prior,
            np.broadcast_to(2.0 * arrays["prior_spread"][:, None], prior.shape),
            intervention="latents redrawn from the prior, base from the prior",
        ),
        "total_index_posterior": inference.bootstrap_ratio(
            key,
            posterior,
            np.broadcast_to(2.0 * arrays["posterior_spread"][:, None], posterior.shape),
            intervention="latents redrawn from another image's posterior sample",
        ),
        "paper_effect_strength": inference.bootstrap_mean(
            key,
            arrays["posterior_distance"],
            intervention="latents redrawn from another image's posterior sample, raw L2 of images",
        ),
        "dose_response": _root(
            inference.bootstrap_mean(
                key,
                arrays["dose_squared"] / pixel_variance,
                intervention="latents shifted by doses of their SD, RMS change in SD of the data",
            )
        ),
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


def model_values(
    health: Arrays, latent: dict[str, Estimate], units: dict[str, dict[str, Estimate]]
) -> dict[str, np.ndarray]:
    """One number a model, to compare families by; those of a site end in ``/<site>``."""
    values = {
        **health_values(health),
        "total_index_prior_sum": latent["total_index_prior"].value.sum(axis=1),
        "total_index_posterior_sum": latent["total_index_posterior"].value.sum(axis=1),
        "paper_effect_strength": latent["paper_effect_strength"].value.mean(axis=1),
    }
    for site, shares in units.items():
        mediated = shares["proportion_mediated"].value
        values[f"largest_share/{site}"] = mediated.max(axis=1).mean(axis=1)
        values[f"effective_units/{site}"] = effective_units(mediated, axis=1).mean(axis=1)
        values[f"interaction/{site}"] = np.abs(shares["interaction"].value).sum(1).mean(axis=1)
    return values


def compare_families(config: StudyConfig, trained: Trained, values: dict[str, np.ndarray]):
    """Mean of each value over the usable seeds of each family, and differences from the first.

    Seeds are paired: the same seed starts every family from the same data order and weights.
    """
    usable = np.array([verdict == "ok" for verdict in trained.verdicts])
    titles = np.array([family for family, _ in trained.labels])
    seeds = np.array([seed for _, seed in trained.labels])
    first = trained.families[0]
    means: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for family in trained.families:
        own = usable & (titles == family)
        means[family] = {
            name: inference.over_seeds(
                v[own], num_inputs=config.num_images, intervention="see the level's table"
            )
            for name, v in values.items()
            if own.any()
        }
        paired = sorted(set(seeds[own]) & set(seeds[usable & (titles == first)]))
        if family == first or not paired:
            continue
        differences[family] = {
            name: inference.over_seeds(
                np.stack([_at(v, titles, seeds, family, s) for s in paired])
                - np.stack([_at(v, titles, seeds, first, s) for s in paired]),
                num_inputs=config.num_images,
                intervention=f"{family} - {first}, seed by seed",
            )
            for name, v in values.items()
        }
    return means, differences


def summarise(
    config: StudyConfig,
    data: Dataset,
    trained: Trained,
    arrays: dict[str, Arrays],
    estimates: Estimates,
) -> dict[str, Any]:
    """Every table of the study as JSON values."""
    names = factor_names(data)
    values = estimates.models
    means, differences = compare_families(config, trained, values)
    device = jax.devices()[0]
    models = [
        {
            "family": family,
            "seed": seed,
            "verdict": verdict,
            **{name: v[i] for name, v in values.items() if "/" not in name},
        }
        for i, ((family, seed), verdict) in enumerate(
            zip(trained.labels, trained.verdicts, strict=True)
        )
    ]
    return {
        "config": as_json(config),
        "versions": versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": len(jax.devices()),
        },
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "factors": {f.name: f.size for f in data.factors},
        "models": models,
        "excluded": [m for m in models if m["verdict"] != "ok"],
        "families": means,
        "differences": differences,
        "checks": identity_checks(trained, arrays),
        "input": estimates.input,
        "latent": estimates.latent,
        "top_units": top_units(trained, names, estimates),
        "training": {
            family: {term: v[:, -1] for term, v in history.items()}
            for family, history in trained.histories.items()
        },
    }


def identity_checks(trained: Trained, arrays: dict[str, Arrays]) -> dict[str, float]:
    """What must hold in any VAE without skip connections; deviations are rounding, or bugs.

    A whole site mediates everything (share 1), and a latent redrawn as itself changes nothing (0).
    Models that diverged or collapsed are left out; NaN if that is all of them.
    """
    shares = [
        arrays[f"site/{site}"]["site_total_total"].sum(axis=-1)
        / np.maximum(arrays[f"site/{site}"]["site_total"].sum(axis=-1), 1e-30)
        for site in unit_sites(arrays)
        if site not in ("latent/mean", "latent/logvar")
    ]
    usable = np.array([verdict == "ok" for verdict in trained.verdicts])
    nothing = 0.0 if usable.any() else np.nan
    worst = np.max(np.abs(np.stack(shares) - 1.0)[:, usable], initial=nothing)
    null = np.max(arrays["latent"]["null_squared"][usable], initial=nothing)
    return {
        "largest_deviation_of_a_whole_site_from_share_1": float(worst),
        "largest_effect_of_a_latent_redrawn_as_itself": float(null),
    }


def top_units(
    trained: Trained, names: tuple[str, ...], estimates: Estimates, num: int = 3
) -> list[dict[str, Any]]:
    """For each model, site and factor: the units that mediate most."""
    rows = []
    for site, shares in estimates.units.items():
        mediated = shares["proportion_mediated"]
        for m, (family, seed) in enumerate(trained.labels):
            if trained.verdicts[m] != "ok":
                continue
            for f, factor in enumerate(names):
                for unit in np.argsort(-mediated.value[m, :, f])[:num]:
                    rows.append(
                        {
                            "family": family,
                            "seed": seed,
                            "site": site,
                            "factor": factor,
                            "unit": int(unit),
                            "proportion_mediated": mediated.value[m, unit, f],
                            "low": mediated.low[m, unit, f],
                            "high": mediated.high[m, unit, f],
                            "denoising": shares["denoising"].value[m, unit, f],
                        }
                    )
    return rows


def effect_tables(
    config: StudyConfig,
    data: Dataset,
    trained: Trained,
    arrays: dict[str, Arrays],
    estimates: Estimates,
) -> xr.Dataset:
    """All estimates as one labelled data set.

    Dimensions: family, seed, unit (coordinates ``site`` and ``index``), factor, latent, dose, and
    statistic (value, low, high).
    """
    shape = (len(trained.families), trained.num_seeds)
    sites = unit_sites(arrays)
    units = [(site, i) for site in sites for i in range(trained.model.sites[site].num_units)]
    variables: dict[str, Any] = {}

    def add(name: str, estimate: Estimate, dims: tuple[str, ...]) -> None:
        stacked = np.stack([estimate.value, estimate.low, estimate.high], axis=-1)
        stacked = stacked.reshape(*shape, *stacked.shape[1:]).astype(np.float32)
        attributes = {
            "null": estimate.null,
            "level": estimate.level,
            "method": estimate.method,
            "num_inputs": estimate.num_inputs,
            "intervention": estimate.intervention,
        }
        variables[name] = (("family", "seed", *dims, "statistic"), stacked, attributes)

    by_site = list(estimates.units.values())
    for name in by_site[0]:
        dims = ("unit",) if name == "resample_index" else ("unit", "factor")
        joined = by_site[0][name]._replace(
            **{
                end: np.concatenate([getattr(e[name], end) for e in by_site], axis=1)
                for end in ("value", "low", "high")
            },
            intervention=by_site[0][name].intervention.replace(sites[0], "each site"),
        )
        add(name, joined, dims)
    for name, estimate in estimates.latent.items():
        add(name, estimate, ("dose", "latent") if name == "dose_response" else ("latent",))
    for name, estimate in estimates.input.items():
        add(name, estimate, ("factor", "latent"))
    for name, values in health_values(arrays["health"]).items():
        variables[name] = (("family", "seed"), values.reshape(shape))
    kl = arrays["health"]["kl"].mean(axis=1)
    variables["kl_per_latent"] = (("family", "seed", "latent"), kl.reshape(*shape, -1))
    verdicts = np.array(trained.verdicts).reshape(shape)
    return xr.Dataset(
        variables,
        coords={
            "family": trained.families,
            "seed": np.arange(trained.num_seeds),
            "site": ("unit", [site for site, _ in units]),
            "index": ("unit", [index for _, index in units]),
            "factor": list(factor_names(data)),
            "dose": list(config.doses),
            "statistic": ["value", "low", "high"],
            "verdict": (("family", "seed"), verdicts),
        },
        attrs={"title": f"vaecausal_jax study {config.name}"},
    )


def _at(values, titles, seeds, family, seed):
    return values[(titles == family) & (seeds == seed)][0]


def _root(estimate: Estimate) -> Estimate:
    """The square root of an estimate of a mean square."""
    ends = {end: np.sqrt(getattr(estimate, end)) for end in ("value", "low", "high")}
    return estimate._replace(**ends)
