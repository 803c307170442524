"""Works on a plan through Slurm: submits what can start, and watches the disk and the queue."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from cotbal.project.job import log_size, work_done
from cotbal.project.outline import run_keys
from cotbal.project.resources import Resources
from cotbal.project.slurm.queue import (
    QueuedJob,
    SlurmError,
    cancel,
    check_commands,
    queued_jobs,
    recorded_state,
)
from cotbal.project.slurm.submission import submit, was_submitted_whole
from cotbal.project.slurm.task import read_failure
from cotbal.project.slurm.tickets import Ticket, drop_ticket, jobs_in_queue, slurm_folder
from cotbal.runs.execution import Execution, Job
from cotbal.runs.plan import Plan
from cotbal.runs.pool import MAX_RETRIES, Listener, in_a_line, log_end
from cotbal.runs.store import LOG_FILE, Store

# How often the disk is looked at.
WAIT_SECONDS = 0.5
# How often Slurm is asked: soon after a submission, then ever more seldom.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 1.0, 30.0
# Files of another machine may be seen late; a job that has left without a word is waited for so long.
CONFIRM_SECONDS, LATE_FILE_SECONDS = 1.0, 60.0
# A job whose processes or disks do not end hangs in COMPLETING until its node is seen to.
COMPLETING_SECONDS = 600.0
REFUSED_SECONDS = 60.0
# States in which nothing is late: the job had no time to write its failure, or the node none to send it.
ENDED_FROM_OUTSIDE = (
    "BOOT_FAIL",
    "CANCELLED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
IN_WORDS = {
    "OUT_OF_MEMORY": "was out of memory; raise resources.slurm.memory_gb",
    "TIMEOUT": "was out of time; raise resources.slurm.hours",
}


@dataclass
class Live:
    """A run whose job is in the queue.

    Attributes:
        job: the run.
        ticket: its job.
        started: whether the job has been seen at work.
        log_start: the bytes that were in the run's log then.
        over_since: when Slurm first showed the job as over, or not at all.
        ending_since: when Slurm first showed it as COMPLETING.
    """

    job: Job
    ticket: Ticket
    started: bool = False
    log_start: int = 0
    over_since: float | None = None
    ending_since: float | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        assert self.ticket.job is not None
        return self.ticket.job


@dataclass
class SlurmPool:
    """Jobs of a cluster at work on a plan.

    Attributes:
        execution: the plan and its state.
        listener: is told what happens.
        resources: what the file says.
    """

    execution: Execution
    listener: Listener
    resources: Resources
    _live: dict[str, Live] = field(default_factory=dict)
    _earlier: dict[str, tuple[Ticket, QueuedJob]] = field(default_factory=dict)
    _next_look: float = 0.0
    _pause: float = FIRST_LOOK_SECONDS
    _not_before: float = 0.0
    _accepted: bool = False
    _at_once: int = sys.maxsize
    _noted: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Works until every run has finished or has failed for good; its jobs stay when it is stopped.

        Raises:
            SlurmError: Slurm does not answer at the start, or refuses the first jobs.
        """
        if self.execution.over:
            return
        check_commands()
        self._earlier = jobs_in_queue(self._out, queued_jobs())
        self._name_others()
        try:
            while not self.execution.over:
                self._submit()
                time.sleep(WAIT_SECONDS)
                self._collect()
                self._look()
                self.listener.waited()
        except BaseException:
            self._say_what_goes_on()
            raise

    @property
    def _out(self) -> Path:
        return self.execution.store.out

    def _submit(self) -> None:
        """Takes up the jobs of an earlier start and submits what else can start, as one array."""
        jobs = self._ready()
        for job in [job for job in jobs if job.key in self._earlier]:
            if self._adopt(job):
                jobs.remove(job)
        if not jobs or time.monotonic() < self._not_before:
            return
        jobs = jobs[: self._at_once]
        try:
            tickets = submit(jobs, self.execution.store, self.resources)
        except SlurmError as error:
            self._refused(len(jobs), error)
            return
        self._accepted, self._at_once = True, max(self._at_once, 2 * len(jobs))
        self._noted.discard("sbatch")
        for job, ticket in zip(jobs, tickets, strict=True):
            self._watch(Live(job, ticket))

    def _refused(self, jobs: int, error: SlurmError) -> None:
        """Tries half as many next time: where there is a limit of jobs, an array is refused as a whole."""
        if not self._accepted and jobs > 1 and "limit" in str(error).lower():
            raise SlurmError(f"{error}; these were {jobs} jobs, slurm.max_jobs lets fewer wait at once")
        if not self._accepted:
            raise error
        self._at_once = max(1, jobs // 2)
        if jobs == 1:
            self._note("sbatch", f"{error}; trying again every {REFUSED_SECONDS:.0f} s")
            self._not_before = time.monotonic() + REFUSED_SECONDS

    def _name_others(self) -> None:
        """Says which jobs of the folder do runs that are not in the plan: they may be wanted no more."""
        own = set(run_keys(self.execution.plan).values())
        if others := [queued.job for key, (_, queued) in self._earlier.items() if key not in own]:
            self.listener.noted(
                "jobs of an earlier start go on that do other runs than these, such as those of the file "
                f"before it was changed: {len(others)}; scancel {' '.join(others)} ends them"
            )

    def _ready(self) -> list[Job]:
        assert self.resources.slurm is not None
        ready: list[Job] = []
        while len(self._live) + len(ready) < self.resources.slurm.max_jobs:
            job = self.execution.next_job({*self._live, *(job.key for job in ready)})
            if job is None:
                break
            ready.append(job)
        return ready

    def _adopt(self, job: Job) -> bool:
        ticket, queued = self._earlier.pop(job.key)
        if not was_submitted_whole(self._out, queued.job):
            cancel([queued.job])
            return False
        self._watch(Live(job, Ticket(ticket.key, ticket.submission, ticket.place, queued.job)))
        return True

    def _watch(self, live: Live) -> None:
        self._live[live.job.key] = live
        self.listener.queued(live.job.name, live.id)
        self._look_soon()

    def _collect(self) -> None:
        """Takes the results that are on disk."""
        for key in [key for key, live in self._live.items() if self._is_there(live)]:
            live = self._live.pop(key)
            drop_ticket(self._out, key)
            if not live.started:
                self.listener.started(live.job.name)
        for name, record in self.execution.take_up(self._live).items():
            self.listener.finished(name, record)

    def _is_there(self, live: Live) -> bool:
        # A disk that is disturbed for a moment shows its result the next time.
        with contextlib.suppress(OSError):
            return self.execution.record(live.job) is not None
        return False

    def _look(self) -> None:
        """Asks Slurm how the jobs are, now and then."""
        now = time.monotonic()
        if now < self._next_look or not self._live:
            return
        self._next_look = now + self._pause
        self._pause = min(2 * self._pause, LOOK_SECONDS)
        try:
            queue = queued_jobs()
        except SlurmError as error:
            self._note("squeue", f"{error}; waiting until Slurm answers")
            return
        self._noted.discard("squeue")
        # A run may have finished between the last look at the disk and this answer.
        self._collect()
        for live in list(self._live.values()):
            self._judge(live, queue.get(live.id))

    def _judge(self, live: Live, queued: QueuedJob | None) -> None:
        if queued is None or not queued.active:
            self._doubt(live, queued)
        elif queued.state == "COMPLETING":
            self._see_off(live, queued)
        elif queued.waiting:
            live.over_since = live.ending_since = None
            if queued.stuck:
                self._note(queued.reason, f"job {live.id} ({live.job.name}) waits: {queued.reason}")
            if live.started:
                live.started = False
                self.listener.lost(live.job.name, f"job {live.id} is requeued")
                self.listener.queued(live.job.name, live.id)
        else:
            live.over_since = live.ending_since = None
            log, context = self._folder(live.job) / LOG_FILE, live.job.spec.context
            if not live.started:
                live.started, live.log_start = True, log_size(log)
                self.listener.started(live.job.name)
            if "work" in context and (done := work_done(log, context, live.log_start)):
                self.listener.advanced(live.job.name, done)

    def _doubt(self, live: Live, queued: QueuedJob | None) -> None:
        """The job seems over, without a result: it is if that lasts, and no word of it comes late."""
        now = time.monotonic()
        if live.over_since is None:
            live.over_since = now
            self._look_soon()
        told = read_failure(self._folder(live.job), live.ticket.submission) is not None
        certain = told or (queued is not None and queued.state in ENDED_FROM_OUTSIDE)
        if now - live.over_since >= (CONFIRM_SECONDS if certain else LATE_FILE_SECONDS):
            del self._live[live.job.key]
            self._end(live, queued)

    def _see_off(self, live: Live, queued: QueuedJob) -> None:
        """At its end: a run that has told its failure is over, of another a process may still write."""
        now = time.monotonic()
        live.over_since, live.ending_since = None, live.ending_since or now
        if read_failure(self._folder(live.job), live.ticket.submission) is not None:
            del self._live[live.job.key]
            self._end(live, queued)
        elif now - live.ending_since >= COMPLETING_SECONDS:
            self._note(live.id, f"job {live.id} ({live.job.name}) hangs in COMPLETING; its node needs a look")

    def _end(self, live: Live, queued: QueuedJob | None) -> None:
        state = (queued.state if queued else recorded_state(live.id)) or "gone from the queue"
        if state not in ENDED_FROM_OUTSIDE or state == "PREEMPTED":
            # Should Slurm still know of it.
            cancel([live.id])
        job, failure = live.job, read_failure(self._folder(live.job), live.ticket.submission)
        if state == "TIMEOUT" or (failure is not None and failure.out_of_time):
            text = f"run {job.name!r}: job {live.id} {IN_WORDS['TIMEOUT']}{self._extended(job)}"
            return self._give_up(job, f"{text}. End of its log:\n{self._log_end(live)}")
        if failure is not None:
            of_slurm = f"job {live.id} {IN_WORDS[state]}.\n" if state in IN_WORDS else ""
            return self._retry_or_give_up(job, of_slurm + failure.error)
        if state in IN_WORDS:
            text = f"job {live.id} {IN_WORDS[state]}. End of its log:\n{self._log_end(live)}"
            return self._retry_or_give_up(job, text)
        return self._bury(live, state)

    def _retry_or_give_up(self, job: Job, error: str) -> None:
        job.failures += 1
        if job.failures > self.resources.retries:
            self._give_up(job, f"run {job.name!r} failed in {self._folder(job)}:\n{error}")
        else:
            self.listener.lost(job.name, in_a_line(error))

    def _bury(self, live: Live, state: str) -> None:
        job = live.job
        job.deaths += 1
        if job.deaths > MAX_RETRIES:
            text = f"run {job.name!r}: its job ended {job.deaths} times, the last time job {live.id}: {state}"
            self._give_up(job, f"{text}. End of its log:\n{self._log_end(live)}")
        else:
            self.listener.lost(job.name, f"job {live.id}: {state}")

    def _give_up(self, job: Job, reason: str) -> None:
        drop_ticket(self._out, job.key)
        self.execution.give_up(job, reason)
        self.listener.failed(job.name, reason)

    def _extended(self, job: Job) -> str:
        assert self.resources.slurm is not None
        if not job.spec.context.get("resume"):
            return ""
        return f", or slurm.extensions, which are {self.resources.slurm.extensions}"

    def _log_end(self, live: Live) -> str:
        """Of the run's log; of the job's own where the run has not begun."""
        of_job = (slurm_folder(self._out) / f"{live.id}_0_log.{end}" for end in ("err", "out"))
        return log_end(self._folder(live.job) / LOG_FILE, *of_job)

    def _folder(self, job: Job) -> Path:
        return self.execution.store.folder(job.key)

    def _look_soon(self) -> None:
        self._pause = FIRST_LOOK_SECONDS
        self._next_look = time.monotonic() + self._pause

    def _note(self, about: str, text: str) -> None:
        """Says it once for as long as it lasts."""
        if about not in self._noted:
            self._noted.add(about)
            self.listener.noted(text)

    def _say_what_goes_on(self) -> None:
        ids = dict.fromkeys(live.id.partition("_")[0] for live in self._live.values())
        if ids:
            self.listener.noted(f"the jobs in the queue go on; scancel {' '.join(ids)} ends them")


def work_on_slurm(plan: Plan, store: Store, listener: Listener, resources: Resources) -> Execution:
    """Runs what is not finished yet as jobs; returns what has come of it.

    Hold `locked(store.out)` around it. Killed at any moment and started again, it waits for the jobs that
    still wait or run.

    Args:
        plan: the runs.
        store: where their folders and results are, on a disk that the nodes share.
        listener: is told what happens.
        resources: what the jobs ask for.

    Raises:
        SlurmError: Slurm's commands are missing, do not answer at the start, or refuse the first jobs.
        ModuleNotFoundError: submitit is not installed.
    """
    import submitit  # noqa: F401

    assert resources.slurm is not None
    execution = Execution(plan, store)
    found = execution.take_up()
    listener.opened(plan, found, min(resources.slurm.max_jobs, max(1, len(plan) - len(found))))
    SlurmPool(execution, listener, resources).run()
    return execution
