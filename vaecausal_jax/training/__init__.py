"""Training: objectives, a trainer that is one pure function, and many seeds in one program.

``checkpoint`` saves a run as it goes and continues it where it stopped, bit for bit.
"""

from vaecausal_jax.training import objectives
from vaecausal_jax.training.seeds import fastest_over_seeds, map_seeds, shard_seeds, vmap_seeds
from vaecausal_jax.training.trainer import (
    TrainConfig,
    Trainer,
    TrainState,
    check_images,
    diagnose,
    draw_batch,
    make_train,
    make_trainer,
)

__all__ = [
    "TrainConfig",
    "TrainState",
    "Trainer",
    "check_images",
    "diagnose",
    "draw_batch",
    "fastest_over_seeds",
    "make_train",
    "make_trainer",
    "map_seeds",
    "objectives",
    "shard_seeds",
    "vmap_seeds",
]
