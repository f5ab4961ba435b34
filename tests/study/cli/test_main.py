"""The command: its help, its messages, and a study that is interrupted and goes on."""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import rich.table
import xarray as xr

from vaecausal_jax import metrics, study
from vaecausal_jax.study.cli import announcement, main, progress
from vaecausal_jax.study.cli import metrics as metrics_command
from vaecausal_jax.study.cli import sweep as sweep_command
from vaecausal_jax.study.cli.metrics import MetricsCommand
from vaecausal_jax.study.cli.progress import duration, make_console, show_progress
from vaecausal_jax.study.cli.sweep import SweepCommand
from vaecausal_jax.study.run import plan_study

TINY = dataclasses.replace(
    study.PRESETS["train"],
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
    for module in (main, sweep_command, metrics_command):
        monkeypatch.setattr(module, "use_machine", lambda cache, afresh: None)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vaecausal", *map(str, arguments)])
        code = 0
        try:
            main.main()
        except SystemExit as exit:
            code = exit.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_command_is_installed():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="vaecausal")
    assert script.load() is main.main


def test_help_explains_every_option(call):
    code, out, _ = call("study", "--help")
    assert code == 0
    for field in dataclasses.fields(main.StudyCommand):
        assert f"--{field.name.replace('_', '-')}" in out
    for word in ("quick", "dsprites", "pretrained", "minutes", "report.html"):
        assert word in out
    code, out, _ = call("--help")
    assert code == 0
    assert "study" in out


def test_version_is_told_without_starting_a_device(call, monkeypatch):
    monkeypatch.setattr(jax, "devices", None)
    code, out, err = call("--version")
    assert (code, err) == (0, "")
    ours, theirs = (importlib.metadata.version(name) for name in ("vaecausal_jax", "jax"))
    assert out.startswith(f"vaecausal_jax {ours} (jax {theirs}, ")
    assert out.count("\n") == 1


def test_no_arguments_print_the_help(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    for name in main.COMMANDS:
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stduy",), "unknown command 'stduy'. Did you mean 'study'? Valid choices: study, sweep,"),
        (("--versoin",), "unknown option '--versoin'. Did you mean '--version'?"),
        (("study", "--presett", "quick"), "unknown option of vaecausal study '--presett'. Did you"),
        (("study", "--presett=quick"), "Did you mean '--preset'?"),
        (("study", "-preset", "quick"), "Did you mean '--preset'?"),
        (("study", "--seed", "3"), "Did you mean '--seeds'?"),
        (("study", "--print_confg"), "Did you mean '--print-config'?"),
        (("study", "--preset", "qick"), "unknown --preset 'qick'. Did you mean 'quick'?"),
        (("study", "--preset=qick"), "unknown --preset 'qick'. Did you mean 'quick'?"),
        (("sweep", "--stdy", "a"), "unknown option of vaecausal sweep '--stdy'. Did you mean"),
        (("sweep", "--study", "a", "--question", "unit"), "Did you mean 'units'?"),
        (("metrics", "--no-referencs"), "Did you mean '--no-references'?"),
        (("circuits", "--study", "a", "--compar"), "Did you mean '--compare'?"),
    ],
)
def test_mistyped_word_is_one_line_that_names_the_nearest(arguments, message, call):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("vaecausal: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("study", "--print_config", "--seeds", "3"),
        ("sweep", "--study", "a", "--doses", "-2.0", "-1e-1", "1", "--num_pairs=3"),
        ("metrics", "--no-references", "--json"),
        ("study", "-h"),
        ("--help",),
        ("--tyro-print-completion", "bash"),
        (),
    ],
)
def test_words_that_the_parser_takes_are_left_to_it(arguments):
    main.check_arguments(arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sweep",), ("--study",)),
        (("study", "--steps", "many"), ("--steps", "many")),
        (("study", "extra"), ("extra",)),
    ],
)
def test_what_the_parser_refuses_names_the_word(arguments, words, call):
    code, out, err = call(*arguments)
    assert code == 2
    for word in words:
        assert word in out + err
    assert "Traceback" not in out + err


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


def test_a_missing_preset_is_not_an_unknown_one(call):
    code, out, err = call("study", "--preset", "--seeds", "3")
    assert code == 2
    assert "unknown --preset" not in out + err
    assert "Missing argument" in out + err


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


# What is said while the work goes on


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Tells the time that it is given."""

    now = 0.0

    def __call__(self):
        return self.now


def lines_of(calls, interval=30.0):
    """What is printed off a terminal for calls of (time, what, done, total)."""
    stream, clock = io.StringIO(), Clock()
    with show_progress(make_console(stream), interval=interval, clock=clock) as report:
        for clock.now, *call in calls:
            report(*call)
    return stream.getvalue().splitlines()


def test_off_a_terminal_a_stage_has_a_line_at_its_start_and_its_end():
    calls = [(3, "train vae", 0, 1500), (5, "train vae: loss 60.1", 500, 1500)]
    calls += [(8, "train vae: loss 30.4", 1500, 1500), (9, "write tables", 0, 1)]
    calls += [(11, "write tables", 1, 1)]
    assert lines_of(calls) == [
        "[  3 s] train vae 0/1500",
        "[  8 s] train vae 1500/1500, loss 30.4, done in 5 s",
        "[  9 s] write tables",
        "[ 11 s] write tables, done in 2 s",
    ]


def test_between_there_are_lines_with_the_time_left_but_not_one_for_each_report():
    calls = [(float(now), f"measure: part{now}", now, 400) for now in range(401)]
    lines = lines_of(calls)
    assert lines[0] == "[  0 s] measure 0/400, part0"
    assert lines[-1] == "[400 s] measure 400/400, part400, done in 6 min 40 s"
    assert "[ 46 s] measure 46/400, part46, 5 min 54 s left" in lines
    times = [int(line[1:].split()[0]) for line in lines]
    assert max(np.diff(times)) <= 30
    assert len(lines) < 40 + 3


def test_time_left_counts_neither_compilation_nor_what_was_there_before():
    calls = [(0, "sweep: a", 0, 100), (0.1, "sweep: a", 40, 100)]  # read back at once
    calls += [(20, "sweep: a", 50, 100), (24, "sweep: a", 60, 100), (35, "sweep: b", 80, 100)]
    assert lines_of(calls)[1:] == [
        "[ 20 s] sweep 50/100, a",
        "[ 35 s] sweep 80/100, b, 10 s left",
    ]
    calls = [(0, "train", 0, 3), (3600, "train", 1, 3)]  # nothing else to go by, but long
    assert lines_of(calls)[-1] == "[3600 s] train 1/3, 2 h 0 min left"


def test_stage_that_an_earlier_run_finished_says_so():
    assert lines_of([(1, "train vae", 60, 60)]) == ["[  1 s] train vae 60/60, done before"]


@pytest.mark.parametrize("fails", [False, True])
def test_long_call_without_news_has_a_line_every_interval_and_the_thread_ends(fails):
    stream, before = io.StringIO(), set(threading.enumerate())

    def printed(words, num):
        deadline = time.monotonic() + 20
        while stream.getvalue().count(words) < num:
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.01)

    with (
        contextlib.suppress(KeyError),
        show_progress(make_console(stream), interval=0.02) as report,
    ):
        printed("getting ready, still running", 2)
        report("measure: site/decoder/conv0", 3, 14)
        printed("s] measure 3/14, site/decoder/conv0, still running\n", 3)
        report("measure", 14, 14)
        printed("after measure, still running", 1)
        assert [thread.daemon for thread in {*threading.enumerate()} - before] == [True]
        if fails:
            raise KeyError
    assert set(threading.enumerate()) <= before
    length = len(stream.getvalue())
    time.sleep(0.06)
    assert len(stream.getvalue()) == length


def test_every_line_is_flushed():
    class Stream(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stream = Stream()
    with show_progress(make_console(stream)) as report:
        report("train vae", 0, 2)
        assert stream.flushed == "[  0 s] train vae 0/2\n"


def test_on_a_terminal_there_are_bars(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = make_console(stream)
    with show_progress(console) as report:
        console.print("what is done")
        report("train vae: loss [30.4]", 1, 2)
    assert "\x1b[" in stream.getvalue()
    for words in ("what is done", "train vae: loss [30.4]", "1/2", "elapsed", "left"):
        assert words in stream.getvalue()
    assert "s] train" not in stream.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    assert not make_console(Terminal()).is_terminal


def test_off_a_terminal_nothing_is_coloured_wrapped_or_read_as_markup(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    console = make_console(stream)
    table = rich.table.Table("family", *(f"a long column {i}" for i in range(9)))
    table.add_row("vae", *["1.00 [nan, nan]"] * 9)
    console.print(table)
    console.print("word " * 60 + "[bold]")
    printed = stream.getvalue()
    assert "\x1b" not in printed
    lines = printed.splitlines()
    assert len(lines) == 6
    assert lines[3].count("1.00 [nan, nan]") == 9
    assert lines[-1] == "word " * 60 + "[bold]"


def test_of_several_processes_the_first_one_prints(monkeypatch):
    monkeypatch.setattr(progress, "is_first", lambda: False)
    stream = io.StringIO()
    console = make_console(stream)
    with show_progress(console, interval=0.01) as report:
        report("train vae", 0, 2)
        console.print("words")
        time.sleep(0.05)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (63.4, "63 s"), (125, "2 min 5 s"), (15_000, "4 h 10 min"), (330_000, "3 d 19 h")],
)
def test_durations_are_read_at_once(seconds, words):
    assert duration(seconds) == words


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError


def test_closed_pipe_ends_the_process_in_whichever_thread_it_is_met(monkeypatch):
    class Ended(BaseException):
        pass

    def end(code):
        ends.append(code)
        raise Ended

    ends = []
    monkeypatch.setattr(os, "_exit", end)
    console = make_console(Closed())
    with pytest.raises(Ended):
        console.print("words")
    with pytest.raises(Ended), show_progress(make_console(Closed()), interval=100) as report:
        report("train vae", 0, 2)
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "argv", ["vaecausal", "study", "--print-config"])
    monkeypatch.setattr(main, "use_machine", lambda cache, afresh: None)
    with pytest.raises(Ended):
        main.main()
    assert ends == [141] * 3


@pytest.mark.thorough
def test_reader_that_goes_away_leaves_no_traceback():
    command = (
        f"{sys.executable} -c 'from vaecausal_jax.study.cli.main import main; main()' --help | true"
    )
    shell = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert (shell.returncode, shell.stderr) == (141, "")


# What is said before the work begins


def test_opening_says_what_how_much_where_and_that_it_starts_afresh(tmp_path):
    said = []
    plan = plan_study(TINY, tmp_path / "out")
    announcement.announce_study(plan, said.append, lambda *call: None)
    assert said == [
        "tiny: trains 2 models (vae; 2 seeds each) for 1200 steps of 16 images, and intervenes on "
        f"the 137 units of each. Results go to {tmp_path / 'out'}.",
        "It starts afresh; if it is interrupted, the same command goes on where it was.",
    ]
    there = plan._replace(steps={"vae": 400}, num_measured=1)
    assert announcement.describe_found(there) == (
        "It goes on with what is there: vae 400/1200 steps, 1/12 measurements."
    )


@pytest.mark.thorough
def test_long_training_is_timed_before_it_starts_and_leaves_no_trace(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, num_seeds=1, num_steps=2_000_000)
    plan = plan_study(config, tmp_path)
    said, calls, clock = [], [], Clock()

    def tick():
        clock.now += 0.1  # between the start and the end of ten steps of 16 images
        return clock.now

    announcement.announce_study(plan, said.append, lambda *call: calls.append(call), clock=tick)
    assert said[-1] == (
        "Training takes about 5 h 33 min on this machine (vae 5 h 33 min at 1,600 images/s), and "
        "the measurements follow. It can be interrupted at any time, and the same command goes on."
    )
    assert calls == [("time 10 training steps: vae", 0, 1), ("time 10 training steps", 1, 1)]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["spec.json"]

    def never(*args, **kwargs):
        raise AssertionError("timed")

    monkeypatch.setattr(announcement, "training_rate", never)
    for other in (plan._replace(steps={"vae": 2_000_000}), plan_study(TINY, tmp_path / "short")):
        announcement.announce_study(other, said.append, lambda *call: None)


def test_preset_of_hours_is_long_enough_to_be_timed():
    config = study.PRESETS["dsprites"]
    images = config.num_steps * config.batch_size * config.num_seeds * len(config.families)
    assert images > announcement.LONG_TRAINING
    quick = study.PRESETS["train"]
    images = quick.num_steps * quick.batch_size * quick.num_seeds * len(quick.families)
    assert images < announcement.LONG_TRAINING / 4


def test_short_training_tells_its_rate_by_its_second_piece(tmp_path):
    families = (study.Family("vae"), study.Family("beta_vae", 4.0))
    plan = plan_study(dataclasses.replace(TINY, families=families), tmp_path)
    said, calls, clock = [], [], Clock()
    report = announcement.announce_study(
        plan, said.append, lambda *call: calls.append(call), clock=clock
    )
    del said[:]
    asked = [(0, "train vae", 0, 1200), (30, "train vae: loss 9", 400, 1200)]
    asked += [(50, "train vae: loss 8", 800, 1200), (70, "train vae: loss 7", 1200, 1200)]
    for clock.now, *call in asked:
        report(*call)
    # 400 steps in 20 s, and 1600 to go, of 2 x 16 images each.
    assert said == ["Training takes about 80 s more, at 640 images/s."]
    assert calls == [tuple(call) for _, *call in asked]


def test_study_off_a_terminal_says_what_it_does(call, tmp_path, monkeypatch):
    def run(plan, progress):
        progress("train vae", 0, 1200)
        progress("train vae: loss 9", 1200, 1200)
        raise ValueError("enough")

    monkeypatch.setattr(main, "run_plan", run)
    (tmp_path / "tiny.json").write_text(json.dumps(study.as_json(TINY)))
    code, out, err = call("study", "--config", tmp_path / "tiny.json", "--out", tmp_path / "out")
    assert (code, err) == (2, "vaecausal: enough\n")
    lines = out.splitlines()
    assert lines[0].startswith("tiny: trains 2 models (vae; 2 seeds each) for 1200 steps")
    assert re.fullmatch(r"\[ +\d+ s\] train vae 0/1200", lines[2])
    assert re.fullmatch(r"\[ +\d+ s\] train vae 1200/1200, loss 9, done in \d s", lines[3])


def test_interruption_says_that_the_command_goes_on_only_where_it_does(call, monkeypatch, tmp_path):
    def interrupt(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "_exit", sys.exit)
    for name in ("study", "metrics", "circuits"):
        monkeypatch.setattr(main, f"run_{name}_command", interrupt)
    for arguments, message in (
        (("study",), "interrupted; run the same command again to go on."),
        (("circuits", "--study", "a", "--compare"), "interrupted; run the same command again"),
        (("circuits", "--study", "a"), "interrupted.\n"),
        (("metrics", "--codes", "a"), "interrupted.\n"),
    ):
        code, _, err = call(*arguments)
        assert code == 130
        assert err.startswith(f"vaecausal: {message}")


def start(arguments, cache):
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{listen}; from vaecausal_jax.study.cli.main import main; main()"
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
    assert "tiny: trains 2 models" in printed
    assert f"It goes on with what is there: vae {reached}/1200 steps" in printed
    assert re.search(r"^\[ *\d+ s\] measure 0/12, ", printed, re.MULTILINE)
    assert re.search(r"^\[ *\d+ s\] write tables and report, done in", printed, re.MULTILINE)
    assert "\x1b" not in printed
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
    assert re.search(r"^\[ *\d+ s\] sweep 2/2, latent/z, done in", printed, re.MULTILINE)
    effects = xr.open_zarr(tmp_path / "swept" / "effects.zarr", group="latent/z")
    assert dict(effects.sizes) == {"unit": 2, "pair": 10, "arm": 2, "checked": 10}
    code, printed, _ = call(*asked, "--out", tmp_path / "swept")
    assert code == 0
    assert "It goes on with what is there, which is all." in printed
    for options, expected in (
        (("--num-pairs", "3"), "holds another sweep (parts.latent/z.inputs: saved"),
        (("--family", "vea"), "unknown model '--family vea --seed 0'. Did you mean"),
        (("--sites", "latent/zz"), "unknown site 'latent/zz'. Did you mean 'latent/z'?"),
        (("--max-runs", "39"), "40 forward passes are more than --max-runs 39 allows"),
        (("--study", tmp_path / "none"), "holds no study; `vaecausal study --out"),
        (("--question", "pairs", "--max-runs", "9"), "take 30 runs, more than max_runs 9"),
    ):
        code, printed, message = call(*asked, *options, "--out", tmp_path / "swept")
        assert (code, printed) == (2, "")
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
    gap = metrics.mig(arrays["codes"][:60], arrays["factors"][:60]).value
    assert f"{gap:.3f}" in out
    opening, *lines = out.splitlines()
    assert opening.startswith(f"Scores 90 codes of {path} by 2 metrics (mig, dci_lasso).")
    assert re.fullmatch(r"\[ *\d+ s\] score 0/4, codes.npz, mig", lines[0])
    assert re.search(r"^\[ *\d+ s\] score 4/4, done in", out, re.MULTILINE)


def test_metrics_as_json_is_one_object_of_the_same_numbers(call, tmp_path):
    path, arrays = saved_codes(tmp_path, codes=np.tile(saved_codes(tmp_path)[1]["codes"], 2))
    options = ("--metrics", "mig", "gaussian_tc", "--replicates", 0, "--num-train", 50, "--json")
    code, out, err = call("metrics", "--codes", path, *options)
    assert code == 0
    assert "] score 0/4, codes.npz, mig\n" in err
    result = json.loads(out)
    assert (result["num_rows"], result["num_train"], result["num_codes"]) == (90, 50, 4)
    gap = result["metrics"]["mig"]
    expected = metrics.mig(arrays["codes"][:50], arrays["factors"][:50]).value
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
    assert code == 2
    assert "Traceback" not in out
    assert err.startswith("vaecausal: ")
    assert message.format(tmp=tmp_path) in err
    assert err.count("\n") == 1
