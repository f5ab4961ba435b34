"""Tables and JSON of ``vaecausal metrics``."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import rich.table

from vaecausal_jax.inference import Estimate

Scores = Mapping[str, Estimate]


def full_name(name: str, label: str) -> str:
    """Name of one number of a metric."""
    return f"{name}_{label}" if label else name


def metric_table(
    title: str, scores: Scores, references: Mapping[str, Scores], left_out: Collection[str]
) -> rich.table.Table:
    """The scores of one model, one per row."""
    beside = " Perfect, rotated, noise: such codes of the same factors." if references else ""
    more = f" Not run: {', '.join(left_out)} (--metrics)." if left_out else ""
    table = rich.table.Table(
        title=title,
        caption="Interval: 95%, over rows of this one model. Chance: codes shuffled."
        f"{beside} Settings: --json.{more}",
    )
    table.add_column("metric", no_wrap=True)
    for column in ("score", "interval", "chance", *references):
        table.add_column(column, justify="right", no_wrap=True)
    for name, e in scores.items():
        interval = "" if math.isnan(e.low) else f"{_text(e.low)} to {_text(e.high)}"
        others = (
            _text(found[name].value) if name in found else "" for found in references.values()
        )
        table.add_row(name, _text(e.value), interval, _text(e.null), *others)
    return table


def comparison_table(
    scores: Mapping[str, Scores],
    references: Mapping[str, Scores],
    expected: Mapping[str, Mapping[str, float | None]],
) -> rich.table.Table:
    """Every model's scores with their distance from the values expected, a row per metric."""
    columns = {**scores, **references}
    table = rich.table.Table(
        title="score, and its difference from the public implementation's",
        caption="dci_boosted is set against the public dci_gbt, the same trees. Perfect, rotated, "
        "noise: codes of the same factors; the public rotation is another one.",
    )
    table.add_column("metric", no_wrap=True)
    for label in columns:
        table.add_column(label, justify="right", no_wrap=True)
    for name in next(iter(scores.values())):
        cells = [
            _compared(found.get(name), expected.get(label, {}).get(_public(name)))
            for label, found in columns.items()
        ]
        table.add_row(name, *cells)
    return table


def as_json(
    source,
    scores: Mapping[str, Scores],
    references: Mapping[str, Scores],
    expected: Mapping[str, Mapping[str, float | None]],
) -> dict[str, Any]:
    """All numbers with their settings; null where one is not finite, which JSON cannot say."""
    return {
        "source": source.name,
        "num_rows": len(source.factors),
        "num_train": source.num_train,
        "num_test": source.num_test,
        "num_factors": source.factors.shape[1],
        "models": {
            label: {
                "num_codes": source.codes[label].shape[1],
                "metrics": {
                    name: _entry(e, expected.get(label, {}).get(_public(name)))
                    for name, e in found.items()
                },
            }
            for label, found in scores.items()
        },
        "references": {
            label: {
                name: _entry(e, expected.get(label, {}).get(_public(name)))
                for name, e in found.items()
            }
            for label, found in references.items()
        },
    }


def _entry(e: Estimate, public: float | None) -> dict[str, Any]:
    entry = {
        "value": _number(e.value),
        "low": _number(e.low),
        "high": _number(e.high),
        "chance": _number(e.null),
        "level": e.level,
        "num_rows": e.num_inputs,
        "settings": e.intervention,
        "method": e.method,
    }
    if public is not None:
        entry |= {"public": public, "difference": _number(e.value - public)}
    return entry


def _public(name: str) -> str:
    """The public implementation's name of a score: boosted trees are its gbt."""
    return name.replace("dci_boosted", "dci_gbt")


def _compared(e: Estimate | None, public: float | None) -> str:
    if e is None:
        return ""
    return _text(e.value) if public is None else f"{_text(e.value)} {e.value - public:+.3f}"


def _text(value) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _number(value) -> float | None:
    return float(value) if math.isfinite(value) else None
