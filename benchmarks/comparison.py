"""One question put to four libraries: what does each unit of a layer do to the image?

For every channel of one decoder layer and each of 16 pairs of images: the squared change of the
logits when the channel takes the value that it has in the other image, with the same noise and on
the same weights, at 64x64. Each function below is what a user of that library writes, and no more;
`benchmarks/sweep.py` gives every library its fastest setting instead. The page `.docs/pages/
comparison.md` shows these functions, and a test compares the two.

pyvene and nnsight run on the PyTorch twin of `sweep_peers`, penzai on our own Linen module, through
its `unflaxify`. Lines are those of code: no docstring, comment or blank line. `first` is the first
call, with whatever is prepared, traced or compiled; `then` the median of the interleaved ones after
it.

    python -m benchmarks.comparison [--site decoder/conv0] [--images 16] [--rounds 7] [--json]
"""

# nnsight runs the body of `with trace(...)` elsewhere, and its names look unbound.
# pyright: reportOperatorIssue=false

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time

from vaecausal_jax.sweeps.grid import over_devices

# Threads of PyTorch that wait must not take the processor from who is timed next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import nnsight  # pyright: ignore[reportMissingImports]
import numpy as np
import pyvene  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from penzai import pz  # pyright: ignore[reportMissingImports]
from penzai.toolshed import unflaxify  # pyright: ignore[reportMissingImports]

from benchmarks import sweep, sweep_peers
from benchmarks.source_code import code_of, num_lines
from vaecausal_jax import Tape, models
from vaecausal_jax.sweeps.patching import Rows, patch_units


def with_vaecausal_jax(model, params, site, x, eps, donor):
    """Patches unit by unit; under `jax.jit`, all of it is one program."""
    run = jax.vmap(model.forward, in_axes=(None, 0, 0))
    clean, other = run(params, x, eps), run(params, donor, eps)
    natural, source = clean.activations[site], other.activations[site]
    return patch_units(
        model.bind(params),
        site,
        Rows(x, eps, natural, source, clean.outputs),
        lambda logits, row: jnp.sum((logits - row.clean) ** 2),
        sweep=over_devices(),
    )


def with_pyvene(model, stage, x, eps, donor):
    """Calls an intervenable model with a source beside each base, for each unit."""
    model.config, model.device = None, x.device
    swap = pyvene.VanillaIntervention(embed_dim=None)
    site = {"component": f"stages[{stage}].output", "unit": "channel", "intervention": swap}
    intervenable = pyvene.IntervenableModel(site, model=model)
    base, source = {"x": x, "eps": eps}, {"x": donor, "eps": eps}
    clean, effects = model(**base), []
    for unit in range(model.run(x, eps)[stage].shape[1]):
        where = [[[unit]] * len(x)]
        _, logits = intervenable(base, [source], {"sources->base": (where, where)})
        effects.append((logits - clean).square().flatten(1).sum(1))
    return torch.stack(effects)


def with_nnsight(model, stage, x, eps, donor):
    """Traces both clean runs, then one run for each unit."""
    traced = nnsight.NNsight(model)
    with traced.trace(donor, eps):
        source = traced.stages[stage].output.save()
    with traced.trace(x, eps):
        clean = traced.output.save()
    effects = []
    for unit in range(source.shape[1]):
        with traced.trace(x, eps):
            traced.stages[stage].output[:, unit] = source[:, unit]
            logits = traced.output.save()
        effects.append((logits - clean).square().flatten(1).sum(1))
    return torch.stack(effects)


@pz.pytree_dataclass
class SwapUnit(pz.nn.Layer):
    """A layer, and after it one unit replaced by a donor's; `seen` keeps what it put out."""

    layer: pz.nn.Layer
    donor: jax.Array
    unit: jax.Array
    seen: list = dataclasses.field(metadata={"pytree_node": False})

    def __call__(self, argument, **side_inputs):
        """Runs the layer."""
        h = self.layer(argument, **side_inputs)
        self.seen.append(h)
        return jnp.where(jnp.arange(h.shape[-1]) == self.unit, self.donor, h)


def with_penzai(model, params, site, x, eps, donor):
    """Wraps the layer before the site's ReLU, which acts on each value alone."""
    tree = unflaxify.unflaxify_apply(model.network, {"params": params}, x[0], eps[0], Tape({}))

    def layer(tree):
        for name in site.split("/"):
            calls = tree.submodule_calls.items()
            tree = next(call for (_, method), call in calls if method == f"{name}.__call__")
        return tree

    def run(x, eps, donor, unit):
        seen = []
        patched = pz.select(tree).at(layer).apply(lambda inner: SwapUnit(inner, donor, unit, seen))
        logits = patched(unflaxify.ArgsAndKwargs.capture(x, eps, Tape({})))
        return logits, seen[0]

    clean, _ = jax.vmap(run, (0, 0, None, None))(x, eps, 0.0, -1)
    _, source = jax.vmap(run, (0, 0, None, None))(donor, eps, 0.0, -1)

    def effect(unit):
        logits, _ = jax.vmap(run, (0, 0, 0, None))(x, eps, source, unit)
        return jnp.sum((logits - clean) ** 2, axis=(1, 2, 3))

    return jax.lax.map(effect, jnp.arange(source.shape[-1]))


SOURCES = {
    "vaecausal_jax": ("with_vaecausal_jax",),
    "pyvene": ("with_pyvene",),
    "nnsight": ("with_nnsight",),
    "penzai": ("SwapUnit", "with_penzai"),
}
"""What a user writes with each library."""


def questions(site, path, num_images):
    """Library to a call that answers the question, as (units, images)."""
    model = models.conv_vae()
    params, (x, eps, donor) = sweep.read_inputs(path, num_images)
    with np.load(path) as loaded:
        twin = sweep_peers.load(sweep_peers.VAE(), dict(loaded)).eval()
    stage = twin.names.index(site)
    images = [torch.tensor(np.asarray(a)) for a in (x, eps, donor)]
    images = [a.permute(0, 3, 1, 2).contiguous() if a.ndim == 4 else a for a in images]

    def compiled(function):
        program = jax.jit(functools.partial(function, model), static_argnums=1)
        return lambda: np.asarray(program(params, site, x, eps, donor))

    def eager(function):
        def call():
            with torch.no_grad():
                return function(twin, stage, *images).numpy()

        return call

    return {
        "vaecausal_jax": compiled(with_vaecausal_jax),
        "pyvene": eager(with_pyvene),
        "nnsight": eager(with_nnsight),
        "penzai": compiled(with_penzai),
    }


def seconds(call):
    """How long a call takes, and what it gives."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure(calls, num_rounds):
    """A row for each library: seconds, lines, and how far it is from ours."""
    first = {name: seconds(call) for name, call in calls.items()}
    rounds = [{name: seconds(call)[0] for name, call in calls.items()} for _ in range(num_rounds)]
    ours = first["vaecausal_jax"][1]
    return {
        name: {
            "lines": num_lines(code_of(__file__, *SOURCES[name])),
            "first": first[name][0],
            "then": statistics.median(row[name] for row in rounds),
            "difference": float(np.max(np.abs(first[name][1] - ours)) / np.max(np.abs(ours))),
        }
        for name in calls
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--site", default="decoder/conv0")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", cores)
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "inputs.npz"
        sweep.write_inputs(path, models.conv_vae(), args.images)
        calls = questions(args.site, path, args.images)
        rows = measure(calls, args.rounds)
    print(f"every unit of {args.site}, {args.images} pairs of images, {cores} cores")
    print(f"{'':15}{'lines':>6}{'first call s':>14}{'then s':>9}{'/ ours':>8}{'difference':>12}")
    for name, row in rows.items():
        ratio = row["then"] / rows["vaecausal_jax"]["then"]
        print(
            f"{name:15}{row['lines']:6}{row['first']:14.2f}{row['then']:9.3f}{ratio:8.1f}"
            f"{row['difference']:12.1e}"
        )
    if args.json:
        about = {"site": args.site, "images": args.images, "rounds": args.rounds, "cores": cores}
        about |= {name: sweep_peers.version(name) for name in ("torch", *list(SOURCES)[1:])}
        about |= {"jax": jax.__version__, "machine": platform.processor() or platform.machine()}
        print(json.dumps({**about, "rows": rows}))


if __name__ == "__main__":
    main()
