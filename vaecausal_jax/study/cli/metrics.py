"""``vaecausal metrics``: disentanglement scores of codes or of models, as tables or as JSON."""

import dataclasses
import json
import pathlib
import sys
import zipfile
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from vaecausal_jax import study
from vaecausal_jax.data import dsprites_exact, num_images, sample_factors
from vaecausal_jax.data.dataset import Dataset, Drawn, factors_at
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.inference import Estimate
from vaecausal_jax.metrics.arrays import split_rows
from vaecausal_jax.metrics.chance import reference_codes
from vaecausal_jax.metrics.posteriors import Posteriors, encode, posterior_scores
from vaecausal_jax.metrics.public_scores import REFERENCE_SCORES
from vaecausal_jax.metrics.suite import METRICS, QUICK, score_suite
from vaecausal_jax.metrics.udr import udr_lasso
from vaecausal_jax.models import Model, burgess_vae
from vaecausal_jax.models.pretrained import DSPRITES_FILES, load_dsprites_vae
from vaecausal_jax.processes import is_first
from vaecausal_jax.study.cli.metric_tables import as_json, comparison_table, full_name, metric_table
from vaecausal_jax.study.cli.progress import Progress, counted, make_console, show_progress
from vaecausal_jax.study.cli.setting import use_machine
from vaecausal_jax.study.measure_codes import has_codes
from vaecausal_jax.study.results import roster
from vaecausal_jax.training.objectives import kl_per_latent

PROTOCOL = (
    "mig",
    "dci_boosted",
    "sap_discrete",
    "factor_vae",
    "beta_vae",
    "modularity",
    "explicitness",
    "irs_binned",
)
"""The field's protocol (Locatello et al. 2019, arXiv:1811.12359), by names of ``METRICS``."""

REFERENCES = ("perfect", "rotated", "noise")
"""Codes on the same factors that are scored beside the models'."""

_SAVE = "Save one with numpy.savez(path, codes=codes, factors=factors)."
_UDR_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class MetricsCommand:
    """Score codes by disentanglement metrics, each with interval, chance, floor and ceiling.

    The codes are those of a file, of the trained models of a study, or of pretrained VAEs, whose
    scores are set against those that the public implementation gives them.

    Attributes:
        codes: An npz file with two arrays: codes (rows, codes), such as posterior means, and
            factors (rows, factors), the level of each ground-truth factor.
        study: Folder of a finished study, whose models are scored on posterior means.
        pretrained: Folder of pretrained dSprites VAEs as npz: the field's full protocol.
        families: Which families of --study or --pretrained; all if not given.
        metrics: Names of metrics, or "all"; by default those that take seconds for --codes, and the
            field's protocol otherwise. Of the others dci_gbt takes minutes.
        num_images: Images that models are scored on, drawn without replacement if the whole set is
            asked for (dSprites: 737280, half an hour per model on two cores).
        num_train: Leading rows that predictors train on and that the other metrics read; the rest
            test. If not given two thirds; of 15,000 images or more 10,000, and 5,000 to test.
        replicates: Bootstrap replicates behind each interval, 0 for none; if not given 20 for
            metrics that take seconds, 0 for slow ones.
        shuffles: Shuffles behind each chance level, 0 for none; if not given 5 and 0.
        references: Score perfect, rotated and noise codes of the same factors too.
        seed: Of images, votes, resamples and shuffles.
        json: Print one JSON object instead of tables.
        data: As for the study.
        compilation_cache: As for the study.
        no_compilation_cache: As for the study.
    """

    codes: pathlib.Path | None = None
    study: pathlib.Path | None = None
    pretrained: pathlib.Path | None = None
    families: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    num_images: Annotated[int, tyro.conf.arg(name="num-images")] = 30_000
    num_train: Annotated[int | None, tyro.conf.arg(name="num-train")] = None
    replicates: int | None = None
    shuffles: int | None = None
    references: bool = True
    seed: int = 0
    json: bool = False
    data: pathlib.Path | None = None
    compilation_cache: pathlib.Path | None = None
    no_compilation_cache: tyro.conf.FlagCreatePairsOff[bool] = False


class Source(NamedTuple):
    """Codes to be scored.

    Attributes:
        name: Where they come from.
        codes: By label, (rows, codes).
        factors: (rows, factors).
        num_train: Rows that train.
        num_test: Rows that test.
        measured: By label what else is known of the model.
    """

    name: str
    codes: dict[str, np.ndarray]
    factors: np.ndarray
    num_train: int
    num_test: int
    measured: dict[str, dict[str, Estimate]]


def run_metrics_command(command: MetricsCommand) -> None:
    """Runs ``vaecausal metrics``."""
    given = [name for name in ("codes", "study", "pretrained") if getattr(command, name)]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"expected one of --codes, --study and --pretrained, got {got}.")
    names = command.metrics or (QUICK if command.codes else PROTOCOL)
    names = tuple(METRICS) if names == ("all",) else names
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown_choice("metric", name, METRICS))
    use_machine(command.compilation_cache, afresh=command.no_compilation_cache)
    # One JSON object is all that standard output then holds.
    console = make_console(sys.stderr if command.json else sys.stdout)
    with show_progress(console) as report:
        source = _read(command, names, console.print, report)
        scores, references = _score_all(command, names, source, report)
    expected = REFERENCE_SCORES if command.pretrained else {}
    if command.json:
        record = as_json(source, scores, references, expected)
        if command.codes:  # One table of codes: its numbers on top.
            (only,) = record.pop("models").values()
            record |= {"file": str(command.codes), **only}
        if is_first():
            print(json.dumps({"seed": command.seed, **record}, indent=2))
        return
    left_out = () if command.pretrained else [name for name in METRICS if name not in names]
    for label in scores:
        width = source.codes[label].shape[1]
        title = (
            f"{label}: {width} codes, {source.factors.shape[1]} factors, {source.num_train} rows "
            f"scored or trained on, {source.num_test} to test on"
        )
        console.print(metric_table(title, scores[label], references, left_out))
        for name, estimate in scores[label].items():
            if "no interval: " in estimate.method:
                console.print(f"{name}: {estimate.method}.")
    if expected:
        console.print(comparison_table(scores, references, expected))


def read_codes(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays ``codes`` and ``factors`` of an npz file.

    Raises:
        ValueError: No such file, no npz archive, an array that is missing, or one of objects.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}: expected an npz with the arrays codes and factors.")
    try:
        with path.open("rb") as file, np.load(file) as loaded:
            arrays = dict(loaded)
    except (zipfile.BadZipFile, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path} is no npz archive of numeric arrays. {_SAVE}") from error
    for name in ("codes", "factors"):
        if name not in arrays:
            present = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"{path} has no array {name!r}, only {present}. {_SAVE}")
    return arrays["codes"], arrays["factors"]


def _read(
    command: MetricsCommand, names: Sequence[str], say: Callable[[str], None], report: Progress
) -> Source:
    if command.codes:
        codes, factors = read_codes(command.codes)
        num_train = split_rows(len(codes), command.num_train)
        label = command.codes.name
        say(_opening(f"{len(codes)} codes of {command.codes}", names, command.references))
        return Source(
            str(command.codes), {label: codes}, factors, num_train, len(codes) - num_train, {}
        )
    if command.study:
        data_path = None if command.data is None else str(command.data)
        _, data, stacks = study.load_study(command.study, data_path=data_path)
        trained = next((own for own in stacks if not has_codes(own.model)), None)
        if trained is None:
            raise ValueError(
                f"no model of {command.study} has posterior means to score: all have codes."
            )
        families = _families(command, roster([trained]).families)
        rows = [i for i, (family, _) in enumerate(trained.labels) if family in families]
        labels = [f"{trained.labels[i][0]} seed {trained.labels[i][1]}" for i in rows]
        params = jax.tree.map(lambda leaf: leaf[np.array(rows)], trained.params)
        _announce(command, str(command.study), labels, names, say)
        return _encoded(command, str(command.study), labels, trained.model, params, data, report)
    labels = _families(command, DSPRITES_FILES)
    params = [load_dsprites_vae(str(command.pretrained), name) for name in labels]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    model = burgess_vae((64, 64, 1))
    name = str(command.pretrained)
    _announce(command, name, labels, names, say)
    return _encoded(command, name, labels, model, stacked, dsprites_exact(), report)


def _announce(
    command: MetricsCommand,
    name: str,
    labels: Sequence[str],
    names: Sequence[str],
    say: Callable[[str], None],
) -> None:
    if command.num_images < 3:
        raise ValueError(f"--num-images is {command.num_images}, expected 3 or more.")
    models = counted(len(labels), "model")
    what = (
        f"the codes that {models} of {name} ({', '.join(labels)}) give {command.num_images} images"
    )
    say(_opening(what, names, command.references))


def _opening(what: str, names: Sequence[str], references: bool) -> str:
    """What is scored, and by what."""
    metrics = counted(len(names), "metric")
    beside = " The same metrics then score three references." if references else ""
    return f"Scores {what} by {metrics} ({', '.join(names)}).{beside}"


def _families(command: MetricsCommand, valid: Sequence[str] | dict) -> list[str]:
    for name in command.families:
        if name not in valid:
            raise ValueError(unknown_choice("family", name, valid))
    return [name for name in valid if not command.families or name in command.families]


def _encoded(
    command: MetricsCommand,
    name: str,
    labels: list[str],
    model: Model,
    params: Any,
    data: Dataset,
    report: Progress,
) -> Source:
    """Posterior means of every model on the same images, and what their posteriors say."""
    report("encode images", 0, 1)
    image_key, score_key = jax.random.split(jax.random.key(command.seed))
    if command.num_images == num_images(data) and not isinstance(data, Drawn):
        factors = factors_at(data, jax.random.permutation(image_key, num_images(data)))
    else:
        factors = sample_factors(image_key, data, command.num_images)
    protocol = command.num_images >= 15_000 and command.num_train is None
    num_train = 10_000 if protocol else split_rows(command.num_images, command.num_train)
    num_test = 5_000 if protocol else command.num_images - num_train
    found = encode(model, params, data, factors)
    measured = {
        label: posterior_scores(score_key, Posteriors(*(a[i] for a in found)))
        for i, label in enumerate(labels)
    }
    if len(labels) > 1:
        for label, agreement in zip(labels, _udr(found), strict=True):
            measured[label]["udr_lasso"] = agreement
    codes = {label: np.asarray(found.mean[i]) for i, label in enumerate(labels)}
    report("encode images", 1, 1)
    return Source(name, codes, np.asarray(factors), num_train, num_test, measured)


def _udr(found: Posteriors) -> list[Estimate]:
    kl = jnp.mean(kl_per_latent(found.mean, found.logvar), axis=1)
    values = udr_lasso(np.asarray(found.mean[:, :_UDR_ROWS]), np.asarray(kl)).value
    rows = min(_UDR_ROWS, found.mean.shape[1])
    words = f"UDR, lasso alpha 0.1, KL above 0.01 nats, against {len(values) - 1} other models"
    nan = np.full((), np.nan)
    return [
        Estimate(v, nan, nan, float("nan"), rows, 1, 0.95, "median, no interval", words)
        for v in values
    ]


def _score_all(
    command: MetricsCommand, names: Sequence[str], source: Source, report: Progress
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """The scores of all models, and of the references if they are asked for."""
    total = len(source.codes) + len(REFERENCES) * command.references
    scores, references = {}, {}
    for done, (label, codes) in enumerate(source.codes.items()):
        progress = _of_metrics(report, label, done, total)
        measured = source.measured.get(label, {})
        scores[label] = measured | _score(command, names, codes, source, progress)
    if command.references:
        width = next(iter(source.codes.values())).shape[1]
        key = jax.random.key(command.seed)
        floors = reference_codes(key, source.factors, num_noise=width)
        for done, label in enumerate(REFERENCES, start=len(scores)):
            progress = _of_metrics(report, f"{label} codes", done, total)
            codes = floors[label]
            references[label] = _score(command, names, codes, source, progress, bare=True)
    report("score", total, total)
    return scores, references


def _of_metrics(report: Progress, label: str, done: int, total: int) -> Callable[[str], None]:
    """What is called with the name of each metric as it begins."""
    return lambda metric: report(f"score: {label}, {metric}", done, total)


def _score(
    command: MetricsCommand,
    names: Sequence[str],
    codes: np.ndarray,
    source: Source,
    progress: Callable[[str], None],
    *,
    bare: bool = False,
) -> dict[str, Estimate]:
    """Every metric of one table of codes, by full name."""
    key = jax.random.key(command.seed)
    found = {}
    for name in names:
        progress(name)
        quick = METRICS[name].quick
        replicates, shuffles = (
            (0 if bare else given if given is not None else default * quick)
            for given, default in ((command.replicates, 20), (command.shuffles, 5))
        )
        suite = score_suite(
            key,
            codes,
            source.factors,
            (name,),
            num_train=source.num_train,
            num_test=source.num_test,
            num_replicates=replicates,
            num_shuffles=shuffles,
        )
        for _, estimates in suite:
            found |= {full_name(name, label): e for label, e in estimates.items()}
    return found
