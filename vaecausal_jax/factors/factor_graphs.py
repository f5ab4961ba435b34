"""The causal graph of factors that a model has, beside the true one.

C[k, l] is the effect on the read-out of factor l of swapping the model's representation of factor k
between minimal pairs. Its off-diagonal entries are TOTAL effects: a cause moves what its effects
cause in turn. ``direct_effects`` takes the paths apart where effects are linear. An edge is an
effect that is larger than a minimum, no edge one that is shown to be smaller. Where factors are
independent by design the true graph is empty, and every edge is entanglement.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data.causal import SCM, intervene, observe, sample_noise
from vaecausal_jax.data.pairs import Pairs, check_pair, check_pairs
from vaecausal_jax.effects.mediators import Mediator
from vaecausal_jax.inference import (
    Bootstrap,
    Estimate,
    bootstrap_mean,
    equivalence_test,
    false_discovery,
    linearised_ratio,
    minimum_effect_test,
)
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Change, Outcome, difference, measure, outputs
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced


class FactorGraph(NamedTuple):
    """A graph over factors, with the evidence; all arrays (cause, effect).

    Attributes:
        effect: What the edges were decided on, with intervals; the diagonal is each factor's effect
            on itself.
        p_value: Of |effect| <= delta, adjusted for false discoveries over edges; NaN on the
            diagonal and in rows without control.
        adjacency: Edges.
        verdict: "edge"; "none", where the effect is shown to be smaller than delta; "undecided"; or
            "no control", where the swap does not even move its own factor, so that nothing follows
            from what else it does or does not move. "" on the diagonal.
        control: Whether the swap of a factor moves that factor, (cause,).
        names: Factors, in order.
    """

    effect: Estimate
    p_value: np.ndarray
    adjacency: np.ndarray
    verdict: np.ndarray
    control: np.ndarray
    names: tuple[str, ...]


def swap_effects(
    net: BoundModel,
    pairs: Pairs,
    mediator: Mediator,
    points: Any,
    *,
    outcome: Outcome = outputs,
    change: Change = difference,
    sweep: SweepFn = sweep,
) -> Array:
    """Effects on all read-outs of swapping each factor's representation: (swapped, read, pairs).

    The run on the reference takes the representation of factor k from the target, whose factor k
    has grown, with the same noise.

    Args:
        net: The network with its parameters.
        pairs: Pairs of every factor: ``readouts.factor_pairs`` or ``scm_pairs``.
        mediator: ``mediators.group(sites, name)``, ``.subspace``, or any other.
        points: Which part represents each factor, a leading axis of factors: booleans (factors,
            units) for groups, such as ``metrics.causal.top_latents`` chooses; bases
            (factors, rank, ...) for subspaces, such as ``interchange`` learns.
        outcome: Trace to read-out columns: ``readout.outcome(jax.nn.sigmoid)``.
        change: Columns before and after to signed changes: ``readout.change``.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: Not one point per factor.
    """
    sweep = unreduced(sweep)
    check_pair(pairs)
    num_factors, flat = len(pairs.x0), pairs.flat()
    check_pairs(flat)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if lengths != {(num_factors,)}:
        raise ValueError(
            f"points need a leading axis of {num_factors} factors, one representation each, got "
            f"{sorted(lengths)}."
        )
    points = jax.tree.map(jnp.asarray, points)

    def run(nothing, pair):
        del nothing
        x0, x1, eps, point = pair
        target = net(x1, eps, {}).activations
        clean = measure(outcome, net(x0, eps, {}))
        return change(clean, measure(outcome, net(x0, eps, mediator(point, target))))

    num_pairs = pairs.x0.shape[1]
    own = jax.tree.map(lambda a: jnp.repeat(a, num_pairs, axis=0), points)
    moved = sweep(run, jnp.zeros(1), (*flat.runs, own))[0]
    return jnp.moveaxis(moved.reshape(num_factors, num_pairs, -1), 2, 1)


def scm_pairs(
    key: Array,
    model: SCM,
    render: Callable[[dict[str, Array]], Array],
    num: int,
    noise_shape: tuple[int, ...],
) -> Pairs:
    """Pairs of images of a sample and of its counterfactual under do(variable = a larger value).

    The values are those of two samples of the model, the lower first; all else follows with the
    sample's own noise, so the variable's effects move with it, as the model says.

    Args:
        key: Typed PRNG key.
        model: The causal model; its observed variables are the factors.
        render: Values of one sample to an image, e.g. ``scenes.pendulum_image``.
        num: Pairs per variable.
        noise_shape: Of one run's ``eps``: ``model.noise_shape``, (0,) for a network without noise.
    """
    parts = []
    noise_key, *keys = jax.random.split(key, len(model.observed) + 1)
    for pair_key, name in zip(keys, model.observed, strict=True):
        own_key, other_key = jax.random.split(pair_key)
        noise = sample_noise(own_key, model, num)
        other = sample_noise(other_key, model, num)
        own, donor = (jax.vmap(observe, (None, 0))(model, n)[name] for n in (noise, other))
        ends = jnp.minimum(own, donor), jnp.maximum(own, donor)

        def image(noise, value, name=name):
            return render(intervene(model, noise, {name: value}))

        spread = jnp.std(jnp.concatenate([own, donor]))
        size = (ends[1] - ends[0]) / jnp.where(spread > 0, spread, 1.0)
        parts.append((*(jax.vmap(image)(noise, end) for end in ends), size))
    x0, x1, change = (jnp.stack(leaves) for leaves in zip(*parts, strict=True))
    eps = jax.random.normal(noise_key, (*change.shape, *noise_shape), x0.dtype)
    return Pairs(x0, x1, eps, change=change)


def direct_effects(samples: ArrayLike) -> Array:
    """Direct effects from total ones, W = I - T^-1 with T_kl = C_kl / C_kk: (cause, effect, pairs).

    Exact for linear effects, whose totals are T = (I - W)^-1, path products summed (Wright 1934).
    Pair by pair the values are linearised, so that their mean is W and their spread that of W to
    first order: whatever takes a mean of pairs takes these.

    Args:
        samples: (swapped, read, pairs), as from ``swap_effects``. Where a swap leaves its own
            factor alone, its effects have no scale, and all of W is NaN.
    """
    samples = jnp.asarray(samples, float)
    _check_samples(samples)
    own = jnp.moveaxis(jnp.diagonal(samples, axis1=0, axis2=1), -1, 0)
    relative = linearised_ratio(samples, own[:, None])
    mean = relative.mean(-1)
    inverse = jnp.linalg.inv(mean)
    residual = relative - mean[..., None]
    spread = jnp.einsum("ij,jkp,kl->ilp", inverse, residual, inverse, precision="highest")
    return (jnp.eye(len(mean)) - inverse)[..., None] + spread


def factor_graph(
    key: Array,
    samples: ArrayLike,
    *,
    own: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    q: float = 0.05,
    delta: float = 0.1,
    bootstrap: Bootstrap = Bootstrap(),
) -> FactorGraph:
    """Decides on every edge: there, not there, or undecided.

    An edge is an effect above ``delta``, no edge one that is shown to be below it (two one-sided
    tests), each at false discovery rate q over all off-diagonal entries. Few pairs decide little,
    and what they leave open is not taken for an absent edge. Rows are decided on only where the
    swap moves its own factor by more than ``delta``: the positive control.

    Args:
        key: Typed PRNG key, of the intervals.
        samples: (cause, effect, pairs): total effects of ``swap_effects``, or ``direct_effects``.
        own: (factor, pairs): effects of each swap on its own factor; the diagonal of ``samples`` if
            None. Direct effects have none: give ``total[k, k]`` for each k.
        names: Factors, in order; numbers if None.
        q: False discovery rate (Benjamini-Hochberg).
        delta: Smallest effect that is an edge: in SD of the factor read, or for direct effects in
            SD of it per SD of the cause.
        bootstrap: How intervals are made; the tests know no clusters.

    Raises:
        ValueError: Not (factors, factors, pairs), own effects of another shape or all zero, names
            that do not fit, q outside (0, 1), a negative delta, or clusters.
    """
    bootstrap.without("factor_graph", "clusters")
    samples = np.asarray(samples, float)
    _check_samples(samples)
    num = len(samples)
    names = tuple(map(str, range(num))) if names is None else tuple(names)
    if len(names) != num:
        raise ValueError(f"{len(names)} names for {num} factors: {names}.")
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie between 0 and 1, got {q}.")
    control = _controls(samples, own, q, delta)
    tested = control[:, None] & ~np.eye(num, dtype=bool)
    p_value, absent = (
        false_discovery(np.where(tested, test(samples, delta), np.nan))
        for test in (minimum_effect_test, equivalence_test)
    )
    verdict = np.select(
        [np.eye(num, dtype=bool), ~tested, p_value <= q, absent <= q],
        ["", "no control", "edge", "none"],
        "undecided",
    )
    effect = bootstrap_mean(
        key,
        samples,
        intervention="representation of one factor swapped within minimal pairs",
        bootstrap=bootstrap,
    )
    return FactorGraph(effect, p_value, verdict == "edge", verdict, control, names)


def _controls(samples: np.ndarray, own: ArrayLike | None, q: float, delta: float) -> np.ndarray:
    """Whether each swap raises its own factor by more than delta."""
    num = len(samples)
    if own is None:
        own = samples[np.arange(num), np.arange(num)]
        if not own.any():
            raise ValueError(
                "samples have a diagonal of zeros, as direct effects do: give own=, each swap's "
                "total effect on its own factor, (factors, pairs)."
            )
    own = np.asarray(own, float)
    if own.ndim != 2 or len(own) != num or own.shape[1] < 2:
        raise ValueError(f"own has shape {own.shape}, expected ({num}, pairs), two pairs or more.")
    moves = false_discovery(minimum_effect_test(own, delta)) <= q
    return moves & (own.mean(axis=-1) > 0)


def _check_samples(samples: Any) -> None:
    if samples.ndim != 3 or samples.shape[0] != samples.shape[1] or samples.shape[2] < 2:
        raise ValueError(
            f"samples have shape {samples.shape}, expected (factors, factors, pairs), two pairs or "
            "more."
        )
