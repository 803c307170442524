"""Scores whose items are all alike: they show no noise, and an interval of them has no width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_NAMED = 6
ROUNDING = 1e-12


def alike(ends: Mapping[str, Sequence[float] | None]) -> list[str]:
    """A sentence on the scores whose items are all alike, as where everything is wrong, if there are any.

    Args:
        ends: the low and the high end of each score's interval, or of its items; None: it has none.
    """
    found = [
        name
        for name, pair in ends.items()
        if pair is not None and pair[1] - pair[0] <= ROUNDING * abs(pair[1])
    ]
    if not found:
        return []
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return [
        f"Every item scored alike for {', '.join(found[:MOST_NAMED])}{more}: such items show no noise, and "
        "what is computed from them is less sure than its interval says."
    ]
