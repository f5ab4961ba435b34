"""Networks whose circuits are known, finders of circuits, and how well one finds the other.

Level 0 is compiled from a formula, level 1 is level 0 in disguise, level 2 is trained to have the
circuits that were planned for it, level 3 has more factors than dimensions. Every ``Planted`` is a
forward of the library's contract with its ``Truth``. See ``finders`` for how to add a finder, and
``python -m benchmarks.planted`` for the table of all finders against all levels.
"""

from vaecausal_jax.circuits.planted.finders import FINDERS, Finder, Scores, inner_sites
from vaecausal_jax.circuits.planted.levels import (
    depth_split,
    gates,
    gaussian_network,
    level0,
    level0_weights,
    level1,
    level3,
    saturated,
)
from vaecausal_jax.circuits.planted.network import Planted, Truth, Weights
from vaecausal_jax.circuits.planted.recovery import Recovered, recover, recovery_scores
from vaecausal_jax.circuits.planted.trained import level2

__all__ = [
    "FINDERS",
    "Finder",
    "Planted",
    "Recovered",
    "Scores",
    "Truth",
    "Weights",
    "depth_split",
    "gates",
    "gaussian_network",
    "inner_sites",
    "level0",
    "level0_weights",
    "level1",
    "level2",
    "level3",
    "recover",
    "recovery_scores",
    "saturated",
]
