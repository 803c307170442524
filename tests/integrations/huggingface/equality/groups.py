"""Groups of processes that run rows: one group for each number of ranks, started at its first row."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integrations.huggingface.equality.outcome import Outcome
from tests.integrations.huggingface.equality.rows import Row
from tests.ranks import Ranks

# Imported once, by the process that all others are forked from.
_PRELOAD = ("tests.conftest", "tests.integrations.huggingface.equality.runs", "deepspeed")


class Groups:
    """A context: `run` gives the outcome of a row."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.started: dict[int, Ranks] = {}
        self.references: dict[tuple[Any, ...], Outcome] = {}

    def __enter__(self) -> "Groups":
        return self

    def __exit__(self, *_: object) -> None:
        for size in list(self.started):
            self._stop(size)
        self.folder.cleanup()

    def run(self, row: Row) -> Outcome:
        """What all ranks together come to: rank 0's whole parameters, the losses' mean over the ranks."""
        folder = tempfile.mkdtemp(dir=self.folder.name)
        outcomes = self.call(row.ranks, "run", row, folder)
        if row.shards > 1:
            # DeepSpeed keeps the attention that it put in.
            self._stop(row.ranks)
        losses = zip(*(outcome.losses for outcome in outcomes), strict=True)
        return outcomes[0]._replace(losses=[sum(each) / row.ranks for each in losses])

    def reference(self, row: Row) -> Outcome:
        """What `row` must come to; computed once for all rows that share it."""
        key = (row.data, row.lora, row.tied, row.clip, row.dynamic)
        if key not in self.references:
            (self.references[key],) = self.call(1, "reference", row)
        return self.references[key]

    def task_losses(self) -> dict[str, float]:
        """The mean loss of each task before training."""
        return self.call(1, "task_losses", Row("reference"))[0]

    def call(self, n_ranks: int, function: str, *arguments: Any) -> list[Any]:
        """`runs.<function>(*arguments)` on each rank; a group in which it fails is stopped, out of step."""
        everywhere = [[each] * n_ranks for each in (function, *arguments)]
        try:
            results = self._group(n_ranks).run(_by_name, *everywhere)
        except BaseException:
            self._stop(n_ranks)
            raise
        for result in results:
            if isinstance(result, ValueError):
                raise result
        return results

    def _group(self, n_ranks: int) -> Ranks:
        if n_ranks not in self.started:
            folder = Path(tempfile.mkdtemp(dir=self.folder.name))
            self.started[n_ranks] = Ranks(n_ranks, folder, preload=_PRELOAD)
        return self.started[n_ranks]

    def _stop(self, n_ranks: int) -> None:
        if n_ranks in self.started:
            self.started.pop(n_ranks).stop()


def _by_name(function: str, *arguments: Any) -> Any:
    """So that the process which asks need not import transformers."""
    from tests.integrations.huggingface.equality import runs

    chosen: Callable[..., Any] = getattr(runs, function)
    return chosen(*arguments)
