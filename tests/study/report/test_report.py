import html.parser
import json
import math
import re
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from vaecausal_jax import inference
from vaecausal_jax.study.claims import RANKED, judge_claims
from vaecausal_jax.study.config import DATA as STUDIED
from vaecausal_jax.study.factors import CLASSES
from vaecausal_jax.study.inputs import entropy_floor
from vaecausal_jax.study.report import (
    claims,
    evidence,
    factor_findings,
    figures,
    findings,
    page,
    panels,
    strength_findings,
    trust,
    write_report,
)
from vaecausal_jax.study.report.captions import CAPTIONS
from vaecausal_jax.study.report.labels import (
    COMPARED,
    DATA,
    SCORES,
    STRENGTHS,
    family_label,
    fixed,
    hundredths,
    number,
    percent,
)

SUMS = (
    "interaction_share_prior_sum",
    "nats_sum",
    "reencode_gap",
    "modularity_decoder",
    "modularity_excess_decoder",
    "modularity_reencoded",
    "modularity_excess_reencoded",
)
TERMS = ("reconstruction", "kl", "active_latents", "squared_error")
SITES = {"encoder/conv0": 6, "latent/z": None, "decoder/dense0": 50, "decoder/logits": 1}
FEW = {"effects_and_scores"}  # left out where models are too few to hold controls fixed
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
    names = list(dict.fromkeys([*TERMS, *COMPARED, *SUMS, *SCORES, *RANKED]))
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
    quantities = ("largest_share", "effective_units", "interaction", "off_support")
    keys = [f"{q}/{s}" for q in quantities for s in SITES]
    keys += [f"{name}/chance" for name in SCORES]

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
        **make_factor_tables(rng, models, factors, nan),
    }
    return json.loads(json.dumps(plain(summary), allow_nan=False)), dataset, models


def split(title):
    """Family and strength of a title."""
    match = re.fullmatch(r"(.*)_(\d+)", title)
    return (match[1], float(match[2])) if match else (title, 1.0)


def estimate(value, **options):
    """With an interval around it and the attributes of one over images."""
    value = np.asarray(value, float)
    rest = {"null": 0.0, "num_inputs": 8, "num_seeds": 1, "level": 0.95, **options}
    return inference.Estimate(
        value, value - 0.1, value + 0.2, method="bootstrap", intervention="none", **rest
    )


def make_factor_tables(rng, models, factors, nan):
    """What a study says about factors and claims; the claims are judged by the study's own code."""
    num = len(factors)
    usable = list(dict.fromkeys(m["family"] for m in models if m["verdict"] == "ok"))
    quality = {name: 0.5 + 0.4 * (i > 0) for i, name in enumerate(factors)}

    def share():
        sizes = rng.dirichlet(np.ones(len(CLASSES)))
        return {c: estimate(np.nan if nan else v) for c, v in zip(CLASSES, sizes, strict=True)}

    def effects():
        excess, paper = rng.normal(0.1, 0.2, 20), rng.uniform(0.5, 9, 20)
        label = rng.choice(CLASSES, 20)
        return types.SimpleNamespace(
            classes=types.SimpleNamespace(label=label),
            specificity=types.SimpleNamespace(corrected=excess, active=np.full(20, not nan)),
            paper=np.full(20, np.nan) if nan else paper,
        )

    def module(i):
        value = {"value": estimate(rng.uniform(0.5, 0.9), null=0.8), "noise": 0.8}
        return None if nan and i == 0 else value

    values = {name: np.array([m[name] for m in models]) for name in models[0] if name in RANKED}
    values |= {name: np.array([float(m[name]) for m in models]) for name in TERMS}
    shares = {"encoder/conv0": estimate(rng.uniform(0, 1, (len(models), 6, num)))}
    labels = [(m["family"], m["seed"]) for m in models]
    verdicts = [m["verdict"] for m in models]
    return {
        "readout": {
            "rendered": dict.fromkeys(factors, 0.99),
            "reconstructed": [quality | ({factors[0]: np.nan} if nan else {}) for _ in models],
            "confusion": estimate(np.eye(num)),
        },
        "unit_classes": {family: {site: share() for site in SITES} for family in usable},
        "true_graph": np.zeros((num, num), bool),
        "factor_graphs": [
            {
                "family": m["family"],
                "seed": m["seed"],
                "effect": estimate(np.where(nan, np.nan, np.eye(num) + rng.normal(0, 0.2, num))),
                "adjacency": (rng.uniform(size=(num, num)) > 0.5) & ~np.eye(num, dtype=bool),
                "verdict": np.where(rng.uniform(size=(num, num)) > 0.5, "edge", "undecided"),
                "control": np.arange(num) < 2,
                "score": None,
                "leakage": dict.fromkeys(SITES, 0.3),
            }
            for m in models
        ],
        "modularity": {
            where: [module(i) for i in range(len(models))] for where in ("decoder", "reencoded")
        },
        "claims": judge_claims(labels, verdicts, values, shares, [effects() for _ in models]),
    }


def make_effects(rng, titles, seeds, factors, latents, models, nan):
    units = [(site, i) for site, n in SITES.items() for i in range(n or latents)]
    sizes = {"unit": len(units), "factor": len(factors), "latent": latents, "dose": 4}
    sizes |= {"read_factor": len(factors), "size": 2}
    lead = (len(titles), seeds)

    def three(*dims):
        value = np.abs(rng.normal(size=(*lead, *(sizes[d] for d in dims)))) * 0.3
        if nan:
            value[0, 0, ..., 0] = np.nan
        ends = np.stack([value, value - 0.1, value + 0.2], axis=-1).astype(np.float32)
        attrs = {"level": 0.95, "null": 0.0, "method": "bootstrap", "num_inputs": 4}
        return ("family", "seed", *dims, "statistic"), ends, attrs

    shared = ("proportion_mediated", "denoising", "interaction", "off_axis", "read", "write")
    per_latent = (
        "total_index_prior",
        "first_order_prior",
        "interaction_share_prior",
        "total_index_posterior",
        "nats",
        "efficiency",
        "paper_effect_strength",
        "reencode_gap",
        "natural_gap",
    )
    support = np.broadcast_to([0.001, 0.4, 0.3, 0.002], (*lead, latents, 4))
    agreement = rng.uniform(size=(*lead, len(units)))
    label = rng.choice(CLASSES, (*lead, len(units))).astype("U20")
    top = rng.integers(len(factors), size=(*lead, len(units)))
    kl = rng.uniform(0, 2, (*lead, latents))
    kl[..., -1] = 0.001
    return xr.Dataset(
        {
            **{name: three("unit", "factor") for name in shared},
            **{name: three("latent") for name in per_latent},
            "dose_response": three("dose", "latent"),
            "factor_response": three("factor", "dose", "latent"),
            "factor_to_latent": three("factor", "latent"),
            "dose_support": (("family", "seed", "latent", "dose"), support),
            "read_write_agreement": (("family", "seed", "unit"), agreement),
            "unit_class": (("family", "seed", "unit"), label),
            "top_factor": (("family", "seed", "unit"), top),
            **{
                f"score_{name}{end}": (("family", "seed"), rng.uniform(size=lead))
                for name in SCORES
                for end in ("", "_chance")
            },
            "kl_per_latent": (("family", "seed", "latent"), kl),
        },
        coords={
            "family": list(titles),
            "seed": np.arange(seeds),
            "site": ("unit", [site for site, _ in units]),
            "index": ("unit", [index for _, index in units]),
            "factor": list(factors),
            "read_factor": list(factors),
            "size": [1.0, 2.0],
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
        "record_every": 50,
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


@pytest.mark.thorough
def test_report_writes_every_figure_and_nothing_half_done(trained):
    folder, path, _ = trained
    check_files(folder, path, set(figures.FIGURES) - FEW)


def test_page_needs_nothing_from_outside(trained):
    _, path, _ = trained
    text = path.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert len(parsed.alts) == len(figures.FIGURES) - len(FEW)
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
    said = f"of {kl.sum():.2f} nats {kl.max():.2f} in z{kl.argmax()} and "
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


@pytest.mark.thorough
@pytest.mark.usefixtures("coarse")
def test_report_of_pretrained_models_has_no_training_curves(tmp_path):
    titles = ("vae", "beta_vae", "factor_vae", "beta_tc_vae")
    summary, effects, _ = make_study(titles, seeds=1, data="pretrained", nan=True)
    pictures = make_pictures(titles, 1, 8, histories=False, channels=3)
    path = write_report(tmp_path, summary, effects, pictures)
    check_files(tmp_path, path, set(figures.FIGURES) - {"training", "unit_classes"} - FEW)
    text = Page(path.read_text()).text
    assert "Weights trained by others" in text
    assert "One trained model" in text
    assert "No difference has an interval" in text


@pytest.mark.thorough
@pytest.mark.usefixtures("coarse")
def test_report_of_six_families_many_seeds_and_latents(tmp_path):
    factors = ("floor", "wall", "object", "scale", "shape", "orientation")
    excluded = [("dip_vae_i_5", seed) for seed in range(8)]
    summary, effects, _ = make_study(ALL, 8, factors, 16, excluded, nan=True)
    path = write_report(tmp_path, summary, effects, {"histories": {}})
    check_files(tmp_path, path, set(figures.FIGURES) - {"training", "traversals", "unit_classes"})
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


def words_of(text):
    return Page(text).text


def with_relation(sign, num=30):
    """A study of one family whose DCI follows the effect strength, or opposes it."""
    rng = np.random.default_rng(3)
    columns = {name: rng.uniform(1, 9, num) for name in (*TERMS, *RANKED)}
    for effect in ("total_index_posterior_sum", "paper_effect_strength"):
        columns[effect] = sign * columns["dci_fast_disentanglement"] + 0.1 * rng.normal(size=num)
    labels = [("vae", seed) for seed in range(num)]
    quiet = types.SimpleNamespace(
        classes=types.SimpleNamespace(label=np.array(["dead"])),
        specificity=types.SimpleNamespace(corrected=np.full(1, np.nan), active=np.zeros(1, bool)),
        paper=np.full(1, np.nan),
    )
    judged = judge_claims(labels, ["ok"] * num, columns, {}, [quiet] * num)
    return {"claims": plain(judged)}


@pytest.mark.parametrize(
    ("sign", "verdict"), [(1.0, "positive, against the claim"), (-1.0, "negative, as claimed")]
)
def test_sign_of_the_relation_follows_from_its_interval(sign, verdict):
    text = words_of(claims.claims(with_relation(sign)))
    assert text.count(verdict) == 4  # two effects, raw and partial
    assert "sign open" not in text
    assert "to tell from 0" not in text


def test_noise_leaves_the_sign_open_and_says_how_many_models_it_takes():
    summary, _, _ = make_study(seeds=3)
    text = words_of(claims.claims(summary))
    assert "which leaves the sign open" in text
    assert re.search(r"takes about [\d,]+ models to tell from 0, [\d,]+ seeds of each", text)
    assert "No claim at 0.05 from 3 paired seeds" in text
    assert re.search(r"About [\d,]+ paired seeds would settle it", text)


def test_claims_that_a_study_cannot_speak_to_are_not_judged():
    summary, _, _ = make_study(("vae",), seeds=1, nan=True)
    text = words_of(claims.claims(summary))
    assert text.count("Not judged") == 3
    assert "No FactorVAE is usable here" in text


def test_readouts_that_fail_on_reconstructions_are_warned_of():
    summary, _, _ = make_study(factors=("shape", "x", "hue"))
    text = words_of(trust.readout(summary))
    assert "Below 0.7 on reconstructions" in text
    assert "VAE: shape; beta-VAE (4): shape; FactorVAE (10): shape" in text
    for quality in summary["readout"]["reconstructed"]:
        quality["shape"] = 0.71
    assert "Below 0.7" not in words_of(trust.readout(summary))


def test_share_of_runs_off_the_support_is_the_summary_s():
    summary, effects, _ = make_study(("vae",))
    share = summary["families"]["vae"]["off_support/encoder/conv0"]
    share |= {"value": 0.37, "low": 0.2, "high": 0.5}
    assert "37% [20%, 50%]" in words_of(trust.off_manifold(summary, effects))


def test_effect_strengths_are_drawn_as_sums_over_latents_but_the_paper_s_as_a_mean():
    summary, effects, _ = make_study(("vae",), seeds=3)
    figure = figures.FIGURES["effect_strengths"](summary, effects, {})
    for axes, name in zip(figure.axes, STRENGTHS, strict=True):
        own = effects[name].sel(family="vae", statistic="value").transpose("seed", "latent").values
        expected = own.mean(axis=1) if name == "paper_effect_strength" else own.sum(axis=1)
        np.testing.assert_allclose(axes.lines[0].get_xdata(), expected, rtol=1e-5)
        np.testing.assert_allclose(axes.lines[1].get_xdata(), [expected.mean()], rtol=1e-5)


def test_factor_graph_is_the_mean_over_usable_seeds():
    summary, effects, _ = make_study(("vae",), seeds=3, excluded=[("vae", 2)])
    read_well(summary)
    for seed, graph in enumerate(summary["factor_graphs"]):
        graph["effect"]["value"] = [[1.0, 0.2 * seed], [0.0, 1.0]]
        graph["adjacency"] = [[False, seed > 0], [False, False]]
        graph["verdict"] = [["", "edge" if seed else "undecided"], ["no control", ""]]
        graph["control"] = [True, False]
        graph["score"] = {"f1": 0.5 * seed} if seed else None
    summary["true_graph"] = [[False, True], [False, False]]
    mean = panels.factor_graph_of(summary, "vae")
    np.testing.assert_allclose(mean.effect, [[1.0, 0.1], [0.0, 1.0]])
    np.testing.assert_allclose(mean.edges, [[0.0, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(mean.decided, [[0.0, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(mean.control, [1.0, 0.0])
    assert (mean.f1, mean.num_seeds) == (0.5, 2)
    assert mean.renamed == 0.5  # One edge of two nodes: every second renaming has it.
    figure = figures.FIGURES["factor_graph"](summary, effects, {})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["VAE\n1 of 2 factors moved", "True graph\n1 edge"]
    (said,) = factor_findings.say_graph(summary, effects, {})
    assert "for 1 of 2 factors per model" in said
    assert "Of 2 possible edges between factors that can be read 0.5 are found" in said
    assert "per model and 1.5 are undecided" in said
    assert "F1 against the true graph is 0.50, against it with factors renamed 0.50;" in said
    for graph in summary["factor_graphs"]:
        graph |= {"control": [False, False], "score": None}
    (said,) = factor_findings.say_graph(summary, effects, {})
    assert said.endswith("its graph shows nothing.")


# --- only what is so ----------------------------------------------------------------------------


def read_well(summary, **others):
    """Every factor is read off every model, but for what is told otherwise."""
    for quality in summary["readout"]["reconstructed"]:
        quality |= dict.fromkeys(quality, 0.95) | others


def everything_said(summary, effects, pictures=None):
    """All sentences of all figures."""
    found = {
        name: caption.findings(summary, effects, pictures or {})
        for name, caption in CAPTIONS.items()
        if name not in FEW or summary["claims"]["correlation"]
    }
    return [sentence for sentences in found.values() for sentence in sentences]


OF_READ_OUTS = ("factor_doses", "factor_graph", "read_write", "unit_classes")


def said_of_read_outs(summary, effects):
    return " ".join(s for n in OF_READ_OUTS for s in CAPTIONS[n].findings(summary, effects, {}))


def test_no_sentence_that_rests_on_read_outs_is_about_a_factor_below_the_gate():
    summary, effects, _ = make_study(factors=("blurry", "x", "hue"))
    for name in ("factor_response", "write"):  # What cannot be read seems to move most.
        effects[name].loc[{"factor": "blurry"}] += 9.0
    effects["top_factor"][:] = 0
    read_well(summary)
    assert "blurry" in said_of_read_outs(summary, effects)
    read_well(summary, blurry=0.69)
    effects["top_factor"][:] = 1
    said = said_of_read_outs(summary, effects)
    assert "blurry" not in said
    assert "judged by x and hue" in said
    read_well(summary, x=0.1, blurry=None, hue=0.2)
    assert said_of_read_outs(summary, effects) == ""


def test_the_gate_is_of_a_family_and_of_its_usable_seeds():
    summary, _, _ = make_study(("vae", "beta_vae_4"), excluded=[("vae", 1)])
    read_well(summary)
    of_model = summary["readout"]["reconstructed"]
    of_model[0]["x"], of_model[1]["x"], of_model[2]["x"], of_model[3]["x"] = 0.75, 0.0, 0.65, 0.7
    text = words_of(trust.opening(summary))
    assert "in VAE every factor can be read" in text
    assert "in beta-VAE (4) shape can be read and x cannot" in text
    read_well(summary, shape=0.1, x=0.1)
    assert "in VAE and beta-VAE (4) no factor can be read" in words_of(trust.opening(summary))


def test_the_page_opens_with_what_can_be_read(trained):
    _, path, _ = trained
    text = Page(path.read_text()).text
    assert 0 < text.index("x can be read and shape cannot") < text.index("What was run")


def test_figures_hatch_factors_that_cannot_be_read_and_captions_say_so():
    summary, effects, _ = make_study(("vae",))

    def hatched(name):
        figure = figures.FIGURES[name](summary, effects, {})
        return sum(patch.get_hatch() == "xxx" for axes in figure.axes for patch in axes.patches)

    for name, num in (("read_write", 2), ("factor_graph", 2)):  # One row; a row and a column.
        read_well(summary)
        assert hatched(name) == 0
        assert "ross-hatched" not in " ".join(CAPTIONS[name].marks(summary, effects, {}))
        read_well(summary, shape=0.5)
        assert hatched(name) == num
        assert "ross-hatched" in " ".join(CAPTIONS[name].marks(summary, effects, {}))
    assert "Dotted lines" in " ".join(CAPTIONS["factor_doses"].marks(summary, effects, {}))


def test_classes_say_for_which_factor_and_tell_dead_from_not_found():
    summary, effects, _ = make_study(("vae",), seeds=3)
    read_well(summary)
    effects["unit_class"][:] = "undetected"
    effects["unit_class"][:, :, :6] = "monosemantic"
    effects["unit_class"][:, :, 6] = "dead"
    effects["top_factor"][:] = 0
    effects["top_factor"][:, 0, 0] = 1
    (said,) = factor_findings.say_classes(summary, effects, {})
    num = effects.sizes["unit"]
    assert f"{percent(6 / num)} [{percent(6 / num)}, {percent(6 / num)}] monosemantic" in said
    assert "(17 for shape, 1 for x)" in said
    assert "no effect found" in said
    assert f"{percent(1 / num)} [{percent(1 / num)}, {percent(1 / num)}] shown to be dead" in said
    assert "of 3 models" in said


def spread_out(summary, effects, families_apart, seeds):
    """Families whose every number is the same but for noise, or far apart."""
    rng = np.random.default_rng(6)
    for i, family in enumerate(summary["families"]):
        shift = 5.0 * i * families_apart
        for model in summary["models"]:
            if model["family"] == family:
                for name in COMPARED:
                    model[name] = 10.0 + shift + 0.1 * rng.normal()
        for name in STRENGTHS:
            noise = 0.01 * rng.normal(size=(seeds, effects.sizes["latent"], 3))
            effects[name].loc[{"family": family}] = 0.05 + 0.01 * noise + 0.02 * i * families_apart


@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_families_that_tie_are_said_in_one_sentence_not_to_be_told_apart(seeds):
    summary, effects, _ = make_study(seeds=seeds)
    spread_out(summary, effects, 0, seeds)
    for say in (findings.say_comparison, strength_findings.say_strengths):
        (said,) = say(summary, effects, {})
        words = "1 paired seed does" if seeds == 1 else f"{seeds} paired seeds do"
        assert said.startswith(f"{words} not tell the families apart by ")
        assert ("that takes 6 or more" in said) == (seeds < 6)


def test_families_that_tie_are_told_apart_no_more_often_than_the_level_says():
    def claims_something(seed):
        rng = np.random.default_rng(seed)
        values = {
            name: {family: dict(enumerate(rng.normal(size=8))) for family in ALL[:3]}
            for name in ("KL", "MIG")
        }
        return not evidence.say_apart(values)[0].startswith("8 paired seeds do not")

    assert np.mean([claims_something(seed) for seed in range(400)]) < 0.08


@pytest.mark.parametrize("seeds", [3, 8])
def test_families_far_apart_are_ranked_only_by_seeds_enough_to_claim_it(seeds):
    summary, effects, _ = make_study(("vae", "beta_vae_4"), seeds=seeds)
    spread_out(summary, effects, 1, seeds)
    for say in (findings.say_comparison, strength_findings.say_strengths):
        (said,) = say(summary, effects, {})
        assert ("beta-VAE (4) is above VAE" in said) == (seeds >= 6)
        assert ("not tell the families apart" in said) == (seeds < 6)


def test_forms_of_effect_strength_that_order_families_differently_are_said_to():
    summary, effects, _ = make_study(("vae", "beta_vae_4"), seeds=8)
    spread_out(summary, effects, 1, 8)
    effects["paper_effect_strength"][:] = 1.0 - effects["paper_effect_strength"]
    up, down = strength_findings.say_strengths(summary, effects, {})
    assert "total index from the prior" in up
    assert "beta-VAE (4) is above VAE" in up
    assert down.startswith("By paper effect strength (raw L2), VAE is above beta-VAE (4)")


@pytest.mark.parametrize("value", [-0.01, 1.2])
@pytest.mark.parametrize("name", ["first_order_prior", "interaction_share_prior"])
def test_nothing_is_said_by_shares_that_no_variance_can_have(name, value):
    summary, effects, _ = make_study(("vae", "beta_vae_4"), seeds=8)
    spread_out(summary, effects, 1, 8)
    heading = {"f": "first-order index", "i": "interaction share"}[name[0]]
    assert heading in " ".join(strength_findings.say_strengths(summary, effects, {}))
    effects[name].loc[{"family": "vae", "seed": 3}] = 0.0
    effects[name].loc[{"family": "vae", "seed": 3, "latent": 0}] = value
    assert heading not in " ".join(strength_findings.say_strengths(summary, effects, {}))
    assert "may leave the range from 0 to 1" in CAPTIONS["effect_strengths"].reading


def test_the_largest_is_named_alone_only_where_its_interval_is_above_all_others():
    value = np.array([0.34, 0.35, 0.1, np.nan])
    assert evidence.leaders(value, value - 0.05, value + 0.05).tolist() == [1, 0]
    assert evidence.leaders(value, value - 0.001, value + 0.001).tolist() == [1]
    assert evidence.leaders(value, value * np.nan, value * np.nan).tolist() == [1, 0, 2]
    assert evidence.leaders(*np.full((3, 2), np.nan)).size == 0


def test_two_latents_that_are_not_told_apart_are_both_named_strongest():
    summary, effects, _ = make_study(("vae",))
    ends = np.zeros((8, 3))
    ends[7], ends[2] = (0.35, 0.30, 0.40), (0.34, 0.29, 0.39)
    effects["total_index_posterior"][:] = ends
    (said,) = findings.say_latent(summary, effects, {})
    assert "not told apart, are z7 (0.35 [0.30, 0.40]) and z2 (0.34 [0.29, 0.39])" in said
    effects["total_index_posterior"][:, :, 2] = 0.1
    (said,) = findings.say_latent(summary, effects, {})
    assert "the strongest latent in use is z7, total index 0.35 [0.30, 0.40]" in said


def test_sentences_of_one_seed_name_it():
    summary, effects, _ = make_study(excluded=[("beta_vae_4", 0)])
    read_well(summary)
    for say in (
        findings.say_traversals,
        findings.say_input,
        findings.say_latent,
        findings.say_units,
        factor_findings.say_read_write,
        factor_findings.say_doses,
    ):
        said = say(summary, effects, {})
        assert [s.partition(", seed ")[2][:1] for s in said] == ["0", "1", "0"], said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.2, 0.21, 0.22], "above chance in VAE (by 0.21 [0.19, 0.23])"),
        ([0.2, -0.1, 0.05], "not shown to differ from chance in VAE (by 0.05 ["),
        ([-0.2, -0.21, -0.22], "below chance in VAE (by 0.21 [0.19, 0.23])"),
        ([0.2], "not judged against chance, for want of an interval, in VAE (by 0.20)"),
    ],
)
def test_a_score_is_above_chance_or_below_or_not_shown_to_differ(values, words):
    summary, effects, _ = make_study(("vae",), seeds=len(values))
    chance = effects["score_mig_chance"].values
    effects["score_mig"] = effects["score_mig_chance"].copy(data=chance + np.array([values]))
    said = strength_findings.say_scores(summary, effects, {})
    (mig,) = (sentence for sentence in said if sentence.startswith("MIG is "))
    assert words in mig
    excess = inference.over_seeds(np.array(values), num_inputs=8, intervention="none")
    summary["families"]["vae"]["modularity_excess_decoder"] = plain(excess)
    (first, *_) = strength_findings.say_modularity(summary, effects, {})
    assert words.replace("chance", "its null") in first
    summary["claims"]["specificity"] = {"vae": plain(excess)}
    assert words.replace("chance", "that of noise") in words_of(claims.claims(summary))


def test_the_floor_of_grey_pixels_is_taken_from_every_reconstruction_error():
    x = np.zeros((3, 4, 4, 1), np.float32)
    x[:, 0, 0], x[:, 1, 1], x[0, 2, 2] = 0.5, 1.0, 0.5
    floor = float(entropy_floor(jnp.asarray(x)))
    assert floor == pytest.approx(math.log(2) * 4 / 3)
    summary, effects, _ = make_study(("vae",))
    row = summary["families"]["vae"]["reconstruction"]
    row |= {"value": 31.0, "low": 30.0, "high": 32.0}
    (said,) = findings.say_comparison(summary, effects, {"entropy_floor": 12.7})
    assert "12.7 nats are the entropy of the images' grey pixels" in said
    assert "above it are 18.3 [17.3, 19.3] in VAE" in said
    assert findings.say_comparison(summary, effects, {}) == []


def test_a_flat_curve_is_no_convergence_where_the_learning_rate_decays():
    summary, effects, _ = make_study(("vae",))
    pictures = make_pictures(("vae",), 2, 8)

    def reading():
        return " ".join(CAPTIONS["training"].marks(summary, effects, pictures))

    assert "a flat end shows no convergence" in reading()
    assert "Dashed" not in reading()
    summary["config"]["decay_learning_rate"] = False
    assert "undertrained" in reading()
    summary["models"][1]["verdict"] = "diverged"
    assert "Dashed lines are excluded models" in reading()


@pytest.mark.parametrize("value", [-0.001, -1e-12, 0.0, -0.0])
def test_nought_has_no_sign(value):
    for words in (
        number(value, [1.0]),
        hundredths(value),
        fixed(value),
        fixed(value, 1, sign=True),
    ):
        assert float(words) == 0
        assert words[0] == "0"
    assert fixed(0.26, 1, sign=True) == "+0.3"
    assert fixed(-0.26, 1, sign=True) == "\N{MINUS SIGN}0.3"


def test_no_sentence_ranks_by_the_largest_of_many_without_saying_how_it_was_chosen():
    summary, effects, _ = make_study()
    read_well(summary)
    assert all("flattered" in said for said in findings.say_units(summary, effects, {}))
    said = " ".join(everything_said(summary, effects, make_pictures(ALL[:3], 2, 8)))
    for words in ("highest in", "lowest in", "carries most", "whatever their intervals", "-0.00"):
        assert words not in said


def test_differences_are_named_only_where_they_stand_out_from_all_that_were_looked_at():
    far, near = (
        plain(inference.over_seeds(center + np.arange(8.0), num_inputs=8, intervention="none"))
        for center in (20.0, 0.0)
    )
    near |= {"value": 1.0, "low": 0.05, "high": 1.95}
    rows = {"beta_vae_4": {name: near for name in COMPARED} | {"kl": far}}
    chance, *_ = findings.say_differences(rows)
    assert chance.startswith(f"{len(COMPARED)} of {len(COMPARED)} 95% intervals exclude 0")
    assert "these differ: beta-VAE (4): KL to the prior higher." in chance
    rows["beta_vae_4"]["kl"] = near
    assert "none does" in findings.say_differences(rows)[0]


def test_four_models_rank_nothing_alike_and_thirty_do():
    few = with_relation(1.0, num=4)["claims"]["agreement"]
    assert not np.any(panels.ranked_alike(few))
    many = with_relation(-1.0)["claims"]["agreement"]
    alike, opposed = panels.ranked_alike(many)
    dci, effect = map(many["names"].index, ("dci_fast_disentanglement", "paper_effect_strength"))
    assert opposed[dci, effect]
    assert not alike[dci, effect]


def test_all_data_have_a_name_and_stand_ins_are_called_so():
    assert set(STUDIED) <= set(DATA)
    for name, words in DATA.items():
        assert ("not the published images" in words) == name.endswith("-standin")


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


@pytest.mark.thorough
def test_importing_the_library_does_not_import_the_report():
    code = (
        "import sys, vaecausal_jax; bad = {'matplotlib', 'xarray', 'vaecausal_jax.study.report'};"
        "sys.exit(1 if bad & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0%"), (0.002, "0.2%"), (0.006, "1%"), (0.34, "34%"), (1.2, "100%"), (-0.1, "0%")],
)
def test_a_share_is_nought_only_where_it_is(share, words):
    assert percent(share) == words
