"""Roles of units, by intervention: what each reads, what it writes, what it cannot do alone.

    hub         writes two or more factors
    relay       reads a factor and writes the same one
    mixer       reads two or more factors and writes one at least
    inhibitor   writes some factor downwards
    gate        its effect needs other units: noising - denoising > 0
    dead        writes nothing
    backup pair two units that restore the outcome together no better than each alone (interaction
                below zero), and neither of which is missed while the other is there

A unit that reads and is dead is a distractor: it goes with a factor and causes nothing. Every role
rests on sign-flip tests, adjusted for false discoveries over the whole table, and can be made to
ask for a least effect, which the whole interval must then exceed. The absence of a role is absence
of evidence.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.inference import (
    Estimate,
    bootstrap_mean,
    equivalence_test,
    false_discovery,
    sign_flip_test,
)


class UnitRoles(NamedTuple):
    """Roles of units, each (units,) booleans, and the evidence.

    Attributes:
        hub: Writes two or more factors.
        relay: Reads and writes a factor in common.
        mixer: Reads two or more factors and writes.
        inhibitor: Writes a factor with a negative sign.
        gate: Has an interaction above zero; None where none was given.
        dead: Writes nothing.
        reads: (units, factors): found effects of factors on the unit.
        writes: (units, factors): found effects of the unit on read-outs.
        read: (units, factors): mean effects of factors on the unit, with intervals.
        write: (units, factors): mean effects of the unit on read-outs, with intervals.
        interaction: (units,): mean interactions, with intervals; None where none was given.
    """

    hub: np.ndarray
    relay: np.ndarray
    mixer: np.ndarray
    inhibitor: np.ndarray
    gate: np.ndarray | None
    dead: np.ndarray
    reads: np.ndarray
    writes: np.ndarray
    read: Estimate
    write: Estimate
    interaction: Estimate | None


class BackupPairs(NamedTuple):
    """Verdicts on pairs of units.

    Attributes:
        backup: (pairs,): redundant, and neither missed alone.
        interaction: v({i, j}) - v({i}) - v({j}) of each pair, with intervals.
        p_interaction: (pairs,) adjusted p-values of no interaction.
        p_missed: (units,) adjusted p-values of a noising effect of at least the margin.
    """

    backup: np.ndarray
    interaction: Estimate
    p_interaction: np.ndarray
    p_missed: np.ndarray


def unit_roles(
    key: Array,
    reads: ArrayLike,
    writes: ArrayLike,
    interactions: ArrayLike | None = None,
    *,
    q: float = 0.05,
    min_read: float = 0.0,
    min_write: float = 0.0,
    min_interaction: float = 0.0,
    num_flips: int = 9999,
) -> UnitRoles:
    """Roles of the units of a site, from their effects image by image.

    Args:
        key: Typed PRNG key.
        reads: (units, factors, images): change of the unit when factor k changes in a fixed
            direction, in SD of the unit.
        writes: (units, factors, images): change of read-out k when the unit rises, in SD of the
            read-out.
        interactions: (units, images): noising minus denoising effect
            (``mediation_shares(...).interaction``), if known.
        q: False discovery rate of each of the three tables.
        min_read: Least mean effect that counts, the whole interval beyond it.
        min_write: The same for writes.
        min_interaction: The same for interactions.
        num_flips: Random sign patterns. No p is below 1 / (1 + num_flips): finding a lone effect
            among m tests takes more than m / q.

    Raises:
        ValueError: Tables that do not fit together, q outside (0, 1), or a negative least effect.
    """
    reads, writes = np.asarray(reads, float), np.asarray(writes, float)
    if reads.ndim != 3 or writes.ndim != 3 or reads.shape[:2] != writes.shape[:2]:
        raise ValueError(
            f"reads {reads.shape} and writes {writes.shape} must be (units, factors, images), of "
            "the same units and factors."
        )
    if interactions is not None and np.shape(interactions)[:1] != reads.shape[:1]:
        raise ValueError(
            f"interactions has shape {np.shape(interactions)}, expected (units, images) with "
            f"{reads.shape[0]} units."
        )
    _check_rate(q)
    for word, least in {
        "min_read": min_read,
        "min_write": min_write,
        "min_interaction": min_interaction,
    }.items():
        if not least >= 0:
            raise ValueError(f"{word} must not be negative, got {least}.")
    read_key, write_key, other_key = jax.random.split(key, 3)
    read, up, down = _found(read_key, reads, q, min_read, num_flips, "factor changed")
    found_reads = up | down
    write, up, down = _found(write_key, writes, q, min_write, num_flips, "unit raised")
    found_writes, lowers = up | down, down
    num_reads, num_writes = found_reads.sum(1), found_writes.sum(1)
    interaction = gate = None
    if interactions is not None:
        interaction, gate, _ = _found(
            other_key, interactions, q, min_interaction, num_flips, "unit noised and denoised"
        )
    return UnitRoles(
        hub=num_writes >= 2,
        relay=(found_reads & found_writes).sum(1) > 0,
        mixer=(num_reads >= 2) & (num_writes > 0),
        inhibitor=lowers.sum(1) > 0,
        gate=gate,
        dead=num_writes == 0,
        reads=found_reads,
        writes=found_writes,
        read=read,
        write=write,
        interaction=interaction,
    )


def backup_pairs(
    key: Array,
    interactions: ArrayLike,
    noising: ArrayLike,
    pairs: ArrayLike,
    *,
    margin: float,
    q: float = 0.05,
    num_flips: int = 9999,
) -> BackupPairs:
    """Pairs of units of which each makes the other superfluous.

    Args:
        key: Typed PRNG key.
        interactions: (pairs, images): v({i, j}) - v({i}) - v({j}) as units take the target's value
            in the reference run (``effects.stored.unit_pairs``).
        noising: (units, images): effect of each unit alone, noised in the target run: what is
            missed without it.
        pairs: (pairs, 2): which units.
        margin: Largest mean noising effect that counts as none, in the scale of ``noising``.
        q: False discovery rate, of interactions over pairs and of equivalences over units.
        num_flips: See ``unit_roles``.

    Raises:
        ValueError: Arrays that do not fit together, units out of range, a margin that is not
            positive or q outside (0, 1).
    """
    interactions, noising = np.asarray(interactions, float), np.asarray(noising, float)
    pairs = np.asarray(pairs)
    fits = interactions.ndim == noising.ndim == 2 and pairs.shape == (len(interactions), 2)
    if not fits or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(
            f"interactions {interactions.shape}, noising {noising.shape} and pairs {pairs.dtype}"
            f"{pairs.shape} must be (pairs, images), (units, images) and integers (pairs, 2)."
        )
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < len(noising):
        raise ValueError(f"pairs must name units 0 .. {len(noising) - 1}, got {pairs.max()}.")
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}.")
    _check_rate(q)
    test = sign_flip_test(interactions, key=key, num_flips=num_flips)
    p_interaction = false_discovery(test.p_value)
    p_missed = false_discovery(equivalence_test(noising, margin))
    estimate = bootstrap_mean(key, interactions, intervention="both units denoised, minus each")
    redundant = (p_interaction <= q) & (estimate.value < 0)
    superfluous = p_missed <= q
    backup = redundant & superfluous[pairs].all(1)
    return BackupPairs(backup, estimate, p_interaction, p_missed)


def _found(
    key: Array, samples: ArrayLike, q: float, least: float, num_flips: int, intervention: str
) -> tuple[Estimate, np.ndarray, np.ndarray]:
    """The mean effects, and which of them are found above and below zero."""
    flip_key, weight_key = jax.random.split(key)
    test = sign_flip_test(samples, key=flip_key, num_flips=num_flips)
    significant = false_discovery(test.p_value) <= q
    estimate = bootstrap_mean(weight_key, samples, intervention=intervention)
    above = significant & (estimate.low > least)
    return estimate, above, significant & (estimate.high < -least)


def _check_rate(q: float) -> None:
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie between 0 and 1, got {q}.")
