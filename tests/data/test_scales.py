"""Images on every scale they come on: converted where it is sure, refused in words where not."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from public_api import public_functions

from vaecausal_jax import data as vd
from vaecausal_jax import models
from vaecausal_jax.data import scales
from vaecausal_jax.metrics import reconstruction
from vaecausal_jax.training import objectives as obj
from vaecausal_jax.training import seeds, trainer

KEY = jax.random.key(0)
SHAPE = (12, 12, 1)
RNG = np.random.default_rng(0)
BITS = RNG.uniform(size=(24, *SHAPE)) > 0.5
BYTES = RNG.integers(0, 256, size=(24, *SHAPE), dtype=np.uint8)
FLOATS = BYTES.astype(np.float32) / np.float32(255)

SURE = {
    "bytes": (BYTES, FLOATS),
    "bytes as integers": (BYTES.astype(np.int64), FLOATS),
    "bytes in the other order": (BYTES.astype(">u2"), FLOATS),
    "0 and 1 as bytes": (BITS.astype(np.uint8), BITS.astype(np.float32)),
    "0 and 1 as integers": (BITS.astype(np.int32), BITS.astype(np.float32)),
    "truth values": (BITS, BITS.astype(np.float32)),
    "floats": (FLOATS, FLOATS),
    "floats in the other order": (FLOATS.astype(">f4"), FLOATS),
    "black": (np.zeros_like(BYTES), np.zeros_like(FLOATS)),
}
UNSURE = {
    "bytes as floats": (BYTES.astype(np.float32), r"float32 from 0 to 255.*pass images / 255"),
    "16 bits": (BYTES.astype(np.uint16) * 257, r"uint16 from 0 to 6.554e\+04.* / 65535"),
    "about zero": (2 * FLOATS - 1, r"float32 from -1 to 1.*\(images \+ 1\) / 2"),
    "standardised": (6 * FLOATS - 3, r"float32 from -3 to 3: pass \(images - low\)"),
    "signed bytes": (BYTES.astype(np.int8), r"int8 from -128 to 127"),
    "a hole": (np.where(FLOATS > 0.99, np.nan, FLOATS), "with NaN: leave those images out"),
    "complex": (FLOATS + 0j, "dtype complex64, expected uint8 or floats"),
}


def train_with(likelihood: obj.Likelihood):
    model = models.mlp_vae(SHAPE, latent_size=2, decoder_dense=(4,), head=likelihood.head)
    objective = obj.vae(likelihood)
    config = trainer.TrainConfig(model, objective, optax.adam(1e-3), 2, 4, record_every=2)
    return trainer.make_train(config)


TRAIN = {"bernoulli": train_with(obj.bernoulli()), "gaussian": train_with(obj.gaussian())}
JITTED = {name: jax.jit(train) for name, train in TRAIN.items()}


def loss(history) -> float:
    return float(history["loss"][-1])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("case", "likelihood"),
    [*((case, "bernoulli") for case in SURE), ("0 and 1 as bytes", "gaussian")],
)
def test_training_reads_every_sure_scale_alike(case, likelihood):
    given, meant = SURE[case]
    expected = loss(JITTED[likelihood](KEY, jnp.asarray(meant))[1])
    assert np.isfinite(expected)
    if given.dtype.isnative:  # The other order is lost in jax.jit itself.
        np.testing.assert_allclose(loss(JITTED[likelihood](KEY, given)[1]), expected, rtol=1e-6)
    np.testing.assert_allclose(loss(TRAIN[likelihood](KEY, given)[1]), expected, rtol=1e-5)
    batch = trainer.draw_batch(KEY, given, 5)
    assert batch.dtype == jnp.float32
    np.testing.assert_allclose(batch, trainer.draw_batch(KEY, meant, 5), rtol=1e-6)


@pytest.mark.parametrize("case", UNSURE)
def test_training_refuses_an_unsure_scale_in_one_line_and_says_what_to_pass(case):
    given, message = UNSURE[case]
    with pytest.raises(ValueError, match=message) as caught:
        TRAIN["bernoulli"](KEY, given)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", sorted(set(UNSURE) - {"complex"}))
def test_compiled_training_gives_no_finite_loss_on_an_unsure_scale(case):
    assert np.isnan(loss(JITTED["bernoulli"](KEY, UNSURE[case][0])[1]))


def test_gaussian_training_takes_standardised_images_and_refuses_bytes():
    assert np.isfinite(loss(TRAIN["gaussian"](KEY, UNSURE["standardised"][0])[1]))
    with pytest.raises(ValueError, match=r"at most 32, got float32 up to 255: pass images / 255"):
        TRAIN["gaussian"](KEY, UNSURE["bytes as floats"][0])


@pytest.mark.thorough
def test_counts_are_taken_as_they_are():
    counts = RNG.integers(0, 4, size=(20, 1, 9, 1))
    model = models.mlp_vae((1, 9, 1), latent_size=2, decoder_dense=(4,))
    config = trainer.TrainConfig(model, obj.item_vae(), optax.adam(1e-3), 2, 4, record_every=2)
    train = jax.jit(trainer.make_train(config))
    as_floats = loss(train(KEY, counts.astype(np.float32))[1])
    np.testing.assert_allclose(loss(train(KEY, counts)[1]), as_floats, rtol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("over_seeds", [seeds.map_seeds, seeds.vmap_seeds])
def test_seeds_at_once_read_zeros_and_ones_alike(over_seeds):
    run = jax.jit(over_seeds(TRAIN["bernoulli"]))
    keys = jax.random.split(KEY, 2)
    found, expected = (run(keys, x)[1]["loss"] for x in SURE["0 and 1 as bytes"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Stored images.

FACTOR = (vd.Factor("image", tuple(map(float, range(24))), 24, cyclic=False),)
LEVELS = np.arange(24)[:, None]


def test_stored_bytes_are_bytes():
    stored = vd.ByteImages(jnp.asarray(BYTES), FACTOR, SHAPE)
    np.testing.assert_allclose(vd.images(stored, LEVELS), FLOATS, rtol=1e-6)
    for given in (BITS.astype(np.uint8), jnp.asarray(BITS, jnp.uint8)):
        with pytest.raises(ValueError, match="only 0 and 1.*pass 255"):
            vd.ByteImages(given, FACTOR, SHAPE)
    for given in (FLOATS, BITS, BYTES.astype(np.int32), FLOATS.astype(">f4")):
        with pytest.raises(ValueError, match=rf"pixels are {given.dtype}\(24.*expected uint8"):
            vd.ByteImages(jnp.asarray(given) if given.dtype.isnative else given, FACTOR, SHAPE)
    black = vd.ByteImages(jnp.zeros((24, *SHAPE), jnp.uint8), FACTOR, SHAPE)
    assert not vd.images(black, LEVELS).any()
    # Trees are rebuilt with other leaves.
    assert jax.tree.map(lambda a: a.shape, stored).pixels == (24, *SHAPE)
    assert jax.jit(lambda d: d.image(jnp.array([3])))(stored).shape == SHAPE


def test_streamed_zeros_and_ones_become_black_and_white_on_the_device():
    streamed = vd.StreamedImages(lambda rows: BITS[rows].astype(np.uint8), FACTOR, SHAPE)
    np.testing.assert_array_equal(vd.images(vd.on_device(streamed), LEVELS), BITS)
    with pytest.raises(Exception, match="24 images have pixels of only 0 and 1"):
        jax.block_until_ready(vd.images(streamed, LEVELS))


def test_streamed_floats_are_refused():
    streamed = vd.StreamedImages(lambda rows: FLOATS[rows], FACTOR, SHAPE)
    with pytest.raises(ValueError, match="pixels are float32.*expected uint8"):
        vd.on_device(streamed)
    with pytest.raises(Exception, match="pixels are float32.*expected uint8"):
        jax.block_until_ready(vd.images(streamed, LEVELS))


# Likelihoods and reconstructions of concrete images.


@pytest.mark.parametrize("case", UNSURE)
def test_bernoulli_targets_outside_the_unit_interval_are_refused(case):
    image, logits = UNSURE[case][0], jnp.zeros(UNSURE[case][0].shape)
    with pytest.raises(ValueError, match=r"a bernoulli likelihood reads|dtype complex64"):
        obj.bernoulli().log_prob(logits, image)
    with pytest.raises(ValueError, match=r"cross-entropy reads|dtype complex64"):
        reconstruction.binary_cross_entropy(image[0], logits[0])


def test_images_in_the_other_byte_order_are_read_as_they_are_meant():
    logits, swapped = jnp.full(SHAPE, 0.5), FLOATS[0].astype(">f4")
    for measure in (
        obj.bernoulli().log_prob,
        obj.gaussian().log_prob,
        obj.multinomial().log_prob,
        reconstruction.mean_squared_error,
    ):
        np.testing.assert_allclose(measure(logits, swapped), measure(logits, FLOATS[0]), rtol=1e-6)
    entropy = [reconstruction.binary_cross_entropy(image, logits) for image in (swapped, FLOATS[0])]
    np.testing.assert_allclose(*entropy, rtol=1e-6)


def test_differences_of_bytes_which_wrap_around_are_refused():
    with pytest.raises(ValueError, match=r"dtype uint8, expected floats in \[0, 1\]"):
        reconstruction.mean_squared_error(BYTES[0], BYTES[1])


def test_every_function_of_an_image_is_known_to_these_tests():
    """What takes ``image`` or ``images`` by name: a new one is looked at here, or fails."""
    known = {
        "metrics.reconstruction.elbo",  # Through its likelihood.
        "metrics.reconstruction.mean_squared_error",
        "metrics.reconstruction.binary_cross_entropy",
        "training.objectives.objective.elbo_terms",  # Through its likelihood.
        "training.objectives.objective.no_update",  # Reads no pixel.
        "factors.probes.no_augmentation",  # Gives back what it is given.
        "data.scales.check_unit",
        "study.cli.announcement.describe_time",  # A number of images.
        "study.report.drawing.mosaic",  # Draws what was computed.
        "study.report.page.page",
    }
    found = {
        name
        for name, function in public_functions().items()
        if {"image", "images", "pixels"} & set(inspect.signature(function).parameters)
    }
    scales_own = {name for name in found if name.startswith("data.scales.")}
    assert found - scales_own - known == set()


def test_a_set_is_one_of_bits_only_if_all_of_it_is():
    assert scales.only_zeros_and_ones(BITS.astype(np.uint8))
    late = np.zeros((5000, 2, 2, 1), np.uint8)
    assert not scales.only_zeros_and_ones(late)
    late[0], late[-1] = 1, 7
    assert not scales.only_zeros_and_ones(late)
