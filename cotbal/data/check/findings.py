"""What was found: kinds with their level and remedy, and the findings themselves, on disk."""

import json
import reprlib
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from cotbal.data.turns import temporary_database

ERROR, WARNING = "error", "warning"
# So many of each kind are kept in memory, to be shown.
SHOWN = 20
# Characters of a value in a finding.
MOST = 80


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        level: "error" or "warning".
        advice: what to do.
    """

    level: str
    advice: str


KINDS = {
    "file": Kind(ERROR, "write the file again; what follows in it was not read"),
    "line": Kind(ERROR, "write the line again or take it out; the lines after it were read"),
    "record": Kind(
        ERROR, 'give it LLaVA\'s form: {"id", "image", "conversations": [{"from", "value"}], "task"}'
    ),
    "roles": Kind(
        ERROR, "let human and gpt take turns; --fix mends what LLaVA drops, and other names of roles"
    ),
    "empty-answer": Kind(ERROR, "write the answer or take the turn out"),
    "image-token": Kind(
        ERROR, "one <image> for a picture, none without; --fix mends all but a missing picture"
    ),
    "text": Kind(ERROR, "write the file in UTF-8 from texts that were decoded rightly"),
    "task": Kind(
        ERROR, 'name the task in "task" (or "channel", "source"), as the weights do, or by --file-task'
    ),
    "path": Kind(ERROR, "give the picture's path from the image folder, with / and no ..; it was not opened"),
    "missing-picture": Kind(ERROR, "put the picture there, or correct the path or --images"),
    "broken-picture": Kind(ERROR, "download or write the picture again"),
    "box": Kind(ERROR, "write corners [x1, y1, x2, y2] in 0..1 of the picture padded to a square"),
    "leaked-question": Kind(
        ERROR, "take it out of one of the splits: its score would be of what was trained on"
    ),
    "repeated-id": Kind(ERROR, "give each held-out question an id of its own; answers are matched by it"),
    "no-answer-left": Kind(ERROR, "shorten the question or part the conversation: it would train on nothing"),
    "id": Kind(WARNING, "give each record an id, or nothing can point at it"),
    "empty-question": Kind(
        WARNING, "write a question, unless the answer is meant to follow the picture alone"
    ),
    "template": Kind(WARNING, "reword it: LLaVA ignores the conversation from there on"),
    "box-in-text": Kind(WARNING, "if it is a box, write corners in 0..1 of the picture padded to a square"),
    "box-in-padding": Kind(WARNING, "scale the box by the picture padded to a square, as LLaVA pads it"),
    "repeated-record": Kind(
        WARNING, "take it out, unless it is meant to count twice; --fix does if all is equal"
    ),
    "repeated-question": Kind(WARNING, "take the turn out, unless it is meant to count twice"),
    "leaked-picture": Kind(WARNING, "part the splits of a task by picture"),
    "shared-picture": Kind(WARNING, "known pictures can raise a held-out score; part the splits by picture"),
    "turned-picture": Kind(
        WARNING,
        "save them turned and without the tag: LLaVA and cotbal train on them as they are stored, and "
        "transformers' load_image turns them",
    ),
    "copied-picture": Kind(
        WARNING, "keep one, unless they stand for different things; often a failed download"
    ),
}


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: a key of `KINDS`.
        file: where, as it was named.
        record: its number in the file, from 1.
        field: of the record, "conversations[1].value"; "" for the whole.
        expected: what should have been there.
        got: what was.
    """

    kind: str
    file: str
    record: int
    field: str
    expected: str
    got: str

    def words(self) -> str:
        """The finding as one line."""
        field = f", field {self.field!r}" if self.field else ""
        return f"{self.file}: record {self.record:,}{field}: expected {self.expected}, got {self.got}"


# Its work is bounded whatever the value: repr would write the whole, and fail where it is nested deeply.
_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxdict = 3, 8, 4
_repr.maxstring = _repr.maxother = _repr.maxlong = MOST


def shortened(value: Any) -> str:
    """A value as Python writes it, at most `MOST` characters: what is too long is left out."""
    text = _repr.repr(value)
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."


class Findings:
    """All findings, on disk; of each kind the number and the first few in memory.

    Args:
        accepted: kinds that count as warnings.
    """

    def __init__(self, accepted: Collection[str] = ()) -> None:
        self._accepted = frozenset(accepted)
        self._database = temporary_database(1024)
        self._database.execute("CREATE TABLE finding (number INTEGER PRIMARY KEY, content TEXT)")
        self.counts: Counter[str] = Counter()
        self.first: dict[str, list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        """Takes a finding."""
        self.counts[finding.kind] += 1
        first = self.first.setdefault(finding.kind, [])
        if len(first) < SHOWN:
            first.append(finding)
        content = json.dumps(self.row(finding))
        self._database.execute("INSERT INTO finding (content) VALUES (?)", (content,))

    def row(self, finding: Finding) -> dict[str, Any]:
        """A finding with its level and advice."""
        level = self.level(finding.kind)
        return {"level": level, **finding._asdict(), "advice": KINDS[finding.kind].advice}

    def level(self, kind: str) -> str:
        """The level of a kind, "error" or "warning"."""
        return WARNING if kind in self._accepted else KINDS[kind].level

    def of(self, level: str) -> dict[str, int]:
        """How many there are of each kind of a level, in the order of `KINDS`."""
        return {kind: self.counts[kind] for kind in KINDS if self.counts[kind] and self.level(kind) == level}

    def lines(self) -> Iterator[str]:
        """Every finding as JSON on a line, in the order in which they were found."""
        for (content,) in self._database.execute("SELECT content FROM finding ORDER BY number"):
            yield content
