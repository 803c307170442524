"""LLaVA's own dataset, collator and trainer with the balanced loss: what `cotbal.patch()` puts in."""

import weakref
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from cotbal.balancing import StaticWeights, Weighting, stated_tasks
from cotbal.integrations.llava.card import RunCard
from cotbal.integrations.llava.hooks import HOOKS, Method, wrapped
from cotbal.integrations.llava.records import COUNTS, TaskRecords, replace_data_classes
from cotbal.integrations.llava.training import ATTRIBUTE, LLaVATraining
from cotbal.replacements import Replacements

# On LLaVA's trainer class while it is patched.
MARK = "cotbal_patch"


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
        self._replaced.set(train_module.LLaVATrainer, MARK, self)
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
        counts = getattr(training.trainer.train_dataset, COUNTS, self.records.counts)
        return RunCard(training.balance, counts, package=package, loss=loss)

    def _replace_trainer(self, trainer_class: type) -> None:
        for name, hook in {"__init__": self._init, **HOOKS}.items():
            self._replaced.set(trainer_class, name, wrapped(getattr(trainer_class, name), hook))

    def _init(self, trainer: Any, own: Method, *args: Any, **kwargs: Any) -> None:
        own(trainer, *args, **kwargs)
        training = LLaVATraining(trainer, self.records.take(), self.weighting, self.level, self.denominator)
        trainer.__dict__[ATTRIBUTE] = training
        self._trainings.add(training)
        position = training.position
        self._levels.append(f"{position.name}: {position.level} level, {position.reason}")
        training.add_callback(self._card(training))
