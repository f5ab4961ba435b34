"""Reductions: what NumPy gives on all values at once, for any split into blocks and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.inference import bootstrap_ratio
from vaecausal_jax.sweeps.grid import Block, sweep
from vaecausal_jax.sweeps.reductions import covariance, histogram, moments, together, top_k

AUTO = jax.sharding.AxisType.Auto


def reduced(reduction, values, blocks, parts=1):
    """The reduction of values (contexts, ...), taken in blocks by several parts and merged."""
    struct = jax.ShapeDtypeStruct(values.shape[1:], values.dtype)
    states = []
    for part in np.array_split(np.arange(len(values)), parts):
        state = reduction.init(struct)
        for index in np.array_split(part, blocks):
            padded = jnp.concatenate([values[index], jnp.full_like(values[:1], jnp.nan)])
            index = jnp.concatenate([jnp.asarray(index, jnp.int32), jnp.array([10**6])])
            valid = jnp.arange(index.size) < index.size - 1
            state = reduction.update(state, padded, index, valid)
        states.append(state)
    while len(states) > 1:
        states = [reduction.merge(states[0], states[1]), *states[2:]]
    return reduction.finish(states[0])


@pytest.mark.thorough
@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("parts", [1, 3])
def test_moments_and_covariance_equal_numpys(blocks, parts):
    values = 3.0 + jax.random.normal(jax.random.key(0), (23, 4))
    result = reduced(together(m=moments(), c=covariance()), values, blocks, parts)
    assert result["m"].count == 23
    np.testing.assert_allclose(result["m"].mean, np.mean(values, 0), rtol=1e-6)
    np.testing.assert_allclose(result["m"].variance, np.var(values, 0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(result["c"].covariance, np.cov(values.T), rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize(("seed", "size", "k"), [(0, 2, 1), (1, 2, 6), (2, 30, 6), (3, 11, 4)])
def test_top_k_and_histogram_equal_numpys(seed, size, k):
    values = jax.random.normal(jax.random.key(seed), (size,))
    edges = jnp.array([-1.0, 0.0, 0.5])
    result = reduced(together(top=top_k(k), bins=histogram(edges)), values, 2, 2)
    order = np.argsort(-np.asarray(values))[:k]
    filled = min(k, size)
    np.testing.assert_array_equal(result["top"].contexts[:filled], order)
    np.testing.assert_array_equal(result["top"].values[:filled], values[order])
    assert np.all(result["top"].contexts[filled:] == -1)
    expected = np.histogram(values, [-np.inf, -1.0, 0.0, 0.5, np.inf])[0]
    np.testing.assert_array_equal(result["bins"], expected)


def test_a_value_on_an_edge_lies_above_it():
    bins = reduced(histogram(jnp.array([0.0, 1.0])), jnp.array([0.0, 1.0, -1.0, 0.5]), 1)
    np.testing.assert_array_equal(bins, [1, 2, 1])


def test_a_hundred_thousand_contexts_lose_no_digits():
    """A plain float32 running sum of these loses four digits; this must lose none."""
    values = jnp.asarray(1e4 + np.random.default_rng(0).random(100_000), jnp.float32)
    result = jax.jit(
        lambda v: sweep(
            lambda point, value: value, jnp.zeros(1), v, reduction=moments(), block=Block(1, 10)
        )
    )(values)
    exact = np.asarray(values, np.float64)
    np.testing.assert_allclose(result.mean[0], exact.mean(), rtol=2e-7)
    np.testing.assert_allclose(result.variance[0], exact.var(ddof=1), rtol=1e-3)


def test_the_sweep_gives_each_point_its_own_result_with_the_values_structure():
    points, contexts = jnp.arange(3.0), jnp.arange(5.0)

    def run(point, context):
        return {"product": point * context, "pair": jnp.stack([point, context])}

    result = sweep(run, points, contexts, reduction=moments(), block=Block(2, 2))
    np.testing.assert_allclose(result.mean["product"], [0.0, 2.0, 4.0])
    np.testing.assert_allclose(result.variance["pair"], [[0, 2.5]] * 3)
    np.testing.assert_array_equal(result.count, [5, 5, 5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: top_k(0), "k of at least 1, got 0"),
        (lambda: top_k(2).init(jax.ShapeDtypeStruct((3,), jnp.float32)), "top_k needs one scalar"),
        (lambda: histogram(jnp.zeros(1)).init({}), "histogram needs one scalar"),
        (lambda: covariance().init(jax.ShapeDtypeStruct((), jnp.float32)), "one vector"),
    ],
)
def test_values_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(2, 1, 3, 1, 2), (1, 3, 1, 2, 1, 2)])
def test_moments_and_intervals_at_rank_seven_and_eight_with_axes_of_length_one(shape):
    """Models, points, contexts and a value's own axes: where some compilers sum wrongly."""
    rng = np.random.default_rng(0)
    models, points, contexts = (
        jnp.asarray(rng.normal(size=(num, *shape)).astype(np.float32)) for num in (2, 1, 5)
    )
    value = np.asarray(models)[:, None, None] * (
        np.asarray(points)[None, :, None] + np.asarray(contexts)[None, None]
    )
    swept = jax.jit(lambda m, p, c: sweep(_product, p, c, models=m, reduction=moments()))
    found = swept(models, points, contexts)
    np.testing.assert_allclose(found.mean, value.mean(2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variance, value.var(2, ddof=1), rtol=1e-4, atol=1e-5)
    whole = jax.jit(lambda m, p, c: sweep(_product, p, c, models=m))(models, points, contexts)
    np.testing.assert_allclose(whole, value, rtol=1e-5)
    samples = jnp.moveaxis(whole, 2, -1)
    estimate = bootstrap_ratio(jax.random.key(0), samples, samples**2, intervention="none")
    expected = value.sum(2) / (value**2).sum(2)
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-3, atol=1e-5)
    assert (estimate.low <= estimate.high).all()


def _product(model, point, context):
    return model * (point + context)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "bfloat16", "float16"])
def test_values_of_any_dtype_are_summed_in_float32(dtype):
    """Three thousand ones are three thousand, which half precision and bytes cannot count."""
    values = jnp.ones(3000).at[::3].set(0).astype(dtype)

    def run(point, context):
        return context

    kept = together(moments=moments(), top=top_k(2), bins=histogram(jnp.array([0.5])))
    found = jax.jit(lambda c: sweep(run, jnp.zeros(1), c, reduction=kept))(values)
    assert float(found["moments"].count[0]) == 3000
    np.testing.assert_allclose(found["moments"].mean[0], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(found["moments"].variance[0], 2 / 9 * 3000 / 2999, rtol=1e-5)
    np.testing.assert_array_equal(found["top"].values[0], [1, 1])
    np.testing.assert_array_equal(found["bins"][0], [1000, 2000])


@pytest.mark.parametrize(
    ("reduction", "shape"),
    [(moments(), (2,)), (covariance(), (2,)), (top_k(1), ()), (histogram(jnp.ones(1)), ())],
)
def test_complex_values_are_refused_with_what_would_work(reduction, shape):
    with pytest.raises(ValueError, match="needs real values, got complex64; keep the modulus"):
        reduction.init(jax.ShapeDtypeStruct(shape, jnp.complex64))


def test_large_integers_are_counted_as_they_are():
    values = jnp.array([2**24, 2**24 + 1, 2**24 + 2])
    kept = histogram(jnp.array([2**24 + 1]))
    found = sweep(lambda p, c: c, jnp.zeros(1), values, reduction=kept)
    np.testing.assert_array_equal(found[0], [1, 2])
