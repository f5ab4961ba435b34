"""Laws of every interval where its data end: few samples, equal ones, no weight, rare levels.

An interval holds its estimate, or there is none, in words; and what showed no spread says so.
"""

import inspect
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_api import functions_with, public_functions
from scipy import special

from vaecausal_jax import inference
from vaecausal_jax.circuits.selectors import select_top
from vaecausal_jax.circuits.stability import selection_stability
from vaecausal_jax.circuits.tasks import make_task, task_values
from vaecausal_jax.data.pairs import Pairs
from vaecausal_jax.effects import mediators
from vaecausal_jax.effects.decompositions import Gram, Mediated, NaturalEffects
from vaecausal_jax.effects.strengths import StrengthSamples
from vaecausal_jax.factors.interchange import Swapped
from vaecausal_jax.inference import Bootstrap, Estimate
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Tape, list_sites
from vaecausal_jax.metrics import mig
from vaecausal_jax.metrics.chance import estimate_score
from vaecausal_jax.metrics.posteriors import Posteriors
from vaecausal_jax.metrics.suite import METRICS, QUICK, score_suite
from vaecausal_jax.study.cli.metrics import MetricsCommand, run_metrics_command
from vaecausal_jax.sweeps.unit_tables import UnitTable

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


class Edge(typing.NamedTuple):
    """Data at an edge: numbers of some images, their weights, and the options they come with."""

    samples: np.ndarray
    weights: np.ndarray
    options: dict[str, Any]

    @property
    def num(self) -> int:
        return len(self.samples)

    def rows(self, *shape: int, kind: str = "samples") -> np.ndarray:
        """The numbers as (*shape, images): the first row as they are, the others scaled."""
        scale = 1.0 + np.arange(int(np.prod(shape)))
        return (scale[:, None] * getattr(self, kind)).reshape(*shape, -1)


def _edge(samples: Any, weights: Any = None, **options: Any) -> Edge:
    samples = np.asarray(samples, float)
    return Edge(samples, np.ones(len(samples)) if weights is None else weights, options)


NUMBERS = np.array([0.3, -0.2, 0.9, 0.4, 1.1])
EDGES = {
    **{f"images_{n}": _edge(NUMBERS[:n]) for n in (1, 2, 5)},
    "all_equal": _edge(np.full(5, 0.1), np.full(5, 0.3)),
    "all_zero": _edge(np.zeros(5)),
    "one_different": _edge([0.1, 0.1, 0.1, 0.1, 7.0]),
    "no_weight": _edge(NUMBERS, np.zeros(5)),
    "one_weight": _edge(NUMBERS, np.eye(5)[2]),
    "cancelled_weight": _edge(NUMBERS, np.array([1.0, -1.0, 2.0, -1.0, -1.0])),
    "one_cluster": _edge(NUMBERS, clusters=np.zeros(5, int)),
    "two_clusters": _edge(NUMBERS, clusters=np.array([0, 0, 1, 1, 1])),
    "high_level": _edge(NUMBERS, level=0.999),
    "few_replicates": _edge(NUMBERS, num_replicates=2),
}
OWN_INTERVALS = ("inference.", "effects.specificity.", "metrics.")
"""Where intervals are made. Others hand effects on, and are compiled for five images alone."""


def forward(params, x, eps, interventions):
    """A site "latent/z" of two units that holds the input, read in two ways."""
    tape = Tape(interventions)
    z = tape("latent/z", x + eps)
    return tape.trace(jnp.stack([z[0] + 2 * z[1], z[0] * z[1]]))


SITES = list_sites(forward, None, jnp.zeros(2), jnp.zeros(2))


def images(edge: Edge) -> jax.Array:
    return jnp.asarray(edge.rows(2).T)


def first_output(trace):
    return trace.outputs[:1]


def task_of(edge: Edge):
    x1, eps = images(edge), jnp.zeros((edge.num, 2))
    return make_task(
        BoundModel(forward, None, SITES), Pairs(jnp.zeros_like(x1), x1, eps), outcome=first_output
    )


def strength_samples(edge: Edge) -> StrengthSamples:
    squares = jnp.asarray(edge.rows(2) ** 2)
    by_dose = jnp.asarray(edge.rows(2, 1) ** 2)
    return StrengthSamples(
        squared=squares,
        complement=squares,
        nats=squares,
        readout=jnp.asarray(edge.rows(2, 1)),
        doses=np.array([-1.0, 1.0]),
        dose_squared=jnp.asarray(edge.rows(2, 2) ** 2),
        slope_squared=by_dose,
        curvature_squared=by_dose,
        dose_readout=jnp.asarray(edge.rows(2, 1, 2)),
        support=jnp.ones((2, 2)),
        spread=jnp.asarray(edge.weights),
        unit_sd=jnp.ones(2),
        num_outputs=4,
    )


def gram(edge: Edge) -> Gram:
    part = jnp.asarray(edge.rows(2))
    total = jnp.broadcast_to(jnp.asarray(edge.weights), part.shape)
    return Gram(total, part, 2 * part, part**2, part**2, 4 * part**2)


def table_of(edge: Edge) -> dict[str, np.ndarray]:
    return {"a": edge.samples, "b": np.arange(edge.num) % 2 * 1.0}


def largest(ratios):
    return ratios.max(0)


def association(codes, factors):
    if (factors[:, 0] == factors[0, 0]).all():
        raise ValueError("factor 0 has one level.")
    return [np.mean(codes[:, 0] * factors[:, 0]), 1.0]


ARGUMENTS: dict[str, Callable[[Edge], Any]] = {
    "key": lambda e: KEY,
    "intervention": lambda e: "none",
    "description": lambda e: "none",
    "ablation": lambda e: "zero",
    "level": lambda e: e.options.get("level", 0.95),
    "num_inputs": lambda e: 10,
    "samples": lambda e: e.rows(2),
    "values": lambda e: e.samples,
    "numerator": lambda e: e.rows(2),
    "denominator": lambda e: e.weights,
    "changes": lambda e: np.moveaxis(e.rows(2, 3), 1, 2),
    "mediated": lambda e: Mediated(gram(e), None, jnp.zeros((2, e.num))),
    "gram": gram,
    "depth_profile.effects": lambda e: UnitTable((("a", 0), ("a", 1)), gram(e)),
    "swapped": lambda e: Swapped(
        jnp.asarray(e.rows(2) ** 2), jnp.asarray(e.rows(2, kind="weights")), None
    ),
    "table": table_of,
    "x": lambda e: e.samples,
    "y": lambda e: np.arange(e.num) % 2 * 1.0,
    "task": task_of,
    "circuit": lambda e: {"latent/z": np.array([True, False])},
    "circuits": lambda e: {"latent/z": np.array([[True, False], [True, True]])},
    "reference": lambda e: task_values(task_of(e), jnp.zeros((e.num, 2))),
    "references": lambda e: {"zero": task_values(task_of(e), jnp.zeros((e.num, 2)))},
    "scores": lambda e: {"latent/z": np.array([1.0, 0.5])},
    "margin": lambda e: 0.1,
    "net": lambda e: BoundModel(forward, None, SITES),
    "forward": lambda e: forward,
    "params": lambda e: None,
    "sites": lambda e: SITES,
    "names": lambda e: ("latent/z",),
    "name": lambda e: "latent/z",
    "x0": lambda e: jnp.zeros((e.num, 2)),
    "x1": images,
    "eps": lambda e: jnp.zeros((e.num, 2)),
    "donor": lambda e: -images(e),
    "effects": lambda e: NaturalEffects(*[jnp.asarray(e.rows(2, 3)).swapaxes(1, 2)] * 6),
    "interactions": lambda e: e.rows(1),
    "noising": lambda e: e.rows(2),
    "pairs": lambda e: np.array([[0, 1]]),
    "reads": lambda e: e.rows(2, 2),
    "writes": lambda e: e.rows(2, 2),
    "num_images": lambda e: e.num,
    "num_units": lambda e: 2,
    "k": lambda e: 1,
    "measure": lambda e: lambda units, start, stop: e.rows(2)[units, start:stop],
    "select": lambda e: lambda scores: select_top(scores, 1),
    "function": lambda e: largest,
    "score": lambda e: association,
    "codes": lambda e: np.stack([e.samples, e.samples**2], axis=1),
    "factors": lambda e: np.stack([np.arange(e.num) % 2, np.arange(e.num) // 2], axis=1),
    "groups": lambda e: np.arange(e.num) % 2,
    "posteriors": lambda e: Posteriors(images(e), jnp.zeros((e.num, 2)), jnp.asarray(e.samples)),
    "true_change": lambda e: e.rows(2, kind="weights"),
    "mediator": lambda e: mediators.unit(SITES, "latent/z"),
    "points": lambda e: jnp.arange(2),
    "confidence_sequence.samples": lambda e: e.rows(2),
    "bootstrap_two_level.samples": lambda e: e.rows(3, 2),
    "classify_units.samples": lambda e: e.rows(2, 2),
    "factor_graph.samples": lambda e: e.rows(2, 2),
    "factor_graph.names": lambda e: None,
    "tensor_estimate.samples": lambda e: e.rows(2, 2),
    "selection_stability.samples": lambda e: {"a": e.rows(2)},
    "estimate_strengths.samples": strength_samples,
    "readout_confusion.changes": lambda e: np.moveaxis(e.rows(2, 2), 2, 1),
    "effect_graph.x": images,
    "bootstrap_function.denominator": lambda e: e.weights,
    "unit_roles.interactions": lambda e: e.rows(2),
}
"""How an argument of a name is made of the data; that of a single function by both names."""

CHOICES = {
    "interval": tuple(functions_with("resampled", "level").values()),
    "shared_images": (True, False),
    "ranks": (True, False),
}
"""Options all of whose choices are tried; those of a Bootstrap where the function takes them."""

NO_CLUSTERS = ("interquartile_mean", "bootstrap_two_level", "classify_units", "tensor_estimate")
NO_CLUSTERS += ("factor_graph", "effect_graph")
NO_INTERVAL = ("interquartile_mean", "bootstrap_two_level", "classify_units", "bootstrap_function")
NO_INTERVAL += ("depth_profile",)
REFUSED = {"clusters": NO_CLUSTERS, "interval": NO_INTERVAL}
"""Fields of a ``Bootstrap`` to the functions that refuse them, see the test of the same name."""

ELSEWHERE = {
    "study.": "made of a study's arrays by the functions below",
    "study.cli.": "likewise",
    "study.report.": "shows what was estimated",
    "inference.estimate.": "words on levels, without data",
    "inference.resampling.": "intervals that bootstrap_ratio takes, and their parts",
    "inference.two_level.resample_two_level": "what bootstrap_two_level rests on",
    "circuits.planted.recovery.recover": "draws its own pairs",
    "circuits.by_factor.factor_circuits": "refuses fewer than eight pairs, then faithfulness_grid",
    "factors.interchange.interchange_report": "continuous_iia of the swaps that it makes",
    "metrics.suite.score_suite": "estimate_score of every metric: see below",
}
"""What is not called with the data above, and why."""


def signed(found, edge):
    """The margin of |mean| as an interval about 0 that must hold the mean."""
    yield edge.rows(2).mean(-1), -found, found, None


def running(found, edge):
    samples = edge.rows(2)
    yield np.cumsum(samples, -1) / np.arange(1, edge.num + 1), *found, None


READ: dict[str, Callable[[Any, Edge], Iterator[tuple]]] = {
    "confidence_sequence": running,
    "equivalence_margin": signed,
    "race": lambda found, edge: iter([(0, 0, 0, None)]),
    "selection_stability": lambda found, edge: iter([(0, 0, 0, None)]),
}
"""Intervals of what returns them in a form of its own."""


def mentions_estimates(hint: Any, seen: tuple = ()) -> bool:
    """Whether a type is, or holds, an ``Estimate``."""
    if hint is Estimate:
        return True
    parts = typing.get_args(hint)
    if not parts and hint not in seen and hasattr(hint, "_fields"):
        parts = typing.get_type_hints(hint).values()
    return any(mentions_estimates(part, (*seen, hint)) for part in parts)


def estimators() -> dict[str, Callable[..., Any]]:
    """The public functions that give intervals: by what they return, their level or their name."""
    found = {}
    for name, function in public_functions().items():
        hints = typing.get_type_hints(function)
        has_level = hints.get("level") is float or hints.get("bootstrap") is Bootstrap
        gives = has_level or mentions_estimates(hints.get("return")) or ".estimate_" in name
        if gives and not name.startswith(tuple(ELSEWHERE)):
            found[name] = function
    return found


ESTIMATORS = estimators()


def calls(name: str, edge: Edge) -> Iterator[dict[str, Any]]:
    """Arguments for every choice of a function's options; none if it lacks the edge's own."""
    function = ESTIMATORS[name]
    short = name.split(".")[-1]
    parameters = inspect.signature(function).parameters
    fields = {n for n in Bootstrap._fields if short not in REFUSED.get(n, ())}
    fields = fields if "bootstrap" in parameters else set()
    if not edge.options.keys() <= parameters.keys() | fields:
        return
    bootstrap = {n: v for n, v in edge.options.items() if n in fields and n not in parameters}
    arguments: dict[str, Any] = {}
    for parameter in parameters.values():
        own = f"{short}.{parameter.name}"
        needed = parameter.default is parameter.empty or own in ARGUMENTS
        make = ARGUMENTS.get(own, ARGUMENTS.get(parameter.name)) if needed else None
        if parameter.name in edge.options:
            arguments[parameter.name] = edge.options[parameter.name]
        elif parameter.name in CHOICES or parameter.kind is parameter.VAR_KEYWORD:
            continue
        elif make is not None:
            arguments[parameter.name] = make(edge)
        elif needed:
            pytest.fail(
                f"{name} gives intervals, and this law does not know how to make its argument "
                f"{parameter.name!r}: add it to ARGUMENTS."
            )
    chosen = [c for c in CHOICES if c in parameters]
    chosen += ["interval"] if "interval" in fields else []
    for values in itertools.product(*(CHOICES[c] for c in chosen)):
        options = arguments | dict(zip(chosen, values, strict=True))
        if fields:
            given = {n: options.pop(n) for n in fields & options.keys() if n not in parameters}
            options["bootstrap"] = Bootstrap(**bootstrap, **given)
        yield options


@pytest.mark.parametrize("field", REFUSED)
def test_what_means_nothing_in_a_bootstrap_is_refused(field):
    other = {"clusters": np.array([0, 0, 1, 1, 1]), "interval": inference.bca}[field]
    for name in ESTIMATORS:
        if name.split(".")[-1] in REFUSED[field]:
            options = next(calls(name, EDGES["images_5"]))
            with pytest.raises(ValueError, match=f"takes no {field} in its Bootstrap"):
                ESTIMATORS[name](**options | {"bootstrap": Bootstrap(**{field: other})})


def intervals(found: Any) -> Iterator[tuple[Any, Any, Any, str | None]]:
    """(value, low, high, caution) of every estimate in a result; no caution where there is none."""
    if isinstance(found, Estimate):
        yield found.value, found.low, found.high, found.caution
    elif hasattr(found, "low"):
        value = next(getattr(found, n) for n in ("share", "correlation") if hasattr(found, n))
        yield value, found.low, found.high, None
    elif isinstance(found, Mapping):
        for part in found.values():
            yield from intervals(part)
    elif isinstance(found, (tuple, list)) or inspect.isgenerator(found):
        for part in found:
            yield from intervals(part)


def faults(value, low, high, caution: str | None, edge: Edge) -> Iterator[str]:
    """What is wrong with intervals, in words."""
    value, low, high = np.broadcast_arrays(*(np.asarray(a, float) for a in (value, low, high)))
    holds = (low <= value) & (value <= high)
    none = np.isnan(low) & np.isnan(high)
    if not np.all(holds | none):
        i = np.argmin((holds | none).ravel())
        ends = low.ravel()[i], value.ravel()[i], high.ravel()[i]
        yield "beside the value: {:.9g} <= {:.9g} <= {:.9g}".format(*ends)
    if edge.num == 1 and np.any(np.isfinite(low)):
        yield "an interval of one sample"
    if caution is None:
        return
    if np.any(none) and "no interval" not in caution and "not finite" not in caution:
        yield f"no interval and no word of it: {caution!r}"
    if np.any(low == high) and "no width" not in caution:
        yield f"no width and no word of it: {caution!r}"


def observe(name: str, edge: Edge) -> list[str]:
    """What one function makes of one edge: a word on each choice of its options."""
    said = []
    for arguments in calls(name, edge):
        read = READ.get(name.split(".")[-1], lambda found, edge: intervals(found))
        try:
            parts = list(read(ESTIMATORS[name](**arguments), edge))
        except ValueError as error:
            said.append(f"refused: {error}")
            continue
        wrong = [fault for part in parts for fault in faults(*part, edge)]
        said.append(wrong[0] if wrong else "good" if parts else "no interval found")
    return said


@pytest.mark.thorough
@pytest.mark.parametrize("name", ESTIMATORS)
def test_intervals_at_the_edge_hold_their_estimate_or_say_that_there_is_none(name):
    wrong, good = [], False
    runs_network = {"forward", "net", "task"} & set(inspect.signature(ESTIMATORS[name]).parameters)
    for label, edge in EDGES.items():
        if edge.num < 5 or edge.options:
            if edge.num > 1 and not name.startswith(OWN_INTERVALS):
                continue
        elif runs_network and label not in ("images_5", "all_equal"):
            continue
        for words in observe(name, edge):
            good |= words == "good"
            if words != "good" and not words.startswith("refused: "):
                wrong.append(f"{label}: {words}")
    assert not wrong, "\n".join([name, *wrong])
    assert good


# One by one


@pytest.mark.parametrize("num", [1, 2, 19, 20])
def test_replicates_too_few_for_the_level_give_no_interval(num):
    found = inference.bootstrap_mean(
        KEY, NUMBERS, intervention="none", bootstrap=Bootstrap(num_replicates=num)
    )
    assert np.isnan(found.low) == np.isnan(found.high) == (num < 20)
    assert ("expected 20 or more at level 0.95." in found.caution) == (num < 20)


def test_one_sample_shows_no_spread():
    found = inference.over_seeds(NUMBERS[:1], num_inputs=10, intervention="none")
    assert "The value has no interval." in found.caution
    for refused in (
        lambda: inference.resample_ratio(KEY, jnp.ones(1), jnp.ones(1), num_replicates=20),
        lambda: inference.expanded_level(0.95, 1),
        lambda: inference.variance_components(jnp.ones((1, 5)), shared_images=True),
    ):
        with pytest.raises(ValueError, match="expected.*two"):
            refused()


def test_a_caution_counts_the_intervals_without_width():
    samples = np.stack([NUMBERS, np.full(5, 0.1), np.zeros(5)])
    found = inference.bootstrap_mean(KEY, samples, intervention="none")
    np.testing.assert_array_equal(found.low == found.high, [False, True, True])
    assert "2 of 3 intervals have no width" in found.caution
    assert "width" not in inference.bootstrap_mean(KEY, NUMBERS, intervention="none").caution


def test_bias_corrected_percentiles_of_two_samples_are_the_samples():
    found = inference.bootstrap_mean(
        KEY, [0.0, 1.0], intervention="a", bootstrap=Bootstrap(interval=inference.bca)
    )
    np.testing.assert_allclose((found.low, found.high), (0, 1), atol=1e-6)


def test_the_largest_of_many_equal_effects_lies_in_its_interval():
    # Replicates are noisier than the effects, so that nearly every largest one is larger.
    effects = np.random.default_rng(0).normal(size=(1000, 50))
    found = inference.bootstrap_function(KEY, largest, effects, intervention="none")
    assert found.low == found.value < found.high


def test_what_differs_only_within_models_and_images_has_students_interval():
    # Every mean over seeds or over images is 0, and the rest is not.
    samples = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = inference.bootstrap_two_level(KEY, samples, shared_images=True, intervention="none")
    half = special.stdtrit(1, 0.975) * np.sqrt(4 / 1 / 4)
    np.testing.assert_allclose((found.low, found.high), (-half, half), rtol=1e-5)


def test_fieller_takes_no_rounding_for_a_spread():
    below = np.array([0.9, 1.0, 1.1])
    found = inference.fieller_ratio(0.1 * below, below, intervention="none")
    assert found.low == found.value == found.high


def test_sequences_claim_nothing_before_a_spread_shows():
    samples = np.append(np.zeros(40), np.ones(10))
    low, high = inference.confidence_sequence(samples)
    assert np.isinf(low[:40]).all()
    assert np.isinf(high[:40]).all()
    assert np.isfinite(low[40:]).all()


def test_a_race_keeps_a_unit_that_acts_rarely_until_it_acts():
    rng = np.random.default_rng(0)
    effects = 0.5 + rng.normal(size=(3, 64))
    effects[2] = np.where(np.arange(64) < 32, 0.0, 100.0)

    def measure(units, start, stop):
        return effects[units, start:stop]

    assert inference.race(measure, 3, 64, k=1, batch=16).kept[2]
    still = inference.race(lambda u, a, b: np.ones((len(u), b - a)), 3, 64, k=1)
    assert still.kept.all()


# Levels too rare for a resample


def rare(num: int, of: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two factors, the second of which has its other level in some rows only."""
    rows = np.arange(of)
    factors = np.stack([rows % 3, rows < num], axis=1).astype(int)
    return factors + 0.1 * np.random.default_rng(0).normal(size=(of, 2)), factors


def test_a_score_that_rests_on_one_row_has_no_interval_and_says_so():
    codes, factors = rare(1)
    found = estimate_score(KEY, lambda c, f: mig(c, f).value, codes, factors, description="MIG")
    np.testing.assert_allclose(found.value, mig(codes, factors).value)
    assert np.isnan([found.low, found.high]).all()
    assert np.isfinite(found.null)
    assert "no interval: row 0 alone has another level of factor 1" in found.caution
    assert "leave" not in found.caution


def test_a_score_that_ignores_a_rare_level_keeps_its_interval():
    codes, factors = rare(1)
    options = {"description": "mean", "num_shuffles": 0}
    found = estimate_score(KEY, lambda c, f: c.mean(), codes, factors, **options)
    plain = estimate_score(KEY, lambda c, f: c.mean(), codes, factors % 3, **options)
    assert found.low < found.value < found.high
    assert (found.low, found.method) == (plain.low, plain.method)


@pytest.mark.parametrize("refuse", ["error", "nan"])
def test_resamples_without_a_level_are_drawn_again(refuse):
    codes, factors = rare(2)
    seen = []

    def score(c, f):
        lacks = (f[:, 1] == 0).all()
        if lacks and refuse == "error":
            raise ValueError("factor 1 has one level")
        seen.append(np.nan if lacks else c[f[:, 1] == 1].mean())
        return seen[-1]

    found = estimate_score(KEY, score, codes, factors, description="", num_shuffles=0)
    drawn = np.array(seen[1:])[np.isfinite(seen[1:])]
    assert len(drawn) == 20
    half = special.stdtrit(19, 0.975) * drawn.std(ddof=1)
    np.testing.assert_allclose((found.low, found.high), (found.value - half, found.value + half))


def test_a_score_that_most_resamples_cannot_have_has_no_interval():
    codes, factors = rare(20)

    def score(c, f):
        if len(np.unique(c[:, 0])) < 60:
            raise ValueError("rows are given twice.")
        return 1.0

    found = estimate_score(KEY, score, codes, factors, description="", num_shuffles=0)
    assert found.value == 1
    assert np.isnan(found.low)
    expected = "21 of 21 resamples cannot be scored, the last because: rows are given twice."
    assert expected in found.caution


def test_a_suite_refuses_leading_rows_that_lack_a_level_in_words_true_of_the_data():
    codes, factors = rare(20)
    with pytest.raises(ValueError, match="factor 1 has one level in the first 20 rows.*row 20 on"):
        score_suite(KEY, codes, factors, ["mig"], num_train=20)
    score_suite(KEY, codes, factors, ["factor_vae"], num_train=20)  # Votes take every row.


def test_every_quick_metric_of_a_rare_level_has_an_interval_or_says_why_not():
    codes, factors = rare(1)
    names = [name for name in QUICK if not METRICS[name].draws and not METRICS[name].trains]
    for name, scores in score_suite(KEY, codes, factors, names, num_shuffles=0):
        (found,) = intervals(scores)
        assert not list(faults(*found, EDGES["images_5"])), name


def test_the_command_says_why_there_is_no_interval(tmp_path, capsys):
    codes, factors = rare(1)
    path = tmp_path / "codes.npz"
    np.savez(path, codes=codes, factors=factors)
    run_metrics_command(MetricsCommand(codes=path, metrics=("mig",), references=False))
    printed = " ".join(capsys.readouterr().out.split())
    assert "mig: no interval: row 0 alone has another level of factor 1" in printed


def test_a_circuit_is_selected_in_some_resample_or_refused():
    samples = {"a": np.ones((2, 2))}
    for options, message in ({"num_resamples": 0}, "num_resamples is 0"), ({"level": 95}, "level"):
        with pytest.raises(ValueError, match=message):
            selection_stability(KEY, samples, lambda s: select_top(s, 1), **options)
