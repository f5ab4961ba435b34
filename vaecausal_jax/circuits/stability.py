"""Whether the same circuit is found again: from other images, and in other trained models.

Circuits change under resampling (arXiv:2510.00845). A part is certified where it is selected in
nearly every resample, and rejected where it is in nearly none; about the others the method
abstains, as certified circuits do (arXiv:2602.22968).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import stats

from vaecausal_jax.circuits.masks import (
    Masks,
    Samples,
    Scores,
    as_booleans,
    jaccard,
    random_circuits,
)
from vaecausal_jax.indices import as_indices
from vaecausal_jax.inference import poisson_weights
from vaecausal_jax.inference.estimate import check_level


class Stability(NamedTuple):
    """Selection under resampling of pairs.

    Attributes:
        frequency: Share of resamples in which each part was selected.
        certified: Parts selected in at least ``threshold`` of all resamples, confidently.
        rejected: Parts left out in at least as many.
        abstained: The others.
        jaccard: (resamples,) likeness of each resample's circuit to that of all pairs.
    """

    frequency: dict[Any, np.ndarray]
    certified: dict[Any, np.ndarray]
    rejected: dict[Any, np.ndarray]
    abstained: dict[Any, np.ndarray]
    jaccard: np.ndarray


class CircuitAgreement(NamedTuple):
    """Likeness of several circuits, such as those of several seeds.

    Attributes:
        frequency: Share of circuits that hold each part.
        jaccard: (circuits, circuits) likeness of every two.
        mean: Mean of ``jaccard`` over pairs of different circuits.
        null: The same mean for random circuits of as many parts in every layer.
    """

    frequency: dict[Any, np.ndarray]
    jaccard: np.ndarray
    mean: float
    null: float


def selection_stability(
    key: Array,
    samples: Samples,
    select: Callable[[Scores], Masks],
    *,
    num_resamples: int = 200,
    threshold: float = 0.9,
    level: float = 0.95,
) -> Stability:
    """Selects circuits from bootstrap resamples of the pairs.

    Args:
        key: Typed PRNG key.
        samples: Scores pair by pair, such as ``node_samples(task).noising``.
        select: Mean scores to a circuit, e.g. ``lambda s: select_top(s, 20)``.
        num_resamples: Bootstrap resamples.
        threshold: Share of resamples that must agree.
        level: Confidence with which they must (Clopper and Pearson's one-sided bound).

    Raises:
        ValueError: A threshold outside [0.5, 1), a level outside (0, 1), fewer than two pairs, or
            no resample that holds any.
    """
    check_level(level)
    if not 0.5 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0.5, 1), got {threshold}.")
    num_pairs = {np.shape(values)[-1] for values in samples.values()}
    if len(num_pairs) != 1 or min(num_pairs) < 2:
        raise ValueError(f"samples need one number of pairs, two or more, got {num_pairs}.")
    weights = np.asarray(poisson_weights(key, num_resamples, num_pairs.pop()), float)
    # A resample without any pair selects nothing, and is none.
    weights = weights[weights.sum(1) > 0]
    if not len(weights):
        raise ValueError(
            f"num_resamples is {num_resamples}, and none of them holds a pair: expected more, such "
            "as the default 200."
        )
    weights /= weights.sum(1, keepdims=True)

    def selected(weight):
        scores = {k: np.asarray(v, float) @ weight for k, v in samples.items()}
        return as_booleans(select(scores))

    whole = selected(np.full(weights.shape[1], 1 / weights.shape[1]))
    found = [selected(weight) for weight in weights]
    count = {k: np.sum([f[k] for f in found], axis=0) for k in whole}

    def confidently(count):
        # Clopper and Pearson's lower bound reaches the threshold just where this test rejects.
        return stats.binom.sf(count - 1, len(found), threshold) <= 1 - level

    certified = {k: confidently(c) for k, c in count.items()}
    rejected = {k: confidently(len(found) - c) for k, c in count.items()}
    return Stability(
        {k: np.asarray(c / len(found)) for k, c in count.items()},
        certified,
        rejected,
        {k: ~(certified[k] | rejected[k]) for k in whole},
        np.array([jaccard(whole, f) for f in found]),
    )


def circuit_agreement(
    key: Array, circuits: Sequence[Masks], *, num_null: int = 100
) -> CircuitAgreement:
    """How alike circuits are, beside random ones of their sizes.

    Units of trained models have no common order: align them first (``align_circuit``).

    Args:
        key: Typed PRNG key.
        circuits: Two or more.
        num_null: Random circuits behind the null.
    """
    if len(circuits) < 2:
        raise ValueError(f"agreement needs at least two circuits, got {len(circuits)}.")
    table = _pairwise(circuits)
    keys = jax.random.split(key, len(circuits))
    drawn = [random_circuits(k, c, num_null) for k, c in zip(keys, circuits, strict=True)]
    null = [
        _mean_off_diagonal(_pairwise([{k: m[i] for k, m in d.items()} for d in drawn]))
        for i in range(num_null)
    ]
    frequency = {
        k: np.mean([np.asarray(c[k], bool) for c in circuits], axis=0) for k in circuits[0]
    }
    return CircuitAgreement(frequency, table, _mean_off_diagonal(table), float(np.mean(null)))


def align_circuit(circuit: Masks, order: Mapping[str, ArrayLike]) -> dict[Any, np.ndarray]:
    """A circuit with its units in the order of another model's.

    Args:
        circuit: Masks of nodes or edges.
        order: Site to (units,): which unit of this model corresponds to each unit of the other, a
            row of ``UnitMatching.order``. Sites not named keep their order.
    """

    def along(name, size):
        given = order.get(name, np.arange(size))
        chosen = as_indices(f"order at {name!r}", "unit", given, size)
        if len(chosen) < size:
            raise ValueError(f"order at {name!r} has {len(chosen)} units, expected all {size}.")
        return chosen

    aligned = {}
    for key, mask in circuit.items():
        mask = np.asarray(mask)
        names = key if isinstance(key, tuple) else (key,)
        places = [along(n, size) for n, size in zip(names, mask.shape, strict=True)]
        aligned[key] = mask[np.ix_(*places)]
    return aligned


def _pairwise(circuits: Sequence[Masks]) -> np.ndarray:
    return np.array([[jaccard(a, b) for b in circuits] for a in circuits])


def _mean_off_diagonal(table: np.ndarray) -> float:
    return float(table[~np.eye(len(table), dtype=bool)].mean())
