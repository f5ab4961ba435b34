"""Does a sweep cost time in proportion to its interventions, and no memory?

Tables, all on one small network or one site of the field's: time and peak memory against the number
of interventions (10^2 to 10^6), time against devices and against models (seeds), and compile time
against the number of sites. Peak memory is that of a fresh process at each size, above what the
same process holds before it sweeps.

Predicted: time linear in interventions once the loop outweighs the call (slope a few microseconds
for a network this small), memory flat but for the results (4 bytes an intervention); devices help
up to the number of cores; models cost what they cost one after another; compile time grows with the
layers after a site, so less than in proportion to the sites.

    python -m benchmarks.scaling [--largest 1000000] [--json]
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax import models
from vaecausal_jax.interventions import set_to
from vaecausal_jax.sweeps.grid import sweep
from vaecausal_jax.sweeps.patching import Rows, patch_units
from vaecausal_jax.sweeps.reductions import moments

SMALL = models.mlp_vae((4, 4, 1), latent_size=4, encoder_dense=(16,), decoder_dense=(16,))
SITE = "latent/z"


def timed(function, *arguments, rounds=3):
    """Seconds of a compiled call, median, and of compiling it."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    compiled = time.perf_counter() - start
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), compiled


def small_sweep(model_params, points, contexts, **options):
    """Mean effect of each intervention: a latent (point[0]) set to a value (point[1])."""

    def run(params, point, context):
        latent, value = point
        x, eps = context
        plain = SMALL.forward(params, x, eps).outputs
        steps = set_to(SMALL.sites, SITE, value, unit=latent)
        return jnp.sum((SMALL.forward(params, x, eps, steps).outputs - plain) ** 2)

    return sweep(run, points, contexts, models=model_params, reduction=moments(), **options)


def small_inputs(num_points, num_images=16, num_models=1):
    keys = jax.random.split(jax.random.key(0), 4)
    params = jax.vmap(SMALL.init)(jax.random.split(keys[0], num_models))
    points = jnp.arange(num_points) % 4, jax.random.normal(keys[1], (num_points,))
    contexts = (
        jax.random.uniform(keys[2], (num_images, *SMALL.image_shape)),
        jax.random.normal(keys[3], (num_images, 4)),
    )
    return params, points, contexts


def peak_bytes():
    """Of this process so far, as the system counts it (Linux: kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1024 if sys.platform == "linux" else 1
    )


def one_size(num_points):
    """Runs in a process of its own: seconds and bytes above the baseline."""
    inputs = small_inputs(num_points)
    timed(small_sweep, *small_inputs(8), rounds=1)  # compiler and runtime are in the baseline
    jax.block_until_ready(inputs)
    before = peak_bytes()
    seconds, compiled = timed(small_sweep, *inputs)
    record = {"interventions": num_points, "images": 16, "seconds": seconds, "compile": compiled}
    print(json.dumps(record | {"bytes_above_baseline": peak_bytes() - before}))


def interventions_table(largest):
    print("interventions   seconds   us each   MiB above baseline")
    rows = []
    for exponent in range(2, 7):
        if 10**exponent > largest:
            break
        command = [sys.executable, "-m", "benchmarks.scaling", "--one-size", str(10**exponent)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(out.splitlines()[-1])
        rows.append(row)
        each, mib = 1e6 * row["seconds"] / row["interventions"], row["bytes_above_baseline"] / 2**20
        print(
            f"{row['interventions']:13} {row['seconds']:9.3f} {each:9.2f} {mib:10.0f}", flush=True
        )
    sizes = np.log([row["interventions"] for row in rows[-3:]])
    slope = np.polyfit(sizes, np.log([row["seconds"] for row in rows[-3:]]), 1)[0]
    print(f"slope of log time on log interventions, largest three: {slope:.2f}")
    return rows, float(slope)


def devices_table():
    print("devices   seconds  speedup")
    model, rows = models.conv_vae((64, 64, 1)), []
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(model.init)(keys[0])
    x = jax.random.uniform(keys[1], (16, *model.image_shape))
    eps = jax.random.normal(keys[2], (16, 10))
    trace = jax.jit(jax.vmap(model.forward, (None, 0, 0)))(params, x, eps)
    natural = trace.activations[SITE]
    patched = Rows(x, eps, natural, jnp.roll(natural, 1, axis=0), trace.outputs)
    for count in (1, 2, 4, 8):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("contexts",))

        def swept(params, rows, mesh=mesh):
            return patch_units(
                model.bind(params),
                SITE,
                rows,
                lambda y, row: jnp.sum((y - row.clean) ** 2),
                sweep=functools.partial(sweep, mesh=mesh),
            )

        seconds, _ = timed(swept, params, patched, rounds=5)
        rows.append({"devices": count, "seconds": seconds})
        print(f"{count:7} {seconds:9.4f} {rows[0]['seconds'] / seconds:8.2f}", flush=True)
    return rows


def models_table():
    print("models   seconds   per model")
    rows = []
    for count in (1, 2, 4, 8, 16):
        seconds, _ = timed(small_sweep, *small_inputs(4096, num_models=count))
        rows.append({"models": count, "seconds": seconds})
        print(f"{count:6} {seconds:9.4f} {seconds / count:11.4f}", flush=True)
    return rows


def compile_table():
    print("sites of the field's network, from the last   compile seconds")
    model, rows, total = models.conv_vae((64, 64, 1)), [], 0.0
    params = jax.eval_shape(model.init, jax.random.key(0))
    x, eps = jnp.zeros((16, *model.image_shape)), jnp.zeros((16, 10))
    for number, (name, site) in enumerate(reversed(list(model.sites.items())[:-1]), 1):
        value = jnp.zeros((16, *site.shape), site.dtype)

        def swept(params, rows, name=name):
            return patch_units(
                model.bind(params),
                name,
                rows,
                lambda y, row: jnp.sum((y - row.clean) ** 2),
            )

        start = time.perf_counter()
        jax.jit(swept).lower(params, Rows(x, eps, value, value, x)).compile()
        total += time.perf_counter() - start
        rows.append({"site": name, "sites": number, "seconds_so_far": total})
        print(f"{number:4} {name:20} {total:20.1f}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--largest", type=int, default=10**6, help="most interventions")
    parser.add_argument("--one-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    if args.one_size:
        one_size(args.one_size)
        return
    jax.config.update("jax_num_cpu_devices", 8)
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}")
    sizes, slope = interventions_table(args.largest)
    record = {
        "interventions": sizes,
        "slope": slope,
        "devices": devices_table(),
        "models": models_table(),
        "compile": compile_table(),
    }
    if args.json:
        print(json.dumps({"benchmark": "scaling", "jax": jax.__version__} | record))


if __name__ == "__main__":
    main()
