"""Objectives: what makes a VAE a beta-VAE, FactorVAE, beta-TC-VAE, DIP-VAE or VQ-VAE.

An ``Objective`` is three pure functions of a batched ``Trace`` (every array with a leading batch
axis). A new family is a new function here; neither networks nor the trainer know about it. All
losses are in nats per image: summed over pixels and latents, averaged over the batch.

Beyond those six families: adversarial, whitening, semi-supervised, item-based (multinomial), and
tables of mixed columns, which are a likelihood for any of them.
"""

from vaecausal_jax.training.objectives.adversarial import (
    Discriminator,
    adversarial_vae,
    factor_vae,
    permute_latents,
)
from vaecausal_jax.training.objectives.columns import (
    Column,
    bernoulli_column,
    categorical_column,
    count_column,
    encode_table,
    gaussian_column,
    mixed,
)
from vaecausal_jax.training.objectives.further import (
    fit_whitening,
    item_vae,
    semi_supervised_vae,
    whitening_vae,
)
from vaecausal_jax.training.objectives.gaussian_latents import (
    beta_tc_vae,
    beta_vae,
    covariance_of_means,
    dip_penalty,
    dip_vae_i,
    dip_vae_ii,
    log_aggregate_posterior,
    log_importance_weights,
    total_correlation,
    vae,
)
from vaecausal_jax.training.objectives.likelihoods import (
    Likelihood,
    bernoulli,
    gaussian,
    multinomial,
)
from vaecausal_jax.training.objectives.objective import Objective, Terms, kl_per_latent
from vaecausal_jax.training.objectives.vector_quantised import vq_vae

__all__ = [
    "Column",
    "Discriminator",
    "Likelihood",
    "Objective",
    "Terms",
    "adversarial_vae",
    "bernoulli",
    "bernoulli_column",
    "beta_tc_vae",
    "beta_vae",
    "categorical_column",
    "count_column",
    "covariance_of_means",
    "dip_penalty",
    "dip_vae_i",
    "dip_vae_ii",
    "encode_table",
    "factor_vae",
    "fit_whitening",
    "gaussian",
    "gaussian_column",
    "item_vae",
    "kl_per_latent",
    "log_aggregate_posterior",
    "log_importance_weights",
    "mixed",
    "multinomial",
    "permute_latents",
    "semi_supervised_vae",
    "total_correlation",
    "vae",
    "vq_vae",
    "whitening_vae",
]
