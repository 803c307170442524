"""Records of JSON files, one after another: the file may be larger than memory, a record not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cotbal.files import writing_atomically
from cotbal.json_window import Digest, Record, Window

# By the ending: a JSON file may have any.
_TABLES = (".csv", ".tsv", ".parquet")
_ENDS = {"json": ("[\n", ",\n", "\n]\n"), "jsonl": ("", "\n", "\n")}


class Broken(NamedTuple):
    """What could not be read in a record's place.

    Attributes:
        message: what was wrong.
        last: whether nothing after it was read.
    """

    message: str
    last: bool


def read_records(path: str | Path, digest: Digest | None = None) -> Iterator[Record]:
    """The records of a file that holds a JSON array of objects, or objects one after another (JSONL).

    Memory: two chunks and the largest record, at most `MAX_RECORD`.

    Args:
        path: the file, UTF-8.
        digest: is told every byte of the file once all records have been taken.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else, is cut off, or a record is no object; its number is told.
    """
    for number, each in enumerate(read_each(path, digest), start=1):
        if isinstance(each, Broken):
            raise ValueError(f"{path}, record {number}: {each.message}")
        yield each


def read_each(path: str | Path, digest: Digest | None = None) -> Iterator[Record | Broken]:
    """The same, with what is broken in the place of an error.

    A broken line of JSONL is passed over, as the next one is a record of its own; what comes after a mistake
    in an array, or in objects of several lines, cannot be told apart and is not read.

    Args:
        path: the file, UTF-8; JSONL by its ending .jsonl, or by a record that stands on one line.
        digest: is told every byte of the file once all has been taken.

    Raises:
        OSError: the file cannot be read.
    """
    suffix = Path(path).suffix.lower()
    number, lines = 0, suffix == ".jsonl"
    with open(path, "rb") as stream:
        window = Window(stream, digest)
        array = window.next_character() == "["
        window.place += array
        while True:
            try:
                if not _another(window, array, number):
                    break
                record = window.object()
            except ValueError as error:
                number += 1
                goes_on = lines and not array
                own = window.mistake_of_line() if goes_on else None
                table = number == 1 and suffix in _TABLES
                hint = "; `cotbal prepare generic` makes records of a table" if table else ""
                yield Broken(f"{own or error}{hint}", not goes_on)
                if not goes_on:
                    return
                window.skip_line()
            else:
                number += 1
                lines = lines or "\n" not in record.text
                yield record
    if not number:
        yield Broken("expected a JSON array of records, or one record per line, got none", last=True)


def _another(window: Window, array: bool, number: int) -> bool:
    """Whether a record follows; in an array the place is then behind the comma."""
    character = window.next_character()
    if not array:
        return bool(character)
    if not character:
        raise ValueError("the file ends inside the array")
    if character == "]":
        window.place += 1
        if window.next_character():
            raise ValueError(f"expected nothing after the array, got {window.shown()}")
        return False
    if number:
        if character != ",":
            raise ValueError(f"expected ',' or ']' before it, got {character!r}")
        window.place += 1
    return True


def with_task(record: Record, task: str) -> str:
    """The record's text, on one line, with the key "task"; null there is none, as in every reader of tasks.

    Raises:
        ValueError: it has that key already and tells another task.
    """
    if record.content.get("task", task) is None:
        return json.dumps(record.content | {"task": task}, ensure_ascii=False)
    text = record.text.replace("\r", " ").replace("\n", " ")
    if "task" not in record.content:
        comma = ", " if record.content else ""
        return f'{{"task": {json.dumps(task, ensure_ascii=False)}{comma}{text[1:].lstrip()}'
    if record.content["task"] != task:
        raise ValueError(
            f"a record says task {record.content['task']!r}, but its file is listed under {task!r}; give "
            "each task files of its own, or name the task as its records do"
        )
    return text


class RecordFile:
    """A file of records that is being written, as a JSON array with a record per line or as JSONL."""

    def __init__(self, stream: BinaryIO, form: str) -> None:
        self._stream, (self._glue, self._between, self._after) = stream, _ENDS[form]
        self._digest = hashlib.sha256()
        self.records = 0

    def add(self, text: str) -> None:
        """Takes a record, JSON on one line."""
        self._write(self._glue + text)
        self._glue = self._between
        self.records += 1

    def close(self) -> str:
        """Ends the file; its SHA-256. JSONL without a record stays empty."""
        if self.records or self._after != "\n":
            self._write(self._after if self.records else self._glue + self._after)
        return self._digest.hexdigest()

    def _write(self, text: str) -> None:
        data = text.encode()
        self._digest.update(data)
        self._stream.write(data)


@contextmanager
def record_file(path: Path, form: str) -> Iterator[RecordFile]:
    """A record file that takes the place of `path` at the end of the block, unless the block raises."""
    with writing_atomically(path) as stream:
        yield RecordFile(stream, form)
