"""The Trainer that divides by the weighted count of all tokens of the optimizer step."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import has_length

from cotbal.balancing import Weighting, Weights, as_weighting, stated_tasks
from cotbal.integrations.huggingface.callback import TaskLogCallback
from cotbal.integrations.huggingface.checkpoint import check_saved, load_weighting, save_weighting
from cotbal.integrations.huggingface.collator import TASK_IDS, VALID_COUNT, collator_tasks
from cotbal.integrations.huggingface.engine import loss_scale, tell_precision, tensor_parallel
from cotbal.integrations.huggingface.heads import inner_model
from cotbal.integrations.huggingface.known_tasks import check_tasks
from cotbal.integrations.huggingface.levels import Installed, install_loss
from cotbal.integrations.huggingface.loaders import TaskLoaders
from cotbal.integrations.huggingface.packing import batch_targets
from cotbal.integrations.huggingface.refusals import (
    another_loss,
    check_accumulation,
    check_steps,
    check_trainer,
    no_step,
    step_within,
)
from cotbal.integrations.huggingface.restored import RestoredWeights
from cotbal.integrations.huggingface.segments import Segments
from cotbal.integrations.huggingface.sft import past_sft
from cotbal.meter import TaskMeter
from cotbal.normalizer import StepNormalizer, loss_factor
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss
from cotbal.tasks import task_names

_logger = logging.getLogger(__name__)


class CoTBalMixin(TaskLoaders, RestoredWeights):
    """Gives a trainer class the exact GTW loss of the whole optimizer step; it stands first.

    The denominator counts all micro-batches of the accumulation window and all ranks, by one all-reduce of a
    few numbers per optimizer step. Evaluation and generation are the trainer's own.

    Args:
        args: those of the trainer; so are all other keyword arguments.
        weights: `TaskWeights`, a mapping from task to weight, a list in the order of the tasks, a file with
            any of these, or a `Weighting`.
        tasks: task names in the order of their ids; by default the collator's. A collator that is no
            `TaskCollator` in training needs them stated: the weights by name tell no order of its ids.
        level: "linear", "logits" or "auto", as in `install_loss`.
        label_smoothing: eps in 0..1, as in `cotbal.gtw_cross_entropy`.
        z_loss: zeta >= 0, likewise.
        memory_budget: of the linear level, as in `cotbal.linear_gtw_cross_entropy`.

    Attributes:
        tasks: task names in the order of their ids.
        weighting: the rule that the weights of each step come from.
        balance: the weighting with each step's denominator, loss and sums.
        installed: at which level the loss is, why, and `restore()` which gives the model its own loss back.

    Raises:
        ValueError: a task without a weight, a setting that cannot be right (each says what to do), or a model
            whose loss cannot be replaced.

    Example:
        >>> class Mine(CoTBalMixin, Trainer):  # or SFTTrainer, or a trainer of your own
        ...     pass
    """

    installed: Installed | None = None
    model_accepts_loss_kwargs: bool
    _tr_loss: Tensor

    def __init__(
        self,
        *args: Any,
        weights: Weights,
        tasks: Iterable[str] | None = None,
        level: str = "auto",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        memory_budget: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        names = collator_tasks(self.data_collator) if tasks is None else task_names(tasks)
        options = {"label_smoothing": label_smoothing, "z_loss": z_loss, "memory_budget": memory_budget}
        self.start_balancing(as_weighting(weights, names), names, level, **options)

    def start_balancing(
        self, weighting: Weighting, tasks: Iterable[str] | None, level: str, **options: Any
    ) -> None:
        """Gives the constructed trainer the loss of the step; `stop_balancing` takes it off again.

        Args:
            weighting: the rule that the weights come from.
            tasks: task names in the order of their ids; None: those of the weights.
            level: as in `install_loss`.
            options: those of `StepLoss`.

        Raises:
            ValueError: as the class does.
        """
        check_trainer(self)
        names, self._are_stated = stated_tasks(tasks, weighting), tasks is not None
        if names is None:
            raise ValueError(
                "tasks: expected the task names in the order of their ids, got none; pass tasks=[...]"
            )
        self.balance = StepBalance(
            names,
            weighting,
            StepLoss(len(names), **options),
            device=self.args.device,
            replicas=tensor_parallel(self),
        )
        self.tasks, self.step_loss = names, self.balance.step_loss
        self._level, self._has_loss = level, False
        self._held: list[Any] = []
        self._opened_at: int | None = None
        self._has_begun = False
        # Of the steps of the training that runs.
        self._planned_accumulation = self.args.gradient_accumulation_steps
        # The epoch that was resumed within.
        self._resumed: Iterator[Any] | None = None
        self._install(self.model)
        self._task_logs = TaskLogCallback(self)
        self.add_callback(self._task_logs)
        # The loss is that of the whole window; older versions are told in training_step.
        self.loss_is_scaled_for_ga = True

    @property
    def weighting(self) -> Weighting:
        """The rule that the weights of each step come from."""
        return self.balance.weighting

    @weighting.setter
    def weighting(self, rule: object) -> None:
        raise AttributeError(
            f"weighting: expected it to stay {type(self.weighting).__name__} once the trainer is made, got "
            "another rule; weights that change by the step are a Weighting whose compute reads self.step"
        )

    @property
    def meter(self) -> TaskMeter:
        """The sums per task since the last logging step."""
        return self.balance.meter

    @property
    def normalizer(self) -> StepNormalizer:
        """What counts the tokens of the step."""
        return self.balance.normalizer

    def stop_balancing(self) -> None:
        """Gives the model its own loss back, and takes the tasks' curves off."""
        if self.installed is not None:
            self.installed.restore()
        self.remove_callback(self._task_logs)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's; the weighting starts afresh, or where the checkpoint that is resumed left it."""
        # Again: a search for hyperparameters changes the arguments, and a user may change the trainer.
        check_trainer(self)
        # Not in `train`: auto_find_batch_size starts again within it.
        self.balance.start()
        check_saved(self, self.balance)
        check_tasks(self)
        tell_precision(self)
        self._held, self._opened_at, self._has_begun = [], None, False
        self._planned_accumulation = self.args.gradient_accumulation_steps
        try:
            outcome = super()._inner_training_loop(*args, **kwargs)
        finally:
            # An iterator that was not emptied has its loading processes, and batches of theirs.
            self._held, self._resumed = [], None
        # No step comes after the last in which it would be checked.
        self.flush()
        return outcome

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of the next optimizer step, and its denominator (0-d float64).

        The step's weights are computed here, from the sums of the steps before and the counts of this one.
        """
        check_accumulation(self, self._planned_accumulation)
        if not self._has_begun:
            self._has_begun = True
            self._resumed = epoch_iterator if self.state.global_step else None
            check_steps(self)
        batches = [*self._held, *self._drawn(epoch_iterator, num_batches - len(self._held), device)]
        self._held = []
        if len(batches) < num_batches:
            if self._opened_at is None and epoch_iterator is not self._resumed:
                raise ValueError(no_step(len(batches), num_batches))
            batches = self._short(epoch_iterator, batches)
        return batches, self._begin_step(batches) if batches else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's part of the step's loss, times k; outside of training the trainer's own loss."""
        task_ids, valid_count = inputs.pop(TASK_IDS, None), inputs.pop(VALID_COUNT, None)
        # By name and where it is asked for, as the Trainer does: a class of one's own may take nothing else.
        asked: dict[str, Any] = {"return_outputs": True} if return_outputs else {}
        if not (model.training and torch.is_grad_enabled()):
            asked |= {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            return super().compute_loss(model, inputs, **asked)
        run = past_sft(self, super().compute_loss)
        self._segments.keep_apart(model, inputs)
        with self.step_loss.micro_batch(task_ids, valid_count):
            # Not told the number of items it neither multiplies nor divides, in any version.
            result = run(model, inputs, **asked)
            loss = result[0] if return_outputs else result
            if not self.step_loss.leads_to(loss):
                raise ValueError(another_loss(self, "one that computes a loss of its own from the logits"))
        self._has_loss = True
        # A tensor of its own: DeepSpeed without ZeRO divides the model's very output by the accumulation.
        loss = loss.clone()
        return (loss, *result[1:]) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trainer's, after which `compute_loss` must have run."""
        if self._opened_at is not None and not self._is_in_window:
            raise ValueError(step_within(self.state.global_step))
        self._has_loss = False
        # Where a class takes no arguments for its loss, older versions would divide by the accumulation.
        accepts, self.model_accepts_loss_kwargs = self.model_accepts_loss_kwargs, True
        try:
            loss = super().training_step(*args, **kwargs)
        finally:
            self.model_accepts_loss_kwargs = accepts
        if not self._has_loss:
            raise ValueError(another_loss(self, "one that does not call super().compute_loss"))
        return loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, without the ids."""
        inputs = {key: value for key, value in inputs.items() if key not in (TASK_IDS, VALID_COUNT)}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The trainer's, with the loss in the new model as well."""
        model = super().call_model_init(trial)
        if self.installed is not None:
            self._install(model)
        return model

    def flush(self) -> None:
        """`StepBalance.flush` and the check of that step: a collective, so every rank calls it.

        Within a step there is nothing to do.
        """
        if not self._is_in_window:
            self.balance.flush()
            self.balance.check_trained()

    def task_logs(self) -> dict[str, float]:
        """`TaskMeter.read` of all finished steps: a collective, so every rank calls it."""
        self.flush()
        return self.balance.meter.read()

    def _drawn(self, epoch_iterator: Iterator[Any], n_batches: int, device: torch.device) -> list[Any]:
        """The next micro-batches, as the trainer's own class draws them or changes them."""
        own = super().get_batch_samples
        # transformers' counts their labels too, by a collective, and does nothing else.
        if own.__func__ is Trainer.get_batch_samples:
            return list(islice(epoch_iterator, n_batches))
        return own(epoch_iterator, n_batches, device)[0]

    def _short(self, epoch_iterator: Iterator[Any], batches: list[Any]) -> list[Any]:
        """What is trained on now of a window that is shorter than was asked for.

        No step is made of it: its gradients would go into the next epoch's first step, under a denominator
        of their own. In an epoch that was resumed within, older versions ask for too many.
        """
        if not has_length(self.callback_handler.train_dataloader):
            self._held = batches
        elif epoch_iterator is self._resumed:
            return batches
        elif batches:
            # Its epochs are planned by that length, which has no place for them.
            _logger.warning(
                "train_dataset: it ended before its length says; the last %d micro-batches of the epoch are "
                "not trained on, as they make no whole step. Make its __len__ exact, or take it away",
                len(batches),
            )
        return []

    def _begin_step(self, batches: list[Any]) -> Tensor:
        balance = self.balance
        for batch in batches:
            targets = batch_targets(batch)
            balance.normalizer.add(targets.labels, targets.task_ids, shift=targets.shift)
        ranks = self.accelerator.num_processes
        factor = loss_factor("transformers>=4.52", ranks=ranks, replicas=balance.replicas)
        denominator = balance.begin_step(factor, loss_scale(self), 1 / len(batches))
        balance.check_trained()
        if self._is_in_window:
            raise ValueError(
                f"step {self.state.global_step + 1}: expected an optimizer step after each window, got none "
                "after the last: its gradients would go into this one (transformers 4.52 resumed before a "
                "short window: upgrade; a train_dataset is shorter than its __len__: make that exact)"
            )
        self._opened_at = self.state.global_step
        return denominator

    @property
    def _is_in_window(self) -> bool:
        """Whether the optimizer step that was begun last is still to come."""
        return self._opened_at == self.state.global_step

    def _install(self, model: nn.Module) -> None:
        if self.installed is not None:
            # A model_init may return the same model again.
            self.installed.restore()
        self.installed = install_loss(model, self.step_loss, self._level, holder=self)
        self._segments = Segments(inner_model(model))
        _logger.info("the loss is at the %s level: %s", self.installed.level, self.installed.reason)

    def _save_checkpoint(self, model: nn.Module, trial: Any, *args: Any, **kwargs: Any) -> None:
        self.flush()
        # First: a checkpoint that was cut short has it, or is none.
        save_weighting(self, self.balance, trial)
        super()._save_checkpoint(model, trial, *args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's; in its `train_loss` the losses since the last logging step are of all ranks."""
        self._tr_loss = self.accelerator.gather(self._tr_loss).mean()
        return super()._finalize_training(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_weighting(self.balance, checkpoint)


class CoTBalTrainer(CoTBalMixin, Trainer):
    """`transformers.Trainer` with the exact GTW loss of the whole optimizer step; see `CoTBalMixin`.

    Example:
        >>> from cotbal.integrations.huggingface import TaskCollator
        >>> from transformers import DataCollatorWithFlattening, TrainingArguments
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=2, **sizes))
        >>> args = TrainingArguments("out", remove_unused_columns=False, use_cpu=True, report_to=[])
        >>> data = [{"input_ids": [5, 6, 7], "task": "GQA"}, {"input_ids": [8, 9], "task": "VQAv2"}]
        >>> collator = TaskCollator(DataCollatorWithFlattening(), ["VQAv2", "GQA"])
        >>> weights = {"VQAv2": 0.8, "GQA": 1.2}
        >>> trainer = CoTBalTrainer(
        ...     model, args, train_dataset=data, data_collator=collator, weights=weights
        ... )
        >>> trainer.tasks, trainer.installed.level
        (('VQAv2', 'GQA'), 'linear')
    """
