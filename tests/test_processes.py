"""Sweeps and training over two processes, each with devices of its own, equal those of one."""

import functools
import json
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from jax import export
from study.test_study import TINY

from vaecausal_jax import models, processes, study
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import stored
from vaecausal_jax.sweeps import grid
from vaecausal_jax.sweeps.patching import Rows, patch_units
from vaecausal_jax.sweeps.reductions import moments
from vaecausal_jax.sweeps.stored import run_stored
from vaecausal_jax.training.checkpoint import train_resumably
from vaecausal_jax.training.objectives import vae
from vaecausal_jax.training.trainer import TrainConfig

SITE = "decoder/conv0"

PROGRAM = """
import sys, jax, numpy as np
process, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{{port}}", num_processes=2, process_id=process)
sys.path.insert(0, {tests!r})
import test_processes
test_processes.{function}(folder)
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

        def effects(reduction):
            return patch_units(
                MODEL.bind(params),
                SITE,
                rows,
                lambda y, row: jnp.sum((y - row.clean) ** 2),
                sweep=functools.partial(grid.sweep, mesh=mesh, reduction=reduction),
            )

        return effects(None), effects(moments())

    return jax.jit(swept)


class Interrupted(Exception):
    """What stops a training in the middle."""


def interrupt_at_two(done, total):
    if done == 2:
        raise Interrupted


def train(folder, progress=lambda done, total: None):
    """Three seeds over all devices, with checkpoints."""
    config = TrainConfig(MODEL, vae(), optax.adam(1e-2), 4, batch_size=4, record_every=2)
    keys = jax.random.split(jax.random.key(7), 3)
    data = np.asarray(jax.random.uniform(jax.random.key(8), (5, *MODEL.image_shape)))
    state, history = train_resumably(
        config, keys, data, folder, spec={}, records_per_save=1, progress=progress
    )
    return state.params, state.step, history


def stored_sweep(folder, mesh, note=""):
    """Every unit of a layer patched between pairs, on disk."""
    params, x, eps = inputs()
    swept = functools.partial(grid.sweep, mesh=mesh)
    parts = stored.unit_patching(
        MODEL.bind(params), Pairs(x, x[::-1], eps), sites=(SITE,), sweep=swept
    )
    return run_stored(folder, parts, {"note": note}, slab_points=2)


def run_as_one_of_two(folder):
    """What each of two processes does; the first one keeps the results."""
    folder = pathlib.Path(folder)
    assert jax.device_count() == 4
    assert jax.local_device_count() == 2
    mesh = jax.make_mesh(
        (2, 2), ("points", "contexts"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    results = {"swept": processes.to_host(both_sweeps(mesh)(*inputs()))}

    # A device of another process cannot be asked for its memory.
    assert grid._memory(mesh) > 0
    if not processes.is_first():
        with pytest.raises(Exception, match="addressable"):
            mesh.devices.flat[0].memory_stats()

    results["trained"] = train(folder / "whole")
    with pytest.raises(Interrupted):
        train(folder / "parts", interrupt_at_two)
    results["resumed"] = train(folder / "parts")

    path = stored_sweep(folder / "stored", mesh)
    if processes.is_first():
        results["stored"] = xr.open_zarr(path, group=SITE)["total_total"].values
    with pytest.raises(ValueError, match="holds another sweep"):
        stored_sweep(folder / "stored", mesh, note="another")

    # The first process touches the disk, and its failures are everybody's.
    def compute():
        assert processes.is_first()
        return {"some": [1, 2.5, "words"]}

    def fail():
        raise OSError("no such disk")

    assert processes.from_first(compute) == {"some": [1, 2.5, "words"]}
    with pytest.raises(OSError, match="no such disk"):
        processes.from_first(fail)
    exact = {"signed": np.float32([-0.0, np.nan]), "flags": np.array([True, False])}
    mine = exact if processes.is_first() else jax.tree.map(np.zeros_like, exact)
    for name, value in processes.tree_from_first(mine).items():
        assert value.tobytes() == exact[name].tobytes()
    if processes.is_first():
        np.savez(folder / "gathered.npz", *jax.tree.leaves(results))


def run_two(function, folder):
    """Calls a function of this module with a folder in two processes that know of each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    tests = str(pathlib.Path(__file__).parent)
    program = textwrap.dedent(PROGRAM.format(tests=tests, function=function.__name__))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(process), port, str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=400)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors


@pytest.mark.thorough
def test_two_processes_give_the_numbers_of_one(tmp_path):
    """The tolerance allows for products and sums taken in another order."""
    run_two(run_as_one_of_two, tmp_path)
    with np.load(tmp_path / "gathered.npz") as saved:
        found = [saved[name] for name in saved.files]
    alone = {"swept": both_sweeps(None)(*inputs()), "trained": train(tmp_path / "alone")}
    alone["resumed"] = alone["trained"]
    with xr.open_zarr(stored_sweep(tmp_path / "alone-stored", None), group=SITE) as effects:
        alone["stored"] = effects["total_total"].values
    for ours, expected in zip(found, jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=1e-6)


def study_as_one_of_two(folder):
    """A whole study: training over all devices, measurements, tables and report."""
    result = study.run_study(TINY, folder)
    assert result.summary["families"]["vae"]["kl"].num_seeds == TINY.num_seeds


@pytest.mark.slow
def test_a_study_over_two_processes_has_the_tables_of_one(tmp_path):
    run_two(study_as_one_of_two, tmp_path / "two")
    assert (tmp_path / "two" / "report.html").is_file()
    alone = study.run_study(TINY, tmp_path / "one").summary
    both = json.loads((tmp_path / "two" / "summary.json").read_text())
    for family, values in alone["families"].items():
        for name in ("reconstruction", "kl"):
            found = both["families"][family][name]["value"]
            np.testing.assert_allclose(found, values[name].value, rtol=1e-3)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_sharded_sweep_lowers_for_accelerators(platform):
    mesh = jax.make_mesh((2,), ("contexts",), axis_types=(jax.sharding.AxisType.Auto,))
    exported = export.export(both_sweeps(mesh), platforms=[platform])(*inputs())
    assert exported.platforms == (platform,)
    assert exported.nr_devices == 2
