"""How far a plan has come: what is finished on disk, what could start now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.store import Record, RunSpec, Store, run_key


@dataclass
class Job:
    """A run that can start: its settings are known and what it needs has finished.

    Attributes:
        name: the run's name in the plan.
        spec: the run.
        key: its key.
        needs: folders of the needed runs, by the last part of their names.
        made_from: when these had finished, by their keys.
        deaths: how many workers died of it.
        failures: how often it failed.
    """

    name: str
    spec: RunSpec
    key: str
    needs: dict[str, str]
    made_from: dict[str, float] = field(default_factory=dict)
    deaths: int = 0
    failures: int = 0


@dataclass
class Execution:
    """The state of a plan; the disk is the truth and `take_up` reads it.

    Attributes:
        plan: the runs.
        store: where their results are.
        records: the finished runs by name.
        jobs: the runs that could start or are running, by name.
        failures: the runs that were given up in this session, with the reason.
    """

    plan: Plan
    store: Store
    records: dict[str, Record] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: every run has finished, failed, or needs one that failed."""
        return not self.jobs

    def give_up(self, failed: Job, reason: str) -> None:
        """Marks a run as failed, and those that are the same under another name."""
        for name in [name for name, job in self.jobs.items() if job.key == failed.key]:
            del self.jobs[name]
            self.failures[name] = reason

    def take_up(self, running: Collection[str] = ()) -> dict[str, Record]:
        """Moves on as far as the results on disk allow; returns the runs that are newly finished.

        Args:
            running: keys that a worker is busy with; it may have written the result and not yet said so.
        """
        found = {}
        for name in self.plan:
            if name in self.records or name in self.failures:
                continue
            if name not in self.jobs and all(need in self.records for need in self.plan[name].needs):
                self.jobs[name] = self._job(name)
            if name not in self.jobs or self.jobs[name].key in running:
                continue
            if (record := self.record(self.jobs[name])) is not None:
                self.records[name] = found[name] = record
                del self.jobs[name]
        return found

    def record(self, job: Job) -> Record | None:
        """The result of a job on disk, None where there is none that was made from those that it needs."""
        return self.store.record(job.key, job.made_from)

    def next_job(self, running: Collection[str]) -> Job | None:
        """The most urgent job of the plan whose key is not in `running`; None if there is none.

        Among equals the plan's order decides.
        """
        waiting = (self.jobs[name] for name in self.plan if name in self.jobs)
        ready = [job for job in waiting if job.key not in running]
        return max(ready, key=lambda job: self.plan.urgency(job.name), default=None)

    def _job(self, name: str) -> Job:
        spec = self.plan[name]
        if isinstance(spec, LateSpec):
            try:
                spec = spec.build({need: self.records[need].result for need in spec.needs})
            except ValueError as error:
                raise ValueError(f"run {name!r} cannot be made: {error}") from error
        made_from = {self.records[need].key: self.records[need].finished for need in spec.needs}
        keys = [self.records[need].key for need in spec.needs]
        folders = {
            need.rpartition("/")[2]: str(self.store.folder(key).resolve())
            for need, key in zip(spec.needs, keys, strict=True)
        }
        if len(folders) != len(keys):
            raise ValueError(
                f"needs of {name!r}: expected names that differ after the last '/', got {spec.needs}"
            )
        return Job(name, spec, run_key(spec, keys), folders, made_from)
