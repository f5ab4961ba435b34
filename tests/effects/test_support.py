"""Off-manifold checks: closed forms, brute-force distances, and an illusion to be flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects.support import (
    check_subspace,
    reencode_gaps,
    support_scores,
    unit_support_scores,
)
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Site, Sites, Tape, list_sites

# Re-encode gaps.


def test_a_linear_vae_shrinks_what_it_reencodes_by_noise_over_variance():
    # T16: at the optimum mu(D(z)) = (1 - sigma^2 / lambda) z.
    variance, noise = np.array([5.0, 3.0, 1.5]), 0.5
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 3)))[0]
    decoder = axes * np.sqrt(variance - noise)
    encoder = np.linalg.solve(decoder.T @ decoder + noise * np.eye(3), decoder.T)
    codes, donors = (np.random.default_rng(s).normal(size=(8, 3)) for s in (1, 2))
    sd = np.array([0.5, 2.0, 1.0])
    gaps = reencode_gaps(
        lambda z: jnp.asarray(encoder @ decoder, z.dtype) @ z,
        jnp.asarray(codes, jnp.float32),
        jnp.asarray(donors, jnp.float32),
        sd=sd,
    )
    shrinkage = (noise / variance / sd)[:, None]
    np.testing.assert_allclose(gaps.own, shrinkage * np.abs(donors.T), atol=1e-5)
    np.testing.assert_allclose(gaps.natural, shrinkage * np.abs(codes.T), atol=1e-5)
    for i in range(3):
        rest = np.delete(shrinkage * codes.T, i, axis=0)
        np.testing.assert_allclose(gaps.others[i], np.sqrt((rest**2).mean(0)), atol=1e-5)


def test_a_perfect_inverse_has_no_gap_and_a_latent_that_never_varies_an_infinite_one():
    codes = jnp.stack([jnp.arange(4.0), jnp.ones(4)], axis=1)
    perfect = reencode_gaps(lambda z: z, codes, codes[::-1])
    assert all(np.all(np.asarray(leaf) == 0) for leaf in perfect)
    off = reencode_gaps(lambda z: z + 1, codes, codes)
    assert np.isinf(off.own[1]).all()
    assert np.isfinite(off.own[0]).all()
    one = reencode_gaps(lambda z: 2 * z, codes[:, :1], codes[:, :1])
    assert np.all(np.asarray(one.others) == 0)


# Support.


def brute_scores(queries, bank, own, k):
    def kth(vector, left_out):
        distances = [
            np.sqrt(((vector - b) ** 2).sum()) for j, b in enumerate(bank) if j != left_out
        ]
        return sorted(distances)[k - 1]

    natural = np.array([kth(b, i) for i, b in enumerate(bank)])
    found = np.array([kth(q, o) for q, o in zip(queries, own, strict=True)])
    return np.array(
        [(natural < d - 1e-6).mean() + 0.5 * (np.abs(natural - d) <= 1e-6).mean() for d in found]
    )


@pytest.mark.parametrize("k", [1, 3])
def test_support_scores_equal_a_loop_over_distances(k):
    rng = np.random.default_rng(0)
    bank = (100.0 + rng.normal(size=(23, 2, 3))).astype(np.float32)
    queries = (100.0 + 1.5 * rng.normal(size=(9, 2, 3))).astype(np.float32)
    own = rng.integers(-1, 23, size=9)
    found = support_scores(jnp.asarray(queries), jnp.asarray(bank), own=own, neighbours=k, chunk=4)
    np.testing.assert_allclose(found, brute_scores(queries, bank, own, k), atol=1e-6)


def test_natural_activations_score_evenly_and_far_ones_one():
    bank = jax.random.normal(jax.random.key(0), (40, 4))
    natural = np.sort(support_scores(bank, bank, own=jnp.arange(40)))
    np.testing.assert_allclose(natural, (np.arange(40) + 0.5) / 40, atol=1e-6)
    np.testing.assert_array_equal(support_scores(bank + 100, bank), np.ones(40))


SITES = Sites(
    {
        "dense": Site((5,), jnp.float32, 0),
        "map": Site((2, 3, 4), jnp.float32, 2),
    }
)


@pytest.mark.parametrize("name", ["dense", "map"])
def test_scores_of_every_unit_equal_those_of_the_patched_activations(name):
    site = SITES[name]
    keys = jax.random.split(jax.random.key(0))
    natural, donor = (3.0 + jax.random.normal(k, (17, *site.shape)) for k in keys)
    found = unit_support_scores(SITES, name, natural, donor, neighbours=2)
    for unit in range(site.num_units):
        mask = jnp.arange(site.num_units) == unit
        mask = mask.reshape((1,) * len(site.shape) + (-1,))
        patched = jnp.where(mask, donor, natural)
        expected = support_scores(patched, natural, own=jnp.arange(17), neighbours=2)
        np.testing.assert_allclose(found[unit], expected, atol=1e-6)


def test_resampling_one_half_of_a_rectified_pair_leaves_the_manifold_a_quarter_of_the_time():
    # T25: h+ = relu(z), h- = relu(-z) are never positive together; h+ of a donor beside the run's
    # own h- is so with probability 1/4. All pairs of a symmetric grid, so exactly.
    grid = jnp.concatenate([-jnp.arange(1.0, 13.0), jnp.arange(1.0, 13.0)])
    # Twice each, so that the next natural vector is at distance 0.
    natural = jax.nn.relu(jnp.stack([grid, -grid], axis=1))
    bank = jnp.concatenate([natural, natural, jnp.zeros((2, 2))])
    donor, base = (a.ravel() for a in jnp.meshgrid(natural[:, 0], natural[:, 1]))
    one = support_scores(jnp.stack([donor, base], axis=1), bank, neighbours=1)
    flagged = np.asarray(one) == 1
    np.testing.assert_array_equal(flagged, (donor > 0) & (base > 0))
    assert flagged.mean() == 0.25
    pair = support_scores(jnp.roll(natural, 5, axis=0), bank, neighbours=1)
    assert not np.any(np.asarray(pair) == 1)


# Subspace illusion.

W, DX = 1.7, 1.0


def illusion(params, x, eps, interventions):
    """T18: the feature moves direction a, which nothing reads; b is read, but nothing moves it."""
    rotation, weights = params
    tape = Tape(interventions)
    h = tape(
        "h", (jnp.array([1.0, 0.0, 0.0]) * x[0] + jnp.array([0.0, 0.0, 1.0]) * x[1]) @ rotation
    )
    return tape.trace(tape("y", (rotation @ h) @ weights))


@jax.jit
def run_check(params, basis, x0, x1):
    eps = jnp.zeros((len(x0), 0))
    sites = list_sites(illusion, params, x0[0], eps[0])
    return check_subspace(BoundModel(illusion, params, sites), Pairs(x0, x1, eps), "h", basis)


def check(basis, x0, x1, *, weights, rotation=None):
    rotation = jnp.eye(3) if rotation is None else rotation
    return run_check((rotation, weights), jnp.asarray(basis) @ rotation, x0, x1)


X0 = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)), jnp.float32)
X1 = X0.at[:, 0].add(DX)
ROTATION = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0], jnp.float32)
DORMANT = jnp.array([[0.0], [W], [0.0]])


@pytest.mark.parametrize("rotation", [None, ROTATION], ids=["axes", "rotated"])
def test_the_subspace_illusion_is_flagged(rotation):
    found = check([[1.0, 1.0, 0.0]], X0, X1, weights=DORMANT, rotation=rotation)
    np.testing.assert_allclose(found.subspace_effect, np.full(20, W * DX / 2), rtol=1e-4)
    np.testing.assert_allclose(found.site_effect, np.zeros(20), atol=1e-5)
    np.testing.assert_allclose(found.dormant_share, 0.5, atol=1e-4)
    np.testing.assert_allclose(found.disconnected_share, 0.5, atol=1e-4)
    np.testing.assert_allclose(found.dormant_effect_share, 1, atol=1e-4)
    assert found.exceeds
    assert found.dormant
    assert found.flagged


@pytest.mark.parametrize("rotation", [None, ROTATION], ids=["axes", "rotated"])
@pytest.mark.parametrize("basis", [[[2.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
def test_a_direction_that_carries_the_feature_is_not_flagged(basis, rotation):
    read = jnp.array([[W], [0.3], [0.5]])
    found = check(basis, X0, X1, weights=read, rotation=rotation)
    np.testing.assert_allclose(found.subspace_effect, np.full(20, W * DX), rtol=1e-4)
    np.testing.assert_allclose(found.site_effect, np.full(20, W * DX), rtol=1e-4)
    np.testing.assert_allclose(found.dormant_share, 0, atol=1e-4)
    np.testing.assert_allclose(found.dormant_effect_share, 0, atol=1e-3)
    assert not found.flagged


def test_an_illusion_is_flagged_though_the_site_carries_the_feature_elsewhere():
    # The site as a whole has more effect than the patch, which still works by what never varies.
    read = jnp.array([[1e-3], [W], [0.0]])
    found = check([[1.0, 1.0, 0.0]], X0, 10 * X1, weights=read.at[0].set(2.0))
    assert not found.exceeds
    hidden = check([[0.1, 1.0, 0.0]], X0, X1, weights=jnp.array([[2.0], [30.0], [0.0]]))
    assert hidden.dormant
    assert hidden.flagged


def test_a_patch_without_effect_is_not_flagged():
    found = check([[1.0, 0.0, 0.0]], X0, X1, weights=DORMANT)
    np.testing.assert_allclose(found.disconnected_share, 1, atol=1e-5)
    assert not found.flagged
    same = check([[1.0, 1.0, 0.0]], X0, X0, weights=DORMANT)
    assert not same.flagged


def test_random_sums_of_many_outcomes_find_the_same_connected_directions():
    wide = jnp.asarray(np.random.default_rng(2).normal(size=(3, 60)), jnp.float32)
    read = wide.at[1].set(0.0)
    found = check([[0.0, 1.0, 0.0]], X0, X1, weights=read)
    np.testing.assert_allclose(found.disconnected_share, 1, atol=1e-4)
    part = check([[1.0, 1.0, 0.0]], X0, X1, weights=read)
    np.testing.assert_allclose(part.disconnected_share, 0.5, atol=1e-3)


@pytest.mark.slow
def test_the_check_runs_at_a_convolution_of_a_network():
    model = models.conv_vae(
        (8, 8, 1),
        latent_size=2,
        encoder_channels=(4,),
        encoder_dense=(),
        decoder_dense=(6,),
        decoder_channels=(4,),
    )
    params = model.init(jax.random.key(0))
    x0, x1 = jax.random.uniform(jax.random.key(1), (2, 5, 8, 8, 1))
    eps = jax.random.normal(jax.random.key(2), (5, 2))
    run = jax.jit(
        lambda basis: check_subspace(model.bind(params), Pairs(x0, x1, eps), "encoder/conv0", basis)
    )
    whole = run(jnp.eye(4))
    # All directions together are the whole site.
    np.testing.assert_allclose(whole.subspace_effect, whole.site_effect, rtol=1e-3)
    assert not whole.flagged


def dependent(basis):
    params, eps = (jnp.eye(3), DORMANT), jnp.zeros((20, 0))
    sites = list_sites(illusion, params, X0[0], eps[0])
    return check_subspace(
        BoundModel(illusion, params, sites), Pairs(X0, X1, eps), "h", jnp.asarray(basis)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reencode_gaps(lambda z: z, jnp.ones((3, 2)), jnp.ones((3, 1))), "one shape"),
        (
            lambda: reencode_gaps(lambda z: z, jnp.ones((3, 2)), jnp.ones((3, 2)), sd=jnp.ones(3)),
            r"sd has shape \(3,\)",
        ),
        (lambda: support_scores(jnp.ones((2, 3)), jnp.ones((9, 2))), "need one shape"),
        (lambda: support_scores(jnp.ones((2, 3)), jnp.ones((5, 3))), "expected 1 to 4"),
        (
            lambda: support_scores(jnp.ones((2, 3)), jnp.ones((9, 3)), own=jnp.zeros(3, int)),
            r"own has shape \(3,\)",
        ),
        (
            lambda: unit_support_scores(SITES, "dense", jnp.ones((9, 4)), jnp.ones((9, 4))),
            "need one shape",
        ),
        (
            lambda: unit_support_scores(SITES, "dens", jnp.ones((9, 5)), jnp.ones((9, 5))),
            "Did you mean 'dense'",
        ),
        (lambda: dependent([[1.0, 0.0, 0.0]] * 2), "linearly dependent"),
        (lambda: dependent([[1.0, 0.0]]), r"basis has shape \(1, 2\), expected \(rank, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
