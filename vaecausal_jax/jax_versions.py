"""What differs between the versions of JAX that this library runs on: 0.7.0 to 0.12.0.

Nothing else in the library asks which JAX it has. Each entry says which versions it is for, and is
found by the feature itself, not by a version number; flags and faults of XLA cannot be asked.
"""

import importlib.metadata
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib.version
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.interpreters import partial_eval

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",  # before 0.7
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Operations that only call a nested program, and the name it goes by."""

REMAT = {
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",  # before 0.8
}
"""Operations that call a nested program and say what to keep of it for the gradient."""


def bind(equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Carries out one operation as it stands, custom derivatives included."""
    parameters = equation.primitive.get_bind_params(equation.params)
    # Before 0.8: functions apart from the parameters.
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    with equation.ctx.manager:
        results = equation.primitive.bind(*functions, *operands, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]


def closed(program: Any) -> ClosedJaxpr:
    """A nested program with its constants, for versions that keep some without."""
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())


class ScanParts(NamedTuple):
    """How many operands of a ``scan`` are constants and how many are carried; the rest are rows."""

    num_consts: int
    num_carry: int


def scan_parts(equation: JaxprEqn) -> ScanParts:
    """Tells a scan's operands apart.

    Until 0.11 parameters count them, and later ones hold a tree. In every version a row has one
    axis more outside the body than inside.
    """
    body = closed(equation.params["jaxpr"]).jaxpr

    def same(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    num_carry = same(equation.outvars, body.outvars)
    return ScanParts(same(equation.invars, body.invars) - num_carry, num_carry)


def used_inputs(program: ClosedJaxpr) -> list[bool]:
    """Which inputs of a program its results depend on, through nested programs too.

    ``dce_jaxpr`` is not part of JAX's public interface; 0.7 to 0.12 have it with this signature.
    """
    every_result = [True] * len(program.jaxpr.outvars)
    return list(partial_eval.dce_jaxpr(program.jaxpr, every_result)[1])


def varying_axes(x: jax.Array) -> frozenset[str]:
    """Axes of the ``shard_map`` mesh over which a value differs."""
    aval: Any = jax.typeof(x)
    # Renamed between 0.7 and 0.10.
    return aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying


def platform() -> str:
    """The platform that what is being traced will run on: "cpu", "gpu" or "tpu".

    That of the mesh in force (``shard_map``, ``jax.set_mesh``), else that of the default device.
    JAX 0.7 does not tell of a mesh what its devices are.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if name := getattr(device, "platform", None):
        return name
    default: Any = jax.config.jax_default_device  # pyright: ignore
    if default is None:
        return jax.default_backend()
    return default if isinstance(default, str) else default.platform


def compile_with(lowered: Any, options: Mapping[str, Any]) -> Any:
    """Compiles a lowered program with those of the options that this version of XLA knows.

    XLA names the first option that it does not know; that one is left out, and the rest tried
    again. Nothing has been compiled by then.
    """
    options = dict(options)
    while True:
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            text = str(error)
            unknown = [name for name in options if f"'{name}'" in text]
            if "No such compile option" not in text or not unknown:
                raise
            for name in unknown:
                del options[name]


FAULTY_SUMS = ("0.10.2", "0.11.0")
"""Versions of jaxlib whose CPU compiler hands some sums to code that crashes, or sums wrongly.

Products summed over an axis at rank 7 and 8 end the process (jax-ml/jax issues 39257, 40412), and
in 0.10.2 squares summed under ``vmap`` over more than 32,768 rows are wrong (issue 39103).
"""

WITHOUT_FAULTY_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"


def avoid_faulty_sums() -> None:
    """Sets XLA's flag for ``FAULTY_SUMS``, unless the environment sets it already.

    XLA reads its flags when the first device is asked for. After that only a warning is left, and
    so it is where the variable names a file of flags. Processes that are started from this one
    inherit the flag: a JAX before 0.10.1 does not know it and would refuse to start.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    name = WITHOUT_FAULTY_SUMS.partition("=")[0]
    if importlib.metadata.version("jaxlib") not in FAULTY_SUMS or name in flags:
        return
    of_a_file = bool(flags) and not flags.lstrip().startswith("--")
    if not of_a_file:
        os.environ["XLA_FLAGS"] = f"{flags} {WITHOUT_FAULTY_SUMS}".strip()
    if of_a_file or _devices_are_known():
        warnings.warn(
            "jaxlib 0.10.2 and 0.11.0 can crash or sum wrongly on a CPU. Import vaecausal_jax "
            f"before the first array is made, or have {WITHOUT_FAULTY_SUMS} in XLA_FLAGS.",
            stacklevel=3,
        )


def _devices_are_known() -> bool:
    """Whether JAX has started its devices, asked of the versions of ``FAULTY_SUMS`` alone.

    Not part of JAX's public interface, so it is looked up and not imported: a version without it
    must not keep this library from being imported.
    """
    return sys.modules["jax._src.xla_bridge"].backends_are_initialized()


def flags_for_small_programs() -> str:
    """``XLA_FLAGS`` with which small programs compile in two thirds of the time.

    XLA refuses to start with a flag that it does not know, so this is asked by version: 0.7 to 0.10
    have it, and 0.11 has not.
    """
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    return "--xla_cpu_use_fusion_emitters=false" if (0, 7) <= version <= (0, 10) else ""


def versions_of_programs() -> tuple[str, str]:
    """Versions of JAX and its compiler as imported; what is installed may have changed since."""
    return jax.__version__, jaxlib.version.__version__


def cached_programs_may_crash() -> bool:
    """Whether loading a compiled program from disk can end the process.

    It does on macOS before jaxlib 0.10, for programs of many kernels (uwplasma/vmex pull request
    142).
    """
    version = tuple(map(int, jaxlib.version.__version__.split(".")[:2]))
    return sys.platform == "darwin" and version < (0, 10)
