"""The pages of the documentation run as printed, each in a namespace of its own.

A ``text`` block that follows a ``python`` block is what that block prints. If it begins with
``ValueError: ``, the block must raise just that. Lines of a message may be broken anywhere, and
``...`` in it stands for a path.
"""

import ast
import contextlib
import io
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

PAGES = pathlib.Path(__file__).parents[1] / ".docs" / "pages"
PAGES_WITH_CODE = sorted(
    str(path.relative_to(PAGES)) for path in PAGES.rglob("*.md") if "```python" in path.read_text()
)
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)

OWN_PROCESS = {"questions/eight-devices.md"}
"""Pages that set what JAX reads only once, before its first use."""

SLOW = {"questions/dead-or-polysemantic.md", "questions/two-models.md"}
"""Pages that train for more than a few seconds."""


def blocks(page):
    """(first line, code, what is shown below it or None) of each block of a page."""
    text = (PAGES / page).read_text()
    return [(text[: m.start()].count("\n") + 2, m[1], m[2]) for m in BLOCK.finditer(text)]


def run_page(page):
    """Runs a page's blocks in order and compares what they print or raise with what it shows."""
    namespace = {"__name__": "__main__"}
    for line, code, shown in blocks(page):
        place = f"{page}, line {line}"
        # Padded so that a traceback gives the page's own line numbers.
        program = compile("\n" * (line - 1) + code, str(PAGES / page), "exec")
        printed = io.StringIO()
        if shown is not None and shown.startswith("ValueError: "):
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                exec(program, namespace)
            message = " ".join(f"ValueError: {caught.value}".split())
            expected = re.escape(" ".join(shown.split())).replace(re.escape("..."), ".*")
            assert re.fullmatch(expected, message), f"{place}: {message}"
            continue
        with contextlib.redirect_stdout(printed):
            exec(program, namespace)
        if shown is not None:
            assert printed.getvalue().rstrip() == shown.rstrip(), place


@pytest.mark.thorough
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES_WITH_CODE
        if page not in OWN_PROCESS
    ],
)
def test_every_page_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)


@pytest.mark.thorough
@pytest.mark.parametrize("page", sorted(OWN_PROCESS))
def test_pages_that_configure_devices_run_as_printed_in_a_process_of_their_own(page, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); "
    code += f"import test_docs; test_docs.run_page({page!r})"
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.thorough
def test_the_comparison_shows_the_functions_that_were_measured():
    folder = PAGES.parents[1] / "benchmarks"
    tools = runpy.run_path(str(folder / "source_code.py"))
    tree = ast.parse((folder / "comparison.py").read_text())
    sources = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SOURCES"
    )
    text = (PAGES / "comparison.md").read_text()
    shown = dict(re.findall(r"^## (\w+)\n.*?^```py\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE))
    counted = dict(re.findall(r"^\| (\w+) ?[\d.]* \| (\d+) \|", text, re.MULTILINE))
    assert sources.keys() == counted.keys()
    for library, names in sources.items():
        code = tools["code_of"](folder / "comparison.py", *names)
        assert shown[library] == code, library
        assert int(counted[library]) == tools["num_lines"](code), library
