"""The fixed parts of the page: definitions, style sheet and frame."""

import html
import string
from collections.abc import Iterable, Sequence
from typing import Any

from vaecausal_jax.inference import MIN_SEEDS
from vaecausal_jax.training.trainer import ACTIVE_KL

DEFINITIONS = {
    "Active latent": f"One with a KL above {ACTIVE_KL} nats whose mean varies over images "
    "(variance above 0.01). A latent may pass the first and not the second.",
    "Minimal pair": "Two images, reference and target, that differ in one factor only. All runs of "
    "a pair share the same noise. The total effect of the factor is the difference of the two "
    "outputs.",
    "Proportion mediated (noising)": "The target run with one unit's value taken from the "
    "reference run: the loss it causes, projected on the total effect and divided by its squared "
    "size, as a ratio of sums over pairs. 1: the effect is lost without the unit; 0: the unit does "
    "not matter; below 0 or above 1: parts oppose each other. It is not clipped. Null value 0.",
    "Denoising": "The reference run with one unit's value taken from the target run: what the unit "
    "alone restores. Same projection, same null.",
    "Interaction": "Noising minus denoising. Positive: the unit acts together with others "
    "(synergy); negative: others can stand in for it (redundancy). 0 in a layer from which the "
    "rest of the network is linear.",
    "Effective number of units": "Participation ratio of the positive shares, (sum p)^2 / sum p^2: "
    "1 if one unit mediates everything, the width of the layer if all mediate alike.",
    "Total index": "Mean squared change of the output when one latent is redrawn, over twice the "
    "output's variance. With latents from the prior it is the Sobol total index: the indices add "
    "up to 1 in an additive decoder, and to more where latents interact. With posterior samples "
    "latents may be dependent, and it is a resample index. A latent redrawn as itself gives 0.",
    "Dose response": "Root mean square change of the image, in standard deviations of the model's "
    "images, when a latent is shifted by a multiple of its aggregate-posterior standard deviation.",
    "First-order index and interaction share": "The share of the output's variance that a latent "
    "explains alone, and the total index minus it: 0 where a latent's effect does not depend on "
    "the others.",
    "Read and write": "A unit reads a factor by how far it moves, in its SD, when that factor of "
    "the image is changed; it writes what read-outs of the output change, in SD of the factor, "
    "when it is raised by one SD.",
    "Unit classes": "Taken on the factors that can be read. Dead: every effect is shown to be "
    "below 0.1 SD of the read-out (equivalence test, FDR 5% over units), of the unit alone: many "
    "dead units may act together. No effect found: none is "
    "significant, and they are not shown to be small. Monosemantic: one significant effect, with "
    "more than half of the unit's energy by its whole interval. Polysemantic: two or more, each "
    "above a tenth by its whole interval. Undetermined: anything else.",
    "Factor graph": "An edge is a significant effect above 0.1 SD on the read-out of another "
    "factor when a factor's latent is swapped within a minimal pair. SHD counts pairs of factors "
    "whose edges differ from the true graph's.",
    "Modularity of effects": "M = 1 - mean |correlation| of the activation changes that two "
    "latents cause (arXiv:2505.03530). Unrelated changes do not give 1, so that only M minus its "
    "null says something.",
    "Paper effect strength": "The raw L2 distance of images when a latent is redrawn from another "
    "image's posterior sample, averaged (arXiv:2505.03530, formula known at second hand). Traps: "
    "it grows with the square root of the number of pixels, with contrast and with dose, a "
    "model that reconstructs badly tends to score low, and dead latents drag the mean down. "
    "Compare it only among models on the same images, beside the total index.",
}

INTERVALS = (
    "Intervals within one model come from a bootstrap over images or pairs and say nothing about "
    "other seeds. Intervals over seeds are Student's t, from one value a trained model: for new "
    "models on these images, which all models share. Where a value is a mean over images they are "
    "two-level, over seeds and images: for new models and new images. "
    f"Claims about families need at least {MIN_SEEDS} paired seeds."
)

SNIPPET = """import xarray as xr
effects = xr.open_zarr("effects.zarr", consolidated=False)
effects.proportion_mediated.sel(family=effects.family[0], seed=0, statistic="value")"""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1d1d1d;
  background: #fff; margin: 0 auto; max-width: 1120px; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; break-after: avoid; border-bottom: 1px solid #ddd;
  padding-bottom: .25rem; }
h3 { font-size: 1.05rem; margin: 0 0 .6rem; }
p, li, dd { max-width: 52rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
a { color: #0b5b8f; }
dl.facts { display: grid; grid-template-columns: 10rem 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0 0 .6rem; } dl.facts dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem;
  width: 100%; }
caption { text-align: left; color: #444; padding: .3rem 0; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; }
th[scope=row], th:first-child { text-align: left; }
small { color: #595959; font-weight: 400; }
table.small { font-size: .82rem; }
figure { margin: 2rem 0 2.6rem; }
figure img { width: 100%; min-width: 44rem; height: auto; display: block; }
figcaption p { margin: .5rem 0; }
.finding { background: #f3f7fa; border-left: 4px solid #0b5b8f; padding: .6rem .9rem .6rem 2rem;
  max-width: 52rem; margin: .6rem 0; } .finding li { max-width: none; }
.note { background: #fdf6e7; border-left: 4px solid #c98a00; padding: .6rem .9rem;
  max-width: 52rem; }
details { margin: .8rem 0; } summary { font-weight: 600; cursor: pointer; }
pre { background: #f5f5f5; padding: .8rem 1rem; overflow-x: auto; }
@media (max-width: 40rem) { dl.facts { grid-template-columns: 1fr; }
  dl.facts dd { margin-bottom: .5rem; } }
@media print { body { max-width: none; font-size: 10.5pt; padding: 0; } nav { display: none; }
  figure, tr { break-inside: avoid; } figure img { min-width: 0; } .wide { overflow: visible; }
  table { font-size: 8pt; } th, td { padding: .2rem .3rem; } }
"""

PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1>
<p>Trained models, intervened on at four levels: the input, the latents, the activations of every
layer (patching), and what they mediate. Written by vaecausal_jax from the study's numbers.</p>
$opening
<nav><a href="#models">Models</a><a href="#figures">Figures</a><a
href="#circuits">Circuits</a><a href="#claims">The paper's claims</a><a
href="#trust">Trust</a><a href="#units">Top units</a><a
href="#reading">How to read the numbers</a><a href="#checks">Checks</a><a
href="#data">Data</a></nav>
</header>
<main>
<section id="study"><h2>What was run</h2>$study</section>
<section id="excluded"><h2>Excluded models</h2>$excluded</section>
<section id="models"><h2>The models in numbers</h2>$headline
<h2>Differences from the first family</h2>$differences
$codes</section>
<section id="figures"><h2>Figures</h2>
$figures
</section>
<section id="circuits"><h2>Circuits and motifs</h2>$circuits</section>
<section id="claims"><h2>What this says about the paper's claims</h2>$claims</section>
<section id="trust"><h2>How well factors are read off images</h2>$readout
<h2>Interventions off the data's support</h2>$off_manifold</section>
<section id="units"><h2>Top units by layer and factor</h2>$units</section>
<section id="reading"><h2>How to read the numbers</h2>$reading</section>
<section id="checks"><h2>Identity checks</h2>
<p>What holds exactly in any such network, measured on these models with the same code.</p>
$checks</section>
<section id="data"><h2>Raw data</h2>
<p>Beside this page: <code>summary.json</code> (every table, each number with its interval, sample
sizes, null and method), <code>effects.zarr</code> (all effects of all models, units and seeds) and
<code>figures/</code> (the figures as PNG).</p>
<pre><code>$snippet</code></pre></section>
</main>
</body>
</html>
""")


def escape(words: Any) -> str:
    """Any value as text in HTML, safe in attributes too."""
    return html.escape(str(words), quote=True)


def note(words: str) -> str:
    """A sentence of caution."""
    return f"<p class='note'>{escape(words)}</p>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of words and numbers; the first cell of a row names it."""
    heads = "".join(f"<th scope='col'>{escape(words)}</th>" for words in head)
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f"<div class='wide'><table class='small'><caption>{escape(caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
