"""GQA: `train_balanced_questions.json`, `val_balanced_questions.json`, `testdev_balanced_questions.json`.

Each is an object of questions by id. The test set of the paper's tables is test-dev, balanced; the answers of
GQA's own test set are not public.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotbal.data.fields import filled
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_object
from cotbal.data.pictures import Pictures
from cotbal.data.turns import Turn
from cotbal.data.vqa import VALIDATION, Target, write_vqa

TASK = "GQA"
_SPLITS = {"train": "train", "val": "val", "test": "testdev"}


def prepare_gqa(
    annotations: Path, target: Target, inputs: Inputs, *, validation: int = VALIDATION
) -> list[dict[str, Any]]:
    """Writes the task GQA; arguments, result and errors as of `prepare_vqav2`.

    The pictures are `NUMBER.jpg` in `target.pictures.within`.
    """
    found = _all(annotations, target.pictures, inputs)
    return [write_vqa(TASK, found, target, inputs, validation=validation)]


def _all(folder: Path, pictures: Pictures, inputs: Inputs) -> Iterator[tuple[str, Turn]]:
    for split, name in _SPLITS.items():
        path = folder / f"{name}_balanced_questions.json"
        if not there(path, needed=split == "train"):
            continue
        for id, record in read_object(path, inputs):
            for turn in inputs.parsed(_turn, id, record, pictures):
                yield split, turn


def _turn(id: str, record: Any, pictures: Pictures) -> Turn:
    image = pictures.path(record, "imageId", f"{record.id('imageId')}.jpg")
    return Turn(id, image, filled(record, "question"), filled(record, "answer"))
