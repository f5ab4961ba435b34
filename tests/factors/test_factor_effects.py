"""Read, write and mediation tensors against matrix products and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.factors import factor_effects
from vaecausal_jax.factors.factor_effects import (
    leakage,
    mediation_tensor,
    read_tensor,
    read_write_agreement,
    tensor_estimate,
    write_tensor,
)
from vaecausal_jax.inference import Bootstrap
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites
from vaecausal_jax.sweeps.unit_tables import UnitTable

FACTORS, UNITS = 3, 5
A, B = (np.random.default_rng(s).normal(size=(FACTORS, UNITS)) for s in (0, 1))


def linear(params, x, eps, interventions):
    """h = A' g, r = B h: every tensor is a product of two weights."""
    tape = Tape(interventions)
    h = tape("h", x @ params[0] + eps)
    return tape.trace(tape("r", params[1] @ h))


PARAMS = jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)
SITES = list_sites(linear, PARAMS, jnp.zeros(FACTORS), jnp.zeros(UNITS))


def vector_pairs(num, seed=0, noise=UNITS):
    """Pairs of vectors that differ in one coordinate, which grows."""
    rng = np.random.default_rng(seed)
    x0 = rng.normal(size=(FACTORS, num, FACTORS))
    change = rng.uniform(0.5, 1.5, size=(FACTORS, num))
    x1 = x0 + change[..., None] * np.eye(FACTORS)[:, None]
    eps = rng.normal(size=(FACTORS, num, noise))
    x0, x1, eps, change = (jnp.asarray(a, jnp.float32) for a in (x0, x1, eps, change))
    return Pairs(x0, x1, eps, change=change)


def test_mediation_in_a_linear_network_is_the_product_of_its_slopes():
    pairs = vector_pairs(7)
    found = jax.jit(lambda p: mediation_tensor(BoundModel(linear, PARAMS, SITES), p, "h").values)(
        pairs
    )
    # M[u, k, l] = (dh_u / dg_k) dg_k (dr_l / dh_u).
    expected = np.einsum("ku,kp,lu->uklp", A, pairs.change, B)
    assert found.shape == (UNITS, FACTORS, FACTORS, 7)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_reading_in_a_linear_network_is_the_slope_over_the_spread_of_the_unit():
    pairs = vector_pairs(9)
    found = read_tensor(BoundModel(linear, PARAMS, SITES), pairs, "h").values
    x, eps = np.concatenate([pairs.x0, pairs.x1]), np.concatenate([pairs.eps, pairs.eps])
    sd = (x @ A + eps).reshape(-1, UNITS).std(0)
    expected = np.abs(A.T)[:, :, None] * np.asarray(pairs.change)[None] / sd[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_writing_in_a_linear_network_is_the_slope_times_the_spread_of_the_unit():
    rng = np.random.default_rng(3)
    x, eps = (jnp.asarray(rng.normal(size=(11, n)), jnp.float32) for n in (FACTORS, UNITS))
    found = write_tensor(BoundModel(linear, PARAMS, SITES), x, eps, "h").values
    sd = (x @ PARAMS[0] + eps).std(0)
    expected = np.broadcast_to((B * np.asarray(sd)[None]).T[..., None], found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    twice = write_tensor(BoundModel(linear, PARAMS, SITES), x, eps, "h", doses={"h": 2 * sd}).values
    np.testing.assert_allclose(twice, 2 * expected, atol=1e-4)


def test_a_dead_unit_reads_and_mediates_nothing_and_a_last_layer_writes_itself():
    params = PARAMS[0].at[:, 1].set(0.0), PARAMS[1]
    pairs = vector_pairs(6)._replace(eps=jnp.zeros((FACTORS, 6, UNITS)))
    assert np.all(read_tensor(BoundModel(linear, params, SITES), pairs, "h").values[1] == 0)
    assert np.all(mediation_tensor(BoundModel(linear, params, SITES), pairs, "h").values[1] == 0)
    x, eps = jax.random.normal(jax.random.key(0), (4, FACTORS)), jnp.zeros((4, UNITS))
    own = write_tensor(
        BoundModel(linear, params, SITES), x, eps, "r", doses={"r": jnp.ones(FACTORS)}
    ).values
    expected = np.broadcast_to(np.eye(FACTORS)[..., None], own.shape)
    np.testing.assert_allclose(own, expected, atol=1e-5)


@pytest.fixture(scope="module")
def network():
    model = models.conv_vae(
        (8, 8, 1),
        latent_size=3,
        encoder_channels=(4,),
        encoder_dense=(),
        decoder_dense=(6,),
        decoder_channels=(4,),
    )
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    x0, x1 = (jax.random.uniform(k, (2, 3, 8, 8, 1)) for k in keys[:2])
    pairs = Pairs(x0, x1, jax.random.normal(keys[2], (2, 3, 3)), change=jnp.ones((2, 3)))
    return model, params, pairs


def halves(trace):
    """A nonlinear read-out of two numbers."""
    image = jax.nn.sigmoid(trace.outputs)
    return jnp.stack([image[:4].mean(), jnp.sum(image[4:] ** 2)])


def curved(before, after):
    """A change that is no difference."""
    return jnp.sin(after - before) * after


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["encoder/conv0", "latent/z", "decoder/dense0"])
def test_tensors_of_a_network_equal_plain_loops(network, name):
    model, params, pairs = network
    sites, site = model.sites, model.sites[name]
    forward = jax.jit(model.forward)

    def mediation(p):
        return mediation_tensor(
            BoundModel(model.forward, params, sites), p, name, outcome=halves, change=curved
        ).values

    found = jax.jit(mediation)(pairs)
    values = np.zeros((2, 2, 3, *site.shape), np.float32)
    for k in range(2):
        for i in range(3):
            eps = pairs.eps[k, i]
            reference = forward(params, pairs.x0[k, i], eps, {})
            target = forward(params, pairs.x1[k, i], eps, {})
            values[:, k, i] = reference.activations[name], target.activations[name]
            for u in range(site.num_units):
                lost = forward(
                    params,
                    pairs.x1[k, i],
                    eps,
                    vi.patch(sites, name, reference.activations[name], unit=u),
                )
                expected = curved(halves(lost), halves(target))
                np.testing.assert_allclose(found[u, k, :, i], expected, atol=1e-4)
    read = read_tensor(BoundModel(model.forward, params, sites), pairs, name).values
    for u in range(site.num_units):
        of_unit = values[..., u].reshape(2, 2, 3, -1)
        moved = np.abs(of_unit[1] - of_unit[0]).mean(-1)
        np.testing.assert_allclose(read[u], moved / max(of_unit.std(), 1e-12), atol=1e-4)


@pytest.mark.thorough
def test_positions_of_codes_mediate_but_are_not_read_or_written():
    model = models.vq_vae(
        (8, 8, 1), num_codes=6, code_size=3, encoder_channels=(4, 4), decoder_channels=(4, 4)
    )
    params = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (2, 2, 3, 8, 8, 1))
    pairs = Pairs(x[0], x[1], jnp.zeros((2, 3, 0)), change=jnp.ones((2, 3)))
    name = "latent/codes"
    found = mediation_tensor(model.bind(params), pairs, name, outcome=halves).values
    assert found.shape == (model.sites[name].num_positions, 2, 2, 3)
    with pytest.raises(ValueError, match="without units"):
        read_tensor(model.bind(params), pairs, name)
    with pytest.raises(ValueError, match="without units"):
        write_tensor(model.bind(params), x[0, 0], jnp.zeros((3, 0)), name)


@pytest.mark.thorough
def test_discoveries_are_controlled_over_all_sites_together():
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(2, 3, 3, 40)) * 0.1 + np.eye(3)[None, :, :, None]
    nothing = rng.normal(size=(50, 3, 3, 40))
    table = UnitTable(
        tuple((site, unit) for site, num in (("a", 2), ("b", 50)) for unit in range(num)),
        jnp.concatenate([strong, nothing]),
    )
    found = table.map(
        lambda samples: tensor_estimate(
            jax.random.key(0), samples, intervention="test", bootstrap=Bootstrap(num_replicates=200)
        )
    )
    a, b = (found.sel(site).values for site in "ab")
    np.testing.assert_array_equal(a.significant, np.broadcast_to(np.eye(3) > 0, (2, 3, 3)))
    assert b.significant.mean() < 0.02
    assert b.estimate.value.shape == (50, 3, 3)
    np.testing.assert_allclose(leakage(a.filtered), [0, 0], atol=1e-6)
    own = a.estimate
    assert np.all((own.low <= own.value) & (own.value <= own.high))
    # Alone, the same p-values face a smaller family.
    alone = tensor_estimate(jax.random.key(0), strong, intervention="test")
    assert np.all(alone.p_value[a.significant] < a.p_value[a.significant])


def test_an_effect_below_the_smallest_of_interest_is_not_significant():
    samples = np.full((1, 2, 2, 9), 0.05) + 1e-3 * np.random.default_rng(0).normal(size=9)
    any_size = tensor_estimate(jax.random.key(0), samples, intervention="test")
    of_interest = tensor_estimate(jax.random.key(0), samples, intervention="test", delta=0.1)
    assert any_size.significant.all()
    assert not of_interest.significant.any()


def test_leakage_is_the_share_off_the_diagonal():
    np.testing.assert_allclose(leakage([[3.0, -1.0], [1.0, 3.0]]), 0.25)
    assert leakage(np.eye(4)) == 0
    assert np.isnan(leakage(np.zeros((2, 2))))
    np.testing.assert_allclose(leakage(np.ones((5, 3, 3))), np.full(5, 2 / 3))


def test_agreement_is_the_cosine_over_factors():
    read, write = np.abs(A.T), B.T
    expected = [
        r @ w / np.linalg.norm(r) / np.linalg.norm(w) for r, w in zip(read, write, strict=True)
    ]
    np.testing.assert_allclose(read_write_agreement(read, write), expected)
    assert np.isnan(read_write_agreement([0.0, 0.0], [1.0, 0.0]))
    assert read_write_agreement([1.0, 0.0], [-2.0, 0.0]) == -1


BAD = [
    (lambda: leakage(np.ones((2, 3))), r"\(2, 3\), expected \(\.\.\., factors, factors\)"),
    (lambda: read_write_agreement(np.ones(2), np.ones(3)), "need one shape"),
    (
        lambda: tensor_estimate(jax.random.key(0), np.ones((2, 4)), intervention="", q=1.0),
        "q must lie",
    ),
    (
        lambda: mediation_tensor(BoundModel(linear, PARAMS, SITES), vector_pairs(2), "hh").values,
        "Did you mean 'h'",
    ),
    (
        lambda: write_tensor(
            BoundModel(linear, PARAMS, SITES),
            jnp.ones((2, 3)),
            jnp.ones((2, 5)),
            "h",
            doses={"h": jnp.ones(2)},
        ),
        r"dose has shape \(2,\), expected \(5,\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_default_change_is_a_difference():
    assert factor_effects.difference(jnp.array(1.0), jnp.array(3.0)) == 2
    assert isinstance(linear(PARAMS, jnp.zeros(3), jnp.zeros(5), {}), Trace)
