"""Level 2: a VAE trained to have planted circuits, by strict interchange training.

Each factor is given a group of units at some sites. Beside the ELBO the loss asks of every such
site that

    swapping the group of one factor from another image gives the image with that factor swapped,
    swapping all units of no group changes nothing

(Gupta, Arcuschin, Kwa & Garriga-Alonso 2024, "InterpBench", arXiv:2407.14494). A network counts as
planted only if both hold on images it was not judged on before; otherwise ``level2`` says by how
much it missed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vaecausal_jax.circuits.planted.network import Planted, Truth, changed_only
from vaecausal_jax.data.dataset import Dataset, Factor, factor_sizes, images, sample_factors
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.interventions import patch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Sites, Trace
from vaecausal_jax.models import Model, conv_vae
from vaecausal_jax.training.objectives import Objective, beta_vae, gaussian
from vaecausal_jax.training.trainer import TrainConfig, make_train

Groups = Mapping[str, Array]
"""Site to booleans (factors, units): the units that each factor is given, none of them twice."""

MIN_INTERCHANGE = 0.95
MAX_OUTSIDE = 0.02


@flax.struct.dataclass
class Quadrants:
    """Images of four squares, each as bright as its own factor: the simplest world to plant in.

    Attributes:
        size: Height and width of the image.
        levels: Levels of each factor, from 0 to 1.
    """

    size: int = flax.struct.field(pytree_node=False, default=8)
    levels: int = flax.struct.field(pytree_node=False, default=8)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """Four brightnesses."""
        values = tuple(np.linspace(0.0, 1.0, self.levels).tolist())
        return tuple(
            Factor(name, values, self.levels, cyclic=False)
            for name in ("top_left", "top_right", "bottom_left", "bottom_right")
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and one channel."""
        return self.size, self.size, 1

    def image(self, factors: jax.Array) -> jax.Array:
        """The image at integer levels (4,)."""
        brightness = factors.astype(jnp.float32).reshape(2, 2) / (self.levels - 1)
        half = self.size // 2
        return jnp.repeat(jnp.repeat(brightness, half, 0), half, 1)[..., None]

    def readout(self, outputs: Array) -> Array:
        """Mean of each square: (4,)."""
        half = self.size // 2
        return outputs.reshape(2, half, 2, half).mean((1, 3)).reshape(4)


class Alignment(NamedTuple):
    """How far a network has the circuits it was given.

    Attributes:
        interchange: Site to (factors,): 1 - E|y_swap - y*|^2 / E|y - y*|^2, with y* the
            reconstruction of the image that has the factor swapped.
        outside: Site to E|y_swap - y|^2 / E|y' - y|^2 as all units of no group are swapped, y'
            the output of the image they come from.
    """

    interchange: dict[str, np.ndarray]
    outside: dict[str, float]


def level2(
    key: Array,
    *,
    world: Any = None,
    model: Model | None = None,
    groups: Groups | None = None,
    num_steps: int = 2000,
    learning_rate: float = 3e-3,
    weight: float = 20.0,
    min_interchange: float = MIN_INTERCHANGE,
    max_outside: float = MAX_OUTSIDE,
) -> Planted:
    """Trains a VAE to have planted circuits, and checks that it has them.

    Args:
        key: Typed PRNG key.
        world: A ``Dataset`` with a linear ``readout`` of its factors from outputs; ``Quadrants`` if
            None.
        model: A Gaussian VAE with head "mean"; a small convolutional one if None.
        groups: Units given to each factor; ``even_groups`` if None.
        num_steps: Training steps.
        learning_rate: Adam's.
        weight: Of both interchange terms, in nats per unit of squared error.
        min_interchange: Least accuracy of every factor at every site.
        max_outside: Largest effect of the units of no group at every site.

    Returns:
        The network, with the sites that have groups, and its outputs. Its nodes are the grouped
        units that vary between images; distractors are units of no group that do.

    Raises:
        ValueError: Groups that do not fit, or a network that missed, by how much.
    """
    world = Quadrants() if world is None else world
    model = default_model(world) if model is None else model
    groups = even_groups(model, world) if groups is None else groups
    check_groups(model, world, groups)
    objective = interchange_objective(beta_vae(1.0, gaussian(0.01)), model, world, groups, weight)
    record_every = next(n for n in (100, 50, 20, 10, 5, 2, 1) if num_steps % n == 0)
    config = TrainConfig(
        model,
        objective,
        optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps)),
        num_steps,
        record_every=record_every,
    )
    train_key, test_key = jax.random.split(key)
    state, _ = jax.jit(make_train(config))(train_key, world)
    alignment = measure_alignment(test_key, model, state.params, world, groups)
    check_alignment(alignment, min_interchange=min_interchange, max_outside=max_outside)
    return _as_planted(test_key, model, state.params, world, groups)


def default_model(world: Dataset) -> Model:
    """A convolutional VAE of about 100 units, with a wide first decoder layer."""
    return conv_vae(
        world.image_shape,
        latent_size=len(world.factors) + 2,
        encoder_channels=(8, 8),
        encoder_dense=(32,),
        decoder_dense=(32,),
        decoder_channels=(16, 8),
        head="mean",
    )


def even_groups(model: Model, world: Dataset, *, num_units: int = 6) -> dict[str, Array]:
    """One latent a factor, and ``num_units`` units of the first dense layer of the decoder."""
    num_factors = len(world.factors)
    groups = {}
    for site, size in (("latent/z", 1), ("decoder/dense0", num_units)):
        owner = np.arange(model.sites[site].num_units) // size
        groups[site] = jnp.asarray(owner[None] == np.arange(num_factors)[:, None])
    return groups


def check_groups(model: Model, world: Dataset, groups: Groups) -> None:
    """Raises ValueError unless every group has units, none of them twice, at dense sites."""
    num_factors = len(world.factors)
    for site, group in groups.items():
        expected = num_factors, model.sites[site].num_units
        if np.shape(group) != expected or np.asarray(group).dtype != bool:
            raise ValueError(
                f"groups at {site!r} are {np.asarray(group).dtype}{np.shape(group)}, expected "
                f"booleans (factors, units): {expected}."
            )
        members = np.asarray(group).sum(0)
        if members.max() > 1 or not np.asarray(group).any(1).all():
            raise ValueError(
                f"groups at {site!r} must give every factor a unit, and no unit to two factors."
            )


def interchange_objective(
    base: Objective, model: Model, world: Dataset, groups: Groups, weight: float, num: int = 64
) -> Objective:
    """An objective plus the squared errors of interchange interventions on images of its own.

    Args:
        base: What the network is trained on beside.
        model: The network.
        world: What renders the counterfactual images.
        groups: Site to booleans (factors, units).
        weight: Of the squared errors, summed over pixels and averaged over images and sites.
        num: Pairs of images a step.
    """

    def loss(params, state, trace, batch, key):
        total, terms = base.loss(params, state, trace, batch, key)
        draw_key, noise_key, factor_key = jax.random.split(key, 3)
        levels0, levels1 = (sample_factors(k, world, num) for k in jax.random.split(draw_key))
        eps = jax.random.normal(noise_key, (num, *model.noise_shape))
        factor = jax.random.randint(factor_key, (num,), 0, len(world.factors))
        swapped = jnp.where(
            jnp.arange(len(world.factors))[None] == factor[:, None], levels1, levels0
        )
        wanted = images(world, swapped)
        run = jax.vmap(model.forward, (None, 0, 0))
        own = run(params, images(world, levels0), eps)
        donor = run(params, images(world, levels1), eps).activations
        inside = outside = 0.0
        for site, group in groups.items():
            moved = _swap(model, params, world, site, levels0, eps, donor[site], group[factor])
            inside += jnp.mean(jnp.sum((moved - wanted) ** 2, axis=(1, 2, 3)))
            rest = jnp.broadcast_to(~group.any(0)[None], (num, group.shape[1]))
            moved = _swap(model, params, world, site, levels0, eps, donor[site], rest)
            outside += jnp.mean(jnp.sum((moved - own.outputs) ** 2, axis=(1, 2, 3)))
        total += weight * (inside + outside) / len(groups)
        return total, {**terms, "interchange": inside, "outside": outside}

    return base._replace(name="strict_interchange", loss=loss)


def measure_alignment(
    key: Array, model: Model, params: Any, world: Dataset, groups: Groups, *, num: int = 512
) -> Alignment:
    """Continuous interchange accuracy of every factor, and the effect of the units of no group."""
    draw_key, noise_key = jax.random.split(key)
    levels0, levels1 = (sample_factors(k, world, num) for k in jax.random.split(draw_key))
    eps = jax.random.normal(noise_key, (num, *model.noise_shape))
    run = jax.vmap(model.forward, (None, 0, 0))

    @jax.jit
    def measure(params):
        own = run(params, images(world, levels0), eps).outputs
        other = run(params, images(world, levels1), eps)
        interchange, outside = {}, {}
        for site, group in groups.items():
            donor = other.activations[site]
            accuracy = []
            for factor in range(len(world.factors)):
                wanted = changed_only(levels0, levels1, factor)
                wanted = run(params, images(world, wanted), eps).outputs
                units = jnp.broadcast_to(group[factor][None], (num, group.shape[1]))
                moved = _swap(model, params, world, site, levels0, eps, donor, units)
                accuracy.append(1 - jnp.sum((moved - wanted) ** 2) / jnp.sum((own - wanted) ** 2))
            rest = jnp.broadcast_to(~group.any(0)[None], (num, group.shape[1]))
            moved = _swap(model, params, world, site, levels0, eps, donor, rest)
            interchange[site] = jnp.stack(accuracy)
            outside[site] = jnp.sum((moved - own) ** 2) / jnp.sum((other.outputs - own) ** 2)
        return interchange, outside

    interchange, outside = jax.device_get(measure(params))
    return Alignment(interchange, {site: float(value) for site, value in outside.items()})


def check_alignment(
    alignment: Alignment,
    *,
    min_interchange: float = MIN_INTERCHANGE,
    max_outside: float = MAX_OUTSIDE,
) -> None:
    """Raises ValueError, naming every miss and its size, unless the network has its circuits."""
    misses = []
    for site, accuracy in alignment.interchange.items():
        worst = float(np.min(accuracy))
        if not worst >= min_interchange:
            misses.append(
                f"interchange accuracy {worst:.3f} of factor {int(np.argmin(accuracy))} at "
                f"{site!r} is {min_interchange - worst:.3f} short of {min_interchange}"
            )
    for site, effect in alignment.outside.items():
        if not effect <= max_outside:
            misses.append(
                f"units of no group at {site!r} have effect {effect:.3f}, "
                f"{effect - max_outside:.3f} above {max_outside}"
            )
    if misses:
        raise ValueError(
            f"the network does not have the planted circuits: {'; '.join(misses)}. Train longer "
            "(num_steps), weigh interchanges more (weight), or give groups more units."
        )


def _swap(model, params, world, site, levels, eps, donor, units) -> Array:
    """Outputs with the donor's values in the chosen units: (images, *outputs)."""

    def run(image, noise, value, chosen):
        swap = patch(model.sites, site, value, group=chosen)
        return model.forward(params, image, noise, swap).outputs

    return jax.vmap(run)(images(world, levels), eps, donor, units)


def _as_planted(key: Array, model: Model, params: Any, world: Any, groups: Groups) -> Planted:
    sizes = jnp.asarray(factor_sizes(world), jnp.float32)

    def sample(key: Array, num: int, factor: int | None = None) -> Pairs:
        draw_key, other_key, noise_key = jax.random.split(key, 3)
        levels0, levels1 = (sample_factors(k, world, num) for k in (draw_key, other_key))
        if factor is not None:
            levels1 = changed_only(levels0, levels1, factor)
        eps = jax.random.normal(noise_key, (num, *model.noise_shape))
        scale = (sizes - 1)[None]
        return Pairs(
            jax.vmap(world.image)(levels0),
            jax.vmap(world.image)(levels1),
            eps,
            levels0 / scale,
            levels1 / scale,
        )

    pairs = sample(key, 256)
    trace: Trace = jax.jit(jax.vmap(model.forward, (None, 0, 0)))(params, pairs.x0, pairs.eps)
    nodes, distractors, modules = {}, {}, {}
    for site, group in groups.items():
        spread = np.asarray(trace.activations[site].reshape(256, -1).std(0))
        varies = spread > 1e-3 * spread.max()
        member = np.asarray(group).any(0)
        nodes[site], distractors[site] = varies & member, varies & ~member
        modules[site] = np.where(nodes[site], np.asarray(group).argmax(0), -1)
    num_factors = len(world.factors)
    truth = Truth(
        nodes=nodes,
        edges={},
        distractors=distractors,
        dormant={},
        modules=modules,
        factor_graph=np.zeros((num_factors, num_factors), bool),
    )
    judged = Sites(
        {
            name: site
            for name, site in model.sites.items()
            if name in (*groups, list(model.sites)[-1])
        }
    )
    net = BoundModel(model.forward, params, judged)
    return Planted("2", net, sample, world.readout, truth)
