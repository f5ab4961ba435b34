"""Floors and ceilings, chance and intervals: of any score, and as often right as they say."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from vaecausal_jax import metrics as dis
from vaecausal_jax.metrics import suite
from vaecausal_jax.metrics.predictability import sap_continuous

KEY = jax.random.key(0)


def grid(*sizes):
    axes = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(sizes))


FACTORS = np.repeat(grid(2, 3, 4), 3, axis=0)


def test_reference_codes_are_what_their_names_say():
    codes = dis.reference_codes(KEY, FACTORS)
    np.testing.assert_allclose(codes["perfect"].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(codes["perfect"].std(axis=0), 1, rtol=1e-6)
    gram = codes["perfect"].astype(float) @ codes["perfect"].T
    np.testing.assert_allclose(codes["rotated"].astype(float) @ codes["rotated"].T, gram, atol=1e-5)
    assert np.abs(codes["rotated"] - codes["perfect"]).max() > 0.1
    np.testing.assert_array_equal(codes["duplicated"], np.tile(codes["perfect"], 2))
    np.testing.assert_array_equal(codes["collapsed"], 0)
    assert codes["noise"].shape == FACTORS.shape
    again = dis.reference_codes(KEY, FACTORS)
    assert all(np.array_equal(codes[name], again[name]) for name in codes)
    other = dis.reference_codes(jax.random.key(1), FACTORS)
    assert not np.array_equal(codes["noise"], other["noise"])


def test_floors_and_ceilings_of_the_gap_are_those_of_its_definition():
    found = dis.floors_and_ceilings(KEY, lambda c, f: dis.mig(c, f).value, FACTORS)
    np.testing.assert_allclose([found["perfect"], found["duplicated"]], [1, 0], atol=1e-6)
    assert found["collapsed"] == 0
    assert 0 <= found["rotated"] < 0.5
    assert 0 <= found["noise"] < 0.35


def correlated(rng, rows=120):
    """Two codes of one factor, correlated 0.6 and 0 with it."""
    factor = rng.normal(size=rows)
    noise = rng.normal(size=(rows, 2))
    return np.stack([0.6 * factor + 0.8 * noise[:, 0], noise[:, 1]], axis=1), factor[:, None]


def first_correlation(codes, factors):
    return np.corrcoef(codes[:, 0], factors[:, 0])[0, 1]


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        codes, factors = correlated(rng)
        e = dis.estimate_score(
            jax.random.key(seed), first_correlation, codes, factors, description="", num_shuffles=0
        )
        covered += e.low <= 0.6 <= e.high
    assert 0.91 <= covered / 400 <= 0.98


def test_interval_is_centred_on_the_value_though_resampling_biases_information():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 30, (300, 2))
    codes = rng.normal(size=(300, 3)) + factors[:, :1] / 10
    score = lambda c, f: dis.information(c, f).mutual[2, 1]  # noqa: E731
    resampled = rng.integers(0, 300, 300)
    assert score(codes[resampled], factors[resampled]) > score(codes, factors) + 0.1
    e = dis.estimate_score(KEY, score, codes, factors, description="I", num_replicates=10)
    np.testing.assert_allclose((e.low + e.high) / 2, e.value, rtol=1e-9)


def test_chance_is_the_score_of_shuffled_codes():
    rng = np.random.default_rng(1)
    codes, factors = correlated(rng, 3000)
    e = dis.estimate_score(
        KEY, first_correlation, codes, factors, description="r", num_replicates=0, num_shuffles=20
    )
    assert abs(e.null) < 0.02
    assert np.isnan(e.low)
    assert np.isnan(e.high)
    # Codes alone: rows keep their dependence, columns lose it.
    twice = np.concatenate([codes, codes + 0.1 * rng.normal(size=codes.shape)], axis=1)
    tc = lambda c, f: dis.gaussian_total_correlation(c)  # noqa: E731
    options = {"description": "tc", "num_replicates": 0}
    by_row = dis.estimate_score(KEY, tc, twice, factors, **options)
    by_column = dis.estimate_score(KEY, tc, twice, factors, shuffle=dis.shuffle_columns, **options)
    np.testing.assert_allclose(by_row.null, by_row.value, rtol=1e-6)
    assert by_column.null < 0.01 < by_column.value


def test_rows_are_resampled_inside_the_part_that_trains_and_the_part_that_tests():
    rows = np.arange(30)[:, None]

    def score(codes, factors):
        assert np.array_equal(codes[:, 0] + 100, factors[:, 0])
        return [(codes[:20] < 20).all() and (codes[20:] >= 20).all(), len(np.unique(codes))]

    e = dis.estimate_score(
        KEY, score, rows, rows + 100, description="", num_train=20, num_shuffles=0
    )
    np.testing.assert_array_equal(e.value, [1, 30])
    assert e.low[0] == e.high[0] == 1
    assert e.low[1] < e.high[1]
    assert (e.num_inputs, e.num_seeds) == (30, 1)


# The suite


def test_suite_scores_the_training_rows_and_tests_on_the_others():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 120) for size in (2, 3)], axis=1)
    codes = factors + 0.5 * rng.normal(size=(120, 2))
    names = ("mig", "sap_continuous", "sap_discrete", "dci_lasso", "gaussian_tc", "factor_vae")
    scores = dict(suite.score_suite(KEY, codes, factors, names, num_replicates=2, num_shuffles=1))
    assert tuple(scores) == names
    train = codes[:80], factors[:80]
    np.testing.assert_allclose(scores["mig"][""].value, dis.mig(*train).value, rtol=1e-6)
    np.testing.assert_allclose(scores["sap_continuous"][""].value, sap_continuous(*train).value)
    assert set(scores["dci_lasso"]) == {"disentanglement", "completeness", "informativeness"}
    assert (scores["mig"][""].num_inputs, scores["sap_discrete"][""].num_inputs) == (80, 120)
    for estimates in scores.values():
        for e in estimates.values():
            assert e.low <= e.value <= e.high
            assert isinstance(e.null, float)


SLOW = {"dci_gbt", "dci_boosted", "dci_fast"}


@pytest.mark.thorough
def test_every_metric_runs_and_beats_its_chance_on_perfect_codes():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 150) for size in (2, 3)], axis=1)
    codes = factors + 0.01 * rng.normal(size=(150, 2))
    quick = [name for name in suite.METRICS if name not in SLOW]
    scores = suite.score_suite(KEY, codes, factors, quick, num_replicates=0, num_shuffles=2)
    of_codes = {"gaussian_tc", "gaussian_w2", "mutual_information"}
    for name, estimates in scores:
        for label, e in estimates.items():
            assert np.isfinite(e.value), (name, label)
            if name not in of_codes:
                assert e.value > e.null, (name, label)


@pytest.mark.thorough
def test_scores_neither_read_nor_move_numpys_global_generator():
    # One public library draws its votes from it, so that its scores depend on what ran before.
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 150) for size in (2, 3)], axis=1)
    codes = factors + 0.5 * rng.normal(size=(150, 2))
    names = ("factor_vae", "beta_vae", "sap_discrete", "dci_forest", "infomec")
    found = []
    for seed in (0, 1):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        scores = suite.score_suite(KEY, codes, factors, names, num_replicates=0, num_shuffles=1)
        found.append([(e.value, e.null) for _, of in scores for e in of.values()])
        np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(*found)


def test_votes_are_drawn_from_all_rows_and_predictors_stay_with_theirs():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 200) for size in (2, 3)], axis=1)
    codes = factors + 0.5 * rng.normal(size=(200, 2))
    scores = dict(
        suite.score_suite(
            KEY,
            codes,
            factors,
            ("mig", "sap_discrete", "factor_vae"),
            num_train=60,
            num_test=40,
            num_replicates=0,
            num_shuffles=0,
        )
    )
    rows = {name: of[""].num_inputs for name, of in scores.items()}
    assert rows == {"mig": 60, "sap_discrete": 100, "factor_vae": 200}
    with pytest.raises(ValueError, match="num_test is 141, expected 1 to the 140 rows"):
        suite.score_suite(KEY, codes, factors, ("mig",), num_train=60, num_test=141)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["mgi"]}, "unknown metric 'mgi'. Did you mean 'mig'"),
        ({"num_train": 500}, "num_train is 500, expected 1 to 71"),
        ({"factors": FACTORS[:, :1]}, "at least 2 factors"),
        ({"codes": np.ones((72, 1))}, "and 2 codes"),
    ],
)
def test_suite_refuses_at_once(options, message):
    arguments = {"codes": FACTORS, "factors": FACTORS, **options}
    with pytest.raises(ValueError, match=message):
        suite.score_suite(KEY, arguments.pop("codes"), arguments.pop("factors"), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicates": 1}, "num_replicates is 1"),
        ({"num_shuffles": -1}, "num_shuffles -1"),
        ({"level": 95}, "between 0 and 1"),
    ],
)
def test_intervals_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dis.estimate_score(
            KEY, first_correlation, FACTORS[:, :2], FACTORS, description="", **options
        )


@pytest.mark.thorough
def test_information_scores_need_no_scikit_learn():
    code = """
import sys
sys.modules["sklearn"] = None  # Any import of it fails.
import numpy as np
import vaecausal_jax
from vaecausal_jax import metrics
x = np.arange(20)[:, None] // [10, 5, 2]
assert metrics.mig(x, x).value > 0
assert metrics.irs(x, x).value > 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
