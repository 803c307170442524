"""Boxes that stand in texts, `[x1, y1, x2, y2]` in 0..1 of the picture padded to a square."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{0,9})?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
# Corners have two decimals, and thin boxes are rounded outward.
ROUNDING = 0.011


class TextBox(NamedTuple):
    """A box in a text.

    Attributes:
        text: as it stands there.
        corners: x1, y1, x2, y2.
        last: whether the text ends with it, as an answer of grounding and a question for a region do.
    """

    text: str
    corners: tuple[float, ...]
    last: bool

    @property
    def fits(self) -> bool:
        """Whether it is a box of positive area in 0..1."""
        x1, y1, x2, y2 = self.corners
        return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1

    def in_padding(self, width: int, height: int) -> bool:
        """Whether it passes the edge of a picture of so many pixels in its padded square."""
        side = max(width, height)
        x1, y1, x2, y2 = self.corners
        for low, high, size in ((x1, x2, width), (y1, y2, height)):
            start = ((side - size) // 2) / side
            if low < start - ROUNDING or high > start + size / side + ROUNDING:
                return True
        return False


def boxes(text: str) -> Iterator[TextBox]:
    """The boxes in a text."""
    if "[" in text:
        end = len(text.rstrip())
        for found in _BOX.finditer(text):
            yield TextBox(found[0], tuple(map(float, found.groups())), found.end() == end)
