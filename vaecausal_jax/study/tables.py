"""From estimates to tables: over seeds, as JSON values and as labelled arrays."""

from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from vaecausal_jax import inference
from vaecausal_jax.data import Dataset, factor_names
from vaecausal_jax.inference import Estimate
from vaecausal_jax.manifests import versions
from vaecausal_jax.models import Model
from vaecausal_jax.study.claims import judge_claims
from vaecausal_jax.study.config import StudyConfig, as_json
from vaecausal_jax.study.estimates import Arrays, Estimates, health_values, image_values, unit_sites
from vaecausal_jax.study.factors import (
    CLASSES,
    FactorEffects,
    ReadoutQuality,
    true_factor_graph,
)

LATENT_DIMS = {
    "dose_response": ("dose", "latent"),
    "slope": ("size", "latent"),
    "curvature": ("size", "latent"),
    "factor_response": ("factor", "dose", "latent"),
}
"""Dimensions of the estimates of latents that have more than one."""


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


def compare_families(
    config: StudyConfig,
    trained: Trained,
    values: dict[str, np.ndarray],
    samples: dict[str, np.ndarray],
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Mean of each value over the usable seeds of each family, and differences from the first.

    Seeds are paired: the same seed starts every family from the same data order and weights.

    Args:
        config: For the key and the number of images.
        trained: Whose labels and verdicts are used.
        values: One number per model, (models,).
        samples: For those that are a mean over images that all models share, what each image gave,
            (models, images): their intervals are for new images too, not only for new models.
    """
    titles = np.array([family for family, _ in trained.labels])
    usable = np.array([verdict == "ok" for verdict in trained.verdicts])
    key = jax.random.fold_in(jax.random.key(config.seed), 10)

    def models(family: str) -> dict[int, int]:
        """Seed to the place of its model."""
        places = np.flatnonzero(usable & (titles == family)).tolist()
        return {trained.labels[i][1]: i for i in places}

    def estimates(rows: Any, what: str) -> dict[str, Estimate]:
        found = {
            name: inference.over_seeds(rows(v), num_inputs=config.num_images, intervention=what)
            for name, v in values.items()
        }
        if found and next(iter(found.values())).num_seeds > 1:
            found |= {
                name: inference.bootstrap_two_level(
                    key, rows(v), shared_images=True, intervention=what
                )
                for name, v in samples.items()
            }
        return found

    means: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    first = models(trained.families[0])
    for family in trained.families:
        own = models(family)
        places = list(own.values())
        means[family] = (
            estimates(lambda v, i=places: v[i], "see the level's table") if places else {}
        )
        paired = sorted(own.keys() & first.keys())
        if family == trained.families[0] or not paired:
            continue
        here, there = [own[s] for s in paired], [first[s] for s in paired]
        differences[family] = estimates(
            lambda v, i=here, j=there: v[i] - v[j],
            f"{family} - {trained.families[0]}, seed by seed",
        )
    return means, differences


def summarise(
    config: StudyConfig,
    data: Dataset,
    trained: Trained,
    arrays: dict[str, Arrays],
    estimates: Estimates,
    quality: ReadoutQuality,
    factors: list[FactorEffects],
) -> dict[str, Any]:
    """Every table of the study as JSON values."""
    names = factor_names(data)
    values = estimates.models
    means, differences = compare_families(config, trained, values, image_values(arrays))
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
        "readout": quality,
        "unit_classes": unit_classes(trained, estimates, factors),
        "factor_graphs": factor_graphs(trained, factors),
        "true_graph": true_factor_graph(data),
        "modularity": {
            where: [None if m is None else {"value": m.value, "noise": m.noise} for m in models]
            for where, models in estimates.modularity.items()
        },
        "claims": judge_claims(
            trained.labels,
            trained.verdicts,
            values,
            {
                site: shares["proportion_mediated"]
                for site, shares in estimates.units.items()
                if site.startswith("encoder/conv")
            },
            factors,
        ),
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


def unit_classes(
    trained: Trained, estimates: Estimates, factors: list[FactorEffects]
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Share of each class among the units of a site, over seeds: family, site, class."""
    sites = np.concatenate(
        [[site] * e["write"].value.shape[1] for site, e in estimates.units.items()]
    )
    table: dict[str, dict[str, dict[str, Estimate]]] = {}
    for family in trained.families:
        own = [
            effects.classes.label
            for effects, (title, _), verdict in zip(
                factors, trained.labels, trained.verdicts, strict=True
            )
            if title == family and verdict == "ok"
        ]
        if not own:
            continue
        table[family] = {
            site: {
                name: inference.over_seeds(
                    np.array([np.mean(label[sites == site] == name) for label in own]),
                    num_inputs=int((sites == site).sum()),
                    intervention="units raised by one SD, factors read off",
                )
                for name in CLASSES
            }
            for site in estimates.units
        }
    return table


def factor_graphs(trained: Trained, factors: list[FactorEffects]) -> list[dict[str, Any]]:
    """For each model: what swapping the latent of one factor does to all, and its score."""
    return [
        {
            "family": family,
            "seed": seed,
            "effect": effects.graph.effect,
            "adjacency": effects.graph.adjacency,
            "verdict": effects.graph.verdict,
            "control": effects.graph.control,
            "p_value": effects.graph.p_value,
            "score": effects.score,
            "leakage": effects.leakage,
        }
        for (family, seed), effects in zip(trained.labels, factors, strict=True)
    ]


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
    factors: list[FactorEffects],
) -> xr.Dataset:
    """All estimates as one labelled data set.

    Dimensions: family, seed, unit (coordinates ``site`` and ``index``), factor, read_factor (where
    an effect goes from factor to factor), latent, dose, size (of a dose), and statistic (value,
    low, high).
    """
    shape = (len(trained.families), trained.num_seeds)
    sites = unit_sites(arrays)
    units = [(site, i) for site in sites for i in range(trained.model.sites[site].num_units)]
    variables: dict[str, Any] = {}

    def add(name: str, estimate: Estimate, dims: tuple[str, ...]) -> None:
        stacked = np.stack(estimate.ends, axis=-1)
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
        dims = ("unit", "factor")[: by_site[0][name].value.ndim - 1]
        add(name, Estimate.concatenate([e[name] for e in by_site], axis=1), dims)
    for name, estimate in estimates.latent.items():
        add(name, estimate, LATENT_DIMS.get(name, ("latent",)))
    for name, estimate in estimates.input.items():
        add(name, estimate, ("factor", "latent"))
    for name, values in health_values(arrays["health"]).items():
        variables[name] = (("family", "seed"), values.reshape(shape))
    for name, values in arrays["scores"].items():
        variables[f"score_{name.replace('/', '_')}"] = (("family", "seed"), values.reshape(shape))
    mediated = Estimate.stack([effects.mediated.estimate for effects in factors])
    add("mediated", mediated, ("unit", "factor", "read_factor"))
    per_unit = {
        "unit_class": [e.classes.label for e in factors],
        "top_factor": [e.classes.top_factor for e in factors],
        "specificity": [e.specificity.corrected for e in factors],
        "specificity_raw": [e.specificity.raw for e in factors],
        "paper_specificity": [e.paper for e in factors],
        "read_write_agreement": [e.agreement for e in factors],
    }
    for name, rows in per_unit.items():
        variables[name] = (("family", "seed", "unit"), np.stack(rows).reshape(*shape, -1))
    significant = np.stack([e.mediated.significant for e in factors])
    variables["mediated_significant"] = (
        ("family", "seed", "unit", "factor", "read_factor"),
        significant.reshape(*shape, *significant.shape[1:]),
    )
    support = arrays["latent"]["posterior_support"]  # (models, latents, doses)
    variables["dose_support"] = (
        ("family", "seed", "latent", "dose"),
        support.reshape(*shape, *support.shape[1:]),
    )
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
            "read_factor": list(factor_names(data)),
            "dose": [*(-d for d in reversed(config.doses)), *config.doses],
            "size": list(config.doses),
            "statistic": ["value", "low", "high"],
            "verdict": (("family", "seed"), verdicts),
        },
        attrs={"title": f"vaecausal_jax study {config.name}"},
    )
