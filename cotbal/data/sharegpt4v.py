"""ShareGPT4V: `sharegpt4v_instruct_gpt4-vision_cap100k.json`, LLaVA records of one question each.

`{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}`; `<image>` stands before the
question or behind it. `share-captioner_coco_lcs_sam_1246k_1107.json` has the same form.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cotbal.collect.records import Record
from cotbal.data.fields import checked, members
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_array
from cotbal.data.pictures import Pictures
from cotbal.data.task_folder import TaskFolder
from cotbal.data.turns import Turn, Turns
from cotbal.data.vqa import Target

TASK = "ShareGPT4V"
FILE = "sharegpt4v_instruct_gpt4-vision_cap100k.json"
HELD_OUT = 2_000


def prepare_sharegpt4v(
    annotations: Path, target: Target, inputs: Inputs, *, validation: int = HELD_OUT, test: int = HELD_OUT
) -> list[dict[str, Any]]:
    """Writes the task ShareGPT4V, parted at random into train, validation and test; what was written.

    Args:
        annotations: the file, or its folder.
        target: where to.
        inputs: what is read.
        validation: so many records are held out.
        test: likewise.

    Raises:
        OSError, ValueError: the file is missing, cut off or of another form, or has too few records.
    """
    path = annotations / FILE if annotations.is_dir() else annotations
    there(path, needed=True)
    folder = TaskFolder(target.out, TASK, target.form, [path])
    turns, count = Turns(target.seed, TASK), 0
    for count, turn in enumerate(_turns(path, target.pictures, inputs), start=1):  # noqa: B007 - how many
        turns.add("all", turn)
    if count <= validation + test:
        raise ValueError(
            f"--validation {validation} and --test {test}: expected records left to train on, got {count} in "
            f"all; take fewer{inputs.told_left_out()}"
        )
    drawn = turns.drawn("all")
    folder.held_out("val", map(_question, islice(drawn, validation)))
    folder.held_out("test", map(_question, islice(drawn, test)))
    folder.train(map(_record, drawn), inputs)
    options = {"validation": validation, "test": test, "images": target.pictures.within}
    return [folder.finish("sharegpt4v", target.seed, inputs, **options)]


def _turns(path: Path, pictures: Pictures, inputs: Inputs) -> Iterator[Turn]:
    for place, record in enumerate(read_array(path, inputs)):
        yield from inputs.parsed(_turn, place, record, pictures)


def _turn(place: int, record: Record, pictures: Pictures) -> Turn:
    """The turn; its id is the record's place, as pictures of several sources are numbered alike."""
    image = pictures.path(record, "image", record.text("image"))
    turns = members(record, "conversations")
    if [turn.fields.get("from") for turn in turns] != ["human", "gpt"]:
        raise record.error("conversations", "a question from 'human' and an answer from 'gpt'")
    question, answer = turns[0].text("value"), turns[1].text("value").strip()
    if question.count("<image>") != 1 or not _words(question):
        raise turns[0].error("value", "a question with one '<image>'")
    if not answer:
        raise turns[1].error("value", "a text that is not empty")
    checked(turns[0], "value", _words(question))
    checked(turns[1], "value", answer)
    return Turn(f"{TASK}-{place}", image, question, answer, {"id": checked(record, "id", record.id("id"))})


def _record(turn: Turn) -> dict[str, Any]:
    values = [{"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer}]
    return {"id": turn.extra["id"], "image": turn.image, "conversations": values}


def _question(turn: Turn) -> Turn:
    return turn._replace(question=_words(turn.question), extra={})


def _words(question: str) -> str:
    return question.replace("<image>", "").strip()
