"""From estimates to tables: over seeds, as JSON values."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vaecausal_jax import inference
from vaecausal_jax.data import Dataset, factor_names
from vaecausal_jax.inference import Estimate
from vaecausal_jax.manifests import versions
from vaecausal_jax.study.circuits import ABLATIONS, circuit_faithfulness, circuit_values
from vaecausal_jax.study.claims import judge_claims
from vaecausal_jax.study.config import StudyConfig, as_json
from vaecausal_jax.study.estimates import unit_sites
from vaecausal_jax.study.factors import CLASSES, FactorEffects, true_factor_graph
from vaecausal_jax.study.results import Results, Roster, in_order, roster


def compare_families(
    config: StudyConfig, results: Sequence[Results]
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Mean of each value over the usable seeds of each family, and differences from the first.

    Seeds are paired: the same seed starts every family of one architecture from the same data order
    and weights. Intervals of values that are a mean over images that all models share are for new
    images too, not only for new models. A family whose models lack a value has no entry for it.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 10)
    stacks = {family: r for r in results for family, _ in r.trained.labels}
    families = list(stacks)

    def usable(family: str) -> dict[int, int]:
        """Seed to the place of its model in its stack."""
        trained = stacks[family].trained
        models = zip(trained.labels, trained.verdicts, strict=True)
        return {
            seed: place
            for place, ((own, seed), verdict) in enumerate(models)
            if own == family and verdict == "ok"
        }

    def rows(family: str, places: list[int]) -> list[dict[str, np.ndarray]]:
        """Values of some of a family's models, and those of each image."""
        found = stacks[family].estimates
        return [
            {name: values[places] for name, values in kind.items()}
            for kind in (found.models, found.images)
        ]

    def estimates(
        values: dict[str, np.ndarray], samples: dict[str, np.ndarray], what: str
    ) -> dict[str, Estimate]:
        found = {
            name: inference.over_seeds(v, num_inputs=config.num_images, intervention=what)
            for name, v in values.items()
        }
        if found and next(iter(found.values())).num_seeds > 1:
            found |= {
                name: inference.bootstrap_two_level(key, v, shared_images=True, intervention=what)
                for name, v in samples.items()
            }
        return found

    means: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    first = usable(families[0])
    for family in families:
        own = usable(family)
        places = list(own.values())
        means[family] = {}
        if places:
            values, samples = rows(family, places)
            means[family] = estimates(values, samples, "see the level's table")
        paired = sorted(own.keys() & first.keys())
        if family == families[0] or not paired:
            continue
        here = rows(family, [own[s] for s in paired])
        there = rows(families[0], [first[s] for s in paired])
        differences[family] = estimates(
            _differences(here[0], there[0]),
            _differences(here[1], there[1]),
            f"{family} - {families[0]}, seed by seed",
        )
    return means, differences


def _differences(
    here: dict[str, np.ndarray], there: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Of the values that both have."""
    return {name: values - there[name] for name, values in here.items() if name in there}


def summarise(config: StudyConfig, data: Dataset, results: Sequence[Results]) -> dict[str, Any]:
    """Every table of the study as JSON values.

    ``input`` and ``latent`` have one entry per model with Gaussian latents, which come first;
    ``codes`` one per model with codes.
    """
    names = factor_names(data)
    all_models = roster([r.trained for r in results])
    columns = in_order(
        [r.estimates.models for r in results], [len(r.trained.labels) for r in results]
    )
    factors = [effects for r in results for effects in r.factors]
    means, differences = compare_families(config, results)
    device = jax.devices()[0]
    models = [
        {
            "family": family,
            "seed": seed,
            "verdict": verdict,
            **{name: v[i] for name, v in columns.items() if "/" not in name},
        }
        for i, ((family, seed), verdict) in enumerate(
            zip(all_models.labels, all_models.verdicts, strict=True)
        )
    ]
    shares = [
        {site: e["proportion_mediated"] for site, e in r.estimates.units.items()} for r in results
    ]
    encoders = [site for site in shares[0] if site.startswith("encoder/conv")]
    tables = {
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
        "checks": identity_checks(results),
        "input": results[0].estimates.input,
        "latent": results[0].estimates.latent,
        "top_units": [row for r in results for row in top_units(r, names)],
        "readout": results[0].quality._replace(
            reconstructed=[scores for r in results for scores in r.quality.reconstructed]
        ),
        "unit_classes": {f: t for r in results for f, t in unit_classes(r).items()},
        "factor_graphs": factor_graphs(all_models, factors),
        "true_graph": true_factor_graph(data),
        "modularity": _modularity(results),
        "claims": judge_claims(
            all_models.labels,
            all_models.verdicts,
            columns,
            {site: Estimate.concatenate([s[site] for s in shares]) for site in encoders},
            factors,
        ),
        "training": {
            family: {term: v[:, -1] for term, v in history.items()}
            for r in results
            for family, history in r.trained.histories.items()
        },
    }
    if codes := results[-1].estimates.codes:
        tables["codes"] = codes
    if all(r.circuits for r in results):
        tables["circuits"] = _circuits(config, results)
    return tables


def _circuits(config: StudyConfig, results: Sequence[Results]) -> dict[str, Any]:
    """Circuits of every model by factor, and the numbers of the untrained networks."""
    untrained, faithfulness, units = {}, [], []
    for r in results:
        num = len(r.trained.labels)
        faithfulness.append(circuit_faithfulness(config, r.circuits)[:num])
        units.append(r.circuits["mask"][:num].sum(axis=-1))
        if config.num_untrained:
            title = "untrained, with codes" if r.estimates.codes else "untrained"
            values = circuit_values(r.circuits)
            untrained[title] = {name: own[num:] for name, own in values.items()}
    return {
        "ablations": ABLATIONS,
        "faithfulness": Estimate.concatenate(faithfulness),
        "units": np.concatenate(units),
        "untrained": untrained,
    }


def _modularity(results: Sequence[Results]) -> dict[str, list[dict[str, Any] | None]]:
    """The paper's modularity of every model, by where it was read; None where it has none."""
    table: dict[str, list[dict[str, Any] | None]] = {}
    for where in dict.fromkeys(where for r in results for where in r.estimates.modularity):
        found = [
            m
            for r in results
            for m in r.estimates.modularity.get(where, [None] * len(r.trained.labels))
        ]
        table[where] = [None if m is None else {"value": m.value, "noise": m.noise} for m in found]
    return table


def identity_checks(results: Sequence[Results]) -> dict[str, float]:
    """What must hold in any VAE without skip connections; deviations are rounding, or bugs.

    A whole site mediates everything (share 1), and a latent redrawn as itself changes nothing (0).
    Models that diverged or collapsed are left out; NaN if that is all of them.
    """
    deviations, changes = [], []
    for trained, arrays, *_ in results:
        usable = np.array([verdict == "ok" for verdict in trained.verdicts])
        shares = [
            arrays[f"site/{site}"]["site_total_total"].sum(axis=-1)
            / np.maximum(arrays[f"site/{site}"]["site_total"].sum(axis=-1), 1e-30)
            for site in unit_sites(arrays)
            if site not in ("latent/mean", "latent/logvar")
        ]
        deviations += [np.abs(share - 1.0)[usable] for share in shares]
        changes.append(arrays["latent"]["null_squared"][usable].ravel())

    def largest(parts: list[np.ndarray]) -> float:
        joined = np.concatenate(parts)
        return float(joined.max()) if joined.size else np.nan

    return {
        "largest_deviation_of_a_whole_site_from_share_1": largest(deviations),
        "largest_effect_of_a_latent_redrawn_as_itself": largest(changes),
    }


def unit_classes(results: Results) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Share of each class among the units of a site, over seeds: family, site, class."""
    trained, estimates = results.trained, results.estimates
    sites = np.concatenate(
        [[site] * e["write"].value.shape[1] for site, e in estimates.units.items()]
    )
    table: dict[str, dict[str, dict[str, Estimate]]] = {}
    for family in roster([trained]).families:
        own = [
            effects.classes.label
            for effects, (title, _), verdict in zip(
                results.factors, trained.labels, trained.verdicts, strict=True
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


def factor_graphs(models: Roster, factors: list[FactorEffects]) -> list[dict[str, Any]]:
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
        for (family, seed), effects in zip(models.labels, factors, strict=True)
    ]


def top_units(results: Results, names: tuple[str, ...], num: int = 3) -> list[dict[str, Any]]:
    """For each model, site and factor: the units that mediate most."""
    trained, rows = results.trained, []
    for site, shares in results.estimates.units.items():
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
