"""Scores from mutual information: bins to the bit, hand-worked tables, grids of known score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecausal_jax import metrics as dis

LEVELS = st.sampled_from([2, 3, 5, 6, 11, 20, 21, 40, 41, 100])


def grid(*sizes):
    """Every combination of levels once."""
    axes = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(sizes))


def numpy_bins(column, num_bins):
    """The field's discretiser: edges of the histogram without the last."""
    return np.digitize(column, np.histogram(column, num_bins)[1][:-1]) - 1


def plug_in(x, y):
    """Mutual information in nats by a loop over the cells."""
    total = 0.0
    for a in np.unique(x):
        for b in np.unique(y):
            joint = np.mean((x == a) & (y == b))
            if joint:
                total += joint * np.log(joint / (np.mean(x == a) * np.mean(y == b)))
    return total


# Bins


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(2, 25),
    LEVELS,
    st.sampled_from([np.float32, np.float64, np.int16]),
    st.booleans(),
)
def test_bins_are_those_of_numpys_histogram_to_the_bit(seed, num_bins, levels, dtype, on_grid):
    rng = np.random.default_rng(seed)
    scale, shift = 10.0 ** rng.uniform(-2, 2), rng.normal() * 3
    values = rng.integers(0, levels, (200, 2)) if on_grid else rng.normal(size=(200, 2)) * 9
    if dtype is not np.int16:
        values = values * scale + shift
    values = values.astype(dtype)
    expected = np.stack([numpy_bins(column, num_bins) for column in values.T], axis=1)
    varies = np.ptp(values, axis=0) > 0  # A constant is one bin, whichever its number.
    np.testing.assert_array_equal(dis.discretise(values, num_bins)[:, varies], expected[:, varies])


@pytest.mark.parametrize("levels", [21, 41, 61, 201])
def test_traced_bins_are_those_of_numpy_even_with_values_on_the_edges(levels):
    # Every second to tenth level lies on an edge up to rounding, so rounding decides its bin.
    traced = jax.jit(dis.discretise)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, levels, (300, 3)) * rng.uniform(0.01, 3, 3) + rng.normal(size=3)
        values = values.astype(np.float32)
        np.testing.assert_array_equal(traced(values), dis.discretise(values))


def test_a_constant_is_one_bin_and_the_maximum_is_in_the_last():
    bins = dis.discretise(np.array([[0.0, 7.0], [0.5, 7.0], [1.0, 7.0]]), 4)
    np.testing.assert_array_equal(bins[:, 0], [0, 2, 3])
    assert len(set(bins[:, 1])) == 1


# Information


def test_information_of_a_table_worked_by_hand():
    codes, factors = np.array([[0], [0], [0], [1]]), np.array([[5], [5], [9], [9]])
    info = dis.information(codes, factors, num_bins=2)
    expected = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2)
    np.testing.assert_allclose(info.mutual, [[expected]], rtol=1e-6)
    np.testing.assert_allclose(info.factor_entropy, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(
        info.code_entropy, [-0.75 * np.log(0.75) - 0.25 * np.log(0.25)], rtol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_information_is_that_of_a_loop_over_cells(seed):
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, size, 120) for size in (2, 7)], axis=1)
    codes = rng.normal(size=(120, 3)) + factors[:, :1]
    info = dis.information(codes, factors, num_bins=6)
    bins = dis.discretise(codes, 6)
    expected = [[plug_in(b, v) for v in factors.T] for b in bins.T]
    np.testing.assert_allclose(info.mutual, expected, atol=1e-6)
    np.testing.assert_allclose(info.code_entropy, [plug_in(b, b) for b in bins.T], atol=1e-6)
    between = dis.mutual_information_score(codes, num_bins=6)
    expected = [[0 if i is j else plug_in(i, j) for j in bins.T] for i in bins.T]
    expected = np.array(expected) * ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(between.matrix, expected, atol=1e-6)
    np.testing.assert_allclose(between.value, expected.sum() / 6, atol=1e-6)


def test_factor_values_of_any_kind_are_levels():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 4, (100, 1))
    codes = rng.normal(size=(100, 2)) + levels
    names = np.array([-5, 0, 10**9, 10**9 + 1])
    expected = dis.mig(codes, levels)
    for values in (names[levels], (0.1 * levels).astype(np.float32), levels.astype(float)):
        np.testing.assert_allclose(dis.mig(codes, values).value, expected.value, rtol=1e-6)


# Grids whose scores are known

FACTORS = grid(3, 4, 5)
SCORES = {
    "mig": dis.mig,
    "mig_sup": dis.mig_sup,
    "jemmig": dis.jemmig,
    "modularity": dis.modularity,
}
ENTROPY = np.log([3, 4, 5])


@pytest.mark.parametrize(
    ("name", "codes", "expected"),
    [
        ("mig", FACTORS, 1),
        ("mig_sup", FACTORS, 1),
        ("jemmig", FACTORS, 1),
        ("modularity", FACTORS, 1),
        ("mig", np.tile(FACTORS, 2), 0),
        ("mig_sup", np.tile(FACTORS, 2), 1),
        ("jemmig", np.tile(FACTORS, 2), 1 - np.mean(ENTROPY / (ENTROPY + np.log(20)))),
        ("modularity", np.tile(FACTORS, 2), 1),
        ("mig", np.zeros((60, 3)), 0),
        ("mig_sup", np.zeros((60, 3)), 0),
        ("jemmig", np.zeros((60, 3)), 1 - np.mean(ENTROPY / (ENTROPY + np.log(20)))),
        ("modularity", np.zeros((60, 3)), 0),
    ],
)
def test_perfect_duplicated_and_collapsed_codes_score_what_the_definitions_say(
    name, codes, expected
):
    np.testing.assert_allclose(SCORES[name](codes, FACTORS).value, expected, atol=1e-6)


def test_a_code_of_two_factors_at_once_is_not_modular_but_keeps_its_gap():
    factors = grid(4, 4)
    both = factors @ np.array([[4], [1]])  # 16 levels: it knows both factors, alike
    codes = np.concatenate([both, np.zeros((16, 1))], axis=1)
    np.testing.assert_allclose(dis.modularity(codes, factors).parts, [0, 0], atol=1e-6)
    np.testing.assert_allclose(dis.mig_sup(codes, factors).parts, [0, 0], atol=1e-6)
    np.testing.assert_allclose(dis.mig(codes, factors).value, 1, atol=1e-6)
    # JEMMIG alone sees that the code holds ln 4 more than each factor.
    spare = np.log(4) / (np.log(4) + np.log(20))
    np.testing.assert_allclose(dis.jemmig(codes, factors).value, 1 - spare, atol=1e-6)


def test_fewer_bins_than_levels_cap_the_gap():
    # 40 levels in 20 bins of two levels: a perfect code knows ln 20 of ln 40.
    factors = grid(40, 3)
    score = dis.mig(factors, factors)
    np.testing.assert_allclose(score.parts, [np.log(20) / np.log(40), 1], atol=1e-6)


def test_noise_is_far_from_zero_in_modularity_and_inactive_codes_lower_it():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 4000) for size in (3, 6, 40, 32, 32)], axis=1)
    assert 0.6 < dis.modularity(rng.normal(size=(4000, 10)), factors).value < 0.72
    tiny = np.concatenate([factors, 0.01 * rng.normal(size=(4000, 5))], axis=1)
    assert dis.modularity(factors, factors).value > 0.99
    assert 0.8 < dis.modularity(tiny, factors).value < 0.87


# Laws


def entangled(seed, rows=300):
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, size, rows) for size in (3, 5, 4)], axis=1)
    codes = factors @ rng.normal(size=(3, 4)) + rng.normal(size=(rows, 4))
    return codes.astype(np.float32), factors


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_order_sign_and_scale_of_codes_do_not_matter(score):
    codes, factors = entangled(0)
    expected = score(codes, factors).value
    rows = np.random.default_rng(1).permutation(len(codes))
    for changed, labels in (
        (codes[:, [2, 0, 3, 1]], factors),
        (codes * np.array([-1, 1, -1, 1], np.float32), factors),
        (codes * np.array([4, 0.5, 1, 2], np.float32), factors),
        (codes, factors[:, [1, 2, 0]]),
        (codes[rows], factors[rows]),
    ):
        np.testing.assert_allclose(score(changed, labels).value, expected, atol=1e-6)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_many_models_at_once_score_as_one_by_one(score):
    codes, factors = entangled(0)
    models = np.stack([codes, entangled(1)[0], codes[:, ::-1]])
    together = jax.vmap(score, in_axes=(0, None))(jnp.asarray(models), factors)
    for i, model in enumerate(models):
        alone = score(model, factors)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a, b[i], atol=1e-6)


def test_rotation_lowers_the_gap_and_keeps_nothing_on_an_axis():
    factors = grid(4, 4, 4)
    rotated = dis.reference_codes(jax.random.key(0), factors)["rotated"]
    for score in (dis.mig, dis.mig_sup):
        assert score(rotated, factors).value < 0.5 * score(factors, factors).value


GOOD = entangled(0, 20)
BAD_CALLS = {
    "codes transposed": (
        lambda: dis.mig(GOOD[0].T, GOOD[1]),
        r"factors have shape \(20, 3\), expected \(4, factors\)",
    ),
    "one code": (lambda: dis.mig(GOOD[0][:, :1], GOOD[1]), r"at least 2 rows and 2 codes\."),
    "one factor": (lambda: dis.modularity(GOOD[0], GOOD[1][:, :1]), "at least 2 factors"),
    "one factor, codes' gap": (lambda: dis.mig_sup(GOOD[0], GOOD[1][:, :1]), "2 factors"),
    "models not mapped": (
        lambda: dis.mig(np.ones((2, 20, 3)), GOOD[1]),
        "Use jax.vmap over models",
    ),
    "a vector": (lambda: dis.mig(np.ones(20), GOOD[1]), r"shape \(20,\), expected \(rows, codes\)"),
    "nan": (
        lambda: dis.mig(np.where(np.eye(20, 4, 1) > 0, np.nan, 1.0), GOOD[1]),
        r"codes\[0, 1\] is nan, expected finite",
    ),
    "text": (lambda: dis.mig(np.full((20, 3), "a"), GOOD[1]), "expected real numbers"),
    "constant factor": (
        lambda: dis.mig(GOOD[0], np.concatenate([GOOD[1], np.ones((20, 1))], axis=1)),
        "factor 3 has one level.*colour of dSprites",
    ),
    "continuous factor": (
        lambda: dis.mig(GOOD[0], GOOD[0].astype(np.float64)),
        "factor 0 looks continuous: 20 values in 20 rows.*discretise",
    ),
    "nan factor": (
        lambda: dis.mig(GOOD[0], np.full((20, 2), np.nan)),
        "factor 0, of dtype float64, has entries that are no finite numbers",
    ),
    "traced factors": (
        lambda: jax.vmap(dis.mig)(jnp.ones((2, 20, 3)), jnp.ones((2, 20, 3), int)),
        r"factors are traced.*in_axes=\(0, None\)",
    ),
    "one bin": (lambda: dis.mig(*GOOD, num_bins=1), "num_bins is 1, expected 2 to 4096"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_arrays_that_cannot_be_scored_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
