"""RefCOCO's `refs(...).p`: a pickle, of which nothing but plain data is read."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from cotbal.collect.records import Record
from cotbal.data.inputs import Inputs

# What makes numbers, texts, lists, tuples and dicts; nothing that names a function, a class or its state.
_DATA = frozenset(
    {
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "POP_MARK",
        "DUP",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "GET",
        "BINGET",
        "LONG_BINGET",
    }
)
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def read_refs(path: Path, inputs: Inputs) -> list[Record]:
    """The records of the list in a pickle; the file is read whole.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut off, is no list of objects, or holds anything but plain data.
    """
    data = path.read_bytes()
    inputs.reading(path).update(data)
    _check(path, data)
    try:
        content = _Plain(io.BytesIO(data), encoding="utf-8").load()
    # A damaged pickle can raise anything.
    except Exception as error:
        raise ValueError(f"{path}: expected a pickle, is it whole? {error}") from error
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ValueError(f"{path}: expected a pickled list of dicts, got {type(content).__name__}")
    return [Record(path, f"record {number}", fields) for number, fields in enumerate(content, start=1)]


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"it asks for {module}.{name}")


def _check(path: Path, data: bytes) -> None:
    """Reads the pickle's instructions without following them."""
    number = 0
    try:
        for number, (code, argument, _) in enumerate(pickletools.genops(data)):
            if code.name not in _DATA:
                raise ValueError(
                    f"plain data alone is read, this has the instruction {code.name}, which can run code"
                )
            # The memo is an array: a large number in a small file would take all memory.
            if code.name in _PUTS and (not isinstance(argument, int) or not 0 <= argument <= number):
                raise ValueError(f"a memo of {argument} places")
    except Exception as error:
        raise ValueError(f"{path}: instruction {number}: expected a pickle of plain data: {error}") from error
