"""What a job does on its node: one run, and for a run that fails the reason on disk."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cotbal.files import write_json
from cotbal.project.slurm.tickets import read_ticket
from cotbal.runs.processes import CommandError
from cotbal.runs.store import Store
from cotbal.runs.worker import run_job

SCHEMA_VERSION = 1
FAILURE_FILE = "failure.json"
# Slurm warns a job so long before its time is over; `processes.end` needs some of it.
WARNING_SECONDS = 90
# Where Slurm does not tell when the time is over: a prolog and the imports may take so much of it.
LATE_START_SECONDS = 600
# A job that is cancelled or pre-empted may see its command die before it is told itself.
TELLING_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        error: in words; the end of the log is among them.
        out_of_time: whether the job's time was over.
    """

    error: str
    out_of_time: bool


@dataclass
class Task:
    """The function that submitit calls on the node.

    Attributes:
        submission: that of the tickets of its jobs.
        seconds: the time limit of a job.
    """

    submission: str
    seconds: float
    _over: float = 0.0

    def __call__(self, message: dict[str, Any]) -> None:
        """Does the run of a `job_message`, unless it is finished or another job's."""
        from submitit.core.utils import UncompletedJobError

        out, key = Path(message["out"]), message["key"]
        ticket = read_ticket(out, key)
        if ticket is None or ticket.submission != self.submission or _finished(message):
            print(f"run {key} is not this job's to do any more")
            return
        self._over = self._end_of_its_time() - 2 * WARNING_SECONDS
        signal.signal(signal.SIGTERM, _leave)
        # submitit would log it, in the middle of another signal.
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        try:
            run_job(message, lambda progress: None)
        except SystemExit:
            # Cancelled, or Slurm starts it again.
            raise
        except UncompletedJobError as error:
            self._fail(message, str(error), out_of_time=True)
        except CommandError as error:
            time.sleep(TELLING_SECONDS)
            self._fail(message, str(error))
        except BaseException:
            self._fail(message, traceback.format_exc())

    def checkpoint(self, message: dict[str, Any]) -> Any:
        """What submitit starts again when the job is warned: the same run, None where that is no use.

        A job is warned when its time is nearly over, and by some clusters when it is pre-empted.
        """
        from submitit.helpers import DelayedSubmission

        over = time.time() > self._over
        return None if over and not message["context"].get("resume") else DelayedSubmission(self, message)

    def _end_of_its_time(self) -> float:
        """In Unix time; rather too early, else a run that cannot resume starts again and again."""
        if told := os.environ.get("SLURM_JOB_END_TIME"):
            return float(told)
        return time.time() + self.seconds - min(LATE_START_SECONDS, self.seconds / 10)

    def _fail(self, message: dict[str, Any], error: str, out_of_time: bool = False) -> None:
        content = {"submission": self.submission, "error": error, "out_of_time": out_of_time}
        path = Store(Path(message["out"])).folder(message["key"]) / FAILURE_FILE
        write_json(path, {"schema_version": SCHEMA_VERSION, **content})


def read_failure(folder: Path, submission: str) -> Failure | None:
    """What a job of this submission left in the run's folder, None where it left no failure."""
    try:
        content = json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))
        own = content["schema_version"] == SCHEMA_VERSION and content["submission"] == submission
        return Failure(str(content["error"]), bool(content["out_of_time"])) if own else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finished(message: dict[str, Any]) -> bool:
    store = Store(Path(message["out"]), message["versions"])
    return store.record(message["key"], message.get("made_from")) is not None


def _leave(number: int, frame: FrameType | None) -> None:
    # Once: a second one must not disturb the end of the commands.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)
