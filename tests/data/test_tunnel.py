"""The light tunnel: optics by hand, the linear model in tables, a change that no image shows."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import causal_worlds
from vaecausal_jax.data.tunnel import NAMES, tunnel_image, turned_pairs

RED, GREEN, BLUE, POL_1, POL_2 = range(5)
WORLD = vd.tunnel(16)
JOINT = causal_worlds.interventional_table(WORLD, {})


def hexagon_color(red, green, blue, pol_1, pol_2, size=32):
    image = tunnel_image(jnp.array([red, green, blue, pol_1, pol_2]), size)
    return np.asarray(image[size // 2, size // 2])


def standardised(factor):
    """Levels in the standard deviations of the published model: 25.5 of colour, 18 degrees."""
    values = np.array(factor.values)
    return values / 18.0 if factor.name.startswith("pol") else (values - 127.5) / 25.5


def moments(joint):
    """Mean (5,) and covariance (5, 5) of the standardised factors under an exact table."""
    rows = np.stack(
        [p.reshape(-1) for p in np.meshgrid(*map(standardised, WORLD.factors), indexing="ij")]
    )
    weights = joint.reshape(-1)
    mean = rows @ weights
    centred = rows - mean[:, None]
    return mean, (centred * weights) @ centred.T


def model_covariance():
    """Of the published model: its paths summed by a matrix inverse."""
    weights = np.zeros((5, 5))
    weights[GREEN, RED], weights[GREEN, POL_2] = 0.71943922, 0.67726298
    weights[BLUE, GREEN], weights[BLUE, POL_2] = 0.89303215, 0.98534901
    weights[POL_1, RED] = 0.84868401
    noise = np.diag([1.3855493, 1.16426732, 1.00502177, 1.95646855, 1.27482347])
    paths = np.linalg.inv(np.eye(5) - weights)
    return weights, paths.T @ noise @ paths


@pytest.mark.parametrize(
    ("angles", "transmitted"),
    [
        ((0.0, 0.0), (0.29, 0.35, 0.33)),
        ((30.0, 30.0), (0.29, 0.35, 0.33)),
        ((45.0, -45.0), (0.02, 0.08, 0.18)),  # Crossed: a bluish rest, not black.
        ((-30.0, 15.0), (0.155, 0.215, 0.255)),  # cos^2 45 = 1 / 2.
        ((60.0, 0.0), (0.0875, 0.1475, 0.2175)),  # cos^2 60 = 1 / 4.
    ],
)
def test_malus_law_and_the_camera_by_hand(angles, transmitted):
    # Half of each lamp: the rows of the camera's response, summed and halved.
    seen = np.array([0.39694242, 1.27381382, 0.96695952]) / 2.0
    expected = 2.5 * np.array([2.65625, 1.0, 1.77344]) * seen * np.array(transmitted)
    color = hexagon_color(127.5, 127.5, 127.5, *angles)
    np.testing.assert_allclose(color, expected, rtol=1e-5)


def test_one_lamp_reaches_the_other_channels():
    # Columns of the published response: green light reaches blue, red light hardly.
    color = hexagon_color(0.0, 51.0, 0.0, 0.0, 0.0)
    expected = 0.5 * np.array([2.65625 * 0.06920322, 0.9209918, 1.77344 * 0.2071558])
    np.testing.assert_allclose(color, expected * [0.29, 0.35, 0.33], rtol=1e-5)


def test_light_beyond_the_sensor_is_clipped_and_no_light_is_black():
    assert hexagon_color(255.0, 255.0, 255.0, 0.0, 0.0)[2] == 1.0
    chex.assert_trees_all_equal(tunnel_image(jnp.zeros(5), 16), jnp.zeros((16, 16, 3)))


def test_the_gradient_is_that_of_malus_law():
    def blue(angle):
        return tunnel_image(jnp.array([0.0, 0.0, 51.0, angle, 10.0]), 16)[8, 8, 2]

    # d/da cos^2 a = -sin 2a, per degree; here a = 30.
    slope = -np.sin(np.pi / 3.0) * np.pi / 180.0
    expected = 0.5 * 1.77344 * 0.75763 * (0.33 - 0.18) * slope
    assert jax.grad(blue)(40.0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [32, 64, 200])
def test_the_image_is_a_hexagon_of_one_color_on_black(size):
    image = np.asarray(tunnel_image(jnp.array([120.0, 130.0, 140.0, 10.0, 0.0]), size))
    lit = (image > 0).all(axis=-1)
    assert (image[~lit] == 0.0).all()
    assert len(np.unique(image[lit], axis=0)) == 1
    # A hexagon of radius r has the area 3 sqrt(3) / 2 r^2, is 2 r wide and sqrt(3) r high.
    radius = 0.22 * size
    assert lit.sum() == pytest.approx(1.5 * np.sqrt(3.0) * radius**2, rel=4.0 / radius)
    assert np.any(lit, axis=0).sum() == pytest.approx(2.0 * radius, abs=1.0)
    assert np.any(lit, axis=1).sum() == pytest.approx(np.sqrt(3.0) * radius, abs=1.0)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_turning_both_polarizers_alike_changes_no_bit(transform):
    random = np.random.default_rng(0)
    # Eighths of a degree: sums and differences are exact in float32.
    colors = random.uniform(0.0, 255.0, (301, 3))
    angles, turn = random.integers(-720, 721, (301, 2)) / 8.0, random.integers(-720, 721, 301) / 8.0
    draw = transform(jax.vmap(lambda factors: tunnel_image(factors, 16)))
    before = np.concatenate([colors, angles], axis=1)
    after = np.concatenate([colors, angles + turn[:, None]], axis=1)
    exchanged = np.concatenate([colors, angles[:, ::-1]], axis=1)
    for other in (after, exchanged):
        chex.assert_trees_all_equal(
            draw(jnp.asarray(before, jnp.float32)), draw(jnp.asarray(other, jnp.float32))
        )


@pytest.mark.parametrize("num", [1, 37, 400])
def test_turned_pairs_differ_in_polarizers_and_in_no_pixel(num):
    pairs = turned_pairs(jax.random.key(num), WORLD, num, (2,))
    chex.assert_trees_all_equal(pairs.x0, pairs.x1)
    before, after = np.asarray(pairs.factors0), np.asarray(pairs.factors1)
    assert (before[:, [POL_1, POL_2]] != after[:, [POL_1, POL_2]]).any(axis=1).all()
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    for rows in (before, after):
        vd.check_factors(WORLD, rows)
    turns = [np.abs(rows[:, POL_1] - rows[:, POL_2]) for rows in (before, after)]
    np.testing.assert_array_equal(turns[0], turns[1])


def test_the_angles_that_a_turned_pair_ends_in_are_uniform_among_those_that_show_the_same():
    pairs = turned_pairs(jax.random.key(0), WORLD, 4000, ())
    before, after = np.asarray(pairs.factors0), np.asarray(pairs.factors1)
    level = (before[:, POL_1] == 3) & (before[:, POL_2] == 3)
    counts = np.bincount(after[level, POL_1], minlength=7)
    share = level.sum() / 6
    assert counts[3] == 0
    assert (np.abs(np.delete(counts, 3) - share) < 5.0 * np.sqrt(share)).all()


def test_a_polarizer_alone_changes_the_image_by_its_angle_to_the_other():
    rows = jnp.array([[3, 3, 3, level, 2] for level in range(7)])
    images = np.asarray(vd.images(WORLD, rows))
    for first, second in itertools.combinations(range(7), 2):
        same = abs(first - 2) == abs(second - 2)
        assert (images[first] == images[second]).all() == same


def test_the_graph_is_the_published_one():
    edges = {(NAMES[cause], NAMES[effect]) for cause, effect in np.argwhere(vd.true_graph(WORLD))}
    published = {
        ("green", "red"),
        ("green", "pol_2"),
        ("blue", "green"),
        ("blue", "pol_2"),
        ("pol_1", "red"),
    }
    assert edges == published
    assert vd.factor_names(WORLD) == NAMES == ("red", "green", "blue", "pol_1", "pol_2")


def test_levels_are_round_settings_of_the_chamber():
    np.testing.assert_allclose(WORLD.factors[RED].values, 255.0 * np.arange(3, 10) / 12.0)
    assert WORLD.factors[POL_2].values == (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
    assert vd.num_images(WORLD) == 7**5


def test_tables_keep_the_published_coefficients():
    weights, covariance = model_covariance()
    sd = np.sqrt(np.diag(covariance))
    _, found = moments(JOINT)
    for effect in range(5):
        causes = np.flatnonzero(weights[:, effect])
        if not causes.size:
            continue
        slopes = np.linalg.solve(found[np.ix_(causes, causes)], found[causes, effect])
        # From standard deviations back to the units of the model.
        slopes *= sd[effect] / sd[causes]
        np.testing.assert_allclose(slopes, weights[causes, effect], rtol=0.03)


def test_tables_keep_the_published_means_variances_and_correlations():
    _, covariance = model_covariance()
    sd = np.sqrt(np.diag(covariance))
    mean, found = moments(JOINT)
    np.testing.assert_allclose(mean, 0.0, atol=1e-9)
    # Rounding to a step of 5/6 adds step^2 / 12, less what the outermost levels cut off.
    np.testing.assert_allclose(np.diag(found), 1.0 + (5 / 6) ** 2 / 12, atol=0.025)
    correlation = found / np.sqrt(np.outer(np.diag(found), np.diag(found)))
    np.testing.assert_allclose(correlation, covariance / np.outer(sd, sd), atol=0.06)


@pytest.mark.parametrize("target", NAMES)
def test_an_environment_cuts_its_target_from_its_causes_and_changes_nothing_else(target):
    world = vd.tunnel(16, environment=target)
    place = NAMES.index(target)
    expected = vd.true_graph(WORLD)
    expected[:, place] = False
    np.testing.assert_array_equal(vd.true_graph(world), expected)
    before, after = (
        dict(zip(w.model.names, w.model.mechanisms, strict=True)) for w in (WORLD, world)
    )
    assert {name for name in NAMES if before[name] != after[name]} == {target}
    # A million draws of the published Gaussian, in observational standard deviations, on levels.
    mean = [1.16920556, 1.47496736, -1.60596209, -1.96578519, 1.0117071][place]
    variance = [1.94878138, 1.35886756, 1.57343313, 1.1021785, 1.30511067][place]
    draws = np.random.default_rng(place).normal(mean, np.sqrt(variance), 1_000_000)
    draws /= np.sqrt(model_covariance()[1][place, place])
    levels = np.clip(np.round(draws * 6 / 5), -3, 3) * 5 / 6
    means, covariance = moments(causal_worlds.interventional_table(world, {}))
    assert means[place] == pytest.approx(levels.mean(), abs=0.006)
    assert covariance[place, place] == pytest.approx(levels.var(), abs=0.01)
    unmoved = ~vd.descendants(WORLD)[place]
    unmoved[place] = False
    np.testing.assert_allclose(means[unmoved], moments(JOINT)[0][unmoved], atol=1e-9)


def test_total_effects_are_sums_over_paths():
    # blue -> pol_2 directly and through green, in the model's units per unit.
    _, covariance = model_covariance()
    sd = np.sqrt(np.diag(covariance))
    means = [
        moments(causal_worlds.interventional_table(WORLD, {"blue": level}))[0][POL_2]
        for level in (2, 4)
    ]
    slope = (means[1] - means[0]) / (2 * 5 / 6) * sd[POL_2] / sd[BLUE]
    assert slope == pytest.approx(0.98534901 + 0.89303215 * 0.67726298, rel=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vd.tunnel(15), "image_size must be at least 16 to show the hexagon, got 15"),
        (
            lambda: vd.tunnel(environment="pol1"),
            "unknown environment 'pol1'. Did you mean 'pol_1'. Valid choices: obs, red",
        ),
        (lambda: tunnel_image(jnp.zeros(4), 16), r"one value for each of .*pol_2.*, got shape \(4"),
        (lambda: tunnel_image(jnp.zeros((2, 5)), 16), r"got shape \(2, 5\): batch with jax.vmap"),
        (
            lambda: turned_pairs(jax.random.key(0), vd.causal_sprites(16), 3, ()),
            "turns the polarizers of the tunnel, got a world of shape, scale, x",
        ),
    ],
)
def test_what_cannot_be_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
