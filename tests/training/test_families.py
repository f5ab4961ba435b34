"""The further families: their losses by hand, and interventions on them as on any other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from vaecausal_jax import interventions as iv
from vaecausal_jax import models
from vaecausal_jax.training import objectives as obj
from vaecausal_jax.training.objectives.adversarial import adversary
from vaecausal_jax.training.trainer import TrainConfig, make_train

DENSE = {"encoder_dense": (7,), "decoder_dense": (6,)}
COLUMNS = [obj.gaussian_column(0.5), obj.bernoulli_column(), obj.categorical_column(3)]
COLUMNS.append(obj.count_column())
RNG = np.random.default_rng(0)


def table(rows=12):
    rng = np.random.default_rng(1)
    entries = rng.normal(size=rows), rng.integers(0, 2, rows), rng.integers(0, 3, rows)
    return (*entries, rng.poisson(4.0, rows))


def classed(rows=12):
    """Values in [0, 1] and a class of three, known for every other row."""
    classes = np.eye(3)[np.arange(rows) % 3] * (np.arange(rows) % 2)[:, None]
    values = np.random.default_rng(2).uniform(size=(rows, 9))
    return np.concatenate([values, classes], axis=1).astype(np.float32)[:, None, :, None]


IMAGES = RNG.uniform(size=(12, 3, 3, 1)).astype(np.float32)
ITEMS = RNG.poisson(0.7, size=(12, 1, 8, 1)).astype(np.float32)
FAMILIES = {
    "adversarial": (
        models.adversarial_vae((3, 3, 1), latent_size=3, detail_size=2, **DENSE),
        obj.adversarial_vae(2.0, 9, widths=(5,)),
        IMAGES,
    ),
    "mixed": (
        models.mlp_vae((1, 6, 1), latent_size=3, head="columns", **DENSE),
        obj.vae(obj.mixed(COLUMNS)),
        obj.encode_table(COLUMNS, table()),
    ),
    "semi_supervised": (
        models.semi_supervised_vae(9, 3, latent_size=3, **DENSE),
        obj.semi_supervised_vae(9, 3),
        classed(),
    ),
    "whitening": (
        models.whitened(models.mlp_vae((3, 3, 1), latent_size=3, **DENSE)),
        obj.whitening_vae(decay=0.5),
        IMAGES,
    ),
    "items": (models.mlp_vae((1, 8, 1), latent_size=3, **DENSE), obj.item_vae(), ITEMS),
}


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request):
    """Model, parameters after a few steps, history, two inputs and their noise."""
    model, objective, x = FAMILIES[request.param]
    config = TrainConfig(model, objective, optax.adam(1e-2), 120, batch_size=8, record_every=40)
    state, history = jax.jit(make_train(config))(jax.random.key(0), jnp.asarray(x))
    eps = jax.random.normal(jax.random.key(1), (2, *model.noise_shape))
    return model, state.params, history, jnp.asarray(x[:2]), eps


@pytest.mark.thorough
def test_training_lowers_the_loss_and_stays_finite(trained):
    _, _, history, _, _ = trained
    assert all(np.isfinite(np.asarray(term)).all() for term in history.values())
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.thorough
def test_patching_the_whole_code_carries_the_whole_effect(trained):
    model, params, _, x, eps = trained
    plain = jax.jit(model.forward)
    first, second = (plain(params, x[i], eps[0], {}) for i in range(2))
    cut = [name for name in model.sites if name.startswith("latent/")]
    # What the decoder reads, and what its outputs read beside.
    cut = [
        n for n in cut if n.split("/")[1] in ("z", "class", "class_logits", "whitened", "detail")
    ]
    for names in (cut, ["decoder/dense0", *(n for n in cut if n == "latent/class_logits")]):
        patches = iv.combine(
            *(iv.set_to(model.sites, name, second.activations[name]) for name in names)
        )
        found = plain(params, x[0], eps[0], patches)
        np.testing.assert_allclose(found.outputs, second.outputs, rtol=1e-5, atol=1e-5)
    assert np.abs(first.outputs - second.outputs).max() > 1e-3


@pytest.mark.thorough
def test_patching_every_site_with_itself_and_masked_off_changes_no_bit(trained):
    model, params, _, x, eps = trained
    forward = jax.jit(model.forward)
    plain = forward(params, x[0], eps[0], {})
    itself, off = {}, {}
    for name, site in model.sites.items():
        itself |= iv.set_to(model.sites, name, plain.activations[name])
        mask = jnp.zeros(site.shape, bool)
        off |= iv.set_to(model.sites, name, jnp.nan, mask=mask)
    for interventions in (itself, off):
        found = forward(params, x[0], eps[0], interventions)
        np.testing.assert_array_equal(found.outputs, plain.outputs)


@pytest.mark.thorough
def test_changing_the_code_leaves_the_encoder_alone_and_moves_the_outputs(trained):
    model, params, _, x, eps = trained
    forward = jax.jit(model.forward)
    plain = forward(params, x[0], eps[0], {})
    read = [n for n in ("latent/z", "latent/whitened", "latent/class", "latent/detail")]
    for name in (n for n in read if n in model.sites):
        found = forward(params, x[0], eps[0], iv.shift_by(model.sites, name, 2.0, unit=1))
        for site in model.sites:
            if site.startswith(("input/", "encoder/")) or site in ("latent/mean", "latent/logvar"):
                np.testing.assert_array_equal(found.activations[site], plain.activations[site])
        assert np.abs(found.outputs - plain.outputs).max() > 1e-4, name


@pytest.mark.thorough
def test_a_unit_that_does_not_differ_has_no_effect(trained):
    model, params, _, x, eps = trained
    forward = jax.jit(model.forward)
    plain = forward(params, x[0], eps[0], {})
    for name in ("encoder/dense0", "latent/z", "decoder/dense0"):
        value = plain.activations[name][1]
        found = forward(params, x[0], eps[0], iv.set_to(model.sites, name, value, unit=1))
        np.testing.assert_array_equal(found.outputs, plain.outputs)


@pytest.mark.thorough
def test_batched_runs_equal_single_ones(trained):
    model, params, _, x, eps = trained
    together = jax.jit(jax.vmap(model.forward, in_axes=(None, 0, 0)))(params, x, eps)
    alone = jax.jit(model.forward)(params, x[1], eps[1], {})
    np.testing.assert_allclose(together.outputs[1], alone.outputs, rtol=1e-5, atol=1e-6)


# Likelihoods


def test_columns_have_scipys_probabilities():
    entries = table()
    rows = obj.encode_table(COLUMNS, entries)
    assert rows.shape == (12, 1, 6, 1)
    outputs = np.random.default_rng(3).normal(size=rows.shape).astype(np.float32)
    o = outputs[:, 0, :, 0].astype(float)
    classes = o[:, 2:5] - np.log(np.exp(o[:, 2:5]).sum(axis=1, keepdims=True))
    expected = (
        stats.norm(o[:, 0], np.sqrt(0.5)).logpdf(entries[0])
        + stats.bernoulli(1 / (1 + np.exp(-o[:, 1]))).logpmf(entries[1])
        + classes[np.arange(12), entries[2]]
        + stats.poisson(np.exp(o[:, 5])).logpmf(entries[3])
    )
    likelihood = obj.mixed(COLUMNS)
    np.testing.assert_allclose(likelihood.log_prob(outputs, rows), expected, rtol=2e-5, atol=2e-5)
    mean = np.asarray(likelihood.mean(outputs))[:, 0, :, 0]
    np.testing.assert_allclose(mean[:, 2:5].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.expm1(mean[:, 5]), np.exp(o[:, 5]), rtol=1e-4)


def test_large_counts_survive_their_encoding():
    column = obj.count_column()
    counts = np.array([0, 1, 17, 1000, 30_000])
    rows = obj.encode_table([column], [counts])
    found = column.log_prob(jnp.full((5, 1), 3.0), jnp.asarray(rows[:, 0, :, 0]))
    np.testing.assert_allclose(found, stats.poisson(np.exp(3.0)).logpmf(counts), rtol=2e-3)


def test_unknown_level_says_nothing():
    column = obj.categorical_column(3)
    assert column.log_prob(jnp.array([1.0, -2.0, 0.3]), jnp.zeros(3)) == 0


def test_multinomial_is_scipys_up_to_its_coefficient():
    counts = np.array([2.0, 0, 1, 3])
    logits = np.array([0.3, -1, 2, 0.5])
    p = np.exp(logits) / np.exp(logits).sum()
    coefficient = stats.multinomial(6, p).logpmf(counts) - (counts * np.log(p)).sum()
    found = obj.multinomial().log_prob(*(jnp.asarray(a).reshape(1, 4, 1) for a in (logits, counts)))
    np.testing.assert_allclose(
        found, stats.multinomial(6, p).logpmf(counts) - coefficient, rtol=1e-5
    )


# Losses


@pytest.mark.thorough
def test_adversarial_loss_is_the_bound_and_minus_log_of_what_the_discriminator_gives():
    model, objective, x = FAMILIES["adversarial"]

    @jax.jit
    def both(eps):
        params = model.init(jax.random.key(0))
        state = objective.init(jax.random.key(1), params)
        trace = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, jnp.asarray(x), eps)
        loss, terms = objective.loss(params, state, trace, x, None)
        bound, _ = obj.vae().loss(params, (), trace, x, None)
        made = jax.nn.sigmoid(trace.outputs).reshape(12, 9)
        logits = obj.Discriminator((5,)).apply({"params": state[0]}, made)

        def of_discriminator(weights, trace):
            return objective.update(params, (weights, state[1]), trace, x, None)[2]

        gradients = jax.grad(lambda *a: of_discriminator(*a)["discriminator_loss"], (0, 1))(
            state[0], trace
        )
        return loss, terms["adversarial"], bound, logits, gradients

    eps = jax.random.normal(jax.random.key(2), (12, *model.noise_shape))
    loss, adversarial, bound, logits, (to_weights, to_trace) = both(eps)
    given = -np.mean(jax.nn.log_softmax(logits)[:, 0])
    np.testing.assert_allclose(adversarial, given, rtol=1e-5)
    np.testing.assert_allclose(loss, bound + 2.0 * given, rtol=1e-5)
    # The discriminator's gradient is its own.
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(to_weights)) > 0
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(to_trace))


@pytest.mark.thorough
def test_discriminator_learns_to_tell_noise_from_constants():

    opponent = adversary((8,), 0.05)
    state = opponent.init(jax.random.key(0), 3)
    real, made = jnp.ones((16, 3)), -jnp.ones((16, 3))
    step = jax.jit(opponent.step)
    _, before = step(state, real, made)
    for _ in range(40):
        state, after = step(state, real, made)
    assert after < 0.1 < before


@pytest.mark.thorough
def test_labels_count_only_where_they_are_known():
    model, objective, x = FAMILIES["semi_supervised"]
    params = model.init(jax.random.key(0))
    eps = jnp.zeros((12, 3))

    @jax.jit
    def run(params):
        trace = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, jnp.asarray(x), eps)
        return trace, objective.loss(params, (), trace, x, None)[1]

    trace, terms = run(params)
    logits = np.asarray(trace.activations["latent/class_logits"], float)
    log_class = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows, classes = np.arange(1, 12, 2), np.arange(1, 12, 2) % 3
    np.testing.assert_allclose(terms["label"], -log_class[rows, classes].sum() / 12, rtol=1e-4)
    right = np.mean(log_class[rows].argmax(axis=1) == classes)
    np.testing.assert_allclose(terms["label_accuracy"], right, atol=1e-6)
    expected = np.mean((np.exp(log_class) * (log_class + np.log(3))).sum(axis=1))
    np.testing.assert_allclose(terms["kl_class"], expected, atol=1e-5)


def test_encoder_does_not_read_the_class():
    model, _, x = FAMILIES["semi_supervised"]
    params = model.init(jax.random.key(0))
    forward = jax.jit(model.forward)
    without = jnp.asarray(x[1]).at[:, 9:].set(0.0)
    plain, blind = (forward(params, row, jnp.zeros(3), {}).outputs for row in (x[1], without))
    np.testing.assert_array_equal(plain, blind)


@pytest.mark.thorough
def test_whitened_latents_have_unit_covariance_and_change_nothing():
    plain = models.mlp_vae((3, 3, 1), latent_size=3, **DENSE)
    model = models.whitened(plain)
    params = model.init(jax.random.key(0))
    x, eps = jnp.asarray(IMAGES), jax.random.normal(jax.random.key(1), (12, 3))
    run = jax.jit(
        lambda model, params: jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, eps),
        static_argnums=0,
    )
    before = run(model, params)
    z = np.asarray(before.activations["latent/z"])
    fitted = obj.fit_whitening(params, z.mean(axis=0), np.cov(z, rowvar=False))
    after = run(model, fitted)
    white = np.asarray(after.activations["latent/whitened"])
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-5)
    bare = run(plain, {name: params[name] for name in params if name != "whitening"})
    for found in (before, after):
        np.testing.assert_allclose(found.outputs, bare.outputs, rtol=1e-4, atol=1e-5)
    # Axes by falling variance: the first is NumPy's principal one.
    variances, axes = np.linalg.eigh(np.cov(z, rowvar=False))
    first = fitted["whitening"]["to"][0] * np.sqrt(variances[-1])
    np.testing.assert_allclose(np.abs(first @ axes[:, -1]), 1, rtol=1e-4)


@pytest.mark.thorough
def test_whitening_follows_the_batches_and_no_gradient():
    model, objective, x = FAMILIES["whitening"]
    config = TrainConfig(model, objective, optax.adam(0.0), 60, batch_size=12, record_every=60)
    state, _ = jax.jit(make_train(config))(jax.random.key(0), jnp.asarray(x))
    shift = np.asarray(state.params["whitening"]["shift"])
    assert np.abs(shift).max() > 1e-3
    product = state.params["whitening"]["to"] @ state.params["whitening"]["back"]
    np.testing.assert_allclose(product, np.eye(3), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: obj.mixed([]), "columns is empty"),
        (lambda: obj.categorical_column(1), "num_levels is 1"),
        (lambda: obj.encode_table(COLUMNS[1:2], [[0, 2]]), "holds 0 and 1, got 2"),
        (lambda: obj.encode_table(COLUMNS[2:3], [[0, 3]]), "levels 0 to 2, got 3"),
        (lambda: obj.encode_table(COLUMNS[3:], [[0, 1.5]]), "whole numbers from 0 on, got 1.5"),
        (lambda: obj.encode_table(COLUMNS[:1], [[np.nan]]), "column 0 has entries that are not"),
        (lambda: obj.encode_table(COLUMNS, [[0.0]]), "expected 4 columns"),
        (
            lambda: obj.mixed(COLUMNS).log_prob(jnp.zeros((1, 5, 1)), jnp.zeros((1, 5, 1))),
            r"rows have shape \(1, 5, 1\), expected \(1, 6, 1\)",
        ),
        (lambda: models.whitened(FAMILIES["semi_supervised"][0]), "the network is SemiSup"),
        (
            lambda: obj.whitening_vae().init(None, {"mean": 0}),
            r"whitening_vae needs a model with whitened latents: no params\['whitening'\]",
        ),
        (
            lambda: obj.fit_whitening({"whitening": {"shift": np.zeros(2)}}, [0.0], np.eye(2)),
            r"mean has shape \(1,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
