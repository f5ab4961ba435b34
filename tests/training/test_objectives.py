"""Objectives against loops in NumPy, and the laws that losses obey."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import models
from vaecausal_jax.interventions import combine, shift_by
from vaecausal_jax.interventions.sites import Trace
from vaecausal_jax.training import objectives as obj

BATCH, HEIGHT, WIDTH, CHANNELS, LATENTS = 6, 3, 2, 2, 3
NUM_IMAGES = 50
KEY = jax.random.key(0)


def gaussian_trace(seed, batch=BATCH):
    """A trace of random tensors with z, mean and logvar unrelated, and random images."""
    rng = np.random.default_rng(seed)
    shape = (batch, HEIGHT, WIDTH, CHANNELS)
    activations = {
        "latent/mean": rng.normal(size=(batch, LATENTS)),
        "latent/logvar": 0.7 * rng.normal(size=(batch, LATENTS)),
        "latent/z": rng.normal(size=(batch, LATENTS)),
    }
    arrays = Trace(2.0 * rng.normal(size=shape), activations), rng.uniform(size=shape)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), arrays)


def read(trace):
    """The latents of a trace in float64: z, mean, logvar."""
    return tuple(np.asarray(trace.activations[f"latent/{n}"], float) for n in LATENT_NAMES)


LATENT_NAMES = ("z", "mean", "logvar")


def slice_batch(tree, start, stop):
    return jax.tree.map(lambda a: a[start:stop], tree)


def repeat_batch(tree):
    return jax.tree.map(lambda a: jnp.concatenate([a, a]), tree)


def as_moments(mean, logvar):
    return {"latent/mean": mean, "latent/logvar": logvar}


# The same quantities by loops in float64.


def loop_bernoulli(logit, pixel):
    """log p by cases: the value that the logit favours, and the other one."""
    log_likely = -math.log1p(math.exp(-abs(logit)))
    log_unlikely = log_likely - abs(logit)
    log_one, log_zero = (log_likely, log_unlikely) if logit > 0 else (log_unlikely, log_likely)
    return pixel * log_one + (1.0 - pixel) * log_zero


def loop_gaussian(variance):
    def log_prob(mean, pixel):
        return -((pixel - mean) ** 2) / (2 * variance) - math.log(math.sqrt(2 * math.pi * variance))

    return log_prob


def loop_reconstruction(pixel_log_prob, outputs, images):
    pairs = zip(np.asarray(outputs, float).ravel(), np.asarray(images, float).ravel(), strict=True)
    return -sum(pixel_log_prob(a, b) for a, b in pairs) / outputs.shape[0]


def loop_kl_per_latent(mean, logvar):
    batch, latents = mean.shape
    kl = np.zeros(latents)
    for i in range(batch):
        for k in range(latents):
            kl[k] += 0.5 * (mean[i, k] ** 2 + math.exp(logvar[i, k]) - logvar[i, k] - 1.0) / batch
    return kl


def loop_normal_log_density(z, mean, logvar):
    variance = math.exp(logvar)
    return -((z - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)


def loop_weights(batch, num_images, stratified):
    """Weight of posterior j for sample i, from the definitions of the two estimators."""
    if not stratified:
        return np.full((batch, batch), 1.0 / (batch * num_images))
    weights = np.full((batch, batch), 1.0 / (batch - 1))
    for i in range(batch):
        weights[i, i] = 1.0 / num_images
        others = sum(weights[i, j] for j in range(batch) if j not in (i, (i + 1) % batch))
        weights[i, (i + 1) % batch] = 1.0 - 1.0 / num_images - others
    return weights


def loop_total_correlation(z, mean, logvar, weights):
    batch, latents = z.shape
    total = 0.0
    for i in range(batch):
        joint, marginal = 0.0, np.zeros(latents)
        for j in range(batch):
            logs = [
                loop_normal_log_density(z[i, k], mean[j, k], logvar[j, k]) for k in range(latents)
            ]
            joint += weights[i, j] * math.exp(sum(logs))  # the weight once, not once a latent
            marginal += weights[i, j] * np.exp(logs)
        total += (math.log(joint) - np.log(marginal).sum()) / batch
    return total


def loop_covariance(mean):
    batch, latents = mean.shape
    centre = [sum(mean[:, k]) / batch for k in range(latents)]
    covariance = np.zeros((latents, latents))
    for i in range(batch):
        for k in range(latents):
            for m in range(latents):
                covariance[k, m] += (mean[i, k] - centre[k]) * (mean[i, m] - centre[m]) / batch
    return covariance


def loop_dip_penalty(covariance, lambda_od, lambda_d):
    total = 0.0
    for k, m in np.ndindex(covariance.shape):
        if k == m:
            total += lambda_d * (covariance[k, k] - 1.0) ** 2
        else:
            total += lambda_od * covariance[k, m] ** 2
    return total


def loop_discriminator(weights, z):
    """Two logits a code, with leaky ReLU of slope 0.2 between dense layers."""
    h = np.asarray(z, float)
    for i in range(len(weights)):
        layer = weights[f"Dense_{i}"]
        h = h @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)
        if i + 1 < len(weights):
            h = np.where(h > 0, h, 0.2 * h)
    return h


def loop_cross_entropy(weights, real, permuted):
    def nll(logits, label):
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[:, label])

    real, permuted = (loop_discriminator(weights, z) for z in (real, permuted))
    return 0.5 * nll(real, 0) + 0.5 * nll(permuted, 1)


LIKELIHOODS = {
    "bernoulli": (obj.bernoulli(), loop_bernoulli),
    "gaussian": (obj.gaussian(0.3), loop_gaussian(0.3)),
}


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request):
    return LIKELIHOODS[request.param]


def penalty_tc(stratified):
    def penalty(z, mean, logvar):
        return loop_total_correlation(z, mean, logvar, loop_weights(len(z), NUM_IMAGES, stratified))

    return penalty


# name: (objective of a likelihood, weight of the KL, weight of the penalty, its term, penalty)
FAMILIES = {
    "vae": (obj.vae, 1.0, 0.0, None, None),
    "beta_vae": (lambda p: obj.beta_vae(4.0, p), 4.0, 0.0, None, None),
    "beta_tc_vae": (
        lambda p: obj.beta_tc_vae(6.0, NUM_IMAGES, p),
        1.0,
        5.0,
        "tc",
        penalty_tc(False),
    ),
    "beta_tc_vae stratified": (
        lambda p: obj.beta_tc_vae(6.0, NUM_IMAGES, p, stratified=True),
        1.0,
        5.0,
        "tc",
        penalty_tc(True),
    ),
    "dip_vae_i": (
        lambda p: obj.dip_vae_i(2.0, 7.0, p),
        1.0,
        1.0,
        "dip_penalty",
        lambda z, mean, logvar: loop_dip_penalty(loop_covariance(mean), 2.0, 7.0),
    ),
    "dip_vae_ii": (
        lambda p: obj.dip_vae_ii(2.0, 7.0, p),
        1.0,
        1.0,
        "dip_penalty",
        lambda z, mean, logvar: loop_dip_penalty(
            loop_covariance(mean) + np.diag(np.exp(logvar).mean(axis=0)), 2.0, 7.0
        ),
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_terms_match_a_loop(family, likelihood, seed):
    build, kl_weight, penalty_weight, penalty_name, penalty = FAMILIES[family]
    distribution, pixel_log_prob = likelihood
    objective = build(distribution)
    trace, images = gaussian_trace(seed)
    state = objective.init(KEY, {})
    loss, terms = jax.jit(objective.loss)({}, state, trace, images, KEY)

    z, mean, logvar = read(trace)
    kl_per_latent = loop_kl_per_latent(mean, logvar)
    expected = {
        "reconstruction": loop_reconstruction(pixel_log_prob, trace.outputs, images),
        "kl": kl_per_latent.sum(),
        "kl_per_latent": kl_per_latent,
    }
    total = expected["reconstruction"] + kl_weight * expected["kl"]
    if penalty is not None:
        expected[penalty_name] = penalty(z, mean, logvar)
        total += penalty_weight * expected[penalty_name]
    assert objective.name == family.split()[0]
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, total, rtol=2e-5)
    assert objective.update({"w": 1.0}, state, trace, images, KEY) == ({"w": 1.0}, (), {})


@pytest.mark.thorough
@pytest.mark.parametrize("second_batch", [False, True])
def test_factor_vae_matches_a_loop(likelihood, second_batch):
    distribution, pixel_log_prob = likelihood
    objective = obj.factor_vae(
        20.0, distribution, widths=(7, 5), learning_rate=0.01, second_batch=second_batch
    )
    params = {"mean": {"bias": jnp.zeros(LATENTS)}}
    state = objective.init(KEY, params)
    assert set(state[0]) == {"Dense_0", "Dense_1", "Dense_2"}
    trace, images = gaussian_trace(3)
    loss, terms = jax.jit(objective.loss)(params, state, trace, images, KEY)
    new_params, new_state, update_terms = objective.update(params, state, trace, images, KEY)

    half = BATCH // 2 if second_batch else BATCH
    first, pictures = slice_batch((trace, images), 0, half)
    other = trace.activations["latent/z"][half:] if second_batch else first.activations["latent/z"]
    z, mean, logvar = read(first)
    kl_per_latent = loop_kl_per_latent(mean, logvar)
    logits = loop_discriminator(state[0], z)
    expected = {
        "reconstruction": loop_reconstruction(pixel_log_prob, first.outputs, pictures),
        "kl": kl_per_latent.sum(),
        "kl_per_latent": kl_per_latent,
        "tc": sum(real - permuted for real, permuted in logits) / half,
    }
    chex.assert_trees_all_close(
        jax.tree.map(np.asarray, terms),
        jax.tree.map(np.float32, expected),
        rtol=2e-5,
        atol=2e-6,
    )
    total = expected["reconstruction"] + expected["kl"] + 20.0 * expected["tc"]
    np.testing.assert_allclose(loss, total, rtol=2e-5)

    permuted = obj.permute_latents(KEY, other)
    np.testing.assert_allclose(
        update_terms["discriminator_loss"], loop_cross_entropy(state[0], z, permuted), rtol=1e-5
    )
    assert new_params is params
    # Adam's first step is the learning rate against the sign of the gradient.
    weights, bump = state[0], 1e-4
    for index in [(0, 0), (2, 4)]:
        moved = [jax.tree.map(lambda a: np.asarray(a, float).copy(), weights) for _ in range(2)]
        for tree, sign in zip(moved, (1, -1), strict=True):
            tree["Dense_0"]["kernel"][index] += sign * bump
        slope = np.diff([loop_cross_entropy(tree, z, permuted) for tree in moved])[0]
        step = (new_state[0]["Dense_0"]["kernel"] - weights["Dense_0"]["kernel"])[index]
        np.testing.assert_allclose(step, 0.01 * np.sign(slope), rtol=1e-2)


@pytest.mark.parametrize("decay", [0.9, None], ids=["ema", "gradient"])
def test_vq_vae_loss_matches_a_loop(likelihood, decay):
    distribution, pixel_log_prob = likelihood
    objective = obj.vq_vae(distribution, commitment=0.4, decay=decay)
    params, trace, images = vq_example(0)
    state = objective.init(KEY, params)
    loss, terms = jax.jit(objective.loss)(params, state, trace, images, KEY)

    pre, codes = flat_codes(trace)
    codebook = np.asarray(params["codebook"], float)
    distance = sum(((p - codebook[c]) ** 2).sum() for p, c in zip(pre, codes, strict=True))
    distance /= len(pre)
    shares = [np.mean(codes == c) for c in range(len(codebook))]
    expected = {
        "reconstruction": loop_reconstruction(pixel_log_prob, trace.outputs, images),
        "code_distance": distance,
        "code_entropy": -sum(p * math.log(p) for p in shares if p > 0),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    weight = 0.4 if decay is not None else 1.4
    np.testing.assert_allclose(loss, expected["reconstruction"] + weight * distance, rtol=1e-5)


# Likelihoods.


@pytest.mark.parametrize("logit", [-50.0, -3.0, 0.0, 3.0, 50.0])
@pytest.mark.parametrize("pixel", [0.0, 0.25, 1.0])
def test_bernoulli_and_its_gradient_are_right_in_both_tails_and_at_zero(logit, pixel):
    log_prob = obj.bernoulli().log_prob
    outputs, image = jnp.full((1, 2, 1), logit), jnp.full((1, 2, 1), pixel)
    value, slope = jax.value_and_grad(lambda logits: log_prob(logits, image))(outputs)
    np.testing.assert_allclose(value, 2 * loop_bernoulli(logit, pixel), rtol=1e-6, atol=1e-20)
    sigmoid = 1.0 / (1.0 + math.exp(-logit))
    np.testing.assert_allclose(slope.ravel(), pixel - sigmoid, rtol=1e-6, atol=1e-7)


def test_likelihood_means_are_the_expected_images():
    outputs = jnp.asarray([[[-1.0], [2.0]]])
    np.testing.assert_allclose(
        obj.bernoulli().mean(outputs), 1 / (1 + np.exp(-np.asarray(outputs))), rtol=1e-6
    )
    chex.assert_trees_all_equal(obj.gaussian(0.1).mean(outputs), outputs)
    assert (obj.bernoulli().head, obj.gaussian().head) == ("logits", "mean")


def test_kl_of_the_prior_is_zero_and_of_a_shifted_unit_normal_half_its_square():
    np.testing.assert_allclose(obj.kl_per_latent(jnp.zeros(2), jnp.zeros(2)), 0.0)
    np.testing.assert_allclose(obj.kl_per_latent(jnp.array([3.0]), jnp.zeros(1)), 4.5)


# Reductions and relations between families.

PLAIN = {
    "beta_vae": obj.beta_vae(3.0),
    "dip_vae_i": obj.dip_vae_i(2.0),
    "dip_vae_ii": obj.dip_vae_ii(2.0),
    "factor_vae": obj.factor_vae(2.0, widths=(4,)),
    "beta_tc_vae": obj.beta_tc_vae(2.0, NUM_IMAGES),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", PLAIN)
def test_repeating_the_batch_leaves_reconstruction_and_kl_unchanged(name):
    objective, params = PLAIN[name], {"mean": {"bias": jnp.zeros(LATENTS)}}
    state = objective.init(KEY, params)
    trace, images = gaussian_trace(5)
    loss = jax.jit(objective.loss)
    once = loss(params, state, trace, images, KEY)
    twice = loss(params, state, *repeat_batch((trace, images)), KEY)
    if name == "beta_tc_vae":  # each posterior twice at half the weight: the same density
        chex.assert_trees_all_close(once[1]["tc"], twice[1]["tc"], rtol=1e-5)
    chex.assert_trees_all_close(once, twice, rtol=1e-5)


def test_repeating_the_image_doubles_reconstruction_only():
    trace, images = gaussian_trace(5)
    wide = trace._replace(outputs=jnp.concatenate([trace.outputs] * 2, axis=2))
    terms = obj.vae().loss({}, (), trace, images, KEY)[1]
    doubled = obj.vae().loss({}, (), wide, jnp.concatenate([images] * 2, axis=2), KEY)[1]
    np.testing.assert_allclose(doubled["reconstruction"], 2 * terms["reconstruction"], rtol=1e-6)
    chex.assert_trees_all_equal(doubled["kl_per_latent"], terms["kl_per_latent"])


@pytest.mark.parametrize(
    "same",
    [
        obj.beta_vae(1.0),
        obj.beta_tc_vae(1.0, NUM_IMAGES),
        obj.dip_vae_i(0.0),
        obj.dip_vae_ii(0.0),
        obj.factor_vae(0.0, widths=(4,)),
    ],
    ids=lambda objective: objective.name,
)
def test_neutral_strength_is_the_vae(same):
    trace, images = gaussian_trace(6)
    params = {"mean": {"bias": jnp.zeros(LATENTS)}}
    loss, _ = same.loss(params, same.init(KEY, params), trace, images, KEY)
    plain, _ = obj.vae().loss({}, (), trace, images, KEY)
    np.testing.assert_allclose(loss, plain, rtol=1e-6)


# Aggregate posterior and total correlation.


@pytest.mark.parametrize(("batch", "num_images"), [(2, 2), (2, 9), (5, 5), (64, 737_280)])
def test_stratified_weights_sum_to_one_with_their_own_posterior_on_the_diagonal(batch, num_images):
    weights = np.exp(obj.log_importance_weights(batch, num_images, stratified=True))
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.diag(weights), 1.0 / num_images, rtol=1e-6)
    np.testing.assert_allclose(weights, loop_weights(batch, num_images, True), rtol=1e-4)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-6)  # no posterior is favoured


def test_weighted_weights_are_uniform_and_keep_the_size_of_the_data_set():
    weights = obj.log_importance_weights(4, 100, stratified=False)
    np.testing.assert_allclose(weights, np.full((4, 4), -math.log(400.0)), rtol=1e-6)


@pytest.mark.parametrize("stratified", [False, True])
def test_joint_and_marginals_agree_when_there_is_one_latent(stratified):
    trace, _ = gaussian_trace(7)
    latents = (trace.activations[f"latent/{n}"][:, :1] for n in LATENT_NAMES)
    joint, marginals = obj.log_aggregate_posterior(
        *latents, num_images=NUM_IMAGES, stratified=stratified
    )
    chex.assert_trees_all_close(joint, marginals[:, 0], rtol=1e-6)


@pytest.mark.parametrize("stratified", [False, True])
def test_three_terms_telescope_to_the_monte_carlo_kl(stratified):
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(400, 3)), 0.5 * rng.normal(size=(400, 3)) - 1.0
    z = mean + np.exp(0.5 * logvar) * rng.normal(size=mean.shape)
    arrays = (jnp.asarray(a, jnp.float32) for a in (z, mean, logvar))
    joint, marginals = (
        np.asarray(a, float)
        for a in obj.log_aggregate_posterior(*arrays, num_images=4000, stratified=stratified)
    )
    posterior = -0.5 * ((z - mean) ** 2 / np.exp(logvar) + logvar + math.log(2 * math.pi))
    prior = -0.5 * (z**2 + math.log(2 * math.pi))
    mutual_information = np.mean(posterior.sum(axis=1) - joint)
    total_correlation = np.mean(joint - marginals.sum(axis=1))
    dimension_wise = np.mean((marginals - prior).sum(axis=1))
    monte_carlo = (posterior - prior).sum(axis=1)
    np.testing.assert_allclose(
        mutual_information + total_correlation + dimension_wise, monte_carlo.mean(), rtol=1e-6
    )
    closed_form = loop_kl_per_latent(mean, logvar).sum()
    standard_error = monte_carlo.std() / math.sqrt(len(z))
    assert abs(monte_carlo.mean() - closed_form) < 4 * standard_error


def total_correlation_of_gaussian(covariance, *, batch, seeds, width=0.5):
    """Mean stratified estimate for an aggregate posterior N(0, covariance), and standard error."""
    covariance = np.asarray(covariance)
    size = len(covariance)
    root = np.linalg.cholesky(covariance - width * np.eye(size))
    estimate = jax.jit(
        lambda *latents: obj.total_correlation(*latents, num_images=10**8, stratified=True)
    )
    values = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        mean = rng.normal(size=(batch, size)) @ root.T
        z = mean + math.sqrt(width) * rng.normal(size=mean.shape)
        arrays = (z, mean, np.full_like(mean, math.log(width)))
        values.append(float(estimate(*(jnp.asarray(a, jnp.float32) for a in arrays))))
    return np.mean(values), np.std(values) / math.sqrt(seeds - 1)


def test_total_correlation_of_a_factorised_aggregate_posterior_is_near_zero():
    value, standard_error = total_correlation_of_gaussian(np.eye(3), batch=1000, seeds=8)
    assert standard_error < 0.005
    assert abs(value) < 0.02


@pytest.mark.parametrize("rho", [0.4, -0.35])
def test_total_correlation_of_a_correlated_gaussian_matches_its_closed_form(rho):
    correlation = np.array([[1.0, rho, 0.2], [rho, 1.0, 0.1], [0.2, 0.1, 1.0]])
    expected = -0.5 * np.linalg.slogdet(correlation)[1]
    value, standard_error = total_correlation_of_gaussian(correlation, batch=1000, seeds=8)
    assert standard_error < 0.01
    # Weights that enter once a latent would be off by about 2 log 1000 = 14 nats.
    assert abs(value - expected) < 0.03


def test_stratified_total_correlation_of_posteriors_apart_is_that_of_an_index():
    # Every latent tells which of N images it was: TC is (K - 1) log N exactly.
    mean = jnp.broadcast_to(100.0 * jnp.arange(5.0)[:, None], (5, 3))
    z, logvar = mean + 0.3, jnp.zeros((5, 3))
    value = obj.total_correlation(z, mean, logvar, num_images=77, stratified=True)
    np.testing.assert_allclose(value, 2 * math.log(77), rtol=1e-6)


def test_weighted_total_correlation_is_offset_by_log_batch_apart_and_log_num_images_overlapping():
    batch, num_images, latents = 5, 77, 3
    logvar = jnp.zeros((batch, latents))
    apart = jnp.broadcast_to(100.0 * jnp.arange(5.0)[:, None], (batch, latents))
    value = obj.total_correlation(apart + 0.3, apart, logvar, num_images=num_images)
    true = (latents - 1) * math.log(num_images)
    np.testing.assert_allclose(value, true + (latents - 1) * math.log(batch), rtol=1e-6)
    same = jnp.zeros((batch, latents))
    value = obj.total_correlation(same + 0.3, same, logvar, num_images=num_images)
    np.testing.assert_allclose(value, 0.0 + (latents - 1) * math.log(num_images), rtol=1e-6)


@pytest.mark.thorough
def test_weighted_total_correlation_exceeds_disentanglement_lib_by_the_constant_it_drops():
    trace, _ = gaussian_trace(8)
    z, mean, logvar = read(trace)
    # disentanglement_lib: logsumexp over the batch without log weights.
    log_density = -0.5 * (
        (z[:, None] - mean[None]) ** 2 / np.exp(logvar)[None] + logvar[None] + math.log(2 * math.pi)
    )
    dropped = np.log(np.exp(log_density.sum(axis=2)).sum(axis=1))
    dropped = np.mean(dropped - np.log(np.exp(log_density).sum(axis=1)).sum(axis=1))
    latents = [trace.activations[f"latent/{n}"] for n in LATENT_NAMES]
    ours = obj.total_correlation(*latents, num_images=NUM_IMAGES)
    constant = (LATENTS - 1) * math.log(BATCH * NUM_IMAGES)
    np.testing.assert_allclose(ours, dropped + constant, rtol=1e-6)
    slopes = [
        jax.grad(lambda z, n=n: obj.total_correlation(z, *latents[1:], num_images=n))(latents[0])
        for n in (BATCH, NUM_IMAGES)
    ]
    chex.assert_trees_all_close(*slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "num_images", "stratified"), [(6, 5, False), (6, 5, True), (1, 10, True)]
)
def test_batch_that_does_not_fit_the_data_set_is_an_error(batch, num_images, stratified):
    trace, images = gaussian_trace(0, batch=batch)
    objective = obj.beta_tc_vae(4.0, num_images, stratified=stratified)
    with pytest.raises(ValueError, match=f"batch of {batch} from num_images = {num_images}"):
        jax.jit(objective.loss)({}, (), trace, images, KEY)


# DIP-VAE.


def test_dip_penalty_is_zero_at_the_identity_and_matches_by_hand_elsewhere():
    assert obj.dip_penalty(jnp.eye(4), 10.0, 100.0) == 0.0
    covariance = jnp.array([[3.0, 0.5], [0.5, 0.0]])
    assert obj.dip_penalty(covariance, 10.0, 100.0) == 10 * 2 * 0.25 + 100 * (4 + 1)


def test_dip_covariance_is_over_the_batch_and_biased():
    mean = np.asarray(gaussian_trace(9)[0].activations["latent/mean"])
    expected = np.cov(mean, rowvar=False, bias=True)
    assert expected.shape == (LATENTS, LATENTS)
    covariance = obj.covariance_of_means(jnp.asarray(mean), jnp.zeros_like(mean))
    np.testing.assert_allclose(covariance, expected, rtol=1e-5, atol=1e-7)
    shifted = obj.covariance_of_means(jnp.asarray(mean) + 10.0, jnp.zeros_like(mean))
    np.testing.assert_allclose(shifted, expected, atol=1e-5)


def test_dip_ii_adds_the_mean_variance_to_the_diagonal_only():
    rows = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    mean = jnp.asarray(rows * np.sqrt([0.6, 0.2]), jnp.float32)  # covariance diag(0.6, 0.2)
    variance = jnp.broadcast_to(jnp.array([0.4, 0.8]), (4, 2))
    trace, images = gaussian_trace(0, batch=4)
    trace = trace._replace(activations=as_moments(mean, jnp.log(variance)))
    # The covariance of z is the identity: no penalty for II; a scalar everywhere would show here.
    penalty = obj.dip_vae_ii(10.0).loss({}, (), trace, images, KEY)[1]["dip_penalty"]
    np.testing.assert_allclose(penalty, 0.0, atol=1e-10)
    penalty = obj.dip_vae_i(10.0).loss({}, (), trace, images, KEY)[1]["dip_penalty"]
    np.testing.assert_allclose(penalty, 100.0 * (0.4**2 + 0.8**2), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "ratio"), [(obj.dip_vae_i, 10.0), (obj.dip_vae_ii, 1.0)], ids=["i", "ii"]
)
def test_dip_diagonal_weight_defaults_to_the_protocols_ratio(build, ratio):
    trace, images = gaussian_trace(1)
    default = build(2.0).loss({}, (), trace, images, KEY)
    chex.assert_trees_all_equal(default, build(2.0, 2.0 * ratio).loss({}, (), trace, images, KEY))


# FactorVAE.


@pytest.mark.parametrize("seed", range(3))
def test_permutation_keeps_each_marginal_exactly_and_breaks_dependence(seed):
    column = jax.random.normal(jax.random.key(seed), (4000, 1))
    z = jnp.concatenate([column, column + 100.0, -column], axis=1)
    permuted = np.asarray(obj.permute_latents(jax.random.key(seed + 10), z))
    chex.assert_trees_all_equal(np.sort(permuted, axis=0), np.sort(np.asarray(z), axis=0))
    correlation = np.corrcoef(permuted, rowvar=False)
    assert np.abs(correlation - np.eye(3)).max() < 4 / math.sqrt(4000)
    moved = np.mean(permuted != np.asarray(z), axis=0)
    assert moved.min() > 0.99


def tiny_model():
    return models.mlp_vae((4, 4, 1), latent_size=2, encoder_dense=(5,), decoder_dense=(5,))


@functools.cache
def params_of(model):
    return jax.jit(model.init)(jax.random.key(1))


def forward(model, params, seed=0, batch=4):
    image_key, noise_key = jax.random.split(jax.random.key(seed))
    images = jax.random.uniform(image_key, (batch, *model.image_shape))
    eps = jax.random.normal(noise_key, (batch, *model.noise_shape))
    return jax.vmap(model.forward, in_axes=(None, 0, 0))(params, images, eps), images


@pytest.mark.thorough
@pytest.mark.parametrize("second_batch", [False, True])
def test_discriminator_loss_has_no_gradient_in_the_model(second_batch):
    model = tiny_model()
    params = params_of(model)
    objective = obj.factor_vae(35.0, widths=(6,), second_batch=second_batch)
    state = objective.init(KEY, params)

    def discriminator_loss(params):
        trace, images = forward(model, params)
        return objective.update(params, state, trace, images, KEY)[2]["discriminator_loss"]

    def tc(params):
        trace, images = forward(model, params)
        return objective.loss(params, state, trace, images, KEY)[1]["tc"]

    value, slopes = jax.jit(jax.value_and_grad(discriminator_loss))(params)
    assert value > 0
    chex.assert_trees_all_equal(slopes, jax.tree.map(jnp.zeros_like, params))
    slopes = jax.jit(jax.grad(tc))(params)
    assert jnp.abs(slopes["mean"]["kernel"]).max() > 0  # while the TC term does train the encoder


def test_model_that_lacks_what_the_objective_reads_is_an_error():
    quantised, trace, images = vq_example(0)
    gaussian = {"mean": {"bias": jnp.zeros(LATENTS)}}
    with pytest.raises(ValueError, match="factor_vae needs a model with Gaussian latents"):
        obj.factor_vae(1.0).init(KEY, quantised)
    with pytest.raises(ValueError, match="vq_vae needs a model with a codebook"):
        obj.vq_vae().init(KEY, gaussian)
    with pytest.raises(ValueError, match="vq_vae needs a model with a codebook"):
        obj.vq_vae(decay=None).init(KEY, gaussian)
    for objective in (obj.vae(), obj.beta_tc_vae(1.0, 9), obj.dip_vae_i(1.0), obj.dip_vae_ii(1.0)):
        with pytest.raises(ValueError, match="needs a model with Gaussian latents"):
            objective.loss(quantised, (), trace, images, KEY)


def test_second_batch_needs_two_images():
    objective = obj.factor_vae(1.0, widths=(4,), second_batch=True)
    params = {"mean": {"bias": jnp.zeros(LATENTS)}}
    trace, images = gaussian_trace(0, batch=1)
    with pytest.raises(ValueError, match="second_batch splits the batch in two"):
        objective.loss(params, objective.init(KEY, params), trace, images, KEY)


# VQ-VAE.

NUM_CODES, CODE_SIZE = 5, 3


def vq_example(seed):
    """Codes 0 to 3 nearest to random values, code 4 far away and never used."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=(NUM_CODES, CODE_SIZE))
    codebook[4] = 1000.0
    pre = rng.normal(size=(BATCH, 2, 2, CODE_SIZE))
    codes = ((pre[..., None, :] - codebook) ** 2).sum(axis=-1).argmin(axis=-1)
    shape = (BATCH, HEIGHT, WIDTH, CHANNELS)
    params = {"codebook": jnp.asarray(codebook, jnp.float32), "other": jnp.ones(2)}
    activations = {
        "latent/pre": jnp.asarray(pre, jnp.float32),
        "latent/codes": jnp.asarray(codes, jnp.int32),
    }
    trace = Trace(jnp.asarray(rng.normal(size=shape), jnp.float32), activations)
    return params, trace, jnp.asarray(rng.uniform(size=shape), jnp.float32)


def flat_codes(trace):
    pre = np.asarray(trace.activations["latent/pre"], float).reshape(-1, CODE_SIZE)
    return pre, np.asarray(trace.activations["latent/codes"]).ravel()


def tiny_vq():
    return models.vq_vae(
        (8, 8, 1),
        num_codes=NUM_CODES,
        code_size=CODE_SIZE,
        encoder_channels=(4,),
        decoder_channels=(4,),
    )


def test_vq_moving_averages_match_a_loop_and_unused_codes_stay():
    decay = 0.8
    objective = obj.vq_vae(decay=decay)
    params, trace, _ = vq_example(0)
    state = objective.init(KEY, params)
    codebook = np.asarray(params["codebook"], float)
    counts, sums = np.ones(NUM_CODES), codebook.copy()
    for seed in range(4):
        _, trace, images = vq_example(seed)
        params, state, terms = jax.jit(objective.update)(params, state, trace, images, KEY)
        assert terms == {}
        pre, codes = flat_codes(trace)
        for c in range(NUM_CODES):
            mine = pre[codes == c]
            counts[c] = decay * counts[c] + (1 - decay) * len(mine)
            sums[c] = decay * sums[c] + (1 - decay) * mine.sum(axis=0)
            codebook[c] = sums[c] / counts[c]
    np.testing.assert_allclose(params["codebook"], codebook, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params["codebook"][4], 1000.0, rtol=1e-5)
    chex.assert_trees_all_equal(params["other"], jnp.ones(2))


def test_vq_code_unused_for_a_long_time_stays_finite_and_in_place():
    objective = obj.vq_vae(decay=0.5)
    params, trace, images = vq_example(0)

    def step(carry, _):
        params, state, _ = objective.update(*carry, trace, images, KEY)
        return (params, state), None

    start = params, objective.init(KEY, params)
    (params, (counts, _)), _ = jax.lax.scan(step, start, length=300)
    assert counts[4] < 1e-30
    np.testing.assert_allclose(params["codebook"][4], 1000.0, rtol=1e-5)
    pre, codes = flat_codes(trace)
    for c in np.unique(codes):  # and used codes reach the mean of what they stand for
        np.testing.assert_allclose(
            params["codebook"][c], pre[codes == c].mean(axis=0), rtol=1e-4, atol=1e-5
        )


def test_vq_update_without_moving_averages_does_nothing():
    objective = obj.vq_vae(decay=None)
    params, trace, images = vq_example(0)
    assert objective.init(KEY, params) == ()
    assert objective.update(params, (), trace, images, KEY) == (params, (), {})


@pytest.mark.thorough
def test_vq_codebook_has_no_gradient_while_it_follows_moving_averages():
    model = tiny_vq()
    params = params_of(model)
    objective = obj.vq_vae(decay=0.99)

    def loss(params):
        trace, images = forward(model, params)
        return objective.loss(params, objective.init(KEY, params), trace, images, KEY)[0]

    slopes = jax.jit(jax.grad(loss))(params)
    chex.assert_trees_all_equal(slopes["codebook"], jnp.zeros_like(params["codebook"]))
    rest = {name: value for name, value in slopes.items() if name != "codebook"}
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(rest))


@pytest.mark.thorough
def test_vq_codebook_gradient_pulls_each_code_to_the_mean_of_its_positions():
    model = tiny_vq()
    params = params_of(model)
    objective = obj.vq_vae(decay=None)

    def loss(params):
        trace, images = forward(model, params)
        return objective.loss(params, (), trace, images, KEY)[0]

    slopes = jax.jit(jax.grad(loss))(params)["codebook"]
    trace, _ = forward(model, params)
    pre, codes = flat_codes(trace)
    for c in range(NUM_CODES):
        mine = pre[codes == c]
        expected = np.zeros(CODE_SIZE)
        if len(mine):  # share of positions x 2 (code - mean)
            distance = np.asarray(params["codebook"][c], float) - mine.mean(axis=0)
            expected = len(mine) / len(pre) * 2.0 * distance
        np.testing.assert_allclose(slopes[c], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("decay", [0.99, None], ids=["ema", "gradient"])
def test_vq_encoder_receives_the_decoders_gradient_and_the_commitment(decay):
    model, commitment = tiny_vq(), 0.25
    params = params_of(model)
    objective = obj.vq_vae(commitment=commitment, decay=decay)
    _, images = forward(model, params)
    eps = jnp.zeros((4, 0))
    sites = model.sites
    shape = (4, *sites["latent/pre"].shape)

    def run(at_pre, at_z):
        def one(image, eps, at_pre, at_z):
            moves = shift_by(sites, "latent/pre", at_pre), shift_by(sites, "latent/z", at_z)
            return model.forward(params, image, eps, combine(*moves))

        return jax.vmap(one)(images, eps, at_pre, at_z)

    def loss(at_pre):
        trace = run(at_pre, jnp.zeros(shape))
        return objective.loss(params, objective.init(KEY, params), trace, images, KEY)[0]

    def reconstruction(at_z):
        trace = run(jnp.zeros(shape), at_z)
        return -jnp.mean(obj.bernoulli().log_prob(trace.outputs, images))

    trace = run(jnp.zeros(shape), jnp.zeros(shape))
    pre, codes = trace.activations["latent/pre"], trace.activations["latent/codes"]
    pull = 2.0 * commitment * (pre - params["codebook"][codes]) / codes.size
    from_decoder = jax.grad(reconstruction)(jnp.zeros(shape))
    assert jnp.abs(from_decoder).max() > 1e-4
    chex.assert_trees_all_close(
        jax.grad(loss)(jnp.zeros(shape)), from_decoder + pull, rtol=1e-4, atol=1e-7
    )
