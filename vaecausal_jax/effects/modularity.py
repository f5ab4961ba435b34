"""Modularity of effects: do different latents change different activations, beyond chance?

    M = 1 - mean over pairs i < j of |rho(da_i, da_j)|

the form ascribed to arXiv:2505.03530, where da_i are the signed changes of a layer's activations in
one sample when latent i is intervened on, and rho is their correlation over the layer's units. Two
latents with unrelated effects do not score 1: |rho| of noise over n units is about sqrt(2/(pi n)),
so that M is near 1 for any wide layer. It is reported minus its null.

Changes are signed and per sample: averaged absolute changes are all positive, correlate, and
collapse M to about 0. A latent cannot change what was computed before it, the encoder, in the same
pass; ``reencoded`` reads the encoder's second pass, on the output.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects.unit_effects import clean_runs, held_runs
from vaecausal_jax.inference import Bootstrap, Estimate, bootstrap_mean
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Sites, Trace, measure
from vaecausal_jax.sweeps.grid import SweepFn, sweep
from vaecausal_jax.sweeps.patching import Rows, patch_units


class EffectModularity(NamedTuple):
    """Modularity of effects beside what no structure would give.

    Attributes:
        value: M, with its interval over images; ``value.null`` is M under random signs.
        excess: M minus that null, image by image; null 0.
        noise: 1 - sqrt(2 / (pi n)): M of independent normal changes of n units.
        correlations: Mean |rho| over images, (latents, latents), 1 on the diagonal; NaN for latents
            that change nothing, which are no part of any number.
    """

    value: Estimate
    excess: Estimate
    noise: float
    correlations: np.ndarray


def activation_changes(
    net: BoundModel,
    runs: Runs,
    name: str,
    read: Outcome | str,
    *,
    sweep: SweepFn = sweep,
) -> Array:
    """Signed changes of activations when each unit of a site is redrawn, one at a time.

    Args:
        net: The network with its parameters.
        runs: The runs, and what their units are redrawn from.
        name: The site intervened on, e.g. ``"latent/z"``.
        read: A later site, or a trace to an array, such as ``reencoded(...)``.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh, a block or a reduction.

    Returns:
        (units, images, activations), flattened.

    Raises:
        ValueError: A site to read that the forward reaches before the one intervened on, where no
            change is possible; or values that do not fit.
    """
    (donor, base), x, eps = held_runs(net, runs, name), runs.x, runs.eps
    outcome = _reading(net.sites, read, name) if isinstance(read, str) else read
    measured = functools.partial(measure, outcome)
    natural, y = clean_runs(net, name, x, eps, base, measured)

    def change(patched: Array, row: Rows) -> Array:
        return (patched - row.clean).reshape(-1)

    rows = Rows(x, eps, natural, donor, y)
    return patch_units(net, name, rows, change, outcome=outcome, sweep=sweep)


def reencoded(
    net: BoundModel,
    name: str,
    eps: Array,
    *,
    to_image: Callable[[Array], Array] = jax.nn.sigmoid,
) -> Outcome:
    """The outcome that reads a site in a second pass, on the first one's output.

    Args:
        net: The network with its parameters.
        name: The site to read, usually of the encoder or ``"latent/mean"``.
        eps: Noise of the second pass, for one image, e.g. zeros.
        to_image: The outputs of a pass to an image, such as the sigmoid of logits.
    """

    def outcome(trace: Trace) -> Array:
        return net(to_image(trace.outputs), eps, {}).activations[name]

    return outcome


def effect_modularity(
    key: Array,
    changes: ArrayLike,
    *,
    intervention: str,
    num_flips: int = 8,
    bootstrap: Bootstrap = Bootstrap(),
) -> EffectModularity:
    """M of signed changes, minus M of the same changes with random signs.

    The null keeps the size of every change, hence which units are silent, and takes away only
    whether two latents push the same units the same way.

    Args:
        key: Typed PRNG key.
        changes: (latents, images, activations), as from ``activation_changes``.
        intervention: What was done, in words.
        num_flips: Draws of the null for each image; their mean is used.
        bootstrap: How intervals are made.

    Raises:
        ValueError: Not (latents, images, activations) with at least two of each.
    """
    changes = jnp.asarray(changes, float)
    if changes.ndim != 3 or min(changes.shape) < 2:
        raise ValueError(
            f"changes has shape {changes.shape}, expected (latents, images, activations), at least "
            "two of each: M compares latents, and correlates over activations."
        )
    flip_key, boot_key = jax.random.split(key)
    own, null, correlations = map(np.asarray, _modularity(flip_key, changes, num_flips))
    # Images in which fewer than two latents change anything say nothing.
    kept = np.isfinite(own) & np.isfinite(null)
    if bootstrap.clusters is not None:
        bootstrap = bootstrap._replace(clusters=np.asarray(bootstrap.clusters)[kept])
    if kept.sum() < 2:
        raise ValueError("fewer than two latents change anything, in all images but one or none.")

    def mean(values, null, what):
        return bootstrap_mean(
            boot_key,
            values[kept],
            intervention=f"{intervention}: {what}",
            null=null,
            bootstrap=bootstrap,
        )

    return EffectModularity(
        mean(own, float(null[kept].mean()), "1 - mean |correlation| of signed changes"),
        mean(own - null, 0.0, "the same minus that of randomly signed changes"),
        noise_modularity(changes.shape[2]),
        correlations,
    )


def noise_modularity(num_units: int) -> float:
    """M of independent normal changes of n units, 1 - sqrt(2 / (pi n)): 0.859 at 32.

    The large-n form of E|rho|, within 0.003 from n = 32 on.
    """
    return 1 - math.sqrt(2 / (math.pi * num_units))


def _reading(sites: Sites, name: str, intervened: str) -> Outcome:
    """The outcome that reads a site, if it comes after the one intervened on."""
    sites[name]  # An unknown one is a ValueError.
    order = list(sites)
    if order.index(name) <= order.index(intervened):
        raise ValueError(
            f"site {name!r} is not after {intervened!r}: an intervention there cannot change it in "
            "the same pass. Read a decoder site, or re-encode the output: "
            f"read=reencoded(forward, params, {name!r}, ...)."
        )
    return lambda trace: trace.activations[name]


@functools.partial(jax.jit, static_argnums=2)
def _modularity(key: Array, changes: Array, num_flips: int) -> tuple[Array, Array, Array]:
    """M of each image, its mean under flips, and mean |rho| of latents."""
    num_latents, num_images = changes.shape[:2]
    pairs = np.triu_indices(num_latents, 1)

    def correlations(changes):
        """|rho| of one image, (latents, latents); NaN where a latent changes nothing."""
        centred = changes - changes.mean(1, keepdims=True)
        # A change that is the same everywhere has no direction to correlate, up to rounding.
        scale = jnp.abs(changes).max(1, keepdims=True)
        scaled = centred / jnp.where(scale > 0, scale, 1.0)
        length = jnp.sqrt((scaled**2).sum(1, keepdims=True))
        eps = jnp.finfo(changes.dtype).eps * changes.shape[1]
        unit = jnp.where(length > eps, scaled / jnp.where(length > eps, length, 1.0), jnp.nan)
        return jnp.abs(jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST))

    def score(changes):
        return 1 - jnp.nanmean(correlations(changes)[pairs])

    def one(arguments):
        key, changes = arguments
        signs = jax.random.rademacher(key, (num_flips, *changes.shape), changes.dtype)
        null = jax.vmap(lambda s: score(s * changes))(signs).mean()
        return score(changes), null, correlations(changes)

    by_image = jnp.moveaxis(changes, 1, 0)
    keys = jax.random.split(key, num_images)
    own, null, rho = jax.lax.map(one, (keys, by_image))
    return own, null, jnp.nanmean(rho, axis=0)
