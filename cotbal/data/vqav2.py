"""VQAv2: `v2_OpenEnded_mscoco_SPLIT_questions.json` and `v2_mscoco_SPLIT_annotations.json` in one folder.

The answer is `multiple_choice_answer`; validation questions also keep the answers of all people, as
`people_answers`. The test questions have no public answers.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotbal.collect.records import Record
from cotbal.data.fields import checked, filled, members, whole
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_lists
from cotbal.data.pictures import Pictures
from cotbal.data.turns import Lookup, Turn
from cotbal.data.vqa import VALIDATION, Target, write_vqa

TASK = "VQAv2"
# split, its name in the files' names, and that of its pictures
_SPLITS = (
    ("train", "train2014", "train2014"),
    ("val", "val2014", "val2014"),
    ("test", "test-dev2015", "test2015"),
)


def prepare_vqav2(
    annotations: Path, target: Target, inputs: Inputs, *, validation: int = VALIDATION
) -> list[dict[str, Any]]:
    """Writes the task VQAv2; what was written.

    Args:
        annotations: the folder of the publisher's files; train2014 is needed, the others may be.
        target: where to; `target.pictures.within` holds the folders train2014, val2014 and test2015.
        inputs: what is read.
        validation: draw so many of the validation questions.

    Raises:
        OSError, ValueError: a file is missing, cut off or of another form; a question without its answer.
    """
    found = _all(annotations, target.pictures, inputs)
    return [write_vqa(TASK, found, target, inputs, validation=validation)]


def _all(folder: Path, pictures: Pictures, inputs: Inputs) -> Iterator[tuple[str, Turn]]:
    for split, name, subset in _SPLITS:
        questions = folder / f"v2_OpenEnded_mscoco_{name}_questions.json"
        if not there(questions, needed=split == "train"):
            continue
        answers = Lookup()
        annotations = folder / f"v2_mscoco_{name}_annotations.json"
        if split != "test":
            _read_answers(annotations, answers, inputs, people=split == "val")
        for _, record in read_lists(questions, inputs, ("questions",)):
            for turn in inputs.parsed(_turn, record, split, subset, answers, pictures):
                if turn is not None:
                    yield split, turn
        if (left := answers.left()) is not None and not inputs.left_out:
            raise ValueError(
                f"{annotations}: question_id {left}: expected its question in {questions}, got none"
            )


def _read_answers(path: Path, answers: Lookup, inputs: Inputs, *, people: bool) -> None:
    for _, record in read_lists(path, inputs, ("annotations",)):
        if not inputs.parsed(_put_answer, record, answers, people=people):
            # Its question is left out with it, and not counted again.
            with contextlib.suppress(ValueError):
                answers.put(whole(record, "question_id"), [])


def _put_answer(record: Record, answers: Lookup, *, people: bool) -> None:
    # Somebody may have said nothing; what is trained on and scored by default must not be empty.
    said = [_said(each) for each in members(record, "answers")] if people else None
    value = [whole(record, "image_id"), filled(record, "multiple_choice_answer"), said]
    if not answers.put(whole(record, "question_id"), value):
        raise record.error("question_id", "an id that stands once")


def _said(answer: Record) -> str:
    return checked(answer, "answer", answer.text("answer").strip())


def _turn(record: Record, split: str, subset: str, answers: Lookup, pictures: Pictures) -> Turn | None:
    """The turn; None where its annotation was left out."""
    id, image_id = whole(record, "question_id"), whole(record, "image_id")
    image = pictures.path(record, "image_id", f"{subset}/COCO_{subset}_{image_id:012d}.jpg")
    question = filled(record, "question")
    if split == "test":
        return Turn(str(id), image, question, None)
    found = answers.take(id)
    if found == []:
        return None
    if found is None or found[0] != image_id:
        raise record.error("question_id", "an annotation with that id and the same image_id")
    return Turn(str(id), image, question, found[1], {"people_answers": found[2]} if found[2] else {})
