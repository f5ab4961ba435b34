"""What a study says about factors: read-outs, unit classes, mediation from factor to factor.

One model at a time, since tests and false discoveries are counted within a model.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from vaecausal_jax.circuits.graph_distance import GraphScore, graph_score
from vaecausal_jax.data import CausalWorld, Dataset, descendants, factor_names
from vaecausal_jax.effects.specificity import (
    CorrectedSpecificity,
    UnitClasses,
    classify_units,
    corrected_specificity,
    specificity,
)
from vaecausal_jax.factors.factor_effects import (
    TensorEstimate,
    leakage,
    read_write_agreement,
    tensor_estimate,
)
from vaecausal_jax.factors.factor_graphs import FactorGraph, factor_graph
from vaecausal_jax.factors.probes import train_probe
from vaecausal_jax.factors.readouts import (
    Readout,
    readout_changes,
    readout_confusion,
    readout_scores,
)
from vaecausal_jax.factors.sprite_moments import is_sprite_world, sprite_readout
from vaecausal_jax.inference import Bootstrap, Estimate
from vaecausal_jax.study.config import StudyConfig
from vaecausal_jax.study.estimates import Arrays, unit_sites
from vaecausal_jax.study.inputs import Inputs

CLASSES = ("dead", "monosemantic", "polysemantic", "undetermined")

MIN_EFFECT = 0.1
"""Smallest change of a factor, in its SD, that counts as an effect."""


class ReadoutQuality(NamedTuple):
    """How far the factors that the read-out reads can be believed.

    Attributes:
        rendered: Factor to R^2 (accuracy of a categorical one) on images of the data set.
        reconstructed: The same on each model's reconstructions; one dict a model.
        confusion: C[k, l]: change of read-out l as factor k alone grows by one SD.
    """

    rendered: dict[str, float]
    reconstructed: list[dict[str, float]]
    confusion: Estimate


class FactorEffects(NamedTuple):
    """Effects between units and factors of one model.

    Attributes:
        mediated: M[u, k, l], what unit u carries of factor k to the read-out of l; units of all
            sites, in order, as in all that follows.
        classes: Verdicts on all units.
        specificity: Entropic specificity of all units, minus its null, NaN for dead units.
        paper: S of arXiv:2505.03530, 1 / (H + eps), of all units; NaN for dead units.
        agreement: Cosine between what each unit reads and writes.
        leakage: Site to the share of significant mediation that ends in another factor.
        graph: Factors that change when the latent of another is swapped.
        score: That graph against the true one; None where no swap moves its own factor, or where
            the true graph has no edge to be found.
    """

    mediated: TensorEstimate
    classes: UnitClasses
    specificity: CorrectedSpecificity
    paper: np.ndarray
    agreement: np.ndarray
    leakage: dict[str, float]
    graph: FactorGraph
    score: GraphScore | None


def make_readout(
    config: StudyConfig, data: Dataset, progress: Callable[[str, int, int], None]
) -> Readout:
    """Reads factors off images: solved for in a world of sprites, a trained probe elsewhere."""
    if is_sprite_world(data):
        return sprite_readout(data, threshold=0.1)
    progress("train read-out", 0, 1)
    probe = train_probe(jax.random.fold_in(jax.random.key(config.seed), 9), data)
    progress("train read-out", 1, 1)
    return probe.readout


def readout_quality(inputs: Inputs, codes: Arrays, readout: Readout) -> ReadoutQuality:
    """Scores a read-out on rendered images and on every model's reconstructions."""
    num = codes["reconstructed"].shape[1]
    levels = inputs.score_factors[:num]
    changes = jax.jit(readout_changes)(readout, inputs.pairs)
    return ReadoutQuality(
        rendered=readout_scores(readout, inputs.score_x[:num], levels),
        reconstructed=[readout_scores(readout, x, levels) for x in codes["reconstructed"]],
        confusion=readout_confusion(jax.random.key(0), changes, inputs.pairs.change),
    )


def true_factor_graph(data: Dataset) -> np.ndarray:
    """Which factor acts on which at all, bool (cause, effect): swaps have total effects."""
    if isinstance(data, CausalWorld):
        return descendants(data)
    return np.zeros((len(data.factors), len(data.factors)), bool)


def factor_effects(
    config: StudyConfig, data: Dataset, arrays: dict[str, Arrays], model: int
) -> FactorEffects:
    """Unit classes, mediation tensors and the factor graph of one model.

    Where factors are drawn independently no edge is true, and whatever the model adds is
    entanglement.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 8)
    sites = {site: arrays[f"site/{site}"] for site in unit_sites(arrays)}
    units = {
        name: np.concatenate([part[name][model] for part in sites.values()])
        for name in ("mediated", "written", "read")
    }
    # One family of tests over all sites, and one program.
    mediated = tensor_estimate(
        jax.random.split(key, 1)[0],
        units["mediated"],
        intervention="a unit of the target run patched from the reference, read-outs in SD",
        delta=MIN_EFFECT,
        bootstrap=Bootstrap(num_replicates=config.num_factor_replicates),
    )
    ends = np.cumsum([part["written"].shape[1] for part in sites.values()])[:-1]
    of_sites = dict(zip(sites, np.split(mediated.filtered, ends), strict=True))
    written, read = units["written"], units["read"].mean(axis=-1)
    classes = classify_units(key, written)
    scores = corrected_specificity(key, written)
    paper = np.asarray(specificity(written.mean(axis=-1) ** 2).paper)
    names = factor_names(data)
    graph = factor_graph(key, arrays["input"]["swapped"][model], names=names, delta=MIN_EFFECT)
    true = true_factor_graph(data)
    scored = graph.control.any() and true.any()
    return FactorEffects(
        mediated=mediated,
        classes=classes,
        specificity=scores,
        paper=np.where(scores.active, paper, np.nan),
        agreement=read_write_agreement(read, np.abs(written.mean(axis=-1))),
        leakage={
            site: float(leakage(np.abs(tensor).sum(axis=0))) for site, tensor in of_sites.items()
        },
        graph=graph,
        score=graph_score(graph.adjacency, true) if scored else None,
    )
