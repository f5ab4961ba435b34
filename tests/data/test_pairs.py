"""Pairs of runs and redrawn runs: their axes, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaecausal_jax import data as vd
from vaecausal_jax import factors
from vaecausal_jax.interventions.bound import bind
from vaecausal_jax.interventions.sites import Tape

WORLD = vd.sprites(16, num_scales=3, num_orientations=1, num_positions=4)


def of_factor(name):
    return vd.minimal_pairs(jax.random.key(0), WORLD, name, 4, (3,))


SEVERAL = jax.tree.map(lambda *a: jnp.stack(a), *map(of_factor, ("scale", "x")))


def test_a_factors_axis_is_laid_out_first():
    flat = SEVERAL.flat()
    assert flat.x0.shape == (8, 16, 16, 1)
    np.testing.assert_array_equal(flat.x0[4:], of_factor("x").x0)
    assert flat.change is None


def test_swapping_undoes_a_change():
    pairs = of_factor("x")._replace(change=jnp.arange(4.0))
    back = pairs.swapped()
    np.testing.assert_array_equal(back.x0, pairs.x1)
    np.testing.assert_array_equal(back.factors1, pairs.factors0)
    np.testing.assert_array_equal(back.change, -np.arange(4.0))
    jax.tree.map(np.testing.assert_array_equal, back.swapped(), pairs)


def forward(params, x, eps, interventions):
    tape = Tape(interventions)
    return tape.trace(tape("h", x.reshape(-1)[:3] + eps))


@pytest.mark.parametrize("call", [factors.read_tensor, factors.mediation_tensor])
def test_pairs_of_one_factor_are_refused_where_several_are_meant(call):
    pairs = of_factor("x")
    net = bind(forward, {}, pairs.x0[0], pairs.eps[0])
    with pytest.raises(ValueError, match=r"of one factor.*pairs\.take\(np\.s_\[None\]\)"):
        call(net, pairs)
    # As the message says.
    assert call(net, pairs.take(np.s_[None])).values.shape[-1] == 4
