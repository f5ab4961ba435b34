"""CelebA as published: 202,599 photographs of faces and a list of forty binary attributes.

Liu, Luo, Wang and Tang 2015, "Deep Learning Face Attributes in the Wild",
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: the aligned and cropped photographs (178 x 218, a
zip or the folder in it), ``list_attr_celeba.txt`` and, for splits, ``list_eval_partition.txt``.

Photographs are found, not rendered: nobody can set one attribute of a face and keep the rest, so
there are no minimal pairs here. As a ``Dataset`` CelebA has one factor, the photograph; its
attributes are labels beside it. ``attribute_matched_pairs`` gives the nearest thing to a pair, with
its caveat.
"""

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data.dataset import Factor, check_factors
from vaecausal_jax.data.files import check_md5, flat_file, given_path
from vaecausal_jax.data.shapes3d import optional_module
from vaecausal_jax.data.stored import StreamedImages
from vaecausal_jax.errors import unknown_choice

FOLDER_VARIABLE = "VAECAUSAL_CELEBA"
"""Environment variable with the path of the folder that holds the files."""

NUM_PHOTOGRAPHS = 202_599
# fmt: off
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup",
    "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns",
    "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on
CAVEAT = (
    "Matched, not counterfactual: the two photographs agree in the attributes that were matched "
    "and differ in the one that was asked for, but they show two people, and whatever the forty "
    "labels do not say (identity, pose, light, background, mistakes in the labels) differs freely. "
    "A difference between them is an association given the matched attributes, not the "
    "attribute's effect."
)

_WIDTH, _HEIGHT = 178, 218
_PUBLISHED = "published at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_ARCHIVE, _FOLDER = "img_align_celeba.zip", "img_align_celeba"
_MD5 = {
    "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
    "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}
_SPLITS = {"all": (0, 1, 2), "train": (0,), "valid": (1,), "test": (2,)}


@flax.struct.dataclass
class CelebA:
    """The photographs with their attributes. Build it with ``load_celeba``.

    Attributes:
        photographs: The images, with one factor, "photograph".
        attributes: (photograph, attribute) int8, 1 where the attribute is present, else 0.
        attribute_names: Names of the attributes, as published.
    """

    photographs: StreamedImages
    attributes: jax.Array
    attribute_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=ATTRIBUTES)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """One factor, the photograph."""
        return self.photographs.factors

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.photographs.image_shape

    @property
    def no_minimal_pairs(self) -> str:
        """Why photographs have no minimal pairs."""
        return (
            "CelebA holds photographs, in which no factor can be changed alone: there are no "
            "minimal pairs. attribute_matched_pairs(key, data, attribute, num) gives matched ones."
        )

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the photograph (h, w, 3) at a row of factors (1,)."""
        return self.photographs.image(factors)

    def labels(self, factors: jax.Array | np.ndarray) -> jax.Array:
        """Returns the attributes (..., attribute) int8 of rows of factors (..., 1)."""
        check_factors(self, factors)
        return self.attributes[jnp.asarray(factors)[..., 0]]


class MatchedPairs(NamedTuple):
    """Pairs of photographs that differ in one attribute and agree in the matched ones.

    Attributes:
        source: Rows of factors of photographs without the attribute, (pairs, 1).
        target: Rows of photographs with it.
        matched: Names of the attributes in which the two agree.
        share: Part of the photographs that have any such partner; pairs speak for these alone.
        caveat: What the pairs are not, in words, to be printed beside whatever is computed on them.
    """

    source: jax.Array
    target: jax.Array
    matched: tuple[str, ...]
    share: float
    caveat: str = CAVEAT


def attribute_matched_pairs(
    key: jax.Array, data: CelebA, attribute: str, num: int, *, match: Iterable[str] | None = None
) -> MatchedPairs:
    """Draws pairs of photographs without and with an attribute that agree in others.

    Matched, not counterfactual: see ``CAVEAT``. Photographs are put in groups of equal matched
    attributes. A group is drawn by its number of photographs among the groups that have both kinds,
    then one photograph of each kind, uniformly.

    Args:
        key: PRNG key.
        data: The photographs.
        attribute: The attribute that differs.
        num: Pairs.
        match: Attributes that must agree; by default all others. Fewer leave more photographs a
            partner (``share``), and more unmatched differences.

    Raises:
        ValueError: An unknown attribute, the attribute itself among the matched ones, or no
            photograph that has a partner.
    """
    names = data.attribute_names
    matched = tuple(name for name in names if name != attribute) if match is None else tuple(match)
    for name in (attribute, *matched):
        if name not in names:
            raise ValueError(unknown_choice("attribute", name, names))
    if attribute in matched:
        raise ValueError(f"{attribute!r} is to differ, so it cannot be matched as well.")
    table = np.asarray(data.attributes)
    present = table[:, names.index(attribute)].astype(bool)
    columns = table[:, [names.index(name) for name in matched]]
    _, group = np.unique(columns, axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = [np.bincount(group[kind], minlength=group.max() + 1) for kind in (~present, present)]
    size = np.where((counts[0] > 0) & (counts[1] > 0), counts[0] + counts[1], 0)
    if not size.any():
        raise ValueError(
            f"no two photographs differ in {attribute!r} and agree in all of {len(matched)} "
            "matched attributes: match fewer."
        )
    group_key, *kind_keys = jax.random.split(key, 3)
    ends = jnp.asarray(np.cumsum(size), jnp.int32)
    tickets = jax.random.randint(group_key, (num,), 0, int(size.sum()), jnp.int32)
    drawn = jnp.searchsorted(ends, tickets, side="right")
    rows = []
    for kind_key, kind, count in zip(kind_keys, (~present, present), counts, strict=True):
        members = np.flatnonzero(kind)
        members = jnp.asarray(members[np.argsort(group[members], kind="stable")], jnp.int32)
        starts = jnp.asarray(np.cumsum(count) - count, jnp.int32)[drawn]
        pick = jax.random.randint(
            kind_key, (num,), 0, jnp.asarray(count, jnp.int32)[drawn], jnp.int32
        )
        rows.append(members[starts + pick][:, None])
    return MatchedPairs(rows[0], rows[1], matched, float(size.sum() / len(table)))


def load_celeba(
    path: str | os.PathLike[str] | None = None,
    *,
    split: str = "all",
    image_size: int = 64,
    crop: int = 148,
    cache: str | os.PathLike[str] | None = None,
    verify: bool = True,
) -> CelebA:
    """Opens the published CelebA; photographs are decoded when they are asked for, or once.

    The middle ``crop`` x ``crop`` pixels are resized to ``image_size`` (Pillow's antialiased
    BILINEAR). Decoding takes about a millisecond a photograph; with ``cache`` all are decoded once
    to a flat file (2.5 GB at 64 x 64) that is mapped.

    Args:
        path: The folder with ``img_align_celeba.zip`` or the folder ``img_align_celeba``,
            ``list_attr_celeba.txt`` and, for a split, ``list_eval_partition.txt``; by default the
            environment variable VAECAUSAL_CELEBA.
        split: "all", or "train", "valid" or "test" of the published partition.
        image_size: Height and width of the images.
        crop: Side of the middle part that is kept, at most 178.
        cache: Where to keep decoded photographs; a file for each image_size and crop.
        verify: Whether to check the MD5 of the lists and of the archive (1.4 GB; a folder has
            none).

    Raises:
        FileNotFoundError: No such file, or neither path nor variable given.
        ImportError: Pillow is not installed.
        ValueError: An unknown split or a bad size; another file, a damaged or truncated one.
    """
    folder = given_path(path, variable=FOLDER_VARIABLE, source=f"{_ARCHIVE} {_PUBLISHED}")
    return _load(folder, NUM_PHOTOGRAPHS, split, image_size, crop, cache=cache, verify=verify)


def _load(
    folder: pathlib.Path,
    num: int,
    split: str,
    image_size: int,
    crop: int,
    *,
    cache: str | os.PathLike[str] | None,
    verify: bool,
) -> CelebA:
    """Opens files in the published format, with ``num`` photographs."""
    if split not in _SPLITS:
        raise ValueError(unknown_choice("split", split, _SPLITS))
    if not 1 <= crop <= _WIDTH or image_size < 1:
        raise ValueError(
            f"crop must be from 1 to {_WIDTH} and image_size at least 1, got {crop} and "
            f"{image_size}."
        )
    optional_module("PIL.Image", needed_for="CelebA", package="pillow")
    files, attributes = _attributes(_listed(folder, "list_attr_celeba.txt", verify), num)
    chosen = np.arange(num)
    if split != "all":
        part = _partition(_listed(folder, "list_eval_partition.txt", verify), files)
        chosen = np.flatnonzero(np.isin(part, _SPLITS[split]))
    decode = _decoder(folder, files, image_size, crop, verify)
    decode(0)

    def decode_rows(rows: Iterable[int]) -> np.ndarray:
        return np.stack([decode(row) for row in rows])

    read = decode_rows
    if cache is not None:
        pixels = flat_file(
            cache,
            lambda start, stop: decode_rows(range(start, stop)),
            shape=(num, image_size, image_size, 3),
            holds={"images": "CelebA", "crop": crop},
        )
        read = pixels.__getitem__
    values = tuple(float(number) for number in range(len(chosen)))
    photographs = StreamedImages(
        lambda index: read(chosen[index]),
        (Factor("photograph", values, len(chosen), cyclic=False),),
        (image_size, image_size, 3),
    )
    return CelebA(photographs, jnp.asarray(attributes[chosen]))


def _listed(folder: pathlib.Path, name: str, verify: bool) -> pathlib.Path:
    file = folder / name
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: expected {name} {_PUBLISHED}.")
    if verify:
        check_md5(file, _MD5[name], source=f"{name} {_PUBLISHED}")
    return file


def _attributes(file: pathlib.Path, num: int) -> tuple[list[str], np.ndarray]:
    """File names and attributes (photograph, 40) int8 in 0 and 1 of ``list_attr_celeba.txt``."""
    lines = file.read_text().splitlines()
    source = f"{file.name} {_PUBLISHED}"
    if len(lines) < 2 or lines[0].strip() != str(num):
        found = lines[0].strip()[:40] if lines else ""
        raise ValueError(f"{file}: expected {num} in the first line, got {found!r}: not {source}.")
    if tuple(lines[1].split()) != ATTRIBUTES:
        raise ValueError(f"{file}: expected the {len(ATTRIBUTES)} attributes' names: not {source}.")
    rows = [line.split() for line in lines[2:] if line.strip()]
    if len(rows) != num:
        raise ValueError(
            f"{file} is truncated: expected {num} photographs, got {len(rows)}: not {source}."
        )
    short = [row[0] for row in rows if len(row) != 1 + len(ATTRIBUTES)]
    if short:
        raise ValueError(f"{file}: {short[0]} has not {len(ATTRIBUTES)} attributes: not {source}.")
    signs = {"1": 1, "-1": 0}
    try:
        table = np.array([[signs[value] for value in row[1:]] for row in rows], np.int8)
    except KeyError as error:
        raise ValueError(f"{file}: attributes are 1 or -1, got {error}: not {source}.") from error
    return [row[0] for row in rows], table


def _partition(file: pathlib.Path, files: list[str]) -> np.ndarray:
    """The part, 0 to 2, of each photograph in ``list_eval_partition.txt``."""
    rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
    if [row[0] for row in rows] != files or any(
        row[1:] not in (["0"], ["1"], ["2"]) for row in rows
    ):
        raise ValueError(
            f"{file}: expected the photographs of list_attr_celeba.txt in its order, each with 0, "
            f"1 or 2: not {file.name} {_PUBLISHED}."
        )
    return np.array([int(row[1]) for row in rows])


def _decoder(
    folder: pathlib.Path, files: list[str], image_size: int, crop: int, verify: bool
) -> Callable[[int], np.ndarray]:
    """Returns the function from a photograph's number to its pixels (h, w, 3) uint8."""
    image_module: Any = optional_module("PIL.Image", needed_for="CelebA", package="pillow")
    fetch, where = _fetcher(folder, files, verify)
    left, top = (_WIDTH - crop) / 2, (_HEIGHT - crop) / 2
    box = (math.floor(left), math.floor(top), math.floor(left) + crop, math.floor(top) + crop)

    def decode(number: int) -> np.ndarray:
        name = files[number]
        try:
            with image_module.open(io.BytesIO(fetch(name))) as photograph:
                if photograph.size != (_WIDTH, _HEIGHT):
                    raise ValueError(
                        f"{name} in {where} is {photograph.size[0]} x {photograph.size[1]}, "
                        f"expected the aligned photographs of {_WIDTH} x {_HEIGHT}, {_ARCHIVE} "
                        f"{_PUBLISHED}."
                    )
                size = (image_size, image_size)
                small = photograph.convert("RGB").resize(size, image_module.BILINEAR, box=box)
        except OSError as error:
            raise ValueError(
                f"{name} in {where} is missing, truncated or no image: expected it in {_ARCHIVE} "
                f"{_PUBLISHED}."
            ) from error
        return np.asarray(small)

    return decode


def _fetcher(
    folder: pathlib.Path, files: list[str], verify: bool
) -> tuple[Callable[[str], bytes], pathlib.Path]:
    """Returns the function from a photograph's name to its bytes, and where they lie."""
    images, archive = folder / _FOLDER, folder / _ARCHIVE
    source = f"{_ARCHIVE} {_PUBLISHED}"
    if images.is_dir():
        missing = set(files) - {entry.name for entry in os.scandir(images)}
        where, read = images, lambda name: (images / name).read_bytes()
    elif archive.is_file():
        if verify:
            check_md5(archive, _MD5[_ARCHIVE], source=source)
        try:
            opened = zipfile.ZipFile(archive)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{archive} is truncated or not an archive: expected {source}."
            ) from error
        missing = {f"{_FOLDER}/{name}" for name in files} - {*opened.namelist()}

        def read(name: str) -> bytes:
            try:
                return opened.read(f"{_FOLDER}/{name}")
            except zipfile.BadZipFile as error:
                raise OSError(f"{name} is damaged.") from error

        where = archive
    else:
        raise FileNotFoundError(f"no folder {images} and no file {archive}: expected {source}.")
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} photographs of list_attr_celeba.txt, such as "
            f"{min(missing)}: expected {source}."
        )
    return read, where
