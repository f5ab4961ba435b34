"""SAP, explicitness, BetaVAE and DCI: against scikit-learn, by hand, and on known codes."""

import jax
import numpy as np
import pytest
from sklearn import ensemble, linear_model, metrics, svm

from vaecausal_jax import metrics as dis
from vaecausal_jax.metrics import dci, predictability
from vaecausal_jax.metrics.solvers import boosted_trees, linear_svm

KEY = jax.random.key(0)


def sampled(seed, rows=300, sizes=(2, 3, 5), width=4):
    """Codes that mix factors drawn at random."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, size, rows) for size in sizes], axis=1)
    codes = factors @ rng.normal(size=(len(sizes), width)) + rng.normal(size=(rows, width))
    return codes.astype(np.float32), factors


def perfect(rows=300, sizes=(2, 3, 5)):
    _, factors = sampled(0, rows, sizes)
    return ((factors - factors.mean(axis=0)) / factors.std(axis=0)).astype(np.float32), factors


# SAP


@pytest.mark.parametrize("seed", range(3))
def test_one_code_machines_are_those_of_linear_svc(seed):
    codes, factors = sampled(seed, rows=450, sizes=(2, 3, 7))
    factors[:, 1] = np.minimum(factors[:, 1], np.random.default_rng(seed).integers(0, 3, 450))
    found = predictability.sap_discrete(codes, factors).matrix
    expected = np.zeros_like(found)
    for i in range(4):
        for j in range(3):
            machine = svm.LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-8)
            machine.fit(codes[:300, i : i + 1], factors[:300, j])
            expected[i, j] = machine.score(codes[300:, i : i + 1], factors[300:, j])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_slopes_and_intercepts_are_those_of_linear_svc_to_its_tolerance():
    codes, factors = sampled(3, rows=200, sizes=(6,))
    problems = linear_svm._problems(codes, factors, (6,), 0.5)
    slope, intercept = (part.reshape(4, 6) for part in linear_svm._minimise(problems))
    for i in range(4):
        machine = svm.LinearSVC(C=0.5, class_weight="balanced", dual=False, tol=1e-12)
        machine.fit(codes[:, i : i + 1].astype(float), factors[:, 0])
        np.testing.assert_allclose(slope[i], machine.coef_[:, 0], atol=1e-6)
        np.testing.assert_allclose(intercept[i], machine.intercept_, atol=1e-6)


def test_squared_correlation_is_numpys_and_dead_codes_have_none():
    codes, factors = sampled(0)
    codes[:, 3] = 2.0
    score = predictability.sap_continuous(codes, factors)
    expected = np.corrcoef(codes[:, :3], factors, rowvar=False)[:3, 3:] ** 2
    np.testing.assert_allclose(score.matrix[:3], expected, atol=1e-10)
    np.testing.assert_array_equal(score.matrix[3], 0)
    ordered = np.sort(expected, axis=0)
    np.testing.assert_allclose(score.parts, ordered[-1] - ordered[-2], atol=1e-10)


def test_a_perfect_code_has_the_whole_gap_and_a_duplicated_one_none():
    axes = np.meshgrid(np.arange(3), np.arange(4), indexing="ij")
    factors = np.stack(axes, axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(predictability.sap_continuous(factors, factors).value, 1)
    duplicated = np.tile(factors, 2)
    assert predictability.sap_continuous(duplicated, factors).value < 1e-12
    assert predictability.sap_discrete(np.tile(perfect()[0], 2), perfect()[1]).value == 0


def test_scale_moves_discrete_sap_and_not_the_continuous_one():
    codes, factors = sampled(1, rows=600)
    first, second = (predictability.sap_continuous(s * codes, factors).value for s in (1.0, 0.05))
    np.testing.assert_allclose(first, second, atol=1e-6)
    first, second = (predictability.sap_discrete(s * codes, factors).matrix for s in (1.0, 0.05))
    assert np.abs(first - second).max() > 0.01


# Explicitness


def test_explicitness_is_that_of_scikit_learn_step_by_step():
    codes, factors = sampled(0, sizes=(2, 4))
    mean, scale = codes[:200].mean(axis=0), codes[:200].std(axis=0)
    x = (codes - mean) / scale
    areas = []
    for column in factors.T:
        model = linear_model.LogisticRegression().fit(x[:200], column[:200])
        own = column[200:, None] == np.arange(column.max() + 1)[None, :]
        areas.append(metrics.roc_auc_score(own, model.predict_proba(x[200:])))
    np.testing.assert_allclose(predictability.explicitness(codes, factors).parts, areas, atol=1e-3)


def test_explicitness_is_blind_to_rotation_and_half_for_noise():
    codes, factors = perfect(900)
    rotated = dis.reference_codes(KEY, factors)["rotated"]
    first, second = (predictability.explicitness(c, factors).value for c in (codes, rotated))
    np.testing.assert_allclose(first, second, atol=0.01)
    noise = np.random.default_rng(0).normal(size=codes.shape)
    assert abs(predictability.explicitness(noise, factors).value - 0.5) < 0.08


def test_a_level_that_only_one_part_has_does_not_break_any_score():
    codes, factors = perfect()
    only_train, only_test = factors.copy(), factors.copy()
    only_train[5, 2], only_test[250, 2] = 7, 7
    for changed in (only_train, only_test):
        assert predictability.explicitness(codes, changed).value > 0.9
        assert predictability.sap_discrete(codes, changed).value > 0
        assert dci.dci_forest(codes, changed, num_trees=5).informativeness > 0.7


# BetaVAE


def test_beta_vae_score_of_perfect_and_noisy_codes():
    codes, factors = perfect()
    votes = {"num_train": 600, "num_eval": 600}
    assert predictability.beta_vae_score(KEY, codes, factors, **votes).value > 0.99
    noise = np.random.default_rng(0).normal(size=codes.shape)
    score = predictability.beta_vae_score(KEY, noise, factors, **votes)
    assert abs(score.value - 1 / 3) < 0.12
    np.testing.assert_allclose(
        np.diag(predictability.beta_vae_score(KEY, codes, factors, **votes).matrix), 0, atol=1e-6
    )


# DCI from an importance matrix


def test_disentanglement_and_completeness_of_a_matrix_worked_by_hand():
    importance = np.array([[3.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    d, per_code = dci.disentanglement(importance)
    np.testing.assert_allclose(per_code[:2], [1, 0], atol=1e-8)
    np.testing.assert_allclose(d, 3 / 4, atol=1e-8)
    c, per_factor = dci.completeness(importance)
    shares = np.array([3 / 3.5, 0.5 / 3.5])
    first = 1 + np.sum(shares * np.log(shares)) / np.log(3)
    np.testing.assert_allclose(per_factor, [first, 1], atol=1e-8)
    np.testing.assert_allclose(c, (3.5 * first + 0.5) / 4, atol=1e-8)


def test_no_importance_at_all_scores_zero_with_equal_weights():
    d, per_code = dci.disentanglement(np.zeros((4, 3)))
    np.testing.assert_allclose(per_code, 0, atol=1e-8)
    np.testing.assert_allclose(d, 0, atol=1e-8)


def test_codes_after_a_dead_one_keep_their_weight():
    importance = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(dci.disentanglement(importance)[0], 1, atol=1e-8)


def test_duplicated_codes_keep_disentanglement_and_lose_completeness():
    importance = np.concatenate([np.eye(5), np.eye(5)]) / 2
    np.testing.assert_allclose(dci.disentanglement(importance)[0], 1, atol=1e-8)
    np.testing.assert_allclose(
        dci.completeness(importance)[0], 1 - np.log(2) / np.log(10), atol=1e-8
    )


# DCI estimators


@pytest.mark.thorough
def test_boosted_trees_are_scikit_learns_up_to_ties():
    codes, factors = sampled(0, width=3)
    ours, theirs = dci.dci_boosted(codes, factors), dci.dci_gbt(codes, factors)
    np.testing.assert_allclose(ours.importance, theirs.importance, atol=0.03)
    np.testing.assert_allclose(ours.disentanglement, theirs.disentanglement, atol=0.01)
    np.testing.assert_allclose(ours.completeness, theirs.completeness, atol=0.01)
    np.testing.assert_allclose(ours.informativeness_train, theirs.informativeness_train, atol=0.01)
    np.testing.assert_allclose(ours.informativeness, theirs.informativeness, atol=0.04)


@pytest.mark.thorough
def test_first_trees_are_scikit_learns_exactly():
    # One round has no ties to speak of: importances and predictions agree to rounding.
    codes, factors = sampled(1, rows=200, sizes=(3, 4), width=3)
    fit = boosted_trees.fit_boosted_trees(
        codes, factors, codes[:50], factors[:50], (3, 4), num_rounds=1, depth=2
    )
    for j in range(2):
        model = ensemble.GradientBoostingClassifier(n_estimators=1, max_depth=2)
        model.fit(codes, factors[:, j])
        np.testing.assert_allclose(fit.importance[:, j], model.feature_importances_, atol=1e-5)
        np.testing.assert_allclose(fit.train_accuracy[j], model.score(codes, factors[:, j]))
        np.testing.assert_allclose(fit.test_accuracy[j], model.score(codes[:50], factors[:50, j]))


@pytest.mark.thorough
def test_trees_do_not_split_equal_values_or_constant_codes():
    factors = np.repeat([[0], [1]], 50, axis=0)
    codes = np.stack([np.ones(100), np.tile([0.0, 1.0], 50), factors[:, 0]], axis=1)
    blind = codes * np.array([1, 1, 0])

    def importance(codes):
        fit = boosted_trees.fit_boosted_trees(
            codes, factors, codes, factors, (2,), num_rounds=2, depth=1
        )
        return fit.importance[:, 0]

    np.testing.assert_allclose(importance(codes), [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(importance(blind), 0, atol=1e-12)


def test_gbt_equals_numpys_global_generator_with_the_same_seed():
    codes, factors = sampled(2, rows=90, sizes=(2, 3), width=3)
    found = dci.dci_gbt(codes, factors, seed=4).importance
    np.random.seed(4)
    for j in range(2):
        model = ensemble.GradientBoostingClassifier().fit(codes[:60], factors[:60, j])
        np.testing.assert_array_equal(found[:, j], model.feature_importances_)


@pytest.mark.parametrize(
    "estimator",
    [
        dci.dci_boosted,
        lambda codes, factors: dci.dci_forest(codes, factors, num_trees=10, max_depth=None),
        dci.dci_lasso,
    ],
    ids=["boosted", "forest", "lasso"],
)
def test_perfect_codes_score_high_and_rotated_ones_low(estimator):
    codes, factors = perfect()
    score = estimator(codes, factors)
    assert score.importance.shape == (3, 3)
    assert min(score.disentanglement, score.completeness, score.informativeness) > 0.7
    rotated = estimator(dis.reference_codes(KEY, factors)["rotated"], factors)
    assert rotated.disentanglement < 0.6 * score.disentanglement
    np.testing.assert_allclose(
        score.disentanglement, dci.disentanglement(score.importance)[0], atol=1e-12
    )


def test_lasso_shrinks_the_weight_of_a_perfect_code_by_its_penalty():
    axes = np.meshgrid(np.arange(2), np.arange(3), np.arange(5), indexing="ij")
    factors = np.tile(np.stack(axes, axis=-1).reshape(-1, 3), (3, 1))
    score = dci.dci_lasso(factors, factors, num_train=60, alpha=0.1)
    np.testing.assert_allclose(score.importance, 0.9 * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(score.informativeness, 1 - 0.1**2, atol=1e-6)
    np.testing.assert_allclose(score.disentanglement, 1, atol=1e-8)


CODES, FACTORS = sampled(0, rows=30)
BAD_CALLS = {
    "nothing to test": (
        lambda: dci.dci_lasso(CODES, FACTORS, num_train=30),
        "num_train is 30, expected 1 to 29",
    ),
    "one code": (lambda: predictability.sap_discrete(CODES[:, :1], FACTORS), "and 2 codes"),
    "one code, continuous": (
        lambda: predictability.sap_continuous(CODES[:, :1], FACTORS),
        "and 2 codes",
    ),
    "rows": (
        lambda: predictability.sap_continuous(CODES, FACTORS[:-1]),
        "30 rows of codes and 29 rows of factors",
    ),
    "constant": (
        lambda: predictability.sap_continuous(CODES, np.ones((30, 1))),
        "factor 0 is constant",
    ),
    "one level to train on": (
        lambda: dci.split_train_test(CODES, np.arange(30)[:, None] // 20, None),
        "factor 0 has one level in the first 20 of 30 rows",
    ),
    "one factor": (
        lambda: predictability.beta_vae_score(KEY, CODES, FACTORS[:, :1]),
        "at least 2 factors",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
