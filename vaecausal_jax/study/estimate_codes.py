"""Estimates of models with a map of codes (VQ-VAE): by position, by value of a code, by shift."""

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax import inference
from vaecausal_jax.data import Dataset
from vaecausal_jax.inference import Bootstrap, Estimate
from vaecausal_jax.study.config import StudyConfig

Arrays = dict[str, np.ndarray]


def code_estimates(
    config: StudyConfig, data: Dataset, arrays: dict[str, Arrays]
) -> dict[str, Estimate]:
    """Effects of the code map of every model, with intervals over images or pairs.

    Returns:
        ``position_index``, ``position_length``: one position's code redrawn, as a total index and
        in the paper's raw L2, (models, positions). ``code_index``: one value redrawn wherever it
        stands, (models, codes). ``whole_index``: the whole map, (models, 1). ``crossed``,
        ``shift_index``, ``shift_length``: one channel shifted before quantisation, mean over
        channels, by dose in its SD, (models, doses): share of codes that change, total index, raw
        L2. ``factor_to_position``: share of pairs in which the code there changes, and
        ``position_mediated``: share of the total effect that it carries, (models, factors,
        positions).
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 12)
    bootstrap = Bootstrap(num_replicates=config.num_replicates)
    measured, num_factors = arrays["latent"], len(data.factors)
    redrawn, shifted = "codes of another image", "one channel shifted before quantisation"

    def index(name: str, intervention: str) -> Estimate:
        squared = measured[name]
        spread = np.broadcast_to(2.0 * measured["spread"][:, None], squared.shape)
        return inference.bootstrap_ratio(
            key, squared, spread, intervention=intervention, bootstrap=bootstrap
        )

    def mean(values: np.ndarray, intervention: str) -> Estimate:
        return inference.bootstrap_mean(key, values, intervention=intervention, bootstrap=bootstrap)

    def by_factor(values: np.ndarray) -> np.ndarray:
        """(models, positions, all pairs) to (models, factors, positions, pairs)."""
        values = values.reshape(*values.shape[:2], num_factors, config.num_pairs)
        return np.moveaxis(values, 2, 1)

    return {
        "position_index": index("position_squared", f"at one position, {redrawn}"),
        "position_length": mean(
            np.sqrt(measured["position_squared"]), f"at one position, {redrawn}"
        ),
        "code_index": index("code_squared", f"wherever one code stands, {redrawn}"),
        "whole_index": index("whole_squared", f"everywhere, {redrawn}"),
        "crossed": mean(measured["crossed"], shifted),
        "shift_index": index("shift_squared", shifted),
        "shift_length": mean(measured["shift_length"], shifted),
        "factor_to_position": mean(
            by_factor(np.moveaxis(arrays["input"]["code_changed"], 1, 2)),
            "one factor of the image changed, all else equal",
        ),
        "position_mediated": inference.bootstrap_ratio(
            key,
            by_factor(measured["position_lost"]),
            by_factor(measured["position_total"]),
            intervention="codes patched between minimal pairs, target run <- reference",
            bootstrap=bootstrap,
        ),
    }


def code_values(arrays: dict[str, Arrays], codes: dict[str, Estimate]) -> dict[str, np.ndarray]:
    """One number per model, under the names that Gaussian latents have where they are the same."""
    health = arrays["health"]
    maps = health["codes"].reshape(len(health["codes"]), -1)
    return {
        "reconstruction": health["reconstruction"].mean(axis=1),
        "squared_error": health["squared_error"].mean(axis=1),
        "codes_in_use": np.array([len(np.unique(own)) for own in maps], float),
        "total_index_posterior_sum": codes["position_index"].value.sum(axis=1),
        "paper_effect_strength": codes["position_length"].value.mean(axis=1),
    }


def code_image_values(arrays: dict[str, Arrays]) -> dict[str, np.ndarray]:
    """What each image gave of the ``code_values`` that are means over images: (models, images)."""
    health, latent = arrays["health"], arrays["latent"]
    squared = jnp.asarray(latent["position_squared"].sum(axis=1))
    index = inference.linearised_ratio(squared, 2.0 * jnp.asarray(latent["spread"]))
    return {
        "reconstruction": health["reconstruction"],
        "squared_error": health["squared_error"],
        "total_index_posterior_sum": np.asarray(index),
        "paper_effect_strength": np.sqrt(latent["position_squared"]).mean(axis=1),
    }
