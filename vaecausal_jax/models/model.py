"""The contract between networks and everything else: pure ``init`` and ``forward``, and sites."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.interventions import Interventions
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Sites, Tape, Trace, check_interventions

NO_INTERVENTIONS: Interventions = {}


@dataclasses.dataclass(frozen=True)
class Model:
    """A network as pure functions of one image. Hashable; holds no arrays.

    Attributes:
        network: Linen module called as ``network(x, eps, tape) -> outputs``.
        image_shape: (height, width, channels) of ``x`` and of the outputs.
        noise_shape: Shape of ``eps``: (latents,), or (0,) for a model without noise.
    """

    network: nn.Module
    image_shape: tuple[int, int, int]
    noise_shape: tuple[int, ...]

    def init(self, key: Array) -> Any:
        """Random parameters."""
        x, eps = jnp.zeros(self.image_shape), jnp.zeros(self.noise_shape)
        return self.network.init(key, x, eps, Tape({}))["params"]

    def forward(
        self, params: Any, x: Array, eps: Array, interventions: Interventions = NO_INTERVENTIONS
    ) -> Trace:
        """Runs one image through the network, with interventions.

        Pure, and written for ONE image: batch it with
        ``jax.vmap(model.forward, in_axes=(None, 0, 0, None))``, or give interventions an axis of 0
        too when each image has its own. Everything unused is dead code that XLA removes, so asking
        for all activations is free.

        Args:
            params: As from ``init``.
            x: Image in [0, 1], shape ``image_shape``.
            eps: Standard normal noise, shape ``noise_shape``. Arms that are compared share it.
            interventions: Mapping from site name to intervention; empty leaves the model alone.

        Returns:
            The outputs, and every site's value after intervention.

        Raises:
            ValueError: Before anything runs: an unknown site, an intervention that does not fit its
                site, a wrong shape of ``x`` or ``eps``; or a site that was not reached.
        """
        _check_shape("x", x, self.image_shape, "forward takes one image")
        _check_shape("eps", eps, self.noise_shape, "one noise vector an image")
        check_interventions(
            self.sites_as(jnp.result_type(x, *jax.tree.leaves(params))), interventions
        )
        tape = Tape(interventions, takes_changes=True)
        outputs = self.network.apply({"params": params}, x, eps, tape)
        return tape.trace(outputs)

    def bind(self, params: Any) -> BoundModel:
        """The model with its parameters: what every question is asked of."""
        return BoundModel(self.forward, params, self.sites)

    @property
    def sites(self) -> Sites:
        """Every site with its shape, dtype and unit axis, found without running anything."""
        return self.sites_as(jnp.result_type(float))

    @functools.lru_cache(maxsize=64)  # noqa: B019 - models are few, frozen and hold no arrays
    def sites_as(self, dtype: Any) -> Sites:
        """The sites when parameters and images have the given dtype."""
        tape = Tape({})

        def run(key):
            x, eps = jnp.zeros(self.image_shape, dtype), jnp.zeros(self.noise_shape, dtype)
            variables = self.network.init(key, x, eps, Tape({}))
            variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
            return self.network.apply(variables, x, eps, tape)

        jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)))
        return Sites(tape.sites)

    @property
    def has_noise(self) -> bool:
        """Whether the forward is stochastic (Gaussian latents) or not (vector quantised)."""
        return math.prod(self.noise_shape) > 0


def num_params(params: Any) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def forward_flops(model: Model) -> float:
    """Floating-point operations of one plain forward, as XLA counts them."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct(model.image_shape, jnp.result_type(float))
    eps = jax.ShapeDtypeStruct(model.noise_shape, x.dtype)
    forward = jax.jit(lambda params, x, eps: model.forward(params, x, eps).outputs)
    cost = forward.lower(params, x, eps).cost_analysis() or {}
    return cost.get("flops", float("nan"))


def _check_shape(word: str, value: Any, expected: tuple[int, ...], reason: str) -> None:
    shape = jnp.shape(value)
    if shape != expected:
        batched = len(shape) == len(expected) + 1 and shape[1:] == expected
        hint = " Use jax.vmap over the batch." if batched else ""
        raise ValueError(f"{word} has shape {shape}, expected {expected}: {reason}.{hint}")
    dtype = value.dtype if isinstance(value, np.ndarray) else jnp.result_type(value)
    if not dtype.isnative:
        raise ValueError(
            f"{word} has dtype {dtype}, in another byte order than the machine's: give "
            f"{word}.astype({dtype.newbyteorder('=').name!r})."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{word} has dtype {dtype}, expected floating point.")
