"""Names and whole files: what everything on disk relies on."""

import errno
import os
import pathlib
import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from vaecausal_jax import models
from vaecausal_jax.manifests import (
    escaped,
    group_of,
    name_of,
    remove_leftovers,
    unescaped,
    write_text,
    written_whole,
)
from vaecausal_jax.study import store
from vaecausal_jax.sweeps.stored import variable_of

CHARACTERS = st.one_of(
    st.sampled_from("aAzZ09._-/%\\: \t\n\0äÄßée\u0301\u0130ıK\u212a\ud800\udc00🙂"), st.characters()
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=12),
    st.lists(
        st.sampled_from(["", ".", "..", "/", "%", "%2E", "con", "NUL.x", "zarr.json", "h"]),
        max_size=12,
    ).map("".join),
)
few = hypothesis.settings(max_examples=100, deadline=None)


@few
@hypothesis.given(TEXTS)
def test_every_name_comes_back_from_its_group_and_its_file(name):
    assert name_of(group_of(name)) == name
    assert unescaped(variable_of(name)) == name
    assert unescaped(escaped(name, store._UNSAFE_IN_PART)) == name


@few
@hypothesis.given(TEXTS)
def test_no_name_leads_out_of_its_folder_or_to_what_is_reserved(name):
    for piece in [*group_of(name).split("/"), variable_of(name)]:
        assert piece not in ("", ".", "..")
        assert not set(piece) & set('/\\\0:*?"<>|')
        assert piece[0] not in ". "
        assert piece[-1] not in ". "
        assert unicodedata.is_normalized("NFC", piece)
        assert piece.encode()
        assert pathlib.PureWindowsPath(piece).name == piece
    assert not variable_of(name).split()[1:]


@few
@hypothesis.given(TEXTS, TEXTS)
def test_names_of_parts_differ_in_more_than_case(first, second):
    files = [store._part_file(name) for name in (first, second)]
    assert (files[0].casefold() == files[1].casefold()) == (first == second)


@few
@hypothesis.given(st.lists(st.text("abcXYZ019_-", min_size=1), min_size=1).map("/".join))
def test_ordinary_names_are_left_as_they_are(name):
    assert group_of(name) == name


def test_sites_of_models_are_ordinary():
    for model in (models.mlp_vae(), models.conv_vae()):
        assert [group_of(name) for name in model.sites] == list(model.sites)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("", "%"),
        ("/abs/h", "%/abs/h"),
        ("../../up", "%2E%2E/%2E%2E/up"),
        ("a/../b", "a/%2E%2E/b"),
        ("a//b/", "a/%/b/%"),
        (".zgroup", "%2Ezgroup"),
        ("zarr.json", "%7Aarr.json"),
        ("100%", "100%25"),
        ("c:\\d", "c%3A%5Cd"),
        ("größe/layer 1", "größe/layer 1"),
        ("e\u0301", "e%CC%81"),
        ("nul/aux.x/auxiliary", "%6Eul/%61ux.x/auxiliary"),
        ("v1.2/h[0]", "v1.2/h[0]"),
    ],
)
def test_names_by_hand(name, group):
    assert group_of(name) == group


def test_a_name_too_long_for_a_file_is_refused():
    assert group_of("x" * 200)
    with pytest.raises(ValueError, match="takes 201 bytes in a file system, expected at most 200"):
        group_of("x" * 201)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()

    def write_half(error):
        with written_whole(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(KeyboardInterrupt):
        write_half(KeyboardInterrupt())
    with pytest.raises(OSError, match=f"No space left on device: '{path}'") as caught:
        write_half(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == "größe\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with written_whole(path) as one, written_whole(path) as two:
        one.write(b"one")
        two.write(b"two")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_old_leftovers_go_and_files_of_others_stay(tmp_path):
    names = [".a.0123456789abcdef.partial", ".b.0123456789abcdef.partial", "mine.partial", "x"]
    for name in names:
        (tmp_path / name).write_text("half")
    (tmp_path / ".c.0123456789abcdef.partial" / "deep").mkdir(parents=True)
    for name in (names[0], ".c.0123456789abcdef.partial", "mine.partial"):
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
