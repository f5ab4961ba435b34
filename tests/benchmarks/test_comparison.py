"""Effects found by other libraries on the same weights: an independent check of ours."""

import importlib
import importlib.util
import pathlib

import numpy as np
import pytest

PEERS = ("torch", "pyvene", "nnsight", "penzai")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("site", ["decoder/conv0", "encoder/conv2"])
def test_pyvene_nnsight_and_penzai_find_the_same_effects(site, tmp_path, monkeypatch):
    if missing := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs the bench extra: {missing}")
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2])
    comparison = importlib.import_module("benchmarks.comparison")
    path = tmp_path / "inputs.npz"
    comparison.sweep.write_inputs(path, comparison.models.conv_vae(), 2)
    calls = comparison.questions(site, path, 2)
    ours = calls.pop("vaecausal_jax")()
    assert ours.shape == (64, 2)
    assert ours.max() > 0
    for name, call in calls.items():
        np.testing.assert_allclose(call(), ours, rtol=1e-5, atol=1e-5 * ours.max(), err_msg=name)
