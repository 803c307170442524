"""Which job does a run: a ticket on disk for each, written before the job is submitted.

A run has one ticket at a time, and only the job that it names does the run; any other ends at once. So a job
that nobody waits for any more, or that Slurm starts a second time, changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cotbal.files import write_json
from cotbal.project.slurm.queue import QueuedJob, SlurmError, queued_jobs

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Ticket:
    """The job of a run.

    Attributes:
        key: of the run.
        submission: a name of the call of sbatch, also part of the job's name.
        place: of the job in its array; None where it is the only one.
        job: its id; None until sbatch has told it.
    """

    key: str
    submission: str
    place: int | None
    job: str | None = None


def slurm_folder(out: Path) -> Path:
    """Where the tickets are, and submitit's files."""
    return out / "slurm"


def job_name(out: Path, submission: str) -> str:
    """The jobs' name."""
    return f"cotbal-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]}-{submission}"


def write_ticket(out: Path, ticket: Ticket) -> None:
    """Writes a ticket in place of an earlier one."""
    write_json(_path(out, ticket.key), {"schema_version": SCHEMA_VERSION, **asdict(ticket)})


def read_ticket(out: Path, key: str) -> Ticket | None:
    """The ticket of a run, None where there is none.

    Raises:
        OSError: the disk does not give it out.
    """
    try:
        content = json.loads(_path(out, key).read_text(encoding="utf-8"))
        return Ticket(**content) if content.pop("schema_version") == SCHEMA_VERSION else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def drop_ticket(out: Path, key: str) -> None:
    """Removes the ticket of a run, if there is one."""
    _path(out, key).unlink(missing_ok=True)


def jobs_in_queue(out: Path, queue: Mapping[str, QueuedJob]) -> dict[str, tuple[Ticket, QueuedJob]]:
    """The jobs of an output folder that wait or run, by the keys of their runs.

    A driver that was killed may not have heard of a job that it had submitted; it is then found by its name.
    """
    paths = _path(out, "").parent.glob("*.json")
    tickets = [ticket for path in paths if (ticket := read_ticket(out, path.stem)) is not None]
    active = {job.job: job for job in queue.values() if job.active}
    found = {}
    for ticket in tickets:
        job = active.get(ticket.job) if ticket.job else _named(out, ticket, active)
        # Ids begin anew on another cluster, or after a reinstallation: this one may be any job of the user.
        if job is not None and job.name.endswith(f"-{ticket.submission}"):
            found[ticket.key] = (ticket, job)
    return found


def refuse_beside_jobs(out: Path) -> None:
    """Lets runs start on this machine only where no job of the folder waits or runs.

    Raises:
        SlurmError: there are such jobs, or Slurm cannot be asked.
    """
    tickets = list(_path(out, "").parent.glob("*.json"))
    if not tickets:
        return
    try:
        jobs = [queued.job for _, queued in jobs_in_queue(out, queued_jobs()).values()]
    except SlurmError as error:
        raise SlurmError(
            f"{out} had jobs in a Slurm queue, and whether they are gone cannot be told here ({error}); once "
            f"they are, remove {_path(out, '').parent}"
        ) from error
    if jobs:
        ids = " ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
        raise SlurmError(
            f"{out} has jobs in the Slurm queue; wait for them with executor: slurm, or scancel {ids}"
        )
    for ticket in tickets:
        ticket.unlink(missing_ok=True)


def _named(out: Path, ticket: Ticket, active: Mapping[str, QueuedJob]) -> QueuedJob | None:
    name = job_name(out, ticket.submission)
    for job in active.values():
        place = job.job.partition("_")[2]
        if job.name == name and place == ("" if ticket.place is None else str(ticket.place)):
            return job
    return None


def _path(out: Path, key: str) -> Path:
    return slurm_folder(out) / "tickets" / f"{key}.json"
