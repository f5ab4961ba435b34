"""Interchange interventions: the angle law, planted parts that must be found, and baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax.data.splits import held_out
from vaecausal_jax.effects import mediators
from vaecausal_jax.factors.interchange import (
    Interchanges,
    aligned_group,
    continuous_iia,
    interchange,
    interchange_report,
    sample_interchanges,
    search_boundary,
    search_subspace,
    shuffle_labels,
)
from vaecausal_jax.factors.readouts import Ordered, Readout
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites

SIZE = 4


def rotated(params, x, eps, interventions):
    """Factors x in a rotated basis at site ``h``, read out again: factor k is row k of params."""
    del eps
    tape = Tape(interventions)
    h = tape("h", x @ params)
    return tape.trace(tape("y", params @ h))


ROTATION = jnp.asarray(
    np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0], jnp.float32
)
EPS = jnp.zeros((0,))
SITES = list_sites(rotated, ROTATION, jnp.zeros(SIZE), EPS)
NET = BoundModel(rotated, None, SITES)


def swaps(base, source, factor):
    counterfactual = base.at[:, factor].set(source[:, factor])
    return Interchanges(
        base, source, counterfactual, jnp.zeros((len(base), 0)), jnp.zeros((len(base), SIZE), int)
    )


def random_swaps(num, seed, factor=1):
    base, source = jax.random.normal(jax.random.key(seed), (2, num, SIZE))
    return swaps(base, source, factor)


@pytest.mark.parametrize("theta", [0.0, 0.3, 0.6, np.pi / 3, np.pi / 2])
def test_a_direction_at_an_angle_to_the_true_one_agrees_by_the_square_of_its_cosine(theta):
    # T17: differences source - base are +-e_i, so isotropic exactly; the outcome is the factor.
    base = jnp.zeros((2 * SIZE, SIZE))
    source = jnp.concatenate([jnp.eye(SIZE), -jnp.eye(SIZE)])
    direction = np.cos(theta) * ROTATION[1] + np.sin(theta) * ROTATION[2]
    swapped = interchange(
        BoundModel(rotated, ROTATION),
        mediators.subspace(SITES, "h"),
        direction[None, None],
        swaps(base, source, 1),
        outcome=lambda trace: trace.outputs[1],
    )
    iia = 1 - swapped.error[0].sum() / swapped.distance[0].sum()
    np.testing.assert_allclose(iia, np.cos(theta) ** 2, atol=1e-5)
    estimate = continuous_iia(jax.random.key(0), swapped)
    np.testing.assert_allclose(estimate.value[0], np.cos(theta) ** 2, atol=1e-5)
    if theta == 0.6:
        np.testing.assert_allclose(iia, 0.6812, atol=1e-4)


def test_interchanges_equal_a_loop_and_perfect_and_null_parts_score_one_and_zero():
    inputs = random_swaps(9, 0)
    bases = jnp.stack([ROTATION[1], ROTATION[2], jax.random.normal(jax.random.key(1), (SIZE,))])
    found = interchange(
        BoundModel(rotated, ROTATION), mediators.subspace(SITES, "h"), bases[:, None], inputs
    )
    for i in range(9):
        base, source, wanted = (np.asarray(a[i]) for a in inputs[:3])
        for j, direction in enumerate(np.asarray(bases)):
            unit = direction / np.linalg.norm(direction)
            h = base @ ROTATION
            h = h + unit * (unit @ (source @ ROTATION - h))
            np.testing.assert_allclose(
                found.error[j, i], ((ROTATION @ h - wanted) ** 2).sum(), atol=1e-4
            )
            np.testing.assert_allclose(
                found.distance[j, i], ((base - wanted) ** 2).sum(), atol=1e-4
            )
    iia = continuous_iia(jax.random.key(0), found)
    np.testing.assert_allclose(iia.value[0], 1, atol=1e-5)
    assert iia.value[1] < 0.1
    assert iia.null == 0


def rotated_search(**options):
    return search_subspace(
        BoundModel(rotated, None, SITES), "h", 1, num_steps=120, learning_rate=0.1, **options
    )


@pytest.mark.thorough
def test_the_search_finds_a_rotated_factor_and_its_baselines_do_not():
    train, test = random_swaps(64, 1), random_swaps(64, 2)
    # An untrained network does not hold the factors in orthogonal directions at all.
    untrained = jax.random.normal(jax.random.key(5), (SIZE, SIZE))
    report = interchange_report(
        jax.random.key(0), BoundModel(rotated, ROTATION), untrained, rotated_search(), train, test
    )
    assert report.iia.value > 0.99
    assert abs(np.dot(report.point[0], ROTATION[1])) > 0.99
    np.testing.assert_allclose(np.linalg.norm(report.point[0]), 1, atol=1e-5)
    assert set(report.baselines) == {"random_network", "shuffled_labels", "random_parts"}
    best = max(baseline.value for baseline in report.baselines.values())
    np.testing.assert_allclose(report.margin, report.iia.value - best, rtol=1e-6)
    assert report.margin > 0.1
    assert report.baselines["random_parts"].value < 0.6
    assert report.strict is None


def test_a_soft_boundary_finds_how_many_directions_are_needed():
    base, source = jax.random.normal(jax.random.key(3), (2, 128, SIZE))
    counterfactual = base.at[:, :2].set(source[:, :2])
    inputs = swaps(base, source, 0)._replace(counterfactual=counterfactual)
    find = search_boundary(NET, "h", num_steps=300, learning_rate=0.1)
    basis, rank = find(jax.random.key(0), ROTATION, inputs)
    assert rank == 2
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-4)
    overlap = np.linalg.svd(basis[:2] @ ROTATION[:2].T)[1]
    assert overlap.min() > 0.98


class Grid:
    """Four factors of three levels as an image of four pixels."""

    factors = tuple(vd.Factor(name, (-1.0, 0.0, 1.0), 3, False) for name in "abcd")
    image_shape = (1, 4, 1)

    def image(self, factors):
        return (factors.astype(jnp.float32) - 1.0).reshape(1, 4, 1)


def painted(params, x, eps, interventions):
    """Each factor in a unit of its own, mixed by ``params`` between them."""
    del eps
    tape = Tape(interventions)
    h = tape("h", params @ x.reshape(4))
    return tape.trace(h.reshape(1, 4, 1))


def levels_of(name, position):
    return Ordered(name, position, (-1.0, 0.0, 1.0))


READOUT = Readout(
    (), lambda params, image: image.reshape(4), tuple(levels_of(n, i) for i, n in enumerate("abcd"))
)
GRID_SITES = list_sites(painted, jnp.eye(4), jnp.zeros((1, 4, 1)), EPS)


@pytest.fixture(scope="module")
def grid():
    return tuple(
        sample_interchanges(jax.random.key(i), Grid(), "b", 48, (0,), test=test, fraction=0.3)
        for i, test in enumerate((False, True))
    )


def test_training_and_test_share_no_factor_combination(grid):
    train, test = grid
    for inputs, side in ((train, False), (test, True)):
        for x in inputs[:3]:
            levels = jnp.round(x.reshape(-1, 4) + 1).astype(int)
            assert np.all(np.asarray(held_out(Grid(), levels, fraction=0.3)) == side)
        base, source, counterfactual = (
            np.round(np.asarray(a).reshape(-1, 4) + 1) for a in inputs[:3]
        )
        assert np.all(base[:, 1] != source[:, 1])
        expected = base.copy()
        expected[:, 1] = source[:, 1]
        np.testing.assert_array_equal(counterfactual, expected)
        np.testing.assert_array_equal(inputs.levels, expected)


def agreement(grid, members, params):
    return interchange_report(
        jax.random.key(0),
        BoundModel(painted, jnp.asarray(params)),
        jax.random.normal(jax.random.key(1), (4, 4)),
        aligned_group(GRID_SITES, "h", np.asarray(members)),
        *grid,
        readout=READOUT,
        factor_name="b",
        to_image=lambda image: image,
    )


@pytest.mark.thorough
def test_strict_target_and_preservation_tell_what_a_part_does_and_does_not(grid):
    own = agreement(grid, [False, True, False, False], np.eye(4))
    assert [s.value for s in (own.iia, own.strict, own.target, own.preservation)] == [1, 1, 1, 1]
    assert own.margin > 0.2
    assert own.baselines["shuffled_labels"].value < 0.6
    # Two factors' units: the target is reached, another factor is not preserved.
    both = agreement(grid, [False, True, True, False], np.eye(4))
    assert both.target.value == 1
    assert both.preservation.value < 0.6
    assert both.strict.value == both.preservation.value
    # Another factor's unit: nothing of the target.
    other = agreement(grid, [False, False, True, False], np.eye(4))
    assert other.target.value == 0
    assert other.strict.value == 0
    assert other.iia.value < 0
    assert other.margin < 0


def test_shuffled_labels_keep_everything_but_the_source():
    inputs = random_swaps(16, 4)
    dealt = shuffle_labels(jax.random.key(0), inputs)
    np.testing.assert_array_equal(np.sort(dealt.source, 0), np.sort(inputs.source, 0))
    assert np.any(np.asarray(dealt.source != inputs.source))
    assert dealt.base is inputs.base
    assert dealt.counterfactual is inputs.counterfactual


CODES = list_sites(
    lambda params, x, eps, interventions: (t := Tape(interventions)).trace(
        t("codes", jnp.zeros(3, int), unit_axis=None)
    ),
    None,
    EPS,
    EPS,
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: search_subspace(NET, "h", 5), "rank is 5, expected 1 to 4"),
        (lambda: search_subspace(NET, "hh", 1), "Did you mean 'h'"),
        (lambda: search_boundary(BoundModel(rotated, None, CODES), "codes"), "no directions"),
        (lambda: aligned_group(SITES, "h", np.zeros(4, bool)), "no unit is chosen"),
        (lambda: aligned_group(SITES, "h", np.ones(3, bool)), r"booleans of shape \(4,\)"),
        (
            lambda: sample_interchanges(jax.random.key(0), Grid(), "e", 4, (), test=True),
            "no factor 'e'",
        ),
        (
            lambda: sample_interchanges(
                jax.random.key(0), Grid(), "a", 4, (), test=True, fraction=1e-3
            ),
            "too small",
        ),
        (
            lambda: interchange_report(
                jax.random.key(0), BoundModel(painted, None), None, rotated_search(), None, None,
                readout=READOUT,
            ),
            "give factor_name",
        ),
        (
            lambda: interchange_report(
                jax.random.key(0), BoundModel(painted, None), None, rotated_search(), None, None,
                readout=READOUT, factor_name="z",
            ),
            "unknown factor 'z'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_aligned_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
