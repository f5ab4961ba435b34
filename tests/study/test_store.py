"""What a study leaves on disk: parts that survive a crash, strict JSON, labelled arrays."""

import errno
import json
import os
import pathlib
import threading
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from vaecausal_jax.inference import Estimate
from vaecausal_jax.study import store

SPEC = {"config": {"seed": 0, "families": [{"name": "vae", "strength": 1.0}]}, "data": ""}
ARRAYS = {
    "x": np.arange(6.0, dtype=np.float32).reshape(2, 3),
    "nothing": np.zeros((0, 3)),
    "number": np.float32(np.nan),
}


def assert_same(arrays, expected=ARRAYS):
    assert set(arrays) == set(expected)
    for name, values in expected.items():
        assert arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(arrays[name], values)


# Parts.


def test_part_comes_back_as_it_was_also_in_another_process(tmp_path):
    parts = store.Parts(tmp_path / "run", SPEC)
    assert parts.read("site/latent/z") is None
    parts.write("site/latent/z", ARRAYS)
    parts.write("jax", {"x": jnp.arange(3)})
    assert_same(parts.read("site/latent/z"))
    again = store.Parts(tmp_path / "run", SPEC)
    assert_same(again.read("site/latent/z"))
    np.testing.assert_array_equal(again.read("jax")["x"], [0, 1, 2])


def test_part_written_again_is_replaced(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    parts.write("health", {"old": np.zeros(3)})
    parts.write("health", ARRAYS)
    assert_same(parts.read("health"))


def test_tuples_in_a_spec_equal_the_lists_they_are_saved_as(tmp_path):
    store.Parts(tmp_path, {"sizes": (1, 2)})
    store.Parts(tmp_path, {"sizes": [1, 2]})


@pytest.mark.parametrize(
    ("spec", "difference"),
    [
        ({**SPEC, "data": "x.npz"}, "data: saved '', given 'x.npz'"),
        ({**SPEC, "config": {**SPEC["config"], "seed": 1}}, "config.seed: saved 0, given 1"),
        ({**SPEC, "config": {**SPEC["config"], "more": 2}}, "config.more: saved None, given 2"),
        ({"config": SPEC["config"]}, "data: saved '', given None"),
        ({"config": {"seed": 3}}, "config.families: .*; config.seed: saved 0, given 3; data"),
    ],
)
def test_folder_of_another_spec_is_refused_naming_the_difference(spec, difference, tmp_path):
    store.Parts(tmp_path, SPEC)
    with pytest.raises(ValueError, match=f"{tmp_path} holds another study .{difference}"):
        store.Parts(tmp_path, spec)


def test_damaged_spec_is_named(tmp_path):
    store.Parts(tmp_path, SPEC)
    (tmp_path / "parts" / "spec.json").write_text('{"config":')
    with pytest.raises(ValueError, match=f"{tmp_path}/parts/spec.json is damaged .* Delete"):
        store.Parts(tmp_path, SPEC)


def test_every_truncation_of_a_part_is_refused_by_name(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    parts.write("site/latent/z", ARRAYS)
    path = tmp_path / "parts" / "site.latent.z.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{path} is damaged .* measured again"):
            parts.read("site/latent/z")


def test_altered_byte_never_changes_a_number(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    parts.write("health", {"x": ARRAYS["x"]})
    path = tmp_path / "parts" / "health.npz"
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            arrays = parts.read("health")
        except ValueError:
            refused += 1
        else:  # the zip's own notes, such as the time of writing
            for values in arrays.values():
                np.testing.assert_array_equal(values, ARRAYS["x"])
    assert refused > len(whole) // 2


def test_partial_file_of_an_interrupted_write_is_ignored(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    (tmp_path / "parts" / "health.partial").write_bytes(b"half")
    assert parts.read("health") is None
    parts.write("health", ARRAYS)
    assert_same(parts.read("health"))


def test_failed_write_leaves_the_part_as_it_was(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    parts = store.Parts(tmp_path, SPEC)
    parts.write("health", ARRAYS)
    monkeypatch.setattr(store.np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        parts.write("health", {"x": np.zeros(3)})
    with pytest.raises(OSError, match="No space left"):
        parts.write("input", ARRAYS)
    assert_same(parts.read("health"))
    assert parts.read("input") is None
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {"spec.json", "health.npz"}


STRANGE = ["a/b", "a.b", "a%2Eb", "A/b", "", "/", "../up", "a//b", "aux", "größe", "a b", "a:b"]


def test_parts_of_different_names_never_meet(tmp_path):
    parts = store.Parts(tmp_path / "run", SPEC)
    for number, name in enumerate(STRANGE):
        parts.write(name, {"x": np.int32(number)})
    for number, name in enumerate(STRANGE):
        assert parts.read(name)["x"] == number
    files = [p.name for p in (tmp_path / "run" / "parts").iterdir()]
    assert len({name.lower() for name in files}) == len(STRANGE) + 1
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_arrays_of_different_names_never_meet(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    names = ["a", "a.npy", "a.npy.npy", "file", "allow_pickle", "", "../x", "a/b", "a\\b", "größe"]
    parts.write("health", {name: np.int32(number) for number, name in enumerate(names)})
    assert parts.read("health") == {name: number for number, name in enumerate(names)}


def test_arrays_as_numpy_writes_them_are_read(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    arrays = {"x": np.arange(3), "in a/group.of 1": np.ones(2)}
    np.savez(tmp_path / "parts" / "health.npz", **arrays)
    assert_same(parts.read("health"), arrays)


def test_types_that_numpy_lacks_are_kept_as_larger_ones_and_objects_are_refused(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    parts.write("health", {"b": jnp.full(2, 1.5, jnp.bfloat16), "t": np.array(["ü", ""])})
    found = parts.read("health")
    assert found["b"].dtype == np.float32
    assert found["b"].tolist() == [1.5, 1.5]
    assert found["t"].tolist() == ["ü", ""]
    with pytest.raises(ValueError, match="values of x of part 'health' are of type object"):
        parts.write("health", {"x": np.array([None])})
    assert list(parts.read("health")) == ["b", "t"]


def test_a_spec_takes_paths_and_names_what_it_cannot_take(tmp_path):
    spec = {"path": pathlib.Path("a"), "seed": np.int64(3), "x": float("nan")}
    store.Parts(tmp_path, spec)
    store.Parts(tmp_path, {**spec, "path": "a"})
    with pytest.raises(ValueError, match="spec.f is <function .* JSON cannot hold"):
        store.Parts(tmp_path / "new", {"f": store.write_json})
    assert not (tmp_path / "new").exists()


def test_leftovers_of_killed_writers_go(tmp_path):
    parts = store.Parts(tmp_path, SPEC)
    left = tmp_path / "parts" / ".health.npz.0123456789abcdef.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    store.Parts(tmp_path, SPEC)
    assert not left.exists()
    assert parts.read("health") is None


def test_checkpoints_of_any_title_lie_in_the_study(tmp_path):
    assert store.checkpoint_folder("x", "beta_vae_1e+06") == pathlib.Path(
        "x/checkpoints/beta_vae_1e+06"
    )
    assert store.checkpoint_folder("x", "../up").parent == pathlib.Path("x/checkpoints")


# JSON.


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def strict(path):
    return json.loads(path.read_text(), parse_constant=refuse)


def test_json_is_strict_and_takes_arrays_and_scalars(tmp_path):
    values = {
        "nan": float("nan"),
        "infinities": [np.inf, -np.inf],
        "numpy": {"f": np.float32(0.5), "i": np.int64(3), "b": np.bool_(True), "s": np.str_("a")},
        "array": np.array([[1.0, np.nan], [2.0, 3.0]], np.float32),
        "jax": jnp.arange(2),
        "tuple": (1, None, True, "text"),
        3: "key",
    }
    path = store.write_json(tmp_path / "new", "a.json", values)
    expected = {
        "nan": None,
        "infinities": [None, None],
        "numpy": {"f": 0.5, "i": 3, "b": True, "s": "a"},
        "array": [[1.0, None], [2.0, 3.0]],
        "jax": [0, 1],
        "tuple": [1, None, True, "text"],
        "3": "key",
    }
    assert strict(path) == expected
    assert store.read_json(tmp_path / "new", "a.json") == expected


def test_estimates_are_written_as_objects_of_their_fields(tmp_path):
    estimate = Estimate(
        np.array([1.0, np.nan]), np.zeros(2), np.ones(2), 0.0, 12, 1, 0.95, "how", "what"
    )
    path = store.write_json(tmp_path, "a.json", {"all": [estimate]})
    assert strict(path)["all"][0] == {
        "value": [1.0, None],
        "low": [0.0, 0.0],
        "high": [1.0, 1.0],
        "null": 0.0,
        "num_inputs": 12,
        "num_seeds": 1,
        "level": 0.95,
        "method": "how",
        "intervention": "what",
    }


def test_value_that_json_lacks_is_an_error_and_leaves_the_old_file(tmp_path):
    path = store.write_json(tmp_path, "a.json", {"x": 1})
    with pytest.raises(ValueError, match=r"a.json.y\[0\].x is <object .* which JSON cannot hold"):
        store.write_json(tmp_path, "a.json", {"y": [{"x": object()}]})
    with pytest.raises(ValueError, match="two keys of a.json are one as text"):
        store.write_json(tmp_path, "a.json", {1: 0, "1": 0})
    assert strict(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_paths_sets_and_small_floats_are_json_too(tmp_path):
    values = {"p": pathlib.Path("a/b"), "s": {2, 1}, "h": jnp.array([1.5, np.nan], jnp.bfloat16)}
    path = store.write_json(tmp_path, "a.json", values)
    assert strict(path) == {"p": "a/b", "s": [1, 2], "h": [1.5, None]}


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(ValueError, match=f"{tmp_path}/a.json is damaged"):
        store.read_json(tmp_path, "a.json")


# Labelled arrays.


def effects(scale=1.0):
    return xr.Dataset(
        {
            "share": (
                ("family", "unit", "statistic"),
                scale * np.arange(12, dtype=np.float32).reshape(2, 2, 3),
                {"null": 0.0, "intervention": "units <- other image"},
            ),
            "empty": (("family",), np.full(2, np.nan)),
        },
        coords={
            "family": ["vae", "beta_vae_4"],
            "site": ("unit", ["latent/z", "latent/z"]),
            "statistic": ["value", "low", "high"],
            "verdict": (("family",), np.array(["ok", "diverged: the loss is not finite"])),
        },
        attrs={"title": "a study"},
    )


def test_effects_open_with_nothing_but_their_path_and_no_warning(tmp_path):
    path = store.write_effects(tmp_path, effects())
    assert path == tmp_path / "effects.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(path) as opened:
            xr.testing.assert_identical(opened.compute(), effects())
            assert opened["share"].attrs == effects()["share"].attrs
            assert opened["share"].dtype == np.float32
            chosen = opened["share"].sel(family="beta_vae_4", statistic="low")
            np.testing.assert_array_equal(chosen, [7.0, 10.0])


def test_effects_written_again_are_replaced_even_after_a_crash(tmp_path):
    store.write_effects(tmp_path, effects())
    left = tmp_path / ".effects.zarr.0123456789abcdef.partial"
    left.mkdir()
    (left / "junk").write_text("half")
    os.utime(left, (0, 0))
    store.write_effects(tmp_path, effects(2.0).drop_vars("empty"))
    with xr.open_zarr(tmp_path / "effects.zarr") as opened:
        xr.testing.assert_identical(opened.compute(), effects(2.0).drop_vars("empty"))
    assert [p.name for p in tmp_path.iterdir()] == ["effects.zarr"]


def test_two_writers_of_effects_leave_one_whole(tmp_path):
    threads = [
        threading.Thread(target=store.write_effects, args=(tmp_path, effects(scale)))
        for scale in (1.0, 2.0, 3.0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with xr.open_zarr(tmp_path / "effects.zarr") as opened:
        found = opened.compute()
    assert any(found.identical(effects(scale)) for scale in (1.0, 2.0, 3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["effects.zarr"]


def test_effects_keep_text_of_any_language(tmp_path):
    data = xr.Dataset({"x": ("arm", [1.0, 2.0, 3.0])}, {"arm": ["größer", "", "雪"]})
    with xr.open_zarr(store.write_effects(tmp_path, data)) as opened:
        assert [float(opened.x.sel(arm=arm)) for arm in data.arm.values] == [1.0, 2.0, 3.0]


def test_effects_that_cannot_be_written_leave_the_old_ones(tmp_path):
    store.write_effects(tmp_path, effects())
    with pytest.raises(TypeError):
        store.write_effects(tmp_path, effects().assign_attrs(x=object()))
    with xr.open_zarr(tmp_path / "effects.zarr") as opened:
        assert opened.compute().identical(effects())
    assert [p.name for p in tmp_path.iterdir()] == ["effects.zarr"]
