"""Source of functions, to be counted and to be shown: read from the file, without importing it."""

import ast
import pathlib

DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def code_of(path, *names):
    """The source of a file's functions or classes, without their docstrings."""
    text = pathlib.Path(path).read_text()
    lines, parts = text.splitlines(), []
    for node in ast.parse(text).body:
        if isinstance(node, DEFINITIONS) and node.name in names:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            docstrings = {
                line
                for inner in ast.walk(node)
                if isinstance(inner, DEFINITIONS) and ast.get_docstring(inner)
                for line in _lines(inner.body[0].lineno, inner.body[0])
            }
            kept = [n for n in _lines(first, node) if n not in docstrings]
            parts.append("\n".join(lines[n - 1] for n in kept))
    return "\n\n\n".join(parts)


def num_lines(code):
    """Lines that are neither blank nor a comment."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code.split("\n"))


def _lines(first, node):
    return range(first, (node.end_lineno or node.lineno) + 1)
