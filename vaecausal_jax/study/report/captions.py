"""What stands beside each figure: heading, how to read it, and which sentences to compute."""

from collections.abc import Callable
from typing import NamedTuple

import xarray as xr

from vaecausal_jax.study.report import factor_findings, findings, marks, strength_findings
from vaecausal_jax.study.report.factors import NUM_LATENTS
from vaecausal_jax.study.report.panels import MAX_UNITS, Pictures, Summary

SentenceFn = Callable[[Summary, xr.Dataset, Pictures], list[str]]


class Caption(NamedTuple):
    """What stands beside a figure.

    Attributes:
        title: Heading.
        reading: What it shows and how to read it.
        findings: Sentences computed from the data.
        marks: Sentences on marks that are drawn only where the data has them.
    """

    title: str
    reading: str
    findings: SentenceFn
    marks: SentenceFn = marks.of_nothing


CAPTIONS: dict[str, Caption] = {
    "traversals": Caption(
        "Reconstructions and latent traversals",
        "Above, images and what each model makes of them. Below, the first image's code with one "
        "latent set to values from -2 to 2, latents sorted by KL; a row that does not change is a "
        "latent the decoder ignores.",
        findings.say_traversals,
        marks.of_traversals,
    ),
    "training": Caption(
        "Training curves",
        "One line per seed, one colour per family.",
        findings.say_training,
        marks.of_training,
    ),
    "comparison": Caption(
        "Comparison of families",
        "Hollow circles are trained models, diamonds their mean, n the number of usable seeds. "
        "Effect strengths of models that reconstruct differently well are to be compared with "
        "care.",
        findings.say_comparison,
        marks.of_seeds,
    ),
    "effect_strengths": Caption(
        "Effect strength in all its forms",
        "The same interventions on the same images, measured in six ways; marks as in the figure "
        "before. The indices are shares of a model's own variance, the divergence is in nats, and "
        "the raw L2 distance grows with contrast and the number of pixels. A family that leads by "
        "one form only leads by a choice of scale. First-order indices and interaction shares are "
        "estimated without bias, and may leave the range from 0 to 1 where few images leave them "
        "undetermined: nothing is then said by them.",
        strength_findings.say_strengths,
    ),
    "scores": Caption(
        "Disentanglement scores beside chance",
        "Scores of the posterior means; the upright mark is the same score with factors shuffled, "
        "which for several of them is far from 0. A score counts by its distance from chance, of "
        "which the sentences give the mean over seeds with its 95% interval; of many such "
        "intervals one in twenty would be on one side of 0 by chance alone.",
        strength_findings.say_scores,
        marks.of_seeds,
    ),
    "rank_agreement": Caption(
        "Do effect strengths and scores rank the models alike?",
        "Spearman correlation over all usable models, taken as independent, which models of one "
        "family are not: intervals are too narrow. Pairs that disagree measure different things.",
        strength_findings.say_agreement,
        marks.of_agreement,
    ),
    "effects_and_scores": Caption(
        "Effect strength against DCI disentanglement",
        "One mark a trained model. Left of each pair as measured, right with what squared error, "
        "KL and active latents explain taken out of both. Intervals are Fisher's and take models "
        "as independent, which models of one family are not: they are too narrow.",
        strength_findings.say_relation,
    ),
    "input_level": Caption(
        "Input level: what each factor moves",
        "Mean absolute change of each latent's mean when one factor of the image is changed, in "
        "standard deviations of that latent's mean over images. A column with one dark cell is a "
        "latent that follows one factor. An almost inactive latent is measured in its own tiny "
        "standard deviation and can look dark: columns are sorted by KL for that reason.",
        findings.say_input,
    ),
    "latent_level": Caption(
        "Latent level: how strongly each latent acts",
        "Above, the share of the output's variance that involves each latent, redrawn from the "
        "prior (a property of the decoder) or from another image's posterior (the model in use). "
        "Below, the image's change when a latent is shifted, dark to light in order of KL; bands "
        "are bootstrap intervals.",
        findings.say_latent,
        marks.of_latents,
    ),
    "factor_doses": Caption(
        "Dose response of factors",
        f"Factors read off the image as one of the {NUM_LATENTS} strongest latents is shifted; "
        "bands are bootstrap intervals. A disentangled latent moves one line and leaves the others "
        "flat.",
        factor_findings.say_doses,
        marks.of_doses,
    ),
    "factor_graph": Caption(
        "Graph of factors",
        "Mean effect, over usable seeds, of swapping the latent that represents one factor (row) "
        "on what is read off for each factor (column). The diagonal is a factor's effect on itself "
        "and no edge.",
        factor_findings.say_graph,
        marks.of_graph,
    ),
    "modularity": Caption(
        "Modularity of effects beside its null",
        "Left, how unrelated the changes are that different latents make in the decoder; right, in "
        "the latents of a second pass. M is high for any wide layer: what counts is its distance "
        "from the upright mark.",
        strength_findings.say_modularity,
    ),
    "read_write": Caption(
        "What units read and what they write",
        "Left of each pair, how far a unit moves when a factor (row) of the image changes; right, "
        "what it writes into that factor of the output when raised by one SD, red up, blue down. "
        "Columns of a pair are the same units in the same order: latents by KL, units by dominant "
        "factor. A unit that reads and writes the same row carries that factor.",
        factor_findings.say_read_write,
        marks.of_read_write,
    ),
    "unit_classes": Caption(
        "Unit classes by layer",
        "Verdicts on every unit from what it writes into the factors that can be read. Dead is "
        "shown: raised by one SD, the unit alone moves every factor by less than 0.1 SD; many such "
        "units may still act together. Where an effect is neither found nor ruled out, and "
        "where what is found is undetermined, the images did not suffice to decide.",
        factor_findings.say_classes,
    ),
    "unit_effects": Caption(
        "Activation patching: units by factors",
        "Proportion of each factor's effect that one unit (a column) mediates, layer by layer; red "
        "carries the effect, blue opposes it, white does nothing. Units are sorted by dominant "
        f"factor, then by strength; at most {MAX_UNITS} of the strongest are drawn. Each layer has "
        "its own scale, on the right: the same red is another number in another layer. A column "
        "dark in one row only serves one factor. Latent and unit numbers of different seeds do not "
        "correspond, so one seed is shown.",
        findings.say_units,
        marks.of_units,
    ),
    "mediation_by_layer": Caption(
        "Mediation by layer",
        "Left, the share of a factor's effect that the strongest single unit mediates; middle, "
        "over how many units the effect is spread (participation ratio); right, how far noising "
        "and denoising disagree, summed over units: the part of mediation that needs several "
        "units. Ticks are seeds, marks their mean. A maximum over many units is biased upwards.",
        findings.say_layers,
        marks.of_seeds,
    ),
    "mediation_by_factor": Caption(
        "Mediation by layer, one factor at a time",
        "Share of each factor's effect that the strongest unit of a layer mediates; marks as in "
        "the figure before. A maximum over many units is biased upwards, more so in wide layers "
        "and with few pairs.",
        findings.say_factors,
        marks.of_seeds,
    ),
}
"""By figure name, in the order of the page."""
