"""``vaecausal circuits``: a circuit for every factor of one trained model of a study."""

import dataclasses
import functools
import html
import itertools
import json
import math
import pathlib
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from vaecausal_jax import study
from vaecausal_jax.circuits.by_factor import (
    FactorCircuit,
    FactorMap,
    circuit_overlap,
    factor_circuits,
    factor_map,
    shared_nodes,
)
from vaecausal_jax.circuits.effect_graphs import (
    EffectGraph,
    dense_adjacency,
    effect_graph,
    found_edges,
)
from vaecausal_jax.circuits.masks import num_parts
from vaecausal_jax.circuits.scorers import Arms, node_samples
from vaecausal_jax.circuits.structure import GraphStructure, graph_structure
from vaecausal_jax.circuits.tasks import Task, make_task
from vaecausal_jax.data import Dataset, Pairs, factor_names, images, minimal_levels, sample_factors
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.inference import Estimate
from vaecausal_jax.json_values import tree_digest
from vaecausal_jax.locks import run_lock
from vaecausal_jax.manifests import escaped, versions, write_text, written_whole
from vaecausal_jax.models import Model
from vaecausal_jax.processes import entered_by_first
from vaecausal_jax.study.cli.circuit_families import circuit_numbers, write_comparison
from vaecausal_jax.study.cli.progress import (
    Progress,
    counted,
    duration,
    make_console,
    show_progress,
)
from vaecausal_jax.study.cli.setting import use_machine
from vaecausal_jax.study.report.circuit_figures import (
    draw_circuit,
    draw_curves,
    draw_factor_map,
    draw_modules,
    draw_motifs,
    draw_overlap,
)
from vaecausal_jax.study.results import Roster, locate, roster
from vaecausal_jax.sweeps.grid import over_devices

PARTS = {"whole network": "", "encoder": "encoder/", "latents": "latent/", "decoder": "decoder/"}


@dataclasses.dataclass(frozen=True)
class CircuitsCommand:
    """Find the circuit of every ground-truth factor in one trained model of a study, or in all.

    Writes circuits.json (circuits, faithfulness, overlaps, modules, motifs, the map between
    factors), effect_graph.npz (all effects between units), drawings and report.html. A comparison
    of all models, interrupted and run again with the same arguments, keeps the models it has done.

    Attributes:
        study: Folder of a finished study.
        out: Folder for results.
        family: Which family, as the study names it; the first if not given.
        seed: Which of its trained models; seed 0 if not given.
        compare: All usable models of the study, each in a folder of its own, and their families
            compared: families.json, families.png and index.html. Of families with codes beside
            others, only the others.
        sites: Which sites; all but the image and the outputs if not given.
        factors: Which factors; all if not given.
        num_pairs: Minimal pairs per factor: half find the circuit, half judge it.
        num_images: Images, and donors, behind the effect graph.
        q: False discovery rate of units and edges.
        min_share: Least share of a factor's total effect for a unit to belong to its circuit.
        min_effect: Least signed effect, in standard deviations, for an edge to be found.
        data: As for the study.
        compilation_cache: As for the study.
        no_compilation_cache: As for the study.
    """

    study: pathlib.Path
    out: pathlib.Path = pathlib.Path("runs/circuits")
    family: str | None = None
    seed: int | None = None
    compare: bool = False
    sites: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    num_pairs: int = 64
    num_images: int = 64
    q: float = 0.05
    min_share: float = 0.01
    min_effect: float = 0.01
    data: pathlib.Path | None = None
    compilation_cache: pathlib.Path | None = None
    no_compilation_cache: tyro.conf.FlagCreatePairsOff[bool] = False


def run_circuits_command(command: CircuitsCommand) -> None:
    """Runs ``vaecausal circuits``."""
    if command.compare and (command.family is not None or command.seed is not None):
        raise ValueError("--compare takes all models: leave out --family and --seed.")
    use_machine(command.compilation_cache, afresh=command.no_compilation_cache)
    start, console = time.perf_counter(), make_console(sys.stdout)
    with show_progress(console) as report, entered_by_first(run_lock(command.out)):
        _run_circuits(command, console.print, report)
    page = command.out / ("index.html" if command.compare else "report.html")
    console.print(f"{page} written, {duration(time.perf_counter() - start)} in all.")


def _run_circuits(command: CircuitsCommand, say: Callable[[str], None], report: Progress) -> None:
    data_path = None if command.data is None else str(command.data)
    config, data, stacks = study.load_study(command.study, data_path=data_path)
    # Families are compared within one architecture, whose sites are the same.
    chosen = _chosen(command, roster(stacks[:1] if command.compare else stacks))
    trained, _ = locate(stacks, chosen[0])
    models = {}
    for family, seed in chosen:
        number = trained.labels.index((family, seed))
        params = jax.tree.map(lambda leaf, i=number: leaf[i], trained.params)
        setting = {"family": family, "seed": seed, "study": study.as_json(config)}
        out = command.out / family / f"seed{seed}" if command.compare else command.out
        found = _finished(out, _inputs(command, params, setting)) if command.compare else None
        models[family, seed] = (params, setting, out, found)
    names, nodes = _asked(command, trained.model, data)
    missing = [label for label, (*_, tables) in models.items() if tables is None]
    say(_opening(command, list(models), len(missing), trained.model, names, nodes))
    total = len(missing) * (len(names) + 3)  # with the effect graph, its structure and the drawings
    counter, numbers = itertools.count(), {}

    def begin(model: str, piece: str) -> None:
        report(f"find circuits: {model}, {piece}", next(counter), total)

    for (family, seed), (params, setting, out, tables) in models.items():
        if tables is None:
            progress = functools.partial(begin, f"{family} seed {seed}")
            tables = write_circuits(
                command, out, trained.model, params, data, setting, progress=progress
            )
        numbers[family, seed] = circuit_numbers(tables)
    if command.compare:
        write_comparison(command.out, numbers)
    report("find circuits", total, total)


def _chosen(command: CircuitsCommand, trained: Roster) -> list[tuple[str, int]]:
    """The models that are asked for."""
    if command.compare:
        labels = zip(trained.labels, trained.verdicts, strict=True)
        if usable := [label for label, verdict in labels if verdict == "ok"]:
            return usable
        raise ValueError(f"no model of {command.study} is usable: {set(trained.verdicts)}.")
    label = (command.family or trained.families[0], command.seed or 0)
    if label not in trained.labels:
        valid = [f"--family {family} --seed {seed}" for family, seed in trained.labels]
        given = f"--family {label[0]} --seed {label[1]}"
        raise ValueError(unknown_choice("model", given, valid))
    return [label]


def _asked(
    command: CircuitsCommand, model: Model, data: Dataset
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the factors and of the sites that are asked for."""
    for name in command.factors:
        if name not in factor_names(data):
            raise ValueError(unknown_choice("factor", name, factor_names(data)))
    between = list(model.sites)[1:-1]
    nodes = tuple(name for name in between if model.sites[name].num_units)
    return command.factors or factor_names(data), command.sites or nodes


def _opening(
    command: CircuitsCommand,
    labels: list[tuple[str, int]],
    num_missing: int,
    model: Model,
    names: tuple[str, ...],
    nodes: tuple[str, ...],
) -> str:
    """What is found, among what, and where it goes."""
    units = sum(model.sites[name].num_units for name in nodes)
    which = (
        counted(len(labels), "model") if command.compare else f"{labels[0][0]}, seed {labels[0][1]}"
    )
    words = [
        f"Circuits of {counted(len(names), 'factor')} ({', '.join(names)}) are sought in {which} "
        f"of {command.study}, among {units} units of {len(nodes)} sites, with {command.num_pairs} "
        f"minimal pairs per factor. Results go to {command.out}."
    ]
    if command.compare:
        words.append("If it is interrupted, the same command goes on with the next model.")
    if num_missing < len(labels):
        kept = len(labels) - num_missing
        words.append(f"{kept} of them {'is' if kept == 1 else 'are'} done already.")
    return " ".join(words)


def write_circuits(
    command: CircuitsCommand,
    out: pathlib.Path,
    model: Model,
    params: Any,
    data: Dataset,
    setting: dict[str, Any],
    *,
    progress: Callable[[str], None] = lambda piece: None,
) -> dict[str, Any]:
    """Finds the circuits of one model and writes tables, drawings and the page.

    Args:
        command: The options.
        out: Folder for results.
        model: The model.
        params: Its parameters.
        data: What renders minimal pairs.
        setting: What else determines the numbers, kept with them.
        progress: Called with the name of each piece of the work as it begins: one per factor, and
            three more.

    Returns:
        The tables, as in circuits.json.
    """
    names, nodes = _asked(command, model, data)
    net = model.bind(params)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(command.seed or 0), 3), 7)
    pairs = _factor_pairs(keys[0], model, data, names, command.num_pairs)
    remaining = iter(names)

    def samples(task: Task) -> Arms:
        progress(f"circuit of {next(remaining)}")
        return node_samples(task)

    found = factor_circuits(
        keys[1],
        net,
        pairs,
        nodes=nodes,
        samples_fn=samples,
        q=command.q,
        min_share=command.min_share,
    )
    progress("effect graph")
    render = jax.jit(images)
    x, donor = (
        render(data, sample_factors(key, data, command.num_images))
        for key in jax.random.split(keys[2])
    )
    eps = jax.random.normal(keys[3], (command.num_images, *model.noise_shape))
    graph = effect_graph(
        keys[4],
        make_task(net, Pairs(donor, x, eps), nodes=nodes),
        factors=pairs,
        min_effect=command.min_effect,
        sweep=over_devices(),
    )
    progress("modules and motifs")
    circuits = {name: f.circuit for name, f in found.items()}
    overlaps = {
        title: circuit_overlap(circuits, part=part)
        for title, part in PARTS.items()
        if any(site.startswith(part) for site in nodes)
    }
    # Without two circuits there is nothing to map; an untrained model has none.
    parts = {name: num_parts(circuit) for name, circuit in circuits.items()}
    mapped = factor_map(keys[5], graph, circuits) if sum(map(bool, parts.values())) > 1 else None
    edges = sum(int(mask.sum()) for mask in found_edges(graph, q=command.q).values())
    structure = None
    if edges:
        scores = {name: f.scores for name, f in found.items()}
        structure = graph_structure(keys[6], graph, circuits, scores, q=command.q)
    progress("tables and drawings")
    tables = _tables(found, graph, overlaps, mapped, structure, command.q)
    inputs = _inputs(command, params, setting)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").unlink(missing_ok=True)  # Written last, it says that all is there.
    write_text(out / "circuits.json", json.dumps({"inputs": inputs, **tables}, indent=1))
    _write_graph(out / "effect_graph.npz", graph)
    figures = _figures(found, graph, overlaps, mapped, structure, command.q)
    for name, figure in figures.items():
        with written_whole(out / f"{escaped(name)}.png") as file:
            figure.savefig(file, format="png", dpi=130)
    write_text(out / "report.html", _page(tables, list(figures), setting))
    return tables


def _inputs(command: CircuitsCommand, params: Any, setting: dict[str, Any]) -> dict[str, Any]:
    """What determines the numbers, as JSON values."""
    asked = {
        key: getattr(command, key)
        for key in ("num_pairs", "num_images", "q", "min_share", "min_effect", "sites", "factors")
    }
    about = {**setting, **asked, "params": tree_digest(params), "versions": versions()}
    return json.loads(json.dumps(about))


def _finished(out: pathlib.Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The tables of an earlier call, if it finished and was asked the same."""
    if not all((out / name).is_file() for name in ("report.html", "circuits.json")):
        return None
    tables = json.loads((out / "circuits.json").read_text())
    return tables if tables.get("inputs") == inputs else None


def _factor_pairs(
    key: jax.Array, model: Model, data: Dataset, names: tuple[str, ...], num: int
) -> dict[str, Pairs]:
    pairs, render = {}, jax.jit(images)
    for number, name in enumerate(names):
        pair_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
        source, target = minimal_levels(pair_key, data, name, num)
        step = jnp.sum(target - source, axis=1)
        eps = jax.random.normal(noise_key, (num, *model.noise_shape))
        before, after = render(data, source), render(data, target)
        pairs[name] = Pairs(before, after, eps, source, target, step)
    return pairs


def _figures(
    found: dict[str, FactorCircuit],
    graph: EffectGraph,
    overlaps: dict[str, np.ndarray],
    mapped: FactorMap | None,
    structure: GraphStructure | None,
    q: float,
) -> dict[str, Figure]:
    figures = {
        f"circuit_{name}": draw_circuit(
            graph, f.circuit, title=f"Circuit of {name}", q=q, scores=f.scores, factor=name
        )
        for name, f in found.items()
    }
    figures["faithfulness"] = draw_curves({name: f.curve for name, f in found.items()})
    figures["overlap"] = draw_overlap(overlaps, list(found))
    if mapped is not None:
        figures["factor_map"] = draw_factor_map(mapped, q=q)
    if structure is not None:
        figures["modules"] = draw_modules(structure, list(found))
        figures["motifs"] = draw_motifs(structure.motifs)
    return figures


def _tables(
    found: dict[str, FactorCircuit],
    graph: EffectGraph,
    overlaps: dict[str, np.ndarray],
    mapped: FactorMap | None,
    structure: GraphStructure | None,
    q: float,
) -> dict[str, Any]:
    """Everything the page says, as JSON values."""
    factors = {}
    for name, f in found.items():
        values = [float(e.value[0]) for e in f.faithfulness.values()]
        factors[name] = {
            "units": {site: np.flatnonzero(mask).tolist() for site, mask in f.circuit.items()},
            "num_units": num_parts(f.circuit),
            "num_undecided": num_parts(f.undecided),
            "num_candidates": sum(mask.size for mask in f.circuit.values()),
            "faithfulness": {name: _estimate(e, 0) for name, e in f.faithfulness.items()},
            "faithfulness_range": [
                _number(v) for v in (min(values), float(np.median(values)), max(values))
            ],
            "cpr": _number(f.curve.cpr),
            "cmd": _number(f.curve.cmd),
            "log_cpr": _number(f.curve.log_cpr),
            "log_cmd": _number(f.curve.log_cmd),
            "smallest_faithful": _number(f.curve.smallest),
            "curve": [
                {"units": int(size), **_estimate(f.curve.faithfulness, i)}
                for i, size in enumerate(f.curve.sizes)
            ],
        }
    shared = shared_nodes({name: f.circuit for name, f in found.items()})
    return {
        "factors": factors,
        "overlap": {part: [[_number(v) for v in row] for row in t] for part, t in overlaps.items()},
        "factors_per_unit": {site: counts.tolist() for site, counts in shared.items()},
        "factor_map": None
        if mapped is None
        else {
            word: [[_number(v) for v in row] for row in getattr(mapped, word)]
            for word in ("share", "null", "p_value")
        },
        "structure": None if structure is None else _structure(structure),
        "edges": {
            f"{source} -> {target}": {"found": int(mask.sum()), "of": mask.size}
            for (source, target), mask in found_edges(graph, q=q).items()
        },
    }


def _structure(structure: GraphStructure) -> dict[str, Any]:
    partitions = {"by_factor": structure.by_factor}
    if structure.optimised is not None:
        partitions["optimised"] = structure.optimised
    return {
        "nodes": [f"{site}:{unit}" for site, unit in structure.nodes],
        "modularity": {
            name: {
                **{
                    word: _number(getattr(test, word))
                    for word in ("value", "excess", "null_mean", "null_sd", "z", "p_value")
                },
                "labels": test.labels.tolist(),
            }
            for name, test in partitions.items()
        },
        "motifs": {
            name: {
                **{
                    word: _number(getattr(motif, word))
                    for word in ("count", "null_mean", "null_sd", "z", "p_value")
                },
                "note": motif.note,
            }
            for name, motif in structure.motifs.items()
        },
    }


def _write_graph(path: pathlib.Path, graph: EffectGraph) -> None:
    size, labels = dense_adjacency(graph)
    signed, _ = dense_adjacency(graph, signed=True)
    with written_whole(path) as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            size=size.astype(np.float32),
            signed=signed.astype(np.float32),
            layer=np.array([layer for layer, _ in labels]),
            name=np.array([name for _, name in labels]),
        )


def _page(tables: dict[str, Any], figures: list[str], setting: dict[str, Any]) -> str:
    """A page of its own: one table and the drawings."""
    rows = [
        "<tr><th>factor</th><th>units</th><th>undecided</th>"
        "<th>faithfulness, least to largest over ablations</th>"
        "<th>CPR</th><th>CMD</th><th>units to 0.9</th></tr>"
    ]
    for name, f in tables["factors"].items():
        span = ", ".join(_text(v) for v in f["faithfulness_range"])
        cells = (
            html.escape(name),
            f"{f['num_units']} of {f['num_candidates']}",
            str(f["num_undecided"]),
            span,
            _text(f["cpr"]),
            _text(f["cmd"]),
            _text(f["smallest_faithful"], "g"),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    pictures = "\n".join(
        f'<p><img src="{urllib.parse.quote(escaped(n))}.png" alt="{html.escape(n)}" '
        'style="width:100%"></p>'
        for n in figures
    )
    title = html.escape(f"Circuits: {setting['family']}, seed {setting['seed']}")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 15px/1.45 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }}
td, th {{ padding: .25em .8em; text-align: left; border-bottom: 1px solid #ddd }}</style>
<h1>{title}</h1>
<p>A unit belongs to a factor's circuit if, patched between images that differ in this factor alone,
it carries more than the least share of the output's change, either way. A unit is undecided if the
pairs were too few to show that it carries less. Circuits were found on one half of the pairs;
faithfulness, on the other half, is the share of the change that is left when
every other unit is held at a reference run, another image's, the mean, or zero (minimum, median,
maximum). One trained model: nothing here is about its family.</p>
<table>{"".join(rows)}</table>
{pictures}
</html>
"""


def _estimate(estimate: Estimate, index: int) -> dict[str, float | None]:
    ends = zip(("value", "low", "high"), estimate[index].ends, strict=True)
    return {word: _number(end) for word, end in ends}


def _number(value: Any) -> float | None:
    """A JSON number; null where it is not finite, which JSON cannot say."""
    return float(value) if math.isfinite(value) else None


def _text(value: float | None, form: str = ".2f") -> str:
    return "undefined" if value is None else format(value, form)
