"""Boxes in text and their overlap (visual grounding)."""

import math
import re
from collections.abc import Sequence
from statistics import StatisticsError, correlation, median

from cotbal.metrics.items import check_pairs

Box = tuple[float, float, float, float]

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")


def parse_box(text: str) -> Box | None:
    """Return the first bracketed `[x1, y1, x2, y2]` of a text, None where it is not four numbers.

    The numbers may be separated by commas, white space or both. Corners in the wrong order are returned as
    they stand.

    Example:
        >>> parse_box("It is at [0.10, 0.20, 0.50, 0.60]."), parse_box("[0.1, 0.2]")
        ((0.1, 0.2, 0.5, 0.6), None)
    """
    found = _BRACKETS.search(text)
    parts = re.split(r"\s*,\s*|\s+", found[1].strip()) if found else []
    if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    x1, y1, x2, y2 = map(float, parts)
    return x1, y1, x2, y2


def box_iou(
    predictions: Sequence[str | Sequence[float]], references: Sequence[str | Sequence[float]]
) -> list[float]:
    """Return the intersection over union of each predicted box with its reference, in 0..1.

    Args:
        predictions: one box per item, as text or as four numbers; a missing, short, inverted, flat or
            non-finite box scores 0.
        references: one box per item, as text or as four numbers.

    Raises:
        ValueError: no items, unequal lengths, a reference that is not a box of positive area, or predictions
            that are on another scale than the references and fit them on theirs.

    Example:
        >>> box_iou(["[0.0, 0.0, 0.5, 1.0]", "no box"], [[0, 0, 1, 1], [0, 0, 1, 1]])
        [0.5, 0.0]
    """
    check_pairs(predictions, references)
    pairs = []
    for place, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        wanted = _box(reference)
        if wanted is None:
            raise ValueError(
                f"references[{place}]: expected a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2, "
                f"got {reference!r}"
            )
        pairs.append((_box(prediction), wanted))
    _check_scale([(given, wanted) for given, wanted in pairs if given is not None], len(pairs))
    return [_iou(given, wanted) if given is not None else 0.0 for given, wanted in pairs]


def acc_at_iou(
    predictions: Sequence[str | Sequence[float]],
    references: Sequence[str | Sequence[float]],
    *,
    threshold: float = 0.5,
) -> list[float]:
    """Return 1 for each box whose overlap with its reference is above `threshold`, else 0.

    This is what the paper's tables call IoU. Arguments and errors are those of `box_iou`.

    Example:
        >>> acc_at_iou(["[0.0, 0.0, 0.6, 1.0]", "[0.0, 0.0, 0.5, 1.0]"], [[0, 0, 1, 1], [0, 0, 1, 1]])
        [1.0, 0.0]
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected 0 <= threshold < 1, got {threshold}")
    # An overlap of just the threshold is not above it: the last bits of a division would say otherwise.
    return [float(overlap > threshold + 1e-9) for overlap in box_iou(predictions, references)]


def _check_scale(pairs: Sequence[tuple[Box, Box]], n_items: int) -> None:
    """Raise ValueError where predicted boxes are on another scale than the references of their items.

    Wrong boxes are no sign of it, however far they lie: some have to be right but for the scale.
    """
    pairs = [(given, wanted) for given, wanted in pairs if min(*given[2:], *wanted[2:]) > 0]
    # One box fits on some scale; and most answers have to be boxes.
    if len(pairs) < max(2, n_items / 2):
        return
    reach, usual = (median(max(box[2:]) for box in boxes) for boxes in zip(*pairs, strict=True))
    seen, largest = (max(max(box[2:]) for box in boxes) for boxes in zip(*pairs, strict=True))
    # No box in 0..1 passes 2. Of larger scales few boxes tell nothing, nor do medians near one another.
    if (reach > 2) == (largest > 2) and (largest <= 2 or len(pairs) < 10 or 0.25 < reach / usual < 4):
        return
    if _are_scaled(pairs):
        raise ValueError(
            f"predictions: expected boxes on the references' scale, with corners up to {largest:g}, got most "
            f"of another, with corners up to {seen:g}, which score about 0 however good they are (scales are "
            "0..1, 0..100, 0..1000 and pixels); convert the predictions, or score them against references on "
            "the scale that the model was trained on"
        )


def _are_scaled(pairs: Sequence[tuple[Box, Box]]) -> bool:
    """Whether boxes of positive far corners are, by more than chance, those of their items on some scale."""
    given, wanted = zip(*pairs, strict=True)
    x, y = (median(box[axis] for box in wanted) / median(box[axis] for box in given) for axis in (2, 3))
    fitting = [_iou((x * x1, y * y1, x * x2, y * y2), box) > 0.5 for (x1, y1, x2, y2), box in pairs]
    # Pictures of several sizes have no scale in common, but no scale of an axis changes near / far.
    near = [
        [[max(-1.0, box[axis] / box[axis + 2]) for box in boxes] for boxes in (given, wanted)]
        for axis in (0, 1)
    ]
    agreement = sum(_correlation(*of_axis) for of_axis in near)
    # One wrong box for all fits about a tenth; of wrong ones the agreement is 0, give or take 1.4 / sqrt(n).
    return 2 * sum(fitting) > len(pairs) or agreement > 4 / math.sqrt(len(pairs))


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    try:
        return correlation(first, second)
    except StatisticsError:  # one item, or the same for all
        return 0.0


def _box(value: str | Sequence[float] | None) -> Box | None:
    """Return a box of positive, finite area, None for anything else."""
    numbers = parse_box(value) if isinstance(value, str) else value
    if numbers is None or len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        return None
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _iou(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (_area(first) + _area(second) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
