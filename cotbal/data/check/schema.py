"""One record, a conversation to train on or a held-out question: what is wrong with it and what it holds."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from cotbal.data.check.boxes import TextBox, boxes
from cotbal.data.check.findings import shortened
from cotbal.data.check.lengths import IMAGE, IMAGE_TOKENS, MARKS, Length, in_tokens, in_words
from cotbal.data.pictures import inside
from cotbal.data.table1 import TABLE
from cotbal.data.tokens import MOST_TOKENS, Counter
from cotbal.tasks import DECLARED, find_task, unknown_task

ROLES = ("human", "gpt")
# The turn of a held-out question.
HELD_OUT = (1 << 32) - 1
INSTRUCTIONS = tuple(sorted({row.instruction for row in TABLE.values() if row.instruction}))

Fault = tuple[str, str, str, str]  # kind, field, expected, got


class Settings(NamedTuple):
    """What records are held against.

    Attributes:
        tasks: those that there are; () for any.
        most_tokens: LLaVA's model_max_length.
        image_tokens: positions that a picture becomes.
        tokenizer: as of `load_counter`; None: words are counted.
        instructions: response format instructions, which do not make two questions different.
        file_tasks: task by file, for records that name none.
    """

    tasks: tuple[str, ...] = ()
    most_tokens: int = MOST_TOKENS
    image_tokens: int = IMAGE_TOKENS
    tokenizer: str | None = None
    instructions: tuple[str, ...] = INSTRUCTIONS
    file_tasks: Mapping[str, str] = {}


class Question(NamedTuple):
    """A question that is asked of a record's picture, or of none.

    Attributes:
        turn: its number in the conversation, from 0; `HELD_OUT` for one to score.
        digest: 8 bytes that tell it, case, space and instruction aside.
        answer: 4 bytes, a number, that tell its answer from others to the same question.
    """

    turn: int
    digest: bytes
    answer: int


class Examined(NamedTuple):
    """What a record is.

    Attributes:
        faults: what is wrong with it.
        task: None where it has none that is known.
        image: the picture's path; None where there is none, or one that must not be opened.
        held_out: whether it is a question to score, not a conversation.
        id: of a held-out question.
        questions: those of its turns.
        digest: 16 bytes that tell the conversation word by word; b"" where it cannot be compared.
        turns: how many answers.
        length: None of what is no whole conversation.
        boxes: by field, those that are right so far; the picture's size tells more.
    """

    faults: list[Fault]
    task: str | None
    image: str | None
    held_out: bool
    id: str | None
    questions: list[Question]
    digest: bytes
    turns: int
    length: Length | None
    boxes: list[tuple[str, TextBox]]


class Examiner:
    """Examines records.

    Args:
        settings: what they are held against.
        counter: counts tokens; None: words are counted.
    """

    def __init__(self, settings: Settings, counter: Counter | None = None) -> None:
        self._settings, self._counter = settings, counter
        self._instructions = tuple(" " + _plain(each) for each in settings.instructions)

    def __call__(self, fields: dict[str, Any], file: str | Path | None = None) -> Examined:
        """What the record is; never raises.

        Args:
            fields: the record.
            file: that it came from, which may tell its task.
        """
        faults: list[Fault] = []
        task = self._task(fields, file, faults)
        pictured = "image" in fields
        image = _image(fields["image"], faults) if pictured else None
        if "conversations" not in fields and ("question_id" in fields or "text" in fields):
            return self._held_out(fields, faults, task, image)
        if type(fields.get("id")) not in (str, int) or fields["id"] == "":
            faults.append(("id", "id", "a text or a whole number", _got(fields, "id")))
        roles, values = _turns(fields, faults)
        whole = bool(roles) and _alternate(roles, faults)
        found = _values(values, pictured, faults)
        pairs = list(zip(values[::2], values[1::2], strict=True)) if whole else []
        length = self._length(pairs, pictured, faults) if whole else None
        questions, digest = [], b""
        # Of a picture that cannot be named nothing can be compared. Without one, a first question alone: what
        # follows it is small talk.
        if values and (image is not None or not pictured):
            asked = pairs if pictured else pairs[:1]
            questions = [self._question(number, *pair) for number, pair in enumerate(asked)]
            digest = blake2b(_bytes("\0".join([*roles, *values])), digest_size=16).digest()
        turns = len(values) // 2
        return Examined(faults, task, image, False, None, questions, digest, turns, length, found)

    def _task(self, fields: dict[str, Any], file: str | Path | None, faults: list[Fault]) -> str | None:
        name, task = find_task(fields, fields=DECLARED, file=file, file_tasks=self._settings.file_tasks)
        if not isinstance(task, str) or not task.strip() or not _is_utf8(task):
            got = "nothing" if task is None else shortened(task)
            faults.append(("task", name, "the name of a task", got))
            return None
        if self._settings.tasks and task not in self._settings.tasks:
            faults.append(("task", name, "a known task", unknown_task(task, self._settings.tasks)))
            return None
        return task

    def _held_out(
        self, fields: dict[str, Any], faults: list[Fault], task: str | None, image: str | None
    ) -> Examined:
        id = fields.get("question_id")
        if type(id) not in (str, int) or id == "":
            faults.append(("record", "question_id", "a text or a whole number", _got(fields, "question_id")))
        text = fields.get("text")
        if not isinstance(text, str) or not text.strip():
            faults.append(("record", "text", "a question", _got(fields, "text")))
            text = ""
        _checked(text, "text", faults)
        if IMAGE in text:
            faults.append(("image-token", "text", "no <image>, which the evaluation adds", shortened(text)))
        answers = _answers(fields, faults)
        comparable = text and (image is not None or "image" not in fields)
        questions = [self._question(HELD_OUT, text, "\0".join(answers))] if comparable else []
        known = id if isinstance(id, str) else str(id) if type(id) is int else None
        return Examined(faults, task, image, True, known, questions, b"", 1, None, [])

    def _question(self, turn: int, question: str, answer: str) -> Question:
        text = _plain(question.replace(IMAGE, " "))
        if text.endswith(self._instructions):
            text = text[: -max(len(each) for each in self._instructions if text.endswith(each))]
        return Question(turn, blake2b(_bytes(text), digest_size=8).digest(), crc32(_bytes(_plain(answer))))

    def _length(self, pairs: Sequence[tuple[str, str]], pictured: bool, faults: list[Fault]) -> Length:
        if self._counter is None:
            return in_words(pairs)
        most = self._settings.most_tokens
        length = in_tokens(pairs, pictured, self._counter, most, self._settings.image_tokens)
        if not length.kept_valid:
            expected = f"an answer within {most:,} tokens"
            faults.append(("no-answer-left", "conversations", expected, f"none in {length.positions:,}"))
        return length


def _turns(fields: dict[str, Any], faults: list[Fault]) -> tuple[list[str], list[str]]:
    """The roles and what they say; nothing where it is not in form."""
    value = fields.get("conversations")
    if not isinstance(value, list) or not value:
        expected = "a list of questions and answers"
        faults.append(("record", "conversations", expected, _got(fields, "conversations")))
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
            faults.append(("record", f"{place}.{wrong[0]}", "a text", _got(turn, wrong[0])))
            break
    return [], []


def _alternate(roles: Sequence[str], faults: list[Fault]) -> bool:
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


def _values(values: Sequence[str], pictured: bool, faults: list[Fault]) -> list[tuple[str, TextBox]]:
    """Checks what is said; the boxes in it."""
    together = "\0".join(values)
    # Most records have nothing of the kind: they are asked once, not turn by turn.
    if (values and together.count(IMAGE) != pictured) or any(IMAGE in value for value in values[1::2]):
        _images(values, pictured, faults)
    for number, value in enumerate(values):
        if not value.replace(IMAGE, "").strip():
            kind, expected = ("empty-answer", "an answer") if number % 2 else ("empty-question", "a question")
            faults.append((kind, f"conversations[{number}].value", expected, shortened(value)))
    unusual = not _is_utf8(together) or any(mark in together for mark in MARKS)
    found = []
    for number, value in enumerate(values) if unusual or (pictured and "[" in together) else ():
        place = f"conversations[{number}].value"
        _checked(value, place, faults)
        for mark in (mark for mark in MARKS if mark in value):
            expected = f"a text without {mark!r}, the template's own"
            faults.append(("template", place, expected, shortened(value)))
        found += [(place, box) for box in _boxes(value, place, faults)] if pictured else []
    return found


def _images(values: Sequence[str], pictured: bool, faults: list[Fault]) -> None:
    places = [number for number, value in enumerate(values) for _ in range(value.count(IMAGE))]
    answered = [number for number in places if number % 2]
    one = "one <image> in the questions, as there is a picture"
    expected = one if pictured else "no <image>, as it has no picture"
    where = [*answered, *places[::-1], 0][0]
    got = f"{len(places)}{', in an answer too' if answered else ''}"
    faults.append(("image-token", f"conversations[{where}].value", expected, got))


def _boxes(value: str, place: str, faults: list[Fault]) -> list[TextBox]:
    fit = []
    for box in boxes(value):
        if box.fits:
            fit.append(box)
        else:
            kind = "box" if box.last else "box-in-text"
            faults.append((kind, place, "corners x1 < x2 and y1 < y2 in 0..1", shortened(box.text)))
    return fit


def _answers(fields: dict[str, Any], faults: list[Fault]) -> list[str]:
    """The answers that are right; none where they are not public."""
    value = fields.get("answer", [])
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        faults.append(("record", "answer", "a text or a list of texts", shortened(value)))
        return []
    if "answer" in fields and not (answers and all(each.strip() for each in answers)):
        faults.append(("empty-answer", "answer", "an answer", shortened(value)))
    for each in answers:
        _checked(each, "answer", faults)
    return answers


def _image(value: Any, faults: list[Fault]) -> str | None:
    if not isinstance(value, str):
        faults.append(("record", "image", "the path of one picture, or no such key", shortened(value)))
        return None
    if not value or value != value.strip() or not inside(value):
        faults.append(("path", "image", "a path inside the image folder", shortened(value)))
        return None
    return value


def _checked(text: str, place: str, faults: list[Fault]) -> None:
    if not _is_utf8(text):
        faults.append(("text", place, "text that UTF-8 can hold", shortened(text)))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(text: str) -> str:
    """Case and spaces aside."""
    return " ".join(text.split()).casefold()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _got(fields: dict[str, Any], name: str) -> str:
    return shortened(fields[name]) if name in fields else "nothing"
