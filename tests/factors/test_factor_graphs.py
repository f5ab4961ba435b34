"""Graphs recovered from networks that compute a known causal model; scores by brute force."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.circuits.graph_distance import graph_score, renamed_f1
from vaecausal_jax.data import causal, scenes
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import mediators
from vaecausal_jax.factors.factor_graphs import (
    direct_effects,
    factor_graph,
    scm_pairs,
    swap_effects,
)
from vaecausal_jax.inference import Bootstrap
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites


def computing(model):
    """A network that holds the model's values at one site, and computes them from its noise.

    The input is the noise of each variable; site ``h`` holds each variable's own value before its
    effects are computed, and each of them is read after that.
    """

    def forward(params, x, eps, interventions):
        del params, eps
        tape = Tape(interventions)
        own = tape("own", x)
        values = causal.observe(model, dict(zip(model.names, own, strict=True)))
        return tape.trace(tape("r", jnp.stack([values[name] for name in model.observed])))

    return forward


def noise_pairs(model, num, seed=0):
    """Pairs in which each variable's own noise grows by one."""
    size = len(model.names)
    x0 = jax.random.normal(jax.random.key(seed), (size, num, size))
    x1 = x0 + jnp.eye(size)[:, None]
    return Pairs(x0, x1, jnp.zeros((size, num, 0)), change=jnp.ones((size, num)))


def recovered(model, num=12, **change):
    forward, pairs = computing(model), noise_pairs(model, num)
    sites = list_sites(forward, None, pairs.x0[0, 0], pairs.eps[0, 0])
    size = len(model.names)
    return swap_effects(
        BoundModel(forward, None),
        pairs,
        mediators.group(sites, "own"),
        jnp.eye(size, dtype=bool),
        **change,
    )


LINEAR = {
    "chain": causal.chain(0.8, -1.5),
    "fork": causal.fork(0.8, -1.5),
    "collider": causal.collider(0.8, -1.5),
    "both": causal.linear_scm(
        {"a": {}, "b": {"a": 0.7}, "c": {"a": -0.9, "b": 1.2}, "d": {"c": 0.5}}
    ),
    "empty": causal.linear_scm({"a": {}, "b": {}, "c": {}}),
}


def weights(model):
    """True direct effects, (cause, effect)."""
    index = {name: i for i, name in enumerate(model.names)}
    matrix = np.zeros((len(index), len(index)))
    for name, mechanism in zip(model.names, model.mechanisms, strict=True):
        for parent, weight in mechanism.function.weights:
            matrix[index[parent], index[name]] = weight
    return matrix


@pytest.mark.thorough
@pytest.mark.parametrize("model", LINEAR.values(), ids=LINEAR)
def test_the_graph_of_a_linear_model_is_recovered_from_its_swaps(model):
    total = recovered(model)
    true = weights(model)
    size = len(true)
    np.testing.assert_allclose(total.mean(-1), np.linalg.inv(np.eye(size) - true), atol=1e-5)
    direct = direct_effects(total)
    np.testing.assert_allclose(direct.mean(-1), true, atol=1e-5)
    own = np.moveaxis(np.diagonal(np.asarray(total)), -1, 0)
    graph = factor_graph(
        jax.random.key(0),
        direct,
        own=own,
        names=model.names,
        bootstrap=Bootstrap(num_replicates=100),
    )
    assert set(graph.verdict[~np.eye(size, dtype=bool)]) <= {"edge", "none"}
    np.testing.assert_array_equal(graph.adjacency, causal.adjacency(model))
    np.testing.assert_allclose(graph.effect.value, true, atol=1e-5)
    score = graph_score(graph.adjacency, causal.adjacency(model))
    assert (score.shd, score.f1, score.reversed_edges) == (0, 1.0, 0)


def test_total_effects_join_a_cause_to_all_that_follows_from_it():
    graph = factor_graph(
        jax.random.key(0), recovered(LINEAR["chain"]), bootstrap=Bootstrap(num_replicates=100)
    )
    np.testing.assert_array_equal(graph.adjacency, np.triu(np.ones((3, 3), bool), 1))
    assert graph.names == ("0", "1", "2")
    assert np.isnan(np.diag(graph.p_value)).all()


def test_direct_effects_of_noisy_swaps_are_those_of_their_means_with_the_spread_of_a_bootstrap():
    rng = np.random.default_rng(0)
    means = np.linalg.inv(np.eye(3) - np.triu(rng.normal(size=(3, 3)), 1)) * 2.0
    samples = means[..., None] + 0.1 * rng.normal(size=(3, 3, 400))
    direct = np.asarray(direct_effects(samples))
    averages = samples.mean(-1)
    expected = np.eye(3) - np.linalg.inv(averages / np.diag(averages)[:, None])
    np.testing.assert_allclose(direct.mean(-1), expected, atol=1e-4)
    boot = []
    for _ in range(400):
        # Pairs of different factors are independent: each row has its own resample.
        means = np.stack([samples[k][:, rng.integers(0, 400, 400)].mean(-1) for k in range(3)])
        boot.append(np.eye(3) - np.linalg.inv(means / np.diag(means)[:, None]))
    np.testing.assert_allclose(direct.std(-1) / 20, np.std(boot, axis=0), rtol=0.25, atol=2e-4)


def test_false_edges_between_independent_factors_stay_below_the_rate():
    rng = np.random.default_rng(1)
    false = 0
    for seed in range(40):
        samples = rng.normal(size=(5, 5, 30)) + 3 * np.eye(5)[..., None]
        graph = factor_graph(
            jax.random.key(seed), samples, delta=0.0, bootstrap=Bootstrap(num_replicates=10)
        )
        score = graph_score(graph.adjacency, np.zeros((5, 5)))
        false += score.false_positives > 0
        assert not graph.adjacency.diagonal().any()
    # Where all nulls are true the rate is that of any false edge: 0.05, four standard errors.
    assert false <= 40 * 0.05 + 4 * np.sqrt(40 * 0.05 * 0.95)


def test_an_edge_is_there_or_shown_not_to_be_or_undecided():
    rng = np.random.default_rng(0)
    # Row 0: a clear effect, a clear absence, a noisy zero. Row 1: its own factor hardly moves.
    # Row 2: its own factor moves the wrong way.
    mean = np.array([[2.0, 0.5, 0.0], [3.0, 0.02, 0.0], [3.0, 0.0, -2.0]])
    spread = np.array([[0.1, 0.1, 0.02], [0.1, 0.01, 0.1], [0.1, 0.1, 0.1]])
    samples = mean[..., None] + spread[..., None] * rng.normal(size=(3, 3, 20))
    graph = factor_graph(jax.random.key(0), samples)
    assert graph.verdict.tolist() == [
        ["", "edge", "none"],
        ["no control", "", "no control"],
        ["no control", "no control", ""],
    ]
    assert graph.control.tolist() == [True, False, False]
    assert np.argwhere(graph.adjacency).tolist() == [[0, 1]]
    assert np.isnan(graph.p_value[1:]).all()
    # The same effects seen through more noise are not decided on, and not called absent.
    noisy = mean[..., None] + 3 * rng.normal(size=(3, 3, 20)) * (spread > 0.05)[..., None]
    noisy[0, 0] = samples[0, 0]
    noisy[0, 2] += rng.normal(size=20)
    assert factor_graph(jax.random.key(0), noisy).verdict[0].tolist() == [
        "",
        "undecided",
        "undecided",
    ]


def test_few_pairs_leave_edges_undecided_and_more_decide_them():
    rng = np.random.default_rng(3)
    mean = np.eye(5) * 2 + 0.3 * (np.arange(25).reshape(5, 5) % 3 == 1) * (1 - np.eye(5))
    shares, wrong = [], 0
    for num in (4, 16, 64, 400):
        samples = mean[..., None] + 0.5 * rng.normal(size=(5, 5, num))
        graph = factor_graph(jax.random.key(0), samples, bootstrap=Bootstrap(num_replicates=20))
        shares.append(np.mean(graph.verdict == "undecided"))
        true = (mean > 0.1) & ~np.eye(5, dtype=bool)
        wrong += ((graph.verdict == "edge") & ~true).sum() + (
            (graph.verdict == "none") & true
        ).sum()
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.4
    assert shares[-1] == 0.0
    assert wrong <= 2  # Of 20 entries at 4 sizes, at a rate of 0.05 for each verdict.


@pytest.mark.thorough
def test_pairs_of_a_causal_world_move_a_variable_and_what_it_causes():
    model = scenes.pendulum()

    def values(sample):
        return jnp.stack([sample[name] for name in model.observed])

    pairs = jax.jit(lambda key: scm_pairs(key, model, values, 24, (2,)))(jax.random.key(0))
    assert pairs.eps.shape == (4, 24, 2)
    true = causal.adjacency(model)
    moved = np.abs(pairs.x1 - pairs.x0) > 1e-5
    for k, l in itertools.product(range(4), range(4)):  # noqa: E741
        if k == l:
            assert moved[k, :, l].mean() > 0.8
            assert np.all((pairs.x1 - pairs.x0)[k, :, l] >= 0)
        elif true[k, l]:
            assert moved[k, :, l].any()
        else:
            assert not moved[k, :, l].any()


@pytest.mark.thorough
def test_pairs_of_a_causal_world_are_rendered():
    model = scenes.flow()
    render = functools.partial(scenes.flow_image, image_size=8)
    pairs = jax.jit(lambda key: scm_pairs(key, model, render, 2, ()))(jax.random.key(0))
    assert pairs.x0.shape == (4, 2, 8, 8, 3)
    assert np.all(np.asarray(pairs.change) >= 0)


def brute_distance(a, b):
    """Fewest additions, removals and reversals that turn graph a into b, pair by pair."""
    total = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        state, goal = (a[i][j], a[j][i]), (b[i][j], b[j][i])
        total += state != goal
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_scores_equal_brute_force_on_random_graphs(size):
    rng = np.random.default_rng(size)
    for density in (0.0, 0.3, 0.6):
        a, b = rng.random((2, size, size)) < density
        score = graph_score(a * rng.normal(size=a.shape), b)
        pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
        tp = sum(bool(a[p] and b[p]) for p in pairs)
        fp = sum(bool(a[p] and not b[p]) for p in pairs)
        fn = sum(bool(b[p] and not a[p]) for p in pairs)
        assert score.shd == brute_distance(a.tolist(), b.tolist())
        assert (score.true_positives, score.false_positives, score.false_negatives) == (tp, fp, fn)
        expected = 1.0 if tp + fp + fn == 0 else 2 * tp / (2 * tp + fp + fn)
        np.testing.assert_allclose(score.f1, expected)


def test_a_reversed_edge_is_one_step_but_two_errors():
    score = graph_score([[0, 0], [1, 0]], [[0, 1], [0, 0]])
    assert (score.shd, score.reversed_edges) == (1, 1)
    assert (score.false_positives, score.false_negatives, score.f1) == (1, 1, 0.0)
    both = graph_score([[0, 1], [1, 0]], [[0, 1], [0, 0]])
    assert (both.shd, both.true_positives, both.reversed_edges) == (1, 1, 0)
    empty = graph_score(np.eye(3), np.zeros((3, 3)))
    assert (empty.shd, empty.f1) == (0, 1.0)
    assert np.isnan(empty.precision)
    assert np.isnan(empty.recall)


def test_a_swap_without_effect_on_its_own_factor_has_no_direct_effects():
    assert np.isnan(direct_effects(np.zeros((2, 2, 5)))).all()


def test_f1_against_renamed_truths_is_that_of_guessing():
    # One edge of two nodes: of both renamings one has it.
    assert renamed_f1([[0, 1], [0, 0]], [[0, 0], [1, 0]]) == 0.5
    # One edge of three nodes: of six places it is in one.
    one = np.zeros((3, 3))
    one[0, 1] = 1
    np.testing.assert_allclose(renamed_f1(one, one), 1 / 6)
    # All edges: nothing depends on names.
    full = 1 - np.eye(3)
    np.testing.assert_allclose(renamed_f1(full, one), graph_score(full, one).f1)
    large = np.zeros((8, 8))
    large[0, 1] = 1
    # 1 / 56 of the renamings, by 1,000 draws.
    assert abs(renamed_f1(large, large) - 1 / 56) < 0.015


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graph_score(np.ones((2, 3)), np.ones((2, 2))), r"estimated has shape \(2, 3\)"),
        (lambda: graph_score(np.ones((2, 2)), np.ones((3, 3))), "over 2 and 3 nodes"),
        (lambda: graph_score(np.full((2, 2), np.nan), np.ones((2, 2))), "holds NaN"),
        (lambda: factor_graph(jax.random.key(0), np.ones((2, 3, 4))), "samples have shape"),
        (lambda: factor_graph(jax.random.key(0), np.zeros((2, 2, 4))), "give own=, each swap's"),
        (
            lambda: factor_graph(jax.random.key(0), np.ones((2, 2, 4)), own=np.ones(2)),
            r"own has shape \(2,\), expected \(2, pairs\)",
        ),
        (lambda: factor_graph(jax.random.key(0), np.ones((2, 2, 4)), names=("a",)), "1 names"),
        (lambda: factor_graph(jax.random.key(0), np.ones((2, 2, 4)), q=0), "q must lie"),
        (lambda: factor_graph(jax.random.key(0), np.ones((2, 2, 4)), delta=-1), "negative"),
        (lambda: direct_effects(np.ones((2, 2))), "samples have shape"),
    ],
)
def test_what_is_no_graph_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_factor_needs_a_representation():
    model = LINEAR["chain"]
    forward, pairs = computing(model), noise_pairs(model, 2)
    sites = list_sites(forward, None, pairs.x0[0, 0], pairs.eps[0, 0])
    with pytest.raises(ValueError, match="leading axis of 3 factors"):
        swap_effects(
            BoundModel(forward, None),
            pairs,
            mediators.group(sites, "own"),
            jnp.eye(3, dtype=bool)[:2],
        )
