"""Whether a picture is there and decodes, its size, and a hash that tells equal files."""

import contextlib
import hashlib
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cotbal.data.turns import temporary_database

if TYPE_CHECKING:
    from PIL import Image

# What image folders hold. Pillow has decoders for many more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pillow's own limit for what may be a bomb; decoded it takes 268 MB.
MOST_PIXELS = 89_478_485
# A JPEG is decoded at the smallest scale above this: all of its data is read, a fraction is computed.
SMALL = (64, 64)
# The number of EXIF's tag.
ORIENTATION = 0x0112
_BLOCK = 1 << 20


class Look(NamedTuple):
    """What a picture is.

    Attributes:
        kind: of the finding, None where there is nothing wrong.
        expected, got: of the finding.
        digest: 16 bytes of the file's hash; b"" where it cannot be read.
        width, height: pixels.
        orientation: EXIF's, 2 to 8 where it turns or mirrors what is stored, else 1.
    """

    kind: str | None
    expected: str
    got: str
    digest: bytes
    width: int
    height: int
    orientation: int = 1


def look(path: Path) -> Look:
    """Opens and decodes a picture; never raises."""
    try:
        found = path.stat()
        # Before it is opened: a pipe would wait for its other end.
        if not stat.S_ISREG(found.st_mode):
            return Look("missing-picture", "a picture's file", "something that is no file", b"", 0, 0)
        if not found.st_size:
            return Look("broken-picture", "a picture", "a file of 0 bytes", b"", 0, 0)
        digest = hashlib.blake2b(digest_size=16)
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        return Look("missing-picture", "a picture's file", (error.strerror or str(error)).lower(), b"", 0, 0)
    return _decoded(path, digest.digest())


def _decoded(path: Path, digest: bytes) -> Look:
    from PIL import Image, UnidentifiedImageError

    width = height = 0
    with warnings.catch_warnings():
        # Broken metadata, which nothing here reads.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    got = f"{width} x {height} of them"
                    return Look(
                        "broken-picture", f"at most {MOST_PIXELS:,} pixels", got, digest, width, height
                    )
                image.draft("RGB", SMALL)
                image.load()
                # Pillow's "I" of these two has 16 bits; of others, in RGB, it is white, and "F" black.
                if image.mode in ("I", "F") and image.format not in ("PNG", "PPM"):
                    return Look("broken-picture", "8 or 16 bits a channel", "32", digest, width, height)
                orientation = _orientation(image)
        except Image.DecompressionBombError as error:
            return Look(
                "broken-picture", f"at most {MOST_PIXELS:,} pixels", str(error), digest, width, height
            )
        # Each format's decoder has errors of its own, and a broken file can meet any.
        except Exception as error:
            what = "no picture of these" if isinstance(error, UnidentifiedImageError) else str(error)
            expected = f"a whole picture ({', '.join(FORMATS)})"
            return Look("broken-picture", expected, what or type(error).__name__, digest, width, height)
    return Look(None, "", "", digest, width, height, orientation)


def _orientation(image: "Image.Image") -> int:
    """EXIF's; 1 for a TIFF, which Pillow turns itself, though an older one leaves the tag."""
    if image.format == "TIFF":
        return 1
    # What reads broken metadata has errors of its own; they break no picture.
    with contextlib.suppress(Exception):
        found = image.getexif().get(ORIENTATION, 1)
        return int(found) if found in range(2, 9) else 1
    return 1


class Seen:
    """What pictures were found to be, by path, on disk: each is opened once."""

    def __init__(self) -> None:
        self._database = temporary_database()
        self._database.execute(
            "CREATE TABLE picture (path TEXT PRIMARY KEY, kind TEXT, expected TEXT, got TEXT, digest BLOB, "
            "width INTEGER, height INTEGER, orientation INTEGER, place BLOB) WITHOUT ROWID"
        )

    def get(self, path: str) -> Look | None:
        """What the picture is; None where it was not looked at."""
        query = "SELECT kind, expected, got, digest, width, height, orientation FROM picture WHERE path = ?"
        found = self._database.execute(query, (path,)).fetchone()
        return None if found is None else Look(*found)

    def put(self, path: str, found: Look, place: bytes) -> None:
        """Takes what a picture is, and the place of the first record with it."""
        self._database.execute(
            "INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (path, *found, place)
        )

    def copies(self) -> Iterator[tuple[bytes, int, str, str]]:
        """Pictures under several paths: the last one's place, how many, and the paths of first and last."""
        query = (
            "SELECT max(place), count(*), min(path), max(path) FROM picture WHERE digest != x'' "
            "GROUP BY digest HAVING count(*) > 1 ORDER BY 1"
        )
        yield from self._database.execute(query)
