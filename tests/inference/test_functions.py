"""Functions of many ratios, bands of whole curves, and intervals looked at after every image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax import inference

KEY = jax.random.key(0)


def largest(ratios):
    return ratios.max(0)


def test_a_function_that_picks_one_ratio_has_the_interval_of_that_ratio():
    numerator, denominator = np.random.default_rng(0).exponential(size=(2, 3, 50)) + 0.1
    picked = inference.bootstrap_function(
        KEY, lambda r: r[1], numerator, denominator, intervention="none", num_replicates=4000
    )
    plain = inference.bootstrap_ratio(
        KEY, numerator, denominator, intervention="none", num_replicates=4000
    )
    np.testing.assert_allclose(picked.value, plain.value[1], rtol=1e-6)
    # Weights are of another key: the ends agree up to the bootstrap's own noise.
    width = plain.high[1] - plain.low[1]
    np.testing.assert_allclose(picked.low, plain.low[1], atol=0.06 * width)
    np.testing.assert_allclose(picked.high, plain.high[1], atol=0.06 * width)
    assert picked.num_inputs == 50


def test_the_largest_of_noise_is_no_larger_than_its_null():
    # E max of 20 means of 40 standard normals: 1.867 / sqrt(40).
    noise = np.random.default_rng(1).normal(size=(20, 40))
    found = inference.bootstrap_function(
        KEY, largest, noise, intervention="none", num_flips=2000, num_replicates=20
    )
    expected = stats.norm.expect(lambda x: 20 * x * stats.norm.cdf(x) ** 19) / np.sqrt(40)
    np.testing.assert_allclose(found.null, expected, rtol=0.1)
    effect = noise + np.linspace(0, 3, 20)[:, None]
    found = inference.bootstrap_function(
        KEY, largest, effect, intervention="none", num_replicates=20
    )
    assert found.value > 2 * found.null


@pytest.mark.slow
def test_copies_of_images_change_nothing_once_they_are_clusters():
    numerator = np.random.default_rng(2).normal(size=(3, 12))
    options = {"intervention": "none", "num_replicates": 200}
    plain = inference.bootstrap_function(KEY, largest, numerator, **options)
    copies = inference.bootstrap_function(
        KEY,
        largest,
        np.repeat(numerator, 4, axis=1),
        clusters=np.repeat(np.arange(12), 4),
        **options,
    )
    np.testing.assert_allclose(copies[:4], plain[:4], rtol=1e-4, atol=1e-6)
    assert "12 clusters" in copies.method


@pytest.fixture(scope="module")
def curves():
    """Random walks of 6 points with mean 0, 40 images, many replicates; both kinds of interval."""

    def one(key):
        data, weights = jax.random.split(key)
        walks = jnp.cumsum(jax.random.normal(data, (6, 40)), axis=0)
        resampled = inference.resample_ratio(weights, walks, jnp.ones((1, 40)), num_replicates=250)
        return [
            interval(resampled, 0.95) for interval in (inference.simultaneous, inference.percentile)
        ]

    keys = jax.random.split(KEY, 600)
    return jax.jit(lambda k: jax.lax.map(one, k, batch_size=20))(keys)


def test_bands_hold_the_whole_curve_as_often_as_they_say_and_pointwise_intervals_do_not(curves):
    whole, pointwise = (
        np.mean(((low <= 0) & (high >= 0)).all(1)) for low, high in map(np.asarray, curves)
    )
    assert 0.93 <= whole <= 0.97
    assert pointwise < 0.9


@pytest.mark.slow
def test_a_curve_of_one_point_has_an_ordinary_interval():
    samples = np.random.default_rng(3).normal(size=(1, 60))
    band, own = (
        inference.bootstrap_mean(
            KEY, samples, intervention="none", num_replicates=4000, interval=interval
        )
        for interval in (inference.simultaneous, inference.studentised)
    )
    np.testing.assert_allclose(band.high - band.low, own.high - own.low, rtol=0.1)
    np.testing.assert_allclose((band.high + band.low) / 2, band.value, atol=1e-5)


def test_points_that_never_vary_are_known_and_do_not_widen_the_others():
    rng = np.random.default_rng(4)
    curve = rng.normal(size=(3, 30))
    still = np.concatenate([curve, np.zeros((1, 30)), np.full((1, 30), 2.0)])
    with_still, without = (
        inference.bootstrap_mean(
            KEY, a, intervention="none", num_replicates=200, interval=inference.simultaneous
        )
        for a in (still, curve)
    )
    np.testing.assert_allclose(with_still.low[:3], without.low, rtol=1e-4)
    np.testing.assert_array_equal(with_still.low[3:], [0, 2])
    np.testing.assert_array_equal(with_still.high[3:], [0, 2])


def test_interquartile_mean_is_scipys_and_one_failed_model_does_not_decide():
    values = np.random.default_rng(5).normal(size=(8, 3))
    options = {"num_inputs": 10, "intervention": "none"}
    found = inference.interquartile_mean(KEY, values, **options)
    np.testing.assert_allclose(found.value, stats.trim_mean(values.ravel(), 0.25))
    assert found.low < found.value < found.high
    assert found.num_seeds == 8
    failed = values.copy()
    failed[0, 0] = 1e6
    assert abs(inference.interquartile_mean(KEY, failed, **options).value) < 2
    shifted = inference.interquartile_mean(KEY, 3 + 2 * values, **options)
    np.testing.assert_allclose(shifted[:3], [3 + 2 * end for end in found[:3]], rtol=1e-12)


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


# --- looking after every image ------------------------------------------------------------------


def test_confidence_sequence_is_the_formula_at_every_number_of_images():
    samples = np.random.default_rng(0).exponential(size=(2, 300)) + 1e4
    low, high = inference.confidence_sequence(samples, tightest_at=100)
    r2 = (-2 * np.log(0.05) + np.log(-2 * np.log(0.05) + 1)) / 100
    for n in (2, 50, 300):
        sd = samples[:, :n].std(1, ddof=1)
        half = sd * np.sqrt(2 * (n * r2 + 1) / (n**2 * r2) * np.log(np.sqrt(n * r2 + 1) / 0.05))
        mean = samples[:, :n].mean(1)
        np.testing.assert_allclose(low[:, n - 1], mean - half, rtol=1e-9)
        np.testing.assert_allclose(high[:, n - 1], mean + half, rtol=1e-9)
    assert np.isinf(low[:, 0]).all()


def test_confidence_sequences_are_missed_rarely_however_often_one_looks_and_t_intervals_are_not():
    # METHODS 7.5: 0.042 against 0.399 for 100 <= n <= 2000.
    samples = np.random.default_rng(1).normal(size=(1000, 2000))
    low, high = inference.confidence_sequence(samples, tightest_at=500)
    missed = np.mean(((low > 0) | (high < 0))[:, 99:].any(1))
    assert missed <= 0.06
    counts = np.arange(1, 2001)
    mean = np.cumsum(samples, 1) / counts
    peeking = np.mean((np.abs(mean) * np.sqrt(counts) > 1.96)[:, 99:].any(1))
    assert peeking > 0.3


def test_where_it_is_tightest_a_sequence_is_half_again_as_wide_as_an_interval():
    samples = np.random.default_rng(2).normal(size=1000)
    low, high = inference.confidence_sequence(samples)
    plain = 2 * 1.96 * samples.std(ddof=1) / np.sqrt(1000)
    np.testing.assert_allclose((high - low)[-1] / plain, 1.55, rtol=0.01)


def racing(means, seed=0, num_images=2000, **options):
    noise = np.random.default_rng(seed).normal(size=(len(means), num_images))
    samples = noise + np.asarray(means)[:, None]
    return samples, inference.race(
        lambda units, start, stop: samples[units, start:stop], len(means), num_images, **options
    )


def test_a_race_keeps_the_best_and_spends_little_on_the_rest():
    samples, found = racing([3.0, 2.5, *np.linspace(0, 1, 30)], k=2)
    np.testing.assert_array_equal(np.flatnonzero(found.kept), [0, 1])
    assert found.settled
    assert found.count.sum() < 0.2 * samples.size
    for unit, count in enumerate(found.count):
        np.testing.assert_allclose(found.mean[unit], samples[unit, :count].mean(), rtol=1e-6)


def test_a_race_between_equals_settles_nothing():
    _, found = racing([1.0] * 4, k=2, num_images=400)
    assert found.kept.sum() > 2
    assert not found.settled
    np.testing.assert_array_equal(found.count, 400)


def test_the_best_are_dropped_no_more_often_than_the_level_says():
    lost = [not racing([0.1, 0.0, 0.0], seed, 600, k=1)[1].kept[0] for seed in range(300)]
    assert np.mean(lost) <= 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: inference.bootstrap_function(KEY, largest, np.ones(1), intervention=""),
            "at least two, images",
        ),
        (
            lambda: inference.bootstrap_function(
                KEY, largest, np.ones(4), np.ones((2, 4)), intervention=""
            ),
            "does not broadcast",
        ),
        (
            lambda: inference.bootstrap_mean(
                KEY, np.ones(5), intervention="", interval=inference.simultaneous
            ),
            r"\(5,\) is no curve",
        ),
        (lambda: inference.hierarchical_discovery([0.1]), r"shape \(1,\)"),
        (lambda: inference.hierarchical_discovery([[0.1, 1.2]]), r"p-values lie in \[0, 1\]"),
        (lambda: inference.hierarchical_discovery([[0.1]], q=1.0), "q must lie between 0 and 1"),
        (
            lambda: inference.interquartile_mean(
                KEY, np.ones((1, 4)), num_inputs=1, intervention=""
            ),
            r"shape \(1, 4\), expected \(seeds, strata\)",
        ),
        (lambda: inference.confidence_sequence(np.float64(1)), r"shape \(\)"),
        (lambda: inference.confidence_sequence(np.ones(3), level=1.0), "level must lie"),
        (lambda: racing([1, 2], k=3), r"k must lie in 1 .. 2.*got 3"),
        (lambda: racing([1, 2], k=1, batch=1), "must be 2 or more, got 1"),
        (
            lambda: inference.race(lambda u, a, b: np.ones((3, 3)), 2, 64, k=1),
            r"measure returned \(3, 3\), expected \(2, 32\)",
        ),
    ],
)
def test_calls_that_allow_no_answer_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
