"""Whether arrays that go together hold as many rows."""

from typing import Any

import jax
import jax.numpy as jnp


def check_rows(**given: Any) -> int:
    """The number of rows that all of these have on their leading axis.

    Args:
        **given: Arrays, or pytrees of them, by the names that the caller knows them by; None is
            left out.

    Raises:
        ValueError: Lengths that differ, or none at all: each is named.
    """
    lengths = {
        name: {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in leaves}
        for name, value in given.items()
        if (leaves := jax.tree.leaves(value))
    }
    found = set().union(*lengths.values())
    num = next(iter(found), None)
    if len(found) != 1 or not num:
        texts = [
            f"{name} has {' and '.join('no axis' if n is None else str(n) for n in sizes)}"
            for name, sizes in lengths.items()
        ]
        raise ValueError(f"one common number of rows, at least one, is needed: {', '.join(texts)}.")
    return num
