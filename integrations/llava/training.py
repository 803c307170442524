"""The optimizer steps of one LLaVATrainer: its windows of micro-batches under one exact denominator."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from cotbal.balancing import StaticWeights, Weighting
from cotbal.integrations.huggingface.callback import TaskLogCallback
from cotbal.integrations.huggingface.checkpoint import check_saved
from cotbal.integrations.huggingface.collator import TASK_IDS
from cotbal.integrations.huggingface.engine import loss_scale
from cotbal.integrations.huggingface.heads import inner_model
from cotbal.integrations.level_names import DENOMINATORS
from cotbal.integrations.llava.expansion import check_expansion, expanded_labels
from cotbal.integrations.llava.position import LLaVAPosition
from cotbal.normalizer import loss_factor
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss

Inputs = dict[str, Any]
TrainingStep = Callable[[Any, Any, Inputs], Tensor]

# Where a trainer keeps what was added to it.
ATTRIBUTE = "cotbal_training"
_STACK = "transformers<4.46"


class LLaVATraining:
    """What `cotbal.patch` adds to one LLaVATrainer.

    Args:
        trainer: constructed, not yet training.
        tasks: task names in the order of their ids.
        weighting: the rule that the weights come from.
        level: as in `LLaVAPosition`.
        denominator: "step" counts the whole optimizer step; "world" this micro-batch on all ranks; "micro"
            this micro-batch on this device.

    Raises:
        ValueError: a setting that cannot be right, with what to do.
    """

    def __init__(
        self, trainer: Any, tasks: tuple[str, ...], weighting: Weighting, level: str, denominator: str
    ) -> None:
        _check_trainer(trainer, weighting, denominator)
        self.trainer, self.denominator = trainer, denominator
        check_expansion(inner_model(trainer.model))
        self.position = LLaVAPosition(trainer.model, StepLoss(len(tasks)), level)
        self.balance = StepBalance(
            tasks,
            weighting,
            self.position.step_loss,
            device=trainer.args.device,
            per_device=denominator == "micro",
        )
        self.balance.check_ranks()
        self._held: list[Inputs] = []
        self._labels: Tensor | None = None
        self._callbacks: list[TrainerCallback] = []
        self.add_callback(TaskLogCallback(SimpleNamespace(task_logs=self.balance.logs, log=trainer.log)))

    def add_callback(self, callback: TrainerCallback) -> None:
        """Adds one to the trainer, until `restore`."""
        self._callbacks.append(callback)
        self.trainer.add_callback(callback)

    def restore(self) -> None:
        """Takes all of it off the trainer and its model."""
        self.position.restore()
        while self._callbacks:
            self.trainer.remove_callback(self._callbacks.pop())
        self.trainer.__dict__.pop(ATTRIBUTE, None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the trainer's inner loop: everything starts afresh."""
        self.balance.start()
        check_saved(self.trainer, self.balance)
        self._held, self._labels = [], None
        accelerator = self.trainer.accelerator
        is_engine = self.trainer.is_deepspeed_enabled
        if is_engine:
            # `accumulate` would enter the engine's no_sync, which ZeRO-2 and 3 refuse; nothing runs within.
            accelerator.no_sync = lambda model: nullcontext()
        try:
            yield
            self.balance.flush()
        finally:
            self._held, self._labels = [], None
            if is_engine:
                del accelerator.no_sync

    def training_step(self, own: TrainingStep, model: Any, inputs: Inputs) -> Tensor:
        """The loss of the window from its closing micro-batch, 0 from the others: they wait for it."""
        if self.denominator != "step":
            return self._run(own, model, [inputs])
        self._check_epoch()
        self._held.append(inputs)
        if not self.trainer.accelerator.sync_gradients:
            return torch.zeros((), device=self.trainer.args.device)
        window, self._held = self._held, []
        return self._run(own, model, window)

    def compute_loss(self, own: Callable[..., Any], inputs: Inputs, *args: Any, **kwargs: Any) -> Any:
        """The trainer's, within the micro-batch; outside of training its own loss."""
        task_ids = inputs.pop(TASK_IDS, None)
        labels = self._labels
        if labels is None:
            return own(inputs, *args, **kwargs)
        valid_count = int((labels[:, 1:] != -100).sum())
        with self.position.micro_batch(labels, task_ids, valid_count):
            return own(inputs, *args, **kwargs)

    def _run(self, own: TrainingStep, model: Any, window: list[Inputs]) -> Tensor:
        labels = [self._count(inputs) for inputs in window]
        self._begin_step()
        self._check_boundary(len(window))
        losses = []
        for index, (inputs, self._labels) in enumerate(zip(window, labels, strict=True)):
            with self._synchronising(model, index == len(window) - 1):
                losses.append(own(self.trainer, model, inputs))
        self._labels = None
        return torch.stack(losses).sum()

    def _count(self, inputs: Inputs) -> Tensor:
        task_ids = inputs.get(TASK_IDS)
        if task_ids is None:
            raise ValueError(
                f"{TASK_IDS}: expected the records' tasks in every training batch, got none; build the "
                "dataset and the collator after cotbal.patch(), by LLaVA's own classes"
            )
        labels = expanded_labels(self.position.model, inputs)
        self.balance.normalizer.add(labels, task_ids.cpu())
        return labels

    def _begin_step(self) -> None:
        trainer = self.trainer
        ranks, accumulation = trainer.accelerator.num_processes, trainer.args.gradient_accumulation_steps
        if self.denominator != "step":
            # Each micro-batch has a mean of its own, which the stack then averages, as it always does.
            accumulation = 1
        if self.denominator == "micro":
            ranks = 1
        factor = loss_factor(_STACK, ranks=ranks, accumulation=accumulation)
        self.balance.begin_step(factor, loss_scale(trainer))

    def _synchronising(self, model: Any, is_last: bool) -> AbstractContextManager[Any]:
        if is_last or self.trainer.is_deepspeed_enabled:
            return nullcontext()
        return self.trainer.accelerator.no_sync(model)

    def _check_epoch(self) -> None:
        loader = self.trainer.callback_handler.train_dataloader
        accumulation = self.trainer.args.gradient_accumulation_steps
        if has_length(loader) and len(loader) < accumulation:
            raise ValueError(
                f"gradient_accumulation_steps: expected at most the {len(loader)} micro-batches of an epoch, "
                f"got {accumulation}: transformers then makes steps of windows that it does not "
                "synchronise. Lower it, or the batch size"
            )

    def _check_boundary(self, n_micro_batches: int) -> None:
        """The engine must make its step where the trainer counts one."""
        if not self.trainer.is_deepspeed_enabled or self.denominator != "step":
            return
        engine = self.trainer.accelerator.deepspeed_engine_wrapped.engine
        accumulation = engine.gradient_accumulation_steps()
        if (engine.micro_steps + n_micro_batches) % accumulation or n_micro_batches != accumulation:
            raise ValueError(
                f"gradient_accumulation_steps: expected DeepSpeed's steps to end with the trainer's, got "
                f"{n_micro_batches} micro-batches of {accumulation} after {engine.micro_steps}; give both "
                'the same number ("auto" in the DeepSpeed configuration)'
            )


def _check_trainer(trainer: Any, weighting: Weighting, denominator: str) -> None:
    args = trainer.args
    if denominator not in DENOMINATORS:
        raise ValueError(f"denominator: expected one of {', '.join(DENOMINATORS)}, got {denominator!r}")
    if denominator != "step" and not isinstance(weighting, StaticWeights):
        raise ValueError(
            f"denominator: expected 'step' with {type(weighting).__name__}, whose weights change with every "
            f"optimizer step, got {denominator!r}"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"n_gpu: expected one GPU per process, got {args.n_gpu}: DataParallel splits a batch without its "
            "step's denominator. Launch with deepspeed or torchrun, or set CUDA_VISIBLE_DEVICES=0"
        )
    if args.label_smoothing_factor != 0:
        raise ValueError(
            f"label_smoothing_factor: expected 0, got {args.label_smoothing_factor}; the Trainer's smoothing "
            "bypasses the task weights"
        )
    if args.past_index >= 0:
        raise ValueError(f"past_index: expected -1, got {args.past_index}: there are no logits behind it")
    # LLaVA-NeXT's "zo" estimates the gradient from two losses, past training_step.
    if (mode := getattr(trainer, "trainer_mode", "regular")) != "regular":
        raise ValueError(
            f"trainer_mode: expected 'regular', got {mode!r}: its steps have no common denominator"
        )
