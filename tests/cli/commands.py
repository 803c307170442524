"""Running the command line as a user does, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def run_cotbal(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `cotbal ARGUMENTS` in `cwd` with a plain 100-column terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cotbal.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
