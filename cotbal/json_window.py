"""A JSON file, piece by piece: the values in it, one after another."""

from __future__ import annotations

import codecs
import json
import re
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
        # Bytes that are no UTF-8 are kept apart, so that the very record is told which holds them.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.text, self.place = "", 0

    def more(self) -> bool:
        """Reads on, as much again as there is; False at the end of the file."""
        left = len(self.text) - self.place
        if left > MAX_RECORD:
            raise ValueError(f"expected records of at most {MAX_RECORD >> 20} MiB, got a larger one")
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
            except ValueError as error:
                # Python's own words speak of a function to call.
                raise ValueError(
                    "expected numbers of at most 4,300 digits, Python's limit, got a longer one"
                ) from error
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

    def mistake_of_line(self) -> str | None:
        """What is wrong with the object on the line itself: `record` looks for its end in the next lines too.

        None where it is the last line, is no object, or is right so far as can be told.
        """
        end = self.text.find("\n", self.place)
        if end < 0 or self.text[self.place] != "{":
            return None
        line = self.text[self.place : end].rstrip()
        try:
            _decode(line)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string") or error.pos == len(line)
            return "the line ends inside it" if cut else _told(error, 0)
        except (RecursionError, ValueError):
            pass
        return None

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


def _told(error: json.JSONDecodeError, start: int) -> str:
    return f"{error.msg.lower()} (its character {error.pos - start + 1})"
