"""Scores that intervene on latents: latent responses, causal disentanglement, UC, CG, CDM.

They take the model as functions of one code, ``respond(z) -> z`` (decode, then encode the mean) or
``readout(z) -> factors`` (decode, then predict factor values in [0, 1]), and map them over codes
and interventions. Close them over any model, of this library or yours.
"""

from collections.abc import Callable, Sequence

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.metrics.arrays import Score

Function = Callable[[Array], Array]


def latent_responses(respond: Function, codes: Array, donors: Array) -> Array:
    """How re-encoded latents respond to resampling one latent (Leeb et al. 2022, 2106.16091).

    Entry (j, i) is the root mean square over samples of [respond(z with z_j from a donor) -
    respond(z)]_i. For a linear autoencoder with decoder W and encoder E and independent standard
    normal codes and donors it is sqrt(2) abs((E W)_ij).

    Args:
        respond: Code to re-encoded code, (latents,) to (latents,).
        codes: (samples, latents).
        donors: (samples, latents), independent of the codes row by row.

    Returns:
        (intervened latent, responding latent).
    """
    codes, donors = _as_codes("codes", codes), _as_codes("donors", donors)
    if codes.shape != donors.shape:
        raise ValueError(
            f"codes have shape {codes.shape} and donors {donors.shape}, expected the same "
            "(samples, latents)."
        )
    natural = jax.vmap(respond)(codes)

    def at_latent(latent):
        changed = codes.at[:, latent].set(donors[:, latent])
        return jnp.sqrt(jnp.mean((jax.vmap(respond)(changed) - natural) ** 2, axis=0))

    return jax.lax.map(at_latent, jnp.arange(codes.shape[1]))


def conditioned_responses(
    key: Array, respond: Function, traversals: Sequence[Array], *, num_samples: int = 32
) -> Array:
    """Each latent's response to itself along traversals of each factor (Leeb et al. 2022).

    Codes and donors come from different images of the same traversal, so a latent moves as much as
    the factor moves it; entry (j, i) is the diagonal of ``latent_responses`` at latent i, averaged
    over the traversals of factor j.

    Args:
        key: Typed PRNG key.
        respond: Code to re-encoded code, (latents,) to (latents,).
        traversals: For each factor the codes of its traversals, (traversals, steps, latents): in
            each only that factor changes, in two steps or more.
        num_samples: Pairs of images drawn from each traversal.

    Returns:
        (factors, latents).
    """
    rows = []
    for position, (factor_key, codes) in enumerate(
        zip(jax.random.split(key, len(traversals)), traversals, strict=True)
    ):
        if codes.ndim != 3 or codes.shape[1] < 2:
            raise ValueError(
                f"traversals of factor {position} have shape {codes.shape}, expected "
                "(traversals, steps, latents) with at least 2 steps."
            )
        start_key, shift_key = jax.random.split(factor_key)
        shape, steps = (codes.shape[0], num_samples), codes.shape[1]
        start = jax.random.randint(start_key, shape, 0, steps)
        other = (start + jax.random.randint(shift_key, shape, 1, steps)) % steps
        along = jnp.arange(codes.shape[0])[:, None]
        one = jax.vmap(lambda z, donor: jnp.diag(latent_responses(respond, z, donor)))
        rows.append(jnp.mean(one(codes[along, start], codes[along, other]), axis=0))
    return jnp.stack(rows)


def causal_disentanglement_score(responses: Array) -> Score:
    """Share of all responses that are to each latent's main factor (Leeb et al. 2022, 2106.16091).

    The score is sum_i max_j M_ji / sum M: 1 if every latent moves with one factor only, 1/F if
    every latent moves with all alike.

    Args:
        responses: What ``conditioned_responses`` gives, (factors, latents).

    Returns:
        Score whose parts are the latents' shares (NaN for one that never moves) and whose matrix is
        the responses, (latents, factors).

    Raises:
        ValueError: Fewer than two factors; or concrete responses that are negative, not finite, or
            all zero.
    """
    if responses.ndim != 2 or len(responses) < 2:
        raise ValueError(
            f"responses have shape {responses.shape}, expected (factors, latents) with at least 2 "
            "factors: to one factor every share is 1."
        )
    if not isinstance(responses, jax.core.Tracer):
        _check_responses(np.asarray(responses))
    largest, total = jnp.max(responses, axis=0), jnp.sum(responses, axis=0)
    parts = jnp.where(total > 0, largest / jnp.where(total > 0, total, 1.0), jnp.nan)
    return Score(jnp.sum(largest) / jnp.sum(total), parts, responses.T)


def top_latents(association: ArrayLike, num_latents: int = 1) -> np.ndarray:
    """Chooses the latents of each factor: those most associated with it.

    Args:
        association: (latents, factors), such as ``irs(...).matrix``, which the paper of UC uses.
        num_latents: Latents per factor; of equals the first.

    Returns:
        (factors, latents) of booleans.
    """
    matrix = np.asarray(association).T
    if np.isnan(matrix).any():
        factor, latent = np.argwhere(np.isnan(matrix))[0]
        raise ValueError(f"association[{latent}, {factor}] is nan, expected a number.")
    if not 1 <= num_latents <= matrix.shape[1]:
        raise ValueError(f"num_latents is {num_latents}, expected 1 to {matrix.shape[1]}.")
    order = np.argsort(-matrix, axis=1, kind="stable")
    chosen = np.zeros(matrix.shape, bool)
    np.put_along_axis(chosen, order[:, :num_latents], True, axis=1)
    return chosen


def unconfoundedness(chosen: ArrayLike) -> float:
    """UC: whether factors share latents (Reddy et al. 2022, arXiv:2112.05746).

    UC is one minus the mean Jaccard overlap, abs(A and B) / abs(A or B), of the latent sets of all
    pairs of factors; two empty sets do not overlap.

    Args:
        chosen: Which latents each factor has, booleans (factors, latents), such as
            ``top_latents`` gives.
    """
    sets = _as_sets(chosen)
    if sets.ndim != 2 or len(sets) < 2:
        raise ValueError(f"chosen has shape {sets.shape}, expected (two or more factors, latents).")
    first, second = np.triu_indices(len(sets), 1)
    both = (sets[first] & sets[second]).sum(axis=1)
    either = (sets[first] | sets[second]).sum(axis=1)
    return float(1.0 - np.mean(both / np.maximum(either, 1)))


def _as_sets(chosen: ArrayLike) -> np.ndarray:
    sets = np.asarray(chosen)
    if sets.dtype != bool:
        raise ValueError(
            f"chosen is {sets.dtype}{sets.shape}, expected booleans (factors, latents), as from "
            "top_latents."
        )
    return sets


def counterfactual_generativeness(
    readout: Function, codes: Array, baseline: Array, chosen: ArrayLike
) -> Score:
    """CG: whether a factor is changed by its latents and by no others (Reddy et al. 2022).

    CG takes, for each factor, the average causal effect on its readout of setting its latents to a
    baseline, minus that of setting all others, and averages the absolute differences over factors.
    It lies in [0, 1] for readouts in [0, 1] (arXiv:2112.05746). Effects are signed: around a mean
    as baseline those of a linear readout cancel over samples, and CG is 0 for perfect codes. Take
    a baseline at one end, or call it sample by sample with the probability of the sample's own
    level as readout.

    Args:
        readout: Code to factor readouts, (latents,) to (factors,).
        codes: (samples, latents).
        baseline: Reference value of each latent, such as its least, (latents,).
        chosen: Which latents each factor has, booleans (factors, latents).

    Returns:
        Score whose parts are the factors' and whose matrix holds both effects, (factors, 2): of
        the factor's latents and of the others.
    """
    own = jnp.asarray(_as_sets(chosen))
    codes = _as_codes("codes", codes)
    _check_finite("baseline", baseline)
    natural = jax.vmap(readout)(codes)
    _check_shape("chosen", own.shape, (natural.shape[1], codes.shape[1]))
    _check_shape("baseline", np.shape(baseline), (codes.shape[1],))

    def effect(mask, factor):
        held = jnp.where(mask[None, :], jnp.asarray(baseline)[None, :], codes)
        return jnp.mean(natural[:, factor] - jax.vmap(readout)(held)[:, factor])

    factors = jnp.arange(len(own))
    effects = jnp.stack([jax.vmap(effect)(own, factors), jax.vmap(effect)(~own, factors)], axis=1)
    parts = jnp.abs(effects[:, 0] - effects[:, 1])
    return Score(jnp.mean(parts), parts, effects)


def causal_effects(readout: Function, codes: Array, low: Array, high: Array) -> Array:
    """Average causal effect of each latent on each factor readout, between two values.

    ACE(i, c) = E[u_c | do(z_i = high_i)] - E[u_c | do(z_i = low_i)], over the other latents as they
    are in ``codes``.

    Args:
        readout: Code to factor readouts, (latents,) to (factors,).
        codes: (samples, latents).
        low: Lower value of each latent, such as its minimum over the data, (latents,).
        high: Upper value, (latents,).

    Returns:
        (latents, factors).
    """
    codes = _as_codes("codes", codes)
    low, high = jnp.asarray(low), jnp.asarray(high)
    for name, values in (("low", low), ("high", high)):
        _check_shape(name, values.shape, (codes.shape[1],))
        _check_finite(name, values)

    def at_latent(latent):
        def mean_at(value):
            return jnp.mean(jax.vmap(readout)(codes.at[:, latent].set(value)), axis=0)

        return mean_at(high[latent]) - mean_at(low[latent])

    return jax.lax.map(at_latent, jnp.arange(codes.shape[1]))


def causal_disentanglement_metric(effects: Array, descendants: ArrayLike) -> tuple[Array, Array]:
    """CDM: robustness and generativeness of latents against a causal graph (An et al. 2023).

    A latent that stands for a factor should move that factor and its descendants, and nothing else
    (arXiv:2302.11737). Robustness is the mean of 1 - abs(ACE) over pairs of a latent and a
    non-descendant, generativeness the mean of abs(ACE) over pairs of a latent and a descendant.

    Args:
        effects: What ``causal_effects`` gives for readouts in [0, 1], (latents, factors).
        descendants: Which factors each latent should move, its own included, (latents, factors).

    Returns:
        Robustness and generativeness; NaN where there is no such pair.
    """
    inside = jnp.asarray(descendants, bool)
    _check_shape("descendants", inside.shape, effects.shape)
    size = jnp.abs(effects)
    return _mean_where(1.0 - size, ~inside), _mean_where(size, inside)


def _mean_where(values: Array, mask: Array) -> Array:
    number = jnp.sum(mask)
    total = jnp.sum(jnp.where(mask, values, 0.0))
    return jnp.where(number > 0, total / jnp.maximum(number, 1), jnp.nan)


def _check_responses(responses: np.ndarray) -> None:
    wrong = ~np.isfinite(responses) | (responses < 0)
    if wrong.any():
        factor, latent = np.argwhere(wrong)[0]
        raise ValueError(
            f"responses[{factor}, {latent}] is {responses[factor, latent]}, expected a finite "
            "number, at least 0."
        )
    if not responses.any():
        raise ValueError("no latent responds to any factor: there is nothing to take shares of.")


def _as_codes(name: str, codes: ArrayLike) -> Array:
    """(samples, latents) in JAX, of floats of 32 bits or more.

    An integer could not be set to a value between, and squares overflow in half precision.
    """
    if not isinstance(codes, jax.core.Tracer):
        codes = np.asarray(codes)
        codes = codes.astype(codes.dtype.newbyteorder("="), copy=False)
    if np.ndim(codes) != 2 or not np.size(codes):
        raise ValueError(
            f"{name} have shape {np.shape(codes)}, expected (samples, latents), at least one each."
        )
    _check_finite(name, codes)
    array = jnp.asarray(codes)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _check_finite(name: str, values: ArrayLike) -> None:
    """Of concrete values; traced ones cannot be looked at."""
    if isinstance(values, jax.core.Tracer):
        return
    table = np.asarray(values)
    if not np.isfinite(table).all():
        place = np.argwhere(~np.isfinite(table))[0].tolist()
        raise ValueError(f"{name}{place} is {table[tuple(place)]}, expected finite.")


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{name} has shape {shape}, expected {expected}.")
