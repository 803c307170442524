"""Parts of cotbal taken out, one at a time: the table must notice each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from torch import Tensor

from cotbal.integrations.huggingface import CoTBalTrainer, trainer
from cotbal.losses import TaskStats
from cotbal.normalizer import StepNormalizer, StepTotals
from cotbal.step_balance import StepBalance


@contextmanager
def _without_factor() -> Iterator[None]:
    """The averaging over the ranks that follows is not undone."""
    with patch.object(trainer, "loss_factor", lambda *_, **__: 1):
        yield


@contextmanager
def _without_all_reduce() -> Iterator[None]:
    """Each rank divides by its own count."""
    with patch.object(StepNormalizer, "_over_ranks", lambda self, rows: rows):
        yield


@contextmanager
def _without_sums() -> Iterator[None]:
    """Each rank hands its own losses to the weighting."""
    total = StepNormalizer.total

    def own(self: StepNormalizer, previous: TaskStats | None = None, *args: Any) -> StepTotals:
        return total(self, previous, *args)._replace(previous=previous)

    with patch.object(StepNormalizer, "total", own):
        yield


@contextmanager
def _without_window() -> Iterator[None]:
    """The first micro-batch is counted, not the whole window."""
    begin_step = CoTBalTrainer._begin_step

    def of_first(self: CoTBalTrainer, batches: list[Any]) -> Tensor:
        return begin_step(self, batches[:1])

    with patch.object(CoTBalTrainer, "_begin_step", of_first):
        yield


@contextmanager
def _without_shift() -> Iterator[None]:
    """The first label of a sequence, which nothing predicts, is counted."""
    add = StepNormalizer.add

    def unshifted(self: StepNormalizer, *args: Any, **kwargs: Any) -> None:
        add(self, *args, **{**kwargs, "shift": False})

    with patch.object(StepNormalizer, "add", unshifted):
        yield


_BROKEN: dict[str | None, Callable[[], Any]] = {
    None: nullcontext,
    "factor": _without_factor,
    "all-reduce": _without_all_reduce,
    "sums": _without_sums,
    "window": _without_window,
    "shift": _without_shift,
}


@contextmanager
def broken(part: str | None) -> Iterator[None]:
    """A context in which `part` is taken out: "factor", "all-reduce", "sums", "window", "shift", or None.

    So is the check of what was trained on, which notices the last three first: the table has to on its own.
    """
    check = nullcontext() if part is None else patch.object(StepBalance, "check_trained")
    with check, _BROKEN[part]():
        yield
