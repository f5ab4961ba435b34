"""Is the effect graph of a conv VAE faster than path patching with PyTorch hooks?

The question put to all: for each unit of a layer, each unit of the next and each image, the squared
change of the second, mean over positions, when the first takes its value in another image and
everything else is frozen. The network is the field's at 64x64, with its channels, latents and
decoder features as nodes, 586 units; dense layers between them are part of the edges. Ours also
returns signed effects, and both in SD of the consumer.

    hooks      a hook on the sender, a hook on the receiver, the whole forward for each sender
    restart    the layers between sender and receiver by hand, from cached values

Peers run the fastest of a few settings (senders to a forward, threads), on an even subset of each
layer's senders scaled to all of them; ours runs all. All take turns, in rounds; the median counts.
Compilation is apart. `least` is the arithmetic that cannot be left out: for each sender the next
layer as a rank-one update and the later ones whole, a multiply-add as two; `flops_over_least`
compares what XLA counts in ours for one image, elementwise work and the clean run included.

    python -m benchmarks.effect_graph [--images 16] [--rounds 5] [--senders 8] [--peers hooks]
        [--torch-python /venv/bin/python] [--quick] [--json]
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks.sweep import (
    MatrixProducts,
    PeerUnavailableError,
    Worker,
    layer_flops,
    progress,
    read_inputs,
    write_inputs,
)
from vaecausal_jax import models
from vaecausal_jax.circuits.effect_graphs import pair_effects
from vaecausal_jax.circuits.tasks import make_task, task_values
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects.paths import INPUT, OUTCOME
from vaecausal_jax.sweeps.grid import Block, sweep

PEERS = ("hooks", "restart")


class Ours:
    """A compiled program for the clean runs, and one a pair of layers."""

    def __init__(self, model, path, num_images):
        self.params, (self.x, self.eps, donor) = read_inputs(path, num_images)
        dense = ("encoder/dense0", "decoder/dense1", "latent/mean", "latent/logvar")
        left_out = ("input/image", "decoder/logits", *dense)
        nodes = [name for name in model.sites if name not in left_out]
        task = make_task(model.bind(self.params), Pairs(donor, self.x, self.eps), nodes=nodes)
        self.task = task
        self.pairs = [p for p in task.wires.pairs if INPUT not in p and OUTCOME not in p]
        self.units = {name: task.wires.nodes[name].num_units for name in nodes}
        start = time.perf_counter()

        def prepare(params):
            given = task._replace(net=task.net.with_params(params))
            return task_values(given, task.pairs.x1), task_values(given, task.pairs.x0)

        self.prepare = jax.jit(prepare).lower(self.params).compile()
        runs = self.prepare(self.params)
        axis = "contexts" if num_images % jax.device_count() == 0 else "points"
        mesh = jax.sharding.Mesh(np.array(jax.devices()), (axis,))
        self.programs = {}
        for pair in self.pairs:
            progress(f"compiling {pair[0]} -> {pair[1]}")
            self.programs[pair] = (
                self._program(task, pair, mesh=mesh).lower(self.params, *runs).compile()
            )
        self.compile_seconds = time.perf_counter() - start

    @staticmethod
    def _program(task, pair, **how):
        swept = functools.partial(sweep, **how)

        def effects(params, natural, donor):
            given = task._replace(net=task.net.with_params(params))
            squared, signed = pair_effects(given, pair, natural, donor, sweep=swept)
            return squared.mean(1), signed.mean(1)

        return jax.jit(effects)

    def round(self):
        """Seconds of the clean runs and of each pair, and mean squared effects in SD."""
        start = time.perf_counter()
        runs = jax.block_until_ready(self.prepare(self.params))
        prepare, seconds, effects = time.perf_counter() - start, {}, {}
        for pair, program in self.programs.items():
            start = time.perf_counter()
            effects[pair] = jax.block_until_ready(program(self.params, *runs))
            seconds[pair] = time.perf_counter() - start
        return prepare, seconds, {pair: np.asarray(e[0]) for pair, e in effects.items()}

    def counted_flops(self):
        """What XLA counts for all edges of one image; it counts a loop once, so there is none."""
        total = 0.0
        for pair in self.pairs:
            one = self.task.take([0])
            runs = task_values(one, one.pairs.x1), task_values(one, one.pairs.x0)
            program = self._program(one, pair, block=Block(self.units[pair[0]], 1))
            cost = program.lower(self.params, *runs).compile().cost_analysis() or {}
            total += cost.get("flops", float("nan"))
        return total

    def least_flops(self):
        """Arithmetic of one image: per sender, a rank-one update and the later layers."""
        costs = layer_flops(self.task.net.forward.__self__, self.params)
        chain, total = list(costs), 0.0
        for source, target in self.pairs:
            between = chain[chain.index(source) + 1 : chain.index(target) + 1]
            each = costs[between[0]] / self.units[source] + sum(costs[n] for n in between[1:])
            total += each * self.units[source]
        return total


def even_subset(num, wanted):
    return np.unique(np.linspace(0, num - 1, min(num, wanted)).round().astype(int)).tolist()


def ask(worker, peer, tile, num_images, ours, wanted, folder=None):
    """Seconds of all senders of every pair, scaled from a subset, and effects of the subset."""
    units = {pair: even_subset(ours.units[pair[0]], max(wanted, tile)) for pair in ours.pairs}
    path = folder and str(pathlib.Path(folder, "effects.npz"))
    pairs = [[*pair, units[pair]] for pair in ours.pairs]
    worker.send({"peer": peer, "images": num_images, "tile": tile, "pairs": pairs, "effects": path})
    reply = worker.receive()
    each = zip(ours.pairs, reply["seconds"], strict=True)
    seconds = {pair: s * ours.units[pair[0]] / len(units[pair]) for pair, s in each}
    effects = {}
    if path:
        with np.load(path) as saved:
            effects = {pair: (units[pair], saved[str(i)]) for i, pair in enumerate(ours.pairs)}
    return reply["prepare"] + sum(seconds.values()), effects


def largest_difference(theirs, ours, effects):
    """Relative to each pair's largest effect; theirs are divided by the consumer's variance."""
    runs = ours.prepare(ours.params)
    worst = 0.0
    for pair, (units, found) in theirs.items():
        node = ours.task.wires.nodes[pair[1]]
        values = np.concatenate([jax.vmap(node.by_unit)(run[pair[1]]) for run in runs])
        variance = values.var(0, ddof=1).mean(-1)
        expected = np.where(variance > 0, found / np.where(variance > 0, variance, 1), 0.0)
        # Where the consumer never varies ours is NaN, or 0 if nothing changed.
        given = np.nan_to_num(effects[pair][units])
        worst = max(worst, float(np.abs(expected - given).max() / np.abs(expected).max()))
    return worst


def measure(args, path, ours, folder):
    """Rounds in turn: seconds of ours and of each peer in its fastest setting."""
    cores = jax.device_count()
    rounds, settings, skipped, differences = {"ours": []}, {}, {}, {}
    _, _, effects = ours.round()
    workers = {}
    try:
        for threads in ({1} if args.quick else {1, cores}) if args.peers else ():
            workers[threads] = Worker(
                args.torch_python, path, threads, script="effect_graph_peers.py"
            )
            workers[threads].receive()
    except (PeerUnavailableError, OSError) as error:
        skipped = dict.fromkeys(args.peers, str(error))
    for peer in args.peers if not skipped else ():
        tried = {}
        for threads, worker in workers.items():
            for tile in (1, 4):
                seconds, found = ask(worker, peer, tile, args.images, ours, 2, folder)
                tried[threads, tile] = seconds
                difference = largest_difference(found, ours, effects)
                differences[peer] = max(differences.get(peer, 0.0), difference)
                progress(f"{peer}, {threads} threads, {tile} at once: {seconds:.2f} s")
        settings[peer], rounds[peer] = min(tried, key=lambda s: tried[s]), []
    products, rates = MatrixProducts(), []
    for number in range(args.rounds):
        progress(f"round {number + 1} of {args.rounds}")
        rates.append(products.round())
        prepare, seconds, _ = ours.round()
        rounds["ours"].append(prepare + sum(seconds.values()))
        for peer, (threads, tile) in settings.items():
            time.sleep(0.1)  # Threads of the run before stop spinning.
            took, _ = ask(workers[threads], peer, tile, args.images, ours, args.senders)
            rounds[peer].append(took)
    for worker in workers.values():
        worker.close()
    return rounds, settings, differences, skipped, max(rates)


def parse_arguments():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, help="16, or 4 with --quick")
    parser.add_argument("--rounds", type=int, help="5, or 2 with --quick")
    parser.add_argument("--senders", type=int, default=8, help="a layer and round, of peers")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--quick", action="store_true", help="few images, short rounds")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    args.images = args.images or (4 if args.quick else 16)
    args.rounds = args.rounds or (2 if args.quick else 5)
    return args


def main():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    args = parse_arguments()
    model = models.conv_vae((64, 64, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "inputs.npz")
        write_inputs(path, model, args.images)
        ours = Ours(model, path, args.images)
        rounds, settings, differences, skipped, peak = measure(args, path, ours, folder)
    least, counted = ours.least_flops(), ours.counted_flops()
    median = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    edges = sum(ours.units[s] * ours.units[t] for s, t in ours.pairs)
    print(f"{sum(ours.units.values())} units, {edges} edges, {args.images} images, {cores} cores")
    print(f"{'':10}{'median s':>10}{'min s':>9}{'/ ours':>8}{'differs':>9}")
    for name, seconds in rounds.items():
        line = f"{name:10}{median[name]:10.3f}{min(seconds):9.3f}"
        line += f"{median[name] / median['ours']:8.2f}"
        if name in settings:
            threads, tile = settings[name]
            line += f"{differences[name]:9.0e}  {threads} threads, {tile} at once"
        else:
            line += f"{'':9}  compiled in {ours.compile_seconds:.1f} s"
        print(line)
    for peer, reason in skipped.items():
        print(f"{peer} skipped: {reason}")
    rate = least * args.images / median["ours"]
    print(
        f"least {least / 1e9:.2f} Gflop an image; XLA counts {counted / least:.2f} of it; "
        f"{rate / peak:.0%} of matrix products ({peak / 1e9:.0f} Gflop/s)"
    )
    worst = max(differences.values(), default=None)
    if args.json:
        record = {
            "benchmark": "effect_graph",
            "units": sum(ours.units.values()),
            "edges": edges,
            "images": args.images,
            "rounds": args.rounds,
            "median_seconds": median,
            "min_seconds": {name: min(seconds) for name, seconds in rounds.items()},
            "compile_seconds": ours.compile_seconds,
            "speedup": {n: median[n] / median["ours"] for n in settings},
            "settings": {n: {"threads": s[0], "tile": s[1]} for n, s in settings.items()},
            "least_flops_per_image": least,
            "flops_over_least": counted / least,
            "peak_fraction": rate / peak,
            "max_relative_difference": worst,
            "skipped": skipped,
            "device": f"{jax.devices()[0].device_kind}, {cores} cores",
            "versions": {"jax": jax.__version__, "python": platform.python_version()},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(record), flush=True)
    if worst is not None and not worst < 1e-3:
        sys.exit(f"effects differ by {worst:.1e}, more than 1e-3: not the same question")


if __name__ == "__main__":
    main()
