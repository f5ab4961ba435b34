"""What a planted network is: a forward of the library's contract, and the truth about it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.indices import check_index
from vaecausal_jax.interventions import Interventions
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.changed import whole
from vaecausal_jax.interventions.sites import Tape, Trace
from vaecausal_jax.models import layers
from vaecausal_jax.models.model import NO_INTERVENTIONS

Edge = tuple[str, str]
"""The sites that an edge leads from and to."""


class Truth(NamedTuple):
    """What is known of a planted network. None where it is not defined, or not known.

    Attributes:
        nodes: Site to (units,) booleans: units that the output depends on between natural runs.
        edges: (source, target) to (sources, targets) booleans: edges of paths that carry an effect.
        distractors: Site to (units,) booleans: units that vary and have no effect.
        dormant: Site to (units,) booleans: units that never vary and would have an effect.
        modules: Site to (units,) factor that the unit serves; -1 for none.
        effects: Site to (units,): E |y(x0; h_u <- h_u(x1)) - y(x0)|^2 over the network's pairs.
        indices: (latents,) total indices under the prior; their sum is 1 for an additive network.
        energies: (latents, factors) mean squared effect of a latent on each read-out, halved: that
            of a shift by one SD in a linear network.
        specificity: (latents,) entropic specificity of the energies.
        modularity: Bipartite modularity of units by factors, RMS effects, under ``modules``.
        roles: Name of a role to booleans over the units of ``decoder/units``; see
            ``circuits.roles``.
        factor_graph: (factors, factors) booleans off the diagonal: read-outs a factor leaks into.
        capacities: (factors,) share of a dimension each factor has in ``decoder/features``.
        subspaces: Site to (factors, units): the direction of each factor there, unit length.
    """

    nodes: dict[str, np.ndarray]
    edges: dict[Edge, np.ndarray]
    distractors: dict[str, np.ndarray]
    dormant: dict[str, np.ndarray]
    modules: dict[str, np.ndarray]
    effects: dict[str, np.ndarray] | None = None
    indices: np.ndarray | None = None
    energies: np.ndarray | None = None
    specificity: np.ndarray | None = None
    modularity: float | None = None
    roles: dict[str, np.ndarray] | None = None
    factor_graph: np.ndarray | None = None
    capacities: np.ndarray | None = None
    subspaces: dict[str, np.ndarray] | None = None


class Planted(NamedTuple):
    """A network whose circuits are known.

    Attributes:
        name: Which.
        net: The network with its parameters.
        sample: (key, number) to ``Pairs``, with their factors, in which all factors change; (key,
            number, factor) to those in which that one does.
        readout: Outputs to one number per factor, linear.
        truth: What a finder should find.
    """

    name: str
    net: BoundModel
    sample: Callable[..., Pairs]
    readout: Callable[[Array], Array]
    truth: Truth


class Weights(NamedTuple):
    """A compiled autoencoder with one ReLU layer; float64 NumPy, inputs before outputs.

    The image has one row of pixels a factor, and is ``render`` times the factors.

    Attributes:
        render: (factors, pixels): the image of each factor at 1.
        blocks: (pixels, blocks): ``encoder/blocks``.
        mean: (blocks, latents): ``latent/mean``.
        sigma: (latents,): ``latent/z`` is mean + sigma eps.
        features: (latents, features): ``decoder/features``, linear.
        units: (features, units): ``decoder/units``, before the ReLU.
        bias: (units,).
        pixels: (units, pixels): ``decoder/pixels``, the outputs.
        offset: (pixels,).
    """

    render: np.ndarray
    blocks: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    features: np.ndarray
    units: np.ndarray
    bias: np.ndarray
    pixels: np.ndarray
    offset: np.ndarray

    @property
    def num_factors(self) -> int:
        """Number of factors, and of rows of the image."""
        return self.render.shape[0]

    @property
    def latent_map(self) -> np.ndarray:
        """(latents, factors): the latents' means as a function of the factors."""
        return clean((self.render @ self.blocks @ self.mean).T)

    @property
    def readout_map(self) -> np.ndarray:
        """(pixels, factors): each row's pixels, summed and divided by the root of their number."""
        width = self.render.shape[1] // self.num_factors
        return np.repeat(np.eye(self.num_factors), width, axis=0) / np.sqrt(width)


def autoencoder(
    params: Any, x: Array, eps: Array, interventions: Interventions = NO_INTERVENTIONS
) -> Trace:
    """The forward of all compiled networks: image, blocks, mean, z, features, ReLU units, pixels.

    Args:
        params: As from ``device_params``.
        x: Image, (factors, width, 1).
        eps: (latents,).
        interventions: See ``vaecausal_jax.interventions``.
    """
    tape = Tape(interventions, takes_changes=True)

    def linear(value, name, bias=None, axes=1):
        kernel = params[name]
        bias = jnp.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias
        return layers.dense(value, kernel, bias, axes=axes)

    blocks = tape("encoder/blocks", linear(x, "blocks", axes=3))
    mean = tape("latent/mean", linear(blocks, "mean"))
    z = layers.elementwise(jnp.add, mean, params["sigma"] * eps)
    features = tape("decoder/features", linear(tape("latent/z", z), "features"))
    units = layers.elementwise(jax.nn.relu, linear(features, "units", params["bias"]))
    pixels = tape(
        "decoder/pixels", linear(tape("decoder/units", units), "pixels", params["offset"])
    )
    return tape.trace(whole(pixels).reshape(x.shape))


def device_params(weights: Weights) -> dict[str, Array]:
    """The parameters of ``autoencoder``, in JAX's default precision."""
    names = ("blocks", "mean", "sigma", "features", "units", "bias", "pixels", "offset")
    return {name: jnp.asarray(getattr(weights, name), float) for name in names}


def image_of(weights: Weights, factors: Array) -> Array:
    """The images (num, factors, width, 1) of rows of factors (num, factors)."""
    pixels = factors @ jnp.asarray(weights.render, factors.dtype)
    return pixels.reshape(len(factors), weights.num_factors, -1, 1)


def pairs_of(
    weights: Weights, key: Array, factors0: Array, factors1: Array, factor: int | None = None
) -> Pairs:
    """Pairs of runs between two tables of factors, with noise drawn from the key.

    Args:
        weights: The network.
        key: Typed PRNG key.
        factors0: (pairs, factors).
        factors1: (pairs, factors).
        factor: The only one that changes; all if None.

    Raises:
        ValueError: No such factor.
    """
    if factor is not None:
        factors1 = changed_only(factors0, factors1, factor)
    eps = jax.random.normal(key, (len(factors0), len(weights.sigma)))
    return Pairs(image_of(weights, factors0), image_of(weights, factors1), eps, factors0, factors1)


def changed_only(factors0: Array, factors1: Array, factor: int) -> Array:
    """The first table of factors with one column of the second.

    Raises:
        ValueError: No such factor.
    """
    num_factors = factors0.shape[1]
    check_index("changed_only", "factor", factor, num_factors)
    return jnp.where((jnp.arange(num_factors) == factor)[None], factors1, factors0)


def factor_readout(weights: Weights) -> Callable[[Array], Array]:
    """Outputs to the sum of each row over the root of its length: (factors,)."""
    matrix = jnp.asarray(weights.readout_map, float)
    return lambda outputs: outputs.reshape(-1) @ matrix


def clean(matrix: np.ndarray) -> np.ndarray:
    """The matrix with what rounding left of zeros set to zero."""
    return np.where(np.abs(matrix) > 1e-9 * np.abs(matrix).max(initial=0.0), matrix, 0.0)
