"""LLaVA's own dataset, collator and trainer with the balanced loss: what `cotbal.patch()` puts in."""

import weakref
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from cotbal.balancing import StaticWeights, Weighting, stated_tasks
from cotbal.integrations.huggingface.checkpoint import load_weighting, save_weighting
from cotbal.integrations.huggingface.collator import TASK_IDS
from cotbal.integrations.llava.card import RunCard
from cotbal.integrations.llava.records import TaskRecords, replace_data_classes
from cotbal.integrations.llava.training import ATTRIBUTE, LLaVATraining
from cotbal.replacements import Replacements


class LLaVAPatch:
    """The replaced attributes of LLaVA's classes, and the trainers that were constructed since.

    Args:
        train_module: `llava.train.train`.
        weighting: the rule that weights come from; None: all 1.
        tasks: task names in the order of their ids, or a mapping from file to task; None: from the weights,
            else from the data.
        level: "linear", "logits" or "auto".
        denominator: "step", "world" or "micro".
    """

    def __init__(
        self,
        train_module: ModuleType,
        *,
        weighting: Weighting | None = None,
        tasks: Iterable[str] | Mapping[str, str] | None = None,
        level: str = "auto",
        denominator: str = "step",
    ) -> None:
        self.module, self.level, self.denominator = train_module, level, denominator
        self.weighting = StaticWeights() if weighting is None else weighting
        file_tasks = tasks if isinstance(tasks, Mapping) else None
        names = None if isinstance(tasks, Mapping) else tasks
        self.records = TaskRecords(stated_tasks(names, self.weighting), file_tasks)
        # Its trainers keep them: a patch holds no model that nobody else holds.
        self._trainings: weakref.WeakSet[LLaVATraining] = weakref.WeakSet()
        self._levels: list[str] = []
        self._replaced = Replacements()
        replace_data_classes(train_module, self.records, self._replaced)
        self._replace_trainer(train_module.LLaVATrainer)

    def describe(self) -> list[str]:
        """A line on each thing that was changed."""
        return [f"replaced {', '.join(self._replaced.names)}", *self._levels]

    def restore(self) -> None:
        """Gives the classes the very attributes that they had, and trainers and models their own code.

        Raises:
            ValueError: something else was put over ours since.
        """
        self._replaced.check()
        self._replaced.undo()
        for training in list(self._trainings):
            training.restore()

    def _card(self, training: LLaVATraining) -> RunCard:
        package = self.module.__name__.split(".")[0]
        loss = f'{training.position.level} level, denominator="{self.denominator}"'
        return RunCard(training.balance, self.records.counts, package=package, loss=loss)

    def _replace_trainer(self, trainer_class: type) -> None:
        own = {name: getattr(trainer_class, name) for name in _HOOKS}

        def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
            own["__init__"](trainer, *args, **kwargs)
            training = LLaVATraining(
                trainer, self.records.tasks, self.weighting, self.level, self.denominator
            )
            trainer.__dict__[ATTRIBUTE] = training
            self._trainings.add(training)
            position = training.position
            self._levels.append(f"{position.name}: {position.level} level, {position.reason}")
            training.add_callback(self._card(training))

        def inner_training_loop(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            with _training(trainer).running():
                return own["_inner_training_loop"](trainer, *args, **kwargs)

        def training_step(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
            return _training(trainer).training_step(own["training_step"], model, inputs)

        def compute_loss(trainer: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            def run(inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
                return own["compute_loss"](trainer, model, inputs, *args, **kwargs)

            return _training(trainer).compute_loss(run, inputs, *args, **kwargs)

        def prediction_step(
            trainer: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            inputs = {key: value for key, value in inputs.items() if key != TASK_IDS}
            return own["prediction_step"](trainer, model, inputs, *args, **kwargs)

        def save_checkpoint(trainer: Any, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
            balance = _training(trainer).balance
            balance.flush()
            # First: a checkpoint that was cut short has it, or is none.
            save_weighting(trainer, balance.weighting, trial)
            own["_save_checkpoint"](trainer, model, trial, *args, **kwargs)

        def load_optimizer_and_scheduler(trainer: Any, checkpoint: str | None) -> None:
            own["_load_optimizer_and_scheduler"](trainer, checkpoint)
            if checkpoint is not None:
                load_weighting(_training(trainer).balance.weighting, checkpoint)

        hooks = (
            init,
            inner_training_loop,
            training_step,
            compute_loss,
            prediction_step,
            save_checkpoint,
            load_optimizer_and_scheduler,
        )
        for name, hook in zip(_HOOKS, hooks, strict=True):
            self._replaced.set(trainer_class, name, hook)


_HOOKS = (
    "__init__",
    "_inner_training_loop",
    "training_step",
    "compute_loss",
    "prediction_step",
    "_save_checkpoint",
    "_load_optimizer_and_scheduler",
)


def _training(trainer: Any) -> LLaVATraining:
    found = trainer.__dict__.get(ATTRIBUTE)
    if found is None:
        raise ValueError("LLaVATrainer: expected one constructed after cotbal.patch(), got an older one")
    return found
