"""The one type of answer: a number with its interval, its sample sizes and its null."""

from typing import NamedTuple

import numpy as np

MIN_SEEDS = 6
"""Fewest paired seeds at which a two-sided sign-flip test can reach p < 0.05 (2 / 2^6 = 0.031)."""


class Estimate(NamedTuple):
    """A number, or an array of them, that can be published.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        null: What the same statistic gives where nothing was intervened on; one number for all, or
            one for each.
        num_inputs: Images behind each number.
        num_seeds: Trained models behind each number.
        level: Coverage aimed at.
        method: How the interval was made.
        intervention: What was done, in words.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    null: float | np.ndarray
    num_inputs: int
    num_seeds: int
    level: float
    method: str
    intervention: str

    @property
    def caution(self) -> str:
        """What this estimate cannot support, in a sentence; empty where nothing needs saying."""
        if self.num_seeds >= MIN_SEEDS:
            return ""
        if self.num_seeds == 1:
            return "One trained model: any interval covers images, not seeds."
        smallest = 2.0 / 2.0**self.num_seeds
        return (
            f"{self.num_seeds} seeds: a paired sign-flip test cannot go below p = {smallest:.3g}; "
            f"{MIN_SEEDS} are needed to claim a difference between models."
        )


def check_level(level: float) -> None:
    """Raises ValueError unless the level is a coverage, such as 0.95."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, got {level}.")
