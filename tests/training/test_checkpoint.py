"""Checkpoints: exact round trips, refused damage, and training that survives its own death."""

import errno
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vaecausal_jax import models
from vaecausal_jax.training import checkpoint, seeds, trainer
from vaecausal_jax.training import objectives as obj

SPEC = {"family": "vae", "sizes": (4, 2), "rate": 0.5}
MLP = models.mlp_vae((4, 4, 1), latent_size=2, encoder_dense=(8,), decoder_dense=(8,))
VQ = models.vq_vae(
    (8, 8, 1), num_codes=4, code_size=3, encoder_channels=(4,), decoder_channels=(4,)
)
FAMILIES = {
    "vae": (obj.vae(), MLP),
    "factor_vae": (obj.factor_vae(5.0, widths=(4,)), MLP),
    "vq_vae": (obj.vq_vae(), VQ),
}


@pytest.fixture(scope="module", autouse=True)
def compile_cache(tmp_path_factory):
    """Programs compiled once a module, in its subprocesses too: each run traces a fresh closure."""
    folder = tmp_path_factory.mktemp("compiled")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


class Pair(NamedTuple):
    """A node of the tree below."""

    left: jax.Array
    right: tuple


def tree():
    """Every kind of leaf and node that a training state is made of."""
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)}}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "pair": Pair(jnp.asarray([jnp.nan, jnp.inf, -0.0, 1e-45]), ()),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(7), (2, 2)),
        "step": jnp.int32(2**31 - 1),
        "history": np.full((2, 3), np.nan),
        "none": (),
    }


def raw(tree):
    """The tree as bits, so that keys and NaN are compared too."""

    def bits(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).reshape(-1).view(np.uint8)

    return jax.tree.map(bits, tree)


def assert_bitwise(*trees):
    chex.assert_trees_all_equal(*map(raw, trees))


def train(folder, name="vae", **options):
    objective, model = FAMILIES[name]
    config = trainer.TrainConfig(
        model, objective, optax.adam(1e-2), num_steps=12, batch_size=4, record_every=2
    )
    images = np.random.default_rng(0).uniform(size=(16, *model.image_shape)).astype(np.float32)
    options = {"spec": {"family": name}, "records_per_save": 2, **options}
    keys = jax.random.split(jax.random.key(0), 2)
    return checkpoint.train_resumably(config, keys, images, folder, **options)


class Crash(Exception):
    """Stands for anything that ends a process."""


def crash_at(step):
    def progress(done, total):
        if done == step:
            raise Crash

    return progress


# Round trips.


def test_everything_comes_back_bitwise(tmp_path):
    checkpoint.save(tmp_path, 5, tree(), SPEC)
    restored = checkpoint.restore(tmp_path, tree(), SPEC)
    assert_bitwise(restored, tree())
    chex.assert_trees_all_equal_structs(restored, tree())
    assert jax.tree.map(lambda leaf: leaf.dtype, restored) == jax.tree.map(
        lambda leaf: leaf.dtype, tree()
    )
    assert jax.random.uniform(restored["key"]) == jax.random.uniform(tree()["key"])


def test_shapes_alone_say_what_to_restore(tmp_path):
    state = {key: value for key, value in tree().items() if key != "history"}
    checkpoint.save(tmp_path, 0, state, SPEC)
    abstract = jax.eval_shape(lambda: state)
    assert_bitwise(checkpoint.restore(tmp_path, abstract, SPEC), state)


def test_keys_that_were_stored_typed_as_before_are_still_read(tmp_path):
    checkpoint.save(tmp_path, 0, tree(), SPEC)
    shutil.rmtree(tmp_path / "0")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "0", tree())
    manifest = json.loads((tmp_path / "0.json").read_text())
    del manifest["keys"]
    manifest["files"] = checkpoint._digests(tmp_path / "0")
    (tmp_path / "0.json").write_text(json.dumps(manifest))
    assert_bitwise(checkpoint.restore(tmp_path, tree(), SPEC), tree())


def test_arrays_spread_over_devices_come_back_bound_to_none(tmp_path):
    mesh = jax.make_mesh((2,), ("seed",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seed"))
    saved = {"x": jnp.arange(4.0), "key": jax.random.split(jax.random.key(0), 2)}
    checkpoint.save(tmp_path, 0, jax.device_put(saved, spread), SPEC)
    restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: saved), SPEC)
    assert_bitwise(restored, saved)
    for devices in (jax.devices(), jax.devices()[1:]):
        run = seeds.shard_seeds(lambda x, _: 2 * x)
        with jax.default_device(devices[0]):
            np.testing.assert_array_equal(jax.jit(run)(restored["x"], 0.0), 2 * saved["x"])


def test_only_the_last_complete_checkpoints_are_kept(tmp_path):
    for step in (2, 9, 10, 100):  # as numbers: 100 is later than 9
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, 1.0 * step)}, SPEC)
    kept = [10, 100]
    assert len(kept) == checkpoint.KEEP
    assert sorted(os.listdir(tmp_path)) == sorted(
        f"{n}{end}" for n in kept for end in ("", ".json")
    )
    assert checkpoint.latest_step(tmp_path) == 100
    np.testing.assert_array_equal(
        checkpoint.restore(tmp_path, {"x": jnp.zeros(2)}, SPEC)["x"], [100.0, 100.0]
    )


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2)}, SPEC)
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(3)}, SPEC)
    restored = checkpoint.restore(tmp_path, {"x": jnp.zeros(3)}, SPEC)
    np.testing.assert_array_equal(restored["x"], np.ones(3))


def test_folder_without_manifest_is_an_interrupted_save_and_is_ignored(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, 1.0 * step)}, SPEC)
    (tmp_path / "2.json").rename(tmp_path / "2.partial")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes.json").write_text("mine")
    assert checkpoint.latest_step(tmp_path) == 1
    restored = checkpoint.restore(tmp_path, {"x": jnp.zeros(2)}, SPEC)
    np.testing.assert_array_equal(restored["x"], [1.0, 1.0])
    checkpoint.save(tmp_path, 2, {"x": jnp.full(2, 5.0)}, SPEC)
    restored = checkpoint.restore(tmp_path, {"x": jnp.zeros(2)}, SPEC)
    np.testing.assert_array_equal(restored["x"], [5.0, 5.0])


def test_manifest_records_versions_and_spec(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2)}, SPEC)
    manifest = json.loads((tmp_path / "1.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["spec"] == {"family": "vae", "sizes": [4, 2], "rate": 0.5}


# Interrupted training.


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAMILIES)
def test_interrupted_training_continues_bitwise(name, tmp_path):
    seen = []
    whole = train(tmp_path / "whole", name, progress=lambda *a: seen.append(a))
    assert seen == [(0, 12), (4, 12), (8, 12), (12, 12)]
    with pytest.raises(Crash):
        train(tmp_path / "broken", name, progress=crash_at(4))
    seen.clear()
    resumed = train(tmp_path / "broken", name, progress=lambda *a: seen.append(a))
    assert seen == [(4, 12), (8, 12), (12, 12)]
    assert_bitwise(resumed, whole)
    assert np.isfinite(whole[1]["loss"]).all()


def test_finished_training_is_read_back_and_not_run_again(tmp_path):
    with pytest.raises(Crash):
        train(tmp_path, progress=crash_at(0))
    finished, seen = train(tmp_path), []
    assert_bitwise(train(tmp_path, progress=lambda *a: seen.append(a)), finished)
    assert seen == [(12, 12)]
    with pytest.raises(ValueError, match="belongs to another run"):
        train(tmp_path, spec={"family": "other"})


@pytest.mark.thorough
def test_number_of_records_between_saves_changes_no_number(tmp_path):
    often = train(tmp_path / "often", records_per_save=1)
    rarely = train(tmp_path / "rarely", records_per_save=5)  # 5 does not divide 6: 3 does
    assert_bitwise(often, rarely)
    assert sorted(p.name for p in (tmp_path / "rarely").glob("*.json")) == ["12.json", "6.json"]


# A process that is really killed.

SCRIPT = """
import sys, time
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
jax.config.update("jax_compilation_cache_dir", sys.argv[4])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import numpy as np, optax
from vaecausal_jax import models, objectives, training
from vaecausal_jax.training import checkpoint

write = checkpoint.write_text
def slowly(path, text):  # widens the moment between the data and its manifest
    time.sleep(float(sys.argv[3]))
    write(path, text)
checkpoint.write_text = slowly

model = models.mlp_vae((4, 4, 1), latent_size=2, encoder_dense=(8,), decoder_dense=(8,))
config = training.TrainConfig(
    model, objectives.vae(), optax.adam(1e-2), num_steps=30, batch_size=4, record_every=1)
images = np.random.default_rng(0).uniform(size=(16, 4, 4, 1)).astype(np.float32)
state, history = checkpoint.train_resumably(
    config, jax.random.split(jax.random.key(0), 2), images, sys.argv[1],
    spec={}, records_per_save=1, progress=lambda done, total: print(done, flush=True))
leaves = jax.tree.leaves((state.params, state.optimizer_state, history))
leaves.append(jax.random.key_data(state.key))
np.savez(sys.argv[1] + "/final.npz", *[np.asarray(leaf) for leaf in leaves])
"""


def start(folder, cache, *, num_devices=2, seconds_before_manifest=0.0):
    folder.mkdir(exist_ok=True)
    arguments = [str(a) for a in (folder, num_devices, seconds_before_manifest, cache)]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [int(line) for line in out.split()]


def wait_until(claim, process):
    deadline = time.monotonic() + 60
    while not claim():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def unfinished(folder):
    """Steps whose data are in place and whose manifest is not."""
    steps = {int(p.name) for p in folder.iterdir() if p.name.isdigit()}
    return steps - {int(p.stem) for p in folder.glob("*.json")}


@pytest.mark.thorough
def test_training_killed_at_any_moment_ends_bitwise_as_if_it_had_not_been(tmp_path, compile_cache):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(start(whole, compile_cache)) == list(range(31))

    process = start(broken, compile_cache)
    wait_until(lambda: any(broken.glob("*.json")), process)
    delay = random.uniform(0.0, 1.0)
    time.sleep(delay)
    kill(process)
    reached = checkpoint.latest_step(broken)
    assert reached is not None

    # Killed once more, between the data of a checkpoint and its manifest; on one device now.
    process = start(broken, compile_cache, num_devices=1, seconds_before_manifest=60.0)
    wait_until(lambda: any(step > reached for step in unfinished(broken)), process)
    kill(process)
    assert checkpoint.latest_step(broken) == reached

    progress = finish(start(broken, compile_cache))
    assert progress == list(range(reached, 31)), f"killed after {delay} s"
    with np.load(whole / "final.npz") as expected, np.load(broken / "final.npz") as resumed:
        assert len(expected.files) > 20
        for name in expected.files:
            np.testing.assert_array_equal(
                resumed[name].view(np.uint8), expected[name].view(np.uint8)
            )
    assert checkpoint.latest_step(broken) == 30


# Damage.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints 1 and 2, to be copied before it is damaged."""
    folder = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        checkpoint.save(folder, step, {"x": jnp.full(500, 1.0 * step)}, SPEC)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))


def largest_file(folder):
    return max(
        (p for p in (folder / "2").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def alter(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def remove(folder):
    path = largest_file(folder)
    path.unlink()
    return path


def remove_all(folder):
    shutil.rmtree(folder / "2")
    return folder / "2"


def manifest(content):
    def write(folder):
        path = folder / "2.json"
        path.write_bytes(content(path.read_bytes()))
        return path

    return write


DAMAGE = {
    "truncated": (truncate, "bytes, expected .*: truncated or overwritten"),
    "altered": (alter, "is altered: its sha256 differs"),
    "file removed": (remove, "is missing"),
    "folder removed": (remove_all, "is missing"),
    "manifest truncated": (manifest(lambda b: b[: len(b) // 2]), "not a manifest of vaecausal_jax"),
    "manifest empty": (manifest(lambda b: b""), "not a manifest of vaecausal_jax"),
    "manifest binary": (manifest(lambda b: b"\xff\x00" + b), "not a manifest of vaecausal_jax"),
    "not JSON": (manifest(lambda b: b"hello"), "not a manifest of vaecausal_jax"),
    "a number": (manifest(lambda b: b"3"), "not a manifest of vaecausal_jax"),
    "a list": (manifest(lambda b: b"[1]"), "not a manifest of vaecausal_jax"),
    "foreign": (manifest(lambda b: b'{"name": "x"}'), r"not a manifest of .* 'spec'"),
    "look-alike": (
        manifest(lambda b: b'{"spec": 1, "arrays": 2, "files": 3}'),
        "not a manifest of vaecausal_jax",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoint_is_refused_by_name_and_its_advice_helps(kind, folder):
    damage, message = DAMAGE[kind]
    path = damage(folder)
    like = {"x": jnp.zeros(500)}
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.restore(folder, like, SPEC)
    assert str(path) in str(caught.value)
    assert f"Delete {folder / '2.json'} to go on from step 1." in str(caught.value)
    (folder / "2.json").unlink()
    np.testing.assert_array_equal(checkpoint.restore(folder, like, SPEC)["x"], np.ones(500))


def test_advice_for_the_only_checkpoint_is_to_start_afresh(folder):
    (folder / "1.json").unlink()
    remove(folder)
    with pytest.raises(ValueError, match=f"Delete {folder} to start this run afresh"):
        checkpoint.restore(folder, {"x": jnp.zeros(500)}, SPEC)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rate": 0.25}, "rate: saved 0.5, given 0.25"),
        ({"sizes": (4, 3)}, r"sizes: saved \[4, 2\], given \[4, 3\]"),
        ({"extra": 1}, "extra: saved None, given 1"),
        ({"rate": 1, "family": "b"}, "family: saved 'vae', given 'b'; rate: saved 0.5, given 1"),
    ],
)
def test_another_spec_is_refused_naming_key_and_both_values(changed, message, saved):
    with pytest.raises(ValueError, match=f"belongs to another run .{message}"):
        checkpoint.restore(saved, {"x": jnp.zeros(500)}, {**SPEC, **changed})


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": jnp.zeros(501)}, r"\['x'\]: saved 'float32\(500,\)', given 'float32\(501,\)'"),
        ({"x": jnp.zeros((500, 1))}, r"given 'float32\(500, 1\)'"),
        ({"x": jnp.zeros(500, jnp.int32)}, r"given 'int32\(500,\)'"),
        (
            {"y": jnp.zeros(500)},
            r"\['x'\]: saved 'float32\(500,\)', given None; \['y'\]: saved None",
        ),
        (
            {"x": jnp.zeros(500), "k": jax.random.key(0)},
            r"\['k'\]: saved None, given 'key<fry>\(\)'",
        ),
        ((), "given None"),
    ],
    ids=["length", "rank", "dtype", "name", "more", "nothing"],
)
def test_other_arrays_than_expected_are_refused_by_path(like, message, saved):
    with pytest.raises(ValueError, match=f"holds other arrays than expected .*{message}"):
        checkpoint.restore(saved, like, SPEC)


def test_empty_or_absent_folder_holds_no_checkpoint(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert checkpoint.latest_step(folder) is None
        with pytest.raises(ValueError, match=f"no complete checkpoint in {folder}"):
            checkpoint.restore(folder, {}, SPEC)


def test_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        checkpoint.save(tmp_path / "file" / "run", 1, {"x": jnp.zeros(2)}, SPEC)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_an_error_that_names_it(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        checkpoint.save(tmp_path / "run", 1, {"x": jnp.zeros(2)}, SPEC)


# A full disk.


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["data", "manifest"])
def test_full_disk_keeps_the_last_checkpoint_and_training_goes_on_from_it(
    victim, tmp_path, monkeypatch
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(done, total):
        if done == 4 and victim == "manifest":
            monkeypatch.setattr(checkpoint, "write_text", full)
        elif done == 4:
            monkeypatch.setattr(checkpoint.ocp.StandardCheckpointer, "save", full)

    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "run", progress=fill)
    monkeypatch.undo()
    assert checkpoint.latest_step(tmp_path / "run") == 4
    assert_bitwise(train(tmp_path / "run"), train(tmp_path / "whole"))


def test_write_that_the_system_cuts_short_leaves_no_checkpoint(tmp_path):
    noise = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    like = {"x": jnp.asarray(noise)}
    checkpoint.save(tmp_path, 1, like, SPEC)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ValueError, match="Failed writing"):
            checkpoint.save(tmp_path, 2, {"x": 2 * like["x"]}, SPEC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_bitwise(checkpoint.restore(tmp_path, like, SPEC), like)
    checkpoint.save(tmp_path, 2, {"x": 2 * like["x"]}, SPEC)
    assert checkpoint.latest_step(tmp_path) == 2
