"""What of a record can be meant in one way only, put right."""

from typing import Any, NamedTuple

from cotbal.data.check.fields import ROLES
from cotbal.data.check.lengths import IMAGE

_NAMES = {"user": "human", "assistant": "gpt", "human": "human", "gpt": "gpt"}


class Change(NamedTuple):
    """Something that was changed.

    Attributes:
        field: of the record, as it was numbered before.
        change: what was done.
        before, after: its value; None where there is none.
    """

    field: str
    change: str
    before: str | None
    after: str | None


def mended(fields: dict[str, Any]) -> tuple[dict[str, Any], list[Change]]:
    """The record put right and what was changed; the record itself where nothing was, or it is not enough.

    Names of roles become human and gpt. An answer before the first question goes, as LLaVA drops it, and a
    last question without an answer, which teaches nothing. Where there is a picture and no `<image>`, it is
    put before the first question; of several, which could stand for one picture only, the first stays.
    """
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not all(_in_form(turn) for turn in turns):
        return fields, []
    changes: list[Change] = []
    turns = [_renamed(number, turn, changes) for number, turn in enumerate(turns)]
    first = 1 if turns and turns[0]["from"] == ROLES[1] else 0
    last = len(turns) - 1 if turns and turns[-1]["from"] == ROLES[0] else len(turns)
    if first:
        changes.append(
            Change("conversations[0]", "taken out, before the first question", turns[0]["value"], None)
        )
    if last < len(turns):
        taken = turns[last]["value"]
        changes.append(
            Change(f"conversations[{last}]", "taken out, a question without an answer", taken, None)
        )
    turns = turns[first:last]
    if not turns or len(turns) % 2 or any(t["from"] != ROLES[n % 2] for n, t in enumerate(turns)):
        return fields, []
    pictured = isinstance(fields.get("image"), str) and fields["image"]
    if pictured and not any(IMAGE in turn["value"] for turn in turns[1::2]):
        turns = _one_image(turns, first, changes)
    return (fields | {"conversations": turns}, changes) if changes else (fields, [])


def _in_form(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(name), str) for name in ("from", "value"))


def _renamed(number: int, turn: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    name = _NAMES.get(turn["from"].strip().lower(), turn["from"])
    if name == turn["from"]:
        return turn
    changes.append(Change(f"conversations[{number}].from", "role renamed", turn["from"], name))
    return turn | {"from": name}


def _one_image(turns: list[dict[str, Any]], skipped: int, changes: list[Change]) -> list[dict[str, Any]]:
    """The turns with one `<image>`; `skipped` turns stood before them."""
    count = sum(turn["value"].count(IMAGE) for turn in turns)
    made, there = [], False
    for number, turn in enumerate(turns):
        before = turn["value"]
        after = before
        if not count and not number:
            after, what = f"{IMAGE}\n{before}", "<image> put in, for the picture"
        elif count > 1 and IMAGE in before:
            # The first one stays where it is.
            head, tail = before.split(IMAGE, 1) if not there else ("", before)
            rest = tail.replace(f"{IMAGE}\n", "").replace(IMAGE, "")
            after, what = (
                (rest if there else f"{head}{IMAGE}{rest}"),
                "<image> taken out, there is one picture",
            )
            there = True
        if after != before:
            changes.append(Change(f"conversations[{number + skipped}].value", what, before, after))
        made.append(turn | {"value": after})
    return made
