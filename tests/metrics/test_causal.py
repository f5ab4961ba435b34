"""Interventions on latents: linear autoencoders and read-outs whose effects are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import metrics as dis

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Latent responses


def test_responses_of_a_linear_autoencoder_are_its_round_trip():
    decoder, encoder = normal(0, 6, 3), normal(1, 3, 6)
    codes, donors = normal(2, 40_000, 3), normal(3, 40_000, 3)
    found = dis.latent_responses(lambda z: encoder @ (decoder @ z), codes, donors)
    expected = np.sqrt(2) * np.abs(np.asarray(encoder @ decoder)).T
    np.testing.assert_allclose(found, expected, rtol=0.02)
    # Exactly: the donor's difference of one latent, times its column of the round trip.
    moved = np.sqrt(np.mean(np.square(codes - donors), axis=0))
    np.testing.assert_allclose(found, moved[:, None] / np.sqrt(2) * expected, rtol=1e-4)


def test_a_latent_resampled_by_itself_does_not_respond():
    codes = normal(0, 10, 3)
    np.testing.assert_array_equal(dis.latent_responses(jnp.tanh, codes, codes), 0)


def traversals(mixing, sizes=(3, 4), number=5):
    """Codes of traversals of each factor of a linear code."""
    rng = np.random.default_rng(0)
    found = []
    for j, size in enumerate(sizes):
        levels = np.stack([rng.integers(0, s, number) for s in sizes], axis=1)
        levels = np.repeat(levels[:, None], size, axis=1)
        levels[:, :, j] = np.arange(size)
        found.append(jnp.asarray(levels @ mixing, jnp.float32))
    return found


def test_a_latent_responds_along_the_traversals_of_its_factor_alone():
    responses = dis.conditioned_responses(KEY, lambda z: 2 * z, traversals(np.eye(2)))
    assert responses.shape == (2, 2)
    np.testing.assert_array_equal(np.asarray(responses)[~np.eye(2, dtype=bool)], 0)
    # Two different levels out of n: E (a - b)^2 = n (n + 1) / 6; root mean square, doubled.
    expected = 2 * np.sqrt([3 * 4 / 6, 4 * 5 / 6])
    np.testing.assert_allclose(np.diag(responses), expected, rtol=0.1)
    assert dis.causal_disentanglement_score(responses).value == 1


def test_score_is_one_over_factors_if_latents_follow_all_alike():
    score = dis.causal_disentanglement_score(jnp.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]))
    np.testing.assert_allclose(score.value, 0.5)
    np.testing.assert_allclose(score.parts, [0.5, 0.5, np.nan])
    score = dis.causal_disentanglement_score(jnp.array([[3.0, 0.0], [1.0, 4.0]]))
    np.testing.assert_allclose(score.value, 7 / 8)


# UC and CG


def test_unconfoundedness_by_hand():
    apart = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    assert dis.unconfoundedness(apart) == 1
    assert dis.unconfoundedness(np.ones((3, 4), bool)) == 0
    overlapping = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    np.testing.assert_allclose(dis.unconfoundedness(overlapping), 1 - (1 / 3) / 3)


def test_top_latents_are_the_most_associated_of_each_factor():
    association = np.array([[0.9, 0.1], [0.8, 0.3], [0.1, 0.2]])
    np.testing.assert_array_equal(dis.top_latents(association), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(dis.top_latents(association, 2), [[1, 1, 0], [0, 1, 1]])


def test_generativeness_of_a_linear_readout_is_its_own_effect_minus_the_others():
    weights, codes, baseline = normal(0, 2, 3), normal(1, 50, 3), normal(2, 3)
    chosen = np.array([[1, 0, 0], [0, 1, 1]], bool)
    score = dis.counterfactual_generativeness(lambda z: weights @ z, codes, baseline, chosen)
    moved = np.mean(np.asarray(codes - baseline[None]), axis=0)
    own = np.sum(np.asarray(weights) * chosen * moved, axis=1)
    others = np.sum(np.asarray(weights) * ~chosen * moved, axis=1)
    np.testing.assert_allclose(score.matrix, np.stack([own, others], axis=1), atol=1e-5)
    np.testing.assert_allclose(score.parts, np.abs(own - others), atol=1e-5)
    np.testing.assert_allclose(score.value, np.mean(np.abs(own - others)), atol=1e-5)


# CDM


def test_effects_of_a_product_use_the_other_latents_as_they_are():
    codes = normal(0, 100, 2)
    effects = dis.causal_effects(
        lambda z: jnp.stack([z[0] * z[1], z[1]]), codes, -jnp.ones(2), 2 * jnp.ones(2)
    )
    mean = np.mean(np.asarray(codes), axis=0)
    np.testing.assert_allclose(effects, [[3 * mean[1], 0], [3 * mean[0], 3]], atol=1e-5)


def test_latents_that_follow_a_causal_graph_are_robust_and_generative():
    # Factor 0 causes factor 1: latent 0 may move both, latent 1 factor 1 alone.
    descendants = np.array([[1, 1], [0, 1]])
    obeys = dis.causal_disentanglement_metric(jnp.array([[1.0, -0.5], [0.0, 1.0]]), descendants)
    np.testing.assert_allclose(obeys, [1, 2.5 / 3])
    breaks = dis.causal_disentanglement_metric(jnp.array([[0.0, 0.0], [-0.8, 0.0]]), descendants)
    np.testing.assert_allclose(breaks, [0.2, 0], atol=1e-7)
    alone = dis.causal_disentanglement_metric(jnp.ones((1, 2)), np.ones((1, 2)))
    assert np.isnan(alone[0])
    assert alone[1] == 1


Z = jnp.ones((4, 3))
BAD_CALLS = {
    "donors": (
        lambda: dis.latent_responses(jnp.tanh, Z, Z[:2]),
        r"codes have shape \(4, 3\) and donors \(2, 3\)",
    ),
    "one step": (
        lambda: dis.conditioned_responses(KEY, jnp.tanh, [jnp.ones((5, 1, 3))]),
        "factor 0 have shape .*at least 2 steps",
    ),
    "no latent": (lambda: dis.top_latents(np.ones((3, 2)), 4), "num_latents is 4, expected 1 to 3"),
    "one factor": (lambda: dis.unconfoundedness(np.ones((1, 4), bool)), "two or more factors"),
    "sets": (
        lambda: dis.counterfactual_generativeness(jnp.tanh, Z, jnp.ones(3), np.ones((2, 3), bool)),
        r"chosen has shape \(2, 3\), expected \(3, 3\)",
    ),
    "baseline": (
        lambda: dis.counterfactual_generativeness(jnp.tanh, Z, jnp.ones(2), np.ones((3, 3), bool)),
        r"baseline has shape \(2,\), expected \(3,\)",
    ),
    "low": (
        lambda: dis.causal_effects(jnp.tanh, Z, jnp.ones(2), jnp.ones(3)),
        r"low has shape \(2,\), expected \(3,\)",
    ),
    "graph": (
        lambda: dis.causal_disentanglement_metric(jnp.ones((3, 2)), np.ones((2, 3))),
        r"descendants has shape \(2, 3\), expected \(3, 2\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
