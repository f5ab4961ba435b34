"""Named values: what a name means in every construct of JAX, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from vaecausal_jax import interventions as vi
from vaecausal_jax.interventions.sites import list_sites
from vaecausal_jax.models import adapters
from vaecausal_jax.tracing import stage

X = jnp.array([0.3, -0.7, 1.1])
EPS = jnp.zeros(0)
W = jax.random.normal(jax.random.key(0), (3, 3))


@jax.custom_jvp
def straight(h):
    return checkpoint_name(jnp.sign(h), "sign")


straight.defjvp(lambda primals, tangents: (straight(*primals), tangents[0]))


@jax.custom_vjp
def doubled(h):
    return checkpoint_name(2 * h, "doubled")


doubled.defvjp(lambda h: (doubled(h), None), lambda _, cotangent: (100 * cotangent,))


def everything(w, x, eps, name=checkpoint_name, straight=straight, doubled=doubled):
    """One site in each construct; with ``name`` and plain inner functions it is its own oracle."""
    del eps
    h = name(jnp.tanh(w @ x), "top")
    h = jax.jit(lambda h: name(h * 1.7, "jit") + 0.1)(h)
    h = jax.checkpoint(lambda h: jnp.cos(name(jnp.sin(h), "remat")))(h)
    h = h + straight(h) + doubled(h)

    def layer(h, w):
        h = jnp.tanh(name(w @ h * 1.3, "scan") + h)
        return h, h.sum()

    h, sums = jax.lax.scan(layer, h, jnp.stack([w, w.T, 2 * w, w]))
    h = jax.lax.cond(
        h.sum() > 0, lambda h: name(3 * h, "cond") + 1, lambda h: name(h - 2, "cond"), h
    )
    h = jax.vmap(lambda row: name(row.sum() + row, "vmap"))(jnp.stack([h, 2 * h]))
    return {"y": h, "sums": sums}


forward = adapters.from_named(everything)
SITES = forward.sites(W, X, EPS)


def oracle(site, edit):
    """The function with one site's value edited by hand."""

    def name(h, given):
        return edit(h) if given == site else h

    return everything(
        W,
        X,
        EPS,
        name,
        lambda h: name(jnp.sign(h), "sign"),
        lambda h: name(2 * h, "doubled"),
    )


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_sites_are_listed_with_shapes_in_the_order_of_the_program():
    shapes = {name: site.shape for name, site in SITES.items()}
    assert shapes == {
        "top": (3,),
        "jit": (3,),
        "remat": (3,),
        "sign": (3,),
        "doubled": (3,),
        "scan": (4, 3),
        "cond": (3,),
        "vmap": (2, 3),
    }
    assert list(shapes) == list(SITES)
    assert SITES["scan"].unit_axis == 1
    assert "scan     (4, 3)         float32  3 units" in repr(SITES)
    assert dict(list_sites(forward, W, X, EPS)).keys() == dict(SITES).keys()


@pytest.mark.thorough
def test_left_alone_it_is_bitwise_the_function_eager_jitted_and_batched():
    batch = jnp.stack([X, 2 * X])
    for through in (lambda f: f, jax.jit):
        plain = through(lambda w, x: everything(w, x, EPS))
        adapted = through(lambda w, x: forward(w, x, EPS, {}).outputs)
        assert_equal(adapted(W, X), plain(W, X))
        over = (None, 0)
        assert_equal(jax.vmap(adapted, over)(W, batch), jax.vmap(plain, over)(W, batch))


def test_left_alone_it_keeps_custom_derivatives():
    def loss(run):
        return jax.jit(jax.grad(lambda w: jnp.sum(run(w)["y"])))

    plain = loss(lambda w: everything(w, X, EPS))(W)
    assert_equal(loss(lambda w: forward(w, X, EPS).outputs)(W), plain)
    # Elsewhere intervened on, too.
    nothing = vi.shift_by(SITES, "top", 0.0)
    kept = loss(lambda w: forward(w, X, EPS, nothing).outputs)(W)
    np.testing.assert_allclose(kept, plain, rtol=1e-5)
    # And inside, the derivative is that of the code: of 2 h, not 100.
    inside = vi.shift_by(SITES, "doubled", 0.0)
    assert not np.allclose(loss(lambda w: forward(w, X, EPS, inside).outputs)(W), plain)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SITES)
def test_replacing_a_unit_equals_editing_the_function_by_hand(name):
    got = jax.jit(lambda i: forward(W, X, EPS, i))(vi.set_to(SITES, name, 0.25, unit=1))
    expected = jax.jit(lambda: oracle(name, lambda h: h.at[..., 1].set(0.25)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got.outputs, expected)
    np.testing.assert_array_equal(got.activations[name][..., 1], 0.25)
    plain = forward(W, X, EPS)
    assert not np.allclose(got.outputs["y"], plain.outputs["y"])


def test_patching_a_run_with_itself_changes_nothing():
    @jax.jit
    def all_patched():
        run = forward(W, X, EPS)
        patches = [vi.patch(SITES, name, run.activations[name]) for name in SITES]
        return run.outputs, forward(W, X, EPS, vi.combine(*patches)).outputs

    plain, patched = all_patched()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), patched, plain)


def test_every_intervention_acts_layer_by_layer_inside_a_scan_and_masks_select_layers():
    layers = np.array([False, True, False, True])[:, None]
    basis = jnp.eye(3)[:1]
    donor = jnp.full((4, 3), 0.5)
    cases = {
        "replace": (vi.Replace(jnp.asarray(layers), donor), lambda h: h * 0 + 0.5),
        "affine": (
            vi.Affine(jnp.asarray(layers), jnp.float32(2), jnp.ones((1, 3))),
            lambda h: 2 * h + 1,
        ),
        "clamp": (
            vi.Clamp(jnp.asarray(layers), jnp.float32(-0.1), jnp.float32(0.1)),
            lambda h: jnp.clip(h, -0.1, 0.1),
        ),
        "subspace": (
            vi.SubspaceSwap(jnp.asarray(layers), basis, donor),
            lambda h: h.at[0].set(0.5),
        ),
    }

    def by_hand(edit):
        layer = iter(range(4))
        return everything_unrolled(lambda h: edit(h) if next(layer) in (1, 3) else h)

    def everything_unrolled(edit):
        h = jnp.tanh(W @ X)
        for w in (W, W.T, 2 * W, W):
            h = jnp.tanh(edit(w @ h * 1.3) + h)
        return h

    def scanned(w, x, eps):
        def layer(h, w):
            return jnp.tanh(checkpoint_name(w @ h * 1.3, "layer") + h), None

        return jax.lax.scan(layer, jnp.tanh(w @ x), jnp.stack([w, w.T, 2 * w, w]))[0]

    model = adapters.from_named(scanned)
    for step, edit in cases.values():
        two = {"layer": (step, vi.Affine(jnp.array(False), jnp.float32(9), jnp.float32(9)))}
        got = model(W, X, EPS, two).outputs
        np.testing.assert_allclose(got, by_hand(edit), rtol=1e-5, atol=1e-6)


def test_nested_scans_give_two_axes_of_layers_and_reverse_ones_keep_positions():
    def function(w, x, eps):
        def outer(h, scale):
            def inner(h, shift):
                return checkpoint_name(jnp.tanh(w @ h * scale + shift), "h"), None

            return jax.lax.scan(inner, h, jnp.arange(2.0))[0], None

        return jax.lax.scan(outer, x, jnp.array([1.0, 2.0, 3.0]), reverse=True)[0]

    nested = adapters.from_named(function)
    trace = jax.jit(nested)(W, X, EPS)
    assert trace.activations["h"].shape == (3, 2, 3)
    np.testing.assert_array_equal(trace.activations["h"][0, 1], trace.outputs)
    mask = jnp.zeros((3, 2, 1), bool).at[1, 0].set(True)
    got = jax.jit(nested)(W, X, EPS, {"h": vi.Replace(mask, jnp.full((1, 1, 3), 0.5))})
    h = jnp.full(3, 0.5)
    for scale, shift in ((2.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        h = jnp.tanh(W @ h * scale + shift)
    np.testing.assert_allclose(got.outputs, h, rtol=1e-6)
    unrolled = adapters.from_named(function, unroll=True)
    assert unrolled.sites(W, X, EPS)["h[0][2]"].shape == (3,)
    np.testing.assert_allclose(
        unrolled(W, X, EPS, {}).activations["h[1][0]"], trace.activations["h"][0, 1], rtol=1e-6
    )


def test_names_given_more_than_once_are_numbered_so_none_is_meant_by_chance():
    def function(w, x, eps):
        block = jax.jit(lambda h: checkpoint_name(jnp.tanh(w @ h), "h"))
        return block(block(x)) + checkpoint_name(x, "x")

    twice = adapters.from_named(function)
    sites = twice.sites(W, X, EPS)
    assert list(sites) == ["h#0", "h#1", "x"]
    got = twice(W, X, EPS, vi.set_to(sites, "h#0", 0.5)).outputs
    np.testing.assert_allclose(got, jnp.tanh(W @ jnp.full(3, 0.5)) + X, rtol=1e-6)
    with pytest.raises(ValueError, match="never reached site 'h'.*'h#"):
        twice(W, X, EPS, {"h": vi.Replace(jnp.array(True), jnp.float32(0))})


def test_box_patches_leave_the_layers_before_them_out_of_the_program():
    def function(w, x, eps):
        h = jax.jit(lambda h: checkpoint_name(jnp.tanh(w @ h), "first"))(x)
        for _ in range(6):
            h = jnp.tanh(w @ h)
        h = jax.jit(lambda h: checkpoint_name(jnp.tanh(w @ h), "site"))(h)
        return w @ h

    model = adapters.from_named(function)

    def cost(interventions):
        run = jax.jit(lambda w, i: model(w, X, EPS, i).outputs)
        return run.lower(W, interventions).compile().cost_analysis()["flops"]

    box = vi.BoxPatch(X, X[:1], (jnp.array(1),))
    last = jax.jit(lambda w: w @ X).lower(W).compile().cost_analysis()["flops"]
    assert cost({}) > 6 * last
    assert cost({"site": box}) < 3 * last


def test_an_unrolled_scan_restarts_at_the_layer():
    def function(w, x, eps):
        def layer(h, w):
            return checkpoint_name(jnp.tanh(w @ h), "layer"), None

        return jax.lax.scan(layer, x, jnp.stack([w] * 6))[0]

    model = adapters.from_named(function, unroll=True)

    def products(name):
        box = {name: vi.BoxPatch(X, X[:1], (jnp.array(1),))}
        program = jax.jit(lambda w: model(w, X, EPS, box).outputs).lower(W).compile()
        return program.cost_analysis()["flops"]

    assert products("layer[4]") < 0.5 * products("layer[0]")


def test_sweeps_stage_scans_before_the_site_once():
    def function(w, x, eps):
        h, _ = jax.lax.scan(lambda h, w: (checkpoint_name(w @ h, "h"), None), x, jnp.stack([w, w]))
        return jnp.tanh(checkpoint_name(h * 2, "after")) * 3

    model = adapters.from_named(function)

    def run(x, unit):
        natural = model(W, x, EPS).activations["after"]
        return model(W, x, EPS, {"after": vi.BoxPatch(natural, X[:1], (unit,))}).outputs

    later = stage(run, (X,), (0,))
    assert "scan" in str(jax.make_jaxpr(run)(X, 0))
    assert "scan" not in str(jax.make_jaxpr(later)(0))
    np.testing.assert_allclose(later(1), run(X, 1), rtol=1e-6)


def test_it_runs_under_shard_map():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    batch = jnp.stack([X, 2 * X, -X, X + 1])
    box = vi.set_to(SITES, "scan", 0.25, unit=1)

    def some(x):
        return jax.vmap(lambda x: forward(W, x, EPS, box).outputs["y"])(x)

    spec = PartitionSpec("data")
    for check in (False, True):
        sharded = jax.shard_map(some, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check)
        np.testing.assert_allclose(jax.jit(sharded)(batch), jax.jit(some)(batch), rtol=1e-5)


def test_callbacks_run_once():
    seen = []

    def function(w, x, eps):
        @jax.jit
        def block(h):
            jax.debug.callback(lambda h: seen.append(float(h[0])), h)
            return checkpoint_name(2 * h, "h")

        return block(x)

    jax.block_until_ready(adapters.from_named(function)(W, X, EPS))
    jax.effects_barrier()
    assert len(seen) == 1


def test_unit_axes_are_last_unless_the_caller_says_otherwise():
    def function(w, x, eps):
        h = checkpoint_name(jnp.outer(x, x[:2]), "map")
        codes = checkpoint_name(jnp.argmax(h, axis=1), "codes")
        return h[codes], checkpoint_name(jnp.sum(h), "scalar")

    def axes(**options):
        sites = adapters.from_named(function, **options).sites(W, X, EPS)
        return {name: site.unit_axis for name, site in sites.items()}

    assert axes() == {"map": 1, "codes": None, "scalar": None}
    assert axes(unit_axes={"map": 0})["map"] == 0
    assert axes(unit_axes={"map": -2})["map"] == 0
    assert axes(unit_axes={"map": None})["map"] is None
    model = adapters.from_named(function, unit_axes={"map": 0})
    assert list_sites(model, W, X, EPS)["map"].unit_axis == 0
    with pytest.raises(ValueError, match="'map': unit axis 2 is out of range"):
        axes(unit_axes={"map": 2})
    with pytest.raises(ValueError, match="unknown site 'mpa'.*'map'"):
        axes(unit_axes={"mpa": 0})


def test_model_has_what_the_library_asks_of_one():
    model = forward.model(W, X, EPS)
    assert model.image_shape == (3,)
    assert model.noise_shape == (0,)
    assert not model.has_noise
    assert repr(model.sites) == repr(SITES)
    assert model.forward(W, X, EPS, {}).outputs["y"].shape == (2, 3)
    assert hash(model.forward) == hash(adapters.from_named(everything))


def hidden(w, x, eps):
    h = jax.lax.while_loop(
        lambda h: h.sum() < 9, lambda h: checkpoint_name(h + 1, "looped"), jnp.abs(x)
    )
    h = jax.lax.cond(h[0] > 0, lambda h: checkpoint_name(h, "sometimes"), lambda h: -h, h)
    checkpoint_name(h, "unused")
    h = jax.jit(lambda h: checkpoint_name(h + 1, "used"))(h)
    return jax.lax.scan(lambda h, _: (checkpoint_name(h, "layer"), None), h, length=2)[0]


HALF = vi.Replace(jnp.array(True), jnp.float32(0.5))


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ({"looped": HALF}, "'looped' lies inside while.*lax.scan"),
        ({"sometimes": HALF}, "'sometimes' lies inside cond, but not alike in all its branches"),
        ({"unused": HALF}, "'unused' is named, but the function does not use.*checkpoint_name"),
        ({"uesd": HALF}, "never reached site 'uesd'.*Did you mean 'used'"),
        ({"used": 0.5}, "'used': expected an intervention"),
        ([HALF], "must be a mapping"),
        ({"used": vi.Replace(jnp.array(True), jnp.zeros(4))}, "'used': value has shape"),
        ({"layer": vi.Replace(jnp.array(True), jnp.zeros(3))}, r"'layer': value.*\(2, 3\)"),
        (
            {"layer": vi.SubspaceSwap(jnp.array(True), jnp.ones((1, 2, 3)), jnp.zeros((2, 3)))},
            "mixes layers",
        ),
    ],
)
def test_interventions_that_cannot_apply_are_refused_by_name(interventions, message):
    with pytest.raises(ValueError, match=message):
        adapters.from_named(hidden)(W, X, EPS, interventions)


class Negated:
    """Somebody's own intervention."""

    def check(self, name, site):
        pass

    def apply(self, value):
        return -value


def test_own_kinds_of_intervention_work_outside_a_scan_and_are_refused_inside():
    model = adapters.from_named(hidden)
    plain = model(W, X, EPS).activations["used"]
    got = model(W, X, EPS, {"used": Negated()}).activations["used"]
    np.testing.assert_array_equal(got, -plain)
    with pytest.raises(ValueError, match="'layer': Negated cannot be applied layer by layer"):
        model(W, X, EPS, {"layer": Negated()})
    unrolled = adapters.from_named(hidden, unroll=True)
    got = unrolled(W, X, EPS, {"layer[1]": Negated()})
    np.testing.assert_array_equal(got.outputs, -plain)


def test_values_that_cannot_be_entered_are_no_sites_and_leave_the_function_as_it_is():
    model = adapters.from_named(hidden)
    assert list(model.sites(W, X, EPS)) == ["unused", "used", "layer"]
    np.testing.assert_array_equal(model(W, X, EPS).outputs, hidden(W, X, EPS))


def test_masks_that_select_nothing_give_the_plain_run():
    # A value that XLA rounds as one operation with the next is rounded once more when a mask
    # stands between, so the two programs may differ in the last bit.
    def function(w, x, eps):
        block = lambda h, name: checkpoint_name(jnp.tanh(w @ h), name)  # noqa: E731
        h = jax.jit(lambda h: block(h, "jit"))(block(x, "top"))
        h = jax.lax.scan(lambda h, _: (block(h, "scan"), None), h, length=3)[0]
        return jax.lax.cond(h[0] > 0, lambda h: block(h, "cond"), lambda h: block(h, "cond"), h)

    model = adapters.from_named(function)
    names = model.sites(W, X, EPS)
    nothing = {name: vi.Replace(jnp.array(False), jnp.float32(jnp.nan)) for name in names}
    for through in (lambda f: f, jax.jit):
        got = through(lambda w, x, i: model(w, x, EPS, i).outputs)(W, X, nothing)
        plain = through(lambda w, x: function(w, x, EPS))(W, X)
        np.testing.assert_allclose(got, plain, rtol=1e-6, atol=1e-7)
