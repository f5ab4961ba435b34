"""The smooth sprite world: areas, symmetries and gradients that can be worked out by hand."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import sprite_geometry as geometry

SQUARE, ELLIPSE, HEART = 1.0, 2.0, 3.0
# Areas of the outlines at scale 1 in published pixels; the heart's from its table, by sectors.
ANGLES, RADII = np.radians(geometry.HEART_ANGLES), geometry.HEART_RADII
FINE = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
AREAS = {
    SQUARE: (2 * 9.5996) ** 2,
    ELLIPSE: math.pi * 12.7735 * 7.2223,
    HEART: np.trapezoid(np.interp(FINE, ANGLES, RADII) ** 2, FINE),
}


draw = jax.jit(vd.Sprites.render)


def render(shape, scale=1.0, orientation=0.0, x=0.5, y=0.5, *, size=64):
    values = jnp.asarray([shape, scale, orientation, x, y])
    return draw(vd.sprites(size), values)[:, :, 0]


def supersampled(shape, scale, orientation, x, y, *, size, fine=16):
    """The covered part of every pixel by counting fine x fine points in it."""
    points = (np.arange(size * fine) + 0.5) / fine * 64 / size
    dx, dy = np.meshgrid(points - 16 - 32 * x, points - 16 - 32 * y)
    u = (np.cos(orientation) * dx - np.sin(orientation) * dy) / scale
    v = (np.sin(orientation) * dx + np.cos(orientation) * dy) / scale
    if shape == SQUARE:
        inside = np.maximum(np.abs(u), np.abs(v)) < geometry.SQUARE_HALF_SIDE
    elif shape == ELLIPSE:
        inside = np.hypot(u / 12.7735, v / 7.2223) < 1
    else:
        inside = np.hypot(u, v + 1) < np.interp(np.arctan2(v + 1, np.abs(u)), ANGLES, RADII)
    return inside.reshape(size, fine, size, fine).mean(axis=(1, 3))


def test_factors_and_grid():
    data = vd.sprites(32, colour=True, num_positions=16)
    assert vd.factor_names(data) == ("shape", "scale", "orientation", "x", "y", "colour")
    assert vd.factor_sizes(data) == (3, 6, 39, 16, 16, 8)
    assert data.image_shape == (32, 32, 3)
    assert [factor.cyclic for factor in data.factors] == [False, False, True, False, False, True]
    assert all(factor.num_distinct == factor.size for factor in data.factors)
    assert data.factors[1].values[0] == 0.5
    assert data.factors[1].values[-1] == 1.0
    np.testing.assert_allclose(data.factors[2].values[1], 2 * np.pi / 39)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_centre_is_lit_and_corners_are_dark(shape, size):
    image = render(shape, 0.5, 0.7, size=size)
    assert image[size // 2, size // 2] == 1.0
    assert image[0, 0] == image[-1, -1] == 0.0


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0])
def test_area_of_an_upright_square_is_exact(scale):
    image = render(SQUARE, scale, x=0.43, y=0.61)
    np.testing.assert_allclose(image.sum(), scale**2 * AREAS[SQUARE], rtol=1e-5)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
@pytest.mark.parametrize(("size", "tolerance"), [(64, 0.02), (128, 0.006)])
def test_areas_match_the_outline(shape, size, tolerance):
    area = AREAS[shape] * 0.75**2 * (size / 64) ** 2
    np.testing.assert_allclose(render(shape, 0.75, 1.1, size=size).sum(), area, rtol=tolerance)


@pytest.mark.parametrize(
    ("shape", "largest", "mean"), [(SQUARE, 0.08, 0.01), (ELLIPSE, 0.08, 0.01), (HEART, 0.5, 0.02)]
)
def test_coverage_matches_counting_points_inside(shape, largest, mean):
    rng = np.random.default_rng(0)
    for _ in range(4):
        scale, turn, x, y = rng.uniform([0.5, 0.0, 0.0, 0.0], [1.0, 6.3, 1.0, 1.0])
        expected = supersampled(shape, scale, turn, x, y, size=64)
        error = np.abs(render(shape, scale, turn, x, y) - expected)
        # The heart's notch narrows below a pixel: there, and only there, the error is large.
        assert error.max() < largest
        assert error[expected > 0].mean() < mean


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_moving_by_whole_pixels_rolls_the_image(shape):
    before = render(shape, 0.9, 0.4, x=0.25, y=0.5)
    after = render(shape, 0.9, 0.4, x=0.25 + 5 / 32, y=0.5 - 3 / 32)
    chex.assert_trees_all_close(after, jnp.roll(before, (-3, 5), axis=(0, 1)), atol=1e-4)


def test_y_points_down_and_the_heart_has_its_tip_there():
    image = np.asarray(render(HEART))
    rows, _ = np.nonzero(image > 0.1)
    assert rows.min() == pytest.approx(32 - 9.3, abs=1.0)
    assert rows.max() == pytest.approx(31 + 9.6, abs=1.0)
    assert image[24, 36] > 0.9  # right lobe
    assert image[24, 31] < 0.5  # notch
    np.testing.assert_allclose(image, image[:, ::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "turn", "same"),
    [
        (SQUARE, math.pi / 2, True),
        (SQUARE, math.pi / 4, False),
        (ELLIPSE, math.pi, True),
        (ELLIPSE, math.pi / 2, False),
        (HEART, 2 * math.pi, True),
        (HEART, math.pi, False),
    ],
)
def test_rotational_symmetries(shape, turn, same):
    arms = (render(shape, 0.8, angle, x=0.3, y=0.4) for angle in (0.3, 0.3 + turn))
    difference = jnp.abs(next(arms) - next(arms)).max()
    assert (difference < 1e-4) == same


def test_a_quarter_turn_rotates_the_heart_as_in_dsprites():
    # u = -dy, v = dx at 90 degrees: the tip (v > 0) then points right.
    upright, turned = render(HEART), render(HEART, orientation=math.pi / 2)
    chex.assert_trees_all_close(turned, jnp.rot90(upright), atol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pixels_covered_by_half_are_those_of_the_exact_world(level):
    exact = vd.dsprites_exact()
    rows = vd.do_factor(vd.sample_factors(jax.random.key(0), exact, 64), 0, level)
    grid = [jnp.asarray(factor.values) for factor in exact.factors]
    values = jnp.stack([grid[k][rows[:, k]] for k in range(5)], axis=1)
    smooth = jax.jit(jax.vmap(vd.sprites(64).render))(values)
    wrong = ((smooth > 0.5) != (jax.jit(vd.images)(exact, rows) > 0.5)).sum(axis=(1, 2, 3))
    # Only pixels whose centre the outline all but touches: corners, the heart's notch and tip.
    assert wrong.max() <= 4
    assert wrong.mean() < 1.0


@jax.jit
def score(values, weights):
    return jnp.sum(weights * vd.sprites(32).render(values) ** 2)


score_gradient = jax.jit(jax.grad(score))
score_tangents = jax.jit(jax.jacfwd(score))


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_matches_finite_differences(shape, seed):
    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(seed).normal(size=(32, 32, 1)))
        values = jnp.asarray([shape, 0.81, 0.47, 0.53, 0.38])
        gradient = score_gradient(values, weights)
        for position in range(1, 5):
            step = 1e-6 * jnp.eye(5)[position]
            slope = (score(values + step, weights) - score(values - step, weights)) / 2e-6
            np.testing.assert_allclose(gradient[position], slope, rtol=1e-5, atol=1e-5)
        assert gradient[0] == 0.0


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_gradient_is_finite_with_the_centre_on_a_pixel_centre(shape):
    values = jnp.asarray([shape, 0.7, 0.0, 0.5 + 0.5 / 16, 0.5 + 1.5 / 16])
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(32, 32, 1)), jnp.float32)
    gradient = score_gradient(values, weights)
    assert jnp.isfinite(gradient).all()
    chex.assert_trees_all_close(gradient, score_tangents(values, weights), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("hue", "rgb"), [(0.0, (1, 0, 0)), (1 / 3, (0, 1, 0)), (2 / 3, (0, 0, 1)), (1 / 6, (1, 1, 0))]
)
def test_hues(hue, rgb):
    world = vd.sprites(32, colour=True)
    image = world.render(jnp.asarray([SQUARE, 1.0, 0.0, 0.5, 0.5, hue]))
    np.testing.assert_allclose(image[16, 16], rgb, atol=1e-6)
    np.testing.assert_allclose(image[0, 0], 0.0)


@pytest.mark.thorough
@pytest.mark.parametrize("colour", [False, True])
def test_images_are_float32_in_unit_interval_and_vmap_and_jit_equal_a_loop(colour):
    world = vd.sprites(32, colour=colour)
    rows = vd.sample_factors(jax.random.key(0), world, 8)
    batch = vd.images(world, rows)
    assert batch.shape == (8, *world.image_shape)
    assert batch.dtype == jnp.float32
    assert batch.min() == 0.0
    assert batch.max() == 1.0
    chex.assert_trees_all_close(batch, jnp.stack([world.image(row) for row in rows]), atol=1e-5)
    chex.assert_trees_all_close(batch, jax.jit(vd.images)(world, rows), atol=1e-5)


def test_equal_worlds_share_a_trace():
    traced = jax.jit(chex.assert_max_traces(vd.images, n=1))
    for _ in range(2):
        traced(vd.sprites(16), jnp.zeros((2, 5), jnp.int32))
    assert jax.tree.leaves(vd.sprites(16)) == []


@pytest.mark.parametrize("name", ["shape", "scale", "orientation", "x", "y", "colour"])
def test_minimal_pairs_differ_in_pixels(name):
    world = vd.sprites(32, colour=True)
    source, target = vd.minimal_levels(jax.random.key(0), world, name, 400)
    draw_all = jax.jit(vd.images)
    difference = draw_all(world, source) - draw_all(world, target)
    assert jnp.abs(difference).max(axis=(1, 2, 3)).min() > 1e-2


def test_the_smooth_outline_of_the_heart_fits_the_table():
    u, v = RADII * np.cos(ANGLES), RADII * np.sin(ANGLES) - 1.0
    radius = np.hypot(u, v)
    sine, cosine = v / radius, u / radius
    series = np.polynomial.polynomial.polyval(sine, geometry.HEART_SINE_SERIES)
    series += cosine * np.polynomial.polynomial.polyval(sine, geometry.HEART_COSINE_SERIES)
    assert np.abs(series - radius).max() < 0.12
    assert np.sqrt(np.mean((series - radius) ** 2)) < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 4}, "image_size must be at least 8 to hold a sprite, got 4"),
        ({"num_scales": 0}, "num_scales must be at least 1, got 0"),
        ({"num_orientations": -1}, "num_orientations must be at least 1"),
        ({"num_positions": 0}, "num_positions must be at least 1"),
        ({"num_colours": 0}, "num_colours must be at least 1"),
    ],
)
def test_bad_inputs_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        vd.sprites(**options)
