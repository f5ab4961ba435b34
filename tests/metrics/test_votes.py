"""FactorVAE, Z-max and Z-diff: closed forms, grids, and plain NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import metrics as dis
from vaecausal_jax.metrics import votes

KEY = jax.random.key(0)
FEW = {"num_train": 600, "num_eval": 400, "batch_size": 16}


def grid(*sizes):
    axes = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(sizes))


FACTORS = grid(3, 4, 5)
PERFECT = FACTORS.astype(np.float32)


def test_codes_far_from_the_origin_score_alike():
    codes = PERFECT + 0.1 * np.random.default_rng(2).normal(size=(60, 3))
    far, near = (dis.factor_vae_score(KEY, c, FACTORS, **FEW) for c in (codes + 1e6, codes))
    np.testing.assert_allclose(far.value, near.value, atol=1e-6)


def test_perfect_codes_score_one_and_collapsed_ones_zero():
    assert dis.factor_vae_score(KEY, PERFECT, FACTORS, **FEW).value == 1
    assert dis.z_max_variance_score(KEY, PERFECT, FACTORS, **FEW).value == 1
    assert dis.factor_vae_score(KEY, np.zeros((60, 3)), FACTORS, **FEW).value == 0
    assert dis.z_max_variance_score(KEY, np.zeros((60, 3)), FACTORS, **FEW).value == 0


@pytest.mark.parametrize("score", [dis.factor_vae_score, dis.z_max_variance_score])
def test_noise_scores_near_chance(score):
    rng = np.random.default_rng(0)
    factors = np.repeat(FACTORS, 10, axis=0)
    value = score(KEY, rng.normal(size=(600, 2)), factors, num_train=4000, num_eval=4000).value
    assert abs(value - 1 / 3) < 0.06


def test_duplicated_codes_still_score_one_and_rotated_ones_less():
    codes = dis.reference_codes(KEY, FACTORS)
    assert dis.factor_vae_score(KEY, codes["duplicated"], FACTORS, **FEW).value == 1
    assert dis.factor_vae_score(KEY, codes["rotated"], FACTORS, **FEW).value < 0.95


def test_dead_codes_vote_only_without_a_threshold():
    # A dead code that follows factor 0 alone: by relative variance it would win its votes.
    codes = np.stack([1e-3 * PERFECT[:, 0], PERFECT[:, 1], PERFECT[:, 2]], axis=1)
    pruned = dis.factor_vae_score(KEY, codes, FACTORS, **FEW)
    kept = dis.factor_vae_score(KEY, codes, FACTORS, threshold=0.0, **FEW)
    assert kept.value == 1
    assert pruned.value < 1
    assert pruned.matrix[0].sum() == 0
    assert kept.matrix.sum() == pruned.matrix.sum() == FEW["num_train"]


def test_accuracy_is_that_of_the_majority_table():
    rng = np.random.default_rng(0)
    codes = PERFECT @ rng.normal(size=(3, 4)) + 0.3 * rng.normal(size=(60, 4))
    score = dis.factor_vae_score(KEY, codes, FACTORS, num_train=3000, num_eval=3000, batch_size=16)
    # Same votes to train and to test would give this; fresh ones come near.
    train = np.asarray(score.matrix)
    assert abs(train.max(axis=1).sum() / train.sum() - score.value) < 0.05
    assert np.all((score.parts >= 0) & (score.parts <= 1))


def test_batch_variance_is_numpys_and_zero_for_a_constant():
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(50, 3)) + 100).astype(np.float32)
    codes[:, 1] = 0.1
    rows = rng.integers(0, 50, (20, 8))
    variance = votes._variance(jnp.asarray(codes), rows)
    expected = codes.astype(np.float64)[rows].var(axis=1, ddof=1)
    np.testing.assert_allclose(variance[:, ::2], expected[:, ::2], rtol=1e-4)
    np.testing.assert_array_equal(variance[:, 1], 0)


def test_rows_of_a_group_share_their_label_and_are_all_there():
    labels = np.random.default_rng(0).integers(0, 7, (100, 3))
    groups = votes.group_rows(labels)
    for j in range(3):
        for row in range(100):
            begin, count = groups.begin[j, row], groups.count[j, row]
            members = groups.order[j, begin : begin + count]
            np.testing.assert_array_equal(
                np.sort(members), np.flatnonzero(labels[:, j] == labels[row, j])
            )


def test_many_models_at_once_score_as_one_by_one():
    rng = np.random.default_rng(0)
    models = (PERFECT[None] @ rng.normal(size=(2, 3, 4))).astype(np.float32)
    for score in (
        lambda codes: dis.factor_vae_score(KEY, codes, FACTORS, **FEW),
        lambda codes: dis.irs(codes, FACTORS),
    ):
        together = jax.vmap(score)(models)
        for i, codes in enumerate(models):
            for a, b in zip(score(codes), together, strict=True):
                np.testing.assert_allclose(a, b[i], atol=1e-6)


# Z-diff


def test_pairs_share_one_factor_and_differ_in_the_others():
    features, shared = dis.difference_features(KEY, PERFECT, FACTORS, num=300, batch_size=50)
    features, shared = np.asarray(features), np.asarray(shared)
    assert set(shared) == {0, 1, 2}
    for j, size in enumerate((3, 4, 5)):
        np.testing.assert_array_equal(features[shared == j, j], 0)
        # E abs(a - b) of independent uniform levels is (n^2 - 1) / (3 n).
        mean = features[shared != j, j].mean()
        np.testing.assert_allclose(mean, (size**2 - 1) / (3 * size), rtol=0.05)


def test_rescaled_accuracy_is_zero_at_chance_and_one_at_one():
    np.testing.assert_allclose(dis.above_chance(np.array([0.25, 1.0]), 4), [0, 1], atol=1e-7)


BAD_CALLS = {
    "no minimal pair": (
        lambda: dis.z_max_variance_score(KEY, np.eye(3), np.eye(3, dtype=int)),
        "no two rows agree on all factors but factor 0: pass a full grid",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
