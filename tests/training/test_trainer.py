"""The trainer against the closed-form linear VAE, and the laws of training."""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax import models
from vaecausal_jax.interventions import set_to
from vaecausal_jax.training import objectives as obj
from vaecausal_jax.training import seeds
from vaecausal_jax.training import trainer as training

IMAGE_SHAPE = (4, 4, 1)
LATENTS = 2
KEY = jax.random.key(0)
MODEL = models.mlp_vae(IMAGE_SHAPE, latent_size=LATENTS, encoder_dense=(8,), decoder_dense=(8,))
VQ_MODEL = models.vq_vae(
    (8, 8, 1), num_codes=4, code_size=3, encoder_channels=(4,), decoder_channels=(4,)
)


def config_of(objective=None, *, model=MODEL, num_steps=60, **options):
    options = {"optimizer": optax.adam(1e-2), "batch_size": 8, "record_every": 20, **options}
    return training.TrainConfig(model, objective or obj.vae(), num_steps=num_steps, **options)


def pictures(shape=IMAGE_SHAPE, num=32):
    """Float images of two kinds, left half or right half lit, with grey noise."""
    rng = np.random.default_rng(0)
    lit = np.arange(shape[1]) < shape[1] // 2
    lit = np.where(rng.uniform(size=(num, 1)) < 0.5, lit, ~lit)[:, None, :, None]
    return jnp.asarray(0.2 * rng.uniform(size=(num, *shape)) + 0.7 * lit, jnp.float32)


def raw(tree):
    """The tree with its keys as numbers, so that it can be compared."""

    def unwrap(leaf):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if typed else leaf)

    return jax.tree.map(unwrap, tree)


def assert_bitwise(*trees):
    chex.assert_trees_all_equal(*map(raw, trees))


def assert_close(*trees):
    chex.assert_trees_all_close(*map(raw, trees), rtol=1e-4, atol=1e-5)


# T16: beta-VAEs with linear maps, whose optimum is known in closed form.

EIGENVALUES = np.array([5.0, 3.0, 1.5, 0.4])
VARIANCE = 0.5
BETAS = (1.0, 2.0, 4.0)


class Linear(NamedTuple):
    """A trained linear VAE, latents by falling decoder norm.

    Attributes:
        decoder: (data, latents).
        encoder: (latents, data).
        variance: Posterior variances (latents,).
        kl: Recorded KL a latent, mean over the last record.
        biases: Every bias, encoder and decoder.
        response: Encoder mean of the decoded unit latents, less that of the decoded zero.
    """

    decoder: np.ndarray
    encoder: np.ndarray
    variance: np.ndarray
    kl: np.ndarray
    biases: np.ndarray
    response: np.ndarray


@pytest.fixture(scope="module")
def axes():
    """Eigenvectors of the data, (data, data)."""
    return np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]


@pytest.fixture(scope="module")
def linear(axes):
    """One trained linear VAE for each beta; betas are a batch axis of one program."""
    sample = np.random.default_rng(0).normal(size=(512, 4))
    sample -= sample.mean(axis=0)
    sample = sample @ np.linalg.inv(np.linalg.cholesky(sample.T @ sample / 512)).T
    images = sample * np.sqrt(EIGENVALUES) @ axes.T
    covariance = axes * EIGENVALUES @ axes.T
    np.testing.assert_allclose(images.T @ images / 512, covariance, atol=1e-12)
    images = jnp.asarray(images.reshape(512, 1, 4, 1), jnp.float32)

    model = models.linear_vae(4, latent_size=3)
    num_steps = 8000
    # A falling rate averages the noise of batches and of z away; the optimum is left exact.
    schedule = optax.cosine_decay_schedule(0.02, num_steps)

    def train(beta, key):
        config = training.TrainConfig(
            model,
            obj.beta_vae(beta, obj.gaussian(VARIANCE)),
            optax.adam(schedule),
            num_steps,
            batch_size=512,
            record_every=1000,
        )
        return training.make_train(config)(key, images)

    betas = jnp.asarray(BETAS)
    states, history = jax.jit(jax.vmap(train, in_axes=(0, None)))(betas, KEY)

    def encode_decoded(params, z):
        eps, blank = jnp.zeros(3), jnp.zeros(model.image_shape)
        decoded = model.forward(params, blank, eps, set_to(model.sites, "latent/z", z))
        return model.forward(params, decoded.outputs, eps).activations["latent/mean"]

    def response(params):
        encode = jax.vmap(encode_decoded, in_axes=(None, 0))
        return encode(params, jnp.eye(3)) - encode(params, jnp.zeros((3, 3)))

    responses = np.asarray(jax.vmap(response)(states.params))
    found = []
    for i in range(len(BETAS)):
        params = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], float), states.params)
        decoder, encoder = params["decoder"]["mean"], params["mean"]
        order = np.argsort(-np.sum(decoder["kernel"] ** 2, axis=1))
        found.append(
            Linear(
                decoder["kernel"].T[:, order],
                encoder["kernel"].T[order],
                np.exp(params["logvar"])[order],
                np.asarray(history["kl_per_latent"])[i, -1][order],
                np.concatenate([encoder["bias"], decoder["bias"]]),
                responses[i][np.ix_(order, order)],
            )
        )
    return dict(zip(BETAS, found, strict=True))


def linear_loss(decoder, encoder, variance, beta, covariance):
    """Expected loss of a linear VAE without biases, in nats, in closed form."""
    residual = np.eye(4) - decoder @ encoder
    error = np.trace(residual @ covariance @ residual.T) + np.sum(decoder**2 @ variance)
    reconstruction = 0.5 * error / VARIANCE + 2 * math.log(2 * math.pi * VARIANCE)
    mean_square = np.diag(encoder @ covariance @ encoder.T)
    return reconstruction + beta * 0.5 * np.sum(mean_square + variance - 1 - np.log(variance))


@pytest.mark.thorough
@pytest.mark.parametrize("beta", BETAS)
def test_linear_vae_is_trained_to_its_closed_form_optimum(linear, axes, beta):
    lam, floor, found = EIGENVALUES[:3], beta * VARIANCE, linear[beta]
    covariance = axes * EIGENVALUES @ axes.T
    norms = np.maximum(lam - floor, 0.0)
    variance = np.minimum(floor / lam, 1.0)
    np.testing.assert_allclose(np.sum(found.decoder**2, axis=0), norms, rtol=0.03, atol=2e-3)
    np.testing.assert_allclose(found.variance, variance, rtol=0.02)
    means = np.diag(found.encoder @ covariance @ found.encoder.T)
    np.testing.assert_allclose(means, 1.0 - variance, atol=0.01)
    np.testing.assert_allclose(found.kl, 0.5 * np.log(1.0 / variance), atol=0.01)
    np.testing.assert_allclose(found.biases, 0.0, atol=0.02)

    # Decoding a unit latent and encoding it again moves that latent alone.
    np.testing.assert_allclose(found.response, np.diag(1.0 - variance), atol=0.01)
    np.testing.assert_allclose(found.response, (found.encoder @ found.decoder).T, atol=1e-4)

    # The axes are those of the data, up to sign.
    along = np.abs(axes[:, :3].T @ found.decoder)
    np.testing.assert_allclose(along, np.diag(np.sqrt(norms)), atol=0.05)

    # The loss is flat at the optimum, so its excess is far smaller than the errors above.
    best_decoder = axes[:, :3] * np.sqrt(norms)
    best_encoder = best_decoder.T / lam[:, None]
    best = linear_loss(best_decoder, best_encoder, variance, beta, covariance)
    excess = linear_loss(*found[:3], beta, covariance) - best
    assert 0.0 <= excess < 1e-3


def test_linear_vae_at_beta_one_attains_the_likelihood_of_probabilistic_pca(linear, axes):
    # Lucas et al. 2019, arXiv:1911.02469: no gap between ELBO and evidence.
    spectrum = np.array([*EIGENVALUES[:3], VARIANCE])
    evidence = -0.5 * np.sum(np.log(2 * math.pi * spectrum) + EIGENVALUES / spectrum)
    covariance = axes * EIGENVALUES @ axes.T
    loss = linear_loss(*linear[1.0][:3], 1.0, covariance)
    np.testing.assert_allclose(-loss, evidence, atol=1e-3)


def test_linear_vae_at_beta_four_loses_its_third_latent(linear):
    assert linear[4.0].kl[2] < training.ACTIVE_KL < linear[4.0].kl[1]
    assert linear[2.0].kl[2] > training.ACTIVE_KL


# Every family on the same trainer.

FAMILIES = {
    "vae": (obj.vae(), MODEL, set()),
    "beta_vae": (obj.beta_vae(2.0), MODEL, set()),
    "factor_vae": (obj.factor_vae(2.0, widths=(4,)), MODEL, {"tc", "discriminator_loss"}),
    "factor_vae, second batch": (
        obj.factor_vae(2.0, widths=(4,), second_batch=True),
        MODEL,
        {"tc", "discriminator_loss"},
    ),
    "beta_tc_vae": (obj.beta_tc_vae(2.0, 32), MODEL, {"tc"}),
    "dip_vae_i": (obj.dip_vae_i(1.0), MODEL, {"dip_penalty"}),
    "dip_vae_ii": (obj.dip_vae_ii(1.0), MODEL, {"dip_penalty"}),
    "vq_vae": (obj.vq_vae(), VQ_MODEL, None),
    "vq_vae, gradient": (obj.vq_vae(decay=None), VQ_MODEL, None),
}


@functools.cache
def trained(name, seed=0):
    """State and history of a family after 60 steps; every family is compiled once."""
    return compiled(name)(jax.random.key(seed), pictures(FAMILIES[name][1].image_shape))


@functools.cache
def compiled(name):
    objective, model, _ = FAMILIES[name]
    return jax.jit(training.make_train(config_of(objective, model=model)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_and_records_its_terms(name):
    state, history = trained(name)
    extra = FAMILIES[name][2]
    if extra is None:
        shapes = dict.fromkeys(("code_distance", "code_entropy"), (3,))
    else:
        shapes = {"kl": (3,), "kl_per_latent": (3, LATENTS), **dict.fromkeys(extra, (3,))}
    shapes = {"loss": (3,), "reconstruction": (3,), **shapes}
    assert {term: values.shape for term, values in history.items()} == shapes
    chex.assert_tree_all_finite(history)
    assert history["reconstruction"][-1] < history["reconstruction"][0]
    assert state.step == 60
    assert state.step.dtype == jnp.int32


class Counter(NamedTuple):
    """State of the toy objective: how often it was updated."""

    calls: jax.Array


def autoencoder():
    """A family that the library lacks: no KL, squared error, a state of its own."""

    def init(key, params):
        return Counter(jnp.zeros((), jnp.int32))

    def loss(params, state, trace, images, key):
        error = jnp.mean(jnp.sum((jax.nn.sigmoid(trace.outputs) - images) ** 2, axis=(1, 2, 3)))
        return error, {"spread": jnp.std(trace.activations["latent/mean"])}

    def update(params, state, trace, images, key):
        return params, Counter(state.calls + 1), {"calls": 1.0 * state.calls}

    return obj.Objective("autoencoder", init, loss, update)


@pytest.mark.thorough
def test_new_family_is_one_objective_and_the_trainer_runs_it():
    config = config_of(autoencoder(), num_steps=40, record_every=10)
    state, history = jax.jit(training.make_train(config))(KEY, pictures())
    assert state.objective_state == Counter(40)
    assert set(history) == {"loss", "spread", "calls"}
    np.testing.assert_allclose(history["calls"], [4.5, 14.5, 24.5, 34.5])
    assert history["loss"][-1] < history["loss"][0]


# Laws.


def test_training_is_deterministic_in_its_key():
    first = trained("vae")
    assert_bitwise(first, compiled("vae")(KEY, pictures()))
    other, _ = trained("vae", seed=1)
    assert np.abs(other.params["mean"]["kernel"] - first[0].params["mean"]["kernel"]).max() > 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["vae", "factor_vae", "vq_vae"])
def test_init_and_advance_in_pieces_are_bitwise_the_whole_run(name):
    objective, model, _ = FAMILIES[name]
    trainer = training.make_trainer(config_of(objective, model=model))
    advance = jax.jit(trainer.advance, static_argnums=2)
    state, pieces = jax.jit(trainer.init)(KEY), []
    for _ in range(3):
        state, piece = advance(state, pictures(model.image_shape), 1)
        pieces.append(piece)
    history = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)
    assert_bitwise((state, history), trained(name))


@pytest.mark.thorough
def test_history_is_the_mean_over_each_record():
    fine = jax.jit(training.make_train(config_of(record_every=1)))(KEY, pictures())
    means = jax.tree.map(lambda leaf: leaf.reshape(3, 20, *leaf.shape[1:]).mean(axis=1), fine[1])
    assert_close((fine[0], means), trained("vae"))


@pytest.mark.thorough
def test_first_recorded_loss_is_that_of_the_initial_parameters():
    # One image, so that the batch is known; a posterior sample remains, so average it out.
    image = pictures(num=1)
    config = config_of(num_steps=1, record_every=1, batch_size=4096)
    trainer = training.make_trainer(config)
    state = jax.jit(trainer.init)(KEY)
    _, history = jax.jit(trainer.advance, static_argnums=2)(state, image, 1)
    trace = MODEL.forward(state.params, image[0], jnp.zeros(LATENTS))
    mean, logvar = (trace.activations[f"latent/{n}"] for n in ("mean", "logvar"))
    kl = 0.5 * (np.square(mean) + np.exp(logvar) - 1 - logvar)
    np.testing.assert_allclose(history["kl_per_latent"][0], kl, rtol=1e-4)
    eps = jax.random.normal(jax.random.key(5), (4096, LATENTS))
    forward = jax.jit(jax.vmap(MODEL.forward, in_axes=(None, None, 0)))
    outputs = forward(state.params, image[0], eps).outputs
    losses = -obj.bernoulli().log_prob(outputs, jnp.broadcast_to(image, outputs.shape))
    tolerance = 4 * np.sqrt(2 / 4096) * np.std(losses)
    np.testing.assert_allclose(history["reconstruction"][0], np.mean(losses), atol=tolerance)


@pytest.mark.thorough
def test_optimizer_moves_the_parameters_in_proportion_to_its_rate():
    def one_step(learning_rate):
        optimizer = optax.sgd(learning_rate)
        config = config_of(optimizer=optimizer, num_steps=1, record_every=1)
        return training.make_train(config)(KEY, pictures())[0].params

    ends = jax.jit(jax.vmap(one_step))(jnp.array([0.0, 0.05, 0.1]))
    stay, half, whole = (jax.tree.map(lambda leaf, i=i: leaf[i], ends) for i in range(3))
    start = jax.jit(training.make_trainer(config_of()).init)(KEY).params
    chex.assert_trees_all_close(stay, start, rtol=1e-6)
    doubled = jax.tree.map(lambda a, b: 2 * (a - b), half, stay)
    move = jax.tree.map(lambda a, b: a - b, whole, stay)
    chex.assert_trees_all_close(doubled, move, rtol=1e-3, atol=1e-6)
    assert np.abs(move["mean"]["kernel"]).max() > 1e-4


@pytest.mark.thorough
def test_model_and_discriminator_do_not_train_each_other():
    def one_step(gamma, learning_rate):
        objective = obj.factor_vae(gamma, widths=(4,), learning_rate=learning_rate)
        config = config_of(objective, num_steps=1, record_every=1)
        state, _ = training.make_train(config)(KEY, pictures())
        return state.params["mean"]["kernel"], state.objective_state[0]["Dense_0"]["kernel"]

    gammas, rates = jnp.array([35.0, 0.0, 35.0]), jnp.array([1e-3, 1e-3, 1e-1])
    encoder, discriminator = jax.jit(jax.vmap(one_step))(gammas, rates)
    np.testing.assert_allclose(encoder[0], encoder[2], rtol=1e-6)
    np.testing.assert_allclose(discriminator[0], discriminator[1], rtol=1e-6)
    assert np.abs(encoder[0] - encoder[1]).max() > 1e-6
    assert np.abs(discriminator[0] - discriminator[2]).max() > 1e-2


def test_codebook_is_left_to_the_moving_averages():
    state, _ = trained("vq_vae")
    counts, sums = state.objective_state
    kept, positions = 0.99**60, 8 * 16  # batch x places
    np.testing.assert_allclose(counts.sum(), kept * 4 + (1 - kept) * positions, rtol=1e-5)
    np.testing.assert_allclose(state.params["codebook"], sums / counts[:, None], rtol=1e-6)


@pytest.mark.thorough
def test_training_traces_once_for_all_keys_and_data():
    chex.clear_trace_counter()
    objective = obj.vae()
    counted = objective._replace(loss=chex.assert_max_traces(objective.loss, n=1))
    train = jax.jit(chex.assert_max_traces(training.make_train(config_of(counted)), n=1))
    for seed in range(3):
        train(jax.random.key(seed), pictures() * (1.0 - 0.1 * seed))


# Seeds.

WAYS = {"map": seeds.map_seeds, "vmap": seeds.vmap_seeds, "shard": seeds.shard_seeds}


def alone(num_seeds):
    """Seeds trained one by one by the plain ``train``, stacked."""
    runs = [trained("vae", seed) for seed in range(num_seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)


def keys_of(num_seeds):
    return jnp.stack([jax.random.key(seed) for seed in range(num_seeds)])


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
def test_seed_in_a_batch_equals_the_seed_alone(way):
    run = jax.jit(WAYS[way](training.make_train(config_of(FAMILIES["vae"][0]))))
    state, history = run(keys_of(4), pictures())
    assert_close((state, history), alone(4))
    assert history["loss"].shape == (4, 3)
    assert history["kl_per_latent"].shape == (4, 3, LATENTS)


def test_the_fastest_way_over_seeds_spreads_them_over_the_devices(monkeypatch):
    for name in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(seeds, "platform", lambda name=name: name)
        run = seeds.fastest_over_seeds()(lambda seed, data: seed * data)
        result = jax.jit(run)(jnp.arange(4.0), 2.0)
        np.testing.assert_array_equal(result, 2.0 * np.arange(4))
        assert len(result.sharding.device_set) == 2


def test_sharding_uses_every_device_that_has_a_seed():
    assert len(jax.devices()) == 2, "tests/conftest.py asks for two"

    def double(seed, data):
        return seed * data

    for num_seeds, num_devices in [(4, 2), (3, 2), (1, 1)]:
        result = jax.jit(seeds.shard_seeds(double))(jnp.arange(1.0 * num_seeds), 2.0)
        np.testing.assert_array_equal(result, 2.0 * np.arange(num_seeds))
        assert len(result.sharding.device_set) == num_devices


@pytest.mark.thorough
def test_sharded_states_go_on_from_where_they_were():
    trainer = training.make_trainer(config_of())
    go_on = jax.jit(seeds.shard_seeds(lambda state, data: trainer.advance(state, data, 1)))
    states = jax.jit(jax.vmap(trainer.init))(keys_of(2))
    for _ in range(3):
        states, _ = go_on(states, pictures())
    assert_close(states, alone(2)[0])


# Data.


def test_whole_numbers_are_scaled_and_floats_are_taken_as_they_are():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, size=(9, *IMAGE_SHAPE), dtype=np.uint8)
    for data in (stored, jnp.asarray(stored)):
        batch = training.draw_batch(KEY, data, 5)
        assert batch.dtype == jnp.float32
        as_float = training.draw_batch(KEY, stored.astype(np.float32) / 255.0, 5)
        np.testing.assert_allclose(batch, as_float, rtol=1e-6)
    floats = rng.uniform(size=(9, *IMAGE_SHAPE)).astype(np.float32)
    batch = np.asarray(training.draw_batch(KEY, floats, 5))
    assert all(any((row == image).all() for image in floats) for row in batch)


def test_batches_are_drawn_uniformly_and_with_replacement():
    data = jnp.arange(10.0).reshape(10, 1, 1, 1)
    batch = np.asarray(training.draw_batch(KEY, data, 10_000)).ravel()
    counts = np.bincount(batch.astype(int), minlength=10)
    assert counts.sum() == 10_000
    assert np.abs(counts - 1000).max() < 5 * math.sqrt(900)


@pytest.mark.thorough
def test_batches_differ_between_steps_and_between_seeds():
    seen = autoencoder()._replace(
        loss=lambda params, state, trace, images, key: (
            jnp.sum(trace.outputs) * 0.0,
            {"images": images[:, 0, 0, 0], "eps": trace.activations["latent/z"]},
        ),
        update=lambda params, state, trace, images, key: (params, state, {}),
    )
    config = config_of(seen, num_steps=6, record_every=1, batch_size=4)
    train = jax.jit(training.make_train(config))
    histories = [train(key, pictures(num=32))[1] for key in jax.random.split(KEY, 3)]
    batches = np.concatenate([history["images"] for history in histories])
    assert batches.shape == (18, 4)
    assert len(np.unique(batches, axis=0)) == 18
    noise = np.concatenate([history["eps"] for history in histories])
    assert len(np.unique(noise.reshape(18, -1), axis=0)) == 18


@pytest.mark.thorough
def test_data_set_is_drawn_like_its_own_samples_and_trains():
    world = vd.sprites(16, num_scales=2, num_orientations=3, num_positions=4)
    chex.assert_trees_all_equal(training.draw_batch(KEY, world, 3), vd.sample_images(KEY, world, 3))
    model = models.mlp_vae(world.image_shape, latent_size=2, decoder_dense=(8,))
    config = config_of(model=model)
    _, history = jax.jit(training.make_train(config))(KEY, world)
    assert history["loss"][-1] < history["loss"][0]


# Errors and verdicts.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "must be positive, got 0, 20 and 8"),
        ({"record_every": 0}, "must be positive, got 60, 0 and 8"),
        ({"batch_size": -1}, "must be positive, got 60, 20 and -1"),
        ({"record_every": 7}, "num_steps 60 is no multiple of record_every 7; the nearest is 63"),
        ({"num_steps": 1, "record_every": 100}, "the nearest is 100"),
    ],
)
def test_wrong_config_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        config_of(**options)


def test_config_is_hashable():
    config = config_of()
    assert hash(config) == hash(config)
    assert {config: 1}[config] == 1


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (config_of(), pictures()[0], "expected"),
        (config_of(), pictures((8, 8, 1)), "expected"),
        (config_of(), pictures() + 0j, "images have dtype complex64, expected uint8 or floats"),
        (config_of(obj.beta_tc_vae(2.0, 3)), pictures(), "batch of 8 from num_images = 3"),
        (config_of(obj.vq_vae()), pictures(), "vq_vae needs a model with a codebook"),
    ],
    ids=["one image", "other size", "complex", "num_images", "objective"],
)
def test_data_or_objective_that_does_not_fit_is_an_error(config, data, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(training.make_train(config), KEY, data)


def test_diagnose_tells_the_three_verdicts_of_a_handmade_history():
    ones = np.ones((5, 3))
    loss = 20.0 * ones
    loss[1, 1:] = np.nan
    loss[2, 2] = np.inf
    kl = np.broadcast_to(np.array([0.001, 1.0]), (5, 3, 2)).copy()
    kl[3, 2] = [0.002, 0.009]  # at the end no latent is active
    kl[4, 0] = 0.0  # only at the start: not collapsed
    verdicts = training.diagnose({"loss": loss, "kl_per_latent": kl}, 100)
    assert verdicts == [
        "ok",
        "diverged: the loss is not finite by step 200",
        "diverged: the loss is not finite by step 300",
        "collapsed: no latent above 0.01 nats (largest 0.009)",
        "ok",
    ]


def test_diagnose_sees_a_code_that_all_positions_share():
    history = {"loss": np.ones((2, 2)), "code_entropy": np.array([[1.0, 0.0], [0.0, 1.0]])}
    assert training.diagnose(history, 10) == ["collapsed: all positions share one code", "ok"]


def test_diagnose_needs_the_axis_of_seeds():
    with pytest.raises(ValueError, match=r"\(seeds, records\), got shape \(3,\)"):
        training.diagnose({"loss": np.ones(3)}, 10)


@pytest.mark.thorough
def test_runs_that_diverge_or_collapse_are_reported_and_their_neighbour_is_not():
    def train(setting, data):
        beta, learning_rate = setting
        config = config_of(
            obj.beta_vae(beta, obj.gaussian()),
            model=models.linear_vae(4, latent_size=2),
            optimizer=optax.sgd(learning_rate),
            num_steps=1000,
            record_every=10,
        )
        return training.make_train(config)(KEY, data)

    # Eigenvalues 9 to 0.25: no latent is worth its price at beta 20.
    images = jax.random.normal(KEY, (64, 1, 4, 1)) * jnp.array([3.0, 2.0, 1.0, 0.5]).reshape(
        1, 1, 4, 1
    )
    settings = jnp.array([1.0, 1.0, 20.0]), jnp.array([1e-2, 1e3, 2e-3])
    _, history = jax.jit(seeds.vmap_seeds(train))(settings, images)
    fine, diverged, collapsed = training.diagnose(history, 10)
    assert fine == "ok"
    first = np.flatnonzero(~np.isfinite(history["loss"][1]))[0]
    assert diverged == f"diverged: the loss is not finite by step {10 * (first + 1)}"
    assert collapsed.startswith("collapsed: no latent above 0.01 nats")


def test_seeds_run_on_the_devices_that_are_named():
    run = seeds.shard_seeds(lambda seed, data: seed * data, devices=jax.devices()[1:])
    result = jax.jit(run)(jnp.arange(3.0), 2.0)
    np.testing.assert_array_equal(result, 2.0 * np.arange(3))
    assert result.sharding.device_set == set(jax.devices()[1:])
