"""Writing files so that a reader, or a kill, never meets half of one, and reading a JSON object."""

import contextlib
import errno
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, SupportsFloat

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def slug(name: str) -> str:
    """The name as part of a file's name: letters and digits of any language, `_`, `.` and `-`.

    Raises:
        ValueError: it begins with a point, as `..` and hidden files do.
    """
    if name.startswith("."):
        raise ValueError(
            f"task {name!r}: expected a name that does not begin with '.', as it names files; give it another"
        )
    return re.sub(r"[^\w.-]+", "_", name)


def writable(text: str) -> str:
    """The text with what UTF-8 cannot hold, as a path's bytes may be, written as its number."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text."""
    return text == writable(text)


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


def write_json(path: Path, value: Any) -> Path:
    """Return `path` after writing `value` there as indented JSON, whole or not at all.

    Raises:
        ValueError: a float is NaN or infinite (they are no JSON).
        TypeError: a value is of a type that JSON does not have.
        OSError: the disk cannot take the file.
    """
    return write_text_atomically(
        path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )


def is_finite(value: SupportsFloat) -> bool:
    """Whether a float64 holds the number, as it does no whole number of 400 digits, which JSON may have."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def finite_or_null(value: Any) -> Any:
    """`value` with null in the place of numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: finite_or_null(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    target = _target(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        os.replace(temporary, target)
    except OSError as error:
        # A write that fails for want of room does not say of which file, and nobody knows the temporary one.
        if str(error.filename) == str(temporary) or (error.filename is None and error.errno in _NO_ROOM):
            error.filename = str(target)
        raise
    finally:
        # Where it cannot be removed, that says nothing: on a disk that is read-only it was never made.
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: str | Path) -> None:
    """Raises what writing a file there would end in, before the work of hours; missing folders are made.

    Raises:
        OSError: the folder cannot be written to.
    """
    target = _target(path)
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        # Nobody knows the temporary one.
        error.filename = str(target)
        raise


def check_outputs(outputs: Iterable[tuple[str, Path | None]], inputs: Iterable[str | Path | None]) -> None:
    """Passes where nothing that is written takes the place of what is read, or of what else is written.

    Args:
        outputs: each with the option that it comes from; None: it is not written.
        inputs: what is read, files and folders; None: not given.

    Raises:
        ValueError: something does.
    """
    taken = {Path(path).resolve(): "which is read" for path in inputs if path is not None}
    for option, path in outputs:
        if path is None:
            continue
        place = path.resolve()
        if place in taken:
            raise ValueError(
                f"{option}: expected a place of its own, got {path}, {taken[place]}; name another"
            )
        taken[place] = f"which {option} writes as well"


def _target(path: str | Path) -> Path:
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object, as an `object_pairs_hook`; ValueError for a key that stands twice."""
    keys = [key for key, _ in pairs]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"each key may stand once, repeated: {', '.join(repeated)}")
    return dict(pairs)


def json_object(path: str | Path, expected: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        expected: what it should hold, for the error message.
        remedy: what to do where it does not, likewise.

    Raises:
        OSError: no such file.
        ValueError: not JSON, or not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected {expected}, a JSON object, got {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected {expected}, a JSON object, got {type(content).__name__}; {remedy}"
        )
    return content
