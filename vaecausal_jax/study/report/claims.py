"""What the numbers say about the paper's claims, as HTML; every verdict follows from the data."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from vaecausal_jax.inference import MIN_SEEDS, Estimate, seeds_to_settle
from vaecausal_jax.study.report.evidence import against_null
from vaecausal_jax.study.report.labels import (
    EFFECTS,
    family_label,
    fixed,
    hundredths,
    interval_of,
    join,
    percent,
)
from vaecausal_jax.study.report.panels import Summary, as_estimate
from vaecausal_jax.study.report.template import escape

CONTROLS = 3
ALPHA = 0.05


def claims(summary: Summary) -> str:
    """A paragraph for each of claims 1, 2, 5 and 7."""
    told = {
        "Claim 1: effect strength and DCI disentanglement are negatively related": _relation,
        "Claim 2: FactorVAE has stronger effects than VAE, and VAE than beta-VAE": _order,
        "Claim 5: FactorVAE grows encoder channels that mediate over 0.7 of one factor": _channels,
        "Claim 7: units are specific, once those without an effect are left out": _specificity,
    }
    parts = []
    for title, tell in told.items():
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in tell(summary["claims"]))
        parts.append(f"<h3>{escape(title)}</h3><ul>{items}</ul>")
    return (
        "<p>Claims of arXiv:2505.03530, numbered by the order in which an independent study can "
        "test them. Numbers of seeds are for a power of 0.8 at level 0.05, were the true "
        "difference the one seen here, which a small study overstates.</p>" + "".join(parts)
    )


def _relation(claims: Mapping[str, Any]) -> list[str]:
    if not claims["correlation"]:
        return [
            f"Not judged: fewer than {CONTROLS + 4} usable models have every number, too few to "
            "hold squared error, KL and active latents fixed."
        ]
    sentences = []
    for name, heading in EFFECTS.items():
        raw, partial = (as_estimate(r) for r in claims["correlation"][name])
        plain, held = (interval_of(r, show=hundredths) for r in (raw, partial))
        sentences.append(
            f"By the {heading}, over {raw.num_seeds} models: r = {plain}, {_sign(raw)}; with "
            f"squared error, KL and active latents held fixed r = {held}, {_sign(partial)}."
            f"{_models_needed(partial, len(claims['dead']))}"
        )
    sentences.append(
        "Models of one family resemble each other, so the intervals, which take models as "
        "independent, are too narrow."
    )
    return sentences


def _sign(r: Estimate) -> str:
    if not np.isfinite([r.low, r.high]).all():
        return "which has no interval and settles nothing"
    if r.high < 0:
        return "negative, as claimed"
    if r.low > 0:
        return "positive, against the claim"
    return "which leaves the sign open"


def _models_needed(r: Estimate, num_families: int) -> str:
    """Fisher's z: n - k - 3 = ((1.96 + 0.84) / atanh r)^2; nothing where the sign is settled."""
    size = abs(float(r.value))
    if not 0.0 < size < 1.0 or r.low > 0 or r.high < 0:
        return ""
    num = math.ceil((2.8 / math.atanh(size)) ** 2) + CONTROLS + 3
    each = math.ceil(num / max(num_families, 1))
    return (
        f" A partial correlation of this size takes about {num:,} models to tell from 0, {each:,} "
        "seeds of each family here."
    )


def _order(claims: Mapping[str, Any]) -> list[str]:
    sentences = []
    for name, heading in EFFECTS.items():
        for compared in claims["order"][name]:
            difference = as_estimate(compared["difference"])
            first, second = (family_label(compared[k]) for k in ("first", "second"))
            if not np.isfinite(difference.value):
                sentences.append(f"By the {heading}, {first} and {second} share no usable seed.")
                continue
            shown = difference.num_seeds >= MIN_SEEDS and compared["p_value"] <= ALPHA
            order = "in the claimed order" if difference.value > 0 else "against the claimed order"
            way = f", {order}" if shown else ""
            needed = compared["seeds_needed"]
            few = needed is not None and needed > difference.num_seeds
            settle = f" About {needed:,} paired seeds would settle it." if few else ""
            sentences.append(
                f"By the {heading}, {first} minus {second} is {interval_of(difference)}{way}. "
                f"{compared['verdict']}{settle}"
            )
    return sentences or [
        "Not judged: it takes two of FactorVAE, VAE and beta-VAE, and fewer were trained."
    ]


def _channels(claims: Mapping[str, Any]) -> list[str]:
    counts = {f: np.reshape(c, (-1, 3)).astype(float) for f, c in claims["channels"].items()}
    counts = {family: c for family, c in counts.items() if len(c) and c.sum()}
    if not counts:
        return ["Not judged: no usable model has encoder channels."]
    said = [
        f"{c[:, 1].sum():.0f} and {c[:, 2].sum():.0f} of {c.sum():.0f} in {family_label(family)}"
        for family, c in counts.items()
    ]
    sentences = [
        "Encoder channels that mediate more than 0.7, with their whole interval, of exactly one "
        f"factor and of several, over all usable seeds: {join(said)}."
    ]
    factor = [family for family in counts if family.startswith("factor_vae")]
    for family in factor[:1]:
        for other in counts:
            if other != family:
                sentences.append(_compared_channels(family, other, counts))
    if not factor:
        sentences.append("No FactorVAE is usable here, so that nothing is compared.")
    return sentences


def _compared_channels(family: str, other: str, counts: Mapping[str, np.ndarray]) -> str:
    own, rest = counts[family][:, 1], counts[other][:, 1]
    gap = own.mean() - rest.mean()
    change = fixed(gap, 1, sign=True)
    words = f"{family_label(family)} minus {family_label(other)}: {change} detectors per model"
    if min(len(own), len(rest)) < 2:
        return f"{words}; one seed per family shows no spread to judge it by."
    sd = math.sqrt((own.var(ddof=1) + rest.var(ddof=1)) / 2)
    return f"{words}, {_seeds(gap, sd, num_seeds=min(len(own), len(rest)), paired=False)}."


def _specificity(claims: Mapping[str, Any]) -> list[str]:
    rows = {family: as_estimate(e) for family, e in claims["specificity"].items()}
    rows = {family: e for family, e in rows.items() if np.isfinite(e.value)}
    if not rows:
        return ["Not judged: no usable model has a unit with an effect on a factor."]
    sentences = []
    for family, excess in rows.items():
        dead = claims["dead"].get(family)
        gone = (
            f", {interval_of(as_estimate(dead), show=percent)} of units are shown to be dead"
            if dead
            else ""
        )
        paper = claims["paper_specificity"].get(family)
        beside = f"; the paper's unbounded S is {interval_of(as_estimate(paper))}" if paper else ""
        sentences.append(
            "Specificity, of at most 1, is "
            f"{against_null({family: excess}, 'that of noise', show=hundredths)}{gone}{beside}. "
            f"{_settled(excess)}"
        )
    return sentences


def _settled(excess: Estimate) -> str:
    if not np.isfinite([excess.low, excess.high]).all():
        return "One seed shows no spread to judge it by."
    n = excess.num_seeds
    if excess.low > 0 or excess.high < 0:
        return f"That is over {n} seeds."
    half = float(excess.high - excess.low) / 2
    sd = half * math.sqrt(n) / special.stdtrit(n - 1, 0.5 + excess.level / 2)
    return f"That is over {n} seeds, {_seeds(float(excess.value), sd, num_seeds=n, paired=True)}."


def _seeds(difference: float, sd: float, *, num_seeds: int, paired: bool) -> str:
    if not (sd > 0 and difference != 0 and math.isfinite(difference)):
        return "and without a spread or a difference no number of seeds can be named"
    group = "" if paired else " a family"
    needed = seeds_to_settle(difference, sd, paired=paired)
    if needed <= num_seeds:
        return f"which takes about {needed:,} seeds{group}, as many as there are"
    return f"which about {needed:,} seeds{group} would settle"
