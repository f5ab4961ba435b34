"""Motif counts against enumeration and closed forms, their nulls, and roles of simulated units."""

import itertools
import math

import jax
import numpy as np
import pytest

from vaecausal_jax.circuits import motifs as vm
from vaecausal_jax.circuits.layers import join_blocks
from vaecausal_jax.circuits.roles import backup_pairs, unit_roles

KEY = jax.random.key(0)


def enumerated(a):
    """Every motif counted node by node."""
    nodes = range(len(a))
    counts = dict.fromkeys(vm.motif_counts(a), 0)
    for i in nodes:
        for j, k in itertools.combinations(nodes, 2):
            counts["fan_out"] += bool(a[i, j] and a[i, k])
            counts["fan_in"] += bool(a[j, i] and a[k, i])
    for i, j, k in itertools.product(nodes, repeat=3):
        if not (a[i, j] and a[j, k]):
            continue
        counts["chain"] += 1
        if a[i, k]:
            same = np.sign(a[i, j] * a[j, k]) == np.sign(a[i, k])
            counts["feed_forward_loop"] += 1
            counts[f"{'' if same else 'in'}coherent_feed_forward_loop"] += 1
        for other in range(j + 1, len(a)):
            if a[i, other] and a[other, k]:
                same = np.sign(a[i, j] * a[j, k]) == np.sign(a[i, other] * a[other, k])
                counts["diamond"] += 1
                counts[f"{'' if same else 'in'}coherent_diamond"] += 1
    for i, j in itertools.combinations(nodes, 2):
        for k, m in itertools.combinations(nodes, 2):
            counts["bi_fan"] += bool(a[i, k] and a[i, m] and a[j, k] and a[j, m])
    return counts


def sparse(rng, shape, density=0.5):
    return rng.normal(size=shape) * (rng.random(shape) < density)


# Counts


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_random_signed_graphs_equal_enumeration(seed):
    a = np.triu(sparse(np.random.default_rng(seed), (9, 9)), 1)
    order = np.random.default_rng(seed).permutation(9)
    a = a[order][:, order]
    assert vm.motif_counts(a) == enumerated(a)


@pytest.mark.parametrize("seed", range(2))
def test_counts_of_graphs_with_cycles_equal_enumeration(seed):
    a = sparse(np.random.default_rng(seed), (7, 7))
    # Chains that return to their start are paths of two edges to no third node; leave none.
    a[np.tril_indices(7)] = np.where(a.T[np.tril_indices(7)] != 0, 0, a[np.tril_indices(7)])
    np.fill_diagonal(a, 0)
    assert vm.motif_counts(a) == enumerated(a)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (3, 4), (1, 5), (5, 1)])
def test_a_complete_bipartite_graph_has_all_its_bi_fans(a, b):
    assert vm.bi_fans(np.ones((a, b))) == math.comb(a, 2) * math.comb(b, 2)
    assert vm.fan_outs(np.ones((a, b))) == a * math.comb(b, 2)
    assert vm.fan_ins(np.ones((a, b))) == b * math.comb(a, 2)


@pytest.mark.parametrize("num", [3, 7])
def test_a_transitive_tournament_has_a_loop_of_every_three_nodes(num):
    tournament = np.triu(np.ones((num, num)), 1)
    assert sum(vm.signed_feed_forward_loops(tournament)) == math.comb(num, 3)


@pytest.mark.parametrize("num", [1, 2, 6])
def test_one_node_through_many_to_one_has_a_diamond_of_every_two(num):
    first, second = np.ones((1, num)), np.ones((num, 1))
    assert vm.diamonds(first, second) == math.comb(num, 2)
    assert vm.chains(first, second) == num


def test_a_pair_of_opposite_paths_is_incoherent():
    assert vm.signed_diamonds(np.array([[2, -1]]), np.array([[1], [3]])) == (0, 1)
    assert vm.signed_diamonds(np.array([[2, -1]]), np.array([[1], [-3]])) == (1, 0)
    loop = np.array([[0, 1, -1], [0, 0, 1], [0, 0, 0]])
    assert vm.signed_feed_forward_loops(loop) == (0, 1)
    assert vm.signed_feed_forward_loops(np.abs(loop)) == (1, 0)


# Census


def layered(rng, sizes, density=0.5):
    return [sparse(rng, shape, density) for shape in itertools.pairwise(sizes)]


def test_a_census_counts_the_joined_graph_and_z_follows_from_the_null():
    rng = np.random.default_rng(0)
    layers, skip = layered(rng, (4, 5, 3)), sparse(rng, (4, 3))
    census = vm.motif_census(KEY, layers, skips={(0, 2): skip}, num_null=30)
    joined = np.zeros((12, 12))
    joined[:4, 4:9], joined[4:9, 9:], joined[:4, 9:] = *layers, skip
    for name, count in enumerated(joined).items():
        assert census[name].count == count
    motif = census["diamond"]
    assert motif.z == pytest.approx((motif.count - motif.null_mean) / motif.null_sd)
    assert 0 < motif.p_value <= 1


@pytest.mark.parametrize("sizes", [(5, 4), (3, 6, 4), (4, 3, 5, 2, 6)])
def test_census_of_layers_counts_what_the_joined_graph_holds(sizes):
    layers = layered(np.random.default_rng(len(sizes)), sizes)
    blocks = {(i, i + 1): matrix for i, matrix in enumerate(layers)}
    expected = vm.motif_counts(join_blocks(blocks, list(sizes)))
    for name, motif in vm.motif_census(KEY, layers, num_null=2).items():
        assert np.isnan(motif.count) or motif.count == expected[name], name


def test_a_planted_motif_stands_out():
    # Four complete bi-fans, among many that could be.
    planted = np.kron(np.eye(4), np.ones((2, 2)))
    bi_fan = vm.motif_census(KEY, planted, num_null=99)["bi_fan"]
    assert bi_fan.count == 4
    assert bi_fan.z > 2
    assert bi_fan.p_value == pytest.approx(2 / 100)


def test_what_degrees_fix_has_no_z():
    census = vm.motif_census(KEY, layered(np.random.default_rng(0), (5, 6, 4)), num_null=10)
    for name in ("fan_in", "fan_out", "chain"):
        assert np.isnan(census[name].z)
        assert census[name].count == census[name].null_mean
        assert census[name].p_value == 1
        assert "same number" in census[name].note


def test_without_skips_the_census_says_that_there_can_be_no_loops():
    layers = layered(np.random.default_rng(0), (8, 9, 8))
    census = vm.motif_census(KEY, layers, num_null=10)
    for kind in ("", "coherent_", "incoherent_"):
        motif = census[f"{kind}feed_forward_loop"]
        assert np.isnan([motif.count, motif.z, motif.p_value]).all()
        assert "No edge skips a layer" in motif.note
    assert census["diamond"].note == ""
    assert "no path of two edges" in vm.motif_census(KEY, layers[0], num_null=5)["diamond"].note
    with_skip = vm.motif_census(KEY, layers, skips={(0, 2): np.zeros((8, 8))}, num_null=5)
    assert with_skip["feed_forward_loop"].count == 0


def test_a_graph_without_edges_has_no_motifs():
    census = vm.motif_census(KEY, [np.zeros((3, 3)), np.zeros((3, 2))], num_null=5)
    assert census["bi_fan"].count == 0
    assert np.isnan(census["bi_fan"].z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vm.motif_counts(np.eye(3)), "zero diagonal"),
        (lambda: vm.motif_counts(np.ones((3, 2))), "square"),
        (lambda: vm.chains(np.ones((3, 2)), np.ones((3, 2))), "do not meet"),
        (lambda: vm.bi_fans(np.full((2, 2), np.nan)), "4 weights that are not finite"),
        (lambda: vm.motif_census(KEY, np.ones((2, 2)), num_null=1), "at least 2"),
        (lambda: vm.motif_census(KEY, []), "layers is empty"),
        (
            lambda: vm.motif_census(KEY, [np.ones((2, 2))] * 2, skips={(0, 1): np.ones((2, 2))}),
            "at least two after it",
        ),
        (
            lambda: vm.motif_census(KEY, [np.ones((2, 2))] * 2, skips={(0, 2): np.ones((2, 3))}),
            r"expected \(2, 2\)",
        ),
    ],
)
def test_bad_graphs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Roles

TRUE_READS = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [1, 0], [0, 1]], float)
TRUE_WRITES = np.array([[1, 0], [-1, 1], [1, 0], [0, 0], [0, 0], [1, 0]], float)
TRUE_GAP = np.array([0, 0, 1, 0, -1, 0], float)


def simulated(rng, means, num_images=40, noise=0.3):
    return means[..., None] + noise * rng.normal(size=(*means.shape, num_images))


@pytest.mark.thorough
def test_every_role_is_found_where_it_was_planted():
    rng = np.random.default_rng(0)
    roles = unit_roles(
        KEY,
        *(simulated(rng, means) for means in (TRUE_READS, TRUE_WRITES, TRUE_GAP)),
        min_read=0.2,
        min_write=0.2,
        min_interaction=0.2,
        num_flips=1999,
    )
    np.testing.assert_array_equal(roles.hub, [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(roles.relay, [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(roles.mixer, [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(roles.inhibitor, [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(roles.gate, TRUE_GAP > 0)
    np.testing.assert_array_equal(roles.dead, [0, 0, 0, 1, 1, 0])
    # The fifth unit reads and writes nothing: a distractor.
    np.testing.assert_array_equal(roles.dead & roles.reads.any(1), [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(roles.reads, TRUE_READS != 0)
    assert np.all((roles.write.low <= roles.write.value) & (roles.write.value <= roles.write.high))


@pytest.mark.thorough
def test_units_of_noise_have_no_roles_and_a_least_effect_hides_small_ones():
    rng = np.random.default_rng(1)
    noise = [rng.normal(size=(20, 3, 30)) for _ in range(2)]
    roles = unit_roles(KEY, *noise, num_flips=1999)
    assert roles.dead.mean() > 0.9
    assert roles.gate is None
    assert roles.interaction is None
    small = [simulated(rng, 0.1 * np.ones((2, 2)), noise=0.01) for _ in range(2)]
    assert unit_roles(KEY, *small, num_flips=1999).relay.all()
    assert unit_roles(KEY, *small, min_write=0.2, num_flips=1999).dead.all()


def test_units_without_any_variance_are_dead():
    roles = unit_roles(KEY, np.zeros((3, 2, 5)), np.zeros((3, 2, 5)), np.zeros((3, 5)))
    assert roles.dead.all()
    assert roles.gate is not None
    assert not roles.gate.any()


def test_backup_pairs_are_redundant_and_not_missed_alone():
    rng = np.random.default_rng(0)
    # Units 0, 1 back each other up; 2, 3 are redundant but missed; 4, 5 are independent.
    pairs = np.array([[0, 1], [2, 3], [4, 5], [0, 4]])
    interaction = simulated(rng, np.array([-1.0, -1.0, 0.0, 0.0]), noise=0.1)
    noising = simulated(rng, np.array([0.0, 0.0, 0.5, 0.5, 1.0, 1.0]), noise=0.05)
    found = backup_pairs(KEY, interaction, noising, pairs, margin=0.1)
    np.testing.assert_array_equal(found.backup, [True, False, False, False])
    assert found.p_interaction[1] < 0.05 < found.p_interaction[2]
    synergy = backup_pairs(KEY, -interaction, noising, pairs, margin=0.1)
    assert not synergy.backup.any()


READS = np.zeros((2, 2, 5))
FIRST_TWO, ONE_OUTSIDE = np.array([[0, 1]]), np.array([[0, 2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unit_roles(KEY, READS, READS[:1]), "same units and factors"),
        (lambda: unit_roles(KEY, READS[0], READS[0]), r"\(units, factors, images\)"),
        (lambda: unit_roles(KEY, READS, READS, np.zeros((3, 5))), "with 2 units"),
        (lambda: unit_roles(KEY, READS, READS, q=0), "q must lie"),
        (lambda: unit_roles(KEY, READS, READS, min_write=-1), "min_write must not"),
        (
            lambda: backup_pairs(KEY, READS[0], READS[0], FIRST_TWO, margin=0.1),
            r"integers \(pairs, 2\)",
        ),
        (
            lambda: backup_pairs(KEY, READS[0, :1], READS[0], ONE_OUTSIDE, margin=0.1),
            r"units 0 \.\. 1, got 2",
        ),
        (
            lambda: backup_pairs(KEY, READS[0, :1], READS[0], FIRST_TWO, margin=0.0),
            "margin must be positive",
        ),
    ],
)
def test_bad_tables_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
