"""Sites: the named intermediate values of a network, and the tape that records and replaces them.

A network calls ``h = tape("decoder/dense0", h)`` at every value worth naming. The tape lives for
one call of the forward, so the forward stays a pure function of its arguments. What a tape does to
a value is decided by the caller's interventions; the network never looks at them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions.changed import Value, whole
from vaecausal_jax.interventions.evaluation_mode import check_evaluation


class Trace(NamedTuple):
    """What one call of a forward returns.

    Attributes:
        outputs: The decoder's last value, before the likelihood: Bernoulli logits or Gaussian
            means, shape (height, width, channels).
        activations: Site name to the site's value AFTER any intervention on it.
    """

    outputs: Any
    activations: dict[str, Array]


Forward = Callable[..., Trace]
"""``forward(params, x, eps, interventions) -> Trace``, for one image."""

Outcome = Callable[[Trace], Array]
"""What an effect is measured on."""


Change = Callable[[Array, Array], Array]
"""(outcome before, outcome after) to the signed change of each factor: ``Readout.change``."""


def outputs(trace: Trace) -> Array:
    """The default outcome: the decoder's outputs (logits, or Gaussian means)."""
    return trace.outputs


def difference(before: Array, after: Array) -> Array:
    """What was added: the change where columns are factors on a line."""
    return after - before


def summed_in(dtype: Any) -> Any:
    """The dtype in which values of another are subtracted, squared and summed.

    Float32, or the values' own type where that is wider. Floats and integers of 8 bits and fewer
    have no such promotion of JAX's own.
    """
    dtype = jnp.dtype(dtype)
    if dtype.itemsize <= 1:
        return jnp.dtype(jnp.float32)
    return jnp.promote_types(dtype, jnp.float32)


def measure(outcome: Outcome, trace: Trace) -> Any:
    """An outcome as numbers to compute effects of: real, and in float32 or wider.

    Differences of bytes would wrap around, and squares in half precision overflow at 256. Integers
    and booleans become floats, so those of 32 bits are exact up to 2^24; differences of labels mean
    only whether they are equal.

    Raises:
        ValueError: A complex outcome.
    """

    def widened(value: Any) -> Array:
        value = jnp.asarray(value)
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise ValueError(
                f"the outcome is {value.dtype}{value.shape}; effects are measured on real numbers. "
                "Give outcome= a function that returns real and imaginary part, or the modulus."
            )
        return value.astype(summed_in(value.dtype))

    return jax.tree.map(widened, outcome(trace))


@runtime_checkable
class Intervention(Protocol):
    """What may stand at a site: any pytree with these two methods."""

    def check(self, name: str, site: "Site") -> None:
        """Raises ValueError unless this intervention fits the site."""
        ...

    def apply(self, value: Array) -> Value:
        """Returns the value that replaces ``value``; same shape and dtype."""
        ...


class Site(NamedTuple):
    """Shape of a named value, for one image.

    Attributes:
        shape: Shape without any batch axis.
        dtype: Its dtype.
        unit_axis: The axis that counts units (channels of a convolution, neurons of a dense
            layer), or None where there are positions only (VQ codes).
    """

    shape: tuple[int, ...]
    dtype: Any
    unit_axis: int | None

    @property
    def num_units(self) -> int:
        """Number of units along the unit axis; 0 where there is none."""
        return 0 if self.unit_axis is None else self.shape[self.unit_axis]

    @property
    def num_positions(self) -> int:
        """Number of places each unit has: 1 in a dense layer, height x width in a convolution."""
        return math.prod(self.shape) // max(self.num_units, 1)

    @property
    def num_parts(self) -> int:
        """What is patched one by one: units, or positions where there are no units."""
        return self.num_positions if self.unit_axis is None else self.num_units

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of one unit's value with all axes of the site; of one position without units."""
        return tuple(1 if self.unit_axis in (None, i) else n for i, n in enumerate(self.shape))

    def spread(self, per_part: Array) -> Array:
        """Numbers of each part, (parts,), as an array that broadcasts to the site's value."""
        if self.unit_axis is None:
            return per_part.reshape(self.shape)
        along = [n if i == self.unit_axis else 1 for i, n in enumerate(self.shape)]
        return per_part.reshape(along)

    def by_part(self, values: Array) -> Array:
        """Values of some runs, (runs, *site shape), as (parts, runs, positions of a part)."""
        if self.unit_axis is None:
            return values.reshape(len(values), -1).T[..., None]
        moved = jnp.moveaxis(values, self.unit_axis + 1, 0)
        return moved.reshape(self.num_units, len(values), -1)


class Sites(Mapping[str, Site]):
    """The sites of a model, in the order in which the forward reaches them. Prints as a table."""

    def __init__(self, sites: Mapping[str, Site]):
        self._sites = dict(sites)

    def __getitem__(self, name: str) -> Site:
        self.check_known()
        if name not in self._sites:
            raise ValueError(unknown_choice("site", name, self._sites))
        return self._sites[name]

    def check_known(self) -> None:
        """Raises ValueError where there is no site at all, as of a network bound without them."""
        if not self._sites:
            raise ValueError(
                "the network has no sites, or was bound without its sites. Bind it with "
                "vaecausal_jax.bind(forward, params, x, eps), which finds them."
            )

    def __contains__(self, name: object) -> bool:
        return name in self._sites

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __hash__(self) -> int:
        return hash(tuple(self._sites.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sites) and list(self.items()) == list(other.items())

    def __repr__(self) -> str:
        width = max(map(len, self._sites), default=0)
        rows = [
            f"{name:<{width}}  {str(site.shape):<14} {str(site.dtype):<8} "
            + (f"{site.num_units} units" if site.unit_axis is not None else "positions only")
            for name, site in self._sites.items()
        ]
        return "\n".join(rows)


def as_steps(name: str, intervention: Any) -> tuple[Intervention, ...]:
    """The interventions at one site as a tuple: one, or several applied from first to last."""
    steps = (intervention,) if isinstance(intervention, Intervention) else intervention
    if not isinstance(steps, list | tuple) or not all(isinstance(s, Intervention) for s in steps):
        raise ValueError(
            f"at site {name!r}: expected an intervention (or a tuple of them), such as "
            f"vaecausal_jax.interventions.Affine, got {type(intervention).__name__}. To replace "
            "the value by an array, use set_to(sites, name, array)."
        )
    return tuple(steps)


def _all_steps(interventions: Mapping[str, Any]) -> dict[str, tuple[Intervention, ...]]:
    if not isinstance(interventions, Mapping):
        raise ValueError(
            "interventions must be a mapping from site name to intervention, got "
            f"{type(interventions).__name__}. Use {{}} to leave the model alone."
        )
    return {name: as_steps(name, i) for name, i in interventions.items()}


def check_interventions(sites: Sites, interventions: Mapping[str, Any]) -> None:
    """Raises ValueError at the first intervention that does not fit the model's sites."""
    for name, steps in _all_steps(interventions).items():
        for step in steps:
            step.check(name, sites[name])


def list_sites(forward: Callable[..., Trace], params: Any, x: Any, eps: Any) -> Sites:
    """The sites of any forward of the contract, found without running it.

    Units are taken to lie on the last axis of floating values; ``Model.sites`` knows better, and so
    does a forward with a method ``sites``, as adapters make them: it is asked.

    Raises:
        ValueError: A forward in training mode, see ``check_evaluation``.
    """
    known: Callable[..., Sites] | None = getattr(forward, "sites", None)
    if known is not None:
        return known(params, x, eps)
    sites = {}

    def run(params, x, eps):
        trace = forward(params, x, eps, {})
        # Read while tracing: trees of results have their names in alphabetical order.
        for name, a in trace.activations.items():
            has_units = a.ndim > 0 and jnp.issubdtype(a.dtype, jnp.floating)
            sites[name] = Site(a.shape, a.dtype, a.ndim - 1 if has_units else None)
        return trace

    num_params = len(jax.tree.leaves(params))
    program = jax.make_jaxpr(run)(params, x, eps)
    check_evaluation(program, [i >= num_params for i in range(len(program.in_avals))])
    return Sites(sites)


class Tape:
    """Records every site's value, replacing those that an intervention names.

    Args:
        interventions: Mapping from site name to an intervention or a tuple of them.
        takes_changes: Whether the network is written with ``models.layers`` and so may be handed
            ``Changed`` values, which save work; otherwise it always gets arrays.
    """

    def __init__(self, interventions: Mapping[str, Any], *, takes_changes: bool = False):
        self._pending = _all_steps(interventions)
        self._takes_changes = takes_changes
        self._values: dict[str, Value] = {}
        self.sites: dict[str, Site] = {}

    def __call__(self, name: str, value: Any, *, unit_axis: int | None = -1) -> Any:
        """Names a value; returns it, or what the interventions put in its place."""
        if name in self.sites:
            raise ValueError(f"site {name!r} is named twice in one forward; names must be unique.")
        rank = len(value.shape)
        axis = None if unit_axis is None or rank == 0 else unit_axis % rank
        site = Site(value.shape, value.dtype, axis)
        for step in self.take(name, site):
            value = step.apply(whole(value))
            if (value.shape, value.dtype) != (site.shape, site.dtype):
                raise ValueError(
                    f"at site {name!r}: {type(step).__name__}.apply returned {value.dtype}"
                    f"{value.shape}, expected {site.dtype}{site.shape}."
                )
        if not self._takes_changes:
            value = whole(value)
        self.record(name, site, value)
        return value

    def take(self, name: str, site: Site) -> tuple[Intervention, ...]:
        """The interventions at a site, checked against it, for a caller that applies them."""
        steps = self._pending.pop(name, ())
        for step in steps:
            step.check(name, site)
        return steps

    def record(self, name: str, site: Site, value: Any) -> None:
        """Names a value to which its interventions have been applied."""
        self.sites[name] = site
        self._values[name] = value

    @property
    def activations(self) -> dict[str, Array]:
        """Site name to its value after intervention."""
        return {name: whole(value) for name, value in self._values.items()}

    def trace(self, outputs: Any) -> Trace:
        """Ends the forward: its trace, once every intervention is known to have applied.

        Raises:
            ValueError: An intervention names a site that the forward did not reach.
        """
        self.close()
        return Trace(whole(outputs), self.activations)

    def close(self) -> None:
        """Raises ValueError if an intervention names a site that the forward did not reach."""
        for name in self._pending:
            raise ValueError(
                f"the forward never reached site {name!r}, so its intervention did not apply. "
                + unknown_choice("site", name, self.sites)
            )
