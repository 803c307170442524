"""What a person sees while a plan of runs is worked on: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, TYPE_CHECKING

from cotbal.runs.course import Course
from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.store import Record, RunSpec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Headline = Callable[[Record], str]
Size = Callable[[RunSpec | LateSpec], str]
# Without a terminal, a line about the whole at most so often (seconds) when no run starts or ends.
QUIET_SECONDS = 30.0
# Who does the runs, and how many of the runs in a queue the live view shows.
CREW = "worker process(es)"
QUEUED_SHOWN = 5


def in_steps(spec: RunSpec | LateSpec) -> str:
    """The size of a run whose work is steps."""
    return f"{spec.steps} steps"


class PlainProgress:
    """Lines of text: each run's start and end, and now and then the whole.

    Args:
        stream: takes the lines.
        headline: says the most important of a finished run in a few words.
        clock: seconds of a steady clock.
        size: says how large a run is.
        crew: what does the runs, with its plural's ending in brackets.
    """

    def __init__(
        self,
        stream: IO[str],
        headline: Headline,
        clock: Callable[[], float] = time.monotonic,
        size: Size = in_steps,
        crew: str = CREW,
    ) -> None:
        self._stream, self._headline, self._clock, self._size = stream, headline, clock, size
        self._crew = crew
        self._course = Course(clock)
        self._last = clock()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def opened(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Says how much there is to do."""
        self._course.open(plan, finished, workers)
        self._say(opening(plan, finished, workers, self._crew))

    def queued(self, name: str, job: str) -> None:
        """Says which job a run is."""
        self._say(f"queued  {name} (job {job})")

    def started(self, name: str) -> None:
        """Says that a run starts."""
        self._course.start(name)
        self._say(f"start   {name} ({self._size(self._course.plan[name])})")

    def advanced(self, name: str, steps: int) -> None:
        """Counts the steps."""
        self._course.advance(name, steps)
        self.waited()

    def finished(self, name: str, record: Record) -> None:
        """Says what a run took and gave, and how far the whole is."""
        self._course.finish(name, record.resumed)
        self._say(f"done    {name}: {_seconds(record)}, {self._headline(record)}; {self._whole()}")

    def lost(self, name: str, reason: str) -> None:
        """Says that a run starts again."""
        self._course.lose(name)
        self._say(f"again   {name}: {reason}")

    def failed(self, name: str, reason: str) -> None:
        """Says why a run is given up."""
        self._course.give_up(name)
        self._say(f"failed  {reason}")

    def waited(self) -> None:
        """Says how far the whole is where nothing has been said for half a minute."""
        if self._clock() - self._last >= QUIET_SECONDS:
            self._say(f"        {self._whole()}")

    def noted(self, text: str) -> None:
        """Says it."""
        self._say(f"note    {text}")

    def _whole(self) -> str:
        left = "" if self._course.done == self._course.total else f", {self._course.left_in_words()}"
        return f"{int(self._course.percent)} %{left}"

    def _say(self, line: str) -> None:
        self._last = self._clock()
        print(line, file=self._stream, flush=True)


class LiveProgress:
    """A live view: one bar for the whole, one for each running run, a line above them for each finished one.

    Args:
        console: a rich console on a terminal.
        headline: says the most important of a finished run in a few words.
        crew: what does the runs, with its plural's ending in brackets.
    """

    def __init__(self, console: Console, headline: Headline, crew: str = CREW) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
        self._view = Progress(*columns, console=console, transient=True)
        self._headline, self._crew = headline, crew
        self._course = Course()
        self._whole = self._view.add_task("[bold]all runs", total=None, note="")
        self._bars: dict[str, TaskID] = {}
        self._jobs: dict[str, str] = {}
        self._queued: list[str] = []

    def __enter__(self) -> LiveProgress:
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def opened(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Shows how much there is to do."""
        self._course.open(plan, finished, workers)
        self._view.console.print(opening(plan, finished, workers, self._crew))
        self._view.update(self._whole, total=self._course.total)
        self.waited()

    def queued(self, name: str, job: str) -> None:
        """Adds a bar, where not too many are there already."""
        self._jobs[name] = f"job {job}"
        self._queued.append(name)
        self._show_queued()
        self.waited()

    def started(self, name: str) -> None:
        """Adds a bar."""
        self._course.start(name)
        self._drop(name)
        self._add(name, self._jobs.get(name, ""))

    def advanced(self, name: str, steps: int) -> None:
        """Moves the bars."""
        self._course.advance(name, steps)
        self._view.update(self._bars[name], completed=steps)
        self.waited()

    def finished(self, name: str, record: Record) -> None:
        """Turns a bar into a line."""
        self._course.finish(name, record.resumed)
        self._drop(name)
        self._print("[green]done[/]", f"{name}: {_seconds(record)}, {self._headline(record)}")
        self.waited()

    def lost(self, name: str, reason: str) -> None:
        """Says that a run starts again."""
        self._course.lose(name)
        self._drop(name)
        self._print("[yellow]again[/]", f"{name}: {reason}")

    def failed(self, name: str, reason: str) -> None:
        """Says why a run is given up."""
        self._course.give_up(name)
        self._drop(name)
        self._print("[red]failed[/]", reason)

    def waited(self) -> None:
        """Moves the bar of the whole."""
        note = self._course.left_in_words()
        if self._queued:
            note += f", {len(self._queued)} queued"
        self._view.update(self._whole, completed=self._course.done, note=note)

    def noted(self, text: str) -> None:
        """Says it above the bars."""
        self._print("[yellow]note[/]", text)

    def _print(self, word: str, text: str) -> None:
        self._view.console.print(word, _literal(text))

    def _show_queued(self) -> None:
        for name in self._queued[:QUEUED_SHOWN]:
            if name not in self._bars:
                self._add(name, f"{self._jobs[name]} queued")

    def _add(self, name: str, note: str) -> None:
        steps = self._course.plan[name].steps
        self._bars[name] = self._view.add_task(_literal(name), total=steps, note=note)

    def _drop(self, name: str) -> None:
        if name in self._bars:
            self._view.remove_task(self._bars.pop(name))
        if name in self._queued:
            self._queued.remove(name)
            self._show_queued()


def _literal(text: str) -> str:
    """For rich, which would take `VQA [en]` for markup."""
    from rich.markup import escape

    return escape(text)


def _seconds(record: Record) -> str:
    return f"{record.finished - record.started:.1f} s"


def opening(plan: Plan, finished: Mapping[str, Record], workers: int, crew: str = CREW) -> str:
    """The first line: what there is to do and what an earlier start has left."""
    one, _, ending = crew.partition("(")
    crew = f"{workers} {one}{ending.rstrip(')') if workers > 1 else ''}"
    if not finished:
        return f"{len(plan)} runs on {crew}"
    if len(finished) == len(plan):
        return f"all {len(plan)} runs are finished"
    return f"continuing: {len(finished)} of {len(plan)} runs are finished; the rest on {crew}"


def progress_on(
    console: Console, headline: Headline, size: Size = in_steps, crew: str = CREW
) -> LiveProgress | PlainProgress:
    """The live view where the console is a terminal, plain lines elsewhere."""
    if console.is_terminal:
        return LiveProgress(console, headline, crew)
    return PlainProgress(console.file, headline, size=size, crew=crew)
