"""The gate: factors that cannot be read off a family have no class, no edge and no number."""

import math

import numpy as np
import pytest

from vaecausal_jax.data import factor_names, sprites
from vaecausal_jax.study.config import PRESETS
from vaecausal_jax.study.factors import ReadoutQuality, factor_effects
from vaecausal_jax.study.gate import MIN_QUALITY, family_quality, is_readable

DATA = sprites(16)
NAMES = factor_names(DATA)
NUM = len(NAMES)


def test_quality_is_the_mean_over_usable_models_and_one_without_a_number_does_not_pass():
    scores = [{"a": 0.6, "b": 0.9}, {"a": 0.8, "b": None}, {"a": 0.0, "b": 0.9}, {"a": 1.0}]
    found = family_quality(
        ["vae", "vae", "vae", "other"], ["ok", "ok", "diverged", "bad"], scores, ("a", "b")
    )
    assert set(found) == {"vae"}
    np.testing.assert_allclose(found["vae"], [0.7, math.nan])
    assert is_readable(found["vae"] + 1e-12).tolist() == [True, False]
    assert is_readable(np.array([MIN_QUALITY, MIN_QUALITY - 1e-9])).tolist() == [True, False]


def test_a_model_is_read_as_its_family_is():
    quality = ReadoutQuality(
        {"a": 1.0, "b": 1.0}, [{"a": 0.5, "b": 1}, {"a": 1, "b": 1}, {"a": 0.1, "b": 0.2}], None
    )
    labels = [("vae", 0), ("vae", 1), ("other", 0)]
    found = quality.readable(labels, ["ok", "ok", "ok"])
    assert found.tolist() == [[True, True], [True, True], [False, False]]
    without = quality.readable(labels, ["ok", "diverged", "ok"])
    assert without.tolist() == [[False, True], [False, True], [False, False]]


@pytest.fixture(scope="module")
def arrays():
    """Two models whose four units each move one factor, unit u factor u."""
    rng = np.random.default_rng(0)
    written = 0.3 * rng.normal(size=(2, 4, NUM, 24))
    written[:, np.arange(4), np.arange(4)] += 1.0
    mediated = 0.1 * rng.normal(size=(2, 4, NUM, NUM, 6))
    swapped = 0.1 * rng.normal(size=(2, NUM, NUM, 12)) + np.eye(NUM)[..., None]
    swapped[:, 0, 1] += 1.0
    swapped[:, 0, 2] += 1.0
    site = {"mediated": mediated, "written": written, "read": np.abs(written[..., :6])}
    return {"site/latent/z": site, "input": {"swapped": swapped}}


def effects_where(arrays, *names):
    config = PRESETS["quick"]
    readable = np.tile(np.isin(NAMES, names), (2, 1))
    return factor_effects(config, DATA, arrays, readable, 1)


def test_classes_and_edges_are_of_factors_that_pass(arrays):
    everything = effects_where(arrays, *NAMES)
    assert everything.classes.label.tolist() == ["monosemantic"] * 4
    assert everything.classes.top_factor.tolist() == [0, 1, 2, 3]
    assert everything.graph.adjacency[0].tolist() == [False, True, True, *[False] * (NUM - 3)]
    some = effects_where(arrays, NAMES[0], NAMES[2])
    assert np.all(some.classes.label[[0, 2]] == "monosemantic")
    assert np.all(np.isin(some.classes.label[[1, 3]], ["dead", "undetected"]))
    assert some.classes.top_factor[[0, 2]].tolist() == [0, 2]
    assert some.classes.significant.shape == (4, NUM)
    lost = ~np.isin(NAMES, (NAMES[0], NAMES[2]))
    assert not some.classes.significant[:, lost].any()
    assert np.isnan(some.classes.share[:, lost]).all()
    assert np.argwhere(some.graph.adjacency).tolist() == [[0, 2]]
    assert not some.graph.control[lost].any()
    assert np.isnan(some.graph.effect.value[lost]).all()
    assert np.isnan(some.graph.effect.value[:, lost]).all()
    assert not np.isin(some.graph.verdict[:, lost], ("edge", "none")).any()
    assert some.specificity.active[[0, 2]].all()
    assert np.isfinite(some.paper[[0, 2]]).all()


def test_one_factor_that_passes_decides_on_no_meaning_and_none_on_nothing(arrays):
    one = effects_where(arrays, NAMES[1])
    assert one.classes.label[1] == "undetermined"
    assert np.isin(np.delete(one.classes.label, 1), ["dead", "undetected"]).all()
    nothing = effects_where(arrays)
    assert np.all(nothing.classes.label == "undetected")
    for found in (one, nothing):
        assert not found.specificity.active.any()
        assert np.isnan(found.paper).all()
        assert not found.graph.adjacency.any()
        assert found.score is None
