"""Trained read-outs: a small convolutional probe fitted to images of known factors."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vaecausal_jax.data import Dataset, images, sample_factors
from vaecausal_jax.data.splits import held_out, held_out_rows
from vaecausal_jax.factors.readouts import FactorCode, Readout, factor_codes, readout_scores
from vaecausal_jax.interventions.changed import whole
from vaecausal_jax.interventions.sites import Tape
from vaecausal_jax.models.networks import ConvEncoder, Dense


class Probe(NamedTuple):
    """A trained read-out and how good it is.

    Attributes:
        readout: The read-out.
        scores: Factor to R^2, or accuracy of a categorical factor, on factor combinations that
            training never saw.
        losses: Training loss of every step, (steps,).
    """

    readout: Readout
    scores: dict[str, float]
    losses: np.ndarray


class _Network(nn.Module):
    channels: tuple[int, ...]
    dense: tuple[int, ...]
    num_outputs: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        encoder = ConvEncoder(self.channels, (4,) * len(self.channels), self.dense)
        h = encoder(image, Tape({}))
        return whole(Dense(self.num_outputs, len(h.shape), name="head")(h))


def no_augmentation(key: Array, image: Array) -> Array:
    """The image as rendered."""
    del key
    return image


def train_probe(
    key: Array,
    data: Dataset,
    *,
    codes: tuple[FactorCode, ...] | None = None,
    augment: Callable[[Array, Array], Array] = no_augmentation,
    num_steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    channels: tuple[int, ...] = (16, 32, 32),
    dense: tuple[int, ...] = (128,),
    num_score_images: int = 1024,
    fraction: float = 0.2,
) -> Probe:
    """Trains a probe on a data set's images; one compiled program.

    Mean squared error of ordered and cyclic factors, cross-entropy of categorical ones, by Adam
    with a cosine decay. A share of the factor combinations is never trained on, and scored.

    Args:
        key: Typed PRNG key.
        data: Any data set.
        codes: How its factors are written; ``factor_codes(data)`` if None.
        augment: ``augment(key, image) -> image``, for a probe that will read images of another
            kind, such as a model's reconstructions: pass the model's reconstruction.
        num_steps: Gradient steps.
        batch_size: Images per step.
        learning_rate: Adam's, at the start.
        channels: Of the stride-2 convolutions.
        dense: Widths of the dense layers.
        num_score_images: Held-out images behind the scores, as rendered.
        fraction: Of the factor combinations, held out.

    Raises:
        ValueError: An image that the convolutions do not divide, or numbers below 1.
    """
    down = 2 ** len(channels)
    if any(side % down for side in data.image_shape[:2]):
        raise ValueError(
            f"images of {data.image_shape[:2]} do not divide by {down}, as {len(channels)} "
            "stride-2 convolutions need; give fewer channels."
        )
    for word, number in {
        "num_steps": num_steps,
        "batch_size": batch_size,
        "num_score_images": num_score_images,
    }.items():
        if number < 1:
            raise ValueError(f"{word} must be at least 1, got {number}.")
    codes = factor_codes(data) if codes is None else codes
    network = _Network(tuple(channels), tuple(dense), sum(code.width for code in codes))

    def linked(params, image):
        raw = split(network.apply(params, image))
        return jnp.concatenate([code.link(a) for code, a in zip(codes, raw, strict=True)])

    def split(columns):
        return jnp.split(columns, np.cumsum([code.width for code in codes])[:-1])

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss(params, x, levels):
        def one(image, row):
            raw = split(network.apply(params, image))
            return sum(c.loss(a, c.encode(row)) for c, a in zip(codes, raw, strict=True))

        seen = ~held_out(data, levels, fraction=fraction)
        return jnp.sum(jnp.where(seen, jax.vmap(one)(x, levels), 0.0)) / jnp.maximum(seen.sum(), 1)

    def step(state, step_key):
        params, moments = state
        factor_key, augment_key = jax.random.split(step_key)
        levels = sample_factors(factor_key, data, batch_size)
        keys = jax.random.split(augment_key, batch_size)
        x = jax.vmap(augment)(keys, images(data, levels))
        value, gradient = jax.value_and_grad(loss)(params, x, levels)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    @jax.jit
    def train(key):
        init_key, steps_key = jax.random.split(key)
        params = network.init(init_key, jnp.zeros(data.image_shape))
        state = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(step, state, jax.random.split(steps_key, num_steps))
        return params, losses

    train_key, score_key = jax.random.split(key)
    params, losses = train(train_key)
    readout = Readout(params, linked, codes)
    levels = held_out_rows(score_key, data, num_score_images, fraction=fraction)
    scores = readout_scores(readout, images(data, levels), levels)
    return Probe(readout, scores, np.asarray(losses))
