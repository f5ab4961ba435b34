"""With few labels, is setting the class of a code obeyed by the image?"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaecausal_jax as vj
from vaecausal_jax import interventions as iv


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train and to measure on."""

    shares: tuple[float, ...] = (0.0, 0.02, 0.2)
    image_size: int = 16
    num_rows: int = 4000
    num_test: int = 500
    num_steps: int = 3000
    seed: int = 0


def make_rows(key, data, num: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Images as rows with their shape, known for a share of them; and all true shapes."""
    factors = vj.data.sample_factors(key, data, num)
    pixels = np.asarray(jax.jit(vj.data.images)(data, factors)).reshape(num, -1)
    shapes = np.asarray(factors[:, 0])
    known = np.arange(num) < share * num
    one_hot = np.eye(3)[shapes] * known[:, None]
    rows = np.concatenate([pixels, one_hot], axis=1).astype(np.float32)
    return rows[:, None, :, None], shapes


def main() -> None:
    """Prints one row a share of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Config.num_steps)
    config = Config(num_steps=parser.parse_args().steps)
    data = vj.data.sprites(config.image_size)
    num_values = config.image_size**2
    model = vj.models.semi_supervised_vae(
        num_values, 3, latent_size=6, encoder_dense=(128,), decoder_dense=(128,)
    )
    objective = vj.objectives.semi_supervised_vae(num_values, 3, label_weight=100.0)
    trainer = jax.jit(
        vj.make_train(vj.TrainConfig(model, objective, optax.adam(1e-3), config.num_steps))
    )
    train_key, test_key, noise_key = jax.random.split(jax.random.key(config.seed), 3)
    test, shapes = make_rows(test_key, data, config.num_test, 0.0)
    eps = jax.random.normal(noise_key, (config.num_test, *model.noise_shape))
    run = jax.jit(jax.vmap(model.forward, in_axes=(None, 0, 0, None)))
    for share in config.shares:
        rows, _ = make_rows(train_key, data, config.num_rows, share)
        state, history = trainer(jax.random.key(config.seed + 1), jnp.asarray(rows))
        natural = run(state.params, test, eps, {})
        guess = np.argmax(natural.activations["latent/class"], axis=1)
        obeyed = []
        for shape in range(3):
            held = iv.set_to(model.sites, "latent/class", jnp.eye(3)[shape])
            images = jax.nn.sigmoid(run(state.params, test, eps, held).outputs[:, :, :num_values])
            again = jnp.concatenate([images, jnp.zeros((config.num_test, 1, 3, 1))], axis=2)
            read = run(state.params, again, eps, {}).activations["latent/class"]
            obeyed.append(np.mean(np.argmax(read, axis=1) == shape))
        print(
            f"labels {share:4.0%}: accuracy {np.mean(guess == shapes):.2f}, reconstruction "
            f"{history['reconstruction'][-1]:.1f} nats, do(class) read back "
            f"{' '.join(f'{value:.2f}' for value in obeyed)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
