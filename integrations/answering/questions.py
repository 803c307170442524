"""Held-out questions as `cotbal prepare` writes them, and the batches in which they are asked."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from cotbal.integrations.pictures import open_rgb

Batch = list[int]


class Question(NamedTuple):
    """A question.

    Attributes:
        id: as the file has it.
        text: what is asked, with the instruction that tells the answer's form.
        image: the picture's path in the image folder; None where there is none.
        task: whose it is, if the file tells.
    """

    id: str | int
    text: str
    image: str | None
    task: str | None


def read_questions(path: Path) -> tuple[list[Question], str]:
    """The questions of a file, a JSON object on each line, and the file's SHA-256.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no question, an id stands twice, or there is none.
    """
    data = path.read_bytes()
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        question = _question(line, f"{path}: line {number}")
        if str(question.id) in lines:
            first = lines[str(question.id)]
            raise ValueError(
                f"{path}: line {number}: question_id {question.id!r} stands twice, first on line {first}"
            )
        lines[str(question.id)] = number
        questions.append(question)
    if not questions:
        raise ValueError(f"{path}: expected a question on each line, got none")
    return questions, hashlib.sha256(data).hexdigest()


def check_images(questions: Sequence[Question], folder: Path) -> None:
    """Raises ValueError where a question's picture is not in the folder; how many, and the first."""
    missing = [q for q in questions if q.image is not None and not (folder / q.image).is_file()]
    if missing:
        first = missing[0]
        raise ValueError(
            f"--image-folder: {len(missing)} of {len(questions)} questions have a picture that is not there, "
            f"the first is question {first.id!r} with {folder / str(first.image)}"
        )


def picture_of(question: Question, folder: Path) -> Image.Image:
    """The picture of a question that has one, in RGB.

    Raises:
        ValueError: the file is no picture.
    """
    try:
        return open_rgb(folder / str(question.image))
    except ValueError as error:
        raise ValueError(f"question {question.id!r}: {error}") from error


def batches_of(questions: Sequence[Question], size: int) -> list[Batch]:
    """The places of the questions, batch after batch: long ones first, so that few are padded much.

    Questions with a picture and without one are asked apart. The same questions always make the same batches.
    """
    batches: list[Batch] = []
    for pictured in (True, False):
        places = [n for n, question in enumerate(questions) if (question.image is not None) == pictured]
        places.sort(key=lambda n: -len(questions[n].text))
        batches += [places[start : start + size] for start in range(0, len(places), size)]
    return batches


def _question(line: bytes, where: str) -> Question:
    try:
        content: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: expected JSON, is the file whole? {error}") from error
    fields = content if isinstance(content, dict) else {}
    id, text, image, task = (fields.get(name) for name in ("question_id", "text", "image", "task"))
    names = all(each is None or isinstance(each, str) for each in (image, task))
    if not isinstance(id, (str, int)) or not isinstance(text, str) or not text.strip() or not names:
        raise ValueError(
            f'{where}: expected {{"question_id", "text", "image"?, "task"?}} as `cotbal prepare` writes '
            f"them, got {line[:80].decode(errors='replace')}"
        )
    return Question(id, text, image, task)
