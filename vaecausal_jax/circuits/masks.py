"""Circuits and scores as dictionaries of arrays: masks of nodes or edges, ranked, joined and drawn.

A circuit of nodes maps a site to booleans (units,); one of edges maps (source, target) to booleans
(source units, target units). Scores have the same form, with numbers for booleans. Nothing here
runs a network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.effects.shapley import all_subsets

Masks = Mapping[Any, Any]
"""A circuit, or a stack of them with one leading axis."""

Scores = dict[Any, np.ndarray]
"""The same keys and shapes as a circuit, one number per node or edge: larger is more important."""

Samples = dict[Any, np.ndarray]
"""Scores pair by pair: a last axis of pairs."""


def is_edge_circuit(circuit: Masks) -> bool:
    """Whether the masks are of edges, not of nodes.

    Raises:
        ValueError: Of both, or of neither.
    """
    kinds = {isinstance(key, tuple) for key in circuit}
    if len(kinds) != 1:
        raise ValueError(
            "a circuit is masks of nodes (by site) or of edges (by source and target), got "
            + ("both." if kinds else "none.")
        )
    return kinds.pop()


def num_parts(circuit: Masks) -> int:
    """How many nodes or edges a circuit holds."""
    return sum(int(np.count_nonzero(np.asarray(mask))) for mask in circuit.values())


def as_booleans(circuit: Masks) -> dict[Any, np.ndarray]:
    """The circuit's masks as NumPy booleans."""
    return {key: np.asarray(mask, bool) for key, mask in circuit.items()}


def stack_circuits(circuits: Sequence[Masks]) -> dict[Any, Array]:
    """Circuits of one task along a new leading axis.

    Raises:
        ValueError: None, or circuits that name different sites or pairs.
    """
    if not circuits:
        raise ValueError("stack_circuits needs at least one circuit, got none.")
    for position, circuit in enumerate(circuits):
        if set(circuit) != set(circuits[0]):
            differing = sorted(map(str, set(circuit) ^ set(circuits[0])))
            raise ValueError(
                f"circuits 0 and {position} cannot be stacked: {differing} in one of them only."
            )
    return {k: jnp.stack([jnp.asarray(c[k]) for c in circuits]) for k in circuits[0]}


def flat_scores(scores: Scores) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """All scores as one vector, and what each is of: (site, unit), or (source, u, target, v)."""
    values, labels = [], []
    for key, value in scores.items():
        value = np.asarray(value)
        values.append(value.ravel())
        for index in np.ndindex(value.shape):
            if isinstance(key, tuple):
                labels.append((key[0], index[0], key[1], index[1]))
            else:
                labels.append((key, index[0]))
    return (np.concatenate(values) if values else np.zeros(0)), labels


def unflatten(like: Masks, flat: Any) -> dict[Any, Any]:
    """A vector, in the order of ``flat_scores``, as a dictionary of the given shapes.

    Args:
        like: Masks or scores of the shapes wanted.
        flat: (parts,), or a stack of vectors (..., parts), whose leading axes stay.
    """
    parts, position = {}, 0
    for key, value in like.items():
        size = int(np.prod(np.shape(value)))
        part = flat[..., position : position + size]
        parts[key] = part.reshape(*flat.shape[:-1], *np.shape(value))
        position += size
    return parts


def ranking(scores: Scores) -> np.ndarray:
    """Positions in ``flat_scores`` from the largest absolute score down.

    Raises:
        ValueError: NaN among the scores, which has no rank.
    """
    values, labels = flat_scores(scores)
    if np.isnan(values).any():
        raise ValueError(f"the score of {labels[int(np.argmax(np.isnan(values)))]} is NaN.")
    return np.argsort(-np.abs(values), kind="stable")


def jaccard(first: Masks, second: Masks) -> float:
    """Parts that both circuits hold over parts that either holds; NaN for two empty ones.

    Raises:
        ValueError: Circuits of other sites or shapes.
    """
    if {k: np.shape(v) for k, v in first.items()} != {k: np.shape(v) for k, v in second.items()}:
        raise ValueError("the circuits have other sites or shapes, and no parts to compare.")
    pairs = [(np.asarray(first[k], bool), np.asarray(second[k], bool)) for k in first]
    either = sum(int((a | b).sum()) for a, b in pairs)
    return sum(int((a & b).sum()) for a, b in pairs) / either if either else float("nan")


def without_each(circuit: Masks) -> tuple[dict[Any, np.ndarray], list[tuple[Any, ...]]]:
    """A circuit's versions that lack one part each, stacked, and the part that each lacks.

    Raises:
        ValueError: An empty circuit.
    """
    circuit = as_booleans(circuit)
    flat, labels = flat_scores(circuit)
    parts = np.flatnonzero(flat)
    if parts.size == 0:
        raise ValueError("the circuit is empty: there is no part to take away.")
    masks = flat.astype(bool) & (np.arange(flat.size) != parts[:, None])
    return unflatten(circuit, masks), [labels[i] for i in parts]


def all_subsets_of(circuit: Masks) -> dict[Any, np.ndarray]:
    """Every subset of a circuit's parts, stacked, the empty one first.

    Raises:
        ValueError: More than 14 parts, which have more than 16384 subsets.
    """
    circuit = as_booleans(circuit)
    flat = flat_scores(circuit)[0].astype(bool)
    parts = np.flatnonzero(flat)
    if parts.size > 14:
        raise ValueError(
            f"a circuit of {parts.size} parts has 2^{parts.size} subsets; use random_subsets_of."
        )
    masks = np.zeros((2**parts.size, flat.size), bool)
    if parts.size:
        masks[:, parts] = all_subsets(parts.size)
    return unflatten(circuit, masks)


def random_subsets_of(key: Array, circuit: Masks, num: int) -> dict[Any, np.ndarray]:
    """Subsets of a circuit's parts, stacked, (num, ...): the share kept is uniform in [0, 1]."""
    circuit = as_booleans(circuit)
    flat = flat_scores(circuit)[0].astype(bool)
    share_key, part_key = jax.random.split(key)
    share = jax.random.uniform(share_key, (num, 1))
    draws = np.asarray(jax.random.uniform(part_key, (num, flat.size)) < share)
    return unflatten(circuit, draws & flat)


def random_circuits(key: Array, circuit: Masks, num: int) -> dict[Any, np.ndarray]:
    """Random circuits with as many parts as the circuit in every site, or pair of sites.

    They are uniform among all such circuits, and have the circuit's depth. Stacked: (num, ...).
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
