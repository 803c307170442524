"""Runs a plan on kept-alive worker processes of one thread each; finished runs are not repeated."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cotbal.runs import processes
from cotbal.runs.execution import Execution, Job
from cotbal.runs.plan import Plan
from cotbal.runs.store import LOG_FILE, Record, Store
from cotbal.runs.worker_process import ONE_THREAD, Message, Worker

# A worker that dies is most often out of memory or killed by hand; a run that ends three has another trouble.
MAX_RETRIES = 2
WAIT_SECONDS = 0.5
LOG_LINES = 20


class RunError(RuntimeError):
    """A run failed; the message holds its traceback or the end of its log."""


class Listener(Protocol):
    """What is told about the course of a plan."""

    def opened(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Work begins; `finished` are the runs that an earlier start has left."""

    def queued(self, name: str, job: str) -> None:
        """The run waits in the queue of a cluster as the job with this id."""

    def started(self, name: str) -> None:
        """A worker begins with this run (again, where a worker died)."""

    def advanced(self, name: str, steps: int) -> None:
        """The run has done so many of its steps."""

    def finished(self, name: str, record: Record) -> None:
        """The run has finished."""

    def lost(self, name: str, reason: str) -> None:
        """The run failed or its worker died; the run starts again."""

    def failed(self, name: str, reason: str) -> None:
        """The run is given up; its reason may have several lines."""

    def waited(self) -> None:
        """A moment has gone by without news."""

    def noted(self, text: str) -> None:
        """Something that concerns no single run, in one line."""


@dataclass(frozen=True)
class Crew:
    """The worker processes of a pool, and what a run that fails means.

    Attributes:
        environments: for each worker process what it has in its environment beside that of the driver.
        retries: how often a run that failed by itself starts again.
        keep_going: give a failed run up and go on with those that do not need it, instead of stopping.
        number: what the user calls the number of environments, for advice.
    """

    environments: Sequence[Mapping[str, str]]
    retries: int = 0
    keep_going: bool = False
    number: str = "--workers"


@dataclass
class Pool:
    """Worker processes at work on a plan.

    Attributes:
        execution: the plan and its state.
        listener: is told what happens.
        crew: the workers.
    """

    execution: Execution
    listener: Listener
    crew: Crew
    _workers: list[Worker] = field(default_factory=list)
    _inbox: queue.SimpleQueue[Message] = field(default_factory=queue.SimpleQueue)

    def run(self) -> None:
        """Works until every run has finished, or has failed and the crew keeps going.

        Raises:
            RunError: a run failed for the last time, where the crew does not keep going; the other running
                ones are stopped.
        """
        with self._stopping_workers():
            while not self.execution.over:
                self._start_jobs()
                try:
                    worker, message = self._inbox.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    for each in self._workers:
                        each.end_what_it_forked()
                    self.listener.waited()
                else:
                    self._handle(worker, message)

    @contextlib.contextmanager
    def _stopping_workers(self) -> Iterator[None]:
        try:
            self._hire(min(self._size, len(self.execution.plan) - len(self.execution.records)))
            yield
        finally:
            for worker in self._workers:
                worker.dismiss()
            for worker in self._workers:
                worker.stop()

    def _hire(self, count: int) -> None:
        specs = [job.spec for job in self.execution.jobs.values()]
        preload = sorted({spec.function.partition(":")[0] for spec in specs})
        log = self.execution.store.out / "runs" / "workers.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        free = list(self.crew.environments)
        for worker in self._workers:
            free.remove(worker.environment)
        self._workers += [Worker(self._inbox, log, preload, environment) for environment in free[:count]]

    @property
    def _size(self) -> int:
        return len(self.crew.environments)

    def _start_jobs(self) -> None:
        while True:
            running = self._running()
            job = self.execution.next_job(running)
            if job is None or len(running) == self._size:
                return
            if all(worker.job is not None for worker in self._workers):
                self._hire(1)
            idle = next(worker for worker in self._workers if worker.job is None)
            idle.give(job, self.execution.store)

    def _running(self) -> set[str]:
        return {worker.job.key for worker in self._workers if worker.job is not None}

    def _handle(self, worker: Worker, message: dict[str, Any] | None) -> None:
        job = worker.job
        if message is None:
            self._workers.remove(worker)
            self._bury(job, worker.stop())
        elif job is None:
            raise RuntimeError(f"a worker without a job sent {message}")
        elif message["event"] == "started":
            self.listener.started(job.name)
        elif message["event"] == "steps":
            self.listener.advanced(job.name, message["steps"])
        elif message["event"] == "failed":
            worker.job = None
            self._retry_or_give_up(job, message["error"])
        else:
            worker.job = None
            self._finish(job)

    def _finish(self, job: Job) -> None:
        found = self.execution.take_up(self._running())
        if job.name not in found:
            raise RunError(f"run {job.name!r} has finished, but {self._folder(job)} holds no readable result")
        for name, record in found.items():
            self.listener.finished(name, record)

    def _bury(self, job: Job | None, status: int) -> None:
        if job is None:
            return
        processes.end(self._folder(job))
        reason = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        job.deaths += 1
        # It may have died with its result written and not yet told.
        if self.execution.record(job) is not None:
            self._finish(job)
        elif job.deaths > MAX_RETRIES:
            self._give_up(
                job,
                f"run {job.name!r}: its worker process died {job.deaths} times, the last time {reason}"
                f" (SIGKILL is mostly a lack of memory: try fewer {self.crew.number}). End of its log:\n"
                + log_end(self._folder(job) / LOG_FILE, self.execution.store.out / "runs" / "workers.log"),
            )
        else:
            self.listener.lost(job.name, f"its worker process died ({reason})")

    def _retry_or_give_up(self, job: Job, error: str) -> None:
        job.failures += 1
        if job.failures > self.crew.retries:
            self._give_up(job, f"run {job.name!r} failed in {self._folder(job)}:\n{error}")
        else:
            self.listener.lost(job.name, in_a_line(error))

    def _give_up(self, job: Job, reason: str) -> None:
        if not self.crew.keep_going:
            raise RunError(reason)
        self.execution.give_up(job, reason)
        self.listener.failed(job.name, reason)

    def _folder(self, job: Job) -> Path:
        return self.execution.store.folder(job.key)


def log_end(*logs: Path) -> str:
    """The last lines of the first of these logs that holds any."""
    texts = (log.read_text(errors="replace").strip() for log in logs if log.exists())
    return "\n".join(next((text for text in texts if text), "(empty)").splitlines()[-LOG_LINES:])


def in_a_line(error: str) -> str:
    """What went wrong and how it ended: the first line of an error and its last; of a traceback the last."""
    first, *others = error.strip().splitlines() or [""]
    if not others:
        return first
    return others[-1] if first.startswith("Traceback") else f"{first} {others[-1]}"


def run_plan(plan: Plan, store: Store, listener: Listener, workers: int) -> dict[str, Record]:
    """Runs what is not finished yet; returns the records of all runs by name.

    Hold `locked(store.out)` around it. A kill at any moment loses the running jobs only.

    Args:
        plan: the runs.
        store: where their folders and results are.
        listener: is told what happens.
        workers: number of worker processes.

    Raises:
        ValueError: `workers` is below 1.
        RunError: a run raised, or its workers died three times.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    return work_on(plan, store, listener, Crew([ONE_THREAD] * workers)).records


def work_on(plan: Plan, store: Store, listener: Listener, crew: Crew) -> Execution:
    """Runs what is not finished yet; returns what has come of it. Otherwise as `run_plan`."""
    # A driver and its workers killed at one time leave commands behind, of runs that this plan may not have.
    processes.end(store.out / "runs", below=True)
    execution = Execution(plan, store)
    found = execution.take_up()
    listener.opened(plan, found, min(len(crew.environments), max(1, len(plan) - len(found))))
    Pool(execution, listener, crew).run()
    return execution
