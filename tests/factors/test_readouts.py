"""Read-outs: what sprites are drawn with is read back, and known confusion is taken out exactly."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data.splits import held_out
from vaecausal_jax.factors.probes import train_probe
from vaecausal_jax.factors.readouts import (
    PHASE_SD,
    Categorical,
    Cyclic,
    Ordered,
    Readout,
    calibrate,
    factor_codes,
    factor_pairs,
    readout_changes,
    readout_confusion,
    readout_scores,
)
from vaecausal_jax.factors.sprite_moments import SYMMETRIES, sprite_readout
from vaecausal_jax.interventions.sites import Trace

SMALL = vd.sprites(32, num_orientations=9, num_positions=8, num_scales=4)


@pytest.fixture(scope="module")
def rows():
    levels = vd.sample_factors(jax.random.key(0), SMALL, 256)
    return vd.images(SMALL, levels), levels


# The confusion matrix and what it undoes.


def linear_changes(confusion, true_change, rng):
    """dr = dg C in every pair: a linear read-out of pairs that change one factor each."""
    return true_change[..., None] * confusion[:, None, :] + 0.0 * rng.normal(
        size=(*true_change.shape, len(confusion))
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_factors", [1, 5])
def test_calibration_recovers_true_effects_of_a_linear_readout_exactly(seed, num_factors):
    # T27: E_measured = E_true C, and C from minimal pairs.
    rng = np.random.default_rng(seed)
    confusion = np.eye(num_factors) + 0.2 * rng.normal(size=(num_factors, num_factors))
    true_change = rng.uniform(0.2, 2.0, size=(num_factors, 6))
    changes = linear_changes(confusion, true_change, rng)
    estimate = readout_confusion(jax.random.key(seed), changes, true_change)
    np.testing.assert_allclose(estimate.value, confusion, atol=1e-5)
    np.testing.assert_allclose(estimate.low, confusion, atol=1e-5)
    np.testing.assert_allclose(estimate.high, confusion, atol=1e-5)
    true = rng.normal(size=(7, 3, num_factors))
    np.testing.assert_allclose(calibrate(true @ confusion, confusion), true, atol=1e-10)
    np.testing.assert_allclose(calibrate(true @ confusion, estimate.value), true, atol=1e-4)


def test_confusion_is_the_slope_through_the_origin_of_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    changes, true_change = rng.normal(size=(3, 10, 3)), rng.uniform(0.1, 1, size=(3, 10))
    expected = np.zeros((3, 3))
    for k in range(3):
        for l in range(3):  # noqa: E741
            expected[k, l] = np.linalg.lstsq(true_change[k][:, None], changes[k, :, l], rcond=None)[
                0
            ][0]
    estimate = readout_confusion(jax.random.key(0), changes, true_change)
    np.testing.assert_allclose(estimate.value, expected, atol=1e-5)
    assert np.all((estimate.low < estimate.value) & (estimate.value < estimate.high))


def test_calibration_passes_missing_effects_through():
    effects = np.array([[1.0, 2.0], [np.nan, 1.0]])
    result = calibrate(effects, [[2.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(result[0], [0.5, 0.5])
    assert np.isnan(result[1, 0])


@pytest.mark.parametrize(
    ("effects", "confusion", "options", "message"),
    [
        (np.ones(2), np.ones((2, 3)), {}, r"\(2, 3\), expected \(factors, factors\)"),
        (np.ones(3), np.eye(2), {}, r"\(3,\), expected \(\.\.\., 2\)"),
        (np.ones(2), np.ones((2, 2)), {}, r"condition number .* above the limit 100"),
        (np.ones(2), np.zeros((2, 2)), {}, r"condition number"),
        (np.ones(2), [[1, 0], [0, 0.1]], {"limit": 5}, r"condition number 10, above the limit 5"),
        (np.ones(2), [[1, 0], [0, np.nan]], {}, r"not finite"),
    ],
)
def test_calibration_refuses_what_it_cannot_invert(effects, confusion, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(effects, confusion, **options)


def test_confusion_refuses_pairs_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        readout_confusion(jax.random.key(0), np.ones((2, 3, 2)), np.ones((3, 2)))


# Codes.


def test_an_ordered_factor_is_standardised_over_its_levels():
    code = next(c for c in factor_codes(SMALL) if c.name == "x")
    assert isinstance(code, Ordered)
    columns = np.array([code.encode(jnp.array([0, 0, 0, level, 0]))[0] for level in range(8)])
    np.testing.assert_allclose([columns.mean(), columns.std()], [0, 1], atol=1e-6)
    assert code.agrees(jnp.array([columns[3] + 0.1]), jnp.array([columns[3]]))
    assert not code.agrees(jnp.array([columns[3] + 0.3]), jnp.array([columns[3]]))


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_cyclic_factor_changes_the_shorter_way_around(order):
    code = Cyclic("orientation", 0, 9, (order,))
    columns = [code.encode(jnp.array([level])) for level in range(9)]
    for a in range(9):
        for b in range(9):
            turn = (order * (b - a) + 4) % 9 - 4
            change = code.change(columns[a], columns[b]) * PHASE_SD
            np.testing.assert_allclose(change, 2 * math.pi * turn / 9, atol=1e-5)
            assert code.agrees(columns[a], columns[b]) == (a == b)


def test_a_cyclic_change_has_a_gradient_where_nothing_is_read():
    code = Cyclic("orientation", 0, 9)
    slope = jax.grad(lambda a: code.change(a, jnp.array([1.0, 0.0])))(jnp.zeros(2))
    assert np.isfinite(slope).all()


def test_a_categorical_factor_is_its_expected_class_in_standard_deviations():
    code = Categorical("shape", 0, 3)
    columns = [code.encode(jnp.array([level])) for level in range(3)]
    np.testing.assert_allclose(code.change(columns[0], columns[2]), 2 / np.std([0, 1, 2]))
    half = (columns[0] + columns[1]) / 2
    np.testing.assert_allclose(code.value(half), (code.value(columns[0])) / 2, rtol=1e-6)


def test_codes_follow_the_data_set():
    codes = factor_codes(vd.sprites(16, colour=True), symmetries=SYMMETRIES)
    kinds = [type(code) for code in codes]
    assert kinds == [Categorical, Ordered, Cyclic, Ordered, Ordered, Cyclic]
    assert codes[2].orders == (4, 2, 1)
    assert isinstance(factor_codes(SMALL, categorical=("x",))[3], Categorical)
    assert isinstance(factor_codes(SMALL, categorical=())[0], Ordered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categorical": ("shap",)}, "did you mean 'shape'"),
        ({"symmetries": {"orientation": ("shape", (4, 2))}}, "one order for each of the 3"),
        ({"symmetries": {"scale": ("shape", (4, 2, 1))}}, "need a cyclic factor"),
    ],
)
def test_codes_refuse_what_the_data_set_lacks(options, message):
    with pytest.raises(ValueError, match=message):
        factor_codes(SMALL, **options)


# Exact inversion.


@pytest.fixture(scope="module")
def inverted(rows):
    x, levels = rows
    readout = sprite_readout(SMALL)

    def errors(image, row):
        read, true = readout(image), readout.truth(row)
        return readout.change(true, read), readout.agrees(read, true)

    return readout, *jax.jit(jax.vmap(errors))(x, levels)


def test_inversion_reads_back_what_a_sprite_was_drawn_with(inverted):
    readout, errors, agrees = inverted
    rms = dict(zip(readout.names, np.sqrt(np.mean(np.asarray(errors) ** 2, axis=0)), strict=True))
    assert rms["shape"] < 1e-3
    assert max(rms.values()) < 0.03
    assert np.abs(errors).max() < 0.15
    assert np.all(np.asarray(agrees))


@pytest.mark.slow
def test_inversion_is_nearly_exact_at_the_published_size():
    data = vd.sprites(64, num_positions=5)
    readout = sprite_readout(data)
    levels = vd.sample_factors(jax.random.key(1), data, 96)
    scores = readout_scores(readout, vd.images(data, levels), levels)
    assert scores["shape"] == 1.0
    assert min(scores.values()) > 0.9998


@pytest.mark.thorough
def test_inversion_reads_hue_exactly():
    data = vd.sprites(16, colour=True, num_colours=12, num_positions=3, num_scales=2)
    readout = sprite_readout(data)
    levels = vd.sample_factors(jax.random.key(1), data, 32)

    def error(image, row):
        return readout.change(readout.truth(row), readout(image))[5]

    np.testing.assert_allclose(
        jax.jit(jax.vmap(error))(vd.images(data, levels), levels), np.zeros(32), atol=1e-4
    )


@pytest.mark.thorough
def test_inversion_follows_factors_off_the_grid_and_has_their_gradient():
    readout = sprite_readout(SMALL)
    ordered = [code for code in readout.codes if isinstance(code, Ordered)]
    span = {code.name: code.values[-1] - code.values[0] for code in ordered}

    def read(values):
        return readout.values(readout(SMALL.render(values)))

    at = jnp.array([2.0, 0.83, 0.3, 0.41, 0.62])
    slope = jax.jit(jax.jacfwd(read))(at)
    # Scale spans 0.5, x and y 1; an ellipse has two phases in a turn.
    # A raster's derivative ripples with the place of the outline among the pixels.
    np.testing.assert_allclose(slope[1, 1], span["scale"] / 0.5, rtol=0.2)
    np.testing.assert_allclose(slope[3, 3], span["x"], rtol=0.2)
    np.testing.assert_allclose(slope[4, 4], span["y"], rtol=0.2)
    np.testing.assert_allclose(slope[2, 2], 2 / PHASE_SD, rtol=0.2)
    moved = jax.jit(read)(at + jnp.array([0, -0.2, 0, 0.3, -0.3])) - jax.jit(read)(at)
    np.testing.assert_allclose(moved[1], -0.2 * span["scale"] / 0.5, rtol=0.05)
    np.testing.assert_allclose(moved[3:], 0.3 * span["x"] * np.array([1, -1]), rtol=0.02)
    np.testing.assert_allclose(slope[3, jnp.array([1, 4])], 0, atol=0.5)


def test_inversion_of_an_image_without_a_sprite_is_finite_with_finite_gradient(inverted):
    total = jax.jit(jax.vmap(jax.value_and_grad(lambda x: inverted[0](x).sum())))
    value, slope = total(jnp.stack([jnp.zeros((32, 32, 1)), jnp.ones((32, 32, 1))]))
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()


def test_a_threshold_removes_a_faint_background(rows):
    x, levels = rows
    faint = jnp.clip(x + 0.02, 0, 1)
    plain, cut = (
        readout_scores(sprite_readout(SMALL, threshold=t), faint[:64], levels[:64])
        for t in (0.0, 0.05)
    )
    assert plain["x"] < cut["x"]
    assert cut["x"] > 0.99


def test_inversion_refuses_other_worlds():
    class Bars:
        factors = (vd.Factor("width", (1.0, 2.0), 2, False),)
        image_shape = (8, 8, 1)

    with pytest.raises(ValueError, match=r"Use probes\.train_probe"):
        sprite_readout(Bars())
    with pytest.raises(ValueError, match="threshold"):
        sprite_readout(SMALL, threshold=0.5)


# Pairs.


@pytest.mark.thorough
def test_pairs_of_every_factor_grow_and_the_readout_sees_it(inverted):
    readout = inverted[0]
    pairs = factor_pairs(jax.random.key(2), SMALL, readout.codes, 48, (3,))
    assert pairs.x0.shape == (5, 48, 32, 32, 1)
    assert pairs.eps.shape == (5, 48, 3)
    assert np.all(np.asarray(pairs.change) > 0)
    confusion = readout_confusion(
        jax.random.key(3), readout_changes(readout, pairs), pairs.change
    ).value
    # Phases of two shapes have no common origin: what differs is chance, and averages out.
    np.testing.assert_allclose(confusion[0, 2], 0, atol=0.3)
    others = np.array(confusion)
    others[0, 2] = 0
    np.testing.assert_allclose(others, np.eye(5), atol=0.02)


def test_pairs_refuse_codes_of_other_factors():
    with pytest.raises(ValueError, match="do not fit the factors"):
        factor_pairs(jax.random.key(0), SMALL, factor_codes(SMALL)[:2], 4, ())


# Read-outs as values.


def test_a_readout_is_a_pytree_and_an_outcome():
    readout = Readout(
        jnp.array([2.0]),
        lambda params, image: params * image.mean(),
        (Ordered("a", 0, (0.0, 1.0)),),
    )
    image = jnp.full((2, 2, 1), 0.5)
    assert jax.jit(lambda r, x: r(x))(readout, image) == 1.0
    trace = Trace(jnp.zeros((2, 2, 1)), {})
    assert readout.outcome(jax.nn.sigmoid)(trace) == 1.0
    assert readout.names == ("a",)
    assert readout.cyclic == (False,)
    with pytest.raises(ValueError, match=r"expected \(1,\) of one image"):
        readout.values(jnp.zeros((3, 1)))


def test_scores_of_a_constant_readout_are_zero_and_of_the_truth_one(rows):
    x, levels = rows
    codes = factor_codes(SMALL)
    width = sum(code.width for code in codes)
    constant = Readout((), lambda p, image: jnp.zeros(width), codes)
    scores = readout_scores(constant, x, levels)
    assert abs(scores["x"]) < 0.05
    assert scores["shape"] < 0.5


# Held-out combinations.


def test_the_split_is_the_same_for_every_caller_and_has_the_share_asked_for():
    levels = vd.factors_at(SMALL, np.arange(vd.num_images(SMALL)))
    split = held_out(SMALL, levels, fraction=0.3)
    assert abs(float(split.mean()) - 0.3) < 0.02
    np.testing.assert_array_equal(
        jax.jit(lambda a: held_out(SMALL, a, fraction=0.3))(levels), split
    )
    other = held_out(SMALL, levels, fraction=0.3, salt=1)
    assert 0.3 < float(np.mean(np.asarray(other) != np.asarray(split))) < 0.55
    with pytest.raises(ValueError, match="fraction"):
        held_out(SMALL, levels, fraction=1.0)


# The trained probe.


class Blobs:
    """A blob on a circle, of two kinds and five brightnesses: every kind of factor."""

    factors = (
        vd.Factor("angle", tuple(range(9)), 9, True),
        vd.Factor("label", (0.0, 1.0), 2, False),
        vd.Factor("light", (0.2, 0.4, 0.6, 0.8, 1.0), 5, False),
    )
    image_shape = (8, 8, 1)

    def image(self, factors):
        angle = 2 * jnp.pi * factors[0] / 9
        x, y = jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0))
        width = jnp.where(factors[1] == 0, 1.0, 3.0)
        square = (x - 3.5 - 2 * jnp.cos(angle)) ** 2 + (y - 3.5 - 2 * jnp.sin(angle)) ** 2
        return ((0.2 + 0.2 * factors[2]) * jnp.exp(-square / width))[..., None]


@functools.cache
def trained():
    return train_probe(
        jax.random.key(0),
        Blobs(),
        channels=(8, 16),
        dense=(32,),
        num_steps=250,
        num_score_images=128,
        learning_rate=1e-2,
    )


@pytest.mark.thorough
def test_a_trained_probe_reads_combinations_it_never_saw():
    probe = trained()
    assert probe.losses[-20:].mean() < 0.2 * probe.losses[:20].mean()
    assert min(probe.scores.values()) > 0.85
    assert probe.readout.cyclic == (True, False, False)
    columns = probe.readout(jnp.zeros((8, 8, 1)))
    np.testing.assert_allclose(columns[2:4].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": (4,) * 6}, "do not divide by 64"), ({"num_steps": 0}, "num_steps")],
)
def test_the_probe_refuses_what_cannot_train(options, message):
    with pytest.raises(ValueError, match=message):
        train_probe(jax.random.key(0), SMALL, **options)
