"""What a preparation writes for a task: its training records, its held-out questions, and their origin.

OUT/TASK/train.json        records to train on (or train.jsonl)
OUT/TASK/val.jsonl         held-out questions, one per line; also test.jsonl, test_NAME.jsonl
OUT/TASK/prepared.json     sizes, hashes, options; written last, so that without it the folder is unfinished
                           or of another origin, and nothing in it is replaced
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cotbal.data.inputs import Inputs
from cotbal.data.own_folder import begin, check_own, finish
from cotbal.data.turns import RepeatedIdError, Turn, to_json
from cotbal.files import check_outputs, remove_leftovers, slug, write_json, writing_atomically
from cotbal.json_records import RecordFile, record_file
from cotbal.tasks import check_estimated

SCHEMA_VERSION = 1
PREPARED = "prepared.json"
FILES = ("train.json", "train.jsonl", "val.jsonl", "test.jsonl")


class TaskFolder:
    """The folder of a task that is being prepared.

    Args:
        out: the folder of all tasks.
        task: the task's name.
        form: of the training records, "json" or "jsonl".
        read: the files that the task is made of.

    Raises:
        ValueError: the folder is that of a task of another name or has a file that is read, or files of
            another origin; or no estimate can have a task of this name.
    """

    def __init__(self, out: Path, task: str, form: str, read: Iterable[Path] = ()) -> None:
        # Before the data are made under it.
        check_estimated(task)
        self.path, self.task, self._form = out / slug(task), task, form
        self._files: dict[str, dict[str, Any]] = {}
        self._refuse_another()
        held_out = [path.name for path in self.path.glob("test_*.jsonl")]
        check_own("--out", self.path, PREPARED, [*FILES, *held_out])
        check_outputs([("--out", self.path / name) for name in (*FILES, PREPARED)], read)
        remove_leftovers(self.path)

    def train(self, records: Iterable[dict[str, Any]], inputs: Inputs) -> None:
        """Writes the training records, each of which gets the task; `inputs` is what they are read from.

        Raises:
            ValueError: there is none.
        """
        other = {"json": "jsonl", "jsonl": "json"}[self._form]
        turns = 0
        with record_file(self.path / f"train.{self._form}", self._form) as file:
            for record in records:
                turns += len(record["conversations"]) // 2
                file.add(to_json(record | {"task": self.task}))
            digest = file.close()
            if not file.records:
                left_out = inputs.told_left_out()
                raise ValueError(f"task {self.task!r}: expected records to train on, got none{left_out}")
            self._mark_unfinished()
        (self.path / f"train.{other}").unlink(missing_ok=True)
        self._keep("train", f"train.{self._form}", digest, records=file.records, turns=turns)

    def held_out(self, name: str, turns: Iterable[Turn]) -> None:
        """Writes held-out questions: "val", "test" or "test_NAME"; no file where there is none.

        Raises:
            RepeatedIdError: an id stands twice.
        """
        with writing_atomically(self.path / f"{name}.jsonl") as stream:
            file = RecordFile(stream, "jsonl")
            ids: set[str] = set()
            for turn in turns:
                if turn.id in ids:
                    raise RepeatedIdError(
                        turn.id,
                        f"task {self.task!r}: expected each held-out question's id once, got {turn.id!r} "
                        "twice: the answers could not be told apart",
                    )
                ids.add(turn.id)
                file.add(to_json(_question(turn) | {"task": self.task}))
            digest = file.close()
            self._mark_unfinished()
        if file.records:
            self._keep(name, f"{name}.jsonl", digest, questions=file.records)
        else:
            (self.path / f"{name}.jsonl").unlink()

    def finish(self, source: str, seed: int, inputs: Inputs, **options: Any) -> dict[str, Any]:
        """Writes what there is and where it came from, and returns it."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "source": source,
            "seed": seed,
            "options": options,
            "splits": self._files,
            "left_out": dict(sorted(inputs.left_out.items())),
            "first_left_out": inputs.first_left_out,
            "cut": inputs.cut,
            "inputs": dict(sorted(inputs.hashes().items())),
        }
        write_json(self.path / PREPARED, content)
        finish(self.path)
        return content

    def _refuse_another(self) -> None:
        """ValueError where the folder is that of a task whose name is another, and the same as a file's."""
        try:
            content = json.loads((self.path / PREPARED).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return
        other = content.get("task") if isinstance(content, dict) else None
        if isinstance(other, str) and other != self.task:
            raise ValueError(
                f"{self.path}: expected the folder of task {self.task!r}, got that of {other!r}; give one of "
                "them another name, or --out another folder"
            )

    def _mark_unfinished(self) -> None:
        """Before the first file takes another's place: what was finished here stays so until then."""
        begin(self.path, PREPARED)

    def _keep(self, split: str, file: str, digest: str, **sizes: int) -> None:
        self._files[split] = {"file": file, **sizes, "sha256": digest}


def _question(turn: Turn) -> dict[str, Any]:
    answer = {} if turn.answer is None else {"answer": turn.answer}
    image = {"image": turn.image} if turn.image else {}
    return {"question_id": turn.id, **image, "text": turn.question, **answer, **turn.extra}
