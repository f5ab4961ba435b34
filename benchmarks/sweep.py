"""Is patching every unit of a VAE faster than with the tools people have today?

The question put to all: for each (site, unit) of the encoder, the latents and the decoder, and each
image, the squared change of the logits when the unit (a whole channel of a convolution) takes its
value in another image, with the same noise. The network is the field's at 64x64, with one set of
weights for both sides. Ours is `our_effects`; theirs, in `benchmarks/sweep_peers.py`, run in
processes of their own under an interpreter with PyTorch:

    hooks           a forward hook on the site, the whole forward for each patch
    restart         the layers after the site by hand, from cached values patched in place
    pyvene          as documented, with source examples
    pyvene_cached   with the source's values passed in
    nnsight         a trace for each patch

Each peer first tries its settings on a few units (memory layout, units to a forward, threads, one
process a core) and keeps the fastest; what every setting finds is compared with ours. Then all take
turns, in rounds. Peers sweep an even subset of each site's units: their total is what comes before
any patch (clean and donor's run, once), plus each site's time for one unit times its units. Ours
sweeps all. PyTorch on several threads has a slow
mode on a shared machine (its threads spin while they wait): `slow` counts rounds over twice the
fastest. `process` is a fresh process from start to end, all units, imports and compilation
included.

Arithmetic is counted by hand from layer shapes: a multiply-add as two, those with padding too, no
elementwise work. `least` is what must be computed when only what changes is: the next layer as a
rank-one update, and after a unit that is one position of the map, only the region which that
position reaches. `same` is the share of patches in which nothing changes, because the donor has the
unit's own value (a ReLU silent in both): ours does not run them, no peer leaves them out, and both
counts are of a patch that changes something. Peak is the machine's rate
at float32 matrix products in the same run.

    python -m benchmarks.sweep [--images 1 16 64] [--rounds 5] [--pairs-per-site 16]
        [--peers hooks restart] [--torch-python /venv/bin/python] [--quick] [--json]
"""

import argparse
import concurrent.futures
import datetime
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vaecausal_jax import models
from vaecausal_jax.data import sample_images, sprites
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.sweeps import grid, patching

PEERS = ("hooks", "restart", "pyvene", "pyvene_cached", "nnsight")


# Ours


def our_traces(model, params, x, eps, donor):
    """Both clean runs of every image: its own activations and outputs, the donor's activations."""
    run = jax.vmap(model.forward, in_axes=(None, 0, 0))
    clean, other = run(params, x, eps), run(params, donor, eps)
    names = swept_sites(model)
    natural, source = ({n: t.activations[n] for n in names} for t in (clean, other))
    return natural, source, clean.outputs


def our_effects(model, name, params, rows):
    """Squared change of the logits, (units, images), when a unit takes its value in the donor."""

    def squared_change(logits, row):
        return jnp.sum((logits - row.clean) ** 2)

    swept = functools.partial(grid.sweep, mesh=our_mesh(len(rows.x)))
    net = BoundModel(model.forward, params, model.sites)
    return patching.patch_units(net, name, rows, squared_change, sweep=swept)


def our_mesh(num_images):
    """Each core takes its share of the images; of the units, where there are too few images."""
    axis = "contexts" if num_images % jax.device_count() == 0 else "points"
    return jax.sharding.Mesh(jax.devices(), (axis,))


def unchanged_shares(model, params, x, eps, donor):
    """By site, the share of (unit, image) pairs in which the donor has the unit's own value."""
    run = jax.jit(jax.vmap(model.forward, in_axes=(None, 0, 0)))
    clean, other = (run(params, images, eps).activations for images in (x, donor))
    shares = {}
    for name in swept_sites(model):
        positions = tuple(range(1, clean[name].ndim - 1))
        shares[name] = float(jnp.mean(jnp.all(clean[name] == other[name], axis=positions)))
    return shares


def swept_sites(model):
    """Number of units of each site in question, in the forward's order; the last is the output."""
    wanted = ("encoder/", "latent/z", "decoder/")
    *names, _ = (name for name in model.sites if name.startswith(wanted))
    return {name: model.sites[name].num_units for name in names}


def write_inputs(path, model, num_images):
    """Parameters and images for both sides; the donor of an image is the next one drawn.

    Kernels are scaled as ReLU layers keep their scale, so that images differ by more than rounding
    in the last layers too; biases are not zero, so that they count in the comparison.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.jit(lambda key: sample_images(key, sprites(64), max(num_images, 2)))(keys[0])
    eps = jax.random.normal(keys[1], (len(x), *model.noise_shape))
    arrays = {"x": x, "eps": eps, "donor": jnp.roll(x, -1, axis=0)}
    params = traverse_util.flatten_dict(model.init(keys[2]), sep="/")
    for number, (name, leaf) in enumerate(params.items()):
        noise = jax.random.normal(jax.random.fold_in(keys[3], number), leaf.shape)
        arrays[name] = 0.1 * noise if name.endswith("/bias") else 2**0.5 * leaf
    np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})


def read_inputs(path, num_images):
    """Parameters, and x, eps and donor of the first images."""
    with np.load(path) as loaded:
        arrays = {name: jnp.asarray(array) for name, array in loaded.items()}
    images = [arrays.pop(name)[:num_images] for name in ("x", "eps", "donor")]
    return traverse_util.unflatten_dict(arrays, sep="/"), images


class Ours:
    """A compiled program for the clean runs, and one a site."""

    def __init__(self, model, path, num_images):
        # Inputs lie where they are used; else every call would move the parameters.
        mesh = our_mesh(num_images)
        images_on = [axis for axis in mesh.axis_names if axis == "contexts"]
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*images_on))
        params, images = read_inputs(path, num_images)
        self.params = jax.device_put(params, everywhere)
        self.x, self.eps, donor = jax.device_put(images, placed)
        start = time.perf_counter()
        progress(f"compiling {len(swept_sites(model)) + 1} programs, {num_images} images")
        traces = jax.jit(functools.partial(our_traces, model), out_shardings=placed)
        self.arguments = (self.params, self.x, self.eps, donor)
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placed),
            jax.eval_shape(traces, *self.arguments),
        )
        self.programs = {}
        # One a core at a time: the compiler mostly runs on one thread.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            prepare = pool.submit(lambda: traces.lower(*self.arguments).compile())
            for name in swept_sites(model):
                effects = jax.jit(functools.partial(our_effects, model, name))
                lowered = effects.lower(self.params, self._rows(shapes, name))
                self.programs[name] = pool.submit(lowered.compile)
            self.prepare = prepare.result()
            self.programs = {name: future.result() for name, future in self.programs.items()}
        self.compile_seconds = time.perf_counter() - start

    def _rows(self, traces, name):
        natural, source, clean = traces
        return patching.Rows(self.x, self.eps, natural[name], source[name], clean)

    def effects(self):
        """Effects of all units at each site."""
        traces = self.prepare(*self.arguments)
        return {
            name: np.asarray(run(self.params, self._rows(traces, name)))
            for name, run in self.programs.items()
        }

    def round(self):
        """Seconds of the clean runs, and of each site."""
        start = time.perf_counter()
        traces = jax.block_until_ready(self.prepare(*self.arguments))
        prepare, seconds = time.perf_counter() - start, {}
        for name, program in self.programs.items():
            rows = self._rows(traces, name)
            start = time.perf_counter()
            jax.block_until_ready(program(self.params, rows))
            seconds[name] = time.perf_counter() - start
        return prepare, seconds


# Arithmetic


def layer_flops(model, params):
    """Operations, for one image, of the layers that lead to each site from the one before."""

    def flops(site, layer):
        kernel, positions = layer["kernel"], model.sites[site].num_positions
        # A transposed convolution of stride 2 applies its kernel at every position of its input.
        upsamples = kernel.ndim == 4 and site.startswith("decoder/")
        return 2 * kernel.size * (positions // 4 if upsamples else positions)

    chain = [*swept_sites(model), list(model.sites)[-1]]
    latent = {"latent/z": sum(flops("latent/z", params[head]) for head in ("mean", "logvar"))}
    layers = {n: params[n.split("/")[0]][n.split("/")[1]] for n in chain if n != "latent/z"}
    costs = {name: flops(name, layer) for name, layer in layers.items()} | latent
    return {name: costs[name] for name in chain}


def reached_shares(model, clipped):
    """Of each layer after the first map, the share that one position of that map reaches.

    Rows [a, b] reach rows [2a - 1, 2b + 2] of the next map, and columns alike. `clipped` to the map
    is what must be computed; the library's boxes have one shape wherever they lie.
    """
    first, *_ = (n for n, site in model.sites.items() if n.startswith("decoder/conv"))
    later = list(model.sites)[list(model.sites).index(first) + 1 :]
    side = model.sites[first].shape[0] // 2
    reached, box, shares = [(row, row) for row in range(side)], 1, {}
    for name in later:
        side *= 2
        reached = [(max(2 * a - 1, 0), min(2 * b + 2, side - 1)) for a, b in reached]
        box = min(2 * box + 2, side)
        # Maps are square, and rows and columns of a position are independent.
        length = statistics.mean(b - a + 1 for a, b in reached) if clipped else box
        shares[name] = (length / side) ** 2
    return shares


def patch_flops(model, params, clipped):
    """Operations of a patch: the next layer for one unit, then what it reaches of later layers.

    Only units that are one position of the first map reach less than everything.
    """
    costs, spent = layer_flops(model, params), {}
    chain = list(costs)
    *_, flat = (name for name in swept_sites(model) if name.startswith("decoder/dense"))
    for name, units in swept_sites(model).items():
        following, *later = chain[chain.index(name) + 1 :]
        shares = reached_shares(model, clipped) if name == flat else dict.fromkeys(later, 1.0)
        spent[name] = costs[following] / units + sum(costs[n] * shares[n] for n in later)
    return spent


class MatrixProducts:
    """The machine's best rate at float32 matrix products: one over all cores, and one a core."""

    def __init__(self):
        mesh = jax.sharding.Mesh(jax.devices(), ("device",))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
        self.product, self.operands = jax.jit(jnp.matmul), []
        for size in (1024, 2048):
            one = jnp.ones((size, size))
            each = jax.device_put(jnp.ones((jax.device_count(), size, size)), spread)
            self.operands += [one, each]
        self.round()  # Compile.

    def round(self):
        """Operations a second of the fastest."""
        rates = []
        for a in self.operands:
            start = time.perf_counter()
            jax.block_until_ready(self.product(a, a))
            rates.append(2 * a.size * a.shape[-1] / (time.perf_counter() - start))
        return max(rates)


# Peers


class PeerUnavailableError(RuntimeError):
    """A peer that cannot be run here, and why."""


class Worker:
    """A process that sweeps in PyTorch when asked, and otherwise sleeps."""

    def __init__(self, python, path, threads, script="sweep_peers.py"):
        script = pathlib.Path(__file__).with_name(script)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [python, str(script), str(path), "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def send(self, request):
        """Asks, and does not wait."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def receive(self):
        """The next answer.

        Raises:
            PeerUnavailableError: With the library's error, or the last words of a dead process.
        """
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            *_, message = ("no message", *self.errors.read().splitlines())
            raise PeerUnavailableError(message)
        reply = json.loads(line)
        if "unavailable" in reply:
            raise PeerUnavailableError(reply["unavailable"])
        return reply

    def close(self):
        """Ends the process: its input ends."""
        self.process.communicate()
        self.errors.close()


class Setting(NamedTuple):
    """How a peer runs: units that share a forward, memory layout, processes and their threads."""

    tile: int
    channels_last: bool
    processes: int = 1
    threads: int = 1

    def __str__(self):
        words = f"{self.processes}x{self.threads} threads, {self.tile} at once"
        return words + (", channels last" if self.channels_last else "")


def start_workers(python, path, cores):
    """Workers by (processes, threads), and versions; none, with the reason, without PyTorch."""
    threads = [1] * cores + [cores] * (cores > 1)
    try:
        workers = [Worker(python, path, n) for n in threads]
        about = [worker.receive() for worker in workers][0]
    except (PeerUnavailableError, OSError) as error:
        print(f"No PyTorch in {python} ({error}): our rows only. See --torch-python.")
        return {}, {}
    pools = {(1, 1): workers[:1]}
    if cores > 1:
        pools |= {(cores, 1): workers[:cores], (1, cores): workers[cores:]}
    return pools, about


def ask(pool, peer, setting, num_images, units, folder=None):
    """One sweep, its units dealt out to the processes.

    Returns:
        Seconds before any patch, seconds of one unit at each site, and, with a folder for them, the
        effects.
    """
    for number, worker in enumerate(pool):
        hand = {name: numbers[number :: len(pool)] for name, numbers in units.items()}
        worker.send(
            {
                "peer": peer,
                "images": num_images,
                "tile": setting.tile,
                "channels_last": setting.channels_last,
                "units": {name: numbers for name, numbers in hand.items() if numbers},
                "effects": folder and str(pathlib.Path(folder, f"{number}.npz")),
            }
        )
    answers, failures = [], []
    for worker in pool:
        try:
            answers.append(worker.receive())
        except PeerUnavailableError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    each = {}
    for name, numbers in units.items():
        hands = [(len(numbers[i :: len(pool)]), a["seconds"]) for i, a in enumerate(answers)]
        # Processes work side by side: their rates add.
        each[name] = 1 / sum(count / seconds[name] for count, seconds in hands if count)
    prepare = max(answer["prepare"] for answer in answers)
    return prepare, each, collected(pool, units, num_images, folder) if folder else {}


def collected(pool, units, num_images, folder):
    """Effects of all processes, in the order of the units."""
    effects = {name: np.empty((len(numbers), num_images)) for name, numbers in units.items()}
    for number in range(len(pool)):
        with np.load(pathlib.Path(folder, f"{number}.npz")) as saved:
            for name in saved.files:
                effects[name][number :: len(pool)] = saved[name]
    return effects


def even_subset(num_units, wanted, setting):
    """Some units of each site, from first to last: as many as wanted, or as fill the forwards."""
    wanted = max(wanted, setting.tile * setting.processes)
    return {
        name: np.unique(np.linspace(0, n - 1, wanted).round().astype(int)).tolist()
        for name, n in num_units.items()
    }


def relative_difference(theirs, ours, units):
    """Largest difference at any site, relative to the site's largest effect; NaN if any is."""
    differences = [
        np.max(np.abs(theirs[name] - ours[name][units[name]])) / np.max(ours[name])
        for name in units
    ]
    return float(np.max(differences))


def over_all_units(each, num_units):
    """The sum over all units of what one unit takes, by site."""
    return sum(each[name] * n for name, n in num_units.items())


def total_seconds(prepare, each, num_units):
    """Of a sweep over all units."""
    return prepare + over_all_units(each, num_units)


def try_settings(peer, pools, num_images, num_units, ours, folder):
    """Seconds of the whole sweep by setting, and the largest difference from our effects."""
    seconds, differences = {}, []

    def attempt(setting):
        units = even_subset(num_units, 4, setting)
        pool = pools[setting.processes, setting.threads]
        trials = [ask(pool, peer, setting, num_images, units, folder) for _ in range(2)]
        differences.append(relative_difference(trials[0][2], ours, units))
        seconds[setting] = min(total_seconds(*trial[:2], num_units) for trial in trials)
        progress(f"{peer}, {num_images} images, {setting}: {seconds[setting]:.2f} s")

    tiles = sorted({1, -(-16 // num_images), -(-64 // num_images)})
    for tile, channels_last in itertools.product(tiles, (False, True)):
        attempt(Setting(tile, channels_last))
    one = min(seconds, key=lambda setting: seconds[setting])
    for processes, threads in pools:
        if (processes, threads) != (1, 1):
            attempt(one._replace(processes=processes, threads=threads))
    return seconds, float(np.max(differences))


# Measurement


class Peers(NamedTuple):
    """The other side: names, workers by (processes, threads), and who could not run and why."""

    names: tuple[str, ...]
    pools: dict
    skipped: dict


def try_peers(peers, num_images, num_units, ours, folder):
    """`try_settings` of every peer that runs here; the others are noted as skipped."""
    tried, differences = {}, {}
    for peer in peers.names:
        try:
            tried[peer], differences[peer] = try_settings(
                peer, peers.pools, num_images, num_units, ours, folder
            )
        except PeerUnavailableError as error:
            peers.skipped[peer] = str(error)
    return tried, differences


def measure(args, ours, settings, pools, num_images, num_units):
    """All take turns.

    Returns:
        For ours and each peer a list over rounds of (total seconds, seconds of one unit by site),
        and the rate of matrix products.
    """
    wanted = args.pairs_per_site or max(4, 1024 // num_images)
    rounds, rates, products = {name: [] for name in ("ours", *settings)}, [], MatrixProducts()
    # At one image a call takes milliseconds, and how fast two cores wake decides a single one.
    num_rounds = args.rounds if num_images > 1 else 5 * args.rounds
    for number in range(num_rounds):
        progress(f"{num_images} images, round {number + 1} of {num_rounds}")
        time.sleep(0.1)  # Threads of the run before stop spinning.
        rates.append(products.round())
        prepare, seconds = ours.round()
        each = {name: seconds[name] / num_units[name] for name in seconds}
        rounds["ours"].append((prepare + sum(seconds.values()), each))
        for peer, setting in settings.items():
            time.sleep(0.1)
            units = even_subset(num_units, wanted, setting)
            pool = pools[setting.processes, setting.threads]
            prepare, each, _ = ask(pool, peer, setting, num_images, units)
            rounds[peer].append((total_seconds(prepare, each, num_units), each))
    return rounds, max(rates)


def our_process(path, num_images):
    """Seconds of a fresh process that does our sweep once."""
    command = [sys.executable, "-m", "benchmarks.sweep", "--alone", str(path)]
    start = time.perf_counter()
    root = pathlib.Path(__file__).parents[1]
    subprocess.run([*command, "--images", str(num_images)], check=True, cwd=root)
    return time.perf_counter() - start


def peer_process(python, path, peer, setting, num_images, num_units):
    """Seconds of fresh processes that do the peer's sweep once."""
    start = time.perf_counter()
    pool = [Worker(python, path, setting.threads) for _ in range(setting.processes)]
    for worker in pool:
        worker.receive()
    ask(pool, peer, setting, num_images, {name: list(range(n)) for name, n in num_units.items()})
    for worker in pool:
        worker.close()
    return time.perf_counter() - start


def summary(rounds, num_units, num_images):
    """Microseconds for one unit and image: in all and by site, median and fastest round."""
    scale = 1e6 / num_images
    totals = [scale * total / sum(num_units.values()) for total, _ in rounds]
    sites = {
        name: scale * statistics.median(each[name] for _, each in rounds) for name in num_units
    }
    slow = sum(total > 2 * min(totals) for total in totals)
    return {"median": statistics.median(totals), "min": min(totals), "slow": slow, "sites": sites}


def comparison(rows):
    """Ours against the fastest peer: in all, by median and by fastest round, and by site."""
    ours, *peers = rows.values()
    best = min(peers, key=lambda row: row["median"])
    return {
        "best_peer": next(name for name, row in rows.items() if row is best),
        "speedup": best["median"] / ours["median"],
        "speedup_min": min(row["min"] for row in peers) / ours["min"],
        "site_speedups": {
            name: min(row["sites"][name] for row in peers) / seconds
            for name, seconds in ours["sites"].items()
        },
    }


def record_of(args, model, path, peers, num_images, folder):
    """Everything about one number of images."""
    num_units, (params, images) = swept_sites(model), read_inputs(path, num_images)
    ours = Ours(model, path, num_images)
    tried, differences = try_peers(peers, num_images, num_units, ours.effects(), folder)
    settings = {peer: min(seconds, key=seconds.get) for peer, seconds in tried.items()}
    rounds, peak = measure(args, ours, settings, peers.pools, num_images, num_units)
    rows = {name: summary(each, num_units, num_images) for name, each in rounds.items()}
    rows["ours"]["compile_seconds"] = ours.compile_seconds
    for peer, setting in settings.items():
        rows[peer] |= {"setting": str(setting), "difference": differences[peer]}
        rows[peer]["tried_seconds"] = {str(s): seconds for s, seconds in tried[peer].items()}
    unchanged = unchanged_shares(model, params, *images)
    patch = patch_flops(model, params, clipped=False)
    done = {name: flops * (1 - unchanged[name]) for name, flops in patch.items()}
    seconds = statistics.median(total for total, _ in rounds["ours"])
    record = {"rows": rows, "peak_flops_per_second": peak, "unchanged_shares": unchanged}
    record["peak_fraction"] = over_all_units(done, num_units) * num_images / seconds / peak
    if settings:
        record |= comparison(rows)
    if not args.quick:
        progress(f"{num_images} images, fresh processes")
        rows["ours"]["process_seconds"] = our_process(path, num_images)
        if settings:
            best = record["best_peer"]
            rows[best]["process_seconds"] = peer_process(
                args.torch_python, path, best, settings[best], num_images, num_units
            )
    return record


# Tables


def progress(message):
    print(message, file=sys.stderr, flush=True)


def print_rows(num_images, record):
    print(f"\nimages: {num_images}. Microseconds for one unit and image")
    print(f"{'':15}{'median':>9}{'min':>9}{'/ ours':>8}{'slow':>6}{'differs':>9}{'process':>9}")
    ours = record["rows"]["ours"]
    for name, row in record["rows"].items():
        line = f"{name:15}{row['median']:9.1f}{row['min']:9.1f}"
        line += f"{row['median'] / ours['median']:8.2f}{row['slow']:6}"
        line += f"{row['difference']:9.0e}" if "difference" in row else f"{'':9}"
        line += f"{row['process_seconds']:8.1f}s" if "process_seconds" in row else f"{'':9}"
        about = row.get("setting") or f"compiled in {row['compile_seconds']:.1f} s"
        print(f"{line}  {about}", flush=True)
    peak, rate = record["peak_fraction"], record["peak_flops_per_second"]
    print(f"ours at {peak:.0%} of matrix products, {rate / 1e9:.0f} Gflop/s")


def print_sites(num_images, record, num_units, spent, least):
    peers = {name: row["sites"] for name, row in record["rows"].items()}
    ours = peers.pop("ours")
    print(f"\nimages: {num_images}. Microseconds for one unit and image, by site")
    columns = f"{'units':>6}{'same':>6}{'Mflop':>8}{'/ least':>8}{'ours':>9}"
    print(f"{'':15}{columns}{'fastest peer':>25}{'/ ours':>7}" if peers else f"{'':15}{columns}")
    for name, units in num_units.items():
        line = f"{name:15}{units:6}{record['unchanged_shares'][name]:6.0%}"
        line += f"{spent[name] / 1e6:8.2f}{spent[name] / least[name]:8.2f}{ours[name]:9.1f}"
        if peers:
            fastest = min(peers, key=lambda peer: peers[peer][name])
            line += f"{peers[fastest][name]:11.1f} {fastest:13}{record['site_speedups'][name]:7.2f}"
        print(line, flush=True)


def print_arithmetic(model, params):
    """One plain forward, by hand and by XLA, which also counts elementwise work."""
    by_hand = sum(layer_flops(model, params).values())
    x, eps = jnp.zeros(model.image_shape), jnp.zeros(model.noise_shape)
    forward = jax.jit(lambda params: model.forward(params, x, eps).outputs)
    by_xla = (forward.lower(params).compile().cost_analysis() or {}).get("flops", float("nan"))
    print(f"one forward: {by_hand / 1e6:.2f} Mflop by hand, {by_xla / 1e6:.2f} by XLA")


def parse_arguments():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", help="1 16 64, or 4 with --quick")
    parser.add_argument("--rounds", type=int, help="5, or 2 with --quick; times 5 at one image")
    parser.add_argument(
        "--pairs-per-site",
        type=int,
        help="units of each site that peers sweep in a round; 1024 / images, or 4 with --quick",
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--quick", action="store_true", help="few images, short rounds")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    parser.add_argument("--alone", metavar="INPUTS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.images = args.images or ([4] if args.quick else [1, 16, 64])
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.pairs_per_site = args.pairs_per_site or (4 if args.quick else None)
    return args


def run_benchmark(args, model, path, peers, folder):
    """Prints the tables and returns the record."""
    params, _ = read_inputs(path, 1)
    spent, least = (patch_flops(model, params, clipped) for clipped in (False, True))
    num_units = swept_sites(model)
    print_arithmetic(model, params)
    records = {}
    for num_images in args.images:
        record = records[num_images] = record_of(args, model, path, peers, num_images, folder)
        print_rows(num_images, record)
        print_sites(num_images, record, num_units, spent, least)
    for peer, reason in peers.skipped.items():
        print(f"\n{peer} skipped: {reason}")
    compared = [r for r in records.values() if "speedup" in r]
    differences = [
        row["difference"] for r in compared for row in r["rows"].values() if "difference" in row
    ]
    return {
        "speedup_vs_best_peer": {n: r["speedup"] for n, r in records.items() if "speedup" in r},
        "slowest_site_speedup": min(
            (s for r in compared for s in r["site_speedups"].values()), default=None
        ),
        "max_relative_difference": float(np.max(differences)) if differences else None,
        "flops_over_least": over_all_units(spent, num_units) / over_all_units(least, num_units),
        "peak_fraction": records[max(records)]["peak_fraction"],
        "images": records,
        "skipped": peers.skipped,
    }


def main():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    args = parse_arguments()
    model = models.conv_vae((64, 64, 1))
    if args.alone:
        Ours(model, args.alone, args.images[0]).effects()
        return
    device = jax.devices()[0]
    about = f"{device.device_kind} ({device.platform}), {cores} cores"
    print(f"{about}, {sum(swept_sites(model).values())} units of {len(swept_sites(model))} sites")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "inputs.npz")
        write_inputs(path, model, max(args.images))
        pools, versions = {}, {}
        if args.peers and device.platform == "cpu":
            pools, versions = start_workers(args.torch_python, path, cores)
        elif args.peers:
            print("The peers run on a CPU: our rows only.")
        peers = Peers(tuple(args.peers) if pools else (), pools, {})
        record = run_benchmark(args, model, path, peers, folder)
        for worker in {worker for pool in pools.values() for worker in pool}:
            worker.close()
    if args.json:
        record |= {
            "benchmark": "sweep",
            "rounds": args.rounds,
            "device": about,
            "versions": versions | {"jax": jax.__version__, "python": platform.python_version()},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(record), flush=True)
    worst = record["max_relative_difference"]
    if worst is not None and not worst < 1e-4:
        sys.exit(f"effects differ by {worst:.1e}, more than 1e-4: not the same question")


if __name__ == "__main__":
    main()
