"""Whitening VAE: interventions along the principal axes of what the latents really do."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from vaecausal_jax.training.objectives.beta import beta_vae
from vaecausal_jax.training.objectives.likelihoods import Likelihood
from vaecausal_jax.training.objectives.objective import Objective, needs


def whitening_vae(
    beta: float = 1.0, likelihood: Likelihood | None = None, *, decay: float = 0.99
) -> Objective:
    """beta-VAE whose latents are also told in whitened principal axes (Hahn and Choi 2018).

    The model, ``models.whitened(model)``, has a further site ``latent/whitened``: z centred, turned
    onto the principal axes of the aggregate posterior and scaled to unit variance, and turned back
    before the decoder, so that the plain run is the same function of z (arXiv:1811.03444: "keeping
    the reconstruction error the same"). The loss is beta-VAE's; the axes follow moving averages of
    the batches' means and second moments of z. Principal axes separate unequal variances only:
    where two are equal the axes between them are arbitrary.

    Args:
        beta: Weight of the KL.
        likelihood: Bernoulli if None.
        decay: Of the moving averages.
    """
    plain = beta_vae(beta, likelihood)

    def init(key, params):
        if "whitening" not in params:
            missing = "params['whitening']"
            raise ValueError(needs("whitening_vae", "whitened latents", missing, params))
        shift = params["whitening"]["shift"]
        return jnp.zeros_like(shift), jnp.eye(shift.shape[0], dtype=shift.dtype)

    def update(params, state, trace, images, key):
        mean, second = state
        z = trace.activations["latent/z"]
        mean = decay * mean + (1.0 - decay) * jnp.mean(z, axis=0)
        second = decay * second + (1.0 - decay) * z.T @ z / z.shape[0]
        covariance = second - mean[:, None] * mean[None, :]
        return fit_whitening(params, mean, covariance), (mean, second), {}

    return Objective("whitening_vae", init, plain.loss, update, plain.likelihood)


def fit_whitening(params: Any, mean: ArrayLike, covariance: ArrayLike) -> Any:
    """Parameters whose whitened latents have these moments: for a model trained without.

    With covariance V diag(l) V', l descending, whitened = diag(l)^-1/2 V' (z - mean). The sign of
    an axis makes its largest entry positive. Variances below 1e-6 count as 1e-6.

    Args:
        params: Of ``models.whitened(model)``.
        mean: Of z, (latents,).
        covariance: Of z, (latents, latents).
    """
    if "whitening" not in params:
        raise ValueError(needs("fit_whitening", "whitened latents", "params['whitening']", params))
    shift, matrix = jnp.asarray(mean), jnp.asarray(covariance)
    size = params["whitening"]["shift"].shape[0]
    if shift.shape != (size,) or matrix.shape != (size, size):
        raise ValueError(
            f"mean has shape {shift.shape} and covariance {matrix.shape}, expected ({size},) and "
            f"({size}, {size})."
        )
    variances, axes = jnp.linalg.eigh(matrix)
    variances, axes = jnp.maximum(variances[::-1], 1e-6), axes[:, ::-1]
    largest = jnp.argmax(jnp.abs(axes), axis=0)
    axes = axes * jnp.sign(jnp.take_along_axis(axes, largest[None, :], axis=0))
    scale = jnp.sqrt(variances)
    whitening = {
        "shift": shift,
        "to": (axes / scale[None, :]).T,
        "back": axes * scale[None, :],
    }
    return {**params, "whitening": whitening}
