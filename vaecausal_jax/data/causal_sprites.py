"""The default world of studies: 32x32 sprites whose five factors cause one another.

    shape -> scale -> brightness <- x -> y

holds the three elements of causal graphs: a chain (shape acts on brightness through scale alone), a
fork (y and brightness covary because of x) and a collider (scale and x, dependent given
brightness). Every factor is uniform, so the twin without edges is the uniform grid. Every
combination has a positive probability, though for some it is small: of minimal pairs, whose factor
is set against all others, 2 to 3 % end in an image that half a million draws are not expected to
hold.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data import sprite_geometry as geometry
from vaecausal_jax.data.causal_worlds import CausalWorld, causal_world, smooth_table, without_causes
from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.sprites import coverage

_SIZES = {"shape": 3, "scale": 6, "x": 8, "y": 8, "brightness": 6}
_RANGES = {"scale": (0.75, 1.25), "x": (0.0, 1.0), "y": (0.0, 1.0), "brightness": (0.25, 1.0)}
CAUSES = {"scale": ("shape",), "y": ("x",), "brightness": ("scale", "x")}
"""The direct causes of each factor that has any."""

_WEIGHTS = {"scale": (1.0,), "y": (1.0,), "brightness": (1.0, -1.0)}
_WIDTHS = {"scale": 0.5, "y": 0.4, "brightness": 0.25}


@flax.struct.dataclass
class ShadedSprites:
    """Upright sprites of a brightness; a pytree without leaves. Build it with ``shaded_sprites``.

    Attributes:
        factors: Shape, scale, x, y and brightness.
        image_shape: (side, side, 1).
    """

    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, 1) at integer levels (factor,)."""
        shape, scale, x, y, brightness = (
            jnp.asarray(factor.values, jnp.float32)[factors[position]]
            for position, factor in enumerate(self.factors)
        )
        upright = jnp.zeros((), jnp.float32)
        covered = coverage(shape, scale, upright, x, y, self.image_shape[0])
        return (brightness * covered)[:, :, None]


def shaded_sprites(image_size: int = 32) -> ShadedSprites:
    """Builds the images of the causal sprites: 6,912 of them, every factor uniform.

    Raises:
        ValueError: An image below 16 pixels, on which shapes cannot be told apart.
    """
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 to tell shapes apart, got {image_size}.")
    factors = tuple(
        Factor(name, _values(name), size, cyclic=False) for name, size in _SIZES.items()
    )
    return ShadedSprites(factors, (image_size, image_size, 1))


def _values(name: str) -> tuple[float, ...]:
    if name == "shape":
        return geometry.SHAPE_CODES
    return tuple(np.linspace(*_RANGES[name], _SIZES[name]).tolist())


def causal_sprites(image_size: int = 32) -> CausalWorld:
    """Builds the world shape -> scale -> brightness <- x -> y.

    Larger from square to ellipse to heart, brighter the larger and the further left, lower the
    further right; with scatters of 0.5, 0.25 and 0.4 of the range (``smooth_table``). A direct
    cause, set at random, moves 0.2 to 0.3 of its effect's variance (``effect_shares``).

    Raises:
        ValueError: As ``shaded_sprites``.
    """
    tables = {
        name: smooth_table(
            [*(_SIZES[cause] for cause in causes), _SIZES[name]],
            _WEIGHTS[name],
            width=_WIDTHS[name],
        )
        for name, causes in CAUSES.items()
    }
    return causal_world(shaded_sprites(image_size), CAUSES, tables)


def independent_sprites(image_size: int = 32) -> CausalWorld:
    """Builds the twin of ``causal_sprites``: the same images and marginals, no edge."""
    return without_causes(causal_sprites(image_size))
