"""How far a plan has come, in steps, and when it will be over."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.store import Record, RunSpec


def in_words(seconds: float) -> str:
    """A duration for people: "42 s", "3 min 05 s", "1 h 02 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class _Worked:
    """Seconds of busy workers, and the steps that they have done in them."""

    seconds: float = 0.0
    steps: int = 0

    @property
    def pace(self) -> float:
        """Seconds of a step, 0 where none has been seen."""
        return self.seconds / self.steps if self.steps else 0.0


class Course:
    """How far a plan is, in steps, and when it will be over.

    A step of a training and an item of an evaluation take as long as they take: each function of the plan has
    its own pace, that of this session, else that of the runs that an earlier start has finished, and as long
    as neither is known that of all steps. The time left plays the rest of the plan through in the order in
    which the pool will start it, so waiting for a long last run is in it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: dict[str, int] = {}
        # Up to when the seconds of a running run are counted: its start, then its last step.
        self._counted: dict[str, float] = {}
        self._session: defaultdict[str | None, _Worked] = defaultdict(_Worked)
        self._earlier: defaultdict[str | None, _Worked] = defaultdict(_Worked)
        self._given_up: set[str] = set()
        self.workers = 1
        self.plan = Plan([])

    def open(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Begins with what an earlier start has left."""
        self.plan, self.workers = plan, workers
        self._done = {name: plan[name].steps for name in finished}
        for name, record in finished.items():
            if not record.resumed:
                self._add(self._earlier, name, record.finished - record.started, plan[name].steps)

    def start(self, name: str) -> None:
        """A worker is busy with this run from now on."""
        self._counted[name] = self._clock()
        self._done[name] = 0

    def advance(self, name: str, steps: int) -> None:
        """The run has done so many steps, at most its own number."""
        gained = min(steps, self.plan[name].steps) - self._done[name]
        if gained > 0:
            # What a run that may go on from a checkpoint tells first may be the work of an earlier try.
            self._count(name, gained, 0 if _resumes(self.plan[name]) and not self._done[name] else gained)

    def finish(self, name: str, resumed: bool = False) -> None:
        """The run has finished; one that shared another's result had not begun.

        Args:
            name: the run.
            resumed: it went on from an earlier try. Unless it has told its progress, nobody knows how many of
                its steps are that try's, and it tells no pace.
        """
        if name in self._counted:
            if self._done[name] or not resumed:
                left = self.plan[name].steps - self._done[name]
                self._count(name, left, left)
            del self._counted[name]
        self._done[name] = self.plan[name].steps

    def lose(self, name: str) -> None:
        """The run's worker died; its steps are to be done again."""
        self._counted.pop(name, None)
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
        left = {}
        for name in self.plan:
            steps = 0 if name in self._given_up else self.plan[name].steps - self._done.get(name, 0)
            pace = self._pace(name)
            if steps and not pace:
                return None
            left[name] = steps * pace
        now = self._clock()
        for name, counted in self._counted.items():
            left[name] = max(0.0, left[name] - (now - counted))
        return self.plan.remaining(left, self._counted, self.workers)

    def _count(self, name: str, steps: int, worked: int) -> None:
        now = self._clock()
        self._add(self._session, name, now - self._counted[name], worked)
        self._counted[name] = now
        self._done[name] += steps

    def _add(self, to: dict[str | None, _Worked], name: str, seconds: float, steps: int) -> None:
        for kind in {_kind(self.plan[name]), None}:
            to[kind].seconds += seconds
            to[kind].steps += steps

    def _pace(self, name: str) -> float:
        kind = _kind(self.plan[name])
        known = (each[of].pace for of in (kind, None) for each in (self._session, self._earlier))
        return next((pace for pace in known if pace > 0), 0.0)

    def left_in_words(self) -> str:
        """The time left for people."""
        seconds = self.seconds_left()
        return "estimating the time left" if seconds is None else f"about {in_words(seconds)} left"


def _resumes(spec: RunSpec | LateSpec) -> bool:
    return isinstance(spec, RunSpec) and bool(spec.context.get("resume"))


def _kind(spec: RunSpec | LateSpec) -> str | None:
    """What runs of one pace have in common; None for one whose function is not known yet."""
    return spec.function if isinstance(spec, RunSpec) else None
