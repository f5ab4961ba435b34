"""Many seeds in one program: one after another, batched, or spread over devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from vaecausal_jax.jax_versions import platform


def map_seeds(run: Callable[..., Any]) -> Callable[..., Any]:
    """Runs seeds one after another in one program: ``run(seed_argument, data)`` over axis 0."""
    return lambda seeds, data: jax.lax.map(lambda seed: run(seed, data), seeds)


def vmap_seeds(run: Callable[..., Any]) -> Callable[..., Any]:
    """Runs all seeds at once, batched: ``run(seed_argument, data)`` over axis 0."""
    return jax.vmap(run, in_axes=(0, None))


def shard_seeds(
    run: Callable[..., Any],
    *,
    devices: Sequence[Any] | None = None,
    on_each: Callable[..., Any] = map_seeds,
) -> Callable[..., Any]:
    """Spreads seeds over the devices: ``run(seed_argument, data)`` over axis 0.

    Where the seeds do not fill the devices evenly, the last seed is computed more than once and its
    copies are dropped.

    Args:
        run: What is done for one seed.
        devices: All by default, those of other processes included.
        on_each: How the seeds of one device are run: ``map_seeds`` or ``vmap_seeds``.
    """

    def over_devices(seeds, data):
        num_seeds = jax.tree.leaves(seeds)[0].shape[0]
        chosen = list(jax.devices() if devices is None else devices)
        # Every process needs a device in the mesh; alone, there is no use for more than the seeds.
        if len({device.process_index for device in chosen}) == 1:
            chosen = chosen[:num_seeds]
        if devices is None and len(chosen) == 1:
            return on_each(run)(seeds, data)
        spec = PartitionSpec("seed")
        spread = jax.shard_map(
            on_each(run),
            mesh=Mesh(np.array(chosen), ("seed",)),
            in_specs=(spec, PartitionSpec()),
            out_specs=spec,
            check_vma=False,
        )
        missing = -num_seeds % len(chosen)
        if missing == 0:
            return spread(seeds, data)
        every = jnp.minimum(jnp.arange(num_seeds + missing), num_seeds - 1)
        results = spread(jax.tree.map(lambda leaf: leaf[every], seeds), data)
        return jax.tree.map(lambda leaf: leaf[:num_seeds], results)

    return over_devices


def fastest_over_seeds() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The way over seeds that measured fastest on this platform (``benchmarks/training.py``).

    Seeds are spread over all devices; each runs its seeds at once on a GPU, and one after another
    elsewhere. For TPUs only the compiled programs are known (``benchmarks/tpu_programs.py``):
    kernels that differ from seed to seed become groups of a convolution, and 64 of them do 1.7
    times the arithmetic.
    """
    if platform() == "gpu":
        return functools.partial(shard_seeds, on_each=vmap_seeds)
    return shard_seeds
