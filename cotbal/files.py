"""Writing files so that a reader, or a kill, never meets half of one."""

import os
import uuid
from pathlib import Path


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
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
