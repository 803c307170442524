"""Where the picture of a record is, as seen from the image folder of the training."""

import posixpath
import re
from pathlib import Path
from typing import NamedTuple

from cotbal.collect.records import Record
from cotbal.files import is_utf8

# From the root, up, to a drive, to another machine; or in no file's name.
_OUTSIDE = re.compile(r"^/|(^|/)\.\.(/|$)|^[A-Za-z]:|://|[\\\0\n\r]")


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
        if not name or name != name.strip() or not inside(name):
            raise record.error(
                field, "a picture inside the image folder, by a relative path with '/' and no '..'"
            )
        path = posixpath.join(self.within, posixpath.normpath(name))
        if self.folder is not None and not (self.folder / path).is_file():
            raise record.error(field, f"a picture at {self.folder / path}")
        return path


def checked_within(text: str) -> str:
    """The folder `within`, checked to be relative and inside; ValueError otherwise."""
    if posixpath.normpath(text) == ".":
        return ""
    if not inside(text):
        raise ValueError(
            "--images: expected the pictures' folder relative to the image folder of the training, with '/' "
            f"and no '..', got {text!r}"
        )
    return posixpath.normpath(text)


def inside(path: str) -> bool:
    """Whether a relative path with '/' stays inside its folder and names something there."""
    return not _OUTSIDE.search(path) and is_utf8(path) and posixpath.normpath(path) != "."
