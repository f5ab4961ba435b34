"""Locks: one process at a time writes to a folder, or builds a file."""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import BinaryIO

from vaecausal_jax.manifests import remove_leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

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
            # Removed while locked: whoever waits for it finds that it is gone, and asks again.
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
