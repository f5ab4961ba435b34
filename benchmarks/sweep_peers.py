"""PyTorch's side of `benchmarks/sweep.py`: patching unit by unit, in the ways people have today.

Imports nothing of `vaecausal_jax`, so any interpreter with PyTorch can run it; pyvene and nnsight
are imported when they are asked for. It serves requests, one JSON object a line on standard input,
one a line on standard output:

    {"peer": "hooks", "images": 16, "tile": 4, "channels_last": false,
     "units": {"encoder/conv0": [0, 9, 21, 31]}, "effects": "where to save them, .npz, or null"}
        -> {"prepare": seconds, "seconds": {"encoder/conv0": seconds}}, or {"unavailable": "why"}

    python benchmarks/sweep_peers.py INPUTS.npz --threads 2
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import sys
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

LATENTS, DENSE, CHANNELS, MAP = 10, 256, (32, 32, 64, 64), (4, 4, 64)
CHANNELS_FIRST = np.arange(np.prod(MAP)).reshape(MAP).transpose(2, 0, 1).reshape(-1)
"""Flax's number, (row, column, channel), of each value of the flattened map here."""
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


# The network


class Latent(nn.Module):
    """Draws the latents, with noise that is given."""

    def __init__(self):
        super().__init__()
        self.mean, self.logvar = nn.Linear(DENSE, LATENTS), nn.Linear(DENSE, LATENTS)

    def forward(self, h, eps):
        """Maps features and noise to latents."""
        return self.mean(h) + torch.exp(0.5 * self.logvar(h)) * eps


def relu(*layers):
    """The layers and a ReLU, which may overwrite: nothing else reads its input."""
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class VAE(nn.Module):
    """The field's convolutional VAE as a chain, one stage a site."""

    def __init__(self):
        super().__init__()
        stages, flat, before = {}, int(np.prod(MAP)), 1
        for i, after in enumerate(CHANNELS):
            stages[f"encoder/conv{i}"] = relu(nn.Conv2d(before, after, 4, 2, 1))
            before = after
        stages["encoder/dense0"] = relu(nn.Flatten(), nn.Linear(flat, DENSE))
        stages["latent/z"] = Latent()
        stages["decoder/dense0"] = relu(nn.Linear(LATENTS, DENSE))
        stages["decoder/dense1"] = relu(nn.Linear(DENSE, flat))
        up = [
            nn.ConvTranspose2d(before, after, 4, 2, 1)
            for before, after in zip(CHANNELS[::-1], (*CHANNELS[-2::-1], 1), strict=True)
        ]
        stages["decoder/conv0"] = relu(nn.Unflatten(1, (MAP[2], MAP[0], MAP[1])), up[0])
        stages |= {"decoder/conv1": relu(up[1]), "decoder/conv2": relu(up[2])}
        stages["decoder/logits"] = up[3]
        self.names, self.stages = list(stages), nn.ModuleList(stages.values())

    def run(self, h, eps, first=0):
        """The values of all stages from the given one on."""
        values = []
        for stage in self.stages[first:]:
            h = stage(h, eps) if isinstance(stage, Latent) else stage(h)
            values.append(h)
        return values

    def forward(self, x, eps):
        """Maps images and noise to logits."""
        return self.run(x, eps)[-1]


def named_layers(model):
    """Every layer with parameters, under the name it has in Flax: that of the site it leads to."""
    for name, stage in zip(model.names, model.stages, strict=True):
        if isinstance(stage, Latent):
            yield from (("mean", stage.mean), ("logvar", stage.logvar))
        else:
            yield from ((name, m) for m in stage.modules() if isinstance(m, LAYERS))


@torch.no_grad()
def load(model, arrays):
    """Copies Flax's kernels and biases into the model; returns it."""
    for name, layer in named_layers(model):
        kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        if name == "encoder/dense0":
            kernel = kernel[CHANNELS_FIRST]
        if name == "decoder/dense1":
            kernel, bias = kernel[:, CHANNELS_FIRST], bias[CHANNELS_FIRST]
        if isinstance(layer, nn.Linear):
            kernel = kernel.T
        elif isinstance(layer, nn.ConvTranspose2d):
            kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        else:
            kernel = kernel.transpose(3, 2, 0, 1)
        layer.weight.copy_(torch.tensor(kernel.copy()))
        layer.bias.copy_(torch.tensor(bias))
    return model


# Ways to patch


def put(h, source, units):
    """Overwrites unit `units[t]` in the t-th block of rows by the source's; returns `h`."""
    if len(units) == 1:
        h[:, units[0]] = source[:, units[0]]
    else:
        blocks = h.unflatten(0, (len(units), len(source)))
        blocks[torch.arange(len(units)), :, units] = source.transpose(0, 1)[units]
    return h


class Peer:
    """Holds what all patches share: inputs, the stages' values, clean and of the donor.

    Rows of a batch are units x images, so that `tile` units share one forward.
    """

    def __init__(self, model, x, eps, donor, tile):
        self.model, self.num_images, self.tile = model, len(x), tile
        self.clean, self.other = model.run(x, eps), model.run(donor, eps)
        self.x, self.eps, self.donor = (torch.cat([a] * tile) for a in (x, eps, donor))

    def rows(self, units, *arrays):
        """The arrays cut to the rows that so many units need."""
        return [array[: len(units) * self.num_images] for array in arrays]

    def begin(self, stage):
        """Makes ready for any number of patches at one site."""

    def patched(self, stage, units):
        """Logits, (units * images, ...), each block of rows with one unit of the donor."""
        raise NotImplementedError

    def effects(self, stage, units):
        """Squared change of the logits, (units, images)."""
        rows = []
        for i in range(0, len(units), self.tile):
            tile = units[i : i + self.tile]
            logits = self.patched(stage, tile).unflatten(0, (len(tile), self.num_images))
            rows.append((logits - self.clean[-1]).square_().flatten(2).sum(2))
        return torch.cat(rows)


class Hooks(Peer):
    """A forward hook on the site's module, and the whole forward."""

    def patched(self, stage, units):
        """Hooks one forward."""

        def hook(module, args, output):
            return put(output, self.other[stage], units)

        handle = self.model.stages[stage].register_forward_hook(hook)
        logits = self.model(*self.rows(units, self.x, self.eps))
        handle.remove()
        return logits


class Restart(Peer):
    """The layers after the site, from its clean value with the unit overwritten."""

    def begin(self, stage):
        """Copies the clean value once; patches are undone in place."""
        self.value = torch.cat([self.clean[stage]] * self.tile)

    def patched(self, stage, units):
        """Overwrites, runs the rest, restores."""
        value, eps = self.rows(units, self.value, self.eps)
        logits = self.model.run(put(value, self.other[stage], units), eps, stage + 1)[-1]
        put(value, self.clean[stage], units)
        return logits


class Pyvene(Peer):
    """pyvene as documented: a source example beside each base example."""

    def begin(self, stage):
        """One intervenable model a site; the unit is an argument of its call."""
        pyvene = importlib.import_module("pyvene")
        # pyvene reads these two, whatever the model.
        self.model.config, self.model.device = None, torch.device("cpu")
        # Without the instance it looks up the width of a language model; with a width it would
        # replace only that many columns. A unit of no name it knows indexes the second axis.
        swap = pyvene.VanillaIntervention(embed_dim=None)
        site = {"component": f"stages[{stage}].output", "unit": "channel", "intervention": swap}
        self.intervenable = pyvene.IntervenableModel(site, model=self.model)

    def source(self, stage, units):
        """The source example, whose value pyvene finds by a forward of its own."""
        donor, eps = self.rows(units, self.donor, self.eps)
        return {"sources": [{"x": donor, "eps": eps}]}

    def patched(self, stage, units):
        """Calls the intervenable model; every row names its own unit."""
        x, eps = self.rows(units, self.x, self.eps)
        where = [[[unit] for unit in units for _ in range(self.num_images)]]
        return self.intervenable(
            {"x": x, "eps": eps},
            unit_locations={"sources->base": (where, where)},
            **self.source(stage, units),
        )[1]


class PyveneCached(Pyvene):
    """pyvene with the source's value, (rows, 1, ...), passed in."""

    def source(self, stage, units):
        """The donor's value of each row's unit."""
        values = self.other[stage].transpose(0, 1)[units]
        return {"source_representations": values.flatten(0, 1).unsqueeze(1)}


class NNsight(Peer):
    """nnsight, one trace a patch (or a tile of patches)."""

    def begin(self, stage):
        """Wraps the model."""
        self.traced = importlib.import_module("nnsight").NNsight(self.model)

    def patched(self, stage, units):
        """Traces one forward and writes into the site's output."""
        x, eps = self.rows(units, self.x, self.eps)
        with self.traced.trace(x, eps):
            put(self.traced.stages[stage].output, self.other[stage], units)
            logits = self.traced.output.save()
        return logits  # noqa: RET504 - the block is rewritten by nnsight, and cannot return


PEERS = {
    "hooks": Hooks,
    "restart": Restart,
    "pyvene": Pyvene,
    "pyvene_cached": PyveneCached,
    "nnsight": NNsight,
}


# Requests


def peer_units(name, units):
    """Flax's numbers of units as numbers here."""
    if name == "decoder/dense1":
        return np.argsort(CHANNELS_FIRST)[units].tolist()
    return units


@torch.inference_mode()
def answer(request, arrays):
    """Sweeps the units asked for; seconds of each site's patches, and of all that comes before."""
    layout = torch.channels_last if request["channels_last"] else torch.contiguous_format
    model = load(VAE(), arrays).eval().to(memory_format=layout)
    x, eps, donor = (torch.tensor(arrays[n][: request["images"]]) for n in ("x", "eps", "donor"))
    x, donor = (a.permute(0, 3, 1, 2).contiguous(memory_format=layout) for a in (x, donor))
    start = time.perf_counter()
    peer = PEERS[request["peer"]](model, x, eps, donor, request["tile"])
    prepare, seconds, effects = time.perf_counter() - start, {}, {}
    for name, units in request["units"].items():
        stage, units = model.names.index(name), peer_units(name, units)
        start = time.perf_counter()
        peer.begin(stage)
        ready = time.perf_counter()
        effects[name] = peer.effects(stage, units)
        prepare, seconds[name] = prepare + ready - start, time.perf_counter() - ready
    if request["effects"]:
        np.savez(request["effects"], **{name: e.numpy() for name, e in effects.items()})
    return {"prepare": prepare, "seconds": seconds}


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inputs", help=".npz of parameters, x, eps and donor")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    # Answers go where standard output went; what the libraries print goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(args.threads)
    with np.load(args.inputs) as loaded:
        arrays = dict(loaded)
    about = {package: version(package) for package in ("torch", "pyvene", "nnsight")}
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), arrays)
        except Exception as error:  # Whatever goes wrong in a library, its row says so.
            reply = {"unavailable": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
