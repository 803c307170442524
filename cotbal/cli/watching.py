"""The view on a project's runs while a verb works on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cotbal.cli.stopping import stoppable

if TYPE_CHECKING:
    from cotbal.project.config import Project
    from cotbal.runs.pool import Listener


@contextlib.contextmanager
def watched(project: Project) -> Iterator[Callable[[], AbstractContextManager[Listener]]]:
    """Gives what opens the view, and ends with one line where the work is stopped."""
    from rich.console import Console

    from cotbal.progress import progress_on
    from cotbal.project.work import headline, size

    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    crew = {"local": "worker process(es)", "slurm": "Slurm job(s)"}[project.resources.executor]
    with stoppable(notes):
        yield lambda: progress_on(notes, headline, size, crew)
