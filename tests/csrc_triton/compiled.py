"""What a script of this folder says of kernels that it compiled for GPUs that are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


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
