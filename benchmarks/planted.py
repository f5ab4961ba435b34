"""Which methods find circuits that are known to be there, and what fools them?

Networks of `vaecausal_jax.circuits.planted`, each with the truth about every unit and edge:

    0             compiled: a latent, pairs of ReLU units and a row of pixels a factor; spare units
    1             level 0 in disguise: reordered, rescaled, rotated, noisy weights, dormant units,
                  and distractors, which follow the factors and lead nowhere
    1 gates       AND and OR between all off and all on: one direction of patching misses one gate
    1 saturated   ramps between two flat ends: gradients at the ends are zero
    2             a convolutional VAE trained to have given circuits (strict interchange training)
    3             superposition: five factors in two dimensions

`auroc` is the chance that a unit of the circuit scores above one that is not (ties half), over all
sites; `distractors` the share of distractors above 1 % of the finder's largest score. `edges` are
edges of paths that carry an effect. `passes` is how many forward passes a finder takes to reach an
AUROC of 0.99 on level 1, from one pair up (a gradient counts as two more; `never`: not with all).
`recovery` compares what the library measures with closed forms. Coverage is of nominal 95 %
intervals of mean squared effects, which are skewed, over independent samples of level 0.

Required: exact patching both ways finds everything everywhere and calls no distractor; correlation
calls all of them; single directions fail on gates, gradients on ramps; the ordinary null of
modularity sees a split by depth in a network without structure, 1/6, and the layered null 0.

To add a finder see `vaecausal_jax.circuits.planted.finders`, and hand it to `compare`.

    python -m benchmarks.planted [--pairs 64] [--levels 0 1 "1 gates" "1 saturated" 2 3]
        [--steps 2000] [--json]
"""

import argparse
import json
import math
import sys
import time

import jax
import numpy as np

from vaecausal_jax import inference
from vaecausal_jax.circuits import modularity, planted
from vaecausal_jax.circuits.layers import join_layers
from vaecausal_jax.circuits.planted import scores

LEVELS = ("0", "1", "1 gates", "1 saturated", "2", "3")
SIZES = (1, 2, 4, 8, 16, 32, 64)


def build(levels, num_steps):
    """The networks, by level."""
    makers = {
        "0": planted.level0,
        "1": lambda: planted.level1(jax.random.key(1)),
        "1 gates": planted.gates,
        "1 saturated": planted.saturated,
        "2": lambda: planted.level2(jax.random.key(2), num_steps=num_steps),
        "3": lambda: planted.level3(jax.random.key(3)),
    }
    return {level: makers[level]() for level in levels}


def run(finder, network, num_pairs):
    """A finder's scores on fresh pairs of a network."""
    pairs = network.sample(jax.random.key(0), num_pairs)
    return jax.device_get(finder(network.net, pairs))


def flat(parts, names):
    return np.concatenate([np.ravel(parts[name]) for name in names])


def judge(found, truth):
    """All scores of one finder on one network; those that do not apply are left out."""
    result = {"passes": float(found.passes)}
    if found.nodes:
        values, nodes = flat(found.nodes, truth.nodes), flat(truth.nodes, truth.nodes)
        calls = scores.called(values)
        result |= {
            "auroc": scores.auroc(values, nodes),
            "average_precision": scores.average_precision(values, nodes),
            "false_discovery_proportion": scores.false_discovery_proportion(calls, nodes),
            "distractor_false_positives": scores.false_positive_rate(
                calls, flat(truth.distractors, truth.nodes)
            ),
        }
    if found.edges and truth.edges:
        values, edges = flat(found.edges, truth.edges), flat(truth.edges, truth.edges)
        result |= {
            "edge_auroc": scores.auroc(values, edges),
            "edge_average_precision": scores.average_precision(values, edges),
        }
    if found.nodes and truth.effects is not None:
        true = flat(truth.effects, truth.nodes)
        result["effect_rank_correlation"] = scores.rank_correlation(
            flat(found.nodes, truth.nodes), true
        )
        if found.samples:
            means = {site: samples.mean(1) for site, samples in found.samples.items()}
            result["effect_rmse"] = scores.effect_rmse(flat(means, truth.nodes), true)
    return {name: value for name, value in result.items() if not math.isnan(value)}


def compare(networks, finders, *, num_pairs=64):
    """Every finder on every network: name of a score to level to finder to value.

    Args:
        networks: Level to ``Planted``.
        finders: Name to finder; see ``vaecausal_jax.circuits.planted.finders``.
        num_pairs: Pairs of runs given to each.
    """
    record = {}
    for level, network in networks.items():
        print(f"level {level}: {len(finders)} finders", file=sys.stderr, flush=True)
        for name, finder in finders.items():
            for score, value in judge(run(finder, network, num_pairs), network.truth).items():
                record.setdefault(score, {}).setdefault(level, {})[name] = value
    return record


def passes_to_find(network, finders, reached, *, num_pairs=64):
    """Forward passes to an AUROC of 0.99 (of edges, where a finder has no opinion on nodes)."""
    sizes = [num for num in SIZES if num < num_pairs] + [num_pairs]
    result = {}
    for name, finder in finders.items():

        def score(num, finder=finder):
            found = judge(run(finder, network, num), network.truth)
            return found.get("auroc", found.get("edge_auroc", 0.0)), found["passes"]

        # Whoever misses it with all pairs is not asked again and again.
        tried = sizes if reached.get(name, 0.0) >= 0.99 else []
        result[name] = scores.passes_to_reach(score, tried)
    return result


def coverage(network, *, num_pairs=128, num_samples=200):
    """Share of independent intervals of each effect that hold the truth, over all samples."""
    site = "decoder/units"
    finder = planted.FINDERS["patching, denoising"]
    samples = run(finder, network, num_pairs * num_samples).samples[site]
    active = network.truth.nodes[site]
    samples = samples[active].reshape(active.sum() * num_samples, num_pairs)
    true = np.repeat(network.truth.effects[site][active], num_samples)
    estimate = inference.bootstrap_mean(
        jax.random.key(4),
        samples,
        intervention="denoised",
        bootstrap=inference.Bootstrap(interval=inference.bca),
    )
    return scores.interval_coverage(estimate, true)


def recover(networks, *, num_pairs=256):
    """What the library measures in each network against the truth, level by level."""
    record = {}
    for level, network in networks.items():
        if network.truth.factor_graph is None:
            continue
        options = {} if level != "2" else {"site": "decoder/dense0", "least": 0.1}
        found = planted.recover(jax.random.key(5), network, num_pairs, **options)
        site = options.get("site", "decoder/units")
        record[level] = planted.recovery_scores(found, network.truth, site=site)
    return record


def depth_split():
    """Modularity of a split by depth of a network without structure, by null."""
    layers, labels = planted.depth_split()
    joined = join_layers(layers)
    return {
        "ordinary null": modularity.newman_modularity(joined + joined.T, labels),
        "layered null": modularity.layered_modularity(layers, labels),
    }


def print_table(title, rows, columns, value):
    """A table of numbers; what does not apply is a dash."""
    width = max(map(len, [title, *rows]))
    print(f"\n{title:<{width}}" + "".join(f"{column:>13}" for column in columns))
    for row in rows:
        cells = (value(row, column) for column in columns)
        texts = ("-" if cell is None else f"{cell:.3f}" for cell in cells)
        print(f"{row:<{width}}" + "".join(f"{text:>13}" for text in texts), flush=True)


def print_finders(record, finders, levels):
    for title, score in (
        ("AUROC, units", "auroc"),
        ("average precision, units", "average_precision"),
        ("distractors called", "distractor_false_positives"),
        ("false discoveries", "false_discovery_proportion"),
        ("AUROC, edges", "edge_auroc"),
        ("average precision, edges", "edge_average_precision"),
        ("rank correlation", "effect_rank_correlation"),
    ):
        table = record.get(score, {})
        rows = [name for name in finders if any(name in table.get(k, {}) for k in levels)]
        print_table(title, rows, levels, lambda row, level, t=table: t.get(level, {}).get(row))


def print_recovery(record):
    levels = list(record)
    names = list(dict.fromkeys(name for row in record.values() for name in row))
    print_table("recovery", names, levels, lambda name, level: record[level].get(name))


def print_discriminations(record):
    """The failures that the disguises are for, beside the method that does not fail."""
    cases = (
        ("distractors called", "distractor_false_positives", "1", "correlation"),
        ("AND and OR inputs, AUROC", "auroc", "1 gates", "patching, denoising"),
        ("AND and OR inputs, AUROC", "auroc", "1 gates", "patching, noising"),
        ("saturated ramps, AUROC", "auroc", "1 saturated", "attribution patching"),
    )
    print(f"\n{'trap':28}{'fooled':>24}{'':8}{'patching, both directions':>28}")
    for trap, score, level, fooled in cases:
        row = record.get(score, {}).get(level, {})
        if {fooled, "patching, both directions"} <= row.keys():
            right = row["patching, both directions"]
            print(f"{trap:28}{fooled:>24}{row[fooled]:8.3f}{right:28.3f}")
    split = record["depth_split"]
    print(f"{'depth split, Q':28}{'ordinary null':>24}{split['ordinary null']:8.3f}", end="")
    print(f"{'layered null ':>20}{split['layered null']:8.3f}", flush=True)


def measure(levels, finders, *, num_pairs, num_steps):
    """Prints all tables and returns the record."""
    networks = build(levels, num_steps)
    record = compare(networks, finders, num_pairs=num_pairs)
    record["depth_split"] = depth_split()
    print_finders(record, finders, levels)
    print_discriminations(record)
    if "1" in networks:
        reached = record["auroc"]["1"] | {
            name: value
            for name, value in record.get("edge_auroc", {}).get("1", {}).items()
            if name not in record["auroc"]["1"]
        }
        passes = passes_to_find(networks["1"], finders, reached, num_pairs=num_pairs)
        # JSON has no infinity.
        record["passes_to_auroc"] = {
            name: None if math.isinf(value) else value for name, value in passes.items()
        }
        print("\nforward passes to AUROC 0.99 on level 1")
        for name, value in record["passes_to_auroc"].items():
            print(f"  {name:28}{'never' if value is None else f'{value:.0f}':>10}")
    record["recovery"] = recover(networks)
    if record["recovery"]:
        print_recovery(record["recovery"])
    if "0" in networks:
        record["interval_coverage"] = coverage(networks["0"])
        print(f"\ncoverage of effects' intervals, level 0: {record['interval_coverage']:.3f}")
    return record


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--steps", type=int, default=2000, help="training steps of level 2")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    start = time.process_time()
    record = {"benchmark": "planted", "pairs": args.pairs}
    record |= measure(args.levels, planted.FINDERS, num_pairs=args.pairs, num_steps=args.steps)
    record["cpu_seconds"] = time.process_time() - start
    if args.json:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
