"""A rendered stand-in for 3DShapes: a solid in a room, with the factors of the published set.

NOT the published images: the same six factors with the same sizes (Burgess and Kim 2018,
https://github.com/google-deepmind/3d-shapes), drawn here by a ray-marcher of our own, so that every
experiment runs without a download. Scores on it are not scores on 3DShapes; ``load_shapes3d`` reads
the original. The image is anti-aliased and differentiable in the five continuous factors.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.rays import (
    TINY,
    Rays,
    Vector,
    camera,
    covered,
    facing,
    hue_to_rgb,
    march,
    mix,
    rounded,
    unit,
)
from vaecausal_jax.data.shapes3d import FACTOR_NAMES

SHAPES = ("cube", "cylinder", "sphere", "capsule")
"""The solids of shape 0 to 3."""

# The room: walls at x = +-WALL and z = WALL, floor at y = 0; lengths in radii of the largest solid.
_WALL, _HEIGHT = 4.5, 4.2
_DISTANCE, _EYE, _AIM, _FIELD = 5.8, 2.9, 1.0, 0.52
_SKY = (0.72, 0.84, 0.93)
_LIGHT = (-0.45, 0.75, -0.48)
_STEPS = 8
_SHADOW = 0.55

_HUES = tuple((np.arange(10) / 10).tolist())


@flax.struct.dataclass
class Shapes3DStandIn:
    """A rendered stand-in for 3DShapes, not the published images; see ``shapes3d_standin``.

    Attributes:
        factors: Floor, wall and object hue, scale, shape and orientation, as in the published set.
        image_shape: (side, side, 3).
    """

    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def __repr__(self) -> str:
        side = self.image_shape[0]
        return f"Shapes3DStandIn({side}x{side}, rendered stand-in, not the published 3DShapes)"

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, 3) at integer levels (factor,)."""
        values = [
            jnp.asarray(factor.values, jnp.float32)[factors[position]]
            for position, factor in enumerate(self.factors)
        ]
        return self.render(jnp.stack(values))

    def render(self, values: jax.Array) -> jax.Array:
        """Returns the image (h, w, 3) at factor values (factor,), which need not lie on the grid.

        Values are in the order of ``factors``: three hues in turns, scale (the published range is
        0.75 to 1.25), shape (the nearest of 0 to 3, as in ``SHAPES``) and orientation, the angle in
        degrees from which the camera sees the room. Differentiable in all but the shape.
        """
        floor_hue, wall_hue, object_hue, scale, shape, orientation = values
        angle = orientation * (math.pi / 180.0)
        eye = Vector(
            _DISTANCE * jnp.sin(angle), jnp.asarray(_EYE, angle.dtype), -_DISTANCE * jnp.cos(angle)
        )
        rays = camera(
            eye,
            Vector(*(jnp.asarray(c, angle.dtype) for c in (0.0, _AIM, 0.0))),
            image_size=self.image_shape[0],
            field=_FIELD,
        )
        light = unit(Vector(*(jnp.asarray(c, angle.dtype) for c in _LIGHT)))

        def solid(p: Vector) -> jax.Array:
            return _solid(p, shape)

        # In lengths of the solid, it alone is the same at every scale.
        near = rays._replace(origin=Vector(*(c / scale for c in rays.origin)))
        middle = Vector(*(jnp.asarray(c, angle.dtype) for c in (0.0, 1.0, 0.0)))
        hit = march(near, solid, middle, jnp.asarray(1.45, angle.dtype), num_steps=_STEPS)
        lit = jnp.maximum(facing(solid, near.at(hit.depth), light), 0.0)
        room = _room(rays, hue_to_rgb(floor_hue), hue_to_rgb(wall_hue), scale)
        behind = [((1.0 - hit.cover) * amount, colour) for amount, colour in room]
        return mix([(hit.cover * (0.35 + 0.65 * lit), hue_to_rgb(object_hue)), *behind])


def shapes3d_standin(image_size: int = 64) -> Shapes3DStandIn:
    """Builds the rendered stand-in for 3DShapes: its factors and sizes, not its images.

    Raises:
        ValueError: An image below 16 pixels.
    """
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 to tell the shapes, got {image_size}.")
    values = (
        _HUES,
        _HUES,
        _HUES,
        tuple(np.linspace(0.75, 1.25, 8).tolist()),
        (0.0, 1.0, 2.0, 3.0),
        tuple(np.linspace(-30.0, 30.0, 15).tolist()),
    )
    factors = tuple(
        Factor(name, levels, len(levels), cyclic=name.endswith("hue"))
        for name, levels in zip(FACTOR_NAMES, values, strict=True)
    )
    return Shapes3DStandIn(factors, (image_size, image_size, 3))


def _solid(p: Vector, shape: jax.Array) -> jax.Array:
    """Distance to the solid of scale 1, which stands on the floor at the centre of the room."""
    x, y, z = jnp.abs(p.x), jnp.abs(p.y - jnp.where(shape < 0.5, 0.85, 1.0)), jnp.abs(p.z)
    cube, cylinder, sphere = shape < 0.5, shape < 1.5, shape < 2.5
    section = jnp.where(cube, jnp.maximum(x, z), jnp.sqrt(x**2 + z**2 + TINY))
    flat = jnp.where(cube, 0.77, jnp.where(cylinder, 0.68, 0.0))
    half = jnp.where(cube, 0.77, jnp.where(cylinder, 0.92, jnp.where(sphere, 0.0, 0.4)))
    radius = jnp.where(cylinder, 0.08, jnp.where(sphere, 1.0, 0.6))
    return rounded(section - flat, y - half, radius)


def _room(
    rays: Rays, floor: jax.Array, wall: jax.Array, scale: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """The paints (see ``mix``) of the room without its solid, with its shadow on the floor."""
    eye, d = rays.origin, rays.direction
    # Distances to the planes ahead of each ray; a ray along a plane never reaches it.
    to_side = (_WALL - eye.x * jnp.sign(d.x)) / jnp.maximum(jnp.abs(d.x), TINY)
    to_back = (_WALL - eye.z) / jnp.maximum(d.z, TINY)
    to_floor = eye.y / jnp.maximum(-d.y, TINY)
    to_wall = jnp.minimum(to_side, to_back)
    # How many pixels the corner between two walls is to the side: the walls' distance differs by
    # the sine of the ray's angle to them for each pixel's width.
    sine = jnp.where(to_side < to_back, jnp.abs(d.x), d.z)
    is_side = covered((to_side - to_back) * sine / (rays.pixel * to_wall))
    height = eye.y + to_wall * d.y
    shade = 0.82 + 0.18 * height / _HEIGHT
    tone = jnp.where(d.x > 0.0, 0.62, 0.88)
    brightness = shade * (1.0 + is_side * (tone - 1.0))
    pixel = rays.pixel * to_wall
    on_floor, below_top = covered(height / pixel), covered((height - _HEIGHT) / pixel)
    ground = rays.at(to_floor)
    # The light falls from the left and the front, so the shadow lies right and behind.
    x, z = ground.x - 0.45 * scale, ground.z - 0.45 * scale
    reach = jnp.sqrt(x**2 + z**2 + TINY) / scale
    shadow = 1.0 - _SHADOW * jnp.clip(1.6 - reach, 0.0, 1.0)
    far = jnp.clip(1.0 - 0.02 * to_floor, 0.6, 1.0)
    above = 1.0 - on_floor
    return [
        (on_floor * shadow * far, floor),
        (above * below_top * brightness, wall),
        (above * (1.0 - below_top), jnp.asarray(_SKY, wall.dtype)),
    ]
