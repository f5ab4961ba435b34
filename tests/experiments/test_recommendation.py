"""Read-outs of recommendations: by hand, and as often right as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.fair_items.recommendation import group_gap, recall_at

KEY = jax.random.key(0)


def test_recall_by_hand():
    scores = jnp.array([[4.0, 3, 2, 1], [1, 2, 3, -jnp.inf], [1, 2, 3, 4]])
    held_out = [[True, False, True, True], [False, True, False, False], [False] * 4]
    # Two of the first user's three are in the best three; of one recommendation one could hit.
    np.testing.assert_allclose(recall_at(scores, held_out, 3)[:2], [2 / 3, 1])
    np.testing.assert_allclose(recall_at(scores, held_out, 1)[:2], [1, 0])
    assert np.isnan(recall_at(scores, held_out, 2)[2])


def test_gap_is_between_the_best_and_the_worst_served_group():
    values = [0.0, 1, 1, 1, 0.5, np.nan]
    found = group_gap(KEY, values, [0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(found.means, [0.5, 1, 0.5])
    np.testing.assert_array_equal(found.sizes, [2, 2, 1])
    np.testing.assert_allclose(found.gap.value, 0.5)
    assert found.gap.num_inputs == 5
    # One user shows no spread.
    assert np.isnan([found.gap.low, found.gap.high]).all()
    assert "no interval: group 2 has one user" in found.gap.caution
    two = group_gap(KEY, [*values[:5], 0.5], [0, 0, 1, 1, 2, 2]).gap
    assert two.low <= 0.5 <= two.high


def test_groups_that_do_not_differ_have_the_gap_of_shuffled_ones():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [20, 30, 50])
    found = [group_gap(KEY, rng.normal(size=100), groups, num_replicates=200) for _ in range(60)]
    gaps, nulls = (np.array([getattr(f.gap, name) for f in found]) for name in ("value", "null"))
    assert abs(gaps.mean() - nulls.mean()) < 3 * gaps.std() / np.sqrt(60)
    assert nulls.min() > 0.1


def test_interval_of_two_groups_covers_their_difference():
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1], 40)
    covered = 0
    for seed in range(200):
        values = rng.normal(size=80) + 2 * groups
        gap = group_gap(jax.random.key(seed), values, groups, num_replicates=300).gap
        covered += gap.low <= 2 <= gap.high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recall_at(jnp.ones((2, 3)), np.ones((2, 2)), 1), r"held_out \(2, 2\)"),
        (lambda: recall_at(jnp.ones((2, 3)), np.ones((2, 3)), 4), "num is 4, expected 1 to the 3"),
        (lambda: group_gap(KEY, [1.0, 2], [0, 0]), r"by group: \[2\], expected two groups"),
        (lambda: group_gap(KEY, [1.0, np.nan], [0, 1]), r"by group: \[1, 0\]"),
        (lambda: group_gap(KEY, [1.0, 2], [0.0, 1]), "integers from 0"),
        (lambda: group_gap(KEY, [1.0, 2], [0, 1, 1]), r"groups \(3,\)"),
    ],
)
def test_what_cannot_be_read_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
