"""Names, whole files, JSON and locks: what everything on disk relies on."""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import unicodedata

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import manifests, models
from vaecausal_jax.manifests import (
    difference,
    escaped,
    file_lock,
    group_of,
    json_values,
    name_of,
    plain_dtype,
    read_object,
    remove_leftovers,
    run_lock,
    unescaped,
    write_text,
    written_whole,
)
from vaecausal_jax.study import store
from vaecausal_jax.sweeps.stored import variable_of

# Names.

CHARACTERS = st.one_of(
    st.sampled_from("aAzZ09._-/%\\: \t\n\0äÄßée\u0301\u0130ıK\u212a\ud800\udc00🙂"), st.characters()
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=12),
    st.lists(st.sampled_from(["", ".", "..", "/", "%", "%2E", "con", "NUL.x", "zarr.json", "h"]))
    .map("".join),
)  # fmt: skip
few = hypothesis.settings(max_examples=100, deadline=None)


@few
@hypothesis.given(TEXTS)
def test_every_name_comes_back_from_its_group_and_its_file(name):
    assert name_of(group_of(name)) == name
    assert unescaped(variable_of(name)) == name
    assert unescaped(escaped(name, store._UNSAFE_IN_PART)) == name


@few
@hypothesis.given(TEXTS)
def test_no_name_leads_out_of_its_folder_or_to_what_is_reserved(name):
    for piece in [*group_of(name).split("/"), variable_of(name)]:
        assert piece not in ("", ".", "..")
        assert not set(piece) & set('/\\\0:*?"<>|')
        assert piece[0] not in ". "
        assert piece[-1] not in ". "
        assert unicodedata.is_normalized("NFC", piece)
        assert piece.encode()
        assert pathlib.PureWindowsPath(piece).name == piece
    assert not variable_of(name).split()[1:]


@few
@hypothesis.given(TEXTS, TEXTS)
def test_names_of_parts_differ_in_more_than_case(first, second):
    files = [store._part_file(name) for name in (first, second)]
    assert (files[0].casefold() == files[1].casefold()) == (first == second)


@few
@hypothesis.given(st.lists(st.text("abcXYZ019_-", min_size=1), min_size=1).map("/".join))
def test_ordinary_names_are_left_as_they_are(name):
    assert group_of(name) == name


def test_sites_of_models_are_ordinary():
    for model in (models.mlp_vae(), models.conv_vae()):
        assert [group_of(name) for name in model.sites] == list(model.sites)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("", "%"),
        ("/abs/h", "%/abs/h"),
        ("../../up", "%2E%2E/%2E%2E/up"),
        ("a/../b", "a/%2E%2E/b"),
        ("a//b/", "a/%/b/%"),
        (".zgroup", "%2Ezgroup"),
        ("zarr.json", "%7Aarr.json"),
        ("100%", "100%25"),
        ("c:\\d", "c%3A%5Cd"),
        ("größe/layer 1", "größe/layer 1"),
        ("e\u0301", "e%CC%81"),
        ("nul/aux.x/auxiliary", "%6Eul/%61ux.x/auxiliary"),
        ("v1.2/h[0]", "v1.2/h[0]"),
    ],
)
def test_names_by_hand(name, group):
    assert group_of(name) == group


def test_a_name_too_long_for_a_file_is_refused():
    assert group_of("x" * 200)
    with pytest.raises(ValueError, match="takes 201 bytes in a file system, expected at most 200"):
        group_of("x" * 201)


# Files.


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()

    def write_half(error):
        with written_whole(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(KeyboardInterrupt):
        write_half(KeyboardInterrupt())
    with pytest.raises(OSError, match=f"No space left on device: '{path}'") as caught:
        write_half(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == "größe\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with written_whole(path) as one, written_whole(path) as two:
        one.write(b"one")
        two.write(b"two")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_old_leftovers_go_and_files_of_others_stay(tmp_path):
    names = [".a.0123456789abcdef.partial", ".b.0123456789abcdef.partial", "mine.partial", "x"]
    for name in names:
        (tmp_path / name).write_text("half")
    (tmp_path / ".c.0123456789abcdef.partial" / "deep").mkdir(parents=True)
    for name in (names[0], ".c.0123456789abcdef.partial", "mine.partial"):
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


# JSON.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pathlib.PurePosixPath("a/b"), "a/b"),
        ((1, (2.5, None)), [1, [2.5, None]]),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({2, 10}), [10, 2]),
        ({"x": np.float32(0.5), 3: np.int64(2), np.int32(4): True}, {"x": 0.5, "3": 2, "4": True}),
        (np.arange(2), [0, 1]),
        (np.array(["a", "ü"]), ["a", "ü"]),
        (np.array(["a", 1, None], object), ["a", 1, None]),
        (np.str_("s"), "s"),
        (np.bool_(True), True),
        (jnp.ones((1, 2), jnp.bfloat16), [[1.0, 1.0]]),
        (jnp.bfloat16(0.5), 0.5),
        ({}, {}),
    ],
    ids=map(str, itertools.count()),
)
def test_values_become_what_json_reads_back(value, expected):
    found = json_values(value, "spec")
    assert found == expected
    assert json.loads(json.dumps(found)) == found
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [1, object()]}}, r"spec.a.b\[1\] is <object .* of type object, which JSON"),
        ({"a": b"bytes"}, "spec.a is b'bytes' of type bytes"),
        ({"a": 1j}, "spec.a is 1j of type complex"),
        ({"a": np.complex64(1j)}, "spec.a is .* of type complex64"),
        ({"a": jnp.ones(1, complex)}, "spec.a is Array.* of type ArrayImpl"),
        ({"a": np.datetime64("2024-01-01")}, "spec.a is .* of type datetime64"),
        ({"a": {1j}}, r"spec.a\[1j\] is 1j"),
        ({"a": len}, "spec.a is <built-in function len>"),
        ({"a": jax.random.key(0)}, "spec.a is Array.*key"),
        ({(1, 2): 0}, r"spec has the key \(1, 2\) of type tuple, expected text or a number"),
        ({"1": 0, 1: 0}, "two keys of spec are '1' in JSON"),
    ],
    ids=map(str, itertools.count()),
)
def test_what_json_cannot_hold_is_refused_by_name(value, message):
    with pytest.raises(ValueError, match=message):
        json_values(value, "spec")


def test_nan_equals_itself_and_differences_are_named():
    assert difference({"x": float("nan"), "y": [float("nan")]}, {"x": np.nan, "y": [np.nan]}) == ""
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b: saved 1, given 2"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff{}", b"[" * 100_000])
def test_damaged_json_is_named_with_what_to_do(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/a.json is damaged .*. Delete it."):
        read_object(tmp_path / "a.json", "Delete it.")


def test_types_that_numpy_lacks_are_held_exactly():
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"):
        dtype = jnp.dtype(name)
        bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
        with np.errstate(invalid="ignore"):  # signalling NaN
            finite = bits[np.isfinite(bits.view(dtype).astype(float))]
        values = finite.view(dtype) if "float" in name else bits[:16].astype(dtype)
        again = values.astype(plain_dtype(dtype)).astype(dtype)
        np.testing.assert_array_equal(again.view(np.uint8), values.view(np.uint8))
    for name in ("bool", "uint16", "float16", "float64", "complex64", ">f4"):
        assert plain_dtype(name) == np.dtype(name)
    with pytest.raises(ValueError, match="are PRNG keys, whose words jax.random.key_data gives"):
        plain_dtype(jax.random.key(0).dtype)
    for name in (object, "U3", "M8[s]"):
        with pytest.raises(ValueError, match="are of type .*, expected numbers or booleans"):
            plain_dtype(name)


# Locks.

HOLD = f"""
import runpy, sys, time
names = runpy.run_path({manifests.__file__!r})
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
        patch.setattr(manifests.fcntl, "flock", unsupported)
        with run_lock(tmp_path), run_lock(tmp_path), file_lock(tmp_path / "x", wait=True) as locked:
            assert not locked
    monkeypatch.setattr(manifests, "fcntl", None)
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
