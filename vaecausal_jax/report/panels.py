"""What is shown of a study: families, their first usable seeds, layers, shares of units.

Latents and units of different seeds do not correspond, so what has one entry a latent or unit is
shown for the first usable seed, a ``Panel``; what is averaged over seeds is a number a model.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from vaecausal_jax.inference import Estimate, over_seeds
from vaecausal_jax.report.labels import family_label

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
    """

    family: str
    label: str
    seed: int
    model: int
    effects: xr.Dataset
    order: np.ndarray
    kl: np.ndarray
    color: str


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


def family_color(summary: Summary, family: str) -> str:
    """One colour a family, the same in all figures."""
    return PALETTE[families(summary).index(family) % len(PALETTE)]


def panels(summary: Summary, effects: xr.Dataset) -> list[Panel]:
    """The first usable model of every family that has one."""
    keys = [(m["family"], m["seed"]) for m in summary["models"]]
    found = []
    for family in families(summary):
        if not (seeds := usable_seeds(summary, family)):
            continue
        own = effects.sel(family=family, seed=seeds[0])
        kl = own["kl_per_latent"].values
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
            )
        )
    return found


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
