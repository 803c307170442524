"""A test double for a cluster: each look at its queue moves every job one step on in the life told to it."""

from collections import defaultdict

from cotbal.files import write_json
from cotbal.project.resources import Resources
from cotbal.project.slurm import driver, tickets
from cotbal.project.slurm.queue import QueuedJob, SlurmError
from cotbal.project.slurm.task import FAILURE_FILE
from cotbal.project.slurm.tickets import Ticket, job_name, write_ticket
from cotbal.runs.plan import Plan
from cotbal.runs.store import Record, RunSpec
from tests.runs.fake_runs import Notes

GOOD = ("RUNNING", "done")


def resources(retries=0, **slurm):
    return Resources(executor="slurm", gpus_per_run=0, retries=retries, slurm={"hours": 1.0, **slurm})


def spec(name, *needs, steps=1, **context):
    return RunSpec(name, "m:f", {"name": name}, steps, needs, context)


class JobNotes(Notes):
    def queued(self, name, job):
        self.told.append(("queued", f"{name} {job}"))

    def noted(self, text):
        self.told.append(("noted", text))


class Cluster:
    """Lives are those of the jobs of a run, one for each submission; later ones are good.

    A step is a state of Slurm, "done" (a result and COMPLETED), ("fails", text) or ("late", text), "gone" (no
    longer shown), or something to call.
    """

    def __init__(self, store, monkeypatch):
        self.store, self.lives, self.queue = store, defaultdict(list), {}
        self.submissions, self.cancelled, self.refusals, self.silences = [], [], [], 0
        self._left = {}
        for module in (driver, tickets):
            monkeypatch.setattr(module, "queued_jobs", self.look)
        monkeypatch.setattr(driver, "submit", self.submit)
        monkeypatch.setattr(driver, "cancel", self.cancelled.extend)
        monkeypatch.setattr(driver, "recorded_state", lambda job: None)
        monkeypatch.setattr(driver, "check_commands", lambda: None)
        for name in ("WAIT", "FIRST_LOOK", "LOOK", "CONFIRM", "REFUSED"):
            monkeypatch.setattr(driver, f"{name}_SECONDS", 0.0)
        monkeypatch.setattr(driver, "LATE_FILE_SECONDS", 0.05)

    def submit(self, jobs, store, asked):
        if self.refusals:
            raise SlurmError(self.refusals.pop(0))
        self.submissions.append([job.name for job in jobs])
        number = len(self.submissions)
        made = [Ticket(job.key, f"s{number}", place, f"{number}_{place}") for place, job in enumerate(jobs)]
        for job, ticket in zip(jobs, made, strict=True):
            write_ticket(store.out, ticket)
            lives = self.lives[job.name]
            self.begin(ticket, lives.pop(0) if lives else GOOD)
        return made

    def begin(self, ticket, life, job=None):
        """Puts a job into the queue."""
        job = job or ticket.job
        self._show(job, "PENDING", ticket, "Priority")
        self._left[job] = (ticket, list(life))

    def look(self):
        if self.silences:
            self.silences -= 1
            raise SlurmError("squeue: Unable to contact slurm controller")
        for job, (ticket, life) in self._left.items():
            if life:
                self._step(job, ticket, life.pop(0))
        return dict(self.queue)

    def _step(self, job, ticket, step):
        folder = self.store.folder(ticket.key)
        if callable(step):
            step()
        elif step == "gone":
            del self.queue[job]
        elif step == "done":
            folder.mkdir(parents=True, exist_ok=True)
            self.store.write(Record(ticket.key, {}, 0.0, 2.0, 1.0), function="m:f", settings={})
            self._show(job, "COMPLETED", ticket)
        elif isinstance(step, str):
            state, _, reason = step.partition(" ")
            self._show(job, state, ticket, reason or "None")
        else:
            how, text = step
            failure = {"submission": ticket.submission, "error": text, "out_of_time": how == "late"}
            write_json(folder / FAILURE_FILE, {"schema_version": 1, **failure})
            self._show(job, "COMPLETED", ticket)

    def _show(self, job, state, ticket, reason="None"):
        name = job_name(self.store.out, ticket.submission)
        self.queue[job] = QueuedJob(job, state, reason, name)


def plan():
    """Two runs, and one that needs both."""
    return Plan([spec("a", steps=2), spec("b", steps=3), spec("c", "a", "b")])
