"""Worlds with known causes: path products, counterfactual laws, geometry by hand, and pictures."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import causal, scenes

observe_all = jax.jit(jax.vmap(causal.observe, in_axes=(None, 0)))
intervene_all = jax.jit(jax.vmap(causal.intervene, in_axes=(None, 0, None)))
effects_of = jax.jit(causal.true_effects)


def twisted():
    """Nonlinear, additive noise, with a hidden cause and a variable behind two paths."""
    return causal.scm(
        {"d": ("b", "c"), "u": (), "a": ("u",), "b": ("a",), "c": ("a", "u")},
        {
            "u": causal.linear({}, bias=0.3),
            "a": causal.Additive(lambda p: jnp.tanh(p["u"])),
            "b": causal.Additive(lambda p: p["a"] ** 2),
            "c": causal.Additive(lambda p: jnp.sin(p["a"]) * p["u"]),
            "d": causal.Additive(lambda p: p["b"] * p["c"]),
        },
        causal.Normal(0.7),
        hidden=("u",),
    )


def skewed():
    """A mechanism in which the noise is not added: it has no inverse here."""
    return causal.scm(
        {"x": (), "y": ("x",)},
        {"x": causal.linear({}), "y": lambda p, u: jnp.exp(p["x"]) * u},
        {"x": jax.random.normal, "y": causal.Uniform(0.5, 1.5)},
    )


MODELS = {
    "chain": causal.chain(0.8, -1.5),
    "fork": causal.fork(0.8, -1.5),
    "collider": causal.collider(0.8, -1.5),
    "confounder": causal.confounder(0.5, 2.0, -1.0),
    "twisted": twisted(),
    "skewed": skewed(),
    "pendulum": scenes.pendulum(0.1),
    "flow": scenes.flow(0.1),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def single(model, seed=0):
    """The noise of one sample."""
    noise = causal.sample_noise(jax.random.key(seed), model, 1)
    return {name: value[0] for name, value in noise.items()}


# --- linear graphs in closed form ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "names", "expected"),
    [
        (MODELS["chain"], "xmy", [[1, 0.8, -1.2], [0, 1, -1.5], [0, 0, 1]]),
        (MODELS["fork"], "zxy", [[1, 0.8, -1.5], [0, 1, 0], [0, 0, 1]]),
        (MODELS["collider"], "xyz", [[1, 0, 0.8], [0, 1, -1.5], [0, 0, 1]]),
        (MODELS["confounder"], "xy", [[1, 0.5], [0, 1]]),
    ],
)
def test_effects_are_sums_of_path_products(model, names, expected):
    assert model.observed == tuple(names)
    effects = effects_of(model, single(model), -1.0, 2.0)
    np.testing.assert_allclose(effects, 3.0 * np.array(expected), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_effects_of_a_random_linear_graph_are_the_inverse_of_one_minus_its_weights(seed):
    rng = np.random.default_rng(seed)
    weights = np.tril(rng.normal(size=(6, 6)) * rng.integers(0, 2, (6, 6)), -1)
    names = [f"v{i}" for i in range(6)]
    graph = {
        names[j]: {names[i]: weights[j, i] for i in range(6) if weights[j, i]}
        for j in rng.permutation(6)
    }
    model = causal.linear_scm(graph)
    order = [names.index(name) for name in model.observed]
    expected = np.linalg.inv(np.eye(6) - weights).T[np.ix_(order, order)]
    np.testing.assert_allclose(
        causal.true_effects(model, single(model), 0.0, 1.0), expected, atol=1e-4
    )
    edges = causal.adjacency(model)
    np.testing.assert_array_equal(edges, weights.T[np.ix_(order, order)] != 0)
    np.testing.assert_array_equal(edges, np.triu(edges, 1))  # causes come first
    assert not causal.confounding(model).any()


def test_each_variable_can_have_its_own_contrast():
    model = MODELS["chain"]
    effects = effects_of(model, single(model), jnp.zeros(3), jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(effects, [[1, 0.8, -1.2], [0, 2, -3.0], [0, 0, 3]], atol=1e-5)


def test_observed_values_solve_the_equations():
    model = MODELS["confounder"]
    noise = {"u": jnp.array(1.0), "x": jnp.array(0.5), "y": jnp.array(-2.0)}
    values = causal.observe(model, noise)
    assert {name: float(value) for name, value in values.items()} == {
        "u": 1.0,
        "x": 2.5,  # 2 * 1 + 0.5
        "y": -1.75,  # 0.5 * 2.5 - 1 * 1 - 2
    }


def whitened(names, num=200, seed=0):
    """Noise whose sample means are 0 and whose sample covariance is the identity, exactly."""
    raw = np.random.default_rng(seed).normal(size=(num, len(names)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / num)).T
    return {name: jnp.asarray(white[:, i], jnp.float32) for i, name in enumerate(names)}


def slope(x, y):
    return np.polyfit(x, y, 1)[0]


def test_regression_is_confounded_and_intervention_is_not():
    model = MODELS["confounder"]
    noise = whitened(model.names)
    values = observe_all(model, noise)
    # The bias is u_to_x * u_to_y / (u_to_x^2 + 1) = 2 * -1 / 5.
    assert slope(values["x"], values["y"]) == pytest.approx(0.5 - 0.4, abs=1e-4)
    ends = [intervene_all(model, noise, {"x": x})["y"].mean() for x in (0.0, 1.0)]
    assert ends[1] - ends[0] == pytest.approx(0.5, abs=1e-5)


def test_association_without_effect_in_fork_and_collider():
    noise = whitened("zxy")
    values = observe_all(MODELS["fork"], noise)
    assert slope(values["x"], values["y"]) == pytest.approx(0.8 * -1.5 / (0.8**2 + 1), abs=1e-4)
    values = observe_all(MODELS["collider"], noise)
    assert slope(values["x"], values["y"]) == pytest.approx(0.0, abs=1e-4)
    # Given z = a x + b y + n, y on x has the slope -a b / (b^2 + 1).
    design = np.stack([values["x"], values["z"]], axis=1)
    given_z = np.linalg.lstsq(design, np.asarray(values["y"]), rcond=None)[0][0]
    assert given_z == pytest.approx(0.8 * 1.5 / (1.5**2 + 1), abs=1e-4)


def test_do_cuts_the_variable_off_from_its_causes():
    model, noise = MODELS["chain"], whitened("xmy")
    values = intervene_all(model, noise, {"m": 2.0})
    np.testing.assert_array_equal(values["m"], 2.0)
    np.testing.assert_array_equal(values["x"], observe_all(model, noise)["x"])
    assert slope(values["x"], values["y"]) == pytest.approx(0.0, abs=1e-4)
    both = intervene_all(model, noise, {"x": -3.0, "m": 2.0})
    np.testing.assert_array_equal(both["y"], values["y"])  # x acts through m alone


# --- graphs -------------------------------------------------------------------------------------


def test_true_graph_of_the_literature_worlds():
    pendulum, flow = MODELS["pendulum"], MODELS["flow"]
    assert pendulum.observed[2:] == ("shadow_length", "shadow_position")
    np.testing.assert_array_equal(
        causal.adjacency(pendulum), [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    assert flow.observed == ("ball_size", "hole_position", "water_height", "water_flow")
    np.testing.assert_array_equal(
        causal.adjacency(flow), [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    )


def test_hidden_variables_are_projected_out():
    model = causal.linear_scm(
        {"a": {}, "h": {"a": 1}, "g": {"h": 1}, "b": {"g": 1}, "c": {"h": 1}, "d": {"b": 1}},
        hidden=("h", "g"),
    )
    edges, shared = causal.adjacency(model), causal.confounding(model)
    listed = {
        (cause, effect)
        for i, cause in enumerate(model.observed)
        for j, effect in enumerate(model.observed)
        if edges[i, j]
    }
    assert listed == {("a", "b"), ("a", "c"), ("b", "d")}  # a -> h -> g -> b
    expected = np.zeros((4, 4), bool)
    b, c = model.observed.index("b"), model.observed.index("c")
    expected[b, c] = expected[c, b] = True
    np.testing.assert_array_equal(shared, expected)
    np.testing.assert_array_equal(causal.confounding(MODELS["confounder"]), [[0, 1], [1, 0]])


@every_model
def test_effects_are_zero_off_the_paths_of_the_graph(model):
    observed = model.observed
    edges = causal.adjacency(model).astype(int)
    paths = np.linalg.matrix_power(np.eye(len(observed), dtype=int) + edges, len(observed)) > 0
    noise = causal.sample_noise(jax.random.key(1), model, 16)
    batched = jax.jit(jax.vmap(causal.true_effects, in_axes=(None, 0, None, None)))
    moved = np.abs(np.asarray(batched(model, noise, 0.6, 1.1))).max(axis=0) > 0
    assert not moved[~paths].any()
    assert moved[edges > 0].all()


# --- laws of counterfactuals --------------------------------------------------------------------


@every_model
def test_do_with_the_factual_value_returns_the_factual(model):
    noise = single(model)
    factual = causal.observe(model, noise)
    for name in model.names:
        chex.assert_trees_all_equal(causal.intervene(model, noise, {name: factual[name]}), factual)


@every_model
def test_composition_and_effectiveness(model):
    noise = single(model, 1)
    for name in model.names:
        once = causal.intervene(model, noise, {name: 1.2})
        assert once[name] == np.float32(1.2)
        for other in model.names:
            if other != name:
                twice = causal.intervene(model, noise, {name: 1.2, other: once[other]})
                chex.assert_trees_all_equal(twice, once)


@pytest.mark.parametrize("name", ["chain", "confounder", "twisted", "pendulum", "flow"])
def test_abduction_recovers_the_noise_and_so_the_counterfactual(name):
    model = MODELS[name]
    noise = single(model, 2)
    values = causal.observe(model, noise)
    chex.assert_trees_all_close(causal.abduct(model, values), noise, atol=2e-6)
    do = {model.names[1]: 0.9}
    chex.assert_trees_all_close(
        causal.counterfactual(model, values, do), causal.intervene(model, noise, do), atol=5e-6
    )


def test_counterfactual_keeps_the_noise_where_the_intervention_draws_it_anew():
    # Observed x = 1, y = 5 in y = 2 x + n: n = 3, so y would have been 2 * 4 + 3 at x = 4.
    model = causal.linear_scm({"x": {}, "y": {"x": 2.0}})
    values = {"x": jnp.array(1.0), "y": jnp.array(5.0)}
    assert causal.counterfactual(model, values, {"x": 4.0})["y"] == 11.0


@every_model
def test_vmap_equals_loop_and_jit_equals_eager(model):
    noise = causal.sample_noise(jax.random.key(3), model, 3)
    do = {model.names[0]: 0.7}
    batch = intervene_all(model, noise, do)
    for sample in range(3):
        one = causal.intervene(model, jax.tree.map(lambda n, s=sample: n[s], noise), do)
        chex.assert_trees_all_close(jax.tree.map(lambda v, s=sample: v[s], batch), one, rtol=1e-5)


def test_noise_is_independent_across_variables_and_has_its_distribution():
    model = causal.scm(
        {"x": (), "y": ()},
        {"x": causal.linear({}), "y": causal.linear({})},
        {"x": causal.Normal(2.0), "y": causal.Uniform(-1.0, 3.0)},
    )
    noise = causal.sample_noise(jax.random.key(0), model, 20_000)
    x, y = np.asarray(noise["x"]), np.asarray(noise["y"])
    assert x.std() == pytest.approx(2.0, abs=4 * 2.0 / math.sqrt(2 * 20_000))
    assert y.mean() == pytest.approx(1.0, abs=4 * math.sqrt(16 / 12 / 20_000))
    assert y.min() >= -1.0
    assert y.max() < 3.0
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / math.sqrt(20_000)


def test_a_model_built_again_is_the_same_model():
    assert scenes.pendulum() == scenes.pendulum()
    assert hash(causal.chain(2.0)) == hash(causal.chain(2.0))
    assert causal.chain(2.0) != causal.chain(3.0)
    traced = chex.assert_max_traces(causal.observe, n=1)
    run = jax.jit(traced)
    for _ in range(2):
        run(scenes.flow(), single(scenes.flow()))


def test_an_effect_has_a_derivative_in_the_intervention():
    model = MODELS["chain"]
    noise = single(model)
    y = jax.grad(lambda x: causal.intervene(model, noise, {"x": x})["y"])
    assert y(0.3) == pytest.approx(0.8 * -1.5)


# --- an independent oracle ----------------------------------------------------------------------


def test_counterfactuals_and_effects_match_dowhy():
    gcm = pytest.importorskip("dowhy.gcm", reason="an independent oracle for counterfactuals")
    networkx = pytest.importorskip("networkx", reason="graphs for DoWhy")
    pandas = pytest.importorskip("pandas", reason="tables for DoWhy")

    class Known(gcm.ml.PredictionModel):
        """A regressor that is given, not fitted: columns come in the order of sorted parents."""

        def __init__(self, function):
            self.function = function

        def fit(self, X, Y):
            pass

        def predict(self, X):
            return self.function(*X.T)[:, None]

        def clone(self):
            return Known(self.function)

    model = causal.scm(
        {"a": (), "b": ("a",), "c": ("a", "b")},
        {
            "a": causal.linear({}),
            "b": causal.Additive(lambda p: jnp.tanh(2 * p["a"])),
            "c": causal.Additive(lambda p: p["a"] * p["b"] + 0.5 * p["b"]),
        },
        jax.random.normal,
    )
    noise = causal.sample_noise(jax.random.key(0), model, 500)
    values = observe_all(model, noise)
    table = pandas.DataFrame({name: np.asarray(v, float) for name, v in values.items()})
    theirs = gcm.InvertibleStructuralCausalModel(
        networkx.DiGraph([("a", "b"), ("a", "c"), ("b", "c")])
    )
    theirs.set_causal_mechanism("a", gcm.EmpiricalDistribution())
    for name, function in {
        "b": lambda a: np.tanh(2 * a),
        "c": lambda a, b: a * b + 0.5 * b,
    }.items():
        theirs.set_causal_mechanism(name, gcm.AdditiveNoiseModel(Known(function)))
    gcm.fit(theirs, table)
    for do in ({"b": 1.5}, {"a": -0.4}, {"a": 2.0, "b": 0.0}):
        setters = {name: functools.partial(np.full_like, fill_value=v) for name, v in do.items()}
        expected = gcm.counterfactual_samples(theirs, setters, observed_data=table)
        ours = jax.vmap(causal.counterfactual, in_axes=(None, 0, None))(model, values, do)
        for name in model.names:
            np.testing.assert_allclose(ours[name], expected[name], atol=1e-5)
    gcm.util.general.set_random_seed(0)
    effect = gcm.average_causal_effect(
        theirs,
        "c",
        {"b": functools.partial(np.full_like, fill_value=1.5)},
        {"b": functools.partial(np.full_like, fill_value=-0.5)},
        num_samples_to_draw=20_000,
    )
    ours = jax.vmap(causal.true_effects, in_axes=(None, 0, None, None))(model, noise, -0.5, 1.5)
    # Theirs redraws a and the noise of c from the table, once for each arm: c has variance
    # b^2 Var(a) + 1 in an arm, about 2.2 + 1 and 0.2 + 1. 4 standard errors.
    error = 4 * math.sqrt(4.8 / 20_000)
    assert ours[:, 1, 2].mean() == pytest.approx(effect, abs=error)


# --- geometry by hand ---------------------------------------------------------------------------


def pendulum_values(angle, light):
    noise = dict.fromkeys(scenes.pendulum().names, 0.0)
    noise |= {"pendulum_angle": angle, "light_position": light}
    return causal.observe(scenes.pendulum(), noise)


def test_shadow_under_a_vertical_light():
    # s = 0: the shadow is what lies under the pendulum, 9.5 sin 30 degrees = 4.75 wide from x = 10.
    values = pendulum_values(math.pi / 6, 10.0)
    assert values["shadow_length"] == pytest.approx(4.75)
    assert values["shadow_position"] == pytest.approx(10.0 + 4.75 / 2)


def test_shadow_of_a_pendulum_that_hangs_straight():
    # Light at (15, 20.5): s = 1/2. The pivot, 11 above the floor, throws its shadow at 10 - 5.5,
    # the tip, 1.5 above it, at 10 - 0.75: 4.75 apart, 6.875 in the middle.
    values = pendulum_values(0.0, 15.0)
    assert values["shadow_length"] == pytest.approx(4.75)
    assert values["shadow_position"] == pytest.approx(6.875)


def test_shadow_never_shrinks_below_three():
    assert pendulum_values(0.0, 10.0)["shadow_length"] == 3.0
    assert pendulum_values(math.atan(0.5), 5.0)["shadow_length"] == 3.0  # along the rays


@pytest.mark.parametrize("seed", range(5))
def test_shadow_agrees_with_rays_traced_one_by_one(seed):
    angle, light = np.random.default_rng(seed).uniform([-0.6, 1.0], [0.6, 17.0])
    ray = math.atan2(20.5 - 10.5, light - 10.0)  # the published parametrisation

    def on_floor(x, y):
        return x + (-0.5 - y) / math.tan(ray)

    pivot = on_floor(10.0, 10.5)
    tip = on_floor(10.0 + 9.5 * math.sin(angle), 10.5 - 9.5 * math.cos(angle))
    values = pendulum_values(angle, light)
    assert values["shadow_length"] == pytest.approx(max(3.0, abs(tip - pivot)), rel=1e-5)
    assert values["shadow_position"] == pytest.approx((tip + pivot) / 2, rel=1e-5)


def test_flow_by_hand():
    # Height 1 + 1 = 2; flow sqrt(2 * 0.98 * 2 * (3 - 0.5)) = sqrt(9.8).
    noise = {"ball_size": 1.0, "hole_position": 3.0, "water_height": 1.0, "water_flow": 0.0}
    values = causal.observe(scenes.flow(), noise)
    assert values["water_height"] == 2.0
    assert values["water_flow"] == pytest.approx(math.sqrt(9.8))
    dry = causal.intervene(scenes.flow(), noise, {"hole_position": 0.2})
    assert dry["water_flow"] == pytest.approx(0.0, abs=1e-5)


# --- images -------------------------------------------------------------------------------------

PENDULUM = {
    "pendulum_angle": 0.4,
    "light_position": 6.2,
    "shadow_length": 5.0,
    "shadow_position": 11.3,
}
FLOW = {"ball_size": 0.9, "hole_position": 3.3, "water_height": 3.1, "water_flow": 4.2}
CAST = {"shape": 3.0, "x": "x", "y": "y", "scale": "z"}
SPRITE = {"x": 0.3, "y": -1.1, "z": 0.8}


def draw_sprite(values, *, image_size=32):
    return scenes.sprites_image(vd.sprites(image_size), values, CAST)


SCENES = {
    "pendulum": (scenes.pendulum_image, PENDULUM),
    "flow": (scenes.flow_image, FLOW),
    "sprite": (draw_sprite, SPRITE),
}
every_scene = pytest.mark.parametrize(("draw", "values"), SCENES.values(), ids=SCENES)


@every_scene
@pytest.mark.parametrize("size", [32, 64])
def test_images_are_pixels_of_the_asked_size(draw, values, size):
    image = jax.jit(functools.partial(draw, image_size=size))(values)
    assert image.shape == (size, size, 1 if draw is draw_sprite else 3)
    assert image.dtype == jnp.float32
    assert image.min() >= 0.0
    assert image.max() <= 1.0


@pytest.mark.thorough
@every_scene
def test_gradients_of_images_match_finite_differences(draw, values):
    with jax.enable_x64(True):
        names = sorted(values)
        shape = draw(values, image_size=32).shape
        weights = jnp.asarray(np.random.default_rng(0).normal(size=shape))

        @jax.jit
        def score(point):
            return (weights * draw(dict(zip(names, point, strict=True)), image_size=32)).sum()

        point = jnp.asarray([values[name] for name in names], jnp.float64)
        exact = jax.jit(jax.grad(score))(point)
        step = 1e-6
        for i in range(len(names)):
            ends = [score(point.at[i].add(sign * step)) for sign in (1, -1)]
            rise = float(ends[0] - ends[1]) / (2 * step)
            assert float(exact[i]) == pytest.approx(rise, rel=1e-4, abs=1e-5)
        assert (jnp.abs(exact) > 1e-2).all()  # every variable can be read off the image


@pytest.mark.parametrize("size", [32, 64])
def test_shadow_is_drawn_with_its_length_and_place(size):
    pixel = 22.0 / size
    image = scenes.pendulum_image(PENDULUM, image_size=size)
    floor = slice(size - math.ceil(1.0 / pixel) - 1, size)  # below the bob
    columns = (1.0 - image[floor, :, 0]).sum(axis=0)
    centres = -1.0 + pixel * (np.arange(size) + 0.5)
    assert columns.sum() * pixel**2 == pytest.approx(5.0 * 0.8, rel=1e-4)
    assert (columns * centres).sum() / columns.sum() == pytest.approx(11.3, abs=0.005)


def test_light_rod_and_bob_are_where_the_geometry_puts_them():
    image = scenes.pendulum_image(PENDULUM, image_size=64)

    def colour_at(x, y):
        return image[int((21.0 - y) * 64 / 22.0), int((x + 1.0) * 64 / 22.0)].tolist()

    bob = (10.0 + 8.0 * math.sin(0.4), 10.5 - 8.0 * math.cos(0.4))
    assert colour_at(*bob) == pytest.approx([0.7, 0.13, 0.13])
    assert colour_at((10.0 + bob[0]) / 2, (10.5 + bob[1]) / 2) == pytest.approx([0.0, 0.0, 0.0])
    assert colour_at(6.2 - 2.5, 20.5) == pytest.approx([1.0, 0.65, 0.0])
    assert colour_at(6.2 + 2.5, 20.5) == pytest.approx([1.0, 0.65, 0.0])
    assert colour_at(6.2 + 3.5, 20.5) == colour_at(6.2 - 3.5, 20.5) == [1.0, 1.0, 1.0]


def test_water_and_ball_are_drawn_with_their_sizes():
    pixel = 20.0 / 64
    image = scenes.flow_image(FLOW, image_size=64)
    column = image[:, round(4.0 / pixel), 0]  # between the wall and the ball
    depth = ((1.0 - column) / (1.0 - 0.53)).sum() * pixel
    assert depth == pytest.approx(5.0 + 3.1, rel=1e-4)
    ball = (0.81 - image[:, :, 1]) / (0.81 - 0.13)
    inside = slice(round(3.75 / pixel), round(7.5 / pixel))
    rows = slice(64 - round(3.0 / pixel), 64)
    assert ball[rows, inside].sum() * pixel**2 == pytest.approx(math.pi * 0.9**2, rel=0.02)


def test_jet_lands_where_the_flow_says():
    pixel = 20.0 / 64
    image = scenes.flow_image(FLOW, image_size=64)
    for share in (0.3, 0.7, 1.0):  # of the fall from the hole to the landing
        height = 3.3 - share * (3.3 - 0.5)
        row = 64 - 1 - int(height / pixel)
        height = 20.0 - pixel * (row + 0.5)
        centres = pixel * (np.arange(64) + 0.5)
        alpha = np.where(centres > 8.6, 1.0 - image[row, :, 0], 0.0)
        landing = 8.0 + 4.2 * math.sqrt((3.3 - height) / (3.3 - 0.5))
        assert (alpha * centres).sum() / alpha.sum() == pytest.approx(landing, abs=0.5 * pixel)


def test_light_that_moves_changes_sun_and_shadow_but_not_the_pendulum():
    model = scenes.pendulum()
    noise = single(model)
    draw = jax.jit(scenes.pendulum_image)
    factual = draw(causal.observe(model, noise))
    moved = draw(causal.intervene(model, noise, {"light_position": 3.0}))
    lit_only = draw(causal.observe(model, noise) | {"light_position": jnp.asarray(3.0)})
    pixel = 22.0 / 64
    middle = slice(round(4.0 / pixel), round((21.0 - 1.0) / pixel))  # under the sun, over the floor
    chex.assert_trees_all_equal(moved[middle], factual[middle])
    assert jnp.abs(moved[-4:] - factual[-4:]).max() == 1.0  # the shadow follows
    chex.assert_trees_all_equal(lit_only[-4:], factual[-4:])  # unless only the lamp is redrawn
    same = draw(causal.intervene(model, noise, {}))
    chex.assert_trees_all_equal(same, factual)


def test_sprite_shows_the_variables_of_a_graph():
    data = vd.sprites(32)
    image = scenes.sprites_image(data, SPRITE, CAST)
    squashed = {name: 1 / (1 + math.exp(-value)) for name, value in SPRITE.items()}
    middle = 0.5 * data.factors[2].values[-1]
    factors = [3.0, 0.5 + 0.5 * squashed["z"], middle, squashed["x"], squashed["y"]]
    chex.assert_trees_all_close(image, data.render(jnp.asarray(factors)), atol=1e-5)


def test_counterfactual_sprites_differ_only_downstream():
    # In the fork, do(x) moves the sprite sideways and leaves its rows as they were.
    model = MODELS["fork"]
    noise = single(model)
    data, cast = vd.sprites(32), {"shape": 1.0, "orientation": 0.0, "x": "x", "y": "y"}
    images = [
        scenes.sprites_image(data, causal.intervene(model, noise, do), cast)
        for do in ({}, {"x": 1.5})
    ]
    rows = [image.sum(axis=(1, 2)) for image in images]
    chex.assert_trees_all_close(*rows, atol=1e-4)
    assert jnp.abs(images[0] - images[1]).max() > 0.5


# --- bad input ----------------------------------------------------------------------------------

ROOT = causal.linear({})


def build(parents, mechanisms=None, noise=jax.random.normal, **options):
    return causal.scm(parents, mechanisms or dict.fromkeys(parents, ROOT), noise, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build({"x": ("y",), "y": ("x",)}), "cycle, (x -> y -> x|y -> x -> y)"),
        (lambda: build({"x": ("x",)}), "cycle, x -> x"),
        (lambda: build({"light": (), "y": ("lihgt",)}), "parent of 'y'.*Did you mean 'light'"),
        (lambda: build({"xx": (), "y": "xx"}), "must be a tuple of names, got 'xx'"),
        (lambda: build({"x": ()}, {"x": ROOT, "z": ROOT}), "unknown variable in the mechanism"),
        (lambda: build({"x": (), "y": ()}, {"x": ROOT}), "mechanism of 'y' is missing"),
        (lambda: build({"x": (), "y": ()}, noise={"x": jax.random.normal}), "noise of 'y' is mis"),
        (lambda: build({"x": ()}, hidden=("w",)), "unknown hidden variable 'w'.*Did you mean 'x'"),
        (
            lambda: build({"x": (), "y": ("x",)}, {"x": ROOT, "y": causal.linear({"z": 1.0})}),
            "mechanism of 'y' reads 'z', not one of its parents",
        ),
        (
            lambda: build({"x": ()}, {"x": lambda p, u: jnp.stack([u, u])}),
            r"mechanism of 'x' must return a scalar, got shape \(2,\)",
        ),
        (lambda: causal.Normal(-1.0), "at least 0, got -1"),
        (lambda: causal.Uniform(1.0, 1.0), "expected low < high"),
        (
            lambda: causal.intervene(scenes.pendulum(), {}, {"light_positon": 1.0}),
            "variable to intervene on 'light_positon'.*Did you mean 'light_position'",
        ),
        (lambda: causal.observe(causal.chain(), {"x": 0.0}), "noise of 'm', 'y' is missing"),
        (
            lambda: causal.counterfactual(causal.confounder(), {"x": 0.0, "y": 0.0}, {}),
            "value of 'u' is missing",
        ),
        (
            lambda: causal.abduct(skewed(), {"x": 0.0, "y": 0.0}),
            "mechanism of 'y' has no inverse.*call intervene",
        ),
        (
            lambda: causal.true_effects(causal.chain(), single(causal.chain()), 0.0, jnp.ones(2)),
            r"high must be a scalar or have shape \(3,\)",
        ),
        (lambda: scenes.pendulum_image({"pendulum_angle": 0.0}), "values lack .'light_position'"),
        (lambda: scenes.flow_image(FLOW, image_size=4), "at least 8, got 4"),
        (
            lambda: scenes.sprites_image(vd.sprites(32), SPRITE, {"scael": "x"}),
            "did you mean 'scale'",
        ),
        (
            lambda: scenes.sprites_image(vd.sprites(32), SPRITE, {"scale": "w"}),
            "unknown variable for the factor 'scale' 'w'",
        ),
    ],
)
def test_bad_input_is_refused_with_the_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()
