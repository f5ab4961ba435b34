"""Training for the zoo: resumable, measured, rounded to half precision if read-outs stay."""

import datetime
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data import Dataset, factor_names, images, sample_factors
from vaecausal_jax.factors.nearest import readability
from vaecausal_jax.json_values import json_values
from vaecausal_jax.manifests import versions
from vaecausal_jax.models import Model
from vaecausal_jax.training.checkpoint import train_resumably
from vaecausal_jax.training.trainer import ACTIVE_KL, TrainConfig, diagnose
from vaecausal_jax.zoo import archive
from vaecausal_jax.zoo.recipes import WORLDS, Recipe, train_config

_NUM_MEASURED = 2048
"""Images behind the measurements of a record, drawn from the model's own world."""

_READ_OUTS_KEPT = 0.005
"""Rounding may change no read-out by more than this."""


def train_family(
    recipe: Recipe,
    num_seeds: int,
    folder: str | os.PathLike,
    *,
    command: str = "",
    watch: Callable[[int, Mapping[str, np.ndarray]], None] = lambda done, history: None,
) -> archive.Entry:
    """Trains seeds 0 to ``num_seeds`` - 1 of one family and writes their archive.

    Interrupted and called again, it goes on where it was. A seed's weights do not depend on how
    many are trained.

    Args:
        recipe: What to train.
        num_seeds: How many.
        folder: Where archives are written; checkpoints go to ``checkpoints`` beneath it.
        command: The command line, for the record.
        watch: Called with (steps done, history) at the start and after each save.

    Raises:
        ValueError: A folder that holds this family by another recipe, or more seeds of it.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}.")
    folder = pathlib.Path(folder)
    there = archive.entries(folder).get((recipe.world, recipe.family))
    if there is not None and (there.recipe != recipe or there.num_seeds > num_seeds):
        raise ValueError(
            f"{folder} has {there.num_seeds} seeds of {there.recipe}, which {num_seeds} seeds of "
            f"{recipe} would replace: choose another folder, or delete them."
        )
    data = WORLDS[recipe.world]()
    config = train_config(recipe, data)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(jnp.arange(num_seeds))
    state, history = train_resumably(
        config,
        keys,
        data,
        folder / "checkpoints" / recipe.world / f"{recipe.family}_{num_seeds}",
        spec=json_values({"recipe": vars(recipe), "seeds": num_seeds}, "spec"),
        watch=watch,
    )
    params, dtype, measured = _rounded(config, data, state.params)
    verdicts = diagnose(history, recipe.record_every)
    record = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "dtype": dtype,
        "seeds": [
            {"verdict": verdict, **values}
            for verdict, values in zip(verdicts, measured, strict=True)
        ],
    }
    archive.write(folder, recipe, params, _single(history), record)
    return archive.entries(folder)[recipe.world, recipe.family]


def _rounded(config: TrainConfig, data: Dataset, params: Any) -> tuple[Any, str, list[Any]]:
    """Parameters in the dtype they are kept in, and what was measured of the models they are.

    They are of half precision, unless that changes a read-out of one seed by more than 0.005.
    """
    levels_key, noise_key = jax.random.split(jax.random.key(1))
    levels = sample_factors(levels_key, data, _NUM_MEASURED)
    x = images(data, levels)
    eps = jax.random.normal(noise_key, (_NUM_MEASURED, *config.model.noise_shape))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)
    as_used = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    exact, rounded = (_measured(config, data, p, x, eps, levels) for p in (params, as_used))
    lost = max(
        abs(before["readable"][name] - after["readable"][name])
        for before, after in zip(exact, rounded, strict=True)
        for name in before["readable"]
    )
    if lost <= _READ_OUTS_KEPT:
        return half, "float16", rounded
    return params, "float32", exact


def _measured(
    config: TrainConfig, data: Dataset, params: Any, x: Array, eps: Array, levels: Array
) -> list[dict[str, Any]]:
    """Per seed: reconstruction and KL in nats, active latents or codes, and what can be read.

    ``reconstruction_over_floor`` is what is left of the reconstruction after the entropy of the
    images' own grey pixels.
    """
    run = jax.jit(_measurement(config.model, config))
    found = []
    for seed in range(jax.tree.leaves(params)[0].shape[0]):
        shown, numbers = run(jax.tree.map(lambda leaf, s=seed: leaf[s], params), x, eps)
        values = {name: np.asarray(value).tolist() for name, value in numbers.items()}
        if np.isfinite(shown).all():
            readable = readability(data, shown, levels)
        else:
            readable = dict.fromkeys(factor_names(data), math.nan)
        found.append({**values, "readable": readable})
    return found


def _measurement(model: Model, config: TrainConfig) -> Callable[..., Any]:
    likelihood = config.objective.likelihood
    assert likelihood is not None

    def measure(params: Any, x: Array, eps: Array) -> tuple[Array, dict[str, Array]]:
        forward = jax.vmap(model.forward, in_axes=(None, 0, 0))
        nats = -jnp.mean(likelihood.log_prob(forward(params, x, eps).outputs, x))
        xlogy = jax.scipy.special.xlogy
        # What no model can remove: grey pixels are uncertain under a Bernoulli likelihood.
        floor = -jnp.mean(jnp.sum(xlogy(x, x) + xlogy(1.0 - x, 1.0 - x), axis=(1, 2, 3)))
        numbers = {"reconstruction": nats, "reconstruction_over_floor": nats - floor}
        # Read-outs are of the image that the mean code decodes to.
        trace = forward(params, x, jnp.zeros_like(eps))
        if "latent/codes" in trace.activations:
            num_codes = params["codebook"].shape[0]
            used = jnp.bincount(trace.activations["latent/codes"].reshape(-1), length=num_codes)
            share = used / used.sum()
            numbers["codes_used"] = jnp.sum(used > 0)
            numbers["code_entropy"] = -jnp.sum(xlogy(share, share))
        else:
            mean, logvar = (trace.activations[f"latent/{name}"] for name in ("mean", "logvar"))
            kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - logvar - 1.0, axis=0)
            numbers |= {"kl": kl.sum(), "active_latents": jnp.sum(kl > ACTIVE_KL)}
        return jax.nn.sigmoid(trace.outputs), numbers

    return measure


def _single(history: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The history in single precision."""
    return {name: np.asarray(values, np.float32) for name, values in history.items()}
