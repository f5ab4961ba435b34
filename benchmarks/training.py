"""Does training keep up with PyTorch, family by family, for one seed and for several?

Each family trains inside `lax.scan` through the library's `make_trainer`, on a fixed array of
rendered images: one seed, and several seeds in one program. The baseline is a plain PyTorch loop of
the same model, loss and optimiser (`benchmarks/torch_twins.py`), which trains seeds one after
another; `torch x N` are N such processes at once with one thread each, its best way over seeds.
All take turns, in short rounds. Rates are medians over rounds; `best` compares the best rounds,
because PyTorch has a slow mode on a shared machine (its threads spin while they wait). `cores` is
processor time over wall time: below what the machine has, something else was running, and only
`per core`, images per second of processor time, still says something (spinning counts as work).

Predicted: on two cores one seed at PyTorch's speed, at 64x64 (about 1400 images/s) and at 32x32
(about 10000); several seeds, each on its own core, not below one seed; FactorVAE slower by the
Adam update of its discriminator's 5 million weights, alike on both sides.

    python benchmarks/training.py [--size 64] [--seeds 4] [--over-seeds shard] [--rounds 5]
        [--families vae vq_vae] [--torch-python /venv/bin/python] [--quick] [--check] [--json]

`--check` compares losses and gradients of the twins at equal weights, and times nothing.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import optax

from vaecausal_jax import models
from vaecausal_jax.data import sample_images, sprites
from vaecausal_jax.training import objectives, seeds
from vaecausal_jax.training import trainer as training

BATCH, NUM_IMAGES = 64, 4096
OBJECTIVES = {
    "vae": objectives.vae(),
    "beta_vae": objectives.beta_vae(4.0),
    "factor_vae": objectives.factor_vae(6.4),
    "beta_tc_vae": objectives.beta_tc_vae(6.0, NUM_IMAGES),
    "dip_vae_i": objectives.dip_vae_i(10.0),
    "dip_vae_ii": objectives.dip_vae_ii(10.0),
    "vq_vae": objectives.vq_vae(),
}
OVER_SEEDS = {
    "map": seeds.map_seeds,
    "vmap": seeds.vmap_seeds,
    "shard": seeds.shard_seeds,
    "fastest": lambda run: seeds.fastest_over_seeds()(run),
}
STEPS_PER_ROUND = {64: 40, 32: 200}
"""About 1.5 seconds on two cores."""


# JAX


def build_model(family, size):
    """The field's network at 64x64, a smaller one at 32x32."""
    shape = (size, size, 1)
    if size == 64:
        return models.vq_vae(shape) if family == "vq_vae" else models.conv_vae(shape)
    channels = (16, 32, 32)
    if family == "vq_vae":
        return models.vq_vae(shape, encoder_channels=channels, decoder_channels=channels[::-1])
    return models.conv_vae(
        shape,
        encoder_channels=channels,
        encoder_dense=(128,),
        decoder_dense=(128,),
        decoder_channels=channels[::-1],
    )


def render(size):
    """Images drawn once: uint8 (image, height, width, 1)."""
    draw = jax.jit(lambda key: sample_images(key, sprites(size), NUM_IMAGES))
    return np.asarray(draw(jax.random.key(0)) * 255.0).astype(np.uint8)


def timed_compile(function, *arguments):
    """The compiled function, and the seconds that lowering and compiling took."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def make_trainer(family, size, steps):
    config = training.TrainConfig(
        build_model(family, size),
        OBJECTIVES[family],
        optax.adam(1e-4),
        num_steps=steps,
        batch_size=BATCH,
        record_every=steps,
    )
    return training.make_trainer(config)


class JaxRun:
    """A compiled program of `steps` training steps, from one state or stacked ones."""

    def __init__(self, trainer, state, data, num_images, over_seeds=lambda run: run):
        self.state, self.data, self.images_per_round = state, data, num_images
        run = over_seeds(lambda state, data: trainer.advance(state, data, 1))
        self.program, self.compile_seconds = timed_compile(run, state, data)
        self.round()  # Warm up.

    def round(self):
        """Runs once; seconds on the wall and of the processor."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.state, _ = jax.block_until_ready(self.program(self.state, self.data))
        return time.perf_counter() - wall, time.process_time() - cpu


# PyTorch


class TorchUnavailableError(RuntimeError):
    """The interpreter named has no PyTorch."""


class TorchWorkers:
    """Processes that each train in PyTorch when asked, and otherwise sleep."""

    def __init__(self, python, images_path, num_workers, threads, device):
        script = pathlib.Path(__file__).with_name("torch_twins.py")
        command = [python, script, images_path, "--threads", threads, "--device", device]
        self.workers = [
            subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(num_workers)
        ]
        self.about = [self._receive(worker) for worker in self.workers][0]

    def _receive(self, worker):
        line = worker.stdout.readline()
        if not line:
            raise TorchUnavailableError(worker.communicate()[1].strip().splitlines()[-1])
        return json.loads(line)

    def ask(self, **request):
        """All workers' answers to one request, which they work on at the same time."""
        for worker in self.workers:
            assert worker.stdin
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
        return [self._receive(worker) for worker in self.workers]

    def close(self):
        """Ends the processes: their input ends."""
        for worker in self.workers:
            worker.communicate()


class TorchRun:
    """`steps` training steps in each worker."""

    compile_seconds = 0.0

    def __init__(self, workers, family, steps):
        self.workers, self.request = workers, {"family": family, "steps": steps}
        self.images_per_round = BATCH * steps * len(workers.workers)
        workers.ask(family=family, steps=3)

    def round(self):
        """Runs once; seconds on the wall and of the processors."""
        answers = self.workers.ask(**self.request)
        return max(a["seconds"] for a in answers), sum(a["cpu_seconds"] for a in answers)


# Agreement


def exported(params, side):
    """Kernels and biases in order of use; maps that are flattened have channels first, as there."""
    if "encoder" not in params:
        convs = sorted(name for name in params if name.startswith("encoder_conv"))
        up = sorted(name for name in params if name.startswith("conv"))
        order = [*convs, "to_codes", "from_codes", *up, "logits"]
        return [params[name] for name in order]
    encoder, decoder = params["encoder"], params["decoder"]

    def sorted_layers(tree, kind):
        return [tree[name] for name in sorted(tree) if name.startswith(kind)]

    def channels_first(array):
        return array.reshape(side, side, -1, *array.shape[1:]).swapaxes(1, 2).swapaxes(0, 1)

    first, *others = sorted_layers(encoder, "dense")
    kernel = first["kernel"]
    first = {"kernel": channels_first(kernel).reshape(kernel.shape), "bias": first["bias"]}
    into, out = sorted_layers(decoder, "dense")
    kernel = channels_first(out["kernel"].T).reshape(out["kernel"].T.shape).T
    out = {"kernel": kernel, "bias": channels_first(out["bias"]).reshape(-1)}
    layers = [*sorted_layers(encoder, "conv"), first, *others, params["mean"], params["logvar"]]
    return [*layers, into, out, *sorted_layers(decoder, "conv"), decoder["logits"]]


def check(family, size, data, workers, folder):
    """Loss and gradient norm of both sides at equal weights: (name, ours, theirs)."""
    model, objective = build_model(family, size), OBJECTIVES[family]
    keys = jax.random.split(jax.random.key(2), 3)
    params = model.init(keys[0])
    state = objective.init(keys[1], params)
    images = training.draw_batch(keys[2], data, BATCH)
    eps = jax.random.normal(keys[2], (BATCH, *model.noise_shape))

    def loss_fn(params):
        trace = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, images, eps)
        return objective.loss(params, state, trace, images, keys[2])[0]

    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
    arrays = {"images": images, "eps": eps, "codebook": params.get("codebook", np.zeros(0))}
    layers = {"model": exported(params, side=4)}
    if family == "factor_vae":
        layers["discriminator"] = [state[0][f"Dense_{i}"] for i in range(len(state[0]))]
    for prefix, group in layers.items():
        for number, layer in enumerate(group):
            arrays |= {f"{prefix}{number}/{part}": layer[part] for part in ("kernel", "bias")}
    path = pathlib.Path(folder, f"{family}.npz")
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(path, allow_pickle=False, **arrays)
    answer = workers.ask(family=family, weights=str(path))[0]
    ours = {"loss": float(loss), "gradient_norm": float(optax.global_norm(gradient))}
    return [(name, ours[name], answer[name]) for name in ours]


# Tables


def measure(runs, rounds):
    """Runs take turns; images per second of each round, and cores obtained."""
    rates, cores = {name: [] for name in runs}, {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(0.1)  # Threads of the run before stop spinning.
            wall, cpu = run.round()
            rates[name].append(run.images_per_round / wall)
            cores[name].append(cpu / wall)
    return rates, cores


def print_rows(family, runs, rates, cores, baseline):
    for name, values in rates.items():
        median = statistics.median(values)
        row = f"{family:12} {name:16}{median:9.0f}{min(values):9.0f}{max(values):9.0f}"
        if baseline:
            theirs = rates[baseline]
            row += f"{median / statistics.median(theirs):10.2f}{max(values) / max(theirs):7.2f}"
        obtained = statistics.median(cores[name])
        row += f"{obtained:7.2f}{median / obtained:10.0f}"
        if runs[name].compile_seconds:
            row += f"{runs[name].compile_seconds:9.1f}s"
        print(row, flush=True)


def start_torch(python, images_path, cores):
    """One worker with all threads and one a core, or nothing with the reason printed."""
    wanted = "cpu" if jax.default_backend() == "cpu" else "cuda"
    try:
        one = TorchWorkers(python, images_path, 1, cores, wanted)
        if wanted == "cuda" and not one.about["cuda"]:
            one.close()
            print(f"PyTorch of {python} has no CUDA: no PyTorch rows.")
            return {}
        several = cores if wanted == "cpu" else 1
        workers = {"torch": one}
        if several > 1:
            workers[f"torch x {several}"] = TorchWorkers(python, images_path, several, 1, wanted)
        return workers
    except (TorchUnavailableError, FileNotFoundError) as error:
        print(f"No PyTorch in {python} ({error}): JAX rows only. See --torch-python.")
        return {}


def parse_arguments():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, choices=[32, 64], default=64)
    parser.add_argument("--families", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--over-seeds", nargs="+", choices=OVER_SEEDS, default=["fastest"])
    parser.add_argument("--steps", type=int, help="steps a round, all seeds together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--quick", action="store_true", help="two families, three short rounds")
    parser.add_argument("--check", action="store_true", help="compare the twins' losses, no timing")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    if args.steps is None:
        on_cpu = jax.default_backend() == "cpu"
        args.steps = STEPS_PER_ROUND[args.size] if on_cpu else 2000
    if args.quick:
        args.families = args.families if len(args.families) < 3 else ["vae", "factor_vae"]
        args.rounds, args.steps = min(args.rounds, 3), max(args.steps // 2, args.seeds)
    return args


def run_benchmark(args, data, workers):
    """Prints the table and returns the record."""
    rates, speedup, cores, compile_seconds = {}, {}, {}, {}
    print(
        f"{'images/s':12} {'':16}{'median':>9}{'min':>9}{'max':>9}"
        + (f"{'/ torch':>10}{'best':>7}" if workers else "")
        + f"{'cores':>7}{'per core':>10}{'compile':>10}"
    )
    for family in args.families:
        # Its discriminator's 5 million weights make a step longer. A program of a step or two would
        # measure the copying of its state.
        total = max(args.seeds * 5, args.steps // 8) if family == "factor_vae" else args.steps
        trainer = make_trainer(family, args.size, total)
        init, init_seconds = timed_compile(trainer.init, jax.random.key(0))
        compile_seconds[f"{family}/{args.size}/init"] = init_seconds
        states = [init(key) for key in jax.random.split(jax.random.key(1), args.seeds)]
        runs = {"jax 1 seed": JaxRun(trainer, states[0], data, BATCH * total)}
        states = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states)
        steps = max(1, total // args.seeds)
        trainer = make_trainer(family, args.size, steps)
        for word in args.over_seeds:
            runs[f"jax {args.seeds} {word}"] = JaxRun(
                trainer, states, data, BATCH * steps * args.seeds, OVER_SEEDS[word]
            )
        runs |= {name: TorchRun(w, family, total) for name, w in workers.items()}
        got, obtained = measure(runs, args.rounds)
        print_rows(family, runs, got, obtained, "torch" if workers else None)
        for name, values in got.items():
            key = f"{family}/{args.size}/{name}"
            rates[key] = statistics.median(values)
            cores[key] = statistics.median(obtained[name])
            if not name.startswith("jax"):
                continue
            compile_seconds[key] = runs[name].compile_seconds
            for baseline in workers:
                theirs = got[baseline]
                speedup[f"{key} / {baseline}"] = rates[key] / statistics.median(theirs)
                speedup[f"{key} / {baseline}, best"] = max(values) / max(theirs)
    return {
        "images_per_second": rates,
        "speedup": speedup,
        "cores": cores,
        "compile_seconds": compile_seconds,
    }


def run_check(args, data, workers, folder):
    if not workers:
        sys.exit("--check needs PyTorch: name an interpreter by --torch-python.")
    worst = 0.0
    for family in args.families:
        for name, ours, theirs in check(family, args.size, data, workers["torch"], folder):
            error = abs(ours - theirs) / abs(theirs)
            worst = max(worst, error)
            print(f"{family:12} {name:14}{ours:14.6f}{theirs:14.6f}{error:10.1e}")
    if not worst < 1e-4:
        sys.exit(f"the twins differ by {worst:.1e}, more than 1e-4")


def main():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    args = parse_arguments()
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), {cores} cores, {args.size}x{args.size}")
    images = render(args.size)
    data = jax.numpy.asarray(images)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "images.npy")
        np.save(path, images)
        workers = start_torch(args.torch_python, path, cores)
        if args.check:
            run_check(args, data, workers, folder)
            record = {}
        else:
            record = run_benchmark(args, data, workers)
        versions = {"jax": jax.__version__, "python": platform.python_version()}
        for worker in workers.values():
            versions["torch"] = worker.about["torch"]
            worker.close()
    if args.json:
        record |= {
            "benchmark": "training",
            "size": args.size,
            "seeds": args.seeds,
            "batch": BATCH,
            "rounds": args.rounds,
            "device": f"{device.device_kind} ({device.platform})",
            "versions": versions,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
