"""Worlds whose variables cause one another: structural causal models, and images of them.

The factors of ``dataset`` are independent causes. Here a variable may be the effect of others, so a
model that is trained on the images can be asked for a graph, for effects and for counterfactuals
whose true values are known. A structural causal model (Pearl 2009, Causality, definition 7.1.1) is
a value; the noise that it runs on is an argument, one scalar per variable, so runs that share the
noise differ by the intervention alone:

    model = scenes.pendulum()
    noise = sample_noise(key, model, 64)
    factual = jax.vmap(observe, in_axes=(None, 0))(model, noise)
    moved = jax.vmap(intervene, in_axes=(None, 0, None))(model, noise, {"light_position": 4.0})
    images = jax.vmap(scenes.pendulum_image)(moved)

All but ``sample_noise`` are written for one sample, and a model is a pytree without leaves: an
ordinary argument of ``jit`` and ``vmap``.
"""

import dataclasses
import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.errors import unknown_choice

Values = Mapping[str, float | jax.Array]
"""Variable name to its value, or to its noise: scalars, batched by the caller's ``vmap``."""

Mechanism = Callable[[dict[str, jax.Array], jax.Array], jax.Array]
"""``mechanism(parents, noise) -> value``, all scalars; pure, catching no values from ``jit``.

It may have a method ``invert(parents, value) -> noise``, which lets ``abduct`` recover its noise.
"""

Sampler = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""``sampler(key, shape)``, as ``jax.random.normal`` is."""


@dataclasses.dataclass(frozen=True)
class Additive:
    """The mechanism ``function(parents) + noise``, whose noise follows from the observed values."""

    function: Callable[[dict[str, jax.Array]], jax.Array]

    def __call__(self, parents: dict[str, jax.Array], noise: jax.Array) -> jax.Array:
        """Returns the value of the variable."""
        return self.function(parents) + noise

    def invert(self, parents: dict[str, jax.Array], value: jax.Array) -> jax.Array:
        """Returns the noise under which the variable takes ``value``."""
        return value - self.function(parents)


@dataclasses.dataclass(frozen=True)
class _Affine:
    weights: tuple[tuple[str, float], ...]
    bias: float

    def __call__(self, parents: dict[str, jax.Array]) -> jax.Array:
        # The start makes the sum over no parents an array too.
        start = jnp.asarray(self.bias, float)
        return sum((weight * parents[name] for name, weight in self.weights), start)


def linear(weights: Mapping[str, float], bias: float = 0.0) -> Additive:
    """Builds the mechanism ``bias + sum_p weights[p] * p + noise``; without weights, a root."""
    pairs = ((name, float(weight)) for name, weight in weights.items())
    return Additive(_Affine(tuple(pairs), float(bias)))


@dataclasses.dataclass(frozen=True)
class Normal:
    """Sampler of N(0, scale^2); with scale 0 the variable has no noise."""

    scale: float = 1.0

    def __post_init__(self):
        if not self.scale >= 0.0:
            raise ValueError(f"the scale of the noise must be at least 0, got {self.scale}.")

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws values of the given shape."""
        return self.scale * jax.random.normal(key, shape)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Sampler of the uniform distribution on [low, high)."""

    low: float
    high: float

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got low={self.low} and high={self.high}.")

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws values of the given shape."""
        return jax.random.uniform(key, shape, minval=self.low, maxval=self.high)


@flax.struct.dataclass
class SCM:
    """A structural causal model over scalar variables. Build it with ``scm`` or ``linear_scm``.

    Immutable, hashable, and a pytree without leaves. The four tuples run in parallel.

    Attributes:
        names: The variables in topological order, causes first.
        parents: The direct causes of each variable.
        mechanisms: How each variable follows from its parents and its noise.
        noise: How the noise of each variable is drawn, independently of the others'.
        hidden: The variables that are not observed, such as a common cause.
    """

    names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    parents: tuple[tuple[str, ...], ...] = flax.struct.field(pytree_node=False)
    mechanisms: tuple[Mechanism, ...] = flax.struct.field(pytree_node=False)
    noise: tuple[Sampler, ...] = flax.struct.field(pytree_node=False)
    hidden: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @property
    def observed(self) -> tuple[str, ...]:
        """The observed variables, in topological order."""
        return tuple(name for name in self.names if name not in self.hidden)


def scm(
    parents: Mapping[str, Iterable[str]],
    mechanisms: Mapping[str, Mechanism],
    noise: Mapping[str, Sampler] | Sampler,
    *,
    hidden: Iterable[str] = (),
) -> SCM:
    """Builds a structural causal model from its graph, its mechanisms and its noise.

    Args:
        parents: The direct causes of every variable, () for a root. Any order.
        mechanisms: One for every variable. Models compare by their mechanisms, so one whose
            functions are new (a lambda built again) compiles again.
        noise: A sampler for every variable, or one for all.
        hidden: Variables that are not observed.

    Raises:
        ValueError: A cycle; a name that is not a variable, with the nearest that is; a variable
            without mechanism or noise; a mechanism that reads what is not a parent, or whose value
            is not a scalar.
    """
    for name, causes in parents.items():
        if isinstance(causes, str):
            raise ValueError(f"the parents of {name!r} must be a tuple of names, got {causes!r}.")
    causes = {name: tuple(names) for name, names in parents.items()}
    for name, names in causes.items():
        check_known(f"parent of {name!r}", names, causes)
    samplers = dict.fromkeys(causes, noise) if callable(noise) else noise
    hidden = tuple(hidden)
    check_known("hidden variable", hidden, causes)
    _check_exactly("mechanism", mechanisms, causes)
    _check_exactly("noise", samplers, causes)
    names = _topological_order(causes)
    model = SCM(
        names=names,
        parents=tuple(causes[name] for name in names),
        mechanisms=tuple(mechanisms[name] for name in names),
        noise=tuple(samplers[name] for name in names),
        hidden=hidden,
    )
    _check_mechanisms(model)
    return model


def check_known(kind: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raises ValueError at the first name that is not among the valid ones."""
    valid = tuple(valid)
    for name in given:
        if name not in valid:
            raise ValueError(unknown_choice(kind, name, valid))


def _check_exactly(kind: str, given: Iterable[str], names: Iterable[str]) -> None:
    given, names = tuple(given), tuple(names)
    check_known(f"variable in the {kind}", given, names)
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"the {kind} of {', '.join(map(repr, missing))} is missing.")


def _topological_order(parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return tuple(graphlib.TopologicalSorter(parents).static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ValueError(f"the graph has a cycle, {cycle}: causes must be acyclic.") from error


def _check_mechanisms(model: SCM) -> None:
    """Runs the model on shapes alone, so that a wrong mechanism is found where it was given."""
    values, key = {}, jax.eval_shape(jax.random.key, 0)
    for name, parents, mechanism, sampler in _variables(model):
        noise = jax.eval_shape(sampler, key, ())
        known = {parent: values[parent] for parent in parents}
        try:
            values[name] = jax.eval_shape(mechanism, known, noise)
        except KeyError as error:
            raise ValueError(
                f"the mechanism of {name!r} reads {error}, not one of its parents {parents}."
            ) from error
        shape = getattr(values[name], "shape", None)
        if shape != ():
            raise ValueError(f"the mechanism of {name!r} must return a scalar, got shape {shape}.")


def _variables(
    model: SCM,
) -> Iterator[tuple[str, tuple[str, ...], Mechanism, Sampler]]:
    return zip(model.names, model.parents, model.mechanisms, model.noise, strict=True)


def linear_scm(
    weights: Mapping[str, Mapping[str, float]],
    *,
    noise_scale: float = 1.0,
    hidden: Iterable[str] = (),
) -> SCM:
    """Builds the linear Gaussian model with ``weights[effect][cause]``, {} for a root.

    Every noise is N(0, noise_scale^2). With W[j, i] the weight of i on j, the total effects are
    (I - W)^-1 - I: entry [j, i] sums over the paths from i to j the product of their weights
    (Wright 1934, The method of path coefficients).
    """
    mechanisms = {name: linear(causes) for name, causes in weights.items()}
    return scm(weights, mechanisms, Normal(noise_scale), hidden=hidden)


def chain(x_to_m: float = 1.0, m_to_y: float = 1.0, *, noise_scale: float = 1.0) -> SCM:
    """Builds the linear chain x -> m -> y: m mediates."""
    return linear_scm({"x": {}, "m": {"x": x_to_m}, "y": {"m": m_to_y}}, noise_scale=noise_scale)


def fork(z_to_x: float = 1.0, z_to_y: float = 1.0, *, noise_scale: float = 1.0) -> SCM:
    """Builds the linear fork x <- z -> y: x and y covary without an effect."""
    return linear_scm({"z": {}, "x": {"z": z_to_x}, "y": {"z": z_to_y}}, noise_scale=noise_scale)


def collider(x_to_z: float = 1.0, y_to_z: float = 1.0, *, noise_scale: float = 1.0) -> SCM:
    """Builds the linear collider x -> z <- y: x and y covary only given z."""
    weights = {"x": {}, "y": {}, "z": {"x": x_to_z, "y": y_to_z}}
    return linear_scm(weights, noise_scale=noise_scale)


def confounder(
    x_to_y: float = 1.0, u_to_x: float = 1.0, u_to_y: float = 1.0, *, noise_scale: float = 1.0
) -> SCM:
    """Builds x -> y with a hidden common cause x <- u -> y, all linear.

    The regression of y on x has the slope x_to_y + u_to_x * u_to_y / (u_to_x^2 + 1), whatever the
    scale of the noise; the effect is x_to_y.
    """
    weights = {"u": {}, "x": {"u": u_to_x}, "y": {"u": u_to_y, "x": x_to_y}}
    return linear_scm(weights, noise_scale=noise_scale, hidden=("u",))


def sample_noise(key: jax.Array, model: SCM, num: int) -> dict[str, jax.Array]:
    """Draws the noise of ``num`` samples: (num,) for every variable, hidden ones included."""
    keys = jax.random.split(key, len(model.names))
    variables = zip(keys, model.names, model.noise, strict=True)
    return {name: sampler(key, (num,)) for key, name, sampler in variables}


def observe(model: SCM, noise: Values) -> dict[str, jax.Array]:
    """Returns the value of every variable, hidden ones included, under the given noise.

    Raises:
        ValueError: Noise for what is not a variable, or a variable without noise.
    """
    return intervene(model, noise, {})


def intervene(model: SCM, noise: Values, do: Values) -> dict[str, jax.Array]:
    """Returns the value of every variable under do(name = value, ...) and the given noise.

    A mechanism of ``do`` is replaced by its constant, all others stay. With the noise of a factual
    sample this is that sample's counterfactual; averaged over noise it is the interventional mean.

    Raises:
        ValueError: A name in ``do`` or ``noise`` that is not a variable, or a variable without
            noise.
    """
    check_known("variable to intervene on", do, model.names)
    _check_exactly("noise", noise, model.names)
    values = {}
    for name, parents, mechanism, _ in _variables(model):
        if name in do:
            values[name] = floating(do[name])
        else:
            known = {parent: values[parent] for parent in parents}
            values[name] = mechanism(known, floating(noise[name]))
    return values


def floating(value: float | jax.Array) -> jax.Array:
    """Returns the value as a floating-point array."""
    return jnp.asarray(value, jnp.result_type(float, value))


def abduct(model: SCM, values: Values) -> dict[str, jax.Array]:
    """Returns the noise under which ``observe`` gives ``values``: one for every variable.

    Raises:
        ValueError: A variable without value (a hidden one must be given too: observed values alone
            do not determine it), a name that is not a variable, or a mechanism without inverse.
    """
    _check_exactly("value", values, model.names)
    noise = {}
    for name, parents, mechanism, _ in _variables(model):
        invert = getattr(mechanism, "invert", None)
        if invert is None:
            raise ValueError(
                f"the mechanism of {name!r} has no inverse, so its noise does not follow from "
                "values: use Additive or linear, or keep the noise and call intervene."
            )
        known = {parent: floating(values[parent]) for parent in parents}
        noise[name] = invert(known, floating(values[name]))
    return noise


def counterfactual(model: SCM, values: Values, do: Values) -> dict[str, jax.Array]:
    """Returns what the sample with ``values`` would have been under do(name = value, ...).

    Abduction, action, prediction (Pearl 2009, Causality, theorem 7.1.7). Where the noise itself is
    at hand the abduction is already done: ``intervene`` with that noise is the counterfactual, for
    any mechanism and with hidden variables.

    Raises:
        ValueError: As ``abduct`` and ``intervene``.
    """
    return intervene(model, abduct(model, values), do)


def _reached(model: SCM) -> dict[str, set[str]]:
    """The observed variables at the end of directed paths through hidden variables alone."""
    reached: dict[str, set[str]] = {name: set() for name in model.names}
    for name, parents in zip(reversed(model.names), reversed(model.parents), strict=True):
        for parent in parents:
            reached[parent] |= reached[name] if name in model.hidden else {name}
    return reached


def adjacency(model: SCM) -> np.ndarray:
    """Returns the true graph over ``model.observed``, bool (cause, effect).

    Hidden variables are projected out: a -> b is an edge when a directed path leads from a to b
    with nothing but hidden variables between. With ``confounding`` this is the latent projection
    (Verma and Pearl 1990, Equivalence and synthesis of causal models).
    """
    reached, names = _reached(model), model.observed
    return np.array([[b in reached[a] for b in names] for a in names], bool)


def confounding(model: SCM) -> np.ndarray:
    """Returns which pairs of ``model.observed`` share a hidden cause, bool, symmetric.

    The common cause acts on both through paths of hidden variables alone; the diagonal is False.
    """
    reached, names = _reached(model), model.observed
    shared = [reached[name] for name in model.hidden]
    return np.array([[a != b and any({a, b} <= s for s in shared) for b in names] for a in names])


def true_effects(
    model: SCM, noise: Values, low: float | jax.Array, high: float | jax.Array
) -> jax.Array:
    """Returns the effect of every observed variable on every other: (cause, effect), one sample.

    Entry [a, b] is b under do(a = high) minus b under do(a = low), with the same noise; the
    diagonal is high - low. The mean over samples of noise is the average causal effect
    E[b | do(a = high)] - E[b | do(a = low)], in units of b.

    Args:
        model: The causal model.
        noise: One sample's, as for ``observe``.
        low: The reference value of each variable of ``model.observed``, or one value for all.
        high: The value it is set to instead, in the same form.

    Raises:
        ValueError: ``low`` or ``high`` is neither a scalar nor one value per observed variable.
    """
    names = model.observed
    ends = []
    for kind, value in (("low", low), ("high", high)):
        if jnp.shape(value) not in ((), (len(names),)):
            raise ValueError(
                f"{kind} must be a scalar or have shape ({len(names)},), one value for each of "
                f"{names}; got shape {jnp.shape(value)}."
            )
        end = jnp.broadcast_to(floating(value), (len(names),))
        runs = [intervene(model, noise, {name: end[row]}) for row, name in enumerate(names)]
        ends.append(jnp.stack([jnp.stack([run[name] for name in names]) for run in runs]))
    return ends[1] - ends[0]
