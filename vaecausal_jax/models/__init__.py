"""VAE architectures as pure functions with named, replaceable intermediate values."""

from vaecausal_jax.models.architectures import (
    burgess_vae,
    conv_vae,
    linear_vae,
    mlp_vae,
    vq_vae,
)
from vaecausal_jax.models.model import Model, num_params

__all__ = ["Model", "burgess_vae", "conv_vae", "linear_vae", "mlp_vae", "num_params", "vq_vae"]
