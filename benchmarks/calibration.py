"""Do intervals cover as often as they say, and do tests err no more often than they say?

Every row asks one question of simulated samples whose answer is known, many times in one compiled
program, each time with bootstrap weights or sign flips of its own. Intervals are nominal 95 %:
`coverage` is how often they hold the truth. `contrast` is the row above without its remedy: plain
percentiles of ten images, images of one base image taken as independent, a curve held point by
point, an interval looked at after every image, Student's t over models that were all measured on
the same images. `fdr` and `fwer` are the realised error rates of tests at
0.05 on units that share half their noise, `power` what the same tests find.

Predicted: coverage within 93 .. 97 %, contrasts below; false discoveries of BH at most 0.05 times
the share of nulls, family-wise errors at most 0.05.

    python -m benchmarks.calibration [--replicates 2000] [--json]
"""

import argparse
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from vaecausal_jax import inference
from vaecausal_jax.inference.hypotheses import count_larger_flips

LEVEL, ALPHA, NUM_BOOTSTRAP, NUM_FLIPS = 0.95, 0.05, 1000, 1999


# Samples with known means


def normal(key, num_images):
    """Mean 1 and standard deviation 2."""
    return 1.0 + 2.0 * jax.random.normal(key, (num_images,))


def skewed(key, num_images):
    """Exponential: mean 1, skewness 2."""
    return jax.random.exponential(key, (num_images,))


def pairs(key, num_images):
    """Correlated, skewed effects and their denominators; means 1.5 and 2."""
    above, below = jax.random.split(key)
    denominator = 1.0 + jax.random.exponential(below, (num_images,))
    return 0.5 * denominator + 0.5 * jax.random.exponential(above, (num_images,)), denominator


def clustered(key, labels):
    """Images of one base image share half their variance; mean 0."""
    base, own = jax.random.split(key)
    return jax.random.normal(base, (labels.max() + 1,))[labels] + jax.random.normal(
        own, labels.shape
    )


def models(key, num_seeds, num_images, shared):
    """Standard deviation 0.3 between seeds, 1 between images, 1 for the rest; mean 0."""
    keys = jax.random.split(key, 3)
    image = jax.random.normal(keys[1], (1 if shared else num_seeds, num_images))
    rest = jax.random.normal(keys[2], (num_seeds, num_images))
    return 0.3 * jax.random.normal(keys[0], (num_seeds, 1)) + image + rest


# One replicate: functions of a key


def ratio_interval(key, numerator, denominator, interval):
    resampled = inference.resample_ratio(key, numerator, denominator, num_replicates=NUM_BOOTSTRAP)
    return interval(resampled, LEVEL)


def mean_of_images(key, *, draw, num_images, interval):
    data, weights = jax.random.split(key)
    return ratio_interval(weights, draw(data, num_images), jnp.ones(num_images), interval)


def ratio_of_images(key, *, num_images, interval):
    data, weights = jax.random.split(key)
    return ratio_interval(weights, *pairs(data, num_images), interval)


def mean_of_clusters(key, *, labels, resampled):
    """The mean over images when what is resampled are the clusters of the given labels."""
    data, weights = jax.random.split(key)
    total = inference.sum_clusters(resampled, clustered(data, labels))
    size = inference.sum_clusters(resampled, jnp.ones(labels.shape))
    return ratio_interval(weights, total, size, inference.percentile)


def curve_of_images(key, *, interval):
    """A random walk of 6 points, mean 0, over 40 images."""
    data, weights = jax.random.split(key)
    walks = jnp.cumsum(jax.random.normal(data, (6, 40)), axis=0)
    return ratio_interval(weights, walks, jnp.ones((1, 40)), interval)


def mean_of_models(key, *, num_seeds, num_images, shared):
    """The two-level bootstrap, and each seed's mean."""
    data, weights = jax.random.split(key)
    samples = models(data, num_seeds, num_images, shared)
    result = inference.resample_two_level(
        weights, samples, shared_images=shared, level=LEVEL, num_replicates=NUM_BOOTSTRAP
    )
    return result, samples.mean(1)


def family_of_units(key, *, effects, num_images):
    """Sign flips that reach each unit's statistic: alone, and in the family."""
    common, own, flips = jax.random.split(key, 3)
    noise = jax.random.normal(own, (len(effects), num_images))
    noise += jax.random.normal(common, (1, num_images))
    signs = jax.random.rademacher(flips, (NUM_FLIPS, num_images), float)
    return count_larger_flips(signs, effects[:, None] + noise)[1:]


def plain_percentile(resampled, level):
    """Not widened for few images."""
    return tuple(jnp.nanquantile(resampled.values, jnp.array([0.5 - level / 2, 0.5 + level / 2])))


# Rows


def simulate(one, seed, num_replicates):
    """One compiled program: the function at ``num_replicates`` keys."""
    keys = jax.random.split(jax.random.key(seed), num_replicates)
    return jax.block_until_ready(jax.jit(lambda k: jax.lax.map(one, k, batch_size=20))(keys))


def covered(low, high, truth):
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


def bootstrap_rows():
    """Name to (one replicate, the true mean); those of contrasts start with an asterisk."""
    rows = {}
    for name, draw, num_images, interval in (
        ("normal, 10 images", normal, 10, inference.percentile),
        ("* normal, 10 images, not widened", normal, 10, plain_percentile),
        ("normal, 50 images", normal, 50, inference.percentile),
        ("skewed, 100 images", skewed, 100, inference.percentile),
        ("skewed, 50 images, bca", skewed, 50, inference.bca),
        ("skewed, 20 images, studentised", skewed, 20, inference.studentised),
    ):
        one = functools.partial(mean_of_images, draw=draw, num_images=num_images, interval=interval)
        rows[name] = one, 1.0
    for name, num_images, interval in (
        ("ratio, 100 images", 100, inference.percentile),
        ("ratio, 50 images, bca", 50, inference.bca),
        ("ratio, 20 images, studentised", 20, inference.studentised),
    ):
        one = functools.partial(ratio_of_images, num_images=num_images, interval=interval)
        rows[name] = one, 0.75
    labels = np.repeat(np.arange(30), np.tile([1, 2, 3, 4, 5], 6))
    for name, resampled in (
        ("30 clusters of 1 to 5 images", labels),
        ("* as many images, as if independent", np.arange(len(labels))),
    ):
        rows[name] = functools.partial(mean_of_clusters, labels=labels, resampled=resampled), 0.0
    return rows


def coverage_of_curves(num_replicates, interval):
    """How often an interval holds all points of a curve at once."""
    one = functools.partial(curve_of_images, interval=interval)
    low, high = map(np.asarray, simulate(one, 400, num_replicates))
    return float(np.mean(((low <= 0) & (high >= 0)).all(1)))


def coverage_of_peeking(num_replicates):
    """How often a sequence of intervals holds at all of 100 .. 2000 images, and an ordinary one."""
    samples = np.asarray(jax.random.normal(jax.random.key(500), (num_replicates, 2000)))
    low, high = inference.confidence_sequence(samples, level=LEVEL, tightest_at=500)
    counts = np.arange(1, 2001)
    ordinary = np.abs(np.cumsum(samples, axis=1)) / np.sqrt(counts) <= special.ndtri(1 - ALPHA / 2)
    held = (low <= 0) & (high >= 0)
    return [float(np.mean(a[:, 99:].all(1))) for a in (held, ordinary)]


def coverage_of_models(num_replicates, num_seeds, shared):
    """Coverage of the two-level bootstrap, and of Student's t over the seeds' means."""
    one = functools.partial(mean_of_models, num_seeds=num_seeds, num_images=50, shared=shared)
    result, by_seed = simulate(one, 100 + num_seeds, num_replicates)
    scale = special.stdtrit(result.components.freedom, 0.5 + LEVEL / 2) * result.components.error
    student = inference.over_seeds(np.asarray(by_seed).T, num_inputs=50, intervention="none")
    return (
        covered(result.value + scale * result.low, result.value + scale * result.high, 0.0),
        covered(student.low, student.high, 0.0),
    )


def coverage_of_fieller(num_replicates, num_images):
    samples = simulate(lambda key: pairs(key, num_images), 200, num_replicates)
    estimate = inference.fieller_ratio(*samples, intervention="none")
    return covered(estimate.low, estimate.high, 0.75)


def error_rates(num_replicates, num_true, num_units=50):
    """Error rate and power of each correction, where the first ``num_true`` units have effects."""
    effects = jnp.where(jnp.arange(num_units) < num_true, 1.0, 0.0)
    one = functools.partial(family_of_units, effects=effects, num_images=30)
    own, family = (
        (1 + np.asarray(count)) / (1 + NUM_FLIPS)
        for count in simulate(one, 300 + num_true, num_replicates)
    )
    adjusted = {
        "max-T": family,
        "BH": np.stack([inference.false_discovery(p) for p in own]),
        "BY": np.stack([inference.false_discovery(p, dependent=True) for p in own]),
    }
    rates, power = {}, {}
    for name, p_values in adjusted.items():
        rejected = p_values <= ALPHA
        false = rejected[:, num_true:].sum(1)
        wrong = false > 0 if name == "max-T" else false / np.maximum(rejected.sum(1), 1)
        rates[name] = float(np.mean(wrong))
        power[name] = float(np.mean(rejected[:, :num_true])) if num_true else float("nan")
    return rates, power


def measure(num_replicates):
    """Prints the table and returns the record."""
    record = {"coverage": {}, "contrast": {}, "fwer": {}, "fdr": {}, "power": {}}

    def keep(kind, name, value):
        record[kind][name] = value
        print(f"{kind:10}{name:44}{value:8.3f}", flush=True)

    for number, (name, (one, truth)) in enumerate(bootstrap_rows().items()):
        low, high = simulate(one, number, num_replicates)
        kind = "contrast" if name.startswith("*") else "coverage"
        keep(kind, name, covered(low, high, truth))
    keep("coverage", "ratio, 20 images, Fieller", coverage_of_fieller(num_replicates, 20))
    keep(
        "coverage",
        "curve of 6 points, band",
        coverage_of_curves(num_replicates, inference.simultaneous),
    )
    pointwise = coverage_of_curves(num_replicates, inference.percentile)
    keep("contrast", "* curve of 6 points, pointwise", pointwise)
    sequence, peeking = coverage_of_peeking(num_replicates)
    keep("fwer", "confidence sequence ever missed, 100 .. 2000", 1 - sequence)
    keep("contrast", "* looked at after each of 100 .. 2000 images", peeking)
    for num_seeds, shared in ((6, False), (6, True), (20, True)):
        name = f"{num_seeds} seeds, 50 {'shared' if shared else 'own'} images"
        both, student = coverage_of_models(num_replicates, num_seeds, shared)
        keep("coverage", name, both)
        if shared:
            keep("contrast", f"* {name}, t over seeds", student)
        else:
            keep("coverage", f"{name}, t over seeds", student)
    for num_true in (0, 10):
        rates, power = error_rates(num_replicates, num_true)
        for name, rate in rates.items():
            keep("fwer" if name == "max-T" else "fdr", f"{name}, {50 - num_true} nulls", rate)
            if num_true:
                keep("power", f"{name}, {num_true} effects", power[name])
    return record


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    start = time.process_time()
    record = {"benchmark": "calibration", "replicates": args.replicates}
    record |= measure(args.replicates)
    record["cpu_seconds"] = time.process_time() - start
    if args.json:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
