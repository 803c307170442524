"""The work on a project's plan, here or as Slurm jobs, and where its results are."""

from __future__ import annotations

import os

from cotbal.project.agreement import Watch
from cotbal.project.config import Project
from cotbal.project.slurm.driver import work_on_slurm
from cotbal.project.slurm.tickets import refuse_beside_jobs
from cotbal.runs.execution import Execution
from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.pool import Crew, Listener, work_on
from cotbal.runs.store import Record, RunSpec, Store

# The final models that were asked for, and their scores.
FINALS_FILE = "finals.json"


def store_of(project: Project) -> Store:
    """Where the runs of a project are; what is installed here says nothing about the user's commands."""
    return Store(project.out, {})


def work(project: Project, plan: Plan, store: Store, listener: Listener) -> Execution:
    """Runs what a plan still needs, here or as jobs, and keeps its state on disk; hold the folder around it.

    Args:
        project: says what the runs may use.
        plan: the runs.
        store: where their results are.
        listener: is told what happens.

    Raises:
        ValueError: there are fewer GPUs than the file says.
        OSError: the disk cannot take a file, or Slurm cannot be reached.
    """
    resources, noted = project.resources, Watch(project.out, listener)
    if resources.executor == "slurm":
        return work_on_slurm(plan, store, noted, resources)
    refuse_beside_jobs(project.out)
    environments = resources.environments(os.environ.get("CUDA_VISIBLE_DEVICES"))
    number = "resources.gpus" if resources.gpus else "resources.slots"
    return work_on(plan, store, noted, Crew(environments, resources.retries, keep_going=True, number=number))


def size(spec: RunSpec | LateSpec) -> str:
    """The samples of a training, as `cotbal plan` has them, or the items of an evaluation."""
    assert isinstance(spec, RunSpec)
    if "samples" in spec.context:
        return f"{spec.context['samples']} samples"
    items = spec.context["items"]
    return "items that no file counts" if items is None else f"{items} items"


def headline(record: Record) -> str:
    """The score of a finished evaluation, the samples of a finished training."""
    if "score" in record.result:
        return f"score {record.result['score']:.4g}"
    return f"{record.result['samples']} samples"
