"""Precision and scale of outcomes: sums of squares in float32, and no ratio of lost digits.

Interventions and sweeps in every dtype of a site are in test_support_map.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import decompositions, mediation, unit_effects
from vaecausal_jax.inference import bootstrap_ratio
from vaecausal_jax.interventions import BoxPatch
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Site, Sites, Tape, list_sites, measure

WEIGHTS = np.array([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]], np.float32)
X0, X1 = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
EPS = np.zeros((8, 1), np.float32)
KEY = jax.random.key(0)


def linear(size, dtype=jnp.float32):
    """Three units, read with known weights, in outputs of any scale and dtype."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        h = tape("h", x)
        return tape.trace((WEIGHTS @ h * size).astype(dtype))

    return forward, list_sites(forward, None, X0[0], EPS[0])


def shares(size, dtype=jnp.float32):
    """Estimated proportion mediated by each unit."""
    forward, sites = linear(size, dtype)
    grams = mediation.unit_mediation(
        BoundModel(forward, None, sites), Pairs(X0, X1, EPS), "h"
    ).values
    found = decompositions.mediation_shares(grams)
    return bootstrap_ratio(KEY, found.noising, found.denominator, intervention="patch")


def expected_shares():
    change = X1 - X0
    total = change @ WEIGHTS.T
    along = (change[:, :, None] * WEIGHTS.T[None] * total[:, None, :]).sum((0, 2))
    return along / (total**2).sum()


@pytest.mark.thorough
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 300.0, 1e12])
def test_shares_do_not_depend_on_the_unit_of_the_outcome(size):
    estimate = shares(size)
    np.testing.assert_allclose(estimate.value, expected_shares(), rtol=1e-4, atol=1e-6)
    assert "not finite" not in estimate.caution


@pytest.mark.parametrize("size", [1e-20, 1e-18, 1e20])
def test_where_squares_leave_float32_a_share_is_nan_with_a_reason(size):
    estimate = shares(size)
    assert np.isnan(estimate.value).all()
    assert "3 of 3 values are not finite" in estimate.caution
    assert "divides by the outcome's SD" in estimate.caution


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_outcomes_of_hundreds_in_half_precision_keep_their_shares(dtype):
    estimate = shares(300.0, jnp.dtype(dtype))
    assert estimate.value.dtype == np.float32
    tolerance = 1e-2 if dtype == "float16" else 5e-2
    np.testing.assert_allclose(estimate.value, expected_shares(), atol=tolerance)


def test_total_index_of_tiny_and_huge_outcomes_is_the_same_or_nan_with_a_reason():
    def index(size):
        forward, sites = linear(size)
        found = unit_effects.resample_effects(
            BoundModel(forward, None, sites), Runs(X0, EPS, {"h": X1})
        ).values
        return bootstrap_ratio(KEY, *unit_effects.total_index(found), intervention="resample")

    usual = index(1.0)
    for size in (1e-10, 1e10):
        np.testing.assert_allclose(index(size).value, usual.value, rtol=1e-4)
    for size in (1e-20, 1e20):
        assert np.isnan(index(size).value).all()
        assert "not finite" in index(size).caution


def test_differences_of_bytes_do_not_wrap_around():
    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        return tape.trace(tape("h", x).astype(jnp.uint8))

    x0, x1 = jnp.full((1, 1), 200.0), jnp.full((1, 1), 100.0)
    sites = list_sites(forward, None, x0[0], EPS[0])
    gram = mediation.unit_mediation(
        BoundModel(forward, None, sites), Pairs(x0, x1, EPS[:1]), "h"
    ).values
    assert gram.total.item() == 100.0**2


def test_a_complex_outcome_is_refused_with_what_would_work():
    with pytest.raises(ValueError, match=r"the outcome is complex64\(2,\).*real and imaginary"):
        measure(lambda trace: trace, jnp.ones(2, jnp.complex64))


def site(dtype):
    return Sites({"h": Site((3,), jnp.dtype(dtype), 0)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vi.set_to(site("bool"), "h", 0.3), "value 0.3 is no value that bool can hold"),
        (lambda: vi.set_to(site("uint8"), "h", 300), "300 is no integer that uint8 can hold"),
        (lambda: vi.set_to(site("uint8"), "h", -1), "-1 is no integer that uint8 can hold"),
        (lambda: vi.set_to(site("float16"), "h", 1e5), "100000.0 is no value that float16 can"),
        (lambda: vi.set_to(site("float32"), "h", 1j), "1j is no value that float32 can hold"),
        (lambda: vi.shift_by(site("uint8"), "h", 100), "uint8 values would wrap around"),
        (lambda: vi.scale_by(site("bool"), "h", 2), "bool values are no numbers"),
        (lambda: vi.steer(site("int16"), "h", np.ones(3, np.int16), 2), "would wrap around"),
        (lambda: vi.clamp_to(site("complex64"), "h", 0, 1), "values with an order"),
        (
            lambda: vi.swap_direction(site("int32"), "h", np.ones(3, np.int32), np.ones(3)),
            "a subspace needs floating values, and the site is int32",
        ),
        (
            lambda: vi.ablate_mean(site("int32"), "h", np.ones((2, 3), np.int32)),
            "int32 values have no mean among them. Use ablate_resample",
        ),
    ],
)
def test_what_a_dtype_cannot_do_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=f"at site 'h': .*{message}"):
        call()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8"])
def test_a_traced_index_where_nothing_could_show_that_it_is_wrong_is_refused(dtype):
    def at(unit):
        return vi.ablate_zero(site(dtype), "h", unit=unit)

    assert at(1)["h"].mask.tolist() == [False, True, False]
    with pytest.raises(ValueError, match=f"traced unit .* {dtype} values.* Give it concretely"):
        jax.jit(at)(1)


def test_a_box_that_sticks_out_is_loud_where_the_dtype_allows_it():
    for dtype, loud in (("float32", np.isnan), ("int32", lambda a: a == 2**31 - 1)):
        value = jnp.zeros(3, dtype)
        changed = jax.jit(lambda i, v=value: BoxPatch(v, v[:1] + 1, (i,)).apply(v).inside)(5)
        assert loud(np.asarray(changed)).all()


def test_a_basis_at_a_site_of_half_precision_is_kept_in_float32():
    """Rounded to bfloat16 its rows would be orthonormal to two digits."""
    rows = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    donor = jnp.ones(3, jnp.bfloat16)
    step = vi.swap_subspace(site("bfloat16"), "h", rows, donor)["h"]
    np.testing.assert_allclose(step.basis @ step.basis.T, np.eye(2), atol=1e-6)
    h = jnp.asarray([0.5, -1.0, 2.0], jnp.bfloat16)
    exact = np.asarray(h, np.float32)
    exact = exact + np.linalg.pinv(rows) @ rows @ (1 - exact)
    assert step.apply(h).dtype == jnp.bfloat16
    np.testing.assert_array_equal(step.apply(h), jnp.asarray(exact).astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", ["int4", "float8_e4m3fn"])
def test_outcomes_of_few_bits_are_widened_like_any_other(dtype):
    assert measure(lambda trace: trace, jnp.ones(2, dtype)).dtype == jnp.float32


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_numbers_beyond_every_integer_are_refused_by_name(value):
    with pytest.raises(ValueError, match="is no integer that int32 can hold"):
        vi.set_to(site("int32"), "h", value)


def test_a_bank_of_another_dtype_is_refused_and_not_cast():
    bank = np.ones((2, 3), np.complex64)
    with pytest.raises(ValueError, match="bank has dtype complex64, expected float32"):
        vi.ablate_mean(site("float32"), "h", bank)
