"""Prints the core dependencies at the oldest versions that pyproject.toml allows, for pip."""

import pathlib
import tomllib

text = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text()
print(*(line.replace(">=", "==") for line in tomllib.loads(text)["project"]["dependencies"]))
