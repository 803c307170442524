"""The runs of a plan, what they wait for, and the order in which they are best started."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotbal.runs.store import RunSpec

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class LateSpec:
    """A run whose settings follow from the results of others, such as the final run from the probes.

    Attributes:
        name: as of `RunSpec`.
        steps: amount of work, known before the settings are.
        needs: names of the runs whose results `build` reads.
        build: gives the run from `{name: result}` of `needs`; its own needs must be finished by then.
    """

    name: str
    steps: int
    needs: tuple[str, ...]
    build: Callable[[Results], RunSpec]


class Plan:
    """Runs in an order in which every run comes after those that it needs.

    Args:
        specs: the runs; names are unique.
        first: names of short runs to start before all others, so that a command that fails shows it early.

    Raises:
        ValueError: a name occurs twice, or a run needs one that does not come before it.
    """

    def __init__(self, specs: Sequence[RunSpec | LateSpec], first: Collection[str] = ()) -> None:
        self._first = frozenset(first)
        self._specs: dict[str, RunSpec | LateSpec] = {}
        for spec in specs:
            if spec.name in self._specs:
                raise ValueError(f"specs: the name {spec.name!r} occurs twice; give every run its own")
            for need in spec.needs:
                if need not in self._specs:
                    raise ValueError(f"specs: {spec.name!r} needs {need!r}, which does not come before it")
            self._specs[spec.name] = spec
        self._chains = self._longest_chains()
        self._followers: dict[str, list[str]] = {name: [] for name in self._specs}
        for name, spec in self._specs.items():
            for need in spec.needs:
                self._followers[need].append(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __getitem__(self, name: str) -> RunSpec | LateSpec:
        return self._specs[name]

    @property
    def steps(self) -> dict[str, int]:
        """Steps of every run."""
        return {name: spec.steps for name, spec in self._specs.items()}

    def urgency(self, name: str) -> tuple[bool, int]:
        """What decides which of several runs starts first, the greatest: early ones, then long chains.

        A chain is the steps of the longest one of runs that starts with this one. So the longest run comes
        first, one that others wait for before that, and a final run as soon as its weights exist.
        """
        return name in self._first, self._chains[name]

    def _longest_chains(self) -> dict[str, int]:
        after = dict.fromkeys(self._specs, 0)
        chains: dict[str, int] = {}
        for name in reversed(self._specs):
            spec = self._specs[name]
            chains[name] = spec.steps + after[name]
            for need in spec.needs:
                after[need] = max(after[need], chains[name])
        return chains

    def behind(self, name: str) -> set[str]:
        """The runs that cannot start without this one, directly or not; it is among them."""
        found, new = {name}, [name]
        while new:
            new = [after for each in new for after in self._followers[each] if after not in found]
            found.update(new)
        return found

    def remaining(self, left: Mapping[str, float], running: Collection[str], workers: int) -> float:
        """Seconds until the whole plan has finished: this very order played through.

        Args:
            left: seconds of one worker that are left of each run; a run that is over has none.
            running: names of the runs that workers are busy with.
            workers: number of workers, at least 1.
        """
        waiting = {name for name in self if left.get(name, 0) > 0 and name not in running}
        unfinished = waiting.union(running)
        missing = {name: sum(need in unfinished for need in self[name].needs) for name in self}
        places = {name: place for place, name in enumerate(self._specs)}

        def entry(name: str) -> tuple[bool, int, int, str]:
            early, chain = self.urgency(name)
            return not early, -chain, places[name], name

        ready = [entry(name) for name in waiting if not missing[name]]
        ends = [(left.get(name, 0.0), name) for name in running]
        heapq.heapify(ready)
        heapq.heapify(ends)
        now = 0.0
        while ready or ends:
            while ready and len(ends) < workers:
                name = heapq.heappop(ready)[-1]
                heapq.heappush(ends, (now + left[name], name))
            now, name = heapq.heappop(ends)
            for after in self._followers[name]:
                missing[after] -= 1
                if not missing[after] and after in waiting:
                    heapq.heappush(ready, entry(after))
        return now
