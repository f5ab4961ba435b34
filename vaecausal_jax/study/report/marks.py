"""What a caption says of marks that some studies' figures have and others' have not."""

import numpy as np
import xarray as xr

from vaecausal_jax.study.report.factors import MIN_SUPPORT, leaves_support
from vaecausal_jax.study.report.panels import (
    Pictures,
    Summary,
    factor_graph_of,
    families,
    layers,
    panels,
    ranked_alike,
    shares,
    usable_seeds,
)
from vaecausal_jax.training.trainer import ACTIVE_KL


def _several_seeds(summary: Summary) -> bool:
    return any(len(usable_seeds(summary, family)) > 1 for family in families(summary))


def of_nothing(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """A figure whose marks are always there."""
    del summary, effects, pictures
    return []


def of_traversals(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Grey labels."""
    del pictures
    grey = any((panel.kl <= ACTIVE_KL).any() for panel in panels(summary, effects))
    return [f"Grey labels: latents of at most {ACTIVE_KL} nats."] if grey else []


def of_training(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Dashed lines, and what the end of a curve shows under the schedule."""
    del effects
    histories = pictures.get("histories") or {}
    said = []
    if any(m["verdict"] != "ok" and m["family"] in histories for m in summary["models"]):
        said.append("Dashed lines are excluded models.")
    config = summary["config"]
    if config["decay_learning_rate"] or config.get("models") == "zoo":
        said.append(
            "The learning rate decays to a tenth, which flattens every curve at its end: a flat "
            "end shows no convergence."
        )
    else:
        said.append(
            "Curves that still fall at the right end mean undertrained models, and effects that "
            "would move on."
        )
    return said


def of_seeds(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Intervals over seeds."""
    del effects, pictures
    if not _several_seeds(summary):
        return ["With one seed there is no interval."]
    return ["Bars are the interval over seeds, cut where they leave the axis."]


def of_latents(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Other seeds."""
    del effects, pictures
    return ["Grey dots are the other seeds, rank by rank of KL."] if _several_seeds(summary) else []


def of_doses(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Extrapolation, and factors that cannot be read."""
    del pictures
    shown = panels(summary, effects)
    said = []
    if leaves_support(shown):
        said.append(
            f"Grey ground and dashed lines: doses that fewer than {MIN_SUPPORT:.0%} of posterior "
            "samples reach, extrapolation by the decoder."
        )
    if not all(panel.readable.all() for panel in shown):
        said.append("Dotted lines without bands: factors that cannot be read off the family.")
    return said


def of_graph(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Frames of edges, hatched rows."""
    del pictures
    graphs = [factor_graph_of(summary, panel.family) for panel in panels(summary, effects)]
    said = []
    if any((graph.edges > 0.5).any() for graph in graphs) or np.any(summary["true_graph"]):
        said.append(
            "Framed: an edge in more than half of the seeds, or of the true graph, direct or "
            "through others."
        )
    if any((graph.readable & (graph.control <= 0.5)).any() for graph in graphs):
        said.append(
            "Hatched: in half of the seeds or more the swap is not shown to move its own factor, "
            "so the row shows nothing."
        )
    return said + _cross_hatched(all(graph.readable.all() for graph in graphs), "rows and columns")


def of_read_write(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Hatched rows of what is written."""
    del pictures
    everything = all(panel.readable.all() for panel in panels(summary, effects))
    return _cross_hatched(everything, "rows of what is written")


def _cross_hatched(everything: bool, what: str) -> list[str]:
    return [] if everything else [f"Cross-hatched {what}: factors that cannot be read."]


def of_units(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Undefined shares."""
    del pictures
    undefined = any(
        not np.isfinite(shares(panel.effects, site).values).all()
        for panel in panels(summary, effects)
        for site in layers(effects)
    )
    return ["Grey is undefined."] if undefined else []


def of_agreement(summary: Summary, effects: xr.Dataset, pictures: Pictures) -> list[str]:
    """Frames."""
    del effects, pictures
    if not np.any(ranked_alike(summary["claims"]["agreement"])):
        return []
    return ["Framed: its whole interval is on one side of 0, over five models or more."]
