"""The Trainer that divides by the weighted count of all tokens of the optimizer step."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from cotbal.integrations.huggingface.collator import TASK_IDS, VALID_COUNT, TaskCollator
from cotbal.integrations.huggingface.logits_level import install_logits_level
from cotbal.normalizer import StepNormalizer, loss_factor
from cotbal.step_loss import StepLoss
from cotbal.weights import TaskWeights


class CoTBalMixin:
    """Before any trainer class: `class Mine(CoTBalMixin, SFTTrainer)`."""

    def __init__(
        self,
        *args: Any,
        weights: Any,
        tasks: Iterable[str] | None = None,
        level: str = "auto",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._evaluates = False
        self._has_sums = False
        weights = TaskWeights.load(weights) if isinstance(weights, str | Path) else weights
        self.tasks = tuple(tasks if tasks is not None else weights)
        self.weighting = _Static(TaskWeights(dict(weights)).to_tensor(self.tasks, self.args.device))
        self.step_loss = StepLoss(len(self.tasks), label_smoothing=label_smoothing, z_loss=z_loss)
        self.normalizer = StepNormalizer(len(self.tasks), replicas=self._replicas())
        self._restore_loss = install_logits_level(self.accelerator.unwrap_model(self.model), self.step_loss)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        if self._evaluates:
            return super()._get_num_items_in_batch(batch_samples, device)
        for batch in batch_samples:
            labels = batch.get("shift_labels", batch["labels"])
            self.normalizer.add(labels, batch[TASK_IDS], shift="shift_labels" not in batch)
        totals = self.normalizer.total(self.step_loss.take_sums() if self._has_sums else None, device)
        self._has_sums = True
        if totals.previous is not None:
            self.weighting.update(totals.previous.loss_sum, totals.previous.token_count)
        weights = self.weighting.weights(totals.counts)
        denominator = weights.double() @ totals.counts
        factor = loss_factor(
            "transformers>=4.52", ranks=self.accelerator.num_processes, replicas=self._replicas()
        )
        self.step_loss.begin_step(weights, denominator / factor)
        return denominator

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        task_ids, valid_count = inputs.pop(TASK_IDS, None), inputs.pop(VALID_COUNT, None)
        if self._evaluates:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.step_loss.micro_batch(task_ids, valid_count):
            # Without the number of items nothing is multiplied or divided after the model.
            return super().compute_loss(model, inputs, return_outputs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._evaluates = True
        try:
            return super().prediction_step(model, inputs, *args, **kwargs)
        finally:
            self._evaluates = False

    def _replicas(self) -> int:
        return self.get_tp_size() if hasattr(self, "get_tp_size") else 1


class CoTBalTrainer(CoTBalMixin, Trainer):
    """`transformers.Trainer` with the exact loss of the step."""


class _Static:
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def weights(self, counts: Tensor) -> Tensor:
        return self.values

    def update(self, loss_sum: Tensor, token_count: Tensor) -> None:
        pass
