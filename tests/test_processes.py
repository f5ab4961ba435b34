"""One sweep over two processes, each with its own devices, equals that of one device."""

import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from vaecausal_jax import models
from vaecausal_jax.patching import Rows, patch_units
from vaecausal_jax.reductions import moments

SITE = "decoder/conv0"

PROGRAM = """
import sys, jax, numpy as np
process, port, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{{port}}", num_processes=2, process_id=process)
from jax.experimental import multihost_utils
sys.path.insert(0, {tests!r})
import test_processes
assert jax.device_count() == 4 and jax.local_device_count() == 2
mesh = jax.make_mesh((2, 2), ("points", "contexts"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
results = test_processes.both_sweeps(mesh)(*test_processes.inputs())
gathered = multihost_utils.process_allgather(results, tiled=True)
if process == 0:
    np.savez(path, *jax.tree.leaves(gathered))
"""


MODEL = models.conv_vae(
    (8, 8, 1),
    latent_size=2,
    encoder_channels=(3,),
    encoder_dense=(4,),
    decoder_dense=(4,),
    decoder_channels=(3, 5),
)


def inputs():
    """Parameters, images and noise as NumPy arrays: the same in every process."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(keys[1], (6, *MODEL.image_shape))
    eps = jax.random.normal(keys[2], (6, 2))
    return jax.tree.map(np.asarray, (jax.jit(MODEL.init)(keys[0]), x, eps))


def both_sweeps(mesh):
    """A function of ``inputs``: effects of all units of a layer, every one and their moments."""

    def swept(params, x, eps):
        trace = jax.vmap(MODEL.forward, in_axes=(None, 0, 0))(params, x, eps)
        natural = trace.activations[SITE]
        rows = Rows(x, eps, natural, jnp.roll(natural, 1, axis=0), trace.outputs)

        def sweep(reduction):
            return patch_units(
                MODEL.forward,
                params,
                MODEL.sites,
                SITE,
                rows,
                lambda y, row: jnp.sum((y - row.clean) ** 2),
                reduction=reduction,
                mesh=mesh,
            )

        return sweep(None), sweep(moments())

    return jax.jit(swept)


def test_two_processes_give_the_numbers_of_one_device(tmp_path):
    """The tolerance allows for products and sums taken in another order."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = tmp_path / "gathered.npz"
    program = textwrap.dedent(PROGRAM.format(tests=str(__file__).rsplit("/", 1)[0]))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(process), port, str(path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=240)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors
    with np.load(path) as saved:
        gathered = [saved[name] for name in saved.files]
    expected = jax.tree.leaves(both_sweeps(None)(*inputs()))
    for ours, alone in zip(gathered, expected, strict=True):
        np.testing.assert_allclose(ours, alone, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_sharded_sweep_lowers_for_accelerators(platform):
    mesh = jax.make_mesh((2,), ("contexts",), axis_types=(jax.sharding.AxisType.Auto,))
    exported = export.export(both_sweeps(mesh), platforms=[platform])(*inputs())
    assert exported.platforms == (platform,)
    assert exported.nr_devices == 2
