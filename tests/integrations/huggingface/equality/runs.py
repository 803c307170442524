"""One row in one process of its group."""

from pathlib import Path
from typing import Any

from torch import nn

from tests.integrations.huggingface.equality.outcome import Outcome
from tests.integrations.huggingface.equality.reference import reference, task_losses
from tests.integrations.huggingface.equality.rows import Row
from tests.integrations.huggingface.equality.samples import pad, samples
from tests.integrations.huggingface.equality.stacks import arguments, environment, model_of
from tests.integrations.huggingface.equality.trainers import (
    LigerLikeTrainer,
    PerDeviceTrainer,
    Recording,
    StockTrainer,
    pad_with_ids,
)

__all__ = ["reference", "run", "task_losses"]


def run(row: Row, folder: str) -> Outcome:
    """Trains as `row` says; each rank of the group calls it with the same row and an empty folder they share."""
    with environment(row):
        model = model_of(row, Path(folder) / "model")
        trainer = make_trainer(row, model, Path(folder) / "out")
        trainer.train()
    taken = trainer.snapshots.taken
    return Outcome(taken["start"], taken["first"], taken["last"], trainer.step_losses)


def make_trainer(row: Row, model: nn.Module, folder: Path) -> Recording:
    shared: dict[str, Any] = {
        "model": model,
        "args": arguments(row, folder),
        "train_dataset": samples(row.data),
    }
    if row.trainer == "stock":
        return StockTrainer(**shared, data_collator=pad)
    if row.trainer == "liger-like":
        return LigerLikeTrainer(**shared, data_collator=pad)
    if row.trainer == "per device":
        return PerDeviceTrainer(**shared, data_collator=pad_with_ids)
    raise AssertionError(row.trainer)
