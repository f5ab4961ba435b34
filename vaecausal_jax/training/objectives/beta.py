"""The VAE and the beta-VAE."""

from vaecausal_jax.training.objectives.likelihoods import Likelihood, bernoulli
from vaecausal_jax.training.objectives.objective import Objective, elbo_terms, no_state, no_update


def vae(likelihood: Likelihood | None = None) -> Objective:
    """The VAE of Kingma and Welling (arXiv:1312.6114): negative ELBO."""
    return beta_vae(1.0, likelihood)._replace(name="vae")


def beta_vae(beta: float, likelihood: Likelihood | None = None) -> Objective:
    """beta-VAE (Higgins et al. 2017): reconstruction + beta KL."""
    likelihood = likelihood or bernoulli()

    def loss(params, state, trace, images, key):
        reconstruction, kl, terms = elbo_terms(likelihood, trace, images)
        return reconstruction + beta * kl, terms

    return Objective("beta_vae", no_state, loss, no_update, likelihood)
