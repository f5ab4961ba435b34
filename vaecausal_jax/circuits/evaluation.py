"""Faithfulness: whether a circuit does what the network does; curves over sizes of circuits.

With everything outside C ablated, the metric m gives

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty)),

ratios of sums over pairs. It depends on what is ablated to, so it is reported over a grid of
ablations. Curves f(C_k) over circuits of growing size k give CPR = integral of f and CMD =
integral of |1 - f| over the share of parts (Mueller et al. 2025, arXiv:2504.13151). On a linear
axis half of either is the upper half of the sizes, so both come on a logarithmic axis as well.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.circuits.masks import Masks, Scores, flat_scores, stack_circuits
from vaecausal_jax.circuits.selectors import select_top
from vaecausal_jax.circuits.tasks import Task, check_circuit, circuit_metrics
from vaecausal_jax.effects.paths import Values
from vaecausal_jax.inference import Bootstrap, Estimate, bootstrap_ratio
from vaecausal_jax.sweeps.grid import SweepFn, sweep

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of circuits on the field's grid, as shares of all parts."""


class FaithfulnessSamples(NamedTuple):
    """Faithfulness pair by pair, to be estimated as a ratio of sums.

    Attributes:
        restored: m(C) - m(empty), (circuits, pairs).
        total: m(full) - m(empty), (pairs,).
    """

    restored: np.ndarray
    total: np.ndarray

    def ratio(self) -> np.ndarray:
        """f(C) of each circuit, without intervals; NaN where full and empty score alike."""
        total = self.total.sum()
        return self.restored.sum(-1) / (total if total != 0 else np.nan)

    def estimate(self, key: Array, *, ablation: str, level: float) -> Estimate:
        """f(C) of each circuit, with intervals over pairs."""
        what = f"all outside the circuit ablated: {ablation}"
        return bootstrap_ratio(
            key, self.restored, self.total, intervention=what, bootstrap=Bootstrap(level=level)
        )


class Curve(NamedTuple):
    """Faithfulness of circuits of growing size.

    Attributes:
        sizes: Parts in each circuit, ascending.
        shares: The sizes as shares of all parts.
        faithfulness: f of each circuit, with intervals.
        cpr: Area under f over shares; larger is better.
        cmd: Area between f and 1; smaller is better.
        log_cpr: Mean of f over the logarithm of shares, from the smallest circuit but the empty.
        log_cmd: Mean of |1 - f| over the same axis.
        smallest: Parts in the smallest circuit from which on f is at least ``threshold``; NaN if
            there is none.
        threshold: The f that counts as faithful; 0.9 by default.
    """

    sizes: np.ndarray
    shares: np.ndarray
    faithfulness: Estimate
    cpr: float
    cmd: float
    log_cpr: float
    log_cmd: float
    smallest: float
    threshold: float


def faithfulness_samples(
    task: Task, circuits: Masks, reference: Values, *, sweep: SweepFn = sweep
) -> FaithfulnessSamples:
    """Runs circuits, the full and the empty one, on every pair.

    Args:
        task: The task.
        circuits: Masks with a leading axis of circuits (``stack_circuits``).
        reference: What everything outside is held at: see ``ablation_references``.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.
    """
    first = {key: jnp.asarray(mask)[0] for key, mask in circuits.items()}
    check_circuit(task, first)
    ends = [{key: jnp.full_like(mask, end) for key, mask in first.items()} for end in (False, True)]
    joined = {
        key: jnp.concatenate([jnp.asarray(mask), ends[0][key][None], ends[1][key][None]])
        for key, mask in circuits.items()
    }
    found = np.asarray(circuit_metrics(task, joined, reference, sweep=sweep), float)
    empty, full = found[-2], found[-1]
    return FaithfulnessSamples(found[:-2] - empty, full - empty)


def faithfulness(
    key: Array,
    task: Task,
    circuits: Masks,
    reference: Values,
    *,
    ablation: str,
    level: float = 0.95,
    sweep: SweepFn = sweep,
) -> Estimate:
    """f(C) of each circuit of a stack, with intervals over pairs.

    Use other pairs than those on which the circuits were found, since the best of many is
    flattered by the data that chose it.

    Args:
        key: Typed PRNG key, for the bootstrap.
        task: The task.
        circuits: Masks with a leading axis of circuits.
        reference: What is ablated to.
        ablation: Its name, kept with the number.
        level: Coverage.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        Estimate, (circuits,). Its null is 0, the empty circuit. NaN where full and empty circuits
        have the same metric.
    """
    samples = faithfulness_samples(task, circuits, reference, sweep=sweep)
    return samples.estimate(key, ablation=ablation, level=level)


def faithfulness_grid(
    key: Array,
    task: Task,
    circuits: Masks,
    references: Mapping[str, Values],
    *,
    level: float = 0.95,
) -> tuple[dict[str, Estimate], np.ndarray]:
    """Faithfulness under every ablation, and its minimum, median and maximum over them.

    Args:
        key: Typed PRNG key.
        task: The task.
        circuits: Masks with a leading axis of circuits.
        references: Name to what is ablated to; see ``ablation_references``.
        level: Coverage.

    Returns:
        Ablation to estimate (circuits,), and (3, circuits) minimum, median, maximum of values.
    """
    if not references:
        raise ValueError("references holds no ablation.")
    # One program for all: the pairs are repeated, once per ablation.
    copies = np.tile(np.arange(len(task.pairs.x1)), len(references))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *references.values())
    samples = faithfulness_samples(task.take(copies), circuits, joined)
    parts = (np.split(a, len(references), axis=-1) for a in samples)
    found = {
        name: FaithfulnessSamples(*part).estimate(key, ablation=name, level=level)
        for name, *part in zip(references, *parts, strict=True)
    }
    values = np.stack([estimate.value for estimate in found.values()])
    return found, np.stack([values.min(0), np.median(values, axis=0), values.max(0)])


def faithfulness_curve(
    key: Array,
    task: Task,
    scores: Scores,
    reference: Values,
    *,
    ablation: str,
    sizes: Sequence[int] = (),
    threshold: float = 0.9,
    level: float = 0.95,
    sweep: SweepFn = sweep,
) -> Curve:
    """Faithfulness of the top-k circuits of a scorer, and its areas.

    Args:
        key: Typed PRNG key.
        task: The task.
        scores: Scores of all candidate parts, found on other pairs.
        reference: What is ablated to.
        ablation: Its name.
        sizes: Parts of each circuit; the field's grid ``SHARES`` of all parts, and 0, if empty.
        threshold: The f that the smallest circuit must reach.
        level: Coverage of the intervals.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Raises:
        ValueError: Sizes outside 0 .. parts, or NaN scores.
    """
    num = flat_scores(scores)[0].size
    grid = list(sizes) or [0, *(max(1, round(share * num)) for share in SHARES)]
    grid = sorted(set(grid))
    if len(grid) < 2:
        raise ValueError(f"a curve needs at least two sizes, got {grid}.")
    circuits = stack_circuits([select_top(scores, size) for size in grid])
    found = faithfulness(
        key, task, circuits, reference, ablation=ablation, level=level, sweep=sweep
    )
    shares = np.array(grid) / num
    cpr, cmd = curve_areas(shares, found.value)
    log_cpr, log_cmd = curve_areas(shares, found.value, logarithmic=True)
    smallest = smallest_faithful(grid, found.value, threshold)
    return Curve(np.array(grid), shares, found, cpr, cmd, log_cpr, log_cmd, smallest, threshold)


def curve_areas(
    shares: ArrayLike, values: ArrayLike, *, logarithmic: bool = False
) -> tuple[float, float]:
    """CPR and CMD of a curve: areas under f, and between f and 1, f linear between its points.

    Additive equal contributions of a share k of all parts, found first: f = min(share / k, 1),
    CPR = 1 - k / 2, CMD = k / 2.

    Args:
        shares: (circuits,) sizes over all parts, strictly ascending.
        values: (circuits,) faithfulness.
        logarithmic: Over ln(share) instead, from the smallest share above 0, divided by the length
            of that axis: a mean over scales. f is still linear between points, on that axis.

    Returns:
        (CPR, CMD). On a linear axis the curve is prolonged to shares 0 and 1 at its ends' values.

    Raises:
        ValueError: Shares that are not ascending within [0, 1], or of another number than values.
    """
    shares, values = np.asarray(shares, float), np.asarray(values, float)
    fits = shares.ndim == 1 and shares.shape == values.shape and shares.size > 1
    if not fits or (np.diff(shares) <= 0).any() or shares[0] < 0 or shares[-1] > 1:
        raise ValueError(
            f"shares {shares.tolist()} must ascend within [0, 1], two or more, one value each "
            f"(values have shape {values.shape})."
        )
    if logarithmic:
        positive = shares > 0
        axis, values = np.log(shares[positive]), values[positive]
        if axis.size < 2:
            return float("nan"), float("nan")
        length = axis[-1] - axis[0]
    else:
        axis = np.concatenate([[0.0], shares, [1.0]])
        values, length = np.concatenate([values[:1], values, values[-1:]]), 1.0
    below = np.trapezoid(values, axis) / length
    return float(below), float(_absolute_area(axis, 1.0 - values) / length)


def smallest_faithful(sizes: Sequence[int], values: ArrayLike, threshold: float = 0.9) -> float:
    """The smallest size from which on f stays at or above the threshold; NaN if there is none."""
    values = np.asarray(values, float)
    reached = np.logical_and.accumulate((values >= threshold)[::-1])[::-1]
    return float(np.asarray(sizes)[np.argmax(reached)]) if reached.any() else float("nan")


def _absolute_area(axis: np.ndarray, values: np.ndarray) -> float:
    """Area of |values|, linear between points: where the sign changes, two triangles."""
    a, b, step = values[:-1], values[1:], np.diff(axis)
    crosses = a * b < 0
    size = np.abs(a) + np.abs(b)
    triangles = (a**2 + b**2) / (2 * np.where(crosses, size, 1.0))
    return float(np.sum(step * np.where(crosses, triangles, size / 2)))
