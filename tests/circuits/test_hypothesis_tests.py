"""Tests on circuits: exact p-values, independent implementations, circuits that are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax.circuits import hypothesis_tests, masks, selectors, stability, tasks
from vaecausal_jax.circuits.tasks import make_task
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

KEY = jax.random.key(0)
WEIGHTS = jnp.array([2.0, -1.0, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.0, 0.0, 0.0])


def forward(params, x, eps, interventions):
    tape = Tape(interventions)
    return tape.trace(tape("a", x) @ WEIGHTS[:, None])


X0, X1 = jax.random.normal(jax.random.key(1), (2, 24, 12))
EPS = jnp.zeros((24, 1))
TASK = make_task(
    BoundModel(forward, None, list_sites(forward, None, X0[0], EPS[0])), Pairs(X0, X1, EPS)
)
REFERENCES = tasks.ablation_references(KEY, TASK)
CORRUPT, MEAN = REFERENCES["corrupt"], REFERENCES["mean"]


def nodes(*units):
    return {"a": np.isin(np.arange(12), units)}


def test_circuit_that_is_all_there_is_is_equivalent_and_half_of_it_is_not():
    whole = hypothesis_tests.equivalence(
        KEY, TASK, nodes(0, 1, 2), CORRUPT, margin=0.1, ablation="corrupt"
    )
    assert whole.p_value < 0.01
    assert whole.smallest_margin < 0.01
    np.testing.assert_allclose(whole.difference.value, 0, atol=0.01)
    part = hypothesis_tests.equivalence(
        KEY, TASK, nodes(1), CORRUPT, margin=0.1, ablation="corrupt"
    )
    assert part.p_value > 0.5
    assert part.share_above < 0.5
    assert part.p_sign < 0.05


@pytest.mark.parametrize("counts", [(3, 9, 0), (5, 2, 4), (0, 0, 7), (6, 6, 1), (0, 8, 0)])
def test_sign_test_is_the_exact_binomial_with_ties_split(counts):
    below, above, ties = counts
    differences = [-1.0] * below + [2.0] * above + [0.0] * ties
    share, p = hypothesis_tests.sign_test(differences)
    num = sum(counts)
    assert share == pytest.approx((above + ties / 2) / num)
    fewer = int(np.ceil(min(above + ties / 2, below + ties / 2)))
    assert p == pytest.approx(min(1.0, 2 * stats.binom.cdf(fewer, num, 0.5)))
    if ties == 0:
        assert p == pytest.approx(stats.binomtest(above, num).pvalue)


def hsic_by_hand(a, b):
    def kernel(v):
        d = np.array([[np.sum((p - q) ** 2) for q in v] for p in v])
        return np.exp(-d / (2 * np.median(d[np.triu_indices(len(v), 1)])))

    h = np.eye(len(a)) - 1 / len(a)
    return np.trace(kernel(a) @ h @ kernel(b) @ h) / len(a) ** 2


def test_hsic_is_its_formula_and_its_permutation_p_value_is_near_the_exact_one():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 2))
    b = np.c_[a[:, 0] ** 2 + 0.3 * rng.normal(size=6)]
    value, p = hypothesis_tests.hsic_test(KEY, a, b, num_permutations=4000)
    assert value == pytest.approx(hsic_by_hand(a, b))
    null = [hsic_by_hand(a, b[list(o)]) for o in itertools.permutations(range(6))]
    assert p == pytest.approx(np.mean(np.array(null) >= value - 1e-12), abs=0.03)


def test_hsic_of_constants_and_of_copies():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(20, 1))
    assert hypothesis_tests.hsic_test(KEY, a, np.full((20, 3), 0.1)) == (0.0, 1.0)
    assert hypothesis_tests.hsic_test(KEY, a, -a, num_permutations=199)[1] == 1 / 200


def test_false_alarms_of_the_independence_test_keep_their_rate():
    rng = np.random.default_rng(2)
    p = [
        hypothesis_tests.hsic_test(
            KEY, rng.normal(size=(12, 1)), rng.normal(size=(12, 1)), num_permutations=99
        )[1]
        for _ in range(100)
    ]
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_without_the_whole_circuit_the_outcome_is_independent_and_without_half_it_is_not():
    left = hypothesis_tests.independence(KEY, TASK, nodes(0, 1, 2, 8), MEAN, num_permutations=199)
    assert left == (0.0, 1.0)
    half = hypothesis_tests.independence(KEY, TASK, nodes(0, 1), MEAN, num_permutations=199)
    assert half.p_value <= 0.05


def test_minimality_finds_the_parts_that_do_nothing_among_those_that_do():
    found = hypothesis_tests.minimality_test(KEY, TASK, nodes(0, 1, 2, 5), CORRUPT)
    assert [label[1] for label in found.labels] == [0, 1, 2, 5]
    assert found.reference.size == 8
    # p of the three that matter is 1 / 9, that of the idle part 1; BH over four.
    np.testing.assert_allclose(found.p_value, [4 / 27, 4 / 27, 4 / 27, 1.0])
    assert found.change[3] == 0


def test_true_circuit_beats_random_ones_of_its_size():
    found = hypothesis_tests.against_random(KEY, TASK, nodes(0, 1, 2), CORRUPT)
    assert found.sufficiency == pytest.approx(1.0, abs=0.01)
    assert found.necessity == pytest.approx(1.0, abs=0.01)
    better = (found.random_sufficiency >= found.sufficiency * (1 - 1e-6)).sum()
    assert found.p_sufficiency == (1 + better) / 100
    assert max(found.p_sufficiency, found.p_necessity) <= 0.05
    idle = hypothesis_tests.against_random(KEY, TASK, nodes(3, 4), CORRUPT)
    assert min(idle.p_sufficiency, idle.p_necessity) > 0.2


def test_stable_parts_are_certified_and_coin_tosses_abstained_from():
    rng = np.random.default_rng(0)
    samples = {"a": rng.normal(size=(6, 40))}
    samples["a"][0] += 5.0
    # Two copies of one effect, differing in noise alone, compete for the second place.
    samples["a"][1:3] = 2.0 + rng.normal(size=(2, 40))
    found = stability.selection_stability(KEY, samples, lambda s: selectors.select_top(s, 2))
    assert found.certified["a"].tolist() == [True, False, False, False, False, False]
    assert found.abstained["a"][1:3].any()
    assert found.rejected["a"][3:].all()
    total = found.certified["a"].astype(int) + found.rejected["a"] + found.abstained["a"]
    assert (total == 1).all()
    np.testing.assert_allclose(found.frequency["a"].sum(), 2)
    assert found.jaccard.min() >= 1 / 3


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_parts_are_certified_where_clopper_and_pearsons_bound_reaches_the_threshold(
    threshold,
):
    # Later parts have larger means, and are selected in more of the resamples.
    rng = np.random.default_rng(0)
    samples = {"a": rng.normal(size=(30, 40)) + np.linspace(-0.5, 0.7, 30)[:, None]}
    found = stability.selection_stability(
        KEY,
        samples,
        lambda s: {k: v > 0 for k, v in s.items()},
        num_resamples=60,
        threshold=threshold,
    )
    num = len(found.jaccard)
    for share, certified, rejected in zip(
        found.frequency["a"], found.certified["a"], found.rejected["a"], strict=True
    ):
        low, high = (
            stats.binomtest(round(s * num), num, alternative="greater").proportion_ci(0.95).low
            for s in (share, 1 - share)
        )
        assert certified == (low >= threshold)
        assert rejected == (high >= threshold)
    assert found.certified["a"].any()
    assert found.rejected["a"].any()
    assert found.abstained["a"].any()


def test_jaccard_counts_common_parts_over_all_sites():
    first = {"a": np.array([1, 1, 0], bool), "b": np.array([1, 0], bool)}
    second = {"a": np.array([1, 0, 0], bool), "b": np.array([1, 1], bool)}
    assert masks.jaccard(first, second) == 2 / 4
    assert masks.jaccard(first, first) == 1
    empty = {"a": np.zeros(3, bool), "b": np.zeros(2, bool)}
    assert np.isnan(masks.jaccard(empty, empty))


def test_agreement_of_seeds_is_seen_once_their_units_are_aligned():
    rng = np.random.default_rng(0)
    base = {"a": np.arange(12) < 4, ("a", "b"): rng.random((12, 5)) < 0.2}
    orders = [{"a": rng.permutation(12), "b": rng.permutation(5)} for _ in range(3)]
    # Unit order[u] of each seed does what unit u of the first does.
    shuffled = []
    for order in orders:
        inverse = {n: np.argsort(o) for n, o in order.items()}
        shuffled.append(stability.align_circuit(base, inverse))
    aligned = [stability.align_circuit(c, o) for c, o in zip(shuffled, orders, strict=True)]
    found = stability.circuit_agreement(KEY, aligned)
    assert found.mean == 1
    assert found.null < 0.5
    assert stability.circuit_agreement(KEY, shuffled).mean < 0.9
    np.testing.assert_array_equal(found.frequency["a"], base["a"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: hypothesis_tests.equivalence(
                KEY, TASK, nodes(0), CORRUPT, margin=0, ablation=""
            ),
            "margin must be positive",
        ),
        (lambda: hypothesis_tests.sign_test([]), "vector without NaN"),
        (
            lambda: hypothesis_tests.hsic_test(KEY, np.zeros((3, 1)), np.zeros((3, 1))),
            "four or more",
        ),
        (
            lambda: hypothesis_tests.minimality_test(KEY, TASK, nodes(*range(12)), CORRUPT),
            "none outside to compare",
        ),
        (lambda: hypothesis_tests.minimality_test(KEY, TASK, nodes(), CORRUPT), "circuit is empty"),
        (lambda: masks.jaccard({"a": [1]}, {"b": [1]}), "other sites or shapes"),
        (lambda: stability.circuit_agreement(KEY, [nodes(1)]), "at least two circuits"),
        (
            lambda: stability.selection_stability(KEY, {"a": np.ones((2, 3))}, dict, threshold=0.1),
            "threshold must lie",
        ),
    ],
)
def test_bad_tests_are_refused_with_reasons(call, message):
    with pytest.raises(ValueError, match=message):
        call()
