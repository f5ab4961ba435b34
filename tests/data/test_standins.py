"""The rendered stand-ins: published grids, images that every level changes, gradients, geometry."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import mpi3d, shapes3d
from vaecausal_jax.data import rays as _rays

ROOM, ARM = vd.shapes3d_standin(32), vd.mpi3d_standin(32)
WORLDS = pytest.mark.parametrize("data", [ROOM, ARM], ids=["3DShapes", "MPI3D"])


@jax.jit
def draw_room(values):
    return ROOM.render(values)


@jax.jit
def draw_arm(values):
    return ARM.render(values)


RENDER = {"Shapes3DStandIn": draw_room, "MPI3DStandIn": draw_arm}


@pytest.fixture(scope="module")
def images():
    return jax.jit(vd.images)


def test_factors_are_those_of_the_published_sets():
    assert vd.factor_names(ROOM) == shapes3d.FACTOR_NAMES
    assert vd.factor_sizes(ROOM) == shapes3d.FACTOR_SIZES == (10, 10, 10, 8, 4, 15)
    assert vd.factor_names(ARM) == mpi3d.FACTOR_NAMES
    assert vd.factor_sizes(ARM) == mpi3d.FACTOR_SIZES == (6, 6, 2, 3, 3, 40, 40)
    assert vd.num_images(ROOM) == 480_000
    assert vd.num_images(ARM) == 1_036_800
    assert vd.shapes3d_standin().image_shape == vd.mpi3d_standin().image_shape == (64, 64, 3)
    for data in (ROOM, ARM):
        assert all(factor.num_distinct == factor.size for factor in data.factors)


@WORLDS
def test_stand_ins_say_what_they_are(data):
    assert "stand-in, not the published" in repr(data)
    assert "StandIn" in type(data).__name__
    assert "stand-in" in (type(data).__doc__ or "")


@pytest.mark.thorough
@WORLDS
def test_images_are_finite_pixels_and_jit_vmap_and_a_loop_agree(data, images):
    rows = vd.sample_factors(jax.random.key(0), data, 64)
    drawn = images(data, rows)
    assert drawn.dtype == jnp.float32
    assert drawn.shape == (64, 32, 32, 3)
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0
    loop = jnp.stack([RENDER[type(data).__name__](values_at(data, row)) for row in rows[:3]])
    chex.assert_trees_all_close(drawn[:3], loop, atol=2e-5)


def values_at(data, row):
    grid = zip(data.factors, np.asarray(row), strict=True)
    return jnp.asarray([factor.values[level] for factor, level in grid], jnp.float32)


@pytest.mark.thorough
@WORLDS
def test_every_level_of_every_factor_gives_another_image(data, images):
    """From several base rows: the smallest change between any two levels is visible in 8 bits."""
    bases = np.asarray(vd.sample_factors(jax.random.key(1), data, 4))
    for position, factor in enumerate(data.factors):
        rows = np.repeat(bases[:, None], factor.size, axis=1)
        rows[..., position] = np.arange(factor.size)
        drawn = images(data, np.resize(rows.reshape(-1, len(data.factors)), (160, bases.shape[1])))
        drawn = np.asarray(drawn)[: 4 * factor.size].reshape(4, factor.size, -1)
        gap = np.abs(drawn[:, :, None] - drawn[:, None, :]).max(axis=-1)
        gap += np.eye(factor.size)
        assert gap.min() > 4 / 255, (factor.name, gap.min())


@WORLDS
def test_minimal_pairs_differ_in_the_image(data, images):
    for position, name in enumerate(vd.factor_names(data)):
        source, target = vd.minimal_levels(jax.random.key(position), data, name, 160)
        difference = jnp.abs(images(data, source) - images(data, target))
        assert difference.max(axis=(1, 2, 3)).min() > 4 / 255, name


# Any weights on the pixels do: the derivative is exact wherever no edge sits on a kink.
WEIGHTS = np.random.default_rng(0).normal(size=(32, 32, 3))


@pytest.fixture(scope="module")
def scores():
    """Name of a world to its jitted score of factor values and the score's gradient."""

    def score_of(data):
        return lambda values: jnp.sum(data.render(values) * jnp.asarray(WEIGHTS))

    return {
        type(data).__name__: (jax.jit(score_of(data)), jax.jit(jax.grad(score_of(data))))
        for data in (ROOM, ARM)
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("data", "base", "continuous", "shape_at"),
    [
        (ROOM, [0.13, 0.57, 0.31, 0.96, 0.0, 11.3], (0, 1, 2, 3, 5), 4),
        (ARM, [2.0, 1.0, 0.47, 24.3, 1.0, 31.7, 22.9], (2, 3, 5, 6), 1),
    ],
    ids=["3DShapes", "MPI3D"],
)
def test_gradients_equal_finite_differences_in_every_continuous_factor(
    scores, data, base, continuous, shape_at
):
    score, slope = scores[type(data).__name__]
    for shape in range(data.factors[shape_at].size):
        values = np.array(base)
        values[shape_at] = shape
        with jax.enable_x64(True):
            gradient = np.asarray(slope(values))
            for position in continuous:
                step = 1e-6 * np.eye(len(values))[position]
                found = float(score(values + step) - score(values - step)) / 2e-6
                name = data.factors[position].name
                assert abs(found) > 1e-3, name
                np.testing.assert_allclose(
                    gradient[position], found, rtol=1e-5, atol=1e-6, err_msg=f"{name} {shape}"
                )


@WORLDS
def test_gradients_are_finite_all_over_the_grid(scores, data):
    _, slope = scores[type(data).__name__]
    for row in np.asarray(vd.sample_factors(jax.random.key(3), data, 24)):
        values = [factor.values[level] for factor, level in zip(data.factors, row, strict=True)]
        with jax.enable_x64(True):
            assert np.isfinite(slope(np.array(values))).all()


def colour_of(image, place):
    return np.asarray(image[place])


def test_hues_colour_the_floor_the_wall_and_the_solid():
    red, green, blue = 0.0, 1 / 3, 2 / 3
    image = draw_room(jnp.asarray([red, green, blue, 1.0, 2.0, 0.0]))
    for place, channel in (((29, 3), 0), ((5, 16), 1), ((16, 16), 2)):
        colour = colour_of(image, place)
        assert colour[channel] > 0.3, (place, colour)
        np.testing.assert_allclose(np.delete(colour, channel), 0.0, atol=1e-3)


@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_the_ball_covers_the_disc_that_perspective_gives_it(scale):
    image = jax.jit(vd.shapes3d_standin(64).render)(jnp.asarray([0.0, 0.0, 2 / 3, scale, 2.0, 0.0]))
    area = float(jnp.sum(jnp.clip(image[..., 2] / image.max(axis=-1), 0, 1)[8:]))
    # A ball of radius r at distance d shows a disc of tan = r / sqrt(d^2 - r^2) about its centre,
    # somewhat longer away from the middle of the image.
    eye, aim, centre = np.array([0, 2.9, -5.8]), np.array([0, 1.0, 0]), np.array([0, scale, 0])
    d = np.linalg.norm(centre - eye)
    off = (centre - eye) @ (aim - eye) / d / np.linalg.norm(aim - eye)
    size = scale / np.sqrt(d**2 - scale**2) / 0.52 * 32
    np.testing.assert_allclose(area, np.pi * size**2 / off**3, rtol=0.05)


def test_turning_the_camera_moves_the_corner_and_mirrors_about_zero():
    walls = [draw_room(jnp.asarray([0.0, 0.6, 0.3, 1.0, 2.0, angle])) for angle in (-20.0, 20.0)]
    # The upper quarter shows walls and sky alone: their outlines mirror, their shades do not.
    lit = [np.asarray(wall[:8].max(axis=-1) > 0.05) for wall in walls]
    np.testing.assert_array_equal(lit[0], lit[1][:, ::-1])
    assert jnp.abs(walls[0] - walls[1][:, ::-1]).max() > 0.1


def object_of(values):
    """Where the arm's image differs from that of an object of another colour."""
    other = np.array(values)
    other[0] = 0.0 if values[0] != 0.0 else 2.0
    changed = jnp.abs(draw_arm(jnp.asarray(values)) - draw_arm(jnp.asarray(other))).sum(axis=-1)
    rows, columns = np.nonzero(np.asarray(changed) > 0.1)
    return rows, columns


def test_axes_move_the_object_sideways_and_up():
    def middle(horizontal, vertical):
        rows, columns = object_of([2.0, 5.0, 0.4, 32.0, 0.0, horizontal, vertical])
        return rows.mean(), columns.mean()

    places = [middle(angle, 10.0) for angle in (-60.0, -20.0, 20.0, 60.0)]
    assert np.all(np.diff([column for _, column in places]) > 2.0)
    np.testing.assert_allclose(places[0][1] + places[3][1], 31.0, atol=0.3)
    heights = [middle(40.0, angle)[0] for angle in (-15.0, 15.0, 45.0)]
    assert np.all(np.diff(heights) < -2.0)


def test_larger_objects_cover_more_and_colour_stays_on_the_object():
    small, large = (
        len(object_of([2.0, 5.0, size, 32.0, 1.0, 30.0, 20.0])[0]) for size in (0.36, 0.54)
    )
    assert large / small == pytest.approx((0.54 / 0.36) ** 2, rel=0.25)


def test_the_nearer_of_two_solids_hides_the_other_whatever_their_order():
    one = jnp.ones((1, 1))
    near, far = _rays.Hit(0.7 * one, 2.0 * one), _rays.Hit(one, 5.0 * one)
    parts = _rays.seen([near, far], softness=0.1)
    np.testing.assert_allclose(np.ravel(jnp.stack(parts)), [0.7, 0.3, 0.0], atol=1e-6)
    parts = _rays.seen([far, near], softness=0.1)
    np.testing.assert_allclose(np.ravel(jnp.stack(parts)), [0.3, 0.7, 0.0], atol=1e-6)


def test_marching_finds_a_ball_where_algebra_does():
    zero = jnp.asarray(0.0)
    eye, target = _rays.Vector(zero, zero, jnp.asarray(-5.0)), _rays.Vector(zero, zero, zero)
    rays = _rays.camera(eye, target, image_size=33, field=0.5)

    def ball(p):
        return jnp.sqrt(_rays.dot(p, p)) - 1.0

    hit = _rays.march(rays, ball, target, jnp.asarray(1.3), num_steps=20)
    d = np.stack([np.broadcast_to(c, (33, 33)) for c in rays.direction], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(d, axis=-1), 1.0, atol=1e-6)
    along = 5.0 * d[..., 2]
    gap = np.sqrt(25.0 - along**2)
    inside, half = gap < 0.9, np.sqrt(np.maximum(1.0 - gap**2, 0.0))
    np.testing.assert_allclose(hit.depth[inside], (along - half)[inside], atol=1e-2)
    # Half a pixel to either side of the outline the cover is 0 or 1, on it one half.
    pixels = (gap - 1.0) / (rays.pixel * along)
    np.testing.assert_allclose(hit.cover, np.clip(0.5 - pixels, 0, 1), atol=0.12)
    np.testing.assert_array_equal(np.asarray(hit.cover)[pixels > 0.55], 0.0)
    np.testing.assert_array_equal(np.asarray(hit.cover)[pixels < -1.5], 1.0)
    towards = _rays.Vector(zero, zero, jnp.asarray(-1.0))
    cosine = _rays.facing(ball, rays.at(hit.depth), towards)
    np.testing.assert_allclose(cosine[16, 16], 1.0, atol=1e-3)


@pytest.mark.parametrize("make", [vd.shapes3d_standin, vd.mpi3d_standin])
def test_sizes_that_show_nothing_are_refused(make):
    with pytest.raises(ValueError, match="at least 16 to tell the shapes, got 8"):
        make(8)
