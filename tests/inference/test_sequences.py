"""Intervals that may be looked at after every image, and races."""

import numpy as np
import pytest

from vaecausal_jax import inference


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
