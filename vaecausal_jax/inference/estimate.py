"""The one type of answer: a number with its interval, its sample sizes and its null."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

MIN_SEEDS = 6
"""Fewest paired seeds at which a two-sided sign-flip test can reach p < 0.05 (2 / 2^6 = 0.031)."""


class Estimate(NamedTuple):
    """A number, or an array of them, that can be published.

    Attributes:
        value: The estimate.
        low: Lower end of the interval; it holds the value, or both ends are NaN: no interval.
        high: Upper end.
        null: What the same statistic gives where nothing was intervened on; one number for all, or
            one for each.
        num_inputs: Images behind each number.
        num_seeds: Trained models behind each number.
        level: Coverage aimed at.
        method: How the interval was made, or after "no interval: " why there is none.
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
    def ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, low and high."""
        return self.value, self.low, self.high

    def __getitem__(self, index: Any) -> "Estimate":  # pyright: ignore
        """The estimates at an index of their array, as NumPy takes it; no field of the tuple."""
        return self.rearrange(lambda array: array[index])

    def rearrange(self, function: Callable[[np.ndarray], np.ndarray]) -> "Estimate":
        """The same numbers in another order or shape, such as ``np.ravel`` gives."""
        value, low, high = (function(np.asarray(end)) for end in self.ends)
        null = self.null if np.ndim(self.null) == 0 else function(np.asarray(self.null))
        return self._replace(value=value, low=low, high=high, null=null)

    def map(self, function: Callable[[Any], Any]) -> "Estimate":
        """Another scale: an increasing function of value, ends and null, such as a square root."""
        value, low, high = map(function, self.ends)
        return self._replace(value=value, low=low, high=high, null=function(self.null))

    @staticmethod
    def stack(estimates: Sequence["Estimate"], axis: int = 0) -> "Estimate":
        """Estimates of one shape as one, with a new axis; see ``concatenate``."""
        expanded = [e.rearrange(lambda a: np.expand_dims(a, axis)) for e in estimates]
        return Estimate.concatenate(expanded, axis)

    @staticmethod
    def concatenate(estimates: Sequence["Estimate"], axis: int = 0) -> "Estimate":
        """Estimates of one kind as one, along an axis.

        Of images and seeds it has the fewest; methods and interventions that differ are all named.

        Raises:
            ValueError: None at all, or different levels.
        """
        levels = {estimate.level for estimate in estimates}
        if len(levels) != 1:
            raise ValueError(f"estimates of one level are joined, got levels {sorted(levels)}.")
        fields = {
            end: np.concatenate([np.asarray(getattr(e, end)) for e in estimates], axis)
            for end in ("value", "low", "high")
        }
        nulls = [np.asarray(estimate.null) for estimate in estimates]
        null = estimates[0].null
        if any(n.ndim > 0 or n != nulls[0] for n in nulls):
            shapes = [np.shape(estimate.value) for estimate in estimates]
            pairs = zip(nulls, shapes, strict=True)
            null = np.concatenate([np.broadcast_to(n, shape) for n, shape in pairs], axis)
        return Estimate(
            **fields,
            null=null,
            num_inputs=min(estimate.num_inputs for estimate in estimates),
            num_seeds=min(estimate.num_seeds for estimate in estimates),
            level=levels.pop(),
            method="; ".join(dict.fromkeys(estimate.method for estimate in estimates)),
            intervention="; ".join(dict.fromkeys(e.intervention for e in estimates)),
        )

    @property
    def caution(self) -> str:
        """What this estimate cannot support, in sentences; empty where nothing needs saying."""
        said = self._of_values(), self._of_intervals(), self._of_seeds()
        return " ".join(sentence for sentence in said if sentence)

    def _of_values(self) -> str:
        lost = ~np.isfinite(self.value)
        if not np.any(lost):
            return ""
        return (
            f"{_counted(lost, 'The value is', 'values are')} not finite: a sample was not, or "
            "nothing changed, or squares left the range of float32 (about 1e-31 to 3e38, so "
            "effects of 1e-15 to 1e19). Against the last, give outcome= a function that divides by "
            "the outcome's SD."
        )

    def _of_intervals(self) -> str:
        value, low, high = (np.asarray(a, float) for a in (self.value, self.low, self.high))
        known = np.isfinite(value)
        missing = known & (np.isnan(low) | np.isnan(high))
        # As equal as sums of equal numbers are.
        eps = np.finfo(np.result_type(self.value, np.float32)).eps
        with np.errstate(invalid="ignore"):
            flat = known & (high - low <= 8 * eps * np.abs(value))
        said = []
        if missing.any():
            reason = self.method.partition("no interval: ")[2]
            said.append(
                f"{_counted(missing, 'The value has', 'values have')} no interval"
                f"{reason and ': '}{reason}."
            )
        if flat.any():
            said.append(
                f"{_counted(flat, 'The interval has', 'intervals have')} no width: all that it "
                "rests on is equal, which shows no spread, and not that there is none."
            )
        return " ".join(said)

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


def least_replicates(level: float) -> int:
    """Fewest resamples whose outermost may stand for the ends of an interval: 20 at 0.95.

    One of them is then expected outside. Fewer have no quantile so far out, and what is read off
    them is some resample, not an end.
    """
    return math.ceil(1 / (1 - level) - 1e-6)


def method_from(num_replicates: int, level: float, method: str) -> str:
    """The method, or why there is no interval where the resamples are too few for the level."""
    least = least_replicates(level)
    if num_replicates >= least:
        return method
    return (
        f"no interval: {num_replicates} replicate{'s' * (num_replicates != 1)}, expected {least} "
        f"or more at level {level}"
    )


def _counted(those: np.ndarray, one: str, several: str) -> str:
    """The subject of a sentence on some of many numbers."""
    total = np.size(those)
    return one if total == 1 else f"{int(np.sum(those))} of {total} {several}"
