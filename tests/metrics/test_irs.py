"""IRS: its closed form, and a plain NumPy loop over levels."""

import itertools

import numpy as np
import pytest

from vaecausal_jax.metrics import discretise, irs

FACTORS = np.array(list(itertools.product(range(3), range(4), range(5))))
PERFECT = FACTORS.astype(np.float32)


def irs_by_loop(codes, factors, quantile):
    """The definition, code by code and level by level."""
    largest = np.abs(codes - codes.mean(axis=0)).max(axis=0)
    matrix = np.zeros((codes.shape[1], factors.shape[1]))
    for j, column in enumerate(factors.T):
        moved = []
        for level in np.unique(column):
            group = codes[column == level]
            moved.append(np.quantile(np.abs(group - group.mean(axis=0)), quantile, axis=0))
        matrix[:, j] = 1 - np.mean(moved, axis=0) / largest
    return np.average(matrix.max(axis=1), weights=largest), matrix


@pytest.mark.parametrize("c", [0.1, 0.5, 1.0])
def test_irs_of_a_mixture_of_two_signs_has_its_closed_form(c):
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    score = irs(signs @ np.array([[1.0], [c]]), signs, quantile=1.0)
    np.testing.assert_allclose(score.matrix, [[1 / (1 + c), c / (1 + c)]], rtol=1e-6)
    np.testing.assert_allclose(score.value, 1 / (1 + c), rtol=1e-6)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.9, 0.99, 1.0])
def test_irs_is_that_of_a_loop_over_levels(quantile):
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 400) for size in (2, 9)], axis=1)
    codes = rng.normal(size=(400, 3)) * [1, 5, 0.1] + factors[:, :1] + 3
    score = irs(codes, factors, quantile=quantile)
    value, matrix = irs_by_loop(codes, factors, quantile)
    np.testing.assert_allclose(score.matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(score.value, value, atol=1e-12)


def test_irs_of_constant_codes_has_no_weight():
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(60, 2)) + PERFECT[:, :2]
    with_dead = np.concatenate([codes, np.full((60, 2), 5.0)], axis=1)
    alone = irs(codes, FACTORS)
    np.testing.assert_allclose(irs(with_dead, FACTORS).value, alone.value, rtol=1e-6)
    assert irs(np.ones((60, 2)), FACTORS).value == 0
    np.testing.assert_allclose(irs(PERFECT, FACTORS).value, 1, rtol=1e-6)


def test_irs_bins_continuous_factors_when_asked():
    rng = np.random.default_rng(0)
    factors = rng.uniform(size=(500, 2))
    bins = discretise(factors, 20)
    codes = factors + 0.1 * rng.normal(size=(500, 2))
    assert irs(codes, factors, num_bins=20).value == irs(codes, bins).value


def test_codes_far_from_the_origin_score_alike():
    codes = PERFECT + 0.1 * np.random.default_rng(2).normal(size=(60, 3))
    far, near = (irs(c, FACTORS) for c in (codes + 1e6, codes))
    np.testing.assert_allclose(far.value, near.value, atol=1e-6)


BAD_CALLS = {
    "quantile in per cent": (
        lambda: irs(PERFECT, FACTORS, quantile=99),
        "quantile is 99, expected above 0, at most 1",
    ),
    "rows": (lambda: irs(PERFECT[:-1], FACTORS), r"\(60, 3\), expected \(59, factors\)"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
