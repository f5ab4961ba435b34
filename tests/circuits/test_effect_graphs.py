"""The effect graph of networks whose weights are known, and its exports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.circuits import effect_graphs as eg
from vaecausal_jax.circuits.tasks import make_task
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects.paths import INPUT, OUTCOME
from vaecausal_jax.inference import Bootstrap
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

RNG = np.random.default_rng(0)


def exact(values):
    """Eighths: no sum of products here rounds, so nothing depends on the processor's order."""
    return jnp.asarray(jnp.round(8 * values) / 8, jnp.float32)


W = {n: exact(RNG.normal(size=s)) for n, s in {"a": (3, 4), "b": (4, 5), "y": (5, 2)}.items()}
W["b"] = W["b"].at[1, 2].set(0.0)


def linear(w, x, eps, interventions):
    tape = Tape(interventions)
    a = tape("a", x @ w["a"] + eps)
    return tape.trace(tape("b", a @ w["b"]) @ w["y"])


X, DONOR = exact(jax.random.normal(jax.random.key(1), (2, 12, 3)))
EPS = exact(jax.random.normal(jax.random.key(2), (12, 4)))
SITES = list_sites(linear, W, X[0], EPS[0])


@pytest.fixture(scope="module")
def graph():
    pairs = {
        name: Pairs(X, X.at[:, i].add(step), EPS, change=jnp.full(12, step))
        for i, (name, step) in enumerate([("one", 1.0), ("two", -2.0)])
    }
    return eg.effect_graph(
        jax.random.key(0),
        make_task(BoundModel(linear, W, SITES), Pairs(DONOR, X, EPS)),
        readouts=("p", "q"),
        factors=pairs,
        bootstrap=Bootstrap(num_replicates=50),
    )


def values(x):
    a = np.asarray(x, float) @ np.asarray(W["a"], float) + np.asarray(EPS, float)
    b = a @ np.asarray(W["b"], float)
    return {"a": a, "b": b, OUTCOME: b @ np.asarray(W["y"], float)}


@pytest.mark.thorough
@pytest.mark.parametrize("pair", [("a", "b"), ("b", OUTCOME)])
def test_edge_of_a_linear_layer_is_its_weight_times_the_changes_in_sd(graph, pair):
    natural, donor = values(X), values(DONOR)
    step = np.sqrt(((donor[pair[0]] - natural[pair[0]]) ** 2).mean(0))
    sd = np.concatenate([natural[pair[1]], donor[pair[1]]]).std(0, ddof=1)
    weight = np.asarray(W["b" if pair[1] == "b" else "y"])
    expected = weight * step[:, None] / sd[None, :]
    np.testing.assert_allclose(graph.signed[pair].value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(graph.size[pair].value, np.abs(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(graph.spread[pair[1]], sd, rtol=1e-5)
    np.testing.assert_allclose(graph.step[pair[0]], step, rtol=1e-5)


def test_factor_edges_are_signed_by_the_direction_of_the_step(graph):
    natural, donor = values(X), values(DONOR)
    sd = np.concatenate([natural["a"], donor["a"]]).std(0, ddof=1)
    expected = np.asarray(W["a"])[:2] * np.array([[1.0], [2.0]]) / sd
    np.testing.assert_allclose(graph.signed["factors", "a"].value, expected, rtol=1e-4, atol=1e-5)
    assert list(graph.labels) == ["factors", "a", "b", OUTCOME]


def test_missing_weight_is_no_edge_and_never_found(graph):
    assert graph.size["a", "b"].value[1, 2] == 0
    assert graph.p_value["a", "b"][1, 2] == 1
    found = eg.found_edges(graph, q=0.05)["a", "b"]
    assert not found[1, 2]
    assert found.sum() > 10


def test_intervals_hold_their_values(graph):
    for estimates in (graph.size, graph.signed):
        for e in estimates.values():
            assert (e.low <= e.value + 1e-6).all()
            assert (e.value <= e.high + 1e-6).all()
            assert e.num_inputs == 12


def test_dense_export_holds_the_blocks_and_only_those(graph):
    matrix, labels = eg.dense_adjacency(graph, signed=True)
    assert labels[:3] == [("factors", "one"), ("factors", "two"), ("a", "0")]
    assert labels[-1] == (OUTCOME, "q")
    np.testing.assert_array_equal(matrix[2:6, 6:11], graph.signed["a", "b"].value)
    assert np.count_nonzero(matrix) == 2 * 4 + 4 * 5 - 1 + 5 * 2


def test_layer_export_is_the_list_of_adjacent_blocks(graph):
    layers, labels = eg.layer_adjacencies(graph)
    assert [a.shape for a in layers] == [(2, 4), (4, 5), (5, 2)]
    assert labels[0] == [("factors", "one"), ("factors", "two")]
    np.testing.assert_array_equal(layers[1], graph.size["a", "b"].value)


def test_networkx_export_has_the_found_edges_with_their_numbers(graph):
    pytest.importorskip("networkx")
    from vaecausal_jax.circuits.networkx_export import to_networkx

    exported = to_networkx(graph, q=0.05)
    matrix, labels = eg.dense_adjacency(graph, q=0.05)
    assert exported.number_of_edges() == sum(f.sum() for f in eg.found_edges(graph).values())
    for i, j in zip(*np.nonzero(matrix), strict=True):
        assert exported.edges[labels[i], labels[j]]["weight"] == pytest.approx(matrix[i, j])
    assert not to_networkx(graph).has_edge(("a", "1"), ("b", "2"))
    assert exported.nodes["a", "0"] == {"layer": "a", "depth": 1}


@pytest.mark.thorough
def test_latents_read_their_own_means_and_log_variances_only():
    model = models.linear_vae(4, latent_size=2)
    params = model.init(jax.random.key(0))
    x, donor = jax.random.uniform(jax.random.key(1), (2, 3, 1, 4, 1))
    eps = jax.random.normal(jax.random.key(2), (3, 2))
    nodes = ("latent/mean", "latent/logvar", "latent/z")
    graph = eg.effect_graph(
        jax.random.key(0),
        make_task(model.bind(params), Pairs(donor, x, eps), nodes=nodes),
        bootstrap=Bootstrap(num_replicates=10),
    )
    # The log-variances are parameters: nothing reads the input to make them.
    assert ("latent/mean", "latent/z") in graph.size
    assert graph.size["latent/logvar", "latent/z"].value.tolist() == [[0, 0], [0, 0]]
    mean = graph.signed["latent/mean", "latent/z"].value
    assert mean[0, 1] == mean[1, 0] == 0
    # z = mean + noise: weight 1.
    expected = graph.step["latent/mean"] / graph.spread["latent/z"]
    np.testing.assert_allclose(np.diag(mean), expected, rtol=1e-4)


def test_skip_connections_are_refused_as_layers_but_not_as_a_matrix():
    def skipping(w, x, eps, interventions):
        tape = Tape(interventions)
        a = tape("a", x)
        return tape.trace(tape("b", jnp.tanh(a)) + a)

    sites = list_sites(skipping, None, X[0], EPS[0])
    graph = eg.effect_graph(
        jax.random.key(0),
        make_task(BoundModel(skipping, None, sites), Pairs(DONOR, X, EPS)),
        bootstrap=Bootstrap(num_replicates=10),
    )
    assert ("a", OUTCOME) in graph.size
    with pytest.raises(ValueError, match="skip a layer"):
        eg.layer_adjacencies(graph)
    # What y reads directly, with b frozen, is a itself.
    sd = graph.spread[OUTCOME]
    np.testing.assert_allclose(
        graph.size["a", OUTCOME].value, np.diag(graph.step["a"] / sd), rtol=1e-4
    )


def test_constant_units_have_no_effect_and_no_infinite_ones():
    def constant(w, x, eps, interventions):
        tape = Tape(interventions)
        a = tape("a", jnp.stack([x[0], 0 * x[1] + 2.0]))
        # Frozen to each other's run the two terms no longer cancel, though b never varies.
        return tape.trace(tape("b", jnp.stack([a[0], 0 * a[1]])))

    sites = list_sites(constant, None, X[0], EPS[0])
    samples, _, _ = eg.effect_samples(
        make_task(BoundModel(constant, None, sites), Pairs(DONOR, X, EPS))
    )
    size = samples["a", "b"].squared.mean(-1)
    assert size[0, 0] > 0
    assert size[1, 1] == size[0, 1] == size[1, 0] == 0
    assert not np.isnan(samples["a", "b"].signed).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readouts": ("p",)}, "names 1 read-outs, the outcome has 2"),
        ({"factors": {}}, "holds no factor"),
    ],
)
def test_bad_graphs_are_refused_with_reasons(options, message):
    with pytest.raises(ValueError, match=message):
        eg.effect_graph(
            jax.random.key(0),
            make_task(BoundModel(linear, W, SITES), Pairs(DONOR, X, EPS)),
            **options,
        )
    with pytest.raises(ValueError, match="at least two images"):
        eg.effect_graph(
            jax.random.key(0),
            make_task(BoundModel(linear, W, SITES), Pairs(DONOR[:1], X[:1], EPS[:1])),
        )


def test_rates_outside_the_unit_interval_are_refused(graph):
    with pytest.raises(ValueError, match="q must lie between 0 and 1"):
        eg.found_edges(graph, q=0.0)
    assert INPUT not in graph.labels
