"""The calibration benchmark as a test: a thousand samples a question, each with its own weights."""

import json
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_intervals_cover_and_tests_err_as_often_as_they_say():
    # T31.
    command = [sys.executable, "-m", "benchmarks.calibration", "--replicates", "1000", "--json"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["replicates"] == 1000
    assert len(record["coverage"]) >= 14
    outside = {k: v for k, v in record["coverage"].items() if not 0.93 <= v <= 0.97}
    assert not outside
    assert max(record["contrast"].values()) < 0.93
    # Three standard errors of a thousand at 0.05.
    assert max(record["fwer"].values()) < 0.07
    assert max(record["fdr"].values()) < 0.07
    assert min(record["power"].values()) > 0.2
