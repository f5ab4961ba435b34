"""Circuits of factors whose units are known, and their drawings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.circuits import by_factor as fc
from vaecausal_jax.circuits import effect_graphs as eg
from vaecausal_jax.circuits.tasks import make_task
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.inference import Bootstrap, Estimate
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("xarray")
from vaecausal_jax.study.report import circuit_figures  # noqa: E402

KEY = jax.random.key(0)
READ = jnp.zeros((2, 6)).at[0, :2].set(1.0).at[1, 2:4].set(-1.0).at[:, 4].set(0.7)
WRITE = jnp.zeros((6, 3)).at[:2, 0].set(1.0).at[2:4, 1].set(2.0).at[4, 2].set(1.0)


def forward(params, x, eps, interventions):
    """Units 0, 1 serve the first factor, 2, 3 the second, 4 both; 5 neither."""
    tape = Tape(interventions)
    a = tape("encoder/a", x @ READ)
    b = tape("decoder/b", a * jnp.arange(1.0, 7.0))
    return tape.trace(b @ WRITE)


X = jax.random.normal(jax.random.key(1), (32, 2))
EPS = jnp.zeros((32, 1))
SITES = list_sites(forward, None, X[0], EPS[0])
STEPS = jax.random.normal(jax.random.key(2), (32,))
PAIRS = {
    name: Pairs(X, X.at[:, i].add(STEPS), EPS, change=STEPS)
    for i, name in enumerate(("first", "second"))
}


@pytest.fixture(scope="module")
def found():
    return fc.factor_circuits(KEY, BoundModel(forward, None, SITES), PAIRS)


@pytest.fixture(scope="module")
def graph():
    donor = jax.random.normal(jax.random.key(4), X.shape)
    return eg.effect_graph(
        KEY,
        make_task(BoundModel(forward, None, SITES), Pairs(donor, X, EPS)),
        factors=PAIRS,
        bootstrap=Bootstrap(num_replicates=20),
    )


@pytest.mark.thorough
def test_circuit_of_a_factor_is_the_units_that_carry_it(found):
    for site in ("encoder/a", "decoder/b"):
        assert found["first"].circuit[site].tolist() == [True, True, False, False, True, False]
        assert found["second"].circuit[site].tolist() == [False, False, True, True, True, False]
    for f in found.values():
        np.testing.assert_allclose(f.faithfulness["corrupt"].value, [1.0], rtol=1e-4)
        # Three of six units in each of two layers.
        assert f.curve.sizes[-1] == 12
        np.testing.assert_allclose(f.curve.faithfulness.value[-1], 1.0, rtol=1e-4)


@pytest.mark.thorough
def test_a_part_in_no_circuit_is_shown_to_be_small_or_undecided():
    noise = 0.02 * jax.random.normal(jax.random.key(5), X.shape)
    first = Pairs(X, PAIRS["first"].x1 + noise * jnp.array([[0.0, 1.0]]), EPS)
    few = {"first": first.take(slice(8))}
    found = [
        fc.factor_circuits(KEY, BoundModel(forward, None, SITES), pairs, min_share=share)["first"]
        for pairs, share in ((PAIRS, 0.01), ({"first": first}, 0.02), (few, 1e-6))
    ]
    silent, decided, undecided = (f.undecided["encoder/a"] for f in found)
    # Units that carry nothing, or a thousandth at most.
    assert not silent.any()
    assert not decided.any()
    # Of four pairs nothing can be said but of unit 5, which does not move.
    assert not found[2].circuit["encoder/a"].any()
    assert undecided.tolist() == [True, True, True, True, True, False]


def test_overlap_of_factor_circuits_is_their_jaccard_by_part(found):
    circuits = {name: f.circuit for name, f in found.items()}
    for part in ("", "encoder/", "decoder/"):
        np.testing.assert_allclose(fc.circuit_overlap(circuits, part=part), [[1, 0.2], [0.2, 1]])
    assert fc.shared_nodes(circuits)["encoder/a"].tolist() == [1, 1, 1, 1, 2, 0]


@pytest.mark.thorough
def test_map_of_factors_counts_shared_units_half_for_each(found, graph):
    mapped = fc.factor_map(KEY, graph, {name: f.circuit for name, f in found.items()})
    size = np.diag(graph.size["encoder/a", "decoder/b"].value)
    shared = size[4] / 4
    table = np.array([[size[:2].sum() + shared, shared], [shared, size[2:4].sum() + shared]])
    np.testing.assert_allclose(mapped.share, table / table.sum(), rtol=1e-5)
    assert mapped.factors == ("first", "second")
    np.testing.assert_allclose(mapped.share.sum(), 1)
    assert mapped.share[0, 1] < mapped.null[0, 1]
    assert mapped.p_value[0, 1] > 0.5


def test_circuit_drawing_holds_the_found_edges_of_the_circuit_only(found, graph):
    figure = circuit_figures.draw_circuit(
        graph, found["first"].circuit, title="t", scores=found["first"].scores, factor="first"
    )
    (lines,) = (
        c
        for c in figure.axes[0].collections
        if isinstance(c, matplotlib.collections.LineCollection)
    )
    # first -> a: 0, 1, 4; a -> b: 0, 1, 4; b -> outcome: 0, 1 to one read-out, 4 to another.
    assert len(lines.get_segments()) == 9
    assert "6 of 12 units; 9 edges" in figure.axes[0].get_title()
    colors = {tuple(np.round(c[:3], 3)) for c in lines.get_colors()}
    assert colors == {tuple(np.round(matplotlib.colors.to_rgb(circuit_figures.POSITIVE), 3))}
    empty = {site: np.zeros(6, bool) for site in found["first"].circuit}
    circuit_figures.draw_circuit(graph, empty, title="nothing").canvas.draw()


def test_tables_without_any_likeness_are_drawn():
    # Two empty circuits have none.
    circuit_figures.draw_overlap({"": np.full((2, 2), np.nan)}, ("a", "b")).canvas.draw()


def test_drawing_stays_a_few_hundred_lines_at_three_hundred_units():
    rng = np.random.default_rng(0)
    labels = {f"layer{i}": tuple(map(str, range(60))) for i in range(5)}
    size, signed, p_value = {}, {}, {}
    for i in range(4):
        value = rng.random((60, 60))
        pair = (f"layer{i}", f"layer{i + 1}")
        size[pair] = Estimate(value, value, value, 0.0, 10, 1, 0.95, "", "")
        signed[pair] = size[pair]._replace(value=value * rng.choice([-1, 1], value.shape))
        p_value[pair] = np.zeros_like(value)
    graph = eg.EffectGraph(labels, size, signed, p_value, {}, {}, 0.0)
    whole = {name: np.ones(60, bool) for name in labels}
    figure = circuit_figures.draw_circuit(graph, whole, title="all")
    assert "300 of 300 units; 400 of 14400 edges" in figure.axes[0].get_title()
    sizes = [len(c.get_offsets()) for c in figure.axes[0].collections[1:]]
    assert sum(sizes) == 300
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fc.factor_circuits(KEY, BoundModel(forward, None, SITES), {}), "holds no factor"),
        (
            lambda: fc.factor_circuits(
                KEY, BoundModel(forward, None, SITES), {"a": PAIRS["first"].take(slice(4))}
            ),
            "has 4 pairs, expected 8",
        ),
        (
            lambda: fc.factor_circuits(
                KEY, BoundModel(forward, None, SITES), {"a": Pairs(X, X, EPS)}
            ),
            "'a' changes nothing",
        ),
        (lambda: fc.circuit_overlap({"a": {"x": np.ones(2)}}, part="enc"), "begins with 'enc'"),
        (lambda: circuit_figures.draw_curves({}), "at least one curve"),
    ],
)
def test_bad_factors_are_refused_with_reasons(call, message):
    with pytest.raises(ValueError, match=message):
        call()
