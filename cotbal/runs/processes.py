"""The processes of a run, started with a mark in their environment by which what is left of them is found.

A training starts processes of its own, some in sessions of their own, and they may outlive a launcher that
was killed. All of them inherit the mark, so none stays behind to hold a GPU or to write beside its successor.
The mark is read from /proc; where there is none, nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

MARK = "COTBAL_RUN"
# Between SIGTERM and SIGKILL: enough to close files, not to save a checkpoint.
GRACE_SECONDS = 3.0
# Loading a program takes microseconds, where the machine is not busy with others.
LOAD_SECONDS = 1.0
PROC = Path("/proc")

_starting = threading.Lock()


class CommandError(Exception):
    """A run failed for a reason that its message tells in full; a traceback would add nothing."""


def start(
    command: str, folder: Path, environment: Mapping[str, str | None], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a shell command of the run in `folder`; its output goes where that of this process goes.

    Args:
        command: for /bin/sh.
        folder: the run's folder, which marks its processes.
        environment: what the command's environment has beside that of this process, None for what it has not.
        cwd: where it runs.
    """
    merged = {**os.environ, **environment, MARK: str(folder.resolve())}
    known = {name: value for name, value in merged.items() if value is not None}
    with _starting:
        return subprocess.Popen(command, shell=True, cwd=cwd, env=known, stdin=subprocess.DEVNULL)


def alive(folder: Path, *, below: bool = False) -> list[int]:
    """Process ids of what runs for the run in `folder`, or for the runs below it; this process left out."""
    mark = f"{MARK}={folder.resolve()}".encode()
    found = []
    for process in PROC.glob("[0-9]*"):
        # Another user's process, or one that has just ended.
        with contextlib.suppress(OSError):
            variables = _environment(process).split(b"\0")
            if mark in variables or (below and any(each.startswith(mark + b"/") for each in variables)):
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def _environment(process: Path) -> bytes:
    """A process's variables; for a moment a program that is just being loaded shows none."""
    deadline = time.monotonic() + LOAD_SECONDS
    while not (variables := (process / "environ").read_bytes()):
        # See proc(5): a kernel thread and what has ended have no memory.
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
        memory, end_of_variables = int(fields[20]), int(fields[48])
        if not memory or time.monotonic() > deadline:
            break
        if end_of_variables:
            return (process / "environ").read_bytes()
        time.sleep(0.001)
    return variables


def end(folder: Path, *, below: bool = False) -> None:
    """Ends every process of the run in `folder`: SIGTERM, and SIGKILL for those that do not heed it.

    Args:
        folder: the run's folder.
        below: those of every run below `folder` instead.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    number = signal.SIGTERM
    while left := alive(folder, below=below):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        time.sleep(0.05)


def end_for_good(folder: Path) -> None:
    """As `end`, and this process starts no other one any more."""
    _starting.acquire()
    end(folder)
