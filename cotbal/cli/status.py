"""`cotbal status`: the state of every run of an estimate."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from cotbal.cli.plan import File, Json, Mode, Precise, StepMatched, load, prepared

if TYPE_CHECKING:
    from cotbal.project.config import Project
    from cotbal.project.data import Data
    from cotbal.project.slurm.queue import QueuedJob
    from cotbal.runs.plan import Plan


def status(
    file: File,
    precise: Precise = False,
    step_matched: StepMatched = False,
    mode: Mode = None,
    as_json: Json = False,
) -> None:
    """Print the state of every run: finished, running, queued, failed, stopped or waiting.

    Those of `cotbal train` are among them.

    Example: cotbal status estimate.yaml
    """
    from cotbal.project.state import run_states
    from cotbal.project.work import store_of
    from cotbal.runs.plan import Plan

    project = load(file, precise, step_matched, mode)
    data, plan = prepared(project)
    plans = [plan, *_finals(project, data)]
    specs = {name: each[name] for each in plans for name in each}
    states = run_states(Plan(list(specs.values())), store_of(project), _jobs(project))
    if as_json:
        typer.echo(json.dumps({"output": str(project.out), "runs": states}, indent=1))
    else:
        _print(states)


def _finals(project: Project, data: Data) -> list[Plan]:
    """The runs of the final models that were asked for and that the scores allow by now."""
    from cotbal.project.work import FINALS_FILE, store_of

    if not (project.out / FINALS_FILE).exists():
        return []
    # They import torch, which the runs of an estimate do not wait for.
    from cotbal.project.final_plan import final_plan
    from cotbal.project.finals import known_methods

    plans = []
    for method in known_methods(project):
        # One whose estimate is not finished takes no other from the list.
        with contextlib.suppress(ValueError):
            plans.append(final_plan(project, data, [method], store_of(project)).plan)
    return plans


def _jobs(project: Project) -> dict[str, QueuedJob]:
    """The jobs in the queue by the keys of their runs."""
    from cotbal.project.slurm.queue import SlurmError, queued_jobs
    from cotbal.project.slurm.tickets import jobs_in_queue

    if project.resources.executor != "slurm":
        return {}
    try:
        return {key: job for key, (_, job) in jobs_in_queue(project.out, queued_jobs()).items()}
    except SlurmError as error:
        typer.echo(f"the queue is not known: {error}", err=True)
        return {}


def _print(states: Sequence[Mapping[str, Any]]) -> None:
    from cotbal.runs.course import in_words

    typer.echo(f"{'state':<9} {'done':>5} {'time':>12} {'score':>8}  run")
    for state in states:
        done = 100 * state["work"] // state["of"] if state["of"] else 0
        time = "-" if state["seconds"] is None else in_words(state["seconds"])
        score = "-" if state.get("score") is None else f"{state['score']:.4g}"
        job = f"  job {state['job']} {state.get('job_state', '')}".rstrip() if state.get("job") else ""
        typer.echo(f"{state['state']:<9} {done:>3} % {time:>12} {score:>8}  {state['name']}{job}")
    for state in states:
        if state.get("reason"):
            typer.echo(f"{state['name']}: {state['reason']}")
    counted = Counter(state["state"] for state in states)
    typer.echo(", ".join(f"{count} {name}" for name, count in counted.items()))
