"""What the rendered rooms share: a camera, solids by their distance, and soft edges in pixels.

A solid is a function from points to a signed distance (negative inside; outside it may fall short
of the true one, never exceed it). A ray is marched towards it by its distance, and the least
distance in units of the pixel's width at that depth gives the part of the pixel that the solid
covers. So edges are anti-aliased and images differentiable in every continuous factor. Coordinates
are kept as separate arrays (h, w): a trailing axis of three is slow on every backend.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

TINY = 1e-9
"""Keeps square roots differentiable at zero."""


class Vector(NamedTuple):
    """Points or directions: x to the right, y up, z away; arrays of one shape or scalars."""

    x: jax.Array
    y: jax.Array
    z: jax.Array


class Rays(NamedTuple):
    """One ray a pixel.

    Attributes:
        origin: The camera, scalars.
        direction: Unit vectors (h, w).
        pixel: Width of a pixel at unit distance.
    """

    origin: Vector
    direction: Vector
    pixel: float

    def at(self, depth: jax.Array) -> Vector:
        """The points at a depth (h, w) along the rays."""
        return Vector(*(o + depth * d for o, d in zip(self.origin, self.direction, strict=True)))


class Hit(NamedTuple):
    """What a solid does to every pixel.

    Attributes:
        cover: The part of the pixel that it covers, (h, w) in [0, 1].
        depth: Distance along the ray to its surface, meaningful where it covers.
    """

    cover: jax.Array
    depth: jax.Array


Distance = Callable[[Vector], jax.Array]
"""Points to signed distances."""


def camera(position: Vector, target: Vector, *, image_size: int, field: float) -> Rays:
    """Returns the rays of a camera at ``position`` that looks at ``target``, its top upwards.

    Args:
        position: Scalars.
        target: Scalars; not straight above or below.
        image_size: Pixels per side.
        field: Tangent of half the angle of view.
    """
    forward = unit(Vector(*(t - p for t, p in zip(target, position, strict=True))))
    flat = jnp.sqrt(forward.x**2 + forward.z**2 + TINY)
    right = Vector(forward.z / flat, 0.0 * flat, -forward.x / flat)
    up = Vector(forward.y * right.z, flat, -forward.y * right.x)
    steps = (2.0 * jnp.arange(image_size, dtype=forward.x.dtype) + 1.0) / image_size - 1.0
    across, above = field * steps[None, :], -field * steps[:, None]
    direction = unit(
        Vector(*(f + across * r + above * u for f, r, u in zip(forward, right, up, strict=True)))
    )
    return Rays(position, direction, 2.0 * field / image_size)


def unit(v: Vector) -> Vector:
    """The vector scaled to length 1."""
    scale = jax.lax.rsqrt(v.x**2 + v.y**2 + v.z**2 + TINY)
    return Vector(v.x * scale, v.y * scale, v.z * scale)


def dot(a: Vector, b: Vector) -> jax.Array:
    """The inner product."""
    return a.x * b.x + a.y * b.y + a.z * b.z


def covered(distance: jax.Array) -> jax.Array:
    """The part of a pixel behind a straight edge ``distance`` pixels away (outside positive)."""
    return jnp.clip(0.5 - distance, 0.0, 1.0)


def march(
    rays: Rays,
    solid: Distance,
    centre: Vector,
    reach: jax.Array,
    *,
    num_steps: int,
    num_deeper: int = 3,
) -> Hit:
    """Follows every ray to a convex solid that lies within ``reach`` of ``centre``.

    Steps as long as the distance start where the ray enters the sphere of that radius (or passes it
    closest). Those that follow lead a pixel's width and more into the solid, so that rays well
    inside its outline are told from those that graze it.
    """
    offset = Vector(*(c - o for c, o in zip(centre, rays.origin, strict=True)))
    middle = dot(offset, rays.direction)
    miss = dot(offset, offset) - middle**2
    half = jnp.sqrt(jnp.maximum(reach**2 - miss, 0.0) + TINY)
    depth, stop = middle - half, middle + half
    width = rays.pixel * middle

    # Loops, not unrolled: as one expression XLA computes the early steps again for every later one.
    def approach(carry: tuple[jax.Array, ...], _: None) -> tuple[tuple[jax.Array, ...], None]:
        depth, distance, least = carry
        depth = jnp.minimum(depth + distance, stop)
        distance = solid(rays.at(depth))
        return (depth, distance, jnp.minimum(least, distance)), None

    def enter(carry: tuple[jax.Array, ...], step: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        depth, least = carry
        depth = jnp.minimum(depth + step * width, stop)
        return (depth, jnp.minimum(least, solid(rays.at(depth)))), None

    first = solid(rays.at(depth))
    (surface, _, least), _ = jax.lax.scan(approach, (depth, first, first), length=num_steps)
    steps = 2.0 ** jnp.arange(num_deeper, dtype=surface.dtype)
    (_, least), _ = jax.lax.scan(enter, (surface, least), steps)
    return Hit(covered(least / width), surface)


def facing(solid: Distance, points: Vector, towards: Vector) -> jax.Array:
    """The cosine between the surface's normal at ``points`` and a unit direction (scalars).

    The derivative of the distance along the direction, so no normal is formed.
    """
    tangent = Vector(*(jnp.broadcast_to(t, p.shape) for t, p in zip(towards, points, strict=True)))
    return jax.jvp(solid, (points,), (tangent,))[1]


def rounded(across: jax.Array, along: jax.Array, radius: jax.Array | float) -> jax.Array:
    """Distance to a body of revolution, or prism, with rounded rims.

    Args:
        across: How far points lie outside its section, less ``radius``.
        along: How far they lie beyond its ends, less ``radius``.
        radius: Of the rims.
    """
    outside = jnp.sqrt(jnp.maximum(across, 0.0) ** 2 + jnp.maximum(along, 0.0) ** 2 + TINY)
    return outside + jnp.minimum(jnp.maximum(across, along), 0.0) - radius


def hue_to_rgb(hue: jax.Array) -> jax.Array:
    """Returns the fully saturated, bright colour (3,) of a hue in turns."""
    offsets = jnp.asarray([0.0, 4.0, 2.0], hue.dtype)
    return jnp.clip(jnp.abs((6.0 * hue + offsets) % 6.0 - 3.0) - 1.0, 0.0, 1.0)


def seen(hits: list[Hit], *, softness: float) -> list[jax.Array]:
    """The part of every pixel (h, w) that each of several solids is seen in, then the background's.

    A solid is hidden by those nearer the camera. Which of two is nearer turns over a difference in
    depth of ``softness``, so that the image stays differentiable where they meet.
    """
    parts = []
    for number, hit in enumerate(hits):
        part = hit.cover
        for other in hits[:number] + hits[number + 1 :]:
            part = part * (1.0 - other.cover * covered((other.depth - hit.depth) / softness))
        parts.append(part)
    left = jnp.ones_like(hits[0].cover)
    for hit in hits:
        left = left * (1.0 - hit.cover)
    total = sum(parts, left)
    return [part / total for part in (*parts, left)]


def mix(paints: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """The image (h, w, 3) that is the sum of paints: how much of each (h, w), and its colour (3,).

    As one matrix product, so that what leads to the amounts is not computed again for each channel.
    """
    amounts = jnp.stack([amount for amount, _ in paints], axis=-1)
    colours = jnp.stack([colour for _, colour in paints])
    return jnp.matmul(amounts, colours, precision=jax.lax.Precision.HIGHEST)
