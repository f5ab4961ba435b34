"""One tiny study from nothing to its report; interrupted, continued, repeated, diverged."""

import dataclasses
import json
import re
import shutil
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from jax.experimental.compilation_cache import compilation_cache

from vaecausal_jax import study
from vaecausal_jax.data import sprites
from vaecausal_jax.factors.sprite_moments import sprite_readout
from vaecausal_jax.inference import Estimate
from vaecausal_jax.interventions import set_to
from vaecausal_jax.study import PRESETS, Family, as_json, from_json, read_config, report, store
from vaecausal_jax.study import run as study_run
from vaecausal_jax.study.config import architectures, check_config, dataset, objective
from vaecausal_jax.study.inputs import make_inputs
from vaecausal_jax.training import checkpoint

pytestmark = pytest.mark.thorough

TINY = dataclasses.replace(
    PRESETS["train"],
    name="tiny",
    families=(Family("vae"), Family("beta_vae", 0.5)),
    image_size=16,
    num_seeds=2,
    latent_size=2,
    encoder_channels=(2,),
    encoder_dense=(),
    decoder_dense=(),
    decoder_channels=(2,),
    num_steps=60,
    record_every=3,
    batch_size=16,
    learning_rate=1e-2,
    num_images=10,
    num_unit_images=8,
    num_pairs=4,
    num_score_images=500,
    doses=(0.5, 1.0),
)
SITES = {  # with their units
    "encoder/conv0": 2,
    "latent/mean": 2,
    "latent/logvar": 2,
    "latent/z": 2,
    "decoder/dense0": 128,
    "decoder/logits": 1,
}
FACTORS = ["shape", "scale", "orientation", "x", "y"]


class Finished(NamedTuple):
    """A study, where it is, and what it said while it ran."""

    study: study.Study
    folder: str
    calls: list


@pytest.fixture(scope="module", autouse=True)
def compile_cache(tmp_path_factory):
    """Programs compiled once a module: each run of a study traces fresh closures."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, calls = tmp_path_factory.mktemp("study"), []
    result = study.run_study(TINY, folder, progress=lambda *call: calls.append(call))
    return Finished(result, folder, calls)


@pytest.fixture
def no_report(monkeypatch):
    """The report is a function of summary and effects; once is enough."""
    monkeypatch.setattr(report, "write_report", lambda *args: None)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def estimates(values):
    """All estimates of a nested summary."""
    if isinstance(values, Estimate):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from estimates(value)


# What a study leaves behind.


def test_all_outputs_are_there(finished):
    names = {path.name for path in finished.folder.iterdir()}
    expected = {"checkpoints", "parts", "summary.json", "effects.zarr", "figures", "report.html"}
    assert names == expected
    assert {p.name for p in (finished.folder / "checkpoints").iterdir()} == {"vae", "beta_vae_0.5"}
    assert {p.stem for p in (finished.folder / "parts").glob("*.npz")} == {
        "health",
        "codes",
        "input",
        "latent",
        "modularity",
        "traversal",
        "scores",
        *(f"site.{name.replace('/', '.')}" for name in SITES),
    }
    assert not list(finished.folder.rglob("*partial*"))
    assert "<html" in (finished.folder / "report.html").read_text().lower()
    assert list((finished.folder / "figures").glob("*.png"))


def test_progress_counts_up_to_the_end_of_every_stage(finished):
    for stage in ("train vae", "train beta_vae_0.5"):
        assert [call[1:] for call in finished.calls if call[0].partition(":")[0] == stage] == [
            (0, 60),
            (30, 60),
            (60, 60),
        ]
    said = [what for what, *_ in finished.calls if what.startswith("train vae")]
    last = np.mean(finished.study.summary["training"]["vae"]["loss"])
    assert said[0] == "train vae"
    assert re.fullmatch(r"train vae: loss [\d.]+", said[1])
    assert said[2] == f"train vae: loss {last:.4g}"
    measured = [call for call in finished.calls if call[0].startswith("measure")]
    assert [call[1] for call in measured] == list(range(13))
    scored = [call[1:] for call in finished.calls if call[0] == "score codes"]
    assert scored == [(n, 4) for n in range(5)]
    assert measured[-1] == ("measure", 12, 12)
    assert finished.calls[-1] == ("write tables and report", 1, 1)


def test_summary_is_strict_json_that_records_how_it_was_made(finished):
    summary = summary_of(finished.folder)
    assert from_json(summary["config"]) == TINY
    assert summary["versions"] == checkpoint.versions()
    assert summary["device"]["platform"] == jax.devices()[0].platform
    assert summary["matmul_precision"] == "highest"
    assert list(summary["factors"]) == FACTORS
    assert [(m["family"], m["seed"], m["verdict"]) for m in summary["models"]] == [
        (family, seed, "ok") for family in ("vae", "beta_vae_0.5") for seed in (0, 1)
    ]
    assert summary["excluded"] == []
    assert set(summary["families"]) == {"vae", "beta_vae_0.5"}
    assert set(summary["differences"]) == {"beta_vae_0.5"}
    assert summary["training"]["vae"]["loss"] == [
        pytest.approx(value) for value in summary["training"]["vae"]["loss"]
    ]


def test_effects_are_labelled_by_family_seed_unit_factor_latent_and_dose(finished):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(finished.folder / "effects.zarr") as opened:
            effects = opened.compute()
    xr.testing.assert_identical(effects, finished.study.effects)
    assert list(effects["family"].values) == ["vae", "beta_vae_0.5"]
    assert list(effects["seed"].values) == [0, 1]
    assert list(effects["factor"].values) == FACTORS
    assert list(effects["dose"].values) == [-1.0, -0.5, 0.5, 1.0]
    assert list(effects["statistic"].values) == ["value", "low", "high"]
    labels = list(zip(effects["site"].values, effects["index"].values, strict=True))
    assert labels == [(site, unit) for site, num in SITES.items() for unit in range(num)]
    assert (effects["verdict"] == "ok").all()
    mediated = effects["proportion_mediated"]
    assert mediated.dims == ("family", "seed", "unit", "factor", "statistic")
    assert mediated.attrs["null"] == 0.0
    assert mediated.attrs["num_inputs"] == 4
    assert "units patched between minimal pairs" in mediated.attrs["intervention"]
    assert effects["dose_response"].dims == ("family", "seed", "dose", "latent", "statistic")
    assert np.isfinite(effects["kl_per_latent"]).all()


def test_every_interval_holds_its_value(finished):
    found = list(estimates(finished.study.summary))
    assert len(found) > 20
    for name, variable in finished.study.effects.data_vars.items():
        if "statistic" in variable.dims:
            ends = (variable.sel(statistic=s).values for s in ("value", "low", "high"))
            found.append(Estimate(*ends, 0.0, 0, 0, 0.95, name, name))
    for estimate in found:
        value, low, high = np.broadcast_arrays(estimate.value, estimate.low, estimate.high)
        known = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
        slack = 1e-5 * (1.0 + np.abs(value))
        assert ((low <= value + slack) & (value <= high + slack))[known].all(), estimate


def test_identities_that_hold_in_any_vae_hold(finished):
    checks = finished.study.summary["checks"]
    assert checks["largest_deviation_of_a_whole_site_from_share_1"] < 1e-4
    assert checks["largest_effect_of_a_latent_redrawn_as_itself"] < 1e-10
    # The logits are one channel: the site's one unit is the site, and mediates all.
    effects = finished.study.effects
    last = effects["proportion_mediated"].isel(unit=(effects["site"] == "decoder/logits").values)
    np.testing.assert_allclose(last.sel(statistic="value"), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("site", "unit", "factor", "family", "seed"),
    [("latent/z", 1, "x", "vae", 1), ("encoder/conv0", 0, "scale", "beta_vae_0.5", 0)],
)
def test_mediation_equals_a_python_loop_over_pairs(site, unit, factor, family, seed, finished):
    result = finished.study
    (trained,) = result.trained
    model = trained.model
    index = ["vae", "beta_vae_0.5"].index(family) * 2 + seed
    params = jax.tree.map(lambda leaf: leaf[index], trained.params)
    inputs = make_inputs(TINY, sprites(16), model, sprite_readout(sprites(16)))
    pairs = inputs.pairs.flat()
    first = 4 * FACTORS.index(factor)
    forward = jax.jit(model.forward)
    total, noising, denoising = 0.0, 0.0, 0.0
    for pair in range(first, first + 4):
        eps = pairs.eps[pair]
        reference = forward(params, pairs.x0[pair], eps)
        target = forward(params, pairs.x1[pair], eps)
        natural0, natural1 = reference.activations[site], target.activations[site]
        into_target = set_to(model.sites, site, natural1.at[..., unit].set(natural0[..., unit]))
        into_reference = set_to(model.sites, site, natural0.at[..., unit].set(natural1[..., unit]))
        noised = forward(params, pairs.x1[pair], eps, into_target).outputs
        denoised = forward(params, pairs.x0[pair], eps, into_reference).outputs
        te, tnie, pnie = (
            np.asarray(difference, float).ravel()
            for difference in (
                target.outputs - reference.outputs,
                target.outputs - noised,
                denoised - reference.outputs,
            )
        )
        total, noising, denoising = total + te @ te, noising + tnie @ te, denoising + pnie @ te
    effects = result.effects
    at = np.flatnonzero((effects["site"] == site) & (effects["index"] == unit))
    chosen = effects.isel(unit=at[0]).sel(
        family=family, seed=seed, factor=factor, statistic="value"
    )
    assert abs(noising / total) > 0.01
    np.testing.assert_allclose(chosen["proportion_mediated"], noising / total, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(chosen["denoising"], denoising / total, rtol=1e-3, atol=1e-5)
    difference = (noising - denoising) / total
    np.testing.assert_allclose(chosen["interaction"], difference, rtol=1e-3, atol=1e-4)


def test_family_means_are_the_means_of_their_models(finished):
    summary = finished.study.summary
    kl = {f: [m["kl"] for m in summary["models"] if m["family"] == f] for f in summary["families"]}
    for family, values in kl.items():
        estimate = summary["families"][family]["kl"]
        np.testing.assert_allclose(estimate.value, np.mean(values), rtol=1e-6)
        assert estimate.num_seeds == 2
    difference = np.subtract(kl["beta_vae_0.5"], kl["vae"])
    estimate = summary["differences"]["beta_vae_0.5"]["kl"]
    np.testing.assert_allclose(estimate.value, difference.mean(), rtol=1e-5)
    assert difference.mean() > 0.0  # a lower price of information


def test_means_over_shared_images_have_intervals_for_new_images_too(finished):
    summary = finished.study.summary
    two_level = {
        name
        for name, estimate in summary["families"]["vae"].items()
        if estimate.method.startswith("two-level")
    }
    assert two_level == {
        "reconstruction",
        "squared_error",
        "kl",
        "total_index_prior_sum",
        "total_index_posterior_sum",
        "interaction_share_prior_sum",
        "paper_effect_strength",
        "nats_sum",
        "reencode_gap",
    }
    for family, estimates in summary["families"].items():
        for name in two_level:
            values = [m[name] for m in summary["models"] if m["family"] == family]
            np.testing.assert_allclose(estimates[name].value, np.mean(values), rtol=1e-4, atol=1e-6)
            assert estimates[name].num_inputs == TINY.num_images
    assert summary["families"]["vae"]["active_latents"].method == "Student t over seeds"


# Repeated and interrupted.


def test_plan_says_what_is_there_and_runs_nothing(finished, tmp_path):
    plan = study_run.plan_study(TINY, tmp_path)
    assert plan.steps == {"vae": 0, "beta_vae_0.5": 0}
    assert (plan.num_measured, plan.num_measurements) == (0, 12)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["spec.json"]
    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    (folder / "parts" / "input.npz").unlink()
    shutil.rmtree(folder / "checkpoints" / "vae")
    plan = study_run.plan_study(TINY, folder)
    assert plan.steps == {"vae": 0, "beta_vae_0.5": 60}
    assert (plan.num_measured, plan.num_measurements) == (11, 12)
    with pytest.raises(ValueError, match="holds another study"):
        study_run.plan_study(dataclasses.replace(TINY, seed=1), folder)


def test_second_run_computes_nothing_and_ends_the_same(finished, monkeypatch, no_report):
    def never(*args, **kwargs):
        raise AssertionError("computed again")

    real = study_run.measurements
    monkeypatch.setattr(checkpoint, "save", never)
    monkeypatch.setattr(study_run, "measurements", lambda *args: dict.fromkeys(real(*args), never))
    before, calls = (finished.folder / "summary.json").read_bytes(), []
    again = study.run_study(TINY, finished.folder, progress=lambda *call: calls.append(call))
    assert (finished.folder / "summary.json").read_bytes() == before
    xr.testing.assert_identical(again.effects, finished.study.effects)
    assert [(what.partition(":")[0], *counts) for what, *counts in calls[:3]] == [
        ("train vae", 60, 60),
        ("train beta_vae_0.5", 60, 60),
        ("measure", 12, 12),
    ]


class Crash(Exception):
    """Stands for anything that ends a process."""


def crash_at(*where):
    stage, *counts = where

    def progress(what, *call):
        if what.startswith(stage) and list(call[: len(counts)]) == counts:
            raise Crash

    return progress


def test_interrupted_study_continues_to_identical_numbers(finished, tmp_path, no_report):
    for where in (
        ("train beta_vae_0.5", 30),
        ("measure: site/latent/z",),
        ("write tables and report",),
    ):
        with pytest.raises(Crash):
            study.run_study(TINY, tmp_path, progress=crash_at(*where))
    assert not (tmp_path / "summary.json").exists()
    resumed = study.run_study(TINY, tmp_path)
    assert summary_of(tmp_path) == summary_of(finished.folder)
    xr.testing.assert_identical(resumed.effects, finished.study.effects)


def test_checkpoints_are_rarer_where_training_is_fast_and_fit_what_is_done(monkeypatch):
    long = PRESETS["dsprites"]
    assert study_run.records_per_save(long, 0) == 1
    assert study_run.records_per_save(long, 7000) == 1
    assert study_run.records_per_save(TINY, 0) == 10
    assert study_run.records_per_save(TINY, 60) == 10
    monkeypatch.setattr(study_run, "platform", lambda: "gpu")
    assert study_run.records_per_save(long, 0) == 10
    assert study_run.records_per_save(long, 30_000) == 10
    assert study_run.records_per_save(long, 12_000) == 6
    assert study_run.records_per_save(long, 7000) == 1
    assert study_run.records_per_save(dataclasses.replace(long, num_steps=7000), 0) == 7


def test_damaged_part_is_named_and_measured_again_once_deleted(finished, tmp_path, no_report):
    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    part = folder / "parts" / "input.npz"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{part} is damaged .* Delete it"):
        study.run_study(TINY, folder)
    part.unlink()
    study.run_study(TINY, folder)
    assert summary_of(folder) == summary_of(finished.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 12}, "config.num_images: saved 10, given 12"),
        ({"seed": 1}, "config.seed: saved 0, given 1"),
        ({"families": (Family("vae"),)}, "config.families: saved .*, given .*"),
        ({"num_shuffles": 2}, "config.num_shuffles: saved None, given 2"),
    ],
)
def test_folder_of_another_config_is_refused_and_left_alone(change, message, finished):
    before = (finished.folder / "summary.json").read_bytes()
    with pytest.raises(ValueError, match=f"holds another study .{message}"):
        study.run_study(dataclasses.replace(TINY, **change), finished.folder)
    assert (finished.folder / "summary.json").read_bytes() == before


def test_other_replicates_move_intervals_alone_and_measure_nothing_again(
    finished, tmp_path, no_report
):
    folder = tmp_path / "study"
    shutil.copytree(finished.folder, folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    config = dataclasses.replace(TINY, num_replicates=60, num_factor_replicates=40)
    effects = study.run_study(config, folder).effects
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()} == before
    for name in ("proportion_mediated", "mediated"):
        old, new = finished.study.effects[name], effects[name]
        np.testing.assert_array_equal(old.sel(statistic="value"), new.sel(statistic="value"))
        assert (old.sel(statistic="low") != new.sel(statistic="low")).any()


# Diverged models.


@pytest.mark.slow
def test_diverged_seed_is_named_and_left_out_of_every_mean(finished, tmp_path, monkeypatch):
    real = study_run.train_resumably

    def poisoned(config, keys, data, folder, **options):
        state, history = real(config, keys, data, folder, **options)
        if folder.name == "vae":
            history["loss"][1, 10:] = np.nan
            nan = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), state.params)
            state = state._replace(params=nan)
        return state, history

    monkeypatch.setattr(study_run, "train_resumably", poisoned)
    shutil.copytree(finished.folder / "checkpoints", tmp_path / "checkpoints")
    result = study.run_study(TINY, tmp_path)
    excluded = summary_of(tmp_path)["excluded"]
    assert [(m["family"], m["seed"]) for m in excluded] == [("vae", 1)]
    assert excluded[0]["verdict"] == "diverged: the loss is not finite by step 33"
    clean = finished.study.summary
    assert result.summary["families"]["vae"]["kl"].num_seeds == 1
    for name, estimate in result.summary["families"]["vae"].items():
        if name in clean["models"][0]:
            np.testing.assert_allclose(estimate.value, clean["models"][0][name], rtol=1e-6)
    kl = result.summary["families"]["beta_vae_0.5"]["kl"]
    np.testing.assert_array_equal(kl.value, clean["families"]["beta_vae_0.5"]["kl"].value)
    difference = result.summary["differences"]["beta_vae_0.5"]["kl"]
    expected = clean["models"][2]["kl"] - clean["models"][0]["kl"]
    np.testing.assert_allclose(difference.value, expected, rtol=1e-5)
    assert result.effects["verdict"].sel(family="vae", seed=1).item().startswith("diverged")
    kept = result.effects.drop_sel(seed=1).drop_vars("verdict")
    xr.testing.assert_identical(kept, finished.study.effects.drop_sel(seed=1).drop_vars("verdict"))
    assert max(result.summary["checks"].values()) < 1e-4
    page = (tmp_path / "report.html").read_text()
    assert "diverged: the loss is not finite by step 33" in page


def test_study_in_which_every_model_diverges_says_so_and_does_not_crash(tmp_path):
    config = dataclasses.replace(TINY, learning_rate=1e30)
    result = study.run_study(config, tmp_path)
    summary = summary_of(tmp_path)
    assert [m["verdict"] for m in summary["excluded"]] == [
        "diverged: the loss is not finite by step 3"
    ] * 4
    assert summary["families"] == {"vae": {}, "beta_vae_0.5": {}}
    assert summary["differences"] == {}
    assert set(summary["checks"].values()) == {None}
    assert result.effects["proportion_mediated"].isnull().all()
    assert "diverged" in (tmp_path / "report.html").read_text()


# Configs.


@pytest.mark.parametrize("config", [*PRESETS.values(), TINY], ids=lambda config: config.name)
def test_config_survives_json(config, tmp_path):
    assert from_json(json.loads(json.dumps(as_json(config)))) == config
    path = store.write_json(tmp_path, "config.json", as_json(config))
    assert read_config(path) == config
    assert hash(read_config(path)) == hash(config)


def test_fields_that_older_folders_lack_are_written_where_they_are_not_the_default():
    assert not {"num_replicates", "num_factor_replicates", "num_shuffles"} & set(as_json(TINY))
    config = dataclasses.replace(TINY, num_replicates=1000, num_shuffles=3)
    assert as_json(config)["num_replicates"] == 1000
    assert from_json(as_json(config)) == config


def test_config_takes_defaults_and_whole_numbers_for_real_ones():
    minimal = {"name": "a", "data": "sprites", "families": [{"name": "vae"}], "doses": [1, 2.5]}
    config = from_json(minimal)
    assert config.families == (Family("vae", 1.0),)
    assert config.doses == (1.0, 2.5)
    assert type(config.doses[0]) is float
    assert config.num_seeds == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_step": 3},
            "unknown field of a study's config 'num_step'. Did you mean 'num_steps'?",
        ),
        ({"num_seeds": "4"}, "num_seeds is '4', expected int"),
        ({"num_seeds": 4.0}, "num_seeds is 4.0, expected int"),
        ({"num_seeds": True}, "num_seeds is True, expected int"),
        ({"num_seeds": None}, "num_seeds is None, expected int"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', expected float"),
        ({"encoder_channels": 3}, "encoder_channels is 3, expected tuple[int, ...]"),
        ({"encoder_channels": [3, 0.5]}, "encoder_channels is 0.5, expected int"),
        ({"families": ["vae"]}, "a family is 'vae', expected an object of fields"),
        ({"families": [{"name": "vae", "beta": 4.0}]}, "unknown field of a family 'beta'."),
        ({"families": [{"strength": 4.0}]}, "a family needs ['name']"),
        ({"families": "vae"}, "families is 'vae', expected"),
    ],
)
def test_json_that_is_no_config_is_an_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_json({**as_json(TINY), **change})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config file .*; `vaecausal study --print-config` prints one"),
        (b"{", "config.json is not JSON"),
        (b"\xff", "config.json is not JSON"),
        (b"[1]", r"a study's config is \[1\], expected an object"),
        (b"{}", r"a study's config needs \['data', 'families', 'name'\]"),
    ],
)
def test_file_that_is_no_config_is_an_error(content, message, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "sprite"}, "unknown data 'sprite'. Did you mean 'sprites'?"),
        ({"data": "dsprites"}, "dsprites have image_size 64, got 16"),
        ({"mediation_outcome": "pixels"}, "unknown mediation_outcome 'pixels'."),
        ({"families": ()}, "families must be named once each and not empty"),
        ({"families": (Family("vae"), Family("vae", 2.0))}, "families must be named once each"),
        ({"families": (Family("bvae"),)}, "unknown family 'bvae'. Did you mean 'vae'?"),
        ({"families": (Family("vae"), Family("beta_vea"))}, "Did you mean 'beta_vae'?"),
        ({"num_seeds": 0}, "num_seeds 0 and num_pairs 4 must be at least 1 and 2"),
        ({"num_pairs": 1}, "num_seeds 2 and num_pairs 1 must be at least 1 and 2"),
        (
            {"num_replicates": 5},
            "num_replicates 5 and num_factor_replicates 200 must be at least 20",
        ),
        ({"num_shuffles": 0}, "num_shuffles 0 at least 1"),
        ({"num_unit_images": 11}, "num_unit_images 11 must be from 8 to num_images 10"),
        ({"num_unit_images": 1}, "num_unit_images 1 must be from 8"),
        ({"num_steps": 61}, "num_steps 61 is no multiple of record_every 3; the nearest is 60"),
        ({"num_steps": 0}, "positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"encoder_channels": (2,) * 5}, "image size 16x16 is not divisible by 32"),
        ({"decoder_channels": (2,) * 5}, "image size 16x16 is not divisible by 32"),
        ({"image_size": 17}, "image size 17x17 is not divisible by 2"),
        ({"image_size": 4}, "image_size must be at least 8"),
    ],
)
def test_config_that_cannot_run_is_refused_before_anything_starts(change, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        study.run_study(dataclasses.replace(TINY, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_image_size_needs_only_what_the_layers_divide():
    check_config(dataclasses.replace(TINY, image_size=18))


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        (PRESETS["pretrained"], None, "needs --data DIR, the folder of weights"),
        (PRESETS["pretrained"], "{tmp}", "no file {tmp}/VAE.npz"),
        (PRESETS["pretrained"], "{tmp}/absent", "no file {tmp}/absent/VAE.npz"),
        (
            dataclasses.replace(PRESETS["pretrained"], families=(Family("dip_vae"),)),
            "{tmp}",
            "unknown family 'dip_vae'.",
        ),
        (
            dataclasses.replace(PRESETS["pretrained"], num_seeds=2),
            "{tmp}",
            "pretrained models have one seed per family, got 2",
        ),
        (TINY, "{tmp}", "is rendered and takes no --data"),
        (PRESETS["dsprites"], "{tmp}/absent.npz", "{tmp}/absent.npz"),
    ],
)
def test_data_that_cannot_be_read_is_refused_before_anything_starts(
    config, path, message, tmp_path
):
    given = None if path is None else path.format(tmp=tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(message.format(tmp=tmp_path))):
        study.run_study(config, tmp_path / "out", data_path=given)
    assert not (tmp_path / "out").exists()


def test_pretrained_weights_are_found_before_anything_starts(shared):
    check_config(PRESETS["pretrained"], str(shared / "pretrained_dsprites"))


@pytest.mark.parametrize(
    ("name", "term"),
    [
        *(
            (name, "kl_per_latent")
            for name in ("vae", "beta_vae", "factor_vae", "beta_tc_vae", "dip_vae_i", "dip_vae_ii")
        ),
        ("vq_vae", "code_entropy"),
    ],
)
def test_every_family_can_be_part_of_a_study(name, term):
    config = dataclasses.replace(TINY, families=(Family(name, 2.0),))
    check_config(config)
    data = dataset(config, None)
    (model,) = architectures(config, data)
    made = objective(config.families[0], config, 1000)
    assert made.name == name

    def loss(key):
        params = model.init(key)
        state = made.init(key, params)
        images = jnp.zeros((config.batch_size, *model.image_shape))
        eps = jnp.zeros((config.batch_size, *model.noise_shape))
        trace = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, images, eps)
        return made.loss(params, state, trace, images, key)

    value, terms = jax.eval_shape(loss, jax.random.key(0))
    assert value.shape == ()
    assert term in terms
