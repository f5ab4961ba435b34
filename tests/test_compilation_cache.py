"""Programs are found again by another process on the same machine, and by no other machine."""

import collections
import json
import os
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache_of_jax

from vaecausal_jax import compilation_cache, jax_versions
from vaecausal_jax.compilation_cache import VARIABLE, use_compilation_cache

EVENTS = collections.Counter()
"""While the cache is on, JAX records a request for every program that it needs, and a hit once it
has loaded one that was kept, so their difference is what was compiled. A program that cannot be
loaded is no hit. ``cache_misses`` counts only what was written; files do not tell what was loaded.
"""

jax.monitoring.register_event_listener(lambda event, **_: EVENTS.update([event.split("/")[-1]]))


def num_compiled_and_loaded(function):
    """How many programs a fresh function has compiled, and how many it has loaded."""
    jax.clear_caches()
    EVENTS.clear()
    function()
    hits = EVENTS["cache_hits"]
    return EVENTS["compile_requests_use_cache"] - hits, hits


def compute():
    return jax.jit(lambda x: jnp.tanh(x @ x.T).sum())(jnp.ones((3, 3)))


SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def settings_of_jax(monkeypatch):
    """JAX as it starts, for each test, and no variables."""
    for name in (VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    before = {name: jax.config.values[name] for name in SETTINGS}
    for name, value in zip(SETTINGS, (None, -1, True, 1.0), strict=True):
        jax.config.update(name, value)
    cache_of_jax.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    cache_of_jax.reset_cache()


PROGRAM = """
import collections, json, os, pathlib, sys, time
import jax, jax.numpy as jnp
import vaecausal_jax as vj
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.split("/")[-1]]))
folder, num_at_once = pathlib.Path(sys.argv[1]), int(sys.argv[2])
programs = vj.use_compilation_cache(folder / "programs")
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < num_at_once:
    time.sleep(0.005)
loss = jax.jit(lambda w, x: jnp.tanh(w @ x).sum())
w = jax.random.normal(jax.random.key(0), (8, 8))
for _ in range(3):
    w = w - 0.1 * jax.jit(jax.grad(loss))(w, w[0])
print(json.dumps([events["compile_requests_use_cache"], events["cache_hits"], w.tolist()]))
"""


def start(folder, *options, num_at_once=0):
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    return subprocess.Popen(
        [sys.executable, *options, "-c", PROGRAM, str(folder), str(num_at_once)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def answer(process):
    printed, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    return json.loads(printed)


def test_two_processes_write_at_once_and_the_next_one_compiles_nothing(tmp_path):
    at_once = [start(tmp_path, num_at_once=2) for _ in range(2)]
    (requests, hits, w), (_, _, again) = map(answer, at_once)
    assert hits < requests
    # A program that could not be loaded would be a warning.
    assert answer(start(tmp_path, "-W", "error")) == [requests, requests, w]
    assert again == w


def test_every_program_is_kept_however_fast_it_compiled(tmp_path):
    programs = use_compilation_cache(tmp_path / "cache")
    assert programs.parent == tmp_path / "cache"
    assert programs.stat().st_mode & 0o777 == 0o700
    compiled, loaded = num_compiled_and_loaded(compute)
    assert compiled > 0
    assert loaded == 0
    assert len(list(programs.glob("*-cache"))) == compiled
    assert num_compiled_and_loaded(compute) == (0, compiled)


def test_it_takes_effect_after_programs_were_compiled_for_another_folder(tmp_path):
    for name in ("one", "another", "one"):
        use_compilation_cache(tmp_path / name)
        compiled, loaded = num_compiled_and_loaded(compute)
    assert (compiled > 0, loaded > 0) == (False, True)


CHANGES = {
    "host": (socket, "gethostname", lambda: "another"),
    "processor": (compilation_cache, "_processor", lambda: ["flags : fpu"]),
    "versions": (compilation_cache, "versions_of_programs", lambda: ("0.99.0", "0.99.0")),
    "version of the compiler": (jax_versions.jaxlib.version, "__version__", "0.99.0"),
    "version of Python": (sys, "version_info", (3, 99, 0)),
    "architecture": (compilation_cache.platform, "machine", lambda: "another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_machine_or_version_has_another_folder(monkeypatch, tmp_path, change):
    here = use_compilation_cache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*CHANGES[change])
        name = compilation_cache._name_of_machine()
    assert name != here.name
    assert compilation_cache._name_of_machine() == here.name


def test_another_host_finds_nothing_and_this_one_still_does(monkeypatch, tmp_path):
    def used_and_counted():
        use_compilation_cache(tmp_path)
        return num_compiled_and_loaded(compute)

    compiled, _ = used_and_counted()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another")
        assert used_and_counted() == (compiled, 0)
    assert used_and_counted() == (0, compiled)


def test_processes_of_one_program_share_a_folder_on_all_hosts(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    here = compilation_cache._name_of_machine()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert compilation_cache._name_of_machine() == here


def test_other_flags_of_xla_find_nothing(monkeypatch, tmp_path):
    use_compilation_cache(tmp_path)
    compiled, _ = num_compiled_and_loaded(compute)
    # XLA has read its flags by now; JAX asks for them at every program.
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_enable_fast_math=true")
    assert num_compiled_and_loaded(compute) == (compiled, 0)


CPUINFO = """processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
cpu MHz\t\t: {megahertz}
flags\t\t: {flags}
"""


def test_a_processor_is_what_decides_on_instructions_and_not_what_changes(tmp_path):
    def told(*cores):
        path = tmp_path / "cpuinfo"
        path.write_text("\n".join(CPUINFO.format(number=n, **core) for n, core in enumerate(cores)))
        return compilation_cache._processor(path)

    slow = {"megahertz": 800.0, "flags": "fpu avx2"}
    fast = {"megahertz": 3100.0, "flags": "fpu avx2"}
    other = {"megahertz": 800.0, "flags": "fpu avx2 avx512f"}
    assert told(slow, fast) == told(fast) != told(other)
    assert told(slow, other) not in (told(slow), told(other))
    assert compilation_cache._processor(tmp_path / "none") == []


# What the user has told JAX


def test_a_folder_that_jax_was_told_is_used_as_it_is(tmp_path):
    told = tmp_path / "told"
    jax.config.update("jax_compilation_cache_dir", str(told))
    assert use_compilation_cache() == told
    assert not told.exists()
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 1.0
    assert use_compilation_cache(tmp_path / "given").parent == tmp_path / "given"


def test_a_cache_that_jax_was_told_to_leave_off_stays_off(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    assert use_compilation_cache(tmp_path / "given") is None
    assert not (tmp_path / "given").exists()
    assert num_compiled_and_loaded(compute) == (0, 0)


def test_a_threshold_that_jax_was_told_stays(tmp_path):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 60.0)
    programs = use_compilation_cache(tmp_path)
    compiled, _ = num_compiled_and_loaded(compute)
    assert num_compiled_and_loaded(compute) == (compiled, 0)
    assert not list(programs.iterdir())


def test_a_bound_that_jax_was_told_is_the_only_one(tmp_path):
    (kept,) = write_programs(use_compilation_cache(tmp_path), a=1)
    jax.config.update("jax_compilation_cache_max_size", 10**9)
    use_compilation_cache(tmp_path, max_bytes=0)
    assert kept.exists()


# Where


def test_the_default_folder_is_the_users_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert use_compilation_cache().parent == tmp_path / "home/.cache/vaecausal_jax"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert use_compilation_cache().parent == tmp_path / "caches/vaecausal_jax"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert use_compilation_cache().parent == tmp_path / "home/.cache/vaecausal_jax"


def test_the_variable_names_a_folder_or_turns_it_off_unless_a_folder_is_given(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    assert use_compilation_cache(tmp_path / "given").parent == tmp_path / "given"
    jax.config.update("jax_compilation_cache_dir", None)
    assert use_compilation_cache().parent == tmp_path / "named"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv(VARIABLE, "off")
    assert use_compilation_cache() is None
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert use_compilation_cache(tmp_path / "given").parent == tmp_path / "given"


@pytest.mark.parametrize(
    ("platform", "version", "expected"),
    [("darwin", "0.9.2", True), ("darwin", "0.10.0", False), ("linux", "0.9.2", False)],
)
def test_where_loading_can_crash_it_is_off_unless_a_folder_is_given(
    monkeypatch, tmp_path, platform, version, expected
):
    with monkeypatch.context() as patch:
        patch.setattr(jax_versions.jaxlib.version, "__version__", version)
        patch.setattr(sys, "platform", platform)
        may_crash = jax_versions.cached_programs_may_crash()
    assert may_crash == expected
    monkeypatch.setattr(compilation_cache, "cached_programs_may_crash", lambda: may_crash)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (use_compilation_cache() is None) == expected
    assert use_compilation_cache(tmp_path / "given") is not None


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    reason = rf"cannot be kept in {tmp_path}/file/cache \(Not a directory\).* {VARIABLE} .* off\."
    with pytest.raises(ValueError, match=reason):
        use_compilation_cache(tmp_path / "file/cache")
    assert jax.config.values["jax_compilation_cache_dir"] is None
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home is known
    with pytest.raises(ValueError, match="home directory"):
        use_compilation_cache()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    use_compilation_cache(tmp_path).chmod(0o500)
    with pytest.raises(ValueError, match="Permission denied"):
        use_compilation_cache(tmp_path)


# What is removed


def write_programs(folder, **sizes):
    """A file per program, each used an hour after the one before it."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}-cache" for name in sizes]
    for hour, (path, size) in enumerate(zip(paths, sizes.values(), strict=True)):
        path.write_bytes(b"x" * size)
        used = time.time() - 3600 * (len(paths) - hour)
        os.utime(path, (used, used))
    return paths


def test_programs_used_longest_ago_go_first_whichever_machine_they_are_of(tmp_path):
    here = use_compilation_cache(tmp_path)
    elsewhere = tmp_path / f"jax-0.7.0-{'0' * 16}"
    old, read_now, newer, newest = write_programs(here, a=50, b=50, c=50, d=50)
    written = read_now.stat().st_mtime
    os.utime(read_now, (time.time(), written))
    (newest_elsewhere,) = write_programs(elsewhere, e=50)
    before = time.time() - 1800
    os.utime(newest_elsewhere, (before, before))
    for max_bytes, expected in [
        (250, {old, read_now, newer, newest, newest_elsewhere}),
        (199, {read_now, newest, newest_elsewhere}),
        (50, {read_now}),
    ]:
        use_compilation_cache(tmp_path, max_bytes=max_bytes)
        assert set(tmp_path.glob("*/*-cache")) == expected


def test_what_is_no_program_is_left_alone(tmp_path):
    here = use_compilation_cache(tmp_path)
    for name in ("notes-cache", "jax-notes-of-mine/a-cache", f"{here.name}/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = set(tmp_path.rglob("*"))
    write_programs(here, a=10)
    use_compilation_cache(tmp_path, max_bytes=0)
    assert set(tmp_path.rglob("*")) == before


def test_programs_that_a_full_disk_left_empty_are_written_again(tmp_path):
    programs = use_compilation_cache(tmp_path)
    compiled, _ = num_compiled_and_loaded(compute)
    for path in programs.glob("*-cache"):
        path.write_bytes(b"")
    # JAX alone would compile them with a warning for ever.
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        assert num_compiled_and_loaded(compute) == (compiled, 0)
    use_compilation_cache(tmp_path)
    assert num_compiled_and_loaded(compute) == (compiled, 0)
    assert num_compiled_and_loaded(compute) == (0, compiled)
