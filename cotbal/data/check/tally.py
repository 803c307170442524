"""Sizes by split and task: records, tokens, what is ignored in training, histograms, samples."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cotbal.data.check.schema import Examined

# Bins of a histogram begin here and double in two steps; the last one is open.
EDGES = (0, 1, 2, 3, *(edge << power for power in range(1, 14) for edge in (2, 3)), 1 << 15)
# A broken file may name a task in each record: the others are counted together.
MOST_TASKS = 1000
OTHERS = "(other tasks)"
SAMPLES = 3
_SAMPLE_TEXT = 240


@dataclass
class Sizes:
    """Sizes of a task in a split.

    Attributes:
        records: how many.
        pictured: of these, with a picture.
        turns: answers.
        positions, valid, kept, kept_valid: sums of `Length`.
        measured: conversations that these sums are of.
        cut: of these, longer than what is kept.
        without_answer: of these, with no answer left.
        lengths: how many conversations in each bin, by what is kept and what is cut together.
        answers: likewise by what is trained on.
        samples: a few of its records, drawn by their hash.
    """

    records: int = 0
    pictured: int = 0
    turns: int = 0
    positions: int = 0
    valid: int = 0
    kept: int = 0
    kept_valid: int = 0
    measured: int = 0
    cut: int = 0
    without_answer: int = 0
    lengths: list[int] = field(default_factory=lambda: [0] * len(EDGES))
    answers: list[int] = field(default_factory=lambda: [0] * len(EDGES))
    samples: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    @property
    def ignored(self) -> float | None:
        """The share of kept positions that is not trained on; None where nothing was measured."""
        return 1 - self.kept_valid / self.kept if self.kept else None

    def add(self, examined: Examined, fields: Mapping[str, Any], pictured: bool) -> None:
        """Takes a record."""
        self.records += 1
        self.pictured += pictured
        self.turns += examined.turns
        if examined.length is None:
            return
        length = examined.length
        self.measured += 1
        self.positions += length.positions
        self.valid += length.valid
        self.kept += length.kept
        self.kept_valid += length.kept_valid
        self.cut += length.kept < length.positions
        self.without_answer += not length.kept_valid
        self.lengths[bisect_right(EDGES, length.positions) - 1] += 1
        self.answers[bisect_right(EDGES, length.valid) - 1] += 1
        if examined.digest and not examined.faults:
            self._sample(examined, fields)

    def _sample(self, examined: Examined, fields: Mapping[str, Any]) -> None:
        if len(self.samples) == SAMPLES and examined.digest >= self.samples[-1][0]:
            return
        question, answer = (_beginning(turn["value"]) for turn in fields["conversations"][:2])
        sample = {"question": question, "answer": answer}
        sample |= {} if examined.image is None else {"image": examined.image}
        kept = dict([*self.samples, (examined.digest, sample)])
        self.samples = sorted(kept.items())[:SAMPLES]

    def content(self) -> dict[str, Any]:
        """The sizes without the samples."""
        return {
            "records": self.records,
            "with_picture": self.pictured,
            "turns": self.turns,
            "measured": self.measured,
            "positions": self.positions,
            "valid": self.valid,
            "kept_positions": self.kept,
            "kept_valid": self.kept_valid,
            "ignored": self.ignored,
            "cut": self.cut,
            "no_answer_left": self.without_answer,
            "lengths": self.lengths,
            "answers": self.answers,
        }


def _beginning(text: str) -> str:
    text = text.replace("<image>", "").strip()
    return text if len(text) <= _SAMPLE_TEXT else f"{text[:_SAMPLE_TEXT].rstrip()} ..."


class Tally:
    """Sizes by split and task, in the order in which they came."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[str, str], Sizes] = {}
        self._tasks: dict[str, int] = {}

    def number(self, task: str | None) -> int:
        """A number for the task; 0 for none."""
        return 0 if task is None else self._tasks.setdefault(self._name(task), len(self._tasks) + 1)

    def add(self, split: str, examined: Examined, fields: Mapping[str, Any], pictured: bool) -> None:
        """Takes a record."""
        name = "(no task)" if examined.task is None else self._name(examined.task)
        self.sizes.setdefault((split, name), Sizes()).add(examined, fields, pictured)

    def _name(self, task: str) -> str:
        return task if task in self._tasks or len(self._tasks) < MOST_TASKS else OTHERS
