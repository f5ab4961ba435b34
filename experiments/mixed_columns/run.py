"""Which latent of a table's VAE moves which column, whatever the column's type?"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaecausal_jax as vj
from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import unit_effects
from vaecausal_jax.training import objectives

NAMES = ("real 1", "real 2", "binary", "level", "count")
COLUMNS = (
    objectives.gaussian_column(0.1),
    objectives.gaussian_column(0.1),
    objectives.bernoulli_column(),
    objectives.categorical_column(3),
    objectives.count_column(),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train and to measure on."""

    num_rows: int = 4000
    latent_size: int = 4
    num_steps: int = 3000
    num_images: int = 256
    seed: int = 0


def make_table(rng: np.random.Generator, num: int) -> np.ndarray:
    """Two independent causes: one moves the real columns, the other the discrete ones."""
    a, b = rng.normal(size=(2, num))
    real = a + 0.3 * rng.normal(size=num), -a + 0.3 * rng.normal(size=num)
    binary = rng.random(num) < 1 / (1 + np.exp(-4 * b))
    level = np.digitize(b + 0.2 * rng.normal(size=num), (-0.5, 0.5))
    return objectives.encode_table(COLUMNS, (*real, binary, level, rng.poisson(np.exp(1.5 + b))))


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Ratio of sums over images, one a unit."""
    return jnp.sum(numerator, axis=1) / jnp.sum(denominator, axis=1)


def main() -> None:
    """Prints what the model explains of each column, and each latent's effect on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Config.num_steps)
    config = Config(num_steps=parser.parse_args().steps)
    rows = make_table(np.random.default_rng(config.seed), config.num_rows)
    width = rows.shape[2]
    likelihood = objectives.mixed(COLUMNS)
    model = vj.models.mlp_vae(
        (1, width, 1),
        latent_size=config.latent_size,
        encoder_dense=(32,),
        decoder_dense=(32,),
        head="columns",
    )
    train = vj.TrainConfig(model, objectives.vae(likelihood), optax.adam(2e-3), config.num_steps)
    state, history = jax.jit(vj.make_train(train))(jax.random.key(config.seed), jnp.asarray(rows))
    x = jnp.asarray(make_table(np.random.default_rng(config.seed + 1), config.num_images))
    noise_key, donor_key = jax.random.split(jax.random.key(config.seed + 1))
    eps = jax.random.normal(noise_key, (config.num_images, *model.noise_shape))
    stops = np.cumsum([column.width for column in COLUMNS])

    def by_column(trace):
        """The expected row, a column at a time: squared changes are summed inside each."""
        return likelihood.mean(trace.outputs)[0, :, 0]

    @jax.jit
    def sweep(params):
        donor = jax.random.permutation(
            donor_key,
            jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, eps).activations["latent/z"],
        )
        indices = []
        for stop, column in zip(stops, COLUMNS, strict=True):
            part = slice(int(stop) - column.width, int(stop))
            swept = unit_effects.resample_effects(
                model.bind(params),
                Runs(x, eps, {"latent/z": donor}),
                outcome=lambda trace, part=part: by_column(trace)[part],
            ).values
            indices.append(ratio(*unit_effects.total_index(swept)))
        return jnp.stack(indices, axis=1)

    print(
        f"reconstruction {history['reconstruction'][-1]:.2f} nats a row, KL by latent "
        f"{np.round(np.asarray(history['kl_per_latent'][-1], float), 2)}"
    )
    print(f"{'total index':<12}" + "".join(f"{name:>9}" for name in NAMES))
    for latent, row in enumerate(np.asarray(sweep(state.params))):
        print(f"latent {latent:<5}" + "".join(f"{value:9.2f}" for value in row))


if __name__ == "__main__":
    main()
