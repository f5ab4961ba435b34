"""Programs compiled with least effort compute the same, whatever XLA knows of the options."""

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.study import compilation
from vaecausal_jax.study.compilation import compile_for_few_runs


def lowered():
    def function(w, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(w @ h), h.sum()), x, w)

    keys = jax.random.split(jax.random.key(0))
    arguments = jax.random.normal(keys[0], (3, 16, 16)), jax.random.normal(keys[1], (16,))
    return jax.jit(function).lower(*arguments), arguments


def test_it_computes_what_the_default_does():
    program, arguments = lowered()
    got, expected = compile_for_few_runs(program)(*arguments), program.compile()(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_options_that_this_xla_does_not_know_are_left_out_and_the_others_taken(monkeypatch):
    seen = []
    monkeypatch.setattr(compilation, "compile_with", lambda program, options: seen.append(options))
    compile_for_few_runs(lowered()[0])
    assert seen == [compilation.FEW_RUNS]


def test_other_devices_compile_as_always(monkeypatch):
    monkeypatch.setattr(compilation, "platform", lambda: "tpu")
    monkeypatch.setattr(compilation, "FEW_RUNS", {"xla_backend_optimization_level": "many"})
    program, arguments = lowered()
    got, expected = compile_for_few_runs(program)(*arguments), program.compile()(*arguments)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
