"""Finding a run's files: one, or as many parts as were declared; never the newest of several."""

import glob
import os
from pathlib import Path

PARTS = {"parts": "the number of files that the glob in from= finds, 1 by default"}


def find_files(folder: Path, pattern: str, *, parts: int | None = 1) -> list[Path]:
    """Return the files in `folder` that `pattern` names, sorted by name, links counted once.

    Args:
        folder: a run's folder.
        pattern: a path or a glob (`**` goes into folders), relative to the folder unless absolute.
        parts: how many files there must be; None, at least one.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: another number of files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "No such folder", str(folder))
    where = os.path.join(glob.escape(str(folder)), pattern)
    # The same file may be reached through a link beside it, as VLMEvalKit makes them.
    by_file = {path.resolve(): path for path in map(Path, glob.glob(where, recursive=True)) if path.is_file()}
    found = sorted(by_file.values(), key=lambda path: (len(path.name), str(path)))
    if not found:
        raise FileNotFoundError(2, "No such file", os.path.join(str(folder), pattern))
    if parts is not None and len(found) != parts:
        names = ", ".join(str(path) for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"{os.path.join(str(folder), pattern)}: expected {parts} file{'s' * (parts > 1)}, got "
            f"{len(found)}: {names}; name a narrower folder or file"
        )
    return found
