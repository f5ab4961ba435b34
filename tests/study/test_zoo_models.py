"""Studies of models that ship: loaded as they are, kept apart by their digests, checked before."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from vaecausal_jax import study, zoo
from vaecausal_jax.study import run
from vaecausal_jax.study.config import check_config, dataset

ZOO = study.PRESETS["quick"]
TWO = dataclasses.replace(
    ZOO, families=(study.Family("vae"), study.Family("factor_vae", 10.0)), num_seeds=3
)


def test_the_preset_can_run():
    check_config(ZOO)
    assert ZOO.num_seeds >= 4


def test_the_models_are_the_first_seeds_of_each_family(tmp_path):
    (trained,) = run.train_all(TWO, dataset(TWO, None), None, tmp_path, lambda *_: None)
    assert trained.labels == [
        (name, seed) for name in ("vae", "factor_vae_10") for seed in range(3)
    ]
    assert trained.verdicts == ["ok"] * 6
    net = zoo.load("causal-sprites", "factor_vae", seed=2)
    jax.tree.map(
        lambda all_models, one: np.testing.assert_array_equal(all_models[5], one),
        trained.params,
        net.params,
    )
    assert trained.histories["vae"]["loss"].shape == (3, 80)


def test_models_with_codes_are_a_stack_of_their_own(tmp_path):
    families = (study.Family("vq_vae"), study.Family("vae"))
    config = dataclasses.replace(ZOO, families=families, num_seeds=2)
    stacks = run.train_all(config, dataset(config, None), None, tmp_path, lambda *_: None)
    assert [trained.labels for trained in stacks] == [
        [(name, seed) for seed in range(2)] for name in ("vae", "vq_vae")
    ]
    for trained, family in zip(stacks, ("vae", "vq_vae"), strict=True):
        net = zoo.load("causal-sprites", family, seed=1)
        assert trained.model.sites == net.sites
        jax.tree.map(
            lambda all_models, one: np.testing.assert_array_equal(all_models[1], one),
            trained.params,
            net.params,
        )


def test_a_folder_of_other_weights_is_refused(tmp_path):
    plan = run.plan_study(TWO, tmp_path)
    assert plan.steps == {}
    config, _, (trained,) = run.load_study(tmp_path)
    assert config == TWO
    assert len(trained.labels) == 6
    path = tmp_path / "parts" / "spec.json"
    spec = json.loads(path.read_text())
    assert spec["weights"]["vae"] == zoo.entries()["causal-sprites", "vae"].record["sha256"]
    spec["weights"]["vae"] = "0" * 64
    path.write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="was made with other weights"):
        run.load_study(tmp_path)
    with pytest.raises(ValueError, match=r"holds another study \(weights\.vae"):
        run.plan_study(TWO, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": "zo"}, "unknown models 'zo'. Did you mean 'zoo'"),
        ({"data": "sprites"}, "unknown data of models of the zoo 'sprites'"),
        ({"num_seeds": 9}, "the zoo has 8 seeds of vae on causal-sprites, num_seeds is 9"),
        ({"image_size": 64}, "models of the zoo have image_size 32, got 64"),
        ({"num_steps": 100}, "num_steps is 100, but models of the zoo are trained"),
        (
            {"families": (study.Family("beta_vae", 3.0),)},
            r"unknown family .* 'beta_vae_3'. Did you mean 'beta_vae_2'",
        ),
        ({"num_codes": 8}, "num_codes is 8, but models of the zoo are trained"),
    ],
)
def test_what_the_zoo_has_not_is_refused_before_anything_starts(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run.plan_study(dataclasses.replace(ZOO, **changes), tmp_path / "study")
    assert not (tmp_path / "study").exists()
