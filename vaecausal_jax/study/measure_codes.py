"""What a study measures of models with a map of codes in place of Gaussian latents (VQ-VAE).

Units of every layer are measured as those of all models are (``measure``). What stands here is
what differs: a map has positions and codes, nothing to sample, and no distance to a prior.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import mediation, mediators
from vaecausal_jax.effects.codes import code_effects, crossing_rates
from vaecausal_jax.effects.unit_effects import UnitEffects, output_spread, resample_effects
from vaecausal_jax.factors import factor_graphs
from vaecausal_jax.models import Model
from vaecausal_jax.study.inputs import (
    NUM_READ,
    Inputs,
    batched,
    image_outcome,
    image_quality,
    output_changes,
)

CODES, PRE, Z = "latent/codes", "latent/pre", "latent/z"


def has_codes(model: Model) -> bool:
    """Whether a model's latents are codes."""
    return CODES in model.sites


def code_measurements(
    model: Model, doses: tuple[float, ...], to_outcome: Callable[[Array], Array]
) -> dict[str, Callable[[Any, Inputs], Any]]:
    """Named pure functions (params, inputs) -> arrays for one model with codes.

    ``health``, ``codes``, ``input`` and ``latent`` are what ``measurements`` has under these names,
    of positions in place of latents.
    """
    return {
        "health": functools.partial(_health, model),
        "codes": functools.partial(_codes, model),
        "input": functools.partial(_input_level, model),
        "latent": functools.partial(_latent_level, model, doses, to_outcome),
    }


def _health(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    trace = batched(model, params, inputs.x, inputs.eps)
    return {**image_quality(trace, inputs.x), "codes": trace.activations[CODES]}


def _codes(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    """The representation that scores read: embeddings of the map, averaged over its positions."""
    eps = jnp.zeros(model.noise_shape)

    def mean(x):
        return jnp.mean(model.forward(params, x, eps).activations[Z], axis=(0, 1))

    def reconstructed(x):
        return image_outcome(model.forward(params, x, eps))

    return {
        "mean": jax.lax.map(mean, inputs.score_x, batch_size=64),
        "reconstructed": jax.lax.map(reconstructed, inputs.score_x[:NUM_READ], batch_size=64),
    }


def _input_level(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    """Level 1: where a factor's change changes the code, and what swapping a position does."""
    pairs = inputs.pairs.flat()
    before = batched(model, params, pairs.x0, pairs.eps)
    after = batched(model, params, pairs.x1, pairs.eps)
    changed = before.activations[CODES] != after.activations[CODES]
    shape = changed.shape[1:]
    # The position that stands for a factor: where its change moves the embedding farthest.
    moved = jnp.linalg.norm(after.activations[Z] - before.activations[Z], axis=-1)
    by_factor = moved.reshape(*inputs.pairs.change.shape, -1).mean(axis=1)
    chosen = jnp.argmax(by_factor, axis=1)
    swapped = factor_graphs.swap_effects(
        model.bind(params),
        inputs.swaps,
        mediators.position(model.sites, CODES),
        jnp.stack(jnp.unravel_index(chosen, shape), axis=-1),
        outcome=inputs.readout.outcome(jax.nn.sigmoid),
        change=inputs.readout.change,
    )
    return {
        "code_changed": changed.reshape(len(changed), -1).astype(jnp.float32),
        **output_changes(before, after, pairs),
        "factor_latent": chosen,
        "swapped": swapped,
    }


def _latent_level(
    model: Model,
    doses: tuple[float, ...],
    to_outcome: Callable[[Array], Array],
    params: Any,
    inputs: Inputs,
) -> dict[str, Array]:
    """Level 2: codes redrawn by position, by value and all at once, and channels shifted."""
    x, eps, net = inputs.x, inputs.eps, model.bind(params)
    trace = batched(model, params, x, eps)
    codes, pre = trace.activations[CODES], trace.activations[PRE]
    sd = jnp.std(pre, axis=tuple(range(pre.ndim - 1)))
    redrawn = code_effects(
        net,
        Runs(x, eps, {CODES: jnp.roll(codes, 1, axis=0)}),
        num_codes=model.network.num_codes,
        outcome=image_outcome,
    )
    shifted = crossing_rates(net, x, eps, jnp.asarray(doses), unit_sd=sd, outcome=image_outcome)
    same: UnitEffects = resample_effects(net, Runs(x, eps, {CODES: codes})).values
    carried = mediation.unit_mediation(
        net,
        inputs.pairs.flat(),
        CODES,
        outcome=lambda trace: to_outcome(trace.outputs),
    ).values
    return {
        "position_squared": redrawn.position.squared,
        "code_squared": redrawn.code.squared,
        "whole_squared": redrawn.whole.squared,
        "occurrence": redrawn.occurrence,
        "spread": output_spread(image_outcome(trace)),
        "crossed": jnp.mean(shifted.crossed, axis=0),
        "shift_squared": jnp.mean(shifted.squared, axis=0),
        "shift_length": jnp.mean(jnp.sqrt(shifted.squared), axis=0),
        "null_squared": same.squared,
        "position_total": carried.total,
        "position_lost": carried.total_total,
        "data_spread": output_spread(x),
    }
