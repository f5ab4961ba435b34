"""Do interventions along whitened axes rank latents better than the latents themselves?"""

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

    image_size: int = 16
    latent_size: int = 8
    num_steps: int = 3000
    num_images: int = 512
    seed: int = 0


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Ratio of sums over images, one a unit."""
    return jnp.sum(numerator, axis=1) / jnp.sum(denominator, axis=1)


def main() -> None:
    """Prints the total index of latents and of whitened axes, and their correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Config.num_steps)
    config = Config(num_steps=parser.parse_args().steps)
    data = vj.data.sprites(config.image_size)
    shape = (config.image_size, config.image_size, 1)
    plain = vj.models.mlp_vae(
        shape, latent_size=config.latent_size, encoder_dense=(64,), decoder_dense=(64,)
    )
    model = vj.models.whitened(plain)
    train = vj.TrainConfig(model, vj.objectives.whitening_vae(), optax.adam(2e-3), config.num_steps)
    state, history = jax.jit(vj.make_train(train))(jax.random.key(config.seed), data)
    keys = jax.random.split(jax.random.key(config.seed + 1), 3)
    x = vj.data.sample_images(keys[0], data, config.num_images)
    eps = jax.random.normal(keys[1], (config.num_images, *model.noise_shape))
    order = jax.random.permutation(keys[2], config.num_images)
    run = jax.jit(
        lambda m, p: jax.vmap(m.forward, in_axes=(None, 0, 0))(p, x, eps), static_argnums=0
    )
    trace = run(model, state.params)
    bare = run(plain, {k: v for k, v in state.params.items() if k != "whitening"})
    print(
        f"reconstruction {history['reconstruction'][-1]:.1f} nats; largest difference of the "
        f"whitened model's logits to the plain one's "
        f"{np.abs(trace.outputs - bare.outputs).max():.1e}"
    )
    for site in ("latent/z", "latent/whitened"):
        values = trace.activations[site]
        swept = jax.jit(
            lambda params, donor, site=site: (
                unit_effects.resample_effects(
                    model.bind(params),
                    Runs(x, eps, {site: donor}),
                    outcome=lambda t: jax.nn.sigmoid(t.outputs),
                ).values
            )
        )(state.params, values[order])
        index = np.asarray(ratio(*unit_effects.total_index(swept)), float)
        off = np.corrcoef(np.asarray(values), rowvar=False) - np.eye(config.latent_size)
        print(
            f"{site:<16} total index {np.round(index, 2)}, largest correlation of two "
            f"{np.abs(off).max():.2f}, sum {index.sum():.2f}"
        )
    variances = jnp.sum(state.params["whitening"]["back"] ** 2, axis=0)
    print(f"variance of each axis {np.round(np.asarray(variances, float), 2)}")


if __name__ == "__main__":
    main()
