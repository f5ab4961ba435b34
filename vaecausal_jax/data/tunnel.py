"""The light tunnel: a physical device whose five settings cause one another by a known model.

In the data set ``lt_crl_benchmark_v1`` of Causal Chambers (Gamella, Peters and Buehlmann 2025,
"Causal chambers as a real-world physical testbed for AI methodology",
https://doi.org/10.1038/s42256-024-00964-x) a lamp's colours and the angles of two polarizers before
it are set by a linear Gaussian model (Gamella, Bing and Runge 2025, "Sanity Checking Causal
Representation Learning on a Simple Real-World System",
https://proceedings.mlr.press/v267/gamella25a.html, appendix A.1.1), and a camera takes the picture:

    pol_1 -> red <- green <- blue -> pol_2 <- green

Here the pictures are rendered; ``tunnel_photographs`` opens the real ones. Published, in
github.com/juangamella/causal-chamber and .../causal-chamber-package:

* weights and variances of the model, means and variances of the targets in the environments
  (``datasets/lt_crl_benchmark_v1/params_buchholz_1.py``);
* from the model to the settings: each variable in its observational standard deviations, times 25.5
  about 127.5 for a colour and times 18 degrees for an angle (``generators/buchholz_1.py``);
* the image, model F3 of the first paper's appendix IV.2.2 (``simulators/lt/image/models_f.py``),
  with the parameters of its tutorial (``tutorial_ModelsF``): data of the camera and the polarizers,
  and an exposure chosen for photographs of another data set, whose camera was set otherwise.

Ours: seven levels per factor, from -2.5 to 2.5 standard deviations, and tables in which a level has
the model's Gaussian probability of its cell given the levels of its causes. The linear model is so
kept but for rounding: coefficients within 3 %. What lies beyond the outermost levels falls on them:
0.4 % of a factor, 15 % of blue where an environment sets it, so that its mean is -1.4 standard
deviations there, where the published one is -1.6. The standard deviations are the model's, where
the published ones are of 10,000 draws, and no setting is rounded to what the device can take.

Of the angles only |pol_1 - pol_2| reaches the image, through Malus' law. Turning both alike does
exactly nothing, which ``turned_pairs`` makes a control for every question that is asked of pairs.
By the same symmetry a minimal pair of one polarizer may show one image twice.
"""

import itertools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from vaecausal_jax.data.causal_worlds import CausalWorld, causal_world
from vaecausal_jax.data.dataset import Factor, factor_names, sample_factors
from vaecausal_jax.data.pairs import Pairs, level_pairs
from vaecausal_jax.errors import unknown_choice

NAMES = ("red", "green", "blue", "pol_1", "pol_2")
"""Brightness of the lamp's three colours, 0 to 255, and the polarizers' angles in degrees."""

WEIGHTS = {
    "red": {"green": 0.71943922, "pol_1": 0.84868401},
    "green": {"blue": 0.89303215},
    "pol_2": {"green": 0.67726298, "blue": 0.98534901},
}
"""Of the causes of each factor that has any, in the units of the model."""

ENVIRONMENTS = ("obs", *NAMES)
"""Nothing set ("obs"), or the factor whose mechanism is replaced by a Gaussian of its own."""

_VARIANCES = (1.3855493, 1.16426732, 1.00502177, 1.95646855, 1.27482347)
"""Of the noise of each factor."""

_SET_MEANS = (1.16920556, 1.47496736, -1.60596209, -1.96578519, 1.0117071)
_SET_VARIANCES = (1.94878138, 1.35886756, 1.57343313, 1.1021785, 1.30511067)

_PLACES = np.linspace(-2.5, 2.5, 7)
"""The levels, in standard deviations."""

_RESPONSE = (
    (0.2995802, 0.06920322, 0.028159),
    (0.04017132, 0.9209918, 0.31265),
    (0.00217392, 0.2071558, 0.75763),
)
"""Of the camera's red, green and blue to the lamp's."""

_WHITE_BALANCE = (2.65625, 1.0, 1.77344)
_EXPOSURE = 2.5
_ALIGNED = (0.29, 0.35, 0.33)
_CROSSED = (0.02, 0.08, 0.18)
"""Parts of red, green and blue light that pass polarizers at 0 and at 90 degrees."""

_RADIUS = 0.22
"""Of the hexagon, in widths of the image."""


@flax.struct.dataclass
class TunnelImages:
    """Rendered pictures of the tunnel; a pytree without leaves. ``tunnel`` builds it.

    Attributes:
        factors: Red, green, blue, pol_1 and pol_2.
        image_shape: (side, side, 3).
    """

    factors: tuple[Factor, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the image (h, w, 3) at integer levels (factor,)."""
        values = [
            jnp.asarray(factor.values, jnp.float32)[factors[position]]
            for position, factor in enumerate(self.factors)
        ]
        return tunnel_image(jnp.stack(values), self.image_shape[0])


def tunnel(image_size: int = 64, *, environment: str = "obs") -> CausalWorld:
    """Builds the rendered world: 16,807 images of a coloured hexagon on black.

    The do-environments are those of the data set: their factor no longer listens to its causes and
    scatters about another mean. ``world.levels(noise, do)`` of any of them sets a factor to a
    level.

    Args:
        image_size: Side of the images; 64 is that of the photographs.
        environment: One of ``ENVIRONMENTS``.

    Raises:
        ValueError: An image below 16 pixels, or an unknown environment.
    """
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 to show the hexagon, got {image_size}.")
    if environment not in ENVIRONMENTS:
        raise ValueError(unknown_choice("environment", environment, ENVIRONMENTS))
    data = TunnelImages(tuple(map(_factor, NAMES)), (image_size, image_size, 3))
    causes = {name: tuple(weights) for name, weights in WEIGHTS.items() if name != environment}
    tables = {name: _table(name, environment) for name in NAMES}
    return causal_world(data, causes, tables)


def _factor(name: str) -> Factor:
    center, scale = (0.0, 18.0) if name.startswith("pol") else (127.5, 25.5)
    values = center + scale * _PLACES
    # Angles come out whole, so that their differences are exact.
    values = np.round(values, 12)
    return Factor(name, tuple(values.tolist()), len(values), cyclic=False)


def nearest_levels(settings: jax.Array) -> jax.Array:
    """The levels (..., 5) int32 nearest to settings (..., 5): red, green, blue, pol_1, pol_2.

    What lies beyond the outermost levels belongs to them.
    """
    values = jnp.asarray([_factor(name).values for name in NAMES], settings.dtype)
    apart = jnp.abs(settings[..., None] - jnp.expand_dims(values, range(settings.ndim - 1)))
    return jnp.argmin(apart, axis=-1).astype(jnp.int32)


def _standard_deviations() -> dict[str, float]:
    """Of each factor in the observational model: the noise of all, summed over paths."""
    weights = np.zeros((len(NAMES), len(NAMES)))
    for effect, causes in WEIGHTS.items():
        for cause, weight in causes.items():
            weights[NAMES.index(effect), NAMES.index(cause)] = weight
    paths = np.linalg.inv(np.eye(len(NAMES)) - weights)
    return dict(zip(NAMES, np.sqrt(paths**2 @ np.array(_VARIANCES)).tolist(), strict=True))


def _table(name: str, environment: str) -> np.ndarray:
    """Probabilities of a factor's levels given its causes' levels, an axis each."""
    sd, position = _standard_deviations(), NAMES.index(name)
    if name == environment:
        mean, variance = np.array(_SET_MEANS[position]), _SET_VARIANCES[position]
    else:
        terms = [weight * sd[cause] * _PLACES for cause, weight in WEIGHTS.get(name, {}).items()]
        mean = sum(np.ix_(*terms), np.zeros(()))
        variance = _VARIANCES[position]
    between = np.array([-np.inf, *(_PLACES[1:] + _PLACES[:-1]) / 2.0, np.inf])
    cells = scipy.special.ndtr((sd[name] * between - mean[..., None]) / np.sqrt(variance))
    return np.diff(cells, axis=-1)


def tunnel_image(factors: jax.Array, size: int) -> jax.Array:
    """The picture (size, size, 3) in [0, 1] that the published optics give of one setting.

    With lamp L in [0, 1]^3, response S, white balance w, exposure e and the part of light that
    passes aligned (T_p) and crossed (T_c) polarizers, the hexagon has the colour

        clip(e w S L ((T_p - T_c) cos^2(|pol_1 - pol_2|) + T_c), 0, 1),

    and all else is black. Differentiable in the settings, except where it is clipped. Settings with
    exactly one |pol_1 - pol_2| have bitwise one image; in float32 a turn of both by the same angle
    keeps it where the angles are whole, or multiples of a power of two.

    Args:
        factors: Red, green, blue (0 to 255), pol_1 and pol_2 (degrees), (5,).
        size: Side of the image.

    Raises:
        ValueError: Another shape.
    """
    if jnp.shape(factors) != (len(NAMES),):
        raise ValueError(
            f"expected one value for each of {NAMES}, got shape {jnp.shape(factors)}: batch with "
            "jax.vmap."
        )
    lamp = factors[:3] / 255.0
    passed = jnp.cos(jnp.deg2rad(jnp.abs(factors[3] - factors[4]))) ** 2
    aligned, crossed = (jnp.asarray(part, lamp.dtype) for part in (_ALIGNED, _CROSSED))
    # Summed by hand: a matrix product is rounded to 10 bits on some accelerators.
    seen = jnp.sum(jnp.asarray(_RESPONSE, lamp.dtype) * lamp[None, :], axis=1)
    gain = _EXPOSURE * jnp.asarray(_WHITE_BALANCE, lamp.dtype)
    color = gain * seen * ((aligned - crossed) * passed + crossed)
    lit = jnp.asarray(_hexagon(size), color.dtype)
    return lit[:, :, None] * jnp.clip(color, 0.0, 1.0)[None, None, :]


def _hexagon(size: int) -> np.ndarray:
    """1.0 at pixels within the lamp's outline, whose corners lie left and right; else 0.0."""
    across = np.arange(size) - size / 2.0
    up = across[::-1, None]
    height = _RADIUS * size * np.sqrt(3.0) / 2.0
    slanted = np.abs(across) * np.sqrt(3.0) / 2.0 + np.abs(up) / 2.0
    return ((np.abs(up) <= height) & (slanted <= height)).astype(np.float32)


def turned_pairs(key: jax.Array, world: CausalWorld, num: int, noise_shape: Sequence[int]) -> Pairs:
    """Draws pairs of settings whose polarizers differ and whose images are bitwise the same.

    The second row has other angles with the first one's |pol_1 - pol_2|: both turned alike, or
    exchanged and turned, uniformly among all that the levels allow. As in a minimal pair, nothing
    follows: colours stay. Whatever effect a method finds in these pairs is its error.

    Args:
        key: Typed PRNG key.
        world: ``tunnel`` in any environment.
        num: How many pairs.
        noise_shape: Shape of one run's ``eps``: ``model.noise_shape``.

    Raises:
        ValueError: Another world.
    """
    if factor_names(world) != NAMES:
        raise ValueError(
            "turned_pairs turns the polarizers of the tunnel, got a world of "
            f"{', '.join(factor_names(world))}: build it with tunnel()."
        )
    rows_key, angles_key, noise_key = jax.random.split(key, 3)
    before = sample_factors(rows_key, world, num)
    levels = len(_PLACES)
    angles = np.array(list(itertools.product(range(levels), repeat=2)), np.int32)
    apart = np.abs(angles[:, 0] - angles[:, 1])
    allowed = (apart[:, None] == apart[None, :]) & ~np.eye(len(angles), dtype=bool)
    weights = jnp.where(allowed, 0.0, -jnp.inf)[before[:, 3] * levels + before[:, 4]]
    turned = jnp.asarray(angles)[jax.random.categorical(angles_key, weights)]
    return level_pairs(noise_key, world, before, before.at[:, 3:].set(turned), noise_shape)
