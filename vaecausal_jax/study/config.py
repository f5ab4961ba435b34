"""What a study consists of: its configuration, the named presets, and their JSON form."""

import dataclasses
import itertools
import json
import os
import pathlib
import typing
from collections.abc import Callable, Mapping
from typing import Any

import optax

from vaecausal_jax.data import (
    Dataset,
    causal_sprites,
    dsprites_exact,
    independent_sprites,
    load_dsprites,
    load_mpi3d,
    load_shapes3d,
    load_smallnorb,
    mpi3d_standin,
    resized,
    shapes3d_standin,
    sprites,
)
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.inference.estimate import least_replicates
from vaecausal_jax.models import Model, burgess_vae, conv_vae, pretrained, vq_vae
from vaecausal_jax.training import objectives
from vaecausal_jax.training.trainer import TrainConfig
from vaecausal_jax.zoo import STRENGTHS, WORLDS, Recipe, entries
from vaecausal_jax.zoo import network as zoo_network


@dataclasses.dataclass(frozen=True)
class Family:
    """One family at one strength.

    Attributes:
        name: ``vae``, ``beta_vae``, ``factor_vae``, ``beta_tc_vae``, ``dip_vae_i``, ``dip_vae_ii``
            or ``vq_vae``; for the data ``pretrained``, the name of a weight file.
        strength: beta, gamma or lambda_od; ``vae`` and ``vq_vae`` have none.
    """

    name: str
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Everything that determines a study's numbers. Copy one with ``dataclasses.replace``.

    Attributes:
        name: Title.
        data: ``sprites``, ``causal-sprites``, ``independent-sprites``, ``shapes3d-standin`` or
            ``mpi3d-standin`` (rendered); ``dsprites`` (the real file if a path is given, else the
            exact geometry); ``shapes3d``, ``mpi3d`` or ``smallnorb`` (the published files, at the
            path or where their environment variable says); or ``pretrained`` (weights of others,
            no training).
        families: What to compare.
        image_size: Height and width.
        num_seeds: Trained models per family.
        seed: Root of all randomness.
        latent_size: Latents; those of ``vq_vae`` are a map of codes.
        num_codes: Codes of ``vq_vae``.
        code_size: Numbers in a code.
        encoder_channels: Stride-2 convolutions of the encoder.
        encoder_dense: Dense layers of the encoder.
        decoder_dense: Dense layers of the decoder before its first map.
        decoder_channels: Channels entering each transposed convolution.
        num_steps: Gradient steps.
        record_every: Steps per record of the history.
        batch_size: Images per step.
        learning_rate: Adam's, decayed to a tenth by a cosine if ``decay_learning_rate``.
        decay_learning_rate: Whether it decays.
        discriminator_widths: FactorVAE's discriminator.
        discriminator_learning_rate: Its Adam's.
        num_images: Images for health, strength and dose-response of latents.
        num_unit_images: Of these, the ones that hidden units are resampled on.
        num_pairs: Minimal pairs per factor, for patching and mediation.
        num_swap_pairs: Those in which the latent of one factor is swapped, for the graph of
            factors; ``num_pairs`` if 0.
        num_score_images: Images whose codes are scored by the disentanglement metrics.
        doses: Sizes of the shifts of a latent, in standard deviations of its aggregate posterior;
            each is given with both signs.
        mediation_outcome: ``logits`` (near linear, nothing saturates) or ``image``.
        num_replicates: Bootstrap replicates behind each interval.
        num_factor_replicates: Those behind the tensors of factor by factor by unit, which are many.
        num_shuffles: Shuffles of the factors behind the chance level of each score.
        num_untrained: Untrained networks of each architecture, beside whose circuits those of the
            models are shown; circuits take 16 pairs or more.
        models: ``train``, or ``zoo``: the first ``num_seeds`` models that ship of each family, for
            which all settings of network and training are the zoo's.
    """

    name: str
    data: str
    families: tuple[Family, ...]
    image_size: int = 64
    num_seeds: int = 4
    seed: int = 0
    latent_size: int = 10
    encoder_channels: tuple[int, ...] = (32, 32, 64, 64)
    encoder_dense: tuple[int, ...] = (256,)
    decoder_dense: tuple[int, ...] = (256,)
    decoder_channels: tuple[int, ...] = (64, 64, 32, 32)
    num_steps: int = 300_000
    record_every: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay_learning_rate: bool = False
    discriminator_widths: tuple[int, ...] = (1000,) * 6
    discriminator_learning_rate: float = 1e-4
    num_images: int = 256
    num_unit_images: int = 64
    num_pairs: int = 32
    num_score_images: int = 6000
    doses: tuple[float, ...] = (0.5, 1.0, 2.0)
    mediation_outcome: str = "logits"
    num_replicates: int = 400
    num_factor_replicates: int = 200
    num_shuffles: int = 1
    models: str = "train"
    num_codes: int = 64
    code_size: int = 16
    num_untrained: int = 0
    num_swap_pairs: int = 0

    @property
    def trains(self) -> bool:
        """Whether models are trained here, not loaded."""
        return self.data != "pretrained" and self.models == "train"


_MORE = {"num_images": 256, "num_unit_images": 48, "num_pairs": 32, "num_swap_pairs": 256}
"""More probes than the quick study's."""


def _of_zoo(name: str, world: str, num_seeds: int, **probes: Any) -> StudyConfig:
    """A study of the six families that ship, beside untrained networks."""
    usual: dict[str, Any] = {
        "num_images": 128,
        "num_unit_images": 32,
        "num_pairs": 16,
        "num_swap_pairs": 64,
        "num_score_images": 2000,
        "num_untrained": 2,
    }
    families = tuple(Family(n, 1.0 if s is None else s) for n, s in STRENGTHS.items())
    return StudyConfig(
        name, world, families, models="zoo", image_size=32, num_seeds=num_seeds, **usual | probes
    )


PRESETS: dict[str, StudyConfig] = {
    "train": StudyConfig(
        name="train",
        data="sprites",
        families=(Family("vae"), Family("beta_vae", 4.0), Family("factor_vae", 10.0)),
        image_size=32,
        num_seeds=4,
        latent_size=8,
        encoder_channels=(16, 32, 32),
        encoder_dense=(128,),
        decoder_dense=(128,),
        decoder_channels=(32, 32, 16),
        num_steps=1500,
        batch_size=32,
        record_every=50,
        learning_rate=2e-3,
        decay_learning_rate=True,
        discriminator_widths=(64, 64, 64),
        discriminator_learning_rate=1e-3,
        num_images=128,
        num_unit_images=48,
        num_pairs=8,
        num_score_images=2000,
    ),
    "quick": _of_zoo("quick", "causal-sprites", num_seeds=4),
    "paper": _of_zoo("paper", "causal-sprites", num_seeds=8, **_MORE),
    "paper-without-causes": _of_zoo(
        "paper-without-causes", "independent-sprites", num_seeds=8, **_MORE
    ),
    "dsprites": StudyConfig(
        name="dsprites",
        data="dsprites",
        families=(Family("vae"), Family("beta_vae", 4.0), Family("factor_vae", 10.0)),
        num_seeds=8,
    ),
    "pretrained": StudyConfig(
        name="pretrained",
        data="pretrained",
        families=tuple(Family(name) for name in pretrained.DSPRITES_FILES),
        num_seeds=1,
        num_images=128,
        num_unit_images=40,
        num_pairs=12,
    ),
}
"""Named studies; ``vaecausal study --preset NAME --print-config`` writes one out to edit."""


RENDERED: dict[str, Callable[[int], Dataset]] = {
    "sprites": sprites,
    "causal-sprites": causal_sprites,
    "independent-sprites": independent_sprites,
    "shapes3d-standin": shapes3d_standin,
    "mpi3d-standin": mpi3d_standin,
}
"""Data drawn at any image size; the stand-ins have the factors of the published sets, no more."""

PUBLISHED: dict[str, Callable[[str | None], Dataset]] = {
    "shapes3d": load_shapes3d,
    "mpi3d": load_mpi3d,
    "smallnorb": lambda path: load_smallnorb(path, split="all"),
}
"""Data opened from published files, resized to the study's image size."""

DATA = (*RENDERED, "dsprites", *PUBLISHED, "pretrained")
"""What a study may be of."""


def check_config(config: StudyConfig, data_path: str | None = None) -> None:
    """Raises ValueError for a config, or data for it, that cannot run, before anything starts."""
    if config.data == "pretrained" and data_path is None:
        raise ValueError("data 'pretrained' needs --data DIR, the folder of weights (npz).")
    if config.data in RENDERED and data_path is not None:
        raise ValueError(f"data {config.data!r} is rendered and takes no --data, got {data_path}.")
    if config.data == "celeba":
        raise ValueError(
            "data 'celeba' are photographs, in which no factor can be changed alone: a study has "
            "no minimal pairs to patch between. Train on data.load_celeba(path) with make_train "
            "and compare data.attribute_matched_pairs."
        )
    if config.data not in DATA:
        raise ValueError(unknown_choice("data", config.data, DATA))
    if config.models not in ("train", "zoo"):
        raise ValueError(unknown_choice("models", config.models, ("train", "zoo")))
    if config.mediation_outcome not in ("logits", "image"):
        raise ValueError(
            unknown_choice("mediation_outcome", config.mediation_outcome, ("logits", "image"))
        )
    if not config.families or len({family_title(family) for family in config.families}) < len(
        config.families
    ):
        raise ValueError(f"families must be named once each and not empty: {config.families}.")
    if config.num_seeds < 1 or config.num_pairs < 2:
        raise ValueError(
            f"num_seeds {config.num_seeds} and num_pairs {config.num_pairs} must be at least 1 "
            "and 2."
        )
    if not 8 <= config.num_unit_images <= config.num_images:
        raise ValueError(
            f"num_unit_images {config.num_unit_images} must be from 8 to num_images "
            f"{config.num_images}."
        )
    least = least_replicates(0.95)
    if min(config.num_replicates, config.num_factor_replicates) < least or config.num_shuffles < 1:
        raise ValueError(
            f"num_replicates {config.num_replicates} and num_factor_replicates "
            f"{config.num_factor_replicates} must be at least {least}, num_shuffles "
            f"{config.num_shuffles} at least 1."
        )
    sizes = (0.0, *config.doses)
    if not config.doses or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(
            f"doses must be positive and increasing, each is given with both signs; got "
            f"{config.doses}."
        )
    if config.num_untrained < 0 or config.num_swap_pairs < 0:
        raise ValueError(
            f"num_untrained {config.num_untrained} and num_swap_pairs {config.num_swap_pairs} must "
            "not be negative."
        )
    if config.num_score_images < 500:
        raise ValueError(
            f"num_score_images {config.num_score_images} is too few to score codes with; it must "
            "be at least 500."
        )
    if config.models == "zoo":
        _check_zoo(config)
        return
    if config.data == "pretrained":
        if config.num_seeds != 1:
            raise ValueError(f"pretrained models have one seed per family, got {config.num_seeds}.")
        for family in config.families:
            # Loaded here too: a missing or foreign file is found before a folder is made.
            pretrained.load_dsprites_vae(str(data_path), family.name)
        return
    if config.data == "dsprites" and config.image_size != 64:
        raise ValueError(f"dsprites have image_size 64, got {config.image_size}.")
    shape = (config.image_size, config.image_size, 1)
    for family in config.families:
        train_config(config, family, 2 * config.batch_size, _network(config, family, shape))


_OF_TRAINING = (
    "latent_size",
    "num_codes",
    "code_size",
    "encoder_channels",
    "encoder_dense",
    "decoder_dense",
    "decoder_channels",
    "num_steps",
    "record_every",
    "batch_size",
    "learning_rate",
    "decay_learning_rate",
    "discriminator_widths",
    "discriminator_learning_rate",
)
"""What only a study that trains may set."""


def _check_zoo(config: StudyConfig) -> None:
    """Raises ValueError unless the zoo has every model that is asked for."""
    if config.data not in WORLDS:
        raise ValueError(unknown_choice("data of models of the zoo", config.data, WORLDS))
    side = WORLDS[config.data]().image_shape[0]
    usual = {f.name: f.default for f in dataclasses.fields(StudyConfig)}
    for name in _OF_TRAINING:
        if getattr(config, name) != usual[name]:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}, but models of the zoo are trained: leave it "
                f"at {usual[name]!r}, or set models to 'train'."
            )
    if config.image_size != side:
        raise ValueError(f"models of the zoo have image_size {side}, got {config.image_size}.")
    found = entries()
    for family in config.families:
        recipe = zoo_recipe(config, family)
        entry = found.get((recipe.world, recipe.family))
        if entry is None or entry.recipe.strength != recipe.strength:
            there = [
                family_title(Family(name, e.recipe.strength or 1.0))
                for (world, name), e in found.items()
                if world == config.data
            ]
            raise ValueError(
                unknown_choice(f"family of {config.data} in the zoo", family_title(family), there)
            )
        if config.num_seeds > entry.num_seeds:
            raise ValueError(
                f"the zoo has {entry.num_seeds} seeds of {recipe.family} on {config.data}, "
                f"num_seeds is {config.num_seeds}."
            )


def zoo_recipe(config: StudyConfig, family: Family) -> Recipe:
    """The zoo's recipe of a family of the study."""
    has_strength = STRENGTHS.get(family.name) is not None
    strength = family.strength if has_strength else None
    return Recipe(config.data, family.name, strength=strength)


_ADDED = (
    "num_replicates",
    "num_factor_replicates",
    "num_shuffles",
    "models",
    "num_codes",
    "code_size",
    "num_untrained",
    "num_swap_pairs",
)


def as_json(config: StudyConfig) -> dict[str, Any]:
    """The config as JSON values; ``from_json`` reads it back.

    Fields that older folders lack are left out at their defaults, with which those were made.
    """
    values = dataclasses.asdict(config)
    fields = {field.name: field for field in dataclasses.fields(config)}
    return {k: v for k, v in values.items() if k not in _ADDED or v != fields[k].default}


def from_json(values: Mapping[str, Any]) -> StudyConfig:
    """A config from JSON values.

    Raises:
        ValueError: An unknown field, with the nearest known one; a missing one; one of another
            type.
    """
    return _from_fields(StudyConfig, "a study's config", values)


def read_config(path: str | os.PathLike) -> StudyConfig:
    """A config from a JSON file.

    Raises:
        ValueError: No such file, not JSON, or not a study's config.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"no config file {path}; `vaecausal study --print-config` prints one.")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    return from_json(values)


def objective(family: Family, config: StudyConfig, num_data: int) -> objectives.Objective:
    """The training objective of a family."""
    makers: dict[str, Callable[[], objectives.Objective]] = {
        "vae": objectives.vae,
        "beta_vae": lambda: objectives.beta_vae(family.strength),
        "factor_vae": lambda: objectives.factor_vae(
            family.strength,
            widths=config.discriminator_widths,
            learning_rate=config.discriminator_learning_rate,
        ),
        "beta_tc_vae": lambda: objectives.beta_tc_vae(family.strength, num_data),
        "dip_vae_i": lambda: objectives.dip_vae_i(family.strength),
        "dip_vae_ii": lambda: objectives.dip_vae_ii(family.strength),
        "vq_vae": objectives.vq_vae,
    }
    if family.name not in makers:
        raise ValueError(unknown_choice("family", family.name, makers))
    return makers[family.name]()


def dataset(config: StudyConfig, data_path: str | None) -> Dataset:
    """The images of a study.

    Raises:
        FileNotFoundError: Published files that are not there.
        ValueError: Published files that are not what they should be.
    """
    if config.data in RENDERED:
        return RENDERED[config.data](config.image_size)
    if config.data in PUBLISHED:
        return resized(PUBLISHED[config.data](data_path), config.image_size)
    if config.data == "dsprites" and data_path is not None:
        return load_dsprites(data_path)
    return dsprites_exact()


def architectures(config: StudyConfig, data: Dataset) -> dict[Model, list[Family]]:
    """Each architecture with the families that share it; models with codes come last."""
    if config.data == "pretrained":
        return {burgess_vae(data.image_shape): list(config.families)}
    found: dict[Model, list[Family]] = {}
    for family in sorted(config.families, key=lambda family: family.name == "vq_vae"):
        if config.models == "zoo":
            model = zoo_network(zoo_recipe(config, family))
        else:
            model = _network(config, family, data.image_shape)
        found.setdefault(model, []).append(family)
    return found


def _network(config: StudyConfig, family: Family, image_shape: tuple[int, int, int]) -> Model:
    if family.name == "vq_vae":
        return vq_vae(
            image_shape,
            num_codes=config.num_codes,
            code_size=config.code_size,
            encoder_channels=config.encoder_channels,
            decoder_channels=config.decoder_channels,
        )
    return conv_vae(
        image_shape,
        latent_size=config.latent_size,
        encoder_channels=config.encoder_channels,
        encoder_dense=config.encoder_dense,
        decoder_dense=config.decoder_dense,
        decoder_channels=config.decoder_channels,
    )


def train_config(config: StudyConfig, family: Family, num_data: int, model: Model) -> TrainConfig:
    """The trainer's configuration of one family."""
    rate: Any = config.learning_rate
    if config.decay_learning_rate:
        rate = optax.cosine_decay_schedule(rate, config.num_steps, alpha=0.1)
    return TrainConfig(
        model,
        objective(family, config, num_data),
        optax.adam(rate),
        config.num_steps,
        config.batch_size,
        config.record_every,
    )


def family_title(family: Family) -> str:
    """Name with strength, such as ``beta_vae_4``."""
    if family.name in ("vae", "vq_vae"):
        return family.name
    return f"{family.name}_{family.strength:g}"


def _from_fields(kind: Any, what: str, values: Any) -> Any:
    """A config dataclass from a JSON object, checked field by field."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} is {values!r}, expected an object of fields.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise ValueError(unknown_choice(f"field of {what}", name, sorted(fields)))
    required = {name for name, f in fields.items() if f.default is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{what} needs {missing}.")
    return kind(**{name: _typed(name, fields[name].type, v) for name, v in values.items()})


def _typed(name: str, kind: Any, value: Any) -> Any:
    if kind is Family:
        return _from_fields(Family, "a family", value)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_typed(name, typing.get_args(kind)[0], item) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is not type(value):
        expected = getattr(kind, "__name__", kind) if isinstance(kind, type) else kind
        raise ValueError(f"{name} is {value!r}, expected {expected}.")
    return value
