"""What a person sees while a plan of runs is worked on: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, TYPE_CHECKING

from cotbal.estimate.plan import Plan
from cotbal.estimate.store import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Headline = Callable[[Record], str]
# Without a terminal, a line about the whole at most so often (seconds) when no run starts or ends.
QUIET_SECONDS = 30.0


def in_words(seconds: float) -> str:
    """A duration for people: "42 s", "3 min 05 s", "1 h 02 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Course:
    """How far a plan is, in steps, and when it will be over.

    The speed is that of this session, steps per second of a busy worker. The time left plays the rest of the
    plan through in the order in which the pool will start it, so waiting for a long last run is in it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._busy_seconds = 0.0
        self._session_steps = 0
        self.workers = 1
        self.plan = Plan([])

    def open(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Begins with what an earlier start has left."""
        self.plan, self.workers = plan, workers
        self._done = {name: plan[name].steps for name in finished}

    def start(self, name: str) -> None:
        """A worker is busy with this run from now on."""
        self._began[name] = self._clock()
        self._done[name] = 0

    def advance(self, name: str, steps: int) -> None:
        """The run has done so many steps, at most its own number."""
        steps = min(steps, self.plan[name].steps)
        self._session_steps += steps - self._done[name]
        self._done[name] = steps

    def finish(self, name: str) -> float:
        """The run has finished; returns the seconds that it took here, 0 where it shared another's result."""
        if name not in self._began:
            self._done[name] = self.plan[name].steps
            return 0.0
        self.advance(name, self.plan[name].steps)
        seconds = self._clock() - self._began.pop(name)
        self._busy_seconds += seconds
        return seconds

    def lose(self, name: str) -> None:
        """The run's worker died; its steps are to be done again."""
        now = self._clock()
        self._busy_seconds += now - self._began.pop(name, now)
        self._done[name] = 0

    @property
    def total(self) -> int:
        """Steps of the whole plan."""
        return sum(self.plan.steps.values())

    @property
    def done(self) -> int:
        """Steps done, those of earlier starts included."""
        return sum(self._done.values())

    @property
    def percent(self) -> float:
        """Share of the steps that is done, 0 to 100."""
        return 100.0 * self.done / self.total if self.total else 100.0

    def seconds_left(self) -> float | None:
        """Expected seconds until the plan has finished, None as long as no step has been seen."""
        busy = self._busy_seconds + sum(self._clock() - began for began in self._began.values())
        if not self._session_steps or busy <= 0:
            return None
        return self.plan.remaining(self._done, list(self._began), self.workers) * busy / self._session_steps

    def left_in_words(self) -> str:
        """The time left for people."""
        seconds = self.seconds_left()
        return "estimating the time left" if seconds is None else f"about {in_words(seconds)} left"


class PlainProgress:
    """Lines of text: each run's start and end, and now and then the whole.

    Args:
        stream: takes the lines.
        headline: says the most important of a finished run in a few words.
        clock: seconds of a steady clock.
    """

    def __init__(
        self, stream: IO[str], headline: Headline, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._headline, self._clock = stream, headline, clock
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
        self._say(opening(plan, finished, workers))

    def started(self, name: str) -> None:
        """Says that a run starts."""
        self._course.start(name)
        self._say(f"start   {name} ({self._course.plan[name].steps} steps)")

    def advanced(self, name: str, steps: int) -> None:
        """Counts the steps."""
        self._course.advance(name, steps)
        self.waited()

    def finished(self, name: str, record: Record) -> None:
        """Says what a run took and gave, and how far the whole is."""
        seconds = self._course.finish(name)
        self._say(f"done    {name}: {seconds:.1f} s, {self._headline(record)}; {self._whole()}")

    def lost(self, name: str, reason: str) -> None:
        """Says that a run starts again."""
        self._course.lose(name)
        self._say(f"again   {name}: its worker process died ({reason})")

    def waited(self) -> None:
        """Says how far the whole is where nothing has been said for half a minute."""
        if self._clock() - self._last >= QUIET_SECONDS:
            self._say(f"        {self._whole()}")

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
    """

    def __init__(self, console: Console, headline: Headline) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
        self._view = Progress(*columns, console=console, transient=True)
        self._headline = headline
        self._course = Course()
        self._whole = self._view.add_task("[bold]all runs", total=None, note="")
        self._bars: dict[str, TaskID] = {}

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
        self._view.console.print(opening(plan, finished, workers))
        self._view.update(self._whole, total=self._course.total)
        self.waited()

    def started(self, name: str) -> None:
        """Adds a bar."""
        self._course.start(name)
        self._bars[name] = self._view.add_task(name, total=self._course.plan[name].steps, note="")

    def advanced(self, name: str, steps: int) -> None:
        """Moves the bars."""
        self._course.advance(name, steps)
        self._view.update(self._bars[name], completed=steps)
        self.waited()

    def finished(self, name: str, record: Record) -> None:
        """Turns a bar into a line."""
        seconds = self._course.finish(name)
        self._drop(name)
        self._view.console.print(f"[green]done[/] {name}: {seconds:.1f} s, {self._headline(record)}")
        self.waited()

    def lost(self, name: str, reason: str) -> None:
        """Says that a run starts again."""
        self._course.lose(name)
        self._drop(name)
        self._view.console.print(f"[yellow]again[/] {name}: its worker process died ({reason})")

    def waited(self) -> None:
        """Moves the bar of the whole."""
        self._view.update(self._whole, completed=self._course.done, note=self._course.left_in_words())

    def _drop(self, name: str) -> None:
        if name in self._bars:
            self._view.remove_task(self._bars.pop(name))


def opening(plan: Plan, finished: Mapping[str, Record], workers: int) -> str:
    """The first line: what there is to do and what an earlier start has left."""
    crew = f"{workers} worker process{'es' if workers > 1 else ''}"
    if not finished:
        return f"{len(plan)} runs on {crew}"
    if len(finished) == len(plan):
        return f"all {len(plan)} runs are finished"
    return f"continuing: {len(finished)} of {len(plan)} runs are finished; the rest on {crew}"


def progress_on(console: Console, headline: Headline) -> LiveProgress | PlainProgress:
    """The live view where the console is a terminal, plain lines elsewhere."""
    if console.is_terminal:
        return LiveProgress(console, headline)
    return PlainProgress(console.file, headline)
