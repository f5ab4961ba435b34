"""Estimates as arrays: indexed, rearranged, on another scale, and joined."""

import jax
import numpy as np
import pytest

from vaecausal_jax.inference import Bootstrap, Estimate, bootstrap_mean

VALUE = np.arange(6.0).reshape(2, 3)


def estimate(value=VALUE, **changed):
    fields = {
        "value": value,
        "low": value - 1,
        "high": value + 2,
        "null": 0.5,
        "num_inputs": 10,
        "num_seeds": 2,
        "level": 0.95,
        "method": "bootstrap",
        "intervention": "patched",
    }
    return Estimate(**fields | changed)


@pytest.mark.parametrize("index", [0, -1, (1, 2), slice(1, None), (slice(None), 1), [1, 0]])
def test_an_index_is_that_of_the_array(index):
    part = estimate()[index]
    for end, whole in zip(part.ends, estimate().ends, strict=True):
        np.testing.assert_array_equal(end, whole[index])
    assert (part.null, part.method, part.num_inputs) == (0.5, "bootstrap", 10)


def test_a_null_of_each_number_goes_with_it():
    part = estimate(null=VALUE + 7)[1, 0]
    assert (part.value, part.low, part.high, part.null) == (3, 2, 5, 10)
    turned = estimate(null=VALUE + 7).rearrange(np.transpose)
    np.testing.assert_array_equal(turned.null, VALUE.T + 7)


def test_another_scale_is_of_the_null_too():
    root = estimate(VALUE + 2, null=4.0).map(np.sqrt)
    np.testing.assert_allclose(root.low, np.sqrt(VALUE + 1))
    assert root.null == 2


def test_joined_and_taken_apart_is_as_before():
    first, second = estimate(), estimate(VALUE + 10)
    for axis in (0, 1):
        both = Estimate.concatenate([first, second], axis)
        halves = (
            [part[..., :] for part in (both[:2], both[2:])]
            if axis == 0
            else (both[:, :3], both[:, 3:])
        )
        for half, whole in zip(halves, (first, second), strict=True):
            jax.tree.map(np.testing.assert_array_equal, half.ends, whole.ends)
    stacked = Estimate.stack([first, second])
    assert stacked.value.shape == (2, 2, 3)
    jax.tree.map(np.testing.assert_array_equal, stacked[1].ends, second.ends)
    assert Estimate.stack([first, second], axis=-1).value.shape == (2, 3, 2)
    assert stacked.null == 0.5


def test_what_differs_is_told_of_all():
    other = estimate(num_inputs=4, method="no interval: one image", null=1.0)
    both = Estimate.stack([estimate(), other])
    assert both.num_inputs == 4
    assert both.method == "bootstrap; no interval: one image"
    np.testing.assert_array_equal(both.null[0], np.full((2, 3), 0.5))
    np.testing.assert_array_equal(both.null[1], np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"one level are joined, got levels \[0.9, 0.95\]"):
        Estimate.stack([estimate(), estimate(level=0.9)])
    with pytest.raises(ValueError, match="got levels"):
        Estimate.concatenate([])


def test_an_estimate_is_still_a_tree_of_its_fields():
    found = bootstrap_mean(
        jax.random.key(0), np.eye(4), intervention="nothing", bootstrap=Bootstrap(num_replicates=20)
    )
    again = jax.tree.map(lambda leaf: leaf, found)
    np.testing.assert_array_equal(again.value, found.value)
    value, low, high, *_ = found
    np.testing.assert_array_equal(value, found.value)
    assert found._replace(null=1.0).null == 1.0
