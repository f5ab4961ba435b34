"""What a study measures: pure functions of (parameters, inputs), one model at a time."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaecausal_jax import effects, mediation, objectives
from vaecausal_jax.data import Dataset, factor_names, images, minimal_pairs, sample_factors
from vaecausal_jax.interventions import set_to
from vaecausal_jax.models import Model
from vaecausal_jax.patching import Rows, patch_units
from vaecausal_jax.sites import Array, Trace, outputs
from vaecausal_jax.study.config import StudyConfig


class Inputs(NamedTuple):
    """What all models of a study are probed with: the same images, noise and donors.

    Attributes:
        x: (images, height, width, channels).
        eps: (images, latents).
        prior: Two independent prior draws, (2, images, latents).
        x0: Reference images, (factors x pairs, ...), all pairs of a factor together.
        x1: The same with one factor changed.
        pair_eps: Their noise, (factors x pairs, latents).
        factors0: Factor levels of x0, (factors x pairs, factors).
        factors1: Factor levels of x1.
        score_x: Images whose codes the disentanglement metrics read, (score images, ...).
        score_factors: Their factor levels.
    """

    x: Array
    eps: Array
    prior: Array
    x0: Array
    x1: Array
    pair_eps: Array
    factors0: Array
    factors1: Array
    score_x: Array
    score_factors: Array


def make_inputs(config: StudyConfig, data: Dataset, model: Model) -> Inputs:
    """Images, noise, prior draws and minimal pairs that all models share."""
    image_key, noise_key, prior_key, pair_key, pair_noise_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), 1), 5
    )
    names = factor_names(data)
    pairs = [
        minimal_pairs(key, data, name, config.num_pairs)
        for key, name in zip(jax.random.split(pair_key, len(names)), names, strict=True)
    ]
    factors0 = jnp.concatenate([pair.source for pair in pairs])
    factors1 = jnp.concatenate([pair.target for pair in pairs])
    render = jax.jit(images)
    noise = (config.num_images, *model.noise_shape)
    score_key = jax.random.fold_in(jax.random.key(config.seed), 5)
    score_factors = sample_factors(score_key, data, config.num_score_images)
    return Inputs(
        x=render(data, sample_factors(image_key, data, config.num_images)),
        eps=jax.random.normal(noise_key, noise),
        prior=jax.random.normal(prior_key, (2, *noise)),
        x0=render(data, factors0),
        x1=render(data, factors1),
        pair_eps=jax.random.normal(pair_noise_key, (factors0.shape[0], *model.noise_shape)),
        factors0=factors0,
        factors1=factors1,
        score_x=render(data, score_factors),
        score_factors=score_factors,
    )


def image_outcome(trace: Trace) -> Array:
    """The expected image under a Bernoulli likelihood."""
    return jax.nn.sigmoid(trace.outputs)


def measurements(config: StudyConfig, model: Model) -> dict[str, Callable[[Any, Inputs], Any]]:
    """Named pure functions (params, inputs) -> arrays for one model; the parts of a study.

    ``health``: per image and latent, what the model makes of the images. ``codes``: posterior means
    for the disentanglement metrics. ``input``: how far each factor's change moves each latent mean.
    ``latent``: resampling and shifting latents.
    ``traversal``: images along each latent. ``site/<site>``: patching the site and each of its
    units between minimal pairs, in both directions.
    """
    to_outcome = jax.nn.sigmoid if config.mediation_outcome == "image" else lambda y: y
    parts: dict[str, Callable[[Any, Inputs], Any]] = {
        "health": functools.partial(_health, model),
        "codes": functools.partial(_codes, model),
        "input": functools.partial(_input_level, model),
        "latent": functools.partial(_latent_level, model, config.doses),
        "traversal": functools.partial(_traversals, model),
    }
    for name in model.sites:
        if name.startswith(("encoder/", "latent/", "decoder/")):
            parts[f"site/{name}"] = functools.partial(
                _site_level, model, name, to_outcome, config.num_unit_images
            )
    return parts


def _batched(model: Model, params: Any, x: Array, eps: Array) -> Trace:
    return jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, eps)


def _health(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    trace = _batched(model, params, inputs.x, inputs.eps)
    mean, logvar = trace.activations["latent/mean"], trace.activations["latent/logvar"]
    likelihood = objectives.bernoulli()
    squared_error = (likelihood.mean(trace.outputs) - inputs.x) ** 2
    return {
        "reconstruction": -likelihood.log_prob(trace.outputs, inputs.x),
        "squared_error": jnp.mean(squared_error, axis=(1, 2, 3)),
        "kl": objectives.kl_per_latent(mean, logvar),
        "mean": mean,
        "variance": jnp.exp(logvar),
        "reconstructed": likelihood.mean(trace.outputs[:8]),
    }


def _codes(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    eps = jnp.zeros(model.noise_shape)

    def mean(x):
        return model.forward(params, x, eps).activations["latent/mean"]

    return {"mean": jax.lax.map(mean, inputs.score_x, batch_size=64)}


def _input_level(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    """Level 1: do(factor = value) on the image; what the latents and the output do."""
    before = _batched(model, params, inputs.x0, inputs.pair_eps)
    after = _batched(model, params, inputs.x1, inputs.pair_eps)
    change = image_outcome(after) - image_outcome(before)
    return {
        "mean_change": after.activations["latent/mean"] - before.activations["latent/mean"],
        "output_change": jnp.mean(change**2, axis=(1, 2, 3)),
        "true_change": jnp.mean((inputs.x1 - inputs.x0) ** 2, axis=(1, 2, 3)),
    }


def _latent_level(model: Model, doses: tuple[float, ...], params: Any, inputs: Inputs):
    """Level 2: resampling each latent, and shifting it by doses of its own spread."""
    z = _batched(model, params, inputs.x, inputs.eps).activations["latent/z"]
    sd = jnp.std(z, axis=0)

    def resample(base, donor):
        return effects.resample_effects(
            model.forward,
            params,
            model.sites,
            "latent/z",
            inputs.x,
            inputs.eps,
            donor,
            base=base,
            outcome=image_outcome,
        )

    def shift(dose):
        return effects.shift_effects(
            model.forward,
            params,
            model.sites,
            "latent/z",
            inputs.x,
            inputs.eps,
            dose * sd,
            outcome=image_outcome,
        )

    prior = resample(inputs.prior[0], inputs.prior[1])
    posterior = resample(None, jnp.roll(z, 1, axis=0))
    shifted = jax.lax.map(lambda dose: shift(dose).squared, jnp.array(doses))
    return {
        "prior_squared": prior.squared,
        "prior_spread": prior.spread,
        "null_squared": resample(None, z).squared,
        "posterior_squared": posterior.squared,
        "posterior_distance": posterior.distance,
        "posterior_spread": posterior.spread,
        "dose_squared": shifted,
        "data_spread": effects.output_spread(inputs.x),
        "latent_sd": sd,
    }


def _traversals(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    """Images as each latent is set from -2 to 2 around the first image's code."""
    x, eps = inputs.x[0], jnp.zeros(model.noise_shape)
    values = jnp.linspace(-2.0, 2.0, 7)

    def at(latent, value):
        return image_outcome(
            model.forward(params, x, eps, set_to(model.sites, "latent/z", value, unit=latent))
        )

    latents = jnp.arange(model.noise_shape[0])
    return {"images": jax.vmap(lambda u: jax.vmap(lambda v: at(u, v))(values))(latents)}


def _site_level(
    model: Model,
    name: str,
    to_outcome: Callable[[Array], Array],
    num_unit_images: int,
    params: Any,
    inputs: Inputs,
) -> dict[str, Array]:
    """Levels 3 and 4: patch the site, and each of its units, between minimal pairs, both ways.

    Units are patched in one sweep for two purposes: within minimal pairs, each image from the
    other, and among unrelated images (the resample index).
    """

    def image(trace: Trace) -> Array:
        return to_outcome(trace.outputs)

    x, eps = inputs.x[:num_unit_images], inputs.eps[:num_unit_images]
    trace = _batched(model, params, x, eps)
    natural, images = trace.activations[name], jax.nn.sigmoid(trace.outputs)
    pairs = mediation.paired_rows(
        model.forward, params, name, inputs.x0, inputs.x1, inputs.pair_eps, outputs
    )
    others = Rows(x, eps, natural, jnp.roll(natural, 1, axis=0), trace.outputs)
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), pairs, others)
    # Each run of a pair is compared with the other; the rest only with themselves.
    num_runs = pairs.x.shape[0]
    partner = jnp.roll(pairs.clean, num_runs // 2, axis=0)
    rows = rows._replace(reference=jnp.concatenate([partner, others.clean]))

    def effect(patched: Array, row: Rows) -> dict[str, Array]:
        clean, other = to_outcome(row.clean), to_outcome(row.reference)
        change = to_outcome(patched) - clean
        pixels = jax.nn.sigmoid(patched) - jax.nn.sigmoid(row.clean)
        return {
            "along": jnp.sum(change * (other - clean)),
            "squared": jnp.sum(change**2),
            "pixels": jnp.sum(pixels**2),
        }

    units = patch_units(model.forward, params, model.sites, name, rows, effect)
    restored, lost = (
        {key: values[:, part] for key, values in units.items()}
        for part in (slice(num_runs // 2), slice(num_runs // 2, num_runs))
    )
    site = mediation.site_mediation(
        model.forward,
        params,
        model.sites,
        name,
        inputs.x0,
        inputs.x1,
        inputs.pair_eps,
        outcome=image,
    )
    total = jnp.broadcast_to(site.total[None], lost["along"].shape)
    return {
        "total": total,
        "total_pure": restored["along"],
        "total_total": lost["along"],
        "total_indirect": lost["squared"],
        "resample_squared": units["pixels"][:, num_runs:],
        **{f"site_{key}": value for key, value in site._asdict().items()},
        "resample_spread": effects.output_spread(images),
    }
