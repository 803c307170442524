"""Visual question answering: a source's questions as merged conversations and drawn held-out questions."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.data.conversations import asked, merged
from cotbal.data.inputs import Inputs
from cotbal.data.pictures import Pictures
from cotbal.data.table1 import TABLE
from cotbal.data.task_folder import TaskFolder
from cotbal.data.turns import Turn, Turns

VALIDATION = 20_000
NO_FOLDER = Pictures()


@dataclass(frozen=True)
class Target:
    """Where a preparation writes, and what is alike for all sources.

    Attributes:
        out: the folder of all tasks.
        pictures: where the pictures are.
        seed: decides every order and every draw.
        form: of training records, "json" or "jsonl".
    """

    out: Path
    pictures: Pictures = NO_FOLDER
    seed: int = 0
    form: str = "json"


def write_vqa(
    task: str,
    found: Iterable[tuple[str, Turn]],
    target: Target,
    inputs: Inputs,
    *,
    validation: int | None = None,
    conversations: int | None = None,
    read: Iterable[Path] = (),
) -> dict[str, Any]:
    """Writes a task of visual question answering; what `TaskFolder.finish` returns.

    Args:
        task: a task of the paper.
        found: the split ("train", "val" or "test") and the turn of each question.
        target: where to.
        inputs: what is read.
        validation: draw so many validation questions.
        conversations: draw so many pictures to train on.
        read: files of a user's own names that the turns come from.

    Raises:
        OSError, ValueError: of the readers; a question that stands twice.
    """
    folder, turns = TaskFolder(target.out, task, target.form, read), Turns(target.seed, task)
    for split, turn in found:
        turns.add(split, turn)
    instruction = TABLE[task].instruction
    groups = turns.conversations("train", conversations)
    folder.train(merged(task, groups, instruction=instruction), inputs)
    for split, at_most in (("val", validation), ("test", None)):
        drawn = turns.drawn(split, at_most)
        folder.held_out(split, (turn._replace(question=asked(turn.question, instruction)) for turn in drawn))
    options = {"validation": validation, "conversations": conversations, "images": target.pictures.within}
    return folder.finish(task, target.seed, inputs, **options)
