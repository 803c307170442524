"""How far a project's runs are: `state.json`, beside the results, which alone decide what is finished."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotbal.files import write_json
from cotbal.project.outline import recorded, run_keys
from cotbal.project.slurm.queue import QueuedJob
from cotbal.runs.plan import Plan
from cotbal.runs.pool import Listener
from cotbal.runs.store import Record, Store, in_use

SCHEMA_VERSION = 1
STATE_FILE = "state.json"
# Progress alone is written at most so often, in seconds.
WRITE_EVERY = 1.0
FINISHED, RUNNING, FAILED, STOPPED, WAITING = "finished", "running", "failed", "stopped", "waiting"
# Waiting in the queue of a cluster.
QUEUED = "queued"


class StateFile:
    """A listener that keeps the state of each run on disk, and tells another listener everything.

    Args:
        out: the output folder.
        other: is told all that this one is told.
    """

    def __init__(self, out: Path, other: Listener) -> None:
        self._path, self._other = out / STATE_FILE, other
        self._runs: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._written = 0.0

    def opened(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Begins afresh: what failed in an earlier session is tried again. The number of tries stays."""
        self._keys = run_keys(plan)
        self._runs = {}
        for name, note in _notes(self._path.parent).items():
            # One that was finished and is done again begins anew; a job may go on, and is no other try.
            done_again = "state" not in note and name in plan and name not in finished
            if "key" in note and "job" not in note and not done_again:
                waits = {"state": WAITING} if "state" in note and name not in finished else {}
                self._runs[name] = {**waits, "tries": note.get("tries", 0), "key": note["key"]}
        self._write()
        self._other.opened(plan, finished, workers)

    def queued(self, name: str, job: str) -> None:
        """The run is in the queue of a cluster."""
        self._set(name, {**self._runs.get(name, {}), "state": QUEUED, "job": job})
        self._other.queued(name, job)

    def started(self, name: str) -> None:
        """The run is running."""
        before, key = self._runs.get(name, {}), self._keys.get(name)
        tries = before.get("tries", 0) if before.get("key", key) == key else 0
        state = {"state": RUNNING, "since": time.time(), "work": 0, "tries": tries + 1}
        kept = {"job": before["job"]} if "job" in before else {}
        self._set(name, state | kept | ({"key": key} if key is not None else {}))
        self._other.started(name)

    def advanced(self, name: str, steps: int) -> None:
        """The run has done some work."""
        self._runs.setdefault(name, {"state": RUNNING})["work"] = steps
        if time.monotonic() - self._written >= WRITE_EVERY:
            self._write()
        self._other.advanced(name, steps)

    def finished(self, name: str, record: Record) -> None:
        """The run's result is on disk; that it took several tries is not in it."""
        tries = self._runs.pop(name, {}).get("tries", 0)
        if tries > 1:
            self._runs[name] = {"tries": tries, "key": record.key}
        self._write()
        self._other.finished(name, record)

    def lost(self, name: str, reason: str) -> None:
        """The run waits for another try."""
        self._set(name, {**self._runs.get(name, {}), "state": WAITING, "reason": reason})
        self._other.lost(name, reason)

    def failed(self, name: str, reason: str) -> None:
        """The run is given up."""
        self._set(name, {**self._runs.get(name, {}), "state": FAILED, "reason": reason})
        self._other.failed(name, reason)

    def waited(self) -> None:
        """Nothing has changed."""
        self._other.waited()

    def noted(self, text: str) -> None:
        """Nothing of a run has changed."""
        self._other.noted(text)

    def _set(self, name: str, state: dict[str, Any]) -> None:
        self._runs[name] = state
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        content = {"schema_version": SCHEMA_VERSION, "driver": os.getpid(), "runs": self._runs}
        # It only informs: a disk that is full must not end runs that could still write their results.
        with contextlib.suppress(OSError):
            write_json(self._path, content)


def run_states(plan: Plan, store: Store, jobs: Mapping[str, QueuedJob] | None = None) -> list[dict[str, Any]]:
    """The state of every run: {"name", "state", "key", "work", "of", "tries", "seconds", ...}.

    A finished run has its "score" too, another the "reason" of its last failure, and one in the queue of
    a cluster "job" and "job_state". "state" is finished, running, queued, failed, waiting or stopped (its
    driver is gone; it starts again). "seconds" are those that a finished run
    took, or a running one has been at it.

    Args:
        plan: the runs.
        store: their results.
        jobs: those of Slurm by the keys of the runs; they need no driver.
    """
    notes, working, records = _notes(store.out), in_use(store.out), recorded(plan, store)
    states = []
    for name, key in run_keys(plan).items():
        note = _with_job(notes.get(name, {}), (jobs or {}).get(key), working)
        states.append(_state(plan[name].steps, records.get(name), key, note) | {"name": name})
    return states


def _with_job(note: Mapping[str, Any], job: QueuedJob | None, working: bool) -> dict[str, Any]:
    """What is noted of a run, put right by what the queue says and by whether there is a driver."""
    if job is not None:
        state = {"state": QUEUED if job.waiting else RUNNING, "job": job.job}
        return {**note, **state, "job_state": f"{job.state} ({job.reason})" if job.waiting else job.state}
    return (
        {**note, "state": STOPPED} if note.get("state") in (RUNNING, QUEUED) and not working else dict(note)
    )


def _state(of: int, record: Record | None, key: str, note: Mapping[str, Any]) -> dict[str, Any]:
    tries = note.get("tries", 0) if note.get("key", key) == key else 0
    entry = {"name": "", "key": key, "work": 0, "of": of, "tries": tries}
    if record is not None:
        of_result = {"seconds": record.finished - record.started, "score": record.result.get("score")}
        return {**entry, "state": FINISHED, "work": of, **of_result}
    state = note.get("state", WAITING)
    # The clock may have been set back.
    seconds = max(0.0, time.time() - note["since"]) if state == RUNNING and "since" in note else None
    work = note.get("work", 0) if state == RUNNING else 0
    of_job = {key: note[key] for key in ("job", "job_state") if key in note and state in (RUNNING, QUEUED)}
    return {**entry, "state": state, "work": work, "seconds": seconds, "reason": note.get("reason"), **of_job}


def _notes(out: Path) -> dict[str, Any]:
    try:
        content = json.loads((out / STATE_FILE).read_text(encoding="utf-8"))
        return dict(content["runs"]) if content["schema_version"] == SCHEMA_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
