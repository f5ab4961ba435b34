"""How many images a second do the worlds render on the device?

Each renderer is jitted over a batch of random factors; compile time apart, median of rounds.

Predicted: the smooth sprites are a few operations a pixel and reach hundreds of thousands
of images a second; the exact dSprites geometry tests more pixels for each edge and is several times
slower. The ray-marched stand-ins evaluate a solid's distance a dozen times a pixel and reach
thousands.

    python -m benchmarks.rendering [--batch 64] [--rounds 9] [--json]
"""

import argparse
import json
import os
import statistics
import time

import jax

from vaecausal_jax.data import (
    causal,
    dsprites_exact,
    images,
    mpi3d_standin,
    sample_factors,
    scenes,
    shapes3d_standin,
    sprites,
)


def worlds():
    """Name to a function from a key to a batch of images."""

    def factors_of(data):
        return lambda key, num: images(data, sample_factors(key, data, num))

    def scene(model, render):
        def draw(key, num):
            noise = causal.sample_noise(key, model, num)
            return jax.vmap(lambda n: render(causal.observe(model, n)))(noise)

        return draw

    return {
        "sprites 32x32": factors_of(sprites(32)),
        "sprites 64x64": factors_of(sprites(64)),
        "exact dSprites 64x64": factors_of(dsprites_exact()),
        "3DShapes stand-in 64x64x3": factors_of(shapes3d_standin(64)),
        "MPI3D stand-in 64x64x3": factors_of(mpi3d_standin(64)),
        "pendulum 64x64x3": scene(scenes.pendulum(), scenes.pendulum_image),
        "flow 64x64x3": scene(scenes.flow(), scenes.flow_image),
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch {args.batch}")
    print(f"{'world':26} images a second   compile s")
    rates = {}
    for name, draw in worlds().items():
        start = time.perf_counter()
        program = jax.jit(draw, static_argnums=1).lower(jax.random.key(0), args.batch).compile()
        compiled = time.perf_counter() - start
        seconds = []
        for number in range(args.rounds):
            key = jax.random.key(number)
            start = time.perf_counter()
            for _ in range(10):
                drawn = program(key)
            jax.block_until_ready(drawn)
            seconds.append((time.perf_counter() - start) / 10)
        rates[name] = args.batch / statistics.median(seconds)
        print(f"{name:26} {rates[name]:15,.0f} {compiled:11.1f}", flush=True)
    if args.json:
        record = {"benchmark": "rendering", "batch": args.batch, "jax": jax.__version__}
        print(json.dumps(record | {"images_per_second": rates}))


if __name__ == "__main__":
    main()
