"""ChartQA: `SPLIT/SPLIT_human.json` and `SPLIT/SPLIT_augmented.json` for the splits train, val and test.

Each is an array of `{"imgname", "query", "label"}`; the pictures are `SPLIT/png/IMGNAME`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotbal.collect.records import Record
from cotbal.data.fields import filled
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_array
from cotbal.data.pictures import Pictures
from cotbal.data.turns import Turn
from cotbal.data.vqa import Target, write_vqa

TASK = "ChartQA"


def prepare_chartqa(
    annotations: Path, target: Target, inputs: Inputs, *, validation: int | None = None
) -> list[dict[str, Any]]:
    """Writes the task ChartQA; arguments, result and errors as of `prepare_vqav2`.

    Human and augmented questions are one task; all validation questions are kept without `validation`.
    """
    found = _all(annotations, target.pictures, inputs)
    return [write_vqa(TASK, found, target, inputs, validation=validation)]


def _all(folder: Path, pictures: Pictures, inputs: Inputs) -> Iterator[tuple[str, Turn]]:
    for split in ("train", "val", "test"):
        for kind in ("human", "augmented"):
            path = folder / split / f"{split}_{kind}.json"
            if not there(path, needed=split == "train"):
                continue
            for number, record in enumerate(read_array(path, inputs), start=1):
                for turn in inputs.parsed(_turn, f"{split}-{kind}-{number}", split, record, pictures):
                    yield split, turn


def _turn(id: str, split: str, record: Record, pictures: Pictures) -> Turn:
    image = pictures.path(record, "imgname", f"{split}/png/{record.text('imgname')}")
    return Turn(id, image, filled(record, "query"), filled(record, "label"))
