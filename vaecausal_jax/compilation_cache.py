"""Compiled programs kept on disk, so that the next process finds them: JAX's cache, made safe to use.

JAX finds a program again by its content, the options and the version of its compiler. It does not
ask which processor it was compiled for, keeps only what took a second to compile, and lets its
folder grow without end. Here each kind of machine and each set of versions has a folder, every
program is kept, and what was used longest ago is removed.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as cache_of_jax

from vaecausal_jax.jax_versions import (
    cached_programs_may_crash,
    is_whole_program,
    versions_of_programs,
)

VARIABLE = "VAECAUSAL_COMPILATION_CACHE"
"""Environment variable: a folder in place of the default one, or ``off``."""

MAX_BYTES = 2**30

SETTLED = 60.0
"""Seconds after which a file that is not whole is not being written any more."""

_LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def use_compilation_cache(
    folder: str | os.PathLike | None = None, *, max_bytes: int = MAX_BYTES
) -> pathlib.Path | None:
    """Keeps every program that this process compiles, and loads those that an earlier one kept.

    Programs lie in a folder within ``folder`` that is named by a digest of the versions of JAX and
    jaxlib, the host, its processor and XLA's flags, so that none is ever loaded elsewhere. Several
    processes may use it at once. Processes of one program (``jax.distributed``) share a folder on
    all hosts, of which the first alone writes: initialise them before this call.

    What the user has told JAX stands: without ``folder``, a ``jax_compilation_cache_dir`` that is
    set is used as it is, and so are JAX's other settings. On macOS before jaxlib 0.10, where to
    load a program can end the process, nothing is kept unless ``folder`` is given.

    Args:
        folder: Where to keep programs. If not given, the environment variable
            ``VAECAUSAL_COMPILATION_CACHE``, else ``vaecausal_jax`` in the user's folder of caches
            (``XDG_CACHE_HOME``, or ``~/.cache``). Whoever can write to it can have this process run
            their programs: it is made for its owner alone.
        max_bytes: What all programs in ``folder`` may take. It is enforced by this call, for all
            kinds of machines together: those used longest ago are removed. A process may go beyond
            it by what it compiles.

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
    _remove_damaged(programs)
    if config.jax_compilation_cache_max_size == -1:  # Else JAX removes them.
        _remove_oldest(programs.parent, max_bytes)
    config.update("jax_compilation_cache_dir", str(programs))
    if _LEAST_SECONDS.upper() not in os.environ and getattr(config, _LEAST_SECONDS) == 1.0:
        config.update(_LEAST_SECONDS, 0.0)  # Nobody has changed JAX's default.
    cache_of_jax.reset_cache()  # It may have settled on another folder, or on none.
    return programs


def _default_folder() -> pathlib.Path:
    if given := os.environ.get(VARIABLE):
        return pathlib.Path(given)
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():  # Then it does not count, by its specification.
        caches = pathlib.Path("~/.cache").expanduser()
    return caches / "vaecausal_jax"


def _name_of_machine() -> str:
    """Names the folder of programs that this process may load.

    Python's version is part of it, because JAX compresses by other means from 3.14 on.
    """
    versions = versions_of_programs()
    # Processes of one program must all find a program, or none of them.
    host = "" if jax.distributed.is_initialized() else socket.gethostname()
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    flags = [sorted(text.split()) for text in flags]
    parts = *versions, sys.version_info[:2], platform.system(), host, _processor(), flags
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"jax-{versions[0]}-{digest[:16]}"


def _processor(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> list[str]:
    """What decides the instructions that a program may use: models of processors, and their flags.

    How Linux calls them depends on the architecture; what else it tells changes while it runs.
    """
    names = "vendor_id cpu_family model model_name stepping flags Features CPU_implementer"
    names = [*names.split(), "CPU_architecture", "CPU_variant", "CPU_part", "CPU_revision", "isa"]
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    kept = {line for line in lines if line.partition(":")[0].strip().replace(" ", "_") in names}
    return [platform.machine(), platform.processor(), *sorted(kept)]


def _made(folder: pathlib.Path) -> pathlib.Path:
    """The folder, absolute, which can be written to."""
    try:
        folder = folder.expanduser().absolute()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: whose home is not known.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"compiled programs cannot be kept in {folder.parent} ({reason}): choose a folder with "
            f"the environment variable {VARIABLE}, or turn this off with {VARIABLE}=off."
        ) from error
    return folder


def _remove_damaged(folder: pathlib.Path) -> None:
    """Removes what killed processes and full disks left cut short since the last call.

    JAX writes a program under its name from the start. One that is not whole it would compile
    afresh every time, with a warning, and not replace.
    """
    checked, now = folder / ".checked", time.time()
    since = checked.stat().st_mtime if checked.exists() else 0.0
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # Another process removes it.
            is_new = since <= path.stat().st_mtime < now - SETTLED
            if is_new and not is_whole_program(path.read_bytes()):
                path.unlink()
    checked.touch()
    os.utime(checked, (now - SETTLED, now - SETTLED))


def _remove_oldest(folder: pathlib.Path, max_bytes: int) -> None:
    """Keeps of all machines' programs those used last, up to a number of bytes.

    A file system tells when a file was last read to the day, or not at all; then the day that it
    was written counts.
    """
    total = 0
    for _, size, path in sorted(_files(folder), reverse=True):
        total += size
        if total > max_bytes:
            with contextlib.suppress(OSError):  # Another process removes it, or Windows reads it.
                os.unlink(path)


def _files(folder: pathlib.Path) -> Iterator[tuple[float, int, str]]:
    """(when last used, bytes, path) of every file in folders that are named as here."""
    for machine in folder.glob("jax-*-*"):
        for inner, _, names in os.walk(machine):
            for name in names:
                path = os.path.join(inner, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    yield max(status.st_atime, status.st_mtime), status.st_size, path
