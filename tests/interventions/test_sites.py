"""Sites and the tape: names, shapes, and that no mistake at a site passes in silence."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax.interventions.sites import Intervention, Site, Sites, Tape, Trace, list_sites

X = jnp.array([1.0, -2.0])
NONE = jnp.zeros(0)


def forward(params, x, eps, interventions):
    tape = Tape(interventions)
    h = tape("encoder/hidden", params * x)
    code = tape("latent/codes", jnp.argmax(h).astype(jnp.int32)[None], unit_axis=None)
    y = tape("decoder/mean", jnp.sum(h)[None] + code)
    tape.close()
    return Trace(y, tape.activations)


SITES = list_sites(forward, 3.0, X, NONE)


def test_tape_records_every_value_in_the_order_of_the_forward():
    trace = forward(3.0, X, NONE, {})
    assert list(trace.activations) == ["encoder/hidden", "latent/codes", "decoder/mean"]
    np.testing.assert_array_equal(trace.activations["encoder/hidden"], [3.0, -6.0])
    np.testing.assert_array_equal(trace.outputs, [-3.0])


def test_a_replaced_value_is_what_later_layers_and_the_trace_see():
    trace = forward(3.0, X, NONE, vi.set_to(SITES, "encoder/hidden", 5.0, unit=1))
    np.testing.assert_array_equal(trace.activations["encoder/hidden"], [3.0, 5.0])
    np.testing.assert_array_equal(trace.outputs, [8.0 + 1])


def test_list_sites_finds_names_shapes_dtypes_and_units_without_running():
    def explode(params, x, eps, interventions):
        jax.debug.callback(lambda: pytest.fail("the forward ran"))
        return forward(params, x, eps, interventions)

    sites = list_sites(explode, 3.0, X, NONE)
    assert list(sites) == ["encoder/hidden", "latent/codes", "decoder/mean"]
    assert dict(sites) == {
        "encoder/hidden": Site((2,), jnp.float32, 0),
        "latent/codes": Site((1,), jnp.int32, None),
        "decoder/mean": Site((1,), jnp.float32, 0),
    }


@pytest.mark.parametrize(
    ("site", "num_units", "num_positions"),
    [
        (Site((8, 8, 4), jnp.float32, 2), 4, 64),
        (Site((4, 8, 8), jnp.float32, 0), 4, 64),
        (Site((7,), jnp.float32, 0), 7, 1),
        (Site((4, 4), jnp.int32, None), 0, 16),
        (Site((), jnp.float32, None), 0, 1),
    ],
)
def test_units_times_positions_is_the_size_of_a_site(site, num_units, num_positions):
    assert (site.num_units, site.num_positions) == (num_units, num_positions)
    assert max(num_units, 1) * num_positions == np.prod(site.shape, dtype=int)


def test_sites_print_as_one_row_a_site():
    rows = repr(SITES).splitlines()
    assert [row.split()[0] for row in rows] == list(SITES)
    assert rows[0].endswith("float32  2 units")
    assert rows[1].endswith("positions only")
    assert len({row.index("(") for row in rows}) == 1
    assert repr(Sites({})) == ""


def test_negative_unit_axis_is_counted_from_the_end():
    tape = Tape({})
    tape("a", jnp.zeros((2, 3, 4)), unit_axis=-3)
    tape("b", jnp.zeros((2, 3, 4)))
    tape("c", jnp.zeros(()))
    assert [site.unit_axis for site in tape.sites.values()] == [0, 2, None]


def test_several_steps_at_one_site_apply_in_order_and_the_last_set_wins():
    steps = vi.combine(
        vi.set_to(SITES, "encoder/hidden", 1.0),
        vi.shift_by(SITES, "encoder/hidden", 2.0),
        vi.scale_by(SITES, "encoder/hidden", 10.0, unit=0),
    )
    h = forward(3.0, X, NONE, steps).activations["encoder/hidden"]
    np.testing.assert_array_equal(h, [30.0, 3.0])
    steps = vi.combine(steps, vi.set_to(SITES, "encoder/hidden", -1.0))
    h = forward(3.0, X, NONE, steps).activations["encoder/hidden"]
    np.testing.assert_array_equal(h, [-1.0, -1.0])


def test_a_users_own_intervention_type_needs_only_check_and_apply():
    @jax.tree_util.register_static
    class Square:
        def check(self, name, site):
            del name, site

        def apply(self, value):
            return value**2

    assert isinstance(Square(), Intervention)
    trace = jax.jit(forward)(3.0, X, NONE, {"encoder/hidden": Square()})
    np.testing.assert_array_equal(trace.activations["encoder/hidden"], [9.0, 36.0])


class Halve:
    """A broken intervention, which returns half of the site."""

    def check(self, name, site):
        del name, site

    def apply(self, value):
        return value[:1]


BAD_CALLS = {
    "unknown site": ({"encoder/hiden": ()}, r"unknown site 'encoder/hiden'.*'encoder/hidden'"),
    "array for intervention": (
        {"encoder/hidden": X},
        r"at site 'encoder/hidden'.*got ArrayImpl.*set_to\(sites, name, array\)",
    ),
    "number for intervention": ({"encoder/hidden": 1.0}, r"expected an intervention.*got float"),
    "tuple of arrays": ({"encoder/hidden": (X, X)}, r"expected an intervention.*got tuple"),
    "a list of pairs": ([("encoder/hidden", X)], r"must be a mapping.*got list.*Use \{\}"),
    "None": (None, r"must be a mapping.*got NoneType"),
    "an intervention alone": (
        vi.set_to(SITES, "encoder/hidden", 1.0)["encoder/hidden"],
        r"must be a mapping.*got Replace",
    ),
    "wrong shape": (
        {"encoder/hidden": vi.Replace(jnp.array(True), jnp.zeros(3))},
        r"at site 'encoder/hidden': value has shape \(3,\), expected \(2,\)",
    ),
    "batch axis": (
        {"encoder/hidden": vi.Replace(jnp.array(True), jnp.zeros((5, 2)))},
        r"value has shape \(5, 2\), expected \(2,\).*vmap over a batch",
    ),
    "mask of numbers": (
        {"encoder/hidden": vi.Replace(jnp.ones(2), jnp.zeros(2))},
        r"mask has dtype float32, expected bool",
    ),
    "integers at a float site": (
        {"encoder/hidden": vi.Replace(jnp.array(True), jnp.zeros(2, int))},
        r"value has dtype int32, expected float32",
    ),
    "floats at an integer site": (
        {"latent/codes": vi.Replace(jnp.array(True), jnp.zeros(1))},
        r"value has dtype float32, expected int32",
    ),
    "changed shape": ({"encoder/hidden": Halve()}, r"Halve.apply returned float32\(1,\)"),
}


@pytest.mark.parametrize(("interventions", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_forward_on_a_tape_refuses_what_does_not_fit(interventions, message):
    with pytest.raises(ValueError, match=message):
        forward(3.0, X, NONE, interventions)


def test_a_site_that_is_never_reached_is_an_error_also_under_jit():
    def shortcut(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("decoder/mean", params * x)
        tape.close()
        return Trace(y, tape.activations)

    step = vi.set_to(SITES, "encoder/hidden", 1.0)
    with pytest.raises(ValueError, match="never reached site 'encoder/hidden'.*did not apply"):
        jax.jit(shortcut)(3.0, X, NONE, step)


def test_a_name_used_twice_is_an_error():
    tape = Tape({})
    tape("a", X)
    with pytest.raises(ValueError, match="site 'a' is named twice"):
        tape("a", X)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("encoder/hiden", "encoder/hidden"),
        ("latent/code", "latent/codes"),
        ("decoder/logits", "decoder/mean"),
    ],
)
def test_an_unknown_name_gets_the_nearest_suggested_and_the_valid_listed(given, near):
    with pytest.raises(ValueError, match=f"Did you mean '{near}'") as error:
        SITES[given]
    assert all(name in str(error.value) for name in SITES)


def test_jit_equals_eager():
    step = vi.shift_by(SITES, "encoder/hidden", 2.0, unit=0)
    chex.assert_trees_all_close(
        jax.jit(forward)(3.0, X, NONE, step), forward(3.0, X, NONE, step), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "axis"), [((3,), 0), ((2, 4, 3), 2), ((3, 2, 4), 0), ((2, 3), None), ((), None)]
)
def test_parts_of_a_site_are_spread_gathered_and_boxed_alike(shape, axis):
    site = Site(shape, jnp.dtype(jnp.float32), axis)
    values = jnp.arange(2.0 * math.prod(shape)).reshape(2, *shape)
    by_part = site.by_part(values)
    assert by_part.shape == (site.num_parts, 2, math.prod(shape) // site.num_parts)
    for part in range(site.num_parts):
        inside = np.broadcast_to(site.spread(jnp.arange(site.num_parts) == part), shape)
        assert inside.sum() == math.prod(site.part_shape)
        np.testing.assert_array_equal(by_part[part], np.asarray(values)[:, inside])
