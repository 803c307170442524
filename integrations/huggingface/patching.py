"""What `cotbal.patch` does to a constructed Trainer, and to a model in a loop of one's own."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from torch import nn
from transformers import Trainer

from cotbal.balancing import StaticWeights, Weighting, stated_tasks
from cotbal.integrations.huggingface.collator import TASK_IDS, TaskCollator, collator_tasks
from cotbal.integrations.huggingface.model_loss import ModelLoss
from cotbal.integrations.huggingface.trainer import CoTBalMixin, CoTBalTrainer

_OLDEST = (4, 52)
_ABSENT = object()


def patch_huggingface(
    target: Any,
    *,
    weighting: Weighting | None = None,
    tasks: Iterable[str] | Mapping[str, str] | None = None,
    level: str = "auto",
    denominator: str = "step",
) -> "TrainerPatch | ModelPatch":
    """Put the balanced loss into a Trainer or a model of transformers; `cotbal.patch` calls this.

    Args:
        target: a constructed `transformers.Trainer`, or a transformers model, PEFT's of one included.
        weighting: the rule that weights come from; None: all 1.
        tasks: task names in the order of their ids; None with a Trainer: those of its `TaskCollator`, else
            those of the weights, which a collator that makes its own ids is refused with.
        level: "linear", "logits" or "auto", as in `install_loss`.
        denominator: "step" with a Trainer; "world" or "micro" with a model.

    Raises:
        ImportError: transformers is too old.
        TypeError: a target of another kind.
        ValueError: a setting that cannot be right, with what to do.
    """
    _check_version()
    if isinstance(tasks, Mapping):
        raise ValueError(
            "tasks: expected the task names in the order of their ids, got a mapping from file to task, "
            "which is for LLaVA's own records; with a Trainer, data_collator=TaskCollator(collator, tasks, "
            "file_field=..., file_tasks=...) reads it"
        )
    weighting = StaticWeights() if weighting is None else weighting
    if isinstance(target, Trainer):
        return TrainerPatch(target, weighting, tasks, level, denominator)
    if isinstance(target, nn.Module):
        return ModelPatch(target, weighting, tasks, level, denominator)
    kind = target.__name__ if isinstance(target, type) else type(target).__name__
    raise TypeError(
        "target: expected the module llava, a constructed transformers.Trainer or a transformers model, got "
        f"{'the class ' if isinstance(target, type) else ''}{kind}"
    )


class TrainerPatch:
    """A Trainer that is a `CoTBalTrainer` until `restore`; its model, callbacks and collator follow.

    Args:
        trainer: constructed, not training.
        weighting: the rule that the weights come from.
        tasks: task names in the order of their ids, or None.
        level: as in `install_loss`.
        denominator: "step".

    Raises:
        ValueError: a setting that cannot be right; the trainer is as it was then.
    """

    def __init__(
        self,
        trainer: Trainer,
        weighting: Weighting,
        tasks: Iterable[str] | None,
        level: str,
        denominator: str,
    ) -> None:
        _check_trainer_options(trainer, denominator)
        self.trainer, self._own_class, self._before = trainer, type(trainer), dict(vars(trainer))
        try:
            self._balance(trainer, weighting, tasks, level)
        except BaseException:
            self._put_back([*vars(trainer)])
            raise
        now = vars(trainer)
        self._changed = [name for name in now if now[name] is not self._before.get(name, _ABSENT)]
        self._class, self._collator = type(trainer), trainer.data_collator

    def describe(self) -> list[str]:
        """A line on each thing that was changed."""
        trainer: Any = self.trainer
        wrapped = self._collator is not self._before["data_collator"]
        name, installed = type(trainer.model).__name__, trainer.installed
        return [
            f"{self._own_class.__name__}: trains as {self._class.__name__}, with the denominator of the step",
            f"tasks: {', '.join(trainer.tasks)}, weights by {type(trainer.weighting).__name__}",
            f"data_collator: {'wrapped in a TaskCollator' if wrapped else 'left as it is'}",
            f"{name}: {installed.level} level, {installed.reason}",
        ]

    def restore(self) -> None:
        """Gives the trainer its class, collator, callbacks and loss back.

        Raises:
            ValueError: another class or collator was put over ours since.
        """
        trainer: Any = self.trainer
        for name, ours in (("__class__", self._class), ("data_collator", self._collator)):
            if getattr(trainer, name) is not ours:
                where = f"{self._own_class.__name__}.{name}"
                raise ValueError(f"{where} was replaced after cotbal.patch(); put that one back first")
        trainer.stop_balancing()
        self._put_back(self._changed)

    def _balance(self, trainer: Any, weighting: Weighting, tasks: Iterable[str] | None, level: str) -> None:
        names = stated_tasks(collator_tasks(trainer.data_collator) if tasks is None else tasks, weighting)
        trainer.__class__ = _balanced_class(self._own_class)
        if names is not None and collator_tasks(trainer.data_collator) is None:
            wrap = TaskCollator if tasks is not None else _NamesAlone
            trainer.data_collator = wrap(trainer.data_collator, names)
        trainer.start_balancing(weighting, names, level)
        try:
            trainer.check_collator()
        except ValueError:
            trainer.stop_balancing()
            raise

    def _put_back(self, names: Iterable[str]) -> None:
        trainer: Any = self.trainer
        for name in names:
            if name in self._before:
                vars(trainer)[name] = self._before[name]
            else:
                vars(trainer).pop(name, None)
        trainer.__class__ = self._own_class


class ModelPatch:
    """A model whose training loss is Eq. 2 over its micro-batch until `restore`; see `ModelLoss`.

    Args:
        model: a transformers model, PEFT's of one, in `torch.compile` or DDP.
        weighting: constant weights.
        tasks: task names in the order of their ids.
        level: as in `install_loss`.
        denominator: "world" or "micro".

    Raises:
        TypeError: not a transformers model.
        ValueError: a setting that cannot be right.
    """

    def __init__(
        self,
        model: nn.Module,
        weighting: Weighting,
        tasks: Iterable[str] | None,
        level: str,
        denominator: str,
    ) -> None:
        _check_model_options(weighting, denominator)
        if tasks is None:
            raise ValueError(
                "tasks: expected the task names in the order of the ids in the batches, got None, and "
                "weights by name tell no order; pass tasks=collator.tasks, those of your TaskCollator"
            )
        self.loss = ModelLoss(model, tasks, weighting, level, denominator)

    def describe(self) -> list[str]:
        """A line on each thing that was changed."""
        loss = self.loss
        ranks = "on all ranks" if loss.denominator == "world" else "on one device"
        return [
            f"{loss.name}: {loss.installed.level} level, {loss.installed.reason}",
            f"denominator: that of each micro-batch {ranks}",
            f"tasks: {', '.join(loss.balance.tasks)}, by cotbal_task_ids in each training batch",
        ]

    def restore(self) -> None:
        """Gives the model its own loss back."""
        self.loss.restore()

    def task_logs(self) -> dict[str, float]:
        """`TaskMeter.read` of the micro-batches since the last call: a collective, every rank calls it."""
        return self.loss.balance.logs()


class _NamesAlone(TaskCollator):
    """In the order of the weights, which is not that of ids that the wrapped collator makes itself."""

    def _batch(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._batch(records)
        if TASK_IDS in batch:
            raise ValueError(
                f"tasks: expected the task names in the order of the {TASK_IDS} that the collator makes, got "
                "None, and weights by name tell no order; pass tasks=[...] in the order of those ids"
            )
        return batch


def _balanced_class(own: type) -> type:
    if own is Trainer:
        return CoTBalTrainer
    return type(f"CoTBal{own.__name__}", (CoTBalMixin, own), {"__module__": own.__module__})


def _check_version() -> None:
    found = version("transformers")
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        raise ImportError(
            f"transformers: expected {_OLDEST[0]}.{_OLDEST[1]} or newer to patch a Trainer or a model, got "
            f"{found}; upgrade it, or patch LLaVA's own code: cotbal.patch()"
        )


def _check_trainer_options(trainer: Trainer, denominator: str) -> None:
    if isinstance(trainer, CoTBalMixin):
        raise ValueError(
            f"target: expected a Trainer without the balanced loss, got a {type(trainer).__name__}, which "
            "has it: give it its weights where it is constructed"
        )
    if denominator != "step":
        raise ValueError(
            f"denominator: expected 'step' with a Trainer, which knows its whole step, got {denominator!r}; "
            "leave it out"
        )


def _check_model_options(weighting: Weighting, denominator: str) -> None:
    if denominator == "step":
        raise ValueError(
            "denominator: expected 'world' or 'micro' with a model, got 'step': a model sees one micro-batch "
            "and not the window of an optimizer step. Use CoTBalTrainer or cotbal.patch(trainer), or choose "
            "a mean over each micro-batch"
        )
    if not isinstance(weighting, StaticWeights):
        raise ValueError(
            f"weights: expected constant ones with a model, got {type(weighting).__name__}, whose weights "
            "change with every optimizer step, which a model does not see; use CoTBalTrainer or "
            "cotbal.patch(trainer)"
        )
