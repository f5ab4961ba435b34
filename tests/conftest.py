"""Settings and fixtures shared by all tests."""

import os
import pathlib

import jax
import jax.experimental
import pytest

from vaecausal_jax.jax_versions import WITHOUT_FAULTY_SUMS, flags_for_small_programs

# Read when the first device is asked for. Set XLA_FLAGS to test with others.
if (flags := os.environ.get("XLA_FLAGS", "")) in ("", WITHOUT_FAULTY_SUMS):
    os.environ["XLA_FLAGS"] = f"{flags} {flags_for_small_programs()}".strip()

# Commands that tests run, here and in other processes, leave the user's folder alone.
os.environ["VAECAUSAL_COMPILATION_CACHE"] = "off"

if not hasattr(jax, "enable_x64"):  # It lay elsewhere before 0.8.
    jax.enable_x64 = jax.experimental.enable_x64  # pyright: ignore

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

TESTS = pathlib.Path(__file__).parent

OPTIMISED = {
    "circuits/test_tasks.py",
    "data/test_standins.py",
    "effects/test_mediation.py",
    "effects/test_shapley.py",
    "interventions/test_constructors.py",
    "metrics/test_causal.py",
    "models/adapters/test_named_values.py",
    "models/test_convolution.py",
    "models/test_layers.py",
    "models/test_model.py",
    "sweeps/test_grid.py",
    "test_tracing.py",
    "training/test_trainer.py",
}
"""Modules whose laws are about programs as XLA optimises them, or that train for long."""


def pytest_addoption(parser):
    """``--all``: what CI runs."""
    parser.addoption("--all", action="store_true", help="run what is marked thorough, whole")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Without ``--all``, of a thorough test runs the first case alone, or nothing if it has none.

    One that is asked for by name runs whole.
    """
    if config.getoption("all") or any("::" in argument for argument in config.args):
        return
    kept, left, seen = [], [], set()
    for item in items:
        function = item.nodeid.partition("[")[0]
        first = "[" in item.nodeid and function not in seen
        seen.add(function)
        whole_module = any(mark.name == "thorough" for mark in item.parent.iter_markers())
        thorough = item.get_closest_marker("thorough") is not None
        (left if thorough and (whole_module or not first) else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = 65_530 // 2
"""Half of what Linux allows a process by default. Every compiled program keeps some; beyond the
whole, XLA fails or crashes."""


def num_maps() -> int:
    """Memory maps of this process; 0 where the system does not tell."""
    return MAPS.read_text().count("\n") if MAPS.exists() else 0


@pytest.fixture(autouse=True, scope="module")
def optimisation(request):
    """Most tests compile for longer than they run: elsewhere XLA optimises little."""
    name = request.path.relative_to(TESTS).as_posix()
    jax.config.update("jax_disable_most_optimizations", name not in OPTIMISED)
    yield
    assert num_maps() < MOST_MAPS, f"{name} leaves {num_maps()} memory maps"
    if num_maps() > MOST_MAPS // 4:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Folder of real data for tests; tests that need it skip where it is absent."""
    default = pathlib.Path(__file__).parents[2] / "shared"
    path = pathlib.Path(os.environ.get("VAECAUSAL_SHARED", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path}; set VAECAUSAL_SHARED")
    return path / "data"
