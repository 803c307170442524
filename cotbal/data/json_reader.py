"""Annotation files in JSON, record after record: arrays and JSONL, objects of objects, lists in an object."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cotbal import json_records
from cotbal.collect.records import Record
from cotbal.data.inputs import Inputs
from cotbal.json_window import Window


def read_array(path: Path, inputs: Inputs) -> Iterator[Record]:
    """The records of a JSON array of objects, or of JSONL.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else or is cut off; file and record are named.
    """
    for number, record in enumerate(json_records.read_records(path, inputs.reading(path)), start=1):
        yield Record(path, f"record {number}", record.content)


def read_object(path: Path, inputs: Inputs) -> Iterator[tuple[str, Record]]:
    """The members of an object of objects, each with its key; errors as of `read_array`."""
    number = 0
    for number, (key, value) in enumerate(_members(path, inputs, ()), start=1):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: record {number}: expected an object, got {type(value).__name__}")
        yield key, Record(path, f"record {number}", value)
    if not number:
        raise ValueError(f"{path}: expected an object of records, got an empty one")


def read_lists(path: Path, inputs: Inputs, names: Collection[str]) -> Iterator[tuple[str, Record]]:
    """The elements of the lists under `names` in an object, each with its list's name, as they stand.

    Other members are passed over. Errors as of `read_array`; a list that is absent is one.
    """
    numbers = dict.fromkeys(names, 0)
    seen = set()
    for key, value in _members(path, inputs, names):
        if key not in numbers:
            continue
        seen.add(key)
        if value is _EMPTY:
            continue
        numbers[key] += 1
        place = f"{key!r}, record {numbers[key]}"
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {place}: expected an object, got {type(value).__name__}")
        yield key, Record(path, place, value)
    if missing := [name for name in names if name not in seen]:
        raise ValueError(f"{path}: expected an object with the list {missing[0]!r}, got none of that name")


_EMPTY = object()


def _members(path: Path, inputs: Inputs, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The members of the object in a file; those in `lists` element by element, `_EMPTY` before them."""
    number, key = 0, ""
    with path.open("rb") as stream:
        window = Window(stream, inputs.reading(path))
        try:
            if window.next_character() != "{":
                raise ValueError(f"expected a JSON object, got {window.shown()}")
            while _follows(window, "}", number):
                number += 1
                key = _key(window)
                if key in lists and window.next_character() == "[":
                    yield key, _EMPTY
                    for value in _elements(window):
                        yield key, value
                else:
                    yield key, window.record().content
            if window.next_character():
                raise ValueError("expected nothing after the object")
        except ValueError as error:
            where = f", {key!r}" if lists else f", record {number} ({key!r})"
            raise ValueError(f"{path}{where if number else ''}: {error}") from error


def _elements(window: Window) -> Iterator[Any]:
    number = 0
    while _follows(window, "]", number):
        number += 1
        if not window.next_character():
            raise ValueError(f"the file ends inside the list, after its record {number - 1}")
        try:
            value = window.record().content
        except ValueError as error:
            raise ValueError(f"record {number} of the list: {error}") from error
        yield value


def _key(window: Window) -> str:
    character = window.next_character()
    if character != '"':
        raise ValueError(
            f"expected a key in quotes, got {character!r}" if character else "the file ends inside it"
        )
    key = window.record().content
    if window.next_character() != ":":
        raise ValueError("expected ':' after the key; is the file whole?")
    window.place += 1
    if not window.next_character():
        raise ValueError("the file ends inside it")
    return str(key)


def _follows(window: Window, closing: str, number: int) -> bool:
    """Whether another member follows; the place is then at it, else behind the closing bracket.

    The opening bracket is at the place where `number` is 0.
    """
    if not number:
        window.place += 1
    character = window.next_character()
    if character == closing:
        window.place += 1
        return False
    if not character:
        raise ValueError(f"the file ends before {closing!r}")
    if number:
        if character != ",":
            raise ValueError(f"expected ',' or {closing!r} after it, got {character!r}")
        window.place += 1
    return True
