"""Large files of images on the host: found, checked, mapped in place or decoded to a flat file.

Nothing here reads a whole file into memory. A published file whose images lie in it uncompressed is
mapped where it is; from a compressed one they are decoded block by block into a flat ``.npy`` file
that is mapped instead. Such a file is written under its name only when it is complete; building
goes on where it was interrupted, and a note beside it (``NAME.json``) says what it holds. While one
process builds a file, others that ask for it wait.
"""

import hashlib
import json
import math
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from vaecausal_jax.json_values import difference, json_values, read_object
from vaecausal_jax.locks import file_lock
from vaecausal_jax.manifests import partial_name, remove_leftovers, write_text

FillBlock = Callable[[int, int], np.ndarray]
"""Rows ``start`` to ``stop`` of a flat file, uint8."""

CACHE_VARIABLE = "VAECAUSAL_CACHE"
"""Environment variable with a folder for decoded images where no ``cache`` is given."""

_BLOCK_BYTES = 64 * 2**20


def find_file(
    path: str | os.PathLike[str] | None, *, variable: str, names: tuple[str, ...], source: str
) -> pathlib.Path:
    """Returns the file at ``path``, or one of ``names`` in it where it is a folder.

    Args:
        path: A file or folder; by default the value of the environment variable.
        variable: The environment variable.
        names: The file's published names, in order of preference.
        source: What is expected and where it is published, for messages.

    Raises:
        FileNotFoundError: No such file, or neither path nor variable given.
    """
    path = given_path(path, variable=variable, source=source)
    candidates = [path / name for name in names] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no file {candidates[0]}: expected {source}.")


def given_path(path: str | os.PathLike[str] | None, *, variable: str, source: str) -> pathlib.Path:
    """Returns ``path``, or the value of the environment variable in its place."""
    path = path or os.environ.get(variable)
    if not path:
        raise FileNotFoundError(f"no path given and {variable} is not set: expected {source}.")
    return pathlib.Path(path)


def check_md5(file: pathlib.Path, md5: str, *, source: str) -> None:
    """Raises a ValueError unless the file's MD5 is the published one."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()
    if found != md5:
        raise ValueError(
            f"{file} has MD5 {found}, expected {md5} of {source}. It is damaged or another file; "
            "verify=False uses it all the same."
        )


def mapped_member(
    file: pathlib.Path, member: str, *, shape: tuple[int, ...], source: str
) -> np.ndarray | None:
    """Maps an array that lies uncompressed in an ``.npz`` file; None where it is compressed.

    Raises:
        ValueError: The array is not uint8 of ``shape`` in C order, or the file ends before it does.
    """
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(member)
        with archive.open(info) as content:
            check_header(file, content, name=member, shape=shape, source=source)
            header = content.tell()
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    if info.file_size != header + math.prod(shape):
        raise ValueError(f"{file} is truncated within {member}: expected {source}.")
    with file.open("rb") as content:
        # The local header repeats the name; its extra field may be longer than the directory's.
        content.seek(info.header_offset + 26)
        lengths = content.read(4)
    start = (
        info.header_offset + 30 + sum(int.from_bytes(lengths[k : k + 2], "little") for k in (0, 2))
    )
    return np.memmap(file, np.uint8, "r", offset=start + header, shape=shape)


def check_header(
    file: pathlib.Path, content: Any, *, name: str, shape: tuple[int, ...], source: str
) -> None:
    """Reads the header of an array in NumPy's format.

    Raises:
        ValueError: Not NumPy's format, or not uint8 of ``shape`` in C order.
    """
    try:
        version = np.lib.format.read_magic(content)
    except ValueError as error:
        raise ValueError(f"{file}: {name} is not a NumPy array: expected {source}.") from error
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"{file}: {name} has the unknown NumPy format version {version}.")
    found, fortran_order, dtype = headers[version](content)
    if found != shape or fortran_order or dtype != np.uint8:
        raise ValueError(
            f"{file}: expected {name} of shape {shape} and type uint8 in C order, got {found} and "
            f"{dtype}{' in Fortran order' if fortran_order else ''}: expected {source}."
        )


def read_exactly(content: Any, num: int) -> bytes:
    """Reads ``num`` bytes; EOFError where there are fewer."""
    data = content.read(num)
    if len(data) < num:
        raise EOFError(f"the data end {num - len(data)} bytes early.")
    return data


def flat_file(
    path: str | os.PathLike[str] | None,
    fill: FillBlock,
    *,
    shape: tuple[int, ...],
    holds: Mapping[str, Any],
    name: str = "images.npy",
    block: int | None = None,
    verify: bool = False,
) -> np.ndarray:
    """Maps the flat ``.npy`` file at ``path``, building it first where it does not exist yet.

    A process that is stopped while it builds leaves ``NAME.partial``, and the next one goes on from
    there. If another process or thread is building the file, wait until it is done. Where the
    platform or the file system has no locks (``locks.file_lock``), each builds the whole file.

    Args:
        path: The file. None is ``name`` in the folder of the environment variable VAECAUSAL_CACHE
            or, where that is not set, an unnamed temporary file, which ends with the process and
            lies in ``tempfile.gettempdir()``.
        fill: Gives the rows; the same each time it is asked.
        shape: (rows, ...), uint8.
        holds: What the file holds, JSON values; another file's rows are refused by it.
        name: The file's name in the cache folder.
        block: Rows per block; by default 64 MB.
        verify: Whether to check the rows' CRC-32 against the one noted when they were written.

    Raises:
        ValueError: The file exists and holds something else, or is damaged.
    """
    block = block or max(1, _BLOCK_BYTES // math.prod(shape[1:]))
    if path is None and os.environ.get(CACHE_VARIABLE):
        path = pathlib.Path(os.environ[CACHE_VARIABLE]) / name
    if path is None:
        with tempfile.TemporaryFile() as temporary:
            _write(temporary, fill, shape=shape, start=0, block=block)
            return np.memmap(temporary, np.uint8, "r", shape=shape)  # keeps the file mapped
    path = pathlib.Path(path)
    note = path.with_name(path.name + ".json")
    expected = {"holds": json_values(holds, "holds"), "shape": json_values(shape, "shape")}
    if path.exists():
        return _open_flat(path, note, expected, verify=verify)
    with file_lock(path.with_name(f".{path.name}.lock"), wait=True) as locked:
        if path.exists():  # Another process has built it meanwhile.
            return _open_flat(path, note, expected, verify=verify)
        _build(path, note, expected, fill, block=block, alone=locked)
    return _open_flat(path, note, expected, verify=False)


def _build(
    path: pathlib.Path,
    note: pathlib.Path,
    expected: Mapping[str, Any],
    fill: FillBlock,
    *,
    block: int,
    alone: bool,
) -> None:
    """Writes a flat file and its note, both whole before the file has its name.

    If nobody else can be writing it, go on where that was interrupted.
    """
    remove_leftovers(path.parent)
    shape = tuple(expected["shape"])
    row_bytes = math.prod(shape[1:])
    partial = path.with_name(path.name + ".partial") if alone else partial_name(path)
    if partial.exists() and note.exists():
        _check_note(note, expected)
    else:
        partial.unlink(missing_ok=True)
        write_text(note, json.dumps(expected, indent=1))
    header = _header(shape)
    try:
        with partial.open("r+b" if partial.exists() else "w+b") as file:
            size = file.seek(0, os.SEEK_END)
            # The last whole block may not have reached the disk before the machine stopped.
            start = max(0, (size - len(header)) // row_bytes // block - 1) * block
            file.seek(0)
            file.write(header)
            file.seek(len(header) + start * row_bytes)
            _write(file, fill, shape=shape, start=start, block=block)
            file.truncate(len(header) + shape[0] * row_bytes)
            file.seek(len(header))
            write_text(note, json.dumps({**expected, "crc32": _crc32(file)}, indent=1))
        partial.replace(path)
    finally:
        if not alone:
            partial.unlink(missing_ok=True)


def _write(
    file: BinaryIO, fill: FillBlock, *, shape: tuple[int, ...], start: int, block: int
) -> None:
    for first in range(start, shape[0], block):
        last = min(first + block, shape[0])
        rows = np.ascontiguousarray(fill(first, last))
        if rows.shape != (last - first, *shape[1:]) or rows.dtype != np.uint8:
            raise ValueError(
                f"rows {first} to {last} came as {rows.dtype} {rows.shape}, expected uint8 "
                f"{(last - first, *shape[1:])}."
            )
        file.write(rows.data)
        file.flush()
        os.fsync(file.fileno())


def _header(shape: tuple[int, ...]) -> bytes:
    """The start of a ``.npy`` file; its length is a multiple of 64, so that JAX adopts the rows."""
    parts = []

    class Sink:
        write = parts.append

    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(Sink(), fields)  # pyright: ignore[reportArgumentType]
    return b"".join(parts)


def _open_flat(
    path: pathlib.Path, note: pathlib.Path, expected: Mapping[str, Any], *, verify: bool
) -> np.ndarray:
    if not note.exists():
        raise ValueError(f"{path} lacks its note {note.name}: it was not written by this library.")
    saved = _check_note(note, expected)
    shape = tuple(expected["shape"])
    header = _header(shape)
    size, whole = path.stat().st_size, len(header) + math.prod(shape)
    if size != whole:
        raise ValueError(f"{path} has {size} bytes, expected {whole}: delete it to build it again.")
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path} is damaged (its header): delete it to build it again.")
        if verify and _crc32(file) != saved.get("crc32"):
            raise ValueError(f"{path} is damaged (CRC-32): delete it to build it again.")
    return np.memmap(path, np.uint8, "r", offset=len(header), shape=shape)


def _check_note(note: pathlib.Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    named = note.with_suffix("")
    saved = read_object(note, f"Delete it, {named} and {named}.partial, to build them again.")
    found = {key: saved.get(key) for key in expected}
    if differs := difference(found, dict(expected)):
        raise ValueError(f"{named} holds something else ({differs}): choose another file.")
    return saved


def _crc32(file: BinaryIO) -> int:
    crc = 0
    while data := file.read(_BLOCK_BYTES):
        crc = zlib.crc32(data, crc)
    return crc
