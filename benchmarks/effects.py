"""What does the full table of effects of one VAE cost, beyond the least it could?

The table of one convolutional VAE at 64x64, with minimal pairs of the six factors of the stand-in
for 3DShapes, `--pairs` a factor:

    mediation   every unit of every site patched between the images of every pair, in both
                directions: shares of all factors, interaction map, profile by depth
    strengths   every latent redrawn and frozen, from the prior and from other images, and shifted
                by three doses of either sign: indices, nats, doses, the paper's form
    estimates   intervals, nulls and tests of all of it

The least is the work that only what changes takes, counted by hand from layer shapes as in
`benchmarks.sweep`: for each unit, pair and direction the next layer as a rank-one update and the
layers after it, once each. `flops_over_least` is what the library's program runs over that, both
without the pairs in which a unit does not change. `least_seconds` is that work at the machine's
best rate of float32 matrix products in the same run, and `time_over_least` the time over it.
Compilation is apart. `estimates` are arithmetic on results, no forward passes: time only.

Predicted on two quiet cores, 512 pairs of each of 6 factors: about 1.0 in flops; in time 2 to 4,
what a sweep's share of peak leaves (`benchmarks.sweep`).

    python -m benchmarks.effects [--pairs 512] [--sites decoder/conv1 ...] [--rounds 3]
        [--quick] [--json]
"""

import argparse
import datetime
import functools
import json
import os
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from benchmarks.sweep import MatrixProducts, over_all_units, patch_flops, progress, swept_sites
from vaecausal_jax import inference, models
from vaecausal_jax.data import factor_names, images, minimal_levels, shapes3d_standin
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import decompositions, mediation, mediation_estimates, strengths
from vaecausal_jax.sweeps.grid import sweep

NUM_DOSES = 3
BATCH = 64
"""Pairs swept in one call: the program is compiled for this many, and called for each batch."""


def make_pairs(data, num):
    """Minimal pairs of every factor, all pairs of a factor together: (x0, x1)."""
    names = factor_names(data)
    keys = jax.random.split(jax.random.key(0), len(names))
    rows = [minimal_levels(k, data, n, num) for k, n in zip(keys, names, strict=True)]
    render = jax.jit(images)
    ends = zip(*rows, strict=True)
    return tuple(render(data, jnp.concatenate(end)) for end in ends)


def make_params(model):
    """Kernels scaled so that ReLU layers keep their scale, and biases that are not zero."""
    keys = jax.random.split(jax.random.key(1), 2)
    leaves, tree = jax.tree.flatten(model.init(keys[0]))
    noise = jax.random.split(keys[1], len(leaves))
    scaled = [
        0.1 * jax.random.normal(key, leaf.shape) if leaf.ndim == 1 else 2**0.5 * leaf
        for key, leaf in zip(noise, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, scaled)


class Mediation:
    """A compiled program a site, for a batch of pairs."""

    def __init__(self, model, params, sites, pairs):
        self.params, self.pairs = params, pairs
        num = len(pairs[0])
        self.batch = next(size for size in range(min(BATCH, num), 0, -1) if num % size == 0)
        # Each core takes its share of the pairs; of the units, where pairs are odd.
        axis = "contexts" if self.batch % jax.device_count() == 0 else "points"
        mesh = jax.sharding.Mesh(jax.devices(), (axis,))
        start = time.perf_counter()
        self.programs = {}
        for name in sites:
            progress(f"compiling {name}")

            def run(params, x0, x1, eps, name=name):
                return mediation.unit_mediation(
                    model.bind(params),
                    Pairs(x0, x1, eps),
                    name,
                    sweep=functools.partial(sweep, mesh=mesh),
                ).values

            first = [a[: self.batch] for a in pairs]
            self.programs[name] = jax.jit(run).lower(params, *first).compile()
        self.compile_seconds = time.perf_counter() - start

    def site(self, name, num=None):
        """Grams of all units of a site over the first pairs, all by default."""
        parts = []
        for start in range(0, num or len(self.pairs[0]), self.batch):
            rows = [a[start : start + self.batch] for a in self.pairs]
            # One at a time: devices of a CPU that have many runs under way can wait for each other.
            parts.append(jax.block_until_ready(self.programs[name](self.params, *rows)))
        return jax.block_until_ready(jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *parts))


class Strengths:
    """The family of effect strengths of the latents, from both kinds of donors."""

    def __init__(self, model, params, x, eps):
        prior = jax.random.normal(jax.random.key(2), (2, *eps.shape))

        def run(params, x, eps, prior):
            z = jax.vmap(model.forward, (None, 0, 0))(params, x, eps).activations["latent/z"]

            def family(donor, base):
                samples = strengths.strength_samples(
                    model.bind(params),
                    Runs(x, eps, {"latent/z": donor}, {"latent/z": base}),
                    "latent/z",
                    divergence=strengths.bernoulli_nats,
                )
                # What is no array of the program is put back outside.
                self.fixed = {"doses": samples.doses, "num_outputs": samples.num_outputs}
                return samples._replace(**dict.fromkeys(self.fixed, 0))

            return family(prior[1], prior[0]), family(jnp.roll(z, 1, axis=0), None)

        self.fixed = {}
        self.arguments = params, x, eps, prior
        start = time.perf_counter()
        progress("compiling the strengths of latents")
        self.program = jax.jit(run).lower(*self.arguments).compile()
        self.compile_seconds = time.perf_counter() - start

    def samples(self):
        """Of redrawing from the prior, and from other images."""
        made = jax.block_until_ready(self.program(*self.arguments))
        return [s._replace(**self.fixed) for s in made]


def estimate_table(grams, samples, num_factors):
    """Every estimate of the table, clustered by base image; returns how many numbers."""
    key, count = jax.random.key(3), 0
    for name, gram in grams.items():
        by_factor = jax.tree.map(lambda a: a.reshape(len(a), num_factors, -1), gram)
        for factor in range(num_factors):
            own = jax.tree.map(lambda a, f=factor: a[:, f], by_factor)
            found = mediation_estimates.estimate_mediation(
                key,
                decompositions.Mediated(own, None, jnp.zeros(())),
                intervention=name,
                num_flips=999,
            )
            count += sum(e.value.size for e in found if isinstance(e, inference.Estimate))
            count += found.p_value.size
    for each in samples:
        found = strengths.estimate_strengths(key, each, intervention="latents redrawn")
        count += sum(e.value.size for e in found if isinstance(e, inference.Estimate))
    return count


def timed(call):
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def unchanged_shares(model, params, sites, pairs):
    """By site, the share of (unit, pair) in which both images give the unit the same value."""

    def values(x, eps):
        return {n: model.forward(params, x, eps).activations[n] for n in sites}

    run = jax.jit(jax.vmap(values))
    a, b = (run(x[:BATCH], pairs[2][:BATCH]) for x in pairs[:2])
    return {
        n: float(jnp.mean(jnp.all((a[n] == b[n]).reshape(len(a[n]), -1, a[n].shape[-1]), axis=1)))
        for n in sites
    }


def measure(args):
    data = shapes3d_standin()
    model = models.conv_vae(data.image_shape)
    params = make_params(model)
    num_factors = len(data.factors)
    x0, x1 = make_pairs(data, args.pairs)
    pairs = x0, x1, jax.random.normal(jax.random.key(4), (len(x0), *model.noise_shape))
    num_units = {n: u for n, u in swept_sites(model).items() if not args.sites or n in args.sites}
    ours = Mediation(model, params, num_units, pairs)
    num_images = min(args.pairs, 512)
    latents = Strengths(model, params, x0[:num_images], pairs[2][:num_images])
    products = MatrixProducts()

    rates, sweeps, family = [], {name: [] for name in num_units}, []
    grams, samples = {}, []
    for number in range(args.rounds):
        rates.append(products.round())
        for name in num_units:
            progress(f"round {number + 1} of {args.rounds}: {name}")
            seconds, grams[name] = timed(lambda name=name: ours.site(name))
            sweeps[name].append(seconds)
        seconds, samples = timed(latents.samples)
        family.append(seconds)
    progress("estimates")
    first_seconds, count = timed(lambda: estimate_table(grams, samples, num_factors))
    seconds, _ = timed(lambda: estimate_table(grams, samples, num_factors))

    peak = max(rates)
    unchanged = unchanged_shares(model, params, num_units, pairs)
    # Two directions, every pair; a patch that changes nothing is not run and need not be.
    runs = 2 * len(x0)
    done, least = (
        {n: patch_flops(model, params, clipped)[n] * runs * (1 - unchanged[n]) for n in num_units}
        for clipped in (False, True)
    )
    rows = {
        name: {
            "units": units,
            "seconds": statistics.median(sweeps[name]),
            "flops_over_least": done[name] / least[name],
            "least_seconds": units * least[name] / peak,
            "unchanged": unchanged[name],
        }
        for name, units in num_units.items()
    }
    total = sum(row["seconds"] for row in rows.values())
    least_flops, done_flops = over_all_units(least, num_units), over_all_units(done, num_units)
    latent = statistics.median(family)
    # Redrawn, frozen and doses of either sign, from two donors, each a decoder after one unit.
    arms = 2 * (2 + 2 * NUM_DOSES)
    per_latent = patch_flops(model, params, True)["latent/z"]
    latent_least = arms * per_latent * model.sites["latent/z"].num_units * num_images / peak
    return {
        "pairs_per_factor": args.pairs,
        "factors": num_factors,
        "units": sum(num_units.values()),
        "runs": runs * sum(num_units.values()),
        "mediation_seconds": total,
        "mediation_least_seconds": least_flops / peak,
        "time_over_least": total / (least_flops / peak),
        "flops_over_least": done_flops / least_flops,
        "strengths_seconds": latent,
        "strengths_least_seconds": latent_least,
        "estimates_seconds": seconds,
        "estimates_compile_seconds": first_seconds - seconds,
        "numbers": count,
        "compile_seconds": ours.compile_seconds + latents.compile_seconds,
        "table_seconds": total + latent + seconds,
        "peak_flops_per_second": peak,
        "sites": rows,
    }


def print_record(record):
    columns = f"{'units':>6}{'same':>6}{'seconds':>10}{'least':>10}{'/ least':>9}{'flop':>7}"
    print(f"{'':15}{columns}")
    for name, row in record["sites"].items():
        line = f"{name:15}{row['units']:6}{row['unchanged']:6.0%}{row['seconds']:10.2f}"
        line += f"{row['least_seconds']:10.2f}{row['seconds'] / row['least_seconds']:9.2f}"
        print(f"{line}{row['flops_over_least']:7.2f}")
    print(
        f"mediation {record['mediation_seconds']:.1f} s, {record['time_over_least']:.2f} times the "
        f"least; flops {record['flops_over_least']:.2f} times the least"
    )
    print(
        f"strengths {record['strengths_seconds']:.2f} s (least "
        f"{record['strengths_least_seconds']:.2f}); estimates of {record['numbers']} numbers "
        f"{record['estimates_seconds']:.1f} s; compiled in {record['compile_seconds']:.0f} s"
    )
    print(f"the whole table: {record['table_seconds']:.1f} s")


def main():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, help="minimal pairs a factor; 512, or 8 with --quick")
    parser.add_argument("--sites", nargs="*", help="only these; all by default")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="few pairs, one round")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    args.pairs = args.pairs or (8 if args.quick else 512)
    args.rounds = args.rounds or (1 if args.quick else 3)
    record = measure(args)
    print_record(record)
    if args.json:
        device = jax.devices()[0]
        record |= {
            "benchmark": "effects",
            "rounds": args.rounds,
            "device": f"{device.device_kind} ({device.platform}), {cores} cores",
            "versions": {"jax": jax.__version__, "python": platform.python_version()},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
