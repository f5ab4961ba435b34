"""Stored sweeps: bitwise what one call computes, through kills, full disks and foreign folders."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from vaecausal_jax.sweeps import stored
from vaecausal_jax.sweeps.stored import Part, group_of, num_stored, run_stored, variable_of


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
    assert list(opened.side.values) == ["left", "right"]
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


def test_points_that_are_stored_are_counted(tmp_path):
    parts, seen = [part("../a"), part("b", 3), part("c", 0)], []

    def progress(what, done, total):
        seen.append((num_stored(tmp_path, parts, slab_points=4), done))

    assert num_stored(tmp_path, parts, slab_points=4) == 0
    path = run_stored(tmp_path, parts, {}, slab_points=4, progress=progress)
    assert seen == [(n, n) for n in (0, 4, 8, 10, 13)]
    (path / group_of("../a") / "pair" / "1.0").unlink()
    assert num_stored(tmp_path, parts, slab_points=4) == 9


PROGRAM = """
import jax, jax.numpy as jnp, os, sys, time
jax.config.update("jax_default_matmul_precision", "highest")
sys.path.insert(0, {tests!r})
from test_stored import part
from vaecausal_jax.sweeps.stored import run_stored

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


@pytest.mark.thorough
def test_killed_at_any_moment_it_goes_on_without_repeating_a_slab(tmp_path):
    folder = tmp_path / "killed"
    process = start(folder, 0.05)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 0:
            named = f"{folder} is being written by process {process.pid} on host .*; wait for it"
            with pytest.raises(ValueError, match=named):
                run_stored(folder, [part(num_points=40)], {}, slab_points=4)
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


@pytest.mark.thorough
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
    with pytest.raises(ValueError, match="slab_points is 0, expected 1 or more"):
        run_stored(tmp_path, [part()], {}, slab_points=0)
    assert list(tmp_path.iterdir()) == []


# Names.


def simple(name="x", dims=None, coords=None, compute=None, num_points=3, inputs=()):
    """A part with one result, by default the points' numbers."""
    compute = compute or (lambda inputs, index: {"total": index})
    dims = {"total": ("unit",)} if dims is None else dims
    return Part(name, compute, inputs, num_points, dims, coords or {}, num_points)


def read(path, name="x"):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path, group=group_of(name)).load()


STRANGE = [
    "",
    "/abs/h",
    "../../up",
    "a/../b",
    "a//b",
    ".zgroup",
    "zarr.json",
    "c:\\d|e",
    "größe",
    "%",
]


def numbered(names):
    """Parts that are told apart by their numbers."""

    def compute(inputs, index):
        return {"total": inputs + index}

    return [simple(name, compute=compute, inputs=jnp.int32(n)) for n, name in enumerate(names)]


def test_no_name_of_a_part_leads_out_of_the_store(tmp_path):
    names = [*STRANGE, str(tmp_path / "abs"), "a/b", "a b"]
    folder = tmp_path / "runs" / "strange"
    path = run_stored(folder, numbered(names), {})
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"strange"}
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "effects.zarr"}
    tree = xr.open_datatree(path, engine="zarr")
    for n, name in enumerate(names):
        assert read(path, name).total[0] == n
        assert tree[group_of(name)].total[0] == n
        alone = xr.open_zarr(path, group=group_of(name), consolidated=False)
        assert alone.total[0] == n


def test_parts_may_come_in_any_order(tmp_path):
    names = ["b/x", "a/x", "b/y", "a", "c/d/e", "a/z/w", "c"]
    path = run_stored(tmp_path, numbered(names), {})
    for n, name in enumerate(names):
        assert read(path, name).total[0] == n


def test_names_of_arrays_axes_and_labels_are_variables_of_the_data_set(tmp_path):
    names = ["a/b", "../up", "two words", "", ".hidden", "größe"]
    part = simple(
        dims={name: ("unit", f"axis of {name}") for name in names},
        compute=lambda inputs, index: {name: jnp.stack([index] * 2, 1) for name in names},
        coords={f"axis of {name}": (f"axis of {name}", ["l", "r"]) for name in names}
        | {"the unit/label": ("unit", [0.5, 1.5, 2.5])},
    )
    opened = read(run_stored(tmp_path / "run", [part], {}))
    for name in names:
        array = opened[variable_of(name)]
        np.testing.assert_array_equal(array, np.stack([np.arange(3)] * 2, 1))
        np.testing.assert_array_equal(array.sel({variable_of(f"axis of {name}"): "r"}), range(3))
        np.testing.assert_array_equal(array[variable_of("the unit/label")], [0.5, 1.5, 2.5])
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [simple("enc"), simple("enc/total")],
            "array 'total' of part 'enc' and part 'enc/total' would meet in the store, at "
            "'enc/total' and 'enc/total'. Rename",
        ),
        (
            [simple("enc/total/deep"), simple("enc")],
            "array 'total' of part 'enc' and part 'enc/total/deep' would meet in the store",
        ),
        (
            [simple("enc", coords={"h": ("unit", [1, 2, 3])}), simple("enc/h/0")],
            "label 'h' of part 'enc' and part 'enc/h/0' would meet",
        ),
        (
            [simple(coords={"total": ("unit", [1, 2, 3])})],
            "array 'total' of part 'x' and label 'total' of part 'x' would meet",
        ),
        (
            [simple("h"), simple("H")],
            "part 'h' and part 'H' would meet in the store, at 'h' and 'H', on file systems that "
            "ignore case",
        ),
        (
            [simple("Enc"), simple("enc/TOTAL")],
            "array 'total' of part 'Enc' and part 'enc/TOTAL' would meet .* that ignore case",
        ),
        ([simple("x" * 201)], "takes 201 bytes in a file system"),
        ([], "parts need names of their own"),
    ],
)
def test_names_that_would_meet_are_refused_before_anything_is_written(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        run_stored(tmp_path, parts, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": {"total": ("unit", "pair")}}, r"array 'total' of part 'x' has the shape \(3,\)"),
        ({"compute": lambda i, n: {"total": n[:2]}}, r"has the shape \(2,\) for 3 points"),
        ({"coords": {"c": ("unit", [1, 2])}}, "label 'c' of part 'x' has 2 places, array 'total'"),
        ({"coords": {"c": ("unit", [[1, 2, 3]])}}, r"has the shape \(1, 3\), expected one label"),
        (
            {"coords": {"c": ("unit", [1, "a", None])}},
            "values of label 'c' of part 'x' are of type",
        ),
        ({"num_points": -1}, "part 'x' has -1 points, expected 0 or more"),
        (
            {
                "dims": {"total": ("unit",), "other": ("unit", "unit")},
                "compute": lambda i, n: {"total": n, "other": jnp.zeros((len(n), 2))},
            },
            "axis 'unit' has 2 places in array 'other' of part 'x', 3 in array",
        ),
        (
            {"compute": lambda i, n: {"total": jax.vmap(jax.random.key)(n)}},
            "values of array 'total' of part 'x' are PRNG keys, whose words jax.random.key_data",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_stored(tmp_path, [simple(**changes)], {})
    assert list(tmp_path.iterdir()) == []


# Labels.


def test_labels_of_text_are_text(tmp_path):
    arms = ["denoising", "größer", "", "雪🙂"]
    coords = {
        "arm": ("unit", arms),
        "nothing": ("unit", [""] * 4),
        "object": ("unit", np.array(arms, object)),
        "flag": ("unit", [True, False, True, True]),
    }
    path = run_stored(tmp_path, [simple(num_points=4, coords=coords)], {})
    for opened in (
        read(path),
        xr.open_zarr(path, group="x", consolidated=False),
        xr.open_datatree(path, engine="zarr")["x"].to_dataset(),
    ):
        total = opened["total"].swap_dims(unit="arm")
        for place, arm in enumerate(arms):
            assert int(total.sel(arm=arm)) == place
        assert opened["arm"].dtype.kind == "U"
        assert opened["nothing"].values.tolist() == [""] * 4
        assert opened["object"].values.tolist() == arms
        assert opened["flag"].values.tolist() == [True, False, True, True]


def as_bytes(path):
    """Labels as they were stored before they were text."""
    for place in path.rglob("arm/.zarray"):
        metadata = json.loads(place.read_text()) | {"dtype": "|S5"}
        place.write_text(json.dumps(metadata))
        (place.parent / "0").write_bytes(b"left\0right")


def test_a_store_whose_labels_are_bytes_goes_on_with_text(tmp_path):
    parts = [simple(num_points=2, coords={"arm": ("unit", ["left", "right"])})]
    path = run_stored(tmp_path, parts, {})
    as_bytes(path)
    assert xr.open_zarr(path, group="x", consolidated=False).arm.dtype.kind == "S"
    run_stored(tmp_path, parts, {})
    assert read(path).arm.values.tolist() == ["left", "right"]


@pytest.mark.parametrize("old", [lambda path: None, as_bytes])
def test_other_labels_are_another_sweep(tmp_path, old):
    labels = {"arm": ("unit", ["left", "right"]), "dose": ("unit", [np.nan, 1.0])}
    parts = [simple(num_points=2, coords=labels)]
    old(run_stored(tmp_path, parts, {}))
    for name, new, message in (
        ("arm", ["left", "up"], "label 'arm' of part 'x': saved 'right', given 'up' at 1"),
        ("dose", [np.nan, 2.0], "label 'dose' of part 'x': saved 1.0, given 2.0 at 1"),
    ):
        other = [simple(num_points=2, coords=labels | {name: ("unit", new)})]
        with pytest.raises(ValueError, match=f"holds another sweep .{message}"):
            run_stored(tmp_path, other, {})
    run_stored(tmp_path, parts, {})


# Damage.


@pytest.mark.parametrize(
    ("place", "content", "advice"),
    [
        ("effects.zarr/.zmetadata", b'{"meta', ".zmetadata is damaged .* Delete it"),
        ("effects.zarr/.zgroup", b"\xff", ".zgroup is damaged .* Delete it"),
        ("effects.zarr/decoder/conv0/square/.zarray", b"{", ".zarray is damaged .* Delete it"),
        ("effects.zarr/decoder/conv0/square/.zattrs", b"3", ".zattrs is damaged .* Delete it"),
        ("effects.zarr/decoder/conv0/side/.zarray", b"{}", "side/0 is damaged .* Delete it"),
        ("effects.zarr/decoder/conv0/side/0", b"left", "side/0 is damaged .* Delete it"),
        (
            "effects.zarr/decoder/conv0/square/1",
            b"",
            "square/1 has 0 bytes, expected 16: .* Delete",
        ),
        ("effects.zarr/decoder/conv0/pair/2.0", bytes(31), "pair/2.0 has 31 bytes, expected 32"),
        ("effects.zarr/decoder/conv0/pair/0.0", bytes(33), "pair/0.0 has 33 bytes, expected 32"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_delete(tmp_path, place, content, advice):
    run_stored(tmp_path, [part()], {}, slab_points=4)
    whole = (tmp_path / place).read_bytes()
    (tmp_path / place).write_bytes(content)
    with pytest.raises(ValueError, match=advice.format(folder=tmp_path)):
        run_stored(tmp_path, [part()], {}, slab_points=4)
    (tmp_path / place).unlink()
    run_stored(tmp_path, [part()], {}, slab_points=4)
    assert (tmp_path / place).read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"[]", b'{"spec": {', b"\xff"])
def test_a_damaged_or_lost_manifest_is_named_with_what_to_delete(tmp_path, content):
    run_stored(tmp_path, [simple()], {})
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"manifest.json is damaged \(.*\). Delete {tmp_path}."):
        run_stored(tmp_path, [simple()], {})
    (tmp_path / "manifest.json").unlink()
    message = "effects.zarr has no manifest.json beside it .* another output folder, or delete it"
    with pytest.raises(ValueError, match=message):
        run_stored(tmp_path, [simple()], {})


def test_results_of_another_type_or_shape_are_another_array(tmp_path):
    def other(inputs, index):
        return {"total": index.astype(jnp.float16)}

    path = run_stored(tmp_path, [simple()], {})
    with pytest.raises(ValueError, match="x/total differs from array 'total' of part 'x' .dtype"):
        run_stored(tmp_path, [simple(compute=other)], {})
    assert read(path).total.dtype == np.int32


def test_leftovers_of_killed_writers_go(tmp_path):
    path = run_stored(tmp_path, [simple()], {})
    left = path / "x" / "total" / ".0.0123456789abcdef.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    run_stored(tmp_path, [simple()], {})
    assert not left.exists()


# What can be stored.


def test_a_part_without_points_is_empty_arrays(tmp_path):
    coords = {"side": ("side", ["l", "r"]), "label": ("unit", np.zeros(0))}
    empty = part("none", 0)._replace(coords=coords)
    seen = []
    path = run_stored(tmp_path, [empty, part()], {}, progress=lambda *a: seen.append(a))
    opened = read(path, "none")
    assert opened.sizes == {"unit": 0, "side": 2}
    assert opened["square"].dtype == np.float32
    assert seen == [("none", 0, 10), ("decoder/conv0", 10, 10)]
    path = run_stored(tmp_path / "alone", [empty], {})
    assert read(path, "none").sizes["unit"] == 0
    run_stored(tmp_path / "alone", [empty], {})


def test_an_axis_without_places_holds_nothing(tmp_path):
    def compute(inputs, index):
        return {"total": jnp.zeros((len(index), 0, 2))}

    parts = [simple(dims={"total": ("unit", "none", "two")}, compute=compute)]
    assert read(run_stored(tmp_path, parts, {})).total.shape == (3, 0, 2)
    run_stored(tmp_path, parts, {})


def test_counts_may_be_numpy_integers(tmp_path):
    counted = simple()._replace(num_points=np.int64(3), runs=np.int64(3))
    path = run_stored(tmp_path, [counted], {})
    run_stored(tmp_path, [simple()], {})
    assert read(path).attrs == {"runs": 3}


def test_a_spec_of_paths_arrays_and_sets_is_kept_and_others_are_named(tmp_path):
    spec = {"path": pathlib.Path("a"), "n": np.int64(3), "t": (1, 2), "s": {"b", "a"}, "x": np.nan}
    for _ in range(2):
        run_stored(tmp_path, [simple()], spec)
    saved = json.loads((tmp_path / "manifest.json").read_text())["spec"]
    assert {**saved, "x": 0} == {"path": "a", "n": 3, "t": [1, 2], "s": ["a", "b"], "x": 0}
    with pytest.raises(ValueError, match="spec.path: saved 'a', given 'b'"):
        run_stored(tmp_path, [simple()], spec | {"path": "b"})
    with pytest.raises(ValueError, match=r"spec.model.f is <function .* JSON cannot hold"):
        run_stored(tmp_path / "new", [simple()], {"model": {"f": simple}})
    assert not (tmp_path / "new").exists()


PLAIN = ["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32"]


@pytest.mark.parametrize("dtype", [*PLAIN, "complex64"])
def test_results_are_stored_as_they_are(tmp_path, dtype):
    found = stored_as(tmp_path, dtype)
    assert found.dtype == dtype
    assert "dtype" not in found.attrs


@pytest.mark.parametrize(
    ("dtype", "held"),
    [("bfloat16", "float32"), ("float8_e4m3fn", "float32"), ("int4", "int8"), ("uint4", "uint8")],
)
def test_types_that_zarr_lacks_are_held_by_larger_ones(tmp_path, dtype, held):
    found = stored_as(tmp_path, dtype)
    assert found.dtype == held
    assert found.attrs["dtype"] == dtype


def stored_as(folder, dtype):
    """The numbers 0, 1, 3, 0, 1 as results of a type, read back."""
    part = simple(
        compute=lambda inputs, index: {"total": inputs[index].astype(dtype)},
        inputs=jnp.array([0, 1, 3, 0, 1]),
        num_points=5,
    )
    found = read(run_stored(folder, [part], {}, slab_points=2)).total
    np.testing.assert_array_equal(found, np.array([0, 1, 3, 0, 1]).astype(found.dtype))
    return found


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            errno.ENOSPC,
            "cannot write to .*effects.zarr: .* The 0 of 3 points before are kept; make",
        ),
        (errno.EDQUOT, "The 0 of 3 points before are kept; make room"),
        (errno.EACCES, r"^\[Errno 13\] Permission denied$"),
        (errno.EIO, r"^\[Errno 5\] Input/output error$"),
    ],
)
def test_only_a_full_disk_is_said_to_be_full(tmp_path, monkeypatch, code, message):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(stored, "_write_chunk", fail)
    with pytest.raises(OSError, match=message) as caught:
        run_stored(tmp_path, [simple()], {})
    assert caught.value.errno == code
