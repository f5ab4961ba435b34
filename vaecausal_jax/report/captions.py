"""What stands beside each figure: heading, how to read it, and which sentences to compute."""

from collections.abc import Callable
from typing import NamedTuple

import xarray as xr

from vaecausal_jax.report import findings
from vaecausal_jax.report.panels import MAX_UNITS, Pictures, Summary
from vaecausal_jax.training import ACTIVE_KL

SentenceFn = Callable[[Summary, xr.Dataset, Pictures], list[str]]


class Caption(NamedTuple):
    """What stands beside a figure.

    Attributes:
        title: Heading.
        reading: What it shows and how to read it.
        findings: Sentences computed from the data.
    """

    title: str
    reading: str
    findings: SentenceFn


CAPTIONS: dict[str, Caption] = {
    "traversals": Caption(
        "Reconstructions and latent traversals",
        "Above, images and what each model makes of them. Below, the first image's code with one "
        "latent set to values from -2 to 2, latents sorted by KL; a row that does not change is a "
        "latent the decoder ignores. Grey labels: latents of at most "
        f"{ACTIVE_KL} nats.",
        findings.say_traversals,
    ),
    "training": Caption(
        "Training curves",
        "One line a seed, one colour a family; dashed lines are excluded models. Curves that still "
        "fall at the right end mean undertrained models, and effects that would move on.",
        findings.say_training,
    ),
    "comparison": Caption(
        "Comparison of families",
        "Hollow circles are trained models, diamonds their mean, bars the interval over seeds, n "
        "the number of usable seeds. Effect strengths of models that reconstruct differently well "
        "are to be compared with care.",
        findings.say_comparison,
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
        "prior (a property of the decoder) or from another image's posterior (the model in use); "
        "grey dots are the other seeds, rank by rank of KL. Below, the image's change when a "
        "latent is shifted, dark to light in order of KL; bands are bootstrap intervals.",
        findings.say_latent,
    ),
    "unit_effects": Caption(
        "Activation patching: units by factors",
        "Proportion of each factor's effect that one unit (a column) mediates, layer by layer; red "
        "carries the effect, blue opposes it, white does nothing, grey is "
        "undefined. Units are sorted by dominant "
        f"factor, then by strength; at most {MAX_UNITS} of the strongest are drawn. Each layer has "
        "its own scale. A column dark in one row only serves one factor. Latent and unit numbers "
        "of different seeds do not correspond, so one seed is shown.",
        findings.say_units,
    ),
    "mediation_by_layer": Caption(
        "Mediation by layer",
        "Left, the share of a factor's effect that the strongest single unit mediates; middle, "
        "over how many units the effect is spread (participation ratio); right, how far noising "
        "and denoising disagree, summed over units: the part of mediation that needs several "
        "units. Ticks are seeds, marks their mean, bars the Student t interval over seeds; "
        "intervals that leave the axis are cut.",
        findings.say_layers,
    ),
    "mediation_by_factor": Caption(
        "Mediation by layer, one factor at a time",
        "Share of each factor's effect that the strongest unit of a layer mediates; marks as in "
        "the figure before. A maximum over many units is biased upwards, more so in wide layers "
        "and with few pairs.",
        findings.say_factors,
    ),
}
"""By figure name, in the order of the page."""
