"""Full-size dSprites: the field's convolutional network at 64x64, on a CPU's budget.

The field trains for 300,000 steps; ``--steps`` takes as many as the machine gives.
"""

import argparse
import dataclasses
import pathlib

import jax

from vaecausal_jax import study

CONFIG = dataclasses.replace(
    study.PRESETS["dsprites"],
    name="dsprites_64",
    num_seeds=2,
    num_steps=2000,
    record_every=100,
    learning_rate=1e-3,
    num_images=128,
    num_unit_images=32,
    num_pairs=8,
)


def main() -> None:
    """Runs the study; interrupted and run again, it goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/dsprites_64"))
    parser.add_argument("--data", default=None, help="the dSprites archive, if you have it")
    parser.add_argument("--steps", type=int, default=CONFIG.num_steps)
    parser.add_argument("--seeds", type=int, default=CONFIG.num_seeds)
    parser.add_argument("--devices", type=int, default=2, help="CPU devices to spread seeds over")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    jax.config.update("jax_default_matmul_precision", "highest")
    config = dataclasses.replace(CONFIG, num_steps=arguments.steps, num_seeds=arguments.seeds)

    def progress(what: str, done: int, total: int) -> None:
        print(f"{what}: {done} of {total}", flush=True)

    study.run_study(config, arguments.out, data_path=arguments.data, progress=progress)
    print(f"{arguments.out / 'report.html'} written")


if __name__ == "__main__":
    main()
