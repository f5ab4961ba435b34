"""The light tunnel's own photographs, and the settings at which each was taken.

The data set ``lt_crl_benchmark_v1`` of Causal Chambers (papers and model in ``tunnel``),
https://github.com/juangamella/causal-chamber/tree/main/datasets/lt_crl_benchmark_v1, unpacked: a
folder per experiment, with a table ``<experiment>.csv``, one row per photograph, and the
photographs, 64 x 64, in ``images_64``. The experiments:

* ``buchholz_1_obs``, ``buchholz_1_red`` and so on to ``buchholz_1_pol_2``, 10,000 photographs each:
  settings drawn from the linear Gaussian model, in the environments of ``tunnel``;
* ``uniform``, 2,000: settings drawn independently and uniformly;
* ``citris_1``, 100,000: settings that follow one another in time;
* each of these again with ``_synth_det``: settings drawn in the same way, pictures by the authors'
  simulators.

Known are the settings of each photograph, and the model they were drawn from. There are no minimal
pairs: no photograph was taken to differ from another in one setting alone. There are no
counterfactuals: experiments are separate draws, so a row of one belongs to no row of another.
``tunnel`` has both, rendered; ``tunnel_image`` renders any settings, also those of a photograph.
"""

import csv
import math
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.data.dataset import Factor, check_factors
from vaecausal_jax.data.files import flat_file, given_path
from vaecausal_jax.data.shapes3d import optional_module
from vaecausal_jax.data.stored import StreamedImages
from vaecausal_jax.data.tunnel import NAMES, nearest_levels
from vaecausal_jax.errors import unknown_choice

FOLDER_VARIABLE = "VAECAUSAL_TUNNEL"
"""Environment variable with the path of the unpacked folder."""

_COLUMNS = (*NAMES, "image_file")
_SIDE = 64
_FOLDER = "lt_crl_benchmark_v1"
_SOURCE = (
    f"the unpacked {_FOLDER}.zip published at "
    f"https://github.com/juangamella/causal-chamber/tree/main/datasets/{_FOLDER}"
)


@flax.struct.dataclass
class TunnelPhotographs:
    """The photographs of one experiment with their settings. Build it with ``load_tunnel``.

    As a ``Dataset`` it has one factor, the photograph: most combinations of settings were never
    taken, so that they are no grid.

    Attributes:
        photographs: The images, with one factor, "photograph", in the order of the table:
            ``StreamedImages``, or ``ByteImages`` once they are on the device.
        settings: Red, green, blue (0 to 255), pol_1 and pol_2 (degrees) of each photograph,
            (photograph, 5) float32.
    """

    photographs: Any
    settings: jax.Array

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
            "no photograph of the light tunnel was taken to differ from another in one setting "
            "alone: there are no minimal pairs. tunnel() renders worlds that have them."
        )

    def image(self, factors: jax.Array) -> jax.Array:
        """Returns the photograph (h, w, 3) at a row of factors (1,)."""
        return self.photographs.image(factors)

    def settings_at(self, factors: jax.Array | np.ndarray) -> jax.Array:
        """Returns the settings (..., 5) float32 of rows of factors (..., 1)."""
        check_factors(self, factors)
        return self.settings[jnp.asarray(factors)[..., 0]]

    def levels_at(self, factors: jax.Array | np.ndarray) -> jax.Array:
        """Returns the levels of ``tunnel`` (..., 5) int32 nearest to the settings of rows (..., 1).

        For scores that count levels. They say less than the settings: a level of a colour spans 21
        steps of the lamp.
        """
        return nearest_levels(self.settings_at(factors))


def load_tunnel(
    path: str | os.PathLike[str] | None = None,
    *,
    experiment: str = "buchholz_1_obs",
    image_size: int = 64,
    cache: str | os.PathLike[str] | None = None,
) -> TunnelPhotographs:
    """Opens one experiment's photographs, which are decoded when they are asked for, or once.

    Ten thousand photographs of 64 x 64 take 123 MB. The device's memory keeps them in
    ``dataclasses.replace(data, photographs=on_device(data.photographs))``.

    Args:
        path: The folder ``lt_crl_benchmark_v1``, or the one in which it lies; by default the
            environment variable VAECAUSAL_TUNNEL.
        experiment: Name of a folder in it, see the module.
        image_size: Height and width of the images; other sizes than 64 are resized (Pillow's
            antialiased BILINEAR).
        cache: A file for decoded photographs, which is mapped; one for each experiment and size.

    Raises:
        FileNotFoundError: No such folder, no table or no photographs in it, or neither path nor
            variable given.
        ImportError: Pillow is not installed.
        ValueError: An experiment that is not there, or a size below 1; a table without a column or
            with another value than a number; photographs that are missing, damaged, or not 64 x 64
            (those behind the first when they are read).
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}.")
    image_module = optional_module("PIL.Image", needed_for="photographs", package="pillow")
    folder = _experiment(given_path(path, variable=FOLDER_VARIABLE, source=_SOURCE), experiment)
    files, settings = _table(folder / f"{experiment}.csv")
    decode = _decoder(image_module, folder / f"images_{_SIDE}", files, image_size)
    decode([0])
    shape = (image_size, image_size, 3)
    read = decode
    if cache is not None:
        pixels = flat_file(
            cache,
            lambda start, stop: decode(range(start, stop)),
            shape=(len(files), *shape),
            holds={"images": "light tunnel", "experiment": experiment},
        )
        read = pixels.__getitem__
    numbers = tuple(map(float, range(len(files))))
    factor = Factor("photograph", numbers, len(files), cyclic=False)
    return TunnelPhotographs(StreamedImages(read, (factor,), shape), jnp.asarray(settings))


def _experiment(path: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of an experiment, which need not be whole."""
    root = path / _FOLDER if (path / _FOLDER).is_dir() else path
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: expected {_SOURCE}.")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not found:
        raise FileNotFoundError(f"{root} has no experiments: expected {_SOURCE}.")
    if name not in found:
        raise ValueError(f"{unknown_choice('experiment', name, found)} In {root}, {_SOURCE}.")
    return root / name


def _table(file: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Names of the photographs and their settings (photograph, 5) float32."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: expected {_SOURCE}.")
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = csv.DictReader(text)
            found = tuple(rows.fieldnames or ())
            table = [[row.get(name) for name in _COLUMNS] for row in rows]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged or no table: expected {_SOURCE}.") from error
    if missing := [name for name in _COLUMNS if name not in found]:
        raise ValueError(
            f"{file} lacks the columns {', '.join(missing)}; it has {', '.join(found) or 'none'}: "
            f"expected {_SOURCE}."
        )
    if not table:
        raise ValueError(f"{file} has no rows: expected {_SOURCE}.")
    settings = np.array([[_number(text) for text in row[:-1]] for row in table], np.float32)
    for number, row in enumerate(table):
        if not row[-1] or not np.isfinite(settings[number]).all():
            raise ValueError(
                f"{file}, row {number}: expected a number as each of {', '.join(NAMES)} and a file "
                f"as image_file, got {', '.join(map(str, row))}: expected {_SOURCE}."
            )
    return [str(row[-1]) for row in table], settings


def _number(text: str | None) -> float:
    """NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _decoder(
    image_module: Any, folder: pathlib.Path, files: list[str], image_size: int
) -> Callable[[Iterable[int]], np.ndarray]:
    """Returns the function from photographs' numbers to their pixels (num, h, w, 3) uint8."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: expected {_SOURCE}.")
    missing = set(files) - {entry.name for entry in os.scandir(folder)}
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the {len(files)} photographs of the table, such as "
            f"{min(missing)}: expected {_SOURCE}."
        )

    def decode(name: str) -> np.ndarray:
        try:
            with image_module.open(folder / name) as photograph:
                if photograph.size != (_SIDE, _SIDE):
                    raise ValueError(
                        f"{folder / name} is {photograph.size[0]} x {photograph.size[1]}, expected "
                        f"{_SIDE} x {_SIDE} as in {_SOURCE}."
                    )
                pixels = photograph.convert("RGB")
        except (OSError, SyntaxError) as error:  # Pillow has its SyntaxError for broken PNGs.
            raise ValueError(
                f"{folder / name} is truncated or no image: expected {_SOURCE}."
            ) from error
        # Of the same size, this is a copy.
        return np.asarray(pixels.resize((image_size, image_size), image_module.BILINEAR))

    return lambda rows: np.stack([decode(files[row]) for row in rows])
