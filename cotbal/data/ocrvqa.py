"""OCR-VQA: `dataset.json`, an object of books by id.

A book is `{"imageURL", "questions": [...], "answers": [...], "split": 1 | 2 | 3, ...}`; the splits are train,
validation and test. Its picture is `ID` with the ending of its address, as the publisher's script saves it.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from cotbal.collect.records import Record
from cotbal.data.fields import checked
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_object
from cotbal.data.pictures import Pictures
from cotbal.data.turns import Turn
from cotbal.data.vqa import VALIDATION, Target, write_vqa

TASK = "OCRVQA"
CONVERSATIONS = 80_000
_SPLITS = {1: "train", 2: "val", 3: "test"}


def prepare_ocrvqa(
    annotations: Path,
    target: Target,
    inputs: Inputs,
    *,
    validation: int = VALIDATION,
    conversations: int = CONVERSATIONS,
    ending: str | None = None,
) -> list[dict[str, Any]]:
    """Writes the task OCRVQA; result and errors as of `prepare_vqav2`.

    Args:
        annotations: the file, or its folder.
        target: where to.
        inputs: what is read.
        validation: draw so many of the validation questions.
        conversations: draw so many pictures of the training split.
        ending: of every picture's name (".jpg"); that of its address by default.
    """
    if ending and not ending.startswith("."):
        raise ValueError(f"--ending: expected a name's ending with its point, such as .jpg, got {ending!r}")
    path = annotations / "dataset.json" if annotations.is_dir() else annotations
    there(path, needed=True)
    found = _all(path, target.pictures, inputs, ending)
    sizes = {"validation": validation, "conversations": conversations}
    return [write_vqa(TASK, found, target, inputs, **sizes, read=[path])]


def _all(path: Path, pictures: Pictures, inputs: Inputs, ending: str | None) -> Iterator[tuple[str, Turn]]:
    for id, record in read_object(path, inputs):
        yield from chain(*inputs.parsed(_turns, id, record, pictures, ending))


def _turns(id: str, record: Record, pictures: Pictures, ending: str | None) -> list[tuple[str, Turn]]:
    split = record.fields.get("split")
    if type(split) is not int or split not in _SPLITS:
        raise record.error("split", "1, 2 or 3")
    end = PurePosixPath(record.text("imageURL")).suffix if ending is None else ending
    image = pictures.path(record, "imageURL", f"{id}{end}")
    questions, answers = _texts(record, "questions"), _texts(record, "answers")
    if len(questions) != len(answers):
        raise record.error("answers", f"as many as questions, {len(questions)}")
    return [
        (_SPLITS[split], Turn(f"{id}-{number}", image, question, answer))
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]


def _texts(record: Record, name: str) -> list[str]:
    value = record.fields.get(name)
    texts = [each.strip() for each in value if isinstance(each, str)] if isinstance(value, list) else []
    if not texts or not all(texts) or len(texts) != len(record.fields[name]):
        raise record.error(name, "a list of texts, none empty")
    return [checked(record, name, text) for text in texts]
