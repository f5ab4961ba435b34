"""Sweeps: the same numbers as two plain loops, whatever the chunk, from one trace."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites
from vaecausal_jax.sweeps.grid import Block, Skip, choose_block, sweep
from vaecausal_jax.sweeps.patching import Rows, patch_units
from vaecausal_jax.sweeps.reductions import moments

MODEL = models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5,))
AUTO = jax.sharding.AxisType.Auto
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


BLOCKS = [None, Block(1, 1), Block(2, 3), Block(5, 4), Block(64, 1), Block(1, 64)]


@pytest.mark.thorough
@pytest.mark.parametrize("block", BLOCKS)
def test_sweep_equals_two_loops_for_every_block(params, contexts, block):
    loop = [
        [energy(params, unit, (contexts[0][i], contexts[1][i])) for i in range(4)]
        for unit in range(5)
    ]
    result = sweep(lambda p, c: energy(params, p, c), UNITS, contexts, block=block)
    assert result.shape == (5, 4)
    np.testing.assert_allclose(result, loop, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("reduction", [None, moments()])
@pytest.mark.parametrize("axes", [("points",), ("contexts",), ("models", "contexts")])
def test_a_sweep_over_a_mesh_equals_that_of_one_device(params, contexts, axes, reduction):
    # Three models on two devices, five points, four contexts: uneven on purpose.
    models = jax.tree.map(
        lambda a: a[None] * jnp.arange(1.0, 4.0).reshape(3, *(1,) * a.ndim), params
    )
    shape = (2, 1)[: len(axes)]
    mesh = jax.make_mesh(shape, axes, axis_types=(AUTO,) * len(axes))

    def swept(mesh):
        return jax.jit(
            lambda models: sweep(
                lambda model, p, c: energy(model, p, c),
                UNITS,
                contexts,
                models=models,
                reduction=reduction,
                mesh=mesh,
                block=Block(2, 3),
            )
        )(models)

    chex.assert_trees_all_close(swept(mesh), swept(None), rtol=1e-5)
    # As JAX makes meshes by default: axes are part of types in some versions.
    chex.assert_trees_all_close(swept(jax.make_mesh(shape, axes)), swept(None), rtol=1e-5)


def test_skipped_points_are_not_run_and_keep_the_unchanged_value(contexts):
    ran = []

    def run(point, context):
        jax.debug.callback(lambda p: ran.append(int(p)), point)
        return point + jnp.sum(context[1])

    skip = Skip(lambda point, context: point % 2 == 1, lambda context: jnp.sum(context[1]))
    swept = jax.jit(lambda c: sweep(run, UNITS, c, skip=skip, block=Block(1, 2)))(contexts)
    jax.effects_barrier()
    assert sorted(ran) == [1, 1, 3, 3]  # once a block of contexts
    odd = np.where(UNITS % 2 == 1, UNITS, 0)
    np.testing.assert_allclose(
        swept, odd[:, None] + np.sum(contexts[1], axis=1)[None, :], rtol=1e-6
    )


def test_a_skip_may_look_at_the_context_and_runs_blocks_where_any_changes():
    skip = Skip(lambda point, context: point == context, lambda context: jnp.array(-1.0))
    swept = sweep(
        lambda point, context: 10.0 * point + context,
        jnp.arange(4.0),
        jnp.arange(4.0),
        skip=skip,
        block=Block(1, 1),
    )
    np.testing.assert_array_equal(swept, np.where(np.eye(4), 11.0 * np.arange(4)[:, None], -1.0))


def test_what_depends_on_the_context_alone_is_computed_outside_the_loop_over_points():
    """The sweep's promise not to repeat the clean run, in the program as XLA compiles it."""
    weights = jnp.ones((256, 256))

    def loops_around_the_product(run):
        swept = jax.jit(lambda p, c: sweep(run, p, c, block=Block(1, 2)))
        program = swept.lower(jnp.arange(64.0), jnp.ones((6, 256))).compile().as_text()
        parts = dict(re.findall(r"^(?:ENTRY )?(%\S+) \(.*?\{\n(.*?)^\}", program, re.M | re.S))

        def loops_around(name):
            return max(
                (
                    loops_around(caller) + (how == "body")
                    for caller, part in parts.items()
                    for how, callee in re.findall(r"(body|calls|to_apply)=(%[\w.-]+)", part)
                    if callee == name
                ),
                default=0,
            )

        (product,) = (name for name, part in parts.items() if " dot(" in part)
        return loops_around(product)

    assert loops_around_the_product(lambda p, c: jnp.sum(p * jnp.tanh(c @ weights))) == 1
    assert loops_around_the_product(lambda p, c: jnp.sum(jnp.tanh((p * c) @ weights))) == 2


@pytest.mark.parametrize(
    ("size", "expected"), [(1 << 20, Block(1, 1)), (1 << 14, Block(1, 25)), (8, Block(10, 100))]
)
def test_blocks_shrink_as_runs_grow(size, expected):
    def run(point, context):
        return jnp.sum(jnp.full((size,), point) * context)

    assert choose_block(run, jnp.zeros(10), jnp.zeros(100)) == expected


def test_values_waiting_for_a_reduction_are_bounded():
    block = choose_block(lambda p, c: p * c, jnp.zeros(1_000_000), jnp.zeros(1000))
    assert block.contexts * 1_000_000 * 4 <= 64 << 20


def test_sweep_over_stacked_interventions_equals_the_loop(params, contexts):
    points = [
        vi.set_to(MODEL.sites, SITE, 1.0, unit=0),
        vi.shift_by(MODEL.sites, SITE, -0.5, group=[1, 2]),
        vi.scale_by(MODEL.sites, SITE, 3.0),
    ]

    def run(point, context):
        return MODEL.forward(params, *context, point).outputs

    swept = jax.jit(lambda p, c: sweep(run, p, c, block=Block(2, 1)))(vi.stack(points), contexts)
    for i, point in enumerate(points):
        for j in range(4):
            expected = MODEL.forward(params, contexts[0][j], contexts[1][j], point).outputs
            np.testing.assert_allclose(swept[i, j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [Block(1, 1), Block(3, 3)])
def test_a_sweep_over_all_units_and_new_values_traces_the_forward_once(params, contexts, block):
    chex.clear_trace_counter()
    forward = chex.assert_max_traces(MODEL.forward, n=1)

    @jax.jit
    def swept(params, units, contexts):
        return sweep(lambda p, c: energy(params, p, c, forward), units, contexts, block=block)

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
    result = sweep(run, points, jnp.array([10.0, 20.0]), block=Block(2, 1))
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


@pytest.mark.thorough
@pytest.mark.parametrize("site", ["h", "codes"])
@pytest.mark.parametrize("block", [Block(1, 1), Block(2, 2)])
def test_patch_units_equals_patching_each_unit_in_each_run_also_past_a_skip(site, block):
    params, x, eps = jax.random.normal(jax.random.key(0), (3, 3, 3))
    sites = list_sites(skipping, params, x[0], eps[0])
    natural = [skipping(params, x[i], eps[i], {}).activations[site] for i in range(3)]
    donor = jnp.roll(jnp.stack(natural), 1, axis=0)
    clean = jax.vmap(lambda x, eps: skipping(params, x, eps, {}).outputs)(x, eps)
    rows = Rows(x, eps, jnp.stack(natural), donor, clean)
    swept = patch_units(
        BoundModel(skipping, params, sites),
        site,
        rows,
        lambda y, row: 2 * y - row.x,
        sweep=functools.partial(sweep, block=block),
    )
    for part in range(3):
        where = {"position" if site == "codes" else "unit": part}
        for i in range(3):
            step = vi.patch(sites, site, donor[i], **where)
            expected = 2 * skipping(params, x[i], eps[i], step).outputs - x[i]
            np.testing.assert_allclose(swept[part, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "contexts", "options", "message"),
    [
        (jnp.zeros(0), jnp.zeros(2), {}, r"all leaves of points.*non-zero leading axis"),
        (jnp.zeros(2), jnp.zeros((0, 3)), {}, "all leaves of contexts"),
        (jnp.zeros(()), jnp.zeros(2), {}, "all leaves of points"),
        (
            (jnp.zeros(2), jnp.zeros(3)),
            jnp.zeros(2),
            {},
            r"got points\[0\] \(2,\), points\[1\] \(3,\)",
        ),
        (jnp.zeros(2), (jnp.zeros(2), jnp.zeros(3)), {}, "all leaves of contexts"),
        ({}, jnp.zeros(2), {}, "all leaves of points"),
        (jnp.zeros(2), jnp.zeros(2), {"block": Block(0, 1)}, "at least 1 x 1, got 0 x 1"),
        (
            jnp.zeros(2),
            jnp.zeros(2),
            {"mesh": jax.make_mesh((2,), ("image",), axis_types=(AUTO,))},
            "unknown mesh axis 'image'. Did you mean",
        ),
    ],
)
def test_grids_that_do_not_fit_are_refused(points, contexts, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(lambda p, c: c, points, contexts, **options)


@pytest.mark.parametrize("through", [lambda f: f, jax.jit])
def test_units_may_be_chosen_and_must_exist(params, contexts, through):
    x, eps = contexts
    trace = jax.vmap(MODEL.forward, (None, 0, 0))(params, x, eps)
    natural = trace.activations[SITE]
    rows = Rows(x, eps, natural, jnp.roll(natural, 1, axis=0), trace.outputs)

    def swept(units):
        def over_rows(rows):
            return patch_units(
                MODEL.bind(params), SITE, rows,
                lambda y, row: jnp.sum((y - row.clean) ** 2), units=units,
            )  # fmt: skip

        return through(over_rows)(rows)

    np.testing.assert_allclose(swept(jnp.array([3, 1])), swept(None)[np.array([3, 1])], rtol=1e-5)
    with pytest.raises(ValueError, match=r"unit 5 is out of range; valid are 0 .. 4"):
        swept(jnp.array([1, 5]))
    # Traced units cannot be checked: what they read is NaN, not "no effect".
    assert jnp.isnan(jax.jit(swept)(jnp.array([1, 5]))[1]).all()
