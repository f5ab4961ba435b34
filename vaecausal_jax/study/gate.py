"""The gate: which factors can be read off the outputs of which models.

What rests on a read-out (doses of factors, what units write, their classes, the factor graph) says
nothing about a factor that the read-out does not read off a family's reconstructions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

MIN_QUALITY = 0.7
"""R^2 (or accuracy) on reconstructions below which effects on a factor are not to be believed."""


def family_quality(
    families: Sequence[str],
    verdicts: Sequence[str],
    scores: Sequence[Mapping[str, float | None]],
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Read-out quality on reconstructions, mean over the usable models of each family.

    Args:
        families: Of each model.
        verdicts: ``"ok"``, or why a model is left out.
        scores: Factor to R^2 or accuracy, of each model.
        names: Factors, in order.

    Returns:
        Family to (factors,), NaN where a model has no number; no entry without a usable model.
    """
    models: dict[str, list[list[float | None]]] = {}
    for family, verdict, quality in zip(families, verdicts, scores, strict=True):
        if verdict == "ok":
            models.setdefault(family, []).append([quality.get(name) for name in names])
    return {family: np.asarray(rows, float).mean(axis=0) for family, rows in models.items()}


def is_readable(quality: np.ndarray) -> np.ndarray:
    """Which factors pass, (...); an undefined quality does not."""
    return np.asarray(quality) >= MIN_QUALITY
