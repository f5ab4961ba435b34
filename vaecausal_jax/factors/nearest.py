"""Levels read off an image by the image of the world that is nearest to it.

Nothing is trained and nothing is tuned: every image of a small world is rendered, and a
reconstruction is given the levels of the nearest one, in Euclidean distance. It is exact on the
world's own images wherever no two of them are equal, and so what it misreads in a reconstruction
was lost by the model.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaecausal_jax.data import Dataset, factor_names
from vaecausal_jax.data.causal_worlds import all_rows
from vaecausal_jax.data.dataset import images, num_images
from vaecausal_jax.data.scales import check_unit
from vaecausal_jax.factors.readouts import CATEGORICAL

_MOST_PIXELS = 2**28
"""A gigabyte of float32."""


def nearest_levels(data: Dataset, shown: ArrayLike) -> np.ndarray:
    """Levels (images, factor) of the world's images nearest to ``shown`` (images, h, w, c).

    Raises:
        ValueError: A world of more than 268 million pixels, images of another shape, or values
            outside [0, 1].
    """
    size = num_images(data) * math.prod(data.image_shape)
    if size > _MOST_PIXELS:
        raise ValueError(
            f"the world has {num_images(data)} images of {data.image_shape}, {size / 1e6:.0f} "
            f"million pixels; up to {_MOST_PIXELS / 1e6:.0f} are rendered at once. Use a probe."
        )
    check_unit(shown, "nearest_levels reads")
    pictures = jnp.asarray(shown)
    if pictures.shape[1:] != tuple(data.image_shape):
        raise ValueError(f"expected images (n, *{data.image_shape}), got {pictures.shape}.")
    rows = all_rows(data)

    @jax.jit
    def nearest(rows, pictures):
        world = images(data, rows).reshape(len(rows), -1)
        flat = pictures.reshape(len(pictures), -1)
        # |a - b|^2 without |a|^2, which is the same for every image of the world.
        return jnp.argmin(jnp.sum(world**2, axis=1)[None, :] - 2.0 * flat @ world.T, axis=1)

    return rows[np.asarray(nearest(rows, pictures))]


def readability(data: Dataset, shown: ArrayLike, levels: ArrayLike) -> dict[str, float]:
    """How well each factor is read: accuracy of a categorical factor, R^2 of any other.

    R^2 is NaN where all true levels are one. A cyclic factor has no such score: it is scored as
    one without order.

    Args:
        data: The world.
        shown: Images (images, h, w, c), such as reconstructions.
        levels: Their true levels (images, factor).
    """
    read, true = nearest_levels(data, shown), np.asarray(levels)
    scores = {}
    for position, name in enumerate(factor_names(data)):
        got, wanted = read[:, position], true[:, position]
        if name in CATEGORICAL or data.factors[position].cyclic:
            scores[name] = float(np.mean(got == wanted))
        else:
            values = np.asarray(data.factors[position].values)
            error, spread = np.mean((values[got] - values[wanted]) ** 2), np.var(values[wanted])
            scores[name] = float(1.0 - error / spread) if spread > 0.0 else math.nan
    return scores
