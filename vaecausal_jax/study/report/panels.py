"""What is shown of a study: families, their first usable seeds, layers, shares of units.

Latents and units of different seeds do not correspond, so what has one entry a latent or unit is
shown for the first usable seed, a ``Panel``; what is averaged over seeds is a number per model.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from vaecausal_jax.circuits.graph_distance import renamed_f1
from vaecausal_jax.inference import Estimate, over_seeds
from vaecausal_jax.study.gate import family_quality, is_readable
from vaecausal_jax.study.report.labels import family_label

Summary = Mapping[str, Any]
Pictures = Mapping[str, Any]

MAX_UNITS = 40
"""Units of a layer drawn in the effect maps."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")


class Panel(NamedTuple):
    """What a panel of one family shows.

    Attributes:
        family: Title in the summary.
        label: Name for readers.
        seed: The first usable seed.
        model: Its index on the axis of models.
        effects: The family's and seed's part of the effects.
        order: Latents, largest KL first.
        kl: KL of each latent in nats, in the latents' own order.
        color: The family's colour.
        readable: Which factors can be read off the family's reconstructions, (factors,).
    """

    family: str
    label: str
    seed: int
    model: int
    effects: xr.Dataset
    order: np.ndarray
    kl: np.ndarray
    color: str
    readable: np.ndarray

    @property
    def place(self) -> str:
        """What its numbers are of, in words."""
        return f"{self.label}, seed {self.seed}"


def as_estimate(values: Any) -> Estimate:
    """An Estimate from its JSON form, null read as NaN; an Estimate is returned as it is."""
    if isinstance(values, Estimate):
        return values
    ends = {
        end: np.asarray(np.nan if values[end] is None else values[end], float)
        for end in ("value", "low", "high")
    }
    return Estimate(**{**values, **ends})


def families(summary: Summary) -> list[str]:
    """Titles in order, excluded ones included."""
    return list(dict.fromkeys(model["family"] for model in summary["models"]))


def usable_seeds(summary: Summary, family: str) -> list[int]:
    """Seeds of a family that enter means."""
    models = [m for m in summary["models"] if m["family"] == family]
    return [m["seed"] for m in models if m["verdict"] == "ok"]


def quality_of(summary: Summary) -> dict[str, np.ndarray]:
    """How well each factor is read off the reconstructions of each family that is usable."""
    models = summary["models"]
    return family_quality(
        [m["family"] for m in models],
        [m["verdict"] for m in models],
        summary["readout"]["reconstructed"],
        list(summary["factors"]),
    )


def family_color(summary: Summary, family: str) -> str:
    """One colour per family, the same in all figures."""
    return PALETTE[families(summary).index(family) % len(PALETTE)]


def panels(summary: Summary, effects: xr.Dataset) -> list[Panel]:
    """The first usable model of every family with Gaussian latents that has one.

    Models with codes have tables of their own: ``sections.codes``.
    """
    keys = [(m["family"], m["seed"]) for m in summary["models"]]
    quality = quality_of(summary)
    found = []
    for family in families(summary):
        if not (seeds := usable_seeds(summary, family)):
            continue
        own = effects.sel(family=family, seed=seeds[0])
        kl = own["kl_per_latent"].values if "kl_per_latent" in own else np.full(1, np.nan)
        if np.isnan(kl).all():
            continue
        found.append(
            Panel(
                family,
                family_label(family),
                seeds[0],
                keys.index((family, seeds[0])),
                own,
                np.argsort(-kl),
                kl,
                family_color(summary, family),
                is_readable(quality[family]),
            )
        )
    return found


def with_units_of_latents(effects: xr.Dataset) -> xr.Dataset:
    """Only units that models with Gaussian latents have, whom the figures show; all if none are."""
    if not {"kl_per_latent", "unit_class"} <= set(effects):
        return effects
    shown = effects["kl_per_latent"].notnull().any(("seed", "latent"))
    there = (effects["unit_class"] != "").any("seed")
    return effects.isel(unit=np.flatnonzero((there & shown).any("family")))


class MeanGraph(NamedTuple):
    """The factor graph of a family, over its usable seeds; arrays (swapped, read).

    Factors that cannot be read off the family have no effect, edge or control.

    Attributes:
        effect: Mean effect, in SD of the factor read off; the diagonal is a factor's own.
        edges: Share of the seeds that have the edge.
        decided: Share of the seeds that decide on the edge, for or against.
        control: Share of the seeds in which the swap moves its own factor, (swapped,).
        f1: Mean agreement with the true graph over the seeds that have one; NaN if none has.
        renamed: The same with the true graph's factors renamed in every way.
        num_seeds: Seeds behind the means.
        readable: Which factors can be read, (factors,).
    """

    effect: np.ndarray
    edges: np.ndarray
    decided: np.ndarray
    control: np.ndarray
    f1: float
    renamed: float
    num_seeds: int
    readable: np.ndarray

    @property
    def controls(self) -> str:
        """How many of the factors that can be read a swap moves, in words, such as ``3.5 of 5``."""
        return f"{self.control.sum():.3g} of {self.readable.sum()}"


def factor_graph_of(summary: Summary, family: str) -> MeanGraph:
    """Mean over the usable seeds of a family, which must have one."""
    seeds = usable_seeds(summary, family)
    own = [g for g in summary["factor_graphs"] if g["family"] == family and g["seed"] in seeds]
    scored = [g for g in own if g["score"] is not None]
    scores = [g["score"]["f1"] for g in scored]
    true = np.asarray(summary["true_graph"], bool)
    renamed = [renamed_f1(np.asarray(g["adjacency"], bool), true) for g in scored]
    readable = is_readable(quality_of(summary)[family])
    both = readable[:, None] & readable
    return MeanGraph(
        np.where(both, np.mean([as_estimate(g["effect"]).value for g in own], axis=0), np.nan),
        both * np.mean([np.asarray(g["adjacency"], float) for g in own], axis=0),
        both * np.mean([np.isin(g["verdict"], ("edge", "none")) for g in own], axis=0),
        readable * np.mean([np.asarray(g["control"], float) for g in own], axis=0),
        float(np.mean(scores)) if scores else math.nan,
        float(np.mean(renamed)) if renamed else math.nan,
        len(own),
        readable,
    )


def ranked_alike(agreement: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of columns that rank models alike, and in opposite ways, by their whole interval.

    Four models can agree by chance with p = 2 / 4! > 0.05, whatever the interval: none then.
    """
    low, high = (np.asarray(agreement[end], float) for end in ("low", "high"))
    enough = np.asarray(agreement["num_models"]) > 4
    return enough & (low > 0), enough & (high < 0)


def strongest_latents(panel: Panel) -> np.ndarray:
    """Latents by their largest response of a readable factor to a dose, strongest first.

    By KL where no factor can be read.
    """
    if not panel.readable.any():
        return panel.order
    response = panel.effects["factor_response"].sel(statistic="value")
    size = np.abs(response.transpose("latent", "factor", "dose").values[:, panel.readable])
    return np.argsort(-np.nan_to_num(size).max(axis=(1, 2)), kind="stable")


def read_write_sites(effects: xr.Dataset) -> list[str]:
    """The latents and the first layer of the decoder, where reading meets writing."""
    sites = layers(effects)
    decoder = [site for site in sites if site.startswith("decoder/")]
    return [site for site in sites if site == "latent/z"] + decoder[:1]


def layers(effects: xr.Dataset) -> list[str]:
    """Sites in order of computation that have more than one unit (one alone mediates all)."""
    sites, counts = np.unique(effects["site"].values, return_counts=True)
    several = set(sites[counts > 1])
    return [str(site) for site in dict.fromkeys(effects["site"].values) if site in several]


def shares(
    effects: xr.Dataset, site: str, name: str = "proportion_mediated", end: str = "value"
) -> xr.DataArray:
    """Values (or ``low``, ``high``) of a unit-by-factor variable at one site."""
    rows = np.flatnonzero(effects["site"].values == site)
    return effects[name].isel(unit=rows).sel(statistic=end)


def largest_by_factor(effects: xr.Dataset, site: str, family: str, seeds: list[int]) -> Estimate:
    """Largest share of one unit, by factor: mean over seeds with an interval, each (factors,)."""
    values = shares(effects.sel(family=family, seed=seeds), site)
    largest = np.fmax.reduce(values.transpose("seed", "unit", "factor").values, axis=1)
    num_pairs = int(effects["proportion_mediated"].attrs.get("num_inputs", 0))
    return over_seeds(largest, num_inputs=num_pairs, intervention="units patched one by one")


def sort_units(table: np.ndarray) -> np.ndarray:
    """The strongest units of (factors, units), by dominant factor and then by strength."""
    size = np.nan_to_num(np.abs(table))
    strength, dominant = size.max(axis=0), size.argmax(axis=0)
    strongest = np.argsort(-strength, kind="stable")[:MAX_UNITS]
    return strongest[np.lexsort((-strength[strongest], dominant[strongest]))]


def numbers(summary: Summary, family: str, name: str) -> np.ndarray:
    """One number of each usable model of a family, null read as NaN."""
    own = [m for m in summary["models"] if m["family"] == family and m["verdict"] == "ok"]
    return np.array([np.nan if m[name] is None else m[name] for m in own], float)


def by_seed(summary: Summary, family: str, name: str) -> dict[int, float]:
    """One number of each usable model of a family, by seed; those that have none are left out."""
    own = [m for m in summary["models"] if m["family"] == family and m["verdict"] == "ok"]
    return {m["seed"]: float(m[name]) for m in own if m.get(name) is not None}


def strengths(summary: Summary, effects: xr.Dataset, family: str, name: str) -> np.ndarray:
    """An effect strength of each usable model: summed over latents, the paper's averaged."""
    own = effects[name].sel(family=family, seed=usable_seeds(summary, family), statistic="value")
    values = own.transpose("seed", "latent").values.astype(float)
    return values.mean(axis=1) if name == "paper_effect_strength" else values.sum(axis=1)
