"""What Slurm says of its jobs. `squeue` also shows those that ended minutes ago; it needs no accounting."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
CALL_SECONDS = 60.0
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
WORKING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})


# Of a job that waits; the others are limits, mistakes and jobs that somebody holds.
USUAL_REASONS = frozenset(
    {"None", "BeginTime", "Dependency", "JobArrayTaskLimit", "Prolog", "Priority", "Resources", "Reservation"}
)


class SlurmError(OSError):
    """Slurm cannot be asked, or refuses; the message is its own."""


@dataclass(frozen=True)
class QueuedJob:
    """A job as Slurm shows it.

    Attributes:
        job: its id, "12_3" where it is part of an array.
        state: as Slurm calls it.
        reason: why it waits.
        name: of the job.
    """

    job: str
    state: str
    reason: str
    name: str

    @property
    def waiting(self) -> bool:
        """Whether it has yet to start, for the first time or again."""
        return self.state in WAITING

    @property
    def stuck(self) -> bool:
        """Whether it waits for something that may never come by itself."""
        return self.waiting and self.reason not in USUAL_REASONS

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITING or self.state in WORKING


def check_commands() -> None:
    """Raises SlurmError where Slurm's commands are missing."""
    if missing := [name for name in COMMANDS if shutil.which(name) is None]:
        raise SlurmError(
            f"executor: slurm expects Slurm's {', '.join(COMMANDS)} on the PATH, no {', '.join(missing)}; "
            "run this where jobs are submitted from, or with executor: local"
        )


def queued_jobs() -> dict[str, QueuedJob]:
    """This user's jobs that wait, run or have just ended, by id.

    Raises:
        SlurmError: Slurm does not answer; nothing is then known of any job.
    """
    form = "--format=%i|%T|%r|%j"
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--states=all", form]
    jobs = {}
    for line in _call(command).splitlines():
        # With SLURM_CLUSTERS there are lines "CLUSTER: name".
        if line.count("|") >= 3:
            job, state, reason, name = line.strip().split("|", 3)
            jobs[job] = QueuedJob(job, state, reason, name)
    return jobs


def recorded_state(job: str) -> str | None:
    """How a job ended that squeue does not show any more; None where there is no accounting."""
    try:
        lines = _call(["sacct", "--noheader", "--parsable2", "-X", "-o", "State", "-j", job]).split("\n")
    except SlurmError:
        return None
    # "CANCELLED by 1000"
    return lines[0].partition(" ")[0] or None


def cancel(jobs: Iterable[str]) -> None:
    """Cancels jobs; one that is over or unknown is no mistake."""
    with contextlib.suppress(SlurmError):
        _call(["scancel", *jobs])


def _call(command: list[str]) -> str:
    # Those that the user has set for himself would hide jobs, or ask before each.
    others = ("SQUEUE_", "SCANCEL_", "SACCT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            # Jobs of others of the user may have any name.
            errors="replace",
            timeout=CALL_SECONDS,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(in_one_line(command[0], done.stderr or f"exit status {done.returncode}"))
    return done.stdout


def in_one_line(command: str, text: str) -> str:
    """What a command said, its name once."""
    return f"{command}: {' '.join(text.split()).replace(f'{command}: ', '')}"
