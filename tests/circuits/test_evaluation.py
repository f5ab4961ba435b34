"""Faithfulness, completeness and minimality against closed forms and all subsets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.circuits import evaluation as ff
from vaecausal_jax.circuits import learned, masks, minimality, selectors, tasks
from vaecausal_jax.circuits.tasks import make_task
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects.paths import OUTCOME
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

KEY = jax.random.key(0)


def task_of(equation, num_units=5, num=6):
    """One site "a" that holds the input, and an outcome of it; x0 = 0, x1 = 1."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        return tape.trace(equation(tape("a", x)))

    x0, x1 = jnp.zeros((num, num_units)), jnp.ones((num, num_units))
    eps = jnp.zeros((num, 1))
    sites = list_sites(forward, None, x0[0], eps[0])
    task = make_task(BoundModel(forward, None, sites), Pairs(x0, x1, eps))
    return task, tasks.task_values(task, x0)


# Two of five units carry everything, alike.
ADDITIVE, ADDITIVE_REF = task_of(lambda a: a[0] + a[3])
# a0 or a1 suffices; a2 is needed too; a3 and a4 do nothing.
BACKUP, BACKUP_REF = task_of(lambda a: jnp.maximum(a[0], a[1]) * a[2] + 0.0 * a[3])


def node_mask(*units, size=5):
    return {"a": np.isin(np.arange(size), units)}


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_ramp_has_the_areas_of_the_formula(share):
    # T23: f = min(s / k, 1), CPR = 1 - k / 2, CMD = k / 2.
    grid = np.union1d(np.linspace(0, 1, 6), [share])
    cpr, cmd = ff.curve_areas(grid, np.minimum(grid / share, 1))
    np.testing.assert_allclose([cpr, cmd], [1 - share / 2, share / 2], rtol=1e-12)


def test_planted_additive_circuit_has_the_ramp_as_its_curve():
    scores = {"a": np.array([1.0, 0, 0, 0.9, 0])}
    curve = ff.faithfulness_curve(
        KEY, ADDITIVE, scores, ADDITIVE_REF, ablation="zero", sizes=range(6)
    )
    np.testing.assert_allclose(curve.faithfulness.value, [0, 0.5, 1, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose([curve.cpr, curve.cmd], [1 - 0.2, 0.2], atol=1e-6)
    assert curve.smallest == 2
    assert curve.faithfulness.intervention.endswith("zero")


def test_logarithmic_areas_are_means_over_the_logarithm_of_size():
    shares = np.array([0.0, 0.01, 0.1, 1.0])
    cpr, cmd = ff.curve_areas(shares, [0.0, 0.0, 1.0, 1.0], logarithmic=True)
    np.testing.assert_allclose([cpr, cmd], [0.75, 0.25], rtol=1e-12)


def test_area_between_a_curve_and_one_counts_both_sides_where_it_crosses():
    # 1 - f runs from 1 to -1 and stays: two triangles of 1/8, and a rectangle of 1/2.
    cpr, cmd = ff.curve_areas([0.0, 0.5, 1.0], [0.0, 2.0, 2.0])
    np.testing.assert_allclose([cpr, cmd], [1.5, 0.25 + 0.5], rtol=1e-12)
    fine = np.linspace(0, 1, 100001)
    numeric = np.trapezoid(np.abs(1 - np.interp(fine, [0, 0.5, 1], [0, 2, 2])), fine)
    np.testing.assert_allclose(cmd, numeric, rtol=1e-4)


def test_smallest_faithful_size_counts_only_if_larger_ones_are_faithful_too():
    assert ff.smallest_faithful([0, 1, 2, 3], [0, 0.95, 0.5, 1.0]) == 3
    assert ff.smallest_faithful([0, 1, 2, 3], [0, 0.9, 0.95, 1.0]) == 1
    assert np.isnan(ff.smallest_faithful([0, 1], [0.0, 0.5]))


def test_faithfulness_of_full_and_empty_circuits_is_one_and_zero():
    for full in (tasks.node_circuit(BACKUP), tasks.edge_circuit(BACKUP)):
        empty = {k: ~np.asarray(v) for k, v in full.items()}
        found = ff.faithfulness(
            KEY, BACKUP, masks.stack_circuits([full, empty]), BACKUP_REF, ablation="corrupt"
        )
        np.testing.assert_allclose(found.value, [1, 0], atol=1e-6)


def test_completeness_over_all_subsets_finds_the_missing_backup():
    # {0, 2} is faithful; but without 0 the network still has 1.
    circuit = node_mask(0, 2)
    found = minimality.completeness(BACKUP, circuit, BACKUP_REF, masks.all_subsets_of(circuit))
    assert found.largest == pytest.approx(1.0)
    assert found.worst["a"].tolist() == node_mask(0)["a"].tolist()
    whole = node_mask(0, 1, 2)
    assert (
        minimality.completeness(BACKUP, whole, BACKUP_REF, masks.all_subsets_of(whole)).largest
        < 1e-6
    )


def run_by_hand(units):
    a = np.isin(np.arange(5), units).astype(float)
    return max(a[0], a[1]) * a[2]


def test_completeness_is_a_plain_loop_over_subsets():
    circuit = node_mask(0, 2, 3)
    subsets = masks.all_subsets_of(circuit)
    found = minimality.completeness(BACKUP, circuit, BACKUP_REF, subsets)
    expected = []
    for lost in subsets["a"]:
        inside = [u for u in (0, 2, 3) if not lost[u]]
        outside = [u for u in range(5) if not lost[u]]
        expected.append(abs(run_by_hand(inside) - run_by_hand(outside)))
    np.testing.assert_allclose(found.gap, expected, atol=1e-6)
    assert len(expected) == 8


def test_minimality_is_zero_for_parts_that_are_not_needed():
    circuit = node_mask(0, 1, 2, 4)
    found, labels = minimality.minimality(KEY, BACKUP, circuit, BACKUP_REF, ablation="corrupt")
    assert labels == [("a", 0), ("a", 1), ("a", 2), ("a", 4)]
    # 0 and 1 replace each other.
    np.testing.assert_allclose(found.value, [0, 0, 1, 0], atol=1e-6)
    found, _ = minimality.minimality(KEY, BACKUP, node_mask(0, 2), BACKUP_REF, ablation="corrupt")
    np.testing.assert_allclose(found.value, [1, 1], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_smallest_circuit_by_search_beats_or_equals_every_other_subset(seed):
    weights = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 6)), jnp.float32)
    task, reference = task_of(lambda a: jnp.tanh(weights @ a), num_units=6, num=2)
    full = tasks.node_circuit(task)
    found = minimality.smallest_by_search(task, full, reference, threshold=0.9)
    size = masks.num_parts(found)
    y1 = np.tanh(np.asarray(weights).sum(1))

    def faithful(units):
        y = np.tanh(np.asarray(weights)[:, list(units)].sum(1))
        return (y @ y1) / (y1 @ y1) >= 0.9 + 1e-6

    assert faithful(np.flatnonzero(found["a"]))
    for smaller in range(size):
        assert not any(faithful(u) for u in itertools.combinations(range(6), smaller))
    greedy = selectors.select_greedily(task, full, reference, tolerance=0.01)
    assert masks.num_parts(greedy) >= size or not faithful(np.flatnonzero(greedy["a"]))


def test_grid_of_ablations_has_minimum_median_and_maximum():
    references = tasks.ablation_references(KEY, ADDITIVE)
    circuits = masks.stack_circuits([node_mask(0), node_mask(0, 3)])
    found, summary = ff.faithfulness_grid(KEY, ADDITIVE, circuits, references)
    assert list(found) == ["corrupt", "resample", "mean", "zero"]
    np.testing.assert_allclose(found["corrupt"].value, [0.5, 1], atol=1e-6)
    # All target runs are alike: ablating to their mean, or to another's, changes nothing.
    assert np.isnan(found["mean"].value).all()
    assert summary.shape == (3, 2)


def test_random_circuits_keep_the_number_of_parts_of_every_site():
    circuit = {"a": np.array([1, 0, 1, 0], bool), ("a", OUTCOME): np.eye(3, dtype=bool)}
    drawn = masks.random_circuits(KEY, {"a": circuit["a"]}, 50)["a"]
    assert drawn.shape == (50, 4)
    assert (drawn.sum(1) == 2).all()
    assert (drawn.any(0)).all()
    edges = masks.random_circuits(KEY, {("a", OUTCOME): circuit["a", OUTCOME]}, 20)["a", OUTCOME]
    assert (edges.sum((1, 2)) == 3).all()


def test_random_subsets_stay_within_the_circuit_and_vary_in_size():
    drawn = masks.random_subsets_of(KEY, node_mask(0, 2, 3), 200)["a"]
    assert not drawn[:, [1, 4]].any()
    assert set(drawn.sum(1)) == {0, 1, 2, 3}


@pytest.mark.parametrize("level", ["node", "edge"])
def test_learned_gates_open_for_the_parts_that_matter_only(level):
    circuit = getattr(tasks, f"{level}_circuit")(ADDITIVE)
    if level == "edge":
        circuit = {("a", OUTCOME): circuit["a", OUTCOME], ("input", "a"): circuit["input", "a"]}
    scores = learned.learn_masks(
        KEY, ADDITIVE, circuit, ADDITIVE_REF, price=0.05, num_steps=300, batch_size=4
    )
    found = np.asarray(scores["a"] if level == "node" else scores["a", OUTCOME][:, 0])
    assert (found[[0, 3]] > 0.8).all(), found
    assert (found[[1, 2, 4]] < 0.2).all(), found


def test_gates_of_the_hard_concrete_open_as_often_as_their_formula_says():
    logits = {"a": jnp.array([-2.0, 0.0, 1.5])}
    draw = jax.vmap(lambda k: learned._sample_gates(k, logits)["a"])
    gates = draw(jax.random.split(KEY, 20000))
    np.testing.assert_allclose(
        np.mean(gates > 0, axis=0), learned.open_probability(logits["a"]), atol=0.015
    )
    assert gates.min() == 0
    assert gates.max() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ff.curve_areas([0.0, 0.0], [0, 1]), "must ascend"),
        (lambda: ff.curve_areas([0.0, 1.2], [0, 1]), r"within \[0, 1\]"),
        (lambda: masks.all_subsets_of({"a": np.ones(15, bool)}), "2\\^15 subsets"),
        (lambda: masks.without_each({"a": np.zeros(3, bool)}), "circuit is empty"),
        (lambda: ff.faithfulness_grid(KEY, ADDITIVE, {}, {}), "holds no ablation"),
        (
            lambda: minimality.smallest_by_search(BACKUP, node_mask(3, 4), BACKUP_REF),
            "no subset reaches 0.9",
        ),
        (
            lambda: learned.learn_masks(KEY, BACKUP, node_mask(0), BACKUP_REF, price=-1.0),
            "price must not be negative",
        ),
        (
            lambda: learned.learn_masks(KEY, BACKUP, node_mask(), BACKUP_REF, price=1.0),
            "no part may open",
        ),
        (
            lambda: ff.faithfulness_curve(
                KEY, BACKUP, {"a": np.ones(5)}, BACKUP_REF, ablation="", sizes=[3]
            ),
            "at least two sizes",
        ),
    ],
)
def test_bad_evaluations_are_refused_with_reasons(call, message):
    with pytest.raises(ValueError, match=message):
        call()
