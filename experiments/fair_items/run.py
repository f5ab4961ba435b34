"""Which latents of an item-based recommender serve one group of users at another's cost?"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from recommendation import group_gap, recall_at

import vaecausal_jax as vj
from vaecausal_jax import interventions as iv


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train and to measure on."""

    num_users: int = 200
    num_items: int = 300
    latent_size: int = 6
    num_steps: int = 2000
    num_best: int = 20
    seed: int = 0


def make_users(config: Config, rng: np.random.Generator):
    """Taken items (users, items) to train on and held out, and each user's group.

    A fifth of the users (group 1) has tastes of its own and takes half as many items.
    """
    groups = (np.arange(config.num_users) % 5 == 0).astype(int)
    tastes = rng.normal(size=(config.num_users, 3))
    tastes[:, 2] = np.where(groups == 1, 2.0, 0.0)
    appeal = tastes @ rng.normal(size=(3, config.num_items))
    noisy = appeal + rng.gumbel(size=appeal.shape)
    num = np.where(groups == 1, 20, 40)
    took = np.argsort(np.argsort(-noisy, axis=1), axis=1) < num[:, None]
    held_out = took & (rng.random(took.shape) < 0.2)
    return took & ~held_out, held_out, groups


def main() -> None:
    """Prints recall by group, and what ablating each latent does to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Config.num_steps)
    config = Config(num_steps=parser.parse_args().steps)
    seen, held_out, groups = make_users(config, np.random.default_rng(config.seed))
    model = vj.models.mlp_vae(
        (1, config.num_users, 1),
        latent_size=config.latent_size,
        encoder_dense=(64,),
        decoder_dense=(64,),
    )
    items = jnp.asarray(seen.T[:, None, :, None], jnp.float32)
    train = vj.TrainConfig(model, vj.objectives.item_vae(), optax.adam(1e-3), config.num_steps)
    state, history = jax.jit(vj.make_train(train))(jax.random.key(config.seed), items)
    eps = jnp.zeros((config.num_items, *model.noise_shape))
    run = jax.jit(jax.vmap(model.forward, in_axes=(None, 0, 0, None)))
    bank = run(state.params, items, eps, {}).activations["latent/z"]

    def served(interventions):
        logits = run(state.params, items, eps, interventions).outputs[:, 0, :, 0]
        scores = jnp.where(seen, -jnp.inf, logits.T)
        return recall_at(scores, held_out, config.num_best)

    natural = served({})
    key = jax.random.key(config.seed + 1)
    print(
        f"reconstruction {history['reconstruction'][-1]:.1f} nats an item, KL "
        f"{np.round(np.asarray(history['kl_per_latent'][-1], float), 2)}"
    )
    for name, values in [("all latents", natural)] + [
        (
            f"latent {k} held",
            served(iv.ablate_mean(model.sites, "latent/z", bank, unit=k)),
        )
        for k in range(config.latent_size)
    ]:
        found = group_gap(key, values, groups)
        print(
            f"{name:<14} recall@{config.num_best} {found.means[0]:.2f} of the many, "
            f"{found.means[1]:.2f} of the few, gap {found.gap.value:.2f} "
            f"[{found.gap.low:.2f}, {found.gap.high:.2f}], shuffled {found.gap.null:.2f}"
        )


if __name__ == "__main__":
    main()
