"""A rendered stand-in for MPI3D: an arm that carries an object, with the published factors.

NOT the published images: the same seven factors with the same sizes (Gondal et al. 2019,
arXiv:1906.03292), drawn here by a ray-marcher of our own, so that every experiment runs without a
download. Scores on it are not scores on MPI3D; ``load_mpi3d`` reads the originals. The image is
anti-aliased and differentiable in the continuous factors: object size, camera height and both axes.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data.dataset import Factor
from vaecausal_jax.data.mpi3d import FACTOR_NAMES
from vaecausal_jax.data.rays import (
    TINY,
    Hit,
    Rays,
    Vector,
    camera,
    covered,
    dot,
    facing,
    march,
    mix,
    rounded,
    seen,
    unit,
)

COLOURS = ("white", "green", "red", "blue", "brown", "olive")
"""Object colour 0 to 5."""
SHAPES = ("cone", "cube", "cylinder", "hexagonal", "pyramid", "sphere")
"""Object shape 0 to 5."""
BACKGROUNDS = ("purple", "sea green", "salmon")
"""Background colour 0 to 2."""

_COLOURS = (
    (0.95, 0.95, 0.95),
    (0.10, 0.75, 0.15),
    (0.90, 0.08, 0.08),
    (0.10, 0.20, 0.95),
    (0.45, 0.24, 0.08),
    (0.58, 0.58, 0.10),
)
_BACKGROUNDS = ((0.42, 0.22, 0.58), (0.16, 0.50, 0.42), (0.95, 0.55, 0.48))
_SIZES = (0.36, 0.54)
_HEIGHTS = (58.0, 32.0, 8.0)

# Lengths: the shoulder is at height 1 above the middle of a round table.
_ARM, _ARM_RADIUS, _POST_RADIUS, _TABLE = 1.15, 0.13, 0.24, 1.75
_DISTANCE, _AIM, _FIELD = 7.0, 0.85, 0.34
_LIGHT = (-0.40, 0.80, -0.45)
_STEPS = 8
_PLATE = (0.80, 0.80, 0.78)
_METAL, _POST = (0.70, 0.72, 0.75), (0.30, 0.31, 0.34)


@flax.struct.dataclass
class MPI3DStandIn:
    """A stand-in for MPI3D, rendered, not the published images. Build it by ``mpi3d_standin``.

    Attributes:
        factors: Object colour, shape and size, camera height, background colour, horizontal and
            vertical axis, as in the published set.
        image_shape: (side, side, 3).
    """

    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def __repr__(self) -> str:
        side = self.image_shape[0]
        return f"MPI3DStandIn({side}x{side}, rendered stand-in, not the published MPI3D)"

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, 3) at integer levels (factor,)."""
        values = [
            jnp.asarray(factor.values, jnp.float32)[factors[position]]
            for position, factor in enumerate(self.factors)
        ]
        return self.render(jnp.stack(values))

    def render(self, values: jax.Array) -> jax.Array:
        """Returns the image (h, w, 3) at factor values (factor,), which need not lie on the grid.

        Values are in the order of ``factors``: colour and shape of the object (the nearest of 0 to
        5, as in ``COLOURS`` and ``SHAPES``), its radius, the camera's elevation in degrees, the
        background (the nearest of 0 to 2, as in ``BACKGROUNDS``), and the arm's angles in degrees:
        horizontal, 0 towards the camera and positive to the right, and vertical, 0 level and
        positive upwards. Lengths are in heights of the shoulder. Differentiable in radius and
        angles.
        """
        colour, shape, size, height, background, horizontal, vertical = values
        dtype = values.dtype
        rays = _camera(height, self.image_shape[0])
        light = unit(_constant(_LIGHT, dtype))
        arm, across, upward = _frame(horizontal, vertical)
        shoulder = _constant((0.0, 1.0, 0.0), dtype)
        wrist = Vector(*(s + _ARM * a for s, a in zip(shoulder, arm, strict=True)))
        centre = Vector(*(w + 0.85 * size * a for w, a in zip(wrist, arm, strict=True)))

        # The object's own frame, in lengths of its radius, so that it alone is always the same.
        def own(v: Vector) -> Vector:
            return Vector(dot(v, across), dot(v, upward), dot(v, arm))

        def solid(p: Vector) -> jax.Array:
            return _solid(p, shape)

        offset = Vector(*((o - c) / size for o, c in zip(rays.origin, centre, strict=True)))
        near = Rays(own(offset), own(rays.direction), rays.pixel)
        middle = _constant((0.0, 0.0, 0.0), dtype)
        hit = march(near, solid, middle, jnp.asarray(1.5, dtype), num_steps=_STEPS)
        lit = facing(solid, near.at(hit.depth), own(light))
        post, post_lit = _rod(rays, middle, shoulder, _POST_RADIUS, light)
        limb, limb_lit = _rod(rays, shoulder, wrist, _ARM_RADIUS, light)
        thing = Hit(hit.cover, size * hit.depth)
        on_post, on_limb, on_thing, left = seen([post, limb, thing], softness=0.1)
        behind = _backdrop(rays, _nearest(_BACKGROUNDS, background, dtype), centre, size)
        return mix(
            [
                (on_post * _shade(post_lit), jnp.asarray(_POST, dtype)),
                (on_limb * _shade(limb_lit), jnp.asarray(_METAL, dtype)),
                (on_thing * _shade(lit), _nearest(_COLOURS, colour, dtype)),
                *((left * amount, paint) for amount, paint in behind),
            ]
        )


def mpi3d_standin(image_size: int = 64) -> MPI3DStandIn:
    """Builds the rendered stand-in for MPI3D: its factors and sizes, not its images.

    Raises:
        ValueError: An image below 16 pixels.
    """
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 to tell the shapes, got {image_size}.")
    codes = tuple(float(code) for code in range(6))
    values = (
        codes,
        codes,
        _SIZES,
        _HEIGHTS,
        codes[:3],
        tuple(np.linspace(-80.0, 80.0, 40).tolist()),
        tuple(np.linspace(-15.0, 70.0, 40).tolist()),
    )
    factors = tuple(
        Factor(name, levels, len(levels), cyclic=False)
        for name, levels in zip(FACTOR_NAMES, values, strict=True)
    )
    return MPI3DStandIn(factors, (image_size, image_size, 3))


def _constant(v: tuple[float, float, float], dtype: jnp.dtype) -> Vector:
    return Vector(*(jnp.asarray(c, dtype) for c in v))


def _nearest(table: tuple[tuple[float, ...], ...], code: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The row of a table of colours that is nearest to a code."""
    row = jnp.clip(jnp.round(code).astype(jnp.int32), 0, len(table) - 1)
    return jnp.asarray(table, dtype)[row]


def _radians(degrees: jax.Array) -> jax.Array:
    return degrees * (math.pi / 180.0)


def _camera(height: jax.Array, image_size: int) -> Rays:
    angle = _radians(height)
    zero = jnp.zeros_like(angle)
    aim = zero + _AIM
    eye = Vector(zero, aim + _DISTANCE * jnp.sin(angle), -_DISTANCE * jnp.cos(angle))
    return camera(eye, Vector(zero, aim, zero), image_size=image_size, field=_FIELD)


def _frame(horizontal: jax.Array, vertical: jax.Array) -> tuple[Vector, Vector, Vector]:
    """The arm's direction, and across and above it, orthonormal."""
    turn, lift = _radians(horizontal), _radians(vertical)
    sin, cos, up, out = jnp.sin(turn), jnp.cos(turn), jnp.sin(lift), jnp.cos(lift)
    arm = Vector(sin * out, up, -cos * out)
    return arm, Vector(cos, jnp.zeros_like(up), sin), Vector(-sin * up, out, cos * up)


def _shade(lit: jax.Array) -> jax.Array:
    return 0.4 + 0.6 * jnp.maximum(lit, 0.0)


def _solid(p: Vector, shape: jax.Array) -> jax.Array:
    """Distance to the object of radius 1: a prism or pyramid over a section, or a ball."""
    x, z = jnp.abs(p.x), jnp.abs(p.z)
    ring = jnp.sqrt(x**2 + z**2 + TINY)
    box = jnp.maximum(x, z)
    hexagon = jnp.maximum(x, 0.5 * x + (0.5 * math.sqrt(3.0)) * z)

    def among(*choices: float | jax.Array) -> jax.Array:
        """The entry for this shape: cone, cube, cylinder, hexagonal, pyramid or sphere."""
        value = jnp.asarray(choices[-1])
        for code, choice in reversed(list(enumerate(choices[:-1]))):
            value = jnp.where(shape < code + 0.5, choice, value)
        return value

    section = among(ring, box, ring, hexagon, box, ring)
    width = among(1.0, 0.76, 0.62, 0.90, 0.95, 0.0)
    half = among(0.9, 0.76, 0.95, 0.42, 0.9, 0.0)
    taper = among(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    rim = among(0.04, 0.04, 0.04, 0.04, 0.04, 1.0)
    # A side that narrows from its full width at the bottom to nothing at the top.
    share = 1.0 - taper * 0.5 * (1.0 + p.y / jnp.maximum(half, 0.1))
    slope = taper * width / (2.0 * jnp.maximum(half, 0.1))
    across = (section - width * share) * jax.lax.rsqrt(1.0 + slope**2)
    return rounded(across, jnp.abs(p.y) - half, rim)


def _rod(
    rays: Rays, start: Vector, end: Vector, radius: float, light: Vector
) -> tuple[Hit, jax.Array]:
    """A capsule from ``start`` to ``end``, by the closest approach of each ray to its axis.

    With it, the cosine between its normal and the light.
    """
    axis = Vector(*(e - s for s, e in zip(start, end, strict=True)))
    to_eye = Vector(*(o - s for o, s in zip(rays.origin, start, strict=True)))
    d = rays.direction
    length, along, away = dot(axis, axis), dot(axis, d), dot(axis, to_eye)
    near = dot(d, to_eye)
    place = (away - along * near) / (length - along**2 + TINY)
    place = jnp.clip(place, 0.0, 1.0)
    depth = along * place - near
    gap = Vector(*(o + depth * c - place * a for o, c, a in zip(to_eye, d, axis, strict=True)))
    distance = jnp.sqrt(dot(gap, gap) + TINY)
    inside = jnp.sqrt(jnp.maximum(radius**2 - distance**2, 0.0) + TINY)
    # The normal where the ray enters, to first order: back from the closest approach.
    lit = (dot(gap, light) - inside * dot(d, light)) / jnp.maximum(radius, distance)
    cover = covered((distance - radius) / (rays.pixel * depth))
    return Hit(cover, depth - inside), lit


def _backdrop(
    rays: Rays, background: jax.Array, centre: Vector, size: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """The paints (see ``mix``) of background and table, with the object's shadow on the table."""
    eye, d = rays.origin, rays.direction
    depth = eye.y / jnp.maximum(-d.y, TINY)
    ground = rays.at(depth)
    rim = jnp.sqrt(ground.x**2 + ground.z**2 + TINY) - _TABLE
    # A pixel spans more of the table the flatter it is seen; it ends at the horizon.
    span = rays.pixel * depth / jnp.maximum(-d.y, TINY)
    table = jnp.where(d.y < 0.0, covered(rim / span), 0.0)
    x, z = ground.x - centre.x, ground.z - centre.z
    reach = jnp.sqrt(x**2 + z**2 + TINY) / size
    shadow = 1.0 - 0.5 * jnp.clip(1.5 - reach, 0.0, 1.0)
    return [
        (table * shadow, jnp.asarray(_PLATE, size.dtype)),
        ((1.0 - table) * (0.9 + 0.35 * d.y), background),
    ]
