"""Planted networks: their truth in closed form, what survives disguises, and what finders miss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as iv
from vaecausal_jax.circuits import modularity, partitions, planted
from vaecausal_jax.circuits.layers import join_layers
from vaecausal_jax.circuits.planted import closed_forms, disguises, finders, levels, scores
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import mediation
from vaecausal_jax.effects import shapley as games
from vaecausal_jax.effects.specificity import specificity
from vaecausal_jax.inference import bootstrap_mean
from vaecausal_jax.interventions.bound import BoundModel

KEY = jax.random.key(0)
NUM_PAIRS = 600
AMPLITUDES = np.array([2, 1.5, 1, 0.5])


@functools.lru_cache
def network(name):
    return {
        "0": planted.level0,
        "1": lambda: planted.level1(jax.random.key(3)),
        "1 gates": planted.gates,
        "1 saturated": planted.saturated,
        "3": lambda: planted.level3(jax.random.key(1)),
    }[name]()


@functools.lru_cache
def found(name, finder):
    net = network(name)
    pairs = net.sample(KEY, NUM_PAIRS)
    return jax.device_get(planted.FINDERS[finder](net.net, pairs))


def joined(parts, like):
    return np.concatenate([np.ravel(parts[name]) for name in like])


def auroc(name, finder):
    nodes = network(name).truth.nodes
    return scores.auroc(joined(found(name, finder).nodes, nodes), joined(nodes, nodes))


def distractors_called(name, finder):
    truth = network(name).truth
    calls = scores.called(joined(found(name, finder).nodes, truth.nodes))
    return scores.false_positive_rate(calls, joined(truth.distractors, truth.nodes))


# Closed forms


def test_level_0_has_the_published_truth():
    truth = network("0").truth
    share = AMPLITUDES**2 / np.sum(AMPLITUDES**2)
    energies = AMPLITUDES[:, None] ** 2 * (np.eye(4) + 0.15**2 * (1 - np.eye(4)))
    np.testing.assert_allclose(truth.indices, share, rtol=1e-10)
    np.testing.assert_allclose(truth.energies, energies, rtol=1e-10)
    np.testing.assert_allclose(truth.specificity, 0.77982, atol=5e-6)
    assert truth.modularity == pytest.approx(0.41034, abs=5e-6)
    assert truth.factor_graph.sum() == 12
    np.testing.assert_array_equal(truth.capacities, 1)


def test_level_0_decodes_its_encoding_exactly():
    net = network("0")
    pairs = net.sample(KEY, 8)
    run = jax.jit(jax.vmap(net.net.forward, (None, 0, 0)))
    trace = run(net.net.params, pairs.x0, jnp.zeros_like(pairs.eps))
    np.testing.assert_allclose(trace.activations["latent/mean"], pairs.factors0, atol=1e-5)
    np.testing.assert_allclose(trace.outputs, pairs.x0, atol=1e-5)


def test_entropic_specificity_of_a_uniform_leak_has_the_formula_of_its_square():
    leak, num = 0.15, 4
    e = leak**2
    entropy = np.log(1 + (num - 1) * e) - (num - 1) * e * np.log(e) / (1 + (num - 1) * e)
    energies = np.eye(num) * (1 - e) + e
    np.testing.assert_allclose(
        closed_forms.entropic_specificity(energies), 1 - entropy / np.log(num), rtol=1e-12
    )
    np.testing.assert_allclose(specificity(energies).entropic, 1 - entropy / np.log(num), rtol=1e-5)


def test_relu_moments_are_those_of_the_half_normal_and_of_samples():
    one = np.array([[2.0]])
    assert closed_forms.relu_moments(one, one)[0, 0] == pytest.approx(2.0)
    assert closed_forms.relu_moments(one, -one)[0, 0] == pytest.approx(0, abs=1e-12)
    assert closed_forms.relu_variance(one, np.ones((1, 1)))[0] == pytest.approx(
        4 * (0.5 - 0.5 / np.pi)
    )
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 5))
    noise = rng.normal(size=(200_000, 5))
    a, b = (np.maximum(noise @ rows.T, 0) for rows in (first, second))
    sampled = a.T @ b / len(noise)
    np.testing.assert_allclose(closed_forms.relu_moments(first, second), sampled, rtol=0.03)
    write = rng.normal(size=(3, 2))
    change = np.mean((b @ write - a @ write) ** 2, axis=0)
    np.testing.assert_allclose(closed_forms.relu_change(first, second, write), change, rtol=0.03)
    np.testing.assert_array_equal(closed_forms.relu_change(first, first, write), 0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["0", "1", "3"])
def test_true_effects_of_every_site_are_those_of_many_patches(name):
    net = network(name)
    samples = found(name, "patching, both directions").samples
    for site, true in net.truth.effects.items():
        error = samples[site].std(1) / np.sqrt(NUM_PAIRS)
        assert np.all(np.abs(samples[site].mean(1) - true) <= 4.5 * error + 1e-9), site


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["1 gates", "1 saturated"])
def test_true_effects_of_fixed_inputs_are_exact(name):
    samples = found(name, "patching, both directions").samples
    for site, true in network(name).truth.effects.items():
        np.testing.assert_allclose(samples[site].mean(1), true, atol=1e-6)


GATES = {  # denoise each, noise each, gap, dividends (1), (2), (12), Shapley
    "and": (0, 1, 1, (0, 0, 1), 0.5),
    "or": (1, 0, -1, (1, 1, -1), 0.5),
    "xor": (1, -1, -2, (1, 1, -2), 0.0),
}


@pytest.mark.parametrize("kind", GATES)
def test_gates_have_the_effects_dividends_and_shapley_values_of_the_table(kind):
    net = planted.gates((kind,))
    pairs = jax.tree.map(lambda leaf: leaf[0], net.sample(KEY, 1))
    denoise, noise, gap, dividends, shapley = GATES[kind]

    def outcome(trace):
        return net.readout(trace.outputs)[0]

    forward = jax.jit(net.net.forward)
    effects = mediation.natural_effects(
        BoundModel(forward, net.net.params),
        Pairs(pairs.x0, pairs.x1, pairs.eps),
        lambda a: iv.patch(net.net.sites, "latent/z", a["latent/z"], unit=1),
        outcome=outcome,
    )
    np.testing.assert_allclose(effects.natural_indirect_effect, denoise, atol=1e-6)
    np.testing.assert_allclose(effects.total_indirect_effect, noise, atol=1e-6)
    np.testing.assert_allclose(effects.mediated_interaction, gap, atol=1e-6)
    values = [
        outcome(
            forward(
                net.net.params,
                pairs.x0,
                pairs.eps,
                iv.set_to(net.net.sites, "latent/z", 1.0, group=np.array([a, b, False])),
            )
        )
        for b in (False, True)
        for a in (False, True)
    ]
    found = games.dividends(jnp.stack(values) - values[0])
    np.testing.assert_allclose(found[1:], dividends, atol=1e-6)
    np.testing.assert_allclose(games.shapley_values(found), shapley, atol=1e-6)


def test_a_ramp_is_one_apart_and_flat_at_both_ends():
    net = network("1 saturated")
    pairs = net.sample(KEY, 1)

    def read(x):
        return net.readout(net.net(x, pairs.eps[0]).outputs)

    np.testing.assert_allclose(read(pairs.x0[0]), 0, atol=1e-6)
    np.testing.assert_allclose(read(pairs.x1[0]), 1, atol=1e-6)
    for x in (pairs.x0[0], pairs.x1[0]):
        assert not np.any(jax.jacobian(read)(x))


@pytest.mark.parametrize(("num", "dimensions"), [(3, 2), (5, 2), (4, 4), (6, 3)])
def test_superposed_factors_share_their_dimensions(num, dimensions):
    truth = planted.level3(KEY, num_factors=num, num_features=dimensions).truth
    if dimensions == 2:
        np.testing.assert_allclose(truth.capacities, 2 / num, rtol=1e-5)
    # Capacities are at most the dimensions, altogether.
    assert truth.capacities.sum() <= dimensions + 1e-5
    assert truth.factor_graph.any()
    cosine = truth.subspaces["decoder/features"] @ truth.subspaces["decoder/features"].T
    np.testing.assert_allclose(truth.energies, cosine**2, atol=1e-10)


# Disguises


def plain_run(weights, factors):
    units = np.maximum(factors @ weights.latent_map.T @ weights.features @ weights.units, 0)
    return units @ weights.pixels


@pytest.mark.parametrize(
    "disguise",
    [
        disguises.permute_units,
        disguises.rescale_units,
        disguises.rotate_features,
        functools.partial(disguises.add_distractors, num=5),
        functools.partial(disguises.add_dormant, num=5),
        functools.partial(disguises.add_distractor_latents, num=3),
    ],
)
def test_disguises_leave_the_function_and_its_truth_alone(disguise):
    weights = levels.level0_weights()
    hidden = disguise(KEY, weights)
    factors = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_allclose(plain_run(hidden, factors), plain_run(weights, factors), atol=1e-10)
    plain, truth = (planted.gaussian_network("", w).truth for w in (weights, hidden))
    np.testing.assert_allclose(truth.indices[:4], plain.indices, rtol=1e-9)
    np.testing.assert_allclose(truth.indices[4:], 0)
    np.testing.assert_allclose(truth.specificity[:4], plain.specificity, rtol=1e-9)
    assert truth.modularity == pytest.approx(plain.modularity, abs=1e-9)
    for site in plain.nodes:
        assert truth.nodes[site].sum() == plain.nodes[site].sum()
    assert sorted(truth.modules["decoder/units"][truth.nodes["decoder/units"]]) == sorted(
        plain.modules["decoder/units"][plain.nodes["decoder/units"]]
    )


def test_distractors_vary_and_dormant_units_do_not_and_neither_is_a_cause():
    net = network("1")
    run = jax.jit(jax.vmap(net.net.forward, (None, 0, 0)))
    pairs = net.sample(KEY, 64)
    units = run(net.net.params, pairs.x0, pairs.eps).activations["decoder/units"]
    truth = net.truth
    distractor, dormant = (part["decoder/units"] for part in (truth.distractors, truth.dormant))
    assert distractor.sum() == 8
    assert dormant.sum() == 4
    assert np.all(units[:, distractor].std(0) > 0)
    assert not np.any(units[:, dormant])
    assert np.abs(net.net.params["pixels"][dormant]).sum(1).min() > 0
    assert not np.any((distractor | dormant) & truth.nodes["decoder/units"])
    # Raised by force a dormant unit would change the output.
    raised = iv.shift_by(net.net.sites, "decoder/units", 1.0, group=dormant)
    plain, forced = (net.net(pairs.x0[0], pairs.eps[0], i).outputs for i in ({}, raised))
    assert np.abs(forced - plain).max() > 0.1


def test_after_a_rotation_only_the_known_subspace_holds_one_factor():
    weights = disguises.rotate_features(KEY, levels.level0_weights(leak=0.0, sigma=0.0))
    net = planted.gaussian_network("rotated", weights)
    pairs = jax.tree.map(lambda leaf: leaf[0], net.sample(KEY, 1))
    run = functools.partial(jax.jit(net.net.__call__), pairs.x0, pairs.eps)
    site = "decoder/features"
    donor = net.net(pairs.x1, pairs.eps).activations[site]
    directions = jnp.asarray(net.truth.subspaces[site], float)
    plain, target = (net.readout(net.net(x, pairs.eps).outputs) for x in (pairs.x0, pairs.x1))
    for factor in range(4):
        swap = iv.swap_direction(net.net.sites, site, directions[factor], donor)
        swapped = net.readout(run(swap).outputs)
        expected = jnp.where(jnp.arange(4) == factor, target, plain)
        np.testing.assert_allclose(swapped, expected, atol=1e-5)
    one_unit = net.readout(run(iv.patch(net.net.sites, site, donor, unit=0)).outputs)
    assert np.sum(np.abs(one_unit - plain) > 1e-3) > 1


# Recovery through the public functions


@pytest.fixture(scope="module", params=["0", "1"])
def recovered(request):
    net = network(request.param)
    return net, planted.recover(jax.random.key(7), net, 128, num_flips=999)


@pytest.mark.thorough
def test_what_is_recovered_equals_theory_in_plain_sight_and_in_disguise(recovered):
    net, result = recovered
    truth, agreement = net.truth, planted.recovery_scores(result, net.truth)
    assert np.all((result.indices.low <= truth.indices) & (truth.indices <= result.indices.high))
    assert agreement["index_error"] < 0.1
    assert agreement["specificity_error"] < 2e-3
    assert agreement["modularity_error"] < 0.01
    assert agreement["module_ari"] == 1
    assert agreement["module_nmi"] == pytest.approx(1)
    assert agreement["role_f1"] == 1
    assert agreement["graph_shd"] == 0
    assert agreement["effect_rmse"] < 0.3
    assert agreement["effect_rank_correlation"] > 0.95
    np.testing.assert_array_equal(result.classes.label == "dead", ~truth.nodes["decoder/units"])


def test_intervals_of_effects_hold_the_truth():
    net = network("0")
    true = net.truth.effects["decoder/units"]
    samples = found("0", "patching, both directions").samples["decoder/units"]
    parts = samples.reshape(len(true), 6, NUM_PAIRS // 6)
    estimate = bootstrap_mean(KEY, parts, intervention="denoised")
    # 96 intervals of skewed squares, and 24 of exact zeros.
    covered = scores.interval_coverage(estimate, np.broadcast_to(true[:, None], (len(true), 6)))
    assert 0.88 <= covered <= 1


@pytest.mark.slow
def test_units_without_a_leak_are_monosemantic_and_read_one_factor():
    net = planted.level0(leak=0.0)
    result = planted.recover(jax.random.key(8), net, 64, num_flips=499)
    causal = net.truth.nodes["decoder/units"]
    np.testing.assert_array_equal(result.classes.label, np.where(causal, "monosemantic", "dead"))
    np.testing.assert_array_equal(
        result.classes.top_factor[causal], net.truth.modules["decoder/units"][causal]
    )
    assert not result.factor_graph.any()
    np.testing.assert_allclose(result.specificity, 1, atol=1e-5)


# Finders


@pytest.mark.parametrize("name", ["0", "1", "1 gates", "1 saturated", "3"])
def test_exact_patching_both_ways_finds_every_unit_and_no_distractor(name):
    assert auroc(name, "patching, both directions") == 1
    if name != "0":
        assert distractors_called(name, "patching, both directions") == 0


@pytest.mark.thorough
@pytest.mark.parametrize("finder", ["patching, denoising", "patching, noising", "resample index"])
def test_every_exact_finder_is_perfect_under_disguise(finder):
    assert auroc("1", finder) == 1
    assert distractors_called("1", finder) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["1 gates", pytest.param("1", marks=pytest.mark.slow)])
def test_edge_patching_finds_every_edge(name):
    edges = network(name).truth.edges
    found_edges = found(name, "edge patching").edges
    assert scores.auroc(joined(found_edges, edges), joined(edges, edges)) == 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "finder", "most"),
    [
        ("1", "correlation", 0.8),
        ("1 gates", "patching, denoising", 0.8),
        ("1 gates", "patching, noising", 0.8),
        ("1 saturated", "attribution patching", 0.7),
        ("1 saturated", "hessian corrected", 0.7),
    ],
)
def test_each_disguise_fails_the_finder_that_it_should(name, finder, most):
    assert auroc(name, finder) < most


def test_correlation_calls_every_distractor_and_succeeds_where_there_are_none():
    assert distractors_called("1", "correlation") == 1
    assert auroc("0", "correlation") == 1


def test_integrated_gradients_see_through_saturation():
    assert auroc("1 saturated", "integrated gradients") == 1


def test_one_direction_misses_exactly_the_inputs_of_one_gate():
    for direction, seen in (("denoising", [0, 0, 1, 1, 0, 0]), ("noising", [1, 1, 0, 0, 0, 0])):
        effects = found("1 gates", f"patching, {direction}").nodes["latent/z"]
        np.testing.assert_array_equal(effects > 0, seen)


def test_the_ordinary_null_sees_modules_in_depth_and_the_layered_null_does_not():
    layers, labels = planted.depth_split()
    dense = join_layers(layers)
    ordinary = modularity.newman_modularity(dense + dense.T, labels)
    assert ordinary == pytest.approx(1 / 6)
    assert modularity.layered_modularity(layers, labels) == pytest.approx(0, abs=1e-12)
    # Modules that run through the layers: the layered null finds them, the ordinary one cuts depth.
    num, width = 2, 3
    weak = np.kron(np.eye(num), np.ones((width, width))) * 0.3 + 0.7
    true = np.tile(np.repeat(np.arange(num), width), 4)
    joined_layers = join_layers([weak] * 3)
    layered = partitions.best_partition(modularity.layered_matrix([weak] * 3))
    plain = partitions.best_partition(modularity.newman_matrix(joined_layers + joined_layers.T))
    assert scores.adjusted_rand(layered, true) == 1
    assert scores.adjusted_rand(plain, true) < 0.5


def test_a_finder_of_ones_own_is_a_function():
    net = network("0")

    def by_name(net, pairs):
        del pairs
        names = planted.inner_sites(net.sites)
        return planted.Scores({n: jnp.ones(net.sites[n].num_units) for n in names})

    nodes = by_name(net.net, net.sample(KEY, 2)).nodes
    assert scores.auroc(joined(nodes, net.truth.nodes), joined(net.truth.nodes, nodes)) == 0.5


def test_exact_finders_report_what_they_cost():
    net = network("0")
    units = sum(net.net.sites[name].num_units for name in finders.inner_sites(net.net.sites))
    passes = found("0", "patching, both directions").passes
    assert passes == NUM_PAIRS * 2 * (units + 5)
    assert found("0", "correlation").passes == NUM_PAIRS * 2


# Scores


def test_area_is_the_share_of_pairs_in_order_with_ties_half_and_precision_is_averaged():
    values, truth = np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])
    assert scores.auroc(values, truth) == pytest.approx(3.5 / 4)
    # At 3 one of one is true; at 2, which two share, two of three.
    assert scores.average_precision(values, truth) == pytest.approx((1 + 2 / 3) / 2)


def test_partitions_agree_by_the_published_formulas():
    first, second = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    # Pairs together: 6 and 7 of 15, in both 4; by chance 6 * 7 / 15.
    assert scores.adjusted_rand(first, second) == pytest.approx((4 - 2.8) / (6.5 - 2.8))
    joint = np.array([2, 1, 3]) / 6
    entropies = np.log(2), -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    mutual = sum(entropies) + np.sum(joint * np.log(joint))
    found = scores.normalised_mutual_information(first, second)
    assert found == pytest.approx(2 * mutual / sum(entropies))


def test_random_scores_have_half_the_area_and_the_prevalence():
    rng = np.random.default_rng(0)
    truth = rng.random(20_000) < 0.2
    values = rng.random(20_000)
    assert scores.auroc(values, truth) == pytest.approx(0.5, abs=0.02)
    assert scores.average_precision(values, truth) == pytest.approx(0.2, abs=0.02)
    assert scores.auroc(np.zeros(4), np.array([True, False, True, False])) == 0.5


def test_scores_without_anything_to_tell_apart_are_nan():
    assert np.isnan(scores.auroc([1.0, 2.0], np.array([True, True])))
    assert np.isnan(scores.average_precision([1.0, 2.0], np.array([False, False])))
    assert np.isnan(scores.false_positive_rate(np.array([True]), np.array([False])))
    assert np.isnan(scores.rank_correlation(np.ones(3), np.arange(3)))
    # What was not scored ranks last.
    assert scores.auroc([np.nan, 1.0], np.array([True, False])) == 0
    assert scores.auroc([np.nan, -np.inf, np.inf], np.array([False, False, True])) == 1


def test_partitions_with_lone_nodes_and_with_one_module_are_compared():
    assert scores.adjusted_rand(np.zeros(4, int), np.zeros(4, int)) == 1
    assert scores.adjusted_rand(np.array([-1, -1, 0, 0]), np.array([1, 2, 3, 3])) == 1
    assert scores.normalised_mutual_information(np.zeros(4, int), np.zeros(4, int)) == 1
    assert scores.normalised_mutual_information(np.zeros(4, int), np.arange(4)) == 0
    assert scores.adjusted_rand(np.full(30, -1), np.arange(30)) == 1
    assert scores.f1(np.zeros(3, bool), np.zeros(3, bool)) == 1


def test_rates_of_calls_and_errors_of_effects():
    hits, truth = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert scores.false_discovery_proportion(hits, truth) == 0.5
    assert scores.false_discovery_proportion(~truth & False, truth) == 0
    assert scores.f1(hits, truth) == 0.5
    np.testing.assert_array_equal(
        scores.called(np.array([0.005, 0.5, 1, np.nan])), [False, True, True, False]
    )
    assert scores.effect_rmse([1.0, 2.0], [1.0, 1.0]) == pytest.approx(np.sqrt(0.5))
    assert scores.rank_correlation([1.0, 5.0, 9.0], [0.0, 1.0, 7.0]) == pytest.approx(1)
    assert scores.passes_to_reach(lambda n: (n / 8, 10.0 * n), (1, 2, 4, 8, 16)) == 80
    assert scores.passes_to_reach(lambda n: (0.5, n), (1, 2)) == float("inf")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planted.level0(amplitudes=(1.0,)), "two or more positive"),
        (lambda: planted.level0(leak=1.0), r"leak in \[0, 1\)"),
        (lambda: planted.level3(KEY, num_factors=2, num_features=3), "num_features <= num_factors"),
        (lambda: planted.gates(("nand",)), "unknown gate 'nand'. Did you mean 'and'"),
        (lambda: planted.gates(()), "kinds is empty"),
        (lambda: network("0").sample(KEY, 2, 4), r"factor 4 is out of range; valid are 0 \.\. 3"),
        (lambda: scores.auroc([1.0], np.array([1.0])), "expected booleans"),
        (lambda: scores.auroc([1.0, 2.0], np.array([True])), r"that of the truth, \(1,\)"),
        (lambda: scores.f1(np.ones(2), np.ones(2, bool)), "see called"),
        (lambda: scores.called([1.0], threshold=1.0), "threshold must lie"),
    ],
)
def test_bad_networks_and_scores_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_biased_units_have_no_gaussian_truth():
    weights = levels.level0_weights()
    with pytest.raises(ValueError, match="without a bias"):
        planted.gaussian_network("", weights._replace(bias=weights.bias + 1))
