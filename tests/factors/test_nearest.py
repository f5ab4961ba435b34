"""Levels by the nearest image: exact on the world itself, and by a loop elsewhere."""

import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax import factors
from vaecausal_jax.data.causal_worlds import all_rows

WORLD = vd.sprites(16, num_scales=2, num_orientations=1, num_positions=4)


def test_images_of_the_world_are_read_exactly():
    rows = all_rows(WORLD)
    assert (factors.nearest_levels(WORLD, vd.images(WORLD, rows)) == rows).all()
    scores = factors.readability(WORLD, vd.images(WORLD, rows), rows)
    assert scores == dict.fromkeys(vd.factor_names(WORLD), 1.0)
    scores = factors.readability(WORLD, vd.images(WORLD, rows[:1]), rows[:1])
    assert np.isnan(scores["x"])  # One level: nothing to read.


def test_the_nearest_image_is_that_of_a_loop():
    random = np.random.default_rng(0)
    shown = random.random((6, 16, 16, 1), np.float32)
    rows = all_rows(WORLD)
    world = np.asarray(vd.images(WORLD, rows), np.float64)
    expected = [rows[np.argmin([((image - w) ** 2).sum() for w in world])] for image in shown]
    np.testing.assert_array_equal(factors.nearest_levels(WORLD, shown), expected)


def test_scores_by_hand():
    rows = all_rows(WORLD)
    wrong = rows.copy()
    wrong[:, 0] = (wrong[:, 0] + (np.arange(len(rows)) % 4 == 0)) % 3
    wrong[:, 3] = 3 - wrong[:, 3]
    scores = factors.readability(WORLD, vd.images(WORLD, wrong), rows)
    assert scores["shape"] == 0.75
    # A factor read backwards has errors of variance 4 times its own.
    assert scores["x"] == pytest.approx(-3.0)


def test_other_shapes_and_large_worlds_are_refused():
    with pytest.raises(ValueError, match=r"expected images \(n, \*\(16, 16, 1\)\), got \(2, 8, 8"):
        factors.nearest_levels(WORLD, np.zeros((2, 8, 8, 1)))
    with pytest.raises(ValueError, match="more than 2000000"):
        all_rows(vd.sprites(64, num_positions=200))
    with pytest.raises(ValueError, match=r"737280 images .* up to 268 are rendered at once"):
        factors.nearest_levels(vd.dsprites_exact(), np.zeros((1, 64, 64, 1)))
    with pytest.raises(ValueError, match=r"images in \[0, 1\]"):
        factors.nearest_levels(WORLD, np.full((1, 16, 16, 1), 5.0))
