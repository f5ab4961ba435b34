import html.parser
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from vaecausal_jax import inference
from vaecausal_jax.report import figures, page, panels, write_report
from vaecausal_jax.report.labels import COMPARED, family_label

TERMS = ("reconstruction", "kl", "active_latents", "squared_error")
SITES = {"encoder/conv0": 6, "latent/z": None, "decoder/dense0": 50, "decoder/logits": 1}
ALL = ("vae", "beta_vae_4", "factor_vae_10", "beta_tc_vae_6", "dip_vae_i_5", "dip_vae_ii_5")


class Page(html.parser.HTMLParser):
    """Collects references, table values, alternative texts and visible words; checks nesting."""

    def __init__(self, text):
        super().__init__()
        self.references, self.values, self.alts, self.words, self.open = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.references += [named[key] for key in ("src", "href", "srcset") if key in named]
        if tag == "data":
            self.values.append(float(named["value"]))
        if tag == "img":
            self.alts.append(named["alt"])
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def plain(value):
    """As ``store.write_json`` writes it: NaN is null."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_study(
    titles=ALL[:3],
    seeds=2,
    factors=("shape", "x"),
    latents=8,
    excluded=(),
    data="sprites",
    nan=False,
):
    """A random study of the right form; ``excluded`` are (family, seed)."""
    rng = np.random.default_rng(0)
    names = [*TERMS, *(n for n in COMPARED if n not in TERMS)]
    labels = [(family, seed) for family in titles for seed in range(seeds)]
    models = [
        {
            "family": family,
            "seed": seed,
            "verdict": "diverged: loss <nan> & more" if (family, seed) in excluded else "ok",
            **{name: float(rng.uniform(1, 9)) for name in names},
        }
        for family, seed in labels
    ]
    dataset = make_effects(rng, titles, seeds, factors, latents, models, nan)
    keys = [f"{q}/{s}" for q in ("largest_share", "effective_units", "interaction") for s in SITES]

    def over(values):
        return inference.over_seeds(np.asarray(values), num_inputs=8, intervention="none")

    means, differences = {}, {}
    for family in titles:
        own = [m for m in models if m["family"] == family and m["verdict"] == "ok"]
        rest = {key: over(rng.uniform(1, 3, len(own))) for key in keys} if own else {}
        means[family] = {n: over([m[n] for m in own]) for n in names if own} | rest
        if family != titles[0] and own and means[titles[0]]:
            differences[family] = {n: over(rng.normal(size=len(own))) for n in names}
    config = {
        "name": "test",
        "data": data,
        "families": [dict(zip(("name", "strength"), split(t), strict=True)) for t in titles],
        "num_seeds": seeds,
        "seed": 0,
        "num_steps": 100,
        "record_every": 10,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "decay_learning_rate": True,
        "num_images": 8,
        "num_pairs": 4,
        "mediation_outcome": "logits",
    }
    summary = {
        "config": config,
        "versions": {"vaecausal_jax": "0.1.0"},
        "device": {"platform": "cpu", "kind": "cpu", "count": 2},
        "matmul_precision": "highest",
        "factors": dict.fromkeys(factors, 3),
        "models": models,
        "excluded": [m for m in models if m["verdict"] != "ok"],
        "families": means,
        "differences": differences,
        "checks": {"largest_deviation_of_a_whole_site_from_share_1": 1e-6, "a_bad_one": 0.5},
        "top_units": make_top_units(labels, factors),
    }
    return json.loads(json.dumps(plain(summary), allow_nan=False)), dataset, models


def split(title):
    """Family and strength of a title."""
    match = re.fullmatch(r"(.*)_(\d+)", title)
    return (match[1], float(match[2])) if match else (title, 1.0)


def make_effects(rng, titles, seeds, factors, latents, models, nan):
    units = [(site, i) for site, n in SITES.items() for i in range(n or latents)]
    sizes = {"unit": len(units), "factor": len(factors), "latent": latents, "dose": 4}
    lead = (len(titles), seeds)

    def three(*dims):
        value = np.abs(rng.normal(size=(*lead, *(sizes[d] for d in dims)))) * 0.3
        if nan:
            value[0, 0, ..., 0] = np.nan
        ends = np.stack([value, value - 0.1, value + 0.2], axis=-1).astype(np.float32)
        attrs = {"level": 0.95, "null": 0.0, "method": "bootstrap", "num_inputs": 4}
        return ("family", "seed", *dims, "statistic"), ends, attrs

    shared = ("proportion_mediated", "denoising", "interaction", "off_axis")
    per_latent = ("total_index_prior", "total_index_posterior", "paper_effect_strength")
    kl = rng.uniform(0, 2, (*lead, latents))
    kl[..., -1] = 0.001
    return xr.Dataset(
        {
            **{name: three("unit", "factor") for name in shared},
            **{name: three("latent") for name in per_latent},
            "dose_response": three("dose", "latent"),
            "factor_to_latent": three("factor", "latent"),
            "kl_per_latent": (("family", "seed", "latent"), kl),
        },
        coords={
            "family": list(titles),
            "seed": np.arange(seeds),
            "site": ("unit", [site for site, _ in units]),
            "index": ("unit", [index for _, index in units]),
            "factor": list(factors),
            "dose": [-2.0, -1.0, 1.0, 2.0],
            "statistic": ["value", "low", "high"],
            "verdict": (("family", "seed"), np.reshape([m["verdict"] for m in models], lead)),
        },
    )


def make_top_units(labels, factors):
    return [
        {
            "family": family,
            "seed": seed,
            "site": site,
            "factor": factor,
            "unit": unit,
            "proportion_mediated": 0.5 / (unit + 1),
            "low": None if unit else 0.1,
            "high": 0.9,
            "denoising": 0.4,
        }
        for site in SITES
        for family, seed in labels
        for factor in factors
        for unit in range(2)
    ]


def make_pictures(titles, seeds, latents, *, histories=True, channels=1):
    rng = np.random.default_rng(1)
    num, shape = len(titles) * seeds, (16, 16, channels)
    terms = ("loss", "reconstruction", "kl")
    return {
        "originals": rng.uniform(size=(8, *shape)),
        "reconstructions": rng.uniform(size=(num, 8, *shape)),
        "traversals": rng.uniform(size=(num, latents, 7, *shape)),
        "histories": {t: {term: rng.uniform(1, 9, (seeds, 10)) for term in terms} for t in titles}
        if histories
        else {},
    }


@pytest.fixture
def coarse(monkeypatch):
    """Coarse pictures, for time's sake."""
    monkeypatch.setattr(page, "DPI", 50)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of three families with an excluded model, written once."""
    summary, effects, _ = make_study(excluded=[("beta_vae_4", 1)])
    folder = tmp_path_factory.mktemp("trained")
    path = write_report(folder, summary, effects, make_pictures(ALL[:3], 2, 8))
    return folder, path, summary


def check_files(folder, path, expected):
    assert path == folder / "report.html"
    found = {file.name for file in (folder / "figures").iterdir()}
    assert found == {f"{name}.png" for name in expected}
    for file in (folder / "figures").iterdir():
        data = file.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(data) > 5000
    assert not list(folder.rglob("*.partial"))


def test_report_writes_every_figure_and_nothing_half_done(trained):
    folder, path, _ = trained
    check_files(folder, path, figures.FIGURES)


def test_page_needs_nothing_from_outside(trained):
    _, path, _ = trained
    text = path.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert len(parsed.alts) == len(figures.FIGURES)
    assert all(len(alt) > 40 for alt in parsed.alts)
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in parsed.references)
    assert "url(" not in text
    assert "@import" not in text


def test_page_names_families_factors_and_excluded_models(trained):
    _, path, _ = trained
    text = Page(path.read_text()).text
    for words in ("VAE", "beta-VAE (4)", "FactorVAE (10)", "shape (3)", "x (3)"):
        assert words in text
    assert "beta-VAE (4), seed 1: diverged: loss <nan> & more" in text
    assert "1 of 6 models are left out" in text


def test_table_holds_the_numbers_of_the_summary(trained):
    _, path, summary = trained
    expected = [
        row[name]["value"]
        for table in (summary["families"], summary["differences"])
        for row in table.values()
        for name in COMPARED
    ]
    np.testing.assert_array_equal(Page(path.read_text()).values, expected)


def test_page_repeats_the_caution_of_the_estimates(trained):
    _, path, summary = trained
    text = Page(path.read_text()).text
    difference = panels.as_estimate(summary["differences"]["factor_vae_10"]["kl"])
    assert difference.caution in text
    assert panels.as_estimate(summary["families"]["beta_vae_4"]["kl"]).caution in text


def test_page_flags_only_the_check_that_fails(trained):
    _, path, _ = trained
    text = Page(path.read_text()).text
    assert "A bad one: 0.5 (larger than rounding" in text
    assert text.count("larger than rounding") == 1


def test_sentences_are_computed_from_the_effects(trained):
    _, path, summary = trained
    _, effects, _ = make_study(excluded=[("beta_vae_4", 1)])
    kl = effects.kl_per_latent.sel(family="vae", seed=0).values
    said = f"z{kl.argmax()} carries most, {kl.max():.2f} of {kl.sum():.2f} nats."
    text = Page(path.read_text()).text
    assert said in text
    hidden = effects.proportion_mediated.sel(family="factor_vae_10", seed=0, statistic="value")
    hidden = hidden.isel(
        unit=np.flatnonzero(~np.isin(effects.site, ["latent/z", "decoder/logits"]))
    )
    unit, factor = np.unravel_index(hidden.values.argmax(), hidden.shape)
    where = f"unit {hidden['index'].values[unit]} of {hidden.site.values[unit]}"
    share = f"it mediates {hidden.values.max():.0%}"
    assert f"{where}: {share}" in text


@pytest.mark.usefixtures("coarse")
def test_report_of_pretrained_models_has_no_training_curves(tmp_path):
    titles = ("vae", "beta_vae", "factor_vae", "beta_tc_vae")
    summary, effects, _ = make_study(titles, seeds=1, data="pretrained", nan=True)
    pictures = make_pictures(titles, 1, 8, histories=False, channels=3)
    path = write_report(tmp_path, summary, effects, pictures)
    check_files(tmp_path, path, set(figures.FIGURES) - {"training"})
    text = Page(path.read_text()).text
    assert "Weights trained by others" in text
    assert "One trained model" in text
    assert "No difference has an interval" in text


@pytest.mark.usefixtures("coarse")
def test_report_of_six_families_many_seeds_and_latents(tmp_path):
    factors = ("floor", "wall", "object", "scale", "shape", "orientation")
    excluded = [("dip_vae_i_5", seed) for seed in range(8)]
    summary, effects, _ = make_study(ALL, 8, factors, 16, excluded, nan=True)
    path = write_report(tmp_path, summary, effects, {"histories": {}})
    check_files(tmp_path, path, set(figures.FIGURES) - {"training", "traversals"})
    text = Page(path.read_text()).text
    for family in ALL:
        assert family_label(family) in text
    assert "no usable seed" in text
    assert "sign-flip" not in text


def test_report_without_any_usable_model_still_says_why(tmp_path):
    summary, effects, _ = make_study(("vae",), 1, excluded=[("vae", 0)])
    path = write_report(tmp_path, summary, effects, make_pictures(("vae",), 1, 8))
    text = Page(path.read_text()).text
    assert "VAE, seed 0: diverged" in text
    assert "nothing to compare" in text
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("title", "label"),
    [
        ("vae", "VAE"),
        ("beta_vae_4", "beta-VAE (4)"),
        ("beta_vae_0.5", "beta-VAE (0.5)"),
        ("beta_tc_vae", "beta-TC-VAE"),
        ("dip_vae_i_10", "DIP-VAE-I (10)"),
        ("dip_vae_ii_10", "DIP-VAE-II (10)"),
        ("my_own", "my own"),
    ],
)
def test_families_get_readable_names(title, label):
    assert family_label(title) == label


def test_units_are_sorted_by_dominant_factor_then_strength():
    table = np.array([[0.1, 0.9, 0.0, -0.5], [0.3, 0.2, 0.8, np.nan]])
    assert panels.sort_units(table).tolist() == [1, 3, 2, 0]


def test_importing_the_library_does_not_import_the_report():
    code = (
        "import sys, vaecausal_jax; bad = {'matplotlib', 'xarray', 'vaecausal_jax.report'};"
        "sys.exit(1 if bad & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
