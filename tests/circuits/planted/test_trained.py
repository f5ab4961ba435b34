"""Strict interchange training: what is asked, when a network is refused, and a trained one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaecausal_jax.circuits import planted
from vaecausal_jax.circuits.planted import scores, trained
from vaecausal_jax.data import sample_factors
from vaecausal_jax.models import mlp_vae
from vaecausal_jax.training.objectives import beta_vae, gaussian
from vaecausal_jax.training.trainer import TrainConfig, make_train

KEY = jax.random.key(0)
WORLD = trained.Quadrants(levels=4)
MODEL = mlp_vae((8, 8, 1), latent_size=5, encoder_dense=(16,), decoder_dense=(16,), head="mean")
GROUPS = trained.even_groups(MODEL, WORLD, num_units=3)


@functools.lru_cache
def exact_params():
    """A linear decoder through pairs of ReLU units, three a factor; its encoder reads squares."""
    params = jax.tree.map(jnp.zeros_like, MODEL.init(KEY))
    squares = jnp.repeat(jnp.repeat(jnp.eye(4).reshape(4, 2, 2), 4, 1), 4, 2).reshape(4, 64)
    # Brightness is positive, so one ReLU unit carries it: the first of each group of three.
    params["encoder"]["dense0"]["kernel"] = (
        params["encoder"]["dense0"]["kernel"].at[:, :4].set(squares.T / 16)
    )
    params["mean"]["kernel"] = params["mean"]["kernel"].at[:4, :4].set(jnp.eye(4))
    params["logvar"]["bias"] = jnp.full_like(params["logvar"]["bias"], -40.0)
    first = 3 * jnp.arange(4)
    kernel = params["decoder"]["dense0"]["kernel"]
    params["decoder"]["dense0"]["kernel"] = kernel.at[jnp.arange(4), first].set(1.0)
    kernel = params["decoder"]["mean"]["kernel"]
    params["decoder"]["mean"]["kernel"] = kernel.at[first].set(squares)
    return params


def test_squares_are_as_bright_as_their_factors():
    levels = sample_factors(KEY, WORLD, 5)
    image = jax.vmap(WORLD.image)(levels)
    np.testing.assert_allclose(jax.vmap(WORLD.readout)(image), levels / 3, atol=1e-6)
    np.testing.assert_allclose(image[:, 0, 0, 0], levels[:, 0] / 3, atol=1e-6)
    np.testing.assert_allclose(image[:, 7, 0, 0], levels[:, 2] / 3, atol=1e-6)


@pytest.mark.thorough
def test_a_network_that_has_its_circuits_scores_one_and_zero():
    found = trained.measure_alignment(KEY, MODEL, exact_params(), WORLD, GROUPS, num=64)
    for site in GROUPS:
        np.testing.assert_allclose(found.interchange[site], 1, atol=1e-4)
        assert found.outside[site] == pytest.approx(0, abs=1e-8)
    trained.check_alignment(found)


def test_a_network_with_other_circuits_is_refused_by_how_much_it_missed():
    # Each factor is given the units of the next one.
    shifted = {site: jnp.roll(group, 1, axis=0) for site, group in GROUPS.items()}
    found = trained.measure_alignment(KEY, MODEL, exact_params(), WORLD, shifted, num=64)
    with pytest.raises(ValueError, match=r"interchange accuracy -\d.* short of 0.95"):
        trained.check_alignment(found)
    # One factor's unit is left out of all groups.
    lost = {site: group.at[0].set(False).at[0, -1].set(True) for site, group in GROUPS.items()}
    found = trained.measure_alignment(KEY, MODEL, exact_params(), WORLD, lost, num=64)
    with pytest.raises(ValueError, match=r"units of no group at .* above 0.02"):
        trained.check_alignment(found)


def test_the_loss_of_a_network_that_has_its_circuits_is_that_of_its_base():
    base = beta_vae(1.0, gaussian(0.01))
    objective = trained.interchange_objective(base, MODEL, WORLD, GROUPS, 10.0, num=8)
    images = jax.vmap(WORLD.image)(sample_factors(KEY, WORLD, 4))
    run = jax.jit(jax.vmap(MODEL.forward, (None, 0, 0)))
    trace = run(exact_params(), images, jnp.zeros((4, 5)))
    loss, terms = jax.jit(objective.loss)(exact_params(), (), trace, images, KEY)
    expected, _ = base.loss(exact_params(), (), trace, images, KEY)
    np.testing.assert_allclose(terms["interchange"], 0, atol=1e-8)
    np.testing.assert_allclose(terms["outside"], 0, atol=1e-8)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.slow
def test_training_lowers_the_interchange_error():
    base = beta_vae(1.0, gaussian(0.01))
    objective = trained.interchange_objective(base, MODEL, WORLD, GROUPS, 20.0, num=16)
    config = TrainConfig(MODEL, objective, optax.adam(3e-3), 200, 16, 100)
    _, history = jax.jit(make_train(config))(KEY, WORLD)
    assert history["interchange"][-1] < 0.9 * history["interchange"][0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"latent/z": jnp.ones((3, 5), bool)}, r"booleans \(factors, units\): \(4, 5\)"),
        ({"latent/z": jnp.ones((4, 5))}, "expected booleans"),
        ({"latent/z": jnp.ones((4, 5), bool)}, "no unit to two factors"),
        ({"latent/z": jnp.zeros((4, 5), bool)}, "every factor a unit"),
        ({"latent/w": jnp.ones((4, 5), bool)}, "unknown site 'latent/w'"),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_training(groups, message):
    with pytest.raises(ValueError, match=message):
        planted.level2(KEY, world=WORLD, model=MODEL, groups=groups)


@pytest.mark.slow
def test_too_short_a_training_is_no_planted_network():
    with pytest.raises(ValueError, match="does not have the planted circuits"):
        planted.level2(KEY, world=WORLD, model=MODEL, groups=GROUPS, num_steps=2)


@pytest.mark.slow
def test_a_trained_network_is_accepted_and_its_units_are_found():
    net = planted.level2(jax.random.key(2))
    truth = net.truth
    assert truth.distractors["decoder/dense0"].any()
    pairs = net.sample(KEY, 64)
    finder = planted.FINDERS["patching, both directions"]
    found = finder(net.net, pairs).nodes
    assert scores.auroc(found["latent/z"], truth.nodes["latent/z"]) == 1
    # Not every unit that training assigned came to do something; what does is one of them.
    member = truth.nodes["decoder/dense0"]
    strong = found["decoder/dense0"] > 0.01
    assert strong.sum() >= 10
    assert not np.any(strong & ~member)
    recovered = planted.recover(KEY, net, 128, site="decoder/dense0", least=0.1, num_flips=999)
    named = member & (recovered.labels >= 0)
    assert named.sum() >= 8
    assert np.mean(recovered.labels[named] == truth.modules["decoder/dense0"][named]) >= 0.75
