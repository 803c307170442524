"""Records of JSON files, one after another: the file may be larger than memory, a record not."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

CHUNK = 1 << 20
# Records are text and names of images; this bounds the memory that a broken file takes.
MAX_RECORD = 64 << 20
# The longest piece of JSON, beside strings, that a chunk's end may cut: "-Infinity", or an escape.
CUT = 12

_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class Record(NamedTuple):
    """A record.

    Attributes:
        text: as it stands in the file.
        content: what it says.
    """

    text: str
    content: dict[str, Any]


class Digest(Protocol):
    """What is told the bytes of the file as they are read."""

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""


class Window:
    """The part of a file that is being looked at, decoded."""

    def __init__(self, stream: BinaryIO, digest: Digest | None) -> None:
        self._stream, self._digest = stream, digest
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.place = "", 0

    def more(self) -> bool:
        """Reads on, as much again as there is; False at the end of the file."""
        left = len(self.text) - self.place
        if left > MAX_RECORD:
            raise ValueError(f"expected records of at most {MAX_RECORD >> 20} MiB")
        data = self._stream.read(max(CHUNK, left))
        if self._digest is not None:
            self._digest.update(data)
        self.text = self.text[self.place :] + self._decoder.decode(data, final=not data)
        self.place = 0
        return bool(data)

    def next_character(self) -> str:
        """The next character that is no space, "" at the end of the file; the place is then at it."""
        while True:
            space = _SPACE.match(self.text, self.place)
            assert space is not None
            self.place = space.end()
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more():
                return ""

    def record(self) -> Record:
        """The value that starts at the place, which is then behind it."""
        while True:
            try:
                content, end = _decode(self.text, self.place)
                # A number goes on in the next chunk, where an object, a list or a text would have ended.
                if end == len(self.text) and self.text[end - 1] not in '}]"' and self.more():
                    continue
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - CUT
                if cut and self.more():
                    continue
                raise ValueError("the file ends inside it" if cut else error.msg.lower()) from error
            text = self.text[self.place : end]
            self.place = end
            return Record(text, content)


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
    number = 0
    with open(path, "rb") as stream:
        window = Window(stream, digest)
        try:
            array = window.next_character() == "["
            if array:
                window.place += 1
            while _another(window, array, number):
                number += 1
                character = window.next_character()
                if not character:
                    raise ValueError("the file ends inside the array")
                if character != "{":
                    raise ValueError(f"expected an object, got {window.text[window.place :][:20]!r}")
                yield window.record()
            if array and window.next_character():
                raise ValueError("expected nothing after the array")
        except ValueError as error:
            where = f", record {number}" if number else ""
            raise ValueError(f"{path}{where}: {error}") from error
    if not number:
        raise ValueError(f"{path}: expected a JSON array of records, or one record per line, got none")


def _another(window: Window, array: bool, number: int) -> bool:
    """Whether a record follows; in an array the place is then behind the comma."""
    character = window.next_character()
    if not array:
        return bool(character)
    if not character:
        raise ValueError("the file ends inside the array")
    if character == "]":
        window.place += 1
        return False
    if number:
        if character != ",":
            raise ValueError(f"expected ',' or ']' after it, got {character!r}")
        window.place += 1
    return True


def with_task(record: Record, task: str) -> str:
    """The record's text, on one line, with the key "task".

    Raises:
        ValueError: it has that key already and tells another task.
    """
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
