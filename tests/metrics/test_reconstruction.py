"""Reconstruction: closed forms and the training objective."""

import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.interventions.sites import Trace
from vaecausal_jax.metrics import reconstruction
from vaecausal_jax.training import objectives


def test_errors_per_pixel_by_hand():
    x, p = jnp.array([[[1.0], [0.0], [0.25]]]), np.array([[[0.5], [0.2], [0.25]]])
    np.testing.assert_allclose(
        reconstruction.mean_squared_error(x, jnp.asarray(p)), 0.29 / 3, rtol=1e-6
    )
    logits = jnp.asarray(np.log(p / (1 - p)), jnp.float32)
    entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    expected = (np.log(2) - np.log(0.8) + entropy) / 3
    np.testing.assert_allclose(reconstruction.binary_cross_entropy(x, logits), expected, rtol=1e-5)
    far = reconstruction.binary_cross_entropy(jnp.ones((1, 1, 1)), jnp.full((1, 1, 1), -500.0))
    np.testing.assert_allclose(far, 500, rtol=1e-6)


@pytest.mark.parametrize("likelihood", [objectives.bernoulli(), objectives.gaussian(0.5)])
def test_bound_is_minus_the_vae_objective(likelihood):
    rng = np.random.default_rng(0)
    outputs, image = (jnp.asarray(rng.uniform(size=(1, 4, 4, 1)), jnp.float32) for _ in range(2))
    mean, logvar = (jnp.asarray(rng.normal(size=(1, 3)), jnp.float32) for _ in range(2))
    trace = Trace(outputs, {"latent/mean": mean, "latent/logvar": logvar})
    loss, terms = objectives.vae(likelihood).loss(None, (), trace, image, None)
    bound = reconstruction.elbo(likelihood, outputs[0], image[0], mean[0], logvar[0])
    np.testing.assert_allclose(bound.value, -loss, rtol=1e-5)
    np.testing.assert_allclose(bound.reconstruction, terms["reconstruction"], rtol=1e-5)
    np.testing.assert_allclose(bound.kl, terms["kl_per_latent"], rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (jnp.ones((12, 12, 1)), jnp.ones((12, 11, 1)), r"\(12, 12, 1\) and \(12, 11, 1\)"),
        (jnp.ones((2, 12, 12, 1)), jnp.ones((2, 12, 12, 1)), "Batch with jax.vmap"),
    ],
)
def test_images_that_do_not_fit_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        reconstruction.mean_squared_error(x, y)
