"""The fields of a record: what each holds; what is wrong with it is added to the faults."""

from collections.abc import Sequence
from typing import Any

from cotbal.data.check.boxes import TextBox, boxes
from cotbal.data.check.findings import shortened
from cotbal.data.check.lengths import IMAGE, MARKS
from cotbal.data.pictures import inside
from cotbal.files import is_utf8

ROLES = ("human", "gpt")

Fault = tuple[str, str, str, str]  # kind, field, expected, got


def check_turns(fields: dict[str, Any], faults: list[Fault]) -> tuple[list[str], list[str]]:
    """The roles and what they say; nothing where it is not in form."""
    value = fields.get("conversations")
    if not isinstance(value, list) or not value:
        expected = "a list of questions and answers"
        faults.append(("record", "conversations", expected, got_in(fields, "conversations")))
        return [], []
    try:
        roles, values = [turn["from"] for turn in value], [turn["value"] for turn in value]
        if {*map(type, roles), *map(type, values)} == {str}:
            return roles, values
    except (TypeError, KeyError, IndexError):
        pass
    for number, turn in enumerate(value):
        place = f"conversations[{number}]"
        if not isinstance(turn, dict):
            faults.append(("record", place, 'an object of "from" and "value"', shortened(turn)))
            break
        if wrong := [name for name in ("from", "value") if not isinstance(turn.get(name), str)]:
            faults.append(("record", f"{place}.{wrong[0]}", "a text", got_in(turn, wrong[0])))
            break
    return [], []


def check_roles(roles: Sequence[str], faults: list[Fault]) -> bool:
    """Whether human and gpt take turns."""
    count = len(roles)
    if roles == [*ROLES] * (count // 2):
        return True
    for number, role in enumerate(roles):
        if role != ROLES[number % 2]:
            expected = f"{ROLES[number % 2]!r}"
            faults.append(("roles", f"conversations[{number}].from", expected, shortened(role)))
            return False
    faults.append(("roles", f"conversations[{count - 1}]", "an answer after the last question", "none"))
    return False


def check_values(values: Sequence[str], pictured: bool, faults: list[Fault]) -> list[tuple[str, TextBox]]:
    """The boxes in what is said."""
    together = "\0".join(values)
    # Most records have nothing of the kind: they are asked once, not turn by turn.
    if (values and together.count(IMAGE) != pictured) or any(IMAGE in value for value in values[1::2]):
        _images(values, pictured, faults)
    for number, value in enumerate(values):
        if not value.replace(IMAGE, "").strip():
            kind, expected = ("empty-answer", "an answer") if number % 2 else ("empty-question", "a question")
            faults.append((kind, f"conversations[{number}].value", expected, shortened(value)))
    unusual = not is_utf8(together) or any(mark in together for mark in MARKS)
    found = []
    for number, value in enumerate(values) if unusual or (pictured and "[" in together) else ():
        place = f"conversations[{number}].value"
        check_text(value, place, faults)
        for mark in (mark for mark in MARKS if mark in value):
            expected = f"a text without {mark!r}, the template's own"
            faults.append(("template", place, expected, shortened(value)))
        found += [(place, box) for box in check_boxes(value, place, faults)] if pictured else []
    return found


def _images(values: Sequence[str], pictured: bool, faults: list[Fault]) -> None:
    places = [number for number, value in enumerate(values) for _ in range(value.count(IMAGE))]
    answered = [number for number in places if number % 2]
    one = "one <image> in the questions, as there is a picture"
    expected = one if pictured else "no <image>, as it has no picture"
    where = [*answered, *places[::-1], 0][0]
    got = f"{len(places)}{', in an answer too' if answered else ''}"
    faults.append(("image-token", f"conversations[{where}].value", expected, got))


def check_boxes(value: str, place: str, faults: list[Fault]) -> list[TextBox]:
    """The boxes in a text that are right so far."""
    fit = []
    for box in boxes(value):
        if box.fits:
            fit.append(box)
        else:
            kind = "box" if box.last else "box-in-text"
            faults.append((kind, place, "corners x1 < x2 and y1 < y2 in 0..1", shortened(box.text)))
    return fit


def check_answers(fields: dict[str, Any], faults: list[Fault]) -> list[str]:
    """The answers that are right; none where they are not public."""
    value = fields.get("answer", [])
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        faults.append(("record", "answer", "a text or a list of texts", shortened(value)))
        return []
    if "answer" in fields and not (answers and all(each.strip() for each in answers)):
        faults.append(("empty-answer", "answer", "an answer", shortened(value)))
    for each in answers:
        check_text(each, "answer", faults)
    return answers


def check_image(value: Any, faults: list[Fault]) -> str | None:
    """The picture's path; None where it must not be opened."""
    if not isinstance(value, str):
        faults.append(("record", "image", "the path of one picture, or no such key", shortened(value)))
        return None
    if not value or value != value.strip() or not inside(value):
        faults.append(("path", "image", "a path inside the image folder", shortened(value)))
        return None
    return value


def check_text(text: str, place: str, faults: list[Fault]) -> None:
    """Tells a text that cannot be written."""
    if not is_utf8(text):
        faults.append(("text", place, "text that UTF-8 can hold", shortened(text)))


def got_in(fields: dict[str, Any], name: str) -> str:
    """What a field holds, to be told."""
    return shortened(fields[name]) if name in fields else "nothing"
