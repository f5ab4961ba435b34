"""Checkpoints on disk, and training that can be killed at any moment and go on.

A checkpoint is an Orbax folder ``<folder>/<step>`` and, written last and atomically, a manifest
``<folder>/<step>.json`` with the size and digest of every file. A folder without its manifest is a
save that was interrupted, and is ignored. A file that does not match its manifest is refused.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from vaecausal_jax.json_values import difference, json_values
from vaecausal_jax.locks import run_lock
from vaecausal_jax.manifests import versions, write_text
from vaecausal_jax.processes import entered_by_first, from_first, gathered, to_host, tree_from_first
from vaecausal_jax.training.seeds import fastest_over_seeds
from vaecausal_jax.training.trainer import TrainConfig, TrainState, check_images, make_trainer

KEEP = 2
"""Complete checkpoints that are kept; older ones are deleted."""


def save(folder: str | os.PathLike, step: int, tree: Any, spec: Mapping[str, Any]) -> None:
    """Writes a checkpoint; it exists only once all of it is on disk.

    Of several processes the first one writes; all must call it together.

    Args:
        folder: Where the run's checkpoints live; made if absent.
        step: Number of the checkpoint.
        tree: Pytree of arrays, typed PRNG keys included.
        spec: What produced it, as JSON values, which are compared when it is restored.
    """
    tree = gathered(tree)
    from_first(lambda: _save(pathlib.Path(folder).absolute(), step, tree, spec))


def _save(folder: pathlib.Path, step: int, tree: Any, spec: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(step)
    (folder / f"{step}.json").unlink(missing_ok=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(target, jax.tree.map(_without_key, tree), force=True)
    manifest = {
        "spec": json_values(spec, "spec"),
        "versions": versions(),
        "arrays": _kinds(tree),
        "keys": _kinds_of_keys(tree),
        "files": _digests(target),
    }
    write_text(folder / f"{step}.json", json.dumps(manifest, indent=1))
    for old in _complete_steps(folder)[:-KEEP]:
        (folder / f"{old}.json").unlink()
        shutil.rmtree(folder / str(old))


def latest_step(folder: str | os.PathLike) -> int | None:
    """The number of the last complete checkpoint, or None."""
    steps = _complete_steps(pathlib.Path(folder))
    return steps[-1] if steps else None


def restore(folder: str | os.PathLike, like: Any, spec: Mapping[str, Any]) -> Any:
    """Reads the last complete checkpoint, on any number of devices.

    Of several processes the first one reads; all must call it together.

    Args:
        folder: Where the run's checkpoints live.
        like: Pytree of the expected structure, shapes and dtypes (``jax.eval_shape`` gives one).
        spec: What is about to be continued; must equal what was saved.

    Returns:
        The tree, as arrays that are bound to no device.

    Raises:
        ValueError: No checkpoint; one of another spec, with the difference; a file missing,
            truncated or altered, by name; another structure, shape or dtype than ``like``.
    """
    found: dict[str, Any] = {}

    def read() -> dict[str, str]:
        found["words"], kinds_of_key = _restore(pathlib.Path(folder).absolute(), like, spec)
        return kinds_of_key

    kinds_of_key = from_first(read)
    on_disk = jax.tree.map(_words_of, like)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), on_disk)
    words = tree_from_first(found.get("words", blank))
    return jax.tree.map_with_path(
        lambda path, words, like: _from_words(
            words, like, kinds_of_key.get(jax.tree_util.keystr(path))
        ),
        words,
        like,
    )


def _restore(
    folder: pathlib.Path, like: Any, spec: Mapping[str, Any]
) -> tuple[Any, dict[str, str]]:
    """The stored values of all leaves as NumPy arrays, and of typed keys by path their kind."""
    step = latest_step(folder)
    if step is None:
        raise ValueError(f"no complete checkpoint in {folder}.")
    target, advice = folder / str(step), _advice(folder, step)
    saved_spec, arrays, files, keys = _read_manifest(folder / f"{step}.json", advice)
    if differing := difference(saved_spec, json_values(spec, "spec")):
        raise ValueError(
            f"checkpoint {target} belongs to another run ({differing}). Use another output folder "
            f"than {folder}, or the saved settings."
        )
    if differing := difference(arrays, _kinds(like)):
        raise ValueError(
            f"checkpoint {target} holds other arrays than expected ({differing}). {advice}"
        )
    _check_files(target, files, advice)
    # Before there was this entry, keys were stored typed.
    on_disk = like if keys is None else jax.tree.map(_words_of, like)
    with _checkpointer() as checkpointer:
        tree = checkpointer.restore(target, jax.tree.map(_abstract, on_disk))
    return jax.tree.map(_words, tree), _kinds_of_keys(tree) if keys is None else keys


def train_resumably(
    config: TrainConfig,
    keys: Array,
    data: Any,
    folder: str | os.PathLike,
    *,
    spec: Mapping[str, Any],
    records_per_save: int = 10,
    over_seeds: Callable[..., Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[int, Mapping[str, np.ndarray]], None] = lambda done, history: None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Trains one model per key in one program, saves as it goes and goes on where it stopped.

    If it is interrupted and called again with the same arguments, it gives bit for bit what it
    would have given uninterrupted.

    Args:
        config: What to train.
        keys: Typed PRNG keys, (seeds,).
        data: See ``make_train``.
        folder: Where checkpoints live.
        spec: JSON values that identify the run (families, sizes, data): a folder of another spec is
            refused.
        records_per_save: Records between checkpoints.
        over_seeds: ``map_seeds``, ``vmap_seeds`` or ``shard_seeds``; the fastest here if None.
        progress: Called with (steps done, steps in all) at the start and after each save.
        watch: Called before each call of ``progress`` with (steps done, history), the history as it
            is returned, with NaN where nothing is recorded yet.

    Returns:
        States with a leading axis of seeds; history with leading axes (seeds, records).

    Raises:
        ValueError: Images on an unknown scale, see ``make_train``; a folder of another run.
    """
    check_images(config, data)
    over_seeds = over_seeds or fastest_over_seeds()
    trainer = make_trainer(config)
    num_records = config.num_steps // config.record_every
    while num_records % records_per_save:
        records_per_save -= 1
    advance = jax.jit(over_seeds(lambda s, d: trainer.advance(s, d, records_per_save)))
    states = jax.eval_shape(jax.vmap(trainer.init), keys)
    history = jax.tree.map(
        lambda leaf: np.full((leaf.shape[0], num_records, *leaf.shape[2:]), np.nan, leaf.dtype),
        jax.eval_shape(advance, states, data)[1],
    )
    last = num_records * config.record_every
    with contextlib.ExitStack() as stack:
        if from_first(lambda: latest_step(folder)) != last:
            # A finished run may be read by many at once.
            stack.enter_context(entered_by_first(run_lock(folder)))
        if from_first(lambda: latest_step(folder)) is None:
            states = jax.jit(over_seeds(lambda key, _: trainer.init(key)))(keys, data)
        else:
            states, history = restore(folder, (states, history), spec)
            history = jax.tree.map(np.array, history)
        done = int(to_host(states.step)[0]) // config.record_every
        watch(done * config.record_every, history)
        progress(done * config.record_every, config.num_steps)
        while done < num_records:
            states, records = advance(states, data)
            after = done + records_per_save
            for name, values in to_host(records).items():
                history[name][:, done:after] = values
            done = after
            save(folder, done * config.record_every, (states, history), spec)
            watch(done * config.record_every, history)
            progress(done * config.record_every, config.num_steps)
        return gathered(states), history


def _complete_steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


def _digests(target: pathlib.Path) -> dict[str, Any]:
    return {
        str(path.relative_to(target)): [path.stat().st_size, _sha256(path)]
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: pathlib.Path, advice: str) -> tuple[Any, ...]:
    try:
        manifest = json.loads(path.read_text())
        parts = tuple(manifest[name] for name in ("spec", "arrays", "files"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest of vaecausal_jax ({type(error).__name__}: {error}). {advice}"
        ) from error
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{path} is not a manifest of vaecausal_jax. {advice}")
    return *parts, manifest.get("keys")


def _check_files(target: pathlib.Path, files: Mapping[str, Any], advice: str) -> None:
    for name, (size, digest) in files.items():
        path = target / name
        if not path.is_file():
            raise ValueError(f"checkpoint file {path} is missing. {advice}")
        if path.stat().st_size != size:
            raise ValueError(
                f"checkpoint file {path} has {path.stat().st_size} bytes, expected {size}: "
                f"truncated or overwritten. {advice}"
            )
        if _sha256(path) != digest:
            raise ValueError(
                f"checkpoint file {path} is altered: its sha256 differs from the manifest. {advice}"
            )


def _advice(folder: pathlib.Path, step: int) -> str:
    if earlier := [other for other in _complete_steps(folder) if other < step]:
        return f"Delete {folder / f'{step}.json'} to go on from step {earlier[-1]}."
    return f"Delete {folder} to start this run afresh."


def _kinds(tree: Any) -> dict[str, str]:
    """Type and shape of every leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}


def _checkpointer() -> ocp.StandardCheckpointer:
    """Orbax for this process alone: the others do not wait at its barriers."""
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    if jax.process_count() == 1:
        options = ocp.options.MultiprocessingOptions()
    return ocp.StandardCheckpointer(multiprocessing_options=options)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key(leaf: Any) -> Any:
    """A leaf as it is stored: a typed key as its words, which any process can write."""
    return np.asarray(jax.random.key_data(leaf)) if _is_key(leaf) else leaf


def _words(leaf: Any) -> np.ndarray:
    return np.asarray(_without_key(leaf))


def _words_of(like: Any) -> Any:
    """The abstract array of a key's words."""
    if not _is_key(like):
        return like
    words = jax.eval_shape(jax.random.key_data, like)
    return np.zeros(words.shape, words.dtype)


def _kinds_of_keys(tree: Any) -> dict[str, str]:
    """Path of every typed key to the name of its generator."""
    return {
        jax.tree_util.keystr(path): str(jax.random.key_impl(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if _is_key(leaf)
    }


def _from_words(words: np.ndarray, like: Any, kind_of_key: str | None) -> Any:
    """Rebuilds a leaf from its stored values, bound to no device: a program may spread it."""
    if isinstance(like, np.ndarray):
        return words
    if kind_of_key is not None:
        return jax.random.wrap_key_data(jnp.asarray(words), impl=kind_of_key)
    return jnp.asarray(words)


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    # Without a sharding Orbax asks for the very devices that it was saved from.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
