"""Programs that run as several processes, such as one per host of a TPU pod.

Every process runs the same program, and a mesh holds the devices of all of them. Each process then
holds a part of every result, and one process alone should write files. With one process, which is
the ordinary case, all of this does nothing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def gathered(tree: Any) -> Any:
    """A tree whose arrays each process holds whole: as they are, or gathered to NumPy arrays.

    All processes must call it together. Typed PRNG keys stay keys, on a device of the process.
    """

    def gather(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = gather(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(gather, tree)


def to_host(tree: Any) -> Any:
    """NumPy arrays with the values of all arrays of a tree, the same in every process.

    All processes must call it together.
    """
    return jax.tree.map(np.asarray, gathered(tree))


def from_first(compute: Callable[[], Any]) -> Any:
    """What ``compute`` returns in the first process: the others neither call it nor touch a file.

    All processes must call it together.

    Args:
        compute: Returns a JSON value.

    Raises:
        Exception: The first process raises what ``compute`` raised; the others raise a ValueError,
            an OSError or a RuntimeError with the same text, so that none waits for ever.
    """
    if jax.process_count() == 1:
        return json.loads(json.dumps(compute()))
    return json.loads(_bytes_from_first(lambda: json.dumps(compute()).encode()))


@contextlib.contextmanager
def entered_by_first(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Enters a context, such as the lock of a folder, in the first process alone."""
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        from_first(enter)
        yield


def tree_from_first(tree: Any) -> Any:
    """The first process's values of a tree of NumPy arrays, bit for bit.

    All processes must call it together, with trees of the same structure, shapes and dtypes.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(leaf) for leaf in leaves]
    received = [_bytes_from_first(leaf.tobytes) if leaf.size else b"" for leaf in leaves]
    values = [
        np.frombuffer(content, leaf.dtype).reshape(leaf.shape).copy() if leaf.size else leaf
        for content, leaf in zip(received, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


_KINDS = (ValueError, OSError, RuntimeError)


def _bytes_from_first(compute: Callable[[], bytes]) -> bytes:
    content, kind, failure = b"", -1, None
    if is_first():
        try:
            content = compute()
        except Exception as error:
            failure = error
            content = str(error).encode()
            kind = next((i for i, k in enumerate(_KINDS) if isinstance(error, k)), 2)
    # As two numbers: JAX may have 32 bits alone, which end at 2 GiB.
    header = np.array([*divmod(len(content), 1 << 30), kind], np.int32)
    large, small, kind = multihost_utils.broadcast_one_to_all(header).tolist()
    buffer = np.zeros((large << 30) + small, np.uint8)
    if is_first():
        buffer[:] = np.frombuffer(content, np.uint8)
    content = np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8).tobytes()
    if failure is not None:
        raise failure
    if kind >= 0:
        raise _KINDS[kind](f"the first process reports: {content.decode()}")
    return content
