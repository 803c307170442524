"""A worker process as its driver sees it, and how many of them a machine bears."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotbal.runs.execution import Job
from cotbal.runs.processes import GRACE_SECONDS
from cotbal.runs.store import Store

# Each worker holds torch, transformers and a small model.
WORKER_BYTES = 1 << 30
MAX_WORKERS = 8
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# A worker that is dismissed ends what it has started first.
DISMISSAL_SECONDS = GRACE_SECONDS + 5.0
# The pipe of a dead worker ends at once, where nothing else holds it.
LAST_WORDS_SECONDS = 0.5
CGROUP = Path("/sys/fs/cgroup")


def default_workers() -> int:
    """Worker processes that this machine or container bears: its cores, 1 GiB of memory each, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    quota, *period = _container_limit("cpu.max")
    if quota is not None:
        cores = min(cores, quota // (period[0] or 1))
    limit = _container_limit("memory.max")[0]
    memory = memory if limit is None else min(memory, limit)
    return max(1, min(cores, memory // WORKER_BYTES, MAX_WORKERS))


def _container_limit(name: str) -> list[int | None]:
    """The numbers in a file of the control group, None for "max" or where there is no such file."""
    try:
        return [None if word == "max" else int(word) for word in (CGROUP / name).read_text().split()]
    except OSError:
        return [None]


def import_path() -> str:
    """PYTHONPATH of a process that shall import the very modules that this one would."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def job_message(job: Job, store: Store) -> dict[str, Any]:
    """What `cotbal.runs.worker.run_job` is told of a job."""
    return {
        "out": str(store.out.resolve()),
        "versions": dict(store.versions),
        "key": job.key,
        "name": job.name,
        "function": job.spec.function,
        "settings": dict(job.spec.settings),
        "context": dict(job.spec.context),
        "needs": job.needs,
        "made_from": job.made_from,
    }


class Worker:
    """A worker process; its messages arrive in `inbox` as (worker, message), with None at its death."""

    def __init__(
        self,
        inbox: queue.SimpleQueue[Message],
        log: Path,
        preload: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        with log.open("ab") as errors:
            # A session of its own: Ctrl-C reaches the driver alone, which then stops its workers.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cotbal.runs.worker", *preload],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment, "PYTHONPATH": import_path()},
                start_new_session=True,
            )
        self.environment = environment
        self.job: Job | None = None
        self._inbox = inbox
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Only a worker killed in the middle of a line leaves one without an end.
            if line.endswith(b"\n"):
                self._inbox.put((self, json.loads(line)))
        self._inbox.put((self, None))

    def give(self, job: Job, store: Store) -> None:
        """Lets the worker begin with a job."""
        self.job = job
        text = json.dumps(job_message(job, store))
        assert self._process.stdin is not None
        # A worker that is dead already has put its end of file into the inbox.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Tells the process to end itself and what it has started; does not wait for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def end_what_it_forked(self) -> None:
        """Where it is dead, ends its own forks: they hold its pipe open, on whose end its driver waits."""
        if self._process.poll() is None:
            return
        self._listener.join(LAST_WORDS_SECONDS)
        if self._listener.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> int:
        """Ends the process; returns its exit status, which is an earlier one where it was dead already."""
        self.dismiss()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DISMISSAL_SECONDS)
        self._process.kill()
        status = self._process.wait()
        self.end_what_it_forked()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status


Message = tuple[Worker, dict[str, Any] | None]
