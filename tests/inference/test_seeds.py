"""Seeds, matching and bias: what may be claimed, which units correspond, and whose luck it was."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import inference

KEY = jax.random.key(0)


# --- claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_seeds", "paired", "expected"),
    [(3, True, 0.25), (6, True, 0.03125), (3, False, 0.1), (4, False, 2 / 70), (1, True, 1.0)],
)
def test_smallest_p_values_are_the_published_ones(num_seeds, paired, expected):
    # T30.
    assert inference.smallest_p(num_seeds, paired=paired) == pytest.approx(expected)


@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_smallest_p_of_two_groups_is_that_of_all_splits(num_seeds):
    values = np.arange(2 * num_seeds, dtype=float)
    splits = itertools.combinations(range(2 * num_seeds), num_seeds)
    gaps = np.array([abs(2 * values[list(s)].sum() - values.sum()) for s in splits])
    observed = abs(2 * values[:num_seeds].sum() - values.sum())
    assert inference.smallest_p(num_seeds, paired=False) == np.mean(gaps >= observed)


def test_seeds_to_reach_a_level_are_the_fewest():
    assert inference.seeds_to_reach(0.05) == inference.MIN_SEEDS == 6
    assert inference.seeds_to_reach(0.05, paired=False) == 4
    for alpha, paired in itertools.product((0.5, 0.05, 0.05 / 90, 1e-6), (True, False)):
        needed = inference.seeds_to_reach(alpha, paired=paired)
        assert inference.smallest_p(needed, paired=paired) <= alpha
        assert inference.smallest_p(needed - 1, paired=paired) > alpha


@pytest.mark.parametrize("p_value", [0.0, 1e-9, 0.04, 0.2, math.nan])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("num_seeds", range(1, 9))
def test_the_word_significant_needs_both_the_seeds_and_the_p_value(p_value, paired, num_seeds):
    words = inference.claim(p_value, num_seeds=num_seeds, paired=paired)
    enough = num_seeds >= (6 if paired else 4)
    assert ("significant" in words.lower()) == (enough and p_value <= 0.05)
    if not enough:
        assert f"{6 if paired else 4} are needed" in words


def test_claims_read_as_sentences():
    assert inference.claim(1e-4, num_seeds=3) == (
        "No claim at 0.05 from 3 paired seeds: an exact sign-flip test cannot go below p = 0.25; 6 "
        "are needed."
    )
    assert inference.claim(0.03125, num_seeds=6) == (
        "Significant at 0.05 over 6 paired seeds (p = 0.0312)."
    )
    assert inference.claim(0.3, num_seeds=5, paired=False) == (
        "No difference shown at 0.05 over 5 seeds a group (p = 0.3)."
    )


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("size", [0.2, 0.5, 0.9, 1.3])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_seeds_to_settle_a_difference_are_those_of_statsmodels(paired, size, power):
    models = pytest.importorskip("statsmodels.stats.power", reason="oracle for power")
    solver = models.TTestPower() if paired else models.TTestIndPower()
    arguments = {"effect_size": size, "alpha": 0.05, "power": power}
    exact = solver.solve_power(**arguments)
    expected = max(math.ceil(exact), 6 if paired else 4)
    found = inference.seeds_to_settle(-2 * size, 2.0, power=power, paired=paired)
    assert found == expected


def test_simulated_studies_of_that_many_seeds_find_the_difference_as_often_as_planned():
    num_seeds = inference.seeds_to_settle(1.0, 1.2)
    values = np.random.default_rng(0).normal(1.0, 1.2, size=(4000, num_seeds))
    found = np.mean(inference.minimum_effect_test(values, 0.0) <= 0.05)
    assert 0.79 < found < 0.86


# --- matching -----------------------------------------------------------------------------------


def test_matching_finds_the_permutation_that_was_applied():
    rng = np.random.default_rng(0)
    profiles = rng.exponential(size=(12, 5))
    orders = np.stack([np.arange(12), rng.permutation(12), rng.permutation(12)])
    seeds = np.stack([profiles[o] * rng.uniform(0.5, 2, (12, 1)) for o in orders])
    matching = inference.match_units(KEY, seeds)
    for order, found in zip(orders, matching.order, strict=True):
        np.testing.assert_array_equal(order[found], np.arange(12))
    aligned = np.take_along_axis(seeds, matching.order[..., None], 1)
    cosine = (aligned * aligned[:1]).sum(-1)
    cosine /= np.linalg.norm(aligned, axis=-1) * np.linalg.norm(aligned[:1], axis=-1)
    np.testing.assert_allclose(matching.similarity, cosine)
    np.testing.assert_allclose(matching.quality, 1)
    assert np.all(matching.null < 0.95)


def test_matching_is_the_best_of_all_permutations():
    profiles = np.random.default_rng(1).normal(size=(2, 5, 3))
    matching = inference.match_units(KEY, profiles, num_null=1)
    unit = profiles / np.linalg.norm(profiles, axis=-1, keepdims=True)
    cosine = unit[0] @ unit[1].T
    best = max(cosine[np.arange(5), p].mean() for p in map(list, itertools.permutations(range(5))))
    np.testing.assert_allclose(matching.quality[1], best)


def test_matching_of_unrelated_models_is_no_better_than_its_null():
    # Features of one seed in an arbitrary order: nothing is left to be matched.
    rng = np.random.default_rng(0)
    matching = inference.match_units(KEY, rng.exponential(size=(9, 20, 4)), num_null=50)
    assert np.all(matching.quality[1:] > 0.8)
    assert abs(np.mean(matching.quality[1:] - matching.null[1:])) < 0.02
    assert matching.quality[0] == pytest.approx(1)


def test_dead_units_match_with_similarity_zero():
    profiles = np.stack([np.eye(3), np.eye(3)])
    profiles[1, 2] = 0
    matching = inference.match_units(KEY, profiles)
    np.testing.assert_array_equal(matching.order, [[0, 1, 2]] * 2)
    np.testing.assert_allclose(matching.similarity[1], [1, 1, 0])


# --- bias ---------------------------------------------------------------------------------------


def test_squared_mean_effect_is_the_mean_product_of_different_samples():
    samples = np.random.default_rng(0).normal(1, 2, size=(7, 3, 2))
    flat = samples.reshape(7, -1)
    products = flat @ flat.T
    expected = (products.sum() - np.trace(products)) / 42
    got = inference.squared_mean_effect(jnp.asarray(samples, float))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    formula = (7 * (flat.mean(0) ** 2).sum() - (flat**2).sum(1).mean()) / 6
    np.testing.assert_allclose(formula, expected)


def test_squared_mean_effect_is_unbiased_where_the_plain_one_is_too_large_by_the_noise():
    # T20: |mean|^2 = 0.25 * 4, tr Cov / n = 4 / 10.
    samples = np.random.default_rng(0).normal(0.5, 1, size=(20_000, 10, 4))
    unbiased = jax.vmap(inference.squared_mean_effect)(jnp.asarray(samples, float))
    plain = (samples.mean(1) ** 2).sum(-1)
    np.testing.assert_allclose(unbiased.mean(), 1.0, atol=4 * unbiased.std() / 141)
    np.testing.assert_allclose(plain.mean(), 1.4, atol=4 * plain.std() / 141)


@pytest.mark.parametrize("num_images", [2, 9, 20])
def test_halves_are_disjoint_and_together_all_images(num_images):
    tree = {"a": jnp.arange(3 * num_images).reshape(3, num_images), "b": jnp.arange(num_images)}
    first, second = inference.split_halves(KEY, tree)
    joined = np.concatenate([first["b"], second["b"]])
    np.testing.assert_array_equal(np.sort(joined), np.arange(num_images))
    assert len(second["b"]) - len(first["b"]) in (0, 1)
    np.testing.assert_array_equal(first["a"][1], num_images + first["b"])


def test_the_winner_of_one_half_is_no_winner_in_the_other():
    samples = jax.random.normal(KEY, (200, 100, 40))
    first, second = inference.split_halves(KEY, samples)
    winners = first.mean(-1).argmax(1)
    chosen = [np.asarray(half)[np.arange(200), winners].mean(-1) for half in (first, second)]
    error = 1 / np.sqrt(20 * 200)
    assert chosen[0].mean() > 20 * error
    assert abs(chosen[1].mean()) < 4 * error


BAD_CALLS = {
    "alpha": (lambda: inference.claim(0.1, num_seeds=3, alpha=5), "alpha.*between 0 and 1.*got 5"),
    "power": (lambda: inference.seeds_to_settle(1, 1, power=80), "power.*between 0 and 1.*got 80"),
    "none": (
        lambda: inference.seeds_to_settle(0, 1),
        "no number of seeds settles a difference of 0",
    ),
    "sd": (lambda: inference.seeds_to_settle(1, 0), "a positive spread between seeds is needed"),
    "profiles": (
        lambda: inference.match_units(KEY, np.ones((3, 4))),
        r"\(3, 4\), expected \(seeds, units, features\)",
    ),
    "one sample": (lambda: inference.squared_mean_effect(jnp.ones((1, 3))), "two or more"),
    "lengths": (
        lambda: inference.split_halves(KEY, (jnp.ones(4), jnp.ones(5))),
        r"one common last axis.*\(4,\), \(5,\)",
    ),
    "one image": (lambda: inference.split_halves(KEY, jnp.ones((4, 1))), "at least two images"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_calls_that_allow_no_answer_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
