"""Bootstraps of images, clusters and models: their arithmetic, their oracles and their laws."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from vaecausal_jax import inference
from vaecausal_jax.inference import Bootstrap, resampling

KEY = jax.random.key(0)
resample_ratio = jax.jit(inference.resample_ratio, static_argnames="num_replicates")
variance_components = jax.jit(inference.variance_components, static_argnames="shared_images")


def skewed_pairs(num_rows, num_images, seed=0):
    rng = np.random.default_rng(seed)
    denominator = 1 + rng.exponential(size=(num_rows, num_images))
    numerator = 0.5 * denominator + rng.exponential(0.5, (num_rows, num_images))
    return jnp.asarray(numerator, float), jnp.asarray(denominator, float)


# --- replicates ---------------------------------------------------------------------------------


def test_resampled_ratio_equals_a_loop_of_weighted_sums():
    numerator, denominator = map(np.asarray, skewed_pairs(2, 9))
    resampled = resample_ratio(KEY, numerator, denominator, num_replicates=40)
    weights = np.asarray(inference.poisson_weights(KEY, 40, 9), float)
    for row, (above, below) in enumerate(zip(numerator, denominator, strict=True)):

        def error(w, above=above, below=below):
            ratio = w @ above / (w @ below)
            return math.sqrt(9 / 8 * w @ (above - ratio * below) ** 2) / (w @ below)

        jackknife = [np.delete(above, i).sum() / np.delete(below, i).sum() for i in range(9)]
        expected = resampling.Resampled(
            value=above.sum() / below.sum(),
            error=error(np.ones(9)),
            values=[w @ above / (w @ below) for w in weights],
            errors=[error(w) for w in weights],
            jackknife=jackknife,
        )
        for field, value in expected._asdict().items():
            got = getattr(resampled, field)
            got = got[:, row] if field in {"values", "errors"} else got[row]
            np.testing.assert_allclose(got, value, rtol=1e-4, err_msg=field)


def test_replicates_keep_their_digits_where_the_mean_is_far_larger_than_the_spread():
    samples = np.random.default_rng(0).normal(size=(2, 9))
    near, far = (
        resample_ratio(
            KEY, jnp.asarray(samples + shift, float), jnp.ones((2, 9)), num_replicates=40
        )
        for shift in (0.0, 1024.0)
    )
    np.testing.assert_allclose(far.values - 1024, near.values, atol=5e-4)
    np.testing.assert_allclose(far.errors, near.errors, rtol=1e-3)


def test_quantiles_are_those_of_numpy_with_a_fraction_for_every_column():
    values = np.random.default_rng(0).normal(size=(51, 3)).astype(np.float32)
    values[40:, 1] = np.nan
    low, high = np.array([0.1, 0.02, 0.0]), np.array([0.9, 0.77, 1.0])
    got = resampling.quantiles(jnp.asarray(values), jnp.asarray(low), jnp.asarray(high))
    for fractions, ends in zip((low, high), got, strict=True):
        expected = [np.nanquantile(values[:, i], fractions[i]) for i in range(3)]
        np.testing.assert_allclose(ends, expected, rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.95, 0.9999])
def test_the_middle_of_the_replicates_lies_between_quantiles_of_numpy(level):
    values = np.random.default_rng(0).normal(size=(51, 2, 2)).astype(np.float32)
    values[40:, 0, 1] = np.nan
    values[:, 1, 0] = np.nan
    values[[3, 7, 8, 20], 1, 1] = [np.inf, np.inf, np.inf, -np.inf]
    low, high = resampling.middle(jnp.asarray(values), level)
    for ends, fraction in ((low, 0.5 - level / 2), (high, 0.5 + level / 2)):
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            expected = np.nanquantile(values[:, :, 0], fraction, axis=0)
            same = np.nanquantile(values[:, 0, 1], fraction)
        np.testing.assert_allclose(ends[:, 0], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(ends[0, 1], same, rtol=1e-4, atol=1e-6)
    # Between an infinity and a number lies the infinity.
    assert low[1, 1] == -np.inf if level == 0.9999 else np.isfinite(low[1, 1])
    assert high[1, 1] == np.inf if level >= 0.95 else np.isfinite(high[1, 1])


# --- intervals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [6, 30, 10_000])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_expanded_level_gives_a_normal_quantile_that_makes_up_for_few_samples(num_samples, level):
    expanded = inference.expanded_level(level, num_samples)
    student = stats.t.ppf(0.5 + level / 2, num_samples - 1)
    normal = special.ndtri(0.5 + expanded / 2)
    # Plain bootstrap SD is sqrt((n - 1) / n) of the unbiased one.
    np.testing.assert_allclose(normal * math.sqrt((num_samples - 1) / num_samples), student)
    assert level < expanded < 1


def percentile_of(numerator, denominator, **options):
    return inference.bootstrap_ratio(
        KEY, numerator, denominator, intervention="a", bootstrap=Bootstrap(**options)
    )


def test_bca_agrees_with_scipy():
    # Poisson weights there are multinomial ones here: the same to order 1 / images.
    num_images = 60
    numerator, denominator = map(np.asarray, skewed_pairs(1, num_images, seed=3))
    ours = percentile_of(numerator, denominator, interval=inference.bca, num_replicates=20_000)
    theirs = stats.bootstrap(
        (numerator[0], denominator[0]),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        confidence_level=inference.expanded_level(0.95, num_images),
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose((ours.low[0], ours.high[0]), theirs, atol=0.04 * width)


def test_studentised_interval_reaches_further_into_the_long_tail_than_percentiles():
    samples = np.tile(stats.expon.ppf((np.arange(40) + 0.5) / 40), (2, 1))
    asymmetry = []
    for interval in (inference.percentile, inference.studentised):
        e = inference.bootstrap_mean(
            KEY, samples, intervention="a", bootstrap=Bootstrap(interval=interval)
        )
        asymmetry.append((e.high[0] - e.value[0]) / (e.value[0] - e.low[0]))
    assert 1 < asymmetry[0] < 0.9 * asymmetry[1]


@pytest.mark.parametrize(
    "interval",
    [inference.percentile, inference.bca, inference.studentised],
    ids=lambda f: f.__name__,
)
def test_intervals_move_and_scale_with_the_samples(interval):
    samples = jnp.asarray(np.random.default_rng(0).gamma(2.0, size=(2, 40)), float)

    def ends(values):
        e = inference.bootstrap_mean(
            KEY, values, intervention="a", bootstrap=Bootstrap(interval=interval)
        )
        assert interval.__name__ in e.method
        return np.stack([e.low, e.high])

    plain = ends(samples)
    np.testing.assert_allclose(ends(4 * samples + 3), 4 * plain + 3, rtol=1e-4)
    np.testing.assert_allclose(ends(-samples)[::-1], -plain, rtol=2e-2)
    same = ends(jnp.full((2, 40), 0.7))
    np.testing.assert_allclose(same, 0.7, rtol=1e-6)


def test_percentiles_of_shares_stay_within_the_range_of_shares():
    rng = np.random.default_rng(0)
    whole = rng.exponential(size=(3, 12))
    part = whole * (np.arange(12) < np.array([1, 6, 11])[:, None])
    e = percentile_of(part, whole)
    assert np.all(e.low >= 0)
    assert np.all(e.high <= 1 + 1e-6)
    assert e.low[0] == 0


def test_studentised_interval_is_students_for_samples_of_a_normal():
    samples = jnp.asarray(stats.norm.ppf((np.arange(200) + 0.5) / 200), float)
    e = inference.bootstrap_mean(
        KEY,
        samples,
        intervention="a",
        bootstrap=Bootstrap(interval=inference.studentised, num_replicates=4000),
    )
    expected = stats.t.interval(0.95, 199, loc=0, scale=stats.sem(np.asarray(samples)))
    np.testing.assert_allclose((e.low, e.high), expected, rtol=0.05)


# --- clusters -----------------------------------------------------------------------------------


def test_copies_of_images_change_nothing_once_they_are_clusters():
    numerator, denominator = skewed_pairs(3, 12)
    alone = percentile_of(numerator, denominator)
    clusters = np.repeat(np.arange(12), 5)
    copied = percentile_of(numerator[:, clusters], denominator[:, clusters], clusters=clusters)
    for field in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(copied, field), getattr(alone, field), rtol=1e-5)
    assert "12 clusters" in copied.method
    assert copied.num_inputs == 60
    naive = percentile_of(numerator[:, clusters], denominator[:, clusters])
    assert np.all(naive.high - naive.low < 0.6 * (alone.high - alone.low))


def test_clusters_may_have_any_labels_in_any_order_and_size():
    samples = jnp.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    labels = np.array(["b", "a", "b", "c", "a"])
    np.testing.assert_array_equal(inference.sum_clusters(labels, samples), [[18.0, 5.0, 8.0]])
    estimate = inference.bootstrap_mean(
        KEY, samples, intervention="a", bootstrap=Bootstrap(clusters=labels)
    )
    np.testing.assert_allclose(estimate.value, 31 / 5)


def test_interval_of_clusters_covers_where_that_of_images_does_not():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 4)
    samples = rng.normal(size=(600, 40))[:, clusters] + rng.normal(size=(600, 160))
    by_cluster = inference.bootstrap_mean(
        KEY, samples, intervention="a", bootstrap=Bootstrap(clusters=clusters)
    )
    by_image = inference.bootstrap_mean(KEY, samples, intervention="a")
    assert 0.925 <= np.mean((by_cluster.low <= 0) & (by_cluster.high >= 0)) <= 0.975
    assert np.mean((by_image.low <= 0) & (by_image.high >= 0)) < 0.85


# --- ratios -------------------------------------------------------------------------------------


def test_fieller_ends_are_the_ratios_that_a_t_test_just_rejects():
    numerator, denominator = map(np.asarray, skewed_pairs(4, 15))
    estimate = inference.fieller_ratio(numerator, denominator, intervention="a")
    for row in range(4):
        for end in (estimate.low[row], estimate.high[row]):
            p = stats.ttest_1samp(numerator[row] - end * denominator[row], 0).pvalue
            np.testing.assert_allclose(p, 0.05, rtol=1e-6)
    np.testing.assert_allclose(estimate.value, numerator.sum(1) / denominator.sum(1), rtol=1e-6)


def test_fieller_has_no_bounds_where_the_denominator_may_be_zero():
    rng = np.random.default_rng(0)
    estimate = inference.fieller_ratio(
        rng.normal(1, 1, (2, 20)),
        np.stack([rng.normal(0, 1, 20), rng.normal(9, 1, 20)]),
        intervention="a",
    )
    np.testing.assert_array_equal(np.isinf(estimate.low), [True, False])
    np.testing.assert_array_equal(np.isinf(estimate.high), [True, False])
    nothing = inference.fieller_ratio(np.ones(5), np.zeros(5), intervention="a")
    assert np.isnan(nothing.value)


def test_fieller_and_the_bootstrap_agree_where_images_are_many():
    numerator, denominator = skewed_pairs(3, 1000)
    closed = inference.fieller_ratio(numerator, denominator[0], intervention="a")
    resampled = percentile_of(numerator, denominator[0], num_replicates=2000)
    width = closed.high - closed.low
    np.testing.assert_allclose(resampled.low, closed.low, atol=0.08 * width.max())
    np.testing.assert_allclose(resampled.high, closed.high, atol=0.08 * width.max())


def test_linearised_ratio_has_the_ratio_as_mean_and_its_error_as_error():
    numerator, denominator = skewed_pairs(2, 9)
    linear = np.asarray(inference.linearised_ratio(numerator, denominator))
    resampled = resample_ratio(KEY, numerator, denominator, num_replicates=40)
    np.testing.assert_allclose(linear.mean(-1), resampled.value, rtol=1e-5)
    np.testing.assert_allclose(stats.sem(linear, axis=-1), resampled.error, rtol=1e-4)


# --- two levels ---------------------------------------------------------------------------------


def two_level(rng, num_seeds, num_images, sd, *, shared, rows=()):
    """Samples (seeds, *rows, images) with the given SD of seeds, images and the rest."""
    return (
        sd[0] * rng.normal(size=(num_seeds, *rows, 1))
        + sd[1] * rng.normal(size=(1 if shared else num_seeds, *rows, num_images))
        + sd[2] * rng.normal(size=(num_seeds, *rows, num_images))
    )


def test_variance_components_of_a_table_are_those_worked_by_hand():
    # Rows 1 and 5 on average, columns 1, 3 and 5, no remainder.
    table = jnp.array([[-1.0, 1.0, 3.0], [3.0, 5.0, 7.0]])
    parts = variance_components(table, shared_images=True)
    np.testing.assert_allclose(parts[:3], [8.0, 4.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(parts.error, math.sqrt(8 / 2 + 4 / 3), rtol=1e-6)
    np.testing.assert_allclose(
        parts.freedom, (4 + 4 / 3) ** 2 / (16 / 1 + (4 / 3) ** 2 / 2), rtol=1e-5
    )
    np.testing.assert_allclose(parts.intraclass_correlation, 8 / 12, rtol=1e-6)
    own = variance_components(table, shared_images=False)
    np.testing.assert_allclose(own[:3], [8 - 4 / 3, 0.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose((own.error, own.freedom), (2.0, 1.0))


@pytest.mark.parametrize("shared", [True, False])
def test_variance_of_the_mean_over_seeds_and_images_is_that_of_its_components(shared):
    # T21: Var = seed / S + image / N + rest / (S N), the image part over S too if not shared.
    sd, num_seeds, num_images = (0.5, 1.0, 2.0), 4, 10
    samples = two_level(
        np.random.default_rng(0), num_seeds, num_images, sd, shared=shared, rows=(20_000,)
    )
    parts = variance_components(jnp.asarray(samples, float), shared_images=shared)
    truth = (0.25, 1.0, 4.0) if shared else (0.25, 0.0, 5.0)
    for part, value in zip(parts[:3], truth, strict=True):
        np.testing.assert_allclose(np.mean(part), value, atol=4 * np.std(part) / 141 + 1e-9)
    expected = truth[0] / num_seeds + truth[1] / num_images + truth[2] / (num_seeds * num_images)
    means = samples.mean((0, -1))
    np.testing.assert_allclose(means.var(), expected, rtol=4 * math.sqrt(2 / 20_000))
    assert np.mean(parts.error**2) == pytest.approx(expected, rel=0.05)


def both_levels(samples, *, shared, **options):
    return inference.bootstrap_two_level(
        KEY, samples, shared_images=shared, intervention="a", bootstrap=Bootstrap(**options)
    )


@pytest.mark.parametrize(
    ("num_seeds", "sd", "shared"),
    [(6, (0.3, 0.0, 1.0), False), (6, (0.3, 1.0, 1.0), True)],
)
def test_interval_over_seeds_and_images_covers_as_often_as_it_says(num_seeds, sd, shared):
    rng = np.random.default_rng(0)
    samples = two_level(rng, num_seeds, 40, sd, shared=shared, rows=(1500,))
    estimate = both_levels(samples, shared=shared)
    assert 0.93 <= np.mean((estimate.low <= 0) & (estimate.high >= 0)) <= 0.97
    assert (estimate.num_seeds, estimate.num_inputs) == (num_seeds, 40)
    assert ("they share" in estimate.method) == shared


def test_seeds_alone_do_not_cover_new_images_where_all_see_the_same():
    samples = two_level(np.random.default_rng(0), 6, 40, (0.3, 1.0, 1.0), shared=True, rows=(1000,))
    estimate = inference.over_seeds(samples.mean(-1), num_inputs=40, intervention="a")
    assert np.mean((estimate.low <= 0) & (estimate.high >= 0)) < 0.9


def test_without_shared_images_the_interval_has_the_width_of_students():
    rng = np.random.default_rng(0)
    samples = two_level(rng, 6, 40, (1.0, 0.0, 1.0), shared=False, rows=(1500,))
    student = inference.over_seeds(samples.mean(-1), num_inputs=40, intervention="a")
    estimate = both_levels(samples, shared=False)
    ratio = (estimate.high - estimate.low) / (student.high - student.low)
    assert abs(ratio.mean() - 1) < 0.03
    np.testing.assert_allclose(estimate.value, student.value, atol=1e-5)


def test_order_of_images_matters_only_where_they_are_shared():
    rng = np.random.default_rng(0)
    samples = two_level(rng, 6, 30, (0.1, 1.0, 0.3), shared=True)
    shuffled = np.stack([rng.permutation(row) for row in samples])
    own = [both_levels(s, shared=False) for s in (samples, shuffled)]
    np.testing.assert_allclose(own[0].high, own[1].high, rtol=1e-4)
    shared = [both_levels(s, shared=True) for s in (samples, shuffled)]
    assert shared[0].high - shared[0].low > 2 * (shared[1].high - shared[1].low)


def test_effects_that_never_vary_have_an_interval_of_no_length():
    estimate = both_levels(np.full((6, 30), 2.0), shared=True)
    for value in (estimate.value, estimate.low, estimate.high):
        np.testing.assert_allclose(value, 2.0)


# --- functions of many ratios, bands, middle halves ----------------------------------------------


def largest(ratios):
    return ratios.max(0)


def test_a_function_that_picks_one_ratio_has_the_interval_of_that_ratio():
    numerator, denominator = np.random.default_rng(0).exponential(size=(2, 3, 50)) + 0.1
    picked = inference.bootstrap_function(
        KEY,
        lambda r: r[1],
        numerator,
        denominator,
        intervention="none",
        bootstrap=Bootstrap(num_replicates=4000),
    )
    plain = inference.bootstrap_ratio(
        KEY, numerator, denominator, intervention="none", bootstrap=Bootstrap(num_replicates=4000)
    )
    np.testing.assert_allclose(picked.value, plain.value[1], rtol=1e-6)
    # Weights are of another key: the ends agree up to the bootstrap's own noise.
    width = plain.high[1] - plain.low[1]
    np.testing.assert_allclose(picked.low, plain.low[1], atol=0.06 * width)
    np.testing.assert_allclose(picked.high, plain.high[1], atol=0.06 * width)
    assert picked.num_inputs == 50


def test_the_largest_of_noise_is_no_larger_than_its_null():
    # E max of 20 means of 40 standard normals: 1.867 / sqrt(40).
    noise = np.random.default_rng(1).normal(size=(20, 40))
    found = inference.bootstrap_function(
        KEY,
        largest,
        noise,
        intervention="none",
        num_flips=2000,
        bootstrap=Bootstrap(num_replicates=20),
    )
    expected = stats.norm.expect(lambda x: 20 * x * stats.norm.cdf(x) ** 19) / np.sqrt(40)
    np.testing.assert_allclose(found.null, expected, rtol=0.1)
    effect = noise + np.linspace(0, 3, 20)[:, None]
    found = inference.bootstrap_function(
        KEY, largest, effect, intervention="none", bootstrap=Bootstrap(num_replicates=20)
    )
    assert found.value > 2 * found.null


@pytest.mark.slow
def test_copies_of_images_change_no_function_once_they_are_clusters():
    numerator = np.random.default_rng(2).normal(size=(3, 12))
    options = Bootstrap(num_replicates=200)
    plain = inference.bootstrap_function(
        KEY, largest, numerator, intervention="none", bootstrap=options
    )
    copies = inference.bootstrap_function(
        KEY,
        largest,
        np.repeat(numerator, 4, axis=1),
        intervention="none",
        bootstrap=options._replace(clusters=np.repeat(np.arange(12), 4)),
    )
    np.testing.assert_allclose(copies.ends, plain.ends, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(copies.null, plain.null, rtol=1e-4, atol=1e-6)
    assert "12 clusters" in copies.method


@pytest.fixture(scope="module")
def curves():
    """Random walks of 6 points with mean 0, 40 images, many replicates; both kinds of interval."""

    def one(key):
        data, weights = jax.random.split(key)
        walks = jnp.cumsum(jax.random.normal(data, (6, 40)), axis=0)
        resampled = inference.resample_ratio(weights, walks, jnp.ones((1, 40)), num_replicates=250)
        return [
            interval(resampled, 0.95) for interval in (inference.simultaneous, inference.percentile)
        ]

    keys = jax.random.split(KEY, 600)
    return jax.jit(lambda k: jax.lax.map(one, k, batch_size=20))(keys)


def test_bands_hold_the_whole_curve_as_often_as_they_say_and_pointwise_intervals_do_not(curves):
    whole, pointwise = (
        np.mean(((low <= 0) & (high >= 0)).all(1)) for low, high in map(np.asarray, curves)
    )
    assert 0.93 <= whole <= 0.97
    assert pointwise < 0.9


@pytest.mark.slow
def test_a_curve_of_one_point_has_an_ordinary_interval():
    samples = np.random.default_rng(3).normal(size=(1, 60))
    band, own = (
        inference.bootstrap_mean(
            KEY,
            samples,
            intervention="none",
            bootstrap=Bootstrap(num_replicates=4000, interval=interval),
        )
        for interval in (inference.simultaneous, inference.studentised)
    )
    np.testing.assert_allclose(band.high - band.low, own.high - own.low, rtol=0.1)
    np.testing.assert_allclose((band.high + band.low) / 2, band.value, atol=1e-5)


def test_points_that_never_vary_are_known_and_do_not_widen_the_others():
    rng = np.random.default_rng(4)
    curve = rng.normal(size=(3, 30))
    still = np.concatenate([curve, np.zeros((1, 30)), np.full((1, 30), 2.0)])
    with_still, without = (
        inference.bootstrap_mean(
            KEY,
            a,
            intervention="none",
            bootstrap=Bootstrap(num_replicates=200, interval=inference.simultaneous),
        )
        for a in (still, curve)
    )
    np.testing.assert_allclose(with_still.low[:3], without.low, rtol=1e-4)
    np.testing.assert_array_equal(with_still.low[3:], [0, 2])
    np.testing.assert_array_equal(with_still.high[3:], [0, 2])


def test_interquartile_mean_is_scipys_and_one_failed_model_does_not_decide():
    values = np.random.default_rng(5).normal(size=(8, 3))
    options = {"num_inputs": 10, "intervention": "none"}
    found = inference.interquartile_mean(KEY, values, **options)
    np.testing.assert_allclose(found.value, stats.trim_mean(values.ravel(), 0.25))
    assert found.low < found.value < found.high
    assert found.num_seeds == 8
    failed = values.copy()
    failed[0, 0] = 1e6
    assert abs(inference.interquartile_mean(KEY, failed, **options).value) < 2
    shifted = inference.interquartile_mean(KEY, 3 + 2 * values, **options)
    np.testing.assert_allclose(shifted.ends, [3 + 2 * end for end in found.ends], rtol=1e-12)


# --- refusals -----------------------------------------------------------------------------------


ONES = jnp.ones((2, 4))
BAD_CALLS = {
    "labels": (
        lambda: percentile_of(ONES, ONES, clusters=[0, 1]),
        r"clusters has shape \(2,\), expected one label per image: \(4,\)",
    ),
    "one cluster": (
        lambda: percentile_of(ONES, ONES, clusters=[7, 7, 7, 7]),
        "at least two clusters",
    ),
    "wider denominator": (
        lambda: percentile_of(ONES, jnp.ones((3, 2, 4))),
        r"\(3, 2, 4\) does not broadcast to numerator \(2, 4\)",
    ),
    "one seed": (lambda: both_levels(np.ones((1, 4)), shared=True), "at least two of each"),
    "one image": (lambda: both_levels(np.ones((4, 1)), shared=True), r"\(4, 1\)"),
    "no axes": (lambda: both_levels(3.0, shared=False), r"samples has shape \(\)"),
    "per cent": (lambda: both_levels(ONES, shared=True, level=95), "between 0 and 1"),
    "fieller lengths": (
        lambda: inference.fieller_ratio(ONES, np.ones(5), intervention="a"),
        r"\(2, 4\).*\(5,\)",
    ),
    "fieller level": (
        lambda: inference.fieller_ratio(ONES, ONES, intervention="a", level=1.0),
        "between 0 and 1",
    ),
    "one image of a function": (
        lambda: inference.bootstrap_function(KEY, largest, np.ones(1), intervention=""),
        "at least two, images",
    ),
    "another denominator": (
        lambda: inference.bootstrap_function(
            KEY, largest, np.ones(4), np.ones((2, 4)), intervention=""
        ),
        "does not broadcast",
    ),
    "no curve": (
        lambda: inference.bootstrap_mean(
            KEY, np.ones(5), intervention="", bootstrap=Bootstrap(interval=inference.simultaneous)
        ),
        r"\(5,\) is no curve",
    ),
    "one model": (
        lambda: inference.interquartile_mean(KEY, np.ones((1, 4)), num_inputs=1, intervention=""),
        r"shape \(1, 4\), expected \(seeds, strata\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_samples_that_allow_no_interval_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.thorough
def test_samples_spread_over_devices_give_the_intervals_of_one_device():
    x = jax.random.normal(jax.random.key(0), (5, 3, 32))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    spec = jax.sharding.PartitionSpec(None, None, "images")
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    options = {"intervention": "none", "bootstrap": Bootstrap(num_replicates=200)}
    for samples in (
        lambda x: inference.bootstrap_mean(KEY, x, **options),
        lambda x: inference.bootstrap_ratio(KEY, x, jnp.abs(x) + 1, **options),
    ):
        got, expected = samples(spread), samples(x)
        for end in ("value", "low", "high"):
            np.testing.assert_allclose(
                getattr(got, end), getattr(expected, end), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("size", [1e-30, 1e30, 2.5e38])
def test_ratios_and_means_do_not_depend_on_the_unit_of_their_samples(size):
    samples = np.random.default_rng(0).uniform(0.1, 1.0, 8).astype(np.float32)
    usual = inference.bootstrap_mean(jax.random.key(0), samples, intervention="none")
    scaled = inference.bootstrap_mean(
        jax.random.key(0), samples * np.float32(size), intervention="none"
    )
    for one, other in zip(scaled.ends, usual.ends, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64) / size, other, rtol=1e-5)
    relative = inference.linearised_ratio(jnp.asarray(samples) * size / 10, jnp.full(8, size))
    np.testing.assert_allclose(relative.mean(), samples.mean() / 10, rtol=1e-5)
