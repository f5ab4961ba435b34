"""Estimates: intervals that cover as often as they say, and words where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax import inference

KEY = jax.random.key(0)


def coverage(estimate, truth):
    return np.mean((estimate.low <= truth) & (truth <= estimate.high))


def exponential_pairs(num_rows, num_images):
    """Effects and their denominators, correlated and skewed: means 1.5 and 2."""
    rng = np.random.default_rng(0)
    denominator = 1 + rng.exponential(1.0, (num_rows, num_images))
    numerator = 0.5 * denominator + rng.exponential(0.5, (num_rows, num_images))
    return jnp.asarray(numerator, float), jnp.asarray(denominator, float)


def test_bootstrap_of_a_mean_covers_it_as_often_as_it_says():
    samples = jnp.asarray(np.random.default_rng(1).normal(3.0, 2.0, (1500, 150)), float)
    for level, low, high in ((0.95, 0.93, 0.97), (0.8, 0.77, 0.83)):
        estimate = inference.bootstrap_mean(
            KEY, samples, intervention="none", bootstrap=inference.Bootstrap(level=level)
        )
        assert low <= coverage(estimate, 3.0) <= high


def test_bootstrap_of_a_ratio_covers_it_as_often_as_it_says():
    numerator, denominator = exponential_pairs(1500, 150)
    estimate = inference.bootstrap_ratio(KEY, numerator, denominator, intervention="none")
    assert 0.93 <= coverage(estimate, 1.5 / 2) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_bootstrap_covers_with_fresh_weights_for_every_replicate(seed):
    numerator, denominator = exponential_pairs(4000, 200)
    low, high = [], []
    for i, key in enumerate(jax.random.split(jax.random.key(seed), 40)):
        rows = slice(100 * i, 100 * (i + 1))
        estimate = inference.bootstrap_ratio(
            key,
            numerator[rows],
            denominator[rows],
            intervention="none",
            bootstrap=inference.Bootstrap(num_replicates=2000),
        )
        low.append(estimate.low)
        high.append(estimate.high)
    covered = (np.stack(low) <= 0.75) & (np.stack(high) >= 0.75)
    assert 0.935 <= covered.mean() <= 0.965


def test_bootstrap_errors_equal_those_of_theory():
    samples = jnp.asarray(np.random.default_rng(2).normal(0.0, 1.0, (400,)), float)
    estimate = inference.bootstrap_mean(
        KEY, samples, intervention="none", bootstrap=inference.Bootstrap(num_replicates=4000)
    )
    error = float(samples.std(ddof=1)) / 20
    np.testing.assert_allclose(estimate.value, samples.mean(), atol=1e-6)
    np.testing.assert_allclose((estimate.high - estimate.low) / 2, 1.96 * error, rtol=0.05)


def test_units_share_their_weights_so_an_interval_does_not_depend_on_its_neighbours():
    numerator, denominator = exponential_pairs(3, 20)
    together = inference.bootstrap_ratio(KEY, numerator, denominator, intervention="a")
    for i in range(3):
        alone = inference.bootstrap_ratio(KEY, numerator[i], denominator[i], intervention="a")
        for field in ("value", "low", "high"):
            value, row = getattr(alone, field), getattr(together, field)[i]
            np.testing.assert_allclose(value, row, rtol=1e-5)


def test_ratio_is_of_sums_and_shares_one_denominator_by_broadcasting():
    numerator = jnp.array([[1.0, 0.0, 2.0], [6.0, 3.0, 0.0]])
    estimate = inference.bootstrap_ratio(
        KEY, numerator, jnp.array([1.0, 2.0, 3.0]), intervention="a"
    )
    np.testing.assert_allclose(estimate.value, [0.5, 1.5])
    assert (estimate.num_inputs, estimate.num_seeds, estimate.level) == (3, 1, 0.95)
    assert "ratio" in estimate.method or "pair" in estimate.method
    constant = inference.bootstrap_ratio(KEY, 3 * numerator, numerator, intervention="a")
    np.testing.assert_allclose(constant.low, 3, rtol=1e-6)
    np.testing.assert_allclose(constant.high, 3, rtol=1e-6)


def test_without_any_effect_a_share_is_nan_and_its_neighbours_are_not():
    denominator = jnp.array([[0.0] * 5, [1.0] * 5])
    estimate = inference.bootstrap_ratio(KEY, jnp.ones((2, 5)), denominator, intervention="a")
    for value in (estimate.value, estimate.low, estimate.high):
        assert np.isnan(value[0])
        np.testing.assert_allclose(value[1], 1, rtol=1e-6)


def test_poisson_weights_are_independent_counts_of_mean_and_variance_one():
    weights = np.asarray(inference.poisson_weights(KEY, 400, 300))
    np.testing.assert_array_equal(weights, np.round(weights))
    np.testing.assert_allclose(weights.mean(), 1, atol=4 / np.sqrt(weights.size))
    np.testing.assert_allclose(weights.var(), 1, atol=4 * np.sqrt(3 / weights.size))
    correlation = np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(400)


@pytest.mark.parametrize("num_seeds", [2, 3, 6, 20])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_over_seeds_is_students(num_seeds, level):
    values = np.random.default_rng(num_seeds).normal(size=(num_seeds, 4))
    estimate = inference.over_seeds(values, num_inputs=10, intervention="a", level=level)
    expected = stats.t.interval(
        level, num_seeds - 1, loc=values.mean(0), scale=stats.sem(values, axis=0)
    )
    np.testing.assert_allclose((estimate.low, estimate.high), expected, rtol=1e-6)
    np.testing.assert_allclose(estimate.value, values.mean(0))


@pytest.mark.parametrize("num_seeds", [2, 3, 6])
def test_interval_over_seeds_covers_as_often_as_it_says(num_seeds):
    # A seed's value is its own mean plus the error of its images: both must be covered.
    rng = np.random.default_rng(0)
    seeds = 2.0 + 0.5 * rng.normal(size=(num_seeds, 4000))
    values = seeds + 0.3 * rng.normal(size=seeds.shape)
    estimate = inference.over_seeds(values, num_inputs=10, intervention="a")
    assert 0.935 <= coverage(estimate, 2.0) <= 0.965


def test_one_model_has_a_value_but_no_interval_over_seeds():
    estimate = inference.over_seeds(np.array([[1.0, 2.0]]), num_inputs=10, intervention="a")
    np.testing.assert_array_equal(estimate.value, [1, 2])
    assert np.isnan(estimate.low).all()
    assert np.isnan(estimate.high).all()


@pytest.mark.parametrize(
    ("num_seeds", "words"),
    [
        (1, "One trained model: any interval covers images, not seeds."),
        (2, "2 seeds: a paired sign-flip test cannot go below p = 0.5; 6 are needed"),
        (3, "3 seeds: a paired sign-flip test cannot go below p = 0.25; 6 are needed"),
        (5, "cannot go below p = 0.0625"),
        (6, ""),
        (12, ""),
    ],
)
def test_too_few_seeds_are_said_in_words(num_seeds, words):
    values = np.random.default_rng(0).normal(size=num_seeds)
    caution = inference.over_seeds(values, num_inputs=10, intervention="a").caution
    assert words in caution
    assert bool(caution) == (num_seeds < 6)


def test_the_sign_flip_bound_is_that_of_the_enumeration():
    # The most extreme of all 2^n sign patterns, two-sided.
    for num_seeds in (2, 3, 5, 6):
        signs = np.array(np.meshgrid(*[[-1, 1]] * num_seeds)).reshape(num_seeds, -1)
        smallest = np.mean(np.abs(signs.sum(0)) == num_seeds)
        estimate = inference.over_seeds(np.arange(num_seeds), num_inputs=2, intervention="a")
        claimed = estimate.caution.split("p = ")[1].split(";")[0] if estimate.caution else "0.05"
        assert np.isclose(smallest, float(claimed)) or smallest < 0.05


def test_an_estimate_records_what_was_done():
    estimate = inference.bootstrap_mean(
        KEY,
        jnp.arange(5.0),
        intervention="zero decoder/conv0",
        null=0.1,
        bootstrap=inference.Bootstrap(level=0.9),
    )
    assert estimate.intervention == "zero decoder/conv0"
    assert (estimate.null, estimate.level, estimate.num_inputs, estimate.num_seeds) == (
        0.1,
        0.9,
        5,
        1,
    )
    assert "bootstrap over images" in estimate.method


ONES = jnp.ones((2, 4))
BAD_CALLS = {
    "one image": (
        lambda: inference.bootstrap_mean(KEY, jnp.ones((3, 1)), intervention="a"),
        "samples has shape .3, 1., expected .* two or more: one image",
    ),
    "lengths": (
        lambda: inference.bootstrap_ratio(KEY, ONES, jnp.ones(5), intervention="a"),
        r"\(2, 4\).*\(5,\)",
    ),
    "per cent": (
        lambda: inference.bootstrap_mean(
            KEY, ONES, intervention="a", bootstrap=inference.Bootstrap(level=95)
        ),
        "between 0 and 1.*got 95",
    ),
    "per cent of seeds": (
        lambda: inference.over_seeds(ONES, num_inputs=2, intervention="a", level=95),
        "between 0 and 1.*got 95",
    ),
    "no seeds": (
        lambda: inference.over_seeds(np.ones((0, 3)), num_inputs=2, intervention="a"),
        r"values has shape \(0, 3\), expected \(seeds, \.\.\.\)",
    ),
    "a number": (
        lambda: inference.over_seeds(1.0, num_inputs=2, intervention="a"),
        r"values has shape \(\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_samples_that_allow_no_estimate_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
