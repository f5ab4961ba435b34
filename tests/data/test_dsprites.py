"""Exact dSprites against published frames and brute force; the archive reader on small files."""

import concurrent.futures
import os
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data import dsprites
from vaecausal_jax.data import sprite_geometry as geometry

DATA = vd.dsprites_exact()


def brute_force(row):
    """One image in float64, straight from the description of the geometry."""
    shape, scale, orientation, x, y = row
    size, angle = DATA.factors[1].values[scale], DATA.factors[2].values[orientation]
    centres = np.arange(64) + 0.5
    dx, dy = np.meshgrid(centres - 16 - 32 * x / 31, centres - 16 - 32 * y / 31)
    u = (np.cos(angle) * dx - np.sin(angle) * dy) / size
    v = (np.sin(angle) * dx + np.cos(angle) * dy) / size
    if shape == 0:
        return np.maximum(np.abs(u), np.abs(v)) < 9.5996
    if shape == 1:
        corners = (np.arange(62) + 0.5) * 2 * np.pi / 62
        p, q = 12.7735 * np.cos(corners), 7.2223 * np.sin(corners)
        inside = np.ones_like(u, bool)
        for a, b, c, d in zip(p, q, np.roll(p, -1), np.roll(q, -1), strict=True):
            inside &= (c - a) * (v - b) - (d - b) * (u - a) > 0
        return inside
    degrees = np.degrees(np.arctan2(v + 1, np.abs(u)))
    return np.hypot(u, v + 1) < np.interp(degrees, geometry.HEART_ANGLES, geometry.HEART_RADII)


def test_grid_is_the_published_one():
    assert vd.factor_names(DATA) == ("shape", "scale", "orientation", "x", "y")
    assert vd.factor_sizes(DATA) == (3, 6, 40, 32, 32)
    assert vd.num_images(DATA) == 737_280
    assert DATA.factors[2].num_distinct == 39
    assert DATA.factors[2].cyclic
    assert DATA.image_shape == (64, 64, 1)


def test_an_upright_square_by_hand():
    # Centre 16 + 32 * 31 / 31 = 48, half side 9.5996: pixel centres 38.5 to 57.5 are inside.
    image = DATA.image(jnp.asarray([0, 5, 0, 31, 31]))
    expected = np.zeros((64, 64, 1))
    expected[39:57, 39:57] = 1
    expected[38, 38:58] = expected[57, 38:58] = 1
    expected[38:58, 38] = expected[38:58, 57] = 1
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == jnp.float32


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_images_equal_brute_force_in_float64(shape):
    rows = np.asarray(vd.do_factor(vd.sample_factors(jax.random.key(shape), DATA, 400), 0, shape))
    drawn = np.asarray(jax.jit(vd.images)(DATA, rows))[..., 0]
    expected = np.stack([brute_force(row) for row in rows])
    assert np.sum(drawn != expected) <= 1


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_orientation_39_repeats_orientation_0(shape):
    rows = vd.do_factor(vd.sample_factors(jax.random.key(0), DATA, 64), 0, shape)
    first, last = (vd.images(DATA, vd.do_factor(rows, 2, level)) for level in (0, 39))
    chex.assert_trees_all_equal(first, last)


def test_vmap_and_jit_equal_a_loop():
    rows = vd.sample_factors(jax.random.key(4), DATA, 12)
    loop = jnp.stack([DATA.image(row) for row in rows])
    chex.assert_trees_all_equal(vd.images(DATA, rows), loop)
    chex.assert_trees_all_equal(jax.jit(vd.images)(DATA, rows), loop)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["shape", "scale", "orientation", "x", "y"])
def test_minimal_pairs_differ_in_pixels(name):
    source, target = vd.minimal_levels(jax.random.key(0), DATA, name, 256)
    difference = vd.images(DATA, source) != vd.images(DATA, target)
    assert difference.any(axis=(1, 2, 3)).all()


def test_published_frames_are_redrawn(shared):
    with np.load(shared / "dsprites" / "dsprites_real_332.npz") as real:
        rows, pixels = real["latents_classes"][:, 1:], real["imgs"]
        values, labelled = real["latents_values"][:, 1:], real["source_is_labelled"]
    grid = [np.array(factor.values)[rows[:, k]] for k, factor in enumerate(DATA.factors)]
    np.testing.assert_allclose(np.stack(grid, axis=1), values, atol=1e-6)
    wrong = (np.asarray(vd.images(DATA, rows))[..., 0] != pixels).sum(axis=(1, 2))
    assert np.sum(wrong == 0) >= 322
    assert wrong.sum() <= 16
    assert wrong[labelled].sum() == 0
    assert wrong[rows[:, 0] < 2].sum() == 0


@pytest.mark.slow
def test_white_pixels_of_the_full_grid():
    @jax.jit
    def count(start):
        def add(total, index):
            rows = vd.factors_at(DATA, index + jnp.arange(256))
            return total + jnp.sum(vd.images(DATA, rows).astype(jnp.int32)), None

        return jax.lax.scan(add, jnp.int32(0), start + 256 * jnp.arange(288))[0]

    total = sum(int(count(jnp.int32(start))) for start in range(0, 737_280, 73_728))
    # Float64 gives 128,356,356 with these rounded constants, the fit itself 128,356,530.
    assert abs(total - 128_356_356) < 100
    assert abs(total / dsprites.WHITE_PIXELS - 1) < 0.00025


@pytest.mark.slow
def test_the_cached_set_is_the_redrawn_one_and_is_kept(tmp_path):
    file = tmp_path / "dsprites.npy"
    data = vd.cached_dsprites(file)
    assert (data.factors, data.image_shape) == (DATA.factors, DATA.image_shape)
    rows = vd.sample_factors(jax.random.key(0), data, 2000)
    chex.assert_trees_all_equal(vd.images(data, rows), vd.images(DATA, rows))
    white = int(np.bitwise_count(np.asarray(data.bits)).sum(dtype=np.int64))
    assert abs(white - 128_356_356) < 100
    written = file.stat().st_mtime_ns
    assert vd.cached_dsprites(file).bits.shape == (737_280, 512)
    assert file.stat().st_mtime_ns == written


def test_the_cache_is_drawn_in_the_layout_of_the_archive(tmp_path, monkeypatch):
    few = vd.DSprites((vd.Factor("few", (0.0, 1.0), 2, cyclic=False),) * 5)
    monkeypatch.setattr(dsprites, "dsprites_exact", lambda: few)
    data = vd.cached_dsprites(tmp_path / "few.npy")
    rows = np.asarray(vd.factors_at(few, np.arange(32)))
    drawn = jax.jit(vd.images)(few, rows)
    bits = np.unpackbits(np.load(tmp_path / "few.npy"), axis=1)
    np.testing.assert_array_equal(bits.reshape(32, 64, 64, 1), drawn)
    chex.assert_trees_all_equal(jax.jit(vd.images)(data, rows), drawn)


def test_the_cache_is_whole_for_all_who_want_it_at_once(tmp_path, monkeypatch):
    few = vd.DSprites((vd.Factor("few", (0.0, 1.0), 2, cyclic=False),) * 5)
    monkeypatch.setattr(dsprites, "dsprites_exact", lambda: few)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        drawn = list(pool.map(vd.cached_dsprites, [tmp_path / "few.npy"] * 3))
    for data in drawn:
        chex.assert_trees_all_equal(data.bits, np.load(tmp_path / "few.npy"))
    assert {p.name for p in tmp_path.iterdir()} == {"few.npy", "few.npy.json"}


# The reader: files in the published format with a smaller grid.

FACTORS = (
    vd.Factor("shape", (1.0, 2.0, 3.0), 3, cyclic=False),
    vd.Factor("orientation", (0.0, np.pi, 2 * np.pi), 2, cyclic=True),
)
PIXELS = np.random.default_rng(0).integers(0, 2, (9, 8, 8)).astype(np.uint8)
CLASSES = np.array([[0, shape, turn] for shape in range(3) for turn in range(3)])
VALUES = np.array([[1.0, shape, turn] for shape in (1, 2, 3) for turn in (0, np.pi, 2 * np.pi)])
WHITE = int(PIXELS.sum())


def write(file, **changes):
    """Write an archive as published, its metadata a pickle as there; None leaves a key out."""
    arrays = {
        "metadata": np.array({"title": "small"}, dtype=object),
        "imgs": PIXELS,
        "latents_values": VALUES,
        "latents_classes": CLASSES,
    }
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    np.savez_compressed(file, allow_pickle=True, **arrays)
    return file


def load(file, white_pixels=WHITE):
    return dsprites._load(file, factors=FACTORS, image_size=8, white_pixels=white_pixels)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_archive_is_read_to_the_pixel(tmp_path, wrap):
    data = load(write(tmp_path / "small.npz"))
    assert data.bits.shape == (9, 8)
    assert data.bits.dtype == jnp.uint8
    assert data.image_shape == (8, 8, 1)
    images = wrap(vd.images)(data, CLASSES[:, 1:])
    assert images.dtype == jnp.float32
    np.testing.assert_array_equal(images[..., 0], PIXELS)


def test_images_that_do_not_fill_whole_bytes_are_read(tmp_path):
    pixels = PIXELS[:, :5, :5]
    file = write(tmp_path / "odd.npz", imgs=pixels)
    data = dsprites._load(file, factors=FACTORS, image_size=5, white_pixels=None)
    np.testing.assert_array_equal(vd.images(data, CLASSES[:, 1:])[..., 0], pixels)


def test_stored_images_are_a_tree_with_the_bits_as_leaf(tmp_path):
    data = load(write(tmp_path / "small.npz"))
    assert len(jax.tree.leaves(data)) == 1
    source, target = jax.jit(lambda key, data: vd.minimal_levels(key, data, "orientation", 50))(
        jax.random.key(0), data
    )
    difference = vd.images(data, source) != vd.images(data, target)
    assert difference.any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match="'shape' has levels 0 to 2, got 3"):
        data.image(jnp.asarray([3, 0]))


def truncated(folder):
    file = write(folder / "cut.npz")
    file.write_bytes(file.read_bytes()[:-200])
    return file


def damaged(folder):
    file = write(folder / "damaged.npz")
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("imgs.npy").header_offset + 120
    content = bytearray(file.read_bytes())
    content[start : start + 16] = bytes(16)
    file.write_bytes(content)
    return file


def short_member(folder):
    """An archive whose images end before their header says, with everything else intact."""
    whole, short = write(folder / "whole.npz"), folder / "short.npz"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(short, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:-100] if name == "imgs.npy" else content)
    return short


def foreign(folder):
    file = folder / "foreign.npz"
    np.savez(file, images=PIXELS)
    return file


def not_an_archive(folder):
    file = folder / "text.npz"
    file.write_text("<html>404</html>")
    return file


def changed(**changes):
    return lambda folder: write(folder / "changed.npz", **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated, "cut.npz is truncated or not an archive"),
        (damaged, "damaged.npz is truncated or not an archive"),
        (short_member, "short.npz is truncated or not an archive"),
        (not_an_archive, "text.npz is truncated or not an archive: expected the archive dsprites_"),
        (foreign, r"lacks \['imgs.npy', 'latents_classes.npy', 'latents_values.npy'\]"),
        (changed(latents_values=None), r"lacks \['latents_values.npy'\]"),
        (
            changed(imgs=PIXELS[:8]),
            r"imgs of shape \(9, 8, 8\) and type uint8 in C order, got \(8, 8, 8\)",
        ),
        (changed(imgs=PIXELS.astype(np.float32)), "type uint8 in C order, got .* and float32"),
        (changed(imgs=np.asfortranarray(PIXELS)), "and uint8 in Fortran order"),
        (changed(imgs=PIXELS * 255), "pixels must be 0 or 1, got 255"),
        (changed(imgs=1 - PIXELS), f"has {576 - WHITE} white pixels, expected {WHITE}"),
        (
            changed(latents_classes=CLASSES[:, 1:]),
            r"latents_classes of shape \(9, 3\), got \(9, 2\)",
        ),
        (changed(latents_classes=CLASSES[::-1]), "shape in latents_classes is not on the expected"),
        (changed(latents_values=VALUES + 0.01), "colour in latents_values is not on the expected"),
    ],
)
def test_bad_archives_are_named(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        load(make(tmp_path))


def test_white_pixels_need_not_be_verified(tmp_path):
    load(write(tmp_path / "inverted.npz", imgs=1 - PIXELS), white_pixels=None)


def test_missing_archive_names_the_file_and_where_it_is_published(tmp_path, monkeypatch):
    monkeypatch.delenv("VAECAUSAL_DSPRITES", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"VAECAUSAL_DSPRITES is not set.*github.com/deepmind"
    ):
        vd.load_dsprites()
    with pytest.raises(FileNotFoundError, match=r"none.npz: expected .*dsprites_ndarray_co1sh3sc6"):
        vd.load_dsprites(tmp_path / "none.npz")
    monkeypatch.setenv("VAECAUSAL_DSPRITES", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no file .*/dsprites_ndarray_co1sh3sc6or40x32y32"):
        vd.load_dsprites()


def test_archive_is_found_by_folder_and_variable(tmp_path, monkeypatch):
    write(tmp_path / dsprites.ARCHIVE_NAME)
    monkeypatch.setenv("VAECAUSAL_DSPRITES", str(tmp_path))
    # Found, opened, and told apart from the published one by its size.
    with pytest.raises(ValueError, match=r"latents_classes of shape \(737280, 6\), got \(9, 3\)"):
        vd.load_dsprites()


@pytest.mark.skipif(not os.environ.get("VAECAUSAL_DSPRITES"), reason="VAECAUSAL_DSPRITES not set")
@pytest.mark.slow
def test_squares_of_the_published_archive_equal_the_redrawn_ones():
    data = vd.load_dsprites()
    rows = vd.do_factor(vd.sample_factors(jax.random.key(0), data, 3000), 0, 0)
    chex.assert_trees_all_equal(vd.images(data, rows), vd.images(DATA, rows))
