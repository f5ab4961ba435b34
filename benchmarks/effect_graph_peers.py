"""PyTorch's side of `benchmarks/effect_graph.py`: path patching with hooks, unit by unit.

Imports nothing of `vaecausal_jax`. The network and its stages are those of `sweep_peers.py`; every
edge leads from one stage to a later one with nothing beside it, so that a patched unit is seen by
its consumer alone. It serves requests, one JSON object a line on standard input, one a line on
standard output:

    {"peer": "hooks", "images": 16, "tile": 4, "pairs": [["encoder/conv0", "encoder/conv1", [0]]],
     "effects": "where to save them, .npz, or null"}
        -> {"prepare": seconds, "seconds": [seconds of each pair]}

    python benchmarks/effect_graph_peers.py INPUTS.npz --threads 2
"""

import argparse
import json
import sys
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from sweep_peers import VAE, load, put  # pyright: ignore[reportMissingImports]


def hooks(model, x, eps, stage, target, clean, source, units):
    """A hook that patches the sender, one that reads the receiver, and the whole forward."""
    seen = []
    handles = [
        model.stages[stage].register_forward_hook(lambda m, a, out: put(out, source, units)),
        # Later layers may overwrite what is read.
        model.stages[target].register_forward_hook(lambda m, a, out: seen.append(out.clone())),
    ]
    model(x, eps)
    for handle in handles:
        handle.remove()
    return seen[0]


def restart(model, x, eps, stage, target, clean, source, units):
    """The layers between sender and receiver alone, from the sender's clean value."""
    h = put(torch.cat([clean[stage]] * len(units)), source, units)
    for module in model.stages[stage + 1 : target + 1]:
        h = module(h, eps) if type(module).__name__ == "Latent" else module(h)
    return h


PEERS = {"hooks": hooks, "restart": restart}


@torch.inference_mode()
def answer(request, arrays):
    """Mean squared change of each receiver for each sender asked for, (senders, receivers)."""
    model = load(VAE(), arrays).eval()
    x, eps, donor = (torch.tensor(arrays[n][: request["images"]]) for n in ("x", "eps", "donor"))
    x, donor = (a.permute(0, 3, 1, 2).contiguous() for a in (x, donor))
    run, num, effects, seconds = PEERS[request["peer"]], len(x), [], []
    start = time.perf_counter()
    clean, other = model.run(x, eps), model.run(donor, eps)
    prepare = time.perf_counter() - start
    for sender, receiver, units in request["pairs"]:
        stage, target = model.names.index(sender), model.names.index(receiver)
        rows, start = [], time.perf_counter()
        for first in range(0, len(units), request["tile"]):
            tile = units[first : first + request["tile"]]
            images, noise = (torch.cat([a] * len(tile)) for a in (x, eps))
            h = run(model, images, noise, stage, target, clean, other[stage], tile)
            change = (h.unflatten(0, (len(tile), num)) - clean[target]).square_()
            rows.append(change.flatten(3).mean(3).mean(1) if change.ndim > 3 else change.mean(1))
        effects.append(torch.cat(rows).numpy())
        seconds.append(time.perf_counter() - start)
    if request["effects"]:
        np.savez(request["effects"], **{str(i): e for i, e in enumerate(effects)})
    return {"prepare": prepare, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inputs", help=".npz of parameters, x, eps and donor")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with np.load(args.inputs) as loaded:
        arrays = dict(loaded)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), arrays)
        except Exception as error:  # Whatever goes wrong in a library, its row says so.
            reply = {"unavailable": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
