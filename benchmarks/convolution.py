"""Which form of a convolution is fastest, by layer shape: forward, and forward with gradients.

Each form runs inside `lax.scan`, as in training, over 64 images. Forms take turns, so that a busy
machine slows all alike. `cores` is processor time over wall time: below what the machine has,
something else was running and only comparisons within a row hold.

    python benchmarks/convolution.py [--json] [--steps 6] [--rounds 7] [--lax]
"""

import argparse
import json
import statistics
import time

import jax

from vaecausal_jax.models import convolution

BATCH = 64
# (map height, in, out), of the 64x64 and the 32x32 model.
CONV = [(64, 1, 32), (32, 32, 32), (16, 32, 64), (8, 64, 64), (32, 1, 16), (16, 16, 32)]
TRANSPOSED = [(4, 64, 64), (8, 64, 32), (16, 32, 32), (32, 32, 1), (8, 32, 16), (16, 16, 1)]
FORMS = [convolution.conv_patches, convolution.conv_shift_add, convolution.conv_mixed]
TRANSPOSED_FORMS = [
    convolution.conv_transpose_patches,
    convolution.conv_transpose_subpixel,
    convolution.conv_transpose_overlap_add,
]


def programs(form, x, kernel, steps):
    """Compiles scans of the forward pass and of the forward and backward pass."""

    def layer(x, kernel):
        return jax.nn.relu(jax.vmap(lambda image: form(image, kernel, stride=2))(x))

    def forward(image, _):
        # The next image depends on this one, so that nothing is hoisted out of the loop.
        return image + 1e-9 * layer(image, kernel).mean(), None

    def both(carry, _):
        image, kernel = carry
        out, pullback = jax.vjp(layer, image, kernel)
        dx, dkernel = pullback(out)
        return (image + 1e-6 * dx, kernel - 1e-9 * dkernel), None

    def scan(step, carry):
        start = time.perf_counter()
        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])
        compiled = run.lower(carry).compile()
        seconds = time.perf_counter() - start
        jax.block_until_ready(compiled(carry))
        return compiled, carry, seconds

    return {"forward": scan(forward, x), "both": scan(both, (x, kernel))}


def measure(shape, forms, steps, rounds):
    """Times all forms of one layer in turns; milliseconds a step."""
    size, channels, features = shape
    key_x, key_kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (BATCH, size, size, channels))
    kernel = jax.random.normal(key_kernel, (4, 4, channels, features)) / (16 * channels) ** 0.5
    compiled = {form.__name__: programs(form, x, kernel, steps) for form in forms}
    times = {(name, part): [] for name in compiled for part in ("forward", "both")}
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        for (name, part), record in times.items():
            run, carry, _ = compiled[name][part]
            start = time.perf_counter()
            jax.block_until_ready(run(carry))
            record.append((time.perf_counter() - start) / steps * 1e3)
    cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
    for name in compiled:
        yield {
            "shape": shape,
            "form": name,
            "compile_s": compiled[name]["forward"][2] + compiled[name]["both"][2],
            "cores": cores,
        } | {
            f"{part}_{label}_ms": reduce(times[name, part])
            for part in ("forward", "both")
            for label, reduce in (("min", min), ("median", statistics.median))
        }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    parser.add_argument("--steps", type=int, default=6, help="steps in a scan")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each form")
    parser.add_argument("--lax", action="store_true", help="also XLA's form: 1 s a run on a CPU")
    args = parser.parse_args()
    backend = jax.default_backend()
    print(f"{jax.devices()[0].device_kind} ({backend}), {BATCH} images, ms a step: min / median")
    print(f"{'map, in, out':14} {'form':27}{'forward':>15}{'with gradients':>18} compile cores")
    records = []
    layers = [
        (CONV, FORMS, convolution.conv_lax, convolution.conv_form),
        (
            TRANSPOSED,
            TRANSPOSED_FORMS,
            convolution.conv_transpose_lax,
            convolution.conv_transpose_form,
        ),
    ]
    for shapes, forms, lax_form, choose in layers:
        with_lax = [*forms, lax_form] if args.lax or backend != "cpu" else forms
        for size, channels, features in shapes:
            shape, window = (size, size, channels), (4, 4, channels, features)
            chosen = {
                part: choose(shape, window, stride=2, backend=backend, differentiated=use).__name__
                for part, use in (("forward", False), ("gradients", True))
            }
            for row in measure((size, channels, features), with_lax, args.steps, args.rounds):
                row["chosen_for"] = [part for part, form in chosen.items() if form == row["form"]]
                marks = "".join("*+"[part == "gradients"] for part in row["chosen_for"])
                records.append(row)
                print(
                    f"{row['shape']!s:14} {row['form'] + ' ' + marks:28}"
                    f"{row['forward_min_ms']:7.2f}/{row['forward_median_ms']:6.2f}"
                    f"{row['both_min_ms']:10.2f}/{row['both_median_ms']:6.2f}"
                    f"{row['compile_s']:7.1f}s{row['cores']:6.2f}",
                    flush=True,
                )
    print("chosen by the library's rule: * forward, + where differentiated")
    if args.json:
        record = {"benchmark": "convolution", "backend": backend, "jax": jax.__version__}
        print(json.dumps(record | {"batch": BATCH, "steps": args.steps, "rows": records}))


if __name__ == "__main__":
    main()
