"""How much faster are the disentanglement scores than the public implementation's algorithm?

disentanglement_lib needs TensorFlow 1 and does not run today, so the baseline is the public
algorithm, re-run with the same scikit-learn: its loops over codes, factors, levels and votes,
written anew here, with the scikit-learn estimators it calls and their defaults. Both sides get the
same arrays (10,000 rows to train, 5,000 to test, 10 codes, the factor sizes of dSprites) and no
image is rendered: a vote or a batch looks its codes up in a table.

Two ratios. `speedup` is against the public function as its user calls it: it takes a data set, not
arrays, and draws its training rows itself, 16 at a time, stacking them as it goes (`sampling`, once
a call; FactorVAE and BetaVAE draw votes instead, so they pay none of it). `speedup_of_arithmetic`
leaves that out: the same arrays in, the same score out.

Ours is timed warm; compilation is the column `first call`. Repeats are interleaved, public and ours
in turn, and a ratio is the median over repeats, so that a busy machine slows both. The boosted
trees of the baseline take five minutes: by default 5 of their 100 rounds are timed and multiplied
by 20 (each round fits one tree a class to all rows), `--full` runs them all. Processor seconds
stand beside wall seconds.

`dci_boosted` fits the very trees of the baseline, `dci_fast` half as many of twice the step; the
suite counts the latter.

Predicted on two cores: 50 times for MIG, discrete SAP and FactorVAE, which were loops over small
calls; 20 and 40 times for the boosted trees, which are bound by memory; in arithmetic less where
the baseline is a few vectorised calls already: SAP by correlation (4), IRS (5 to 10: its baseline
takes 20 ms, half of that the sorting that any quantile needs), logistic regression.

    python -m benchmarks.metrics [--rows 10000] [--codes 10] [--repeats 5] [--full] [--json]
"""

import argparse
import json
import platform
import time

import jax
import numpy as np
from scipy import linalg, stats
from sklearn import ensemble, linear_model, metrics, svm

from vaecausal_jax.metrics import (
    factor_vae_score,
    gaussian_total_correlation,
    gaussian_wasserstein,
    irs,
    mig,
    modularity,
    mutual_information_score,
)
from vaecausal_jax.metrics.dci import dci_boosted, dci_fast
from vaecausal_jax.metrics.predictability import (
    beta_vae_score,
    explicitness,
    sap_continuous,
    sap_discrete,
)

SIZES = (3, 6, 40, 32, 32)
ROUNDS = 100
NUM_TRAIN_VOTES, NUM_EVAL_VOTES, BATCH = 10_000, 5_000, 64


class Table:
    """Codes of rows drawn from the grid of dSprites; votes look rows up by their factors."""

    def __init__(self, num_train, num_codes):
        rng = np.random.default_rng(0)
        rows = num_train + num_train // 2
        self.num_train = num_train
        self.factors = np.stack([rng.integers(0, size, rows) for size in SIZES], axis=1)
        scaled = self.factors / np.array(SIZES)
        mixed = np.tanh(scaled @ rng.normal(size=(5, num_codes)) * 2)
        self.codes = (mixed + 0.3 * rng.normal(size=mixed.shape)).astype(np.float32)
        self.train = self.codes[:num_train], self.factors[:num_train]
        self.test = self.codes[num_train:], self.factors[num_train:]
        self.strides = np.array([5 * 6 * 40, 40, 1, 7, 11])

    def look_up(self, factors):
        """Some row a combination of factors: what it costs, not what it is, matters here."""
        return self.codes[(factors @ self.strides) % len(self.codes)]


def draw_factors(rng, num):
    return np.stack([rng.integers(0, size, num) for size in SIZES], axis=1)


# The public algorithm


def pairwise_information(bins, columns):
    return np.array([[metrics.mutual_info_score(v, b) for v in columns.T] for b in bins.T])


def public_bins(codes):
    columns = [np.digitize(c, np.histogram(c, 20)[1][:-1]) for c in codes.T]
    return np.stack(columns, axis=1)


def public_mig(table):
    codes, factors = table.train
    info = np.sort(pairwise_information(public_bins(codes), factors), axis=0)
    entropy = np.array([metrics.mutual_info_score(v, v) for v in factors.T])
    return np.mean((info[-1] - info[-2]) / entropy)


def public_modularity(table):
    codes, factors = table.train
    squared = pairwise_information(public_bins(codes), factors) ** 2
    best = squared.max(axis=1)
    return np.mean(1 - (squared.sum(axis=1) - best) / (best * (factors.shape[1] - 1)))


def public_sap_discrete(table):
    (codes, factors), (test_codes, test_factors) = table.train, table.test
    accuracy = np.zeros((codes.shape[1], factors.shape[1]))
    for i in range(codes.shape[1]):
        for j in range(factors.shape[1]):
            machine = svm.LinearSVC(C=0.01, class_weight="balanced")
            machine.fit(codes[:, i : i + 1], factors[:, j])
            guess = machine.predict(test_codes[:, i : i + 1])
            accuracy[i, j] = np.mean(guess == test_factors[:, j])
    ordered = np.sort(accuracy, axis=0)
    return np.mean(ordered[-1] - ordered[-2])


def public_sap_continuous(table):
    codes, factors = table.train
    square = np.zeros((codes.shape[1], factors.shape[1]))
    for i in range(codes.shape[1]):
        for j in range(factors.shape[1]):
            covariance = np.cov(codes[:, i], factors[:, j], ddof=1)
            square[i, j] = covariance[0, 1] ** 2 / (covariance[0, 0] * covariance[1, 1])
    ordered = np.sort(square, axis=0)
    return np.mean(ordered[-1] - ordered[-2])


def public_irs(table):
    codes, factors = table.train
    largest = np.abs(codes - codes.mean(axis=0)).max(axis=0)
    moved = np.zeros((codes.shape[1], factors.shape[1]))
    for j in range(factors.shape[1]):
        levels = np.unique(factors[:, j])
        for level in levels:
            group = codes[factors[:, j] == level]
            deviation = np.abs(group - group.mean(axis=0))
            moved[:, j] += np.percentile(deviation, 99, axis=0) / len(levels)
    return np.average((1 - moved / largest[:, None]).max(axis=1), weights=largest)


def public_factor_vae(table):
    rng = np.random.default_rng(0)
    variance = np.var(table.train[0], axis=0, ddof=1)
    active = np.sqrt(variance) >= 0.05

    def count(num):
        votes = np.zeros((len(SIZES), active.sum()), int)
        for _ in range(num):
            fixed = rng.integers(len(SIZES))
            factors = draw_factors(rng, BATCH)
            factors[:, fixed] = factors[0, fixed]
            local = np.var(table.look_up(factors), axis=0, ddof=1)
            votes[fixed, np.argmin(local[active] / variance[active])] += 1
        return votes

    majority = count(NUM_TRAIN_VOTES).argmax(axis=0)
    evaluation = count(NUM_EVAL_VOTES)
    return evaluation[majority, np.arange(len(majority))].sum() / evaluation.sum()


def public_beta_vae(table):
    rng = np.random.default_rng(0)

    def features(num):
        points, labels = np.zeros((num, table.codes.shape[1])), np.zeros(num, int)
        for i in range(num):
            labels[i] = rng.integers(len(SIZES))
            first, second = draw_factors(rng, BATCH), draw_factors(rng, BATCH)
            second[:, labels[i]] = first[:, labels[i]]
            difference = np.abs(table.look_up(first) - table.look_up(second))
            points[i] = difference.mean(axis=0)
        return points, labels

    model = linear_model.LogisticRegression().fit(*features(NUM_TRAIN_VOTES))
    return model.score(*features(NUM_EVAL_VOTES))


def public_explicitness(table):
    (codes, factors), (test_codes, test_factors) = table.train, table.test
    mean, scale = codes.mean(axis=0), codes.std(axis=0)
    areas = []
    for j in range(factors.shape[1]):
        model = linear_model.LogisticRegression().fit((codes - mean) / scale, factors[:, j])
        for x, y in ((codes, factors), (test_codes, test_factors)):
            one_hot = np.eye(SIZES[j], dtype=int)[y[:, j]]
            area = metrics.roc_auc_score(one_hot, model.predict_proba((x - mean) / scale))
            areas.append(area)
    return np.mean(areas[1::2])


def public_dci(table, num_rounds):
    (codes, factors), (test_codes, test_factors) = table.train, table.test
    importance = np.zeros((codes.shape[1], factors.shape[1]))
    for j in range(factors.shape[1]):
        model = ensemble.GradientBoostingClassifier(n_estimators=num_rounds)
        model.fit(codes, factors[:, j])
        importance[:, j] = model.feature_importances_
        for x, y in ((codes, factors), (test_codes, test_factors)):
            np.mean(model.predict(x) == y[:, j])
    parts = 1 - stats.entropy(importance.T + 1e-11, base=factors.shape[1])
    return np.average(parts, weights=importance.sum(axis=1))


def public_unsupervised(table):
    codes, _ = table.train
    covariance = np.cov(codes.T)
    spread = np.diag(covariance)
    total_correlation = 0.5 * (np.log(spread).sum() - np.linalg.slogdet(covariance)[1])
    root = linalg.sqrtm(covariance * spread[:, None])
    distance = 2 * spread.sum() - 2 * np.trace(root).real
    bins = public_bins(codes)
    return total_correlation, distance, pairwise_information(bins, bins).mean()


def public_sampling(table):
    rng = np.random.default_rng(0)
    factors = draw_factors(rng, 16)
    codes = table.look_up(factors)
    while len(codes) < table.num_train:
        drawn = draw_factors(rng, min(16, table.num_train - len(codes)))
        factors = np.vstack((factors, drawn))
        codes = np.vstack((codes, table.look_up(drawn)))
    return codes, factors


PUBLIC = {
    "mig": public_mig,
    "modularity": public_modularity,
    "sap_discrete": public_sap_discrete,
    "sap_continuous": public_sap_continuous,
    "irs": public_irs,
    "factor_vae": public_factor_vae,
    "beta_vae": public_beta_vae,
    "explicitness": public_explicitness,
    "unsupervised": public_unsupervised,
}


# Ours


def ours(table):
    """The same scores as calls without arguments."""
    codes, factors, num_train = table.codes, table.factors, table.num_train
    z, v = table.train
    key = jax.random.key(0)
    return {
        "mig": lambda: mig(z, v).value,
        "modularity": lambda: modularity(z, v).value,
        "sap_discrete": lambda: sap_discrete(codes, factors, num_train=num_train).value,
        "sap_continuous": lambda: sap_continuous(z, v).value,
        "irs": lambda: irs(z, v).value,
        "factor_vae": lambda: factor_vae_score(key, z, v).value,
        "beta_vae": lambda: beta_vae_score(key, z, v).value,
        "explicitness": lambda: explicitness(codes, factors, num_train=num_train).value,
        "unsupervised": lambda: (
            gaussian_total_correlation(z),
            gaussian_wasserstein(z),
            mutual_information_score(z).value,
        ),
        "dci_boosted": lambda: dci_boosted(codes, factors, num_train=num_train).disentanglement,
        "dci_fast": lambda: dci_fast(codes, factors, num_train=num_train).disentanglement,
    }


# Timing


def timed(function):
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return time.perf_counter() - wall, time.process_time() - cpu


def median_of(repeats, *functions):
    """Wall and processor seconds of each function, (functions, repeats, 2), taken in turn."""
    rows = [[timed(function) for function in functions] for _ in range(repeats)]
    return np.array(rows).swapaxes(0, 1)


DRAWS_VOTES = ("factor_vae", "beta_vae")


def measure(table, repeats, rounds):
    """By metric: seconds of the public algorithm, of its drawing and of ours; medians."""
    result = {}
    wall, cpu = timed(lambda: public_dci(table, rounds))
    trees = wall * ROUNDS / rounds, cpu * ROUNDS / rounds
    for name, function in ours(table).items():
        of_trees = name.startswith("dci")
        first, _ = timed(function)
        if of_trees:
            draws, mine = median_of(1, lambda: public_sampling(table), function)
            theirs = np.array([trees])
        else:
            theirs, draws, mine = median_of(
                repeats,
                lambda name=name: PUBLIC[name](table),
                lambda: public_sampling(table),
                function,
            )
        drawing = 0.0 if name in DRAWS_VOTES else draws[:, 0]
        row = {
            "public_seconds": np.median(theirs[:, 0]),
            "public_cpu_seconds": np.median(theirs[:, 1]),
            "public_sampling_seconds": np.median(drawing),
            "seconds": np.median(mine[:, 0]),
            "cpu_seconds": np.median(mine[:, 1]),
            "first_call_seconds": first,
            "speedup": np.median((theirs[:, 0] + drawing) / mine[:, 0]),
            "speedup_of_arithmetic": np.median(theirs[:, 0] / mine[:, 0]),
        }
        result[name] = {key: float(value) for key, value in row.items()}
        print(
            f"{name:<15} public {row['public_seconds']:9.4f} s and"
            f" {row['public_sampling_seconds']:6.3f} s of drawing  ours {row['seconds']:8.4f} s"
            f"  {row['speedup']:7.1f} x  (arithmetic {row['speedup_of_arithmetic']:.1f} x)"
            f"  first call {first:6.2f} s",
            flush=True,
        )
    return result


def suite_speedup(seconds, without, *parts):
    """Ratio of summed seconds, with one of our two estimators of DCI."""
    rows = [row for name, row in seconds.items() if name != without]
    return sum(row[part] for row in rows for part in parts) / sum(row["seconds"] for row in rows)


def main():
    parser = argparse.ArgumentParser(description="Time the disentanglement scores.")
    parser.add_argument("--rows", type=int, default=10_000, help="training rows; half more test")
    parser.add_argument("--codes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="all rounds of the public trees")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    arguments = parser.parse_args()
    table = Table(arguments.rows, arguments.codes)
    rounds = ROUNDS if arguments.full else ROUNDS // 20
    seconds = measure(table, arguments.repeats, rounds)
    whole = "public_seconds", "public_sampling_seconds"
    suite = suite_speedup(seconds, "dci_boosted", *whole)
    arithmetic = suite_speedup(seconds, "dci_boosted", "public_seconds")
    exact = suite_speedup(seconds, "dci_fast", "public_seconds")
    print(
        f"suite: {suite:.1f} x with dci_fast; arithmetic alone {arithmetic:.1f} x, "
        f"with dci_boosted {exact:.1f} x"
    )
    if arguments.json:
        record = {
            "benchmark": "metrics",
            "baseline": "the public algorithm, re-run with the same scikit-learn",
            "rows": arguments.rows,
            "codes": arguments.codes,
            "public_tree_rounds_timed": rounds,
            "device": str(jax.devices()[0]),
            "machine": platform.machine(),
            "seconds": seconds,
            "speedup": {name: row["speedup"] for name, row in seconds.items()},
            "speedup_of_arithmetic": {
                name: row["speedup_of_arithmetic"] for name, row in seconds.items()
            },
            "suite": suite,
            "suite_of_arithmetic": arithmetic,
            "suite_of_arithmetic_with_dci_boosted": exact,
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
