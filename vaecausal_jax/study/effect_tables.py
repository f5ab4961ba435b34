"""All estimates of a study as one labelled data set, as in ``effects.zarr``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from vaecausal_jax.data import Dataset, factor_names
from vaecausal_jax.inference import Estimate
from vaecausal_jax.study.config import StudyConfig
from vaecausal_jax.study.estimates import health_values, unit_sites
from vaecausal_jax.study.results import Results, roster

_LATENT_DIMS = {
    "dose_response": ("dose", "latent"),
    "slope": ("size", "latent"),
    "curvature": ("size", "latent"),
    "factor_response": ("factor", "dose", "latent"),
}
"""Dimensions of the estimates of latents that have more than one."""

_CODE_DIMS = {
    "position_index": ("position",),
    "position_length": ("position",),
    "code_index": ("code",),
    "whole_index": ("map",),
    "crossed": ("size",),
    "shift_index": ("size",),
    "shift_length": ("size",),
    "factor_to_position": ("factor", "position"),
    "position_mediated": ("factor", "position"),
}
"""Dimensions of the estimates of code maps."""

_BLANK = {"f": np.nan, "i": -1, "u": 0, "b": False, "U": ""}
"""What stands where models of one architecture lack what others have, by kind of dtype."""


def effect_tables(config: StudyConfig, data: Dataset, results: Sequence[Results]) -> xr.Dataset:
    """Everything that was estimated of every model, unit and latent.

    Dimensions: family, seed, unit (coordinates ``site`` and ``index``), factor, read_factor (where
    an effect goes from factor to factor), latent, dose, size (of a dose), and statistic (value,
    low, high). Models with codes have NaN along latents and dimensions of their own: position,
    code, map; others have NaN at their units.
    """
    table = _Table(results)
    for name in results[0].estimates.units[unit_sites(results[0].arrays)[0]]:
        joined = [
            Estimate.concatenate([e[name] for e in r.estimates.units.values()], axis=1)
            for r in results
        ]
        table.estimates(name, ("unit", "factor")[: joined[0].value.ndim - 1], joined)
    for kind, dims in (("latent", _LATENT_DIMS), ("input", {}), ("codes", _CODE_DIMS)):
        usual = ("factor", "latent") if kind == "input" else ("latent",)
        found = [getattr(r.estimates, kind) for r in results]
        for name in dict.fromkeys(name for own in found for name in own):
            table.estimates(name, dims.get(name, usual), [own.get(name) for own in found])
    health = [
        health_values(r.arrays["health"]) if r.estimates.latent else r.estimates.models
        for r in results
    ]
    for name in ("reconstruction", "squared_error", "kl", "active_latents"):
        table.values(name, (), [own.get(name) for own in health])
    for name in dict.fromkeys(name for r in results for name in r.arrays["scores"]):
        scores = [r.arrays["scores"].get(name) for r in results]
        table.values(f"score_{name.replace('/', '_')}", (), scores)
    mediated = [Estimate.stack([e.mediated.estimate for e in r.factors]) for r in results]
    table.estimates("mediated", ("unit", "factor", "read_factor"), mediated)
    per_unit = {
        "unit_class": lambda e: e.classes.label,
        "top_factor": lambda e: e.classes.top_factor,
        "specificity": lambda e: e.specificity.corrected,
        "specificity_raw": lambda e: e.specificity.raw,
        "paper_specificity": lambda e: e.paper,
        "read_write_agreement": lambda e: e.agreement,
    }
    for name, of in per_unit.items():
        table.values(name, ("unit",), [np.stack([of(e) for e in r.factors]) for r in results])
    significant = [np.stack([e.mediated.significant for e in r.factors]) for r in results]
    table.values("mediated_significant", ("unit", "factor", "read_factor"), significant)
    # (models, latents, doses)
    support = [r.arrays["latent"].get("posterior_support") for r in results]
    table.values("dose_support", ("latent", "dose"), support)
    kl = [r.arrays["health"].get("kl") for r in results]
    table.values("kl_per_latent", ("latent",), [k if k is None else k.mean(axis=1) for k in kl])
    names = list(factor_names(data))
    models = table.models
    return xr.Dataset(
        table.variables,
        coords={
            "family": models.families,
            "seed": np.arange(models.num_seeds),
            "site": ("unit", [site for site, _ in table.units]),
            "index": ("unit", [index for _, index in table.units]),
            "factor": names,
            "read_factor": names,
            "dose": [*(-d for d in reversed(config.doses)), *config.doses],
            "size": list(config.doses),
            "statistic": ["value", "low", "high"],
            "verdict": (
                ("family", "seed"),
                np.array(models.verdicts).reshape(len(models.families), models.num_seeds),
            ),
        },
        attrs={"title": f"vaecausal_jax study {config.name}"},
    )


class _Table:
    """Variables of all models, filled in stack by stack.

    Attributes:
        models: All of them, in order.
        units: (site, index) of every unit that any model has.
        variables: Name to (dimensions, array, attributes), as xarray has it.
    """

    def __init__(self, results: Sequence[Results]):
        self.models = roster([r.trained for r in results])
        own = [
            [
                (site, i)
                for site in unit_sites(r.arrays)
                for i in range(r.trained.model.sites[site].num_units)
            ]
            for r in results
        ]
        self.units = list(dict.fromkeys(unit for units in own for unit in units))
        place = {unit: i for i, unit in enumerate(self.units)}
        self.variables: dict[str, Any] = {}
        self._places = [np.array([place[unit] for unit in units]) for units in own]
        self._sizes = [len(r.trained.labels) for r in results]

    def values(self, name: str, dims: tuple[str, ...], parts: Sequence[np.ndarray | None]) -> None:
        """Adds a variable: of each stack (models, *dims), or None where it has no such thing."""
        found = [part for part in parts if part is not None]
        if not found:
            return
        sizes = [max(part.shape[1 + axis] for part in found) for axis in range(len(dims))]
        sizes = [len(self.units) if d == "unit" else n for d, n in zip(dims, sizes, strict=True)]
        shape = (sum(self._sizes), *sizes, *found[0].shape[1 + len(dims) :])
        dtype = np.result_type(*found)
        if len(found) < len(parts) and dtype.kind in "iu":
            dtype = np.dtype(float)  # A count that some models lack is NaN there.
        joined = np.full(shape, _BLANK[dtype.kind], dtype)
        start = 0
        for part, places, size in zip(parts, self._places, self._sizes, strict=True):
            if part is not None:
                rows = joined[start : start + size]
                if "unit" in dims:
                    rows[(slice(None),) * (1 + dims.index("unit")) + (places,)] = part
                else:
                    rows[...] = part
            start += size
        grid = joined.reshape(len(self.models.families), self.models.num_seeds, *joined.shape[1:])
        tail = ("statistic",) if joined.ndim > 1 + len(dims) else ()
        self.variables[name] = (("family", "seed", *dims, *tail), grid)

    def estimates(self, name: str, dims: tuple[str, ...], parts: Sequence[Estimate | None]) -> None:
        """Adds estimates, with their ends along ``statistic`` and what they are as attributes."""
        ends = [part and np.stack(part.ends, axis=-1).astype(np.float32) for part in parts]
        self.values(name, dims, ends)
        first = next(part for part in parts if part is not None)
        attributes = {
            "null": first.null,
            "level": first.level,
            "method": first.method,
            "num_inputs": first.num_inputs,
            "intervention": first.intervention,
        }
        self.variables[name] = (*self.variables[name], attributes)
