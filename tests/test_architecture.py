"""The house: every room imports only from floors below its own."""

import ast
import pathlib

import vaecausal_jax

ROOT = pathlib.Path(vaecausal_jax.__file__).parent
FLOORS = {
    "jax_versions": 0,
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
    "study": 6,
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
