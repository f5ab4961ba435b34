"""Laws of every network: no-ops are exact, interventions reach forwards only, nothing is silent."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from hypothesis import strategies as st
from jaxtyping import Array, Float, PyTree, jaxtyped

from vaecausal_jax import interventions as vi
from vaecausal_jax import models
from vaecausal_jax.models.networks import nearest_codes

FAMILIES = {
    "conv": models.conv_vae(
        (16, 16, 1),
        latent_size=3,
        encoder_channels=(4, 4),
        encoder_dense=(6,),
        decoder_dense=(6,),
        decoder_channels=(4, 4),
    ),
    "mlp": models.mlp_vae((4, 4, 1), latent_size=3, encoder_dense=(6, 5), decoder_dense=(5, 6)),
    "linear": models.linear_vae(7, latent_size=3),
    "vq": models.vq_vae(
        (16, 16, 1),
        num_codes=6,
        code_size=3,
        encoder_channels=(4, 4),
        decoder_channels=(4, 4),
    ),
}
GAUSSIAN = ["conv", "mlp", "linear"]
SITES = [(family, site) for family, model in FAMILIES.items() for site in model.sites]
# A cut separates the input from the output; the mean and the log-variance alone are not one.
CUTS = [(f, s) for f, s in SITES if s not in ("latent/mean", "latent/logvar")]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_site = pytest.mark.parametrize(("family", "site"), SITES)
each_seed = pytest.mark.parametrize("seed", range(3))


def random_run(model, seed):
    """A random network with an image and noise, all of them generic: no zero, no tie."""
    rng = np.random.default_rng(seed)

    def normal(leaf):
        fan_in = np.prod(leaf.shape[:-1], dtype=int)
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(max(fan_in, 4)), leaf.dtype)

    params = jax.tree.map(normal, jax.eval_shape(model.init, jax.random.key(0)))
    x = jnp.asarray(rng.uniform(size=model.image_shape), float)
    eps = jnp.asarray(rng.normal(size=model.noise_shape), float)
    if "codebook" in params:  # codes among the values to be quantised, or all positions take one
        pre = model.forward(params, x, eps).activations["latent/pre"]
        params = params | {"codebook": pre.reshape(-1, 3)[:16:3] + 1e-3}
    return params, x, eps


@pytest.fixture(scope="module")
def runs():
    """(family, seed) to (params, x, eps)."""
    return {
        (f, seed): random_run(model, seed) for f, model in FAMILIES.items() for seed in range(3)
    }


@pytest.fixture(scope="module")
def jitted():
    return {family: jax.jit(model.forward) for family, model in FAMILIES.items()}


def noops(sites, name):
    """An all-false mask with every type of intervention that the site admits."""
    site, nothing = sites[name], np.zeros((1,) * len(sites[name].shape), bool)
    if site.unit_axis is None:
        yield vi.set_to(sites, name, 3, mask=nothing)
        yield vi.map_codes(sites, name, np.full(6, 3, np.int32), mask=nothing)
        return
    yield vi.set_to(sites, name, np.nan, mask=nothing)
    yield vi.combine(
        vi.shift_by(sites, name, 3.0, mask=nothing), vi.scale_by(sites, name, 2.0, mask=nothing)
    )
    yield vi.clamp_to(sites, name, 7.0, 8.0, mask=nothing)
    direction = jnp.ones((1, site.shape[-1]))
    yield vi.swap_subspace(sites, name, direction, jnp.full(site.shape, 9.0), mask=nothing)


def everywhere(sites):
    return vi.combine(*(step for name in sites for step in noops(sites, name)))


# --- no-ops -----------------------------------------------------------------------------------


@pytest.mark.thorough
@each_site
def test_an_all_false_mask_is_bitwise_the_plain_run(family, site, runs):
    model, run = FAMILIES[family], runs[family, 0]
    plain = model.forward(*run)
    for step in noops(model.sites, site):
        chex.assert_trees_all_equal(model.forward(*run, step), plain)


@pytest.mark.thorough
@each_family
def test_all_false_masks_everywhere_are_bitwise_the_plain_run_under_jit(family, runs, jitted):
    step = everywhere(FAMILIES[family].sites)
    for seed in range(3):
        run = runs[family, seed]
        chex.assert_trees_all_equal(jitted[family](*run, step), jitted[family](*run, {}))


@pytest.mark.thorough
@each_site
def test_patching_a_run_with_itself_changes_no_bit(family, site, runs, jitted):
    model, run = FAMILIES[family], runs[family, 1]
    for forward in (model.forward, jitted[family]):
        plain = forward(*run, {})
        step = vi.patch(model.sites, site, plain.activations[site])
        chex.assert_trees_all_equal(forward(*run, step), plain)
        if forward is model.forward and model.sites[site].num_units:
            step = vi.patch(model.sites, site, plain.activations[site], unit=0)
            chex.assert_trees_all_equal(forward(*run, step), plain)


# --- structure (METHODS 1.7) ------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(("family", "site"), CUTS)
def test_a_whole_layer_is_a_cut_so_its_donor_decides_the_output(family, site, runs):
    model, (params, x0, eps) = FAMILIES[family], runs[family, 0]
    x1 = runs[family, 1][1]
    donor = model.forward(params, x1, eps)
    assert np.any(model.forward(params, x0, eps).outputs != donor.outputs)
    patched = model.forward(params, x0, eps, vi.patch(model.sites, site, donor.activations[site]))
    np.testing.assert_array_equal(patched.outputs, donor.outputs)


@pytest.mark.parametrize("family", GAUSSIAN)
def test_mean_and_logvar_together_are_a_cut_and_alone_are_none(family, runs):
    model, (params, x0, eps) = FAMILIES[family], runs[family, 0]
    x1 = runs[family, 1][1]
    donor = model.forward(params, x1, eps)
    steps = [
        vi.patch(model.sites, f"latent/{name}", donor.activations[f"latent/{name}"])
        for name in ("mean", "logvar")
    ]
    both = model.forward(params, x0, eps, vi.combine(*steps))
    np.testing.assert_array_equal(both.outputs, donor.outputs)
    if family != "linear":  # whose log-variance does not depend on the image
        for step in steps:
            assert np.any(model.forward(params, x0, eps, step).outputs != donor.outputs)


@pytest.mark.thorough
@each_site
def test_an_intervention_changes_nothing_before_its_site(family, site, runs):
    model, run = FAMILIES[family], runs[family, 2]
    plain = model.forward(*run).activations
    value = 5 if model.sites[site].unit_axis is None else plain[site] + 1.5
    changed = model.forward(*run, vi.set_to(model.sites, site, value)).activations
    order = list(model.sites)
    for name in order[: order.index(site)]:
        np.testing.assert_array_equal(changed[name], plain[name])
    for name in order[order.index(site) :]:
        free_variance = name == "latent/logvar" and (family == "linear" or site == "latent/mean")
        if name == site or not free_variance:
            assert np.any(changed[name] != plain[name]), name


@pytest.mark.parametrize("family", GAUSSIAN)
def test_a_unit_that_is_equal_in_both_runs_has_no_effect_if_noise_is_shared(family, runs):
    model, (params, x0, eps) = FAMILIES[family], runs[family, 0]
    x1, other_eps = runs[family, 1][1:]
    dead = jax.tree_util.tree_map_with_path(
        lambda path, a: a.at[..., 1].set(0.0) if path[0].key in ("mean", "logvar") else a, params
    )
    z1 = model.forward(dead, x1, eps).activations["latent/z"]
    np.testing.assert_array_equal(z1[1], eps[1])
    plain = model.forward(dead, x0, eps)
    same = model.forward(dead, x0, eps, vi.patch(model.sites, "latent/z", z1, unit=1))
    np.testing.assert_array_equal(same.outputs, plain.outputs)
    z1 = model.forward(dead, x1, other_eps).activations["latent/z"]
    noisy = model.forward(dead, x0, eps, vi.patch(model.sites, "latent/z", z1, unit=1))
    assert np.any(noisy.outputs != plain.outputs)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "site"),
    [
        ("conv", "encoder/conv0"),
        ("conv", "decoder/dense1"),
        ("mlp", "latent/z"),
        ("linear", "latent/z"),
        ("vq", "latent/pre"),
        ("vq", "decoder/conv0"),
    ],
)
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(data=st.data(), seed=st.integers(0, 2))
def test_disjoint_patches_compose_to_their_union_in_any_order(family, site, runs, data, seed):
    model, (params, x0, eps) = FAMILIES[family], runs[family, seed]
    x1 = runs[family, (seed + 1) % 3][1]
    units = model.sites[site].num_units
    part = data.draw(st.lists(st.integers(0, 2), min_size=units, max_size=units).map(np.array))
    donor = model.forward(params, x1, eps).activations[site]

    def outputs(*groups):
        steps = [vi.patch(model.sites, site, donor, group=group) for group in groups]
        return model.forward(params, x0, eps, vi.combine(*steps)).outputs

    union = outputs(part < 2)
    np.testing.assert_array_equal(outputs(part == 0, part == 1), union)
    np.testing.assert_array_equal(outputs(part == 1, part == 0), union)
    # All units of a layer, one group after the other, make the donor's run (v(N) - v(0) = TE).
    whole = model.forward(params, x1, eps).outputs
    np.testing.assert_array_equal(outputs(part == 2, part == 0, part == 1), whole)


# --- gradients --------------------------------------------------------------------------------


def is_encoder(path):
    name = path[0].key
    return name.startswith(("encoder", "mean", "logvar", "to_codes"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "site"), [(f, s) for f, s in SITES if s in ("latent/z", "latent/codes")]
)
def test_setting_the_whole_latent_makes_the_encoders_gradient_exactly_zero(family, site, runs):
    model, (params, x, eps) = FAMILIES[family], runs[family, 0]
    natural = model.forward(params, x, eps).activations[site]
    other = (natural + 1) % 6 if natural.dtype == jnp.int32 else natural + 0.1

    @jax.jit
    @jax.grad
    def gradient(params, mask):
        step = vi.set_to(model.sites, site, other, mask=mask)
        return jnp.sum(model.forward(params, x, eps, step).outputs ** 2)

    def encoder(mask):
        leaves = jax.tree_util.tree_leaves_with_path(gradient(params, mask))
        return [leaf for path, leaf in leaves if is_encoder(path)]

    for leaf in encoder(jnp.ones(natural.shape, bool)):
        np.testing.assert_array_equal(leaf, 0.0)
    assert any(np.any(leaf != 0) for leaf in encoder(jnp.zeros(natural.shape, bool)))


@pytest.mark.parametrize("family", GAUSSIAN)
def test_gradient_with_respect_to_dose_and_scale_equals_the_finite_difference(family, runs):
    with jax.enable_x64(True):
        model = FAMILIES[family]
        run = jax.tree.map(lambda a: np.asarray(a, np.float64), runs[family, 0])
        sites = model.sites

        @jax.jit
        def y(doses):
            step = vi.combine(
                vi.shift_by(sites, "latent/mean", doses[0], unit=1),
                vi.scale_by(sites, "latent/z", doses[1]),
            )
            return jnp.sum(jnp.tanh(model.forward(*run, step).outputs))

        doses, h = jnp.array([0.4, 1.3]), 1e-6
        finite = [(y(doses + h * e) - y(doses - h * e)) / (2 * h) for e in jnp.eye(2)]
        np.testing.assert_allclose(jax.grad(y)(doses), finite, rtol=1e-6, atol=1e-8)


def test_straight_through_gradient_is_the_decoders_at_natural_codes_and_zero_elsewhere(runs):
    model = FAMILIES["vq"]
    sites = model.sites
    swapped = np.zeros(sites["latent/codes"].shape, bool)
    swapped[1], swapped[3, 0] = True, True

    def gradient(site):
        @jax.jit
        def at(run, codes, mask):
            def loss(amount):
                step = vi.combine(
                    vi.shift_by(sites, site, amount),
                    vi.swap_codes(sites, "latent/codes", codes, num_codes=6, mask=mask),
                )
                return jnp.sum(jnp.tanh(model.forward(*run, step).outputs))

            return jax.grad(loss)(jnp.zeros(sites[site].shape))

        return at

    encoder_gradient, decoder_gradient = gradient("latent/pre"), gradient("latent/z")
    for seed in range(3):
        run = runs["vq", seed]
        codes = model.forward(*run).activations["latent/codes"]
        for arguments in (
            (run, (codes + 1) % 6, np.zeros_like(swapped)),  # nothing is swapped
            (run, codes, np.ones_like(swapped)),  # each code is swapped by itself
            (run, (codes + 1) % 6, swapped),
        ):
            encoder, decoder = (
                np.asarray(at(*arguments)) for at in (encoder_gradient, decoder_gradient)
            )
            other = arguments[2] & (arguments[1] != codes)
            np.testing.assert_array_equal(encoder[other], 0.0)
            np.testing.assert_allclose(encoder[~other], decoder[~other], rtol=1e-6, atol=1e-7)
            assert np.any(encoder[~other] != 0)
            assert np.any(decoder[other] != 0) == np.any(other)


# --- against NumPy ----------------------------------------------------------------------------


@each_seed
def test_linear_vae_equals_its_formula_with_interventions(seed, runs):
    model, (params, x, eps) = FAMILIES["linear"], runs["linear", seed]
    weights = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    mean = np.asarray(x).ravel() @ weights["mean"]["kernel"] + weights["mean"]["bias"]
    mean[1] = 0.25
    z = mean + np.exp(0.5 * weights["logvar"]) * np.asarray(eps)
    z[2] *= -3.0
    head = weights["decoder"]["mean"]
    y = z @ head["kernel"] + head["bias"]
    step = vi.combine(
        vi.set_to(model.sites, "latent/mean", 0.25, unit=1),
        vi.scale_by(model.sites, "latent/z", -3.0, unit=2),
    )
    trace = model.forward(params, x, eps, step)
    np.testing.assert_allclose(trace.activations["latent/z"], z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trace.outputs[0, :, 0], y, rtol=1e-5, atol=1e-5)


@each_seed
def test_mlp_vae_equals_plain_loops(seed, runs):
    model, (params, x, eps) = FAMILIES["mlp"], runs["mlp", seed]

    def dense(h, layer):
        kernel, bias = np.asarray(layer["kernel"], float), np.asarray(layer["bias"], float)
        return np.array(
            [sum(h[i] * kernel[i, j] for i in range(len(h))) + bias[j] for j in range(len(bias))]
        )

    h = np.asarray(x, float).ravel()
    for name in ("dense0", "dense1"):
        h = np.maximum(dense(h, params["encoder"][name]), 0)
    h[3] = 2.0
    mean, logvar = dense(h, params["mean"]), dense(h, params["logvar"])
    z = mean + np.exp(logvar / 2) * np.asarray(eps, float)
    y = np.maximum(dense(z, params["decoder"]["dense0"]), 0)
    y = np.maximum(dense(y, params["decoder"]["dense1"]), 0)
    y = dense(y, params["decoder"]["logits"]).reshape(4, 4, 1)
    trace = model.forward(params, x, eps, vi.set_to(model.sites, "encoder/dense1", 2.0, unit=3))
    np.testing.assert_allclose(trace.outputs, y, rtol=1e-4, atol=1e-5)


def test_nearest_codes_equals_the_search_by_hand():
    pre = jax.random.normal(jax.random.key(0), (3, 2, 4))
    book = jax.random.normal(jax.random.key(1), (5, 4))
    distance = np.linalg.norm(np.asarray(pre)[:, :, None] - np.asarray(book), axis=-1)
    np.testing.assert_array_equal(nearest_codes(pre, book), distance.argmin(-1))


@each_seed
def test_vq_latent_is_the_codebook_entry_of_the_codes(seed, runs):
    model, run = FAMILIES["vq"], runs["vq", seed]
    h = model.forward(*run).activations
    book = np.asarray(run[0]["codebook"])
    np.testing.assert_array_equal(h["latent/codes"], nearest_codes(h["latent/pre"], book))
    np.testing.assert_array_equal(h["latent/z"], book[h["latent/codes"]])
    step = vi.swap_codes(model.sites, "latent/codes", 4, num_codes=6, position=(0, 1))
    h = model.forward(*run, step).activations
    np.testing.assert_array_equal(h["latent/z"][0, 1], book[4])


@pytest.mark.parametrize("code", [-1, 6])
def test_a_traced_code_outside_the_codebook_gives_nan(code, runs):
    model, run = FAMILIES["vq"], runs["vq", 0]
    step = jax.jit(lambda c: vi.swap_codes(model.sites, "latent/codes", c, num_codes=6))(code)
    assert np.isnan(model.forward(*run, step).outputs).all()


def test_a_traced_position_out_of_range_gives_nan(runs):
    model, run = FAMILIES["vq"], runs["vq", 0]
    set_code = jax.jit(lambda i: vi.set_to(model.sites, "latent/codes", 2, position=(i, 0)))
    assert np.isnan(model.forward(*run, set_code(4)).outputs).any()
    assert np.isfinite(model.forward(*run, set_code(3)).outputs).all()


# --- transformations --------------------------------------------------------------------------


@each_family
def test_jit_equals_eager(family, runs, jitted):
    run = runs[family, 0]
    chex.assert_trees_all_close(
        jitted[family](*run, {}), FAMILIES[family].forward(*run), rtol=1e-4, atol=1e-5
    )


def sweep_points(model):
    """Sets, shifts and scales of the latent units, stacked."""
    site = "latent/z"
    return [
        make(model.sites, site, 1.5, unit=unit)
        for make in (vi.set_to, vi.shift_by, vi.scale_by)
        for unit in range(model.sites[site].num_units)
    ]


@pytest.mark.thorough
@each_family
def test_vmap_over_interventions_equals_the_loop(family, runs, jitted):
    model, run = FAMILIES[family], runs[family, 0]
    points = sweep_points(model)
    stacked = jax.jit(jax.vmap(model.forward, in_axes=(None, None, None, 0)))(
        *run, vi.stack(points)
    )
    for i, point in enumerate(points):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, i=i: a[i], stacked),
            model.forward(*run, point),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.thorough
@each_family
def test_interventions_survive_checked_signatures_and_abstract_evaluation(family, runs):
    model, run = FAMILIES[family], runs[family, 0]

    @jaxtyped(typechecker=beartype)
    def outputs(
        params: PyTree,
        x: Float[Array, "h w c"],
        eps: Float[Array, " latent"],
        interventions: PyTree,
    ) -> Float[Array, "h w c"]:
        return model.forward(params, x, eps, interventions).outputs

    step = vi.combine(everywhere(model.sites), sweep_points(model)[0])
    abstract = jax.eval_shape(outputs, *run, step)
    assert abstract.shape == model.image_shape
    value = jax.jit(outputs)(*run, jax.tree.map(jnp.asarray, step))
    chex.assert_tree_all_finite(value)
    assert value.dtype == abstract.dtype


@pytest.mark.parametrize("family", ["conv", "vq"])
def test_interventions_and_images_shard_over_devices(family, runs):
    model, (params, x, eps) = FAMILIES[family], runs[family, 0]
    points = vi.stack(sweep_points(model)[:6])
    num = len(jax.tree.leaves(points)[0])
    xs, noise = (jnp.stack([a * s for s in np.linspace(0.5, 1, num)]) for a in (x, eps))
    batched = jax.jit(jax.vmap(model.forward, in_axes=(None, 0, 0, 0)))
    expected = batched(params, xs, noise, points)
    mesh = jax.make_mesh((2,), ("image",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("image"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    sharded = batched(jax.device_put(params, whole), *jax.device_put((xs, noise, points), split))
    assert len(sharded.outputs.sharding.device_set) == 2
    chex.assert_trees_all_close(sharded, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@each_family
def test_forward_with_interventions_lowers_for_accelerators(family, platform, runs):
    model, run = FAMILIES[family], runs[family, 0]
    points = vi.stack(sweep_points(model))
    batched = jax.jit(jax.vmap(model.forward, in_axes=(None, None, None, 0)))
    exported = jax.export.export(batched, platforms=[platform])(*run, points)
    assert exported.platforms == (platform,)
    assert exported.out_avals[0].shape[0] == len(jax.tree.leaves(points)[0])


@pytest.mark.thorough
@each_family
def test_single_precision_agrees_with_double(family, runs):
    model, run = FAMILIES[family], runs[family, 0]
    points = vi.combine(
        vi.shift_by(model.sites, "latent/z", 0.5, unit=1),
        vi.scale_by(model.sites, list(model.sites)[1], 1.5, unit=0),
    )
    single = model.forward(*run, points)
    with jax.enable_x64(True):
        double = jax.tree.map(
            lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, (run, points)
        )
        double = model.forward(*double[0], double[1])
        assert double.outputs.dtype == jnp.float64
        for name, value in single.activations.items():
            scale = float(jnp.max(jnp.abs(double.activations[name])))
            np.testing.assert_allclose(value, double.activations[name], rtol=0, atol=1e-5 * scale)


# --- sites and mistakes -----------------------------------------------------------------------


def test_sites_come_in_the_order_of_the_forward_with_their_shapes():
    assert {name: site.shape for name, site in FAMILIES["conv"].sites.items()} == {
        "input/image": (16, 16, 1),
        "encoder/conv0": (8, 8, 4),
        "encoder/conv1": (4, 4, 4),
        "encoder/dense0": (6,),
        "latent/mean": (3,),
        "latent/logvar": (3,),
        "latent/z": (3,),
        "decoder/dense0": (6,),
        "decoder/dense1": (64,),
        "decoder/conv0": (8, 8, 4),
        "decoder/logits": (16, 16, 1),
    }
    assert list(FAMILIES["vq"].sites)[3:6] == ["latent/pre", "latent/codes", "latent/z"]
    assert FAMILIES["vq"].sites["latent/codes"].unit_axis is None


@each_family
def test_sites_describe_what_a_run_returns(family, runs):
    model = FAMILIES[family]
    h = model.forward(*runs[family, 0]).activations
    assert list(h) == list(model.sites)
    for name, site in model.sites.items():
        assert (h[name].shape, h[name].dtype) == (site.shape, site.dtype)


def test_default_sizes_are_the_fields():
    shapes = {
        name: jax.eval_shape(model.init, jax.random.key(0))
        for name, model in {"conv": models.conv_vae(), "burgess": models.burgess_vae()}.items()
    }
    assert models.num_params(shapes["burgess"]) == sum(
        [
            (16 * 1 + 1) * 32 + 3 * (16 * 32 + 1) * 32,
            (512 + 1) * 256 + (256 + 1) * 256 + 2 * (256 + 1) * 10,
            (10 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 512,
            3 * (16 * 32 + 1) * 32 + 16 * 32 + 1,
        ]
    )
    assert models.conv_vae().sites["decoder/dense1"].shape == (1024,)
    assert models.burgess_vae((32, 32, 3)).sites["encoder/conv2"].shape == (4, 4, 32)


@each_family
def test_models_are_hashable_values(family):
    model = FAMILIES[family]
    assert hash(model) == hash(model)
    assert model.has_noise == (family != "vq")


def call(family, x=None, eps=None, interventions=None, params=None):
    model = FAMILIES[family]
    if params is None:
        params = jax.eval_shape(model.init, jax.random.key(0))
    x = jnp.zeros(model.image_shape) if x is None else x
    eps = jnp.zeros(model.noise_shape) if eps is None else eps
    forward = model.forward
    return jax.eval_shape(lambda p: forward(p, x, eps, interventions), params)


CONV = FAMILIES["conv"].sites
BAD_CALLS = {
    "unknown site": ({"latent/zz": ()}, "unknown site 'latent/zz'.*Did you mean 'latent/z'"),
    "site of another model": (
        vi.set_to(CONV, "decoder/dense1", 0.0),
        "unknown site 'decoder/dense1'.*Did you mean 'decoder/dense0'",
    ),
    "array": (
        {"latent/z": jnp.zeros(3)},
        r"expected an intervention.*set_to\(sites, name, array\)",
    ),
    "list": ([], "must be a mapping.*got list"),
    "None": (None, "must be a mapping.*got NoneType"),
    "shape": (
        vi.set_to(CONV, "latent/z", jnp.zeros(3))
        | {
            "decoder/logits": vi.set_to(CONV, "encoder/conv0", jnp.zeros((8, 8, 4)))[
                "encoder/conv0"
            ]
        },
        r"at site 'decoder/logits': value has shape \(8, 8, 4\), expected \(16, 16, 1\)",
    ),
    "stacked without vmap": (
        vi.stack([vi.set_to(CONV, "latent/z", 1.0, unit=u) for u in range(3)]),
        r"at site 'latent/z': mask has shape \(3, 3\).*vmap over a batch",
    ),
}


@pytest.mark.parametrize(("interventions", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_forward_refuses_interventions_that_do_not_fit(interventions, message):
    with pytest.raises(ValueError, match=message):
        call("vq" if "dense1" in message else "conv", interventions=interventions)


BAD_INPUTS = {
    "batch of images": (
        {"x": jnp.zeros((5, 16, 16, 1))},
        r"x has shape \(5, 16, 16, 1\), expected \(16, 16, 1\).*Use jax.vmap over the batch",
    ),
    "image size": ({"x": jnp.zeros((32, 32, 1))}, r"x has shape \(32, 32, 1\)"),
    "image without channels": ({"x": jnp.zeros((16, 16))}, r"x has shape \(16, 16\)"),
    "integer image": (
        {"x": jnp.zeros((16, 16, 1), jnp.uint8)},
        "x has dtype uint8, expected floating",
    ),
    "noise size": ({"eps": jnp.zeros(4)}, r"eps has shape \(4,\), expected \(3,\)"),
    "scalar noise": (
        {"eps": 0.0},
        r"eps has shape \(\), expected \(3,\): one noise vector an image",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_forward_refuses_inputs_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        call("conv", interventions={}, **arguments)


def test_double_precision_interventions_on_a_single_precision_run_are_refused(runs):
    model, run = FAMILIES["conv"], runs["conv", 0]
    with jax.enable_x64(True):
        step = vi.set_to(model.sites, "latent/z", np.zeros(3))
        with pytest.raises(ValueError, match="latent/z.*float64, expected float32"):
            model.forward(*run, step)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.conv_vae((20, 20, 1)), "20x20 is not divisible by 16"),
        (lambda: models.vq_vae((12, 12, 1)), "12x12 is not divisible by 8"),
        (lambda: models.conv_vae(encoder_kernels=(4, 4)), "differ in length"),
        (lambda: models.vq_vae(encoder_channels=(8, 8)), "must have one length"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
