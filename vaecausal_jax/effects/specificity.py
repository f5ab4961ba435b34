"""Specificity: how few factors a unit affects, how sure that is, and what noise alone would score.

Indices take effect energies (units, factors); those of a unit that does nothing are NaN, never
perfect. Tests and corrections take the paired effects behind them, (units, factors, images), signed
so that the direction in which a factor changes is the same in every pair: energies are squares of
their means, and a dead unit's mean is zero while its mean square is not.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import special

from vaecausal_jax.effects.unit_effects import effective_units
from vaecausal_jax.inference import (
    Bootstrap,
    equivalence_test,
    expanded_level,
    false_discovery,
    resample_ratio,
    sign_flip_test,
)
from vaecausal_jax.inference.estimate import least_replicates
from vaecausal_jax.inference.resampling import holding, middle


class Specificity(NamedTuple):
    """Indices of how specific a unit is, each (...); NaN where all energies are zero.

    p_k = E_k / sum E are the shares of F factors; H = -sum p ln p their entropy in nats.

    Attributes:
        entropic: 1 - H / ln F, in [0, 1].
        paper: 1 / (H + eps), the form ascribed to arXiv:2505.03530; unbounded.
        participation_ratio: 1 / sum p^2, an effective number of factors in [1, F].
        effective_factors: exp(H), another.
        tau: sum(1 - E_k / E_max) / (F - 1), in [0, 1].
        top_share: max p, in [1 / F, 1].
        selectivity: (E_max - mean rest) / (E_max + mean rest), in [0, 1] (Morcos et al. 2018,
            arXiv:1803.06959).
    """

    entropic: Array
    paper: Array
    participation_ratio: Array
    effective_factors: Array
    tau: Array
    top_share: Array
    selectivity: Array


class CorrectedSpecificity(NamedTuple):
    """Entropic specificity beside what noise would score, each (units,).

    Attributes:
        raw: 1 - H / ln F.
        null: Its mean under sign flips of the unit's noise.
        corrected: (raw - null) / (1 - null); NaN for units that are not active.
        p_value: Of no effect on any factor, adjusted for false discoveries over units.
        active: Whether that is at most q.
    """

    raw: np.ndarray
    null: np.ndarray
    corrected: np.ndarray
    p_value: np.ndarray
    active: np.ndarray


class UnitClasses(NamedTuple):
    """A verdict on every unit, and what it rests on.

    Attributes:
        label: (units,): ``"dead"``, ``"undetected"``, ``"monosemantic"``, ``"polysemantic"`` or
            ``"undetermined"``.
        negligible: (units,): p-value of some effect as large as the margin, adjusted for false
            discoveries over units; NaN of units with NaN.
        significant: (units, factors): effects that survive the false discovery rate.
        share: (units, factors): estimated shares of the unit's energy; NaN without any.
        low: (units, factors): lower ends of the shares' intervals; NaN without any.
        high: Upper ends.
        top_factor: (units,): index of the largest share; -1 without any.
    """

    label: np.ndarray
    negligible: np.ndarray
    significant: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    top_factor: np.ndarray


def effect_shares(energies: Array) -> Array:
    """p_k = E_k / sum E over the last axis; NaN where nothing has any effect."""
    total = energies.sum(-1, keepdims=True)
    return jnp.where(total > 0, energies / jnp.where(total > 0, total, 1.0), jnp.nan)


def share_entropy(energies: Array) -> Array:
    """H = -sum p ln p of the shares, in nats, between 0 and ln F."""
    return jax.scipy.special.entr(effect_shares(energies)).sum(-1)


def specificity(energies: ArrayLike, *, eps: float = 1e-8) -> Specificity:
    """All indices of specificity from effect energies.

    Only energies of factor read-outs measure how many FACTORS a unit serves; those of pixels
    measure how concentrated its effect is in space.

    Args:
        energies: (..., factors), not negative: mean squared, or squared mean, standardised effects.
        eps: Of the paper's index only; it bounds the score of a perfectly specific unit by 1 / eps.

    Raises:
        ValueError: Fewer than two factors.
    """
    energies = jnp.asarray(energies, float)
    num_factors = _num_factors(energies)
    shares = effect_shares(energies)
    entropy = share_entropy(energies)
    top = shares.max(-1)
    rest = (1.0 - top) / (num_factors - 1)
    return Specificity(
        entropic=1.0 - entropy / math.log(num_factors),
        paper=1.0 / (entropy + eps),
        participation_ratio=effective_units(shares, axis=-1),
        effective_factors=jnp.exp(entropy),
        tau=(1.0 - shares / top[..., None]).sum(-1) / (num_factors - 1),
        top_share=top,
        selectivity=(top - rest) / (top + rest),
    )


def noise_specificity(num_factors: int) -> float:
    """Expected entropic specificity of a unit with no effect: 1 - E[H] / ln F, far from zero.

    Its energies are independent squares of normals, their shares Dirichlet(1/2), and
    E[H] = psi(F / 2 + 1) - psi(3 / 2): 0.393 for 3 factors, 0.337 for 5, 0.275 for 10.
    """
    entropy = special.psi(num_factors / 2 + 1) - special.psi(1.5)
    return float(1 - entropy / math.log(num_factors))


def corrected_specificity(
    key: Array, samples: ArrayLike, *, q: float = 0.05, num_flips: int = 999
) -> CorrectedSpecificity:
    """Entropic specificity minus what noise would give, for units that do anything at all.

    Signs are flipped image by image, in common for all factors and units, which keeps whatever
    dependence there is between them. A unit is active if its summed energy, sum_k mean_k^2, is
    larger than under flips, at false discovery rate q over units. The null is the mean score of
    flipped effects whose means were removed and whose spreads were made equal: flips of the effects
    as they are would keep the sizes of large effects, and call the specificity itself noise. Where
    some effect does not vary over images, ``noise_specificity`` stands in.

    Args:
        key: Typed PRNG key.
        samples: (units, factors, images): paired signed effects, in units of each read-out's SD.
        q: False discovery rate.
        num_flips: Random flips.

    Raises:
        ValueError: Not (units, factors, images) with at least two of the last two.
    """
    samples = _checked_samples(samples)
    raw, null, larger = map(np.asarray, _flip_specificity(key, samples, num_flips))
    known = np.isfinite(np.asarray(samples)).all((1, 2))
    p_value = false_discovery(np.where(known, (1 + larger) / (1 + num_flips), np.nan))
    active = (p_value <= q) & np.isfinite(raw)
    corrected = np.where(active, (raw - null) / (1 - null), np.nan)
    return CorrectedSpecificity(raw, null, corrected, p_value, active)


def classify_units(
    key: Array,
    samples: ArrayLike,
    *,
    q: float = 0.05,
    margin: float = 0.1,
    min_top_share: float = 0.5,
    min_share: float = 0.1,
    num_flips: int = 9999,
    bootstrap: Bootstrap = Bootstrap(),
) -> UnitClasses:
    """Sorts units by how many factors they act on, with the evidence.

    - dead: every effect is shown to be smaller than ``margin``, significant or not: two one-sided
      tests, whose largest p over factors is adjusted for false discoveries over units.
    - undetected: no effect was found, and none was shown to be small: the images did not suffice.
    - monosemantic: one significant effect, and its share is above ``min_top_share`` with its whole
      interval.
    - polysemantic: two or more significant effects whose shares are above ``min_share`` with their
      whole intervals.
    - undetermined: anything else, so every unit with an effect on the only factor there is.

    Significance is by sign flips, adjusted for false discoveries over all (unit, factor). Shares
    are of unbiased energies, cut off at zero, with percentile bootstrap intervals over images,
    moved out to the share itself where they lie beside it: replicates have their own noise, too.

    Args:
        key: Typed PRNG key.
        samples: (units, factors, images): paired signed effects, in units of each read-out's SD.
        q: False discovery rate.
        margin: Largest effect that counts as none, in SD of the read-out.
        min_top_share: What the one factor of a monosemantic unit must exceed.
        min_share: What each factor of a polysemantic unit must exceed.
        num_flips: Random flips behind the tests. No p is below 1 / (1 + num_flips): finding a lone
            effect among m tests takes more than m / q.
        bootstrap: How the shares' intervals are made, by percentiles and without clusters. Too few
            replicates give none, and no unit is monosemantic or polysemantic.

    Raises:
        ValueError: Not (units, factors, images) with at least two images, a threshold or level
            outside (0, 1), a negative margin, or clusters or another ``interval``.
    """
    num_replicates, level, _, _ = bootstrap.without("classify_units", "clusters", "interval")
    for word, value in {
        "q": q,
        "min_top_share": min_top_share,
        "min_share": min_share,
        "level": level,
    }.items():
        if not 0.0 < value < 1.0:
            raise ValueError(f"{word} must lie between 0 and 1, got {value}.")
    samples = _checked_samples(samples, least_factors=1)
    flip_key, weight_key = jax.random.split(key)
    test = sign_flip_test(samples, key=flip_key, num_flips=num_flips)
    significant = false_discovery(test.p_value) <= q
    # The largest p-value tests that some effect is large against that all are small.
    negligible = false_discovery(equivalence_test(samples, margin).max(axis=1))
    share, low, high = map(np.asarray, _share_intervals(weight_key, samples, level, num_replicates))
    count = significant.sum(1)
    top = np.where(np.isnan(share).all(1), -1, np.argmax(np.nan_to_num(share, nan=-1.0), axis=1))
    one = (count == 1) & np.any(significant & (low > min_top_share), axis=1)
    one &= samples.shape[1] > 1
    several = np.sum(significant & (low > min_share), axis=1) >= 2
    label = np.select(
        [negligible <= q, count == 0, one, several],
        ["dead", "undetected", "monosemantic", "polysemantic"],
        "undetermined",
    )
    return UnitClasses(label, negligible, significant, share, low, high, top)


def capacity(directions: Array) -> Array:
    """Share of a dimension that each direction has to itself, (w_i.w_i)^2 / sum_j (w_i.w_j)^2.

    1 for a direction orthogonal to all others, 2 / n for each corner of a regular n-gon; NaN for a
    zero direction. Scherlis et al. 2022 (arXiv:2210.01892).

    Args:
        directions: (directions, dimensions).
    """
    gram = jnp.matmul(directions, directions.T, precision=jax.lax.Precision.HIGHEST)
    total = (gram**2).sum(1)
    return jnp.where(total > 0, jnp.diag(gram) ** 2 / jnp.where(total > 0, total, 1.0), jnp.nan)


def ima_contrast(jacobian: Array) -> Array:
    """sum_i ln |J_i| - 1/2 ln det J'J: 0 where the columns are orthogonal, positive otherwise.

    How far a decoder is from independent mechanisms; -ln |sin theta| for two columns at an angle.
    Infinite for dependent columns (after rounding: large), NaN for a zero one; leave out latents
    that the decoder ignores. Gresele et al. 2021 (arXiv:2106.05200).

    Args:
        jacobian: (outputs, latents), of one decoder at one point.
    """
    num_outputs, num_latents = jacobian.shape
    if num_outputs < num_latents:
        return jnp.array(jnp.inf, jacobian.dtype)
    lengths = jnp.linalg.norm(jacobian, axis=0)
    columns = jacobian / jnp.where(lengths > 0, lengths, jnp.nan)[None]
    # Of unit columns: the determinant neither overflows nor loses the difference of two logarithms.
    triangle = jnp.linalg.qr(columns, mode="r")
    return -jnp.log(jnp.abs(jnp.diag(triangle))).sum()


def _num_factors(energies: Array) -> int:
    num_factors = energies.shape[-1] if energies.ndim else 0
    if num_factors < 2:
        raise ValueError(
            f"energies has shape {energies.shape}, expected (..., factors), at least two factors."
        )
    return num_factors


def _checked_samples(samples: ArrayLike, *, least_factors: int = 2) -> Array:
    samples = jnp.asarray(samples, float)
    least = (1, least_factors, 2)
    if samples.ndim != 3 or any(n < m for n, m in zip(samples.shape, least, strict=True)):
        raise ValueError(
            f"samples has shape {samples.shape}, expected (units, factors, images), at least "
            f"{'two factors' if least_factors > 1 else 'one factor'} and two images."
        )
    return samples


@functools.partial(jax.jit, static_argnames="num_flips")
def _flip_specificity(key: Array, samples: Array, num_flips: int) -> tuple[Array, Array, Array]:
    """Specificity, its mean under noise, and how many flips give a larger summed energy."""
    num_factors, num_images = samples.shape[1:]
    energies = samples.mean(-1) ** 2
    spread = samples.std(-1, keepdims=True)
    noise = (samples - samples.mean(-1, keepdims=True)) / jnp.where(spread > 0, spread, 1.0)
    flips = jax.random.rademacher(key, (num_flips, num_images), samples.dtype)

    def flipped(signs):
        means, noises = (
            jnp.matmul(a, signs, precision=jax.lax.Precision.HIGHEST) / num_images
            for a in (samples, noise)
        )
        return specificity(noises**2).entropic, (means**2).sum(-1)

    scores, totals = jax.lax.map(flipped, flips, batch_size=32)
    larger = jnp.sum(totals >= energies.sum(-1)[None] * (1 - 1e-5), axis=0)
    varies = jnp.all(spread[..., 0] > 0, axis=1)
    null = jnp.where(varies, scores.mean(0), noise_specificity(num_factors))
    return specificity(energies).entropic, null, larger


@functools.partial(jax.jit, static_argnums=(2, 3))
def _share_intervals(
    key: Array, samples: Array, level: float, num_replicates: int
) -> tuple[Array, Array, Array]:
    num_images = samples.shape[-1]
    ones = jnp.ones((1, 1, num_images), samples.dtype)
    resampled = resample_ratio(key, samples, ones, num_replicates=num_replicates)

    def shares(means, noise):
        return effect_shares(jnp.maximum(means**2 - noise, 0.0))

    value = shares(resampled.value, resampled.error**2)
    # A replicate's mean has the sample's noise and its own.
    values = shares(resampled.values, 2 * resampled.error[None] ** 2)
    ends = middle(values, expanded_level(level, num_images))
    if num_replicates < least_replicates(level):
        ends = jnp.full_like(value, jnp.nan), jnp.full_like(value, jnp.nan)
    return value, *holding(value, *ends)
