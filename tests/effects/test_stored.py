"""Questions: each part equals plain loops of forwards, whatever the slab."""

import jax
import numpy as np
import pytest
import xarray as xr

from vaecausal_jax import data, models
from vaecausal_jax import interventions as iv
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import mediation, stored
from vaecausal_jax.effects import support as manifold
from vaecausal_jax.effects.decompositions import Gram
from vaecausal_jax.sweeps.stored import run_stored

MODEL = models.mlp_vae((16, 16, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5,))
HIDDEN = "decoder/dense0"


@pytest.fixture(scope="module")
def case():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    x0, x1 = jax.random.uniform(jax.random.key(1), (2, 4, *MODEL.image_shape))
    return params, x0, x1, jax.random.normal(jax.random.key(2), (4, 3))


def run(parts, folder, slab_points=3):
    path = run_stored(folder, parts, {}, slab_points=slab_points)
    return {part.name: xr.open_zarr(path, group=part.name).load() for part in parts}


def bound(case):
    """The network, and the pairs."""
    params, *runs = case
    return MODEL.bind(params), Pairs(*runs)


def outcome(params, x, eps, patch=None):
    return np.asarray(MODEL.forward(params, x, eps, patch or {}).outputs, np.float64)


@pytest.mark.thorough
def test_every_unit_of_every_site_both_ways(case, tmp_path):
    params, x0, x1, eps = case
    results = run(stored.unit_patching(*bound(case)), tmp_path)
    assert list(results) == list(MODEL.sites)[:-1]
    whole = mediation.unit_mediation(MODEL.bind(params), Pairs(x0, x1, eps), HIDDEN).values
    for name, values in whole._asdict().items():
        np.testing.assert_allclose(results[HIDDEN][name], values, rtol=1e-5, atol=1e-6)
    site = MODEL.forward(params, x1[2], eps[2]).activations[HIDDEN]
    y00, y11 = outcome(params, x0[2], eps[2]), outcome(params, x1[2], eps[2])
    for unit in range(5):
        patch = iv.patch(MODEL.sites, HIDDEN, site, unit=unit)
        restored = np.sum((outcome(params, x0[2], eps[2], patch) - y00) * (y11 - y00))
        found = results[HIDDEN].total_pure.sel(unit=unit, pair=2)
        np.testing.assert_allclose(found, restored, rtol=1e-4, atol=1e-6)


def test_patched_activations_are_scored_by_how_far_out_they_lie(case, tmp_path):
    params, x0, x1, eps = case
    result = run(stored.unit_patching(*bound(case), sites=[HIDDEN]), tmp_path / "u")[HIDDEN]
    both = [
        np.stack([MODEL.forward(params, *c).activations[HIDDEN] for c in zip(x, eps, strict=True)])
        for x in (x0, x1)
    ]
    natural, donor = np.concatenate(both), np.concatenate(both[::-1])
    expected = manifold.unit_support_scores(MODEL.sites, HIDDEN, natural, donor)
    # Ranks among eight distances; a tie turns on the last bit.
    np.testing.assert_allclose(result.support, expected.reshape(5, 2, 4), atol=1 / 16 + 1e-6)
    doses = run(stored.latent_doses(MODEL.bind(params), x0, eps, (0.0, 50.0)), tmp_path / "d")
    support = doses["latent/z"].support
    assert (support.values[1::2] == 1).all()
    # Left alone, the four codes are natural: the ranks of their own distances.
    assert support.values[0].mean() == pytest.approx(0.5)


def test_sites_of_codes_have_no_distances(tmp_path):
    model = models.vq_vae(
        (16, 16, 1), num_codes=4, code_size=2, encoder_channels=(4,), decoder_channels=(4,)
    )
    params = jax.jit(model.init)(jax.random.key(0))
    x0, x1 = jax.random.uniform(jax.random.key(1), (2, 3, *model.image_shape))
    name = next(n for n, site in model.sites.items() if not np.issubdtype(site.dtype, np.floating))
    eps = np.zeros((3, *model.noise_shape), np.float32)
    parts = stored.unit_patching(model.bind(params), Pairs(x0, x1, eps), sites=[name])
    assert np.isnan(run(parts, tmp_path)[name].support).all()


@pytest.mark.thorough
def test_groups_of_one_are_units_and_whole_sites_mediate_everything(case, tmp_path):
    single = stored.group_patching(*bound(case), {HIDDEN: np.eye(5, dtype=bool)})
    units = stored.unit_patching(*bound(case), sites=[HIDDEN])
    groups, expected = run(single, tmp_path / "g"), run(units, tmp_path / "u")
    for name in Gram._fields:
        np.testing.assert_allclose(
            groups[HIDDEN][name], expected[HIDDEN][name], rtol=1e-4, atol=1e-6
        )
    sites = stored.whole_sites(MODEL.bind(None), [HIDDEN, "latent/z"])
    whole = run(stored.group_patching(*bound(case), sites), tmp_path / "w")
    for result in whole.values():
        np.testing.assert_allclose(result.total_pure, result.total, rtol=1e-4)
        np.testing.assert_allclose(result.total_total, result.total, rtol=1e-4)
    assert whole[HIDDEN].total.units == 5


def test_pairs_of_units_equal_four_forwards_and_do_not_interact_before_a_linear_layer(
    case, tmp_path
):
    params, x0, x1, eps = case
    results = run(stored.unit_pairs(*bound(case), sites=["latent/z", HIDDEN]), tmp_path)
    linear = results[HIDDEN]
    assert linear.sizes["units"] == 10
    np.testing.assert_allclose(linear.interaction / linear.total, 0.0, atol=1e-5)
    latent = results["latent/z"]
    np.testing.assert_array_equal(latent.joint.first, [0, 0, 1])
    np.testing.assert_array_equal(latent.joint.second, [1, 2, 2])
    z1 = MODEL.forward(params, x1[1], eps[1]).activations["latent/z"]
    y0, y1 = outcome(params, x0[1], eps[1]), outcome(params, x1[1], eps[1])

    def v(*units):
        patch = iv.patch(MODEL.sites, "latent/z", z1, group=list(units))
        return np.sum((outcome(params, x0[1], eps[1], patch) - y0) * (y1 - y0))

    for place, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        found = latent.isel(units=place, pair=1)
        np.testing.assert_allclose(found.joint, v(i, j), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.interaction, v(i, j) - v(i) - v(j), rtol=1e-3, atol=1e-5)


def test_doses_shift_each_latent_by_its_own_spread(case, tmp_path):
    params, x0, _, eps = case
    doses = (-1.0, 0.0, 2.0)
    result = run(stored.latent_doses(MODEL.bind(params), x0, eps, doses), tmp_path)["latent/z"]
    z = np.stack(
        [MODEL.forward(params, *c).activations["latent/z"] for c in zip(x0, eps, strict=True)]
    )
    for point in range(9):
        latent, dose = int(result.latent[point]), float(result.dose[point])
        assert (latent, dose) == (point // 3, doses[point % 3])
        shift = float(dose * z.std(axis=0)[latent])
        patch = iv.shift_by(MODEL.sites, "latent/z", shift, unit=latent)
        change = outcome(params, x0[3], eps[3], patch) - outcome(params, x0[3], eps[3])
        found = result.isel(point=point, image=3)
        np.testing.assert_allclose(found.squared, np.sum(change**2), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(found.signed, change.mean(), rtol=1e-3, atol=1e-7)


@pytest.mark.thorough
def test_factors_are_set_on_the_input(case, tmp_path):
    params, _, _, eps = case
    world = data.sprites(16)
    levels = data.sample_factors(jax.random.key(3), world, 4)
    results = run(stored.factor_sweeps(MODEL.bind(params), world, levels, eps), tmp_path)
    assert list(results) == [f"input/{name}" for name in data.factor_names(world)]
    for factor in world.factors:
        assert results[f"input/{factor.name}"].sizes["level"] == factor.num_distinct
    scale = results["input/scale"]
    np.testing.assert_allclose(scale.value, world.factors[1].values)
    for level in range(scale.sizes["level"]):
        changed = levels[0].at[1].set(level)
        means = [
            MODEL.forward(params, world.image(row), eps[0]).activations["latent/mean"]
            for row in (levels[0], changed)
        ]
        found = scale.mean_change.isel(level=level, image=0)
        np.testing.assert_allclose(found, means[1] - means[0], rtol=1e-4, atol=1e-5)
        unchanged = level == int(levels[0, 1])
        assert (float(scale.squared.isel(level=level, image=0)) == 0) == unchanged


def test_surrogates_of_a_linear_stretch_are_the_exact_effects(case, tmp_path):
    surrogate = run(stored.attributions(*bound(case), sites=[HIDDEN]), tmp_path / "s")[HIDDEN]
    exact = run(stored.unit_patching(*bound(case), sites=[HIDDEN]), tmp_path / "e")[HIDDEN]
    for arm, name in enumerate(("total_pure", "total_total")):
        for kind in ("attribution", "hessian"):
            found = surrogate[kind].isel(arm=arm).transpose("unit", "pair")
            np.testing.assert_allclose(found, exact[name], rtol=1e-4, atol=1e-5)
    assert list(surrogate.arm.values.astype(str)) == ["denoising", "noising"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda c: stored.unit_pairs(*bound(c), sites=[HIDDEN], max_runs=59),
            "take 60 runs, mo",
        ),
        (lambda c: stored.group_patching(*bound(c), {HIDDEN: np.ones((1, 4), bool)}), r"\(1, 4"),
        (lambda c: stored.group_patching(*bound(c), {HIDDEN: np.ones((1, 5))}), "float64"),
        (lambda c: stored.unit_patching(*bound(c), sites=["decoder/dense"]), "Did you mean"),
        (lambda c: stored.unit_patching(*bound((c[0], c[1][:2], *c[2:]))), "x0 has 2, x1 has 4"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_before_any_work(case, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(case)
