"""Specificity: formulas, what noise scores, and verdicts that carry their evidence."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.effects import specificity as sp
from vaecausal_jax.inference import Bootstrap

KEY = jax.random.key(0)
indices_of = jax.jit(sp.specificity, static_argnames="eps")


def leaking(num_factors, leak):
    """Energy one on a factor, ``leak`` on all others."""
    return jnp.full(num_factors, leak).at[1].set(1.0)


# --- indices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leak", [0.05, 0.15, 0.7, 1.0])
@pytest.mark.parametrize("num_factors", [2, 5, 10])
def test_uniform_leak_has_the_indices_of_the_formulas(num_factors, leak):
    # T11.
    f, e = num_factors, leak
    found = indices_of(leaking(f, e))
    s = 1 + (f - 1) * e
    entropy = math.log(s) - (f - 1) * e * math.log(e) / s
    expected = sp.Specificity(
        entropic=1 - entropy / math.log(f),
        paper=1 / (entropy + 1e-8),
        participation_ratio=s**2 / (1 + (f - 1) * e**2),
        effective_factors=math.exp(entropy),
        tau=1 - e,
        top_share=1 / s,
        selectivity=(1 - e) / (1 + e),
    )
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_planted_leak_has_the_published_entropic_specificity():
    np.testing.assert_allclose(indices_of(leaking(4, 0.15**2)).entropic, 0.77982, atol=1e-5)


def test_one_factor_is_perfectly_specific_and_all_alike_not_at_all():
    perfect, uniform = indices_of(jnp.eye(4)[2]), indices_of(jnp.full(4, 0.3))
    np.testing.assert_allclose(perfect, (1, 1e8, 1, 1, 1, 1, 1), rtol=1e-6)
    np.testing.assert_allclose(uniform, (0, 1 / math.log(4), 4, 4, 0, 0.25, 0), atol=1e-5)


def test_a_dead_unit_has_no_specificity_and_does_not_disturb_its_neighbours():
    # The paper's index would give it the maximum, 1 / eps.
    energies = jnp.stack([leaking(3, 0.2), jnp.zeros(3)])
    for values in indices_of(energies):
        assert np.isnan(values[1])
        assert np.isfinite(values[0])


@pytest.mark.parametrize("seed", range(3))
def test_indices_do_not_depend_on_scale_or_order_and_keep_their_bounds(seed):
    rng = np.random.default_rng(seed)
    energies = rng.exponential(size=(20, 6)) ** 3
    found = indices_of(jnp.asarray(energies, float))
    changed = indices_of(jnp.asarray(1e-9 * energies[:, rng.permutation(6)], float))
    for name in found._fields:
        np.testing.assert_allclose(getattr(changed, name), getattr(found, name), rtol=1e-4)
    for name in ("entropic", "tau", "selectivity"):
        assert np.all((getattr(found, name) >= 0) & (getattr(found, name) <= 1))
    for name in ("participation_ratio", "effective_factors"):
        assert np.all((getattr(found, name) >= 1) & (getattr(found, name) <= 6))
    # Renyi entropies fall with their order.
    assert np.all(found.participation_ratio <= found.effective_factors + 1e-5)
    assert np.all(1 / found.top_share <= found.participation_ratio + 1e-5)


# --- what noise scores --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_factors", "published"), [(3, 0.393), (5, 0.337), (6, 0.319), (10, 0.275)]
)
def test_noise_scores_as_published_and_as_simulated(num_factors, published):
    assert round(sp.noise_specificity(num_factors), 3) == published
    energies = np.random.default_rng(0).normal(size=(40_000, num_factors)) ** 2
    found = indices_of(jnp.asarray(energies, float))
    sample, expected = np.asarray(found.entropic), sp.noise_specificity(num_factors)
    np.testing.assert_allclose(sample.mean(), expected, atol=4 * sample.std() / 200)


def planted(num_images=60, seed=0):
    """20 units each: one factor, two factors, nothing but noise, exactly nothing."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(80, 5, num_images))
    samples[:20, 3] += 1.5
    samples[20:40, :2] += 1.2
    samples[60:] = 0
    return samples


ONE, TWO, NOISE, NOTHING = (slice(20 * i, 20 * i + 20) for i in range(4))


@pytest.fixture(scope="module")
def corrected():
    return sp.corrected_specificity(KEY, planted())


def test_correction_gates_dead_units_and_sets_noise_to_zero(corrected):
    assert corrected.active[ONE].all()
    assert corrected.active[TWO].all()
    assert corrected.active[NOISE].mean() <= 0.1
    assert not corrected.active[NOTHING].any()
    np.testing.assert_array_equal(np.isnan(corrected.corrected), ~corrected.active)
    # Flips of independent noise score what the psi functions say.
    np.testing.assert_allclose(corrected.null.mean(), sp.noise_specificity(5), atol=0.01)
    noise = (corrected.raw - corrected.null)[NOISE]
    assert abs(noise.mean()) < 4 * noise.std() / math.sqrt(20)


def test_correction_keeps_one_factor_near_one_and_two_factors_in_between(corrected):
    assert np.median(corrected.corrected[ONE]) > 0.7
    two = 1 - math.log(2) / math.log(5)
    expected = (two - sp.noise_specificity(5)) / (1 - sp.noise_specificity(5))
    assert abs(np.median(corrected.corrected[TWO]) - expected) < 0.1


def test_correlated_read_outs_raise_the_null():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(30, 1, 60))
    samples = np.concatenate(
        [common + 0.1 * rng.normal(size=(30, 4, 60)), rng.normal(size=(30, 1, 60))], 1
    )
    null = sp.corrected_specificity(KEY, samples, num_flips=400).null
    # Four read-outs alike and one of its own: far from five independent ones.
    assert abs(null.mean() - sp.noise_specificity(5)) > 0.05


def test_an_effect_without_any_variation_is_perfectly_specific():
    samples = np.zeros((2, 4, 20))
    samples[0, 2] = 0.7
    found = sp.corrected_specificity(KEY, samples, num_flips=400)
    np.testing.assert_allclose(found.corrected, [1, np.nan])
    np.testing.assert_allclose(found.null[0], sp.noise_specificity(4))


def test_units_of_noise_are_called_active_no_more_often_than_q():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(1500, 3, 12))
    # One family each: independent units, all null.
    p_values = sp.corrected_specificity(KEY, samples, num_flips=400).p_value
    assert p_values.min() > 0.05
    active = sp.corrected_specificity(KEY, np.concatenate([samples[:40], samples[:10] + 2])).active
    assert active[40:].all()
    assert active[:40].mean() < 0.15


# --- verdicts -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes():
    return sp.classify_units(KEY, planted())


@pytest.mark.thorough
def test_planted_units_get_their_class(classes):
    assert np.mean(classes.label[ONE] == "monosemantic") >= 0.8
    assert np.mean(classes.label[TWO] == "polysemantic") >= 0.8
    assert np.mean(classes.label[NOISE] == "undetected") >= 0.9
    assert np.all(classes.label[NOTHING] == "dead")
    assert np.all(classes.top_factor[ONE] == 3)
    assert np.isin(classes.top_factor[TWO], [0, 1]).all()
    assert np.all(classes.top_factor[NOTHING] == -1)


def test_verdicts_follow_from_the_evidence_they_carry(classes):
    count = classes.significant.sum(1)
    for unit, label in enumerate(classes.label):
        significant, low = classes.significant[unit], classes.low[unit]
        if classes.negligible[unit] <= 0.05:
            assert label == "dead"
            continue
        expected = {
            "undetected": count[unit] == 0,
            "monosemantic": count[unit] == 1 and np.any(significant & (low > 0.5)),
            "polysemantic": count[unit] > 1 and np.sum(significant & (low > 0.1)) > 1,
        }
        assert expected.get(label, not any(expected.values()))
    known = ~np.isnan(classes.share)
    assert np.all(classes.low[known] <= classes.high[known])
    np.testing.assert_allclose(classes.share[ONE].sum(1), 1, rtol=1e-5)


def test_a_unit_is_dead_only_where_its_effects_are_shown_to_be_small():
    noise = np.random.default_rng(0).normal(size=(20, 3, 2000))
    some = {"num_flips": 999, "bootstrap": Bootstrap(num_replicates=100)}
    # Standard errors of 0.02 show effects below 0.1, of 0.2 do not.
    assert np.all(sp.classify_units(KEY, noise, **some).label == "dead")
    few = sp.classify_units(KEY, noise[..., :25], **some)
    assert np.mean(few.label == "undetected") > 0.9
    assert np.all(few.label != "dead")
    strict = sp.classify_units(KEY, noise, margin=0.01, **some)
    assert np.all(strict.label != "dead")


def test_a_significant_effect_below_the_margin_leaves_a_unit_dead_and_one_above_does_not():
    samples = 0.1 * np.random.default_rng(0).normal(size=(2, 3, 400))
    samples[0, 1] += 0.05
    samples[1, 1] += 0.3
    found = sp.classify_units(KEY, samples, bootstrap=Bootstrap(num_replicates=100))
    assert found.significant[:, 1].all()
    assert found.label.tolist() == ["dead", "monosemantic"]


def test_an_effect_on_the_only_factor_read_leaves_open_how_many_there_are():
    samples = planted()[:, 3:4]
    found = sp.classify_units(KEY, samples, num_flips=999)
    assert np.all(found.label[ONE] == "undetermined")
    assert np.all(found.label[NOTHING] == "dead")
    assert np.mean(found.label[NOISE] == "undetected") > 0.8


def test_stricter_thresholds_leave_more_undetermined(classes):
    strict = sp.classify_units(KEY, planted(), min_top_share=0.99, min_share=0.49)
    assert np.all(strict.label[np.r_[ONE, TWO]] == "undetermined")
    np.testing.assert_array_equal(strict.low, classes.low)


def test_intervals_of_shares_cover_what_was_planted():
    means = np.array([1.0, 0.8, 0.3, 0.0])
    truth = means**2 / (means**2).sum()
    samples = np.random.default_rng(0).normal(size=(800, 4, 60)) + means[:, None]
    found = sp.classify_units(KEY, samples, num_flips=200, bootstrap=Bootstrap(num_replicates=400))
    covered = np.mean((found.low <= truth) & (truth <= found.high), axis=0)
    # Cut off at zero, small shares are covered more often than they say.
    assert np.all(covered >= 0.93)
    assert np.all(covered[:2] <= 0.97)


# --- geometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("corners", [3, 4, 5, 8])
def test_corners_of_a_polygon_share_the_plane(corners):
    # T14.
    angle = 2 * math.pi * jnp.arange(corners) / corners
    directions = 1.7 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    np.testing.assert_allclose(sp.capacity(directions), 2 / corners, rtol=1e-5)


def test_orthogonal_directions_have_a_dimension_each_and_zero_ones_none():
    directions = jnp.concatenate([jnp.diag(jnp.array([1.0, 3.0])), jnp.zeros((1, 2))])
    np.testing.assert_allclose(sp.capacity(directions), [1, 1, np.nan])


@pytest.mark.parametrize("angle", [0.1, 0.6, math.pi / 2, 2.5])
def test_contrast_of_two_columns_is_minus_the_log_sine_of_their_angle(angle):
    # T24.
    columns = jnp.array([[1.0, math.cos(angle)], [0.0, math.sin(angle)], [0.0, 0.0]])
    for scale in (1.0, 1e-6):
        contrast = sp.ima_contrast(columns * jnp.array([scale, 40.0])[None])
        np.testing.assert_allclose(contrast, -math.log(abs(math.sin(angle))), atol=1e-5)


def test_contrast_is_that_of_the_determinant_and_unchanged_by_rotations():
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(12, 5))
    lengths = np.log(np.linalg.norm(jacobian, axis=0)).sum()
    expected = lengths - np.linalg.slogdet(jacobian.T @ jacobian)[1] / 2
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    for columns in (jacobian, rotation @ jacobian):
        np.testing.assert_allclose(
            sp.ima_contrast(jnp.asarray(columns, float)), expected, rtol=1e-4
        )
    orthogonal = jnp.asarray(rotation[:, :4] * np.array([1.0, 2, 3, 4]), float)
    np.testing.assert_allclose(sp.ima_contrast(orthogonal), 0, atol=1e-5)
    assert np.isinf(sp.ima_contrast(jnp.ones((2, 3))))
    assert np.isnan(sp.ima_contrast(jnp.array([[1.0, 0.0], [0.0, 0.0]])))


BAD_CALLS = {
    "one factor": (lambda: sp.specificity(jnp.ones((3, 1))), r"\(3, 1\).*at least two factors"),
    "a number": (lambda: sp.specificity(1.0), r"shape \(\)"),
    "energies": (
        lambda: sp.corrected_specificity(KEY, np.ones((3, 4))),
        r"\(3, 4\), expected \(units, factors, images\)",
    ),
    "one image": (lambda: sp.classify_units(KEY, np.ones((3, 4, 1))), "two images"),
    "threshold": (
        lambda: sp.classify_units(KEY, planted(), min_top_share=50),
        "min_top_share must lie between 0 and 1, got 50",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_effects_that_allow_no_verdict_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
