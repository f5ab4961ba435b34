"""``vaecausal zoo``: what trained models there are, and training more."""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Literal

import numpy as np
import rich.console
import rich.table
import tyro

from vaecausal_jax import zoo
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.study.cli.progress import (
    Progress,
    counted,
    duration,
    make_console,
    show_progress,
)
from vaecausal_jax.study.cli.setting import use_machine
from vaecausal_jax.zoo.training import train_family


@dataclasses.dataclass(frozen=True)
class ZooCommand:
    """List the trained models that are there, or train more.

    "list" shows every family of every world: seeds, steps, reconstruction, what can be read off
    reconstructions. "train" writes an archive per family; interrupted and run again with the same
    arguments, it goes on where it was.

    Attributes:
        action: "list" or "train".
        world: What to train on; of "list", all worlds if not given.
        families: Which families to train; all if not given.
        seeds: Models per family.
        steps: Gradient steps of each model.
        strength: Beta, gamma or lambda, if other than the family's own; for one family.
        out: Folder of the zoo: to be written by "train", and listed by "list" if given in place of
            the models that ship.
        compilation_cache: As for the study.
        no_compilation_cache: As for the study.
    """

    action: tyro.conf.Positional[Literal["list", "train"]] = "list"
    world: str | None = None
    families: tuple[str, ...] = ()
    seeds: int = 8
    steps: int = 8000
    strength: float | None = None
    out: pathlib.Path | None = None
    compilation_cache: pathlib.Path | None = None
    no_compilation_cache: tyro.conf.FlagCreatePairsOff[bool] = False


def run_zoo_command(command: ZooCommand) -> None:
    """Runs ``vaecausal zoo``."""
    if command.action == "list":
        _list(command)
        return
    if command.world is None:
        raise ValueError(f"zoo train needs --world, one of {', '.join(zoo.WORLDS)}.")
    families = command.families or tuple(zoo.STRENGTHS)
    if command.strength is not None and len(families) != 1:
        raise ValueError(f"--strength is one family's; --families has {len(families)}.")
    # All are built before the first is trained: a wrong name is found now.
    recipes = [
        zoo.Recipe(command.world, family, steps=command.steps, strength=command.strength)
        for family in families
    ]
    use_machine(command.compilation_cache, afresh=command.no_compilation_cache)
    folder = pathlib.Path("runs/zoo") if command.out is None else command.out
    start, console = time.perf_counter(), make_console(sys.stdout)
    with show_progress(console) as report:
        for recipe in recipes:
            train_family(
                recipe,
                command.seeds,
                folder,
                command=_command(recipe, command.seeds),
                watch=functools.partial(_report, report, recipe),
            )
    _print(console, folder, command.world)
    console.print(
        f"{counted(len(recipes), 'archive')} in {folder / command.world}, "
        f"{duration(time.perf_counter() - start)} in all."
    )


def _command(recipe: zoo.Recipe, seeds: int) -> str:
    """The command line that trains this family again."""
    words = f"vaecausal zoo train --world {recipe.world} --families {recipe.family}"
    words += f" --seeds {seeds} --steps {recipe.steps}"
    usual = recipe.strength == zoo.STRENGTHS[recipe.family]
    return words if usual else f"{words} --strength {recipe.strength:g}"


def _report(
    report: Progress, recipe: zoo.Recipe, done: int, history: Mapping[str, np.ndarray]
) -> None:
    last = done // recipe.record_every - 1
    nats = f": reconstruction {history['reconstruction'][:, last].mean():.1f} nats" if done else ""
    report(f"train {recipe.family}{nats}", done, recipe.steps)


def _list(command: ZooCommand) -> None:
    folder = zoo.SHIPPED if command.out is None else command.out
    _print(make_console(sys.stdout), folder, command.world)


def _print(console: rich.console.Console, folder: pathlib.Path, world: str | None) -> None:
    found = {place: e for place, e in zoo.entries(folder).items() if world in (None, place[0])}
    if not found:
        if world is None or not zoo.entries(folder):
            raise ValueError(f"no models in {folder}; `vaecausal zoo train` makes them.")
        raise ValueError(
            unknown_choice("world in the zoo", world, {place for place, _ in zoo.entries(folder)})
        )
    for place in sorted({place for place, _ in found}):
        table = rich.table.Table(
            title=f"{place}: mean over seeds, then the least readable seed of each factor",
            caption="rec., KL: nats per image, of 2,048 images; over floor: rec. less the entropy "
            "of their grey pixels; used: active latents, or codes; then accuracy of shape, "
            "R\N{SUPERSCRIPT TWO} of the others, as read off reconstructions",
        )
        families = {family: entry for (where, family), entry in found.items() if where == place}
        factors = list(next(iter(families.values())).record["seeds"][0]["readable"])
        table.add_column("family", no_wrap=True)
        for title in ("strength", "seeds", "steps", "rec.", "over floor", "KL", "used", *factors):
            table.add_column(title, justify="right")
        for family, entry in families.items():
            table.add_row(family, *_cells(entry, factors))
        console.print(table)


def _count(entry: zoo.Entry) -> str:
    """How many seeds there are, and how many of them diverged or collapsed."""
    bad = sum(seed["verdict"] != "ok" for seed in entry.record["seeds"])
    return f"{entry.num_seeds}, {bad} not ok" if bad else str(entry.num_seeds)


def _cells(entry: zoo.Entry, factors: list[str]) -> list[str]:
    seeds = entry.record["seeds"]

    def mean(*names: str) -> str:
        values = [seed[name] for seed in seeds for name in names if name in seed]
        return f"{np.mean(values):.1f}" if values else "-"

    strength = entry.recipe.strength
    return [
        "-" if strength is None else f"{strength:g}",
        _count(entry),
        str(entry.recipe.steps),
        mean("reconstruction"),
        mean("reconstruction_over_floor"),
        mean("kl"),
        mean("active_latents", "codes_used"),
        *(f"{min(seed['readable'][name] for seed in seeds):.2f}" for name in factors),
    ]
