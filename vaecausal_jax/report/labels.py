"""How families, quantities and numbers are called and written for readers."""

import re
from typing import Any

import numpy as np

from vaecausal_jax.training import ACTIVE_KL

NAMES = {
    "beta_tc_vae": "beta-TC-VAE",
    "dip_vae_ii": "DIP-VAE-II",
    "dip_vae_i": "DIP-VAE-I",
    "factor_vae": "FactorVAE",
    "beta_vae": "beta-VAE",
    "vq_vae": "VQ-VAE",
    "vae": "VAE",
}

COMPARED = {
    "reconstruction": ("Reconstruction error", "nats per image"),
    "kl": ("KL to the prior", "nats per image"),
    "active_latents": ("Active latents", f"KL > {ACTIVE_KL} nats, mean varies"),
    "squared_error": ("Squared error", "per pixel"),
    "total_index_prior_sum": ("Prior total index", "sum over latents"),
    "total_index_posterior_sum": ("Posterior total index", "sum over latents"),
    "paper_effect_strength": ("Paper effect strength", "raw L2, mean over latents"),
}
"""One number a model, with heading and unit."""


def family_label(title: str) -> str:
    """``beta_vae_4`` to ``beta-VAE (4)``; unknown names only lose their underscores."""
    for name, label in NAMES.items():
        if title == name:
            return label
        if match := re.fullmatch(rf"{name}_([0-9.e+-]+)", title):
            return f"{label} ({match[1]})"
    return title.replace("_", " ")


def nats(kl: Any) -> str:
    """Enough digits to tell which side of ``ACTIVE_KL`` a latent is on."""
    return f"{kl:.3f}" if kl < 0.1 else f"{kl:.2f}"


def number(value: Any, like: Any = None) -> str:
    """Three significant digits of the largest of ``like``, so that an interval lines up."""
    sizes = np.abs(np.asarray([value] if like is None else like, float))
    size = float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))
    if not np.isfinite(value):
        return "not finite"
    decimals = 2 if size == 0 else int(np.clip(2 - np.floor(np.log10(size)), 0, 8))
    return f"{float(value):.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def join(words: list[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
