"""Runs a study from nothing to its tables; stops and resumes."""

import concurrent.futures
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from vaecausal_jax import zoo
from vaecausal_jax.data import Dataset, num_images
from vaecausal_jax.jax_versions import platform
from vaecausal_jax.json_values import read_object
from vaecausal_jax.locks import run_lock
from vaecausal_jax.models import Model, pretrained
from vaecausal_jax.processes import entered_by_first, from_first, to_host
from vaecausal_jax.study import report, store
from vaecausal_jax.study.circuits import circuit_arrays, circuit_values, has_circuits, untrained
from vaecausal_jax.study.compilation import compile_for_few_runs
from vaecausal_jax.study.config import (
    Family,
    StudyConfig,
    architectures,
    as_json,
    check_config,
    dataset,
    family_title,
    from_json,
    train_config,
    zoo_recipe,
)
from vaecausal_jax.study.effect_tables import effect_tables
from vaecausal_jax.study.estimates import Arrays, estimate_all
from vaecausal_jax.study.factors import factor_effects, make_readout, readout_quality
from vaecausal_jax.study.inputs import Inputs, entropy_floor, make_inputs
from vaecausal_jax.study.measure import measurements
from vaecausal_jax.study.measure_codes import has_codes
from vaecausal_jax.study.results import Results, Trained
from vaecausal_jax.study.scores import score_models
from vaecausal_jax.study.tables import summarise
from vaecausal_jax.training.checkpoint import latest_step, train_resumably
from vaecausal_jax.training.seeds import fastest_over_seeds
from vaecausal_jax.training.trainer import diagnose

Progress = Callable[[str, int, int], None]

SAVE_IMAGES = 500_000
"""Images between checkpoints on a CPU, at most if there is a choice: some minutes of training."""


class Plan(NamedTuple):
    """A study that is about to run, and what its folder holds already.

    Attributes:
        config: What is asked.
        folder: Where everything goes.
        data_path: The published file or folder of its data, or None.
        data: The images.
        architectures: Each architecture with the families that share it.
        parts: The finished measurements.
        steps: Family to the training steps that are done; empty for pretrained models.
        num_measured: How many measurements are finished.
        num_measurements: How many there are.
    """

    config: StudyConfig
    folder: pathlib.Path
    data_path: str | None
    data: Dataset
    architectures: dict[Model, list[Family]]
    parts: store.Parts
    steps: dict[str, int]
    num_measured: int
    num_measurements: int


class Study(NamedTuple):
    """A finished study.

    Attributes:
        config: What was asked.
        summary: Every table; estimates as ``Estimate``.
        effects: All estimates as one labelled data set, as in ``effects.zarr``.
        trained: The models, in a stack for each architecture.
    """

    config: StudyConfig
    summary: dict[str, Any]
    effects: xr.Dataset
    trained: list[Trained]


def run_study(
    config: StudyConfig,
    folder: str | os.PathLike,
    *,
    data_path: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Study:
    """Trains what is not trained, measures what is not measured, and writes the tables.

    Of several processes the first one writes; all must call it together.

    Args:
        config: A preset, or your own.
        folder: Where everything goes: ``checkpoints/``, ``parts/``, ``summary.json``,
            ``effects.zarr``, ``figures/``, ``report.html``. A folder of another config is refused.
        data_path: The dSprites archive, or the folder of pretrained weights.
        progress: Called as (what, done, total) while work goes on. What precedes the colon of
            ``what`` is the stage, what follows it a detail.

    Raises:
        ValueError: A config that cannot run, before anything starts; a folder of another study.
    """
    return run_plan(plan_study(config, folder, data_path=data_path), progress=progress)


def plan_study(
    config: StudyConfig, folder: str | os.PathLike, *, data_path: str | None = None
) -> Plan:
    """Checks a study, opens its data and its folder, and sees what is there; runs nothing.

    See ``run_study``, which runs the plan at once.
    """
    check_config(config, data_path)
    folder = pathlib.Path(folder)
    data = dataset(config, data_path)
    spec = {
        "config": _measured(config),
        "data": str(pathlib.Path(data_path).resolve()) if data_path else "",
    }
    if config.models == "zoo":
        spec["weights"] = _digests_of_zoo(config)
    with entered_by_first(run_lock(folder)):
        parts = store.Parts(folder, spec)
    found = architectures(config, data)
    titles = [family_title(f) for f in config.families] if config.trains else []
    return Plan(
        config,
        folder,
        data_path,
        data,
        found,
        parts,
        {title: steps_done(store.checkpoint_folder(folder, title)) for title in titles},
        from_first(
            lambda: sum(
                not path.stem.endswith(("scores", "circuits"))
                for path in (folder / "parts").glob("*.npz")
            )
        ),
        sum(len(measurements(config, model)) for model in found),
    )


def _digests_of_zoo(config: StudyConfig) -> dict[str, str]:
    """The digest of each family's archive, as shipped: other weights are another study."""
    found = zoo.entries()
    return {f.name: found[config.data, f.name].record["sha256"] for f in config.families}


def _measured(config: StudyConfig) -> dict[str, Any]:
    """What determines a study's measurements: all but what is done with them afterwards."""
    values = as_json(config)
    for name in ("num_replicates", "num_factor_replicates"):
        values.pop(name, None)
    return values


def run_plan(plan: Plan, *, progress: Progress = lambda what, done, total: None) -> Study:
    """Does what a study has still to do; see ``run_study``."""
    with entered_by_first(run_lock(plan.folder)):
        return _run_plan(plan, progress)


def _run_plan(plan: Plan, progress: Progress) -> Study:
    config, folder, data = plan.config, plan.folder, plan.data
    stacks = train_all(config, data, plan.data_path, folder, progress)
    readout = make_readout(config, data, progress)
    results: list[Results] = []
    pictures: dict[str, Any] = {"histories": {}, "record_every": _record_every(config)}
    for trained in stacks:
        inputs = make_inputs(config, data, trained.model, readout)
        results.append(study_stack(config, data, trained, inputs, plan.parts, progress))
        pictures["histories"] |= trained.histories
        pictures.setdefault("originals", np.asarray(inputs.x[:8]))
        pictures.setdefault("entropy_floor", float(entropy_floor(inputs.x)))
    progress("write tables and report", 0, 1)
    pictures["reconstructions"] = np.concatenate(
        [r.arrays["health"]["reconstructed"] for r in results]
    )
    if "traversal" in results[0].arrays:  # Of models with Gaussian latents, which come first.
        pictures["traversals"] = results[0].arrays["traversal"]["images"]
    summary, tables = summarise(config, data, results), effect_tables(config, data, results)

    def write() -> None:
        store.write_json(folder, "summary.json", summary)
        store.write_effects(folder, tables)
        report.write_report(folder, store.read_json(folder, "summary.json"), tables, pictures)

    from_first(write)
    progress("write tables and report", 1, 1)
    return Study(config, summary, tables, stacks)


def _record_every(config: StudyConfig) -> int:
    """Gradient steps from one record of the training to the next."""
    if config.models == "zoo":
        return zoo_recipe(config, config.families[0]).record_every
    return config.record_every


def study_stack(
    config: StudyConfig,
    data: Dataset,
    trained: Trained,
    inputs: Inputs,
    parts: store.Parts,
    progress: Progress,
) -> Results:
    """Measures, scores and estimates the models of one architecture."""
    params = _with_untrained(config, trained)
    measured = measure_all(config, trained, params, inputs, parts, progress)
    found = find_circuits(config, trained, params, inputs, measured, parts, progress)
    num = len(trained.labels)
    arrays = {name: {k: a[:num] for k, a in part.items()} for name, part in measured.items()}
    arrays["scores"] = score_all(config, trained.model, inputs, arrays["codes"], parts, progress)
    estimates = estimate_all(config, data, arrays)
    quality = readout_quality(inputs, arrays["codes"], inputs.readout)
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        readable = quality.readable(trained.labels, trained.verdicts)
        effects_of = functools.partial(factor_effects, config, data, arrays, readable)
        factors = list(pool.map(effects_of, range(len(trained.labels))))
    if found:
        own = {name: values[:num] for name, values in circuit_values(found).items()}
        estimates = estimates._replace(models={**estimates.models, **own})
    return Results(trained, arrays, estimates, quality, factors, found)


def _with_untrained(config: StudyConfig, trained: Trained) -> Any:
    """Parameters of the models and, behind them, of the untrained networks beside them."""
    if not (has_circuits(config) and config.num_untrained):
        return trained.params
    return jax.tree.map(
        lambda own, other: jnp.concatenate([own, other.astype(own.dtype)]),
        trained.params,
        untrained(config, trained.model),
    )


def load_study(
    folder: str | os.PathLike, *, data_path: str | None = None
) -> tuple[StudyConfig, Dataset, list[Trained]]:
    """The config, data and trained models of a finished study, to go on with.

    Models come in a stack for each architecture; ``results.locate`` finds one.

    Replicates of intervals are those of a new config: no model or measurement depends on them.

    Raises:
        ValueError: A folder without a study, or whose training has not finished.
    """
    folder = pathlib.Path(folder)
    spec = folder / "parts" / "spec.json"

    def read_config() -> dict[str, Any]:
        if not spec.is_file():
            raise ValueError(
                f"{folder} holds no study; `vaecausal study --out {folder}` makes one."
            )
        return read_object(spec, f"Delete {spec.parent}.")

    saved = from_first(read_config)
    config = from_json(saved["config"])
    check_config(config, data_path)
    if config.models == "zoo" and saved.get("weights") != _digests_of_zoo(config):
        raise ValueError(
            f"{folder} was made with other weights than those that ship now; run the `vaecausal "
            "study` command again with another folder."
        )
    for family in config.families if config.trains else ():
        step = steps_done(store.checkpoint_folder(folder, family_title(family)))
        if step != config.num_steps // config.record_every * config.record_every:
            raise ValueError(
                f"{family_title(family)} in {folder} is at step {step} of {config.num_steps}; "
                "run the `vaecausal study` command that began it again to finish it."
            )
    data = dataset(config, data_path)
    return config, data, train_all(config, data, data_path, folder, lambda *_: None)


def train_all(
    config: StudyConfig,
    data: Dataset,
    data_path: str | None,
    folder: pathlib.Path,
    progress: Progress,
) -> list[Trained]:
    """Trains every family over its seeds, or loads weights that were trained before.

    Returns:
        A stack for each architecture.
    """
    stacks = []
    for model, families in architectures(config, data).items():
        if config.data == "pretrained":
            stacks.append(_pretrained(model, families, str(data_path)))
        elif config.models == "zoo":
            stacks.append(_from_zoo(config, model, families))
        else:
            stacks.append(_train(config, data, model, families, folder, progress))
    return stacks


def _pretrained(model: Model, families: list[Family], data_path: str) -> Trained:
    names = [family.name for family in families]
    params = [pretrained.load_dsprites_vae(data_path, name) for name in names]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return Trained(model, stacked, [(n, 0) for n in names], ["ok"] * len(names), {})


def _train(
    config: StudyConfig,
    data: Dataset,
    model: Model,
    families: list[Family],
    folder: pathlib.Path,
    progress: Progress,
) -> Trained:
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    params, labels, verdicts, histories = [], [], [], {}
    for family in families:
        title = family_title(family)
        spec = {**_measured(config), "families": dataclasses.asdict(family)}
        for irrelevant in (
            "name",
            "num_images",
            "num_unit_images",
            "num_pairs",
            "num_score_images",
            "doses",
            "mediation_outcome",
        ):
            del spec[irrelevant]
        for irrelevant in ("num_shuffles", "num_untrained", "num_swap_pairs"):  # Only if set.
            spec.pop(irrelevant, None)
        checkpoints = store.checkpoint_folder(folder, title)
        state, history = train_resumably(
            train_config(config, family, num_images(data), model),
            keys,
            data,
            checkpoints,
            spec=spec,
            records_per_save=records_per_save(config, steps_done(checkpoints)),
            watch=functools.partial(_report_training, config, progress, f"train {title}"),
        )
        params.append(state.params)
        labels += [(title, seed) for seed in range(config.num_seeds)]
        verdicts += diagnose(history, config.record_every)
        histories[title] = history
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *params)
    return Trained(model, stacked, labels, verdicts, histories)


def _from_zoo(config: StudyConfig, model: Model, families: list[Family]) -> Trained:
    """The first seeds of every family in the zoo, with their record of training."""
    params, labels, verdicts, histories = [], [], [], {}
    for family in families:
        title, where = family_title(family), (config.data, family.name)
        params.append(zoo.load(*where).params)
        labels += [(title, seed) for seed in range(config.num_seeds)]
        verdicts += [seed["verdict"] for seed in zoo.entries()[where].record["seeds"]][
            : config.num_seeds
        ]
        history = zoo.training_history(*where)
        histories[title] = {name: a[: config.num_seeds] for name, a in history.items()}
    stacked = jax.tree.map(
        lambda *leaves: jnp.concatenate([leaf[: config.num_seeds] for leaf in leaves]), *params
    )
    return Trained(model, stacked, labels, verdicts, histories)


def _report_training(
    config: StudyConfig,
    progress: Progress,
    stage: str,
    done: int,
    history: Mapping[str, np.ndarray],
) -> None:
    """Reports the steps done, with the loss of the last record, its mean over seeds."""
    last = done // config.record_every - 1
    loss = f": loss {history['loss'][:, last].mean():.4g}" if done else ""
    progress(f"{stage}{loss}", done, config.num_steps)


def steps_done(checkpoints: pathlib.Path) -> int:
    """Training steps of the last checkpoint in a family's folder."""
    return from_first(lambda: latest_step(checkpoints) or 0)


def records_per_save(config: StudyConfig, steps_done: int) -> int:
    """Records of the history from one checkpoint to the next.

    Ten, but fewer on a CPU where ten take hours: what is trained since the last checkpoint is lost
    if the run is interrupted, and nothing is seen of it meanwhile. Both what is done (perhaps on
    another machine) and the whole are a multiple of them.
    """
    images = config.record_every * config.batch_size * config.num_seeds
    wanted = min(10, max(1, SAVE_IMAGES // images)) if platform() == "cpu" else 10
    records = math.gcd(config.num_steps, steps_done) // config.record_every
    return next(number for number in range(wanted, 0, -1) if records % number == 0)


def measure_all(
    config: StudyConfig,
    trained: Trained,
    params: Any,
    inputs: Inputs,
    parts: store.Parts,
    progress: Progress,
) -> dict[str, Arrays]:
    """Runs every measurement on every model, reading back what was already finished.

    Programs are compiled ahead on two threads while others run.

    Args:
        config: The study's.
        trained: The models.
        params: Theirs and those of untrained networks, whose units are patched, no more.
        inputs: What they are probed with.
        parts: What is finished, and where it is kept.
        progress: See ``run_study``.
    """
    todo, part = measurements(config, trained.model), _part_of(trained.model)
    arrays = {name: found for name in todo if (found := parts.read(part(name))) is not None}
    missing = [name for name in todo if name not in arrays]
    over_models = fastest_over_seeds()

    def probed(name: str) -> Any:
        return params if name.startswith("site/") else trained.params

    def compiled(name: str):
        return compile_for_few_runs(jax.jit(over_models(todo[name])).lower(probed(name), inputs))

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        programs = {name: pool.submit(compiled, name) for name in missing}
        try:
            for name in missing:
                progress(f"measure: {name}", len(arrays), len(todo))
                run = programs.pop(name).result()
                arrays[name] = to_host(run(probed(name), inputs))
                parts.write(part(name), arrays[name])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    progress("measure", len(todo), len(todo))
    return {name: arrays[name] for name in todo}


def find_circuits(
    config: StudyConfig,
    trained: Trained,
    params: Any,
    inputs: Inputs,
    arrays: dict[str, Arrays],
    parts: store.Parts,
    progress: Progress,
) -> Arrays:
    """The circuits of all models and untrained networks, unless that is done; {} of few pairs."""
    if not has_circuits(config):
        return {}
    part = _part_of(trained.model)("circuits")
    found = parts.read(part)
    if found is None:
        num = len(trained.labels) + config.num_untrained
        found = circuit_arrays(
            config,
            trained.model,
            params,
            inputs,
            arrays,
            lambda done: progress("find circuits", done, num),
        )
        parts.write(part, found)
        progress("find circuits", num, num)
    return found


def _part_of(model: Model) -> Callable[[str], str]:
    """Name of a measurement to the name of its part: of models with codes it is marked."""
    return (lambda name: f"vq/{name}") if has_codes(model) else (lambda name: name)


def score_all(
    config: StudyConfig,
    model: Model,
    inputs: Inputs,
    codes: Arrays,
    parts: store.Parts,
    progress: Progress,
) -> Arrays:
    """Scores every model's codes by the disentanglement metrics, unless that is done."""
    part = _part_of(model)("scores")
    scores = parts.read(part)
    if scores is None:
        scores = score_models(
            jax.random.fold_in(jax.random.key(config.seed), 6),
            codes["mean"],
            np.asarray(inputs.score_factors),
            num_shuffles=config.num_shuffles,
            progress=functools.partial(progress, "score codes"),
        )
        parts.write(part, scores)
    return scores
