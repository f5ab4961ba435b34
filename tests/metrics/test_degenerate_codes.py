"""Codes and factors at the edge: one column, no variation, no rank, few rows, other dtypes.

A law for every function of codes: a number that is right, or a refusal that says what is wrong with
which column; never a bare NaN. Then the right numbers, by hand.
"""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_api import functions_with
from score_calls import call

from vaecausal_jax import metrics as dis
from vaecausal_jax.inference import Estimate
from vaecausal_jax.metrics import arrays, dci, infomec, predictability, udr
from vaecausal_jax.study.scores import score_models

SCORES = {
    name: function
    for name, function in functions_with("codes").items()
    if name.startswith(("metrics.", "study.scores."))
    and "shuffle_" not in name  # They rearrange codes, and compute nothing.
}
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FACTORS = np.stack([RNG.integers(0, size, 90) for size in (3, 4)], axis=1)
NOISE = RNG.normal(size=(90, 3)).astype(np.float32)
CODES = np.concatenate([FACTORS, FACTORS[:, :1]], axis=1).astype(np.float32) + 0.3 * NOISE
HOLED = np.where(np.arange(270).reshape(90, 3) == 10, np.nan, CODES)


def with_third(column: np.ndarray) -> np.ndarray:
    return np.concatenate([CODES[:, :2], column[:, None].astype(np.float32)], axis=1)


CASES = {
    "one code": (CODES[:, :1], FACTORS),
    "one factor": (CODES, FACTORS[:, :1]),
    "constant codes": (np.full((90, 3), 0.1, np.float32), FACTORS),
    "a constant code": (with_third(np.full(90, 0.1)), FACTORS),
    "a duplicate": (with_third(CODES[:, 0]), FACTORS),
    "a sum of codes": (with_third(CODES[:, 0] + CODES[:, 1]), FACTORS),
    "half precision": ((1e4 * CODES).astype(np.float16), FACTORS),
    "bfloat16": (jnp.asarray(CODES, jnp.bfloat16), FACTORS),
    "other byte order": (CODES.astype(">f4"), FACTORS.astype(">i8")),
    "truth values": (CODES > 1, FACTORS),
    "bytes": (np.where(CODES > 1, 127, -128).astype(np.int8), FACTORS.astype(np.uint8)),
    "tiny": (CODES * 1e-25, FACTORS),
    "two rows": (CODES[:2], np.array([[0, 1], [1, 0]])),
}
REFUSED = {
    "one row": (CODES[:1], FACTORS[:1], r"\(1, 3\)|1 row|has one level"),
    "no code": (CODES[:, :0], FACTORS, r"\(90, 0\)|no code"),
    "a code that is no number": (HOLED, FACTORS, r"codes\[3, 1\] is nan|factor 1, .* no finite"),
}
REFUSED_FACTORS = {
    "a constant factor": (FACTORS * [1, 0], "factor 1 (has one level|is constant)"),
    "no factor": (FACTORS[:, :0], r"\(90, 0\)"),
    "a factor that is no number": (HOLED[:, :2].round(), r"factor 1.*no finite|\[3, 1\] is nan"),
}


def numbers(result) -> list[np.ndarray]:
    """Every number of a result, of an estimate its value alone: it has no interval here."""
    leaves = jax.tree.leaves(result, is_leaf=lambda leaf: isinstance(leaf, Estimate))
    leaves = [leaf.value if isinstance(leaf, Estimate) else leaf for leaf in leaves]
    return [np.asarray(leaf) for leaf in leaves if not isinstance(leaf, str)]


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_at_the_edge_is_a_number_or_a_refusal_in_words(name, case):
    codes, factors = CASES[case]
    if name.endswith("infomec") or "joint_information" in name:  # Of few values.
        codes = np.asarray(codes, np.float32).round().astype(np.asarray(codes).dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            found = numbers(call(name, SCORES[name], codes, factors))
        except ValueError as error:
            assert any(word in str(error) for word in ("code", "factor", "rows"))  # noqa: PT017
            return
    if "udr" in name:  # No model is its own partner.
        found = [np.nan_to_num(a, nan=0.0) for a in found]
    if "total_correlation" in name or "suite" in name:  # Infinite is the value of collinear codes.
        found = [np.nan_to_num(a, posinf=0.0) for a in found]
    assert all(np.isfinite(a).all() for a in found if a.dtype.kind == "f")


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", sorted(SCORES))
def test_codes_that_cannot_be_scored_are_refused(name, case):
    codes, factors, message = REFUSED[case]
    if "joint_information" in name:  # Of few values.
        codes = codes.round()
    if "metrics.causal" in name and case == "one row":  # One sample is a mean already.
        assert all(np.isfinite(a).all() for a in numbers(call(name, SCORES[name], codes, factors)))
        return
    if name == "study.scores.score_models" and "number" in case:  # It leaves such a model out.
        assert not call(name, SCORES[name], codes, factors)
        return
    with pytest.raises(ValueError, match=message):
        call(name, SCORES[name], codes, factors)


@pytest.mark.parametrize("case", REFUSED_FACTORS)
@pytest.mark.parametrize("name", sorted(set(SCORES) & set(functions_with("factors"))))
def test_factors_that_cannot_be_scored_are_refused(name, case):
    factors, message = REFUSED_FACTORS[case]
    with pytest.raises(ValueError, match=message):
        call(name, SCORES[name], CODES.round(), factors)


# The right numbers.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(20))
def test_total_correlation_of_collinear_codes_is_infinite_whatever_their_rounding(seed, dtype):
    rng = np.random.default_rng(seed)
    codes = (rng.normal(size=(500, 4)) + 3 * rng.normal(size=4)).astype(dtype)
    weights = rng.normal(size=4).astype(dtype)
    for last in (codes[:, 0], -3 * codes[:, 1] + 2, codes @ weights, codes.sum(axis=1)):
        collinear = np.concatenate([codes, last[:, None]], axis=1)
        assert dis.gaussian_total_correlation(collinear) == math.inf
        assert dis.gaussian_total_correlation(100 * collinear) == math.inf
    assert dis.gaussian_total_correlation(codes) < 0.1


@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-5, 1e-7, 1e-9])
def test_total_correlation_of_nearly_equal_codes_is_that_of_their_correlation(noise):
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(1000, 3)))
    basis, _ = np.linalg.qr(basis - basis.mean(axis=0))
    codes = np.stack([basis[:, 0], basis[:, 0] + noise * basis[:, 1]], axis=1)
    expected = 0.5 * math.log1p(noise**-2)
    np.testing.assert_allclose(dis.gaussian_total_correlation(codes), expected, rtol=1e-6)


def test_total_correlation_needs_more_rows_than_codes():
    with pytest.raises(ValueError, match="3 rows of 3 codes.*at least 4 rows"):
        dis.gaussian_total_correlation(CODES[:3])


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e25, 1e180])
def test_standardised_columns_do_not_depend_on_their_scale(scale):
    expected = dci.standardise(CODES.astype(np.float64), CODES[:5].astype(np.float64))
    dtype = np.float32 if scale < 1e30 else np.float64
    found = dci.standardise((CODES * dtype(scale)).astype(dtype), (CODES[:5] * dtype(scale)))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_half_precision_scores_as_single():
    half = CODES.astype(np.float16)
    for score in (dis.mig, predictability.sap_discrete, dci.dci_lasso, dis.irs):
        chosen, same = (score(z, FACTORS) for z in (half, half.astype(np.float32)))
        for a, b in zip(chosen, same, strict=True):
            np.testing.assert_array_equal(a, b)
    assert arrays.check_codes(half).dtype == np.float32


@pytest.mark.parametrize("concentration", [dci.disentanglement, dci.completeness])
def test_importances_of_one_column_or_that_are_no_weights_are_refused(concentration):
    one = np.ones((3, 1)) if concentration is dci.disentanglement else np.ones((1, 3))
    with pytest.raises(ValueError, match="is of one (factor|code), expected 2 or more"):
        concentration(one)
    with pytest.raises(ValueError, match=r"importance\[0, 1\] is nan"):
        concentration([[1.0, np.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"importance\[1, 0\] is -1.0"):
        concentration([[1.0, 0.0], [-1.0, 1.0]])
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(codes, factors\)"):
        concentration(np.ones(3))


def test_codes_beyond_single_precision_are_refused_and_such_a_model_left_out_of_a_study():
    with pytest.raises(ValueError, match=r"code 2 spreads over .*e\+25, expected less than 1e\+15"):
        dis.factor_vae_score(KEY, CODES * 1e25, FACTORS)
    found = score_models(KEY, np.stack([CODES, CODES * 1e25]), FACTORS)
    assert all(np.isnan(column[1]) and np.isfinite(column[0]) for column in found.values())


def test_messages_name_the_column_of_the_table_that_was_given():
    codes = np.stack([np.ones(90), FACTORS[:, 0], CODES[:, 0]], axis=1)
    with pytest.raises(ValueError, match=r"code 2 looks continuous.*discretise\(codes, 20\)"):
        infomec.infomec(codes, FACTORS)
    with pytest.raises(ValueError, match=r"kl\[1, 0\] is nan.*diverged"):
        udr.udr_spearman(np.stack([CODES, CODES]), np.array([[1.0, 1, 1], [np.nan, 1, 1]]))
    with pytest.raises(ValueError, match=r"association\[1, 0\] is nan"):
        dis.top_latents(np.array([[1.0, 0.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"responses\[0, 1\] is nan"):
        dis.causal_disentanglement_score(jnp.array([[1.0, jnp.nan], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="no latent responds"):
        dis.causal_disentanglement_score(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(1, 2\).*at least 2 factors"):
        dis.causal_disentanglement_score(jnp.ones((1, 2)))
    three = np.array([[0, 1], [1, 0], [0, 0]])
    with pytest.raises(ValueError, match="factor 0 has one level in the last 1 rows, which test"):
        dci.dci_lasso(CODES[:3], three)
    with pytest.raises(ValueError, match="factor 0 has one level.* in the 1 rows that test"):
        predictability.explicitness(CODES[:3], three)
    rare = (np.arange(90) % 20 == 7) & (np.arange(90) < 60)
    with pytest.raises(ValueError, match=r"factor 1 .* in the 30 rows that test"):
        predictability.explicitness(CODES, np.stack([FACTORS[:, 0], rare], axis=1))
