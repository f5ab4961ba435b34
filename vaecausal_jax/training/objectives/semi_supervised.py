"""Semi-supervised VAE: some images come with a class, and a part of the code must be it."""

import jax
import jax.numpy as jnp

from vaecausal_jax.training.objectives.columns import categorical_column
from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, elbo_terms, no_state, no_update


def semi_supervised_vae(
    num_values: int, num_classes: int, *, label_weight: float = 10.0
) -> Objective:
    """Disentangled semi-supervised VAE (Li et al. 2017, arXiv:1709.05047).

    The code is (u, z): u the class, which some images come with, z all else. An "image" is
    (1, values + classes, 1): values in [0, 1], then the one-hot class, or zeros where it is not
    known; the model is ``models.semi_supervised_vae``, whose encoder does not read the class.

    Loss: reconstruction of the values + KL(z) + KL(u to uniform) + label_weight times the
    cross-entropy of the known classes, zero where unknown, all averaged over the batch. The paper
    trains u of unlabelled images by reinforcement; here the soft u carries the gradient.

    Args:
        num_values: Bernoulli values a row.
        num_classes: Classes.
        label_weight: Of the cross-entropy.
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
