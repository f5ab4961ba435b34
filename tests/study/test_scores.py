"""The disentanglement metrics of a study's models: chance, order and models that broke."""

import jax
import numpy as np
import pytest

from vaecausal_jax.study.scores import score_models


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 900) for size in (3, 4, 5)], axis=1)
    perfect = factors + 0.01 * rng.normal(size=factors.shape)
    noise = rng.normal(size=factors.shape)
    broken = np.where(np.arange(900)[:, None] == 7, np.nan, noise)
    calls = []
    scores = score_models(
        jax.random.key(0),
        np.stack([perfect, broken, noise]),
        factors,
        progress=lambda *call: calls.append(call),
    )
    return scores, calls


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mig", "dci_fast_disentanglement", "factor_vae", "irs"])
def test_perfect_codes_score_high_and_noise_scores_as_chance(scored, name):
    perfect, _, noise = scored[0][name]
    chance = scored[0][f"{name}/chance"][2]  # IRS at chance depends on how codes are spread
    assert perfect > 0.9
    assert abs(noise - chance) < 0.15
    assert noise < perfect - 0.3


def test_a_model_whose_codes_are_not_finite_has_no_score_and_the_rest_have(scored):
    for values in scored[0].values():
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])


def test_progress_names_every_model(scored):
    assert scored[1] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_chance_is_over_as_many_shuffles_as_asked_for():
    rng = np.random.default_rng(1)
    codes, factors = rng.normal(size=(1, 600, 2)), rng.integers(0, 3, (600, 2))
    found = [score_models(jax.random.key(0), codes, factors, num_shuffles=num) for num in (0, 1, 3)]
    assert not any(name.endswith("/chance") for name in found[0])
    assert found[0]["mig"] == found[1]["mig"] == found[2]["mig"]
    assert found[1]["mig/chance"] != found[2]["mig/chance"]
