"""Path-specific effects in structural models whose paths are known, and in random networks."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import paths
from vaecausal_jax.effects.paths import INPUT, OUTCOME
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites


def structural(equations):
    """A forward from a function of (params, x, eps, tape)."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = equations(params, x, eps, tape)
        return tape.trace(y)

    return forward


# T3: M1 = a1 x, M2 = a2 x + d M1, Y = c x + b1 M1 + b2 M2.
A1, A2, D, B1, B2, C = 0.8, -0.5, 0.6, 1.5, 0.7, 0.2


def chain_equations(params, x, eps, tape):
    m1 = tape("m1", A1 * x)
    m2 = tape("m2", A2 * x + D * m1)
    return C * x + B1 * m1 + B2 * m2


chain = structural(chain_equations)
ZERO, ONE = jnp.zeros(1), jnp.ones(1)
CHAIN_SITES = list_sites(chain, None, ZERO, ZERO)
CHAIN = paths.wiring(BoundModel(chain, None, CHAIN_SITES), ZERO, ZERO)


def test_wiring_is_found_from_the_forward_alone():
    assert CHAIN.parents == {
        INPUT: (),
        "m1": (INPUT,),
        "m2": (INPUT, "m1"),
        OUTCOME: (INPUT, "m1", "m2"),
    }


def test_wiring_of_a_vae_has_both_heads_as_parents_of_the_latents():
    model = models.conv_vae(
        (8, 8, 1),
        latent_size=2,
        encoder_channels=(3,),
        encoder_dense=(4,),
        decoder_dense=(4,),
        decoder_channels=(2,),
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), params)
    x, eps = jnp.zeros(model.image_shape), jnp.zeros(model.noise_shape)
    wires = paths.wiring(model.bind(params), x, eps)
    assert wires.parents["latent/z"] == ("latent/mean", "latent/logvar")
    assert wires.parents["input/image"] == (INPUT,)
    assert wires.parents[OUTCOME] == ("decoder/logits",)
    assert wires.edge_shape(("latent/z", "decoder/dense0")) == (2, 4)
    names = [n for n in model.sites if n not in ("input/image", "decoder/logits")]
    inner = paths.wiring(model.bind(params), x, eps, nodes=names)
    assert inner.parents["encoder/conv0"] == (INPUT,)
    assert inner.parents[OUTCOME] == ("decoder/dense1",)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((INPUT, "m1", "m2", OUTCOME), A1 * D * B2),
        ((INPUT, "m1", OUTCOME), A1 * B1),
        ((INPUT, "m2", OUTCOME), A2 * B2),
        ((INPUT, OUTCOME), C),
    ],
)
def test_each_path_of_the_chain_has_the_product_of_its_coefficients(names, expected):
    edges = paths.along_path(CHAIN, *names)
    effect = paths.path_effect(BoundModel(chain, None), CHAIN, Pairs(ZERO, ONE, ZERO), edges)
    np.testing.assert_allclose(effect, [expected], rtol=1e-6)


def test_published_numbers_of_the_chain():
    through = paths.along_path(CHAIN, INPUT, "m1", "m2", OUTCOME)
    only = paths.along_path(CHAIN, INPUT, "m1", OUTCOME)
    effects = [
        float(paths.path_effect(BoundModel(chain, None), CHAIN, Pairs(ZERO, ONE, ZERO), edges)[0])
        for edges in (through, only, paths.all_edges(CHAIN), paths.no_edges(CHAIN))
    ]
    np.testing.assert_allclose(effects, [0.336, 1.2, 1.386, 0.0], atol=1e-6)


# Interaction and units, against a plain NumPy evaluation of each unit's two worlds.
WEIGHTS = {
    name: np.random.default_rng(i).normal(size=shape)
    for i, (name, shape) in enumerate(
        {"xa": (3, 4), "xb": (3, 2), "ab": (4, 2), "ay": (4, 2), "by": (2, 2), "xy": (3, 2)}.items()
    )
}


def skip_equations(params, x, eps, tape):
    w = params
    a = tape("a", jnp.tanh(x @ w["xa"] + eps))
    b = tape("b", jnp.tanh(x @ w["xb"] + a @ w["ab"]) * jnp.sum(a))
    return jnp.sin(x @ w["xy"] + a @ w["ay"] + b @ w["by"])


skip = structural(skip_equations)
SKIP_PARAMS = jax.tree.map(jnp.asarray, {k: v.astype(np.float32) for k, v in WEIGHTS.items()})
SKIP_X = [jnp.asarray(np.random.default_rng(9 + i).normal(size=3), jnp.float32) for i in range(2)]
SKIP_EPS = jnp.asarray(np.random.default_rng(20).normal(size=4), jnp.float32)
SKIP = paths.wiring(
    BoundModel(skip, SKIP_PARAMS, list_sites(skip, SKIP_PARAMS, SKIP_X[0], SKIP_EPS)),
    SKIP_X[0],
    SKIP_EPS,
)


def skip_by_hand(x0, x1, eps, edges):
    """Every unit twice, world 0 and world 1, parent by parent."""
    w = WEIGHTS

    def a_of(x):
        return np.tanh(x @ w["xa"] + eps)

    def b_of(x, a):
        return np.tanh(x @ w["xb"] + a @ w["ab"]) * a.sum()

    def y_of(x, a, b):
        return np.sin(x @ w["xy"] + a @ w["ay"] + b @ w["by"])

    a0 = a_of(x0)
    b0 = b_of(x0, a0)
    sees_x = edges[INPUT, "a"][0]
    a1 = np.where(sees_x, a_of(x1), a0)
    b1 = np.zeros(2)
    for v in range(2):
        x = x1 if edges[INPUT, "b"][0, v] else x0
        b1[v] = b_of(x, np.where(edges["a", "b"][:, v], a1, a0))[v]
    y1 = np.zeros(2)
    for v in range(2):
        x = x1 if edges[INPUT, OUTCOME][0, v] else x0
        a = np.where(edges["a", OUTCOME][:, v], a1, a0)
        b = np.where(edges["b", OUTCOME][:, v], b1, b0)
        y1[v] = y_of(x, a, b)[v]
    return y1 - y_of(x0, a0, b0)


def test_random_edge_sets_agree_with_a_plain_loop_over_units_and_worlds():
    rng = np.random.default_rng(3)
    effect = jax.jit(
        lambda edges: paths.path_effect(
            BoundModel(skip, SKIP_PARAMS), SKIP, Pairs(*SKIP_X, SKIP_EPS), edges
        )
    )
    for _ in range(20):
        edges = {p: rng.random(SKIP.edge_shape(p)) < 0.5 for p in SKIP.pairs}
        expected = skip_by_hand(*map(np.asarray, SKIP_X), np.asarray(SKIP_EPS), edges)
        np.testing.assert_allclose(effect(edges), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b", OUTCOME])))
def test_sequential_effects_telescope_to_the_total_in_every_order(order):
    effects = paths.sequential_effects(
        BoundModel(skip, SKIP_PARAMS), SKIP, Pairs(*SKIP_X, SKIP_EPS), order=list(order)
    )
    total = (
        skip(SKIP_PARAMS, SKIP_X[1], SKIP_EPS, {}).outputs
        - skip(SKIP_PARAMS, SKIP_X[0], SKIP_EPS, {}).outputs
    )
    assert list(effects) == list(order)
    np.testing.assert_allclose(sum(effects.values()), total, rtol=1e-5, atol=1e-6)


def test_sequential_effects_of_the_chain_switch_the_output_side_first():
    effects = paths.sequential_effects(BoundModel(chain, None), CHAIN, Pairs(ZERO, ONE, ZERO))
    expected = {OUTCOME: C, "m2": A2 * B2, "m1": A1 * (B1 + D * B2)}
    assert list(effects) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(effects[name], [value], rtol=1e-6)
    assert math.isclose(float(sum(effects.values())[0]), 1.386, rel_tol=1e-6)


def test_all_edges_give_the_run_itself_and_none_the_reference():
    reference = paths.natural_values(BoundModel(skip, SKIP_PARAMS), SKIP, SKIP_X[0], SKIP_EPS)
    target = paths.natural_values(BoundModel(skip, SKIP_PARAMS), SKIP, SKIP_X[1], SKIP_EPS)
    for edges, expected in (
        (paths.all_edges(SKIP), target),
        (paths.no_edges(SKIP), reference),
        ({}, reference),
    ):
        run = paths.run_edges(
            BoundModel(skip, SKIP_PARAMS), SKIP, SKIP_X[1], SKIP_EPS, edges, reference
        )
        for name in ("a", "b", OUTCOME):
            np.testing.assert_allclose(run[name], expected[name], rtol=1e-5, atol=1e-6)


def test_float_edges_at_their_ends_are_the_boolean_ones():
    reference = paths.natural_values(BoundModel(skip, SKIP_PARAMS), SKIP, SKIP_X[0], SKIP_EPS)
    rng = np.random.default_rng(5)
    edges = {p: rng.random(SKIP.edge_shape(p)) < 0.5 for p in SKIP.pairs}
    shares = {p: m.astype(np.float32) for p, m in edges.items()}
    one, other = (
        paths.run_edges(BoundModel(skip, SKIP_PARAMS), SKIP, SKIP_X[1], SKIP_EPS, e, reference)[
            OUTCOME
        ]
        for e in (edges, shares)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_convolutions_read_whole_channels():
    model = models.conv_vae(
        (8, 8, 1),
        latent_size=2,
        encoder_channels=(3, 2),
        encoder_dense=(),
        decoder_dense=(),
        decoder_channels=(2, 2),
    )
    params = model.init(jax.random.key(1))
    x0, x1 = jax.random.uniform(jax.random.key(2), (2, 8, 8, 1))
    eps = jax.random.normal(jax.random.key(3), (2,))
    wires = paths.wiring(model.bind(params), x0, eps)
    reference = paths.natural_values(model.bind(params), wires, x0, eps)
    edges = paths.all_edges(wires)
    # Channel 1 of the second layer alone does not see channel 0 of the first.
    edges["encoder/conv0", "encoder/conv1"] = jnp.ones((3, 2), bool).at[0, 1].set(False)
    run = jax.jit(lambda e: paths.run_edges(model.bind(params), wires, x1, eps, e, reference))(
        edges
    )
    plain = model.forward(params, x1, eps, {}).activations
    hidden = plain["encoder/conv0"].at[..., 0].set(reference["encoder/conv0"][..., 0])
    mixed = model.forward(params, x1, eps, {"encoder/conv0": paths.Fixed(hidden)}).activations
    np.testing.assert_allclose(
        run["encoder/conv1"][..., 0], plain["encoder/conv1"][..., 0], atol=1e-5
    )
    np.testing.assert_allclose(
        run["encoder/conv1"][..., 1], mixed["encoder/conv1"][..., 1], atol=1e-5
    )


REFERENCE = paths.natural_values(BoundModel(chain, None), CHAIN, ZERO, ZERO)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paths.along_path(CHAIN, INPUT), "at least two nodes"),
        (lambda: paths.along_path(CHAIN, INPUT, "m3"), "unknown node 'm3'. Did you mean"),
        (lambda: paths.along_path(CHAIN, "m2", "m1"), "'m1' does not read 'm2' directly"),
        (
            lambda: paths.run_edges(
                BoundModel(chain, None),
                CHAIN,
                ONE,
                ZERO,
                {("m1", "m2"): jnp.ones((2, 1), bool)},
                REFERENCE,
            ),
            r"have shape \(2, 1\), expected",
        ),
        (
            lambda: paths.run_edges(
                BoundModel(chain, None),
                CHAIN,
                ONE,
                ZERO,
                {("m1", "m2"): jnp.ones((1, 1), int)},
                REFERENCE,
            ),
            "expected bool or floating",
        ),
        (
            lambda: paths.run_edges(BoundModel(chain, None), CHAIN, ONE, ZERO, {}, {INPUT: ZERO}),
            "no value of node 'm1'",
        ),
        (
            lambda: paths.run_edges(
                BoundModel(chain, None), CHAIN, ONE, ZERO, {}, {**REFERENCE, "m1": jnp.zeros(3)}
            ),
            "'m1' has shape",
        ),
        (
            lambda: paths.sequential_effects(
                BoundModel(chain, None), CHAIN, Pairs(ZERO, ONE, ZERO), order=["m1", "m2"]
            ),
            "each consumer of the input once",
        ),
        (
            lambda: paths.wiring(BoundModel(chain, None, CHAIN_SITES), ZERO, ZERO, nodes=["m9"]),
            "unknown site 'm9'",
        ),
    ],
)
def test_bad_edge_sets_are_refused_with_reasons(call, message):
    with pytest.raises(ValueError, match=message):
        call()
