"""The house: every room imports only from floors below its own."""

import ast
import collections
import pathlib
import re

import vaecausal_jax

ROOT = pathlib.Path(vaecausal_jax.__file__).parent
FLOORS = {
    "jax_versions": 0,
    "compilation_cache": 1,
    "errors": 1,
    "indices": 1,
    "rows": 1,
    "json_values": 1,
    "locks": 1,
    "manifests": 1,
    "tracing": 1,
    "processes": 1,
    "inference": 1,
    "interventions": 2,
    "data": 2,
    "sweeps": 3,
    "models": 3,
    "training": 4,
    "effects": 4,
    "factors": 5,
    "circuits": 5,
    "metrics": 5,
    "zoo": 6,
    "study": 7,
}
GROUND = {room for room, floor in FLOORS.items() if floor <= 1}
"""Small files and inference, which may use one another."""


def arrows():
    """(importing module, imported room) of every import between rooms, also inside functions."""
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").parts
        if module == ("__init__",):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaecausal_jax"):
                inner = node.module.split(".")[1:]
                for target in [inner[0]] if inner else [alias.name for alias in node.names]:
                    if target != module[0]:
                        yield ".".join(module), target


def test_every_module_lies_in_a_room_of_the_house():
    names = {path.stem for path in ROOT.iterdir() if path.stem[0] != "_"}
    assert names == set(FLOORS)


def test_imports_run_downward():
    for module, target in arrows():
        room = module.split(".")[0]
        down = FLOORS[target] < FLOORS[room] or {room, target} <= GROUND
        assert down, f"{module} on floor {FLOORS[room]} imports {target} on {FLOORS[target]}"


HOUSE = pathlib.Path(__file__).parents[1]
DOCSTRING = re.compile(r'"""(?:.|\n)*?"""')
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
CALLED_BEFORE_ANYTHING = {"avoid_faulty_sums", "flags_for_small_programs"}
"""By the package as it is imported, and by the tests' own settings."""


def public_definitions():
    """(name, module's path, node) of every public function and class."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, path, node


def words(text):
    return collections.Counter(NAME.findall(text))


def test_every_public_name_is_put_to_use_by_more_than_its_tests():
    """By the library, a command, a benchmark, an experiment or a page of the documentation."""
    code = {path: DOCSTRING.sub("", path.read_text()) for path in ROOT.rglob("*.py")}
    code = {path: words(text) for path, text in code.items() if path.name != "__init__.py"}
    used = collections.Counter()
    for counted in code.values():
        used.update(counted)
    outside = [*HOUSE.glob("benchmarks/*.py"), *HOUSE.glob("experiments/**/*.py")]
    outside += [HOUSE / "README.md", *HOUSE.glob(".docs/pages/**/*.md")]
    elsewhere = words("\n".join(path.read_text() for path in outside))
    unused = []
    for name, path, node in public_definitions():
        lines = path.read_text().split("\n")[node.lineno - 1 : node.end_lineno]
        itself = words(DOCSTRING.sub("", "\n".join(lines)))[name]
        if used[name] <= itself and not elsewhere[name]:
            unused.append(f"{path.relative_to(ROOT)}: {name}")
    assert not [entry for entry in unused if entry.split(": ")[1] not in CALLED_BEFORE_ANYTHING]


MOST_PARAMETERS = 13
WIDE = 32
"""Public functions with eight parameters or more: so many there were, and no more may come."""


def test_signatures_do_not_grow():
    counts = {}
    for name, _, node in public_definitions():
        if isinstance(node, ast.FunctionDef):
            given = node.args
            own = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            counts[name] = sum(argument is not None for argument in own)
    assert max(counts.values()) <= MOST_PARAMETERS
    wide = sorted(name for name, count in counts.items() if count >= 8)
    assert len(wide) <= WIDE, wide
