"""The README's examples run as printed, one after another."""

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_examples_of_the_readme_run_as_printed(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    namespace = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert "decoder/conv0" in capsys.readouterr().out
    assert (namespace["plain"].outputs != namespace["changed"].outputs).any()
    assert "decoder/conv0" in namespace["shares"].sites
    assert namespace["shares"].values.value.shape == (len(namespace["shares"]),)
    assert list(namespace["net"].sites) == ["hidden"]


def test_top_level_import_loads_no_optional_dependency():
    code = (
        "import sys, vaecausal_jax;"
        "print([m for m in ('xarray', 'zarr', 'matplotlib', 'tyro', 'orbax', 'sklearn',"
        " 'torch', 'jaxtyping') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
