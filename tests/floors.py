"""Prints the least versions that pyproject.toml promises, for pip: `make test-floors` runs tests with them.

Of the extras that need no torch. Not tokenizers: the transformers beside them needs a newer one.
"""

import re
from pathlib import Path

import tomllib

EXTRAS = ("cli", "collect", "report", "data", "estimate", "slurm")
_BOUND = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)")


def floors(extras: dict[str, list[str]]) -> dict[str, str]:
    """The least version by package."""
    found = (_BOUND.match(line) for extra in EXTRAS for line in extras[extra])
    return {bound[1]: bound[2] for bound in found if bound and bound[1] != "tokenizers"}


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    print("\n".join(f"{name}=={least}" for name, least in floors(project["optional-dependencies"]).items()))
