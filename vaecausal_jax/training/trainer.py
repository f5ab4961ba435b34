"""Training: the step loop inside ``lax.scan``, for one seed.

``make_train(config)`` returns a pure ``train(key, data)``. ``make_trainer`` gives the same steps in
pieces, ``init`` and ``advance``, by which a long run is checkpointed: a state that is advanced
twice equals, bit for bit, one that was saved, restored and then advanced.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vaecausal_jax.data.dataset import Dataset, sample_images
from vaecausal_jax.data.scales import (
    check_unit,
    extremes,
    is_concrete,
    native,
    whole_numbers_divisor,
)
from vaecausal_jax.models.model import Model
from vaecausal_jax.training.objectives import Objective

ACTIVE_KL = 0.01
"""A latent is active where its mean KL exceeds this many nats."""


_GREATEST_PIXEL = 32.0
"""Larger pixels are not standardised ones."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What to train and for how long.

    Attributes:
        model: Network and shapes.
        objective: Family and strength.
        optimizer: Optax transformation of the model's gradients.
        num_steps: Gradient steps, a multiple of ``record_every``.
        batch_size: Images per step, drawn with replacement.
        record_every: Loss terms are averaged over this many steps and recorded.
    """

    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    num_steps: int
    batch_size: int = 64
    record_every: int = 100

    def __post_init__(self):
        if self.num_steps < 1 or self.record_every < 1 or self.batch_size < 1:
            raise ValueError(
                "num_steps, record_every and batch_size must be positive, got "
                f"{self.num_steps}, {self.record_every} and {self.batch_size}."
            )
        if self.num_steps % self.record_every:
            nearest = max(1, round(self.num_steps / self.record_every)) * self.record_every
            raise ValueError(
                f"num_steps {self.num_steps} is no multiple of record_every {self.record_every}; "
                f"the nearest is {nearest}."
            )


class TrainState(NamedTuple):
    """Everything needed to go on.

    Attributes:
        params: The model's parameters.
        optimizer_state: Optax state.
        objective_state: Discriminator, moving averages, or ().
        key: Typed PRNG key of the run; step keys are folded from it.
        step: Number of steps done, int32.
    """

    params: Any
    optimizer_state: Any
    objective_state: Any
    key: Array
    step: Array


class Trainer(NamedTuple):
    """Training in pieces.

    Attributes:
        init: key to TrainState.
        advance: (state, data, num_records) to (state, history); ``num_records`` is static, each
            record is ``record_every`` steps, history leaves have a leading axis of records.
    """

    init: Callable[[Array], TrainState]
    advance: Callable[[TrainState, Any, int], tuple[TrainState, dict[str, Array]]]


def make_trainer(config: TrainConfig) -> Trainer:
    """Builds ``init`` and ``advance`` for one seed; neither is jitted."""
    model, objective, optimizer = config.model, config.objective, config.optimizer
    likelihood = objective.likelihood
    if likelihood is not None and f"decoder/{likelihood.head}" not in model.sites:
        raise ValueError(
            f"{objective.name} reads the outputs as a {likelihood.name} likelihood, but the model "
            f"ends in {list(model.sites)[-1]!r}: build it with head={likelihood.head!r}."
        )

    def init(key: Array) -> TrainState:
        run_key, params_key, objective_key = jax.random.split(key, 3)
        params = model.init(params_key)
        return TrainState(
            params,
            optimizer.init(params),
            objective.init(objective_key, params),
            run_key,
            jnp.zeros((), jnp.int32),
        )

    def loss_fn(params, state, images, eps, key):
        trace = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, images, eps)
        loss, terms = objective.loss(params, state, trace, images, key)
        return loss, (trace, terms)

    def step(state: TrainState, data) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(state.key, state.step)
        batch_key, noise_key, objective_key = jax.random.split(step_key, 3)
        images = _draw(batch_key, data, config.batch_size)
        eps = jax.random.normal(noise_key, (config.batch_size, *model.noise_shape))
        (loss, (trace, terms)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.objective_state, images, eps, objective_key
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params, objective_state, more = objective.update(
            params, state.objective_state, trace, images, objective_key
        )
        state = TrainState(params, optimizer_state, objective_state, state.key, state.step + 1)
        return state, {"loss": loss, **terms, **more}

    def advance(state: TrainState, data, num_records: int):
        data = _on_scale(data, "" if likelihood is None else likelihood.name)

        def record(state, _):
            state, terms = jax.lax.scan(
                lambda s, _: step(s, data), state, length=config.record_every
            )
            return state, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), terms)

        return jax.lax.scan(record, state, length=num_records)

    return Trainer(init, advance)


def check_images(config: TrainConfig, data: Any) -> None:
    """Looks at concrete images before they become arguments of a compiled program.

    Raises:
        ValueError: Images on a scale that the likelihood cannot read, see ``make_train``.
    """
    likelihood = config.objective.likelihood
    _on_scale(data, "" if likelihood is None else likelihood.name)


def make_train(config: TrainConfig) -> Callable[[Array, Any], tuple[TrainState, dict[str, Array]]]:
    """Returns ``train(key, data) -> (state, history)``, pure, for one seed.

    ``data`` is a ``Dataset`` or an array of images (images, height, width, channels): floats in
    [0, 1], bytes of 0 to 255, or 0 and 1 of any type. Images on another scale are refused under a
    Bernoulli likelihood; a Gaussian one takes any floats of a few units, and one of counts or mixed
    columns any numbers as they are. Under ``jax.jit`` values cannot be looked at: what would be
    refused becomes NaN there, and so does the loss from the first record on.

    ``history`` maps each loss term to its mean over every ``record_every`` steps: shape (records,),
    or (records, latents) for ``kl_per_latent``.
    """
    trainer = make_trainer(config)

    def train(key: Array, data: Any):
        state = trainer.init(key)
        return trainer.advance(state, data, config.num_steps // config.record_every)

    return train


def draw_batch(key: Array, data: Dataset | Array | np.ndarray, num: int) -> Array:
    """Draws images with replacement: float32 in [0, 1], (num, height, width, channels).

    Whole numbers are divided by 255, unless the data have only 0 and 1; floats are taken as they
    are.

    Raises:
        ValueError: Whole numbers outside 0 to 255, where they can be looked at; or no real ones.
    """
    return _draw(key, _on_scale(data, ""), num)


class _Images(NamedTuple):
    """An array of images, and how to read it.

    Attributes:
        pixels: (images, height, width, channels).
        divisor: What whole numbers are divided by, 255 or 1; NaN for an unknown scale. None for
            floats, which are taken as they are.
    """

    pixels: Any
    divisor: Any


def _on_scale(data: Any, likelihood: str) -> Any:
    """Returns a ``Dataset`` as it is, and an array with its scale.

    Raises:
        ValueError: A concrete array on a scale that the likelihood cannot read.
    """
    if not isinstance(data, jax.Array | np.ndarray):
        return data
    pixels = native(data)
    if likelihood in ("multinomial", "mixed"):  # Counts, or numbers of several kinds.
        return _Images(pixels, None)
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        return _Images(pixels, whole_numbers_divisor(pixels))
    if likelihood in ("bernoulli", "semi_supervised"):
        what = f"a {likelihood} likelihood reads"
        if is_concrete(pixels):
            check_unit(pixels, what)
            return _Images(pixels, None)
        low, high = jnp.min(pixels), jnp.max(pixels)
        return _Images(pixels, jnp.where((low >= -1e-3) & (high <= 1.001), 1.0, jnp.nan))
    if likelihood == "gaussian" and is_concrete(pixels):
        largest = max(map(abs, extremes(pixels))) if pixels.size else 0.0
        if not largest <= _GREATEST_PIXEL:
            raise ValueError(
                f"a gaussian likelihood of fixed variance reads images of a few units, at most "
                f"{_GREATEST_PIXEL:g}, got {pixels.dtype} up to {largest:.4g}: pass images / 255 "
                "if these are bytes, or standardise them."
            )
    return _Images(pixels, None)


def _draw(key: Array, data: Any, num: int) -> Array:
    if not isinstance(data, _Images):
        return sample_images(key, data, num)
    pixels, divisor = data
    rows = jnp.asarray(pixels)[jax.random.randint(key, (num,), 0, pixels.shape[0])]
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    if divisor is None or (isinstance(divisor, float) and divisor == 1.0):
        return rows
    if isinstance(divisor, float):
        return rows / divisor
    # Found when the program runs. Each side is the arithmetic of a scale that is known before.
    scaled = rows / 255.0 if not jnp.issubdtype(pixels.dtype, jnp.floating) else rows
    return jnp.where(jnp.isnan(divisor), jnp.nan, jnp.where(divisor == 1.0, rows, scaled))


def diagnose(history: dict[str, Any], record_every: int) -> list[str]:
    """Says for each seed whether its run may be used.

    Args:
        history: Terms with leading axes (seeds, records), as ``train`` over seeds gives.
        record_every: Steps per record.

    Returns:
        One string per seed: ``"ok"``, or a sentence that begins with ``"diverged"`` (a loss is not
        finite) or ``"collapsed"`` (no latent carries ``ACTIVE_KL`` nats, or all share one code).

    Raises:
        ValueError: A history without the axis of seeds.
    """
    loss = np.asarray(history["loss"])
    if loss.ndim != 2:
        raise ValueError(f"expected a history of (seeds, records), got shape {loss.shape}.")
    verdicts = []
    for seed in range(loss.shape[0]):
        bad = np.flatnonzero(~np.isfinite(loss[seed]))
        if bad.size:
            verdicts.append(
                f"diverged: the loss is not finite by step {(bad[0] + 1) * record_every}"
            )
        elif (
            "kl_per_latent" in history
            and (kl := np.asarray(history["kl_per_latent"])[seed, -1]).max() < ACTIVE_KL
        ):
            verdicts.append(f"collapsed: no latent above {ACTIVE_KL} nats (largest {kl.max():.2g})")
        elif (
            "code_entropy" in history and np.asarray(history["code_entropy"])[seed, -1] < ACTIVE_KL
        ):
            verdicts.append("collapsed: all positions share one code")
        else:
            verdicts.append("ok")
    return verdicts
