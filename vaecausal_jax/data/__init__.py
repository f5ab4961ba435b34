"""Image worlds with known causes: what a data set is, and the dSprites family.

`dataset` holds the interface and all that is generic over it, `sprites` a smooth world drawn at any
size, `dsprites` the published images, redrawn or read from their archive. In `causal` factors cause
one another: structural causal models; `scenes` draws them.
"""

from vaecausal_jax.data import causal, scenes
from vaecausal_jax.data.dataset import (
    Dataset,
    Factor,
    Pairs,
    check_factors,
    do_factor,
    factor_names,
    factor_position,
    factor_sizes,
    factors_at,
    images,
    index_of,
    minimal_pairs,
    num_images,
    sample_factors,
    sample_images,
)
from vaecausal_jax.data.dsprites import DSprites, StoredImages, dsprites_exact, load_dsprites
from vaecausal_jax.data.sprites import Sprites, sprites

__all__ = [
    "DSprites",
    "Dataset",
    "Factor",
    "Pairs",
    "Sprites",
    "causal",
    "StoredImages",
    "check_factors",
    "do_factor",
    "dsprites_exact",
    "factor_names",
    "factor_position",
    "factor_sizes",
    "factors_at",
    "images",
    "index_of",
    "load_dsprites",
    "minimal_pairs",
    "num_images",
    "sample_factors",
    "sample_images",
    "scenes",
    "sprites",
]
