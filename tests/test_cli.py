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

import pytest

from vaecausal_jax import cli, study

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
    num_unit_images=4,
    num_pairs=2,
    doses=(1.0,),
)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process: exit code, standard output, standard error."""
    # The backend is already up: how many devices it has is settled.
    monkeypatch.setattr(cli, "_use_all_cores", lambda: None)
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


def test_study_interrupted_by_ctrl_c_goes_on_when_it_is_run_again(tmp_path):
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
