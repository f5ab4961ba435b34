"""What the steps of a study hand on: trained models, and all that was found out about them.

Models of one architecture are stacked and measured together; a study whose families differ in
architecture, Gaussian latents and codes, has several such stacks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vaecausal_jax.models import Model
from vaecausal_jax.study.estimates import Arrays, Estimates
from vaecausal_jax.study.factors import FactorEffects, ReadoutQuality


class Trained(NamedTuple):
    """The models of one architecture, stacked.

    Attributes:
        model: Their common architecture.
        params: Leading axis of models: seeds of the first family, then of the second, ...
        labels: (family, seed) of each.
        verdicts: ``"ok"``, or why a model is left out of every mean.
        histories: Loss terms by family, (seeds, records, ...); empty for pretrained models.
    """

    model: Model
    params: Any
    labels: list[tuple[str, int]]
    verdicts: list[str]
    histories: dict[str, Arrays]


class Results(NamedTuple):
    """What a study found out about the models of one architecture.

    Attributes:
        trained: The models.
        arrays: Measurement to its arrays, leading axis of models.
        estimates: Of units, latents and models.
        quality: How far the read-out can be believed on their reconstructions.
        factors: Effects between units and factors, of each model.
        circuits: ``study.circuits.circuit_arrays`` of the models and, behind them, of the untrained
            networks; empty where there are too few pairs.
    """

    trained: Trained
    arrays: dict[str, Arrays]
    estimates: Estimates
    quality: ReadoutQuality
    factors: list[FactorEffects]
    circuits: Arrays


class Roster(NamedTuple):
    """All models of a study, whatever their architecture, in order.

    Attributes:
        labels: (family, seed) of each.
        verdicts: ``"ok"``, or why a model is left out of every mean.
    """

    labels: list[tuple[str, int]]
    verdicts: list[str]

    @property
    def families(self) -> list[str]:
        """Titles in order."""
        return list(dict.fromkeys(family for family, _ in self.labels))

    @property
    def num_seeds(self) -> int:
        """Models per family."""
        return len(self.labels) // len(self.families)


def roster(stacks: Sequence[Trained]) -> Roster:
    """The models of several stacks, one stack after the other."""
    return Roster(
        [label for trained in stacks for label in trained.labels],
        [verdict for trained in stacks for verdict in trained.verdicts],
    )


def locate(stacks: Sequence[Trained], label: tuple[str, int]) -> tuple[Trained, int]:
    """The stack that holds a model, and its place there.

    Raises:
        ValueError: No stack holds it.
    """
    for trained in stacks:
        if label in trained.labels:
            return trained, trained.labels.index(label)
    raise ValueError(f"no model {label}; there are {roster(stacks).labels}.")


def in_order(columns: Sequence[dict[str, np.ndarray]], sizes: Sequence[int]):
    """Columns of several stacks, (models, ...) each, one after the other; NaN where one lacks it.

    Args:
        columns: Of each stack, name to values.
        sizes: Models in each stack.
    """
    names = dict.fromkeys(name for own in columns for name in own)
    rest = {name: next(own[name].shape[1:] for own in columns if name in own) for name in names}
    return {
        name: np.concatenate(
            [
                own[name] if name in own else np.full((size, *rest[name]), np.nan)
                for own, size in zip(columns, sizes, strict=True)
            ]
        )
        for name in names
    }
