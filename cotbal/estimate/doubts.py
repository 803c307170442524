"""What may be wrong with the scales of score tables, which no number by itself can tell."""

from __future__ import annotations

from collections.abc import Mapping

from cotbal.estimate.score_csv import EQUAL, MINI, SINGLE_FULL, SINGLE_MINI, two_scales
from cotbal.estimate.seeds import ScoreTable
from cotbal.estimate.transforms import far_bounds


def rows_of(table: ScoreTable) -> dict[str, list[float]]:
    """The scores of a table by the names of its rows."""
    found = {name: getattr(table, name, None) for name in (MINI, EQUAL, SINGLE_MINI, SINGLE_FULL)}
    found |= dict(zip(table.tasks, getattr(table, "probes", ()), strict=False))
    return {name: [float(score) for score in row] for name, row in found.items() if row is not None}


def doubts(tables: Mapping[str, ScoreTable]) -> list[str]:
    """A sentence on each column that may be of two scales, and on each bound that may be of another.

    Args:
        tables: of the same tasks and transforms, one per seed, by what they are called.
    """
    rows = {
        f"{row} of {name}" if len(tables) > 1 else row: scores
        for name, table in tables.items()
        for row, scores in rows_of(table).items()
    }
    first = next(iter(tables.values()))
    return two_scales(first.tasks, rows) + far_bounds(first.tasks, rows, first.transforms)
