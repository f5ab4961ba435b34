"""The scores by name, each with its chance level and interval, on one table of codes.

All describe the same rows: scores without training read the training rows, as in the field's
protocol (10,000 rows, and 5,000 more to test the predictors on). Votes are drawn from every row
given: there the protocol draws from the whole data set, so pass more rows, or all of it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.inference import Estimate
from vaecausal_jax.metrics.arrays import (
    check_codes,
    check_row_order,
    factor_levels,
    split_rows,
)
from vaecausal_jax.metrics.chance import estimate_score, shuffle_columns, shuffle_rows
from vaecausal_jax.metrics.dci import DCI, dci_boosted, dci_fast, dci_forest, dci_gbt, dci_lasso
from vaecausal_jax.metrics.gaussian import gaussian_total_correlation, gaussian_wasserstein
from vaecausal_jax.metrics.infomec import infomec_continuous
from vaecausal_jax.metrics.information import (
    jemmig,
    mig,
    mig_sup,
    modularity,
    mutual_information_score,
)
from vaecausal_jax.metrics.irs import irs
from vaecausal_jax.metrics.predictability import (
    beta_vae_score,
    explicitness,
    sap_continuous,
    sap_discrete,
)
from vaecausal_jax.metrics.votes import factor_vae_score


class Metric(NamedTuple):
    """A score of the suite.

    Attributes:
        score: ``score(codes, factors)`` to a number, or to one per label; with ``num_train=`` too
            if ``trains``, with the key first if ``draws``.
        settings: What it is and how it is set, in words.
        labels: Names of its numbers.
        trains: Whether it trains predictors, and so uses the test rows.
        draws: Whether it draws votes.
        quick: Whether it takes well under a second, so that resampling it is cheap.
        shuffle: How its chance level is made.
    """

    score: Callable[..., Any]
    settings: str
    labels: tuple[str, ...] = ("",)
    trains: bool = False
    draws: bool = False
    quick: bool = True
    shuffle: Callable[..., np.ndarray] = shuffle_rows


def _value(score: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: score(*args, **options).value


def _dci(estimator: Callable[..., DCI], settings: str, *, quick: bool = False) -> Metric:
    def numbers(codes, factors, **options):
        result = estimator(codes, factors, **options)
        return [result.disentanglement, result.completeness, result.informativeness]

    labels = ("disentanglement", "completeness", "informativeness")
    return Metric(numbers, f"DCI, {settings}", labels, trains=True, quick=quick)


def _infomec(codes, factors):
    result = infomec_continuous(codes, factors)
    return [result.modularity, result.explicitness, result.compactness]


METRICS = {
    "mig": Metric(_value(mig), "mutual information gap, 20 bins"),
    "mig_sup": Metric(_value(mig_sup), "mutual information gap of codes, 20 bins"),
    "jemmig": Metric(_value(jemmig), "normalised joint-entropy gap, 20 bins"),
    "modularity": Metric(_value(modularity), "modularity, 20 bins"),
    "sap_discrete": Metric(
        _value(sap_discrete), "SAP, linear SVM on one code, C 0.01", trains=True
    ),
    "sap_continuous": Metric(_value(sap_continuous), "SAP, squared correlation"),
    "irs": Metric(_value(irs), "interventional robustness, quantile 0.99, factors as they are"),
    "irs_binned": Metric(
        _value(functools.partial(irs, num_bins=20)),
        "interventional robustness, quantile 0.99, factors in 20 bins",
    ),
    "factor_vae": Metric(
        _value(factor_vae_score),
        "FactorVAE score, 10,000 + 5,000 votes of 64 rows, codes with SD below 0.05 left out",
        draws=True,
    ),
    "gaussian_tc": Metric(
        lambda codes, factors: gaussian_total_correlation(codes),
        "total correlation of a Gaussian, nats",
        shuffle=shuffle_columns,
    ),
    "gaussian_w2": Metric(
        lambda codes, factors: gaussian_wasserstein(codes)[1],
        "squared Wasserstein distance of a Gaussian to its marginals, over its trace",
        shuffle=shuffle_columns,
    ),
    "mutual_information": Metric(
        lambda codes, factors: mutual_information_score(codes).value,
        "mean mutual information of two codes, 20 bins, nats",
        shuffle=shuffle_columns,
    ),
    "beta_vae": Metric(
        _value(beta_vae_score),
        "BetaVAE score, 10,000 + 5,000 features of 64 pairs, logistic regression",
        draws=True,
        quick=False,
    ),
    "explicitness": Metric(
        _value(explicitness), "explicitness, raw AUC on test rows", trains=True, quick=False
    ),
    "infomec": Metric(
        _infomec,
        "InfoMEC of continuous codes, 10 nearest neighbours",
        ("modularity", "explicitness", "compactness"),
        quick=False,
    ),
    "dci_fast": _dci(dci_fast, "boosted trees in JAX, 50 rounds of shrinkage 0.2"),
    "dci_boosted": _dci(dci_boosted, "boosted trees in JAX, 100 rounds of shrinkage 0.1"),
    "dci_gbt": _dci(dci_gbt, "scikit-learn's gradient-boosted trees, seed 0"),
    "dci_forest": _dci(dci_forest, "random forests, 100 trees of depth 8, seed 0"),
    "dci_lasso": _dci(dci_lasso, "L1 regression, alpha 0.02", quick=True),
}
"""Every score that a table of codes and factors allows, by name."""

QUICK = tuple(name for name, metric in METRICS.items() if metric.quick)
"""The scores that take seconds with intervals, the default."""


def score_suite(
    key: Array,
    codes: ArrayLike,
    factors: ArrayLike,
    names: Sequence[str] = QUICK,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    num_replicates: int = 20,
    num_shuffles: int = 5,
) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """Scores one model, metric by metric, as each is finished.

    Args:
        key: Typed PRNG key: of votes, resamples and shuffles.
        codes: (rows, codes), two or more.
        factors: (rows, factors), two or more, of levels.
        names: Of ``METRICS``.
        num_train: Leading rows that train and are scored; two thirds if None.
        num_test: Rows after them that test; all others if None. Further rows serve votes alone.
        num_replicates: Bootstrap replicates of each score; 0 for no interval.
        num_shuffles: Shuffles of each score; 0 for no chance level.

    Returns:
        Iterator over names and their estimates, by label.

    Raises:
        ValueError: At once: an unknown name, codes and factors that cannot be scored, a factor with
            one level among the rows that are, or rows in an order, see ``check_row_order``.
    """
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown_choice("metric", name, METRICS))
    codes = np.asarray(check_codes(codes, least=2))
    num_train = split_rows(len(codes), num_train)
    num_test = len(codes) - num_train if num_test is None else num_test
    if not 0 < num_test <= len(codes) - num_train:
        raise ValueError(
            f"num_test is {num_test}, expected 1 to the {len(codes) - num_train} rows after the "
            f"{num_train} that train."
        )
    levels = factor_levels(factors, len(codes), least=2).index
    if not all(METRICS[name].draws for name in names):
        _check_scored(levels, num_train)
        check_row_order(codes, levels, num_train)
    vote_key, resample_key = jax.random.split(key)

    def estimate(metric: Metric) -> dict[str, Estimate]:
        score, rows = metric.score, slice(num_train)
        if metric.draws:
            score, rows = functools.partial(score, vote_key), slice(None)
        if metric.trains:
            rows = slice(num_train + num_test)
            score = functools.partial(score, num_train=num_train)
        whole = estimate_score(
            resample_key,
            score,
            codes[rows],
            levels[rows],
            description=metric.settings,
            num_train=num_train if metric.trains else None,
            num_replicates=num_replicates,
            num_shuffles=num_shuffles,
            shuffle=metric.shuffle,
        )
        return {label: _at(whole, i) for i, label in enumerate(metric.labels)}

    return ((name, estimate(METRICS[name])) for name in names)


def _check_scored(levels: np.ndarray, num_train: int) -> None:
    """Raises ValueError if a factor has one level among the leading rows, though more in all."""
    constant = (levels[:num_train] == levels[:1]).all(axis=0)
    if constant.any():
        factor = int(np.argmax(constant))
        second = int(np.argmax(levels[:, factor] != levels[0, factor]))
        raise ValueError(
            f"factor {factor} has one level in the first {num_train} rows (num_train), which are "
            f"scored, and another from row {second} on: order the rows at random, or give at least "
            f"{second + 1} to num_train."
        )


def _at(estimate: Estimate, label: int) -> Estimate:
    estimate = estimate._replace(null=np.asarray(estimate.null))
    one = estimate.rearrange(np.atleast_1d)[label]
    return one._replace(null=float(one.null))
