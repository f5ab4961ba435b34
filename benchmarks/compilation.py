"""What do the options for programs of few runs save, and what do they cost?

The measurements of the quick study on untrained models: each is compiled as XLA does by default and
by `vaecausal_jax.study.compilation`, and run twice, of which the second counts. Processor seconds,
which other jobs on the machine change less than they change wall time, and wall seconds of the run.

    python -m benchmarks.compilation [--parts health site/decoder/dense1 ...] [--json]
"""

import argparse
import json
import time

import jax

from vaecausal_jax import study
from vaecausal_jax.study.cli.setting import use_machine
from vaecausal_jax.study.compilation import compile_for_few_runs
from vaecausal_jax.study.config import architectures, dataset
from vaecausal_jax.study.factors import make_readout
from vaecausal_jax.study.inputs import make_inputs
from vaecausal_jax.study.measure import measurements
from vaecausal_jax.training.seeds import fastest_over_seeds

COMPILERS = {"default": lambda lowered: lowered.compile(), "few runs": compile_for_few_runs}


def measure(lowered, compile_it, arguments):
    """Processor seconds to compile, and wall seconds of a run."""
    start = time.process_time()
    program = compile_it(lowered)
    compiled = time.process_time() - start
    jax.block_until_ready(program(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return compiled, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", help="names of measurements; all by default")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    use_machine(None, afresh=True)
    config = study.PRESETS["train"]
    data = dataset(config, None)
    model = next(iter(architectures(config, data)))
    keys = jax.random.split(jax.random.key(0), len(config.families) * config.num_seeds)
    params = jax.vmap(model.init)(keys)
    inputs = make_inputs(config, data, model, make_readout(config, data, lambda *_: None))
    todo = measurements(config, model)
    parts = args.parts or list(todo)
    if unknown := [name for name in parts if name not in todo]:
        parser.error(f"no measurement {unknown}; there are {list(todo)}")
    record = {"compile_cpu_seconds": {}, "run_seconds": {}}
    print(f"{'':24}{'compile, CPU s':>24}{'run, s':>22}")
    print(f"{'':24}{'default':>12}{'few runs':>12}{'default':>12}{'few runs':>12}")
    for name in parts:
        lowered = jax.jit(fastest_over_seeds()(todo[name])).lower(params, inputs)
        found = {
            word: measure(lowered, compile_it, (params, inputs))
            for word, compile_it in COMPILERS.items()
        }
        for place, table in enumerate(record.values()):
            table[name] = {word: values[place] for word, values in found.items()}
        numbers = [found[word][place] for place in (0, 1) for word in COMPILERS]
        print(f"{name:24}" + "".join(f"{value:12.2f}" for value in numbers), flush=True)
    totals = {
        table: {word: sum(row[word] for row in rows.values()) for word in COMPILERS}
        for table, rows in record.items()
    }
    numbers = [totals[table][word] for table in totals for word in COMPILERS]
    print(f"{'all':24}" + "".join(f"{value:12.2f}" for value in numbers), flush=True)
    if args.json:
        print(json.dumps({"benchmark": "compilation", **record, "totals": totals}))


if __name__ == "__main__":
    main()
