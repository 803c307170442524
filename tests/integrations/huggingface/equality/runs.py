"""One row in one process of its group."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import DataCollatorWithFlattening

from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator
from tests.integrations.huggingface.equality.broken import broken
from tests.integrations.huggingface.equality.outcome import Outcome
from tests.integrations.huggingface.equality.reference import reference, task_losses
from tests.integrations.huggingface.equality.rows import Row
from tests.integrations.huggingface.equality.samples import TASKS, WEIGHTS, pad, pad_for_shards, samples
from tests.integrations.huggingface.equality.stacks import arguments, environment, model_of
from tests.integrations.huggingface.equality.trainers import CONTROLS, Recording, pad_with_ids

__all__ = ["reference", "run", "task_losses"]

# The table prints on the processes' standard output; frameworks have much to say there.
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
transformers.utils.logging.disable_progress_bar()


class OurTrainer(Recording, CoTBalTrainer):
    """cotbal's, recorded."""


def run(row: Row, folder: str) -> Outcome:
    """Trains as `row` says; each rank of the group calls it with the same row and an empty folder they share."""
    with environment(row), broken(row.without):
        model = model_of(row, Path(folder) / "model")
        trainer = _trainer(row, model, Path(folder) / "out")
        trainer.train()
    taken = trainer.snapshots.taken
    return Outcome(taken["start"], taken["first"], taken["last"], trainer.step_losses)


def _trainer(row: Row, model: nn.Module, folder: Path) -> Recording:
    shared = {"model": model, "args": arguments(row, folder), "train_dataset": samples(row.data)}
    if row.trainer in CONTROLS:
        return CONTROLS[row.trainer](**shared, data_collator=pad_with_ids)
    weights = dict.fromkeys(TASKS, 1.0) if row.trainer == "equal weights" else WEIGHTS
    collator = TaskCollator(_collator(row), TASKS)
    return OurTrainer(**shared, data_collator=collator, weights=weights, tasks=TASKS, level=row.level)


def _collator(row: Row) -> Callable[[list[Any]], Any]:
    if row.packed:
        return DataCollatorWithFlattening()
    return pad_for_shards if row.shards > 1 else pad
