"""Is the near-zero effect strength of VQ-VAEs a fact about the model, or about the intervention?

Trains a VQ-VAE and a VAE on the same rendered sprites and puts three interventions on the VQ-VAE
beside the VAE's: its continuous values shifted before quantisation, its codes redrawn one by one,
and their whole map redrawn. One number is comparable throughout: the total index, the share of the
output's variance that goes with what was changed.
"""

import argparse
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaecausal_jax as vj
from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects.codes import code_effects, crossing_rates
from vaecausal_jax.inference import Estimate, over_seeds
from vaecausal_jax.training.seeds import fastest_over_seeds


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
        image_size: Height and width.
        num_codes: Size of the codebook.
        code_size: Dimensions of a code.
        num_seeds: Models of each kind.
        num_steps: Gradient steps of 64 images.
        num_images: Images that the effects average over.
        doses: Shifts before quantisation, in SD of the shifted channel over images and positions.
    """

    image_size: int = 32
    num_codes: int = 64
    code_size: int = 8
    num_seeds: int = 4
    num_steps: int = 1500
    num_images: int = 128
    doses: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


def main() -> None:
    """Trains, measures and prints a table; ``--json`` adds one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Config.num_steps)
    parser.add_argument("--seeds", type=int, default=Config.num_seeds)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_default_matmul_precision", "highest")
    config = Config(num_steps=arguments.steps, num_seeds=arguments.seeds)
    world = vj.data.sprites(config.image_size)
    shape = (config.image_size, config.image_size, 1)
    quantised = vj.models.vq_vae(
        shape,
        num_codes=config.num_codes,
        code_size=config.code_size,
        encoder_channels=(16, 32, 32),
        decoder_channels=(32, 32, 16),
    )
    continuous = vj.models.conv_vae(
        shape,
        latent_size=8,
        encoder_channels=(16, 32, 32),
        encoder_dense=(128,),
        decoder_dense=(128,),
        decoder_channels=(32, 32, 16),
    )
    x = vj.data.sample_images(jax.random.key(1), world, config.num_images)

    rows: dict[str, Estimate] = {}
    trained, losses = train(config, quantised, vj.objectives.vq_vae(), world)
    rows["VQ-VAE: reconstruction, nats an image"] = seeds(config, losses["reconstruction"][:, -1])
    rows["VQ-VAE: codes in use, exp(entropy)"] = seeds(
        config, np.exp(losses["code_entropy"][:, -1])
    )
    found = over_models(functools.partial(measure_codes, config, quantised), trained, x)
    for dose, crossed, index in zip(
        config.doses, found["crossed"].T, found["shift_index"].T, strict=True
    ):
        rows[f"VQ-VAE: shift one channel {dose:g} SD: codes that change"] = seeds(config, crossed)
        rows[f"VQ-VAE: shift one channel {dose:g} SD: index"] = seeds(config, index)
    for name in ("position", "code", "whole"):
        rows[f"VQ-VAE: redraw {name}: index, summed"] = seeds(config, found[name])

    trained, losses = train(config, continuous, vj.objectives.vae(), world)
    rows["VAE: reconstruction, nats an image"] = seeds(config, losses["reconstruction"][:, -1])
    found = over_models(functools.partial(measure_latents, config, continuous), trained, x)
    for dose, index in zip(config.doses, found["shift_index"].T, strict=True):
        rows[f"VAE: shift one latent {dose:g} SD: index"] = seeds(config, index)
    rows["VAE: redraw one latent: index, summed"] = seeds(config, found["resample"])

    width = max(map(len, rows))
    for name, row in rows.items():
        print(f"{name:<{width}}  {row.value:9.4f}  [{row.low:.4f}, {row.high:.4f}]")
    if arguments.json:
        plain = {name: [float(e.value), float(e.low), float(e.high)] for name, e in rows.items()}
        print(json.dumps({"config": dataclasses.asdict(config), "rows": plain}))


def train(config: Config, model: vj.Model, objective, world):
    """Parameters of all seeds, and their history."""
    schedule = optax.cosine_decay_schedule(2e-3, config.num_steps, 0.1)
    settings = vj.TrainConfig(
        model, objective, optax.adam(schedule), config.num_steps, record_every=50
    )
    keys = jax.random.split(jax.random.key(0), config.num_seeds)
    state, history = jax.jit(fastest_over_seeds()(vj.make_train(settings)))(keys, world)
    verdicts = vj.training.diagnose(history, 50)
    if any(verdict != "ok" for verdict in verdicts):
        raise SystemExit(f"{objective.name}: {verdicts}")
    print(f"{objective.name}: trained {config.num_seeds} models", flush=True)
    return state.params, jax.tree.map(np.asarray, history)


def over_models(measure, params, x):
    """A measurement of every seed's model, as NumPy arrays with leading axis seeds."""
    return jax.tree.map(np.asarray, jax.jit(fastest_over_seeds()(measure))(params, x))


def measure_codes(config: Config, model: vj.Model, params, x):
    """Total indices of the three interventions on a VQ-VAE; see the module's first lines."""
    eps = jnp.zeros((x.shape[0], *model.noise_shape))
    trace = jax.vmap(model.forward, (None, 0, 0))(params, x, eps)
    pre, codes = trace.activations["latent/pre"], trace.activations["latent/codes"]
    sd = pre.std(axis=(0, 1, 2))
    variance = 2 * vj.effects.output_spread(image(trace)).mean()

    shifted = crossing_rates(
        model.bind(params), x, eps, jnp.array(config.doses), unit_sd=sd, outcome=image
    )
    donor = jnp.roll(codes, 1, axis=0)
    redrawn = code_effects(
        model.bind(params),
        Runs(x, eps, {"latent/codes": donor}),
        num_codes=config.num_codes,
        outcome=image,
    )
    return {
        "crossed": shifted.crossed.mean(axis=(0, 2)),
        "shift_index": shifted.squared.mean(axis=(0, 2)) / variance,
        **{
            name: (getattr(redrawn, name).squared.mean(axis=1) / variance).sum()
            for name in ("position", "code", "whole")
        },
    }


def measure_latents(config: Config, model: vj.Model, params, x):
    """Total indices of shifts and redraws of a VAE's latents."""
    eps = jax.random.normal(jax.random.key(2), (x.shape[0], *model.noise_shape))
    trace = jax.vmap(model.forward, (None, 0, 0))(params, x, eps)
    z = trace.activations["latent/z"]
    variance = 2 * vj.effects.output_spread(image(trace)).mean()

    def at_dose(dose):
        found = vj.effects.shift_effects(
            model.bind(params), x, eps, {"latent/z": dose * z.std(0)}, outcome=image
        ).values
        return found.squared.mean() / variance

    redrawn = vj.effects.resample_effects(
        model.bind(params), Runs(x, eps, {"latent/z": jnp.roll(z, 1, axis=0)}), outcome=image
    ).values
    return {
        "shift_index": jax.lax.map(at_dose, jnp.array(config.doses)),
        "resample": (redrawn.squared.mean(axis=1) / variance).sum(),
    }


def image(trace: vj.Trace):
    """The expected image."""
    return jax.nn.sigmoid(trace.outputs)


def seeds(config: Config, values: np.ndarray) -> Estimate:
    """Mean over seeds with Student's t interval."""
    return over_seeds(values, num_inputs=config.num_images, intervention="see the row")


if __name__ == "__main__":
    main()
