"""Sweeps: the same numbers as two plain loops, whatever the chunk, from one trace."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.sites import Tape, Trace, list_sites
from vaecausal_jax.sweeps import Rows, patch_units, sweep

MODEL = models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5,))
SITE = "decoder/dense0"
UNITS = jnp.arange(5)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def contexts():
    x = jax.random.uniform(jax.random.key(1), (4, *MODEL.image_shape))
    return x, jax.random.normal(jax.random.key(2), (4, 3))


def energy(params, point, context, forward=MODEL.forward):
    x, eps = context
    step = vi.set_to(MODEL.sites, SITE, 2.0, unit=point)
    return jnp.sum(forward(params, x, eps, step).outputs ** 2)


def test_sweep_equals_two_loops_for_every_chunk(params, contexts):
    loop = [
        [energy(params, unit, (contexts[0][i], contexts[1][i])) for i in range(4)]
        for unit in range(5)
    ]
    for chunk in (None, 1, 2, 5, 64):
        result = sweep(lambda p, c: energy(params, p, c), UNITS, contexts, chunk=chunk)
        assert result.shape == (5, 4)
        np.testing.assert_allclose(result, loop, rtol=1e-5)


def test_sweep_over_stacked_interventions_equals_the_loop(params, contexts):
    points = [
        vi.set_to(MODEL.sites, SITE, 1.0, unit=0),
        vi.shift_by(MODEL.sites, SITE, -0.5, group=[1, 2]),
        vi.scale_by(MODEL.sites, SITE, 3.0),
    ]

    def run(point, context):
        return MODEL.forward(params, *context, point).outputs

    swept = jax.jit(lambda p, c: sweep(run, p, c, chunk=2))(vi.stack(points), contexts)
    for i, point in enumerate(points):
        for j in range(4):
            expected = MODEL.forward(params, contexts[0][j], contexts[1][j], point).outputs
            np.testing.assert_allclose(swept[i, j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_sweep_over_all_units_and_new_values_traces_the_forward_once(params, contexts, chunk):
    chex.clear_trace_counter()
    forward = chex.assert_max_traces(MODEL.forward, n=1)

    @jax.jit
    def swept(params, units, contexts):
        return sweep(lambda p, c: energy(params, p, c, forward), units, contexts, chunk=chunk)

    # Chunks of 2 must divide the points: a remainder is a second shape and so a second trace.
    units = jnp.arange(4)
    first = swept(params, units, contexts)
    again = swept(jax.tree.map(lambda a: 2 * a, params), units[::-1], contexts)
    assert np.any(first != again)


def test_a_sweep_sharded_over_images_gives_the_same_numbers(params, contexts):
    swept = jax.jit(lambda c: sweep(lambda p, one: energy(params, p, one), UNITS, c))
    mesh = jax.make_mesh((2,), ("image",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("image"))
    sharded = swept(jax.device_put(contexts, split))
    np.testing.assert_allclose(sharded, swept(contexts), rtol=1e-5)


def test_a_run_may_return_a_tree_and_results_lead_with_points_then_contexts():
    def run(point, context):
        return {"sum": point["a"] + context, "pair": jnp.stack([point["a"], point["b"]])}

    points = {"a": jnp.arange(3.0), "b": -jnp.arange(3.0)}
    result = sweep(run, points, jnp.array([10.0, 20.0]), chunk=2)
    np.testing.assert_array_equal(result["sum"], [[10, 20], [11, 21], [12, 22]])
    assert result["pair"].shape == (3, 2, 2)


def skipping(params, x, eps, interventions):
    """A network whose input also bypasses the site, and whose codes have positions only."""
    tape = Tape(interventions)
    h = tape("h", params @ x)
    codes = tape("codes", jnp.round(3 * h).astype(jnp.int32), unit_axis=None)
    y = tape("y", jnp.tanh(h) * x + codes.astype(float) ** 2 + eps)
    tape.close()
    return Trace(y, tape.activations)


@pytest.mark.parametrize("site", ["h", "codes"])
@pytest.mark.parametrize("chunk", [1, 2])
def test_patch_units_equals_patching_each_unit_in_each_run_also_past_a_skip(site, chunk):
    params, x, eps = jax.random.normal(jax.random.key(0), (3, 3, 3))
    sites = list_sites(skipping, params, x[0], eps[0])
    natural = [skipping(params, x[i], eps[i], {}).activations[site] for i in range(3)]
    donor = jnp.roll(jnp.stack(natural), 1, axis=0)
    rows = Rows(x, eps, jnp.stack(natural), donor)
    swept = patch_units(skipping, params, sites, site, rows, lambda y: 2 * y, chunk=chunk)
    for part in range(3):
        where = {"position" if site == "codes" else "unit": part}
        for i in range(3):
            step = vi.patch(sites, site, donor[i], **where)
            expected = 2 * skipping(params, x[i], eps[i], step).outputs
            np.testing.assert_allclose(swept[part, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "contexts", "chunk", "message"),
    [
        (jnp.zeros(0), jnp.zeros(2), None, r"all leaves of points.*non-zero leading axis"),
        (jnp.zeros(2), jnp.zeros((0, 3)), None, "all leaves of contexts"),
        (jnp.zeros(()), jnp.zeros(2), None, "all leaves of points"),
        ((jnp.zeros(2), jnp.zeros(3)), jnp.zeros(2), None, r"got \[\(2,\), \(3,\)\]"),
        (jnp.zeros(2), (jnp.zeros(2), jnp.zeros(3)), None, "all leaves of contexts"),
        ({}, jnp.zeros(2), None, "all leaves of points"),
        (jnp.zeros(2), jnp.zeros(2), 0, "chunk must be at least 1, got 0"),
    ],
)
def test_grids_that_do_not_fit_are_refused(points, contexts, chunk, message):
    with pytest.raises(ValueError, match=message):
        sweep(lambda p, c: c, points, contexts, chunk=chunk)
