"""Adversarial VAE: an image must also fool a discriminator."""

import jax
import jax.numpy as jnp

from vaecausal_jax.training.objectives.discriminator import adversary
from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, elbo_terms


def adversarial_vae(
    weight: float,
    image_size: int,
    likelihood: Likelihood | None = None,
    *,
    widths: tuple[int, ...] = (256, 256),
    learning_rate: float = 1e-4,
) -> Objective:
    """ELBO plus an adversarial term on the decoded image.

    Loss: reconstruction + KL - weight E log D(decoded image), D the probability of being data that
    a discriminator gives it (the non-saturating form). For AVAE (Plumerault, Le Borgne and Hudelot
    2020, arXiv:2012.11551), which gives the decoder noise of its own for the details that the
    posterior leaves out: take the model ``models.adversarial_vae``. Unlike the paper there is one
    decoder, trained by both terms, as in VAE/GAN (Larsen et al. 2016, arXiv:1512.09300), and no
    second pass of the encoder over made images. No gradient of the loss reaches the discriminator,
    nor of the discriminator's the model.

    Args:
        weight: Of the adversarial term, nats an image.
        image_size: Number of values in an image, which the discriminator reads flattened.
        likelihood: Bernoulli if None.
        widths: Hidden layers of the discriminator (leaky ReLU 0.2).
        learning_rate: The discriminator's, Adam with betas (0.5, 0.9).
    """
    likelihood = likelihood or bernoulli()
    opponent = adversary(widths, learning_rate)

    def init(key, params):
        return opponent.init(key, image_size)

    def decoded(trace):
        return likelihood.mean(trace.outputs).reshape(trace.outputs.shape[0], -1)

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        weights, _ = state
        taken_for_data = jax.nn.log_softmax(opponent.logits(weights, decoded(trace)))[:, 0]
        adversarial = -jnp.mean(taken_for_data)
        return reconstruction + kl + weight * adversarial, {**terms, "adversarial": adversarial}

    def update(params, state, trace, images, key):
        state, value = opponent.step(state, images.reshape(images.shape[0], -1), decoded(trace))
        return params, state, {"discriminator_loss": value}

    return Objective("adversarial_vae", init, loss, update, likelihood)
