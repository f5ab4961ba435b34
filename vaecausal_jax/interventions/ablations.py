"""Constructors that take a unit's information away: what it is replaced by is the difference."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vaecausal_jax.indices import as_mask, concrete
from vaecausal_jax.interventions.constructors import set_to
from vaecausal_jax.interventions.sites import Site, Sites, summed_in
from vaecausal_jax.interventions.types import Interventions, check_dtype, poison


def ablate_zero(sites: Sites, name: str, **where: Any) -> Interventions:
    """Sets the selected part to zero."""
    return set_to(sites, name, 0, **where)


def ablate_mean(sites: Sites, name: str, bank: Any, **where: Any) -> Interventions:
    """Sets the selected part to its mean over a bank of natural activations.

    Args:
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape), e.g. ``Trace.activations[name]`` of a batch.
        **where: See ``select``.
    """
    bank = _as_numbers(name, bank, sites[name])
    return set_to(sites, name, jnp.mean(bank, axis=0).astype(sites[name].dtype), **where)


def ablate_resample(key: Array, sites: Sites, name: str, bank: Any, **where: Any) -> Interventions:
    """Sets the selected part to that of one sample drawn uniformly from a bank.

    Args:
        key: Typed PRNG key.
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape).
        **where: See ``select``.
    """
    bank = _as_bank(name, bank, sites[name])
    row = jax.random.randint(key, (), 0, bank.shape[0])
    return set_to(sites, name, bank[row], **where)


def ablate_resample_conditional(
    key: Array,
    sites: Sites,
    name: str,
    bank: Any,
    *,
    bank_factors: Any,
    factors: Any,
    free: Any,
    **where: Any,
) -> Interventions:
    """Sets the selected part to that of a sample which shares all factors but the free ones.

    Args:
        key: Typed PRNG key.
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape).
        bank_factors: (samples, factors) integer levels of the bank's images.
        factors: (factors,) levels of the image intervened on.
        free: Position or positions of the factors that may differ, or booleans (factors,).
        **where: See ``select``.

    Raises:
        ValueError: No sample of the bank qualifies (concrete factors). Under ``jit`` that cannot be
            known, and the value is NaN.
    """
    site = sites[name]
    bank, bank_factors = _as_bank(name, bank, site), jnp.asarray(bank_factors)
    factors = jnp.asarray(factors)
    if bank_factors.shape != (bank.shape[0], *factors.shape) or factors.ndim != 1:
        raise ValueError(
            f"at site {name!r}: bank_factors has shape {bank_factors.shape} and factors "
            f"{factors.shape}, expected ({bank.shape[0]}, F) and (F,)."
        )
    may_differ = as_mask(f"at site {name!r}", "free factor", free, len(factors))
    matches = jnp.all((bank_factors == factors[None, :]) | may_differ[None, :], axis=1)
    host = concrete(matches)
    if host is not None and not host.any():
        raise ValueError(
            f"at site {name!r}: none of the {host.size} samples of the bank shares the factors "
            f"{np.asarray(factors).tolist()} outside position(s) {free}."
        )
    row = jax.random.categorical(key, jnp.where(matches, 0.0, -jnp.inf))
    valid = jnp.any(matches) if host is None else None
    return set_to(sites, name, poison(bank[row], valid, "set of factors"), **where)


def ablate_optimal(
    loss_fn: Callable[[Interventions], Array],
    sites: Sites,
    name: str,
    bank: Any,
    *,
    num_steps: int = 200,
    learning_rate: float = 0.05,
    **where: Any,
) -> Interventions:
    """Sets the selected part to the constant that minimises the expected loss after ablation.

    Optimal ablation (Li and Janson 2024, arXiv:2409.09951): the least-loss constant, so that what
    is measured is the loss of information and not the shock of an unnatural value. Found by Adam
    from the mean, on the scale of the bank's standard deviation; where the downstream is linear and
    the loss squared it is the mean.

    Args:
        loss_fn: Interventions to the expected loss over the caller's images (scalar).
        sites: The model's sites.
        name: Site name.
        bank: (samples, *site shape), for the starting point and the scale.
        num_steps: Adam steps.
        learning_rate: In standard deviations of the bank.
        **where: See ``select``.
    """
    dtype = sites[name].dtype
    bank = _as_numbers(name, bank, sites[name])
    mean, spread = jnp.mean(bank, axis=0), jnp.std(bank, axis=0)
    spread = jnp.where(spread > 0, spread, 1.0)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def constant(offset):
        return set_to(sites, name, (mean + offset * spread).astype(dtype), **where)

    def step(carry, _):
        offset, state = carry
        gradient = jax.grad(lambda o: loss_fn(constant(o)))(offset)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(offset, updates), state), None

    start = jnp.zeros_like(mean)
    (offset, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)
    return constant(jnp.asarray(offset))


def _as_numbers(name: str, bank: Any, site: Site) -> Array:
    """A bank in float32 or wider; complex values stay complex.

    Raises:
        ValueError: A site of integers or booleans, which have no mean of their own kind.
    """
    if not jnp.issubdtype(site.dtype, jnp.inexact):
        raise ValueError(
            f"at site {name!r}: {site.dtype} values have no mean among them. Use ablate_resample."
        )
    return _as_bank(name, bank, site).astype(summed_in(site.dtype))


def _as_bank(name: str, bank: Any, site: Site) -> Array:
    bank = jnp.asarray(bank)
    if bank.shape[1:] != site.shape or bank.ndim == 0 or bank.shape[0] == 0:
        raise ValueError(
            f"at site {name!r}: bank has shape {bank.shape}, expected (samples, "
            f"{', '.join(map(str, site.shape))})."
        )
    check_dtype(name, "bank", bank, site.dtype)
    return bank
