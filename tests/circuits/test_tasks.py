"""Tasks, scorers and selectors, against brute force over circuits and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.circuits import attribution, masks, scorers, selectors, tasks
from vaecausal_jax.circuits.tasks import make_task
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects.paths import INPUT, OUTCOME
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

SIZES = {"xa": (3, 4), "ab": (4, 3), "by": (3, 2), "xb": (3, 3), "ay": (4, 2)}
PARAMS = {
    name: jnp.asarray(np.random.default_rng(i).normal(size=size), jnp.float32)
    for i, (name, size) in enumerate(SIZES.items())
}


def network(activation):
    """Two layers with every skip connection; ``x`` has shape (3,), the outcome (2,)."""

    def forward(w, x, eps, interventions):
        tape = Tape(interventions)
        a = tape("a", activation(x @ w["xa"] + eps))
        b = tape("b", activation(a @ w["ab"] + x @ w["xb"]))
        return tape.trace(b @ w["by"] + a @ w["ay"])

    return forward


def some_task(activation=jnp.tanh, num=5, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    x0, x1 = (jax.random.normal(key, (num, 3)) for key in keys[:2])
    eps = 0.1 * jax.random.normal(keys[2], (num, 4))
    forward = network(activation)
    sites = list_sites(forward, PARAMS, x0[0], eps[0])
    return make_task(BoundModel(forward, PARAMS, sites), Pairs(x0, x1, eps))


TASK = some_task()
LINEAR = some_task(lambda h: h)
CORRUPT = tasks.task_values(TASK, TASK.pairs.x0)


def all_but_one(circuit):
    """Every circuit that lacks one part, stacked, in the order of ``flat_scores``."""
    circuit = {key: np.asarray(mask) for key, mask in circuit.items()}
    flat, _ = masks.flat_scores(circuit)
    return masks.unflatten(circuit, ~np.eye(flat.size, dtype=bool))


@pytest.mark.thorough
@pytest.mark.parametrize("level", ["node", "edge"])
def test_noising_is_what_a_run_of_all_but_one_part_loses(level):
    make, samples = getattr(tasks, f"{level}_circuit"), getattr(scorers, f"{level}_samples")
    full = make(TASK)
    arms = samples(TASK)
    for task, found, sign in ((TASK, arms.noising, -1), (TASK.swapped(), arms.denoising, 1)):
        reference = tasks.task_values(task, task.pairs.x0)
        # The metric of the task itself, not of the swapped one.
        task = task._replace(metric=lambda y, y0, y1, s=sign: jnp.sum((y - y0) * (y1 - y0)))
        without = tasks.circuit_metrics(task, all_but_one(full), reference)
        whole = tasks.circuit_metrics(task, masks.stack_circuits([full]), reference)
        # Seen from the other end <y - y1, y0 - y1> = |TE|^2 - <y - y0, y1 - y0>: one sign for both.
        expected = np.asarray(whole - without)
        flat = np.concatenate([np.asarray(v).reshape(-1, 5) for v in found.values()])
        np.testing.assert_allclose(flat, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.thorough
def test_attribution_of_edges_is_the_gradient_in_shares_of_edges():
    full = {k: v.astype(jnp.float32) for k, v in tasks.edge_circuit(TASK).items()}
    y0, y1 = tasks.outcomes(TASK)

    def total(edges):
        def one(x, eps, y0, y1, held):
            return TASK.metric(tasks.run_circuit(TASK, edges, x, eps, held), y0, y1)

        return jnp.mean(jax.vmap(one)(TASK.pairs.x1, TASK.pairs.eps, y0, y1, CORRUPT))

    gradient = jax.jit(jax.grad(total))(full)
    found = attribution.edge_attribution(TASK)
    assert list(found) == TASK.wires.pairs
    for pair, value in found.items():
        np.testing.assert_allclose(value, gradient[pair], rtol=1e-3, atol=1e-4)


def test_attribution_of_nodes_is_the_gradient_times_the_change():
    found = attribution.node_attribution(TASK)
    y0, y1 = tasks.outcomes(TASK)
    full = {k: v.astype(jnp.float32) for k, v in tasks.node_circuit(TASK).items()}

    def total(share, name, unit):
        shares = {**full, name: full[name].at[unit].set(share)}

        def one(x, eps, y0, y1, held):
            # Only this node is held: the reference of the others is never read at share 1.
            return TASK.metric(tasks.run_circuit(TASK, shares, x, eps, held), y0, y1)

        return jnp.mean(jax.vmap(one)(TASK.pairs.x1, TASK.pairs.eps, y0, y1, CORRUPT))

    for name, values in found.items():
        expected = [
            jax.jit(jax.grad(total), static_argnums=1)(1.0, name, u) for u in range(len(values))
        ]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_all_scorers_agree_where_the_network_is_linear():
    exact = scorers.edge_samples(LINEAR)
    nodes = scorers.node_samples(LINEAR)
    for found in (
        scorers.mean_scores(exact.denoising),
        attribution.edge_attribution(LINEAR),
        attribution.edge_integrated(LINEAR),
    ):
        for pair, value in scorers.mean_scores(exact.noising).items():
            np.testing.assert_allclose(found[pair], value, rtol=1e-3, atol=1e-3)
    for found in (
        scorers.mean_scores(nodes.denoising),
        attribution.node_attribution(LINEAR),
        attribution.node_integrated(LINEAR),
    ):
        for name, value in scorers.mean_scores(nodes.noising).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3)


def test_edge_into_the_outcome_is_weight_times_change_along_the_total_effect():
    found = scorers.edge_samples(LINEAR).noising["b", OUTCOME].mean(-1)
    low, high = (tasks.task_values(LINEAR, x) for x in (LINEAR.pairs.x0, LINEAR.pairs.x1))
    change, total = (np.asarray(high[n] - low[n]) for n in ("b", OUTCOME))
    expected = (change[:, :, None] * np.asarray(PARAMS["by"])[None] * total[:, None]).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_full_circuit_is_the_target_and_the_empty_one_the_reference():
    y0, y1 = tasks.outcomes(TASK)
    for make in (tasks.node_circuit, tasks.edge_circuit):
        for value, expected in ((True, y1), (False, y0)):
            circuit = make(TASK, value)
            run = jax.vmap(functools.partial(tasks.run_circuit, TASK, circuit))
            np.testing.assert_allclose(
                run(TASK.pairs.x1, TASK.pairs.eps, CORRUPT), expected, atol=1e-5
            )


@pytest.mark.slow
def test_convolutional_model_scores_channels_as_units():
    model = models.conv_vae(
        (4, 4, 1),
        latent_size=2,
        encoder_channels=(2,),
        encoder_dense=(),
        decoder_dense=(),
        decoder_channels=(2,),
    )
    params = model.init(jax.random.key(0))
    x0, x1 = jax.random.uniform(jax.random.key(1), (2, 3, 4, 4, 1))
    eps = jax.random.normal(jax.random.key(2), (3, 2))
    inner = ("encoder/conv0", "latent/mean", "latent/logvar", "latent/z", "decoder/dense0")
    task = make_task(model.bind(params), Pairs(x0, x1, eps), nodes=inner)
    arms = scorers.edge_samples(task)
    assert {k: v.shape for k, v in arms.noising.items()} == {
        p: (*task.wires.edge_shape(p), 3) for p in task.wires.pairs
    }
    # Affine after the last ReLU: the edges into the outcome (an image of one channel) are exact.
    eap = attribution.edge_attribution(task)
    last = ("decoder/dense0", OUTCOME)
    np.testing.assert_allclose(eap[last], arms.noising[last].mean(-1), rtol=1e-3, atol=1e-5)
    # Of one unit each, input edges are the whole change: node by node the corrupted unit.
    entry = arms.noising[INPUT, "encoder/conv0"][0]
    nodes = scorers.node_samples(task).noising["encoder/conv0"]
    np.testing.assert_allclose(entry, nodes, rtol=1e-3, atol=1e-5)


SCORES = {"a": np.array([0.5, -2.0, 0.1, 0.0]), "b": np.array([1.0, -0.2, 0.1])}


def test_selectors_compare_absolute_scores_over_all_sites():
    top = selectors.select_top(SCORES, 3)
    assert top["a"].tolist() == [True, True, False, False]
    assert top["b"].tolist() == [True, False, False]
    assert masks.num_parts(selectors.select_top(SCORES, 0)) == 0
    assert masks.num_parts(selectors.select_top(SCORES, 7)) == 7


def test_significant_parts_are_those_of_benjamini_and_hochberg_over_all_sites():
    from scipy import stats

    rng = np.random.default_rng(0)
    samples = {"a": rng.normal(size=(4, 30)), "b": rng.normal(size=(3, 30))}
    samples["a"][:2] += 1.0
    chosen = selectors.select_significant(samples, q=0.1)
    p = np.concatenate([stats.ttest_1samp(s, 0, axis=1).pvalue for s in samples.values()])
    expected = stats.false_discovery_control(p) <= 0.1
    np.testing.assert_array_equal(np.concatenate(list(chosen.values())), expected)
    assert expected[:2].all()
    with pytest.raises(ValueError, match="q must lie between 0 and 1"):
        selectors.select_significant(samples, q=1.5)


def test_greedy_pruning_keeps_what_the_outcome_needs_and_nothing_else():
    def forward(w, x, eps, interventions):
        tape = Tape(interventions)
        a = tape("a", x)
        return tape.trace(3.0 * a[0] + 0.01 * a[1] + 0.0 * a[2])

    x0, x1, eps = jnp.zeros((4, 3)), jnp.ones((4, 3)), jnp.zeros((4, 1))
    task = make_task(
        BoundModel(forward, None, list_sites(forward, None, x0[0], eps[0])), Pairs(x0, x1, eps)
    )
    reference = tasks.task_values(task, x0)
    for circuit, key in (
        (tasks.node_circuit(task), "a"),
        (tasks.edge_circuit(task), ("a", OUTCOME)),
    ):
        found = selectors.select_greedily(task, circuit, reference, tolerance=1e-3)
        assert found[key].ravel().tolist() == [True, False, False]
        # Under tolerance 0 whatever has any effect is kept, and nothing without one is missed.
        strict = selectors.select_greedily(task, circuit, reference, tolerance=1e-7)
        assert strict[key].ravel().tolist() == [True, True, False]


def test_greedy_pruning_is_a_plain_loop_over_parts():
    reference = CORRUPT
    found = selectors.select_greedily(TASK, tasks.node_circuit(TASK), reference, tolerance=0.02)
    y0, y1 = tasks.outcomes(TASK)
    scale = float(jnp.mean(jnp.sum((y1 - y0) ** 2, axis=1)))
    circuit = {k: np.array(v) for k, v in tasks.node_circuit(TASK).items()}
    run = jax.jit(
        lambda c: jax.vmap(lambda x, e, h: tasks.run_circuit(TASK, c, x, e, h))(
            TASK.pairs.x1, TASK.pairs.eps, reference
        )
    )

    def distance():
        return float(jnp.mean(jnp.sum((run(circuit) - y1) ** 2, axis=1))) / scale

    before = distance()
    for name in ("b", "a"):
        for unit in reversed(range(len(circuit[name]))):
            circuit[name][unit] = False
            after = distance()
            if after - before < 0.02:
                before = after
            else:
                circuit[name][unit] = True
    for name, mask in circuit.items():
        np.testing.assert_array_equal(found[name], mask)


@pytest.mark.thorough
def test_planted_additive_circuit_is_ranked_perfectly_by_exact_scores_and_not_by_chance():
    # T28.
    metrics = pytest.importorskip("sklearn.metrics")
    weights = jnp.where(jnp.arange(40) % 4 == 0, 1.0 + jnp.arange(40) / 40, 0.0)

    def forward(w, x, eps, interventions):
        tape = Tape(interventions)
        return tape.trace(jnp.sum(tape("a", x) * weights))

    x0, x1 = jax.random.normal(jax.random.key(5), (2, 8, 40))
    eps = jnp.zeros((8, 1))
    task = make_task(
        BoundModel(forward, None, list_sites(forward, None, x0[0], eps[0])), Pairs(x0, x1, eps)
    )
    truth = np.asarray(weights) > 0
    for found in (scorers.node_effects(task)["a"], scorers.edge_effects(task)["a", OUTCOME][:, 0]):
        assert metrics.roc_auc_score(truth, np.abs(found)) == 1
        assert metrics.average_precision_score(truth, np.abs(found)) == pytest.approx(1)
    rng = np.random.default_rng(0)
    chance = [rng.random(40) for _ in range(400)]
    auroc = np.mean([metrics.roc_auc_score(truth, c) for c in chance])
    assert abs(auroc - 0.5) < 4 * 0.11 / 20
    # The baseline of average precision is the prevalence: what constant scores have.
    assert metrics.average_precision_score(truth, np.ones(40)) == pytest.approx(truth.mean())


def test_ablation_references_are_what_their_names_say():
    references = tasks.ablation_references(jax.random.key(0), TASK)
    clean = tasks.task_values(TASK, TASK.pairs.x1)
    assert list(references) == ["corrupt", "resample", "mean", "zero"]
    np.testing.assert_array_equal(references["corrupt"]["a"], CORRUPT["a"])
    np.testing.assert_allclose(references["mean"]["b"][0], np.mean(clean["b"], axis=0), rtol=1e-5)
    assert not np.any(references["zero"][INPUT])
    donors = np.asarray(references["resample"]["a"])
    rows = [np.where((np.asarray(clean["a"]) == row).all(1))[0][0] for row in donors]
    assert sorted(rows) == list(range(5))
    assert all(row != i for i, row in enumerate(rows))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_task(TASK.net, TASK.pairs._replace(x1=TASK.pairs.x1[:2])),
            "one common",
        ),
        (lambda: make_task(TASK.net, TASK.pairs, nodes=["c"]), "unknown site 'c'"),
        (lambda: tasks.check_circuit(TASK, {"c": jnp.ones(3, bool)}), "unknown node 'c'"),
        (
            lambda: tasks.check_circuit(TASK, {"a": jnp.ones(3, bool)}),
            r"shape \(3,\), expected \(4,\)",
        ),
        (
            lambda: tasks.check_circuit(TASK, {("b", "a"): jnp.ones((3, 4), bool)}),
            "'a' does not read 'b'",
        ),
        (lambda: tasks.check_circuit(TASK, {}), "got none"),
        (
            lambda: tasks.check_circuit(
                TASK, {"a": jnp.ones(4, bool), ("a", "b"): jnp.ones((4, 3), bool)}
            ),
            "got both",
        ),
        (lambda: masks.stack_circuits([]), "at least one circuit"),
        (lambda: masks.stack_circuits([{"a": 1}, {"b": 1}]), "cannot be stacked"),
        (lambda: selectors.select_top(SCORES, 8), "between 0 and the 7"),
        (lambda: selectors.select_top({"a": np.array([np.nan])}, 1), r"score of \('a', 0\) is NaN"),
        (
            lambda: selectors.select_greedily(
                TASK, tasks.node_circuit(TASK), CORRUPT, tolerance=-1
            ),
            "tolerance must not be negative",
        ),
        (
            lambda: tasks.ablation_references(jax.random.key(0), TASK.take([0])),
            "at least two pairs",
        ),
    ],
)
def test_bad_circuits_are_refused_with_reasons(call, message):
    with pytest.raises(ValueError, match=message):
        call()
