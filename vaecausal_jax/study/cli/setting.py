"""The machine's setting, which the commands share."""

import os
import pathlib
import sys

import jax

from vaecausal_jax.compilation_cache import use_compilation_cache


def use_machine(compilation_cache: pathlib.Path | None, *, afresh: bool = False) -> None:
    """One XLA device per core, before any array exists; full precision for small differences.

    Compiled programs are kept for the next command. Where they cannot be, a line says so.

    Args:
        compilation_cache: Folder of compiled programs, or None for the user's.
        afresh: Whether to compile everything, and to keep nothing.
    """
    if afresh:
        if compilation_cache is not None:
            raise ValueError("--compilation-cache and --no-compilation-cache exclude each other.")
        jax.config.update("jax_enable_compilation_cache", False)
    try:
        use_compilation_cache(compilation_cache)
    except ValueError as error:
        print(f"vaecausal goes on without a cache: {error}", file=sys.stderr)
    jax.config.update("jax_num_cpu_devices", _num_cores())
    jax.config.update("jax_default_matmul_precision", "highest")


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
