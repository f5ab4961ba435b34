"""Disentanglement scores of plain arrays: codes (rows, codes) and factors (rows, factors).

Here is what needs no more than the core: scores from mutual information, from holding factors or
latents fixed, and of codes alone; floors and ceilings, chance level and interval of any score. What
trains predictors with scikit-learn (the study extra) is imported from its own module: ``dci``,
``predictability`` (SAP, explicitness, BetaVAE), ``infomec``, ``udr``, and ``suite``, the scores by
name, as ``vaecausal metrics`` runs them. ``reconstruction`` measures reconstructions.
"""

from vaecausal_jax.metrics.arrays import Score, factor_levels
from vaecausal_jax.metrics.causal import (
    causal_disentanglement_metric,
    causal_disentanglement_score,
    causal_effects,
    conditioned_responses,
    counterfactual_generativeness,
    latent_responses,
    top_latents,
    unconfoundedness,
)
from vaecausal_jax.metrics.chance import (
    estimate_score,
    floors_and_ceilings,
    reference_codes,
    shuffle_columns,
    shuffle_rows,
)
from vaecausal_jax.metrics.gaussian import gaussian_total_correlation, gaussian_wasserstein
from vaecausal_jax.metrics.information import (
    Information,
    discretise,
    information,
    jemmig,
    mig,
    mig_sup,
    modularity,
    mutual_information_score,
)
from vaecausal_jax.metrics.irs import irs
from vaecausal_jax.metrics.votes import (
    above_chance,
    difference_features,
    factor_vae_score,
    z_max_variance_score,
)

__all__ = [
    "Information",
    "Score",
    "above_chance",
    "causal_disentanglement_metric",
    "causal_disentanglement_score",
    "causal_effects",
    "conditioned_responses",
    "counterfactual_generativeness",
    "difference_features",
    "discretise",
    "estimate_score",
    "factor_levels",
    "factor_vae_score",
    "floors_and_ceilings",
    "gaussian_total_correlation",
    "gaussian_wasserstein",
    "information",
    "irs",
    "jemmig",
    "latent_responses",
    "mig",
    "mig_sup",
    "modularity",
    "mutual_information_score",
    "reference_codes",
    "shuffle_columns",
    "shuffle_rows",
    "top_latents",
    "unconfoundedness",
    "z_max_variance_score",
]
