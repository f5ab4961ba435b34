"""Trained weights as files: one archive per world and family, with what was measured of them.

``<world>/<family>.npz`` holds the parameters of all seeds, stacked, under their paths, and the
history of training; ``<world>/<family>.json`` the recipe, the command, versions, date, the SHA-256
of the archive and each seed's measurements.
"""

import hashlib
import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.json_values import json_values, read_object
from vaecausal_jax.manifests import write_text, written_whole
from vaecausal_jax.zoo.recipes import Recipe, network

SHIPPED = pathlib.Path(__file__).parent / "weights"
"""The models that come with the package."""

_PARAMS, _HISTORY = "params", "history"


class Entry(NamedTuple):
    """One family of one world in the zoo.

    Attributes:
        recipe: How it was trained.
        record: Command, date, versions, digest, and ``seeds``: one set of measurements per seed.
    """

    recipe: Recipe
    record: dict[str, Any]

    @property
    def num_seeds(self) -> int:
        """How many models there are."""
        return len(self.record["seeds"])


def entries(folder: pathlib.Path = SHIPPED) -> dict[tuple[str, str], Entry]:
    """(world, family) to what the zoo has of it."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*/*.json")):
        record = read_object(path, "Train the family again.")
        if "recipe" in record:  # Other JSON files, such as a study's, are not the zoo's.
            entry = _entry(path, record)
            found[entry.recipe.world, entry.recipe.family] = entry
    return found


def _entry(path: pathlib.Path, record: dict[str, Any]) -> Entry:
    try:
        _ = record["sha256"], record["seeds"]
        return Entry(Recipe(**record["recipe"]), record)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no record of this version's zoo ({type(error).__name__}: {error})."
        ) from error


def load(
    world: str, family: str, *, seed: int | None = None, folder: pathlib.Path = SHIPPED
) -> BoundModel:
    """A trained model, or all seeds of a family as a stacked one, to be used under ``vmap``.

    Args:
        world: Such as ``"causal-sprites"``; ``entries()`` says what there is.
        family: Such as ``"factor_vae"``.
        seed: Which model; all of them, with a leading axis of seeds, if None.
        folder: Where the zoo lies: the package's own, or one that ``vaecausal zoo train`` made.

    Raises:
        ValueError: A world, family or seed that the zoo does not have, with what it has; or an
            archive that is missing or altered.
    """
    entry = _find(world, family, folder)
    if seed is not None and not 0 <= seed < entry.num_seeds:
        raise ValueError(f"{family} of {world} has seeds 0 to {entry.num_seeds - 1}, got {seed}.")
    model = network(entry.recipe)
    place = pathlib.Path(folder) / world / f"{family}.npz"
    stored = _arrays(place, entry.record["sha256"])
    expected = jax.eval_shape(model.init, jax.random.key(0))

    def leaf(path, like):
        name = _name(_PARAMS, path)
        shape = (entry.num_seeds, *like.shape)
        if name not in stored or stored[name].shape != shape:
            there = stored[name].shape if name in stored else "nothing"
            raise ValueError(
                f"{place} has {there} at {name}, expected {shape}: it was trained on another "
                "network than this version's."
            )
        values = stored[name].astype(like.dtype)
        return jnp.asarray(values if seed is None else values[seed])

    return model.bind(jax.tree.map_with_path(leaf, expected))


def _find(world: str, family: str, folder: pathlib.Path) -> Entry:
    found = entries(folder)
    worlds = sorted({name for name, _ in found})
    if world not in worlds:
        raise ValueError(f"{unknown_choice('world in the zoo', world, worlds)} ({folder}).")
    families = [name for place, name in found if place == world]
    if family not in families:
        raise ValueError(unknown_choice(f"family of {world!r} in the zoo", family, families))
    return found[world, family]


def training_history(
    world: str, family: str, *, folder: pathlib.Path = SHIPPED
) -> dict[str, np.ndarray]:
    """The recorded terms of the loss of every seed, (seeds, records) or (seeds, records, latents).

    Raises:
        ValueError: As in ``load``.
    """
    digest = _find(world, family, folder).record["sha256"]
    stored = _arrays(pathlib.Path(folder) / world / f"{family}.npz", digest)
    return {
        name.removeprefix(f"{_HISTORY}/"): values
        for name, values in stored.items()
        if name.startswith(f"{_HISTORY}/")
    }


def write(
    folder: pathlib.Path,
    recipe: Recipe,
    params: Any,
    history: dict[str, np.ndarray],
    record: dict[str, Any],
) -> None:
    """Writes one family's archive and then its record, each whole or not at all."""
    arrays = {
        _name(_PARAMS, path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    arrays |= {f"{_HISTORY}/{name}": np.asarray(values) for name, values in history.items()}
    place = pathlib.Path(folder) / recipe.world
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    with written_whole(place / f"{recipe.family}.npz") as file:
        file.write(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    values = json_values({"recipe": vars(recipe), **record, "sha256": digest}, "record")
    write_text(place / f"{recipe.family}.json", json.dumps(values, indent=1) + "\n")


def _name(kind: str, path: Any) -> str:
    return f"{kind}/" + jax.tree_util.keystr(path, simple=True, separator="/")


def _arrays(path: pathlib.Path, digest: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"the zoo's archive {path} is missing: install again, or train it.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"the zoo's archive {path} is altered: its SHA-256 differs from that of its record."
        )
    with np.load(io.BytesIO(content)) as loaded:
        return dict(loaded)
