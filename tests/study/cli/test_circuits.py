"""The command that finds the circuits of factors, on a small untrained model."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.data import sprites
from vaecausal_jax.effects.paths import OUTCOME

pytest.importorskip("matplotlib")
pytest.importorskip("xarray")
from vaecausal_jax import study  # noqa: E402
from vaecausal_jax.study.cli import circuits as command  # noqa: E402
from vaecausal_jax.study.results import Trained  # noqa: E402

PIECES = [
    "circuit of scale",
    "circuit of x",
    "effect graph",
    "modules and motifs",
    "tables and drawings",
]


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
    begun = []
    command.write_circuits(
        options, options.out, model, params, sprites(16), setting, progress=begun.append
    )
    assert begun == PIECES
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


def test_command_says_what_it_seeks_where_and_how_far_it_is(tmp_path, monkeypatch, capsys):
    model = models.mlp_vae((16, 16, 1), latent_size=2, encoder_dense=(3,), decoder_dense=(4,))
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
    labels = [("vae", 0), ("vae", 1), ("beta_vae_4", 0)]
    trained = Trained(model, params, labels, ["ok", "collapsed: no latent", "ok"], {})
    found = study.PRESETS["train"], sprites(16), [trained]
    wrote = []

    def find(options, out, model, params, data, setting, *, progress):
        wrote.append(setting["family"])
        for piece in PIECES:
            progress(piece)
        return {}

    for name, stand_in in (
        ("use_machine", lambda cache, afresh: None),
        ("write_circuits", find),
        ("circuit_numbers", lambda tables: tables),
        ("write_comparison", lambda folder, numbers: None),
        ("_finished", lambda out, inputs: {"done": 1} if "beta_vae_4" in out.parts else None),
    ):
        monkeypatch.setattr(command, name, stand_in)
    monkeypatch.setattr(study, "load_study", lambda folder, data_path: found)
    out = tmp_path / "out"
    options = command.CircuitsCommand(study=tmp_path, out=out, factors=("scale", "x"))
    command.run_circuits_command(options)
    opening, first, last, end = capsys.readouterr().out.splitlines()
    assert opening == (
        f"Circuits of 2 factors (scale, x) are sought in vae, seed 0 of {tmp_path}, among 13 units "
        f"of 5 sites, with 64 minimal pairs per factor. Results go to {out}."
    )
    assert re.fullmatch(r"\[ *\d+ s\] find circuits 0/5, vae seed 0, circuit of scale", first)
    assert re.fullmatch(r"\[ *\d+ s\] find circuits 5/5, done in \d s", last)
    assert re.fullmatch(re.escape(f"{out / 'report.html'} written, ") + r"\d s in all\.", end)
    command.run_circuits_command(dataclasses.replace(options, compare=True))
    opening, *_, last, end = capsys.readouterr().out.splitlines()
    assert f"in 2 models of {tmp_path}" in opening
    assert opening.endswith("goes on with the next model. 1 of them is done already.")
    assert "find circuits 5/5" in last
    assert wrote == ["vae", "vae"]
    with pytest.raises(ValueError, match="unknown factor 'scal'. Did you mean 'scale'?"):
        command.run_circuits_command(dataclasses.replace(options, factors=("scal",)))
    assert capsys.readouterr().out == ""


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
