"""Scores of codes alone: Gaussian closed forms, and models that agree by construction."""

import numpy as np
import pytest
from scipy import linalg, stats
from sklearn import linear_model

from vaecausal_jax import metrics as dis
from vaecausal_jax.metrics import udr


def with_covariance(covariance, rows=500, seed=0):
    """Codes whose sample covariance is the given one."""
    codes = np.random.default_rng(seed).normal(size=(rows, len(covariance)))
    codes -= codes.mean(axis=0)
    whitened = codes @ np.linalg.inv(np.linalg.cholesky(np.cov(codes, rowvar=False))).T
    return whitened @ np.linalg.cholesky(covariance).T + 3


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.9])
def test_two_correlated_codes_have_their_closed_forms(rho):
    codes = with_covariance(np.array([[1.0, rho], [rho, 1.0]]))
    np.testing.assert_allclose(
        dis.gaussian_total_correlation(codes), -0.5 * np.log(1 - rho**2), atol=1e-10
    )
    expected = 4 - 2 * (np.sqrt(1 + rho) + np.sqrt(1 - rho))
    np.testing.assert_allclose(
        dis.gaussian_wasserstein(codes), [expected, expected / 2], atol=1e-10
    )


def test_both_are_those_of_the_general_matrix_functions():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    codes = with_covariance(root @ root.T)
    covariance = np.cov(codes, rowvar=False)
    spread = np.diag(covariance)
    distance = 2 * spread.sum() - 2 * np.trace(linalg.sqrtm(covariance * spread[:, None])).real
    np.testing.assert_allclose(dis.gaussian_wasserstein(codes)[0], distance, rtol=1e-9)
    expected = 0.5 * (np.log(spread).sum() - np.log(linalg.det(covariance)))
    np.testing.assert_allclose(dis.gaussian_total_correlation(codes), expected, rtol=1e-9)


def test_scale_changes_only_the_unnormalised_distance():
    codes = with_covariance(np.array([[1.0, 0.5], [0.5, 2.0]]))
    tc, (distance, share) = dis.gaussian_total_correlation(codes), dis.gaussian_wasserstein(codes)
    np.testing.assert_allclose(dis.gaussian_total_correlation(3 * codes), tc, atol=1e-10)
    np.testing.assert_allclose(dis.gaussian_wasserstein(3 * codes), [9 * distance, share])


def test_duplicated_and_constant_codes_are_infinitely_dependent():
    codes = np.random.default_rng(0).integers(0, 4, (50, 2)).astype(float)
    assert dis.gaussian_total_correlation(np.tile(codes, 2)) == np.inf
    assert dis.gaussian_total_correlation(np.zeros((50, 2))) == np.inf
    assert dis.gaussian_wasserstein(np.zeros((50, 2))) == (0, 0)


# UDR


def whitened(seed, rows=400, width=4):
    return with_covariance(np.eye(width), rows, seed)


def test_models_that_differ_in_order_sign_and_scale_agree():
    codes = whitened(0)
    models = [codes, -2 * codes[:, ::-1], codes[:, [1, 0, 3, 2]] * [1, -3, 0.1, 5]]
    kl = np.ones((3, 4))
    spearman = udr.udr_spearman(models, kl)
    lasso = udr.udr_lasso(models, kl)
    # Uncorrelated codes: the L1 penalty takes 0.1 off a weight of 1, and the others are 0.
    np.testing.assert_allclose(lasso.value, 0.9, atol=1e-2)
    np.testing.assert_allclose(lasso.similarity[0, 1], 0.9 * np.eye(4)[::-1], atol=1e-2)
    for pairs in (spearman.pairs, lasso.pairs):
        assert np.isnan(np.diag(pairs)).all()
    assert np.all(spearman.value > 0.8)


def test_rotated_models_agree_less_than_permuted_ones():
    codes = whitened(0)
    rotation = stats.ortho_group.rvs(4, random_state=0)
    kl = np.ones((2, 4))
    for score in (udr.udr_lasso, udr.udr_spearman):
        assert (
            score([codes, codes @ rotation], kl).value[0]
            < 0.75 * score([codes, codes], kl).value[0]
        )


def test_similarities_are_those_of_the_libraries_pair_by_pair():
    rng = np.random.default_rng(1)
    models = rng.normal(size=(2, 200, 3)) @ rng.normal(size=(3, 3))
    result = udr.udr_spearman(models, np.ones((2, 3)))
    expected = [[abs(stats.spearmanr(a, b).statistic) for b in models[1].T] for a in models[0].T]
    np.testing.assert_allclose(result.similarity[0, 1], expected, atol=1e-10)
    scaled = (models - models.mean(axis=1, keepdims=True)) / models.std(axis=1, keepdims=True)
    lasso = udr.udr_lasso(models, np.ones((2, 3)))
    for b in range(3):
        weights = linear_model.Lasso(alpha=0.1).fit(scaled[0], scaled[1][:, b]).coef_
        np.testing.assert_allclose(lasso.similarity[0, 1, :, b], np.abs(weights), atol=1e-10)


def test_relative_strength_by_hand_and_of_nothing():
    similarity = np.array([[1.0, 0.0], [0.5, 0.5]])
    columns, rows = (1 / 1.5 + 0.25 / 0.5) / 2, (1 / 1 + 0.25 / 1) / 2
    np.testing.assert_allclose(udr.relative_strength(similarity), (columns + rows) / 2)
    assert udr.relative_strength(np.zeros((3, 2))) == 0
    assert udr.relative_strength(np.zeros((0, 2))) == 0


def test_inactive_codes_are_left_out():
    codes = whitened(0)
    noisy = codes.copy()
    noisy[:, 2] = np.random.default_rng(5).normal(size=len(codes))
    kl = np.ones((3, 4))
    kl[:, 2] = 0.005
    full = udr.udr_lasso([codes, noisy, codes], np.ones((3, 4)))
    pruned = udr.udr_lasso([codes, noisy, codes], kl)
    assert full.value[1] < pruned.value[1]
    np.testing.assert_allclose(pruned.value, 0.9, atol=1e-2)
    dead = udr.udr_lasso([codes, noisy], np.zeros((2, 4)))
    np.testing.assert_array_equal(dead.value, 0)


def test_a_model_scores_the_median_over_its_partners():
    models = [whitened(0), whitened(0), whitened(0), whitened(9)]
    result = udr.udr_spearman(models, np.ones((4, 4)))
    for j in range(4):
        partners = np.delete(result.pairs[:, j], j)
        np.testing.assert_allclose(result.value[j], np.median(partners))
    assert result.value[3] < 0.2 < result.value[0]


@pytest.mark.parametrize(
    ("codes", "kl", "message"),
    [
        (np.ones((1, 20, 3)), np.ones((1, 3)), "two models or more"),
        (np.ones((20, 3)), np.ones((1, 3)), r"codes have shape \(20, 3\)"),
        (np.ones((2, 20, 3)), np.ones((2, 4)), r"kl \(2, 4\)"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(codes, kl, message):
    with pytest.raises(ValueError, match=message):
        udr.udr_lasso(codes, kl)
