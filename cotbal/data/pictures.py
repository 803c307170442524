"""Where the picture of a record is, as seen from the image folder of the training."""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cotbal.collect.records import Record


class Pictures(NamedTuple):
    """The pictures of a source.

    Attributes:
        within: their folder inside the image folder of the training ("coco/train2014"), "" for itself.
        folder: the image folder itself; a picture that is not there is then an error.
    """

    within: str = ""
    folder: Path | None = None

    def path(self, record: Record, field: str, name: str) -> str:
        """The picture's path inside the image folder.

        Args:
            record: whose picture it is.
            field: of the record, what tells it.
            name: its path inside `within`.

        Raises:
            ValueError: the name is absolute or climbs out, or the picture is missing.
        """
        if not name or name != name.strip() or not _inside(name):
            raise record.error(
                field, "a picture inside the image folder, by a relative path with '/' and no '..'"
            )
        path = str(PurePosixPath(self.within) / name)
        if self.folder is not None and not (self.folder / path).is_file():
            raise record.error(field, f"a picture at {self.folder / path}")
        return path


def checked_within(text: str) -> str:
    """The folder `within`, checked to be relative and inside; ValueError otherwise."""
    if text and not _inside(text):
        raise ValueError(
            "--images: expected the pictures' folder relative to the image folder of the training, with '/' "
            f"and no '..', got {text!r}"
        )
    return str(PurePosixPath(text)) if text else ""


def _inside(path: str) -> bool:
    if any(character in path for character in "\\\0\n\r") or "://" in path or re.match("[A-Za-z]:", path):
        return False
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and pure.parts != ()
