"""The report: one self-contained HTML page with its figures, put together and written."""

import base64
import io
import pathlib
from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from vaecausal_jax.manifests import written_whole
from vaecausal_jax.study.report import circuit_tables, claims, sections, trust
from vaecausal_jax.study.report.captions import CAPTIONS, Caption
from vaecausal_jax.study.report.drawing import DPI
from vaecausal_jax.study.report.figures import all_figures
from vaecausal_jax.study.report.labels import family_label, join
from vaecausal_jax.study.report.panels import Pictures, Summary, families, with_units_of_latents
from vaecausal_jax.study.report.template import PAGE, SNIPPET, STYLE, escape


def write_report(
    folder: str | pathlib.Path, summary: Summary, effects: xr.Dataset, pictures: Pictures
) -> pathlib.Path:
    """Writes ``figures/*.png`` and ``report.html`` into a study's folder.

    Args:
        folder: Where; made if absent.
        summary: The tables of ``summary.json``, as loaded.
        effects: The labelled arrays of ``effects.zarr``.
        pictures: ``originals`` (8, height, width, channels) in [0, 1], ``reconstructions`` (models,
            8, ...), ``traversals`` (models, latents, 7, ...) and ``histories`` (family to loss term
            to (seeds, records)) with ``record_every``, gradient steps from one record to the next;
            ``entropy_floor``, as from ``inputs.entropy_floor``; models as in
            ``summary["models"]``. A figure or sentence whose pictures are absent is left out.

    Returns:
        The path of the page.
    """
    folder, effects = pathlib.Path(folder), with_units_of_latents(effects.compute())
    images = {
        name: _png(figure) for name, figure in all_figures(summary, effects, pictures).items()
    }
    for name, data in images.items():
        _write(folder / "figures" / f"{name}.png", data)
    return _write(folder / "report.html", page(summary, effects, pictures, images).encode())


def page(
    summary: Summary, effects: xr.Dataset, pictures: Pictures, images: Mapping[str, bytes]
) -> str:
    """The whole page as HTML; ``images`` are PNG files by figure name."""
    title = f"Causal interventions on {join([family_label(f) for f in families(summary)])}"
    figures = [
        _figure(number, images[name], caption, summary, effects, pictures)
        for number, (name, caption) in enumerate(
            ((n, c) for n, c in CAPTIONS.items() if n in images), start=1
        )
    ]
    return PAGE.substitute(
        title=escape(title),
        style=STYLE,
        opening=trust.opening(summary),
        study=sections.what_was_run(summary, effects),
        excluded=sections.excluded(summary),
        headline=sections.headline(summary),
        differences=sections.differences(summary),
        codes=sections.codes(summary),
        circuits=circuit_tables.circuits(summary),
        figures="\n".join(figures),
        claims=claims.claims(summary),
        readout=trust.readout(summary),
        off_manifold=trust.off_manifold(summary, effects),
        units=sections.top_units(summary, effects),
        reading=sections.how_to_read(summary, effects),
        checks=sections.checks(summary),
        snippet=escape(SNIPPET),
    )


def _figure(
    number: int,
    image: bytes,
    caption: Caption,
    summary: Summary,
    effects: xr.Dataset,
    pictures: Pictures,
) -> str:
    findings = caption.findings(summary, effects, pictures)
    reading = " ".join([caption.reading, *caption.marks(summary, effects, pictures)])
    alt = f"{caption.title}. {' '.join(findings) or caption.reading}"
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings)
    found = f"<ul class='finding'>{items}</ul>" if items else ""
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return (
        f"<figure><h3>Figure {number}. {escape(caption.title)}</h3>"
        f"<div class='wide'><img src='{source}' alt='{escape(alt)}'></div>"
        f"<figcaption><p>{escape(reading)}</p>{found}</figcaption></figure>"
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """Writes to a neighbouring name and renames, so that a file that exists is whole."""
    with written_whole(path) as file:
        file.write(data)
    return path
