"""Boxes of a picture as text: corners in 0..1 of the picture padded to a square, two decimals."""

import math

# A box may pass the picture's edge by so many pixels, as COCO's do by rounding; it is cut there.
TOLERANCE = 1.0

Corners = tuple[float, float, float, float]


def padded_corners(box: Corners, width: int, height: int) -> Corners:
    """The corners x1, y1, x2, y2 in hundredths of the padded square, whole numbers from 0 to 100.

    The picture stands in the middle of a square of its longer side, as LLaVA pads it.

    Args:
        box: x, y, width and height in pixels, as COCO has it.
        width: of the picture, pixels.
        height: likewise.

    Raises:
        ValueError: the box has no area inside the picture, or passes its edge by more than a pixel.
    """
    x, y, w, h = box
    if not all(map(math.isfinite, box)) or w <= 0 or h <= 0:
        raise ValueError("a box [x, y, width, height] of positive area")
    if x < -TOLERANCE or y < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE:
        raise ValueError(f"a box inside the picture of {width} x {height} pixels")
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    # The cut leaves nothing of one that stands beside the edge.
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"a box inside the picture of {width} x {height} pixels")
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    first, last = _hundredths(x1 + left, x2 + left, side)
    upper, lower = _hundredths(y1 + top, y2 + top, side)
    return first, upper, last, lower


def box_text(box: Corners, width: int, height: int) -> str:
    """The box as `[x1, y1, x2, y2]`; arguments and errors as of `padded_corners`.

    Example:
        >>> box_text((50, 0, 100, 100), width=200, height=100)
        '[0.25, 0.25, 0.75, 0.75]'
    """
    return f"[{', '.join(f'{value / 100:.2f}' for value in padded_corners(box, width, height))}]"


def _hundredths(start: float, end: float, side: int) -> tuple[int, int]:
    first, last = round(100 * start / side), round(100 * end / side)
    # A box without area could not be hit; a thin one is rounded outward.
    if first == last:
        first, last = math.floor(100 * start / side), math.ceil(100 * end / side)
    return first, last
