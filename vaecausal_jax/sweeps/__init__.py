"""Sweeps: one run at every point of a grid, on one device or many, reduced as it goes.

``sweep`` evaluates ``run(point, context)``; ``patch_units`` is the sweep over the units of a site;
reductions keep less than all values, and sweeps are written as JSON. ``stored`` (the study extra)
writes a sweep to disk slab by slab and goes on where it stopped.
"""

from vaecausal_jax.sweeps.grid import (
    Block,
    Skip,
    SweepFn,
    choose_block,
    over_devices,
    sweep,
)
from vaecausal_jax.sweeps.patching import (
    Rows,
    patch_units,
)
from vaecausal_jax.sweeps.reductions import (
    Reduction,
    covariance,
    histogram,
    moments,
    together,
    top_k,
)
from vaecausal_jax.sweeps.serial import (
    from_json,
    to_json,
)
from vaecausal_jax.sweeps.unit_tables import UnitTable, choose_units, unit_table

__all__ = [
    "Block",
    "Reduction",
    "Rows",
    "Skip",
    "SweepFn",
    "UnitTable",
    "choose_block",
    "choose_units",
    "covariance",
    "from_json",
    "histogram",
    "moments",
    "over_devices",
    "patch_units",
    "sweep",
    "to_json",
    "together",
    "top_k",
    "unit_table",
]
