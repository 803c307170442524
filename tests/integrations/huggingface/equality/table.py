"""The rows compared with the reference, as lines of text."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.integrations.huggingface.equality.groups import Groups
from tests.integrations.huggingface.equality.outcome import BOUNDS, Distances, distances
from tests.integrations.huggingface.equality.rows import Row

# By how much another loss must miss the bound on the update.
MISS = 100.0


class Line(NamedTuple):
    """A row and its distances from the reference."""

    row: Row
    distances: Distances

    @property
    def excess(self) -> float:
        """The largest of the distances over their bounds."""
        return max(distance / bound for distance, bound in zip(self.distances, BOUNDS, strict=True))

    @property
    def is_exact(self) -> bool:
        # Each by itself: a NaN is not.
        return all(distance <= bound for distance, bound in zip(self.distances, BOUNDS, strict=True))

    @property
    def misses(self) -> bool:
        """Whether the update is a hundred times further away than an exact row may be."""
        return self.distances.update >= MISS * BOUNDS.update

    def __str__(self) -> str:
        verdict = "exact" if self.is_exact else f"off {self.excess:,.0f}-fold"
        return f"{self.row.name:<74}" + "".join(f"{each:>10.1e}" for each in self.distances) + f"  {verdict}"


HEADER = f"{'':<74}{'update':>10}{'gradient':>10}{'loss':>10}"


def lines(groups: Groups, rows: Iterable[Row]) -> Iterator[Line]:
    """Runs each row."""
    for row in rows:
        yield Line(row, distances(groups.run(row), groups.reference(row)))
