"""What the zoo trains: its worlds, its families with their strengths, one network and one schedule.

A recipe says what differs from model to model; it is kept beside the weights. What all models of
the zoo share (channels, latents, codebook, discriminator) is here in code.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import optax

from vaecausal_jax.data import Dataset, causal_sprites, independent_sprites
from vaecausal_jax.data.dataset import num_images
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.models import Model, conv_vae, vq_vae
from vaecausal_jax.training import TrainConfig, objectives

WORLDS: dict[str, Callable[[], Dataset]] = {
    "causal-sprites": causal_sprites,
    "independent-sprites": independent_sprites,
}
"""World to its data set."""

STRENGTHS: dict[str, float | None] = {
    "vae": None,
    "beta_vae": 2.0,
    "factor_vae": 10.0,
    "beta_tc_vae": 2.0,
    "dip_vae_ii": 5.0,
    "vq_vae": None,
}
"""Family to its strength (beta, gamma, lambda_od), or None where it has none."""

_CHANNELS = (16, 16, 32)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model of the zoo is trained, but for its seed.

    Attributes:
        world: A name in ``WORLDS``.
        family: A name in ``STRENGTHS``.
        steps: Gradient steps.
        strength: The family's own if None.
        batch_size: Images per step.
        learning_rate: Adam's, decayed to a tenth by a cosine.
        record_every: Steps per record of the history.
    """

    world: str
    family: str
    steps: int = 8000
    strength: float | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    record_every: int = 100

    def __post_init__(self):
        if self.world not in WORLDS:
            raise ValueError(unknown_choice("world of the zoo", self.world, WORLDS))
        if self.family not in STRENGTHS:
            raise ValueError(unknown_choice("family of the zoo", self.family, STRENGTHS))
        numbers = {"steps": self.steps, "batch_size": self.batch_size}
        for word, number in (numbers | {"record_every": self.record_every}).items():
            if number < 1:
                raise ValueError(f"{word} must be at least 1, got {number}.")
        given, usual = self.strength, STRENGTHS[self.family]
        if given is not None and usual is None:
            raise ValueError(f"{self.family} has no strength, got {given}.")
        if given is not None and not 0.0 <= given < math.inf:
            raise ValueError(f"a strength is at least 0 and finite, got {given}.")
        object.__setattr__(self, "strength", usual if given is None else float(given))


def network(recipe: Recipe) -> Model:
    """The architecture: Gaussian families share one, VQ-VAE has the same convolutions."""
    shape = WORLDS[recipe.world]().image_shape
    if recipe.family == "vq_vae":
        return vq_vae(
            shape,
            num_codes=64,
            code_size=16,
            encoder_channels=_CHANNELS,
            decoder_channels=_CHANNELS[::-1],
        )
    return conv_vae(
        shape,
        latent_size=8,
        encoder_channels=_CHANNELS,
        encoder_dense=(64,),
        decoder_dense=(64,),
        decoder_channels=_CHANNELS[::-1],
    )


def train_config(recipe: Recipe, data: Dataset) -> TrainConfig:
    """The trainer's configuration of a recipe."""
    return TrainConfig(
        network(recipe),
        _objective(recipe, num_images(data)),
        optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps, alpha=0.1)),
        recipe.steps,
        recipe.batch_size,
        recipe.record_every,
    )


def _objective(recipe: Recipe, num_data: int) -> objectives.Objective:
    strength: Any = recipe.strength
    makers: dict[str, Callable[[], objectives.Objective]] = {
        "vae": objectives.vae,
        "beta_vae": lambda: objectives.beta_vae(strength),
        "factor_vae": lambda: objectives.factor_vae(
            strength, widths=(64, 64, 64), learning_rate=1e-3
        ),
        "beta_tc_vae": lambda: objectives.beta_tc_vae(strength, num_data),
        "dip_vae_ii": lambda: objectives.dip_vae_ii(strength),
        "vq_vae": objectives.vq_vae,
    }
    return makers[recipe.family]()
