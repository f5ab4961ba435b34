"""Arrays that go together have one row each: a walk over the public functions that take runs."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from public_api import public_functions

from vaecausal_jax import models
from vaecausal_jax.data.pairs import Pairs, Runs, check_pairs
from vaecausal_jax.effects import attribution, mediators
from vaecausal_jax.interventions.sites import outputs
from vaecausal_jax.rows import check_rows
from vaecausal_jax.sweeps import patching

IMAGE, LATENTS, RUNS = (4, 4, 1), 2, 4
MODEL = models.mlp_vae(IMAGE, latent_size=LATENTS, encoder_dense=(3,), decoder_dense=(3,))
PARAMS = MODEL.init(jax.random.key(0))
VQ = models.vq_vae(
    (8, 8, 1), num_codes=3, code_size=2, encoder_channels=(2,), decoder_channels=(2,)
)
X0, X1 = jax.random.uniform(jax.random.key(1), (2, RUNS, *IMAGE))
EPS, OTHER_EPS, DONOR = jax.random.normal(jax.random.key(2), (3, RUNS, LATENTS))

NET = MODEL.bind(PARAMS)
METRIC = lambda y, row: jnp.sum(y)  # noqa: E731
VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD

RUN_ARGUMENTS = ("x", "eps", "other_eps", "donor", "base", "pairs", "runs")
"""Parameters with a leading axis of runs."""

PAIRS = Pairs(X0, X1, EPS)
OF_FACTORS = {"pairs": jax.tree.map(lambda a: a[None], PAIRS)}

BY_NAME = {
    "key": jax.random.key(3),
    "net": MODEL.bind(PARAMS),
    "forward": MODEL.forward,
    "model": MODEL,
    "params": PARAMS,
    "sites": MODEL.sites,
    "name": "latent/z",
    "names": ("latent/z",),
    "nodes": ("latent/z", "decoder/dense0"),
    "read": outputs,
    "x": X0,
    "pairs": PAIRS,
    "eps": EPS,
    "runs": Runs(X0, EPS, {"latent/z": DONOR}, {"latent/z": DONOR}),
    "other_eps": OTHER_EPS,
    "donor": DONOR,
    "base": None,
    "dose": jnp.ones(LATENTS),
    "doses": (-1.0, 1.0),
    "basis": jnp.eye(LATENTS)[:1],
    "mediator": mediators.unit(MODEL.sites, "latent/z"),
    "points": jnp.arange(LATENTS),
    "groups": {"latent/z": jnp.ones((1, LATENTS), bool)},
    "outcome": outputs,
    "factors": None,
    "num_nodes": 1,
    "block": None,
}
"""What a function is called with where it must be given an argument of this name."""

X_VQ, EPS_VQ = jax.random.uniform(jax.random.key(1), (RUNS, 8, 8, 1)), jnp.zeros((RUNS, 0))
OF_CODES = {"latent/codes": jnp.zeros((RUNS, 4, 4), int)}
VQ_INPUTS = {
    "net": VQ.bind(VQ.init(jax.random.key(0))),
    "name": "latent/codes",
    "x": X_VQ,
    "eps": EPS_VQ,
    "num_codes": 3,
    "doses": jnp.ones(1),
}
OTHERS = {
    "effects.codes.code_effects": VQ_INPUTS | {"runs": Runs(X_VQ, EPS_VQ, OF_CODES, OF_CODES)},
    "effects.codes.crossing_rates": VQ_INPUTS,
    "circuits.by_factor.factor_circuits": {"pairs": {"scale": PAIRS}},
    "effects.unit_effects.shift_effects": {"doses": {"latent/z": jnp.ones(LATENTS)}},
    "factors.factor_effects.read_tensor": OF_FACTORS,
    "factors.factor_effects.write_tensor": {"sites": "latent/z"},
    "factors.factor_effects.mediation_tensor": OF_FACTORS,
    "factors.factor_graphs.swap_effects": OF_FACTORS | {"points": jnp.arange(1)},
    "effects.modularity.activation_changes": {"read": "decoder/dense0"},
    "effects.support.check_subspace": {"max_probes": 2},
}
"""Arguments of their own."""

OF_ONE_RUN = {
    "circuits.tasks.run_circuit",
    "effects.mediation.controlled_direct_effect",
    "effects.mediation.natural_effects",
    "effects.paths.natural_values",
    "effects.paths.path_effect",
    "effects.paths.run_edges",
    "effects.paths.sequential_effects",
    "effects.paths.wiring",
    "circuits.planted.network.autoencoder",
    "interventions.bound.bind",
    "interventions.sites.list_sites",
}
"""These take one run without a leading axis: what does not fit is refused by the network."""


OF_NO_RUN = {
    "circuits.roles.backup_pairs",
    "data.pairs.check_pair",
    "data.pairs.check_pairs",
    "data.pairs.check_runs",
    "factors.readouts.readout_changes",
    "study.inputs.output_changes",
    "sweeps.unit_tables.choose_units",
}
"""These run no network; planted networks' finders are given pairs by the network itself."""


def one_shorter(name, value):
    """Each way in which an argument's runs may be one too few, with the name that is said."""
    if isinstance(value, Pairs):
        axis = 1 if value.eps.ndim > EPS.ndim else 0
        cut = {end: jnp.take(getattr(value, end), jnp.arange(RUNS - 1), axis) for end in ENDS}
        return {end: value._replace(**{end: array}) for end, array in cut.items()}
    if name == "pairs":
        return {end: {"scale": short} for end, short in one_shorter(name, value["scale"]).items()}
    if isinstance(value, Runs):
        words = {"x": "x", "eps": "eps", "donors": "donor", "base": "base"}
        return {
            word: value._replace(**{field: jax.tree.map(lambda a: a[:-1], getattr(value, field))})
            for field, word in words.items()
        }
    return {name: jax.tree.map(lambda a: a[:-1], value)}


ENDS = ("x0", "x1", "eps")


def batched():
    found = {}
    for name, function in public_functions().items():
        parameters = inspect.signature(function).parameters
        takes_runs = {"x", "eps"} <= set(parameters) or {"pairs", "runs"} & set(parameters)
        if takes_runs and name not in OF_ONE_RUN | OF_NO_RUN and "planted" not in name:
            found[name] = function
    return found


def arguments_of(name, function):
    """Arguments by name: all that are required, and all runs."""
    own, found = OTHERS.get(name, {}), {}
    for word, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not VAR_KEYWORD
        if word in own or required or word in RUN_ARGUMENTS:
            assert word in own or word in BY_NAME, f"say in BY_NAME what {name} takes as {word}"
            found[word] = own[word] if word in own else BY_NAME[word]
    return found


@pytest.mark.parametrize("name", sorted(batched()))
def test_runs_of_different_number_are_refused_by_name_before_anything_runs(name):
    function = batched()[name]
    good = arguments_of(name, function)
    shorter = {
        (argument, said): value
        for argument in RUN_ARGUMENTS
        if good.get(argument) is not None
        for said, value in one_shorter(argument, good[argument]).items()
    }
    said = {word for _, word in shorter}
    assert len(said) >= 2
    for (argument, word), value in shorter.items():
        with pytest.raises(ValueError, match=rf"\b{word} has 3\b") as caught:
            function(**good | {argument: value})
        for other in said - {word}:
            assert f"{other} has {RUNS}" in str(caught.value)
    if isinstance(good.get("pairs"), Pairs):
        pairs = good["pairs"]
        with pytest.raises(ValueError, match="need one shape"):
            function(**good | {"pairs": pairs._replace(x1=pairs.x1[..., :-1, :])})


@pytest.mark.parametrize(
    "run",
    [
        lambda rows: patching.patch_units(NET, "latent/z", rows, lambda y, row: y),
        lambda rows: attribution.attribution_patching(NET, "latent/z", rows, METRIC),
        lambda rows: attribution.integrated_gradients(
            NET, "latent/z", rows, METRIC, rule=attribution.gauss_legendre(1)
        ),
    ],
)
def test_rows_of_different_number_are_refused_by_name(run):
    rows = patching.Rows(X0, EPS, DONOR, OTHER_EPS, X0, X0)
    with pytest.raises(ValueError, match=r"\.x \(4, 4, 4, 1\), contexts.*\.eps \(3, 2\)"):
        run(rows._replace(eps=EPS[:3]))


def test_counted_rows():
    assert check_rows(a=jnp.ones((3, 2)), b={"c": jnp.ones(3)}, d=None) == 3
    assert check_pairs(PAIRS) == RUNS
    for given, message in (
        ({"a": jnp.ones(2), "b": {"c": jnp.ones(3), "d": jnp.ones(2)}}, "a has 2, b has 2 and 3"),
        ({"a": 1.0, "b": jnp.ones(3)}, "a has no axis, b has 3"),
        ({"a": jnp.ones((0, 2))}, "a has 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_rows(**given)
    with pytest.raises(ValueError, match=r"\(4, 4, 4, 1\) and x1 \(4, 4, 3, 1\) need"):
        check_pairs(PAIRS._replace(x1=X1[:, :, :-1]))
    with pytest.raises(ValueError, match=r"expected Pairs\(x0, x1, eps\), got tuple"):
        check_pairs((X0, X1, EPS))
