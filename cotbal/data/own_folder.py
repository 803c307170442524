"""A folder that a command writes: a marker, written last, says that it is its own and finished.

Until then FOLDER/.unfinished says that it is its own, so that the same command goes on after a kill.
"""

from collections.abc import Iterable
from pathlib import Path

UNFINISHED = ".unfinished"


def check_own(option: str, folder: Path, marker: str, names: Iterable[str]) -> None:
    """Passes where the folder is the command's own, or has no file that would be replaced.

    Args:
        option: that named the folder.
        folder: it need not exist.
        marker: what the command writes last.
        names: the files that it writes.

    Raises:
        ValueError: a file of another origin would be lost.
    """
    if any((folder / own).exists() for own in (marker, UNFINISHED)):
        return
    if there := [name for name in names if (folder / name).exists()]:
        raise ValueError(
            f"{option}: expected a new folder, or one of this command with {marker}, got {folder} with a "
            f"{there[0]} of another origin; move that away, or name another folder"
        )


def begin(folder: Path, marker: str) -> None:
    """Marks the folder as unfinished, before the first file takes another's place."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    (folder / marker).unlink(missing_ok=True)


def finish(folder: Path) -> None:
    """Once the marker is written."""
    (folder / UNFINISHED).unlink(missing_ok=True)
