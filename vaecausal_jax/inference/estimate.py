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
        """What this estimate cannot support, in sentences; empty where nothing needs saying."""
        return " ".join(said for said in (self._of_values(), self._of_seeds()) if said)

    def _of_values(self) -> str:
        lost, total = int(np.sum(~np.isfinite(self.value))), np.size(self.value)
        if not lost:
            return ""
        which = "The value is" if total == 1 else f"{lost} of {total} values are"
        return (
            f"{which} not finite: a sample was not, or nothing changed, or squares left the range "
            "of float32 (about 1e-31 to 3e38, so effects of 1e-15 to 1e19). Against the last, give "
            "outcome= a function that divides by the outcome's SD."
        )

    def _of_seeds(self) -> str:
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
