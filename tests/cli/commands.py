"""Running the command line: in this process, and as a user does in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from cotbal.cli.main import app


def call(*arguments: object) -> Result:
    """What `cotbal ARGUMENTS` says, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_cotbal(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `cotbal ARGUMENTS` in `cwd` with a plain 100-column terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cotbal", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
