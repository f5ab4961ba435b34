"""Two scenes with known causes, and images of them and of the sprites' world.

The pendulum and the flow are the worlds of Yang et al. 2021, "CausalVAE" (arXiv:2004.08697). Images
are anti-aliased and differentiable in every variable.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vaecausal_jax.data.causal import (
    SCM,
    Additive,
    Normal,
    Uniform,
    Values,
    check_known,
    floating,
    linear,
    scm,
)
from vaecausal_jax.data.dataset import factor_names, factor_position
from vaecausal_jax.data.sprites import Sprites

# Keeps square roots differentiable at zero.
_TINY = 1e-12

# Scene units, as in the generators of CausalVAE.
_PIVOT_X, _PIVOT_Y = 10.0, 10.5
_ROD, _BOB_RADIUS = 8.0, 1.5
_LIGHT_Y, _LIGHT_RADIUS = 20.5, 3.0
_FLOOR_Y = -0.5
_SHORTEST_SHADOW = 3.0
_CUP_LEFT, _CUP_RIGHT, _CUP_TOP = 3.0, 8.0, 19.0
_WATER_BASE, _LANDING_Y, _GRAVITY = 5.0, 0.5, 0.98


def _lever(values: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The slope dx / dy of the light's rays, and how far the tip's shadow is from the pivot's."""
    angle = values["pendulum_angle"]
    slope = (values["light_position"] - _PIVOT_X) / (_LIGHT_Y - _PIVOT_Y)
    return slope, (_ROD + _BOB_RADIUS) * (jnp.sin(angle) + slope * jnp.cos(angle))


def _shadow_length(parents: dict[str, jax.Array]) -> jax.Array:
    return jnp.maximum(jnp.abs(_lever(parents)[1]), _SHORTEST_SHADOW)


def _shadow_position(parents: dict[str, jax.Array]) -> jax.Array:
    slope, spread = _lever(parents)
    return _PIVOT_X - (_PIVOT_Y - _FLOOR_Y) * slope + 0.5 * spread


def pendulum(noise_scale: float = 0.0) -> SCM:
    """Builds the pendulum world: pendulum angle and light position cause the shadow.

    Yang, Liu, Chen, Shen, Hao and Wang 2021, CausalVAE: Disentangled Representation Learning via
    Neural Structural Causal Models, arXiv:2004.08697, with the geometry of its published generator.
    The light's rays are parallel to the line from the light (x, 20.5) through the pivot
    (10, 10.5), so a point (x, y) throws its shadow on the floor y = -0.5 at x - (y + 0.5) s with
    s = (light_position - 10) / 10. With a the angle, in radians, and pivot and tip of the pendulum
    9.5 apart:

      shadow_length   = max(3, 9.5 |sin a + s cos a|)
      shadow_position = 10 - 11 s + 4.75 (sin a + s cos a)       the middle of the two shadows

    The roots are uniform on the published ranges. The generator's grid is even in the angle of the
    rays and skips the vertical one, where its tangent is infinite; here the light's place is the
    variable. ``noise_scale`` is that of Gaussian noise added to length and position, in scene
    units.
    """
    effects = ("pendulum_angle", "light_position")
    return scm(
        {
            "pendulum_angle": (),
            "light_position": (),
            "shadow_length": effects,
            "shadow_position": effects,
        },
        {
            "pendulum_angle": linear({}),
            "light_position": linear({}),
            "shadow_length": Additive(_shadow_length),
            "shadow_position": Additive(_shadow_position),
        },
        {
            "pendulum_angle": Uniform(-0.2 * math.pi, 0.215 * math.pi),
            "light_position": Uniform(0.93, 17.27),
            "shadow_length": Normal(noise_scale),
            "shadow_position": Normal(noise_scale),
        },
    )


def _water_height(parents: dict[str, jax.Array]) -> jax.Array:
    return parents["ball_size"] ** 3


def _water_flow(parents: dict[str, jax.Array]) -> jax.Array:
    drop = parents["hole_position"] - _LANDING_Y
    return jnp.sqrt(jnp.maximum(2.0 * _GRAVITY * parents["water_height"] * drop, _TINY))


def flow(noise_scale: float = 0.0) -> SCM:
    """Builds the flow world: a ball raises the water, which flows out of a hole.

    Yang et al. 2021, as for ``pendulum``, with the formulas of the published generator:

      water_height = ball_size^3 + h         h on [1, 3.9], the water poured in
      water_flow   = sqrt(2 * 0.98 * water_height * (hole_position - 0.5))

    Ball size is its radius on [1/6, 17/15], the hole is on [2, 14/3] above the floor, both uniform
    as h is on the published range, and the flow is how far from the cup the jet lands: 0 where the
    hole is no higher than the landing. ``noise_scale`` is that of Gaussian noise added to the flow.
    The head is ``water_height``, not the water above the hole: the generator's, not Torricelli's.
    """
    return scm(
        {
            "ball_size": (),
            "hole_position": (),
            "water_height": ("ball_size",),
            "water_flow": ("water_height", "hole_position"),
        },
        {
            "ball_size": linear({}),
            "hole_position": linear({}),
            "water_height": Additive(_water_height),
            "water_flow": Additive(_water_flow),
        },
        {
            "ball_size": Uniform(5 / 30, 34 / 30),
            "hole_position": Uniform(6 / 3, 14 / 3),
            "water_height": Uniform(1.0, 3.9),
            "water_flow": Normal(noise_scale),
        },
    )


_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
_ORANGE, _FIREBRICK, _SKY_BLUE = (1.0, 0.65, 0.0), (0.7, 0.13, 0.13), (0.53, 0.81, 0.98)
_THICK, _THIN = 0.4, 0.25
"""Half the widths of lines, in scene units."""


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """Coverage of pixels by shapes in scene units, on a square window seen with y up.

    A pixel's coverage is 1/2 minus the signed distance of its centre to the outline, in pixels and
    clipped: exact for an upright box wider than a pixel, and differentiable in the shape.
    """

    image_size: int
    left: float
    bottom: float
    side: float

    def __post_init__(self):
        if self.image_size < 8:
            raise ValueError(f"image_size must be at least 8, got {self.image_size}.")

    @property
    def pixel(self) -> float:
        return self.side / self.image_size

    @property
    def x(self) -> jax.Array:
        centres = jnp.arange(self.image_size, dtype=float) + 0.5
        return (self.left + self.pixel * centres)[None, :]

    @property
    def y(self) -> jax.Array:
        centres = jnp.arange(self.image_size, dtype=float) + 0.5
        return (self.bottom + self.side - self.pixel * centres)[:, None]

    def covered(self, distance: jax.Array) -> jax.Array:
        return jnp.clip(0.5 - distance / self.pixel, 0.0, 1.0)

    def slab(self, coordinate: jax.Array, start, stop) -> jax.Array:
        middle, half = 0.5 * (start + stop), 0.5 * (stop - start)
        return self.covered(jnp.abs(coordinate - middle) - half)

    def box(self, left, right, bottom, top) -> jax.Array:
        return self.slab(self.x, left, right) * self.slab(self.y, bottom, top)

    def disc(self, x, y, radius) -> jax.Array:
        return self.covered(_norm(self.x - x, self.y - y) - radius)

    def line(self, x, y, end_x, end_y, half_width) -> jax.Array:
        dx, dy, along_x, along_y = self.x - x, self.y - y, end_x - x, end_y - y
        share = (dx * along_x + dy * along_y) / (along_x**2 + along_y**2)
        share = jnp.clip(share, 0.0, 1.0)
        return self.covered(_norm(dx - share * along_x, dy - share * along_y) - half_width)

    def jet(self, start_y, reach) -> jax.Array:
        """The parabola from the cup's hole to the landing, its distance to first order."""
        dx, drop = self.x - _CUP_RIGHT, start_y - _LANDING_Y
        gauge = dx**2 * drop - reach**2 * (start_y - self.y)
        slope = _norm(2.0 * dx * drop, reach**2)
        curve = self.covered(jnp.abs(gauge) / slope - _THIN)
        return curve * self.box(_CUP_RIGHT, self.left + self.side, _LANDING_Y, start_y + _THIN)

    def paint(self, *layers: tuple[jax.Array, tuple[float, float, float]]) -> jax.Array:
        """Lays each (coverage, colour) over those before it, on white."""
        image = jnp.broadcast_to(jnp.asarray(_WHITE), (self.image_size, self.image_size, 3))
        for alpha, colour in layers:
            ink = jnp.asarray(colour)[None, None, :]
            image = image + alpha[:, :, None] * (ink - image)
        return image


def _norm(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sqrt(x**2 + y**2 + _TINY)


def _take(values: Values, names: tuple[str, ...]) -> list[jax.Array]:
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"values lack {missing}: expected {names}, got {tuple(values)}.")
    return [floating(values[name]) for name in names]


def pendulum_image(values: Values, *, image_size: int = 64) -> jax.Array:
    """Returns the image (image_size, image_size, 3) in [0, 1] of one sample of ``pendulum``.

    Every variable is drawn as it is, so an intervention on the shadow shows a shadow that the light
    does not explain. The window is [-1, 21] on both axes. Differentiable in all four.

    Raises:
        ValueError: A missing variable, or an image below 8 pixels.
    """
    names = ("pendulum_angle", "light_position", "shadow_length", "shadow_position")
    angle, light, length, position = _take(values, names)
    canvas = _Canvas(image_size, -1.0, -1.0, 22.0)
    bob_x, bob_y = _PIVOT_X + _ROD * jnp.sin(angle), _PIVOT_Y - _ROD * jnp.cos(angle)
    ends = (position - 0.5 * length, position + 0.5 * length)
    return canvas.paint(
        (canvas.disc(light, _LIGHT_Y, _LIGHT_RADIUS), _ORANGE),
        (canvas.line(_PIVOT_X, _PIVOT_Y, bob_x, bob_y, _THICK), _BLACK),
        (canvas.disc(bob_x, bob_y, _BOB_RADIUS), _FIREBRICK),
        (canvas.box(*ends, _FLOOR_Y - _THICK, _FLOOR_Y + _THICK), _BLACK),
    )


def flow_image(values: Values, *, image_size: int = 64) -> jax.Array:
    """Returns the image (image_size, image_size, 3) in [0, 1] of one sample of ``flow``.

    The jet leaves the hole level and lands ``water_flow`` from the cup, whether or not the head
    explains it. The window is [0, 20] on both axes. Differentiable in all four variables.

    Raises:
        ValueError: A missing variable, or an image below 8 pixels.
    """
    names = ("ball_size", "hole_position", "water_height", "water_flow")
    radius, hole, height, reach = _take(values, names)
    canvas = _Canvas(image_size, 0.0, 0.0, 20.0)

    def wall(x, bottom, top):
        return canvas.box(x - _THIN, x + _THIN, bottom, top)

    return canvas.paint(
        (canvas.box(_CUP_LEFT, _CUP_RIGHT, 0.0, _WATER_BASE + height), _SKY_BLUE),
        (wall(_CUP_LEFT, 0.0, _CUP_TOP), _BLACK),
        (wall(_CUP_RIGHT, 0.0, hole - _THICK), _BLACK),
        (wall(_CUP_RIGHT, hole + _THICK, _CUP_TOP), _BLACK),
        (canvas.disc(0.5 * (_CUP_LEFT + _CUP_RIGHT), radius + 0.5, radius), _FIREBRICK),
        (canvas.jet(hole, reach), _SKY_BLUE),
    )


def sprites_image(
    data: Sprites, values: Values, assignment: Mapping[str, str | float]
) -> jax.Array:
    """Returns the image (h, w, c) of one sample of any model, its variables drawn as a sprite.

    ``assignment[factor]`` is the name of the variable that drives the factor, or a number that the
    factor is held at; a factor that is not named stays in the middle of its range. A variable v in
    R reaches the range of its factor's levels through low + (high - low) / (1 + exp(-v)), one to
    one and smooth, so no cause is lost from the image. (The shape is the nearest of three. Hold it
    at 3, the heart, if the orientation is driven: a half turn of the others changes nothing.) For
    another map than this one, give factor values to ``data.render``.

    Raises:
        ValueError: A factor or a variable of that name does not exist; the nearest is given.
    """
    for name in assignment:
        factor_position(data, name)
    drawn = []
    for name, factor in zip(factor_names(data), data.factors, strict=True):
        low, high = factor.values[0], factor.values[-1]
        source = assignment.get(name, 0.5 * (low + high))
        if isinstance(source, str):
            check_known(f"variable for the factor {name!r}", [source], values)
            source = low + (high - low) * jax.nn.sigmoid(values[source])
        drawn.append(floating(source))
    return data.render(jnp.stack(drawn))
