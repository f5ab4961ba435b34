"""What the commands share: the machine's setting, and bars that show progress."""

import os
import pathlib

import jax
import rich.progress


def use_machine(compilation_cache: pathlib.Path | None) -> None:
    """One XLA device a core, before any array exists; full precision for small differences.

    Args:
        compilation_cache: Folder of compiled programs, or None to compile afresh.
    """
    if compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache))
    jax.config.update("jax_num_cpu_devices", _num_cores())
    jax.config.update("jax_default_matmul_precision", "highest")


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress_bars() -> rich.progress.Progress:
    """Bars with counts, time so far and time left."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
    )


def report_to(bars: rich.progress.Progress, only_stage: str | None = None):
    """One bar a stage; a stage's name is what precedes the colon, unless there is only one."""
    tasks: dict[str, rich.progress.TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        stage = only_stage or what.split(":")[0]
        if stage not in tasks:
            tasks[stage] = bars.add_task(what, total=total)
        bars.update(tasks[stage], description=what, completed=done, total=total)

    return report
