"""VQ-VAE: reconstruction, commitment, and a codebook that follows."""

import jax
import jax.numpy as jnp

from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, needs


def vq_vae(
    likelihood: Likelihood | None = None,
    *,
    commitment: float = 0.25,
    decay: float | None = 0.99,
) -> Objective:
    """VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937).

    Distances are summed over the code's dimensions and averaged over positions, as in the paper.

    Args:
        likelihood: Bernoulli if None.
        commitment: Weight of the distance that pulls the encoder to its code.
        decay: The codebook follows moving averages with this decay; if None it is learned by the
            gradient of the distance from encoder to code. A code that was not used stays where it
            is.
    """
    likelihood = likelihood or bernoulli()

    def init(key, params):
        if "codebook" not in params:
            raise ValueError(needs("vq_vae", "a codebook", "params['codebook']", params))
        if decay is None:
            return ()
        codebook = params["codebook"]
        return jnp.ones(codebook.shape[0], codebook.dtype), codebook

    def loss(params, state, trace, images, key):
        reconstruction = -jnp.mean(likelihood.log_prob(trace.outputs, images))
        pre, codes = trace.activations["latent/pre"], trace.activations["latent/codes"]
        chosen = params["codebook"][codes]
        to_code = jnp.mean(jnp.sum((pre - jax.lax.stop_gradient(chosen)) ** 2, axis=-1))
        total = reconstruction + commitment * to_code
        if decay is None:
            to_encoder = jnp.mean(jnp.sum((jax.lax.stop_gradient(pre) - chosen) ** 2, axis=-1))
            total += to_encoder
        used = jnp.bincount(codes.reshape(-1), length=params["codebook"].shape[0]) / codes.size
        entropy = -jnp.sum(jax.scipy.special.xlogy(used, used))
        terms = {
            "reconstruction": reconstruction,
            "code_distance": to_code,
            "code_entropy": entropy,
        }
        return total, terms

    def update(params, state, trace, images, key):
        if decay is None:
            return params, state, {}
        counts, sums = state
        pre = trace.activations["latent/pre"].reshape(-1, sums.shape[1])
        codes = trace.activations["latent/codes"].reshape(-1)
        one_hot = jax.nn.one_hot(codes, counts.shape[0], dtype=pre.dtype)
        counts = decay * counts + (1.0 - decay) * one_hot.sum(axis=0)
        sums = decay * sums + (1.0 - decay) * one_hot.T @ pre
        alive = counts[:, None] > 1e-5
        codebook = jnp.where(alive, sums / counts[:, None], params["codebook"])
        return {**params, "codebook": codebook}, (counts, sums), {}

    return Objective("vq_vae", init, loss, update, likelihood)
