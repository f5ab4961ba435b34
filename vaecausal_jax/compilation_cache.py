"""Compiled programs kept on disk, so that the next process loads them: JAX's cache, made safe.

JAX looks a program up by its content, the options and flags of its compilation, and the compiler's
version. It does not ask which processor the program was compiled for, keeps only what took a second
to compile, and lets its folder grow without end. Here each machine has a folder, every program is
kept, and the programs used longest ago are removed.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import socket
import sys
import tempfile
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as cache_of_jax

from vaecausal_jax.jax_versions import cached_programs_may_crash, versions_of_programs

VARIABLE = "VAECAUSAL_COMPILATION_CACHE"
"""Environment variable: a folder in place of the default one, or ``off``."""

MAX_BYTES = 2**30
"""Over a hundred times what one family's study takes: 280 programs of 7 MB together."""


def use_compilation_cache(
    folder: str | os.PathLike | None = None, *, max_bytes: int = MAX_BYTES
) -> pathlib.Path | None:
    """Keeps every program that this process compiles, and loads those that an earlier one kept.

    Programs lie in a folder within ``folder`` that is named after the versions of JAX and jaxlib,
    the host and its processor, so that none is ever loaded elsewhere. Several processes may use it
    at once. Processes of one program (``jax.distributed``) share a folder on all hosts, to which
    the first process alone writes: initialise them before this call.

    What the user has told JAX stands. Without ``folder``, a ``jax_compilation_cache_dir`` that is
    set is used as it is; so are JAX's other settings. On macOS before jaxlib 0.10, where loading a
    program can end the process, nothing is kept unless ``folder`` is given. On Intel's processors
    with AVX-512, jaxlib 0.8.2 to 0.10.1 print that a loaded program is for another machine type.
    It is not: they take a preference of the compiler for a feature (jax-ml/jax issue 38445).

    Args:
        folder: Where to keep programs. If not given, the environment variable
            ``VAECAUSAL_COMPILATION_CACHE``, else ``vaecausal_jax`` in the user's folder of caches
            (``XDG_CACHE_HOME``, or ``~/.cache``). Whoever can write to it can have this process run
            their programs: it is made for its owner alone.
        max_bytes: How much the programs of all machines in ``folder`` may take. This call enforces
            it, by removing those used longest ago; what the process compiles later comes on top.

    Returns:
        The folder of this machine's programs, or None where the cache is off: by the variable
        (``off``), by JAX's setting ``jax_enable_compilation_cache``, or on such a macOS.

    Raises:
        ValueError: The folder cannot be made or written to.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    if folder is None:
        if config.jax_compilation_cache_dir:
            return pathlib.Path(config.jax_compilation_cache_dir)
        if os.environ.get(VARIABLE) == "off" or cached_programs_may_crash():
            return None
    programs = _made(pathlib.Path(folder or _default_folder()) / _name_of_machine())
    if config.jax_compilation_cache_max_size == -1:  # Else JAX bounds it.
        _tidy(programs.parent, max_bytes)
    config.update("jax_compilation_cache_dir", str(programs))
    if config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's default
        config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    cache_of_jax.reset_cache()  # Else JAX stays with the folder of its first compilation.
    return programs


def _default_folder() -> pathlib.Path:
    if given := os.environ.get(VARIABLE):
        return pathlib.Path(given)
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path does not count, by the specification of the variable.
    return (caches if caches.is_absolute() else pathlib.Path("~/.cache")) / "vaecausal_jax"


def _name_of_machine() -> str:
    """Names the folder of the programs that this process may load.

    Python's version is part of it, because JAX compresses differently from 3.14 on and does not
    tell the two apart.
    """
    versions = versions_of_programs()
    # Processes of one program must all find a program, or none of them.
    host = "" if jax.distributed.is_initialized() else socket.gethostname()
    parts = *versions, sys.version_info[:2], host, platform.machine(), _processor()
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"jax-{versions[0]}-{digest[:16]}"


IDENTITY = {
    *("vendor_id", "cpu family", "model", "stepping", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),  # ARM
}
"""What Linux tells of a processor that decides which instructions a program may use."""


def _processor(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> list[str]:
    """The processors of this machine, each kind once. Without Linux, the host has to tell."""
    if not cpuinfo.exists():
        return []
    lines = cpuinfo.read_text().splitlines()
    return sorted({line for line in lines if line.partition(":")[0].strip() in IDENTITY})


def _made(folder: pathlib.Path) -> pathlib.Path:
    """The folder, absolute, which can be written to."""
    try:
        folder = folder.expanduser().absolute()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home is known.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"compiled programs cannot be kept in {folder.parent} ({reason}): give another folder, "
            f"or set the environment variable {VARIABLE} to one or to off."
        ) from error
    return folder


def _tidy(folder: pathlib.Path, max_bytes: int) -> None:
    """Removes empty files, and of all machines' programs those used longest ago.

    A full disk leaves files empty, which JAX would neither load nor write again. File systems tell
    to the day when a file was last read, or not at all; then the time of writing counts.
    """
    found = []
    for path in folder.glob(f"jax-*-{'[0-9a-f]' * 16}/*-cache"):
        with contextlib.suppress(OSError):  # Another process removes it.
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if size == 0 or total > max_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
