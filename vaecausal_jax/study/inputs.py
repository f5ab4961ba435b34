"""What all models of a study are probed with, and what is read off any of their runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.data import Dataset, images, sample_factors
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.factors.readouts import Readout, factor_pairs
from vaecausal_jax.interventions.sites import Trace
from vaecausal_jax.models import Model
from vaecausal_jax.rows import check_rows
from vaecausal_jax.study.config import StudyConfig
from vaecausal_jax.training import objectives

NUM_READ = 256
"""Reconstructions that the read-out is judged on."""


class Inputs(NamedTuple):
    """What all models of a study are probed with: the same images, noise, donors and read-out.

    Attributes:
        x: (images, height, width, channels).
        eps: (images, latents).
        prior: Two independent prior draws, (2, images, latents).
        pairs: Minimal pairs of every factor, turned so that it grows: (factors, pairs, ...).
        swaps: More of them, in which the latent of one factor is swapped.
        score_x: Images whose codes the disentanglement metrics read, (score images, ...).
        score_factors: Their factor levels.
        readout: Reads factors off an image.
    """

    x: Array
    eps: Array
    prior: Array
    pairs: Pairs
    swaps: Pairs
    score_x: Array
    score_factors: Array
    readout: Readout


def make_inputs(config: StudyConfig, data: Dataset, model: Model, readout: Readout) -> Inputs:
    """Images, noise, prior draws and minimal pairs that all models share."""
    root = jax.random.key(config.seed)
    image_key, noise_key, prior_key, pair_key = jax.random.split(jax.random.fold_in(root, 1), 4)
    noise = (config.num_images, *model.noise_shape)
    score_key = jax.random.fold_in(root, 5)
    score_factors = sample_factors(score_key, data, config.num_score_images)
    render = jax.jit(images)
    draw_pairs = jax.jit(factor_pairs, static_argnums=(2, 3, 4))
    pairs = draw_pairs(pair_key, data, readout.codes, config.num_pairs, model.noise_shape)
    swaps = pairs
    if num := config.num_swap_pairs:
        key = jax.random.fold_in(pair_key, 1)
        swaps = draw_pairs(key, data, readout.codes, num, model.noise_shape)
    return Inputs(
        x=render(data, sample_factors(image_key, data, config.num_images)),
        eps=jax.random.normal(noise_key, noise),
        prior=jax.random.normal(prior_key, (2, *noise)),
        pairs=pairs,
        swaps=swaps,
        score_x=render(data, score_factors),
        score_factors=score_factors,
        readout=readout,
    )


def entropy_floor(x: Array) -> Array:
    """Entropy of the pixels of images in nats per image, mean over images.

    Under a Bernoulli likelihood no reconstruction of a grey pixel costs less: the cross-entropy is
    least, and is the pixel's own entropy, where the model gives exactly its value.

    Args:
        x: (images, height, width, channels) in [0, 1].
    """
    entropy = jax.scipy.special.entr(x) + jax.scipy.special.entr(1.0 - x)
    return entropy.sum(axis=(1, 2, 3)).mean()


def image_outcome(trace: Trace) -> Array:
    """The expected image under a Bernoulli likelihood."""
    return jax.nn.sigmoid(trace.outputs)


def batched(model: Model, params: Any, x: Array, eps: Array) -> Trace:
    """The runs of several images.

    Raises:
        ValueError: Images and noise that differ in number.
    """
    check_rows(x=x, eps=eps)
    return jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, eps)


def image_quality(trace: Trace, x: Array) -> dict[str, Array]:
    """Reconstruction in nats per image, squared error per pixel, and the first eight images."""
    likelihood = objectives.bernoulli()
    squared_error = (likelihood.mean(trace.outputs) - x) ** 2
    return {
        "reconstruction": -likelihood.log_prob(trace.outputs, x),
        "squared_error": jnp.mean(squared_error, axis=(1, 2, 3)),
        "reconstructed": likelihood.mean(trace.outputs[:8]),
    }


def output_changes(before: Trace, after: Trace, pairs: Pairs) -> dict[str, Array]:
    """Mean squared change of the output within pairs, beside that of the images themselves."""
    change = image_outcome(after) - image_outcome(before)
    return {
        "output_change": jnp.mean(change**2, axis=(1, 2, 3)),
        "true_change": jnp.mean((pairs.x1 - pairs.x0) ** 2, axis=(1, 2, 3)),
    }
