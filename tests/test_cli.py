"""The command: its help, its messages, and a study that is interrupted and goes on."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from vaecausal_jax import cli, disentanglement, study
from vaecausal_jax.commands import sweep as sweep_command
from vaecausal_jax.commands.metrics import MetricsCommand
from vaecausal_jax.commands.sweep import SweepCommand

TINY = dataclasses.replace(
    study.PRESETS["quick"],
    name="tiny",
    families=(study.Family("vae"),),
    image_size=16,
    num_seeds=2,
    latent_size=2,
    encoder_channels=(2,),
    encoder_dense=(),
    decoder_dense=(),
    decoder_channels=(2,),
    num_steps=1200,
    record_every=20,
    batch_size=16,
    num_images=8,
    num_unit_images=8,
    num_pairs=2,
    num_score_images=500,
    doses=(1.0,),
)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process: exit code, standard output, standard error."""
    # The backend is already up: how many devices it has is settled.
    for module in (cli, sweep_command):
        monkeypatch.setattr(module, "use_machine", lambda cache: None)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vaecausal", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit:
            code = exit.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_command_is_installed():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="vaecausal")
    assert script.load() is cli.main


def test_help_explains_every_option(call):
    code, out, _ = call("study", "--help")
    assert code == 0
    for field in dataclasses.fields(cli.StudyCommand):
        assert f"--{field.name.replace('_', '-')}" in out
    for word in ("quick", "dsprites", "pretrained", "minutes", "report.html"):
        assert word in out
    code, out, _ = call("--help")
    assert code == 0
    assert "study" in out


@pytest.mark.parametrize("preset", study.PRESETS)
def test_printed_config_is_a_valid_config_file(preset, call, tmp_path):
    code, printed, _ = call("study", "--preset", preset, "--print-config")
    assert code == 0
    path = tmp_path / "config.json"
    path.write_text(printed)
    assert study.read_config(path) == study.PRESETS[preset]
    code, again, _ = call("study", "--config", path, "--print-config", "--seeds", 3, "--steps", 50)
    assert code == 0
    expected = dataclasses.replace(study.PRESETS[preset], num_seeds=3, num_steps=50)
    assert study.from_json(json.loads(again)) == expected


def test_unknown_preset_lists_the_known_ones(call, tmp_path):
    code, out, err = call("study", "--preset", "quik", "--out", tmp_path / "out")
    assert code == 2
    for name in study.PRESETS:
        assert name in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({}, ("--config", "{tmp}/none.json"), "no config file {tmp}/none.json"),
        ({"num_step": 3}, (), "unknown field of a study's config 'num_step'. Did you mean"),
        ({"num_steps": "many"}, (), "num_steps is 'many', expected int"),
        ({}, ("--steps", "1201"), "num_steps 1201 is no multiple of record_every 20"),
        ({}, ("--seeds", "0"), "num_seeds 0"),
        ({}, ("--data", "{tmp}"), "takes no --data"),
        ({}, ("--out", "{tmp}/config.json"), "{tmp}/config.json"),
        ({"data": "pretrained", "num_seeds": 1}, (), "needs --data DIR"),
        ({"data": "pretrained", "num_seeds": 1}, ("--data", "{tmp}"), "no file {tmp}/VAE.npz"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(config, options, message, call, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**study.as_json(TINY), **config}))
    options = [option.format(tmp=tmp_path) for option in options]
    if "--config" not in options:
        options += ["--config", str(path)]
    if "--out" not in options:
        options += ["--out", str(tmp_path / "out")]
    code, out, err = call("study", *options)
    assert code == 2
    assert err.startswith("vaecausal: ")
    assert message.format(tmp=tmp_path) in err
    assert err.count("\n") == 1
    assert "Traceback" not in out
    assert not (tmp_path / "out").exists()


def start(arguments, cache):
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{listen}; from vaecausal_jax.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "COLUMNS": "200",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )


@pytest.mark.slow
def test_study_interrupted_by_ctrl_c_goes_on_and_its_models_can_be_swept(tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(study.as_json(TINY)))
    out = tmp_path / "out"
    arguments = ("--config", tmp_path / "tiny.json", "--out", out)
    process = start(arguments, tmp_path / "cache")
    deadline = time.monotonic() + 120
    checkpoints = out / "checkpoints" / "vae"
    while not list(checkpoints.glob("*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while process.poll() is None:  # one that hits a callback of the garbage collector is ignored
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    printed, message = process.communicate()
    assert process.returncode == 130, message
    assert "vaecausal: interrupted; run the same command again to go on." in message
    assert "Traceback" not in message + printed
    assert not (out / "summary.json").exists()
    reached = max(int(path.stem) for path in checkpoints.glob("*.json"))
    assert 0 < reached <= 1200

    process = start(arguments, tmp_path / "cache")
    printed, message = process.communicate(timeout=240)
    assert process.returncode == 0, message
    assert "tiny: mean over seeds" in printed
    for word in ("family", "rec. (nats)", "KL (nats)", "active", "vae"):
        assert word in printed
    assert f"{out / 'report.html'} written" in printed
    for name in ("summary.json", "report.html", "effects.zarr", "figures"):
        assert (out / name).exists()
    summary = json.loads((out / "summary.json").read_text())
    assert study.from_json(summary["config"]) == TINY
    assert summary["device"]["count"] == len(os.sched_getaffinity(0))
    assert summary["matmul_precision"] == "highest"

    asked = ("sweep", "--study", out, "--sites", "latent/z", "--num-pairs", "2")
    code, printed, message = call(*asked, "--out", tmp_path / "swept")
    assert (code, message) == (0, "")
    assert "vae, seed 0: 2 interventions, at most 40 forward passes" in printed
    effects = xr.open_zarr(tmp_path / "swept" / "effects.zarr", group="latent/z")
    assert dict(effects.sizes) == {"unit": 2, "pair": 10, "arm": 2, "checked": 10}
    for options, expected in (
        (("--num-pairs", "3"), "holds another sweep (parts.latent/z.inputs: saved"),
        (("--family", "vea"), "unknown model '--family vea --seed 0'. Did you mean"),
        (("--sites", "latent/zz"), "unknown site 'latent/zz'. Did you mean 'latent/z'?"),
        (("--max-runs", "39"), "that is more than --max-runs 39."),
        (("--study", tmp_path / "none"), "holds no study; `vaecausal study --out"),
        (("--question", "pairs", "--max-runs", "9"), "take 30 runs, more than max_runs 9"),
    ):
        code, _, message = call(*asked, *options, "--out", tmp_path / "swept")
        assert code == 2
        assert expected in message


def test_sweep_help_explains_every_option(call):
    code, out, _ = call("sweep", "--help")
    assert code == 0
    for field in dataclasses.fields(SweepCommand):
        assert f"--{field.name.replace('_', '-')}" in out


# Metrics


def saved_codes(folder, **changes):
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, size, 90) for size in (2, 3)], axis=1)
    arrays = {"codes": factors + 0.3 * rng.normal(size=(90, 2)), "factors": factors, **changes}
    path = folder / "codes.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path, arrays


def test_metrics_prints_scores_with_interval_and_chance(call, tmp_path):
    path, arrays = saved_codes(tmp_path)
    options = ("--metrics", "mig", "dci_lasso", "--replicates", 2, "--shuffles", 1)
    code, out, err = call("metrics", "--codes", path, *options)
    assert (code, err) == (0, "")
    for word in ("metric", "interval", "chance", "dci_lasso_completeness", "60 rows", "Not run"):
        assert word in out
    gap = disentanglement.mig(arrays["codes"][:60], arrays["factors"][:60]).value
    assert f"{gap:.3f}" in out


def test_metrics_as_json_is_one_object_of_the_same_numbers(call, tmp_path):
    path, arrays = saved_codes(tmp_path, codes=np.tile(saved_codes(tmp_path)[1]["codes"], 2))
    options = ("--metrics", "mig", "gaussian_tc", "--replicates", 0, "--num-train", 50, "--json")
    code, out, _ = call("metrics", "--codes", path, *options)
    assert code == 0
    result = json.loads(out)
    assert (result["num_rows"], result["num_train"], result["num_codes"]) == (90, 50, 4)
    gap = result["metrics"]["mig"]
    expected = disentanglement.mig(arrays["codes"][:50], arrays["factors"][:50]).value
    np.testing.assert_allclose(gap["value"], expected, atol=1e-6)
    assert gap["low"] is None
    assert isinstance(gap["chance"], float)
    assert "20 bins" in gap["settings"]
    assert result["metrics"]["gaussian_tc"]["value"] is None  # Infinite: every code is there twice.


def test_metrics_help_explains_every_option(call):
    code, out, _ = call("metrics", "--help")
    assert code == 0
    for field in dataclasses.fields(MetricsCommand):
        assert f"--{field.name.replace('_', '-')}" in out


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ("--metrics", "mgi"), "unknown metric 'mgi'. Did you mean 'mig'?"),
        ({}, ("--codes", "{tmp}/none.npz"), "no file {tmp}/none.npz: expected an npz"),
        ({}, ("--codes", "{tmp}/text.npz"), "{tmp}/text.npz is no npz archive of numeric arrays"),
        ({"codes": np.array([{}])}, (), "codes.npz is no npz archive of numeric arrays"),
        ({"factors": None}, (), "codes.npz has no array 'factors', only codes."),
        ({"codes": np.ones((80, 2))}, (), "factors have shape (90, 2), expected (80, factors)"),
        ({"codes": np.full((90, 2), np.nan)}, (), "codes[0, 0] is nan"),
        ({"factors": np.ones((90, 2), int)}, (), "factor 0 has one level"),
        ({}, ("--num-train", "90"), "num_train is 90, expected 1 to 89"),
    ],
)
def test_mistakes_of_metrics_are_one_line_and_exit_code_2(
    changes, options, message, call, tmp_path
):
    path, _ = saved_codes(tmp_path, **changes)
    (tmp_path / "text.npz").write_text("not an archive")
    options = [option.format(tmp=tmp_path) for option in options]
    if "--codes" not in options:
        options += ["--codes", path]
    code, out, err = call("metrics", *options)
    assert (code, out) == (2, "")
    assert err.startswith("vaecausal: ")
    assert message.format(tmp=tmp_path) in err
    assert err.count("\n") == 1
