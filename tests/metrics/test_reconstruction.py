"""Reconstruction: closed forms, a loop over windows, and the training objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.interventions.sites import Trace
from vaecausal_jax.metrics import reconstruction
from vaecausal_jax.training import objectives


def images(seed, *shape):
    rng = np.random.default_rng(seed)
    first = rng.uniform(size=shape)
    second = np.clip(first + 0.2 * rng.normal(size=shape), 0, 1)
    return jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)


def ssim_by_loop(x, y):
    """Window by window, in double precision."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(x.shape[2]):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a = np.asarray(x, float)[i : i + 11, j : j + 11, channel]
                b = np.asarray(y, float)[i : i + 11, j : j + 11, channel]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                top = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                found.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(found)


@pytest.mark.parametrize("shape", [(14, 17, 1), (12, 12, 3)])
def test_similarity_is_that_of_a_loop_over_windows(shape):
    x, y = images(0, *shape)
    np.testing.assert_allclose(
        reconstruction.structural_similarity(x, y), ssim_by_loop(x, y), atol=1e-5
    )


def test_similarity_of_equal_images_is_one_and_of_grey_ones_is_their_luminance():
    x, _ = images(0, 16, 16, 1)
    np.testing.assert_allclose(reconstruction.structural_similarity(x, x), 1, atol=1e-5)
    a, b = 0.2, 0.7
    grey = reconstruction.structural_similarity(jnp.full((12, 12, 1), a), jnp.full((12, 12, 1), b))
    np.testing.assert_allclose(grey, (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4), rtol=1e-4)


def test_similarity_is_symmetric_and_maps_over_images():
    x, y = images(1, 3, 16, 16, 1)
    one = jax.vmap(reconstruction.structural_similarity)
    np.testing.assert_allclose(one(x, y), one(y, x), atol=1e-6)
    np.testing.assert_allclose(
        one(x, y)[1], reconstruction.structural_similarity(x[1], y[1]), atol=1e-6
    )


def test_similarity_is_scikit_images():
    reason = "scikit-image is no dependency; it is one more opinion on SSIM"
    metrics = pytest.importorskip("skimage.metrics", reason=reason)
    x, y = images(0, 40, 40, 1)
    options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0}
    expected = metrics.structural_similarity(
        np.asarray(x)[:, :, 0], np.asarray(y)[:, :, 0], **options
    )
    np.testing.assert_allclose(reconstruction.structural_similarity(x, y), expected, atol=1e-4)


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
        (jnp.ones((8, 12, 1)), jnp.ones((8, 12, 1)), "smaller than the 11 x 11 window"),
    ],
)
def test_images_that_do_not_fit_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        reconstruction.structural_similarity(x, y)
