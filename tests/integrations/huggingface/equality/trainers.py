"""The trainers of the table: cotbal's, and the controls that must miss."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from tests.integrations.huggingface.equality.outcome import Parameters
from tests.integrations.huggingface.equality.rows import HAS_LIGER
from tests.integrations.huggingface.equality.samples import TASKS, WEIGHTS, pad, task_ids
from tests.integrations.huggingface.equality.stacks import whole_parameters


class Recording:
    """Before a Trainer class: takes the samples in order and keeps what the table compares."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.step_losses: list[float] = []
        self.snapshots = Snapshots()
        self._micro_batches: list[Tensor] = []
        self.add_callback(self.snapshots)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self._micro_batches.append(loss.detach().double())
        if self.accelerator.sync_gradients:
            self.step_losses.append(sum(self._micro_batches).item())
            self._micro_batches = []
        return loss


class Snapshots(TrainerCallback):
    """Copies the whole parameters before the first step, after it and after the last."""

    def __init__(self) -> None:
        self.taken: dict[str, Parameters] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.taken["start"] = whole_parameters(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if state.global_step == 1:
            self.taken["first"] = whole_parameters(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.taken["last"] = whole_parameters(model)


class StockTrainer(Recording, Trainer):
    """The Trainer as it comes: Eq. 1 over the whole step."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        inputs.pop("ids")
        return super().compute_loss(model, inputs, *args, **kwargs)


class LigerTrainer(StockTrainer):
    """Liger's fused linear cross-entropy, a sum over `num_items_in_batch`; without it the same by torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not HAS_LIGER:
            self.model.loss_function = _sum_over_items
            return
        fused = {"fused_linear_cross_entropy": True, "cross_entropy": False}
        others = {"rope": False, "rms_norm": False, "swiglu": False}
        liger = import_module("liger_kernel.transformers")
        liger.apply_liger_kernel_to_llama(**fused, **others, model=self.model)
        assert "liger" in self.model.forward.__module__


def _sum_over_items(
    logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Tensor, **_: Any
) -> Tensor:
    logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


class PerDeviceTrainer(Recording, Trainer):
    """The weighted mean of each micro-batch of each device, averaged by the Trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        ids, labels = inputs.pop("ids"), inputs.pop("labels")[:, 1:]
        losses = F.cross_entropy(model(**inputs).logits[:, :-1].transpose(1, 2), labels, reduction="none")
        weights = torch.tensor([WEIGHTS[task] for task in TASKS])[ids][:, None] * (labels != -100)
        return (weights * losses).sum() / weights.sum()


CONTROLS: dict[str, type[Recording]] = {
    "stock": StockTrainer,
    "liger": LigerTrainer,
    "per device": PerDeviceTrainer,
}


def pad_with_ids(records: list[dict[str, Any]]) -> dict[str, Tensor]:
    """`pad` and the records' task ids."""
    return {**pad(records), "ids": task_ids(records)}
