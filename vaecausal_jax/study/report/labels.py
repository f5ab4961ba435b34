"""How families, quantities and numbers are called and written for readers."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vaecausal_jax.inference import Estimate
from vaecausal_jax.training.trainer import ACTIVE_KL

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
"""One number per model, with heading and unit."""

DATA = {
    "sprites": "Rendered sprites",
    "causal-sprites": "Sprites whose factors cause one another",
    "independent-sprites": "Sprites without causes, the twin of causal-sprites",
    "shapes3d-standin": "Rendered stand-in for 3DShapes (not the published images)",
    "mpi3d-standin": "Rendered stand-in for MPI3D (not the published images)",
    "dsprites": "dSprites",
    "shapes3d": "3DShapes",
    "mpi3d": "MPI3D",
    "smallnorb": "SmallNORB",
    "pretrained": "dSprites (the models' training data)",
}
"""What the images are."""

STRENGTHS = {
    "total_index_prior": ("Total index,\nprior", "sum over latents"),
    "first_order_prior": ("First-order index,\nprior", "sum over latents"),
    "interaction_share_prior": ("Interaction share,\nprior", "sum over latents"),
    "total_index_posterior": ("Total index,\nposterior", "sum over latents"),
    "nats": ("Divergence of\nthe output", "nats, sum over latents"),
    "paper_effect_strength": ("Paper effect\nstrength (raw L2)", "mean over latents"),
}
"""Forms of effect strength, with heading and unit."""

EFFECTS = {
    "total_index_posterior_sum": "posterior total index",
    "paper_effect_strength": "paper effect strength",
}
"""Effect strengths that the paper's claims are read on."""

SCORES = {
    "mig": "MIG",
    "sap_discrete": "SAP (linear SVM)",
    "dci_fast_disentanglement": "DCI disentanglement (trees)",
    "dci_fast_completeness": "DCI completeness (trees)",
    "dci_fast_informativeness": "DCI informativeness (trees)",
    "dci_lasso_disentanglement": "DCI disentanglement (L1)",
    "modularity": "Modularity of codes",
    "explicitness": "Explicitness",
    "factor_vae": "FactorVAE score",
    "beta_vae": "BetaVAE score",
    "irs": "IRS",
}
"""Disentanglement scores, with their estimator where it matters."""


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
    return fixed(value, decimals)


def fixed(value: Any, decimals: int = 2, *, sign: bool = False) -> str:
    """So many decimals; what rounds to 0 has no sign."""
    rounded = round(float(value), decimals) + 0.0
    words = f"{rounded:{'+' if sign and rounded else ''}.{decimals}f}"
    return words.replace("-", "\N{MINUS SIGN}")


def interval_of(estimate: Estimate, *, show: Callable[[Any, Any], str] = number) -> str:
    """A value with its interval, or alone where it has none."""
    ends = np.array(estimate.ends, float)
    value, low, high = (show(end, ends) for end in ends)
    return f"{value} [{low}, {high}]" if np.isfinite(ends).all() else value


def percent(value: Any, like: Any = None) -> str:
    """A share in per cent; ends of an interval outside 0 to 100% are cut, as no share is there.

    What rounds to 0% and is not has a decimal.
    """
    del like
    if not np.isfinite(value):
        return "not finite"
    share = np.clip(float(value), 0.0, 1.0)
    return f"{share:.{1 if 0 < share < 0.005 else 0}%}"


def hundredths(value: Any, like: Any = None) -> str:
    """Two decimals, for numbers whose scale is known: correlations and the like."""
    del like
    return fixed(value) if np.isfinite(value) else "not finite"


def join(words: list[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
