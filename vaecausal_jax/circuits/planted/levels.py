"""The compiled networks, level by level; each returns a ``Planted``.

Level 0 is plain. Level 1 is level 0 disguised (``planted.disguises``), or built so that one kind of
score must fail on it. Level 3 has more factors than dimensions. Level 2 is trained: see
``planted.trained``.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.circuits.planted import disguises
from vaecausal_jax.circuits.planted.network import (
    Pairs,
    Planted,
    Truth,
    Weights,
    autoencoder,
    device_params,
    factor_readout,
    image_of,
    pairs_of,
)
from vaecausal_jax.circuits.planted.truth import gaussian_truth, structural_truth
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import list_sites

AMPLITUDES = (2.0, 1.5, 1.0, 0.5)
GATES = ("and", "or", "xor")


def level0(
    *,
    amplitudes: Sequence[float] = AMPLITUDES,
    leak: float = 0.15,
    num_pairs: int = 2,
    num_spare: int = 4,
    width: int = 4,
    sigma: float = 0.1,
) -> Planted:
    """One latent a factor, pairs of ReLU units relu(z), relu(-z), and a row of pixels each.

    |w_k|^2 = a_k^2 (1 + (K - 1) leak^2) is the squared length of the image of latent k; CES shares
    are a_k^2 / sum a^2.

    Args:
        amplitudes: a_k of each factor, at least two.
        leak: What a factor adds to every other row, as a share of its own.
        num_pairs: Pairs of units a factor.
        num_spare: Units that read and write nothing.
        width: Pixels a row.
        sigma: Posterior standard deviation of every latent.
    """
    weights = level0_weights(
        amplitudes=amplitudes,
        leak=leak,
        num_pairs=num_pairs,
        num_spare=num_spare,
        width=width,
        sigma=sigma,
    )
    return gaussian_network("0", weights)


def level1(key: Array, *, noise: float = 0.05, num_distractors: int = 8, **options) -> Planted:
    """Level 0 under every disguise: a hidden order, scale and rotation, idle and noisy weights.

    Distractors, latents and units that vary with the factors and lead nowhere, are as many as the
    units of half the factors by default; dormant units lead somewhere and never vary.

    Args:
        key: Typed PRNG key of all disguises.
        noise: Relative noise on the weights of the ReLU layer and its outputs.
        num_distractors: Distracting units; half as many dormant ones, a quarter as many latents.
        **options: Of ``level0``.
    """
    weights = level0_weights(**options)
    return gaussian_network("1", disguises.all_at_once(key, weights, noise, num_distractors))


def level3(
    key: Array,
    *,
    num_factors: int = 5,
    num_features: int = 2,
    num_distractors: int = 4,
    width: int = 4,
    sigma: float = 0.1,
) -> Planted:
    """Superposition: more factors than features, at the corners of a regular polygon.

    Read back along the same directions, every factor leaks into the others by the cosine between
    them. In two dimensions each has capacity 2 / n. Beyond two the directions are random.

    Args:
        key: Typed PRNG key of directions and distractors.
        num_factors: At least as many as features.
        num_features: Of the linear layer they share.
        num_distractors: ReLU units that lead nowhere.
        width: Pixels a row.
        sigma: Posterior standard deviation.

    Raises:
        ValueError: Fewer factors than features, or fewer than two of either.
    """
    if not 2 <= num_features <= num_factors:
        raise ValueError(
            f"superposition needs 2 <= num_features <= num_factors, got {num_features} and "
            f"{num_factors}."
        )
    direction_key, distractor_key = jax.random.split(key)
    if num_features == 2:
        angle = 2 * np.pi * np.arange(num_factors) / num_factors
        directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        normal = jax.random.normal(direction_key, (num_factors, num_features))
        directions = np.asarray(normal, np.float64)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    plain = _plain_weights(num_factors, width, sigma)
    weights = plain._replace(
        features=directions,
        units=np.concatenate([directions, -directions]).T,
        bias=np.zeros(2 * num_factors),
        pixels=np.concatenate([plain.render, -plain.render]),
    )
    return gaussian_network(
        "3", disguises.add_distractors(distractor_key, weights, num_distractors)
    )


def gates(kinds: Sequence[str] = ("and", "or"), *, width: int = 4) -> Planted:
    """Logical gates of two binary factors each, between all off and all on.

    AND = relu(s1 + s2 - 1), OR = 1 - relu(1 - s1 - s2), XOR = s1 + s2 - 2 AND. From (0, 0) to
    (1, 1) denoising one input of AND does nothing, and noising one input of OR does nothing; XOR
    as a whole does not change, so scores along the total effect cannot see it.

    A latent a gate and one unit a gate are distractors: they follow the inputs and lead nowhere.

    Args:
        kinds: Of ``GATES``; each gate adds two factors, and writes the row of its first.
        width: Pixels a row.

    Raises:
        ValueError: No gate, or one that is not known.
    """
    for kind in kinds:
        if kind not in GATES:
            raise ValueError(unknown_choice("gate", kind, GATES))
    if not kinds:
        raise ValueError(f"kinds is empty, expected some of {GATES}.")
    weights, effects, varies = _gate_weights(kinds, width)
    off = np.zeros(weights.num_factors)
    return _fixed_network("1 gates", weights, off, 1 + off, effects, varies)


def saturated(*, num_factors: int = 3, num_distractors: int = 3, width: int = 4) -> Planted:
    """Ramps relu(z) - relu(z - 1) between z = -1 and z = 2: flat at both ends, one apart.

    The gradient at either run is zero, so attribution patching sees nothing at the latents.

    Args:
        num_factors: Ramps.
        num_distractors: Latents, and units, that lead nowhere.
        width: Pixels a row.
    """
    plain = _plain_weights(num_factors, width, 0.0)
    identity = np.eye(num_factors)
    copies = identity[:, np.arange(num_distractors) % num_factors]
    weights = plain._replace(
        mean=np.concatenate([plain.mean, plain.mean @ copies], axis=1),
        sigma=np.zeros(num_factors + num_distractors),
        features=np.concatenate([identity, np.zeros((num_distractors, num_factors))]),
        units=np.concatenate([identity, identity, copies], axis=1),
        bias=np.repeat([0.0, -1.0, 0.0], [num_factors, num_factors, num_distractors]),
        pixels=np.concatenate(
            [plain.render, -plain.render, np.zeros((num_distractors, plain.render.shape[1]))]
        ),
    )
    ones, idle = np.ones(num_factors), np.zeros(num_distractors)
    ramp = np.concatenate([ones, idle])
    effects = {
        "encoder/blocks": ones,
        "latent/mean": ramp,
        "latent/z": ramp,
        "decoder/features": ones,
        "decoder/units": np.concatenate([4 * ones, ones, idle]),
    }
    varies = {site: np.ones(len(effect), bool) for site, effect in effects.items()}
    return _fixed_network("1 saturated", weights, -ones, 2 * ones, effects, varies)


def gaussian_network(name: str, weights: Weights) -> Planted:
    """The network of these weights on independent standard normal factors, with its truth."""

    def sample(key: Array, num: int, factor: int | None = None) -> Pairs:
        factor_key, noise_key = jax.random.split(key)
        before, after = jax.random.normal(factor_key, (2, num, weights.num_factors))
        return pairs_of(weights, noise_key, before, after, factor)

    return _network(name, weights, sample, gaussian_truth(weights))


def depth_split(*, width: int = 4, depth: int = 4) -> tuple[list[np.ndarray], np.ndarray]:
    """A dense network without any structure, and its nodes split in two by depth.

    Q of this split is 1/6 for four layers under the ordinary null, 0 under the layered one.

    Returns:
        (weights of each pair of adjacent layers, labels of all nodes).
    """
    layers = [np.ones((width, width)) for _ in range(depth - 1)]
    return layers, np.repeat((np.arange(depth) >= depth / 2).astype(int), width)


def level0_weights(
    *,
    amplitudes: Sequence[float] = AMPLITUDES,
    leak: float = 0.15,
    num_pairs: int = 2,
    num_spare: int = 4,
    width: int = 4,
    sigma: float = 0.1,
) -> Weights:
    """The weights of ``level0``.

    Raises:
        ValueError: Fewer than two amplitudes, one that is not positive, or sizes below one.
    """
    amplitude = np.asarray(amplitudes, float)
    if amplitude.ndim != 1 or len(amplitude) < 2 or not np.all(amplitude > 0):
        raise ValueError(f"amplitudes must be two or more positive numbers, got {amplitudes}.")
    if min(num_pairs, width) < 1 or num_spare < 0 or not 0 <= leak < 1 or sigma < 0:
        raise ValueError(
            f"expected num_pairs and width of at least 1, num_spare and sigma of at least 0 and a "
            f"leak in [0, 1), got {num_pairs}, {width}, {num_spare}, {sigma} and {leak}."
        )
    num = len(amplitude)
    plain = _plain_weights(num, width, sigma)
    strength = amplitude[:, None] * (np.eye(num) * (1 - leak) + leak)
    render = strength @ plain.render
    sign = np.repeat(np.tile([1.0, -1.0], num_pairs), num)
    factor = np.tile(np.arange(num), 2 * num_pairs)
    spare = np.zeros((num, num_spare))
    return plain._replace(
        render=render,
        mean=np.linalg.inv(render @ plain.blocks),
        units=np.concatenate([np.eye(num)[:, factor] * sign[None], spare], axis=1),
        bias=np.zeros(len(factor) + num_spare),
        pixels=np.concatenate(
            [sign[:, None] * render[factor] / num_pairs, spare.T @ render], axis=0
        ),
    )


def _plain_weights(num_factors: int, width: int, sigma: float) -> Weights:
    """Every factor a row of unit length, read back exactly; no decoder yet."""
    render = np.repeat(np.eye(num_factors), width, axis=1) / np.sqrt(width)
    blocks = np.repeat(np.eye(num_factors), width, axis=0) / width
    return Weights(
        render=render,
        blocks=blocks,
        mean=np.eye(num_factors) * np.sqrt(width),
        sigma=np.full(num_factors, sigma),
        features=np.eye(num_factors),
        units=np.zeros((num_factors, 0)),
        bias=np.zeros(0),
        pixels=np.zeros((0, num_factors * width)),
        offset=np.zeros(num_factors * width),
    )


def _gate_weights(kinds: Sequence[str], width: int) -> tuple[Weights, dict, dict]:
    """Weights, effects from all off to all on, and what varies between the two."""
    num = 2 * len(kinds)
    plain = _plain_weights(num, width, 0.0)
    reads, biases, writes, unit_effects = [], [], [], []
    offset, input_effects = plain.offset.copy(), []
    for gate, kind in enumerate(kinds):
        first, second = np.eye(num)[2 * gate : 2 * gate + 2]
        row = plain.render[2 * gate]
        # (weights on the inputs, bias, weight of the output, squared effect of patching the unit)
        units = {
            "and": [(first + second, -1.0, 1.0, 1.0)],
            "or": [(-first - second, 1.0, -1.0, 1.0)],
            "xor": [
                (first, 0.0, 1.0, 1.0),
                (second, 0.0, 1.0, 1.0),
                (first + second, -1.0, -2.0, 4.0),
            ],
        }[kind]
        units = [*units, (first + second, 0.0, 0.0, 0.0)]
        for read, bias, write, effect in units:
            reads.append(read)
            biases.append(bias)
            writes.append(write * row)
            unit_effects.append(effect)
        if kind == "or":
            offset += row
        input_effects += [0.0 if kind == "and" else 1.0] * 2
    copies = np.eye(num)[:, ::2]
    weights = plain._replace(
        mean=np.concatenate([plain.mean, plain.mean @ copies], axis=1),
        sigma=np.zeros(num + len(kinds)),
        features=np.concatenate([np.eye(num), np.zeros((len(kinds), num))]),
        units=np.array(reads).T,
        bias=np.array(biases),
        pixels=np.array(writes),
        offset=offset,
    )
    inputs = np.array(input_effects)
    latents = np.concatenate([inputs, np.zeros(len(kinds))])
    effects = {
        "encoder/blocks": inputs,
        "latent/mean": latents,
        "latent/z": latents,
        "decoder/features": inputs,
        "decoder/units": np.array(unit_effects),
    }
    return weights, effects, {site: np.ones(len(effect), bool) for site, effect in effects.items()}


def _fixed_network(
    name: str,
    weights: Weights,
    factors0: np.ndarray,
    factors1: np.ndarray,
    effects: dict[str, np.ndarray],
    varies: dict[str, np.ndarray],
) -> Planted:
    """A network asked about one pair of inputs only, with the denoising effects of that pair."""

    def sample(key: Array, num: int, factor: int | None = None) -> Pairs:
        before, after = (
            jnp.tile(jnp.asarray(values, float)[None], (num, 1)) for values in (factors0, factors1)
        )
        return pairs_of(weights, key, before, after, factor)

    # An input of AND has no denoising effect, and is no less a cause.
    leads = {
        "encoder/blocks": np.ones(weights.num_factors),
        "latent/mean": (weights.features != 0).any(1) * 1.0,
        "latent/z": (weights.features != 0).any(1) * 1.0,
        "decoder/features": np.ones(weights.features.shape[1]),
        "decoder/units": (weights.pixels != 0).any(1) * 1.0,
    }
    truth = structural_truth(weights, leads, varies)._replace(effects=effects)
    return _network(name, weights, sample, truth)


def _network(name: str, weights: Weights, sample: Callable[..., Pairs], truth: Truth) -> Planted:
    params = device_params(weights)
    x = image_of(weights, jnp.zeros((1, weights.num_factors)))[0]
    sites = list_sites(autoencoder, params, x, jnp.zeros(len(weights.sigma)))
    net = BoundModel(autoencoder, params, sites)
    return Planted(name, net, sample, factor_readout(weights), truth)
