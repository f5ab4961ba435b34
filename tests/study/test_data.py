"""Which data a study can be of, and what it says of data that it cannot have."""

import dataclasses
import re

import pytest

from vaecausal_jax import data as vd
from vaecausal_jax import study
from vaecausal_jax.study import config as study_config

QUICK = study.PRESETS["train"]


@pytest.mark.parametrize(
    ("name", "kind", "channels"),
    [
        ("sprites", vd.Sprites, 1),
        ("shapes3d-standin", vd.Shapes3DStandIn, 3),
        ("mpi3d-standin", vd.MPI3DStandIn, 3),
    ],
)
def test_rendered_data_have_the_size_that_was_asked_for(name, kind, channels):
    config = dataclasses.replace(QUICK, data=name, image_size=32)
    study_config.check_config(config)
    data = study_config.dataset(config, None)
    assert isinstance(data, kind)
    assert data.image_shape == (32, 32, channels)
    with pytest.raises(ValueError, match=f"data '{name}' is rendered and takes no --data"):
        study_config.check_config(config, "file")


@pytest.mark.parametrize("name", ["shapes3d", "mpi3d", "smallnorb"])
def test_published_files_that_are_not_there_are_named_before_a_folder_is_made(
    name, tmp_path, monkeypatch
):
    variable = f"VAECAUSAL_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    config = dataclasses.replace(QUICK, data=name)
    with pytest.raises(FileNotFoundError, match=f"{variable} is not set: expected .* publi"):
        study.run_study(config, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file {tmp_path}")):
        study.run_study(config, tmp_path / "out", data_path=str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("celeba", "no factor can be changed alone.*attribute_matched_pairs"),
        ("shapes3d_standin", "Did you mean 'shapes3d-standin'"),
        ("norb", "Did you mean 'smallnorb'"),
    ],
)
def test_data_that_no_study_can_be_of_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        study_config.check_config(dataclasses.replace(QUICK, data=name))
