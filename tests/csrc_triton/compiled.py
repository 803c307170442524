"""What a script of this folder says of kernels that it compiled for GPUs that are not there."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# The long matrix has the others too.
TARGETS = pytest.mark.parametrize(
    "targets",
    [("sm_90", "gfx942"), pytest.param(("sm_80", "sm_90", "sm_100", "gfx942"), marks=pytest.mark.full)],
    ids=len,
)


def for_targets(targets: Sequence[str]) -> list[str]:
    """The arguments that name them."""
    return [f"--target={target}" for target in targets]


def compiled(script: str, cache: Path, *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines of a script, in a process of its own: to the interpreter a kernel is no kernel.

    Args:
        script: its name.
        cache: an empty folder, so that nothing compiled before is shown.
        arguments: of the script.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.csrc_triton.{script}", *arguments],
        env=environment | {"TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_read_before_written(line: dict[str, Any]) -> None:
    """Of a row that may be written over itself; the same code without its barriers is told from it."""
    assert line["unordered_stores"] == 0, line
    assert line["stores_behind_barriers"] >= 3, line
