"""One row in one process of its group."""

import logging
import warnings
from pathlib import Path
from typing import Any

import transformers
from transformers import DataCollatorWithFlattening, TrainingArguments

from cotbal.balancing import DWA
from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator
from tests.integrations.huggingface.equality.broken import broken
from tests.integrations.huggingface.equality.loops import train_in_a_loop
from tests.integrations.huggingface.equality.model import tiny_model
from tests.integrations.huggingface.equality.outcome import Outcome
from tests.integrations.huggingface.equality.reference import reference, task_losses
from tests.integrations.huggingface.equality.rows import Row
from tests.integrations.huggingface.equality.samples import TASKS, TEMPERATURE, WEIGHTS, pad, samples
from tests.integrations.huggingface.equality.stacks import arguments, check_stack, environment, model_of
from tests.integrations.huggingface.equality.trainers import CONTROLS, Recording, pad_with_ids

__all__ = ["reference", "run", "run_shipped", "task_losses"]

# The table prints on the processes' standard output; frameworks have much to say there.
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
transformers.utils.logging.disable_progress_bar()


class OurTrainer(Recording, CoTBalTrainer):
    """cotbal's, recorded."""


def run(row: Row, folder: str) -> Outcome:
    """Trains as `row` says; each rank calls it with the same row and the same empty folder."""
    with environment(row), broken(row.without):
        if row.stack == "loop":
            return train_in_a_loop(row)
        trainer = _trainer(row, Path(folder))
        trainer.train()
        check_stack(row, trainer)
    taken = trainer.snapshots.taken
    return Outcome(taken["start"], taken["first"], taken["last"], trainer.step_losses)


def run_shipped(configuration: str, folder: str, max_grad_norm: float) -> dict[str, Any]:
    """What the engine made of a shipped configuration as it is, after 2 steps of AdamW; all ranks call it."""
    row = Row("shipped", ranks=2, per_device=4, stack="zero")
    with environment(row):
        args = TrainingArguments(
            output_dir=folder,
            deepspeed=configuration,
            accelerator_config={"use_configured_state": True},
            per_device_train_batch_size=row.per_device,
            max_grad_norm=max_grad_norm,
            max_steps=2,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        collator = TaskCollator(pad, TASKS)
        trainer = OurTrainer(tiny_model(), args, collator, samples("all"), weights=WEIGHTS)
        trainer.train()
        engine = trainer.model_wrapped
    return {
        "stage": engine.zero_optimization_stage(),
        "clipping": engine.gradient_clipping(),
        "losses": trainer.step_losses,
    }


def _trainer(row: Row, folder: Path) -> Recording:
    # First: a model that DeepSpeed shards from loading on asks for its configuration.
    args = arguments(row, folder / "out")
    shared = {"model": model_of(row, folder / "model"), "args": args, "train_dataset": samples(row.data)}
    if row.trainer in CONTROLS:
        return CONTROLS[row.trainer](**shared, data_collator=pad_with_ids)
    weights = DWA(window=1, temperature=TEMPERATURE) if row.dynamic else WEIGHTS
    weights = dict.fromkeys(TASKS, 1.0) if row.trainer == "equal weights" else weights
    collator = TaskCollator(DataCollatorWithFlattening() if row.packed else pad, TASKS)
    return OurTrainer(**shared, data_collator=collator, weights=weights, tasks=TASKS, level=row.level)
