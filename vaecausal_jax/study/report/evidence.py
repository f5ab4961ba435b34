"""What numbers can bear, in words: which stand out, which families differ, and from which null."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vaecausal_jax.inference import MIN_SEEDS, Estimate, over_seeds
from vaecausal_jax.study.report.labels import family_label, interval_of, join, number

Quantities = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Name of a quantity to family to seed to value."""

LEVEL = 0.95


def leaders(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Indices of the largest value and of all that it is not told apart from, largest first.

    Told apart are those whose upper ends lie below its lower end; without an interval, none.
    """
    value, low, high = (np.asarray(end, float) for end in (value, low, high))
    order = np.argsort(-np.where(np.isfinite(value), value, -np.inf), kind="stable")
    order = order[np.isfinite(value[order])]
    if not order.size:
        return order
    with np.errstate(invalid="ignore"):
        return order[~(high[order] < low[order[0]]) | (order == order[0])]


def named(words: list[str], most: int = 3) -> str:
    """The first few as a list, and how many more there are."""
    if len(words) <= most:
        return join(words)
    return join([*words[: most - 1], f"{len(words) - most + 1} more"])


def against_null(
    differences: Mapping[str, Estimate], null: str, *, show: Callable[[Any, Any], str] = number
) -> str:
    """Families above a null, not shown to differ from it, and below it, by the whole interval.

    Args:
        differences: Family to what it has minus the null; those without a number are left out.
        null: What the null is called.
        show: How numbers are written.
    """
    said: dict[str, list[str]] = {}
    for family, difference in differences.items():
        if np.isfinite(difference.value):
            words, shown = _verdict(difference, null)
            by = f"{family_label(family)} (by {interval_of(shown, show=show)})"
            said.setdefault(words, []).append(by)
    return "; ".join(f"{words} in {join(found)}" for words, found in said.items())


def _verdict(difference: Estimate, null: str) -> tuple[str, Estimate]:
    """Three words, or none without an interval; and the distance that they are of."""
    if not np.isfinite(difference.ends).all():
        return f"not judged against {null}, for want of an interval,", difference
    if difference.low > 0:
        return f"above {null}", difference
    if difference.high < 0:
        value, low, high = (-np.asarray(end) for end in difference.ends)
        return f"below {null}", difference._replace(value=value, low=high, high=low)
    return f"not shown to differ from {null}", difference


def say_apart(quantities: Quantities) -> list[str]:
    """Which families differ by which quantities, and by which they are not told apart.

    Seeds are compared in pairs, by Student's interval of the difference at a level corrected for
    all comparisons (Bonferroni); fewer than ``MIN_SEEDS`` pairs tell nothing apart.
    """
    differences = {name: _differences(values) for name, values in quantities.items()}
    num = sum(map(len, differences.values()))
    if not num:
        return []
    level = 1 - (1 - LEVEL) / num
    said: dict[str, list[str]] = {}
    for name, pairs in differences.items():
        said.setdefault(_order(pairs, level), []).append(name)
    open_ = said.pop("", [])
    sentences = [
        f"By {join(names)}, {order} (paired seeds, {LEVEL:.0%} intervals corrected for {num} "
        "comparisons)."
        for order, names in said.items()
    ]
    if open_:
        counts = sorted(
            {len(values) for pairs in differences.values() for values in pairs.values()}
        )
        sentences.append(_not_apart(counts, open_))
    return sentences


def _differences(values: Mapping[str, Mapping[int, float]]) -> dict[tuple[str, str], np.ndarray]:
    """Of every two families, over the seeds that both have."""
    found = {}
    titles = list(values)
    for i, first in enumerate(titles):
        for second in titles[i + 1 :]:
            own, other = values[first], values[second]
            gaps = np.array([own[s] - other[s] for s in own if s in other], float)
            found[first, second] = gaps[np.isfinite(gaps)]
    return found


def _order(pairs: Mapping[tuple[str, str], np.ndarray], level: float) -> str:
    """Families above others; empty where no two are told apart."""
    above: dict[str, list[str]] = {}
    for (first, second), gaps in pairs.items():
        if len(gaps) < MIN_SEEDS:
            continue
        mean = over_seeds(gaps, num_inputs=len(gaps), intervention="paired seeds", level=level)
        if mean.low > 0:
            above.setdefault(first, []).append(family_label(second))
        elif mean.high < 0:
            above.setdefault(second, []).append(family_label(first))
    if not above:
        return ""
    words = [f"{family_label(family)} is above {join(rest)}" for family, rest in above.items()]
    if sum(map(len, above.values())) < len(pairs):
        words.append("other families are not told apart")
    return "; ".join(words)


def _not_apart(counts: list[int], names: list[str]) -> str:
    if counts == [0]:
        return "The families share no usable seed, so that nothing is compared."
    num = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    one = counts == [1]
    needed = f": that takes {MIN_SEEDS} or more" if counts[-1] < MIN_SEEDS else ""
    return (
        f"{num} paired {'seed does' if one else 'seeds do'} not tell the families apart by "
        f"{join(names)}{needed}."
    )
