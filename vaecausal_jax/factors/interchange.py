"""Interchange interventions on images: does a part of a site stand for a factor of the world?

A base image takes part V of a site from the run on a source image. If V stands for factor k, the
output is what the model makes of the counterfactual image: the base with the source's factor k, as
the world renders it (Geiger et al. 2021, arXiv:2106.02997). Agreement is continuous,

    IIA = 1 - sum |y_swap - y*|^2 / sum |y_base - y*|^2,    y* the RECONSTRUCTION of the rendered
                                                            counterfactual, so that blur cancels,

and discrete, by the levels of read-outs. Parts are groups of units, or subspaces that are learned
by rotating the site orthogonally (distributed alignment search, arXiv:2303.02536, with the soft
boundary of arXiv:2305.08809 if wanted). No other maps: with unrestricted ones any network matches
any algorithm (arXiv:2507.08802). And no agreement without its baselines: the same procedure on a
random network, on shuffled factor labels, and with a random part of the same size.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from vaecausal_jax.data import Dataset, do_factor, images, sample_factors
from vaecausal_jax.data.dataset import changeable_factor
from vaecausal_jax.data.splits import held_out
from vaecausal_jax.effects import mediators
from vaecausal_jax.effects.mediators import Mediator
from vaecausal_jax.factors.readouts import Readout, check_factor
from vaecausal_jax.indices import as_indices
from vaecausal_jax.inference import Bootstrap, Estimate, bootstrap_mean, bootstrap_ratio
from vaecausal_jax.interventions import Replace, SubspaceSwap
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Forward, Outcome, Sites, measure, outputs
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced


class Interchanges(NamedTuple):
    """Inputs of interchange interventions on one factor; a leading axis of interchanges.

    Attributes:
        base: Base images.
        source: Source images, whose level of the factor differs from the base's.
        counterfactual: Rendered images of the base's factors with the source's level.
        eps: Noise shared by all runs.
        levels: Factor levels of the counterfactual, (interchanges, factors).
    """

    base: Array
    source: Array
    counterfactual: Array
    eps: Array
    levels: Array


class Swapped(NamedTuple):
    """What one interchange gives.

    Attributes:
        error: |y_swap - y*|^2.
        distance: |y_base - y*|^2.
        agrees: For which factors the read-out of y_swap names the counterfactual's level,
            (factors,); None without a read-out.
    """

    error: Array
    distance: Array
    agrees: Array | None


class Alignment(NamedTuple):
    """A way to find the part of a site that stands for a factor.

    Attributes:
        mediator: ``mediator(point, activations) -> interventions`` that swap the part in.
        fit: ``fit(key, params, interchanges) -> point``; may ignore all of them.
        random: ``random(key) -> point``: a part of the same size, drawn blindly.
        size: Its number of units or dimensions.
    """

    mediator: Mediator
    fit: Callable[[Array, Any, Interchanges], Any]
    random: Callable[[Array], Any]
    size: int


class InterchangeReport(NamedTuple):
    """Agreement on held-out factor combinations, with its baselines.

    Attributes:
        iia: Continuous IIA.
        baselines: The same procedure on a ``random_network`` and with ``shuffled_labels``; and
            ``random_parts`` of the trained one.
        margin: IIA minus the best baseline.
        strict: Share of interchanges with all factors at the counterfactual's levels; None without
            a read-out, like the next two.
        target: With the swapped factor there.
        preservation: With all other factors there.
        point: The part that was found.
    """

    iia: Estimate
    baselines: Mapping[str, Estimate]
    margin: float
    strict: Estimate | None
    target: Estimate | None
    preservation: Estimate | None
    point: Any


def sample_interchanges(
    key: Array,
    data: Dataset,
    factor_name: str,
    num: int,
    noise_shape: tuple[int, ...],
    *,
    test: bool,
    fraction: float = 0.2,
) -> Interchanges:
    """Draws bases, sources and counterfactuals from one side of a split of factor combinations.

    Neither the images nor the counterfactuals of the two sides meet (``splits.held_out``). Base
    and source are independent but for the swapped factor, whose levels differ.

    Args:
        key: Typed PRNG key.
        data: A data set whose factors can be set one at a time.
        factor_name: The factor to swap.
        num: Interchanges.
        noise_shape: Of one run's ``eps``.
        test: Whether to draw from the held-out side.
        fraction: Of all combinations, held out.

    Raises:
        ValueError: A factor that cannot be changed alone, or a grid too small for the split.
    """
    position, num_distinct = changeable_factor(data, factor_name)
    noise_key, *keys = jax.random.split(key, 1 + _ROUNDS)
    found = []
    for round_key in keys:
        base_key, source_key, step_key = jax.random.split(round_key, 3)
        base = sample_factors(base_key, data, _TRIES)
        step = jax.random.randint(step_key, (_TRIES,), 1, num_distinct, jnp.int32)
        level = (base[:, position] + step) % num_distinct
        source = do_factor(sample_factors(source_key, data, _TRIES), position, level)
        rows = base, source, do_factor(base, position, level)
        sides = [np.asarray(held_out(data, row, fraction=fraction)) == test for row in rows]
        chosen = np.flatnonzero(np.logical_and.reduce(sides))
        found.append([np.asarray(row)[chosen] for row in rows])
        if sum(len(rows[0]) for rows in found) >= num:
            break
    else:
        raise ValueError(
            f"{sum(len(rows[0]) for rows in found)} of {_ROUNDS * _TRIES} draws lie on the "
            f"{'held-out' if test else 'training'} side of the split, {num} are needed: the grid "
            f"is too small for fraction {fraction}."
        )
    base, source, counterfactual = (
        jnp.asarray(np.concatenate(rows)[:num]) for rows in zip(*found, strict=True)
    )
    eps = jax.random.normal(noise_key, (num, *noise_shape))
    return Interchanges(
        images(data, base),
        images(data, source),
        images(data, counterfactual),
        eps,
        counterfactual,
    )


def interchange(
    net: BoundModel,
    mediator: Mediator,
    points: Any,
    inputs: Interchanges,
    *,
    outcome: Outcome = outputs,
    readout: Readout | None = None,
    to_image: Callable[[Array], Array] = jax.nn.sigmoid,
    sweep: SweepFn = sweep,
) -> Swapped:
    """Swaps each part from source to base and compares with the counterfactual's reconstruction.

    Args:
        net: The network with its parameters.
        mediator: ``mediators.group``, ``.subspace``, or any other.
        points: Parts, a leading axis: one compiled sweep for all.
        inputs: Interchanges.
        outcome: Trace to what is compared.
        readout: To compare levels of factors too.
        to_image: The decoder's outputs to the image it reads.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        Leaves with leading axes (parts, interchanges).
    """
    sweep = unreduced(sweep)

    def run(point, row):
        base, source, counterfactual, eps, levels = row
        donor = net(source, eps, {}).activations
        wanted = measure(outcome, net(counterfactual, eps, {}))
        natural = measure(outcome, net(base, eps, {}))
        swapped = net(base, eps, mediator(point, donor))
        agrees = None
        if readout is not None:
            read = readout(to_image(swapped.outputs))
            agrees = readout.agrees(read, readout.truth(levels))
        return Swapped(
            _square(measure(outcome, swapped) - wanted), _square(natural - wanted), agrees
        )

    return sweep(run, points, tuple(inputs))


def continuous_iia(key: Array, swapped: Swapped, bootstrap: Bootstrap = Bootstrap()) -> Estimate:
    """1 - sum |y_swap - y*|^2 / sum |y_base - y*|^2, with interval; its null is 0.

    1 where the swap does all that the change of the factor does and nothing else, 0 where it might
    as well not have been made, negative where it does harm. NaN if the factor changes nothing.

    Args:
        key: Typed PRNG key.
        swapped: Leaves (..., interchanges).
        bootstrap: How its interval is made.
    """
    return bootstrap_ratio(
        key,
        swapped.distance - swapped.error,
        swapped.distance,
        intervention="part of a site swapped from source to base",
        bootstrap=bootstrap,
    )


def interchange_report(
    key: Array,
    net: BoundModel,
    random_params: Any,
    alignment: Alignment,
    train: Interchanges,
    test: Interchanges,
    *,
    outcome: Outcome = outputs,
    readout: Readout | None = None,
    factor_name: str | None = None,
    to_image: Callable[[Array], Array] = jax.nn.sigmoid,
    num_random: int = 8,
    level: float = 0.95,
) -> InterchangeReport:
    """Finds the part on ``train`` and measures its agreement on ``test``, beside three controls.

    The controls repeat both on an untrained network, with shuffled labels, and with random parts.

    Args:
        key: Typed PRNG key.
        net: The network with its parameters.
        random_params: Those of an untrained network, ``model.init(key)``.
        alignment: ``aligned_group``, ``search_subspace``, ``search_boundary``, or your own.
        train: Interchanges to fit it on.
        test: Others, of factor combinations that ``train`` lacks.
        outcome: Trace to what is compared.
        readout: For strict, target and preservation; with ``factor_name``.
        factor_name: The swapped factor.
        to_image: The decoder's outputs to the image that is read.
        num_random: Random parts, whose mean is the last baseline.
        level: Coverage.

    Raises:
        ValueError: A read-out without ``factor_name``, or of other factors.
    """
    if readout is not None:
        if factor_name is None:
            raise ValueError(f"give factor_name, one of {readout.names}, with a read-out.")
        position = check_factor(readout, factor_name)
    fit_key, random_key, shuffle_key, boot_key = jax.random.split(key, 4)
    train_key, test_key = jax.random.split(shuffle_key)

    @jax.jit
    def measure(weights, point, inputs):
        swapped = interchange(
            net.with_params(weights),
            alignment.mediator,
            jax.tree.map(lambda a: a[None], point),
            inputs,
            outcome=outcome,
            readout=readout,
            to_image=to_image,
        )
        return jax.tree.map(lambda a: a[0], swapped)

    def agreement(swapped):
        return continuous_iia(boot_key, swapped, Bootstrap(level=level))

    point = alignment.fit(fit_key, net.params, train)
    found = measure(net.params, point, test)
    untrained = alignment.fit(fit_key, random_params, train)
    dealt = [shuffle_labels(k, a) for k, a in ((train_key, train), (test_key, test))]
    shuffled = alignment.fit(fit_key, net.params, dealt[0])
    # One by one, so that everything is measured by one compiled program.
    blind = [
        measure(net.params, alignment.random(k), test)
        for k in jax.random.split(random_key, num_random)
    ]
    mean = [
        jnp.mean(jnp.stack(leaves), axis=0) for leaves in zip(*(b[:2] for b in blind), strict=True)
    ]
    baselines = {
        "random_network": agreement(measure(random_params, untrained, test)),
        "shuffled_labels": agreement(measure(net.params, shuffled, dealt[1])),
        "random_parts": agreement(Swapped(mean[0], mean[1], None)),
    }
    iia = agreement(found)
    shares = [None] * 3
    if found.agrees is not None:
        own = found.agrees[:, position]
        others = jnp.delete(found.agrees, position, axis=1).all(1)
        shares = [
            bootstrap_mean(
                boot_key,
                share.astype(float),
                intervention="part of a site swapped from source to base",
                bootstrap=Bootstrap(level=level),
            )
            for share in (own & others, own, others)
        ]
    values = np.array([baseline.value for baseline in baselines.values()])
    best = np.max(values, where=~np.isnan(values), initial=-np.inf)
    best = np.nan if np.isnan(values).all() else best
    strict, target, preservation = shares
    return InterchangeReport(
        iia, baselines, float(iia.value - best), strict, target, preservation, point
    )


def shuffle_labels(key: Array, inputs: Interchanges) -> Interchanges:
    """The same with sources permuted: labels no longer say what a source holds."""
    order = jax.random.permutation(key, len(inputs.base))
    return inputs._replace(source=inputs.source[order])


def aligned_group(sites: Sites, name: str, members: Any) -> Alignment:
    """An alignment that fits nothing: the units given, and as many random ones for comparison.

    Args:
        sites: The model's sites.
        name: The site.
        members: Unit indices, or booleans (units,).

    Raises:
        ValueError: A site without units, or members that do not fit.
    """
    mediator = mediators.group(sites, name)
    chosen = as_indices(f"at site {name!r}", "unit", members, sites[name].num_units)
    fixed = jnp.zeros(sites[name].num_units, bool).at[chosen].set(True)
    return Alignment(
        mediator,
        lambda key, params, inputs: fixed,
        lambda key: jax.random.permutation(key, fixed),
        len(chosen),
    )


def search_subspace(
    net: BoundModel,
    name: str,
    rank: int,
    *,
    outcome: Outcome = outputs,
    num_steps: int = 300,
    batch_size: int = 32,
    learning_rate: float = 0.05,
) -> Alignment:
    """Distributed alignment search: the subspace of a site's last axis that stands for the factor.

    The first ``rank`` rows of an orthogonal matrix, Cayley's (I - A)(I + A)^-1 of a skew-symmetric
    A times a random rotation, learned by Adam on the continuous IIA. In a convolution it is a
    subspace of channels, swapped at every position.

    Args:
        net: The network. What is searched is given with parameters of its own, so that an untrained
            network is searched by the same program.
        name: The site.
        rank: Dimensions of the subspace.
        outcome: Trace to what is compared.
        num_steps: Gradient steps.
        batch_size: Interchanges a step.
        learning_rate: Adam's, decayed by a cosine.

    Raises:
        ValueError: A rank outside 1 .. the last axis, or a site that holds no real numbers.
    """
    size = _last_axis(net.sites, name)
    if not 1 <= rank <= size:
        raise ValueError(f"rank is {rank}, expected 1 to {size}, the last axis of {name!r}.")

    def basis(weights, start, progress):
        del progress
        return _rotation(weights, start)[:rank]

    search = _searcher(
        net.forward,
        name,
        basis,
        outcome=outcome,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )

    def fit(key, params, inputs):
        start_key, step_key = jax.random.split(key)
        start = _random_rotation(start_key, size)
        weights = search(step_key, params, jnp.zeros((size, size)), start, inputs)
        return _rotation(weights, start)[:rank]

    return Alignment(
        mediators.subspace(net.sites, name),
        fit,
        lambda key: _random_rotation(key, size)[:rank],
        rank,
    )


def search_boundary(
    net: BoundModel,
    name: str,
    *,
    penalty: float = 0.01,
    outcome: Outcome = outputs,
    num_steps: int = 600,
    batch_size: int = 32,
    learning_rate: float = 0.05,
) -> Callable[[Array, Any, Interchanges], tuple[Array, int]]:
    """Boundless search: learns the rotation and how many of its rows are needed.

    Row i is swapped by the share sigmoid((b - i - 1/2) / T), its temperature T falling from 5 to
    0.1 as it learns; the boundary b costs ``penalty`` of IIA a dimension (arXiv:2305.08809).

    Args:
        net: The network. What is searched is given with parameters of its own, so that an untrained
            network is searched by the same program.
        name: The site.
        penalty: IIA that one more dimension must gain.
        outcome: Trace to what is compared.
        num_steps: Gradient steps.
        batch_size: Interchanges a step.
        learning_rate: Adam's, decayed by a cosine.

    Returns:
        ``find(key, params, interchanges) -> (basis of all rows, boundary)``. The first rows are the
        part: measure it, with its baselines, by ``search_subspace`` of that rank.

    Raises:
        ValueError: A site that holds no real numbers.
    """
    size = _last_axis(net.sites, name)

    def basis(weights, start, progress):
        matrix, boundary = weights
        temperature = 5.0 * (0.1 / 5.0) ** progress
        share = jax.nn.sigmoid((boundary - jnp.arange(size) - 0.5) / temperature)
        # B'B of rows scaled by sqrt(share) swaps each coordinate by its share.
        return jnp.sqrt(share + 1e-12)[:, None] * _rotation(matrix, start)

    search = _searcher(
        net.forward,
        name,
        basis,
        outcome=outcome,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        cost=lambda weights: penalty * jnp.maximum(weights[1], 0.0),
    )

    def find(key, params, inputs):
        start_key, step_key = jax.random.split(key)
        start = _random_rotation(start_key, size)
        weights = jnp.zeros((size, size)), jnp.asarray(size / 2.0)
        matrix, boundary = search(step_key, params, weights, start, inputs)
        return _rotation(matrix, start), int(np.clip(np.round(boundary), 0, size))

    return find


_TRIES, _ROUNDS = 16_384, 16
"""Draws at a time, and times, to find interchanges on one side of a split."""


def _square(value: Array) -> Array:
    return jnp.sum(value.reshape(-1) ** 2)


def _last_axis(sites: Sites, name: str) -> int:
    site = sites[name]
    if not site.shape or not jnp.issubdtype(site.dtype, jnp.floating):
        raise ValueError(
            f"site {name!r} {site.dtype}{site.shape} has no directions; use a site of real numbers."
        )
    return site.shape[-1]


def _random_rotation(key: Array, size: int) -> Array:
    rotation, triangle = jnp.linalg.qr(jax.random.normal(key, (size, size)))
    # Uniform over rotations only once the signs that QR leaves open are fixed (Mezzadri 2007).
    return rotation * jnp.sign(jnp.diag(triangle))[None, :]


def _rotation(weights: Array, start: Array) -> Array:
    """Cayley's orthogonal matrix of the skew part of the weights, after the start."""
    skew, identity = weights - weights.T, jnp.eye(len(weights))
    return jnp.linalg.solve(identity + skew, (identity - skew) @ start)


def _no_cost(weights: Any) -> float:
    del weights
    return 0.0


def _searcher(
    forward: Forward,
    name: str,
    basis: Callable[[Any, Array, Array], Array],
    *,
    outcome: Outcome,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    cost: Callable[[Any], Any] = _no_cost,
) -> Callable[..., Any]:
    """``search(key, params, weights, start, interchanges) -> weights`` of least 1 - IIA + cost.

    ``basis(weights, start, progress)`` gives the rows to swap; progress runs from 0 to 1. One
    compiled program, which the baselines share.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    @jax.jit
    def search(key, params, weights, start, inputs):
        def clean(run):
            trace = forward(params, *run, {})
            return trace.activations[name], measure(outcome, trace)

        def all_runs(x):
            return lax.map(clean, (x, inputs.eps), batch_size=64)

        base, natural = all_runs(inputs.base)
        donor, _ = all_runs(inputs.source)
        _, wanted = all_runs(inputs.counterfactual)
        scale = jnp.mean(jax.vmap(_square)(natural - wanted))
        scale = jnp.where(scale > 0, scale, 1.0)

        def loss(weights, progress, rows):
            rotated = basis(weights, start, progress)

            def one(x, eps, base, donor, wanted):
                # The run's own value put back first: what comes before the site is not run again.
                everywhere = jnp.array(True)
                steps = Replace(everywhere, base), SubspaceSwap(everywhere, rotated, donor)
                return _square(measure(outcome, forward(params, x, eps, {name: steps})) - wanted)

            return jnp.mean(jax.vmap(one)(*rows)) / scale + cost(weights)

        def step(state, at):
            (weights, moments), (progress, step_key) = state, at
            chosen = jax.random.randint(step_key, (batch_size,), 0, len(inputs.base))
            rows = inputs.base, inputs.eps, base, donor, wanted
            rows = jax.tree.map(lambda a: a[chosen], rows)
            gradient = jax.grad(loss)(weights, progress, rows)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(weights, updates), moments), None

        steps = jnp.linspace(0.0, 1.0, num_steps), jax.random.split(key, num_steps)
        (weights, _), _ = lax.scan(step, (weights, optimizer.init(weights)), steps)
        return weights

    return search
