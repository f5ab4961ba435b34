"""``vaecausal metrics``: disentanglement scores of saved codes, as a table or as JSON."""

import dataclasses
import json
import math
import pathlib
import zipfile
from typing import Annotated

import jax
import numpy as np
import rich.console
import rich.table
import tyro

from vaecausal_jax.disentanglement.arrays import split_rows
from vaecausal_jax.disentanglement.suite import METRICS, QUICK, score_suite
from vaecausal_jax.inference import Estimate

_SAVE = "Save one with numpy.savez(path, codes=codes, factors=factors)."


@dataclasses.dataclass(frozen=True)
class MetricsCommand:
    """Score saved codes: every disentanglement metric with its interval and chance level.

    Attributes:
        codes: An npz file with two arrays: codes (rows, codes), such as posterior means, and
            factors (rows, factors), the level of each ground-truth factor.
        metrics: Names of metrics, or "all"; by default those that take seconds. Of the others
            dci_gbt takes minutes, once for every replicate and shuffle.
        num_train: Leading rows that predictors train on and that the other metrics read; the rest
            test. Two thirds if not given.
        replicates: Bootstrap replicates behind each interval; 0 for none.
        shuffles: Shuffles behind each chance level; 0 for none.
        seed: Of votes, resamples and shuffles.
        json: Print one JSON object instead of a table.
    """

    codes: pathlib.Path
    metrics: tuple[str, ...] = QUICK
    num_train: Annotated[int | None, tyro.conf.arg(name="num-train")] = None
    replicates: int = 20
    shuffles: int = 5
    seed: int = 0
    json: bool = False


def run_metrics_command(command: MetricsCommand) -> None:
    """Runs ``vaecausal metrics``."""
    codes, factors = read_codes(command.codes)
    names = tuple(METRICS) if command.metrics == ("all",) else command.metrics
    scores = score_suite(
        jax.random.key(command.seed),
        codes,
        factors,
        names,
        num_train=command.num_train,
        num_replicates=command.replicates,
        num_shuffles=command.shuffles,
    )
    num_train = split_rows(len(codes), command.num_train)
    if command.json:
        print(json.dumps(_as_json(command, codes, factors, num_train, dict(scores)), indent=2))
    else:
        title = f"{command.codes.name}: {codes.shape[1]} codes, {factors.shape[1]} factors"
        rows = f"{num_train} rows scored or trained on, {len(codes) - num_train} to test on"
        rich.console.Console().print(_table(f"{title}, {rows}", dict(scores)))


def read_codes(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays ``codes`` and ``factors`` of an npz file.

    Raises:
        ValueError: No such file, no npz archive, an array that is missing, or one of objects.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}: expected an npz with the arrays codes and factors.")
    try:
        with path.open("rb") as file, np.load(file) as loaded:
            arrays = dict(loaded)
    except (zipfile.BadZipFile, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path} is no npz archive of numeric arrays. {_SAVE}") from error
    for name in ("codes", "factors"):
        if name not in arrays:
            present = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"{path} has no array {name!r}, only {present}. {_SAVE}")
    return arrays["codes"], arrays["factors"]


def _table(title: str, scores: dict[str, dict[str, Estimate]]) -> rich.table.Table:
    left_out = [name for name in METRICS if name not in scores]
    more = f" Not run: {', '.join(left_out)} (--metrics)." if left_out else ""
    table = rich.table.Table(
        title=title,
        caption="Interval: 95%, over rows of this one model. Chance: codes shuffled. Settings: "
        f"--json.{more}",
    )
    table.add_column("metric", no_wrap=True)
    for column in ("score", "interval", "chance"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, estimates in scores.items():
        for label, e in estimates.items():
            interval = "" if math.isnan(e.low) else f"{e.low:.3f} to {e.high:.3f}"
            chance = "" if math.isnan(e.null) else f"{e.null:.3f}"
            table.add_row(_full_name(name, label), f"{e.value:.3f}", interval, chance)
    return table


def _as_json(command, codes, factors, num_train, scores) -> dict:
    return {
        "file": str(command.codes),
        "num_rows": len(codes),
        "num_train": num_train,
        "num_codes": codes.shape[1],
        "num_factors": factors.shape[1],
        "seed": command.seed,
        "metrics": {
            _full_name(name, label): {
                "value": _number(e.value),
                "low": _number(e.low),
                "high": _number(e.high),
                "chance": _number(e.null),
                "level": e.level,
                "num_rows": e.num_inputs,
                "settings": e.intervention,
                "method": e.method,
            }
            for name, estimates in scores.items()
            for label, e in estimates.items()
        },
    }


def _full_name(name: str, label: str) -> str:
    return f"{name}_{label}" if label else name


def _number(value) -> float | None:
    """A JSON number; null where it is not finite, which JSON cannot say."""
    return float(value) if math.isfinite(value) else None
