"""The readers of published files, on small files in exactly the published formats."""

import concurrent.futures
import gzip
import itertools
import os
import pathlib
import subprocess
import sys
import threading
import zipfile

import chex
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaecausal_jax as vj
from vaecausal_jax import data as vd
from vaecausal_jax import locks
from vaecausal_jax.data import celeba, files, mpi3d, shapes3d, smallnorb

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


def grid(sizes):
    return np.array(list(itertools.product(*(range(size) for size in sizes))))


# 3DShapes: images and labels in one HDF5 file, compressed in pieces.

SHAPES_SIZES = (2, 3, 2, 2, 2, 3)
SHAPES_PIXELS = RNG.integers(0, 256, (144, 8, 8, 3)).astype(np.uint8)
SHAPES_VALUES = ([0.0, 0.1], [0.0, 0.1, 0.2], [0.0, 0.1], [0.75, 1.25], [0.0, 1.0], [-30.0, 0, 30])
SHAPES_LABELS = np.array(list(itertools.product(*SHAPES_VALUES)))


def write_shapes(file, *, images=SHAPES_PIXELS, labels=SHAPES_LABELS, **options):
    options = options or {"compression": "gzip", "chunks": (10, 2, 4, 1)}
    with h5py.File(file, "w") as archive:
        if images is not None:
            archive.create_dataset("images", data=images, **options)
        archive.create_dataset("labels", data=labels)
    return file


def open_shapes(file, cache=None, md5=None):
    return shapes3d._load(file, SHAPES_SIZES, (8, 8, 3), cache=cache, md5=md5)


@pytest.mark.parametrize("options", [{}, {"chunks": None}], ids=["compressed", "contiguous"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_shapes3d_is_read_to_the_byte(tmp_path, options, wrap):
    data = open_shapes(write_shapes(tmp_path / "3dshapes.h5", **options))
    assert vd.factor_names(data) == shapes3d.FACTOR_NAMES
    assert vd.factor_sizes(data) == SHAPES_SIZES
    assert data.factors[3].values == (0.75, 1.25)
    assert [factor.cyclic for factor in data.factors] == [True] * 3 + [False] * 3
    rows = RNG.permutation(grid(SHAPES_SIZES))
    images = wrap(lambda rows: vd.images(data, rows))(rows)
    assert images.dtype == jnp.float32
    expected = SHAPES_PIXELS[np.asarray(vd.index_of(data, rows))].astype(np.float32) / 255
    np.testing.assert_allclose(images, expected, rtol=1e-6)


def test_published_grid_of_shapes3d():
    assert shapes3d.FACTOR_SIZES == (10, 10, 10, 8, 4, 15)
    assert np.prod(shapes3d.FACTOR_SIZES) == 480_000


def test_cache_is_built_once_and_refuses_other_images(tmp_path):
    cache = tmp_path / "flat.npy"
    file = write_shapes(tmp_path / "3dshapes.h5")
    first = open_shapes(file, cache)
    np.testing.assert_array_equal(np.load(cache), SHAPES_PIXELS)
    written = cache.stat().st_mtime_ns
    second = open_shapes(file, cache)
    assert cache.stat().st_mtime_ns == written
    rows = grid(SHAPES_SIZES)[::7]
    chex.assert_trees_all_equal(vd.images(first, rows), vd.images(second, rows))
    other = write_shapes(tmp_path / "other.h5", images=SHAPES_PIXELS // 2)
    with pytest.raises(ValueError, match="holds something else .*source_bytes"):
        open_shapes(other, cache)


# Flat files: whole or absent, resumed, checked.


def flat(path, fill, **options):
    holds = {"images": "numbers"}
    return files.flat_file(path, fill, shape=(25, 3), holds=holds, block=4, **options)


def numbers(start, stop):
    return np.arange(3 * start, 3 * stop, dtype=np.uint8).reshape(-1, 3)


def test_interrupted_flat_file_goes_on_where_it_was(tmp_path):
    path, asked = tmp_path / "flat.npy", []

    def fill(start, stop):
        asked.append(start)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return numbers(start, stop)

    with pytest.raises(KeyboardInterrupt):
        flat(path, fill)
    assert not path.exists()
    result = flat(path, fill)
    # The last block that was written is written again: it may not have reached the disk.
    assert asked == [0, 4, 8, 12, 16, 12, 16, 20, 24]
    np.testing.assert_array_equal(result, numbers(0, 25))
    np.testing.assert_array_equal(np.load(path), numbers(0, 25))
    assert not list(tmp_path.glob("*.partial"))


def test_torn_last_block_is_written_again(tmp_path):
    path = tmp_path / "flat.npy"
    flat(path, numbers)
    whole = path.read_bytes()
    path.unlink()
    (tmp_path / "flat.npy.partial").write_bytes(whole[:-31] + bytes(7))
    np.testing.assert_array_equal(flat(path, numbers, verify=True), numbers(0, 25))
    assert path.read_bytes() == whole


def test_damaged_flat_files_are_refused(tmp_path):
    path = tmp_path / "flat.npy"
    flat(path, numbers)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="has 202 bytes, expected 203: delete it"):
        flat(path, numbers)
    path.write_bytes(whole[:-1] + b"x")
    flat(path, numbers)
    with pytest.raises(ValueError, match="is damaged"):
        flat(path, numbers, verify=True)
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(ValueError, match=r"is damaged \(its header\): delete it to build it again"):
        flat(path, numbers)
    for damaged in ("", "[]", '{"holds": '):
        (tmp_path / "flat.npy.json").write_text(damaged)
        with pytest.raises(ValueError, match=f"{path}.json is damaged .* Delete it, {path} and "):
            flat(path, numbers)
    (tmp_path / "flat.npy.json").unlink()
    with pytest.raises(ValueError, match=r"lacks its note flat.npy.json"):
        flat(path, numbers)


# Only the modules that build flat files are imported, without the library's front door.
BUILD = f"""
import sys, time, types
for name in ("", ".data"):
    sys.modules["vaecausal_jax" + name] = package = types.ModuleType("vaecausal_jax" + name)
    package.__path__ = [{str(pathlib.Path(vj.__file__).parent)!r} + name.replace(".", "/")]
import numpy as np
from vaecausal_jax.data.files import flat_file

def fill(start, stop):
    print(start, flush=True)
    time.sleep(float(sys.argv[2]))
    return np.arange(3 * start, 3 * stop, dtype=np.uint8).reshape(-1, 3)

flat_file(sys.argv[1], fill, shape=(25, 3), holds={{"images": "numbers"}}, block=4)
"""


def builder(path, pause):
    """Another process that builds the flat file of numbers and prints where each block starts."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(path), str(pause)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.thorough
def test_a_process_waits_for_the_one_that_builds_a_flat_file(tmp_path):
    path, asked = tmp_path / "flat.npy", []

    def fill(start, stop):
        asked.append(start)
        return numbers(start, stop)

    with builder(path, 0.03) as process:
        assert process.stdout is not None
        built = [int(process.stdout.readline())]
        found = flat(path, fill, verify=True)
        built += [int(line) for line in process.stdout]
    assert process.returncode == 0
    assert built == [0, 4, 8, 12, 16, 20, 24]
    assert asked == []
    np.testing.assert_array_equal(found, numbers(0, 25))
    assert {p.name for p in tmp_path.iterdir()} == {"flat.npy", "flat.npy.json"}


def test_the_flat_file_of_a_killed_process_is_taken_over(tmp_path):
    path, asked = tmp_path / "flat.npy", []

    def fill(start, stop):
        asked.append(start)
        return numbers(start, stop)

    with builder(path, 0.2) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 12:
            pass
        process.kill()
        found = flat(path, fill)
    # At least two blocks were on disk, and of these the last one is written again.
    assert asked[0] in (4, 8)
    np.testing.assert_array_equal(found, numbers(0, 25))
    assert {p.name for p in tmp_path.iterdir()} == {"flat.npy", "flat.npy.json"}


def test_without_locks_each_builds_the_flat_file_and_all_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    together, path = threading.Barrier(2), tmp_path / "flat.npy"

    def fill(start, stop):
        together.wait(timeout=10)
        return numbers(start, stop)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: flat(path, fill), range(2)):
            np.testing.assert_array_equal(found, numbers(0, 25))
    with pytest.raises(KeyError):
        flat(tmp_path / "other.npy", lambda start, stop: {}[start])
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"flat.npy", "flat.npy.json", "other.npy.json"}


def test_rows_of_another_shape_or_type_are_refused():
    with pytest.raises(ValueError, match=r"rows 0 to 4 came as float64 \(4, 3\), expected uint8"):
        flat(None, lambda start, stop: numbers(start, stop).astype(float))


# MPI3D: one array in a zip, stored or compressed.

MPI_SIZES = (2, 2, 2, 3, 3, 4, 4)
MPI_SMALLER = (1, 2, 2, 3, 3, 4, 4)
MPI_PIXELS = RNG.integers(0, 256, (1152, 4, 4, 3)).astype(np.uint8)


def write_mpi(file, images=MPI_PIXELS, *, save=np.savez, key="images"):
    save(file, **{key: images})
    return file


def open_mpi(file, cache=None, md5=None):
    return mpi3d._load(
        file, (MPI_SIZES, MPI_SMALLER), (4, 4, 3), cache=cache, md5=md5, source="mpi3d_toy.npz"
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mpi3d_is_read_to_the_byte(tmp_path, save):
    data = open_mpi(write_mpi(tmp_path / "mpi3d_toy.npz", save=save))
    assert vd.factor_names(data) == mpi3d.FACTOR_NAMES
    rows = RNG.permutation(grid(MPI_SIZES))[:50]
    expected = MPI_PIXELS[np.asarray(vd.index_of(data, rows))].astype(np.float32) / 255
    np.testing.assert_allclose(jax.jit(vd.images)(data, rows), expected, rtol=1e-6)


def test_the_number_of_images_tells_the_grid_of_mpi3d(tmp_path):
    data = open_mpi(write_mpi(tmp_path / "any.npz", MPI_PIXELS[:576]))
    assert vd.factor_sizes(data) == MPI_SMALLER
    assert np.prod(mpi3d.FACTOR_SIZES) == 1_036_800
    assert np.prod(mpi3d.COMPLEX_FACTOR_SIZES) == 460_800


def test_mapped_and_decoded_mpi3d_agree_and_the_cache_is_found(tmp_path):
    cache = tmp_path / "flat.npy"
    packed = write_mpi(tmp_path / "packed.npz", save=np.savez_compressed)
    arms = [open_mpi(write_mpi(tmp_path / "stored.npz")), open_mpi(packed, cache)]
    rows = grid(MPI_SIZES)[::31]
    chex.assert_trees_all_equal(*(vd.images(data, rows) for data in arms))
    np.testing.assert_array_equal(np.load(cache), MPI_PIXELS)


# SmallNORB: binary matrices of its own format, photographs shuffled.

NORB = smallnorb._Levels(
    category=(0, 1),
    train_instances=(4, 6),
    test_instances=(0, 5),
    elevation=(0, 1, 2),
    azimuth=(0, 2, 4),
    lighting=(0, 1),
)
NORB_NUM = 2 * 2 * 3 * 3 * 2
MAGIC = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54, "float32": 0x1E3D4C51}


def matrix(array, magic=None):
    """A matrix as published: magic number, rank, at least three dimensions, the elements."""
    dims = [*array.shape, 1, 1, 1][: max(3, array.ndim)]
    head = [magic or MAGIC[array.dtype.name], array.ndim, *dims]
    return np.array(head, "<i4").tobytes() + array.tobytes()


def norb_labels(half, seed):
    axes = (NORB.category, NORB.instances(half), NORB.elevation, NORB.azimuth, NORB.lighting)
    rows = np.array(list(itertools.product(*axes)), np.int32)
    return np.random.default_rng(seed).permutation(rows)


def write_norb(folder, *, compress=False, halves=("train", "test"), **changes):
    """Both halves; each photograph's pixels are functions of its labels and camera."""
    for seed, half in enumerate(halves):
        labels = changes.get(f"{half}_labels", norb_labels(half, seed))
        dat = np.stack([norb_pixels(labels, camera) for camera in (0, 1)], axis=1)
        contents = {
            "cat": matrix(np.ascontiguousarray(labels[:, 0])),
            "info": matrix(np.ascontiguousarray(labels[:, 1:])),
            "dat": matrix(dat),
        }
        for kind, content in contents.items():
            content = changes.get(f"{half}_{kind}", content)
            name = f"{smallnorb._STEMS[half]}-{kind}.mat"
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


def norb_pixels(labels, camera):
    code = labels @ np.array([97, 53, 29, 17, 7]) + 131 * camera
    return ((code[:, None, None] + np.arange(16).reshape(4, 4)) % 256).astype(np.uint8)


def open_norb(folder, split="train", camera=0, **options):
    options = {"cache": None, "verify": False} | options
    return smallnorb._load(folder, split, camera, levels=NORB, side=4, **options)


@pytest.mark.parametrize("compress", [False, True], ids=["mat", "gz"])
@pytest.mark.parametrize(("split", "camera"), [("train", 0), ("test", 1), ("all", 1)])
def test_smallnorb_is_unshuffled_to_the_grid(tmp_path, compress, split, camera):
    data = open_norb(write_norb(tmp_path, compress=compress), split, camera)
    assert vd.factor_names(data) == ("category", "instance", "elevation", "azimuth", "lighting")
    instances = {"train": (4, 6), "test": (0, 5), "all": (0, 4, 5, 6)}[split]
    assert data.factors[1].values == instances
    assert data.factors[2].values == (30.0, 35.0, 40.0)
    assert data.factors[3].values == (0.0, 20.0, 40.0)
    rows = grid(vd.factor_sizes(data))
    labels = rows.copy()
    labels[:, 1] = np.array(instances)[rows[:, 1]]
    labels[:, 3] *= 2
    expected = norb_pixels(labels, camera).astype(np.float32)[..., None] / 255
    np.testing.assert_allclose(vd.images(data, rows), expected, rtol=1e-6)


def test_published_grid_of_smallnorb_has_disjoint_halves():
    levels = smallnorb._Levels()
    assert not set(levels.train_instances) & set(levels.test_instances)
    shape = [len(axis) for axis in levels[:2]] + [len(axis) for axis in levels[3:]]
    assert np.prod(shape) == 24_300


def test_decoded_photographs_are_kept_for_each_half(tmp_path):
    write_norb(tmp_path, compress=True)
    data = open_norb(tmp_path, "all", cache=tmp_path / "photos.npy")
    assert {"photos-train.npy", "photos-test.npy"} <= {file.name for file in tmp_path.iterdir()}
    plain = open_norb(tmp_path, "all")
    rows = grid(vd.factor_sizes(data))
    chex.assert_trees_all_equal(vd.images(data, rows), vd.images(plain, rows))


@pytest.mark.parametrize("name", ["instance", "elevation", "azimuth", "lighting", "category"])
def test_minimal_pairs_of_smallnorb_differ_in_one_factor(tmp_path, name):
    data = open_norb(write_norb(tmp_path))
    source, target = vd.minimal_levels(jax.random.key(0), data, name, 40)
    changed = np.asarray(source != target)
    np.testing.assert_array_equal(changed.sum(axis=1), 1)
    difference = jnp.abs(vd.images(data, source) - vd.images(data, target))
    assert difference.max(axis=(1, 2, 3)).min() > 0


# CelebA: photographs, attributes, partition.

NUM = 12
SIGNS = np.where(RNG.random((NUM, 40)) < 0.5, 1, -1)
NAMES = [f"{number:06d}.jpg" for number in range(1, NUM + 1)]
PARTS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def photograph(number):
    """A smooth picture, so that JPEG changes it little: a grey of its own and a ramp."""
    ramp = np.linspace(0, 60, 218)[:, None, None] + np.zeros((1, 178, 3))
    return Image.fromarray((15 * number + ramp).astype(np.uint8))


def write_celeba(folder, *, form="zip", attributes=None, partition=None, damage=None):
    folder.mkdir(exist_ok=True)
    images = folder / "img_align_celeba"
    images.mkdir()
    for number, name in enumerate(NAMES):
        photograph(number).save(images / name, quality=95)
    if damage:
        damage(images)
    if form == "zip":
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            for file in sorted(images.iterdir()):
                archive.write(file, f"img_align_celeba/{file.name}")
                file.unlink()
        images.rmdir()
    lines = [
        f"{name}  " + " ".join(f"{sign:2d}" for sign in row)
        for name, row in zip(NAMES, SIGNS, strict=True)
    ]
    text = "\n".join([str(NUM), " ".join(celeba.ATTRIBUTES) + " ", *lines]) + "\n"
    (folder / "list_attr_celeba.txt").write_text(attributes(text) if attributes else text)
    text = "".join(f"{name} {part}\n" for name, part in zip(NAMES, PARTS, strict=True))
    (folder / "list_eval_partition.txt").write_text(partition(text) if partition else text)
    return folder


def open_celeba(folder, split="all", size=16, crop=148, cache=None):
    return celeba._load(folder, NUM, split, size, crop, cache=cache, verify=False)


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_photographs_are_cropped_resized_and_labelled(tmp_path, form):
    data = open_celeba(write_celeba(tmp_path / "celeba", form=form))
    assert vd.factor_names(data) == ("photograph",)
    assert vd.num_images(data) == NUM
    rows = np.arange(NUM)[:, None]
    images = np.asarray(jax.jit(vd.images)(data, rows))
    assert images.shape == (NUM, 16, 16, 3)
    # Rows 35 to 183 of a ramp of 60 over 218 rows, cut in 16.
    middles = 35 + 148 * (np.arange(16) + 0.5) / 16 - 0.5
    expected = (15 * np.arange(NUM)[:, None] + 60 * middles / 217) / 255
    np.testing.assert_allclose(images[:, :, 8, 1], expected, atol=0.012)
    np.testing.assert_array_equal(data.labels(rows), SIGNS == 1)


def test_photographs_of_another_size_have_no_minimal_pairs_either(tmp_path):
    small = vd.resized(open_celeba(write_celeba(tmp_path / "celeba")), 8)
    assert vd.images(small, np.zeros((1, 1), int)).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="in which no factor can be changed alone"):
        vd.minimal_pairs(jax.random.key(0), small, "photograph", 4, (2,))


def test_splits_of_celeba_are_the_published_partition(tmp_path):
    folder = write_celeba(tmp_path / "celeba")
    whole = open_celeba(folder)
    for split, part in (("train", 0), ("valid", 1), ("test", 2)):
        data = open_celeba(folder, split)
        chosen = np.flatnonzero(np.array(PARTS) == part)
        assert vd.num_images(data) == len(chosen)
        rows = np.arange(len(chosen))[:, None]
        chex.assert_trees_all_equal(vd.images(data, rows), vd.images(whole, chosen[:, None]))
        np.testing.assert_array_equal(data.attributes, SIGNS[chosen] == 1)


def test_decoded_photographs_are_found_again(tmp_path):
    folder, cache = write_celeba(tmp_path / "celeba"), tmp_path / "flat.npy"
    rows = np.arange(NUM)[::-1, None]
    expected = vd.images(open_celeba(folder), rows)
    for _ in range(2):
        chex.assert_trees_all_equal(vd.images(open_celeba(folder, cache=cache), rows), expected)
    with pytest.raises(ValueError, match="holds something else .*crop"):
        open_celeba(folder, crop=128, cache=cache)


def labelled(attributes):
    """Photographs of one pixel with the given attributes (photograph, attribute)."""
    num, count = attributes.shape
    factor = vd.Factor("photograph", tuple(map(float, range(num))), num, cyclic=False)
    images = vd.StreamedImages(
        lambda rows: rows.astype(np.uint8).reshape(-1, 1, 1, 1), (factor,), (1, 1, 1)
    )
    names = celeba.ATTRIBUTES[:count]
    return vd.CelebA(images, jnp.asarray(attributes, jnp.int8), names)


def test_matched_pairs_differ_in_one_attribute_and_agree_in_the_matched():
    table = np.random.default_rng(3).integers(0, 2, (400, 6))
    data = labelled(table)
    asked, others = celeba.ATTRIBUTES[2], [celeba.ATTRIBUTES[k] for k in (0, 5)]
    for match, columns in ((None, [0, 1, 3, 4, 5]), (others, [0, 5]), ([], [])):
        result = vd.attribute_matched_pairs(jax.random.key(0), data, asked, 300, match=match)
        source, target = (np.asarray(data.labels(rows)) for rows in (result.source, result.target))
        np.testing.assert_array_equal(source[:, 2], 0)
        np.testing.assert_array_equal(target[:, 2], 1)
        np.testing.assert_array_equal(source[:, columns], target[:, columns])
        assert result.matched == tuple(celeba.ATTRIBUTES[k] for k in columns)
        assert "not counterfactual" in result.caveat


def test_matched_pairs_are_drawn_by_the_size_of_their_group_and_say_whom_they_leave_out():
    # Attribute 1 groups: three photographs of both kinds, five of both kinds, four of one kind.
    table = np.array([[0, 0], [1, 0], [1, 0]] + [[0, 1], [0, 1], [0, 1], [0, 1], [1, 1]])
    table = np.concatenate([table, np.ones((4, 2), int) * [1, 0]])
    table = np.concatenate([table, np.zeros((12, 1), int)], axis=1)
    table[8:, 2] = 1
    names = celeba.ATTRIBUTES
    result = vd.attribute_matched_pairs(jax.random.key(0), labelled(table), names[0], 8000)
    assert result.share == pytest.approx(8 / 12)
    source, target = (
        np.bincount(rows[:, 0], minlength=12) / 8000 for rows in (result.source, result.target)
    )
    third, fifth = 3 / 8, 5 / 8
    np.testing.assert_allclose(source, [third, 0, 0] + 4 * [fifth / 4] + 5 * [0], atol=0.02)
    np.testing.assert_allclose(
        target, [0, third / 2, third / 2] + 4 * [0] + [fifth] + 4 * [0], atol=0.02
    )


def test_photographs_have_no_minimal_pairs():
    data = labelled(np.eye(3, dtype=int))
    for call in (
        lambda: vd.minimal_levels(jax.random.key(0), data, "photograph", 2),
        lambda: vd.do_sweep(data, np.zeros((1, 1), int), "photograph"),
        lambda: vd.conditional_donors(jax.random.key(0), data, np.zeros((1, 1), int), "photograph"),
    ):
        with pytest.raises(ValueError, match="no minimal pairs. attribute_matched_pairs"):
            call()


# What all streamed sets have in common.


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    file = write_mpi(tmp_path_factory.mktemp("mpi") / "mpi3d_toy.npz")
    return open_mpi(file)


def test_streamed_images_equal_those_on_the_device(streamed):
    stored = vd.on_device(streamed, block=100)
    assert stored.pixels.dtype == jnp.uint8
    rows = vd.sample_factors(jax.random.key(0), streamed, 20)
    chex.assert_trees_all_equal(vd.images(streamed, rows), vd.images(stored, rows))
    chex.assert_trees_all_equal(jax.jit(vd.images)(stored, rows), vd.images(stored, rows))
    assert streamed.image(rows[0]).shape == (4, 4, 3)


def test_streamed_images_are_read_once_a_batch_inside_nested_maps_and_loops(streamed):
    calls = []

    def read(rows):
        calls.append(len(rows))
        return streamed.read(rows)

    data = vd.StreamedImages(read, streamed.factors, streamed.image_shape)
    rows = vd.sample_factors(jax.random.key(1), data, 30)
    nested = jax.vmap(jax.vmap(data.image))(rows.reshape(5, 6, 7))
    chex.assert_trees_all_equal(nested.reshape(30, 4, 4, 3), vd.images(streamed, rows))
    assert calls == [30]
    looped = jax.jit(
        lambda rows: jax.lax.scan(lambda c, r: (c, vd.images(data, r)), None, rows)[1]
    )(rows.reshape(5, 6, 7))
    chex.assert_trees_all_equal(looped, nested)
    assert calls == [30] + 5 * [6]


def test_an_index_outside_a_streamed_set_stops_the_program(streamed):
    rows = jnp.asarray([[7, 0, 0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match="'object_color' has levels 0 to 1, got 7"):
        vd.images(streamed, rows)
    with pytest.raises(jax.errors.JaxRuntimeError, match="image index outside 0 to 1151"):
        jax.block_until_ready(jax.jit(lambda rows: vd.images(streamed, rows))(rows))


def test_resized_images_are_averages_of_what_they_cover():
    pixels = np.repeat(np.repeat(RNG.integers(0, 256, (2, 2, 2, 1)), 6, axis=1), 6, axis=2)
    factor = vd.Factor("which", (0.0, 1.0), 2, cyclic=False)
    data = vd.ByteImages(jnp.asarray(pixels, jnp.uint8), (factor,), (12, 12, 1))
    small = vd.resized(data, 8)
    assert small.image_shape == (8, 8, 1)
    assert small.factors == data.factors
    images = vd.images(small, np.array([[0], [1]]))
    expected = pixels[:, 1::6, 1::6].astype(np.float32) / 255
    np.testing.assert_allclose(images[:, 1::5, 1::5], expected, atol=1e-6)
    assert vd.resized(data, 12) is data
    with pytest.raises(ValueError, match="at least 1, got 0"):
        vd.resized(data, 0)
    with pytest.raises(ValueError, match="square images, got 1 x 4"):
        vd.resized(vd.ByteImages(jnp.zeros((2, 1, 4, 1), jnp.uint8), (factor,), (1, 4, 1)), 8)


@pytest.mark.thorough
def test_training_streams_its_batches_on_every_device(streamed):
    model = vj.models.mlp_vae((4, 4, 3), latent_size=2, encoder_dense=(8,), decoder_dense=(8,))
    config = vj.TrainConfig(
        model, vj.objectives.vae(), optax.adam(1e-3), num_steps=6, batch_size=16, record_every=3
    )
    seeds = jax.random.split(jax.random.key(0), 2)
    run = jax.jit(vj.training.shard_seeds(vj.make_train(config)))
    histories = [run(seeds, data)[1] for data in (streamed, vd.on_device(streamed))]
    assert np.isfinite(histories[0]["loss"]).all()
    chex.assert_trees_all_close(*histories, rtol=1e-5)


# Bad files, one table.


def cut(file, num=40):
    file.write_bytes(file.read_bytes()[:-num])
    return file


def text(file):
    file.write_text("<html>404 not found</html>")
    return file


def swapped_labels(folder, half="train"):
    labels = norb_labels(half, 0)
    labels[0] = labels[1]
    return write_norb(folder, **{f"{half}_labels": labels})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: open_shapes(cut(write_shapes(f / "a.h5"), 4000)),
            r"a.h5 is truncated or no HDF5 file: expected the file 3dshapes.h5 published at https",
        ),
        (lambda f: open_shapes(text(f / "a.h5")), "a.h5 is truncated or no HDF5 file"),
        (lambda f: open_shapes(write_shapes(f / "a.h5", images=None)), r"lacks \['images'\]"),
        (
            lambda f: open_shapes(write_shapes(f / "a.h5", images=SHAPES_PIXELS[:30])),
            r"expected images of shape \(144, 8, 8, 3\) and type uint8, got \(30, 8, 8, 3\)",
        ),
        (
            lambda f: open_shapes(write_shapes(f / "a.h5", images=SHAPES_PIXELS / 255)),
            "and type uint8, got .* and float64",
        ),
        (
            lambda f: open_shapes(write_shapes(f / "a.h5", labels=SHAPES_LABELS[::-1])),
            "floor_hue in labels is not on the expected grid",
        ),
        (
            lambda f: open_shapes(write_shapes(f / "a.h5"), md5="0" * 32),
            "a.h5 has MD5 .* expected 0000.* verify=False uses it all the same",
        ),
        (lambda f: open_mpi(cut(write_mpi(f / "a.npz"))), "a.npz is truncated or not an archive"),
        (lambda f: open_mpi(text(f / "a.npz")), "not an archive: expected mpi3d_toy.npz"),
        (lambda f: open_mpi(write_mpi(f / "a.npz", key="imgs")), r"lacks \['images.npy'\]"),
        (
            lambda f: open_mpi(write_mpi(f / "a.npz", MPI_PIXELS[:99])),
            r"expected 1152 or 576 images, got shape \(99, 4, 4, 3\)",
        ),
        (
            lambda f: open_mpi(write_mpi(f / "a.npz", MPI_PIXELS[:, :3])),
            r"images.npy of shape \(1152, 4, 4, 3\) and type uint8 in C order, got \(1152, 3, 4, 3",
        ),
        (
            lambda f: open_mpi(write_mpi(f / "a.npz", MPI_PIXELS.astype(np.int16))),
            "type uint8 in C order, got .* and int16",
        ),
        (lambda f: open_mpi(write_mpi(f / "a.npz"), md5="0" * 32), "a.npz has MD5"),
        (lambda f: vd.load_mpi3d(f, variant="toys"), "unknown variant 'toys'. Did you mean 'toy'"),
        (
            lambda f: vd.load_mpi3d(f, variant="real", verify=True),
            "no checksum is known for the real images",
        ),
        (
            lambda f: open_norb(write_norb(f, train_dat=b"short")),
            "training-dat.mat is truncated or damaged: expected the file smallnorb-5x46789",
        ),
        (
            lambda f: open_norb(write_norb(f, train_info=matrix(norb_labels("train", 0), 7))),
            "info.mat has the unknown magic number 0x7",
        ),
        (
            lambda f: open_norb(write_norb(f, train_cat=matrix(np.zeros(9, np.int32)))),
            r"expected a matrix of shape \(72,\) and type int32, got \(9,\) and int32",
        ),
        (
            lambda f: open_norb(write_norb(f, train_cat=matrix(np.zeros(72, np.float32)))),
            "and type int32, got .* and float32",
        ),
        (lambda f: open_norb(swapped_labels(f)), "repeat a combination, expected each of 72 once"),
        (
            lambda f: open_norb(write_norb(f, train_labels=norb_labels("test", 0))),
            r"instance \d is not among the train half's \(4, 6\)",
        ),
        (lambda f: open_norb(f, "training"), "unknown split 'training'. Did you mean 'train'"),
        (lambda f: open_norb(f, camera=2), "camera must be 0 .* got 2"),
        (
            lambda f: open_celeba(write_celeba(f / "c", attributes=lambda t: t[:-300])),
            "list_attr_celeba.txt",
        ),
        (
            lambda f: open_celeba(write_celeba(f / "c", attributes=lambda t: "9\n" + t[3:])),
            "expected 12 in the first line, got '9'",
        ),
        (
            lambda f: open_celeba(
                write_celeba(f / "c", attributes=lambda t: t.replace("Young", "Old"))
            ),
            "expected the 40 attributes' names",
        ),
        (
            lambda f: open_celeba(
                write_celeba(f / "c", attributes=lambda t: t.replace(" -1", "  0"))
            ),
            "attributes are 1 or -1, got '0'",
        ),
        (
            lambda f: open_celeba(write_celeba(f / "c", partition=lambda t: t[:-9]), "train"),
            "list_eval_partition.txt: expected the photographs of list_attr_celeba.txt in its",
        ),
        (
            lambda f: open_celeba(
                write_celeba(f / "c", damage=lambda images: (images / NAMES[3]).unlink())
            ),
            "lacks 1 photographs of list_attr_celeba.txt, such as .*000004.jpg",
        ),
        (
            lambda f: open_celeba(
                write_celeba(f / "c", damage=lambda images: cut(images / NAMES[0], 900))
            ),
            "000001.jpg in .* is missing, truncated or no image: expected it in img_align_celeba",
        ),
        (
            lambda f: open_celeba(
                write_celeba(
                    f / "c",
                    damage=lambda images: photograph(0).resize((64, 64)).save(images / NAMES[0]),
                )
            ),
            "000001.jpg in .* is 64 x 64, expected the aligned photographs of 178 x 218",
        ),
        (lambda f: open_celeba(f, "dev"), "unknown split 'dev'"),
        (lambda f: open_celeba(f, crop=179), "crop must be from 1 to 178"),
        (
            lambda f: vd.attribute_matched_pairs(
                jax.random.key(0), labelled(np.eye(3, dtype=int)), "Smile", 2
            ),
            "unknown attribute 'Smile'",
        ),
        (
            lambda f: vd.attribute_matched_pairs(
                jax.random.key(0),
                labelled(np.eye(3, dtype=int)),
                celeba.ATTRIBUTES[0],
                2,
                match=celeba.ATTRIBUTES[:1],
            ),
            "is to differ, so it cannot be matched",
        ),
        (
            lambda f: vd.attribute_matched_pairs(
                jax.random.key(0), labelled(np.eye(3, dtype=int)), celeba.ATTRIBUTES[0], 2
            ),
            "no two photographs differ in '5_o_Clock_Shadow' and agree in all of 2",
        ),
    ],
)
def test_bad_files_are_named_with_what_was_expected(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


@pytest.mark.parametrize(
    ("load", "variable", "message"),
    [
        (vd.load_shapes3d, "VAECAUSAL_SHAPES3D", "3dshapes.h5 published at https://storage"),
        (
            vd.load_mpi3d,
            "VAECAUSAL_MPI3D",
            "mpi3d_toy.npz published by https://github.com/rr-learn",
        ),
        (vd.load_smallnorb, "VAECAUSAL_SMALLNORB", "training-.*published at https://cs.nyu.edu"),
        (vd.load_celeba, "VAECAUSAL_CELEBA", "published at https://mmlab.ie.cuhk.edu.hk"),
    ],
)
def test_missing_files_are_named_with_where_they_are_published(
    tmp_path, monkeypatch, load, variable, message
):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(FileNotFoundError, match=f"{variable} is not set: expected .*{message}"):
        load()
    with pytest.raises(FileNotFoundError, match=rf"no file .*{message}"):
        load(tmp_path)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"no file .*{message}"):
        load()


def test_files_are_found_by_folder_and_told_from_the_published_ones(tmp_path):
    write_shapes(tmp_path / "3dshapes.h5")
    with pytest.raises(ValueError, match=r"shape \(480000, 64, 64, 3\) and type uint8, got \(144"):
        vd.load_shapes3d(tmp_path)
    write_mpi(tmp_path / "mpi3d_real.npz")
    with pytest.raises(ValueError, match="expected 1036800 or 460800 images"):
        vd.load_mpi3d(tmp_path, variant="real")
    with pytest.raises(ValueError, match=r"shape \(24300,\) and type int32, got \(72,\)"):
        vd.load_smallnorb(write_norb(tmp_path), verify=False)
    with pytest.raises(ValueError, match="expected 202599 in the first line, got '12'"):
        vd.load_celeba(write_celeba(tmp_path / "celeba"), verify=False)
    with pytest.raises(ValueError, match="list_attr_celeba.txt has MD5"):
        vd.load_celeba(tmp_path / "celeba")


def test_a_missing_library_is_named_with_the_extra_that_brings_it():
    with pytest.raises(ImportError, match=r"reading it needs pkg, .*vaecausal_jax\[study\]"):
        shapes3d.optional_module("no_such_module", needed_for="it", package="pkg")


@pytest.mark.skipif(not os.environ.get("VAECAUSAL_SHAPES3D"), reason="VAECAUSAL_SHAPES3D not set")
@pytest.mark.slow
def test_published_channel_means_of_shapes3d(tmp_path):
    data = vd.load_shapes3d(cache=tmp_path / "flat.npy")
    mean = vd.sample_images(jax.random.key(0), data, 20_000).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, [0.5026, 0.5788, 0.6034], atol=0.005)
