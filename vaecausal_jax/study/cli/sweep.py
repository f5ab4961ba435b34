"""``vaecausal sweep``: one question put to one trained model of a study."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr

from vaecausal_jax import study
from vaecausal_jax.data import Dataset, Pairs, factor_names, images, minimal_levels, sample_factors
from vaecausal_jax.effects import stored
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.models import Model
from vaecausal_jax.models.model import forward_flops
from vaecausal_jax.study.cli.progress import Progress, duration, make_console, show_progress
from vaecausal_jax.study.cli.setting import use_machine
from vaecausal_jax.study.results import locate, roster
from vaecausal_jax.sweeps.grid import over_devices
from vaecausal_jax.sweeps.stored import Part, group_of, num_stored, run_stored


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Sweep interventions over one trained model of a study, and store every effect.

    Writes effects.zarr, one group per part (open with xarray.open_zarr(path, group=...)), and
    manifest.json. Interrupted and run again with the same arguments, it goes on where it was.

    Attributes:
        study: Folder of a finished study.
        out: Folder for results.
        question: "units": every unit of every site patched between minimal pairs, both ways;
            "sites": every site patched whole; "pairs": interactions of every two units of the given
            sites; "doses": every latent shifted by doses; "factors": each factor of the
            input set to each level, all others held; "attribution": gradient surrogates of "units".
        family: Which family, as the study names it; the first if not given.
        seed: Which of its trained models.
        sites: Which sites; all if not given ("pairs" needs at least one).
        factors: Which factors minimal pairs change; all if not given.
        num_pairs: Minimal pairs per factor; for "doses" and "factors" the number of images.
        doses: Of "doses", in standard deviations.
        max_runs: The most forward passes to allow.
        data: As for the study.
        compilation_cache: As for the study.
        no_compilation_cache: As for the study.
    """

    study: pathlib.Path
    out: pathlib.Path = pathlib.Path("runs/sweep")
    question: Literal["units", "sites", "pairs", "doses", "factors", "attribution"] = "units"
    family: str | None = None
    seed: int = 0
    sites: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    num_pairs: int = 16
    doses: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
    max_runs: int = 10_000_000
    data: pathlib.Path | None = None
    compilation_cache: pathlib.Path | None = None
    no_compilation_cache: tyro.conf.FlagCreatePairsOff[bool] = False


def run_sweep_command(command: SweepCommand) -> None:
    """Runs ``vaecausal sweep``."""
    use_machine(command.compilation_cache, afresh=command.no_compilation_cache)
    start, console = time.perf_counter(), make_console(sys.stdout)
    with show_progress(console) as report:
        path, parts = _run_sweep(command, console.print, report)
    console.print(f"{path} written, {duration(time.perf_counter() - start)} in all. Parts:")
    if any("support" in part.dims for part in parts):
        console.print(
            "  (in brackets: how many patched runs lie farther out than 95% of natural ones)"
        )
    for part in parts:
        group = f"xarray.open_zarr({str(path)!r}, group={group_of(part.name)!r})"
        console.print(f"  {group}{_far_out(path, part)}")


def _run_sweep(
    command: SweepCommand, say: Callable[[str], None], report: Progress
) -> tuple[pathlib.Path, list[Part]]:
    data_path = None if command.data is None else str(command.data)
    config, data, stacks = study.load_study(command.study, data_path=data_path)
    models = roster(stacks)
    label = (command.family or models.families[0], command.seed)
    if label not in models.labels:
        valid = [f"--family {family} --seed {seed}" for family, seed in models.labels]
        given = f"--family {label[0]} --seed {label[1]}"
        raise ValueError(unknown_choice("model", given, valid))
    trained, number = locate(stacks, label)
    params = jax.tree.map(lambda leaf: leaf[number], trained.params)
    parts = _sweep_parts(command, trained.model, params, data)
    runs = sum(part.runs for part in parts)
    if runs > command.max_runs:
        raise ValueError(
            f"{runs} forward passes are more than --max-runs {command.max_runs} allows: raise it, "
            "or ask for fewer --sites, --factors or --num-pairs."
        )
    asked = dataclasses.asdict(command)
    spec = {key: asked[key] for key in ("question", "sites", "factors", "num_pairs", "doses")}
    spec |= {"family": label[0], "seed": label[1], "study": study.as_json(config)}

    started = False

    def progress(part: str, done: int, total: int) -> None:
        nonlocal started
        if not started:  # The folder is then known to be one of this sweep.
            say(_opening(command, label, trained.model, parts))
            started = True
        report(f"sweep: {part}", done, total)

    return run_stored(command.out, parts, spec, progress=progress), parts


def _opening(command: SweepCommand, label: tuple[str, int], model: Model, parts: list[Part]) -> str:
    """What is swept, at which cost, where it goes, and how much of it is there."""
    runs, num_points = (sum(getattr(p, word) for p in parts) for word in ("runs", "num_points"))
    found = num_stored(command.out, parts)
    goes_on = "If it is interrupted, the same command goes on where it was."
    if found:
        rest = "all" if found == num_points else f"{found} of them"
        goes_on = f"It goes on with what is there, which is {rest}."
    return (
        f"{label[0]}, seed {label[1]}: {num_points} interventions, at most {runs} forward passes "
        f"({runs * forward_flops(model) / 1e9:.3g} GFLOP if each were computed whole). Results go "
        f"to {command.out}. {goes_on}"
    )


def _far_out(path: pathlib.Path, part: Part) -> str:
    """The share of a part's patched runs that left the data, where it has one."""
    if "support" not in part.dims:
        return ""
    support = xr.open_zarr(path, group=group_of(part.name))["support"].values
    if np.isnan(support).all():
        return ""
    share = np.mean(support[~np.isnan(support)] > 0.95)
    return f" ({share:.0%})"


def _sweep_parts(command: SweepCommand, model: Model, params: Any, data: Dataset) -> list[Part]:
    """The parts of the question asked, on images drawn for it."""
    for name in command.sites:
        _ = model.sites[name]  # names the nearest, if there is none
    keys = jax.random.split(jax.random.fold_in(jax.random.key(command.seed), 2), 3)
    net, swept = model.bind(params), over_devices()
    if command.question in ("doses", "factors"):
        levels = sample_factors(keys[0], data, command.num_pairs)
        eps = jax.random.normal(keys[1], (command.num_pairs, *model.noise_shape))
        if command.question == "factors":
            return stored.factor_sweeps(net, data, levels, eps, sweep=swept)
        x = jax.jit(images)(data, levels)
        return stored.latent_doses(net, x, eps, command.doses, sweep=swept)
    names = command.factors or factor_names(data)
    levels = [
        minimal_levels(key, data, name, command.num_pairs)
        for key, name in zip(jax.random.split(keys[0], len(names)), names, strict=True)
    ]
    render = jax.jit(images)
    x0, x1 = (render(data, jnp.concatenate(ends)) for ends in zip(*levels, strict=True))
    pairs = Pairs(x0, x1, jax.random.normal(keys[1], (len(x0), *model.noise_shape)))
    if command.question == "units":
        return stored.unit_patching(net, pairs, sites=command.sites, sweep=swept)
    if command.question == "sites":
        groups = stored.whole_sites(net, command.sites)
        return stored.group_patching(net, pairs, groups, sweep=swept)
    if command.question == "attribution":
        return stored.attributions(net, pairs, sites=command.sites)
    if not command.sites:
        raise ValueError(f"--question pairs needs --sites, among: {', '.join(model.sites)}.")
    return stored.unit_pairs(
        net, pairs, sites=command.sites, max_runs=command.max_runs, sweep=swept
    )
