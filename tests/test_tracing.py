"""Staging: the same value as the plain function, with the known part computed once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from vaecausal_jax.tracing import origins, stage


def network(weights, x, unit):
    h = jax.nn.relu(x @ weights)  # known: nested calls with custom derivatives
    h = h.at[unit].set(2.0)
    total, _ = jax.lax.scan(lambda carry, row: (carry + row * h[0], None), 0.0, x)
    return {"sum": jnp.sum(jnp.tanh(h)) + total, "norm": jax.jit(jnp.linalg.norm)(h), "known": x[0]}


WEIGHTS, X = jax.random.normal(jax.random.key(0), (2, 4, 4))


@pytest.mark.parametrize("through", [lambda f: f, jax.jit])
def test_both_stages_together_equal_the_function(through):
    rest = stage(network, (WEIGHTS, X[0]), (0,))
    for unit in range(4):
        expected = network(WEIGHTS, X[0], unit)
        chex.assert_trees_all_close(through(rest)(unit), expected, rtol=1e-6)


def test_stages_nest_and_work_inside_jit_vmap_and_loops():
    @jax.jit
    def swept(weights, xs):
        of_model = stage(lambda x, unit: network(weights, x, unit), (), (xs[0], 0))

        def at_context(x):
            at_point = stage(of_model, (x,), (0,))
            return jax.lax.map(lambda unit: at_point(unit)["sum"], jnp.arange(4))

        return jax.lax.map(at_context, xs)

    expected = [[network(WEIGHTS, x, unit)["sum"] for unit in range(4)] for x in X]
    np.testing.assert_allclose(swept(WEIGHTS, X), expected, rtol=1e-5)


def test_known_operations_leave_the_second_stage():
    def operations(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments))

    def function(x, unit):
        return jnp.sum(jnp.cos(jax.nn.relu(x @ WEIGHTS))) * jnp.exp(unit)

    rest = stage(function, (X[0],), (1.0,))
    assert "dot_general" in operations(function, X[0], 1.0)
    assert "cos" in operations(function, X[0], 1.0)
    second = operations(rest, 1.0)
    assert "dot_general" not in second
    assert "cos" not in second
    assert "exp" in second


def test_effects_happen_in_the_second_stage_each_time():
    seen = []

    def function(x, unit):
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return x + unit

    rest = stage(function, (jnp.array(3.0),), (1.0,))
    assert seen == []
    assert rest(1.0) == 4.0
    assert rest(2.0) == 5.0
    jax.effects_barrier()
    assert seen == [3.0, 3.0]


def test_random_keys_and_gradients_inside_are_staged_like_anything_else():
    def function(key, x, dose):
        noise = jax.random.normal(key, x.shape)
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x * dose) * noise))(x)

    rest = stage(function, (jax.random.key(1), X[0]), (1.0,))
    chex.assert_trees_all_close(rest(0.5), function(jax.random.key(1), X[0], 0.5), rtol=1e-6)


def test_a_gradient_through_the_second_stage_equals_the_plain_one():
    rest = stage(lambda x, dose: jnp.sum(jnp.tanh(jax.nn.relu(x) * dose)), (X[0],), (1.0,))
    plain = jax.grad(lambda dose: jnp.sum(jnp.tanh(jax.nn.relu(X[0]) * dose)))
    np.testing.assert_allclose(jax.grad(rest)(0.5), plain(0.5), rtol=1e-6)


def test_one_value_has_one_origin_through_names_calls_and_rematerialisation():
    def function(x, y):
        inside = jax.jit(lambda a, b: (checkpoint_name(a, "a"), a * b, b))
        same, product, other = jax.checkpoint(inside)(x, y)
        return x, same, product, checkpoint_name(product, "product"), other, y, x * y, 1.0

    x, same, product, named, other, y, again, _ = origins(jax.make_jaxpr(function)(1.0, 2.0))
    assert x is same
    assert y is other
    assert product is named
    assert len({x, y, product, again}) == 4
