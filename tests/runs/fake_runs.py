"""A test double for training runs: naps, notes its starts, and misbehaves on request."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cotbal.runs import processes
from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.pool import run_plan
from cotbal.runs.store import Record, RunSpec, Store, locked

FUNCTION = "tests.runs.fake_runs:run"


def run(settings: dict[str, Any], folder: Path, report: Callable[[int], None]) -> dict[str, Any]:
    """Takes `steps` naps of `nap` seconds; leaves `value` in a file and returns what the needed runs left.

    Every start is a line "name pid" of the file `journal`. `kills`: so many first starts kill their process.
    `leaves`: a command is left running; `forks`: a fork; `goes_on`: a thread, which reports steps. `disk`:
    from then on the process cannot write files of more bytes.
    """
    name, journal = settings["name"], Path(settings["journal"])
    with journal.open("a") as lines:
        lines.write(f"{name} {os.getpid()}\n")
    print(f"this is {name}", flush=True)
    if settings.get("leaves"):
        processes.start("sleep 60", folder, {})
    if settings.get("forks") and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    if settings.get("goes_on"):
        threading.Thread(
            target=lambda: [time.sleep(0.01) or report(1) for _ in range(6000)], daemon=True
        ).start()
    if len(starts(journal, name)) <= settings.get("kills", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if "disk" in settings:
        resource.setrlimit(resource.RLIMIT_FSIZE, (settings["disk"], settings["disk"]))
    if "raises" in settings:
        raise RuntimeError(settings["raises"])
    if settings.get("exits"):
        sys.exit(3)
    for step in range(settings.get("steps", 1)):
        time.sleep(settings.get("nap", 0.0))
        report(step + 1)
    (folder / "left.txt").write_text(settings.get("value", name))
    left = {need: (Path(path) / "left.txt").read_text() for need, path in settings["needs"].items()}
    process = {"threads": os.environ["OMP_NUM_THREADS"], "own_session": os.getsid(0) == os.getpid()}
    return {"value": settings.get("value", name), "left": left, **process}


def spec(name: str, journal: Path, needs: tuple[str, ...] = (), **settings: Any) -> RunSpec:
    """A run of the double."""
    content = {"name": name, "journal": str(journal), **settings}
    return RunSpec(name, FUNCTION, content, settings.get("steps", 1), needs)


def small_plan(journal: Path, nap: float = 0.0) -> Plan:
    """A base, three probes, a final run built from their values, and two runs beside them."""

    def final(results: Mapping[str, Mapping[str, Any]]) -> RunSpec:
        value = "+".join(results[f"s/probe{i}"]["value"] for i in range(3))
        return spec("s/final", journal, ("s/base",), steps=9, nap=nap, value=value)

    probes = [spec(f"s/probe{i}", journal, ("s/base",), steps=4 + i, nap=nap) for i in range(3)]
    return Plan(
        [
            spec("s/base", journal, steps=3, nap=nap),
            *probes,
            LateSpec("s/final", 9, ("s/base", *(probe.name for probe in probes)), final),
            spec("s/beside", journal, ("s/base",), steps=9, nap=nap),
            spec("s/short", journal, ("s/base",), steps=1, nap=nap),
        ]
    )


def starts(journal: Path, name: str | None = None) -> list[tuple[str, int]]:
    """Names and process ids of the starts, in order."""
    lines = [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
    return [(who, int(pid)) for who, pid in lines if name in (None, who)]


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Notes:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.waits = 0

    def opened(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        self.told.append(("opened", f"{len(finished)}/{len(plan)} on {workers}"))

    def started(self, name: str) -> None:
        self.told.append(("started", name))

    def advanced(self, name: str, steps: int) -> None:
        self.told.append(("advanced", name))

    def finished(self, name: str, record: Record) -> None:
        self.told.append(("finished", name))

    def lost(self, name: str, reason: str) -> None:
        self.told.append(("lost", f"{name}: {reason}"))

    def failed(self, name: str, reason: str) -> None:
        self.told.append(("failed", f"{name}: {reason}"))

    def queued(self, name: str, job: str) -> None:
        self.told.append(("queued", f"{name}: {job}"))

    def noted(self, text: str) -> None:
        self.told.append(("noted", text))

    def waited(self) -> None:
        self.waits += 1

    def about(self, event: str) -> list[str]:
        return [text for kind, text in self.told if kind == event]


def main(out: str, nap: str) -> None:
    """Works on the small plan, as a driver process of its own."""
    folder = Path(out)
    with locked(folder):
        run_plan(small_plan(folder / "journal.txt", float(nap)), Store(folder), Notes(), 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
