"""The command ``vaecausal``: arguments, progress and messages; the work is in the library."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

try:
    import rich.console
    import rich.table
    import tyro

    from vaecausal_jax import study
    from vaecausal_jax.errors import unknown_choice
    from vaecausal_jax.study.cli.announcement import announce_study
    from vaecausal_jax.study.cli.circuits import CircuitsCommand, run_circuits_command
    from vaecausal_jax.study.cli.metrics import MetricsCommand, run_metrics_command
    from vaecausal_jax.study.cli.progress import (
        duration,
        leave_closed_pipe,
        make_console,
        show_progress,
    )
    from vaecausal_jax.study.cli.setting import use_machine
    from vaecausal_jax.study.cli.sweep import SweepCommand, run_sweep_command
    from vaecausal_jax.study.cli.zoo import ZooCommand, run_zoo_command
    from vaecausal_jax.study.run import Study, plan_study, run_plan
except ModuleNotFoundError as error:
    raise SystemExit(
        f"vaecausal needs {error.name}, which comes with the study extra: "
        'python -m pip install "vaecausal_jax[study]"'
    ) from error


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """Load or train VAE families, intervene on four levels, and write a report.

    Writes summary.json, effects.zarr, figures/ and report.html. Interrupted and run again with the
    same arguments, it goes on where it was.

    Attributes:
        out: Folder for results.
        preset: A named study: "quick" (models that ship, 6 families x 4 seeds on 32x32 sprites
            whose factors cause one another: minutes on two cores), "paper" (the same with 8 seeds
            and more pairs), "paper-without-causes" (on the twin world), "train" (trains 3 families
            x 4 seeds on plain sprites first), "dsprites" (the field's 64x64 protocol) or
            "pretrained" (models trained by others).
        config: A JSON config instead of a preset, as printed by --print-config.
        data: The published file or folder of the config's data: the dSprites archive (preset
            "dsprites"; the exact geometry is rendered without it), the folder of weights (preset
            "pretrained"), or the files of 3DShapes, MPI3D or SmallNORB.
        seeds: Number of trained models per family, if other than the preset's.
        steps: Number of gradient steps, if other than the preset's.
        print_config: Print the config as JSON and stop.
        compilation_cache: Folder of compiled programs, which the next run starts from. If not
            given, what VAECAUSAL_COMPILATION_CACHE names, or else the user's folder of caches.
        no_compilation_cache: Compile everything afresh, and keep nothing.
    """

    out: pathlib.Path = pathlib.Path("runs/study")
    preset: Literal["quick", "train", "paper", "paper-without-causes", "dsprites", "pretrained"] = (
        "quick"
    )
    config: pathlib.Path | None = None
    data: pathlib.Path | None = None
    seeds: int | None = None
    steps: int | None = None
    print_config: Annotated[bool, tyro.conf.arg(name="print-config")] = False
    compilation_cache: pathlib.Path | None = None
    no_compilation_cache: tyro.conf.FlagCreatePairsOff[bool] = False


COMMANDS: dict[str, Any] = {
    "study": StudyCommand,
    "sweep": SweepCommand,
    "metrics": MetricsCommand,
    "circuits": CircuitsCommand,
    "zoo": ZooCommand,
}


def main() -> None:
    """Entry point of the command ``vaecausal``."""
    try:
        try:
            _run(sys.argv[1:])
        finally:
            sys.stdout.flush()  # Here, where a pipe that is closed can still be answered for.
    except BrokenPipeError:
        leave_closed_pipe()


def _run(arguments: Sequence[str]) -> None:
    command, interrupted = None, "interrupted."
    try:
        if list(arguments) == ["--version"]:
            print(_versions())
            return
        check_arguments(arguments)
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="vaecausal",
            description="Causal interventions on variational autoencoders. --version says which "
            "versions are installed.",
            args=list(arguments) or ["--help"],
        )
        if isinstance(command, SweepCommand):
            run_sweep_command(command)
        elif isinstance(command, MetricsCommand):
            run_metrics_command(command)
        elif isinstance(command, CircuitsCommand):
            run_circuits_command(command)
        elif isinstance(command, ZooCommand):
            run_zoo_command(command)
        else:
            run_study_command(command)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"vaecausal: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        resumes = getattr(command, "compare", False) or getattr(command, "action", "") == "train"
        if isinstance(command, StudyCommand | SweepCommand) or resumes:
            interrupted = "interrupted; run the same command again to go on."
        print(f"vaecausal: {interrupted}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # At once: threads in the middle of a save or a compilation fail loudly at a normal exit.
        os._exit(130)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises ValueError for a misspelt subcommand, option or choice, with the nearest that exists.

    All else that can be wrong is left to the parser.
    """
    name, *words = arguments or ("--help",)
    if name.startswith("-"):
        if name not in ("--help", "-h", "--version") and not name.startswith("--tyro"):
            raise ValueError(unknown_choice("option", name, ("--help", "--version", *COMMANDS)))
        return
    if name not in COMMANDS:
        raise ValueError(unknown_choice("command", name, COMMANDS))
    kinds: dict[str, Any] = {}
    for field, kind in typing.get_type_hints(COMMANDS[name]).items():
        option = field.replace("_", "-")
        kinds[f"--{option}"] = kind
        if kind is bool and not field.startswith("no_"):
            kinds[f"--no-{option}"] = kind
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if not word.startswith("-") or word in ("--help", "-h") or _is_number(word):
            continue
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if option not in kinds:
            raise ValueError(unknown_choice(f"option of vaecausal {name}", option, kinds))
        value = value if equals else following
        is_given = value and (equals or not value.startswith("-"))
        if typing.get_origin(kinds[option]) is Literal and is_given:
            choices = typing.get_args(kinds[option])
            if value not in choices:
                raise ValueError(unknown_choice(option, value, choices))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _versions() -> str:
    """What is installed; no device is started to say so."""
    jax, jaxlib = (importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    ours = importlib.metadata.version("vaecausal_jax")
    return f"vaecausal_jax {ours} (jax {jax}, jaxlib {jaxlib}, Python {platform.python_version()})"


def run_study_command(command: StudyCommand) -> None:
    """Runs ``vaecausal study``."""
    use_machine(command.compilation_cache, afresh=command.no_compilation_cache)
    if command.config is not None:
        config = study.read_config(command.config)
    else:
        config = study.PRESETS[command.preset]
    if command.seeds is not None:
        config = dataclasses.replace(config, num_seeds=command.seeds)
    if command.steps is not None:
        config = dataclasses.replace(config, num_steps=command.steps)
    if command.print_config:
        print(json.dumps(dataclasses.asdict(config), indent=2))
        return
    start, console = time.perf_counter(), make_console(sys.stdout)
    data_path = None if command.data is None else str(command.data)
    with show_progress(console) as report:
        plan = plan_study(config, command.out, data_path=data_path)
        report = announce_study(plan, console.print, report)
        result = run_plan(plan, progress=report)
    _print_summary(console, result, command.out, time.perf_counter() - start)


def _print_summary(
    console: rich.console.Console, result: Study, folder: pathlib.Path, seconds: float
) -> None:
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
    console.print(f"{folder / 'report.html'} written, {duration(seconds)} in all.")


def _cell(estimate) -> str:
    if estimate.num_seeds == 1:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
