"""Whether the models of a task were scored on the same items: told as soon as it is known, not at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cotbal.project.state import StateFile
from cotbal.runs.plan import Plan
from cotbal.runs.pool import Listener
from cotbal.runs.store import Record, RunSpec

MOST_TOLD = 3


class Watch(StateFile):
    """Keeps the state, and notes an evaluation whose items are not those of the others of its task.

    Args:
        out: the output folder.
        other: is told all that this one is told.
    """

    def __init__(self, out: Path, other: Listener) -> None:
        super().__init__(out, other)
        self._out = out
        self._plan = Plan([])
        self._first: dict[tuple[str, str | None], tuple[str, Record]] = {}

    def opened(self, plan: Plan, finished: Mapping[str, Record], workers: int) -> None:
        """Compares what an earlier start has left."""
        self._plan = plan
        super().opened(plan, finished, workers)
        told = {name: note for name, record in finished.items() if (note := self._compare(name, record))}
        for note in list(told.values())[:MOST_TOLD]:
            self.noted(note)
        # All of a seed may be so: a line for each would fill the terminal.
        if more := [finished[name].key for name in list(told)[MOST_TOLD:]]:
            self.noted(
                f"{len(more)} more evaluations have other items or clusters than the first of their task, in "
                f"{self._out / 'runs'}: {' '.join(more)}"
            )

    def finished(self, name: str, record: Record) -> None:
        """Compares one more."""
        super().finished(name, record)
        if note := self._compare(name, record):
            self.noted(note)

    def _compare(self, name: str, record: Record) -> str | None:
        """What to tell of an evaluation on other items; None where they are those of the others."""
        spec, result, runs = self._plan[name], record.result, self._out / "runs"
        if not isinstance(spec, RunSpec) or not result.get("items"):
            return None
        first, other = self._first.setdefault((spec.settings["task"], spec.settings["data"]), (name, record))
        items, wanted = len(result["items"]), len(other.result["items"])
        if items != wanted:
            what = f"{name} has {items} items, {first} {wanted}"
        elif result.get("clusters") != other.result.get("clusters"):
            what = f"{name} has other clusters than {first}"
        else:
            return None
        # Its answers too: it would go on from them.
        answers = f" with its folder in {self._out / 'outputs'}" if spec.context.get("resume") else ""
        return (
            f"{what}; no weights follow from models that are scored on different items. Mend the evaluation, "
            f"remove the wrong one of {runs / record.key} and {runs / other.key}{answers}, and start again"
        )
