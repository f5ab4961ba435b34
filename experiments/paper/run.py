"""The seven claims of arXiv:2505.03530, judged on six families that ship, on two worlds.

    vaecausal study --preset paper --out runs/paper
    vaecausal study --preset paper-without-causes --out runs/twin
    python experiments/paper/run.py --causes runs/paper --twin runs/twin --out runs/claims

The worlds have the same factors with the same marginals; in the twin no factor causes another.
Seeds of one family are independent models, families are not samples of anything: correlations are
taken within families, comparisons seed by seed, and every p value is exact or a permutation's.
"""

import argparse
import itertools
import json
import pathlib
from typing import Any

import numpy as np

from vaecausal_jax.circuits.graph_distance import graph_score, renamed_f1
from vaecausal_jax.inference import claim, over_seeds, seeds_to_settle, sign_flip_test

COLUMNS = {
    "paper_effect_strength": "effect strength, raw L2",
    "total_index_posterior_sum": "total index",
    "mig": "MIG",
    "dci_fast_disentanglement": "DCI",
    "modularity_excess_decoder": "modularity M minus null",
    "circuit_modularity": "circuit modularity minus null",
    "reconstruction": "reconstruction (nats)",
    "kl": "KL (nats)",
    "active_latents": "active latents",
}
EFFECTS = ("paper_effect_strength", "total_index_posterior_sum")
SCORES = ("dci_fast_disentanglement", "mig")
CONTROLS = ("squared_error", "kl", "active_latents")
NUM_PERMUTATIONS = 9999
DETECTOR = 0.7


class World:
    """One finished study.

    Attributes:
        summary: Its tables.
        families: Titles, in order.
        seeds: Usable seeds of each family.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.summary = json.loads((folder / "summary.json").read_text())
        self.models = [m for m in self.summary["models"] if m["verdict"] == "ok"]
        self.families = list(dict.fromkeys(m["family"] for m in self.models))

    def values(self, family: str, name: str) -> dict[int, float]:
        """Seed to a number of its model; without those that have none."""
        return {
            m["seed"]: float(m[name])
            for m in self.models
            if m["family"] == family and m.get(name) is not None
        }

    def graphs(self, family: str) -> list[dict[str, Any]]:
        """The factor graphs of a family's models."""
        usable = {(m["family"], m["seed"]) for m in self.models}
        found = self.summary["factor_graphs"]
        return [g for g in found if g["family"] == family and (family, g["seed"]) in usable]


def main() -> None:
    """Prints the tables as Markdown and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--causes", type=pathlib.Path, required=True, help="study of the world")
    parser.add_argument("--twin", type=pathlib.Path, required=True, help="study of its twin")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/claims"))
    args = parser.parse_args()
    worlds = {"causes": World(args.causes), "twin": World(args.twin)}
    found = {
        "table": {name: family_table(world) for name, world in worlds.items()},
        "correlation": {name: correlations(world) for name, world in worlds.items()},
        "order": {name: orders(world) for name, world in worlds.items()},
        "best": {name: best_families(world) for name, world in worlds.items()},
        "codes": {name: code_effects(world) for name, world in worlds.items()},
        "detectors": {name: detectors(world) for name, world in worlds.items()},
        "graph": graph_table(worlds["causes"], worlds["twin"]),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "claims.json").write_text(json.dumps(found, indent=1))
    for name in worlds:
        print(f"\n## {name}\n")
        _print_table(found["table"][name])
        for key in ("correlation", "order", "best", "codes", "detectors"):
            print(f"\n### {key}\n")
            print(json.dumps(found[key][name], indent=1))
    print("\n## graph of factors\n")
    _print_table(found["graph"])


def family_table(world: World) -> dict[str, dict[str, str]]:
    """Mean of each number over a family's seeds with its Student interval, as text."""
    return {
        family: {
            title: interval(np.array(list(world.values(family, name).values())))
            for name, title in COLUMNS.items()
        }
        for family in world.families
    }


def interval(values: np.ndarray, digits: int = 3) -> str:
    """Mean with its 95 % Student interval over seeds."""
    values = values[np.isfinite(values)]
    if not values.size:
        return "-"
    mean = over_seeds(values, num_inputs=1, intervention="see the table")
    shown = [f"{float(end):.{digits}g}" for end in mean.ends]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def correlations(world: World) -> dict[str, dict[str, Any]]:
    """Claim 1: effect strength with a score over models, within and between families.

    Within: both are taken minus their family's mean, then, where controls are held fixed, minus
    what these explain within families. p by permutation of the residuals inside families; the
    interval by resampling models inside families.
    """
    gaussian = [f for f in world.families if world.values(f, "kl")]
    names = (*EFFECTS, *SCORES, *CONTROLS)
    rows = {
        family: np.array(
            [[world.values(family, n)[s] for n in names] for s in world.values(family, "kl")]
        )
        for family in gaussian
    }
    label = np.concatenate([np.full(len(r), i) for i, r in enumerate(rows.values())])
    table = dict(zip(names, np.concatenate(list(rows.values())).T, strict=True))
    found = {}
    for effect, score in itertools.product(EFFECTS, SCORES):
        pair = table[effect], table[score]
        means = [[v[label == i].mean() for i in range(len(gaussian))] for v in pair]
        found[f"{effect} with {score}"] = {
            "models": len(label),
            "pooled, families ignored": float(np.corrcoef(pair[0], pair[1])[0, 1]),
            "between the means of families": float(np.corrcoef(means[0], means[1])[0, 1]),
            "within families": _within(*pair, np.zeros((len(label), 0)), label),
            "within families, error, KL and active latents fixed": _within(
                *pair, np.stack([table[n] for n in CONTROLS], axis=1), label
            ),
        }
    return found


def _within(x: np.ndarray, y: np.ndarray, controls: np.ndarray, label: np.ndarray) -> dict:
    rng = np.random.default_rng(0)

    def residual(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        own = label[chosen]
        design = np.concatenate([np.eye(label.max() + 1)[own], controls[chosen]], axis=1)
        fitted = design @ np.linalg.lstsq(design, values[chosen], rcond=None)[0]
        return values[chosen] - fitted

    def correlation(chosen: np.ndarray) -> float:
        return float(np.corrcoef(residual(x, chosen), residual(y, chosen))[0, 1])

    everyone = np.arange(len(label))
    members = [np.flatnonzero(label == i) for i in range(label.max() + 1)]
    left, right = residual(x, everyone), residual(y, everyone)
    value, drawn, again = correlation(everyone), [], []
    for _ in range(NUM_PERMUTATIONS):
        shuffled = right.copy()
        for own in members:
            shuffled[own] = rng.permutation(right[own])
        drawn.append(np.corrcoef(left, shuffled)[0, 1])
    for _ in range(2000):
        again.append(correlation(np.concatenate([rng.choice(own, len(own)) for own in members])))
    low, high = np.quantile(again, [0.025, 0.975])
    count = np.sum(np.abs(drawn) >= abs(value) - 1e-12)
    p_value = float((1 + count) / (1 + NUM_PERMUTATIONS))
    return {"r": value, "low": float(low), "high": float(high), "p_value": p_value}


def orders(world: World) -> dict[str, dict[str, Any]]:
    """Claim 2: FactorVAE > VAE > beta-VAE by effect strength, seed by seed."""
    titles = [
        next(f for f in world.families if f.startswith("factor_vae")),
        "vae",
        next(f for f in world.families if f.startswith("beta_vae")),
    ]
    return {
        f"{effect}: {first} - {second}": paired(world, effect, first, second)
        for effect in EFFECTS
        for first, second in itertools.pairwise(titles)
    }


def paired(world: World, name: str, first: str, second: str) -> dict[str, Any]:
    """Difference of two families seed by seed, its exact test, the seeds that would settle it."""
    own, other = world.values(first, name), world.values(second, name)
    differences = np.array([own[s] - other[s] for s in own if s in other])
    p_value = float(sign_flip_test(differences[None]).p_value[0])
    return {
        "difference": interval(differences),
        "p_value": p_value,
        "verdict": claim(p_value, num_seeds=len(differences)),
        "seeds_to_settle": seeds_to_settle(differences.mean(), differences.std(ddof=1)),
    }


def best_families(world: World) -> dict[str, dict[str, Any]]:
    """No family wins everywhere: the best by each number, and whether it beats the second.

    Smaller is better for reconstruction. p of the best against the second is of a pair that was
    chosen: the level is divided by the number of pairs of families.
    """
    found = {}
    for name in ("paper_effect_strength", "dci_fast_disentanglement", "mig", "reconstruction"):
        means = {f: np.mean(list(world.values(f, name).values())) for f in world.families}
        order = sorted(means, key=means.__getitem__, reverse=name != "reconstruction")
        test = paired(world, name, order[0], order[1])
        num = len(order) * (len(order) - 1) // 2
        found[name] = {
            "best": order[0],
            "second": order[1],
            **test,
            "verdict": claim(test["p_value"], num_seeds=len(world.values(order[0], name)),
                             alpha=0.05 / num),
        }  # fmt: skip
    return found


def code_effects(world: World) -> dict[str, Any]:
    """Claim 3: VQ-VAE by dose, by position and by code, over seeds."""
    codes, doses = world.summary["codes"], world.summary["config"]["doses"]
    value = {name: np.array(estimate["value"], float) for name, estimate in codes.items()}
    return {
        **{
            f"{name} at {dose:g} SD": interval(value[name][:, i])
            for name in ("crossed", "shift_index", "shift_length")
            for i, dose in enumerate(doses)
        },
        "position_index, summed": interval(value["position_index"].sum(axis=1)),
        "position_length, mean": interval(value["position_length"].mean(axis=1)),
        "code_index, summed": interval(value["code_index"].sum(axis=1)),
        "whole_index": interval(value["whole_index"].sum(axis=1)),
        "codes in use": interval(np.array(list(world.values("vq_vae", "codes_in_use").values()))),
        "latents of the VAE, total index, summed": interval(
            np.array(list(world.values("vae", "total_index_posterior_sum").values()))
        ),
    }


def detectors(world: World) -> dict[str, dict[str, int]]:
    """Claim 5: encoder channels that mediate more than 0.7 of one factor alone, on other pairs.

    Chosen on one half of the pairs; confirmed where the other half says the same. Counts over all
    models of a family.
    """
    summary, found = world.summary, {}
    keys = [(m["family"], m["seed"]) for m in summary["models"]]
    for family in world.families:
        prefix = "vq." if family == "vq_vae" else ""
        stack = [k for k in keys if (k[0] == "vq_vae") == (family == "vq_vae")]
        places = [stack.index((family, s)) for s in world.values(family, "reconstruction")]
        counts = {"channels": 0, "chosen": 0, "confirmed": 0}
        for path in sorted((world.folder / "parts").glob(f"{prefix}site.encoder.conv*.npz")):
            with np.load(path) as arrays:
                lost, total = arrays["total_total"][places], arrays["total"][places]
            halves = [
                part.reshape(*part.shape[:2], len(summary["factors"]), -1) for part in (lost, total)
            ]
            half = halves[0].shape[-1] // 2
            above = [
                halves[0][..., side].sum(-1) > DETECTOR * halves[1][..., side].sum(-1)
                for side in (slice(half), slice(half, None))
            ]
            alone = above[0].sum(axis=-1) == 1
            counts["channels"] += alone.size
            counts["chosen"] += int(alone.sum())
            counts["confirmed"] += int((alone & (above[0] == above[1]).all(axis=-1)).sum())
        found[family] = counts
    return found


def graph_table(causes: World, twin: World) -> dict[str, dict[str, str]]:
    """Whether models trained on causes contain their graph, beside models trained without.

    Of a model: the swaps that move their own factor; the mean |effect| on a factor that the swapped
    one causes in the world, minus that on one that it does not, over swaps that move their own (the
    true graph is that of the world with causes for both); F1 of the edges found, and F1 of the same
    edges against all relabelled truths.
    """
    true = np.array(causes.summary["true_graph"], bool)
    rows, contrasts = {}, {}
    for family in causes.families:
        row: dict[str, str] = {}
        contrast = contrasts[family] = {}
        for name, world in (("causes", causes), ("twin", twin)):
            graphs = world.graphs(family)
            row[f"own factor moved, {name}"] = interval(
                np.array([float(sum(g["control"])) for g in graphs])
            )
            contrast[name] = np.array([_contrast(g, true) for g in graphs])
            row[f"true minus other edges (SD), {name}"] = interval(contrast[name])
            scored = [g for g in graphs if any(g["control"])]
            f1 = np.array([_f1(g, true) for g in scored])
            row[f"F1, {name}"] = interval(f1)
            row[f"F1 of shuffled truths, {name}"] = interval(
                np.array([renamed_f1(np.array(g["adjacency"], bool), true) for g in scored])
            )
        row["p, causes against twin"] = (
            f"{_permutation_p(contrast['causes'], contrast['twin']):.3f}"
        )
        rows[family] = row
    # Models of one seed begin alike in all families and both worlds: seeds are what is flipped.
    gaussian = [c for family, c in contrasts.items() if causes.values(family, "kl")]
    gaps = np.nanmean([c["causes"] - c["twin"] for c in gaussian], axis=0)
    test = sign_flip_test(gaps[None])
    rows["families with Gaussian latents"] = {name: "" for name in rows[causes.families[0]]} | {
        "true minus other edges (SD), causes": f"causes minus twin: {interval(gaps)}",
        "p, causes against twin": f"{float(test.p_value[0]):.4f}",
    }
    return rows


def _contrast(graph: dict[str, Any], true: np.ndarray) -> float:
    effect = np.abs(np.array(graph["effect"]["value"], float))
    moved = np.array(graph["control"], bool)[:, None] & ~np.eye(len(true), dtype=bool)
    edges, others = effect[moved & true], effect[moved & ~true]
    return float(edges.mean() - others.mean()) if edges.size and others.size else np.nan


def _f1(graph: dict[str, Any], true: np.ndarray) -> float:
    return graph_score(np.array(graph["adjacency"], bool), true).f1


def _permutation_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided, of the difference of two groups' means, over all divisions of their models."""
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    joined, num = np.concatenate([first, second]), len(first)
    if not num or num == len(joined):
        return float("nan")
    chosen = np.array(list(itertools.combinations(range(len(joined)), num)))
    sums = joined[chosen].sum(axis=1)
    gaps = sums / num - (joined.sum() - sums) / (len(joined) - num)
    return float(np.mean(np.abs(gaps) >= abs(first.mean() - second.mean()) - 1e-12))


def _print_table(rows: dict[str, dict[str, str]]) -> None:
    head = list(next(iter(rows.values())))
    print("| family | " + " | ".join(head) + " |")
    print("|---" * (len(head) + 1) + "|")
    for family, row in rows.items():
        print(f"| {family} | " + " | ".join(row[name] for name in head) + " |")


if __name__ == "__main__":
    main()
