"""InfoMEC: grids whose ratios are known, and an unpenalised regression by another route."""

import numpy as np
import pytest
from scipy import optimize

from vaecausal_jax.metrics import infomec


def grid(*sizes):
    axes = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(sizes))


FACTORS = grid(2, 3, 4)


def test_perfect_codes_score_one_however_their_indices_are_named():
    names = np.array([7, -3, 12, 0])
    for codes in (FACTORS, names[FACTORS], 0.5 * FACTORS):
        score = infomec.infomec(codes, FACTORS)
        np.testing.assert_allclose([score.modularity, score.compactness], 1, atol=1e-6)
        np.testing.assert_allclose(score.explicitness, 1, atol=1e-3)
        np.testing.assert_allclose(score.matrix, np.eye(3), atol=1e-6)


def test_duplicated_codes_are_modular_and_not_compact():
    score = infomec.infomec(np.tile(FACTORS, 2), FACTORS)
    np.testing.assert_allclose(score.modularity, 1, atol=1e-6)
    np.testing.assert_allclose(score.compactness, (1 / 2 - 1 / 6) / (1 - 1 / 6), atol=1e-6)


def test_a_code_of_all_factors_at_once_is_explicit_and_not_modular():
    index = FACTORS @ np.array([12, 4, 1])
    codes = np.stack([index, np.zeros(24, int)], axis=1)
    score = infomec.infomec(codes, FACTORS)
    np.testing.assert_array_equal(score.active, [True, False])
    np.testing.assert_allclose(score.matrix, [[1, 1, 1], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(score.modularity, 0, atol=1e-6)
    assert score.compactness == 1  # There is one active latent to be compact in.
    np.testing.assert_allclose(score.explicitness, 1, atol=5e-3)


def test_uninformative_codes_score_zero():
    factors = np.repeat(FACTORS, 2, axis=0)
    codes = np.tile([[0], [1]], (24, 1))
    score = infomec.infomec(codes, factors)
    np.testing.assert_allclose([score.modularity, score.explicitness], 0, atol=1e-6)


def test_explicitness_is_that_of_a_directly_minimised_regression():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2, (300, 2))
    codes = np.where(rng.uniform(size=(300, 2)) < 0.3, 1 - factors, factors)
    explained = []
    for column in factors.T:
        x = np.concatenate([codes, np.ones((300, 1))], axis=1)
        sign = 2 * column - 1
        balance = np.where(column, 0.5 / column.mean(), 0.5 / (1 - column.mean()))

        def losses(w, x=x, sign=sign):
            return np.logaddexp(0, -sign * (x @ w))

        best = optimize.minimize(lambda w, b=balance, f=losses: np.mean(b * f(w)), np.zeros(3)).x
        explained.append(1 - losses(best).mean() / np.log(2))
    found = infomec.infomec(codes, factors).explicitness
    np.testing.assert_allclose(found, np.mean(explained), atol=1e-4)


def test_continuous_codes_prune_by_range_and_score_near_one_when_perfect():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 400) for size in (2, 3)], axis=1)
    codes = factors + 0.05 * rng.normal(size=(400, 2))
    with_small = np.concatenate([codes, 0.01 * rng.normal(size=(400, 1))], axis=1)
    score = infomec.infomec_continuous(with_small, factors)
    np.testing.assert_array_equal(score.active, [True, True, False])
    assert min(score.modularity, score.compactness, score.explicitness) > 0.9
    np.testing.assert_allclose(np.diag(score.matrix), 1, atol=0.05)
    noise = infomec.infomec_continuous(rng.normal(size=(400, 2)), factors)
    assert noise.explicitness < 0.1


BAD_CALLS = {
    "dead": (lambda: infomec.infomec(np.ones((24, 2)), FACTORS), "no active latent"),
    "dead, continuous": (
        lambda: infomec.infomec_continuous(np.ones((24, 2)), FACTORS),
        "no active latent",
    ),
    "one factor": (lambda: infomec.infomec(FACTORS, FACTORS[:, :1]), "at least 2 factors"),
    "continuous codes": (
        lambda: infomec.infomec(np.random.default_rng(0).normal(size=(24, 2)), FACTORS),
        "looks continuous",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
