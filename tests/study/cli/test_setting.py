"""Commands keep compiled programs, unless they are told not to or cannot."""

import os
import pathlib
import subprocess
import sys

import pytest

from vaecausal_jax.compilation_cache import VARIABLE
from vaecausal_jax.study.cli.setting import use_machine

PROGRAM = """
import pathlib, sys
import jax
from vaecausal_jax.study.cli.setting import use_machine

use_machine(pathlib.Path(sys.argv[1]))
print(jax.config.jax_compilation_cache_dir)
use_machine(None)
print(jax.config.jax_compilation_cache_dir)
use_machine(None, afresh=True)
print(jax.config.jax_enable_compilation_cache, len(jax.devices()))
"""


def test_a_command_goes_on_where_programs_cannot_be_kept_and_keeps_them_elsewhere(tmp_path):
    (tmp_path / "file").touch()
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    environment |= {VARIABLE: str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "file/cache")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    without, kept, afresh = done.stdout.splitlines()
    assert without == "None"
    assert pathlib.Path(kept).parent == tmp_path / "cache"
    assert afresh.startswith("False ")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("vaecausal"))
    assert "goes on without a cache: compiled programs cannot be kept in" in line


def test_a_folder_for_programs_and_none_at_all_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="--compilation-cache and --no-compilation-cache exclude"):
        use_machine(tmp_path, afresh=True)
