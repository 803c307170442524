"""Scenes of real handwritten digits: small pictures whose whole content is known.

A scene is a 24x24 RGB picture of a 3x3 grid. One to four cells hold a handwritten digit of
`sklearn.datasets.load_digits` (1797 digits of 8x8 pixels), each in a colour of its own. The digits are
split by their source, so no digit of a validation or test scene was ever seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

GRID = 3
CELL = 8
SIZE = GRID * CELL
MAX_DIGITS = 4
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (235, 50, 50),
    "green": (50, 210, 70),
    "blue": (70, 110, 255),
    "yellow": (240, 225, 50),
    "purple": (200, 70, 225),
    "white": (245, 245, 245),
}
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
SPLITS = {"train": 1197, "validation": 300, "test": 300}
# The split is the same for every seed: seeds change scenes and models, never which digits are held out.
_SPLIT_SEED = 20250
_INK = 3 / 16


@dataclass(frozen=True)
class Digit:
    """One digit of a scene.

    Attributes:
        value: 0..9.
        color: a key of `COLORS`, used once per scene.
        cell: 0..8, row by row.
        box: (x1, y1, x2, y2) in pixels around the ink, the lower right corner exclusive.
        source: index of the handwritten digit in `load_digits`.
    """

    value: int
    color: str
    cell: int
    box: tuple[int, int, int, int]
    source: int

    @property
    def row(self) -> int:
        """Row of the grid, 0 at the top."""
        return self.cell // GRID

    @property
    def column(self) -> int:
        """Column of the grid, 0 at the left."""
        return self.cell % GRID

    @property
    def place(self) -> str:
        """For example "top left"."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture (24, 24, 3) uint8 and its digits in reading order."""

    image: npt.NDArray[np.uint8]
    digits: tuple[Digit, ...]


# What a text-only task is given.
BLANK = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), ())


@dataclass(frozen=True, eq=False)
class Sources:
    """The handwritten digits of one split: ink (n, 8, 8) float64 in 0..1, labels (n,), indices (n,)."""

    ink: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]


@cache
def load_sources(split: str) -> Sources:
    """The handwritten digits of a split.

    Args:
        split: "train", "validation" or "test".

    Raises:
        ValueError: on any other name.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    # Imported here: planning a demo needs this module, not scikit-learn's second of imports.
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(data.target))
    names = list(SPLITS)
    start = sum(SPLITS[name] for name in names[: names.index(split)])
    chosen = np.sort(order[start : start + SPLITS[split]])
    return Sources(data.images[chosen] / 16.0, data.target[chosen].astype(np.int64), chosen)


def draw_scene(rng: np.random.Generator, sources: Sources, count: int) -> Scene:
    """A random scene of `count` digits (1..4), each jittered by up to a pixel, on a dark background."""
    if not 1 <= count <= MAX_DIGITS:
        raise ValueError(f"count must be 1..{MAX_DIGITS}, got {count}")
    cells = np.sort(rng.permutation(GRID * GRID)[:count])
    colors = rng.permutation(len(COLORS))[:count]
    picks = rng.integers(0, len(sources.labels), count)
    jitter = rng.integers(-1, 2, (count, 2))
    canvas = rng.integers(0, 40, 3) + rng.normal(0.0, 6.0, (SIZE, SIZE, 3))
    names = list(COLORS)
    digits = []
    for cell, color, pick, (dx, dy) in zip(cells.tolist(), colors, picks, jitter.tolist(), strict=True):
        left = min(max(cell % GRID * CELL + dx, 0), SIZE - CELL)
        top = min(max(cell // GRID * CELL + dy, 0), SIZE - CELL)
        ink = sources.ink[pick]
        _paint(canvas, ink, COLORS[names[color]], left, top)
        box = _ink_box(ink, left, top)
        digits.append(Digit(int(sources.labels[pick]), names[color], cell, box, int(sources.indices[pick])))
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(digits))


def _paint(
    canvas: npt.NDArray[np.float64],
    ink: npt.NDArray[np.float64],
    color: tuple[int, int, int],
    left: int,
    top: int,
) -> None:
    area = canvas[top : top + CELL, left : left + CELL]
    opacity = ink[:, :, None]
    area *= 1.0 - opacity
    area += opacity * np.asarray(color)


def _ink_box(ink: npt.NDArray[np.float64], left: int, top: int) -> tuple[int, int, int, int]:
    rows = np.flatnonzero((ink > _INK).any(axis=1))
    columns = np.flatnonzero((ink > _INK).any(axis=0))
    return (
        left + int(columns[0]),
        top + int(rows[0]),
        left + int(columns[-1]) + 1,
        top + int(rows[-1]) + 1,
    )
