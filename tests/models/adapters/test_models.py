"""Other people's models: bitwise the same left alone, and the same effects as a plain loop."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapted_models import CASES, IMAGE, scanned

from vaecausal_jax.circuits import motifs
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import decompositions, mediation, paths, unit_effects
from vaecausal_jax.effects.mediators import unit as unit_mediator
from vaecausal_jax.interventions import patch
from vaecausal_jax.interventions.bound import BoundModel

NUM_PAIRS = 2


@functools.cache
def made(family):
    if family == "equinox":
        pytest.importorskip("equinox")
    case = CASES[family]()
    images = jax.random.uniform(jax.random.key(10), (2, NUM_PAIRS, *IMAGE))
    eps = jax.random.normal(jax.random.key(11), (NUM_PAIRS, case.num_noise))
    return case, images[0], images[1], eps, case.forward.sites(case.params, images[0, 0], eps[0])


def plain_gram(case, site, name, unit, x0, x1, eps):
    """One unit of one pair by hand: the four outcomes, from the oracle's replaced values."""
    axis = site.unit_axis
    natural = [case.forward(case.params, x, eps).activations[name] for x in (x0, x1)]
    index = tuple(unit if a == axis else slice(None) for a in range(len(site.shape)))
    y00, y11 = (case.plain(case.params, x, eps) for x in (x0, x1))
    mixed = [natural[arm].at[index].set(natural[1 - arm][index]) for arm in range(2)]
    y01, y10 = (
        case.replaced(case.params, x, eps, name, h) for x, h in zip((x0, x1), mixed, strict=True)
    )
    return decompositions.gram(y00, y11, y01, y10)


@pytest.mark.thorough
@pytest.mark.parametrize("family", CASES)
def test_model_left_alone_is_bitwise_the_plain_one(family):
    case, x, _, eps, _ = made(family)
    plain = jax.jit(case.plain)(case.params, x[0], eps[0])
    adapted = jax.jit(lambda *run: case.forward(*run).outputs)(case.params, x[0], eps[0])
    np.testing.assert_array_equal(adapted, plain)
    assert np.std(plain) > 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("family", [name for name in CASES if name != "scanned"])
def test_unit_mediation_equals_a_plain_loop(family):
    case, x0, x1, eps, sites = made(family)
    # Of the site that a path goes round: what flows beside it must be live.
    name = case.skipped
    units = jnp.arange(2)
    grams = mediation.unit_mediation(
        BoundModel(case.forward, case.params, sites), Pairs(x0, x1, eps), {name: units}
    ).values
    by_hand = jax.jit(functools.partial(plain_gram, case, sites[name], name))
    for unit in range(2):
        for pair in range(NUM_PAIRS):
            expected = by_hand(unit, x0[pair], x1[pair], eps[pair])
            for field, value in expected._asdict().items():
                got = getattr(grams, field)[unit, pair]
                np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5, err_msg=field)


@pytest.mark.thorough
@pytest.mark.parametrize("family", CASES)
def test_layer_with_a_way_round_it_is_no_cut_and_a_bottleneck_is(family):
    case, x0, x1, eps, sites = made(family)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    def both(x0, x1, eps):
        return tuple(
            mediation.natural_effects(
                BoundModel(case.forward, case.params),
                Pairs(x0, x1, eps),
                lambda a, n=n: patch(sites, n, a[n]),
            )
            for n in (case.cut, case.skipped)
        )

    cut, skipped = both(x0, x1, eps)
    total = np.sum(np.square(cut.total_effect))
    assert total > 1e-4
    np.testing.assert_allclose(cut.natural_direct_effect, 0, atol=1e-5)
    np.testing.assert_allclose(cut.total_indirect_effect, cut.total_effect, atol=1e-5)

    def share(part):
        return np.sum(part * skipped.total_effect) / total

    mediated, direct = (
        share(skipped.total_indirect_effect),
        share(skipped.natural_direct_effect),
    )
    assert math.isclose(mediated + direct, 1, abs_tol=1e-4)
    assert np.sum(np.square(skipped.natural_direct_effect)) > 1e-3 * total
    assert abs(direct) > 1e-3
    assert np.sum(np.square(skipped.total_indirect_effect)) > 1e-8 * total


@pytest.mark.thorough
def test_units_of_scanned_layers_equal_a_plain_loop_in_which_the_other_units_follow():
    case, x0, x1, eps, sites = made("scanned")
    name = "encoder/branch"
    grams = mediation.unit_mediation(
        BoundModel(case.forward, case.params, sites), Pairs(x0, x1, eps), name
    ).values
    params = case.params

    def by_hand(x, eps, donor, unit):
        h = jnp.tanh(params["stem"] @ x.reshape(-1))
        for layer, weights in enumerate(params["layers"]):
            h = h + jnp.tanh(weights @ h).at[unit].set(donor[layer, unit])
        mean, logvar = jnp.split(params["posterior"] @ h, 2)
        z = mean + jnp.exp(0.5 * logvar) * eps
        return (params["logits"] @ jnp.tanh(params["decoder"] @ z)).reshape(IMAGE)

    by_hand = jax.jit(by_hand)
    activations = jax.jit(lambda *run: case.forward(*run).activations[name])
    for pair in range(NUM_PAIRS):
        pair_x, noise = (x0[pair], x1[pair]), eps[pair]
        donors = [activations(params, x, noise) for x in pair_x]
        y00, y11 = (case.plain(params, x, noise) for x in pair_x)
        for unit in (0, 5):
            y01 = by_hand(pair_x[0], noise, donors[1], unit)
            y10 = by_hand(pair_x[1], noise, donors[0], unit)
            expected = decompositions.gram(y00, y11, y01, y10)
            got = jax.tree.map(lambda leaf, u=unit, p=pair: leaf[u, p], grams)
            np.testing.assert_allclose(list(got), list(expected), rtol=1e-4, atol=1e-6)
    # The same by the general mediator, which replaces by a mask and not by a box.
    points = jnp.arange(6)
    mediated = mediation.mediate(
        BoundModel(case.forward, params), Pairs(x0, x1, eps), unit_mediator(sites, name), points
    )
    np.testing.assert_allclose(mediated.gram.total_total, grams.total_total, rtol=1e-4, atol=1e-6)


def test_effects_sweep_runs_on_an_adapted_model_and_equals_a_loop():
    case, x, donor_x, eps, sites = made("hierarchical")
    run = jax.jit(jax.vmap(lambda x, eps: case.forward(case.params, x, eps)))
    donor = run(donor_x, eps).activations["latent/bottom"]
    got = unit_effects.resample_effects(
        BoundModel(case.forward, case.params, sites), Runs(x, eps, {"latent/bottom": donor})
    ).values
    clean = run(x, eps)
    for unit in range(3):
        for image in range(NUM_PAIRS):
            h = clean.activations["latent/bottom"][image].at[unit].set(donor[image, unit])
            y = case.replaced(case.params, x[image], eps[image], "latent/bottom", h)
            expected = np.sum(np.square(y - clean.outputs[image]))
            np.testing.assert_allclose(got.squared[unit, image], expected, rtol=1e-4)


def test_unrolled_scan_has_a_site_a_layer_with_a_run_that_restarts_there():
    case = scanned(unroll=True)
    _, x0, x1, eps, _ = made("scanned")
    sites = case.forward.sites(case.params, x0[0], eps[0])
    assert list(sites)[1:4] == [f"encoder/branch[{layer}]" for layer in range(3)]
    rolled = made("scanned")[0].forward(case.params, x0[0], eps[0])
    unrolled = case.forward(case.params, x0[0], eps[0])
    np.testing.assert_array_equal(unrolled.outputs, rolled.outputs)
    for layer in range(3):
        np.testing.assert_allclose(
            unrolled.activations[f"encoder/branch[{layer}]"],
            rolled.activations["encoder/branch"][layer],
            rtol=1e-6,
        )
    grams = mediation.unit_mediation(
        BoundModel(case.forward, case.params, sites), Pairs(x0, x1, eps), "encoder/branch[2]"
    ).values
    assert np.all(np.isfinite(grams.total_total))
    assert np.any(np.abs(grams.total_total) > 1e-6)


def test_feed_forward_loop_of_two_latents_has_a_direct_and_an_indirect_path():
    case, x0, x1, eps, sites = made("hierarchical")
    names = ("encoder/low", "latent/top", "latent/bottom", "decoder/mix")
    wires = paths.wiring(BoundModel(case.forward, case.params, sites), x0[0], eps[0], nodes=names)
    assert wires.parents["latent/bottom"] == ("encoder/low", "latent/top")
    assert wires.parents["decoder/mix"] == ("latent/top", "latent/bottom")
    adjacency = [[n in wires.parents[target] for target in names] for n in names]
    # low -> top -> bottom <- low, and top -> bottom -> mix <- top.
    assert sum(motifs.signed_feed_forward_loops(np.array(adjacency))) == 2

    def outcome(top_of_prior, top_of_mix, run):
        """By hand: which run each reader of the top latent sees."""
        p = case.params
        low = run["encoder/low"]
        mean, logvar = jnp.split(p["prior"] @ top_of_prior + p["bottom"] @ low, 2)
        bottom = mean + jnp.exp(0.5 * logvar) * eps[0][2:]
        h = jax.nn.relu(p["mix"] @ jnp.concatenate([top_of_mix, bottom]))
        return (p["logits"] @ h).reshape(IMAGE)

    run = jax.jit(lambda x: case.forward(case.params, x, eps[0]))
    reference, target = run(x0[0]).activations, run(x1[0]).activations
    old, new = reference["latent/top"], target["latent/top"]
    into_top = paths.along_path(wires, paths.INPUT, "encoder/low", "latent/top")
    direct = into_top | paths.along_path(wires, "latent/top", "decoder/mix", paths.OUTCOME)
    indirect = into_top | paths.along_path(
        wires, "latent/top", "latent/bottom", "decoder/mix", paths.OUTCOME
    )
    effect = jax.jit(
        lambda edges: paths.path_effect(
            BoundModel(case.forward, case.params), wires, Pairs(x0[0], x1[0], eps[0]), edges
        )
    )
    plain = outcome(old, old, reference)
    np.testing.assert_allclose(plain, run(x0[0]).outputs, rtol=1e-5, atol=1e-6)
    by_hand = [outcome(old, new, reference) - plain, outcome(new, old, reference) - plain]
    for edges, expected in zip((direct, indirect), by_hand, strict=True):
        assert np.max(np.abs(expected)) > 1e-3
        np.testing.assert_allclose(effect(edges), expected, rtol=1e-4, atol=1e-6)


def test_paths_go_through_a_scan_whole():
    case, x0, _, eps, sites = made("scanned")
    wires = paths.wiring(BoundModel(case.forward, case.params, sites), x0[0], eps[0])
    assert wires.parents["encoder/branch"] == ("encoder/stem",)
    assert wires.parents["latent/z"] == ("encoder/stem", "encoder/branch")
