"""What must hold in every VAE, checked on each trained model of a study.

    own value     a unit patched with its own value changes nothing, bit for bit
    silent        nor does one whose value is the donor's, as of a ReLU silent in both
    cut           a whole layer of a network without skips mediates all: PNDE = 0
    backwards     an intervention on z changes nothing before it, bit for bit
    Shapley       Shapley values of the latents, added up, are the total effect through z
    union         units patched one after another, in either order, are units patched together
    identities    TE = PNDE + TNIE = TNDE + PNIE, whatever the mediator

Numbers are largest differences over pairs of images, relative to the largest total effect. Those to
be met bit for bit may not differ at all, the others by 1e-5; NaN is a failure.

    python experiments/train/invariants.py --study runs/train
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax import interventions as iv
from vaecausal_jax import study
from vaecausal_jax.data import images, minimal_levels
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import mediation
from vaecausal_jax.effects import shapley as games
from vaecausal_jax.interventions.bound import BoundModel

NAME = "decoder/dense1"
BOUND = 1e-5
EXACT = ("own value", "silent", "backwards")


def deviations(model, params, x0, x1, eps):
    """Name of each fact to its largest relative deviation."""
    forward, sites = model.forward, model.sites

    def of_pair(x0, x1, eps):
        clean, target = forward(params, x0, eps), forward(params, x1, eps)
        natural, donor = clean.activations[NAME], target.activations[NAME]
        half = jnp.arange(natural.shape[-1]) % 2 == 0
        silent = natural == donor

        def outputs(patches):
            return forward(params, x0, eps, {NAME: patches}).outputs

        first, second = (iv.Replace(mask, donor) for mask in (half, ~half))
        z = forward(params, x0, eps, iv.shift_by(sites, "latent/z", 2.0, unit=0))
        before = [n for n in sites if n.startswith(("encoder", "latent/mean", "latent/logvar"))]
        cuts = [
            mediation.natural_effects(
                BoundModel(forward, params),
                Pairs(x0, x1, eps),
                lambda a, n=n: iv.set_to(sites, n, a[n]),
            ).natural_direct_effect
            for n in ("encoder/conv1", "latent/z", NAME)
        ]
        effects = mediation.natural_effects(
            BoundModel(forward, params),
            Pairs(x0, x1, eps),
            lambda a: {NAME: iv.Replace(half, a[NAME])},
        )
        te, pnde, tnde, pnie, tnie, _ = effects
        return {
            "own value": outputs(iv.Replace(half, natural)) - clean.outputs,
            "silent": outputs(iv.Replace(silent, donor)) - clean.outputs,
            "cut": jnp.stack(cuts),
            "backwards": [z.activations[n] - clean.activations[n] for n in before],
            "union": jnp.stack(
                [outputs(p) - target.outputs for p in ((first, second), (second, first))]
            ),
            "identities": jnp.stack([te - pnde - tnie, te - tnde - pnie]),
        }, target.outputs - clean.outputs

    found, total = jax.vmap(of_pair)(x0, x1, eps)
    scale = jnp.max(jnp.abs(total))
    largest = {
        name: jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(value)]))
        / scale
        for name, value in found.items()
    }
    values = games.latent_game(
        BoundModel(forward, params, sites),
        Pairs(x0, x1, eps),
        "latent/z",
        effect=lambda y, y0, y1: jnp.vdot(y - y0, y1 - y0),
    )
    shapley = games.shapley_values(games.dividends(values)).sum(0)
    whole = jnp.sum(total.reshape(len(total), -1) ** 2, axis=1)
    largest["Shapley"] = jnp.max(jnp.abs(shapley - whole)) / jnp.max(whole)
    return largest


def main():
    """Prints a row a model, and fails where a fact does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--study", type=pathlib.Path, default=pathlib.Path("runs/train"))
    parser.add_argument("--num-pairs", type=int, default=8, help="minimal pairs a factor")
    arguments = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    _, data, (trained,) = study.load_study(arguments.study)
    keys = jax.random.split(jax.random.key(0), len(data.factors) + 1)
    pairs = [
        minimal_levels(key, data, factor.name, arguments.num_pairs)
        for key, factor in zip(keys[1:], data.factors, strict=True)
    ]
    render = jax.jit(images)
    x0, x1 = (render(data, jnp.concatenate(ends)) for ends in zip(*pairs, strict=True))
    eps = jax.random.normal(keys[0], (len(x0), *trained.model.noise_shape))
    check = jax.jit(lambda params: deviations(trained.model, params, x0, x1, eps))
    worst = {}
    for number, (family, seed) in enumerate(trained.labels):
        found = check(jax.tree.map(lambda leaf, i=number: leaf[i], trained.params))
        if not worst:
            print(f"{len(x0)} pairs\n{'':22}" + "".join(f"{name:>12}" for name in found))
        print(
            f"{f'{family}, seed {seed}':22}" + "".join(f"{float(v):12.1e}" for v in found.values())
        )
        worst = {name: np.maximum(worst.get(name, 0.0), float(v)) for name, v in found.items()}
    failed = [n for n, v in worst.items() if not v <= (0.0 if n in EXACT else BOUND)]
    if failed:
        raise SystemExit(f"does not hold: {', '.join(failed)}")


if __name__ == "__main__":
    main()
