"""Writing files so that a reader, or a kill, never meets half of one."""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def slug(name: str) -> str:
    """The name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def write_text_atomically(path: str | Path, text: str) -> Path:
    """Return `path` after writing `text` there in UTF-8; otherwise as `write_bytes_atomically`."""
    return write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: str | Path, content: bytes) -> Path:
    """Return `path` after writing `content` to it whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the place of `path`.
    Missing folders are made.

    Raises:
        OSError: the folder cannot be written to; an existing file at `path` is then as it was.
    """
    with writing_atomically(path) as stream:
        stream.write(content)
    return Path(path)


def remove_leftovers(folder: str | Path) -> None:
    """Removes what a killed `writing_atomically` left in a folder; nobody else may be writing there."""
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..*\.[0-9a-f]{32}\.tmp", path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` at the end of the block, unless the block raises.

    Missing folders are made.

    Raises:
        OSError: the folder cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
