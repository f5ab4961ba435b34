"""Training for the zoo: resumed, measured, kept, and found altered where it was."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaecausal_jax as vj
from vaecausal_jax import data as vd
from vaecausal_jax import zoo
from vaecausal_jax.interventions import set_to
from vaecausal_jax.zoo.training import train_family

RECIPE = zoo.Recipe("causal-sprites", "vae", steps=40, record_every=20, batch_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    seen = []
    entry = train_family(RECIPE, 2, folder, command="as told", watch=lambda d, _: seen.append(d))
    return folder, entry, seen


def test_a_record_says_what_was_trained(trained):
    folder, entry, seen = trained
    assert seen == [0, 40]
    assert zoo.entries(folder)["causal-sprites", "vae"].recipe == RECIPE == entry.recipe
    record = zoo.entries(folder)["causal-sprites", "vae"].record
    assert record["command"] == "as told"
    assert len(record["sha256"]) == 64
    assert record["dtype"] == "float16"
    for seed in record["seeds"]:
        assert set(seed["readable"]) == set(vd.factor_names(vd.causal_sprites()))
        assert 0.0 < seed["reconstruction_over_floor"] < seed["reconstruction"]
    history = zoo.training_history("causal-sprites", "vae", folder=folder)
    assert history["reconstruction"].shape == (2, 2)
    assert history["kl_per_latent"].shape == (2, 2, 8)


def test_a_loaded_model_is_the_one_that_was_measured(trained):
    folder, entry, _ = trained
    world = vd.causal_sprites()
    levels_key, noise_key = jax.random.split(jax.random.key(1))
    levels = vd.sample_factors(levels_key, world, 2048)
    x, eps = vd.images(world, levels), jax.random.normal(noise_key, (2048, 8))
    stacked = zoo.load("causal-sprites", "vae", folder=folder)
    for seed in range(2):
        net = zoo.load("causal-sprites", "vae", seed=seed, folder=folder)
        same = jax.tree.map(lambda leaf, s=seed: leaf[s], stacked.params)
        jax.tree.map(np.testing.assert_array_equal, net.params, same)
        logits = np.asarray(jax.jit(jax.vmap(net))(x, eps).outputs, np.float64)
        # Bernoulli cross-entropy by hand.
        nats = np.logaddexp(0.0, logits) - np.asarray(x, np.float64) * logits
        recorded = entry.record["seeds"][seed]["reconstruction"]
        assert nats.sum(axis=(1, 2, 3)).mean() == pytest.approx(recorded, rel=1e-5)


def test_a_loaded_model_takes_interventions(trained):
    net = zoo.load("causal-sprites", "vae", seed=0, folder=trained[0])
    x, eps = jnp.zeros((32, 32, 1)), jnp.zeros(8)
    held = net(x, eps, set_to(net.sites, "latent/z", 2.0, unit=3))
    assert held.activations["latent/z"][3] == 2.0


@pytest.mark.thorough
def test_a_finished_family_is_not_trained_again_and_seeds_do_not_depend_on_their_number(trained):
    folder, entry, _ = trained
    seen = []
    again = train_family(RECIPE, 2, folder, command="as told", watch=lambda d, _: seen.append(d))
    assert seen == [40]
    assert again.record["seeds"] == entry.record["seeds"]


@pytest.mark.thorough
def test_a_seed_is_the_same_among_fewer(trained, tmp_path):
    train_family(RECIPE, 1, tmp_path)
    alone = zoo.load("causal-sprites", "vae", seed=0, folder=tmp_path)
    among = zoo.load("causal-sprites", "vae", seed=0, folder=trained[0])
    jax.tree.map(np.testing.assert_array_equal, alone.params, among.params)


@pytest.mark.parametrize(
    ("world", "family", "seed", "message"),
    [
        ("causal-sprite", "vae", 0, "Did you mean 'causal-sprites'"),
        ("causal-sprites", "vea", 0, "Did you mean 'vae'"),
        ("causal-sprites", "vae", 2, "has seeds 0 to 1, got 2"),
        ("causal-sprites", "vae", -1, "has seeds 0 to 1, got -1"),
    ],
)
def test_what_is_not_there_is_refused(trained, world, family, seed, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(world, family, seed=seed, folder=trained[0])


def test_an_altered_archive_is_refused(trained, tmp_path):
    place = tmp_path / "causal-sprites"
    shutil.copytree(trained[0] / "causal-sprites", place)
    archive = place / "vae.npz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"vae\.npz is altered: its SHA-256 differs"):
        zoo.load("causal-sprites", "vae", seed=0, folder=tmp_path)
    archive.unlink()
    with pytest.raises(ValueError, match=r"vae\.npz is missing"):
        zoo.load("causal-sprites", "vae", seed=0, folder=tmp_path)


def test_models_of_another_recipe_are_not_replaced(trained):
    other = dataclasses.replace(RECIPE, steps=20)
    with pytest.raises(ValueError, match=r"has 2 seeds of Recipe\(.*steps=40.*would replace"):
        train_family(other, 2, trained[0])
    with pytest.raises(ValueError, match="which 1 seeds of"):
        train_family(RECIPE, 1, trained[0])


def test_weights_of_another_network_are_refused(trained, tmp_path, monkeypatch):
    wide = vj.models.conv_vae((32, 32, 1), latent_size=9)
    monkeypatch.setattr(vj.zoo.archive, "network", lambda recipe: wide)
    with pytest.raises(ValueError, match="trained on another network than this version's"):
        zoo.load("causal-sprites", "vae", folder=trained[0])


def test_a_record_of_another_version_is_named(trained, tmp_path):
    place = tmp_path / "causal-sprites"
    shutil.copytree(trained[0] / "causal-sprites", place)
    record = json.loads((place / "vae.json").read_text())
    record["recipe"]["gamma"] = 1.0
    (place / "vae.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"vae\.json is no record of this version's zoo"):
        zoo.entries(tmp_path)
    # Other JSON files, such as a study's, are not the zoo's.
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "summary.json").write_text("{}")
    record["recipe"].pop("gamma")
    (place / "vae.json").write_text(json.dumps(record))
    assert len(zoo.entries(tmp_path)) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"world": "causal-sprits"}, "unknown world of the zoo 'causal-sprits'. Did you mean"),
        ({"family": "betavae"}, "unknown family of the zoo 'betavae'. Did you mean 'beta_vae'"),
        ({"strength": 4.0}, "vae has no strength, got 4.0"),
        ({"family": "beta_vae", "strength": float("nan")}, "at least 0 and finite, got nan"),
        ({"steps": -100}, "steps must be at least 1, got -100"),
    ],
)
def test_bad_recipes_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        zoo.Recipe(**{"world": "causal-sprites", "family": "vae", **given})


def test_a_strength_is_the_familys_own_unless_given():
    assert zoo.Recipe("causal-sprites", "beta_vae").strength == zoo.STRENGTHS["beta_vae"]
    assert zoo.Recipe("causal-sprites", "beta_vae", strength=7).strength == 7.0


def test_an_empty_zoo_says_so(tmp_path):
    with pytest.raises(ValueError, match="world in the zoo 'causal-sprites'"):
        zoo.load("causal-sprites", "vae", folder=tmp_path)
