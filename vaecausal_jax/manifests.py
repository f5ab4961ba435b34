"""What lies beside results to say what they are: JSON written whole or not at all, and compared."""

import hashlib
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file under its name only once all of it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def difference(saved: Any, given: Any, path: str = "") -> str:
    """The leaves in which two JSON values differ, in words; empty if they are equal."""
    if isinstance(saved, dict) and isinstance(given, dict):
        parts = [
            difference(saved.get(key), given.get(key), f"{path}.{key}" if path else str(key))
            for key in sorted(saved.keys() | given.keys())
        ]
        return "; ".join(part for part in parts if part)
    return "" if saved == given else f"{path}: saved {saved!r}, given {given!r}"


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
