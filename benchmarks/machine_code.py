"""What the compiler makes of every launch, for GPUs that are not there: instructions, registers, spills.

python -m benchmarks.machine_code [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

# Of every launch, as it runs in training; `make test` compiles the other options and dtypes.
_COMPILER = ["-m", "tests.csrc_triton.offline_compile", "--dtype", "bf16", "--options", "plain"]


def report() -> dict[str, Any]:
    """The lines of the offline compiler, one for each launch and target.

    Raises:
        RuntimeError: it failed; the end of its output is in the message.
    """
    # Interpreted kernels are no kernels to a compiler, and a cache could hold an older one.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, *_COMPILER],
            env=environment | {"TRITON_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the offline compiler failed: {done.stderr[-1000:]}")
    return {"launches": [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]}


def in_words(found: dict[str, Any]) -> str:
    """The table; a target without machine code here has the fact that it compiles."""
    launches = found["launches"]
    columns = list(dict.fromkeys(name for launch in launches for name in launch))
    rows = [columns, *([_spell(launch.get(name)) for name in columns] for launch in launches)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _spell(value: Any) -> str:
    if value is None:
        return "-"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def main() -> None:
    """Print the table, or with --json everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    wants_json = parser.parse_args().json
    found = report()
    print(json.dumps(found, indent=1) if wants_json else in_words(found))


if __name__ == "__main__":
    main()
