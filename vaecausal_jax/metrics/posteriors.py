"""Posteriors of many images, and what they say of a model without any factor.

Codes for the scores are posterior means; the same pass gives KL, active units and reconstruction.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data.dataset import Dataset
from vaecausal_jax.effects.unit_effects import active_units
from vaecausal_jax.inference import Bootstrap, Estimate, bootstrap_mean
from vaecausal_jax.models import Model
from vaecausal_jax.training.objectives import Likelihood, bernoulli, kl_per_latent

_BLOCK = 64
_BERNOULLI = bernoulli()


class Posteriors(NamedTuple):
    """What a model makes of images.

    Attributes:
        mean: Posterior means, the codes that scores read, (images, latents).
        logvar: Posterior log-variances, (images, latents).
        reconstruction: -log p(x | z = mean) in nats, (images,). Not the bound's, which samples z.
    """

    mean: Array
    logvar: Array
    reconstruction: Array


def encode(
    model: Model,
    params: Any,
    data: Dataset,
    factors: ArrayLike,
    *,
    likelihood: Likelihood | None = None,
) -> Posteriors:
    """Posteriors of one or of many models on the images of a data set at given levels.

    Images are made block by block inside the program, once for all models, and never stored.

    Args:
        model: With Gaussian latents.
        params: Of one model; or stacked, every leaf with a leading axis of models.
        data: Makes the images.
        factors: Their levels, (images, factors).
        likelihood: How outputs are read; Bernoulli if None.

    Returns:
        Arrays as in ``Posteriors``, with a leading axis of models if the parameters have one.

    Raises:
        ValueError: A model without Gaussian latents, or parameters that are not the model's.
    """
    if "latent/mean" not in model.sites:
        raise ValueError(
            "the model has no posterior means to encode to: no site 'latent/mean' among "
            f"{', '.join(model.sites)}."
        )
    stacked = _num_models(model, params)
    models = params if stacked else jax.tree.map(lambda leaf: leaf[None], params)
    found = _encode(model, likelihood or _BERNOULLI, models, data, jnp.asarray(factors))
    return Posteriors(*(a if stacked else a[0] for a in found))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(model, likelihood, models, data, factors) -> Posteriors:
    eps = jnp.zeros(model.noise_shape)

    def of_image(levels):
        image = data.image(levels)

        def of_model(params):
            trace = model.forward(params, image, eps)
            mean, logvar = (trace.activations[f"latent/{name}"] for name in ("mean", "logvar"))
            return Posteriors(mean, logvar, -likelihood.log_prob(trace.outputs, image))

        return jax.lax.map(of_model, models)

    found = jax.lax.map(of_image, factors, batch_size=_BLOCK)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), found)


def _num_models(model: Model, params: Any) -> int:
    """How many models are stacked; 0 for the parameters of one."""
    expected = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    leaves = jax.tree.leaves(params)
    shapes = [leaf.shape for leaf in expected]
    if [leaf.shape for leaf in leaves] == shapes:
        return 0
    num = leaves[0].shape[0] if leaves and leaves[0].ndim else 0
    if num and [leaf.shape for leaf in leaves] == [(num, *shape) for shape in shapes]:
        return num
    raise ValueError("params have other shapes than model.init gives, or gives stacked.")


def posterior_scores(
    key: Array, posteriors: Posteriors, *, threshold: float = 0.01, num_replicates: int = 200
) -> dict[str, Estimate]:
    """KL, reconstruction and active units of one model, with intervals over images.

    ``kl``: KL from the prior, summed over latents, in nats per image (0 where images have no
    effect). ``reconstruction``: nats per image of the decoded mean. ``units``: latents whose mean
    KL exceeds the threshold; ``units_by_variance``: see ``effects.active_units``.

    Args:
        key: Typed PRNG key of the bootstrap.
        posteriors: Of one model.
        threshold: Nats, or variance.
        num_replicates: Bootstrap replicates.
    """
    kl = kl_per_latent(posteriors.mean, posteriors.logvar)
    per_image = jnp.stack([jnp.sum(kl, axis=1), posteriors.reconstruction])
    both = bootstrap_mean(
        key, per_image, intervention="", bootstrap=Bootstrap(num_replicates=num_replicates)
    )
    words = ("KL from the prior, nats", "-log p(x | decoded mean), nats")
    scores = {
        name: both._replace(
            value=both.value[i], low=both.low[i], high=both.high[i], null=null, intervention=text
        )
        for i, (name, text, null) in enumerate(
            zip(("kl", "reconstruction"), words, (0.0, float("nan")), strict=True)
        )
    }
    by_variance = active_units(posteriors.mean, threshold)
    for name, active, text in (
        ("units", jnp.mean(kl, axis=0) > threshold, f"latents with KL above {threshold} nats"),
        ("units_by_variance", by_variance, f"latents whose mean has variance above {threshold}"),
    ):
        count = np.asarray(jnp.sum(active), np.float64)
        scores[name] = both._replace(
            value=count,
            low=np.full((), np.nan),
            high=np.full((), np.nan),
            method="count, no interval",
            intervention=text,
        )
    return scores
