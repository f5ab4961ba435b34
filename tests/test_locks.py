"""One process at a time writes to a folder, and a killed one leaves it free."""

import contextlib
import errno
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from vaecausal_jax import locks
from vaecausal_jax.locks import file_lock, run_lock
from vaecausal_jax.manifests import write_text

HOLD = f"""
import runpy, sys, time
names = runpy.run_path({locks.__file__!r})
with names["run_lock"](sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(folder):
    """Another process that holds the lock of a folder."""
    arguments = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_folder_is_written_by_one_process_and_taken_over_when_it_is_killed(tmp_path):
    folder = tmp_path / "runs" / "x"
    with holder(folder) as process:
        message = (
            rf"{folder} is being written by process {process.pid} on host \S+ since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*; wait for it, or choose another folder"
        )
        for _ in range(2):
            with pytest.raises(ValueError, match=message), run_lock(folder):
                pass
        with run_lock(tmp_path / "runs" / "y"):
            pass
        process.kill()
        process.wait()
    assert (folder / ".lock").exists()
    with run_lock(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_locks_of_a_folder_nest_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for error in (KeyError, None):
        with contextlib.suppress(KeyError), run_lock("a/b"):
            with run_lock(tmp_path / "a" / "b"), run_lock(pathlib.Path("a/../a/b")):
                pass
            assert (tmp_path / "a/b/.lock").exists()
            if error:
                raise error
        assert not (tmp_path / "a/b").exists()
    with run_lock("a"):
        (tmp_path / "a" / "result").write_text("")
    assert os.listdir("a") == ["result"]


def test_waiting_threads_get_a_lock_one_after_the_other(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with file_lock(tmp_path / ".lock", wait=True) as locked:
                inside.append(locked)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert list(tmp_path.iterdir()) == []


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(locks.fcntl, "flock", unsupported)
        with run_lock(tmp_path), run_lock(tmp_path), file_lock(tmp_path / "x", wait=True) as locked:
            assert not locked
    monkeypatch.setattr(locks, "fcntl", None)
    with run_lock(tmp_path / "new"), file_lock(tmp_path / "x", wait=False) as locked:
        assert not locked
        write_text(tmp_path / "new" / "a", "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "new"]


def test_what_is_finished_can_be_opened_where_nothing_can_be_written(tmp_path, monkeypatch):
    def read_only(path, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(pathlib.Path, "open", read_only)
    with run_lock(tmp_path), file_lock(tmp_path / ".other", wait=False) as locked:
        assert not locked


def test_a_folder_that_cannot_be_written_is_told_as_it_is(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), run_lock(tmp_path / "file"):
        pass
    with run_lock(tmp_path):
        pass
