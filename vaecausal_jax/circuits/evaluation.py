"""Whether a circuit does what the network does: faithfulness, completeness, minimality, curves.

With everything outside C ablated, the metric m gives

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty)),

ratios of sums over pairs. It depends on what is ablated to, so it is reported over a grid of
ablations. Curves f(C_k) over circuits of growing size k give CPR = integral of f and CMD =
integral of |1 - f| over the share of parts (Mueller et al. 2025, arXiv:2504.13151). On a linear
axis half of either is the upper half of the sizes, so both come on a logarithmic axis as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.circuits.scorers import flat_scores
from vaecausal_jax.circuits.selectors import select_top, unflatten
from vaecausal_jax.circuits.tasks import (
    Masks,
    Scores,
    Task,
    check_circuit,
    circuit_metrics,
    stack_circuits,
)
from vaecausal_jax.effects.paths import Values
from vaecausal_jax.inference import Estimate, bootstrap_ratio
from vaecausal_jax.sweeps.grid import Block

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


class Curve(NamedTuple):
    """Faithfulness of circuits of growing size.

    Attributes:
        sizes: Parts in each circuit, ascending.
        shares: The same over all parts.
        faithfulness: Of each, with intervals.
        cpr: Area under f over shares; larger is better.
        cmd: Area between f and 1; smaller is better.
        log_cpr: Mean of f over the logarithm of shares, from the smallest circuit but the empty.
        log_cmd: Likewise for |1 - f|.
        smallest: Parts in the smallest circuit with f of at least ``threshold``, all larger ones
            too; NaN if there is none.
        threshold: What f that is; 0.9 by default.
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


class Completeness(NamedTuple):
    """How alike the circuit and the network are once the same parts are taken from both.

    Attributes:
        gap: |f(C minus K) - f(full minus K)| of each knock-out K, (knock-outs,).
        largest: The largest: C is incomplete if it is far from 0 (Wang et al. 2022).
        worst: The parts whose loss shows it, a circuit.
    """

    gap: np.ndarray
    largest: float
    worst: dict[Any, np.ndarray]


def faithfulness_samples(
    task: Task, circuits: Masks, reference: Values, *, block: Block | None = None
) -> FaithfulnessSamples:
    """Runs circuits, the full and the empty one, on every pair.

    Args:
        task: The task.
        circuits: Masks with a leading axis of circuits (``stack_circuits``).
        reference: What everything outside is held at: see ``ablation_references``.
        block: See ``sweep``.
    """
    first = {key: jnp.asarray(mask)[0] for key, mask in circuits.items()}
    check_circuit(task, first)
    ends = [{key: jnp.full_like(mask, end) for key, mask in first.items()} for end in (False, True)]
    joined = {
        key: jnp.concatenate([jnp.asarray(mask), ends[0][key][None], ends[1][key][None]])
        for key, mask in circuits.items()
    }
    found = np.asarray(circuit_metrics(task, joined, reference, block=block), float)
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
    block: Block | None = None,
) -> Estimate:
    """f(C) of each circuit of a stack, with intervals over pairs.

    Estimate on other pairs than those on which the circuits were found: the best of many is
    flattered by its own data.

    Args:
        key: Typed PRNG key, for the bootstrap.
        task: The task.
        circuits: Masks with a leading axis of circuits.
        reference: What is ablated to.
        ablation: Its name, kept with the number.
        level: Coverage.
        block: See ``sweep``.

    Returns:
        Estimate, (circuits,). Its null is 0, the empty circuit. NaN where full and empty circuits
        have the same metric.
    """
    samples = faithfulness_samples(task, circuits, reference, block=block)
    return _ratio(key, samples, ablation, level)


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
        references: Name to what is ablated to, as from ``ablation_references``.
        level: Coverage.

    Returns:
        Ablation to estimate (circuits,), and (3, circuits) minimum, median, maximum of values.
    """
    if not references:
        raise ValueError("references holds no ablation.")
    # One program for all: the ablations are so many copies of the pairs.
    copies = np.tile(np.arange(len(task.x1)), len(references))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *references.values())
    samples = faithfulness_samples(task.take(copies), circuits, joined)
    parts = (np.split(a, len(references), axis=-1) for a in samples)
    found = {
        name: _ratio(key, FaithfulnessSamples(*part), name, level)
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
    block: Block | None = None,
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
        block: See ``sweep``.

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
        key, task, circuits, reference, ablation=ablation, level=level, block=block
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


def completeness(
    task: Task, circuit: Masks, reference: Values, knockouts: Masks, *, block: Block | None = None
) -> Completeness:
    """Compares the circuit and the whole network with the same parts of the circuit knocked out.

    A circuit that lacks a backup falls when its main part is lost, while the network does not
    (Wang et al. 2022, arXiv:2211.00593). Over all subsets the largest gap is exact; take
    ``all_subsets_of`` for small circuits, ``random_subsets_of`` otherwise.

    Args:
        task: The task.
        circuit: The circuit.
        reference: What is ablated to.
        knockouts: Masks with a leading axis of knock-outs, true where a part is lost.
        block: See ``sweep``.
    """
    circuit = {key: jnp.asarray(mask, bool) for key, mask in circuit.items()}
    lost = {key: jnp.asarray(knockouts[key], bool) for key in circuit}
    both = {key: jnp.concatenate([circuit[key][None] & ~lost[key], ~lost[key]]) for key in circuit}
    samples = faithfulness_samples(task, both, reference, block=block)
    total = samples.total.sum()
    value = samples.restored.sum(1) / (total if total != 0 else np.nan)
    gap = np.abs(np.subtract(*np.split(value, 2)))
    worst = int(np.argmax(np.where(np.isnan(gap), -1, gap)))
    return Completeness(
        gap, float(gap[worst]), {key: np.asarray(mask[worst]) for key, mask in lost.items()}
    )


def minimality(
    key: Array,
    task: Task,
    circuit: Masks,
    reference: Values,
    *,
    ablation: str,
    level: float = 0.95,
    block: Block | None = None,
) -> tuple[Estimate, list[tuple[Any, ...]]]:
    """f(C) - f(C without a part), for each part: what it is needed for.

    Args:
        key: Typed PRNG key.
        task: The task.
        circuit: The circuit.
        reference: What is ablated to.
        ablation: Its name.
        level: Coverage.
        block: See ``sweep``.

    Returns:
        Estimate (parts,), and what each part is, as from ``flat_scores``.

    Raises:
        ValueError: An empty circuit.
    """
    without, labels = without_each(circuit)
    joined = stack_circuits([{k: np.asarray(m, bool) for k, m in circuit.items()}])
    joined = {k: jnp.concatenate([joined[k], without[k]]) for k in joined}
    samples = faithfulness_samples(task, joined, reference, block=block)
    lost = FaithfulnessSamples(samples.restored[:1] - samples.restored[1:], samples.total)
    return _ratio(key, lost, ablation, level), labels


def without_each(circuit: Masks) -> tuple[dict[Any, np.ndarray], list[tuple[Any, ...]]]:
    """A circuit's versions that lack one part each, stacked, and the part that each lacks."""
    circuit = {k: np.asarray(m, bool) for k, m in circuit.items()}
    flat, labels = flat_scores(circuit)
    parts = np.flatnonzero(flat)
    if parts.size == 0:
        raise ValueError("the circuit is empty: there is no part to take away.")
    masks = flat.astype(bool) & (np.arange(flat.size) != parts[:, None])
    return _stack_flat(circuit, masks), [labels[i] for i in parts]


def all_subsets_of(circuit: Masks) -> dict[Any, np.ndarray]:
    """Every subset of a circuit's parts, stacked, the empty one first.

    Raises:
        ValueError: More than 14 parts, 16384 subsets.
    """
    circuit = {k: np.asarray(m, bool) for k, m in circuit.items()}
    flat = flat_scores(circuit)[0].astype(bool)
    parts = np.flatnonzero(flat)
    if parts.size > 14:
        raise ValueError(
            f"a circuit of {parts.size} parts has 2^{parts.size} subsets; use random_subsets_of."
        )
    chosen = np.arange(2**parts.size)[:, None] >> np.arange(parts.size) & 1
    masks = np.zeros((len(chosen), flat.size), bool)
    masks[:, parts] = chosen
    return _stack_flat(circuit, masks)


def random_subsets_of(key: Array, circuit: Masks, num: int) -> dict[Any, np.ndarray]:
    """Subsets of a circuit's parts of every size alike, stacked: (num, ...)."""
    circuit = {k: np.asarray(m, bool) for k, m in circuit.items()}
    flat = flat_scores(circuit)[0].astype(bool)
    share_key, part_key = jax.random.split(key)
    share = jax.random.uniform(share_key, (num, 1))
    draws = np.asarray(jax.random.uniform(part_key, (num, flat.size)) < share)
    return _stack_flat(circuit, draws & flat)


def random_circuits(key: Array, circuit: Masks, num: int) -> dict[Any, np.ndarray]:
    """Circuits of the same size, drawn uniformly among all parts, stacked: (num, ...).

    Part for part in each site or pair of sites, so that a random circuit has the circuit's depth.
    """
    drawn = {}
    for number, (name, mask) in enumerate(circuit.items()):
        mask = np.asarray(mask, bool)
        repeated = jnp.broadcast_to(mask.reshape(1, -1), (num, mask.size))
        shuffled = jax.random.permutation(
            jax.random.fold_in(key, number), repeated, axis=1, independent=True
        )
        drawn[name] = np.asarray(shuffled).reshape(num, *mask.shape)
    return drawn


def smallest_by_search(
    task: Task, circuit: Masks, reference: Values, *, threshold: float = 0.9
) -> dict[Any, np.ndarray]:
    """The smallest faithful circuit within a small one, by trying every subset.

    Among those of least size the most faithful. The oracle for selectors; at most 14 parts.

    Raises:
        ValueError: Too many parts, or no subset that reaches the threshold.
    """
    subsets = all_subsets_of(circuit)
    samples = faithfulness_samples(task, subsets, reference)
    total = samples.total.sum()
    values = samples.restored.sum(1) / (total if total != 0 else np.nan)
    size = sum(mask.reshape(len(values), -1).sum(1) for mask in subsets.values())
    if not (values >= threshold).any():
        raise ValueError(f"no subset reaches {threshold}; the best has {np.nanmax(values):.3g}.")
    order = np.lexsort((-values, np.where(values >= threshold, size, np.inf)))
    return {key: mask[order[0]] for key, mask in subsets.items()}


def _ratio(key: Array, samples: FaithfulnessSamples, ablation: str, level: float) -> Estimate:
    what = f"all outside the circuit ablated: {ablation}"
    return bootstrap_ratio(key, samples.restored, samples.total, intervention=what, level=level)


def _absolute_area(axis: np.ndarray, values: np.ndarray) -> float:
    """Area of |values|, linear between points: where the sign changes, two triangles."""
    a, b, step = values[:-1], values[1:], np.diff(axis)
    crosses = a * b < 0
    size = np.abs(a) + np.abs(b)
    triangles = (a**2 + b**2) / (2 * np.where(crosses, size, 1.0))
    return float(np.sum(step * np.where(crosses, triangles, size / 2)))


def _stack_flat(circuit: Mapping[Any, np.ndarray], masks: np.ndarray) -> dict[Any, np.ndarray]:
    parts = [unflatten(circuit, mask) for mask in masks]
    return {key: np.stack([part[key] for part in parts]) for key in circuit}
