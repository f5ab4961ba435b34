"""Tests of effects: exact where they can be, never p = 0, and honest about families."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax import inference

KEY = jax.random.key(0)


# --- sign flips ---------------------------------------------------------------------------------


def test_three_samples_have_eight_sign_patterns():
    # Two patterns each of |sum| 6, 4, 2 and 0; p counts those that reach the observed one.
    samples = np.array([[1.0, 2, 3], [-1, 2, 3], [1, -2, 3], [1, 2, -3]])
    test = inference.sign_flip_test(samples)
    np.testing.assert_allclose(test.p_value, [2 / 8, 4 / 8, 6 / 8, 1.0])
    assert test.exact
    np.testing.assert_allclose(
        test.statistic, stats.ttest_1samp(samples, 0, axis=1).statistic, atol=1e-6
    )


@pytest.mark.parametrize("num_samples", [2, 3, 6, 9])
def test_smallest_p_is_two_in_the_number_of_patterns(num_samples):
    test = inference.sign_flip_test(np.ones(num_samples))
    np.testing.assert_allclose(test.p_value, 2 / 2**num_samples)
    np.testing.assert_allclose(test.p_value, inference.smallest_p(num_samples))


def test_exact_p_values_are_those_of_scipy():
    samples = np.random.default_rng(0).normal(0.4, 1, size=(3, 8))
    test = inference.sign_flip_test(samples)
    for row in range(3):
        expected = stats.permutation_test(
            (samples[row],), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        np.testing.assert_allclose(test.p_value[row], expected.pvalue)


def test_random_flips_approach_the_exact_p_and_never_reach_zero():
    samples = np.random.default_rng(0).normal(0.5, 1, size=(4, 12))
    exact = inference.sign_flip_test(samples)
    sampled = inference.sign_flip_test(samples, key=KEY, num_flips=2000)
    assert exact.exact
    assert (sampled.exact, sampled.num_flips) == (False, 2000)
    error = np.sqrt(exact.p_value * (1 - exact.p_value) / 2000)
    np.testing.assert_array_less(np.abs(sampled.p_value - exact.p_value), 4 * error + 2e-3)
    certain = inference.sign_flip_test(np.ones((1, 40)), key=KEY, num_flips=99)
    np.testing.assert_allclose((certain.p_value, certain.family_p_value), 1 / 100)


def westfall_young(samples):
    """Step-down max-T by its definition, over all sign patterns."""
    num_units, num_samples = samples.shape

    def t(values):
        return np.abs(values.sum(1)) / np.sqrt((values**2).sum(1))

    observed = t(samples)
    patterns = itertools.product([1.0, -1.0], repeat=num_samples)
    null = np.array([t(samples * np.array(p)[None]) for p in patterns])
    p_values, running = np.zeros(num_units), 0.0
    remaining = list(np.argsort(-observed))
    while remaining:
        largest = null[:, remaining].max(1)
        unit = remaining.pop(0)
        running = max(running, np.mean(largest >= observed[unit] - 1e-9))
        p_values[unit] = running
    return p_values


@pytest.mark.parametrize("seed", range(2))
def test_family_p_values_equal_step_down_max_t_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    samples = (
        rng.normal(size=(5, 7)) + rng.normal(size=7)[None] + np.array([1.5, 0, 0, 0.5, 0])[:, None]
    )
    test = inference.sign_flip_test(samples)
    np.testing.assert_allclose(test.family_p_value, westfall_young(samples), atol=1e-6)
    assert np.all(test.family_p_value >= test.p_value)


def test_units_that_are_copies_of_one_cost_nothing_in_the_family():
    unit = np.random.default_rng(0).normal(0.8, 1, size=9)
    alone = inference.sign_flip_test(unit)
    copies = inference.sign_flip_test(np.stack([unit, 3 * unit, -unit]))
    np.testing.assert_allclose(copies.family_p_value, alone.p_value)
    assert alone.family_p_value == alone.p_value


def test_p_values_do_not_depend_on_scale_sign_or_the_shape_of_the_family():
    samples = np.random.default_rng(0).normal(0.3, 1, size=(2, 3, 8))
    plain = inference.sign_flip_test(samples)
    scaled = inference.sign_flip_test(samples * np.geomspace(1e-12, 1e9, 6).reshape(2, 3, 1))
    flipped = inference.sign_flip_test(-samples.reshape(6, 8))
    for field in ("p_value", "family_p_value"):
        np.testing.assert_allclose(getattr(scaled, field), getattr(plain, field))
        np.testing.assert_allclose(getattr(flipped, field).reshape(2, 3), getattr(plain, field))


def test_units_without_effects_or_without_numbers_do_not_disturb_the_others():
    samples = np.random.default_rng(0).normal(1, 1, size=(3, 8))
    alone = inference.sign_flip_test(samples)
    more = inference.sign_flip_test(
        np.concatenate([samples, np.zeros((1, 8)), np.full((1, 8), np.nan)])
    )
    for field in ("statistic", "p_value", "family_p_value"):
        np.testing.assert_allclose(getattr(more, field)[:3], getattr(alone, field))
        assert np.isnan(getattr(more, field)[4])
    assert (more.statistic[3], more.p_value[3], more.family_p_value[3]) == (0, 1, 1)
    assert np.isinf(inference.sign_flip_test(np.ones(5)).statistic)


def test_family_of_correlated_nulls_is_rejected_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(400):
        samples = rng.normal(size=(20, 9)) + rng.normal(size=9)[None]
        rejected.append(inference.sign_flip_test(samples).family_p_value.min() <= 0.05)
    # 256 patterns: the largest attainable level up to 0.05 is 12 / 256.
    expected = 12 / 256
    assert abs(np.mean(rejected) - expected) < 3 * np.sqrt(expected / 400)


# --- false discoveries --------------------------------------------------------------------------


@pytest.mark.parametrize("dependent", [False, True])
def test_textbook_p_values_reject_the_first_two(dependent):
    # T29.
    adjusted = inference.false_discovery([0.001, 0.008, 0.039, 0.041, 0.27], dependent=dependent)
    np.testing.assert_array_equal(adjusted <= 0.05, [True, True, False, False, False])


@pytest.mark.parametrize(("dependent", "method"), [(False, "bh"), (True, "by")])
@pytest.mark.parametrize("seed", range(3))
def test_adjusted_p_values_are_those_of_scipy_and_statsmodels(dependent, method, seed):
    p_values = np.random.default_rng(seed).beta(0.4, 1, size=(4, 25)).round(2)
    adjusted = inference.false_discovery(p_values, dependent=dependent)
    np.testing.assert_allclose(
        adjusted.ravel(), stats.false_discovery_control(p_values, axis=None, method=method)
    )
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="a second oracle")
    _, expected, _, _ = multitest.multipletests(p_values.ravel(), method=f"fdr_{method}")
    np.testing.assert_allclose(adjusted.ravel(), expected)


def test_what_was_not_tested_is_no_part_of_the_family():
    p_values = np.array([0.01, np.nan, 0.03, np.nan, 0.5])
    adjusted = inference.false_discovery(p_values)
    np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(p_values))
    np.testing.assert_allclose(adjusted[[0, 2, 4]], inference.false_discovery(p_values[[0, 2, 4]]))
    assert np.isnan(inference.false_discovery(np.full(3, np.nan))).all()


def test_false_discoveries_of_simulated_units_stay_below_q():
    rng = np.random.default_rng(0)
    effects = np.where(np.arange(50) < 10, 4.0, 0.0)
    share = []
    for _ in range(1000):
        p_values = 2 * stats.norm.sf(np.abs(effects + rng.normal(size=50)))
        rejected = inference.false_discovery(p_values) <= 0.1
        share.append(rejected[10:].sum() / max(rejected.sum(), 1))
    # Independent tests: exactly q times the share of nulls.
    assert abs(np.mean(share) - 0.1 * 40 / 50) < 4 * np.std(share) / np.sqrt(1000)


# --- sizes of effects ---------------------------------------------------------------------------


SAMPLES = np.random.default_rng(0).normal(np.array([0.0, 0.2, -0.6, 3.0])[:, None], 1, (4, 25))


def test_discoveries_in_two_steps_by_hand():
    # Simes: 0.002, 0.03 * 2, 0.9, none: one of three families is selected, at q / 3 within.
    p_values = np.array([[0.001, 0.03], [0.03, 0.9], [0.9, 0.9], [np.nan, np.nan]])
    found = inference.hierarchical_discovery(p_values, q=0.05)
    np.testing.assert_array_equal(found, [[True, False], [False] * 2, [False] * 2, [False] * 2])
    # With all families selected it is BH within each.
    found = inference.hierarchical_discovery(p_values[:1], q=0.05)
    np.testing.assert_array_equal(found, [[True, True]])


def test_families_of_noise_are_selected_no_more_often_than_q():
    p_values = np.random.default_rng(6).uniform(size=(1000, 20, 5))
    any_found = [inference.hierarchical_discovery(p).any() for p in p_values]
    assert np.mean(any_found) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)


def test_minimum_effect_of_zero_is_the_two_sided_t_test():
    expected = stats.ttest_1samp(SAMPLES, 0, axis=1).pvalue
    np.testing.assert_allclose(inference.minimum_effect_test(SAMPLES, 0.0), expected)


def test_minimum_effect_far_from_zero_is_the_one_sided_t_test():
    expected = stats.ttest_1samp(SAMPLES[3], 2.5, alternative="greater").pvalue
    for samples in (SAMPLES[3], -SAMPLES[3]):
        np.testing.assert_allclose(inference.minimum_effect_test(samples, 2.5), expected)


@pytest.mark.parametrize("delta", [0.05, 0.3, 1.0])
def test_an_effect_of_just_the_smallest_interest_is_found_as_rarely_as_it_says(delta):
    samples = np.random.default_rng(1).normal(delta, 1, size=(20_000, 30))
    rejected = np.mean(inference.minimum_effect_test(samples, delta) <= 0.05)
    assert 0.04 < rejected < 0.05 + 4 * np.sqrt(0.05 / 20_000)


def test_equivalence_is_the_larger_of_two_one_sided_t_tests():
    expected = np.maximum(
        stats.ttest_1samp(SAMPLES, -0.5, axis=1, alternative="greater").pvalue,
        stats.ttest_1samp(SAMPLES, 0.5, axis=1, alternative="less").pvalue,
    )
    np.testing.assert_allclose(inference.equivalence_test(SAMPLES, 0.5), expected)
    weightstats = pytest.importorskip("statsmodels.stats.weightstats", reason="a second oracle")
    for row in range(4):
        theirs = weightstats.DescrStatsW(SAMPLES[row]).ttost_mean(-0.5, 0.5)[0]
        np.testing.assert_allclose(inference.equivalence_test(SAMPLES[row], 0.5), theirs)


def test_an_effect_at_the_margin_is_called_none_as_rarely_as_it_says():
    samples = np.random.default_rng(1).normal(0.8, 1, size=(20_000, 30))
    rejected = np.mean(inference.equivalence_test(samples, 0.8) <= 0.05)
    assert abs(rejected - 0.05) < 4 * np.sqrt(0.05 / 20_000)


def test_smallest_margin_is_where_equivalence_just_passes():
    margin = inference.equivalence_margin(SAMPLES, level=0.9)
    np.testing.assert_allclose(inference.equivalence_test(SAMPLES, margin), 0.1)


def test_effects_that_never_vary_are_beyond_doubt():
    samples = np.full((1, 5), 0.25)
    np.testing.assert_array_equal(inference.minimum_effect_test(samples, 0.1), 0)
    np.testing.assert_array_equal(inference.minimum_effect_test(samples, 0.5), 1)
    np.testing.assert_array_equal(inference.equivalence_test(samples, 0.5), 0)
    np.testing.assert_array_equal(inference.equivalence_test(samples, 0.1), 1)


BAD_CALLS = {
    "no key": (
        lambda: inference.sign_flip_test(np.ones((2, 40))),
        "40 samples have more sign patterns than num_flips = 9999; give a key",
    ),
    "one sample": (lambda: inference.sign_flip_test(np.ones((2, 1))), r"\(2, 1\).*two or more"),
    "a number": (lambda: inference.equivalence_test(1.0, 0.1), r"shape \(\)"),
    "p": (lambda: inference.false_discovery([0.1, 1.2]), r"lie in \[0, 1\], got 0.1 .. 1.2"),
    "margin": (lambda: inference.equivalence_test(SAMPLES, -0.1), "margin must not be negative"),
    "delta": (lambda: inference.minimum_effect_test(SAMPLES, -1), "delta must not be negative"),
    "families without tests": (lambda: inference.hierarchical_discovery([0.1]), r"shape \(1,\)"),
    "p of a family": (
        lambda: inference.hierarchical_discovery([[0.1, 1.2]]),
        r"p-values lie in \[0, 1\]",
    ),
    "q": (lambda: inference.hierarchical_discovery([[0.1]], q=1.0), "q must lie between 0 and 1"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_samples_that_allow_no_test_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
