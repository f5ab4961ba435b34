"""What a study says about factors: read-outs, unit classes, mediation from factor to factor.

One model at a time, since tests and false discoveries are counted within a model.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

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
from vaecausal_jax.study.gate import family_quality, is_readable
from vaecausal_jax.study.inputs import Inputs

CLASSES = ("dead", "undetected", "monosemantic", "polysemantic", "undetermined")

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

    def readable(self, labels: Sequence[tuple[str, int]], verdicts: Sequence[str]) -> np.ndarray:
        """Which factors pass the gate in the family of each model, (models, factors)."""
        families, names = [family for family, _ in labels], tuple(self.rendered)
        found = family_quality(families, verdicts, self.reconstructed, names)
        nothing = np.full(len(names), np.nan)
        return is_readable(np.stack([found.get(family, nothing) for family in families]))


class FactorEffects(NamedTuple):
    """Effects between units and factors of one model.

    All but ``mediated`` rest only on the factors that pass the gate.

    Attributes:
        mediated: M[u, k, l], what unit u carries of factor k to the read-out of l; units of all
            sites, in order, as in all that follows.
        classes: Verdicts on all units; "undetected" where no factor passes the gate.
        specificity: Entropic specificity of all units, minus its null; NaN for units without an
            effect, and where fewer than two factors pass.
        paper: S of arXiv:2505.03530, 1 / (H + eps), of all units; NaN as in ``specificity``.
        agreement: Cosine between what each unit reads and writes.
        leakage: Site to the share of significant mediation that ends in another factor.
        graph: Factors that change when the latent of another is swapped; NaN, without control and
            undecided, for factors that do not pass.
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
    # Most of a study's time goes into read-outs of patched runs: a small probe halves it, and reads
    # reconstructions as well as one of twice the channels.
    probe = train_probe(
        jax.random.fold_in(jax.random.key(config.seed), 9), data, channels=(8, 16, 32), dense=(64,)
    )
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
    config: StudyConfig,
    data: Dataset,
    arrays: dict[str, Arrays],
    readable: np.ndarray,
    model: int,
) -> FactorEffects:
    """Unit classes, mediation tensors and the factor graph of one model.

    Where factors are drawn independently no edge is true, and whatever the model adds is
    entanglement.

    Args:
        config: The study's.
        data: Its images.
        arrays: What was measured of all models.
        readable: Which factors can be read off which model, (models, factors).
        model: Which of them.
    """
    passed = readable[model]
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
    scores, paper = _specificity(key, written, passed)
    kept = np.ix_(passed, passed)
    swapped = np.where(
        (passed[:, None] & passed)[..., None], arrays["input"]["swapped"][model], np.nan
    )
    graph = factor_graph(key, swapped, names=factor_names(data), delta=MIN_EFFECT)
    true = true_factor_graph(data)[kept]
    scored = graph.control.any() and true.any()
    return FactorEffects(
        mediated=mediated,
        classes=_classes(key, written, passed),
        specificity=scores,
        paper=paper,
        agreement=read_write_agreement(read[:, passed], np.abs(written[:, passed].mean(axis=-1))),
        leakage={
            site: float(leakage(np.abs(tensor).sum(axis=0)[kept]))
            for site, tensor in of_sites.items()
        },
        graph=graph,
        score=graph_score(graph.adjacency[kept], true) if scored else None,
    )


def _classes(key: Array, written: np.ndarray, passed: np.ndarray) -> UnitClasses:
    """Verdicts from the factors that pass the gate; of others nothing is significant, or known."""
    num_units, num_factors, _ = written.shape
    nothing = np.full((num_units, num_factors), np.nan)
    if not passed.any():
        return UnitClasses(
            np.full(num_units, "undetected"),
            nothing[:, 0],
            np.zeros((num_units, num_factors), bool),
            nothing,
            nothing,
            nothing,
            np.full(num_units, -1),
        )
    found = classify_units(key, written[:, passed])
    places = np.flatnonzero(passed)

    def in_place(values: np.ndarray, rest: np.ndarray) -> np.ndarray:
        full = rest.copy()
        full[:, passed] = values
        return full

    return found._replace(
        significant=in_place(found.significant, np.zeros_like(nothing, bool)),
        share=in_place(found.share, nothing),
        low=in_place(found.low, nothing),
        high=in_place(found.high, nothing),
        top_factor=np.where(found.top_factor < 0, -1, places[found.top_factor]),
    )


def _specificity(
    key: Array, written: np.ndarray, passed: np.ndarray
) -> tuple[CorrectedSpecificity, np.ndarray]:
    """Entropic specificity over the factors that pass, and the paper's; NaN with fewer than two."""
    if passed.sum() < 2:
        nothing = np.full(len(written), np.nan)
        inactive = np.zeros(len(written), bool)
        return CorrectedSpecificity(nothing, nothing, nothing, nothing, inactive), nothing
    scores = corrected_specificity(key, written[:, passed])
    paper = np.asarray(specificity(written[:, passed].mean(axis=-1) ** 2).paper)
    return scores, np.where(scores.active, paper, np.nan)
