"""All figures of a study: pure functions of (summary, effects, pictures), each a Matplotlib Figure.

No global plotting state is touched.
"""

from collections.abc import Callable

import matplotlib
import xarray as xr
from matplotlib.figure import Figure

from vaecausal_jax.study.report.drawing import STYLE
from vaecausal_jax.study.report.factors import factor_doses, factor_graph, read_write, unit_classes
from vaecausal_jax.study.report.latents import input_level, latent_level, traversals
from vaecausal_jax.study.report.models import comparison, training
from vaecausal_jax.study.report.panels import Pictures, Summary, panels
from vaecausal_jax.study.report.strengths import (
    effect_strengths,
    effects_and_scores,
    modularity,
    rank_agreement,
    scores,
)
from vaecausal_jax.study.report.units import mediation_by_factor, mediation_by_layer, unit_effects

FigureFn = Callable[[Summary, xr.Dataset, Pictures], Figure | None]

FIGURES: dict[str, FigureFn] = {
    "traversals": traversals,
    "training": training,
    "comparison": comparison,
    "effect_strengths": effect_strengths,
    "scores": scores,
    "rank_agreement": rank_agreement,
    "effects_and_scores": effects_and_scores,
    "input_level": input_level,
    "latent_level": latent_level,
    "factor_doses": factor_doses,
    "factor_graph": factor_graph,
    "modularity": modularity,
    "read_write": read_write,
    "unit_classes": unit_classes,
    "unit_effects": unit_effects,
    "mediation_by_layer": mediation_by_layer,
    "mediation_by_factor": mediation_by_factor,
}
"""In the order of the report; a function returns None where its data is absent."""


def all_figures(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> dict[str, Figure]:
    """Every figure that the data allows; none if no model is usable."""
    if not panels(summary, effects):
        return {}
    with matplotlib.rc_context(STYLE):
        drawn = {name: make(summary, effects, pictures) for name, make in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}
