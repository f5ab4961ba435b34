"""Image worlds with known causes: what a data set is, the published sets, and their stand-ins.

``dataset`` holds the interface and all that is generic over it, ``pairs`` the runs that questions
are asked on, ``designs`` says which rows of factors to look at, ``splits`` which combinations are
set aside. ``sprites`` is a smooth world drawn at any size, ``dsprites`` the published images,
redrawn or read from their archive. ``shapes3d``, ``mpi3d``, ``smallnorb``, ``celeba`` and
``tunnel_photographs`` open the published files, with images read when they are asked for
(``stored``, ``files``); ``shapes3d_standin`` and ``mpi3d_standin`` draw worlds with the factors of
the first two, for work without a download. Factors cause one another in ``causal_worlds``, of which
``causal_sprites`` is the default and ``tunnel`` a physical device; ``causal`` holds structural
causal models of any kind, ``scenes`` draws two of them.
"""

from vaecausal_jax.data import causal, scenes
from vaecausal_jax.data.causal_sprites import causal_sprites, independent_sprites, shaded_sprites
from vaecausal_jax.data.causal_worlds import (
    CausalWorld,
    causal_levels,
    causal_pairs,
    causal_world,
    descendants,
    effect_shares,
    interventional_means,
    smooth_table,
    true_graph,
    without_causes,
)
from vaecausal_jax.data.celeba import CelebA, MatchedPairs, attribute_matched_pairs, load_celeba
from vaecausal_jax.data.dataset import (
    Dataset,
    Factor,
    check_factors,
    do_factor,
    factor_names,
    factor_position,
    factor_sizes,
    factors_at,
    images,
    index_of,
    minimal_levels,
    num_images,
    sample_factors,
    sample_images,
)
from vaecausal_jax.data.designs import (
    Weighted,
    conditional_donors,
    correlated,
    do_sweep,
    mutual_information,
    weighted,
)
from vaecausal_jax.data.dsprites import DSprites, cached_dsprites, dsprites_exact, load_dsprites
from vaecausal_jax.data.mpi3d import load_mpi3d
from vaecausal_jax.data.mpi3d_standin import MPI3DStandIn, mpi3d_standin
from vaecausal_jax.data.pairs import Pairs, Runs, minimal_pairs
from vaecausal_jax.data.shapes3d import load_shapes3d
from vaecausal_jax.data.shapes3d_standin import Shapes3DStandIn, shapes3d_standin
from vaecausal_jax.data.smallnorb import load_smallnorb
from vaecausal_jax.data.splits import Split, hold_out, random_split
from vaecausal_jax.data.sprites import Sprites, sprites
from vaecausal_jax.data.stored import ByteImages, StoredImages, StreamedImages, on_device, resized
from vaecausal_jax.data.tunnel import tunnel, tunnel_image, turned_pairs
from vaecausal_jax.data.tunnel_photographs import TunnelPhotographs, load_tunnel

__all__ = [
    "ByteImages",
    "CausalWorld",
    "CelebA",
    "DSprites",
    "Dataset",
    "Factor",
    "MPI3DStandIn",
    "MatchedPairs",
    "Pairs",
    "Runs",
    "Shapes3DStandIn",
    "Split",
    "Sprites",
    "StoredImages",
    "StreamedImages",
    "TunnelPhotographs",
    "Weighted",
    "attribute_matched_pairs",
    "cached_dsprites",
    "causal",
    "causal_levels",
    "causal_pairs",
    "causal_sprites",
    "causal_world",
    "check_factors",
    "conditional_donors",
    "correlated",
    "descendants",
    "do_factor",
    "do_sweep",
    "dsprites_exact",
    "effect_shares",
    "factor_names",
    "factor_position",
    "factor_sizes",
    "factors_at",
    "hold_out",
    "images",
    "independent_sprites",
    "index_of",
    "interventional_means",
    "load_celeba",
    "load_dsprites",
    "load_mpi3d",
    "load_shapes3d",
    "load_smallnorb",
    "load_tunnel",
    "minimal_levels",
    "minimal_pairs",
    "mpi3d_standin",
    "mutual_information",
    "num_images",
    "on_device",
    "random_split",
    "resized",
    "sample_factors",
    "sample_images",
    "scenes",
    "shaded_sprites",
    "shapes3d_standin",
    "smooth_table",
    "sprites",
    "true_graph",
    "tunnel",
    "tunnel_image",
    "turned_pairs",
    "weighted",
    "without_causes",
]
