"""Runs handed to Slurm as one array of jobs, through submitit."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotbal.project.resources import Resources, Slurm
from cotbal.project.slurm.queue import SlurmError, in_one_line
from cotbal.project.slurm.task import WARNING_SECONDS, Task
from cotbal.project.slurm.tickets import Ticket, drop_ticket, job_name, slurm_folder, write_ticket
from cotbal.runs.execution import Job
from cotbal.runs.store import Store
from cotbal.runs.worker_process import import_path, job_message

# Variables of sbatch that are not called as their option.
VARIABLES = {"time": ("TIMELIMIT",), "mem": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU")}
ALWAYS = ("ARRAY_INX", "JOB_NAME", "NO_REQUEUE", "REQUEUE", "SIGNAL", "WAIT")
# Of the user's Slurm and not of a job in which this may run.
OF_THE_USER = ("SLURM_CLUSTERS", "SLURM_CONF", "SLURM_JWT")


def submit(jobs: Sequence[Job], store: Store, resources: Resources) -> list[Ticket]:
    """Submits jobs as one array; returns their tickets, which are on disk.

    Raises:
        SlurmError: sbatch refuses; nothing is then submitted.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    slurm = _slurm(resources)
    submission = uuid.uuid4().hex[:12]
    places = range(len(jobs)) if len(jobs) > 1 else [None]
    tickets = [Ticket(job.key, submission, place) for job, place in zip(jobs, places, strict=True)]
    for ticket in tickets:
        write_ticket(store.out, ticket)
    # In place of the batch script: Slurm warns that process alone, not the commands below it.
    python = f"exec {shlex.quote(sys.executable)}"
    executor = SlurmExecutor(
        slurm_folder(store.out).resolve(), max_num_timeout=slurm.extensions, python=python
    )
    executor.update_parameters(**_parameters(resources, job_name(store.out, submission)))
    unwanted = _unwanted(sbatch_options(resources), os.environ)
    task = Task(submission, slurm.hours * 3600)
    try:
        # submitit prints what sbatch says, too.
        with contextlib.redirect_stderr(io.StringIO()), _without(unwanted):
            submitted = executor.map_array(task, [job_message(job, store) for job in jobs])
    except (FailedJobError, FailedSubmissionError) as error:
        for ticket in tickets:
            drop_ticket(store.out, ticket.key)
        raise SlurmError(in_one_line("sbatch", str(error))) from error
    named = zip(tickets, submitted, strict=True)
    tickets = [Ticket(ticket.key, submission, ticket.place, job.job_id) for ticket, job in named]
    for ticket in tickets:
        write_ticket(store.out, ticket)
    return tickets


def was_submitted_whole(out: Path, job: str) -> bool:
    """Whether submitit had handed over what the job needs; a kill may come between sbatch and that."""
    from submitit.core.utils import JobPaths

    return bool(JobPaths(slurm_folder(out), job_id=job).submitted_pickle.exists())


def sbatch_options(resources: Resources) -> dict[str, Any]:
    """The options of sbatch that follow from the file, None for those that it leaves open."""
    slurm = _slurm(resources)
    # GPUs of a certain kind are asked for by an option such as gres, which then stands for their number.
    own_gpus = any(name.startswith(("gres", "gpus")) for name in slurm.options)
    gpus = resources.gpus_of_a_command
    return {
        "time": math.ceil(slurm.hours * 60),
        "partition": slurm.partition,
        "account": slurm.account,
        "cpus_per_task": slurm.cpus,
        "mem": None if slurm.memory_gb is None else f"{math.ceil(slurm.memory_gb * 1024)}M",
        "gpus_per_node": None if own_gpus or not gpus else gpus,
        **{name: value for name, value in slurm.options.items() if value is not False},
    }


def _parameters(resources: Resources, name: str) -> dict[str, Any]:
    from submitit.slurm.slurm import SlurmJobEnvironment

    options = {key: value for key, value in sbatch_options(resources).items() if value is not None}
    signal = f"B:{SlurmJobEnvironment.USR_SIG}@{WARNING_SECONDS}"
    return {
        "time": options.pop("time"),
        "job_name": name,
        "nodes": 1,
        "wckey": None,
        "use_srun": False,
        "setup": [f"export PYTHONPATH={shlex.quote(import_path())}"],
        "additional_parameters": {**options, "signal": signal, "requeue": True},
    }


def _unwanted(options: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Variables that would take the place of what the script states, or of what its node tells the job."""
    stated = {name.replace("-", "_") for name, value in options.items() if value is not None}
    names = {variable for name in stated for variable in VARIABLES.get(name, (name.upper(),))}
    sbatch = {f"SBATCH_{name}" for name in (*names, *ALWAYS)}
    of_a_job = "SLURM_JOB_ID" in environment
    return [
        name
        for name in environment
        if name in sbatch or (of_a_job and name.startswith("SLURM_") and name not in OF_THE_USER)
    ]


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


def _slurm(resources: Resources) -> Slurm:
    assert resources.slurm is not None
    return resources.slurm
