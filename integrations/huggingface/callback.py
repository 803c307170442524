"""The per-task curves in whatever tracker the Trainer reports to."""

from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TaskLogs(Protocol):
    """A trainer that knows its tasks' sums: `CoTBalMixin`."""

    def task_logs(self) -> dict[str, float]:
        """What the steps since the last call add up to; every rank calls it."""

    def log(self, logs: dict[str, float]) -> None:
        """`Trainer.log`."""


class TaskLogCallback(TrainerCallback):
    """Logs `task_loss/<name>`, `task_tokens/<name>`, `task_accuracy/<name>`, `task_weight/<name>`.

    It does so at each logging step by `Trainer.log`, so every tracker shows them; what the numbers are says
    `cotbal.meter.TaskMeter.read`. A CoTBalTrainer has one; `remove_callback(TaskLogCallback)` takes it away.

    Args:
        trainer: whose tasks are logged.
    """

    def __init__(self, trainer: TaskLogs) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Logs at a logging step."""
        self._log_if_due(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Logs under logging_strategy="epoch"."""
        self._log_if_due(control)

    def _log_if_due(self, control: TrainerControl) -> None:
        if control.should_log and (logs := self.trainer.task_logs()):
            self.trainer.log(logs)
            # Logging took it back; the Trainer's own loss comes next.
            control.should_log = True
