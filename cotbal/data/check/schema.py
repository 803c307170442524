"""One record, a conversation to train on or a held-out question: what is wrong with it and what it holds."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from cotbal.data.check.boxes import TextBox
from cotbal.data.check.fields import (
    Fault,
    check_answers,
    check_boxes,
    check_image,
    check_roles,
    check_text,
    check_turns,
    check_values,
    got_in,
)
from cotbal.data.check.findings import shortened
from cotbal.data.check.lengths import IMAGE, IMAGE_TOKENS, Length, in_tokens, in_words
from cotbal.data.table1 import TABLE
from cotbal.data.tokens import MOST_TOKENS, Counter
from cotbal.files import is_utf8
from cotbal.tasks import DECLARED, find_task, unknown_task

# The turn of a held-out question.
HELD_OUT = (1 << 32) - 1
INSTRUCTIONS = tuple(sorted({row.instruction for row in TABLE.values() if row.instruction}))


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
        image = check_image(fields["image"], faults) if pictured else None
        if "conversations" not in fields and ("question_id" in fields or "text" in fields):
            return self._held_out(fields, faults, task, image)
        if type(fields.get("id")) not in (str, int) or fields["id"] == "":
            faults.append(("id", "id", "a text or a whole number", got_in(fields, "id")))
        roles, values = check_turns(fields, faults)
        whole = bool(roles) and check_roles(roles, faults)
        found = check_values(values, pictured, faults)
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
        if not isinstance(task, str) or not task.strip() or not is_utf8(task):
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
            faults.append(
                ("record", "question_id", "a text or a whole number", got_in(fields, "question_id"))
            )
        text = fields.get("text")
        if not isinstance(text, str) or not text.strip():
            faults.append(("record", "text", "a question", got_in(fields, "text")))
            text = ""
        check_text(text, "text", faults)
        if IMAGE in text:
            faults.append(("image-token", "text", "no <image>, which the evaluation adds", shortened(text)))
        answers = check_answers(fields, faults)
        said = [("text", text), *(("answer", each) for each in answers)] if "image" in fields else []
        found = [(place, box) for place, value in said for box in check_boxes(value, place, faults)]
        comparable = text and (image is not None or "image" not in fields)
        questions = [self._question(HELD_OUT, text, "\0".join(answers))] if comparable else []
        known = id if isinstance(id, str) else str(id) if type(id) is int else None
        return Examined(faults, task, image, True, known, questions, b"", 1, None, found)

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


def _plain(text: str) -> str:
    """Case and spaces aside."""
    return " ".join(text.split()).casefold()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
