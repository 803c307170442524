"""Whether the models of a task were scored on the same items: told as soon as it is known, not at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cotbal.project.state import StateFile
from cotbal.runs.plan import Plan
from cotbal.runs.pool import Listener
from cotbal.runs.store import Record, RunSpec


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
        for name, record in finished.items():
            self._compare(name, record)

    def finished(self, name: str, record: Record) -> None:
        """Compares one more."""
        super().finished(name, record)
        self._compare(name, record)

    def _compare(self, name: str, record: Record) -> None:
        spec, result, runs = self._plan[name], record.result, self._out / "runs"
        if not isinstance(spec, RunSpec) or not result.get("items"):
            return
        first, other = self._first.setdefault((spec.settings["task"], spec.settings["data"]), (name, record))
        items, wanted = len(result["items"]), len(other.result["items"])
        if items != wanted:
            what = f"{name} has {items} items, {first} {wanted}"
        elif result.get("clusters") != other.result.get("clusters"):
            what = f"{name} has other clusters than {first}"
        else:
            return
        # Its answers too: it would go on from them.
        answers = f" with its folder in {self._out / 'outputs'}" if spec.context.get("resume") else ""
        self.noted(
            f"{what}; no weights follow from models that are scored on different items. Mend the evaluation, "
            f"remove the wrong one of {runs / record.key} and {runs / other.key}{answers}, and start again"
        )
