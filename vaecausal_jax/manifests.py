"""How results lie on disk: their names, what is written beside them, and who may write.

A file is written whole or not at all, under a name that any text can be turned into. JSON beside
the results says what they are and is compared when they are continued. One process at a time
writes to a folder.
"""

import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Names.

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


# Files.


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a file to write, which gets its name only once all of it is on disk.

    Until then it has a name of its own beside it, so that several processes may write at once: the
    last one to finish wins. A write that fails leaves nothing.
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


# Values.


def json_values(value: Any, name: str) -> Any:
    """A value as what JSON reads back: paths as text, arrays, tuples and sets as lists.

    The elements of a set are sorted. Numbers that are not finite stay as they are.

    Args:
        value: What to write.
        name: What the value is called in messages.

    Raises:
        ValueError: An entry that JSON cannot hold, by name; two keys that are one in JSON.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return json.loads(json.dumps(value))
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in value.items():
            text = _json_key(key, name)
            if text in found:
                raise ValueError(f"two keys of {name} are {text!r} in JSON.")
            found[text] = json_values(item, f"{name}.{text}")
        return found
    if isinstance(value, list | tuple):
        return [json_values(item, f"{name}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        items = [json_values(item, f"{name}[{item!r}]") for item in value]
        return sorted(items, key=json.dumps)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        return json_values(value.tolist(), name)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        with contextlib.suppress(TypeError, ValueError):
            dtype = plain_dtype(value.dtype)
            if dtype.kind != "c":
                return np.asarray(value).astype(dtype).tolist()
    raise ValueError(
        f"{name} is {value!r} of type {type(value).__name__}, which JSON cannot hold: give text, a "
        "number, or a list or mapping of such values."
    )


def _json_key(key: Any, name: str) -> str:
    if isinstance(key, os.PathLike):
        return os.fsdecode(key)
    if isinstance(key, np.bool | np.integer | np.floating):
        key = key.item()
    if key is None or isinstance(key, bool | int | float | str):
        return next(iter(json.loads(json.dumps({key: None}))))
    raise ValueError(
        f"{name} has the key {key!r} of type {type(key).__name__}, expected text or a number."
    )


def read_object(path: pathlib.Path, advice: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        advice: What to do if it is damaged, a sentence.

    Raises:
        ValueError: The file is damaged, by name and with the advice.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). {advice}") from error
    return value


def difference(saved: Any, given: Any, path: str = "") -> str:
    """The leaves in which two JSON values differ, in words; empty if they are equal."""
    if isinstance(saved, dict) and isinstance(given, dict):
        parts = [
            difference(saved.get(key), given.get(key), f"{path}.{key}" if path else str(key))
            for key in sorted(saved.keys() | given.keys())
        ]
        return "; ".join(part for part in parts if part)
    # NaN equals itself in text alone.
    same = saved == given or json.dumps(saved) == json.dumps(given)
    return "" if same else f"{path}: saved {saved!r}, given {given!r}"


def tree_digest(tree: Any) -> str:
    """SHA-256 over the paths, types, shapes and bytes of all leaves of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def plain_dtype(dtype: Any) -> np.dtype:
    """The type of NumPy's own that holds every value of a type of numbers.

    It is the type itself where it is NumPy's; float32 for bfloat16 and 8-bit floats, int8 and uint8
    for integers of less than 8 bits.

    Raises:
        ValueError: A type that is not of numbers or booleans, such as that of PRNG keys.
    """
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError("are PRNG keys, whose words jax.random.key_data gives")
    dtype = np.dtype(dtype)
    if dtype.kind in "biufc" and dtype.type.__module__ == "numpy":
        return dtype
    for kind, plain in (
        (jnp.floating, np.float32),
        (jnp.signedinteger, np.int8),
        (jnp.unsignedinteger, np.uint8),
    ):
        if jnp.issubdtype(dtype, kind):
            return np.dtype(plain)
    raise ValueError(f"are of type {dtype}, expected numbers or booleans")


# Locks.

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_guard = threading.Lock()
_runs: dict[tuple[int, str], tuple[contextlib.ExitStack, int]] = {}


@contextlib.contextmanager
def run_lock(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from writing to a folder while the block runs.

    The kernel holds the lock, so the lock of a killed process is free at once. It is a file
    ``.lock`` in the folder, which says who holds it and is removed at the end; so is the folder if
    it was absent and is empty. Calls for one folder may nest in a process, whose threads share the
    lock.

    It holds between the processes of a machine, and between machines where the file system passes
    ``flock`` on, as NFS does on Linux. Where the platform (Windows) or the file system has no such
    locks, nothing is locked: every file is whole all the same, but two writers repeat each other's
    work. Nor is a folder of a file system that is read-only, where what is finished can be opened.

    Args:
        folder: The folder; made if absent.

    Raises:
        ValueError: Another process writes to the folder; the message says which and since when.
    """
    folder = pathlib.Path(folder)
    key = (os.getpid(), os.path.realpath(folder))  # A forked process holds nothing.
    with _guard:
        held, depth = _runs.get(key) or (_enter(folder), 0)
        _runs[key] = held, depth + 1
    try:
        yield
    finally:
        with _guard:
            held, depth = _runs.pop(key)
            if depth > 1:
                _runs[key] = held, depth - 1
            else:
                held.close()


def _enter(folder: pathlib.Path) -> contextlib.ExitStack:
    with contextlib.ExitStack() as stack:
        if not folder.exists():
            stack.callback(_remove_empty, folder)
        # Absolute, as the working directory may change before it is removed.
        stack.enter_context(file_lock(folder.absolute() / ".lock", wait=False))
        remove_leftovers(folder)
        return stack.pop_all()


def _remove_empty(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def file_lock(path: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Holds the lock of a file, which is made and in the end removed.

    Args:
        path: The file; its folder is made if absent.
        wait: Whether to wait while another process or thread holds it.

    Yields:
        Whether it is locked: False where the platform or the file system has no locks.

    Raises:
        ValueError: Another one holds it, and ``wait`` is False.
    """
    file = _locked(path, wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            # Removed while it is locked: whoever waits for it finds that it is gone, and asks anew.
            path.unlink(missing_ok=True)
            file.close()


def _locked(path: pathlib.Path, wait: bool) -> BinaryIO | None:
    while fcntl is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b", buffering=0)
        except FileNotFoundError:  # The last holder has just removed the folder.
            continue
        except OSError as error:
            # Nobody writes to a folder that is there to be read only.
            if error.errno == errno.EROFS and path.parent.is_dir():
                return None
            raise
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                _sign(file)
                return file
        except BlockingIOError as error:
            message = f"{path.parent} is being written by {_holder(file)}; wait for it, or choose "
            file.close()
            raise ValueError(message + "another folder.") from error
        except FileNotFoundError:  # Who held it before has removed it.
            pass
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            return None
        file.close()
    return None


def _sign(file: BinaryIO) -> None:
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):  # A full disk: what follows will say so.
        file.truncate(0)
        file.write(json.dumps(holder).encode())


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on host {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # It has not written its name yet.
        return "another process"


def versions() -> dict[str, str]:
    """Versions of what computes the numbers, to record beside them."""
    names = ("vaecausal_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
