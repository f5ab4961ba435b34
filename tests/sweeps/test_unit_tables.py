"""Tables of units: one axis for the units of many sites, with their labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from vaecausal_jax import circuits, effects, models
from vaecausal_jax.data.pairs import Pairs, Runs, check_pairs
from vaecausal_jax.effects import stored
from vaecausal_jax.effects.decompositions import mediation_shares
from vaecausal_jax.effects.mediation import unit_grams
from vaecausal_jax.factors import write_tensor
from vaecausal_jax.inference import Bootstrap, Estimate, bootstrap_mean
from vaecausal_jax.interventions.bound import BoundModel, bind
from vaecausal_jax.interventions.sites import Tape
from vaecausal_jax.sweeps import moments, sweep
from vaecausal_jax.sweeps.unit_tables import UnitTable, choose_units

MODEL = models.conv_vae(
    (8, 8, 1),
    latent_size=3,
    encoder_channels=(2,),
    encoder_dense=(4,),
    decoder_dense=(4,),
    decoder_channels=(2,),
)
INNER = [n for n in MODEL.sites if n not in ("input/image", "decoder/logits")]
LABELS = (("a", 0), ("a", 1), ("b/c", 0), ("b/c", 2), ("b/d", 0))


@pytest.fixture(scope="module")
def net():
    return MODEL.bind(MODEL.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def pairs():
    x0, x1 = jax.random.uniform(jax.random.key(1), (2, 3, 8, 8, 1))
    return Pairs(x0, x1, jax.random.normal(jax.random.key(2), (3, 3)))


@pytest.fixture(scope="module")
def whole(net, pairs):
    return jax.jit(effects.unit_mediation)(net, pairs)


def table(values=(3.0, 1.0, float("nan"), 5.0, -2.0)):
    return UnitTable(LABELS, jnp.asarray(values))


def estimates():
    samples = np.random.default_rng(0).normal(size=(5, 30)) + np.arange(5)[:, None]
    return UnitTable(LABELS, samples).map(
        lambda s: bootstrap_mean(jax.random.key(0), s, intervention="drawn")
    )


def test_all_sites_in_one_call_are_the_sites_one_by_one(net, pairs, whole):
    assert list(whole.sites) == INNER
    for name in INNER:
        alone = unit_grams(net, pairs, name)
        for found, expected in zip(whole.sel(name).values, alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


def test_the_input_and_the_outputs_are_left_out_unless_they_are_named(net, pairs):
    chosen = choose_units(net, None, pairs.x0, pairs.eps)
    assert list(chosen) == INNER
    assert list(choose_units(net, "*", pairs.x0, pairs.eps)) == list(net.sites)

    def last_site_is_no_output(params, x, eps, interventions):
        tape = Tape(interventions)
        return tape.trace(2.0 * tape("h", x * params) + eps)

    other = bind(last_site_is_no_output, jnp.ones(2), jnp.ones(2), jnp.ones(2))
    assert list(choose_units(other, None, jnp.ones((3, 2)), jnp.ones((3, 2)))) == ["h"]


@pytest.mark.parametrize(
    "wrapped", [lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(jax.jit(f))]
)
def test_ends_are_known_through_compilation_rematerialisation_and_names(wrapped):
    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        h = tape("h", jnp.tanh(tape("in", x) * params))
        return tape.trace(checkpoint_name(tape("out", h + eps), "out"))

    net = bind(wrapped(forward), jnp.ones(2), jnp.ones(2), jnp.ones(2))
    assert list(choose_units(net, None, jnp.ones((3, 2)), jnp.ones((3, 2)))) == ["h"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda n, p, s: effects.resample_effects(
            n, Runs(p.x0, p.eps, {"latent/z": p.eps}), sweep=s
        ),
        lambda n, p, s: effects.shift_effects(n, p.x0, p.eps, {"latent/z": jnp.ones(3)}, sweep=s),
        lambda n, p, s: effects.strength_samples(
            n, Runs(p.x0, p.eps, {"latent/z": p.eps}), "latent/z", sweep=s
        ),
        lambda n, p, s: circuits.node_samples(circuits.make_task(n, p), sweep=s),
        lambda n, p, s: stored.unit_patching(n, p, sweep=s),
    ],
)
def test_what_needs_every_image_takes_no_reduction(net, pairs, ask):
    reduced = functools.partial(sweep, reduction=moments())
    with pytest.raises(ValueError, match="needs the value of every image.*no reduction"):
        ask(net, pairs, reduced)


def test_a_sweep_of_ones_own_that_reduces_is_found_out(net, pairs):
    def own(*arguments, **options):
        return sweep(*arguments, **options, reduction=moments())

    with pytest.raises(ValueError, match="expected one per point and image"):
        circuits.node_samples(circuits.make_task(net, pairs), sweep=own)


def test_as_many_models_as_units_are_not_taken_for_them(pairs):
    params = jax.vmap(MODEL.init)(jax.random.split(jax.random.key(3), 3))
    both = jax.vmap(lambda p: effects.unit_mediation(MODEL.bind(p), pairs, "latent/z"))(params)
    for ask in (lambda t: t[0], lambda t: t.top(1), lambda t: t.sel({"latent/z": [0]})):
        with pytest.raises(ValueError, match="Of several models, take one first"):
            ask(both)
    one = jax.tree.map(lambda leaf: leaf[0], both)
    assert one[0].values.total.shape == (1, 3)


def test_latents_among_several_outputs_are_no_ends():
    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        mean = tape("mean", jnp.tanh(x * params))
        image = tape("image", 2.0 * tape("h", mean + eps))
        return tape.trace((image, mean))

    x = jnp.ones((3, 2))
    net = bind(forward, jnp.ones(2), x[0], x[0])
    pairs = Pairs(x, 2 * x, x)
    found = effects.unit_mediation(net, pairs, outcome=lambda trace: trace.outputs[0])
    assert found.sites == ("mean", "h")


def test_a_base_that_would_not_be_held_is_refused(net, pairs):
    runs = Runs(pairs.x0, pairs.eps, {"latent/z": pairs.eps}, {"latent/mean": pairs.eps})
    with pytest.raises(ValueError, match="base holds 'latent/mean', which has no donors"):
        effects.resample_effects(net, runs)


def test_factors_and_changes_are_counted_with_their_pairs(pairs):
    with pytest.raises(ValueError, match="x0 has 3.*change has 2"):
        check_pairs(pairs._replace(change=jnp.ones(2)))


def test_a_reduction_fits_where_units_are_mediated(net, pairs, whole):
    reduced = effects.unit_mediation(
        net, pairs, "latent/z", sweep=functools.partial(sweep, reduction=moments())
    )
    expected = whole.sel("latent/z").values.total_total.mean(1)
    np.testing.assert_allclose(reduced.values.mean.total_total, expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_pairs_and_no_runs_is_named(net, pairs):
    with pytest.raises(ValueError, match=r"expected Runs\(x, eps, donors\), got Pairs"):
        effects.resample_effects(net, pairs)
    with pytest.raises(ValueError, match=r"expected Pairs\(x0, x1, eps\), got tuple"):
        effects.natural_effects(net, pairs.runs, lambda run: {})
    with pytest.raises(ValueError, match="no site is chosen"):
        effects.shift_effects(net, pairs.x0, pairs.eps, {})
    with pytest.raises(ValueError, match="unknown site of a dose 'latent/y'"):
        write_tensor(net, pairs.x0, pairs.eps, "latent/z", doses={"latent/y": jnp.ones(3)})


def test_sites_are_chosen_by_name_by_pattern_and_by_unit(net, pairs, whole):
    decoder = [name for name in INNER if name.startswith("decoder/")]
    for sites, names in (
        ("latent/z", ["latent/z"]),
        ("decoder/d*", decoder),
        (["decoder/*0", "latent/z"], ["latent/z", "decoder/dense0"]),
    ):
        found = effects.unit_mediation(net, pairs, sites)
        assert list(found.sites) == names
        np.testing.assert_allclose(
            found.values.total_total, whole.sel(sites).values.total_total, rtol=1e-4, atol=1e-5
        )
    some = effects.unit_mediation(net, pairs, {"latent/z": [2, 0], "decoder/dense0": [1]})
    assert some.labels == (("latent/z", 2), ("latent/z", 0), ("decoder/dense0", 1))
    assert whole.sel({"latent/z": [2, 0]}).labels == some.labels[:2]


def test_resampling_takes_the_donors_of_every_site(net, pairs):
    x, eps = pairs.x0, pairs.eps
    donors = jax.vmap(net)(pairs.x1, pairs.eps).activations
    found = effects.resample_effects(net, Runs(x, eps, donors))
    assert list(found.sites) == INNER
    alone = effects.resample_effects(net, Runs(x, eps, {"latent/z": donors["latent/z"]}))
    np.testing.assert_allclose(found.sel("latent/z").values.squared, alone.values.squared)
    with pytest.raises(ValueError, match="unknown site among the donors 'decoder/dense0'"):
        effects.resample_effects(
            net, Runs(x, eps, {"latent/z": donors["latent/z"]}), "decoder/dense0"
        )


def test_models_under_vmap_are_a_leading_axis_and_are_taken_apart_first(pairs):
    params = jax.vmap(MODEL.init)(jax.random.split(jax.random.key(3), 2))
    both = jax.vmap(lambda p: effects.unit_mediation(MODEL.bind(p), pairs, "latent/z"))(params)
    assert both.values.total.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="got shape .2, 3, 3.. Of several models, take one first"):
        both[0]
    second = jax.tree.map(lambda leaf: leaf[1], both)
    alone = effects.unit_mediation(
        MODEL.bind(jax.tree.map(lambda leaf: leaf[1], params)), pairs, "latent/z"
    )
    np.testing.assert_allclose(second.values.total_pure, alone.values.total_pure, rtol=1e-4)


def test_top_sorts_and_leaves_what_is_unknown_to_the_end():
    assert table().top(2).labels == (("b/c", 2), ("a", 0))
    assert table().top(9).labels[-1] == ("b/c", 0)
    assert table().top(1, by=lambda v: -v).labels == (("b/d", 0),)
    assert [unit for _, unit in estimates().top(2).labels] == [0, 2]


def test_selection_keeps_labels_with_their_values():
    assert table().sel("b/*").labels == LABELS[2:]
    assert table()[np.array([False, True, False, False, True])].labels == (LABELS[1], LABELS[4])
    assert table()[1:3].values.tolist()[0] == 1.0
    assert table().sel({"b/c": [2]}).values.tolist() == [5.0]
    one = estimates()[3]
    assert isinstance(one.values, Estimate)
    assert one.values.value.shape == (1,)


def test_a_map_keeps_the_axis_of_units(whole):
    shares = whole.map(lambda gram: mediation_shares(gram).noising)
    assert shares.labels == whole.labels
    with pytest.raises(ValueError, match="needs values with that leading axis, got shape"):
        whole.map(lambda gram: gram.total.mean())


def test_the_largest_units_with_intervals_print_as_a_table(whole):
    shares = whole.map(
        lambda gram: effects.proportion_mediated(
            jax.random.key(0), gram, bootstrap=Bootstrap(num_replicates=50)
        )
    )
    text = repr(shares.top(3))
    head, columns, *rows = text.splitlines()
    assert head.startswith("3 units of ")
    assert columns.split() == ["site", "unit", "value", "low", "high"]
    site, unit = shares.top(1).labels[0]
    assert rows[0].split()[:2] == [site, str(unit)]
    assert "One trained model" in text
    assert "... " in repr(shares)
    assert repr(whole).splitlines()[1].startswith("total float32")


def test_as_xarray_and_as_a_data_frame():
    data = estimates().to_xarray()
    assert data.sizes == {"unit": 5}
    assert data.site.values.tolist() == [site for site, _ in LABELS]
    np.testing.assert_array_equal(data["value"], estimates().values.value)
    frame = estimates().to_pandas()
    assert set(frame.columns) == {"site", "number", "value", "low", "high"}
    np.testing.assert_array_equal(frame["value"], estimates().values.value)
    assert len(frame) == 5
    wide = UnitTable(LABELS, {"a": jnp.ones((5, 2))})
    assert wide.to_xarray()["a"].dims == ("unit", "a_1")
    with pytest.raises(ValueError, match="'a' has shape .5, 2.: a data frame has one number"):
        wide.to_pandas()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: table().sel("b/e"), "unknown site 'b/e'. Did you mean 'b/d'"),
        (lambda: table().sel([]), "no site is chosen"),
        (lambda: table().sel({"b/c": [1]}), "unit 1 is not in the table"),
        (lambda: table().sel({"b/c": [7]}), "unit 7 is out of range"),
        (lambda: UnitTable(LABELS, jnp.ones((5, 2))).top(1), r"top sorts one number per unit"),
        (lambda: UnitTable(LABELS, {"a": jnp.ones(5), "b": jnp.ones(5)}).top(1), "top sorts one"),
        (lambda: UnitTable(LABELS, jnp.ones(4))[0], r"table of 5 units needs values"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_sites_are_refused_before_anything_is_swept(net, pairs):
    with pytest.raises(ValueError, match="unknown site 'decodr/conv0'. Did you mean"):
        effects.unit_mediation(net, pairs, ["latent/z", "decodr/conv0"])
    with pytest.raises(ValueError, match="unit 9 is out of range"):
        effects.unit_mediation(net, pairs, {"latent/z": [9]})
    for sites in (None, "latent/z"):
        with pytest.raises(ValueError, match="bound without its sites. Bind it with"):
            effects.unit_mediation(BoundModel(net.forward, net.params), pairs, sites)
