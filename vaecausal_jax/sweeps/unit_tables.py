"""Tables of units: numbers of the units of many sites on one axis, with their labels.

A question about units takes one site, several, or the whole network, and answers with one table:
``table.sel("decoder/*")``, ``table.top(10)``, ``table.map(function)``. Where a site has no units
(VQ codes) its positions stand for them.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.indices import as_indices, is_traced
from vaecausal_jax.inference import Estimate
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Sites, outputs
from vaecausal_jax.tracing import origins

Chosen = str | Sequence[str] | Mapping[str, Any] | None
"""Which units: a site or a pattern (``"decoder/*"``), several of them, a mapping from site to its
units (indices or a mask), or None: every site but those that hold the input or the outputs."""

_SHOWN = 10
"""Rows that a table prints."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class UnitTable:
    """Values of units, with the site and the number of each.

    A pytree, whose leaves are those of the values: it goes through ``jit`` and ``vmap``.

    Attributes:
        labels: (site, number in its site) of each unit.
        values: Any pytree; each leaf has a leading axis of units. An ``Estimate`` is one value per
            unit.
        ranks: Number of axes of each leaf, by which an axis of models that ``vmap`` puts first is
            told from that of units; None if unknown.
    """

    labels: tuple[tuple[str, int], ...] = dataclasses.field(metadata={"static": True})
    values: Any
    ranks: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "UnitTable":
        """Some units: a slice, indices or booleans, in the order given."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        return _table(tuple(self.labels[i] for i in rows), self._rows(rows))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, each once, in order."""
        return tuple(dict.fromkeys(site for site, _ in self.labels))

    def sel(self, sites: Chosen) -> "UnitTable":
        """The units of some sites: a name, a pattern, several, or a mapping from site to units.

        Raises:
            ValueError: A name or pattern without a unit in the table; the nearest is named.
        """
        place: dict[str, dict[int, int]] = {}
        for row, (site, number) in enumerate(self.labels):
            place.setdefault(site, {})[number] = row
        rows: list[int] = []
        for name, units in _expanded(sites, self.sites).items():
            own = place[name]
            if units is not None:
                where = f"at site {name!r}"
                units = [int(u) for u in as_indices(where, "unit", units, max(own) + 1)]
                missing = set(units) - set(own)
                if missing:
                    raise ValueError(f"{where}: unit {min(missing)} is not in the table.")
            rows += own.values() if units is None else [own[unit] for unit in units]
        return self[rows]

    def map(self, function: Callable[[Any], Any]) -> "UnitTable":
        """``function`` of the values, which keeps the axis of units, with the same labels.

        Raises:
            ValueError: What it returns has another leading axis.
        """
        return _table(self.labels, function(self.checked().values)).checked()

    def checked(self) -> "UnitTable":
        """The same table.

        Raises:
            ValueError: A leaf without one row per unit.
        """
        leaves = [leaf for _, leaf in _named(self.values)]
        known = self.ranks is not None and len(self.ranks) == len(leaves)
        ranks = self.ranks if known else [np.inf] * len(leaves)
        for leaf, rank in zip(leaves, ranks or (), strict=True):
            if jnp.shape(leaf)[:1] != (len(self),) or jnp.ndim(leaf) > rank:
                raise ValueError(
                    f"a table of {len(self)} units needs values with that leading axis, got shape "
                    f"{jnp.shape(leaf)}. Of several models, take one first, or map over them."
                )
        return self

    def top(self, num: int, by: Callable[[Any], Any] | None = None) -> "UnitTable":
        """The units with the largest numbers, the largest first; those without a number last.

        Args:
            num: How many.
            by: The values to (units,) numbers; an ``Estimate``'s value, or the values themselves,
                if None.

        Raises:
            ValueError: Values that are not one number per unit.
        """
        values = self.checked().values
        given = values if by is None else by(values)
        given = given.value if isinstance(given, Estimate) else given
        leaves = jax.tree.leaves(given)
        if len(leaves) != 1 or np.shape(leaves[0]) != (len(self),):
            raise ValueError(
                f"top sorts one number per unit, ({len(self)},), got {type(given).__name__} with "
                f"{[np.shape(leaf) for leaf in leaves]}: give by= a function of the values."
            )
        numbers = np.asarray(leaves[0], float)
        order = np.argsort(np.where(np.isnan(numbers), np.inf, -numbers), kind="stable")
        return self[order[: max(num, 0)]]

    def to_xarray(self) -> Any:
        """An ``xarray.Dataset`` over ``unit``, with coordinates ``site`` and ``number``.

        Needs the study extra. Fields of the values are its variables; further axes are numbered.
        """
        import xarray as xr

        variables = {}
        for name, leaf in _named(self.checked().values):
            array = np.asarray(leaf)
            extra = [f"{name}_{axis}" for axis in range(1, array.ndim)]
            variables[name] = (["unit", *extra], array)
        sites, numbers = zip(*self.labels, strict=True) if self.labels else ((), ())
        coords = {"site": ("unit", list(sites)), "number": ("unit", list(numbers))}
        return xr.Dataset(variables, coords)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, a row per unit; needs the study extra.

        Raises:
            ValueError: Values with more than one number per unit.
        """
        for name, leaf in _named(self.values):
            if np.ndim(leaf) != 1:
                raise ValueError(
                    f"{name!r} has shape {np.shape(leaf)}: a data frame has one number per unit; "
                    "map the values to a mean or an Estimate first."
                )
        return self.to_xarray().to_dataframe().reset_index(drop=True)

    def __repr__(self) -> str:
        columns = list(_named(self.values))
        traced = any(is_traced(leaf) for _, leaf in columns)
        numbers = not traced and all(np.shape(leaf) == (len(self),) for _, leaf in columns)
        sites = ", ".join(self.sites[:3]) + (", ..." if len(self.sites) > 3 else "")
        head = f"{_counted(len(self), 'unit')} of {_counted(len(self.sites), 'site')} ({sites})"
        if not numbers:
            shapes = [f"{name} {leaf.dtype}{np.shape(leaf)}" for name, leaf in columns]
            return "\n".join([head, *shapes])
        width = max([4, *(len(site) for site, _ in self.labels[:_SHOWN])])
        lines = [f"{'site':<{width}} {'unit':>6}" + "".join(f" {n:>12}" for n, _ in columns)]
        for row, (site, number) in enumerate(self.labels[:_SHOWN]):
            cells = "".join(f" {np.asarray(leaf)[row]:>12.4g}" for _, leaf in columns)
            lines.append(f"{site:<{width}} {number:>6}{cells}")
        hidden = len(self) - _SHOWN
        said = [f"... {hidden} more"] if hidden > 0 else []
        if isinstance(self.values, Estimate):
            said += [part for part in (self.values.intervention, self.values.caution) if part]
        return "\n".join([head, *lines, *said])

    def _rows(self, rows: np.ndarray) -> Any:
        self.checked()
        return jax.tree.map(lambda leaf: leaf[rows], self.values, is_leaf=_is_estimate)


def choose_units(
    net: BoundModel, chosen: Chosen, x: Array, eps: Array, outcome: Outcome = outputs
) -> dict[str, np.ndarray | None]:
    """Sites to their units, or to None for all of them, in the order of the sites.

    Args:
        net: The network with its parameters.
        chosen: See ``Chosen``.
        x: Inputs, (images, ...); nothing is run.
        eps: Noise, (images, ...).
        outcome: What is measured: a site that holds just that is an end too.

    Raises:
        ValueError: An unknown site, a pattern that fits none, or units that a site does not have.
    """
    net.sites.check_known()
    if chosen is None:
        ends = _ends(net, x, eps, outcome)
        # A network that is nothing but its ends has those.
        return dict.fromkeys([n for n in net.sites if n not in ends] or net.sites)
    found = _expanded(chosen, tuple(net.sites))
    return {
        name: None if units is None else _units_of(net.sites, name, units)
        for name, units in found.items()
    }


def unit_table(
    net: BoundModel, chosen: Mapping[str, Any], values: Callable[[str, Any], Any]
) -> UnitTable:
    """``values(site, units)`` of every site, on one axis.

    Args:
        net: The network with its parameters.
        chosen: Site to units or None, as from ``choose_units``.
        values: A site's name and its units to a pytree with a leading axis of units.
    """
    if not chosen:
        raise ValueError(
            "no site is chosen, or none of those has units: there is no table to make."
        )
    parts, labels = [], []
    for name, units in chosen.items():
        numbers = range(net.sites[name].num_parts) if units is None else units
        labels += [(name, int(number)) for number in numbers]
        parts.append(values(name, units))
    return _table(tuple(labels), jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))


def _table(labels: tuple[tuple[str, int], ...], values: Any) -> UnitTable:
    return UnitTable(labels, values, tuple(jnp.ndim(leaf) for _, leaf in _named(values)))


def _units_of(sites: Sites, name: str, units: Any) -> np.ndarray:
    return as_indices(f"at site {name!r}", "unit", units, sites[name].num_parts)


def _expanded(chosen: Chosen, names: tuple[str, ...]) -> dict[str, Any]:
    """Names and patterns as names, each with the units that were given for it."""
    if chosen is None:
        return dict.fromkeys(names)
    if isinstance(chosen, str):
        chosen = (chosen,)
    given = chosen if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
    found: dict[str, Any] = {}
    for pattern, units in given.items():
        fitting = [pattern] if pattern in names else fnmatch.filter(names, str(pattern))
        if not fitting:
            raise ValueError(unknown_choice("site", pattern, names))
        found |= dict.fromkeys(fitting, units)
    if not found:
        raise ValueError("no site is chosen; give a name, a pattern, several, or None for all.")
    return {name: found[name] for name in names if name in found}


def _ends(net: BoundModel, x: Array, eps: Array, outcome: Outcome) -> set[str]:
    """Sites that hold the input or the outputs themselves: all of an effect passes there."""
    image, noise = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), v) for v in (x, eps)
    )
    names: list[str] = []

    def run(image, noise):
        trace = net(image, noise, {})
        names.extend(trace.activations)
        # Of several outputs, such as a reconstruction and latents, those that are measured alone.
        whole = trace.outputs if len(jax.tree.leaves(trace.outputs)) == 1 else ()
        return image, whole, outcome(trace), list(trace.activations.values())

    values = origins(jax.make_jaxpr(run)(image, noise))
    outer, inner = values[: -len(names)], values[-len(names) :]
    return {name for name, value in zip(names, inner, strict=True) if value in outer}


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Estimate)


def _named(values: Any) -> Iterator[tuple[str, Any]]:
    """Arrays with names to show them under; of an estimate its value and both ends."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(values, is_leaf=_is_estimate):
        name = jax.tree_util.keystr(path, simple=True, separator="_")
        if _is_estimate(leaf):
            for end, array in zip(("value", "low", "high"), leaf.ends, strict=True):
                yield f"{name}_{end}" if name else end, array
        else:
            yield name or "value", leaf
