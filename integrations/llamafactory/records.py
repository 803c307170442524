"""One file with the records of several tasks, as `cotbal run` writes it: a dataset for each of them."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.files import slug
from cotbal.integrations.dialogues import read_dialogue
from cotbal.integrations.llamafactory.options import RefusedError
from cotbal.json_records import read_records
from cotbal.json_window import Digest

FOLDER = "_cotbal_data"
# Of what is written; another format is written anew.
_VERSION = 1
_AT_ONCE = 1000
# Keys that say more of what is trained on; LLaMA-Factory would be told nothing of them.
_UNREAD = ("images", "video", "videos", "audio", "audios", "system", "tools", "messages")
# LLaMA-Factory's own, of its format sharegpt.
_NAMES = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class TaskFile:
    """What is in the file.

    Attributes:
        path: the file, a JSON array of records or JSONL.
        sha256: of its bytes.
        tasks: in the order of their first records.
        pictured: whether a record has a picture.
    """

    path: Path
    sha256: str
    tasks: tuple[str, ...]
    pictured: bool


def read_tasks(path: str | Path) -> TaskFile:
    """Looks at every record of the file.

    Raises:
        RefusedError: a file that cannot be read, or a record that is not as it must be; its number is told.
    """
    path, digest = Path(str(path)), hashlib.sha256()
    tasks: dict[str, None] = {}
    pictured = False
    try:
        for task, row in _rows(path, digest):
            tasks[task] = None
            pictured = pictured or bool(row["images"])
    except OSError as error:
        raise RefusedError(
            f"cotbal_data: expected a file that can be read, got {path}: {error.strerror}"
        ) from error
    return TaskFile(path, digest.hexdigest(), tuple(tasks), pictured)


def write_datasets(file: TaskFile, folder: Path) -> Path:
    """The `dataset_dir` of these tasks: the same records, those of a task in their order.

    It is named by the hash of what it holds and appears whole or not at all: several processes may write it.

    Args:
        file: what `read_tasks` found.
        folder: where it lies.

    Raises:
        OSError: the folder cannot be written to.
        RefusedError: the file has changed since.
    """
    name = hashlib.sha256(f"{_VERSION} {file.sha256}".encode()).hexdigest()[:16]
    target, temporary = folder / name, folder / f".{name}.{uuid.uuid4().hex}.tmp"
    if target.exists():
        return target
    temporary.mkdir(parents=True)
    try:
        _write(file, temporary)
        os.rename(temporary, target)
    except OSError:
        # Another node's process on the same disk may have been faster.
        if not target.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write(file: TaskFile, folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    # A schema of our own: that of JSON is guessed from the first records, and pictures may come later.
    turn = pyarrow.struct({"from": pyarrow.string(), "value": pyarrow.string()})
    schema = pyarrow.schema({"conversations": pyarrow.list_(turn), "images": pyarrow.list_(pyarrow.string())})
    names = {task: f"{index:03d}-{slug(task)}.parquet" for index, task in enumerate(file.tasks)}
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        writers = {
            task: stack.enter_context(ParquetWriter(folder / name, schema)) for task, name in names.items()
        }
        waiting: dict[str, list[dict[str, Any]]] = {task: [] for task in file.tasks}
        for task, row in _rows(file.path, digest):
            if task not in waiting:
                # The file has changed, as its hash will tell.
                break
            rows = waiting[task]
            rows.append(row)
            if len(rows) == _AT_ONCE:
                writers[task].write(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()
        for task, writer in writers.items():
            writer.write(pyarrow.Table.from_pylist(waiting[task], schema))
    if digest.hexdigest() != file.sha256:
        raise RefusedError(f"cotbal_data: expected {file.path} as it was at the start, got a changed file")
    common = {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}}
    info = {task: {"file_name": name} | common for task, name in names.items()}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))


def _rows(path: Path, digest: Digest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record's task, and of the rest what is trained on; the digest is told the file's bytes."""
    for number, record in enumerate(_records(path, digest), start=1):
        try:
            row = _row(record)
        except ValueError as error:
            raise RefusedError(f"cotbal_data: {path}, record {number}: {error}") from error
        yield row


def _records(path: Path, digest: Digest) -> Iterator[dict[str, Any]]:
    try:
        for record in read_records(path, digest):
            yield record.content
    except ValueError as error:
        raise RefusedError(f"cotbal_data: {error}") from error


def _row(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    # Exports of a table have each key in every record, empty where it says nothing.
    if unread := [key for key in _UNREAD if record.get(key)]:
        raise ValueError(
            f"expected turns in `conversations`, pictures in `image` and a system message as the first turn, "
            f"got the key {unread[0]!r}; such data are a dataset of dataset_info.json each"
        )
    task = record.get("task")
    if not (isinstance(task, str) and task):
        raise ValueError(f'expected its task, as "task": "vqa", got {task!r}; give each record one')
    dialogue = read_dialogue(record)
    turns = [{"from": _NAMES.get(turn.role, turn.role), "value": turn.text} for turn in dialogue.turns]
    return task, {"conversations": turns, "images": list(dialogue.images)}
