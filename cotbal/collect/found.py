"""What a reader finds in one run's files about one task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Found:
    """The scores of one run on one validation set.

    Attributes:
        files: what was read.
        score: the tool's own score, None where it gave none.
        items: {id: score}, None where there are none.
        images: {id: image} of the items that tell theirs.
        higher_is_better: what the files say of the metric, None where they say nothing.
        rules: the matching rules by which the items were scored, to be recorded.
        percent: whether the tool's own score may be the items' mean in percent, which the items then are too.
        number: of how many items the tool says that its score is; None where it says nothing.
    """

    files: tuple[Path, ...]
    score: float | None = None
    items: dict[str, float] | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: bool | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    percent: bool = False
    number: int | None = None
