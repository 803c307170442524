"""The files that a preparation reads: their hashes, how far it is, and the records that it leaves out."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from cotbal.files import writable

Told = Callable[[Path, int], None]
P = ParamSpec("P")
T = TypeVar("T")
SHOWN = 5


class _Reading:
    """Takes a file's bytes as they are read."""

    def __init__(self, path: Path, told: Told) -> None:
        self._path, self._told = path, told
        self.sha256 = hashlib.sha256()

    def update(self, data: bytes, /) -> None:
        self.sha256.update(data)
        self._told(self._path, len(data))


class Inputs:
    """What is read.

    Args:
        told: is told of every piece of a file that has been read, in bytes.
        skip_invalid: leaves out a record with a mistake and counts it, instead of raising.
    """

    def __init__(self, told: Told = lambda path, size: None, *, skip_invalid: bool = False) -> None:
        self._told, self._skip = told, skip_invalid
        self._files: dict[Path, _Reading] = {}
        self.left_out: Counter[str] = Counter()
        self.first_left_out: list[str] = []
        self.cut = 0

    def reading(self, path: Path) -> _Reading:
        """What the reader of a file tells its bytes to."""
        self._files[path] = _Reading(path, self._told)
        return self._files[path]

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of every file read through, by its name with its folder's."""
        files = [(Path(os.path.abspath(path)), each) for path, each in self._files.items()]
        return {writable(f"{path.parent.name}/{path.name}"): each.sha256.hexdigest() for path, each in files}

    def sha256(self, path: Path) -> str:
        """The SHA-256 of what has been read of a file."""
        return self._files[path].sha256.hexdigest()

    def parsed(self, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """What `parse` makes of a record; a ValueError of it is raised, or the record left out: none."""
        try:
            return [parse(*args, **kwargs)]
        except ValueError as error:
            if not self._skip:
                raise ValueError(f"{error}; --skip-invalid leaves such records out") from error
            self.leave_out("invalid", str(error))
            return []

    def told_left_out(self) -> str:
        """What was left out and why, for an error message; "" where nothing was."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        first = f", the first: {self.first_left_out[0]}" if self.first_left_out else ""
        return f"; left out: {reasons}{first}" if reasons else ""

    def leave_out(self, reason: str, message: str | None = None) -> None:
        """Counts a record that is left out."""
        self.left_out[reason] += 1
        if message is not None and len(self.first_left_out) < SHOWN:
            self.first_left_out.append(writable(message))
