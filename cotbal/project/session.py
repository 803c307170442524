"""A whole estimate in one call: the data, the runs that are still to do, and the weights that follow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from cotbal.files import write_json
from cotbal.project.changes import done_again, in_words
from cotbal.project.config import Project
from cotbal.project.data import prepare
from cotbal.project.outcome import Outcome, outcome_of
from cotbal.project.outline import check_budget, outline, recorded, remedy, throughput
from cotbal.project.parts import NO_WEIGHTS, shared_files
from cotbal.project.recipe import plan_of
from cotbal.project.work import store_of, work
from cotbal.runs.pool import Listener
from cotbal.runs.store import locked


def run_project(project: Project, listener: Callable[[], AbstractContextManager[Listener]]) -> Outcome:
    """Runs what the output folder does not hold yet; a run that fails for good does not stop the others.

    A kill at any moment loses the running runs only; the same call then continues.

    Args:
        project: the estimate.
        listener: opens the view on the progress.

    Raises:
        OutputInUseError: another process works in the output folder.
        ValueError: the data cannot be read, there are fewer GPUs than the file says, or the budget is less.
        OSError: a file cannot be read, the disk cannot take one, or Slurm cannot be reached.
    """
    with locked(project.out):
        data = prepare(project)
        plan = plan_of(project, data)
        store = store_of(project)
        finished = recorded(plan, store)
        content = outline(project, data, plan, throughput(project, plan, finished))
        write_json(project.out / "plan.json", content)
        check_budget(project, content["totals"], remedy(project, finished))
        again = done_again(plan, finished, project.out)
        with listener() as progress:
            if not project.train.takes_weights:
                progress.noted(NO_WEIGHTS)
            for doubt in shared_files(project.tasks):
                progress.noted(doubt)
            if again:
                progress.noted(in_words(again))
            execution = work(project, plan, store, progress)
        return outcome_of(project, data, plan, execution)
