"""The signals that weights are made from: of one score table or the mean of several seeds, shrunk or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from cotbal.estimate.formulas import contribution_of
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import pooled_scores
from cotbal.estimate.shrinkage import ShrunkSignals, shrunk_signals
from cotbal.estimate.signals import contribution, difficulty


@dataclass(frozen=True)
class TableSignals:
    """Contribution and difficulty of score tables.

    Attributes:
        tables: one per training seed; their mean counts.
        shrink: pull both to their means by their reliability, for which the tables need items.
    """

    tables: Sequence[Scores]
    shrink: bool = False

    @cached_property
    def table(self) -> Scores:
        """The mean of the tables."""
        return pooled_scores(self.tables)

    @cached_property
    def shrunk(self) -> ShrunkSignals | None:
        """How much of each signal is kept; None where none is pulled.

        Raises:
            ValueError: no items, or no task that gains from its own data.
        """
        return shrunk_signals(self.tables) if self.shrink else None

    def contribution(self, on_unidentified: str = "raise") -> Tensor:
        """C (N, N) with diagonal 1; a column that is not identified is pulled where there is shrinkage."""
        if self.shrunk is None:
            return contribution(self.table, on_unidentified=on_unidentified)
        return self.shrunk.contributions(
            contribution_of(self.table.oriented("mini"), self.table.oriented("probes"))
        )

    def difficulty(self, *, precise: bool = False) -> Tensor:
        """D (N,)."""
        hard = difficulty(self.table, precise=precise)
        return hard if self.shrunk is None else self.shrunk.difficulties(hard)
