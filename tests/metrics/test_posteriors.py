"""Posteriors of a data set's images: those of the forward, for one model and for several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.data import images, sample_factors, sprites
from vaecausal_jax.metrics.posteriors import Posteriors, encode, posterior_scores
from vaecausal_jax.models import mlp_vae, vq_vae
from vaecausal_jax.training.objectives import bernoulli

DATA = sprites(16)
MODEL = mlp_vae((16, 16, 1), latent_size=3, encoder_dense=(8,), decoder_dense=(8,))


@pytest.fixture(scope="module")
def encoded():
    """Two models, the levels of 70 images (no multiple of a block), and their posteriors."""
    params = jax.vmap(MODEL.init)(jax.random.split(jax.random.key(0)))
    factors = sample_factors(jax.random.key(1), DATA, 70)
    return params, factors, encode(MODEL, params, DATA, factors)


@pytest.mark.thorough
def test_posteriors_are_those_of_the_forward_on_the_mean(encoded):
    params, factors, found = encoded
    x = images(DATA, factors)

    @jax.jit
    def run(params):
        return jax.vmap(MODEL.forward, in_axes=(None, 0, 0))(params, x, jnp.zeros((70, 3)))

    for i in range(2):
        trace = run(jax.tree.map(lambda leaf, i=i: leaf[i], params))
        for name in ("mean", "logvar"):
            expected = trace.activations[f"latent/{name}"]
            np.testing.assert_allclose(getattr(found, name)[i], expected, rtol=1e-5, atol=1e-6)
        expected = -bernoulli().log_prob(trace.outputs, x)
        np.testing.assert_allclose(found.reconstruction[i], expected, rtol=1e-5)


def test_one_model_is_encoded_as_among_several(encoded):
    params, factors, found = encoded
    alone = encode(MODEL, jax.tree.map(lambda leaf: leaf[1], params), DATA, factors)
    assert alone.mean.shape == (70, 3)
    np.testing.assert_allclose(alone.mean, found.mean[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone.reconstruction, found.reconstruction[1], rtol=1e-5)


def test_scores_of_posteriors_worked_by_hand():
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(size=400), 0.05 * rng.normal(size=400), np.zeros(400)], axis=1)
    # The second latent hardly moves, but under a narrow posterior; the third is the prior.
    logvar = np.broadcast_to(np.array([-1.0, -3.0, 0.0]), mean.shape)
    rec = rng.uniform(10, 20, size=400)
    found = posterior_scores(jax.random.key(0), Posteriors(*map(jnp.asarray, (mean, logvar, rec))))
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(axis=1)
    np.testing.assert_allclose(found["kl"].value, kl.mean(), rtol=1e-5)
    half = 1.96 * kl.std() / 20
    np.testing.assert_allclose(found["kl"].high - found["kl"].value, half, rtol=0.35)
    np.testing.assert_allclose(found["reconstruction"].value, rec.mean(), rtol=1e-5)
    assert found["units"].value == 2
    assert found["units_by_variance"].value == 1
    assert np.isnan(found["units"].low)


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (
            vq_vae((16, 16, 1), encoder_channels=(4,), decoder_channels=(4,)),
            None,
            "no site 'latent/mea",
        ),
        (MODEL, {"mean": np.zeros(3)}, "other shapes than model.init gives"),
    ],
)
def test_models_that_cannot_be_encoded_are_refused(model, params, message):
    with pytest.raises(ValueError, match=message):
        encode(model, params, DATA, np.zeros((2, 5), int))
