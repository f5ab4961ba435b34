"""The paper's modularity beyond its null, and the traps of the paper's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.data.pairs import Runs
from vaecausal_jax.effects import modularity as em
from vaecausal_jax.effects import unit_effects
from vaecausal_jax.effects.specificity import specificity as indices
from vaecausal_jax.inference import Bootstrap
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites

KEY = jax.random.key(0)
specificity = jax.jit(indices)


def modularity(changes, **options):
    return em.effect_modularity(
        KEY,
        changes,
        intervention="latents redrawn",
        bootstrap=Bootstrap(num_replicates=100),
        **options,
    )


def by_hand(changes):
    """M through NumPy's correlation, image by image."""
    pairs = np.triu_indices(changes.shape[0], 1)
    images = np.moveaxis(np.asarray(changes, float), 1, 0)
    return np.mean([1 - np.abs(np.corrcoef(image)[pairs]).mean() for image in images])


@pytest.mark.parametrize("seed", range(3))
def test_modularity_is_one_minus_the_mean_absolute_correlation(seed):
    changes = np.random.default_rng(seed).normal(size=(4, 40, 12)) ** 3
    found = modularity(changes)
    np.testing.assert_allclose(found.value.value, by_hand(changes), rtol=1e-5)
    np.testing.assert_allclose(
        found.excess.value, found.value.value - found.value.null, rtol=1e-4, atol=1e-6
    )
    expected = np.mean([np.abs(np.corrcoef(image)) for image in np.moveaxis(changes, 1, 0)], 0)
    np.testing.assert_allclose(found.correlations, expected, rtol=1e-4, atol=1e-5)


def test_published_nulls():
    np.testing.assert_allclose(em.noise_modularity(32), 0.859, atol=5e-4)
    # METHODS has 0.929 at 128, from simulation.
    np.testing.assert_allclose(em.noise_modularity(128), 0.929, atol=1e-3)


@pytest.mark.parametrize("num_units", [32, pytest.param(128, marks=pytest.mark.slow)])
def test_trap_4_noise_has_the_modularity_of_its_null_and_no_excess(num_units):
    changes = jax.random.normal(jax.random.key(1), (5, 200, num_units))
    found = modularity(changes)
    np.testing.assert_allclose(found.value.value, found.noise, atol=0.005)
    np.testing.assert_allclose(found.value.null, found.noise, atol=0.005)
    assert found.excess.low <= 0 <= found.excess.high


def test_trap_4_absolute_changes_collapse_modularity_and_signed_ones_do_not():
    # Latents, each of which changes all units by its own random amounts.
    changes = jax.random.normal(jax.random.key(2), (4, 40, 12))
    changes *= jnp.linspace(0.1, 3, 12)[None, None]
    pooled = np.abs(np.asarray(changes)).mean(1)
    collapsed = 1 - np.abs(np.corrcoef(pooled)[np.triu_indices(4, 1)]).mean()
    assert collapsed < 0.1
    assert modularity(changes).value.value > 0.6


def test_latents_that_push_the_same_units_fall_below_the_null_and_disjoint_ones_do_not():
    pattern = jax.random.normal(jax.random.key(3), (1, 40, 12))
    same = jnp.array([1.0, -2.0, 0.5, 3.0])[:, None, None] * pattern
    found = modularity(same)
    np.testing.assert_allclose(found.value.value, 0, atol=1e-5)
    assert found.excess.high < 0
    own = jnp.kron(jnp.eye(4), jnp.ones((1, 3)))[:, None] * jax.random.normal(
        jax.random.key(4), (1, 40, 12)
    )
    assert modularity(own).excess.high > -0.02


def test_dead_latents_are_no_part_of_modularity():
    changes = np.random.default_rng(0).normal(size=(4, 40, 12))
    # One does nothing, one the same to every unit: neither has a pattern to compare.
    changes[2], changes[3] = 0, 3
    found = modularity(changes)
    np.testing.assert_allclose(found.value.value, by_hand(changes[:2]), rtol=1e-5)
    assert np.isnan(found.correlations[2:]).all()
    assert np.isnan(found.correlations[:, 2:]).all()
    changes[1] = 0
    with pytest.raises(ValueError, match="fewer than two latents change anything"):
        modularity(changes)


@pytest.mark.parametrize("shape", [(4, 6), (1, 6, 5), (4, 6, 1), (4, 1, 5)])
def test_changes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected \\(latents, images, activations\\)"):
        modularity(jnp.ones(shape))


# --- in a network -------------------------------------------------------------------------------

MODEL = models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6,), decoder_dense=(5,))


@pytest.fixture(scope="module")
def run():
    params = MODEL.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (8, 4, 4, 1))
    eps, donor = jax.random.normal(jax.random.key(2), (2, 8, 3))
    return params, x, eps, donor


def test_changes_are_those_of_patching_one_latent_at_a_time(run):
    params, x, eps, donor = run
    sites = MODEL.sites
    found = em.activation_changes(
        BoundModel(MODEL.forward, params, sites),
        Runs(x, eps, {"latent/z": donor}),
        "latent/z",
        "decoder/dense0",
    )
    assert found.shape == (3, 8, 5)
    dense = params["decoder"]["dense0"]
    z = np.asarray(jax.vmap(MODEL.forward, (None, 0, 0))(params, x, eps).activations["latent/z"])

    def layer(z):
        return np.maximum(z @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 0)

    for u in range(3):
        moved = z.copy()
        moved[:, u] = donor[:, u]
        np.testing.assert_allclose(found[u], layer(moved) - layer(z), atol=1e-5)


def test_trap_5_the_encoder_of_the_same_pass_is_refused_and_re_encoding_changes(run):
    params, x, eps, donor = run
    net, runs = MODEL.bind(params), Runs(x, eps, {"latent/z": donor})
    with pytest.raises(ValueError, match="'encoder/dense0' is not after 'latent/z'.*re-encode"):
        em.activation_changes(net, runs, "latent/z", "encoder/dense0")
    read = em.reencoded(MODEL.bind(params), "encoder/dense0", jnp.zeros(3))
    found = em.activation_changes(net, runs, "latent/z", read)
    assert found.shape == (3, 8, 6)
    assert np.abs(found).max(axis=(1, 2)).min() > 0


# --- traps of the other formulas ----------------------------------------------------------------


def linear_effects(num_pixels, dose, contrast):
    """A latent that moves every pixel alike, shifted by a dose."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("y", contrast * jnp.ones(num_pixels) * tape("z", x)[0])
        tape.close()
        return Trace(y, tape.activations)

    x = jax.random.normal(jax.random.key(1), (6, 1))
    sites = list_sites(forward, None, x[0], jnp.zeros(0))
    return unit_effects.shift_effects(
        BoundModel(forward, None, sites), x, jnp.zeros((6, 0)), {"z": jnp.array([dose])}
    ).values


def test_trap_1_a_dead_latent_has_no_specificity_rather_than_the_largest():
    found = specificity(jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert np.isnan(found.paper[0])
    assert np.isnan(found.entropic[0])
    assert found.paper[1] > 1e7


def test_trap_2_the_papers_specificity_depends_on_image_size_and_the_bounded_one_does_not():
    small, large = (specificity(jnp.ones(n)) for n in (16, 256))
    np.testing.assert_allclose(small.paper / large.paper, 2, rtol=1e-5)
    np.testing.assert_allclose([small.entropic, large.entropic], 0, atol=1e-6)


def test_trap_3_the_papers_strength_grows_with_pixels_dose_and_contrast():
    base = linear_effects(4, 1.0, 1.0)
    expected = np.sum(base.squared) / np.sum(base.spread)
    for other, factor, dose in (
        (linear_effects(64, 1.0, 1.0), 4, 1),
        (linear_effects(4, 3.0, 1.0), 3, 3),
        (linear_effects(4, 1.0, 5.0), 5, 1),
    ):
        paper = unit_effects.paper_effect_strength(other) / unit_effects.paper_effect_strength(base)
        np.testing.assert_allclose(paper, factor, rtol=1e-3)
        # The dose is part of the question; pixels and contrast are not.
        normalised = np.sum(other.squared) / np.sum(other.spread)
        np.testing.assert_allclose(normalised, dose**2 * expected, rtol=1e-3)
