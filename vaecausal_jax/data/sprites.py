"""A dSprites-like world drawn on the device, smooth in its continuous factors.

The geometry is that of dSprites (Matthey, Higgins, Hassabis and Lerchner 2017,
https://github.com/deepmind/dsprites-dataset) at any image size and on any grid of factors, with an
optional hue. Where the published images are hard-edged, these are anti-aliased: a pixel's value is
the part of it that the sprite covers, from the signed distance of its centre to the outline. So an
image has a gradient in scale, orientation and position, and no image need be stored: drawing one
costs less than reading it from disk. The published images themselves are in ``dsprites``.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data import sprite_geometry as geometry
from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.rays import hue_to_rgb

# Keeps square roots differentiable at the centre of a sprite; far below a pixel squared.
_TINY = 1e-12


@flax.struct.dataclass
class Sprites:
    """A world of anti-aliased sprites; a pytree without leaves. Build it with ``sprites``.

    Attributes:
        factors: Shape, scale, orientation, x, y and, in colour, colour.
        image_shape: (side, side, 1), or (side, side, 3) in colour.
    """

    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at integer levels (factor,)."""
        values = [
            jnp.asarray(factor.values, jnp.float32)[factors[position]]
            for position, factor in enumerate(self.factors)
        ]
        return self.render(jnp.stack(values))

    def render(self, values: jax.Array) -> jax.Array:
        """Returns the image (h, w, c) at factor values (factor,), which need not lie on the grid.

        Values are in the order of ``factors``: shape code (1 square, 2 ellipse, 3 heart; the
        nearest is taken), scale (1 is the largest published), orientation (radians), x and y (0 to
        1 across the inner half of the canvas, y down) and hue (0 to 1, red at both ends).
        Differentiable in all but the shape. Coverage is accurate while the sprite is wider than a
        pixel.
        """
        alpha = coverage(values[0], values[1], values[2], values[3], values[4], self.image_shape[0])
        if self.image_shape[2] == 1:
            return alpha[:, :, None]
        return alpha[:, :, None] * hue_to_rgb(values[5])[None, None, :]


def sprites(
    image_size: int = 64,
    *,
    colour: bool = False,
    num_scales: int = 6,
    num_orientations: int = 39,
    num_positions: int = 32,
    num_colours: int = 8,
) -> Sprites:
    """Builds the world of sprites on a grid of factors.

    Scales run from 0.5 to 1 and positions from 0 to 1, both ends included. Orientations and hues
    are cyclic, so their end point is left out and all levels are distinct. Take an odd number of
    orientations (39 are the angles of dSprites): with an even one, half or quarter turns of ellipse
    and square give the same image, and ``minimal_pairs`` on orientation can yield equal images.

    Raises:
        ValueError: An image below 8 pixels, or a factor without levels.
    """
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8 to hold a sprite, got {image_size}.")
    counts = {
        "num_scales": num_scales,
        "num_orientations": num_orientations,
        "num_positions": num_positions,
        "num_colours": num_colours,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    factors = (
        Factor("shape", geometry.SHAPE_CODES, len(geometry.SHAPE_CODES), cyclic=False),
        _grid("scale", np.linspace(0.5, 1.0, num_scales)),
        _grid("orientation", _circle(num_orientations, 2.0 * math.pi), cyclic=True),
        _grid("x", np.linspace(0.0, 1.0, num_positions)),
        _grid("y", np.linspace(0.0, 1.0, num_positions)),
    )
    if colour:
        factors += (_grid("colour", _circle(num_colours, 1.0), cyclic=True),)
    return Sprites(factors, (image_size, image_size, 3 if colour else 1))


def _grid(name: str, values: np.ndarray, *, cyclic: bool = False) -> Factor:
    return Factor(name, tuple(values.tolist()), len(values), cyclic)


def _circle(num: int, period: float) -> np.ndarray:
    return period * np.arange(num) / num


def coverage(
    shape: jax.Array,
    scale: jax.Array,
    orientation: jax.Array,
    x: jax.Array,
    y: jax.Array,
    image_size: int,
) -> jax.Array:
    """Returns the covered part of every pixel (h, w), in [0, 1]."""
    zoom = image_size / geometry.CANVAS
    pixels = jnp.arange(image_size, dtype=scale.dtype) + 0.5
    dx = (pixels - zoom * (geometry.CENTRE_START + geometry.CENTRE_SPAN * x))[None, :]
    dy = (pixels - zoom * (geometry.CENTRE_START + geometry.CENTRE_SPAN * y))[:, None]
    cos, sin = jnp.cos(orientation), jnp.sin(orientation)
    # All that follows is in pixels of this image; `unit` is one published pixel at this scale.
    u, v, unit = cos * dx - sin * dy, sin * dx + cos * dy, zoom * scale
    square, ellipse, heart = _square(u, v, unit), _ellipse(u, v, unit), _heart(u, v, unit)
    return jnp.where(shape < 1.5, square, jnp.where(shape < 2.5, ellipse, heart))


def _covered(distance: jax.Array) -> jax.Array:
    """Returns the part of a pixel behind a straight edge at ``distance``, positive outside."""
    return jnp.clip(0.5 - distance, 0.0, 1.0)


def _square(u: jax.Array, v: jax.Array, unit: jax.Array) -> jax.Array:
    # The product of two slabs, not the larger distance: exact for an upright square.
    half = unit * geometry.SQUARE_HALF_SIDE
    return _covered(jnp.abs(u) - half) * _covered(jnp.abs(v) - half)


def _ellipse(u: jax.Array, v: jax.Array, unit: jax.Array) -> jax.Array:
    """Coverage with the distance to first order: (k - 1) / |grad k| on the outline, k the gauge."""
    a, b = geometry.ELLIPSE_SEMI_AXES
    p, q = u / (unit * a), v / (unit * b)
    gauge = jnp.sqrt(p**2 + q**2 + _TINY)
    slope = jnp.sqrt((p / a) ** 2 + (q / b) ** 2 + _TINY / b**2)
    return _covered(unit * (gauge - 1.0) * gauge / slope)


def _heart(u: jax.Array, v: jax.Array, unit: jax.Array) -> jax.Array:
    """Coverage with the distance to first order along the ray: (r - R) / sqrt(1 + (R' / R)^2).

    At the tip a pixel must lie behind both flanks, the near one and the far one continued past the
    axis, as at the corner of a square; away from the axis the far one stays clear of the heart.
    """
    r = jnp.sqrt(u**2 + v**2 + _TINY)
    sin, cos = v / r, jnp.abs(u) / r
    p, p_slope = _polynomial(geometry.HEART_SINE_SERIES, sin)
    q, q_slope = _polynomial(geometry.HEART_COSINE_SERIES, sin)

    def behind_flank(cos: jax.Array) -> jax.Array:
        radius = p + cos * q
        radius_slope = cos * p_slope - sin * q + cos**2 * q_slope
        stretch = radius * jax.lax.rsqrt(radius**2 + radius_slope**2)
        return _covered((r - unit * radius) * stretch)

    return behind_flank(cos) * jnp.where(sin > 0.0, behind_flank(-cos), 1.0)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns value and derivative of a polynomial, its constant coefficient first."""
    value, slope = jnp.zeros_like(x), jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        slope = slope * x + value
        value = value * x + coefficient
    return value, slope
