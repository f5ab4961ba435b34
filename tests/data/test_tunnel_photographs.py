"""The light tunnel's photographs, on small folders in the published format."""

import csv
import dataclasses

import chex
import jax
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data.tunnel import NAMES

Image = pytest.importorskip("PIL.Image")

NUM = 20
# The published table's columns; settings stand among measurements.
COLUMNS = (
    ["timestamp", "config", "counter", "flag", "intervention", "red", "green", "blue", "osr_c"]
    + ["v_c", "current", "pol_1", "pol_2", "angle_1", "angle_2", "ir_1", "vis_1", "l_11", "camera"]
    + ["aperture", "iso", "shutter_speed", "image_file"]
)
RNG = np.random.default_rng(0)
SETTINGS = np.concatenate(
    [RNG.integers(0, 256, (NUM, 3)), RNG.integers(-900, 901, (NUM, 2)) / 10.0], axis=1
)
PIXELS = RNG.integers(0, 256, (NUM, 64, 64, 3)).astype(np.uint8)
# Rows are in the order of the shots, files are listed in another: "10_" lies before "9_".
FILES = [f"{number}_{1_700_000_000_000 + 97 * number}.png" for number in range(NUM)]


def write_tunnel(root, experiment="buchholz_1_obs", *, pixels=PIXELS, columns=COLUMNS, damage=None):
    """An experiment in the folder root / lt_crl_benchmark_v1, as its archive unpacks."""
    folder = root / "lt_crl_benchmark_v1" / experiment
    images = folder / "images_64"
    images.mkdir(parents=True)
    for name, photograph in zip(FILES, pixels, strict=True):
        Image.fromarray(photograph).save(images / name)
    with (folder / f"{experiment}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="1.8", extrasaction="ignore")
        table.writeheader()
        for name, row in zip(FILES, SETTINGS, strict=True):
            table.writerow(dict(zip(NAMES, row, strict=True)) | {"image_file": name})
    if damage:
        damage(folder)
    return root


def change(name, edit):
    """The damage of rewriting the table or another file of the experiment."""

    def damage(folder):
        file = folder / name
        file.write_bytes(edit(file.read_bytes()))

    return damage


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_photographs_and_settings_are_read_to_the_byte_in_the_order_of_the_table(tmp_path, wrap):
    data = vd.load_tunnel(write_tunnel(tmp_path))
    assert vd.factor_names(data) == ("photograph",)
    assert vd.num_images(data) == NUM
    rows = RNG.permutation(NUM)[:, None]
    images = wrap(vd.images)(data, rows)
    np.testing.assert_allclose(images, PIXELS[rows[:, 0]] / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(wrap(data.settings_at)(rows), np.float32(SETTINGS[rows[:, 0]]))


def test_levels_are_the_nearest_of_the_rendered_world(tmp_path):
    data = vd.load_tunnel(write_tunnel(tmp_path))
    levels = data.levels_at(np.arange(NUM).reshape(4, 5, 1)).reshape(NUM, 5)
    # Steps of 21.25 about 127.5 and of 15 degrees about 0, seven of each.
    steps = np.round((SETTINGS - [127.5, 127.5, 127.5, 0, 0]) / [21.25, 21.25, 21.25, 15, 15])
    np.testing.assert_array_equal(levels, np.clip(steps, -3, 3) + 3)
    vd.check_factors(vd.tunnel(16), levels)


@pytest.mark.parametrize("given", ["folder", "parent", "variable"])
def test_an_experiment_is_found_by_name_in_the_folder_or_where_it_was_unpacked(
    tmp_path, given, monkeypatch
):
    write_tunnel(tmp_path, pixels=PIXELS[::-1])
    write_tunnel(tmp_path, "uniform_synth_det")
    folder = tmp_path / "lt_crl_benchmark_v1"
    monkeypatch.setenv("VAECAUSAL_TUNNEL", str(folder))
    path = {"folder": folder, "parent": tmp_path, "variable": None}[given]
    data = vd.load_tunnel(path, experiment="uniform_synth_det")
    np.testing.assert_array_equal(data.photographs.read(np.array([7])), PIXELS[[7]])


def test_other_sizes_are_averaged(tmp_path):
    # Blocks of 8 x 8 of one value: a filter 4 pixels wide does not reach beyond from their middles.
    blocks = RNG.integers(0, 256, (NUM, 8, 8, 3)).astype(np.uint8)
    root = write_tunnel(tmp_path, pixels=blocks.repeat(8, axis=1).repeat(8, axis=2))
    data = vd.load_tunnel(root, image_size=32)
    assert data.image_shape == (32, 32, 3)
    images = np.asarray(vd.images(data, np.arange(NUM)[:, None]))
    for offset in (1, 2):
        middles = images[:, offset::4, offset::4]
        np.testing.assert_allclose(middles, blocks / np.float32(255), rtol=1e-6)


def test_decoded_photographs_are_found_again_and_go_to_the_device(tmp_path):
    root, cache = write_tunnel(tmp_path), tmp_path / "flat.npy"
    write_tunnel(tmp_path, "uniform")
    rows = np.arange(NUM)[::-1, None]
    data = vd.load_tunnel(root)
    expected = vd.images(data, rows)
    for _ in range(2):
        chex.assert_trees_all_equal(vd.images(vd.load_tunnel(root, cache=cache), rows), expected)
    np.testing.assert_array_equal(np.load(cache), PIXELS)
    with pytest.raises(ValueError, match="holds something else .*experiment"):
        vd.load_tunnel(root, experiment="uniform", cache=cache)
    stored = dataclasses.replace(data, photographs=vd.on_device(data.photographs))
    chex.assert_trees_all_equal(vd.images(stored, rows), expected)


def test_photographs_have_no_minimal_pairs(tmp_path):
    data = vd.load_tunnel(write_tunnel(tmp_path))
    with pytest.raises(ValueError, match="no minimal pairs. tunnel\\(\\) renders worlds that have"):
        vd.minimal_levels(jax.random.key(0), data, "photograph", 2)


def shrink(folder):
    Image.fromarray(PIXELS[0, :32]).save(folder / "images_64" / FILES[0])


TABLE = "buchholz_1_obs.csv"


@pytest.mark.parametrize(
    ("damage", "options", "error", "message"),
    [
        (None, {"image_size": 0}, ValueError, "image_size must be at least 1, got 0"),
        (
            lambda f: (f.parent / "uniform").mkdir(),
            {"experiment": "buchholz_1_ob"},
            ValueError,
            "unknown experiment 'buchholz_1_ob'. Did you mean 'buchholz_1_obs'. Valid choices: "
            "buchholz_1_obs, uniform. In .*lt_crl_benchmark_v1",
        ),
        (
            lambda f: f.rename(f.parents[1] / "elsewhere"),
            {},
            FileNotFoundError,
            "lt_crl_benchmark_v1 has no experiments: expected the unpacked lt_crl_benchmark_v1.zip",
        ),
        (
            lambda f: f.parents[1].rename(f.parents[2] / "elsewhere"),
            {},
            FileNotFoundError,
            "no folder .*nowhere: expected the unpacked",
        ),
        (lambda f: (f / TABLE).unlink(), {}, FileNotFoundError, f"no file .*{TABLE}"),
        (
            change(TABLE, lambda text: text.replace(b"pol_1", b"angle").replace(b"image_f", b"f")),
            {},
            ValueError,
            f"{TABLE} lacks the columns pol_1, image_file; it has timestamp, .*, angle, pol_2",
        ),
        (change(TABLE, lambda text: b""), {}, ValueError, "image_file; it has none"),
        (change(TABLE, lambda text: b"\xff\xfe\x00" + text), {}, ValueError, "damaged or no table"),
        (
            change(TABLE, lambda text: text.partition(b"\n")[0] + b"\n"),
            {},
            ValueError,
            f"{TABLE} has no rows",
        ),
        (
            change(TABLE, lambda text: text.replace(str(SETTINGS[1, 4]).encode(), b"?")),
            {},
            ValueError,
            rf"{TABLE}, row 1: expected a number as each of red, .* got .*, \?, {FILES[1]}",
        ),
        (
            change(TABLE, lambda text: text[:-12]),
            {},
            ValueError,
            "images_64 lacks 1 of the 20 photographs of the table, such as 19_",
        ),
        (
            change(TABLE, lambda text: text[:-40]),
            {},
            ValueError,
            f"{TABLE}, row 19: .* got .*, None",
        ),
        (
            lambda f: (f / "images_64").rename(f / "images_full"),
            {},
            FileNotFoundError,
            "no folder .*images_64",
        ),
        (
            lambda f: [(f / "images_64" / FILES[k]).unlink() for k in (3, 7, 12)],
            {},
            ValueError,
            f"images_64 lacks 3 of the 20 photographs of the table, such as {FILES[12]}",
        ),
        (shrink, {}, ValueError, rf"{FILES[0]} is 64 x 32, expected 64 x 64"),
        (
            change(f"images_64/{FILES[0]}", lambda image: image[:5000]),
            {},
            ValueError,
            f"{FILES[0]} is truncated or no image",
        ),
        (
            change(f"images_64/{FILES[0]}", lambda image: b"text"),
            {},
            ValueError,
            f"{FILES[0]} is truncated or no image",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path, damage, options, error, message):
    root = write_tunnel(tmp_path / "nowhere", damage=damage)
    with pytest.raises(error, match=message):
        vd.load_tunnel(root, **options)


def test_photographs_behind_the_first_are_looked_at_when_they_are_read(tmp_path):
    root = write_tunnel(tmp_path, damage=change(f"images_64/{FILES[4]}", lambda image: image[:300]))
    data = vd.load_tunnel(root)
    with pytest.raises(ValueError, match=f"{FILES[4]} is truncated or no image"):
        data.photographs.read(np.array([2, 4]))


def test_no_path_says_what_is_expected(monkeypatch):
    monkeypatch.delenv("VAECAUSAL_TUNNEL", raising=False)
    with pytest.raises(FileNotFoundError, match="VAECAUSAL_TUNNEL is not set: expected the unpack"):
        vd.load_tunnel()
