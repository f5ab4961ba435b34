"""Sweeps: one compiled program over many interventions, many images and many models.

Every question of this library is ``run(point, context)`` evaluated over a grid: points are what is
varied (a unit, a dose, a stacked intervention), contexts are what it is averaged over (an image,
its noise, its donor). ``run`` reduces on the device, so that only the effects leave it.

The grid is walked block by block, contexts in the outer loop and points in the inner one. What
depends on the context alone, such as the clean run, is computed once and serves all its points (see
``vaecausal_jax.tracing``), and memory is that of one block and of the result.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.jax_versions import platform
from vaecausal_jax.sweeps.reductions import Reduction
from vaecausal_jax.tracing import stage

MESH_AXES = ("models", "points", "contexts")

_CPU_BLOCK_BYTES = 4 << 20
"""What a block may compute on a CPU. A convolutional run exceeds it alone, and larger blocks of
them fall out of the cache; small dense layers need company to be worth loading their weights."""

_MEMORY_SHARE = 1 / 8
"""Of an accelerator's memory, for what a block computes."""

_PENDING_BYTES = 64 << 20
"""Of values that wait to be reduced, on any device."""


SweepFn = Callable[..., Any]
"""``sweep``, or what takes its arguments: ``functools.partial(sweep, mesh=mesh)``."""


class Block(NamedTuple):
    """How many points and contexts are evaluated together on each device."""

    points: int
    contexts: int


class Skip(NamedTuple):
    """How to leave out points that change nothing.

    Attributes:
        changes: ``changes(point, context)``, whether the point changes anything there.
        unchanged: ``unchanged(context)``, what ``run`` returns where it does not.
    """

    changes: Callable[..., Array]
    unchanged: Callable[..., Any]


def sweep(
    run: Callable[..., Any],
    points: Any,
    contexts: Any,
    *,
    models: Any = None,
    skip: Skip | None = None,
    reduction: Reduction | None = None,
    block: Block | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """Evaluates ``run(point, context)`` at every point and context.

    Args:
        run: Function of one point and one context, such as a forward followed by what is kept of
            it. With ``models``, of one model, one point and one context; likewise ``skip``.
        points: Pytree, leading axis of points: unit indices, or ``interventions.stack(...)``.
        contexts: Pytree, leading axis of contexts, e.g. ``(images, noise)``.
        models: Pytree, leading axis of models, e.g. the parameters of several seeds.
        skip: Which points need not be run. Exact work saved, at the price of a loop whose length is
            known only as it runs: no reverse-mode gradient through the sweep.
        reduction: What to keep over contexts (``sweeps.reductions``); all values if None.
        block: Points and contexts evaluated together; ``choose_block`` by default.
        mesh: Devices to spread the sweep over; its axes are among "models", "points", "contexts".

    Returns:
        The results with leading axes ([models,] points, contexts), or ([models,] points) after a
        reduction.

    Raises:
        ValueError: An empty grid, leaves that differ in length, or a mesh with other axes.
    """
    num_points = _leading_axis("points", points)
    num_contexts = _leading_axis("contexts", contexts)
    num_models = None if models is None else _leading_axis("models", models)
    if block is None:
        block = choose_block(run, points, contexts, models=models, mesh=mesh)
    if min(block) < 1:
        raise ValueError(f"block must be at least 1 x 1, got {block.points} x {block.contexts}.")
    num_devices = _devices_along(mesh)

    # Everything is padded to whole blocks on every device, and cut again at the end.
    per_device = block.contexts * num_devices["contexts"]
    contexts = _padded(contexts, per_device)
    points = _padded(points, block.points * num_devices["points"])
    index = jnp.arange(_leading_axis("contexts", contexts), dtype=jnp.int32)

    def over_grid(models, points, contexts, index):
        def at_model(model):
            bound, skips = _bind(run, skip, model)
            return _walk(
                bound,
                skips,
                reduction,
                block,
                points,
                (contexts, index, index < num_contexts),
                merge_over="contexts" if num_devices["contexts"] > 1 else None,
            )

        return at_model(None) if models is None else lax.map(at_model, models)

    if mesh is not None:
        if models is not None:
            models = _padded(models, num_devices["models"])
        over_grid = _on_mesh(over_grid, mesh, reduction, models is not None)
    results = jax.jit(over_grid)(models, points, contexts, index)

    sizes = [num_points] if reduction is not None else [num_points, num_contexts]
    sizes = sizes if num_models is None else [num_models, *sizes]
    return jax.tree.map(lambda leaf: leaf[tuple(slice(size) for size in sizes)], results)


def unreduced(sweep: SweepFn) -> SweepFn:
    """The same sweep, for a function that needs the value of every context.

    Raises:
        ValueError: One with a reduction.
    """
    if isinstance(sweep, functools.partial) and sweep.keywords.get("reduction") is not None:
        raise ValueError(
            "this function needs the value of every image, so sweep= takes a mesh and a block, and "
            "no reduction. Reductions fit patch_units, mediate, latent_game and unit_mediation."
        )

    def checked(run: Callable[..., Any], points: Any, contexts: Any, **options: Any) -> Any:
        results = sweep(run, points, contexts, **options)
        expected = _leading_axis("points", points), _leading_axis("contexts", contexts)
        for leaf in jax.tree.leaves(results):
            if jnp.shape(leaf)[:2] != expected:
                raise ValueError(
                    f"sweep= returned values of shape {jnp.shape(leaf)}, expected one per point "
                    f"and image, {expected}, ...: this function takes no reduction."
                )
        return results

    return checked


def over_devices(devices: Sequence[Any] | None = None, *, axis: str = "contexts") -> SweepFn:
    """``sweep`` with its contexts spread over devices: what a function's ``sweep=`` takes.

    Args:
        devices: Some devices; all that JAX has if None.
        axis: What to spread: "contexts", or "points" where there are few images and many units.
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("over_devices needs at least one device, got none.")
    return functools.partial(sweep, mesh=Mesh(np.array(devices), (axis,)))


def choose_block(
    run: Callable[..., Any],
    points: Any,
    contexts: Any,
    *,
    models: Any = None,
    mesh: Mesh | None = None,
) -> Block:
    """How many runs to evaluate together, from the bytes that one run computes.

    On a CPU a block should stay in the cache; elsewhere it should fill the device, within an eighth
    of its memory. Values waiting to be reduced are bounded on both.

    Args:
        run: As in ``sweep``, and so are the other arguments.
        points: Pytree of points.
        contexts: Pytree of contexts.
        models: Pytree of models, or None.
        mesh: Devices, or None for one.

    Returns:
        The block of each device; contexts are filled first.
    """
    num_devices = _devices_along(mesh)
    num_points = math.ceil(_leading_axis("points", points) / num_devices["points"])
    num_contexts = math.ceil(_leading_axis("contexts", contexts) / num_devices["contexts"])
    arguments = (points, contexts) if models is None else (models, points, contexts)
    first = jax.eval_shape(lambda trees: jax.tree.map(lambda leaf: leaf[0], trees), arguments)
    program = jax.make_jaxpr(run)(*first)
    value_bytes = sum(_bytes(aval) for aval in program.out_avals)
    if (platform() if mesh is None else mesh.devices.flat[0].platform) == "cpu":
        budget = _CPU_BLOCK_BYTES
    else:
        budget = int(_MEMORY_SHARE * _memory(mesh))
    runs = max(1, budget // max(_bytes_computed(program.jaxpr), 1))
    pending = max(1, _PENDING_BYTES // (num_points * max(value_bytes, 1)))
    together = _even_share(num_contexts, min(runs, pending))
    return Block(_even_share(num_points, max(1, runs // together)), together)


def _memory(mesh: Mesh | None) -> int:
    """Bytes of memory of one device, the same in every process; 16 GiB where it is not told.

    Only a device of this process can be asked. A mesh may have none: when a program is compiled for
    machines that are elsewhere.
    """
    here = jax.local_devices()
    if mesh is not None:
        here = [device for device in mesh.devices.flat if device in here]
    stats = (here[0].memory_stats() if here else None) or {}
    return stats.get("bytes_limit", 16 << 30)


def _walk(run, skip, reduction, block, points, rows, *, merge_over):
    """All points and contexts of one model on one device."""
    num_points = _leading_axis("points", points)
    blocks, rows = _in_blocks(points, block.points), _in_blocks(rows, block.contexts)

    over_points = _over_points(block.points, jax.vmap(run, (None, 0)))
    one_block = jax.tree.map(lambda a: a[0], blocks)
    # Three stages: what depends on the model alone, on the contexts too, and on the points.
    of_model = stage(
        lambda contexts, block: over_points(block, contexts),
        (),
        (jax.tree.map(lambda a: a[0], rows[0]), one_block),
    )

    def at_contexts(contexts):
        """Values of all points in one block of contexts: (points, contexts, ...)."""
        at_block = stage(of_model, (contexts,), (one_block,))
        if skip is None:
            values = lax.map(at_block, blocks)
        else:
            values = _skipping(at_block, skip, block, blocks, contexts)
        return jax.tree.map(lambda a: a.reshape(num_points, *a.shape[2:]), values)

    if reduction is None:
        values = lax.map(lambda row: at_contexts(row[0]), rows)
        return jax.tree.map(
            lambda a: jnp.moveaxis(a, 0, 1).reshape(
                num_points, a.shape[0] * a.shape[2], *a.shape[3:]
            ),
            values,
        )

    def take(state, row):
        contexts, index, valid = row
        update = jax.vmap(reduction.update, in_axes=(0, 0, None, None))
        return update(state, at_contexts(contexts), index, valid), None

    value = jax.eval_shape(at_contexts, jax.tree.map(lambda a: a[0], rows[0]))
    empty = reduction.init(
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), value)
    )
    state = jax.tree.map(lambda a: jnp.broadcast_to(a, (num_points, *a.shape)), empty)
    state, _ = lax.scan(take, state, rows)
    if merge_over is not None:
        parts = lax.all_gather(state, merge_over)
        first = jax.tree.map(lambda a: a[0], parts)
        rest = jax.tree.map(lambda a: a[1:], parts)
        merge = jax.vmap(reduction.merge)
        state, _ = lax.scan(lambda a, b: (merge(a, b), None), first, rest)
    return jax.vmap(reduction.finish)(state)


def _skipping(at_block, skip, block, blocks, contexts):
    """Runs the blocks of points that change something in any of the contexts."""
    changes = jax.vmap(jax.vmap(skip.changes, (None, 0)), (0, None))
    active = jax.vmap(lambda block: jnp.any(changes(block, contexts)))(blocks)
    first_active = jnp.argsort(~active, stable=True)
    unchanged = jax.vmap(skip.unchanged)(contexts)
    values = jax.tree.map(
        lambda a: jnp.broadcast_to(a[None, None], (active.size, block.points, *a.shape)), unchanged
    )

    def body(i, values):
        place = first_active[i]
        new = at_block(jax.tree.map(lambda a: a[place], blocks))
        return jax.tree.map(lambda all_, one: all_.at[place].set(one), values, new)

    return lax.fori_loop(0, jnp.sum(active), body, values)


def _over_points(size: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``vmap`` over points, but no batch axis where there is one: its indices stay plain slices."""
    if size > 1:
        return jax.vmap(function, (0, None))

    def single(points, contexts):
        values = function(jax.tree.map(lambda a: a[0], points), contexts)
        return jax.tree.map(lambda a: a[None], values)

    return single


def _bind(run, skip, model):
    if model is None:
        return run, skip
    bound = lambda point, context: run(model, point, context)  # noqa: E731
    if skip is None:
        return bound, None
    return bound, Skip(
        lambda point, context: skip.changes(model, point, context),
        lambda context: skip.unchanged(model, context),
    )


def _on_mesh(over_grid, mesh, reduction, has_models):
    # ``jax.make_mesh`` gives axes whose shardings are part of types; here they are the compiler's.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    axes = {name: name if name in mesh.shape else None for name in MESH_AXES}
    models = PartitionSpec(axes["models"])
    contexts = PartitionSpec(axes["contexts"])
    results = [axes["points"]] if reduction is not None else [axes["points"], axes["contexts"]]
    return jax.shard_map(
        over_grid,
        mesh=mesh,
        in_specs=(models, PartitionSpec(axes["points"]), contexts, contexts),
        out_specs=PartitionSpec(*([axes["models"]] if has_models else []), *results),
        check_vma=False,
    )


def _devices_along(mesh: Mesh | None) -> dict[str, int]:
    shape = {} if mesh is None else dict(mesh.shape)
    for name in shape:
        if name not in MESH_AXES:
            raise ValueError(unknown_choice("mesh axis", name, MESH_AXES))
    return {name: shape.get(name, 1) for name in MESH_AXES}


def _padded(tree: Any, multiple: int) -> Any:
    """Repeats the last row up to a multiple."""

    def pad(leaf):
        missing = -leaf.shape[0] % multiple
        return leaf if missing == 0 else jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, 0)])

    return jax.tree.map(pad, tree)


def _in_blocks(tree: Any, size: int) -> Any:
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // size, size, *a.shape[1:]), tree)


def _even_share(total: int, at_most: int) -> int:
    """A block size up to ``at_most`` that leaves little padding."""
    return math.ceil(total / math.ceil(total / min(total, at_most)))


def _bytes_computed(jaxpr: Any) -> int:
    """Bytes of all intermediate values of a jaxpr, those of nested ones included."""
    total = 0
    for equation in jaxpr.eqns:
        nested = [
            sub
            for parameter in equation.params.values()
            for sub in (parameter if isinstance(parameter, tuple | list) else (parameter,))
            if hasattr(sub, "eqns") or hasattr(sub, "jaxpr")
        ]
        if nested:
            total += sum(_bytes_computed(getattr(sub, "jaxpr", sub)) for sub in nested)
        else:
            total += sum(_bytes(variable.aval) for variable in equation.outvars)
    return total


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize if hasattr(aval, "shape") else 0


def _leading_axis(word: str, tree: Any) -> int:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lengths = {jnp.shape(leaf)[:1] for _, leaf in leaves}
    if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
        shapes = [f"{word}{jax.tree_util.keystr(path)} {jnp.shape(leaf)}" for path, leaf in leaves]
        raise ValueError(
            f"all leaves of {word} need one common, non-zero leading axis, got "
            f"{', '.join(shapes) or 'none'}."
        )
    return lengths.pop()[0]
