"""What a study measures: pure functions of (parameters, inputs), one model at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import mediation, mediators, support, unit_effects
from vaecausal_jax.effects.modularity import activation_changes, reencoded
from vaecausal_jax.effects.strengths import bernoulli_nats, strength_samples
from vaecausal_jax.factors import factor_effects, factor_graphs
from vaecausal_jax.interventions import set_to
from vaecausal_jax.models import Model
from vaecausal_jax.study.config import StudyConfig
from vaecausal_jax.study.inputs import (
    NUM_READ,
    Inputs,
    batched,
    image_outcome,
    image_quality,
    output_changes,
)
from vaecausal_jax.study.measure_codes import code_measurements, has_codes
from vaecausal_jax.sweeps.patching import Rows, patch_units
from vaecausal_jax.training import objectives


def measurements(config: StudyConfig, model: Model) -> dict[str, Callable[[Any, Inputs], Any]]:
    """Named pure functions (params, inputs) -> arrays for one model; the parts of a study.

    ``health``: per image and latent, what the model makes of the images. ``codes``: posterior means
    for the disentanglement metrics. ``input``: how far each factor's change moves each latent mean,
    and what swapping a factor's latent does to all factors. ``latent``: resampling and shifting
    latents, and whether the model recognises the results. ``modularity``: what latents change in
    other activations. ``traversal``: images along each latent. ``site/<site>``: patching the site
    and each of its units between minimal pairs, in both directions, on images and on factors.
    Models with codes have what ``code_measurements`` says in place of the first six.
    """
    to_outcome = jax.nn.sigmoid if config.mediation_outcome == "image" else lambda y: y
    num = config.num_unit_images
    parts: dict[str, Callable[[Any, Inputs], Any]] = {
        "health": functools.partial(_health, model),
        "codes": functools.partial(_codes, model),
        "input": functools.partial(_input_level, model),
        "latent": functools.partial(_latent_level, model, config.doses),
        "modularity": functools.partial(_modularity, model, num),
        "traversal": functools.partial(_traversals, model),
    }
    if has_codes(model):
        parts = code_measurements(model, config.doses, to_outcome)
    for name, site in model.sites.items():
        if name.startswith(("encoder/", "latent/", "decoder/")) and site.num_units:
            parts[f"site/{name}"] = functools.partial(_site_level, model, name, to_outcome, num)
    return parts


def _health(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    trace = batched(model, params, inputs.x, inputs.eps)
    mean, logvar = trace.activations["latent/mean"], trace.activations["latent/logvar"]
    return {
        **image_quality(trace, inputs.x),
        "kl": objectives.kl_per_latent(mean, logvar),
        "mean": mean,
        "variance": jnp.exp(logvar),
    }


def _codes(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    eps = jnp.zeros(model.noise_shape)

    def mean(x):
        return model.forward(params, x, eps).activations["latent/mean"]

    def reconstructed(x):
        return image_outcome(model.forward(params, x, eps))

    return {
        "mean": jax.lax.map(mean, inputs.score_x, batch_size=64),
        "reconstructed": jax.lax.map(reconstructed, inputs.score_x[:NUM_READ], batch_size=64),
    }


def _input_level(model: Model, params: Any, inputs: Inputs) -> dict[str, Array]:
    """Level 1: do(factor = value) on the image; what the latents, the output and factors do."""
    pairs = inputs.pairs.flat()
    before = batched(model, params, pairs.x0, pairs.eps)
    after = batched(model, params, pairs.x1, pairs.eps)
    moved = after.activations["latent/mean"] - before.activations["latent/mean"]
    # The latent that stands for a factor: the one that its change moves most, in SD of the prior,
    # in which a latent that carries nothing hardly moves at all.
    by_factor = jnp.abs(moved).reshape(*inputs.pairs.change.shape, -1).mean(1)
    chosen = jnp.argmax(by_factor, axis=1)
    swapped = factor_graphs.swap_effects(
        model.bind(params),
        inputs.swaps,
        mediators.group(model.sites, "latent/z"),
        jax.nn.one_hot(chosen, by_factor.shape[1], dtype=bool),
        outcome=inputs.readout.outcome(jax.nn.sigmoid),
        change=inputs.readout.change,
    )
    return {
        "mean_change": moved,
        **output_changes(before, after, pairs),
        "factor_latent": chosen,
        "swapped": swapped,
    }


def _latent_level(model: Model, doses: tuple[float, ...], params: Any, inputs: Inputs):
    """Level 2: resampling each latent, shifting it by doses of its own spread, and re-encoding."""
    z = batched(model, params, inputs.x, inputs.eps).activations["latent/z"]
    donor = jnp.roll(z, 1, axis=0)

    def strengths(base, donor, **options):
        samples = strength_samples(
            model.bind(params),
            Runs(inputs.x, inputs.eps, {"latent/z": donor}, {"latent/z": base}),
            "latent/z",
            outcome=image_outcome,
            **options,
        )
        return {
            name: value for name, value in samples._asdict().items() if isinstance(value, jax.Array)
        }

    def respond(code):
        x, eps = inputs.x[0], jnp.zeros(model.noise_shape)
        y = image_outcome(model.forward(params, x, eps, set_to(model.sites, "latent/z", code)))
        return model.forward(params, y, eps).activations["latent/mean"]

    prior = strengths(inputs.prior[0], inputs.prior[1], doses=())
    posterior = strengths(
        None,
        donor,
        doses=doses,
        divergence=lambda y, other: bernoulli_nats(y, other),
        readout=inputs.readout,
        change=inputs.readout.change,
    )
    null = unit_effects.resample_effects(
        model.bind(params), Runs(inputs.x, inputs.eps, {"latent/z": z})
    ).values
    gaps = support.reencode_gaps(respond, z, donor)
    return {
        **{f"prior_{name}": value for name, value in prior.items()},
        **{f"posterior_{name}": value for name, value in posterior.items()},
        **{f"gap_{name}": value for name, value in gaps._asdict().items()},
        "null_squared": null.squared,
        "data_spread": unit_effects.output_spread(inputs.x),
    }


def _modularity(model: Model, num: int, params: Any, inputs: Inputs) -> dict[str, Array]:
    """Signed changes of activations as each latent is redrawn: (latents, images, activations).

    In the first layer of the decoder, and in the latent means of a second pass over the output: in
    the same pass a latent cannot change the encoder.
    """
    x, eps = inputs.x[:num], inputs.eps[:num]
    z = batched(model, params, x, eps).activations["latent/z"]

    def changes(read):
        return activation_changes(
            model.bind(params), Runs(x, eps, {"latent/z": jnp.roll(z, 1, axis=0)}), "latent/z", read
        )

    still = jnp.zeros(model.noise_shape)
    return {
        "decoder": changes(first_decoder_site(model)),
        "reencoded": changes(reencoded(model.bind(params), "latent/mean", still)),
    }


def first_decoder_site(model: Model) -> str:
    """Name of the first layer after the latents."""
    return next(name for name in model.sites if name.startswith("decoder/"))


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

    Units are patched in one sweep for three purposes: within minimal pairs, each image from the
    other; among unrelated images (the resample index); and from the same run with the unit raised
    by its SD (what the unit writes). Each effect is kept on the image and on the factors read off
    it.
    """
    site, num = model.sites[name], num_unit_images
    pairs = inputs.pairs.flat()
    x, eps = inputs.x[:num], inputs.eps[:num]
    trace = batched(model, params, x, eps)
    natural = trace.activations[name]
    others = Rows(x, eps, natural, jnp.roll(natural, 1, axis=0), trace.outputs)
    sd = factor_effects.unit_sd(name, site, natural)
    raised = others._replace(donor=natural + site.spread(sd)[None])
    paired = mediation.paired_rows(model.bind(params), pairs, name)
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), paired, others, raised)
    # Each run of a pair is compared with the other; the rest only with themselves.
    num_pairs = pairs.x0.shape[0]
    partner = jnp.roll(paired.clean, num_pairs, axis=0)
    partner = jnp.concatenate([partner, trace.outputs, trace.outputs])
    columns = jax.vmap(lambda y: inputs.readout(jax.nn.sigmoid(y)))(rows.clean)
    # Factors are read off where they are asked for: what is lost, and what is written.
    ends = np.cumsum([num_pairs, num_pairs, num])
    group = np.searchsorted(ends, np.arange(len(columns)), side="right")
    reads = jnp.asarray((group == 1) | (group == 3))
    rows = rows._replace(reference=(partner, columns, reads))

    def effect(patched: Array, row: Rows) -> dict[str, Array]:
        partner, columns, reads = row.reference
        clean = to_outcome(row.clean)
        change, image = to_outcome(patched) - clean, jax.nn.sigmoid(patched)
        return {
            "along": jnp.sum(change * (to_outcome(partner) - clean)),
            "squared": jnp.sum(change**2),
            "pixels": jnp.sum((image - jax.nn.sigmoid(row.clean)) ** 2),
            "factors": jax.lax.cond(
                reads,
                lambda: inputs.readout.change(columns, inputs.readout(image)),
                lambda: jnp.zeros(len(inputs.readout.codes), image.dtype),
            ),
        }

    units = patch_units(model.bind(params), name, rows, effect)
    parts = {key: jnp.split(values, ends, axis=1) for key, values in units.items()}
    restored, lost, redrawn, written = (
        {key: runs[part] for key, runs in parts.items()} for part in range(4)
    )
    total = mediation.site_mediation(
        model.bind(params),
        pairs,
        name,
        outcome=lambda trace: to_outcome(trace.outputs),
    )
    before, after = jnp.split(paired.natural, 2)
    by_factor = inputs.pairs.change.shape
    # What the target run, in which a factor has grown, loses without the unit.
    mediated = -lost["factors"].reshape(site.num_units, *by_factor, -1)
    return {
        "total": jnp.broadcast_to(total.total[None], lost["along"].shape),
        "total_pure": restored["along"],
        "total_total": lost["along"],
        "total_indirect": lost["squared"],
        "resample_squared": redrawn["pixels"],
        "resample_spread": unit_effects.output_spread(jax.nn.sigmoid(trace.outputs)),
        **{f"site_{key}": value for key, value in total._asdict().items()},
        "read": factor_effects.moved(name, site, before, after).reshape(-1, *by_factor),
        "written": jnp.moveaxis(written["factors"], 2, 1),
        "mediated": jnp.moveaxis(mediated, 3, 2),
        "support": support.unit_support_scores(model.sites, name, natural, others.donor),
    }
