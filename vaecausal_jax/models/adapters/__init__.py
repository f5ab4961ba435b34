"""Any JAX model as a forward of the contract, ``forward(params, x, eps, interventions) -> Trace``.

``from_named`` takes a function whose values are named with ``jax.ad_checkpoint.checkpoint_name``;
``from_linen`` a Flax Linen module as it is. For Flax NNX and Equinox import
``vaecausal_jax.models.adapters.nnx`` or ``vaecausal_jax.models.adapters.equinox`` (``from_nnx``,
``from_equinox``). All return an ``Adapted``: the forward itself, with ``sites(params, x, eps)``,
which prints as a table, and ``model(params, x, eps)``.
"""

from vaecausal_jax.models.adapters.linen import from_linen
from vaecausal_jax.models.adapters.named_values import Adapted, AdaptedModel, from_named

__all__ = ["Adapted", "AdaptedModel", "from_linen", "from_named"]
