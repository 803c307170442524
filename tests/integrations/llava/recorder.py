"""Writes down what LLaVA's own training did: what its loss came from, and what each micro-step returned.

It sits innermost at `prepare_inputs_labels_for_multimodal` (the model's own labels) and outermost at
`training_step` (what the Trainer adds up), and knows nothing of cotbal.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from llava.model.llava_arch import LlavaMetaForCausalLM
from llava.train.train import LazySupervisedDataset
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

_Row = tuple[int, ...]
# Of the class itself, before anyone patches it.
_ITEM = LazySupervisedDataset.__getitem__


@dataclass
class MicroBatch:
    """What one call of `lm_head` saw: hidden (B, S, D), weight (V, D), labels (B, S), records of the rows."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    records: list[int]


@dataclass
class Step:
    """One optimizer step on one rank."""

    returned: list[float] = field(default_factory=list)
    micro_batches: list[MicroBatch] = field(default_factory=list)


@dataclass
class Recording:
    """One run of `train()` on one rank; `start` and `end` hold the trainable parameters by name."""

    steps: dict[int, Step] = field(default_factory=lambda: defaultdict(Step))
    start: dict[str, Tensor] = field(default_factory=dict)
    end: dict[str, Tensor] = field(default_factory=dict)
    logs: list[dict[str, float]] = field(default_factory=list)
    error: str = ""


class Recorder(TrainerCallback):
    """Fills a `Recording` from the Trainer that it is installed on."""

    def __init__(self, trainer: Trainer, recording: Recording, prepared: dict[str, Any]) -> None:
        self.trainer, self.recording, self.prepared = trainer, recording, prepared
        self.rows = _rows_of(trainer.train_dataset)
        self.training_step = trainer.training_step
        trainer.training_step = self.record_training_step
        trainer.add_callback(self)

    def record_training_step(self, *arguments: Any) -> Tensor:
        step = self.trainer.state.global_step
        result = self.training_step(*arguments)
        self.recording.steps[step].returned.append(result.double().item())
        return result

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        # Not earlier: DeepSpeed's own hook gathers the head's weight and must come before this one.
        self.trainer.model.get_output_embeddings().register_forward_pre_hook(self.record_head)
        self.recording.start = _parameters(self.trainer.model)

    def record_head(self, head: nn.Module, inputs: tuple[Tensor]) -> None:
        if not head.training:
            return
        micro_batch = MicroBatch(
            hidden=inputs[0].detach().clone(),
            weight=head.weight.detach().clone(),
            labels=self.prepared["labels"].clone(),
            records=[self.rows[row] for row in self.prepared["rows"]],
        )
        self.recording.steps[self.trainer.state.global_step].micro_batches.append(micro_batch)

    def finish(self) -> None:
        self.recording.end = _parameters(self.trainer.model)
        self.recording.logs = self.trainer.state.log_history


@contextmanager
def recorded(recording: Recording, order: list[int] | None = None) -> Iterator[None]:
    """Within it each Trainer's `train` is recorded; `order` is that of the records in each epoch.

    Enter it before `cotbal.patch()`: what is wrapped here is to lie inside of the patch.
    """
    prepared: dict[str, Any] = {}
    prepare, train = LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal, Trainer.train

    def record_prepare(model: nn.Module, input_ids: Tensor, *arguments: Any, **keywords: Any) -> Any:
        result = prepare(model, input_ids, *arguments, **keywords)
        # The model's own call in training: what counts tokens beforehand may borrow the method.
        if isinstance(model, nn.Module) and model.training:
            prepared["labels"] = result[5]
            prepared["rows"] = _rows(input_ids, arguments[1])
        return result

    def record_train(trainer: Trainer, *arguments: Any, **keywords: Any) -> Any:
        if order is not None:
            trainer._get_train_sampler = lambda: order
        recorder = Recorder(trainer, recording, prepared)
        result = train(trainer, *arguments, **keywords)
        recorder.finish()
        return result

    LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal, Trainer.train = record_prepare, record_train
    try:
        yield
    finally:
        LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal, Trainer.train = prepare, train


def _rows_of(dataset: LazySupervisedDataset) -> dict[_Row, int]:
    """The record of each row of tokens: found by its content, whatever the loader and the patch do."""
    ids = [
        _ITEM(dataset, index)["input_ids"][: dataset.tokenizer.model_max_length]
        for index in range(len(dataset))
    ]
    rows = {
        tuple(row[row != dataset.tokenizer.pad_token_id].tolist()): index for index, row in enumerate(ids)
    }
    assert len(rows) == len(dataset), "two records look alike after truncation"
    return rows


def _rows(input_ids: Tensor, attention_mask: Tensor) -> list[_Row]:
    return [tuple(row[mask].tolist()) for row, mask in zip(input_ids, attention_mask.bool(), strict=True)]


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gathered: Any = nullcontext()
    if any(hasattr(parameter, "ds_id") for parameter in trained.values()):
        gathered = import_module("deepspeed").zero.GatheredParameters(list(trained.values()))
    with gathered, torch.no_grad():
        return {name: parameter.detach().clone() for name, parameter in trained.items()}
