"""The command ``vaecausal``: arguments, progress and messages; the work is in the library."""

import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax import questions
from vaecausal_jax.data import Dataset, factor_names, images, minimal_pairs, sample_factors
from vaecausal_jax.models import Model
from vaecausal_jax.models.model import forward_flops
from vaecausal_jax.sites import unknown_choice
from vaecausal_jax.stored_sweeps import Part, run_stored

try:
    import rich.console
    import rich.progress
    import rich.table
    import tyro

    from vaecausal_jax import study
except ModuleNotFoundError as error:
    raise SystemExit(
        f"vaecausal needs {error.name}, which comes with the study extra: "
        'python -m pip install "vaecausal_jax[study]"'
    ) from error


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """Train VAE families over seeds, intervene on four levels, and write a report.

    Writes summary.json, effects.zarr, figures/ and report.html. Interrupted and run again with the
    same arguments, it goes on where it was.

    Attributes:
        out: Folder for results.
        preset: A named study: "quick" (3 families x 4 seeds on rendered 32x32 sprites, minutes on
            two cores), "dsprites" (the field's 64x64 protocol) or "pretrained" (models trained by
            others).
        config: A JSON config instead of a preset, as printed by --print-config.
        data: The dSprites archive (preset "dsprites"; the exact geometry is rendered without it),
            or the folder of weights (preset "pretrained").
        seeds: Number of trained models a family, if other than the preset's.
        steps: Number of gradient steps, if other than the preset's.
        print_config: Print the config as JSON and stop.
    """

    out: pathlib.Path = pathlib.Path("runs/study")
    preset: Literal["quick", "dsprites", "pretrained"] = "quick"
    config: pathlib.Path | None = None
    data: pathlib.Path | None = None
    seeds: int | None = None
    steps: int | None = None
    print_config: Annotated[bool, tyro.conf.arg(name="print-config")] = False


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Sweep interventions over one trained model of a study, and store every effect.

    Writes effects.zarr, one group a part (open with xarray.open_zarr(path, group=...)), and
    manifest.json. Interrupted and run again with the same arguments, it goes on where it was.

    Attributes:
        study: Folder of a finished study.
        out: Folder for results.
        question: "units": every unit of every site patched between minimal pairs, both ways;
            "sites": every site patched whole; "pairs": interactions of every two units of the given
            sites; "doses": every latent shifted by doses; "factors": do(factor = level) on the
            input; "attribution": gradient surrogates of "units".
        family: Which family, as the study names it; the first if not given.
        seed: Which of its trained models.
        sites: Which sites; all if not given ("pairs" needs at least one).
        factors: Which factors minimal pairs change; all if not given.
        num_pairs: Minimal pairs a factor; for "doses" and "factors" the number of images.
        doses: Of "doses", in standard deviations.
        max_runs: The most forward passes to allow.
        data: As for the study.
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


def main() -> None:
    """Entry point of the command ``vaecausal``."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"study": StudyCommand, "sweep": SweepCommand},
        prog="vaecausal",
        description="Causal interventions on variational autoencoders.",
    )
    try:
        if isinstance(command, SweepCommand):
            run_sweep_command(command)
        else:
            run_study_command(command)
    except (ValueError, OSError) as error:
        print(f"vaecausal: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("vaecausal: interrupted; run the same command again to go on.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # At once: threads in the middle of a save or a compilation fail loudly at a normal exit.
        os._exit(130)


def run_study_command(command: StudyCommand) -> None:
    """Runs ``vaecausal study``."""
    _use_all_cores()
    if command.config is not None:
        config = study.read_config(command.config)
    else:
        config = study.PRESETS[command.preset]
    if command.seeds is not None:
        config = dataclasses.replace(config, num_seeds=command.seeds)
    if command.steps is not None:
        config = dataclasses.replace(config, num_steps=command.steps)
    if command.print_config:
        print(json.dumps(study.as_json(config), indent=2))
        return
    start = time.perf_counter()
    with _progress_bars() as bars:
        result = study.run_study(
            config,
            command.out,
            data_path=None if command.data is None else str(command.data),
            progress=_reporter(bars),
        )
    _print_summary(result, command.out, time.perf_counter() - start)


def run_sweep_command(command: SweepCommand) -> None:
    """Runs ``vaecausal sweep``."""
    _use_all_cores()
    start = time.perf_counter()
    data_path = None if command.data is None else str(command.data)
    config, data, trained = study.load_study(command.study, data_path=data_path)
    label = (command.family or trained.families[0], command.seed)
    if label not in trained.labels:
        valid = [f"--family {family} --seed {seed}" for family, seed in trained.labels]
        given = f"--family {label[0]} --seed {label[1]}"
        raise ValueError(unknown_choice("model", given, valid))
    number = trained.labels.index(label)
    params = jax.tree.map(lambda leaf: leaf[number], trained.params)
    parts = _sweep_parts(command, trained.model, params, data)
    runs = sum(part.runs for part in parts)
    flops = runs * forward_flops(trained.model)
    print(
        f"{label[0]}, seed {label[1]}: {sum(part.num_points for part in parts)} interventions, at "
        f"most {runs} forward passes ({flops / 1e9:.3g} GFLOP if each were computed whole)."
    )
    if runs > command.max_runs:
        raise ValueError(f"that is more than --max-runs {command.max_runs}.")
    asked = dataclasses.asdict(command)
    spec = {key: asked[key] for key in ("question", "sites", "factors", "num_pairs", "doses")}
    spec |= {"family": label[0], "seed": label[1], "study": study.as_json(config)}
    with _progress_bars() as bars:
        path = run_stored(command.out, parts, spec, progress=_reporter(bars, "sweep"))
    print(f"{path} written, {time.perf_counter() - start:.0f} s in all. Parts:")
    for part in parts:
        print(f"  xarray.open_zarr({str(path)!r}, group={part.name!r})")


def _sweep_parts(command: SweepCommand, model: Model, params: Any, data: Dataset) -> list[Part]:
    """The parts of the question asked, on images drawn for it."""
    for name in command.sites:
        _ = model.sites[name]  # names the nearest, if there is none
    keys = jax.random.split(jax.random.fold_in(jax.random.key(command.seed), 2), 3)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("contexts",))
    if command.question in ("doses", "factors"):
        levels = sample_factors(keys[0], data, command.num_pairs)
        eps = jax.random.normal(keys[1], (command.num_pairs, *model.noise_shape))
        if command.question == "factors":
            return questions.factor_sweeps(model, params, data, levels, eps, mesh=mesh)
        x = jax.jit(images)(data, levels)
        return questions.latent_doses(model, params, x, eps, command.doses, mesh=mesh)
    names = command.factors or factor_names(data)
    pairs = [
        minimal_pairs(key, data, name, command.num_pairs)
        for key, name in zip(jax.random.split(keys[0], len(names)), names, strict=True)
    ]
    render = jax.jit(images)
    x0 = render(data, jnp.concatenate([pair.source for pair in pairs]))
    x1 = render(data, jnp.concatenate([pair.target for pair in pairs]))
    eps = jax.random.normal(keys[1], (len(x0), *model.noise_shape))
    arguments, options = (model, params, x0, x1, eps), {"mesh": mesh}
    if command.question == "units":
        return questions.unit_patching(*arguments, sites=command.sites, **options)
    if command.question == "sites":
        groups = questions.whole_sites(model, command.sites)
        return questions.group_patching(*arguments, groups, **options)
    if command.question == "attribution":
        return questions.attributions(*arguments, sites=command.sites)
    if not command.sites:
        raise ValueError(f"--question pairs needs --sites, among: {', '.join(model.sites)}.")
    return questions.unit_pairs(
        *arguments, sites=command.sites, max_runs=command.max_runs, **options
    )


def _use_all_cores() -> None:
    """One XLA device a core, before any array exists; full precision for small differences."""
    jax.config.update("jax_num_cpu_devices", _num_cores())
    jax.config.update("jax_default_matmul_precision", "highest")


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _progress_bars() -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
    )


def _reporter(bars: rich.progress.Progress, only_stage: str | None = None):
    """One bar a stage; a stage's name is what precedes the colon, unless there is only one."""
    tasks: dict[str, rich.progress.TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        stage = only_stage or what.split(":")[0]
        if stage not in tasks:
            tasks[stage] = bars.add_task(what, total=total)
        bars.update(tasks[stage], description=what, completed=done, total=total)

    return report


def _print_summary(result, folder: pathlib.Path, seconds: float) -> None:
    console = rich.console.Console()
    table = rich.table.Table(
        title=f"{result.config.name}: mean over seeds [95% interval]",
        caption="rec.: reconstruction; active: latents in use; T: total effect index of a latent",
    )
    table.add_column("family", no_wrap=True)
    columns = {
        "reconstruction": "rec. (nats)",
        "kl": "KL (nats)",
        "active_latents": "active",
        "total_index_prior_sum": "sum of T",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for family, values in result.summary["families"].items():
        cells = [_cell(values[name]) for name in columns if name in values]
        table.add_row(family, *cells)
    console.print(table)
    for model in result.summary["excluded"]:
        console.print(f"excluded: {model['family']} seed {model['seed']}: {model['verdict']}")
    console.print(f"{folder / 'report.html'} written, {seconds:.0f} s in all.")


def _cell(estimate) -> str:
    if estimate.num_seeds == 1:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
