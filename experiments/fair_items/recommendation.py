"""What a recommender's scores mean for its users, and for groups of them.

Read-outs to put behind an intervention: scores are (users, items), higher is better, with minus
infinity where an item may not be recommended, such as one that the user has taken. For an
item-based model (``objectives.item_vae``) column i is the decoder's outputs for item i.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.inference import Estimate
from vaecausal_jax.inference.estimate import check_level, least_replicates, method_from


class GroupGap(NamedTuple):
    """How differently groups of users are served.

    Attributes:
        means: Mean of each group, (groups,); NaN for a group without a value.
        sizes: Users with a value in each group, (groups,).
        gap: Largest mean minus smallest, with its bootstrap interval; ``null`` is the mean gap of
            shuffled groups, which is above zero: of several means some are largest.
    """

    means: np.ndarray
    sizes: np.ndarray
    gap: Estimate


def recall_at(scores: Array, held_out: ArrayLike, num: int) -> Array:
    """Share of each user's held-out items among the ``num`` best, of at most ``num``: (users,).

    sum of hits / min(num, held-out items), as in Liang et al. 2018 (arXiv:1802.05814); NaN for a
    user without held-out items. Of equal scores the first items win.

    Args:
        scores: (users, items).
        held_out: Whether the user took the item, unseen in training, (users, items).
        num: Items recommended.

    Raises:
        ValueError: Shapes that differ, or more recommendations than items.
    """
    took = jnp.asarray(held_out, bool)
    if scores.ndim != 2 or took.shape != scores.shape:
        raise ValueError(
            f"scores have shape {scores.shape} and held_out {took.shape}, expected the same "
            "(users, items)."
        )
    if not 1 <= num <= scores.shape[1]:
        raise ValueError(f"num is {num}, expected 1 to the {scores.shape[1]} items.")
    best = jax.lax.top_k(scores, num)[1]
    hits = jnp.sum(jnp.take_along_axis(took, best, axis=1), axis=1)
    possible = jnp.minimum(jnp.sum(took, axis=1), num)
    return jnp.where(possible > 0, hits / jnp.maximum(possible, 1), jnp.nan)


def group_gap(
    key: Array,
    values: ArrayLike,
    groups: ArrayLike,
    *,
    num_replicates: int = 1000,
    level: float = 0.95,
) -> GroupGap:
    """Largest difference between groups of users in the mean of a value, such as ``recall_at``.

    The percentiles are moved out to the gap itself where they lie beside it: resampling adds noise,
    and noisier means lie further apart. There is no interval where a group has one user, who shows
    no spread.

    Args:
        key: Typed PRNG key.
        values: One a user, (users,); NaN is left out.
        groups: Group of each user, integers from 0, (users,).
        num_replicates: Of the bootstrap, users resampled inside their group; and of the shuffles.
            Fewer than 1 / (1 - level) give no interval.
        level: Coverage.

    Raises:
        ValueError: Shapes that differ, fewer than two groups, a group without a value, no
            replicates, or a level outside (0, 1).
    """
    check_level(level)
    if num_replicates < 1:
        raise ValueError(f"num_replicates is {num_replicates}, expected 1 or more.")
    x, group = np.asarray(values, np.float64), np.asarray(groups)
    fits = x.ndim == 1 and x.shape == group.shape and group.dtype.kind in "iu"
    if not fits or group.min(initial=0) < 0:
        raise ValueError(
            f"values have shape {x.shape} and groups {group.shape} of {group.dtype}, expected the "
            "same (users,), groups of integers from 0."
        )
    kept = ~np.isnan(x)
    num_groups = int(group.max(initial=-1)) + 1
    sizes = np.bincount(group[kept], minlength=num_groups)
    if num_groups < 2 or (sizes == 0).any():
        raise ValueError(
            f"users with a value by group: {sizes.tolist()}, expected two groups or more."
        )
    x, group = x[kept], group[kept]
    order = np.argsort(group, kind="stable")
    x, group = x[order], group[order]
    begin = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())

    def gap_of(rows):
        means = np.add.reduceat(x[rows], begin, axis=-1) / sizes
        return np.ptp(means, axis=-1)

    drawn = rng.random((num_replicates, len(x))) * sizes[group][None, :]
    resampled = gap_of(begin[group][None, :] + drawn.astype(int))
    shuffled = gap_of(rng.permuted(np.tile(np.arange(len(x)), (num_replicates, 1)), axis=1))
    means = np.add.reduceat(x, begin) / sizes
    value, low, high = np.ptp(means), np.nan, np.nan
    method = method_from(num_replicates, level, "bootstrap over users inside groups (percentile)")
    if (sizes == 1).any():
        method = f"no interval: group {np.argmin(sizes)} has one user, who shows no spread"
    elif num_replicates >= least_replicates(level):
        low, high = np.quantile(resampled, [0.5 - level / 2, 0.5 + level / 2])
    gap = Estimate(
        np.asarray(value),
        np.minimum(low, value),
        np.maximum(high, value),
        float(shuffled.mean()),
        len(x),
        1,
        level,
        method,
        f"largest difference between {num_groups} groups of users",
    )
    return GroupGap(means, sizes, gap)
