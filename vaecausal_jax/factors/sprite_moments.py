"""Read-out of rendered sprites without training: the factors solved for from image moments.

In the sprite's own frame w = e^{i orientation} d / scale, with d = dx + i dy from its centre, so
the moments c_pq = sum d^p conj(d)^q of an image are those of the shape, times
scale^(p + q + 2) e^{-i (p - q) orientation}. Hence

    scale          sqrt(c_00 of the image / c_00 of the shape)
    orientation    from c_40 of a square and c_20 of an ellipse, up to their symmetry; of a heart,
                   from c_20 up to half a turn, and from c_21 and c_30 which half
    x, y           the centroid, less the heart's own, scaled and turned
    shape          the one whose invariants c_11 / c_00^2, |c_20| / c_00^2, |c_21| / c_00^2.5 and
                   |c_40| / c_00^3 are nearest; those differ by shape and by nothing else

Exact for a sprite drawn with perfect coverage. What is lost is what a raster loses:
``readout_scores`` says how much. (Hu 1962, Visual pattern recognition by moment invariants; Flusser
2000, On the independence of rotation moment invariants.)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data import Dataset, factor_names, sprites
from vaecausal_jax.data import sprite_geometry as geometry
from vaecausal_jax.factors.readouts import Ordered, Readout, factor_codes, safe_angle

SYMMETRIES = {"orientation": ("shape", (4, 2, 1))}
"""A square repeats four times in a turn, an ellipse twice, a heart once."""

_NEEDED = ("shape", "scale", "orientation", "x", "y")
_TEMPLATE_SIZE = 256
_SHARPNESS = 8.0
"""How soon one shape's score takes over, in halves of the least distance between two shapes."""

_TINY = 1e-12


def is_sprite_world(data: Dataset) -> bool:
    """Whether ``sprite_readout`` knows the data set's factors."""
    return factor_names(data) in (_NEEDED, (*_NEEDED, "colour"))


def sprite_readout(data: Dataset, *, threshold: float = 0.0) -> Readout:
    """The exact read-out of ``sprites`` and ``DSprites``, in grey or colour.

    Orientation is read as its phase (see ``readouts.Cyclic``), since no image shows more of it.

    Args:
        data: A world of sprites.
        threshold: Pixels below it count as empty and above one minus it as full, linear between.
            0 for rendered images; about 0.1 for reconstructions, whose faint background would
            weigh far from the centre.

    Raises:
        ValueError: A data set with other factors, or a threshold outside [0, 0.5).
    """
    names = factor_names(data)
    if not is_sprite_world(data):
        raise ValueError(
            f"sprite_readout solves for {_NEEDED} (and colour), the data set has {names}. Use "
            "probes.train_probe."
        )
    if not 0.0 <= threshold < 0.5:
        raise ValueError(f"threshold must lie in [0, 0.5), got {threshold}.")
    codes = factor_codes(data, categorical=("shape",), symmetries=SYMMETRIES)
    lines = {
        factor.name: _line(factor.values, code.values)
        for factor, code in zip(data.factors, codes, strict=True)
        if isinstance(code, Ordered)
    }
    zoom = geometry.CANVAS / data.image_shape[0]

    def read(params: Any, image: Array) -> Array:
        alpha = jnp.clip((image.max(-1) - threshold) / (1 - 2 * threshold), 0.0, 1.0)
        scores, scale, phase, x, y = _solve(params, alpha, zoom)
        numbers = {"scale": scale, "x": x, "y": y}
        scale, x, y = (slope * numbers[n] + start for n, (slope, start) in lines.items())
        columns = [scores, scale[None], phase, x[None], y[None]]
        if "colour" in names:
            columns.append(_hue(image))
        return jnp.concatenate(columns)

    return Readout(jax.tree.map(jnp.asarray, _templates()), read, codes)


@functools.cache
def _templates() -> dict[str, np.ndarray]:
    """Moments of each shape at scale 1, upright, in pixels of the published canvas."""
    render = jax.jit(sprites(_TEMPLATE_SIZE).render)
    found = []
    for code in geometry.SHAPE_CODES:
        image = np.asarray(render(jnp.asarray([code, 1.0, 0.0, 0.5, 0.5])))[..., 0]
        found.append(_moments(np, image.astype(np.float64), geometry.CANVAS / _TEMPLATE_SIZE))
    mass, centroid, c11, c20, c21, c30, c40 = (np.stack(a) for a in zip(*found, strict=True))
    centre = geometry.CENTRE_START + geometry.CENTRE_SPAN / 2
    templates = {
        "mass": mass,
        "offset": centroid - complex(centre, centre),
        "turning": np.stack([c40[0], c20[1], c20[2], c21[2], c30[2]]),
        "invariants": np.stack(_invariants(np, mass, c11, c20, c21, c40), axis=-1),
    }
    return {
        name: a.astype(np.complex64 if np.iscomplexobj(a) else np.float32)
        for name, a in templates.items()
    }


def _moments(xp, alpha, pixel: float):
    """Mass, centroid x + i y and central moments c_11, c_20, c_21, c_30, c_40, in canvas pixels."""
    height, width = alpha.shape
    x, y = ((xp.arange(n) + 0.5) * pixel for n in (width, height))
    alpha = alpha * pixel**2
    mass = alpha.sum()
    safe = xp.where(mass > 0, mass, 1.0)
    centre_x, centre_y = (alpha * x[None, :]).sum() / safe, (alpha * y[:, None]).sum() / safe
    d = (x - centre_x)[None, :] + 1j * (y - centre_y)[:, None]
    square = xp.abs(d) ** 2 if xp is np else d.real**2 + d.imag**2
    c11, c20 = (alpha * square).sum(), (alpha * d**2).sum()
    c21, c30, c40 = (alpha * d * square).sum(), (alpha * d**3).sum(), (alpha * d**4).sum()
    return mass, centre_x + 1j * centre_y, c11, c20, c21, c30, c40


def _invariants(xp, mass, c11, c20, c21, c40):
    safe = xp.where(mass > 0, mass, 1.0)
    length = [xp.sqrt(c.real**2 + c.imag**2 + _TINY) for c in (c20, c21, c40)]
    return c11 / safe**2, length[0] / safe**2, length[1] / safe**2.5, length[2] / safe**3


def _solve(templates: dict[str, Array], alpha: Array, zoom: float):
    """Scores of shapes, scale, (cos, sin) of the phase, x and y in [0, 1]."""
    mass, centroid, c11, c20, c21, c30, c40 = _moments(jnp, alpha, zoom)
    known = templates["invariants"]
    invariants = jnp.stack(_invariants(jnp, mass, c11, c20, c21, c40))
    squares = jnp.sum((invariants[None] - known) ** 2, axis=1)
    between = jnp.sum((known[:, None] - known[None]) ** 2, axis=-1)
    nearest = jnp.min(jnp.where(jnp.eye(len(known), dtype=bool), jnp.inf, between)) / 4
    scores = jax.nn.softmax(-_SHARPNESS * squares / nearest)
    scales = jnp.sqrt(mass / templates["mass"] + _TINY)
    # Each shape's hypothesis; e^{-i phase} is what its turning moment was multiplied by.
    turning = templates["turning"]
    square, ellipse, axis = _unit(jnp.stack([c40, c20, c20]) / turning[:3])
    # A heart's third moments are faint: they decide only which way its axis points, by the inner
    # product of their tensors, 3 Re(c_21 conj t_21) + Re(c_30 conj t_30).
    heart = jnp.exp(0.5j * safe_angle(axis.real, axis.imag))
    match = 3 * c21 * jnp.conj(turning[3] * heart) + c30 * jnp.conj(turning[4] * heart**3)
    heart = jnp.where(match.real < 0, -heart, heart)
    turned = jnp.stack([square, ellipse, heart])
    # Only the heart has a centroid of its own, and its phase is the orientation.
    offset = jnp.where(jnp.arange(len(known)) == 2, templates["offset"] * turned, 0.0)
    centres = centroid - scales * offset
    centre, phase = jnp.sum(scores * centres), jnp.sum(scores * jnp.conj(turned))
    position = [
        (a - geometry.CENTRE_START) / geometry.CENTRE_SPAN for a in (centre.real, centre.imag)
    ]
    return scores, scores @ scales, jnp.stack([phase.real, phase.imag]), *position


def _unit(values: Array) -> Array:
    return values / jnp.sqrt(values.real**2 + values.imag**2 + _TINY)


def _hue(image: Array) -> Array:
    """(cos, sin) of a sprite's hue from its mean colour; the inverse of full saturation."""
    colour = image.sum((0, 1))
    low, high = colour.min(), colour.max()
    red, green, blue = (colour - low) / jnp.where(high > low, high - low, 1.0)
    sixths = jnp.where(
        red >= jnp.maximum(green, blue),
        green - blue,
        jnp.where(green >= blue, 2.0 + blue - red, 4.0 + red - green),
    )
    angle = 2 * jnp.pi * sixths / 6
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _line(values: tuple[float, ...], standardised: tuple[float, ...]) -> tuple[float, float]:
    """Slope and intercept of a factor's standardisation."""
    (low, *_, high), (start, *_, end) = (*values, values[-1]), (*standardised, standardised[-1])
    slope = (end - start) / (high - low) if high > low else 1.0
    return slope, start - slope * low
