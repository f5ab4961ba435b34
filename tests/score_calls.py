"""How the laws call a public function of codes and factors: arguments by the parameters' names.

One registry for all of them, so that a new score is under the laws without being listed; one whose
parameters are not known here fails them with a sentence that says so.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaecausal_jax.metrics.arrays import factor_levels
from vaecausal_jax.metrics.predictability import sap_discrete

KEY = jax.random.key(0)

SMALL = {
    "num_eval": 300,
    "batch_size": 16,
    "num_rounds": 10,
    "num_trees": 10,
    "num_replicates": 0,
    "num_shuffles": 0,
}
"""Options that make a score quick, for those that have them."""

NEEDED = {
    "key": KEY,
    "num": 400,
    "description": "a law",
    "num_train": None,
    "rng": np.random.default_rng(0),
    "respond": lambda z: z[::-1],
    "readout": lambda z: z[jnp.array([0, -1])] / 10,
    "score": lambda codes, factors: sap_discrete(codes, factors).value,
}
"""What a function may need beside codes and factors."""


def call(name: str, function: Callable[..., Any], codes: Any, factors: Any) -> Any:
    """What the function makes of codes and factors, iterators read to their end.

    Raises:
        AssertionError: A parameter without a default that the registry does not know.
    """
    if name.endswith("joint_information"):  # Of levels, not of arrays.
        codes, factors = (factor_levels(table, len(table)) for table in (codes, factors))
    if name.endswith("score_models"):  # Of several models.
        codes = np.asarray(codes)[None]
    given = {**NEEDED, "codes": codes, "factors": factors, "num_rows": len(codes)}
    if "donors" in inspect.signature(function).parameters:
        given["donors"] = codes[::-1]
    if {"baseline", "low"} & set(inspect.signature(function).parameters):  # One number a code.
        width = codes.shape[1]
        given |= {name: np.full(width, i, np.float32) for i, name in enumerate(("low", "high"))}
        given |= {"baseline": np.zeros(width, np.float32), "chosen": np.eye(2, width) > 0}
    if "kl" in inspect.signature(function).parameters:  # Of several models.
        given |= {"codes": np.stack([codes, codes]), "kl": np.ones((2, np.shape(codes)[1]))}
    arguments = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in given:
            arguments[parameter.name] = given[parameter.name]
        elif parameter.name in SMALL:
            arguments[parameter.name] = SMALL[parameter.name]
        else:
            assert parameter.default is not inspect.Parameter.empty, (
                f"the laws of codes and factors do not know what to give {name} as "
                f"{parameter.name!r}: add it to NEEDED in tests/score_calls.py."
            )
    if "num_eval" in arguments:  # Votes, where others count rows.
        arguments["num_train"] = 600
    result = function(**arguments)
    return list(result) if inspect.isgenerator(result) else result
