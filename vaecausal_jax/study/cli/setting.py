"""The machine's setting, which the commands share."""

import os
import pathlib

import jax


def use_machine(compilation_cache: pathlib.Path | None) -> None:
    """One XLA device per core, before any array exists; full precision for small differences.

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
