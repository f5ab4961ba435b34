"""Games on subsets: gates worked by hand, identities against brute force, and the games of VAEs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import decompositions, mediation
from vaecausal_jax.effects import shapley as games
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

MODEL = models.mlp_vae((4, 4, 1), latent_size=4, encoder_dense=(6,), decoder_dense=(5,))
PAIRS = 3
dividends_of = jax.jit(games.dividends)
shapley_of = jax.jit(games.shapley_values)
spectrum_of = jax.jit(games.interaction_spectrum)


def structural(equations):
    """A forward from a function of (x, tape)."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        return tape.trace(equations(x, tape))

    return forward


def played(forward, x0, x1, name="s", **options):
    """The game of one pair at a site, (subsets,) after the axis of pairs is dropped."""
    x0, x1, eps = jnp.asarray(x0, float), jnp.asarray(x1, float), jnp.zeros(1)
    sites = list_sites(forward, None, x0, eps)
    runs = (x0[None], x1[None], eps[None])
    net = BoundModel(forward, None, sites)
    return games.latent_game(net, Pairs(*runs), name, **options)[:, 0]


def test_subsets_are_the_bits_of_their_number():
    expected = [[0, 0], [1, 0], [0, 1], [1, 1]]
    np.testing.assert_array_equal(games.all_subsets(2), np.array(expected, bool))
    subsets = np.asarray(games.all_subsets(7))
    np.testing.assert_array_equal(subsets @ 2 ** np.arange(7), np.arange(128))


# --- gates --------------------------------------------------------------------------------------


def gate_and(s):
    return jax.nn.relu(s[0] + s[1] - 1)


def gate_or(s):
    return 1 - jax.nn.relu(1 - s[0] - s[1])


def gate_xor(s):
    return s[0] + s[1] - 2 * gate_and(s)


@pytest.mark.parametrize(
    ("gate", "denoise", "noise", "gap", "dividends", "shapley"),
    [
        (gate_and, 0, 1, 1, (0, 0, 1), 0.5),
        (gate_or, 1, 0, -1, (1, 1, -1), 0.5),
        (gate_xor, 1, -1, -2, (1, 1, -2), 0),
    ],
)
def test_gates_have_the_effects_of_the_table(gate, denoise, noise, gap, dividends, shapley):
    # T9, corrupt (0, 0), clean (1, 1); raw outcomes, since the total effect of XOR is zero.
    forward = structural(lambda x, tape: gate(tape("s", x))[None])
    values = played(forward, [0, 0], [1, 1], effect=lambda y, y0, y1: y[0])
    found = dividends_of(values)
    np.testing.assert_array_equal(found, (0, *dividends))
    np.testing.assert_array_equal(games.denoising_effects(found), [denoise] * 2)
    np.testing.assert_array_equal(games.noising_effects(found), [noise] * 2)
    np.testing.assert_array_equal(games.interaction_gap(found), [gap] * 2)
    np.testing.assert_array_equal(shapley_of(found), [shapley] * 2)
    pair = dividends[2]
    np.testing.assert_array_equal(games.pair_interactions(found), [[0, pair], [pair, 0]])
    spectrum = spectrum_of(found)
    total = sum(map(abs, dividends))
    np.testing.assert_allclose(spectrum.absolute, [1 - abs(pair) / total, abs(pair) / total])
    squares = sum(d * d for d in dividends)
    np.testing.assert_allclose(spectrum.squared, [1 - pair**2 / squares, pair**2 / squares])


def test_projection_is_the_share_of_the_total_effect_and_nan_without_one():
    forward = structural(lambda x, tape: tape("s", x))
    values = played(forward, [0, 0], [3, 4])
    np.testing.assert_allclose(values, [0, 9 / 25, 16 / 25, 1], rtol=1e-6)
    inner = played(forward, [0, 0], [3, 4], effect=games.inner_product)
    np.testing.assert_allclose(inner, [0, 9, 16, 25])
    assert np.isnan(played(forward, [1, 2], [1, 2])).all()


# --- identities ---------------------------------------------------------------------------------


def brute_force(values, num_players):
    """Dividends by subsets of subsets, Shapley values by all permutations."""
    players = range(num_players)
    sets = [
        frozenset(c) for n in range(num_players + 1) for c in itertools.combinations(players, n)
    ]

    def value(members):
        return values[sum(2**i for i in members)]

    dividends = np.zeros_like(values)
    for outer in sets:
        inner = [s for s in sets if s <= outer]
        terms = [(-1) ** (len(outer) - len(s)) * value(s) for s in inner]
        dividends[sum(2**i for i in outer)] = sum(terms)
    shapley = np.zeros((num_players, *values.shape[1:]))
    for order in itertools.permutations(players):
        for place, player in enumerate(order):
            shapley[player] += value(order[: place + 1]) - value(order[:place])
    return dividends, shapley / math.factorial(num_players)


@pytest.mark.parametrize("seed", range(3))
def test_random_games_agree_with_brute_force_over_subsets_and_permutations(seed):
    # T10.
    values = np.random.default_rng(seed).normal(size=(16, 2))
    expected, shapley = brute_force(values, 4)
    with jax.enable_x64(True):
        found = dividends_of(jnp.asarray(values))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(games.game_values(found), values, atol=1e-12)
        np.testing.assert_allclose(shapley_of(found), shapley, atol=1e-12)
        efficiency = shapley_of(found).sum(0)
        np.testing.assert_allclose(efficiency, values[-1] - values[0], atol=1e-12)
        bits = 2 ** np.arange(4)
        np.testing.assert_allclose(games.denoising_effects(found), values[bits] - values[0])
        np.testing.assert_allclose(games.noising_effects(found), values[-1] - values[15 - bits])
        by_members = np.asarray(games.all_subsets(4)).T[:, :, None] * expected[None]
        larger = np.asarray(games.all_subsets(4)).sum(1) >= 2
        gap = by_members[:, larger].sum(1)
        np.testing.assert_allclose(games.interaction_gap(found), gap, atol=1e-12)
        pairs = games.pair_interactions(found)
        union = bits[:, None] + bits[None]
        for i, j in itertools.permutations(range(4), 2):
            v = values
            direct = v[union[i, j]] - v[bits[i]] - v[bits[j]] + v[0]
            np.testing.assert_allclose(pairs[i, j], direct, atol=1e-12)


def test_spectrum_adds_to_one_and_an_additive_game_has_order_one_only():
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(32, 3)), float)
    for shares in spectrum_of(dividends_of(values)):
        assert shares.shape == (5, 3)
        np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
    additive = games.all_subsets(5) @ jnp.arange(1.0, 6.0)
    np.testing.assert_array_equal(
        spectrum_of(dividends_of(additive + 7.0)).absolute, [1, 0, 0, 0, 0]
    )
    constant = spectrum_of(dividends_of(jnp.full(8, 2.0)))
    assert np.isnan(constant.absolute).all()


def test_rounding_of_twelve_players_stays_at_the_size_that_is_documented():
    weights = jax.random.normal(jax.random.key(0), (12,))
    spectrum = spectrum_of(dividends_of(games.all_subsets(12) @ weights))
    assert spectrum.absolute[1:].sum() < 4e-3
    assert spectrum.squared[1:].sum() < 1e-6


# --- sampled orders -----------------------------------------------------------------------------


def along_orders(values, orders):
    """A game in full played along sampled orders."""
    subsets = np.asarray(games.subsets_of_orders(orders))
    return jnp.asarray(values[subsets @ 2 ** np.arange(orders.shape[1])], float)


def test_subsets_of_an_order_grow_by_one_player_at_a_time():
    subsets = games.subsets_of_orders(jnp.array([[2, 0, 1]]))
    expected = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(subsets, np.array(expected, bool))


def test_sampled_shapley_values_are_unbiased_with_honest_errors_and_add_up():
    values = np.random.default_rng(0).normal(size=(32,))
    exact = shapley_of(dividends_of(jnp.asarray(values, float)))
    estimates = []
    for seed in range(60):
        orders = games.sample_orders(jax.random.key(seed), 5, 40)
        estimates.append(games.shapley_of_orders(orders, along_orders(values, orders)))
    value, error = map(np.stack, zip(*estimates, strict=True))
    np.testing.assert_allclose(value.sum(1), values[-1] - values[0], rtol=1e-4)
    z = (value - np.asarray(exact)[None]) / error
    assert np.all(np.abs(z.mean(0)) < 4 / math.sqrt(60))
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.3


def test_an_order_and_its_reverse_give_pairwise_games_exactly():
    rng = np.random.default_rng(0)
    dividends = np.where(np.asarray(games.all_subsets(6)).sum(1) <= 2, rng.normal(size=64), 0)
    values = np.asarray(games.game_values(jnp.asarray(dividends, float)))
    orders = games.sample_orders(jax.random.key(0), 6, 4)
    np.testing.assert_array_equal(orders[0], orders[1][::-1])
    sampled = games.shapley_of_orders(orders, along_orders(values, orders))
    exact = shapley_of(jnp.asarray(dividends, float))
    np.testing.assert_allclose(sampled.value, exact, atol=1e-5)
    np.testing.assert_allclose(sampled.standard_error, 0, atol=1e-5)


# --- networks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf * 2, params)
    x0, x1 = jax.random.uniform(jax.random.key(1), (2, PAIRS, *MODEL.image_shape))
    return params, x0, x1, jax.random.normal(jax.random.key(2), (PAIRS, *MODEL.noise_shape))


@jax.jit
def latent_values(params, x0, x1, eps):
    return games.latent_game(MODEL.bind(params), Pairs(x0, x1, eps), "latent/z")


@pytest.mark.thorough
def test_latent_game_equals_a_loop_of_group_patches(runs):
    params, x0, x1, eps = runs
    values = np.asarray(latent_values(*runs))
    assert values.shape == (16, PAIRS)
    forward = jax.jit(MODEL.forward)
    for pair in range(PAIRS):
        reference, target = (forward(params, x[pair], eps[pair], {}) for x in (x0, x1))
        effect = np.ravel(target.outputs - reference.outputs)
        for number, members in enumerate(np.asarray(games.all_subsets(4))):
            donor = target.activations["latent/z"]
            step = vi.patch(MODEL.sites, "latent/z", donor, group=jnp.asarray(members))
            moved = np.ravel(forward(params, x0[pair], eps[pair], step).outputs)
            share = (moved - np.ravel(reference.outputs)) @ effect / (effect @ effect)
            np.testing.assert_allclose(values[number, pair], share, atol=1e-5)


def test_all_latents_together_are_a_cut_and_shapley_values_share_it_out(runs):
    values = latent_values(*runs)
    np.testing.assert_allclose(values[0], 0, atol=1e-6)
    np.testing.assert_allclose(values[-1], 1, rtol=1e-5)
    shapley = shapley_of(dividends_of(values))
    np.testing.assert_allclose(shapley.sum(0), 1, rtol=1e-5)


def test_singles_are_the_denoising_and_noising_effects_of_mediation(runs):
    found = dividends_of(latent_values(*runs))
    grams = jax.jit(
        lambda params, *images: (
            mediation.unit_mediation(MODEL.bind(params), Pairs(*images), "latent/z").values
        )
    )(*runs)
    shares = decompositions.mediation_shares(grams)
    for effects, expected in (
        (games.denoising_effects(found), shares.denoising),
        (games.noising_effects(found), shares.noising),
        (games.interaction_gap(found), shares.interaction),
    ):
        np.testing.assert_allclose(effects, expected / shares.denominator, atol=1e-5)


def test_a_linear_decoder_has_no_interactions(runs):
    matrix = jax.random.normal(jax.random.key(0), (9, 3))
    forward = structural(lambda x, tape: matrix @ tape("s", x))
    spectrum = spectrum_of(dividends_of(played(forward, [1, 2, 3], [0, 4, -1])))
    np.testing.assert_allclose(spectrum.absolute, [1, 0, 0], atol=1e-5)


def test_players_may_be_groups_of_units_and_of_channels(runs):
    groups = jnp.array([[True, False, False, True], [False, True, True, False]])
    params, *images = runs
    grouped = jax.jit(
        lambda params, *images: games.latent_game(
            MODEL.bind(params), Pairs(*images), "latent/z", players=groups
        )
    )(params, *images)
    singles = latent_values(*runs)
    np.testing.assert_allclose(grouped, singles[np.array([0, 9, 6, 15])], atol=1e-6)
    # A site of two positions and three channels, units on the last axis.
    forward = structural(lambda x, tape: tape("s", x.reshape(2, 3)) ** 2)
    channels = jnp.array([[True, False, True], [False, True, False]])
    values = played(
        forward, jnp.zeros(6), jnp.ones(6), players=channels, effect=lambda y, y0, y1: y.sum()
    )
    np.testing.assert_array_equal(values, [0, 4, 2, 6])


def test_a_skip_path_around_the_site_is_not_credited_to_it():
    forward = structural(lambda x, tape: tape("s", x[:2]).sum(keepdims=True) + x[2:])
    values = played(forward, [0, 0, 0], [1, 1, 2])
    np.testing.assert_allclose(values, [0, 0.25, 0.25, 0.5])


FORWARD = structural(lambda x, tape: tape("s", x))
WIDE = jnp.zeros(13)
BAD_CALLS = {
    "too many players": (
        lambda: played(FORWARD, WIDE, WIDE),
        r"13 players have 2\^13 subsets.*sample_orders",
    ),
    "site": (
        lambda: played(FORWARD, WIDE, WIDE, name="latent"),
        "unknown site 'latent'.*Valid choices: s",
    ),
    "groups of other units": (
        lambda: played(FORWARD, WIDE, WIDE, players=jnp.ones((2, 12), bool)),
        r"bool\(2, 12\), expected booleans \(players, units\), of 13 units at 's'",
    ),
    "indices": (
        lambda: played(FORWARD, WIDE, WIDE, players=jnp.arange(3)),
        r"int32\(3,\), expected booleans",
    ),
    "subsets of others": (
        lambda: played(FORWARD, WIDE, WIDE, subsets=games.all_subsets(3)),
        r"bool\(8, 3\), expected booleans \(subsets, 13 players\)",
    ),
    "all subsets": (lambda: games.all_subsets(30), r"30 players, expected 1 \.\. 20"),
    "no game": (lambda: games.dividends(jnp.ones((6, 2))), r"2\^players, got shape \(6, 2\)"),
    "a number": (lambda: games.shapley_values(jnp.ones(())), r"got shape \(\)"),
    "odd orders": (
        lambda: games.sample_orders(jax.random.key(0), 3, 5),
        "even and at least 4, got 5",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_games_that_cannot_be_played_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_positions_of_codes_are_no_players():
    model = models.vq_vae(
        (16, 16, 1), num_codes=4, code_size=2, encoder_channels=(4, 4), decoder_channels=(4, 4)
    )
    image = jnp.zeros((1, *model.image_shape))
    with pytest.raises(ValueError, match="'latent/codes'.*no units to play with"):
        games.latent_game(model.bind(None), Pairs(image, image, jnp.zeros((1, 0))), "latent/codes")
