"""Does noise of the decoder's own carry anything, once a discriminator asks for detail?"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaecausal_jax as vj
from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import unit_effects


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train and to measure on."""

    weights: tuple[float, ...] = (0.0, 10.0)
    image_size: int = 16
    latent_size: int = 6
    detail_size: int = 2
    num_steps: int = 2000
    num_images: int = 128
    seed: int = 0


def run(config: Config, weight: float) -> dict[str, np.ndarray]:
    """Trains one model; its losses, and the total index of every latent and every detail."""
    data = vj.data.sprites(config.image_size)
    shape = (config.image_size, config.image_size, 1)
    model = vj.models.adversarial_vae(
        shape,
        latent_size=config.latent_size,
        detail_size=config.detail_size,
        encoder_dense=(64,),
        decoder_dense=(64,),
    )
    objective = vj.objectives.adversarial_vae(weight, config.image_size**2, widths=(64, 64))
    train = vj.TrainConfig(model, objective, optax.adam(2e-3), config.num_steps)
    state, history = jax.jit(vj.make_train(train))(jax.random.key(config.seed), data)
    image_key, noise_key, donor_key = jax.random.split(jax.random.key(config.seed + 1), 3)
    x = vj.data.sample_images(image_key, data, config.num_images)
    eps = jax.random.normal(noise_key, (config.num_images, *model.noise_shape))

    @jax.jit
    def index(params, donor):
        found = []
        for site, values in (
            ("latent/z", donor[:, : config.latent_size]),
            ("latent/detail", donor[:, config.latent_size :]),
        ):
            swept = unit_effects.resample_effects(
                model.bind(params),
                Runs(x, eps, {site: values}),
                outcome=lambda trace: jax.nn.sigmoid(trace.outputs),
            ).values
            found.append(ratio(*unit_effects.total_index(swept)))
        return found

    latents, details = index(state.params, jax.random.normal(donor_key, eps.shape))
    return {
        "reconstruction": history["reconstruction"][-1],
        "kl": history["kl"][-1],
        "discriminator_loss": history["discriminator_loss"][-1],
        "latents": latents,
        "details": details,
    }


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Ratio of sums over images, one a unit."""
    return jnp.sum(numerator, axis=1) / jnp.sum(denominator, axis=1)


def main() -> None:
    """Prints one row a weight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Config.num_steps)
    config = Config(num_steps=parser.parse_args().steps)
    for weight in config.weights:
        found = run(config, weight)
        latents = np.round(np.sort(np.asarray(found["latents"], float))[::-1], 2)
        details = np.round(np.asarray(found["details"], float), 4)
        print(
            f"weight {weight:5.1f}: reconstruction {found['reconstruction']:.1f} nats, "
            f"KL {found['kl']:.1f}, discriminator {found['discriminator_loss']:.2f}, "
            f"total index of latents {latents}, of details {details}",
            flush=True,
        )


if __name__ == "__main__":
    main()
