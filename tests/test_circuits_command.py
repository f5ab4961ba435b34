"""The command that finds the circuits of factors, on a small untrained model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.data import sprites
from vaecausal_jax.paths import OUTCOME

pytest.importorskip("matplotlib")
pytest.importorskip("xarray")
from vaecausal_jax.commands import circuits as command  # noqa: E402


@pytest.mark.slow
def test_command_writes_tables_drawings_and_a_page(tmp_path):
    model = models.conv_vae(
        (16, 16, 1),
        latent_size=2,
        encoder_channels=(3, 4),
        encoder_dense=(),
        decoder_dense=(6,),
        decoder_channels=(2, 2),
    )
    options = command.CircuitsCommand(
        study=tmp_path, out=tmp_path / "out", factors=("scale", "x"), num_pairs=12, num_images=8
    )
    params = model.init(jax.random.key(1))
    setting = {"family": "<VAE>", "seed": 0}
    command.write_circuits(options, options.out, model, params, sprites(16), setting)
    written = json.loads((tmp_path / "out" / "circuits.json").read_text())
    assert list(written["factors"]) == ["scale", "x"]
    sizes = {n: site.num_units for n, site in model.sites.items()}
    nodes = [n for n in sizes if n not in ("input/image", "decoder/logits")]
    for factor in written["factors"].values():
        assert factor["num_candidates"] == sum(sizes[n] for n in nodes)
        assert factor["num_units"] + factor["num_undecided"] <= factor["num_candidates"]
        assert factor["curve"][-1]["value"] == pytest.approx(1)
    with np.load(tmp_path / "out" / "effect_graph.npz") as saved:
        assert saved["size"].shape == (2 + sum(sizes[n] for n in nodes) + 1,) * 2
        assert saved["layer"][-1] == OUTCOME
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;VAE&gt;" in page
    drawn = ("circuit_scale", "faithfulness", "overlap")
    for name in drawn + ("factor_map",) * (written["factor_map"] is not None):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
        assert f"{name}.png" in page


@pytest.mark.parametrize("options", [{"family": "vae"}, {"seed": 0}])
def test_comparing_all_models_refuses_the_choice_of_one_before_anything_starts(options, tmp_path):
    asked = command.CircuitsCommand(study=tmp_path, compare=True, **options)
    with pytest.raises(ValueError, match="leave out --family and --seed"):
        command.run_circuits_command(asked)


def test_a_model_that_was_done_is_kept_if_the_same_was_asked(tmp_path):
    asked = command.CircuitsCommand(study=tmp_path, compare=True)
    setting, params = {"family": "vae", "seed": 0}, {"w": np.ones(2)}
    inputs = command._inputs(asked, params, setting)
    tables = {"inputs": inputs, "factors": {}}
    (tmp_path / "circuits.json").write_text(json.dumps(tables))
    assert command._finished(tmp_path, inputs) is None  # No page: it was interrupted.
    (tmp_path / "report.html").write_text("")
    assert command._finished(tmp_path, inputs) == tables
    for other in (
        command._inputs(asked, {"w": np.zeros(2)}, setting),
        command._inputs(dataclasses.replace(asked, q=0.1), params, setting),
        command._inputs(asked, params, {**setting, "seed": 1}),
    ):
        assert command._finished(tmp_path, other) is None
