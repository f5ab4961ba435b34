"""What do the library's programs become on a TPU, from one chip of a host to a pod?

Compiled for real, by the compiler that comes with libtpu, and not run: no TPU is needed. For each
generation of TPU and number of chips, the programs that a large study is made of, on the field's
64x64 network: the forward, the training step of several seeds, the unit sweep of each kind of site,
the sweep over latents, an effect graph, and one whole measurement of a study. Work per chip is the
same at every number of chips. Matrix products have the default precision: with the highest, which
the commands set, programs take 2 to 3 times as long to compile, and what is counted is the same.

    compile     seconds
    memory      MiB per chip: arguments, results, temporary values and code; and that as a share of
                the chip's memory
    GFLOP       per chip, of matrix products and convolutions, loops counted as often as they turn
    over least  that over what must be computed (``benchmarks.sweep``)
    traffic     MiB per chip that XLA says are read and written, each loop taken once
    collectives what moves between chips: kind, how many, the largest in KiB, loops around it

    python -m benchmarks.tpu_programs [--chips v5e v5p v6e] [--sizes 4 16 256] [--programs forward
        ...] [--json]

Needs ``python -m pip install -e ".[test,tpu]"``. With ``--chips h100``, and jax-cuda13-plugin, the
same programs are compiled for H100s. With HLO_FOLDER set, the compiled programs are kept there.

Predicted: no collective inside any loop; none at all in the forward, the training steps and the
unit sweeps, whose images or seeds stay where they are; small sums in the effect graph, for the
spread of each unit; the same arithmetic per chip at every size.
"""

import argparse
import contextlib
import datetime
import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from vaecausal_jax.data.pairs import Pairs

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Nothing is run, so nothing is shared.

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import hlo
from benchmarks.sweep import layer_flops, patch_flops
from vaecausal_jax import models, study
from vaecausal_jax.circuits.effect_graphs import pair_effects
from vaecausal_jax.circuits.tasks import make_task, task_values
from vaecausal_jax.effects import mediation
from vaecausal_jax.effects.paths import INPUT, OUTCOME
from vaecausal_jax.effects.unit_effects import shift_effects
from vaecausal_jax.study.config import architectures, dataset
from vaecausal_jax.study.factors import make_readout
from vaecausal_jax.study.inputs import make_inputs
from vaecausal_jax.study.measure import measurements
from vaecausal_jax.sweeps import grid
from vaecausal_jax.training import objectives
from vaecausal_jax.training.seeds import shard_seeds, vmap_seeds
from vaecausal_jax.training.trainer import TrainConfig, make_trainer

GENERATIONS = {
    "v5e": ({4: "2x2", 16: "4x4", 256: "16x16"}, 16 << 30),
    "v5p": ({4: "2x2x1", 16: "2x2x4", 256: "4x8x8"}, 95 << 30),
    "v6e": ({4: "2x2", 16: "4x4", 256: "16x16"}, 32 << 30),
    "h100": ({4: "1x1x4", 16: "1x2x8", 256: "1x32x8"}, 80 << 30),
}
"""Topology by number of chips, and bytes of memory per chip."""

H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  platform_version: "Compute Capability 9.0a"
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 device_address_bits: 64
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 l2_cache_size: 52428800
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What XLA's CUDA compiler must know of a GPU that is not here: its published properties."""

IMAGES = 8
"""Images, or pairs, per chip."""

BATCH = 64
SEEDS_PER_CHIP = 2
MODEL = models.conv_vae((64, 64, 1))
UNIT_SITES = ("encoder/conv1", "encoder/dense0", "latent/z", "decoder/dense1", "decoder/conv1")


class Program(NamedTuple):
    """What is compiled.

    Attributes:
        function: Of the arguments.
        arguments: Abstract arrays, each with its sharding.
        least_flops: Per chip, what must be computed; NaN where that is not counted.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    least_flops: float = math.nan


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes and dtypes of a tree's arrays, placed on the chips."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    """Every chip holds all; every chip holds its share of the first axis."""
    (axis,) = mesh.axis_names
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(axis))


def model_inputs(mesh: Mesh, num_inputs: int) -> tuple[Any, ...]:
    """Parameters on every chip, then ``num_inputs`` batches of images and one of noise, spread."""
    whole, split = shardings(mesh)
    params = abstract(jax.eval_shape(MODEL.init, jax.random.key(0)), whole)
    num = IMAGES * mesh.size
    x = jax.ShapeDtypeStruct((num, *MODEL.image_shape), jnp.float32, sharding=split)
    eps = jax.ShapeDtypeStruct((num, *MODEL.noise_shape), jnp.float32, sharding=split)
    return (params, *[x] * num_inputs, eps)


def costs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Operations of each layer for one image, and of a patch of one unit of each site."""
    params = jax.eval_shape(MODEL.init, jax.random.key(0))
    return layer_flops(MODEL, params), patch_flops(MODEL, params, clipped=True)


def forward(mesh: Mesh) -> Program:
    """Outputs of a batch of images."""

    def run(params, x, eps):
        return jax.vmap(MODEL.forward, in_axes=(None, 0, 0))(params, x, eps).outputs

    return Program(run, model_inputs(mesh, 1), IMAGES * sum(costs()[0].values()))


def training_step(mesh: Mesh, num_seeds: int, over_seeds: Callable[..., Any], spread: bool):
    """One step of Adam for every seed, each with a batch of its own."""
    config = TrainConfig(MODEL, objectives.vae(), optax.adam(1e-3), 1, BATCH, record_every=1)
    trainer = make_trainer(config)
    whole, split = shardings(mesh)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_seeds))
    states = abstract(jax.eval_shape(jax.vmap(trainer.init), keys), split if spread else whole)
    data = jax.ShapeDtypeStruct((1024, *MODEL.image_shape), jnp.uint8, sharding=whole)
    run = over_seeds(lambda state, data: trainer.advance(state, data, 1))
    first, *rest = costs()[0].values()
    # The gradient takes two products per layer, but one in the first, whose input has none.
    least = BATCH * (2 * first + 3 * sum(rest)) * num_seeds / (mesh.size if spread else 1)
    return Program(run, (states, data), least)


def sharded_step(mesh: Mesh) -> Program:
    """Seeds spread over the chips, one after another on each: `fastest_over_seeds` on a TPU."""
    over_seeds = functools.partial(shard_seeds, devices=list(mesh.devices.flat))
    return training_step(mesh, SEEDS_PER_CHIP * mesh.size, over_seeds, spread=True)


def unit_sweep(mesh: Mesh, site: str) -> Program:
    """Every unit of a site patched between pairs, both ways."""
    swept = functools.partial(grid.sweep, mesh=mesh)

    def run(params, x0, x1, eps):
        return mediation.unit_mediation(
            MODEL.bind(params), Pairs(x0, x1, eps), site, sweep=swept
        ).values

    layers, patches = costs()
    units = MODEL.sites[site].num_units
    least = 2 * IMAGES * (sum(layers.values()) + units * patches[site])
    return Program(run, model_inputs(mesh, 2), least)


def latent_sweep(mesh: Mesh) -> Program:
    """Every latent shifted by one standard deviation of the prior."""
    swept = functools.partial(grid.sweep, mesh=mesh)

    def run(params, x, eps):
        dose = jnp.ones(MODEL.sites["latent/z"].num_units)
        return shift_effects(
            MODEL.bind(params), x, eps, {"latent/z": dose}, sweep=swept
        ).values.squared

    layers, patches = costs()
    units = MODEL.sites["latent/z"].num_units
    return Program(
        run, model_inputs(mesh, 1), IMAGES * (sum(layers.values()) + units * patches["latent/z"])
    )


def effect_graph(mesh: Mesh) -> Program:
    """All edges between the two dense layers and the first map of the decoder."""
    nodes = ("decoder/dense0", "decoder/dense1", "decoder/conv0")

    swept = functools.partial(grid.sweep, mesh=mesh)

    def run(params, x, donor, eps):
        task = make_task(MODEL.bind(params), Pairs(donor, x, eps), nodes=nodes)
        natural, given = task_values(task, task.pairs.x1), task_values(task, task.pairs.x0)
        return {
            pair: pair_effects(task, pair, natural, given, sweep=swept)
            for pair in task.wires.pairs
            if INPUT not in pair and OUTCOME not in pair
        }

    return Program(run, model_inputs(mesh, 2))


def measurement(mesh: Mesh) -> Program:
    """The quick study's measurement of one layer, models spread over the chips."""
    config = study.PRESETS["train"]
    data = dataset(config, None)
    model = next(iter(architectures(config, data)))
    whole, split = shardings(mesh)
    inputs = make_inputs(config, data, model, make_readout(config, data, lambda *_: None))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), mesh.size))
    params = abstract(jax.eval_shape(jax.vmap(model.init), keys), split)
    measure = measurements(config, model)["site/decoder/conv0"]
    run = shard_seeds(measure, devices=list(mesh.devices.flat))
    arrays, static = jax.tree.flatten(inputs)
    return Program(
        lambda params, arrays: run(params, jax.tree.unflatten(static, arrays)),
        (params, abstract(arrays, whole)),
    )


PROGRAMS: dict[str, Callable[[Mesh], Program]] = {
    "forward": forward,
    "train 1 seed": lambda mesh: training_step(mesh, 1, vmap_seeds, False),
    "train 8 vmapped": lambda mesh: training_step(mesh, 8, vmap_seeds, False),
    "train 64 vmapped": lambda mesh: training_step(mesh, 64, vmap_seeds, False),
    "train 2 per chip": sharded_step,
    **{f"units {site}": functools.partial(unit_sweep, site=site) for site in UNIT_SITES},
    "latents": latent_sweep,
    "effect graph": effect_graph,
    "study measurement": measurement,
}
OVER_SEEDS = ("train 2 per chip", "study measurement")
ON_ONE_CHIP = ("train 1 seed", "train 8 vmapped", "train 64 vmapped")


@contextlib.contextmanager
def chosen_turns() -> Iterator[list[int]]:
    """How many blocks of points each sweep walks, as it is traced."""
    found, choose = [1], grid.choose_block

    def record(run, points, contexts, **options):
        block = choose(run, points, contexts, **options)
        found.append(math.ceil(len(jax.tree.leaves(points)[0]) / block.points))
        return block

    grid.choose_block = record
    try:
        yield found
    finally:
        grid.choose_block = choose


def chips_of(generation: str, size: int, axis: str) -> Mesh:
    """A mesh over chips that are not here."""
    topology, _ = GENERATIONS[generation]
    shape = topology[4 if size == 1 else size]
    if generation == "h100":
        described = topologies.get_topology_desc("", "cuda", target_config=H100, topology=shape)
    else:
        described = topologies.get_topology_desc(f"{generation}:{shape}", "tpu")
    return Mesh(described.devices[:size], (axis,))


def examine(program: Program, mesh: Mesh) -> dict[str, Any]:
    """Compiles a program for the chips of a mesh, and reads what became of it."""
    # The mesh in force says what the devices are; shard_map asks that it be the one it is given.
    with jax.set_mesh(mesh), chosen_turns() as turns:
        start = time.perf_counter()
        lowered = jax.jit(program.function).lower(*program.arguments)
        traced = time.perf_counter()
        compiled: Any = lowered.compile()
        done = time.perf_counter()
    if folder := os.environ.get("HLO_FOLDER"):
        pathlib.Path(folder, f"{time.time()}.txt").write_text(compiled.as_text())
    found = hlo.read(compiled.as_text(), turns=max(turns))
    memory = compiled.memory_analysis()
    kinds: dict[str, dict[str, int]] = {}
    for one in found.collectives:
        row = kinds.setdefault(one.kind, {"count": 0, "largest_bytes": 0, "loops": 0})
        row["count"] += 1
        row["largest_bytes"] = max(row["largest_bytes"], one.bytes)
        row["loops"] = max(row["loops"], one.loops)
    return {
        "trace_seconds": traced - start,
        "compile_seconds": done - traced,
        "memory_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        - memory.alias_size_in_bytes,
        "flops": found.flops,
        "flops_over_least": found.flops / program.least_flops,
        "traffic_bytes": (compiled.cost_analysis() or {}).get("bytes accessed", math.nan),
        "collectives": kinds,
    }


def line(generation: str, size: int, name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    share = row["memory_bytes"] / GENERATIONS[generation][1]
    least = row["flops_over_least"]
    moved = ", ".join(
        f"{kind} x{one['count']} ({one['largest_bytes'] / 1024:.0f} KiB, {one['loops']} loops)"
        for kind, one in row["collectives"].items()
    )
    return (
        f"{generation:5}{size:5}  {name:22}{row['compile_seconds']:8.1f}"
        f"{row['memory_bytes'] / 2**20:9.0f}{share:7.1%}{row['flops'] / 1e9:10.2f}"
        f"{'' if math.isnan(least) else format(least, '.2f'):>7}"
        f"{row['traffic_bytes'] / 2**20:10.0f}  {moved or 'none'}"
    )


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chips", nargs="+", choices=GENERATIONS, default=["v5e", "v5p", "v6e"])
    parser.add_argument("--sizes", nargs="+", type=int, choices=(4, 16, 256), default=[4, 16, 256])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument(
        "--precision", default="default", help="of matrix products; the commands take highest"
    )
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", args.precision)
    print(f"jax {jax.__version__}; compiled, not run; {IMAGES} images or pairs per chip")
    print(
        f"{'chip':5}{'num':>5}  {'program':22}{'compile':>8}{'MiB':>9}{'share':>7}{'GFLOP':>10}"
        f"{'least':>7}{'traffic':>10}  collectives"
    )
    rows = []
    for generation in args.chips:
        for name in args.programs:
            for size in [1] if name in ON_ONE_CHIP else args.sizes:
                axis = "seed" if name in OVER_SEEDS else "contexts"
                mesh = chips_of(generation, size, axis)
                row = examine(PROGRAMS[name](mesh), mesh)
                print(line(generation, size, name, row), flush=True)
                rows.append({"chip": generation, "chips": size, "program": name, **row})
    if args.json:
        about = {"jax": jax.__version__, "date": datetime.date.today().isoformat()}
        print(json.dumps({"benchmark": "tpu_programs", **about, "rows": rows}))


if __name__ == "__main__":
    main()
