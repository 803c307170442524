"""How far a plan has come, in steps, and when it will be over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cotbal.estimate.plan import Plan
from cotbal.estimate.store import Record


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
        self._given_up: set[str] = set()
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

    def finish(self, name: str) -> None:
        """The run has finished; one that shared another's result had not begun."""
        if name not in self._began:
            self._done[name] = self.plan[name].steps
            return
        self.advance(name, self.plan[name].steps)
        self._busy_seconds += self._clock() - self._began.pop(name)

    def lose(self, name: str) -> None:
        """The run's worker died; its steps are to be done again."""
        now = self._clock()
        self._busy_seconds += now - self._began.pop(name, now)
        self._done[name] = 0

    def give_up(self, name: str) -> None:
        """The run has failed for good; neither it nor what needs it is part of the work any more."""
        self.lose(name)
        self._given_up |= self.plan.behind(name)

    @property
    def total(self) -> int:
        """Steps of the whole plan, without what is given up."""
        return sum(steps for name, steps in self.plan.steps.items() if name not in self._given_up)

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
        given_up = {name: self.plan[name].steps for name in self._given_up}
        left = self.plan.remaining({**self._done, **given_up}, list(self._began), self.workers)
        return left * busy / self._session_steps

    def left_in_words(self) -> str:
        """The time left for people."""
        seconds = self.seconds_left()
        return "estimating the time left" if seconds is None else f"about {in_words(seconds)} left"
