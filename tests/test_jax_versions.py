"""The one file that knows JAX's versions: each of its entries, on the JAX that is here."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from vaecausal_jax import jax_versions


def equation_of(function, *arguments, name):
    program = jax.make_jaxpr(function)(*arguments)
    (equation,) = (e for e in program.jaxpr.eqns if e.primitive.name == name)
    return equation


@pytest.mark.parametrize("num_consts", [0, 1, 3])
@pytest.mark.parametrize("num_carry", [0, 1, 2])
@pytest.mark.parametrize("num_rows", [0, 2])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_operands_of_a_scan_are_told_apart(num_consts, num_carry, num_rows, length):
    consts = [jnp.full((length,), float(i)) for i in range(num_consts)]  # shaped like rows

    def scanned(consts, carry, rows):
        def body(carry, row):
            total = sum((c.sum() for c in consts), start=jnp.zeros(()))
            return [c + total for c in carry], [r + total for r in row]

        return jax.lax.scan(body, carry, rows, length=length)

    carry = [jnp.ones((length, 2))] * num_carry
    rows = [jnp.ones((length, 3))] * num_rows
    equation = equation_of(scanned, consts, carry, rows, name="scan")
    assert jax_versions.scan_parts(equation) == (num_consts, num_carry)


def test_inputs_that_nothing_reads_are_found_through_loops_and_calls():
    def function(a, b, c, d):
        doubled, _ = jax.lax.scan(lambda carry, row: (carry + row, row * d), b, a)
        return jax.jit(lambda x, y: x * 2)(doubled, c)

    program = jax.make_jaxpr(function)(jnp.ones(3), 1.0, 2.0, 3.0)
    assert jax_versions.used_inputs(program) == [True, True, False, False]


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint, jax.nn.relu, jnp.linalg.norm])
def test_an_operation_carried_out_as_it_stands_gives_what_it_gave(call):
    function = call if call in (jax.nn.relu, jnp.linalg.norm) else call(jnp.sin)
    x = jnp.array([-1.0, 0.5, 2.0])
    program = jax.make_jaxpr(function)(x)
    values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values |= dict(zip(program.jaxpr.invars, [x], strict=True))
    for equation in program.jaxpr.eqns:
        operands = [
            getattr(v, "val", None) if hasattr(v, "val") else values[v] for v in equation.invars
        ]
        results = jax_versions.bind(equation, operands)
        values |= dict(zip(equation.outvars, results, strict=True))
    np.testing.assert_array_equal(values[program.jaxpr.outvars[0]], function(x))


def test_calls_and_remat_are_known_by_the_names_that_this_jax_gives():
    known = jax_versions.CALLS | jax_versions.REMAT

    @jax.custom_vjp
    def own_gradient(x):
        return checkpoint_name(x * 2, "inside")

    own_gradient.defvjp(lambda x: (own_gradient(x), None), lambda _, g: (g,))
    for function in (jax.jit(jnp.sin), jax.checkpoint(jnp.sin), jax.nn.relu, own_gradient):
        (equation,) = jax.make_jaxpr(function)(1.0).jaxpr.eqns
        assert equation.primitive.name in known, equation.primitive
        nested = equation.params[known[equation.primitive.name]]
        assert jax_versions.closed(nested).jaxpr.eqns


def test_varying_axes_are_those_that_the_specification_splits():
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    seen = []

    def function(x, y):
        seen.extend([jax_versions.varying_axes(x), jax_versions.varying_axes(y)])
        return x * y

    split, whole = PartitionSpec("images"), PartitionSpec()
    jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(split, whole), out_specs=split))(
        jnp.ones(4), jnp.ones(1)
    )
    assert seen == [frozenset({"images"}), frozenset()]


def test_the_platform_is_that_of_the_default_device_where_there_is_no_mesh():
    assert jax_versions.platform() == jax.default_backend()
    with jax.default_device(jax.devices("cpu")[0]):
        assert jax_versions.platform() == "cpu"


def test_the_platform_is_that_of_the_mesh_in_force(monkeypatch):
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    if not hasattr(mesh.abstract_mesh, "abstract_device"):
        pytest.skip("JAX 0.7 does not tell of a mesh what its devices are")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    seen = []

    def function(x):
        jax.vmap(lambda row: seen.append(jax_versions.platform()) or row)(x)
        return x

    spec = PartitionSpec("images")
    jax.eval_shape(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec), jnp.ones(4))
    jax.eval_shape(function, jnp.ones(4))
    assert seen == ["cpu", "tpu"]


def lowered():
    return jax.jit(lambda w, x: jnp.tanh(w @ x)).lower(jnp.ones((4, 4)), jnp.ones(4))


class Recorded:
    """Stands before a lowered program, and keeps the options of each attempt."""

    def __init__(self):
        self.attempts = []

    def compile(self, compiler_options):
        self.attempts.append(dict(compiler_options))
        return lowered().compile(compiler_options=compiler_options)


def test_unknown_options_are_left_out_one_by_one():
    known = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 1}
    unknown = {"xla_cpu_no_such_option": True, "xla_nor_this_one": 3}
    recorded = Recorded()
    program = jax_versions.compile_with(recorded, {**unknown, **known})
    np.testing.assert_allclose(program(jnp.ones((4, 4)), jnp.ones(4)), np.tanh(4.0), rtol=1e-6)
    assert recorded.attempts[-1] == known
    assert len(recorded.attempts) == 3


def test_a_wrong_value_of_a_known_option_is_not_swallowed():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        jax_versions.compile_with(lowered(), {"xla_backend_optimization_level": "many"})


def test_flags_for_small_programs_are_known_to_this_xla():
    environment = os.environ | {"XLA_FLAGS": jax_versions.flags_for_small_programs()}
    code = "import jax; jax.devices()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


SUMS = """
import vaecausal_jax, jax, jax.numpy as jnp, numpy as np
x = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
got = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(*x)
np.testing.assert_allclose(got, (x[0] * x[1]).sum(3), rtol=1e-5, atol=1e-5)
a, b = jnp.ones((10, 4, 6)), jnp.ones((10, 4, 6, 9, 9, 9, 9, 9))
got = jax.jit(lambda a, b: jnp.log(jnp.sum(a[..., None, None, None, None, None] * b, axis=2)))(a, b)
np.testing.assert_allclose(got, np.log(6.0), rtol=1e-6)
rows = jnp.zeros((32769, 3)).at[:, 0].set(jnp.arange(32769.0))
got = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
np.testing.assert_allclose(got, np.arange(32769.0) ** 2, rtol=1e-6)
"""


@pytest.mark.thorough
def test_sums_that_crash_or_are_wrong_in_some_versions_are_right_with_this_library():
    environment = {name: v for name, v in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", SUMS], env=environment, check=True, timeout=240)


@pytest.mark.parametrize(
    ("version", "given", "expected"),
    [
        ("0.10.2", None, jax_versions.WITHOUT_FAULTY_SUMS),
        ("0.11.0", "--xla_a=1", f"--xla_a=1 {jax_versions.WITHOUT_FAULTY_SUMS}"),
        ("0.10.2", "--xla_cpu_experimental_ynn_fusion_type=", None),
        ("0.10.1", None, None),
        ("0.12.0", "--xla_a=1", None),
    ],
)
def test_the_flag_is_set_for_the_versions_that_need_it(monkeypatch, version, given, expected):
    monkeypatch.setattr(jax_versions.importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(jax_versions, "_devices_are_known", lambda: False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    jax_versions.avoid_faulty_sums()
    assert os.environ.get("XLA_FLAGS") == (expected or given)


def test_where_the_flag_comes_too_late_a_warning_says_so(monkeypatch):
    monkeypatch.setattr(jax_versions.importlib.metadata, "version", lambda _: "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", "")
    jax.devices()
    with pytest.warns(UserWarning, match="before the first array"):
        jax_versions.avoid_faulty_sums()


def test_nothing_else_in_the_library_asks_for_a_version_or_for_hidden_parts_of_jax():
    folder = os.path.dirname(jax_versions.__file__)
    hidden = ("jax._src", "jax.__version__", "partial_eval", "manual_axis_type", "default_backend")
    found = []
    for root, _, files in os.walk(folder):
        for name in files:
            if not name.endswith(".py") or name == "jax_versions.py":
                continue
            with open(os.path.join(root, name)) as file:
                text = file.read()
            found += [(name, word) for word in hidden if word in text]
    assert found == []


def test_a_file_of_flags_is_left_alone_with_a_warning(monkeypatch):
    monkeypatch.setattr(jax_versions.importlib.metadata, "version", lambda _: "0.10.2")
    monkeypatch.setattr(jax_versions, "_devices_are_known", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "/etc/flags.txt")
    with pytest.warns(UserWarning, match="in XLA_FLAGS"):
        jax_versions.avoid_faulty_sums()
    assert os.environ["XLA_FLAGS"] == "/etc/flags.txt"
