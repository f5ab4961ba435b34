"""Mediation and effect strength against other people's implementations of the same numbers."""

import itertools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pandas as pd
import pytest

from vaecausal_jax import interventions as vi
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import decompositions, mediation, mediators, strengths
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, Trace, list_sites

# Everything here is compared in float64, as the others compute.


@pytest.fixture(scope="module", autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


# x -> m1 -> m2 -> y and every shortcut, with interactions; parameters so that T1-T3 are cases.
EQUATIONS = {
    "m1": (["x"], lambda p, x: p["a1"] * x),
    "m2": (["x", "m1"], lambda p, x, m1: p["a2"] * x + p["d"] * m1 + p["e"] * x * m1),
    "y": (
        ["x", "m1", "m2"],
        lambda p, x, m1, m2: p["c"] * x + p["b1"] * m1 + p["b2"] * m2 + p["k"] * x * m1 * m2,
    ),
}
LINEAR = {"a1": 0.8, "a2": -0.5, "d": 0.6, "e": 0.0, "c": 0.2, "b1": 1.5, "b2": 0.7, "k": 0.0}
INTERACTING = LINEAR | {"e": 0.7, "k": -0.9}


def forward(params, x, eps, interventions):
    tape = Tape(interventions)
    x = tape("x", x)
    m1 = tape("m1", EQUATIONS["m1"][1](params, x) + eps[:1])
    m2 = tape("m2", EQUATIONS["m2"][1](params, x, m1) + eps[1:2])
    y = tape("y", EQUATIONS["y"][1](params, x, m1, m2) + eps[2:])
    tape.close()
    return Trace(y, tape.activations)


def dowhy_model(gcm, params, data):
    """The same equations, and noise that DoWhy finds by itself from the data."""

    class Equation(gcm.PredictionModel):
        def __init__(self, function):
            self.function = function

        def fit(self, X, Y):  # noqa: N803
            pass

        def predict(self, X):  # noqa: N803
            return self.function(params, *X.T)[:, None]

        def clone(self):
            return Equation(self.function)

    edges = [(parent, child) for child, (parents, _) in EQUATIONS.items() for parent in parents]
    model = gcm.InvertibleStructuralCausalModel(nx.DiGraph(edges))
    model.set_causal_mechanism("x", gcm.EmpiricalDistribution())
    for name, (parents, function) in EQUATIONS.items():
        # DoWhy hands parents over in alphabetical order.
        order = sorted(parents)
        places = [order.index(parent) for parent in parents]
        equation = Equation(lambda p, *v, f=function, i=places: f(p, *(v[j] for j in i)))
        model.set_causal_mechanism(name, gcm.AdditiveNoiseModel(equation))
    gcm.fit(model, data)
    return model


@pytest.mark.parametrize("params", [LINEAR, INTERACTING], ids=["T3", "interacting"])
def test_natural_effects_are_those_of_dowhys_nested_counterfactuals_row_by_row(params):
    gcm = pytest.importorskip("dowhy.gcm")
    gcm.config.disable_progress_bars()
    rng = np.random.default_rng(0)
    x0, x1, noise = rng.normal(size=2), rng.normal(size=2), rng.normal(size=(2, 3))
    runs = jnp.asarray(x0[:, None]), jnp.asarray(x1[:, None]), jnp.asarray(noise)
    data = pd.DataFrame(
        {
            name: np.asarray(value)[:, 0]
            for name, value in jax.vmap(lambda x, e: forward(params, x, e, {}).activations)(
                runs[0], runs[2]
            ).items()
        }
    )
    model = dowhy_model(gcm, params, data)
    sites = list_sites(forward, params, runs[0][0], runs[2][0])
    mediator = mediators.whole(sites, "m1", "m2")
    points = jnp.array([[True, False], [False, True], [True, True]])
    ours = mediation.mediate(
        BoundModel(forward, params), Pairs(*runs), mediator, points, effect=decompositions.natural
    )

    def counterfactual(row, x, **held):
        values = {"x": x} | held
        return gcm.counterfactual_samples(
            model,
            {name: lambda _, v=value: v for name, value in values.items()},
            observed_data=data.iloc[[row]],
        ).iloc[0]

    for (i, names), row in itertools.product(
        enumerate([["m1"], ["m2"], ["m1", "m2"]]), range(len(data))
    ):
        reference, target = counterfactual(row, x0[row]), counterfactual(row, x1[row])
        y00, y11 = reference["y"], target["y"]
        y01 = counterfactual(row, x0[row], **{n: target[n] for n in names})["y"]
        y10 = counterfactual(row, x1[row], **{n: reference[n] for n in names})["y"]
        expected = [y11 - y00, y10 - y00, y11 - y01, y01 - y00, y11 - y10]
        expected.append(expected[4] - expected[3])
        for value, theirs in zip(ours, expected, strict=True):
            np.testing.assert_allclose(value[i, row, 0], theirs, atol=1e-12)


def effects_of(params, x0, x1, names, num=1):
    """Exact effects of x0 -> x1 through some sites, with no noise: (effects of one pair)."""
    x = jnp.full((num, 1), x0), jnp.full((num, 1), x1), jnp.zeros((num, 3))
    sites = list_sites(forward, params, x[0][0], x[2][0])

    def patch(run):
        return vi.combine(*(vi.patch(sites, n, run[n]) for n in names))

    return mediation.natural_effects(
        BoundModel(forward, params), Pairs(x[0][0], x[1][0], x[2][0]), patch
    )


def least_squares(data, target, *names):
    columns = [np.ones(len(data)), *(data[n] for n in names)]
    return np.linalg.lstsq(np.stack(columns, 1), data[target], rcond=None)[0]


def test_effects_through_one_and_two_parallel_mediators_are_those_of_pingouin():
    # T1 on data: the effects of the network fitted by least squares.
    pingouin = pytest.importorskip("pingouin")
    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    m1 = 0.8 * x + rng.normal(size=300)
    m2 = -0.5 * x + rng.normal(size=300)
    y = 0.2 * x + 1.5 * m1 + 0.7 * m2 + rng.normal(size=300)
    data = pd.DataFrame({"x": x, "m1": m1, "m2": m2, "y": y})
    theirs = pingouin.mediation_analysis(
        data, x="x", m=["m1", "m2"], y="y", n_boot=10, seed=0
    ).set_index("path")["coef"]
    a1, a2 = least_squares(data, "m1", "x")[1], least_squares(data, "m2", "x")[1]
    _, c, b1, b2 = least_squares(data, "y", "x", "m1", "m2")
    params = LINEAR | {"a1": a1, "a2": a2, "d": 0.0, "c": c, "b1": b1, "b2": b2}
    for names, label in ((["m1"], "Indirect m1"), (["m2"], "Indirect m2")):
        effects = effects_of(params, 0.0, 1.0, names)
        np.testing.assert_allclose(effects.natural_indirect_effect[0], theirs[label], atol=1e-10)
        np.testing.assert_allclose(effects.total_indirect_effect[0], theirs[label], atol=1e-10)
    joint = effects_of(params, 0.0, 1.0, ["m1", "m2"])
    np.testing.assert_allclose(joint.natural_direct_effect[0], theirs["Direct"], atol=1e-10)
    np.testing.assert_allclose(joint.total_effect[0], theirs["Total"], atol=1e-10)


@pytest.mark.slow
def test_effects_of_an_interacting_mediator_are_those_that_statsmodels_simulates():
    # T2: statsmodels redraws parameters and mediators, so that it agrees up to its own intervals.
    api = pytest.importorskip("statsmodels.api")
    from statsmodels.stats.mediation import Mediation

    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, 4000).astype(float)
    m = 0.3 + 0.8 * x + rng.normal(size=4000)
    y = -0.4 * x + 1.5 * m + 0.9 * x * m + rng.normal(size=4000)
    data = pd.DataFrame({"x": x, "m": m, "y": y})
    theirs = Mediation(
        api.OLS.from_formula("y ~ x * m", data),
        api.OLS.from_formula("m ~ x", data),
        "x",
        "m",
    ).fit(n_rep=100, rng=np.random.default_rng(3))
    table = theirs.summary()

    def interacting(p, x, eps, interventions):
        tape = Tape(interventions)
        m = tape("m", 0.3 + 0.8 * x + eps)
        y = tape("y", -0.4 * x + 1.5 * m + 0.9 * x * m)
        tape.close()
        return Trace(y, tape.activations)

    one = jnp.ones(1)
    sites = list_sites(interacting, None, one, one)
    ours = mediation.natural_effects(
        BoundModel(interacting, None),
        Pairs(0 * one, one, 0 * one),
        lambda run: vi.patch(sites, "m", run["m"]),
    )
    for value, row in (
        (ours.natural_indirect_effect, "ACME (control)"),
        (ours.total_indirect_effect, "ACME (treated)"),
        (ours.natural_direct_effect, "ADE (control)"),
        (ours.total_direct_effect, "ADE (treated)"),
        (ours.total_effect, "Total effect"),
    ):
        estimate, low, high = table.loc[row].iloc[:3]
        assert abs(value[0] - estimate) < high - low, row


def test_indices_of_salibs_own_samples_are_those_of_salib():
    # T6 and Ishigami: base and donor are the two matrices of SALib's design.
    pytest.importorskip("SALib")
    from SALib.analyze import sobol as analyze
    from SALib.sample import sobol as sample

    def decode(z):
        return jnp.sin(z[0]) + 7 * jnp.sin(z[1]) ** 2 + 0.1 * z[2] ** 4 * jnp.sin(z[0])

    def decoder(params, x, eps, interventions):
        tape = Tape(interventions)
        y = tape("y", decode(tape("z", x))[None])
        tape.close()
        return Trace(y, tape.activations)

    problem = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[-np.pi, np.pi]] * 3}
    design = sample.sample(problem, 2048, calc_second_order=False, seed=0)
    y = np.asarray(jax.vmap(decode)(jnp.asarray(design)))
    theirs = analyze.analyze(problem, y, calc_second_order=False, num_resamples=2, seed=0)
    # Rows by fives: A, A with one column of B each, B.
    by_kind = design.reshape(2048, 5, 3)
    base, donor = (jnp.asarray(by_kind[:, i]) for i in (0, 4))
    eps = jnp.zeros((2048, 0))
    sites = list_sites(decoder, None, base[0], eps[0])
    found = strengths.strength_samples(
        BoundModel(decoder, None, sites), Runs(base, eps, {"z": donor}), "z", doses=()
    )
    of_both = np.concatenate([y[::5], y[4::5]]).var()
    np.testing.assert_allclose(
        np.asarray(found.squared).mean(1) / 2 / of_both, theirs["ST"], rtol=1e-8
    )
    # First order by another estimator: within the noise of 2048 rows.
    first = 1 - np.asarray(found.complement).mean(1) / 2 / of_both
    np.testing.assert_allclose(first, theirs["S1"], atol=0.1)
