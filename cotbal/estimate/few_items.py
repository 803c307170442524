"""What to know of intervals over few items, or over items that are all alike: they show too little noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FEW = 10
MOST_NAMED = 6
ROUNDING = 1e-12


def few_items(counts: Mapping[str, int]) -> list[str]:
    """A sentence on what is scored on few items, if anything is.

    Args:
        counts: how many items are drawn from, or clusters of them, by the name of what is scored on them.
    """
    found = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    if not found:
        return []
    return [
        f"Fewer than {FEW} items, or clusters of them, of {_named(found)}: so few show little of their "
        "noise. The 95 % intervals of what is computed from them hold the truth in some 50 to 95 % of cases "
        "for 2, in some 75 to 95 % for 3 and in some 85 to 95 % for 5."
    ]


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
    return [
        f"Every item scored alike for {_named(found)}: such items show no noise, and "
        "what is computed from them is less sure than its interval says."
    ]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
