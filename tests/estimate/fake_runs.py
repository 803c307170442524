"""A test double for training runs: sleeps, counts, and misbehaves on request."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(settings: dict[str, Any], folder: Path, report: Callable[[int], None]) -> dict[str, Any]:
    """Takes `steps` naps of `nap` seconds; the result is `value` and what the needed runs left.

    Notes each start in the file `journal`. `kill_times`: kills its own process in so many first attempts.
    """
    name = str(settings.get("name", ""))
    journal = Path(settings["journal"]) if "journal" in settings else None
    attempts = 0
    if journal is not None:
        with journal.open("a") as lines:
            lines.write(f"{name} {os.getpid()}\n")
        attempts = sum(line.split()[0] == name for line in journal.read_text().splitlines())
    print(f"about to do {name}")
    sys.stdout.flush()
    if attempts and attempts <= settings.get("kill_times", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if "raises" in settings:
        raise RuntimeError(settings["raises"])
    if settings.get("exit"):
        sys.exit(3)
    for step in range(settings.get("steps", 1)):
        time.sleep(settings.get("nap", 0.0))
        report(step + 1)
    inherited = {need: (Path(path) / "left.txt").read_text() for need, path in settings["needs"].items()}
    (folder / "left.txt").write_text(str(settings.get("value")))
    return {"value": settings.get("value"), "inherited": inherited, "threads": os.environ["OMP_NUM_THREADS"]}
