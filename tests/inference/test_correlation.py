"""Agreement of scores over models: against SciPy and pingouin, and where there is none."""

import jax
import numpy as np
import pytest
from scipy import stats

from vaecausal_jax.inference.correlation import (
    partial_correlation,
    partial_residuals,
    rank_agreement,
    spearman,
)


def models(seed=0, num=20):
    """A common cause of two numbers that are otherwise unrelated."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=num)
    return {
        "cause": cause,
        "x": cause + 0.3 * rng.normal(size=num),
        "y": -2 * cause + 0.3 * rng.normal(size=num),
        "other": rng.normal(size=num),
    }


def test_rank_correlations_are_scipys_with_ties_and_missing_models():
    table = models()
    table["rounded"] = np.round(table["x"])
    table["y"] = np.where(np.arange(20) % 7 == 0, np.nan, table["y"])
    found = rank_agreement(table)
    for i, x in enumerate(table.values()):
        for j, y in enumerate(table.values()):
            kept = ~np.isnan(x + y)
            expected = stats.spearmanr(x[kept], y[kept]).statistic
            np.testing.assert_allclose(found.correlation[i, j], expected, atol=1e-12)
            assert found.num_models[i, j] == kept.sum()
    assert found.names == ("cause", "x", "y", "other", "rounded")


def test_rank_interval_by_hand():
    x = np.array([1.0, 2, 3, 4, 5, 6, 7])
    y = np.array([2.0, 1, 3, 4, 5, 7, 6])
    found = rank_agreement({"x": x, "y": y}, level=0.9)
    r = 1 - 6 * 4 / (7 * 48)
    half = 1.6448536269514722 * np.sqrt((1 + r**2 / 2) / 4)
    np.testing.assert_allclose(found.correlation[0, 1], r, rtol=1e-12)
    np.testing.assert_allclose(found.low[0, 1], np.tanh(np.arctanh(r) - half), rtol=1e-9)
    np.testing.assert_allclose(found.high[0, 1], np.tanh(np.arctanh(r) + half), rtol=1e-9)


def test_rank_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rho = 0.5
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's of a bivariate normal.
    covered = 0
    for _ in range(400):
        x, noise = rng.normal(size=(2, 30))
        found = rank_agreement({"x": x, "y": rho * x + np.sqrt(1 - rho**2) * noise})
        covered += found.low[0, 1] <= truth <= found.high[0, 1]
    assert 0.92 <= covered / 400 <= 0.985


def test_constant_scores_and_few_models_agree_on_nothing():
    found = rank_agreement({"x": [1.0, 2, 3], "constant": [1.0, 1, 1]})
    assert found.correlation[0, 0] == 1
    assert np.isnan(found.low[0, 0])
    assert np.isnan(found.correlation[0, 1])
    two = rank_agreement({"x": [1.0, 2, np.nan], "y": [1.0, 2, 3]})
    assert np.isnan(two.correlation[0, 1])


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("held", [(), ("cause",), ("cause", "other")])
def test_partial_correlation_is_pingouins(ranks, held):
    pingouin = pytest.importorskip("pingouin")
    pandas = pytest.importorskip("pandas")
    table = models(1)
    found = partial_correlation(
        table["x"], table["y"], {name: table[name] for name in held}, ranks=ranks
    )
    method = "spearman" if ranks else "pearson"
    frame = pandas.DataFrame(table)
    if held:
        expected = pingouin.partial_corr(frame, "x", "y", list(held), method=method)
    else:
        expected = pingouin.corr(frame["x"], frame["y"], method=method)
    np.testing.assert_allclose(found.value, expected["r"].iloc[0], atol=1e-9)
    interval = expected["CI95" if "CI95" in expected else "CI95%"].iloc[0]
    np.testing.assert_allclose([found.low, found.high], interval, atol=0.0051)
    assert found.num_seeds == 20


def test_a_common_cause_held_fixed_leaves_nothing():
    table = models(2, 400)
    raw = partial_correlation(table["x"], table["y"])
    held = partial_correlation(table["x"], table["y"], [table["cause"]])
    assert raw.high < -0.9
    assert held.low < 0 < held.high
    left = [partial_residuals(table[name], [table["cause"]]) for name in ("x", "y")]
    np.testing.assert_allclose(np.corrcoef(*left)[0, 1], held.value, rtol=1e-9)


def test_controls_that_repeat_one_another_count_once():
    table = models(3, 12)
    once = partial_correlation(table["x"], table["y"], [table["cause"]])
    twice = partial_correlation(
        table["x"], table["y"], [table["cause"], 2 * table["cause"], np.ones(12)]
    )
    np.testing.assert_allclose(
        [twice.value, twice.low, twice.high], [once.value, once.low, once.high], rtol=1e-6
    )


def test_what_the_controls_explain_wholly_correlates_with_nothing():
    table = models(4, 8)
    found = partial_correlation(3 * table["cause"] + 1, table["y"], [table["cause"]])
    assert np.isnan(found.value)
    few = partial_correlation(table["x"][:4], table["y"][:4], [table["cause"][:4]])
    assert np.isfinite(few.value)
    assert np.isnan(few.low)


def test_residuals_of_a_model_without_a_number_are_missing():
    table = models(5, 10)
    table["cause"][3] = np.nan
    left = partial_residuals(table["x"], {"cause": table["cause"]})
    assert np.flatnonzero(np.isnan(left)).tolist() == [3]
    np.testing.assert_allclose(np.nansum(left), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_agreement({"x": [1.0, 2, 3]}), "two or more columns"),
        (lambda: rank_agreement({"x": [1.0, 2], "y": [1.0]}), r"got \{'x': \(2,\), 'y': \(1,\)\}"),
        (lambda: rank_agreement({"x": [1.0, np.inf], "y": [1.0, 2]}), "x has infinite values"),
        (lambda: rank_agreement({"x": [1.0], "y": [1.0]}, level=95), "between 0 and 1"),
        (lambda: partial_correlation([1.0, 2, 3], [1.0, 2]), r"one length, got \(3,\), \(2,\)"),
        (lambda: partial_correlation([1.0, 2, np.nan], [1.0, 2, 3]), "2 models have every number"),
        (lambda: partial_correlation([1.0, 2, np.inf], [1.0, 2, 3]), "column 0 has infinite"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_perfect_agreement_of_few_models_has_no_interval():
    found = rank_agreement({"x": [1.0, 2, 3, 4, 5], "y": [2.0, 3, 5, 7, 11]})
    assert found.correlation[0, 1] == pytest.approx(1)
    assert np.isnan(found.low[0, 1])
    assert np.isnan(found.high[0, 1])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_traced_rank_correlation_is_scipys_with_ties(wrap):
    a, b = np.random.default_rng(3).integers(0, 6, size=(2, 4, 30)).astype(float)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(wrap(spearman)(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(wrap(spearman)(a, a**3), np.ones(4), atol=1e-6)
    assert np.isnan(wrap(spearman)(np.ones((1, 30)), b)).all()
