"""Trained models that ship: six families, several seeds, on worlds whose causes are known.

``load("causal-sprites", "factor_vae", seed=3)`` is a bound model; without ``seed`` it is all of
them, stacked. ``entries`` says what there is and what was measured of it, ``WORLDS`` gives the
images. ``training.train_family``, or ``vaecausal zoo train``, trains more into a folder of one's
own.
"""

from vaecausal_jax.zoo.archive import SHIPPED, Entry, entries, load, training_history
from vaecausal_jax.zoo.recipes import STRENGTHS, WORLDS, Recipe, network, train_config

__all__ = [
    "SHIPPED",
    "STRENGTHS",
    "WORLDS",
    "Entry",
    "Recipe",
    "entries",
    "load",
    "network",
    "train_config",
    "training_history",
]
