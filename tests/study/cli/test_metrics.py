"""``vaecausal metrics`` on models: a study's, and pretrained ones against the public scores."""

import json
import sys

import jax
import numpy as np
import pytest

from vaecausal_jax import study
from vaecausal_jax.data import factors_at, num_images, sample_factors, sprites
from vaecausal_jax.metrics import mig
from vaecausal_jax.metrics.posteriors import encode
from vaecausal_jax.models import mlp_vae, pretrained
from vaecausal_jax.study.cli import main
from vaecausal_jax.study.cli.metrics import MetricsCommand, run_metrics_command
from vaecausal_jax.study.results import Trained

QUICK = ("--metrics", "mig", "modularity", "--replicates", "2", "--shuffles", "1")


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs the command in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vaecausal", "metrics", *map(str, arguments)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def studied(monkeypatch):
    """Three small models in place of a study's."""
    model = mlp_vae((16, 16, 1), latent_size=3, encoder_dense=(8,), decoder_dense=(8,))
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
    labels = [("vae", 0), ("vae", 1), ("beta_vae (4)", 0)]
    trained = Trained(model, params, labels, ["ok"] * 3, {})
    found = None, sprites(16), [trained]
    monkeypatch.setattr(study, "load_study", lambda folder, data_path: found)
    return found


@pytest.mark.thorough
def test_every_model_of_a_study_is_scored_beside_floors_and_ceilings(call, studied):
    code, out, err = call("--study", "any", "--num-images", 120, "--json", *QUICK)
    assert code == 0
    record = json.loads(out)
    labels = ["vae seed 0", "vae seed 1", "beta_vae (4) seed 0"]
    assert err.startswith(f"Scores the codes that 3 models of any ({', '.join(labels)}) give 120 ")
    for line in ("encode images", "encode images, done in", "score 0/6, vae seed 0, mig"):
        assert f" s] {line}" in err
    assert list(record["models"]) == labels
    assert set(record["references"]) == {"perfect", "rotated", "noise"}
    _, data, (trained,) = studied
    image_key, _ = jax.random.split(jax.random.key(0))
    factors = sample_factors(image_key, data, 120)
    codes = encode(trained.model, trained.params, data, factors).mean[1]
    expected = mig(codes[:80], factors[:80]).value
    entry = record["models"]["vae seed 1"]["metrics"]["mig"]
    np.testing.assert_allclose(entry["value"], expected, rtol=1e-6)
    assert entry["low"] < entry["value"] < entry["high"]
    assert "public" not in entry
    assert {"kl", "reconstruction", "units", "udr_lasso"} <= set(
        record["models"]["vae seed 0"]["metrics"]
    )
    perfect, noise = (record["references"][name]["mig"]["value"] for name in ("perfect", "noise"))
    assert perfect > noise + 0.3


def test_families_can_be_chosen_and_references_left_out(call, studied):
    options = ("--families", "vae", "--num-images", 120, "--no-references", *QUICK)
    code, out, _ = call("--study", "any", *options)
    assert code == 0
    assert "vae seed 1: 3 codes, 5 factors, 80 rows" in out
    assert "beta_vae (4)" not in out
    assert "rotated" not in out
    code, _, err = call("--study", "any", "--families", "vea")
    assert code == 2
    assert "unknown family 'vea'. Did you mean 'vae'?" in err


@pytest.mark.thorough
def test_the_whole_set_is_every_image_once(studied):
    _, data, (trained,) = studied
    command = MetricsCommand(study="any", num_images=num_images(data))
    drawn = []

    def keep(model, params, data, factors):
        drawn.append(factors)
        raise ValueError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaecausal_jax.study.cli.metrics.encode", keep)
        with pytest.raises(ValueError, match="enough"):
            run_metrics_command(command)
    levels = np.unique(np.asarray(drawn[0]), axis=0)
    np.testing.assert_array_equal(levels, factors_at(data, np.arange(num_images(data))))


def test_pretrained_scores_stand_beside_the_public_ones(call, shared):
    folder = shared / "pretrained_dsprites"
    options = ("--families", "beta_tc_vae", "--num-images", 1500)
    code, out, _ = call("--pretrained", folder, *options, "--json", *QUICK)
    assert code == 0
    found = json.loads(out)["models"]["beta_tc_vae"]["metrics"]
    # Few rows here; KL and reconstruction converge at once.
    np.testing.assert_allclose(found["kl"]["value"], 13.52, atol=0.2)
    np.testing.assert_allclose(found["reconstruction"]["value"], 32.8, atol=1.5)
    assert found["units"]["value"] == found["units"]["public"] == 5
    assert found["mig"]["public"] == 0.133
    np.testing.assert_allclose(found["mig"]["difference"], found["mig"]["value"] - 0.133)
    assert abs(found["mig"]["difference"]) < 0.02


@pytest.mark.slow
def test_protocol_on_pretrained_models_gives_the_public_scores(call, shared):
    code, out, _ = call("--pretrained", shared / "pretrained_dsprites", "--json", "--replicates", 0)
    assert code == 0
    record = json.loads(out)
    tolerance = {"kl": 0.1, "reconstruction": 0.5, "units": 0, "udr_lasso": 0.1}
    for name in pretrained.DSPRITES_FILES:
        for metric, entry in record["models"][name]["metrics"].items():
            if "public" in entry:
                assert abs(entry["difference"]) <= tolerance.get(metric, 0.04), (name, metric)


def test_exactly_one_source_is_asked_for(call):
    code, out, err = call("--codes", "a.npz", "--study", "b")
    assert (code, out) == (2, "")
    assert "expected one of --codes, --study and --pretrained, got --codes and --study." in err
    code, _, err = call()
    assert code == 2
    assert "got none" in err
