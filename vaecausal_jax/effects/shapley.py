"""Games on subsets of components: natural effects, interactions and Shapley values of one object.

v(S) is the outcome on the reference input once the components in S take their values from the
target input, Y(x0; h_S <- h_S(x1)). Its Harsanyi dividends a(S), v(S) = sum of a(T) over T in S,
hold every other quantity:

    denoising effect of i     a({i})                             sufficiency, the rest corrupt
    noising effect of i       sum of a(S) over S containing i    necessity, the rest clean
    noising - denoising       all interactions that i takes part in
    Shapley value of i        sum of a(S) / |S| over S containing i

A set function of K players is an array with a leading axis of 2^K: entry s belongs to the set of
the players whose bits are set in s, player 0 the lowest. Other axes, such as pairs of images, are
carried along.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.data.pairs import Pairs, check_pairs
from vaecausal_jax.indices import as_indices, is_traced
from vaecausal_jax.interventions import set_to
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, measure, outputs
from vaecausal_jax.sweeps.grid import SweepFn, sweep

HIGHEST = jax.lax.Precision.HIGHEST
MAX_PLAYERS = 12
"""Most players whose subsets ``latent_game`` enumerates: 4096 runs per pair."""


class Spectrum(NamedTuple):
    """Shares of a game's dividends by the number of players that interact, (players, ...).

    Row k is order k + 1: the first is what components do alone. NaN where no dividend differs from
    zero.

    Attributes:
        absolute: Shares of sum |a(S)|. Rounding adds up here: in float32 about 4e-3 for 12 players.
        squared: Shares of sum a(S)^2.
    """

    absolute: Array
    squared: Array


class SampledShapley(NamedTuple):
    """Shapley values from random permutations, (players, ...), with their standard errors."""

    value: Array
    standard_error: Array


def all_subsets(num_players: int) -> Array:
    """Every subset as booleans (2^players, players), in the order of set functions."""
    if not 1 <= num_players <= 20:
        raise ValueError(
            f"got {num_players} players, expected 1 .. 20; beyond {MAX_PLAYERS} use "
            "sample_orders and shapley_of_orders."
        )
    return jnp.asarray(_members(num_players), bool)


def projection(y: Array, y0: Array, y1: Array) -> Array:
    """Share of the total effect restored, <y - y0, TE> / |TE|^2 with TE = y1 - y0.

    Linear in y, so that dividends add up. NaN where nothing changes.
    """
    total = jnp.sum((y1 - y0) ** 2)
    return jnp.where(total > 0, inner_product(y, y0, y1) / jnp.where(total > 0, total, 1), jnp.nan)


def inner_product(y: Array, y0: Array, y1: Array) -> Array:
    """<y - y0, TE>: over pairs, estimate its dividends as ratios of sums over |TE|^2."""
    return jnp.sum((y - y0) * (y1 - y0))


def latent_game(
    net: BoundModel,
    pairs: Pairs,
    name: str,
    *,
    players: ArrayLike | None = None,
    subsets: Array | None = None,
    outcome: Outcome = outputs,
    effect: Callable[[Array, Array, Array], Any] = projection,
    sweep: SweepFn = sweep,
) -> Any:
    """Plays v(S) = Y(x0; z_S <- z_S(x1)) for subsets of the units of one site.

    Args:
        net: The network with its parameters.
        pairs: The runs that are compared.
        name: The site, e.g. ``"latent/z"``.
        players: (players, units) booleans, the groups of units that move together; by default each
            unit is a player.
        subsets: (subsets, players) booleans to play; all of them by default.
        outcome: Trace to the array of interest.
        effect: ``effect(y, y0, y1)``, one pair's outcome under a subset and its two plain ones, to
            what is kept of it.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh, a block or a reduction.

    Returns:
        Effects with leading axes (subsets, pairs), or (subsets,) after a reduction.

    Raises:
        ValueError: An unknown site or one without units, groups that do not fit it, or more than
            ``MAX_PLAYERS`` players where subsets are not given.
    """
    check_pairs(pairs)
    site = net.sites[name]
    if site.unit_axis is None:
        raise ValueError(f"site {name!r} {site.shape} has no units to play with.")
    players = jnp.eye(site.num_units, dtype=bool) if players is None else jnp.asarray(players)
    if players.ndim != 2 or players.shape[1] != site.num_units or players.dtype != bool:
        raise ValueError(
            f"players is {players.dtype}{players.shape}, expected booleans (players, units), of "
            f"{site.num_units} units at {name!r}."
        )
    if subsets is None:
        if len(players) > MAX_PLAYERS:
            raise ValueError(
                f"{len(players)} players have 2^{len(players)} subsets; more than 2^{MAX_PLAYERS} "
                "are not enumerated. Group units with players=, or sample with sample_orders."
            )
        subsets = all_subsets(len(players))
    subsets = jnp.asarray(subsets)
    if subsets.shape[1:] != players.shape[:1] or subsets.dtype != bool:
        raise ValueError(
            f"subsets is {subsets.dtype}{subsets.shape}, expected booleans (subsets, "
            f"{len(players)} players)."
        )

    def plain(x, noise):
        trace = net(x, noise, {})
        return trace.activations[name], measure(outcome, trace)

    def run(subset, pair):
        x, noise, natural, donor, y0, y1 = pair
        moved = site.spread(jnp.any(players & subset[:, None], axis=0))
        # Restarts from the site's value: layers before it are dead code.
        whole = set_to(net.sites, name, jnp.where(moved, donor, natural))
        return effect(measure(outcome, net(x, noise, whole)), y0, y1)

    x0, x1, eps = pairs.runs
    natural, y0 = jax.vmap(plain)(x0, eps)
    donor, y1 = jax.vmap(plain)(x1, eps)
    return sweep(run, subsets, (x0, eps, natural, donor, y0, y1))


def dividends(values: Array) -> Array:
    """Harsanyi dividends a(S) = sum over T in S of (-1)^(|S| - |T|) v(T): the Moebius transform.

    One pass of differences per player, K 2^K operations in all (Harsanyi 1963).

    Args:
        values: (2^players, ...).
    """
    return _butterfly(values, -1)


def game_values(dividends: Array) -> Array:
    """The game of given dividends, v(S) = sum over T in S of a(T): inverse of ``dividends``."""
    return _butterfly(dividends, 1)


def denoising_effects(dividends: Array) -> Array:
    """v({i}) - v(empty): what each player restores alone, (players, ...)."""
    return dividends[2 ** np.arange(count_players(dividends))]


def noising_effects(dividends: Array) -> Array:
    """v(all) - v(all but i): what is lost without each player, (players, ...)."""
    return _sum_over_members(dividends)


def interaction_gap(dividends: Array) -> Array:
    """Noising minus denoising effect: all dividends of two or more players that include i.

    Positive for synergy (AND), negative for redundancy and backup (OR); (players, ...).
    """
    return noising_effects(dividends) - denoising_effects(dividends)


def shapley_values(dividends: Array) -> Array:
    """Each player's mean marginal contribution over all orders, (players, ...).

    phi_i = sum over S containing i of a(S) / |S|; they add up to v(all) - v(empty). Shapley (1953).
    """
    sizes = _members(count_players(dividends)).sum(1)
    scale = (1.0 / np.maximum(sizes, 1)).reshape(-1, *[1] * (dividends.ndim - 1))
    return _sum_over_members(dividends * jnp.asarray(scale, dividends.dtype))


def pair_interactions(dividends: Array) -> Array:
    """v({i, j}) - v({i}) - v({j}) + v(empty) = a({i, j}), (players, players, ...), 0 for i = j."""
    bits = 2 ** np.arange(count_players(dividends))
    pairs = dividends[bits[:, None] | bits[None]]
    one_player = np.eye(len(bits), dtype=bool).reshape(pairs.shape[:2] + (1,) * (pairs.ndim - 2))
    return jnp.where(one_player, 0, pairs)


def interaction_spectrum(dividends: Array) -> Spectrum:
    """How much of a game is interaction, order by order; v(empty) is no part of it."""
    num_players = count_players(dividends)
    orders = np.arange(1, num_players + 1)
    of_order = _members(num_players).sum(1)[None] == orders[:, None]

    def shares(amounts):
        by_order = jnp.tensordot(
            jnp.asarray(of_order, amounts.dtype), amounts, axes=1, precision=HIGHEST
        )
        total = by_order.sum(0, keepdims=True)
        return jnp.where(total > 0, by_order / jnp.where(total > 0, total, 1), jnp.nan)

    return Spectrum(shares(jnp.abs(dividends)), shares(dividends**2))


def sample_orders(key: Array, num_players: int, num_orders: int) -> Array:
    """Random permutations of the players in pairs of one and its reverse, (orders, players).

    A player early in one is late in the other, which cancels pairwise interactions from the
    variance (antithetic sampling; Mitchell et al. 2022, arXiv:2104.12199).

    Raises:
        ValueError: Fewer than four orders, or an odd number: two pairs are needed for an error.
    """
    if num_orders < 4 or num_orders % 2:
        raise ValueError(f"num_orders must be even and at least 4, got {num_orders}.")
    keys = jax.random.split(key, num_orders // 2)
    orders = jax.vmap(lambda k: jax.random.permutation(k, num_players))(keys)
    return jnp.stack([orders, orders[:, ::-1]], axis=1).reshape(num_orders, num_players)


def subsets_of_orders(orders: Array) -> Array:
    """The sets met on the way, empty first: booleans (orders * (players + 1), players).

    Raises:
        ValueError: Orders that do not hold every player once.
    """
    _check_orders(orders)
    num_players = orders.shape[1]
    rank = jnp.argsort(orders, axis=1)
    met = rank[:, None, :] < jnp.arange(num_players + 1)[None, :, None]
    return met.reshape(-1, num_players)


def shapley_of_orders(orders: Array, values: Array) -> SampledShapley:
    """Shapley values from the game played along sampled orders, for players too many to enumerate.

    ``values = latent_game(..., subsets=subsets_of_orders(orders))``. Unbiased; contributions of
    every order add up to v(all) - v(empty) exactly.

    Args:
        orders: (orders, players), as from ``sample_orders``.
        values: (orders * (players + 1), ...).

    Raises:
        ValueError: Orders that do not hold every player once, or fewer than two pairs of them;
            values of other sets.
    """
    _check_orders(orders)
    num_orders, num_players = orders.shape
    expected = num_orders * (num_players + 1)
    if num_orders < 4 or num_orders % 2 or values.shape[:1] != (expected,):
        raise ValueError(
            f"{num_orders} orders of {num_players} players and values {values.shape} do not fit: "
            "orders come in pairs, two or more, and values with a leading axis of orders x "
            f"(players + 1), {expected}."
        )
    along = values.reshape(num_orders, num_players + 1, *values.shape[1:])
    rank = jnp.argsort(orders, axis=1).reshape(*orders.shape, *[1] * (values.ndim - 1))
    gains = jnp.take_along_axis(jnp.diff(along, axis=1), rank, axis=1)
    pairs = gains.reshape(num_orders // 2, 2, *gains.shape[1:]).mean(1)
    error = pairs.std(0, ddof=1) / math.sqrt(len(pairs))
    return SampledShapley(pairs.mean(0), error)


def _check_orders(orders: Array) -> None:
    if np.ndim(orders) != 2:
        raise ValueError(f"orders has shape {np.shape(orders)}, expected (orders, players).")
    if not is_traced(orders):
        for row in np.unique(np.sort(orders, axis=1), axis=0):
            as_indices("orders", "player", row, len(row))


def count_players(values: Array) -> int:
    """K of a set function with 2^K entries.

    Raises:
        ValueError: A leading axis that is no power of two above one.
    """
    length = values.shape[0] if values.ndim else 0
    if length < 2 or length & (length - 1):
        raise ValueError(
            f"a set function has a leading axis of 2^players, got shape {values.shape}."
        )
    return length.bit_length() - 1


def _butterfly(values: Array, sign: int) -> Array:
    num_players = count_players(values)
    shape = values.shape
    for player in range(num_players):
        split = values.reshape(-1, 2, 2**player, *shape[1:])
        without, with_player = split[:, 0], split[:, 1]
        values = jnp.stack([without, with_player + sign * without], axis=1)
    return values.reshape(shape)


def _sum_over_members(values: Array) -> Array:
    """Sums over the sets that contain each player, (players, ...)."""
    members = jnp.asarray(_members(count_players(values)).T, values.dtype)
    return jnp.tensordot(members, values, axes=1, precision=HIGHEST)


def _members(num_players: int) -> np.ndarray:
    """Who is in which set: 0 or 1, (2^players, players)."""
    return np.arange(2**num_players)[:, None] >> np.arange(num_players) & 1
