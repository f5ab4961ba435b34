"""Compiling programs that run once or a few times, for which compilation is most of the cost."""

from typing import Any

from vaecausal_jax.jax_versions import compile_with, platform

FEW_RUNS = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Options of XLA's CPU compiler. Programs whose work is in matrix products run as fast with them,
or faster, and compile in less than half of the processor time (`benchmarks.compilation`)."""


def compile_for_few_runs(lowered: Any) -> Any:
    """A lowered program (``jax.stages.Lowered``) compiled with least effort, on a CPU.

    Other devices compile as always; an option that this version of XLA does not know is left out.
    """
    if platform() != "cpu":
        return lowered.compile()
    return compile_with(lowered, FEW_RUNS)
