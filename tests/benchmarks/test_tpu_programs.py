"""Programs compiled for a TPU, without one: what a chip computes, holds and sends."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import hlo
from vaecausal_jax import models


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_arithmetic_of_products_loops_and_convolutions_is_counted():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert hlo.read(compiled(jnp.matmul, a, b)).flops == 2 * 3 * 5 * 7

    def loop(x, w):
        return jax.lax.scan(lambda h, row: (jnp.tanh(h @ w) + row, None), x[0], x)[0]

    x, w = jnp.ones((6, 4)), jnp.ones((4, 4))
    assert hlo.read(compiled(loop, x, w)).flops == 6 * 2 * 4 * 4

    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions)

    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5))
    # A kernel of 4 at stride 2 on 8 pixels meets 4 * 4 - 2 of them along each axis.
    flops = hlo.read(compiled(convolve, image, kernel)).flops
    assert flops in (2 * 2 * 14 * 14 * 3 * 5, 2 * 2 * 16 * 16 * 3 * 5)


def test_collectives_and_the_loops_around_them_are_found():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    spec = jax.sharding.PartitionSpec("images")

    def body(x):
        def step(h, row):
            return h + jax.lax.psum(row, "images"), None

        h, _ = jax.lax.scan(step, x[0], x)
        return jax.lax.all_gather(h, "images")[None]

    run = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    found = hlo.read(compiled(run, jnp.ones((8, 3)))).collectives
    assert sorted((one.kind, one.loops) for one in found) == [("all-gather", 0), ("all-reduce", 1)]


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"'
)
def test_a_sharded_unit_sweep_sends_nothing_and_does_the_same_work_at_any_number_of_chips(
    monkeypatch,
):
    from benchmarks import tpu_programs

    small = models.mlp_vae((8, 8, 1), latent_size=2, encoder_dense=(8,), decoder_dense=(8,))
    monkeypatch.setattr(tpu_programs, "MODEL", small)
    monkeypatch.setattr(tpu_programs, "costs", lambda: ({}, {"latent/z": 1.0}))
    rows = {}
    for size in (4, 16):
        mesh = tpu_programs.chips_of("v5e", size, "contexts")
        with jax.default_matmul_precision("default"):
            program = tpu_programs.unit_sweep(mesh, "latent/z")
            rows[size] = tpu_programs.examine(program, mesh)
        assert rows[size]["collectives"] == {}
        assert rows[size]["memory_bytes"] < 0.01 * tpu_programs.GENERATIONS["v5e"][1]
        assert rows[size]["flops"] > 2 * tpu_programs.IMAGES * 2 * 64 * 8
    assert abs(rows[16]["flops"] / rows[4]["flops"] - 1) < 0.02
