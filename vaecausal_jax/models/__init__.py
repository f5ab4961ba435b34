"""VAE architectures as pure functions with named, replaceable intermediate values."""

from vaecausal_jax.models.architectures import (
    adversarial_vae,
    burgess_vae,
    conv_vae,
    linear_vae,
    mlp_vae,
    semi_supervised_vae,
    vq_vae,
    whitened,
)
from vaecausal_jax.models.model import Model, num_params

__all__ = [
    "Model",
    "adversarial_vae",
    "burgess_vae",
    "conv_vae",
    "linear_vae",
    "mlp_vae",
    "num_params",
    "semi_supervised_vae",
    "vq_vae",
    "whitened",
]
