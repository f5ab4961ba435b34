"""Interventions and sweep specifications as JSON that needs no model to be read.

``to_json`` takes any tree of mappings, tuples, lists, arrays, typed PRNG keys, plain numbers and
strings, the interventions of this library and ``sweeps.Block``: an intervention, the stacked points
of a sweep, or a mapping that says all of one, such as

    {"site": "decoder/conv1", "units": units, "points": stack(...), "block": Block(4, 16)}

``from_json`` gives the same tree: types, shapes and every bit of every array (NaN, -0.0, bfloat16),
tuples of steps in their order. The text is an object of

    schema   "vaecausal_jax.tree"
    version  SCHEMA_VERSION; readers refuse every other
    digest   SHA-256 of the content as JSON with sorted keys and no spaces
    content  scalars and lists as in JSON; all else an object with its ``kind``
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions import Affine, BoxPatch, Clamp, CodeMap, Replace, SubspaceSwap
from vaecausal_jax.sweeps.grid import Block

SCHEMA = "vaecausal_jax.tree"
SCHEMA_VERSION = 1

TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (Affine, BoxPatch, Clamp, CodeMap, Replace, SubspaceSwap, Block)
}


def to_json(tree: Any) -> str:
    """The tree as JSON text.

    Raises:
        ValueError: A value of a type that cannot be kept, or a traced array, by its place.
    """
    content = _encode(tree, "")
    envelope = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "digest": _digest(content),
        "content": content,
    }
    return json.dumps(envelope, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The tree that ``to_json`` wrote; JAX arrays come back as such, NumPy arrays as theirs.

    Raises:
        ValueError: Text that is damaged, of another schema or version, or of unknown types; or a
            64-bit JAX array where ``jax_enable_x64`` is off.
    """
    try:
        envelope = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the text is not JSON ({error}); expected what to_json wrote.") from error
    if not isinstance(envelope, dict) or envelope.get("schema") != SCHEMA:
        given = envelope.get("schema") if isinstance(envelope, dict) else type(envelope).__name__
        raise ValueError(f"expected JSON of schema {SCHEMA!r}, got {given!r}.")
    version = envelope.get("version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ValueError(
            f"the JSON has schema version {version!r}; this release reads {SCHEMA_VERSION}. "
            "Read it with the release that wrote it."
        )
    if "content" not in envelope or envelope.get("digest") != _digest(envelope["content"]):
        raise ValueError("the JSON is damaged: its content does not have the digest it was given.")
    return _decode(envelope["content"], "")


def _digest(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _encode(value: Any, place: str) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"kind": "float", "value": repr(value)}
    if isinstance(value, Tracer):
        raise ValueError(f"{_at(place)} is traced; write JSON outside jit, vmap and grad.")
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = _array(np.asarray(jax.random.key_data(value)), place)
        return {"kind": "key", "implementation": str(jax.random.key_impl(value)), "data": data}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        kind = "jax" if isinstance(value, jax.Array) else "numpy"
        return {"kind": kind, **_array(np.asarray(value), place)}
    if TYPES.get(type(value).__name__) is type(value):
        fields = {name: _encode(v, f"{place}.{name}") for name, v in value._asdict().items()}
        return {"kind": type(value).__name__, "fields": fields}
    if type(value) in (tuple, list):
        items = [_encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
        return items if type(value) is list else {"kind": "tuple", "items": items}
    if isinstance(value, Mapping):
        if odd := [key for key in value if type(key) is not str]:
            raise ValueError(f"{_at(place)} has the key {odd[0]!r}; keys must be strings.")
        items = {key: _encode(v, f"{place}[{key!r}]") for key, v in value.items()}
        return {"kind": "mapping", "items": items}
    kinds = ", ".join(TYPES)
    raise ValueError(
        f"{_at(place)} is of type {type(value).__name__}, which JSON cannot keep. Expected arrays, "
        f"numbers, strings, mappings, tuples, lists, or one of {kinds}."
    )


def _array(array: np.ndarray, place: str) -> dict[str, Any]:
    if array.dtype.hasobject or array.dtype.names or array.dtype.kind in "SUMm":
        raise ValueError(f"{_at(place)} is an array of {array.dtype}, which JSON cannot keep.")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _decode(node: Any, place: str) -> Any:
    if isinstance(node, list):
        return [_decode(item, f"{place}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    kind = node.get("kind")
    try:
        if kind == "float":
            return float(node["value"])
        if kind == "tuple":
            return tuple(_decode(list(node["items"]), place))
        if kind == "mapping":
            return {key: _decode(v, f"{place}[{key!r}]") for key, v in node["items"].items()}
        if kind == "numpy":
            return _as_array(node)
        if kind == "jax":
            return _on_device(_as_array(node), place)
        if kind == "key":
            data = _as_array(node["data"])
            return jax.random.wrap_key_data(jnp.asarray(data), impl=node["implementation"])
        if kind in TYPES:
            fields = {name: _decode(v, f"{place}.{name}") for name, v in node["fields"].items()}
            return TYPES[kind](**fields)
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ValueError(f"{_at(place)} is not a valid {kind} ({error}).") from error
    known = ("float", "tuple", "mapping", "numpy", "jax", "key", *TYPES)
    raise ValueError(f"{_at(place)}: " + unknown_choice("kind", kind, known))


def _as_array(node: dict[str, Any]) -> np.ndarray:
    dtype = jnp.dtype(node["dtype"])
    data = base64.b64decode(node["data"], validate=True)
    flat = np.frombuffer(bytearray(data), dtype.newbyteorder("<"))
    return flat.astype(dtype, copy=False).reshape(node["shape"])


def _on_device(array: np.ndarray, place: str) -> jax.Array:
    with_x64 = jax.dtypes.canonicalize_dtype(array.dtype)
    if with_x64 != array.dtype:
        raise ValueError(
            f"{_at(place)} is a JAX array of {array.dtype}, which would become {with_x64} here. "
            'Call jax.config.update("jax_enable_x64", True) first.'
        )
    return jnp.asarray(array)


def _at(place: str) -> str:
    return f"the value at {place}" if place else "the value"
