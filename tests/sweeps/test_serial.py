"""JSON of interventions and sweeps: the same tree, bit for bit, or an error that says why not."""

import hashlib
import json
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaecausal_jax import interventions as vi
from vaecausal_jax.interventions.sites import Site, Sites
from vaecausal_jax.sweeps.grid import Block
from vaecausal_jax.sweeps.serial import SCHEMA_VERSION, from_json, to_json

SITES = Sites(
    {
        "decoder/dense0": Site((5,), jnp.dtype("float32"), 0),
        "decoder/conv0": Site((4, 4, 3), jnp.dtype("float32"), 2),
        "latent/codes": Site((2, 2), jnp.dtype("int32"), None),
    }
)


def assert_same(got, expected):
    assert type(got) is type(expected) or isinstance(expected, jax.Array)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        got, expected = tuple(got.values()), tuple(expected.values())
    if isinstance(expected, tuple | list):
        assert len(got) == len(expected)
        for pair in zip(got, expected, strict=True):
            assert_same(*pair)
    elif hasattr(expected, "dtype"):
        assert isinstance(got, jax.Array) == isinstance(expected, jax.Array)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert np.asarray(got).tobytes() == np.asarray(expected).tobytes()
    else:
        assert repr(got) == repr(expected)


STEP = vi.Clamp(jnp.array(True), jnp.float32(-1), jnp.float32(1))
TREES = {
    "nothing": {},
    "set": vi.set_to(SITES, "decoder/conv0", 0.5, unit=1),
    "steps in order": {
        "decoder/dense0": (STEP, vi.Affine(jnp.ones(5, bool), jnp.float32(2), jnp.zeros(5)), STEP)
    },
    "subspace": vi.swap_direction(SITES, "decoder/dense0", jnp.arange(5.0), jnp.ones(5)),
    "box": {"decoder/dense0": vi.BoxPatch(jnp.ones(5), jnp.zeros(2), (jnp.array(1),))},
    "codes": vi.map_codes(SITES, "latent/codes", jnp.arange(6)),
    "odd values": {
        "h": vi.Replace(jnp.array(False), jnp.array([np.nan, -np.nan, -0.0, np.inf, 1e-45]))
    },
    "bfloat16": {"h": vi.Replace(jnp.array(True), jnp.array([1.5, np.nan, -0.0], jnp.bfloat16))},
    "integers": [jnp.array([-128, 127], jnp.int8), jnp.array(2**32 - 1, jnp.uint32)],
    "empty": {"h": vi.Replace(jnp.zeros((0, 3), bool), jnp.zeros((0, 3)))},
    "sweep": {
        "site": "decoder/dense0",
        "points": vi.stack([vi.set_to(SITES, "decoder/dense0", v, unit=2) for v in (0.0, 1.0)]),
        "block": Block(4, 16),
        "units": np.array([3, 1]),
        "dose": -0.0,
        "bounds": (float("-inf"), 0.1),
        "seeds": [0, 2**70],
        "label": "décodeur",
        "mesh": None,
        "paired": True,
    },
    "float64 in NumPy": np.array([0.1, np.nan]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


@pytest.mark.parametrize("name", TREES)
def test_tree_comes_back_bit_for_bit(name):
    text = to_json(TREES[name])
    assert_same(from_json(text), TREES[name])
    assert to_json(from_json(text)) == text
    assert_same(from_json(json.dumps(json.loads(text), indent=3)), TREES[name])


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
    )
)
def test_any_numpy_array_comes_back(array):
    assert_same(from_json(to_json(array)), array)


def test_big_endian_arrays_keep_their_values():
    array = np.array([1.5, -2.0], ">f4")
    np.testing.assert_array_equal(from_json(to_json(array)), array)


def test_typed_keys_draw_the_same_numbers():
    key = jax.random.key(3, impl="rbg")
    again = from_json(to_json({"key": key}))["key"]
    assert jax.random.key_impl(again) == jax.random.key_impl(key)
    np.testing.assert_array_equal(jax.random.normal(again, 3), jax.random.normal(key, 3))


@pytest.mark.thorough
def test_another_process_reads_it_without_a_model():
    text = to_json(TREES["steps in order"])
    code = (
        "import sys; from vaecausal_jax.sweeps.serial import from_json, to_json\n"
        "text = sys.stdin.read(); assert to_json(from_json(text)) == text\n"
        "print(len(from_json(text)['decoder/dense0']))"
    )
    run = subprocess.run([sys.executable, "-c", code], input=text, text=True, capture_output=True)
    assert run.stdout.strip() == "3", run.stderr


class Mine(NamedTuple):
    mask: bool


class Replace(NamedTuple):
    """Of the same name as the library's, but another type."""

    mask: bool


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"h": Mine(True)}, r"at \['h'\] is of type Mine.*BoxPatch"),
        ({"h": Replace(True)}, r"at \['h'\] is of type Replace"),
        ({"h": (STEP, object())}, r"at \['h'\]\[1\] is of type object"),
        ({3: STEP}, "the key 3; keys must be strings"),
        (vi.Clamp(np.array(["a"]), 0, 1), r"at \.mask is an array of <U1"),
        (np.array([object()]), "array of object"),
        (1 + 2j, "of type complex"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(tree, message):
    with pytest.raises(ValueError, match=message):
        to_json(tree)


def test_traced_arrays_are_refused():
    with pytest.raises(ValueError, match="is traced"):
        jax.jit(lambda h: to_json({"h": h}))(jnp.ones(2))


def forged(**changes):
    """A file with other content or header, its digest made right again."""
    envelope = json.loads(to_json({"h": STEP})) | changes
    canonical = json.dumps(envelope["content"], sort_keys=True, separators=(",", ":"))
    envelope["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(envelope)


TEXT = to_json({"h": vi.Replace(jnp.array(True), jnp.float32(1.5))})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected JSON of schema 'vaecausal_jax.tree', got 'list'"),
        ("{}", "got None"),
        (TEXT.replace('"float32"', '"int32"'), "damaged"),
        (TEXT.replace(json.loads(TEXT)["digest"], "0" * 64), "damaged"),
        (forged(version=SCHEMA_VERSION + 1), f"version {SCHEMA_VERSION + 1}.*reads 1"),
        (forged(version=True), "version True"),
        (forged(version=None), "version None"),
        (forged(content={"kind": "Replcae", "fields": {}}), "'Replcae'.*mean 'Replace'"),
        (forged(content={"kind": "Replace", "fields": {"mask": 1}}), "not a valid Replace"),
        (
            forged(content={"kind": "jax", "dtype": "float32", "shape": [2], "data": "AAAA"}),
            "buffer size|reshape",
        ),
        (
            forged(content={"kind": "jax", "dtype": "float99", "shape": [], "data": ""}),
            "not a valid jax",
        ),
        (
            forged(content={"kind": "jax", "dtype": "int8", "shape": [], "data": "?"}),
            "not a valid jax",
        ),
    ],
)
def test_damaged_or_foreign_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_64_bit_arrays_are_not_narrowed_in_silence():
    with jax.enable_x64(True):
        text = to_json(jnp.array([0.1], jnp.float64))
        assert from_json(text).dtype == jnp.float64
    with pytest.raises(ValueError, match="float64, which would become float32.*jax_enable_x64"):
        from_json(text)
