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


class Broken(NamedTuple):
    """What could not be read in a record's place.

    Attributes:
        message: what was wrong.
        last: whether nothing after it was read.
    """

    message: str
    last: bool


class Digest(Protocol):
    """What is told the bytes of the file as they are read."""

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""


class Window:
    """The part of a file that is being looked at, decoded."""

    def __init__(self, stream: BinaryIO, digest: Digest | None) -> None:
        self._stream, self._digest = stream, digest
        # Bytes that are no UTF-8 are kept apart, so that the very record is told which holds them.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
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
        """The value that starts at the place, which is then behind it.

        Raises:
            ValueError: it is none; the place is then still at its beginning.
        """
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
                raise ValueError("the file ends inside it" if cut else _told(error, self.place)) from error
            text = self.text[self.place : end]
            _in_utf8(text)
            self.place = end
            return Record(text, content)

    def object(self) -> Record:
        """The object that starts at the next character; the errors are those of `record`."""
        character = self.next_character()
        if not character:
            raise ValueError("the file ends inside the array")
        if character != "{":
            raise ValueError(f"expected an object, got {self.shown()}")
        return self.record()

    def shown(self) -> str:
        """The next characters, to be told; ValueError where they are no UTF-8."""
        text = self.text[self.place : self.place + 20]
        _in_utf8(text)
        return repr(text)

    def skip_line(self) -> None:
        """Goes on behind the next line end."""
        while (end := self.text.find("\n", self.place)) < 0:
            self.place = len(self.text)
            if not self.more():
                return
        self.place = end + 1


def _in_utf8(text: str) -> None:
    # What was kept apart is the only thing that cannot be encoded, and this is fast.
    try:
        text.encode()
    except UnicodeEncodeError:
        text.encode(errors="surrogateescape").decode()


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
    number, lines = 0, Path(path).suffix == ".jsonl"
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
                yield Broken(_of_line(window, error) if goes_on else str(error), not goes_on)
                if not goes_on:
                    return
                window.skip_line()
            else:
                number += 1
                lines = lines or "\n" not in record.text
                yield record
    if not number:
        yield Broken("expected a JSON array of records, or one record per line, got none", last=True)


def _of_line(window: Window, error: ValueError) -> str:
    """The mistake in the line itself: the reader looks for a record's end in the next ones too."""
    end = window.text.find("\n", window.place)
    if end < 0 or window.text[window.place] != "{":
        return str(error)
    line = window.text[window.place : end].rstrip()
    try:
        _decode(line)
    except json.JSONDecodeError as own:
        cut = own.msg.startswith("Unterminated string") or own.pos == len(line)
        return "the line ends inside it" if cut else _told(own, 0)
    except RecursionError:
        pass
    return str(error)


def _told(error: json.JSONDecodeError, start: int) -> str:
    return f"{error.msg.lower()} (its character {error.pos - start + 1})"


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
            raise ValueError("expected nothing after the array")
        return False
    if number:
        if character != ",":
            raise ValueError(f"expected ',' or ']' before it, got {character!r}")
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
