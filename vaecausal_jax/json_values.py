"""Values as JSON: what is written beside results, and is compared when they are continued."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def json_values(value: Any, name: str) -> Any:
    """A value as what JSON reads back: paths as text, arrays, tuples and sets as lists.

    The elements of a set are sorted. Numbers that are not finite stay as they are.

    Args:
        value: What to write.
        name: What the value is called in messages.

    Raises:
        ValueError: An entry that JSON cannot hold, by name; two keys that are one in JSON.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return json.loads(json.dumps(value))
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in value.items():
            text = _json_key(key, name)
            if text in found:
                raise ValueError(f"two keys of {name} are {text!r} in JSON.")
            found[text] = json_values(item, f"{name}.{text}")
        return found
    if isinstance(value, list | tuple):
        return [json_values(item, f"{name}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        items = [json_values(item, f"{name}[{item!r}]") for item in value]
        return sorted(items, key=json.dumps)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        return json_values(value.tolist(), name)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        with contextlib.suppress(TypeError, ValueError):
            dtype = plain_dtype(value.dtype)
            if dtype.kind != "c":
                return np.asarray(value).astype(dtype).tolist()
    raise ValueError(
        f"{name} is {value!r} of type {type(value).__name__}, which JSON cannot hold: give text, a "
        "number, or a list or mapping of such values."
    )


def _json_key(key: Any, name: str) -> str:
    if isinstance(key, os.PathLike):
        return os.fsdecode(key)
    if isinstance(key, np.bool | np.integer | np.floating):
        key = key.item()
    if key is None or isinstance(key, bool | int | float | str):
        return next(iter(json.loads(json.dumps({key: None}))))
    raise ValueError(
        f"{name} has the key {key!r} of type {type(key).__name__}, expected text or a number."
    )


def read_object(path: pathlib.Path, advice: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        advice: What to do if it is damaged, a sentence.

    Raises:
        ValueError: The file is damaged, by name and with the advice.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). {advice}") from error
    return value


def difference(saved: Any, given: Any, path: str = "") -> str:
    """The leaves in which two JSON values differ, in words; empty if they are equal."""
    if isinstance(saved, dict) and isinstance(given, dict):
        parts = [
            difference(saved.get(key), given.get(key), f"{path}.{key}" if path else str(key))
            for key in sorted(saved.keys() | given.keys())
        ]
        return "; ".join(part for part in parts if part)
    # NaN equals itself in text alone.
    same = saved == given or json.dumps(saved) == json.dumps(given)
    return "" if same else f"{path}: saved {saved!r}, given {given!r}"


def tree_digest(tree: Any) -> str:
    """SHA-256 over the paths, types, shapes and bytes of all leaves of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def plain_dtype(dtype: Any) -> np.dtype:
    """The type of NumPy's own that holds every value of a type of numbers.

    It is the type itself where it is NumPy's; float32 for bfloat16 and 8-bit floats, int8 and uint8
    for integers of less than 8 bits.

    Raises:
        ValueError: A type that is not of numbers or booleans, such as that of PRNG keys.
    """
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError("are PRNG keys, whose words jax.random.key_data gives")
    dtype = np.dtype(dtype)
    if dtype.kind in "biufc" and dtype.type.__module__ == "numpy":
        return dtype
    for kind, plain in (
        (jnp.floating, np.float32),
        (jnp.signedinteger, np.int8),
        (jnp.unsignedinteger, np.uint8),
    ):
        if jnp.issubdtype(dtype, kind):
            return np.dtype(plain)
    raise ValueError(f"are of type {dtype}, expected numbers or booleans")
