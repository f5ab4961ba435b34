"""Values become what JSON reads back, or are refused by name."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax.json_values import difference, json_values, plain_dtype, read_object


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
