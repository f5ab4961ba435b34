"""Mediation in structural causal models whose effects are known, and its identities in networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import decompositions, mediation
from vaecausal_jax.effects.decompositions import NaturalEffects, four_way
from vaecausal_jax.effects.mediation import natural_effects
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites


def structural(equations):
    """A forward from a function of (params, x, eps, tape): one structural causal model."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("y", equations(params, x, eps, tape))
        tape.close()
        return Trace(y, tape.activations)

    return forward


def patching(sites, *names, **where):
    return lambda a: vi.combine(*(vi.patch(sites, name, a[name], **where) for name in names))


def assert_identities(effects, atol=1e-5):
    te, pnde, tnde, pnie, tnie, interaction = effects
    np.testing.assert_allclose(te, pnde + tnie, atol=atol)
    np.testing.assert_allclose(te, tnde + pnie, atol=atol)
    np.testing.assert_allclose(interaction, te - pnde - pnie, atol=atol)


def test_linear_model_has_the_matrix_products_as_effects_and_no_interaction():
    # T1: m = A x + n, y = C x + B m.
    a, b, c = (
        jnp.asarray(np.random.default_rng(s).normal(size=(3, 3)), jnp.float32) for s in range(3)
    )
    forward = structural(lambda p, x, eps, tape: c @ x + b @ tape("m", a @ x + eps))
    x0, x1, eps = jax.random.normal(jax.random.key(0), (3, 3))
    sites = list_sites(forward, None, x0, eps)
    effects = natural_effects(BoundModel(forward, None), Pairs(x0, x1, eps), patching(sites, "m"))
    dx = x1 - x0
    np.testing.assert_allclose(effects.total_effect, (c + b @ a) @ dx, atol=1e-5)
    np.testing.assert_allclose(effects.natural_direct_effect, c @ dx, atol=1e-5)
    np.testing.assert_allclose(effects.total_direct_effect, c @ dx, atol=1e-5)
    np.testing.assert_allclose(effects.natural_indirect_effect, b @ a @ dx, atol=1e-5)
    np.testing.assert_allclose(effects.total_indirect_effect, b @ a @ dx, atol=1e-5)
    np.testing.assert_allclose(effects.mediated_interaction, 0, atol=1e-5)


T = (-0.4, 1.5, 0.9)
B = (0.3, 0.8)
interacting = structural(
    lambda p, x, eps, tape: (m := tape("m", B[0] + B[1] * x + eps)) * T[1] + T[0] * x + T[2] * x * m
)
SCALAR_SITES = list_sites(interacting, None, jnp.zeros(1), jnp.zeros(1))


@pytest.mark.parametrize("seed", range(5))
def test_interacting_mediator_has_the_effects_of_the_formula(seed):
    # T2, per sample: x from a0 to a1, controlled at m.
    a0, a1, e, m = np.random.default_rng(seed).normal(size=4)
    x0, x1, eps = (jnp.asarray([v], jnp.float32) for v in (a0, a1, e))
    effects = natural_effects(
        BoundModel(interacting, None), Pairs(x0, x1, eps), patching(SCALAR_SITES, "m")
    )
    controlled = mediation.controlled_direct_effect(
        BoundModel(interacting, None), Pairs(x0, x1, eps), vi.set_to(SCALAR_SITES, "m", m)
    )
    parts = four_way(effects, controlled)
    d = a1 - a0
    expected = (
        (T[0] + T[2] * m) * d,
        T[2] * (B[0] + B[1] * a0 + e - m) * d,
        T[2] * B[1] * d**2,
        (T[1] + T[2] * a0) * B[1] * d,
    )
    np.testing.assert_allclose(np.ravel(parts), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sum(parts), effects.total_effect, rtol=1e-4, atol=1e-5)
    assert_identities(effects)


def test_interacting_mediator_has_the_published_numbers():
    zero, one = jnp.zeros(1), jnp.ones(1)
    effects = natural_effects(
        BoundModel(interacting, None), Pairs(zero, one, zero), patching(SCALAR_SITES, "m")
    )
    expected = NaturalEffects(1.79, -0.13, 0.59, 1.20, 1.92, 0.72)
    np.testing.assert_allclose(np.ravel(effects), expected, rtol=1e-5)


# T3: M1 = a1 x, M2 = a2 x + d M1, Y = c x + b1 M1 + b2 M2.
A1, A2, D, B1, B2, C = 0.8, -0.5, 0.6, 1.5, 0.7, 0.2


def chain_equations(params, x, eps, tape):
    m1 = tape("m1", A1 * x)
    m2 = tape("m2", A2 * x + D * m1)
    return C * x + B1 * m1 + B2 * m2


chain = structural(chain_equations)
ZERO, ONE = jnp.zeros(1), jnp.ones(1)
CHAIN_SITES = list_sites(chain, None, ZERO, ZERO)


@pytest.mark.parametrize(
    ("names", "expected"), [(["m1"], 1.536), (["m2"], -0.014), (["m1", "m2"], 1.186)]
)
def test_patches_in_a_chain_include_what_they_cause_downstream(names, expected):
    effects = natural_effects(
        BoundModel(chain, None), Pairs(ZERO, ONE, ZERO), patching(CHAIN_SITES, *names)
    )
    np.testing.assert_allclose(effects.natural_indirect_effect, expected, atol=1e-6)
    np.testing.assert_allclose(effects.total_indirect_effect, expected, atol=1e-6)
    np.testing.assert_allclose(effects.total_effect, 1.386, atol=1e-6)


def test_single_effects_in_a_chain_exceed_the_joint_one_by_the_path_between_them():
    single = 1.536 - 0.014
    joint = natural_effects(
        BoundModel(chain, None), Pairs(ZERO, ONE, ZERO), patching(CHAIN_SITES, "m1", "m2")
    )
    np.testing.assert_allclose(single - joint.natural_indirect_effect, A1 * D * B2, atol=1e-6)


def test_edges_of_a_chain_are_separated_by_patching_what_the_other_edge_would_carry():
    reference, target = chain(None, ZERO, ZERO, {}), chain(None, ONE, ZERO, {})
    m1 = vi.patch(CHAIN_SITES, "m1", target.activations["m1"])
    moved = chain(None, ZERO, ZERO, m1)
    through_m2 = chain(None, ZERO, ZERO, vi.patch(CHAIN_SITES, "m2", moved.activations["m2"]))
    held = vi.combine(m1, vi.patch(CHAIN_SITES, "m2", reference.activations["m2"]))
    direct = chain(None, ZERO, ZERO, held)
    np.testing.assert_allclose(through_m2.outputs - reference.outputs, 0.336, atol=1e-6)
    np.testing.assert_allclose(direct.outputs - reference.outputs, 1.2, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "indirect", "interaction"), [(0.0, 2.1866, 0.0), (0.7, None, 1.14796)]
)
def test_relu_mediator_has_the_expectations_of_the_normal_integral(k, indirect, interaction):
    # T4: h = relu(w x + b + s e), y = c x + v h + k x h.
    w, b, s, c, v, a0, a1 = 1.3, -0.2, 0.5, 0.4, 2.0, -0.5, 1.0
    forward = structural(
        lambda p, x, eps, tape: (
            (h := tape("h", jax.nn.relu(w * x + b + s * eps))) * v + c * x + k * x * h
        )
    )
    sites = list_sites(forward, None, ZERO, ZERO)
    eps = jax.random.normal(jax.random.key(0), (50_000, 1))
    effects = jax.vmap(
        lambda e: natural_effects(
            BoundModel(forward, None),
            Pairs(jnp.full(1, a0), jnp.full(1, a1), e),
            patching(sites, "h"),
        )
    )(eps)

    def mean_relu(x):
        mu = w * x + b
        return mu * stats.norm.cdf(mu / s) + s * stats.norm.pdf(mu / s)

    difference = mean_relu(a1) - mean_relu(a0)
    for value, expected in (
        (effects.natural_indirect_effect, (v + k * a0) * difference),
        (effects.total_indirect_effect, (v + k * a1) * difference),
        (effects.mediated_interaction, k * (a1 - a0) * difference),
    ):
        error = np.std(value) / math.sqrt(len(eps))
        np.testing.assert_allclose(np.mean(value), expected, atol=4 * error + 1e-6)
    if indirect is not None:
        np.testing.assert_allclose(v * difference, indirect, atol=1e-4)
    np.testing.assert_allclose(k * (a1 - a0) * difference, interaction, atol=1e-5)
    assert_identities(effects)


def gate_and(s):
    return jax.nn.relu(s[0] + s[1] - 1)


def gate_or(s):
    return 1 - jax.nn.relu(1 - s[0] - s[1])


def gate_xor(s):
    return s[0] + s[1] - 2 * gate_and(s)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("gate", "denoise", "noise"), [(gate_and, 0, 1), (gate_or, 1, 0), (gate_xor, 1, -1)]
)
@pytest.mark.parametrize("unit", [0, 1])
def test_gates_show_in_denoising_noising_and_their_gap(gate, denoise, noise, unit):
    # T9, corrupt (0, 0), clean (1, 1).
    forward = structural(lambda p, x, eps, tape: gate(tape("s", x))[None])
    sites = list_sites(forward, None, jnp.zeros(2), ZERO)
    effects = natural_effects(
        BoundModel(forward, None),
        Pairs(jnp.zeros(2), jnp.ones(2), ZERO),
        patching(sites, "s", unit=unit),
    )
    assert effects.natural_indirect_effect == denoise
    assert effects.total_indirect_effect == noise
    assert effects.mediated_interaction == noise - denoise
    grams = mediation.unit_mediation(
        BoundModel(forward, None, sites),
        Pairs(jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.zeros((1, 1))),
        "s",
    ).values
    shares = decompositions.mediation_shares(grams)
    total = effects.total_effect[0]
    np.testing.assert_array_equal(shares.denoising[unit], [denoise * total])
    np.testing.assert_array_equal(shares.noising[unit], [noise * total])
    np.testing.assert_array_equal(shares.interaction[unit], [(noise - denoise) * total])
    np.testing.assert_array_equal(grams.pure[unit], [denoise**2])
    np.testing.assert_array_equal(grams.total_indirect[unit], [noise**2])


# --- networks -----------------------------------------------------------------------------------

FAMILIES = {
    "conv": models.conv_vae(
        (16, 16, 1),
        latent_size=3,
        encoder_channels=(4,),
        encoder_dense=(5,),
        decoder_dense=(5,),
        decoder_channels=(4, 4),
    ),
    "mlp": models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5,)),
    "vq": models.vq_vae(
        (16, 16, 1), num_codes=6, code_size=3, encoder_channels=(4, 4), decoder_channels=(4, 4)
    ),
}
PAIRS = 3


@pytest.fixture(scope="module")
def pairs():
    made = {}
    for family, model in FAMILIES.items():
        rng = np.random.default_rng(0)

        def normal(leaf, rng=rng):
            fan_in = np.prod(leaf.shape[:-1], dtype=int)
            return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(max(fan_in, 4)), leaf.dtype)

        params = jax.tree.map(normal, jax.eval_shape(model.init, jax.random.key(0)))
        x0, x1 = rng.uniform(size=(2, PAIRS, *model.image_shape)).astype(np.float32)
        eps = rng.normal(size=(PAIRS, *model.noise_shape)).astype(np.float32)
        if family == "vq":  # codes among the values to be quantised, or all positions take one
            pre = model.forward(params, x0[0], eps[0]).activations["latent/pre"]
            params = params | {"codebook": pre.reshape(-1, 3)[:16:3]}
        made[family] = params, *map(jnp.asarray, (x0, x1, eps))
    return made


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "site"), [("conv", "decoder/conv0"), ("mlp", "latent/mean"), ("vq", "latent/pre")]
)
def test_unit_mediation_equals_a_loop_of_numpy_inner_products(family, site, pairs):
    model, (params, x0, x1, eps) = FAMILIES[family], pairs[family]
    sites = model.sites
    grams = jax.jit(
        lambda *runs: mediation.unit_mediation(model.bind(params), Pairs(*runs), site).values
    )(x0, x1, eps)
    forward = jax.jit(model.forward)
    for unit in range(sites[site].num_units):
        for i in range(PAIRS):
            runs = [forward(params, x[i], eps[i], {}) for x in (x0, x1)]
            patches = [vi.patch(sites, site, r.activations[site], unit=unit) for r in runs]
            y00, y11 = (np.asarray(r.outputs, float).ravel() for r in runs)
            y01 = np.asarray(forward(params, x0[i], eps[i], patches[1]).outputs, float).ravel()
            y10 = np.asarray(forward(params, x1[i], eps[i], patches[0]).outputs, float).ravel()
            te, pnie, tnie = y11 - y00, y01 - y00, y11 - y10
            expected = [te @ te, te @ pnie, te @ tnie, pnie @ pnie, pnie @ tnie, tnie @ tnie]
            value = [leaf[unit, i] for leaf in grams]
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4 * expected[0])


@pytest.mark.thorough
@pytest.mark.parametrize("site", ["latent/z", "latent/logvar"])
def test_shares_mediated_and_direct_add_to_one(site, pairs):
    model, (params, x0, x1, eps) = FAMILIES["conv"], pairs["conv"]
    mediator = patching(model.sites, site)
    net = model.bind(params)
    effects = jax.jit(jax.vmap(lambda pair: natural_effects(net, pair, mediator)))(
        Pairs(x0, x1, eps)
    )
    assert_identities(effects)
    total = np.sum(effects.total_effect**2)
    direct = np.sum(effects.natural_direct_effect * effects.total_effect) / total
    shares = decompositions.mediation_shares(
        mediation.site_mediation(model.bind(params), Pairs(x0, x1, eps), site)
    )
    mediated = np.sum(shares.noising) / np.sum(shares.denominator)
    np.testing.assert_allclose(mediated + direct, 1, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "site"),
    [(f, s) for f in ("mlp", "vq") for s in FAMILIES[f].sites if s[-4:] not in ("mean", "gvar")],
)
def test_a_cut_mediates_everything(family, site, pairs):
    model, (params, x0, x1, eps) = FAMILIES[family], pairs[family]
    grams = mediation.site_mediation(model.bind(params), Pairs(x0, x1, eps), site)
    shares = decompositions.mediation_shares(grams)
    assert grams.total.shape == (PAIRS,)
    assert np.all(grams.total > 0)
    np.testing.assert_allclose(shares.noising, shares.denominator, rtol=1e-5)
    np.testing.assert_allclose(shares.denoising, shares.denominator, rtol=1e-5)
    np.testing.assert_allclose(shares.off_axis / shares.denominator, 0, atol=1e-5)


def test_identical_inputs_have_no_effect_and_no_nan(pairs):
    model, (params, x0, _, eps) = FAMILIES["mlp"], pairs["mlp"]
    grams = mediation.unit_mediation(model.bind(params), Pairs(x0, x0, eps), "latent/z").values
    for leaf in (*grams, *decompositions.mediation_shares(grams)):
        np.testing.assert_array_equal(leaf, 0)


def test_off_axis_is_what_an_indirect_effect_does_beside_the_total_one():
    y00, y11 = jnp.zeros(3), jnp.array([2.0, 0.0, 0.0])
    y10 = y11 - jnp.array([1.0, 3.0, 4.0])
    shares = decompositions.mediation_shares(decompositions.gram(y00, y11, y00, y10))
    assert shares.off_axis == 25.0
    assert shares.noising / shares.denominator == 0.5


def test_an_outcome_chooses_what_is_mediated(pairs):
    model, (params, x0, x1, eps) = FAMILIES["mlp"], pairs["mlp"]
    grams = mediation.site_mediation(
        model.bind(params),
        Pairs(x0, x1, eps),
        "decoder/dense0",
        outcome=lambda trace: trace.activations["latent/z"],
    )
    assert np.all(grams.total > 0)
    np.testing.assert_array_equal(grams.total_indirect, 0)


@pytest.mark.parametrize(
    ("call", "site", "message"),
    [
        (mediation.unit_mediation, "latent/zz", "unknown site 'latent/zz'.*'latent/z'"),
        (mediation.site_mediation, "latent/zz", "unknown site 'latent/zz'.*'latent/z'"),
    ],
)
def test_sites_that_do_not_fit_are_refused(call, site, message, pairs):
    model, (params, *run) = FAMILIES["vq"], pairs["vq"]
    with pytest.raises(ValueError, match=message):
        call(model.bind(params), Pairs(*run), site)
