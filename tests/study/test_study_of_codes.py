"""Studies with VQ-VAE and circuits: two architectures, measured apart and told together."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as iv
from vaecausal_jax import study
from vaecausal_jax.circuits.by_factor import select_circuit
from vaecausal_jax.circuits.masks import flat_scores
from vaecausal_jax.circuits.scorers import node_samples
from vaecausal_jax.circuits.tasks import make_task, outcomes
from vaecausal_jax.interventions import set_to
from vaecausal_jax.study import Family
from vaecausal_jax.study.config import dataset
from vaecausal_jax.study.factors import make_readout
from vaecausal_jax.study.inputs import make_inputs
from vaecausal_jax.study.results import in_order, locate, roster

pytestmark = pytest.mark.thorough

TINY = dataclasses.replace(
    study.PRESETS["train"],
    name="tiny",
    families=(Family("vq_vae"), Family("vae")),
    image_size=16,
    num_seeds=2,
    latent_size=2,
    num_codes=5,
    code_size=3,
    encoder_channels=(2, 2),
    encoder_dense=(),
    decoder_dense=(),
    decoder_channels=(2, 2),
    num_steps=60,
    record_every=3,
    batch_size=16,
    learning_rate=1e-2,
    num_images=10,
    num_unit_images=8,
    num_pairs=16,
    num_swap_pairs=8,
    num_untrained=1,
    num_score_images=500,
    doses=(0.5, 1.0),
)
POSITIONS = 16


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return study.run_study(TINY, folder), folder


def test_models_come_in_stacks_with_codes_last(finished):
    made, folder = finished
    assert [trained.labels for trained in made.trained] == [
        [("vae", 0), ("vae", 1)],
        [("vq_vae", 0), ("vq_vae", 1)],
    ]
    parts = {path.stem for path in (folder / "parts").glob("*.npz")}
    assert {"health", "latent", "vq.health", "vq.latent", "vq.scores"} <= parts
    assert "vq.modularity" not in parts
    assert [row["family"] for row in made.summary["models"]] == ["vae"] * 2 + ["vq_vae"] * 2


def test_each_architecture_has_nan_where_it_lacks_what_the_other_has(finished):
    effects = finished[0].effects
    assert dict(effects.sizes)["position"] == POSITIONS
    assert dict(effects.sizes)["code"] == TINY.num_codes
    latents = ["kl_per_latent", "total_index_prior", "dose_response"]
    for name, own, other in [
        *((name, "vae", "vq_vae") for name in latents),
        *((name, "vq_vae", "vae") for name in ("position_index", "crossed", "position_mediated")),
    ]:
        assert np.isfinite(effects[name].sel(family=own)).any(), name
        assert np.isnan(effects[name].sel(family=other)).all(), name
    sites = effects["site"].values
    read = effects["read"].sel(family="vae").isel(unit=np.flatnonzero(sites == "latent/pre"))
    assert read.size
    assert np.isnan(read).all()
    shared = effects["read"].isel(unit=np.flatnonzero(sites == "encoder/conv0"))
    assert np.isfinite(shared).all()


def test_one_position_redrawn_equals_a_python_loop(finished):
    (_, trained), effects = finished[0].trained, finished[0].effects
    data = dataset(TINY, None)
    readout = make_readout(TINY, data, lambda *_: None)
    inputs = make_inputs(TINY, data, trained.model, readout)
    params = jax.tree.map(lambda leaf: leaf[1], trained.params)

    def image(x, eps, interventions=None):
        return jax.nn.sigmoid(trained.model.forward(params, x, eps, interventions or {}).outputs)

    position, (row, column), own = 6, divmod(6, 4), []
    for i in range(TINY.num_images):
        x, eps = inputs.x[i], inputs.eps[i]
        codes = trained.model.forward(params, x, eps).activations["latent/codes"]
        donor = trained.model.forward(params, inputs.x[i - 1], eps).activations["latent/codes"]
        patched = codes.at[row, column].set(donor[row, column])
        done = set_to(trained.model.sites, "latent/codes", patched)
        own.append(jnp.linalg.norm(image(x, eps, done) - image(x, eps)))
    found = effects["position_length"].sel(family="vq_vae", seed=1, statistic="value")
    np.testing.assert_allclose(found[position], np.mean(own), rtol=1e-4, atol=1e-6)


def test_a_whole_map_of_codes_mediates_everything(finished):
    checks = finished[0].summary["checks"]
    assert checks["largest_deviation_of_a_whole_site_from_share_1"] < 1e-3
    assert checks["largest_effect_of_a_latent_redrawn_as_itself"] == 0.0


def test_families_are_compared_in_what_both_have(finished):
    summary = finished[0].summary
    difference = summary["differences"]["vq_vae"]
    assert {"reconstruction", "paper_effect_strength"} <= difference.keys()
    assert "kl" not in difference
    values = {
        family: [m["reconstruction"] for m in summary["models"] if m["family"] == family]
        for family in ("vae", "vq_vae")
    }
    expected = np.subtract(values["vq_vae"], values["vae"]).mean()
    np.testing.assert_allclose(difference["reconstruction"].value, expected, rtol=1e-5)


def test_the_page_has_a_section_of_codes_and_no_latents_of_models_without(finished):
    page = (finished[1] / "report.html").read_text()
    assert "<h2>Codes</h2>" in page
    assert "One channel shifted before quantisation" in page
    assert not re.search(r"\bnan\b|\bNone\b", page.split("<h2>Codes</h2>")[1].split("<h2>")[0])
    json.loads((finished[1] / "summary.json").read_text(), parse_constant=pytest.fail)


def test_circuits_are_those_of_pairs_patched_anew_and_run_by_hand(finished):
    (trained, _), parts = finished[0].trained, finished[1] / "parts"
    found = np.load(parts / "circuits.npz")
    sizes = found["mask"][:2].sum(axis=-1)
    model, k = np.unravel_index(np.argmax(sizes), sizes.shape)
    assert 0 < sizes[model, k] < found["mask"].shape[-1]
    data = dataset(TINY, None)
    readout = make_readout(TINY, data, lambda *_: None)
    inputs = make_inputs(TINY, data, trained.model, readout)
    net = trained.model.bind(jax.tree.map(lambda leaf: leaf[model], trained.params))
    nodes = [n for n in net.sites if n.startswith(("encoder/", "latent/", "decoder/"))]
    pairs = jax.tree.map(lambda a: a[k], inputs.pairs)
    task = make_task(net, pairs, nodes=nodes)
    y0, y1 = outcomes(task)
    expected = select_circuit(
        node_samples(task), float(jnp.mean(jnp.sum((y1 - y0) ** 2, (1, 2, 3))))
    )
    mask = flat_scores(expected.circuit)[0] > 0
    np.testing.assert_array_equal(found["mask"][model, k], mask)
    # One pair that judges: everything outside the circuit is held at the unchanged image.
    x0, x1, eps = (a[k, 0] for a in inputs.swaps.runs)
    before, after = net(x0, eps), net(x1, eps)
    held = {
        name: iv.Replace(net.sites[name].spread(~expected.circuit[name]), before.activations[name])
        for name in nodes
    }
    direction = after.outputs - before.outputs
    metric = jnp.vdot(net(x1, eps, held).outputs - before.outputs, direction)
    np.testing.assert_allclose(found["metric"][model, k, 0, 0, 0], metric, rtol=1e-3, atol=1e-4)
    whole = found["metric"][model, k, 0, -1, 0]
    np.testing.assert_allclose(whole, jnp.vdot(direction, direction), rtol=1e-3)


def test_untrained_networks_stand_beside_the_models_and_in_no_mean(finished):
    made, folder = finished
    assert np.load(folder / "parts" / "circuits.npz")["mask"].shape[0] == 3
    assert len(made.summary["models"]) == 4
    untrained = made.summary["circuits"]["untrained"]
    assert untrained.keys() == {"untrained", "untrained, with codes"}
    assert all(len(values) == 1 for own in untrained.values() for values in own.values())
    shares = [m["circuit_share"] for m in made.summary["models"][:2]]
    mean = made.summary["families"]["vae"]["circuit_share"]
    np.testing.assert_allclose(mean.value, np.mean(shares), rtol=1e-6)
    page = (folder / "report.html").read_text()
    assert "untrained, with codes" in page.split("Circuits and motifs</h2>")[1]


@pytest.mark.slow
def test_a_study_of_codes_alone_runs(tmp_path):
    made = study.run_study(dataclasses.replace(TINY, families=TINY.families[:1]), tmp_path)
    assert [trained.labels[0] for trained in made.trained] == [("vq_vae", 0)]
    assert "<h2>Codes</h2>" in (tmp_path / "report.html").read_text()


def test_models_are_found_in_their_stack(finished):
    stacks = finished[0].trained
    trained, place = locate(stacks, ("vq_vae", 1))
    assert (trained, place) == (stacks[1], 1)
    assert roster(stacks).families == ["vae", "vq_vae"]
    assert roster(stacks).num_seeds == 2
    with pytest.raises(ValueError, match=r"no model \('vae', 5\); there are \[\('vae', 0\)"):
        locate(stacks, ("vae", 5))


def test_columns_of_several_stacks_are_joined_in_order():
    joined = in_order([{"a": np.array([1.0, 2.0])}, {"b": np.array([[3.0, 4.0]])}], [2, 1])
    np.testing.assert_array_equal(joined["a"], [1.0, 2.0, np.nan])
    np.testing.assert_array_equal(joined["b"], [[np.nan] * 2, [np.nan] * 2, [3.0, 4.0]])
