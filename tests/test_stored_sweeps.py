"""Stored sweeps: bitwise what one call computes, through kills, full disks and foreign folders."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from vaecausal_jax.stored_sweeps import Part, run_stored


def compute(inputs, index):
    return {"square": inputs["w"] * index.astype(float) ** 2, "pair": jnp.stack([index] * 2, 1)}


def part(name="decoder/conv0", num_points=10, w=2.0):
    return Part(
        name,
        compute,
        {"w": jnp.array(w)},
        num_points,
        {"square": ("unit",), "pair": ("unit", "side")},
        {"side": ("side", ["left", "right"]), "half": ("unit", np.arange(num_points) / 2)},
        runs=num_points,
    )


def test_a_stored_sweep_holds_every_point_with_its_labels(tmp_path):
    seen = []
    path = run_stored(
        tmp_path,
        [part(), part("z", 3)],
        {"q": 1},
        slab_points=4,
        progress=lambda *a: seen.append(a),
    )
    opened = xr.open_zarr(path, group="decoder/conv0")
    np.testing.assert_array_equal(opened.square, 2.0 * np.arange(10.0) ** 2)
    np.testing.assert_array_equal(opened.pair, np.stack([np.arange(10)] * 2, 1))
    assert opened.pair.dims == ("unit", "side")
    assert list(opened.side.values.astype(str)) == ["left", "right"]
    np.testing.assert_array_equal(opened.square.half, np.arange(10) / 2)
    assert xr.open_zarr(path, group="z").sizes["unit"] == 3
    assert seen[0] == ("decoder/conv0", 0, 13)
    assert seen[-1] == ("z", 13, 13)


def test_finished_slabs_are_not_computed_again_and_lost_ones_are(tmp_path):
    path = run_stored(tmp_path, [part()], {}, slab_points=4)
    files = sorted(path.rglob("*.0")) + sorted((path / "decoder/conv0/square").glob("[0-9]"))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    lost = path / "decoder/conv0/square/1"
    lost.unlink()
    run_stored(tmp_path, [part()], {}, slab_points=4)
    assert lost.read_bytes() == before[lost][1]
    for file in files:
        if file != lost:
            assert file.stat().st_mtime_ns == before[file][0]


PROGRAM = """
import jax, jax.numpy as jnp, os, sys, time
jax.config.update("jax_default_matmul_precision", "highest")
sys.path.insert(0, {tests!r})
from test_stored_sweeps import part
from vaecausal_jax.stored_sweeps import run_stored

def progress(what, done, total):
    print(done, flush=True)
    time.sleep({pause})

{before}
run_stored({folder!r}, [part(num_points=40)], {{}}, slab_points=4, progress=progress)
"""


def start(folder, pause, before=""):
    text = PROGRAM.format(
        tests=os.path.dirname(__file__), folder=str(folder), pause=pause, before=before
    )
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_at_any_moment_it_goes_on_without_repeating_a_slab(tmp_path):
    folder = tmp_path / "killed"
    process = start(folder, 0.05)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 12:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    kept = {f: f.stat().st_mtime_ns for f in (folder / "effects.zarr").rglob("square/[0-9]")}
    assert 3 <= len(kept) < 10
    time.sleep(0.02)
    run_stored(folder, [part(num_points=40)], {}, slab_points=4)
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())
    whole = run_stored(tmp_path / "whole", [part(num_points=40)], {}, slab_points=4)
    for file in sorted(whole.rglob("*")):
        if file.is_file():
            again = folder / "effects.zarr" / file.relative_to(whole)
            assert again.read_bytes() == file.read_bytes(), file


def test_a_full_disk_is_an_error_that_keeps_what_was_written(tmp_path):
    """A limit on the size of files stands in for the disk: the second, larger part meets it."""
    before = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def limit(what, done, total):
        if done == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
    progress = limit
    """
    process = start(tmp_path, 0, textwrap.dedent(before))
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "cannot write to" in errors, errors
    assert "The 8 of 40 points before are kept; make room" in errors
    path = run_stored(tmp_path, [part(num_points=40)], {}, slab_points=4)
    opened = xr.open_zarr(path, group="decoder/conv0")
    np.testing.assert_array_equal(opened.square, 2.0 * np.arange(40.0) ** 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": {"q": 2}}, "spec.q: saved 1, given 2"),
        ({"parts": [part(w=3.0)]}, r"parts.decoder/conv0.inputs: saved '\w+', given '\w+'"),
        ({"parts": [part(num_points=11)]}, "parts.decoder/conv0.points: saved 10, given 11"),
        ({"parts": [part("z")]}, "parts.decoder/conv0: saved .*; parts.z: saved None"),
        ({"slab_points": 5}, "slab_points: saved 4, given 5"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(tmp_path, change, message):
    asked = {"parts": [part()], "spec": {"q": 1}, "slab_points": 4}
    run_stored(tmp_path, **asked)
    with pytest.raises(ValueError, match=f"holds another sweep .*{message}"):
        run_stored(tmp_path, **(asked | change))


def test_a_store_of_other_versions_is_refused(tmp_path):
    run_stored(tmp_path, [part()], {})
    manifest = tmp_path / "manifest.json"
    saved = json.loads(manifest.read_text())
    saved["versions"]["jax"] = "0.0.1"
    manifest.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"versions.jax: saved '0.0.1', given"):
        run_stored(tmp_path, [part()], {})
    manifest.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run_stored(tmp_path, [part()], {})


def test_parts_that_share_a_name_or_miss_dims_are_refused(tmp_path):
    with pytest.raises(ValueError, match="names of their own"):
        run_stored(tmp_path, [part(), part()], {})
    with pytest.raises(ValueError, match=r"dims and results differ in \['pair'\]"):
        run_stored(tmp_path, [part()._replace(dims={"square": ("unit",)})], {})
