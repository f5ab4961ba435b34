"""How results lie on disk: the names of files, files that are whole or absent, and versions.

A file is written whole or not at all, under a name that any text can be turned into. What is
written beside results, and who may write, are in ``json_values`` and ``locks``.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO

UNSAFE = r'\A[. ]|[. ]\Z|[\x00-\x1f\x7f-\x9f%\\/:*?"<>|\ud800-\udfff]'
"""What some file system or Zarr does not take as it is in the name of a file."""

LONGEST_NAME = 200
"""Bytes of a file's name; file systems take 255, and the name of a partial file is longer."""

_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"}
_DEVICES |= {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"}


def escaped(text: str, unsafe: str = UNSAFE) -> str:
    """The name of a file for any text: an ordinary text is its own name.

    Unsafe characters are percent-encoded, as ``%2E`` for a dot. So are all characters outside ASCII
    in a name that is not in Unicode's normal form C, and the first character of a name that Windows
    or Zarr reserves. The empty text is ``%``. Two texts never have the same name, though two names
    may differ in case alone.

    Args:
        text: Any text.
        unsafe: Regular expression that finds what to encode; it must find ``%``.

    Raises:
        ValueError: The name would be longer than file systems take.
    """
    name = re.sub(unsafe, _percent, text) or "%"
    if not unicodedata.is_normalized("NFC", name):
        name = re.sub(r"[^\x00-\x7f]", _percent, name)
    if name.partition(".")[0].rstrip().lower() in _DEVICES or name.lower() == "zarr.json":
        name = re.sub(r"\A.", _percent, name)
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"the name {text!r} takes {len(name.encode())} bytes in a file system, expected at "
            f"most {LONGEST_NAME}."
        )
    return name


def unescaped(name: str) -> str:
    """The text whose name ``escaped`` gave."""
    if name == "%":
        return ""
    return re.sub(
        "(%[0-9A-F]{2})+",
        lambda run: bytes.fromhex(run[0].replace("%", "")).decode("utf-8", "surrogatepass"),
        name,
    )


def group_of(name: str) -> str:
    """The Zarr group in which ``run_stored`` keeps the part of a name, such as a site's.

    It is the name itself for an ordinary one, such as ``decoder/conv0``. A slash separates groups;
    each piece between slashes is ``escaped``, so no name leads out of the store.
    """
    return "/".join(escaped(piece) for piece in name.split("/"))


def name_of(group: str) -> str:
    """The name of the part that lies in a group: the inverse of ``group_of``."""
    return "/".join(unescaped(piece) for piece in group.split("/"))


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a file to write, which gets its name only once all of it is on disk.

    Until then it has another name in the same folder, which no other writer uses, so that several
    processes may write at once: the last one to finish wins. A write that fails leaves nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, in UTF-8, under its name only once all of it is on disk."""
    with written_whole(path) as file:
        file.write(text.encode())


def partial_name(path: pathlib.Path) -> pathlib.Path:
    """A name beside ``path`` that no other writer has, for what is not finished."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


def remove_leftovers(folder: pathlib.Path, pattern: str = "*", *, seconds: float = 3600.0) -> None:
    """Removes partial files that killed processes have left in a folder.

    Args:
        folder: The folder; ``pattern="**/*"`` searches the folders in it too.
        pattern: Glob of where to search.
        seconds: How long ago a file was last written to count as left behind; another process may
            be writing the others.
    """
    for path in list(folder.glob(pattern)):
        if not re.fullmatch(r"\..*\.[0-9a-f]{16}\.partial", path.name, re.DOTALL):
            continue
        with contextlib.suppress(OSError):  # Another process removes it too.
            if time.time() - path.stat().st_mtime < seconds:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def versions() -> dict[str, str]:
    """Versions of what computes the numbers, to record beside them."""
    names = ("vaecausal_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
