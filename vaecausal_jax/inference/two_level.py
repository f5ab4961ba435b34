"""Means over trained models and over images at once: both are samples, and few are models.

Model of an effect: d_si = mean + seed_s + image_i + rest_si. Where every model sees the same
images, image_i is common to all of them, and no spread between seeds shows it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import special

from vaecausal_jax.inference.bootstrap import Bootstrap
from vaecausal_jax.inference.estimate import Estimate, check_level, least_replicates, method_from
from vaecausal_jax.inference.resampling import divide, middle, poisson_weights, weighted


class VarianceComponents(NamedTuple):
    """Where the variance of an effect comes from, and what it makes of the mean; each (...).

    Attributes:
        seed: Variance between models beyond what their images explain; unbiased, so that it may be
            negative.
        image: Variance between images common to all models; 0 where models do not share images.
        rest: Variance within, of images under one model.
        error: Standard error of the mean over seeds and images.
        freedom: Its degrees of freedom (Satterthwaite).
    """

    seed: Array
    image: Array
    rest: Array
    error: Array
    freedom: Array

    @property
    def intraclass_correlation(self) -> Array:
        """Share of the variance that lies between seeds: correlation of two images of one model."""
        seed = jnp.maximum(self.seed, 0.0)
        return seed / (seed + jnp.maximum(self.image, 0.0) + self.rest)


class TwoLevel(NamedTuple):
    """Mean over seeds and images with the bootstrap's ends in units of a normal half width."""

    value: Array
    low: Array
    high: Array
    components: VarianceComponents


def variance_components(samples: Array, *, shared_images: bool) -> VarianceComponents:
    """Analysis of variance of effects over models and images.

    With images of each model's own, Var(mean) = seed / S + rest / (S N); with images shared,
    Var(mean) = seed / S + image / N + rest / (S N). More images cannot replace seeds.

    Args:
        samples: (seeds, ..., images), at least two of each.
        shared_images: Whether image i is the same one for every seed.

    Raises:
        ValueError: Fewer than two seeds or two images.
    """
    _check_two(samples)
    num_seeds, num_images = samples.shape[0], samples.shape[-1]
    by_seed = samples.mean(-1)
    seed_spread = by_seed.var(0, ddof=1)
    rest = samples - by_seed[..., None]
    if not shared_images:
        within = (rest**2).sum((0, -1)) / (num_seeds * (num_images - 1))
        return VarianceComponents(
            seed=seed_spread - within / num_images,
            image=jnp.zeros_like(within),
            rest=within,
            error=jnp.sqrt(seed_spread / num_seeds),
            freedom=jnp.full_like(within, num_seeds - 1),
        )
    by_image = rest.mean(0, keepdims=True)
    freedoms = np.array([num_seeds - 1, num_images - 1, (num_seeds - 1) * (num_images - 1)])
    within = ((rest - by_image) ** 2).sum((0, -1)) / freedoms[2]
    image_spread = by_image[0].var(-1, ddof=1)
    parts = seed_spread / num_seeds, image_spread / num_images, within / num_seeds / num_images
    # Each spread of means holds the rest once; a difference of estimates may come out too small.
    variance = jnp.maximum(parts[0] + parts[1] - parts[2], parts[2])
    shares = [part / jnp.where(variance > 0, variance, 1.0) for part in parts]
    inverse = sum((s**2 / f for s, f in zip(shares, freedoms, strict=True)), jnp.zeros_like(within))
    return VarianceComponents(
        seed=seed_spread - within / num_images,
        image=image_spread - within / num_seeds,
        rest=within,
        error=jnp.sqrt(variance),
        freedom=jnp.maximum(1 / jnp.where(inverse > 0, inverse, jnp.inf), min(freedoms)),
    )


def resample_two_level(
    key: Array, samples: Array, *, shared_images: bool, level: float, num_replicates: int
) -> TwoLevel:
    """Bootstraps the mean over seeds and images; pure and traceable.

    Seeds, and images if shared, are each resampled with Poisson weights, and the changes
    of the mean are added. Images that are not shared are not resampled: the spread of the seeds'
    means holds their variance already (Davison & Hinkley 1997, section 3.8). Resampling everything
    would count ``rest`` three times (Owen, "The pigeonhole bootstrap", 2007). So the replicates
    give only the shape of the interval; its scale is ``components.error``.

    Args:
        key: Typed PRNG key.
        samples: (seeds, ..., images).
        shared_images: Whether image i is the same one for every seed.
        level: Coverage.
        num_replicates: Bootstrap replicates.

    Returns:
        The interval is value + t * error * (low, high), with t the quantile of Student's
        distribution: see ``bootstrap_two_level``. NaN from fewer than 1 / (1 - level) replicates.

    Raises:
        ValueError: Fewer than two seeds or two images.
    """
    _check_two(samples)
    seed_key, image_key = jax.random.split(key)
    by_seed, by_image = samples.mean(-1), samples.mean(0)
    value = by_seed.mean(0)
    change = _change_of_mean(seed_key, jnp.moveaxis(by_seed - value[None], 0, -1), num_replicates)
    if shared_images:
        change += _change_of_mean(image_key, by_image - value[..., None], num_replicates)
    spread = special.ndtri(0.5 + level / 2) * jnp.nanstd(change, axis=0)
    # Where nothing but the rest varies, no mean changes, and there is only the normal shape.
    low, high = (
        jnp.where(spread > 0, divide(end, spread), normal)
        for end, normal in zip(middle(change, level), (-1.0, 1.0), strict=True)
    )
    # No change at all is among the changes that the data allow.
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    if num_replicates < least_replicates(level):
        low = high = jnp.full_like(value, jnp.nan)
    return TwoLevel(value, low, high, variance_components(samples, shared_images=shared_images))


def bootstrap_two_level(
    key: Array,
    samples: ArrayLike,
    *,
    shared_images: bool,
    intervention: str,
    null: float = 0.0,
    bootstrap: Bootstrap = Bootstrap(),
) -> Estimate:
    """Mean over trained models and images, with an interval for new models AND new images.

    ``over_seeds`` on the models' means is an interval for new models on the same images: where
    images are shared its coverage for new images can be far below its level. For a ratio of sums
    pass ``linearised_ratio(numerator, denominator)``.

    Args:
        key: Typed PRNG key.
        samples: (seeds, ..., images).
        shared_images: Whether image i is the same one for every seed.
        intervention: What was done, in words.
        null: The statistic's value under no intervention.
        bootstrap: How its interval is made; it has no clusters.

    Raises:
        ValueError: Fewer than two seeds or two images, a level outside (0, 1), or clusters or
            another ``interval``.
    """
    num_replicates, level, _, _ = bootstrap.without("bootstrap_two_level", "clusters", "interval")
    check_level(level)
    samples = jnp.asarray(samples, float)
    _check_two(samples)
    result = _two_level(
        key,
        samples,
        shared_images=shared_images,
        level=level,
        num_replicates=num_replicates,
    )
    value, low, high = map(np.asarray, result[:3])
    quantile = special.stdtrit(result.components.freedom, 0.5 + level / 2)
    scale = (quantile * result.components.error).astype(value.dtype)
    return Estimate(
        value,
        value + scale * low,
        value + scale * high,
        null,
        samples.shape[-1],
        samples.shape[0],
        level,
        method_from(
            num_replicates,
            level,
            "two-level bootstrap over seeds and "
            + ("the images they share" if shared_images else "images of their own"),
        ),
        intervention,
    )


def _check_two(samples: Array) -> None:
    if samples.ndim < 2 or min(samples.shape[0], samples.shape[-1]) < 2:
        raise ValueError(
            f"samples has shape {samples.shape}, expected (seeds, ..., images), at least two of "
            "each: one shows no spread."
        )


def _change_of_mean(key: Array, deviations: Array, num_replicates: int) -> Array:
    """The mean's change in each replicate, from deviations (..., samples)."""
    weights = poisson_weights(key, num_replicates, deviations.shape[-1])
    total = weights.sum(1).reshape(-1, *[1] * (deviations.ndim - 1))
    return divide(weighted(weights, deviations), total)


_two_level = jax.jit(
    resample_two_level, static_argnames=("shared_images", "level", "num_replicates")
)
