"""What does a model pay for being adapted instead of written with a tape?

Each model of the table is timed as its author wrote it (`native`) and through its adapter
(`adapted`), with no interventions, batched and jitted, outputs alone and with all activations:

    trace    Python and jaxpr, to a lowered program
    compile  XLA
    run      one batch, the median of interleaved rounds

`*_over_native` is adapted over native in the same run; the aim of `run_over_native` is 1: what an
adapter adds is traced, and dead code in the program. `bitwise` says whether the outputs are equal
to the last bit, `flops_over_native` what XLA counts. `activations_over_native` is a run that
returns every site over a native run that returns the outputs; values inside a scan are then
computed beside it, so it may reach 2.

Models: the library's convolutional VAE (native: its own forward with a tape; adapted: the same
network's Linen modules, intercepted), a residual VAE whose values are named, and one that is
scanned.

    python -m benchmarks.adapters [--images 64] [--rounds 30] [--quick] [--json]
"""

import argparse
import datetime
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from vaecausal_jax import models
from vaecausal_jax.interventions.sites import Tape
from vaecausal_jax.models import adapters

WIDTH, LATENTS, NUM_LAYERS, PIXELS = 256, 10, 6, 1024


def convolutional():
    """The library's VAE: its forward, the same network intercepted, and its inputs."""
    model = models.conv_vae()

    def native(params, x, eps):
        return model.forward(params, x, eps).outputs

    def apply(params, x, eps):
        return model.network.apply({"params": params}, x, eps, Tape({}))

    return native, adapters.from_linen(apply), model.init(jax.random.key(0)), model.image_shape


def dense_params():
    shapes = {
        "encoder": (PIXELS, WIDTH),
        "layers": (NUM_LAYERS, WIDTH, WIDTH),
        "posterior": (WIDTH, 2 * LATENTS),
        "decoder": (LATENTS, WIDTH),
        "logits": (WIDTH, PIXELS),
    }
    keys = jax.random.split(jax.random.key(1), len(shapes))
    return {
        name: jax.random.normal(key, shape) / shape[-2] ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def residual(scanned):
    """A residual VAE, its layers scanned or written out; and without the names, the native one."""

    def build(name):
        def layer(h, weights):
            return h + name(jnp.tanh(h @ weights), "layer"), None

        def function(params, x, eps):
            h = name(jnp.tanh(x @ params["encoder"]), "encoder")
            if scanned:
                h, _ = jax.lax.scan(layer, h, params["layers"])
            else:
                for weights in params["layers"]:
                    h, _ = layer(h, weights)
            mean, logvar = jnp.split(h @ params["posterior"], 2)
            z = name(mean + jnp.exp(0.5 * logvar) * eps, "z")
            return name(jnp.tanh(z @ params["decoder"]), "decoder") @ params["logits"]

        return function

    native, named = build(lambda h, name: h), build(checkpoint_name)
    return native, adapters.from_named(named), dense_params(), (PIXELS,)


MODELS = {
    "conv_vae, Linen": convolutional,
    "residual, named": lambda: residual(False),
    "residual, scanned": lambda: residual(True),
}


def built(function, *arguments):
    """The compiled program, and what it took: (program, trace seconds, compile seconds)."""
    batched = jax.vmap(function, (None, 0, 0))
    jax.eval_shape(batched, *arguments)  # what is traced once a process is not counted
    start = time.perf_counter()
    lowered = jax.jit(batched).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    return program, traced - start, time.perf_counter() - traced


def interleaved(programs, arguments, rounds):
    """Median seconds of each program, one call of each a round."""
    times = [[] for _ in programs]
    for program in programs:
        jax.block_until_ready(program(*arguments))
    for _ in range(rounds):
        for program, seconds in zip(programs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def measure(make, num_images, rounds):
    native, forward, params, image_shape = make()
    keys = jax.random.split(jax.random.key(2))
    x = jax.random.uniform(keys[0], (num_images, *image_shape))
    arguments = params, x, jax.random.normal(keys[1], (num_images, LATENTS))
    plain, plain_trace, plain_compile = built(native, *arguments)
    ours, trace, compilation = built(lambda *run: forward(*run).outputs, *arguments)
    everything, _, _ = built(forward, *arguments)
    seconds = interleaved([plain, ours, everything], arguments, rounds)
    flops = [(p.cost_analysis() or {}).get("flops", float("nan")) for p in (plain, ours)]
    return {
        "native_seconds": seconds[0],
        "run_over_native": seconds[1] / seconds[0],
        "activations_over_native": seconds[2] / seconds[0],
        "native_trace_seconds": plain_trace,
        "trace_over_native": trace / plain_trace,
        "native_compile_seconds": plain_compile,
        "compile_over_native": compilation / plain_compile,
        "flops_over_native": flops[1] / flops[0],
        "bitwise": bool(np.array_equal(plain(*arguments), ours(*arguments))),
        "sites": len(forward.sites(params, x[0], arguments[2][0])),
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, help="images a batch; 64, or 4 with --quick")
    parser.add_argument("--rounds", type=int, help="30, or 3 with --quick")
    parser.add_argument("--quick", action="store_true", help="few images, few rounds")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    num_images = args.images or (4 if args.quick else 64)
    rounds = args.rounds or (3 if args.quick else 30)
    rows = {}
    print(f"{'adapted over native':20}{'run':>7}{'all':>7}{'trace':>7}{'compile':>9}{'flops':>7}")
    for title, make in MODELS.items():
        row = rows[title] = measure(make, num_images, rounds)
        print(
            f"{title:20}{row['run_over_native']:7.2f}{row['activations_over_native']:7.2f}"
            f"{row['trace_over_native']:7.2f}{row['compile_over_native']:9.2f}"
            f"{row['flops_over_native']:7.2f}  {'bitwise' if row['bitwise'] else 'NOT EQUAL'}",
            flush=True,
        )
    if args.json:
        device = jax.devices()[0]
        record = {
            "benchmark": "adapters",
            "images": num_images,
            "rounds": rounds,
            "models": rows,
            "device": f"{device.device_kind} ({device.platform})",
            "versions": {"jax": jax.__version__, "python": platform.python_version()},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
