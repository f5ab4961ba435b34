"""The disentanglement metrics of a study's models, each beside its chance level.

Every model is scored on the posterior means of the same images. One number per model: its interval
is the one over seeds, made where families are compared.
"""

from collections.abc import Callable

import numpy as np
from jax import Array

from vaecausal_jax.metrics.suite import score_suite
from vaecausal_jax.metrics.votes import GREATEST_CODE

SCORES = (
    "mig",
    "dci_fast",
    "dci_lasso",
    "sap_discrete",
    "modularity",
    "explicitness",
    "factor_vae",
    "beta_vae",
    "irs",
)
"""Which of ``metrics.METRICS`` a study computes."""


def score_models(
    key: Array,
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    num_shuffles: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Scores the codes of every model.

    Args:
        key: Typed PRNG key, the same for all models, so that they share votes and shuffles.
        codes: Posterior means, (models, images, latents).
        factors: Factor levels of the images, (images, factors).
        num_shuffles: Shuffles behind each chance level; none is given if 0.
        progress: Called as (models done, models in all).

    Returns:
        Score name (``mig``, ``dci_fast_disentanglement``, ...) to (models,), and
        ``<name>/chance``: the same score where the factors are shuffled, (models,). NaN for
        models whose codes are not finite or beyond 1e15, such as those that diverged.
    """
    columns: dict[str, np.ndarray] = {}
    for done, model_codes in enumerate(codes):
        progress(done, len(codes))
        if not float(np.abs(model_codes).max(initial=0)) < GREATEST_CODE:  # NaN is not less.
            continue
        for name, value in _score(key, model_codes, factors, num_shuffles).items():
            columns.setdefault(name, np.full(len(codes), np.nan))[done] = value
    progress(len(codes), len(codes))
    return columns


def _score(
    key: Array, codes: np.ndarray, factors: np.ndarray, num_shuffles: int
) -> dict[str, float]:
    suite = score_suite(key, codes, factors, SCORES, num_replicates=0, num_shuffles=num_shuffles)
    values = {}
    for metric, estimates in suite:
        for label, estimate in estimates.items():
            name = f"{metric}_{label}" if label else metric
            values[name] = float(estimate.value)
            if num_shuffles:
                values[f"{name}/chance"] = float(estimate.null)
    return values
