"""What a command says in one line: the data that it trains on, and why it cannot go on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotbal.balancing import Weighting


def data_in_words(counts: Mapping[Any, int], tasks: Iterable[str], weighting: Weighting | None) -> str:
    """How many records there are of each task, and the weights.

    Args:
        counts: records by task.
        tasks: their names, in order.
        weighting: the rule; None: all 1.
    """
    given = getattr(weighting, "given", None)
    rule = "weights all 1" if weighting is None else f"weights by {type(weighting).__name__}"
    if given is not None:
        rule = "weights " + ", ".join(f"{name} {given[name]:g}" for name in tasks)
    return f"{sum(counts.values())} records: {', '.join(f'{name} {counts[name]}' for name in tasks)}; {rule}"


def refuse(reason: Exception | str) -> int:
    """The exit code, 2, after a line with the reason."""
    text = str(reason)
    if isinstance(reason, OSError) and reason.filename:
        text = f"expected a file that can be read, got {reason.filename}: {reason.strerror}"
    print(f"cotbal: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return 2
