"""Further objectives: whitened latents, a known class, and items of recommendations."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaecausal_jax.training.objectives.columns import categorical_column
from vaecausal_jax.training.objectives.gaussian_latents import beta_vae
from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli, multinomial
from vaecausal_jax.training.objectives.objective import (
    Objective,
    elbo_terms,
    needs,
    no_state,
    no_update,
)


def whitening_vae(
    beta: float = 1.0, likelihood: Likelihood | None = None, *, decay: float = 0.99
) -> Objective:
    """beta-VAE whose latents are also given in whitened principal axes (Hahn and Choi 2018).

    The model, ``models.whitened(model)``, has a further site ``latent/whitened``: z centred, turned
    onto the principal axes of the aggregate posterior and scaled to unit variance, and turned back
    before the decoder, so that the plain run is the same function of z (arXiv:1811.03444: "keeping
    the reconstruction error the same"). The loss is beta-VAE's; the axes follow moving averages of
    the batches' means and second moments of z. Principal axes separate unequal variances only:
    where two are equal the axes between them are arbitrary.

    Args:
        beta: Weight of the KL.
        likelihood: Bernoulli if None.
        decay: Decay of the moving averages.
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
    """Sets the whitening by the moments of z, for a model trained without ``whitening_vae``.

    With covariance V diag(l) V', l descending, whitened = diag(l)^-1/2 V' (z - mean). The sign of
    an axis makes its largest entry positive. Variances below 1e-6 count as 1e-6.

    Args:
        params: Parameters of ``models.whitened(model)``.
        mean: Mean of z, (latents,).
        covariance: Covariance of z, (latents, latents).
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


def semi_supervised_vae(
    num_values: int, num_classes: int, *, label_weight: float = 10.0
) -> Objective:
    """Disentangled semi-supervised VAE (Li et al. 2017, arXiv:1709.05047).

    The code is (u, z): u is the class, which some images come with, and z is all else. An "image"
    is (1, values + classes, 1): values in [0, 1], then the one-hot class, or zeros where it is not
    known; the model is ``models.semi_supervised_vae``, whose encoder does not read the class.

    The loss is reconstruction of the values + KL(z) + KL(u to uniform) + label_weight times the
    cross-entropy of the known classes, zero where unknown, all averaged over the batch. The paper
    trains u of unlabelled images by reinforcement; here the soft u carries the gradient.

    Args:
        num_values: Bernoulli values per row.
        num_classes: Number of classes.
        label_weight: Weight of the cross-entropy.
    """
    pixels, column = bernoulli(), categorical_column(num_classes)

    def values_log_prob(outputs, rows):
        return pixels.log_prob(outputs[..., :num_values, :], rows[..., :num_values, :])

    def class_log_prob(outputs, rows):
        return column.log_prob(outputs[..., 0, num_values:, 0], rows[..., 0, num_values:, 0])

    def log_prob(outputs, rows):
        return values_log_prob(outputs, rows) + class_log_prob(outputs, rows)

    def mean(outputs):
        values, classes = outputs[..., :num_values, :], outputs[..., num_values:, :]
        parts = [jax.nn.sigmoid(values), jax.nn.softmax(classes, axis=-2)]
        return jnp.concatenate(parts, axis=-2)

    values_alone = pixels._replace(log_prob=values_log_prob)

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(values_alone, trace, images)
        log_class = jax.nn.log_softmax(trace.activations["latent/class_logits"])
        negative_entropy = jnp.mean(jnp.sum(jnp.exp(log_class) * log_class, axis=1))
        kl_class = negative_entropy + jnp.log(num_classes)
        label = -jnp.mean(class_log_prob(trace.outputs, images))
        labels = images[:, 0, num_values:, 0]
        guess = jax.nn.one_hot(jnp.argmax(log_class, axis=1), num_classes)
        terms |= {
            "kl_class": kl_class,
            "label": label,
            "label_accuracy": jnp.sum(labels * guess) / jnp.maximum(jnp.sum(labels), 1.0),
        }
        return reconstruction + kl + kl_class + label_weight * label, terms

    likelihood = Likelihood("semi_supervised", "columns", log_prob, mean)
    return Objective("semi_supervised_vae", no_state, loss, no_update, likelihood)


def item_vae(beta: float = 0.2) -> Objective:
    """beta-VAE with a multinomial likelihood over users (Park et al. 2022, arXiv:2211.01333).

    An "image" is an item, (1, users, 1), and says how often each user took it. Any model of vectors
    fits, such as ``models.mlp_vae((1, users, 1))``. A beta below one is the field's habit for this
    likelihood (Liang et al. 2018, arXiv:1802.05814), whose input dropout and annealing are left
    out. ``experiments/fair_items`` asks what the model means for groups of users.

    Args:
        beta: Weight of the KL.
    """
    return beta_vae(beta, multinomial())._replace(name="item_vae")
