"""A tiny model, records of uneven tasks and lengths, and what Eq. 2 leads to, in plain torch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator

TASKS = ("short", "long")
WEIGHTS = {"short": 4.0, "long": 0.25}
LEARNING_RATE = 0.1
VOCABULARY = 48
Record = dict[str, Any]


def tiny_model(n_layers: int = 2, seed: int = 0) -> LlamaForCausalLM:
    """A Llama that expects each token to come again, as it does in "short" and not in "long"."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(2)
        model.lm_head.weight.copy_(0.6 * model.model.embed_tokens.weight)
    return model


def records(n: int, seed: int = 1) -> list[Record]:
    """`n` records, two of "short" for each of "long"; every other one is trained on from its first token."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(n):
        is_long = index % 3 == 2
        length = (15 if is_long else 5) + int(torch.randint(0, 6, (1,), generator=generator))
        drawn = torch.randint(3, VOCABULARY, (length,), generator=generator)
        ids = drawn.tolist() if is_long else [int(drawn[0])] * length
        prompt = length // 3 if index % 2 else 0
        labels = [-100] * prompt + ids[prompt:]
        made.append({"input_ids": ids, "labels": labels, "task": TASKS[int(is_long)]})
    return made


def ignored(record: Record) -> Record:
    """The record without anything to train on."""
    return record | {"labels": [-100] * len(record["labels"])}


def pad(features: Sequence[Record]) -> dict[str, Tensor]:
    """Right-padded input_ids, labels and attention_mask, (B, S) each."""
    length = max(len(record["input_ids"]) for record in features)
    rows = [(record["input_ids"], record["labels"], length - len(record["labels"])) for record in features]
    return {
        "input_ids": torch.tensor([ids + [0] * gap for ids, _, gap in rows]),
        "labels": torch.tensor([labels + [-100] * gap for _, labels, gap in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * gap for ids, _, gap in rows]),
    }


def collator() -> TaskCollator:
    return TaskCollator(pad, TASKS)


def arguments(
    folder: Path,
    batch: int = 4,
    accumulation: int = 1,
    steps: int = 5,
    kind: type = TrainingArguments,
    **options: Any,
) -> Any:
    """SGD, which shows a wrong factor, at a rate that moves the parameters by more than 1 %."""
    chosen = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
        "average_tokens_across_devices": True,
        **options,
    }
    return kind(str(folder), **chosen)


class Stream(IterableDataset):
    """Records that come one by one, so that the main process reads them for all."""

    def __init__(self, data: list[Record]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Record]:
        return iter(self.data)


class InOrder:
    """Before a trainer: it takes the records in their order and keeps what training_step returns."""

    losses: list[Tensor]

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.__dict__.setdefault("losses", []).append(loss)
        return loss


class OrderedTrainer(InOrder, CoTBalTrainer):
    pass


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten().double() for each in model.parameters()])


def expected(
    model: nn.Module, windows: Iterable[Sequence[Record]], weights: dict[str, float], clip: float = 0.0
) -> tuple[Tensor, list[float]]:
    """Parameters after one SGD step of Eq. 2 per window, and each window's loss; a record at a time."""
    losses = []
    for window in windows:
        mass, total = 0.0, torch.zeros(())
        for record in window:
            ids, labels = torch.tensor([record["input_ids"]]), torch.tensor(record["labels"])
            rows = model(input_ids=ids).logits[0, :-1]
            loss = nn.functional.cross_entropy(rows, labels[1:], reduction="sum")
            total = total + weights[record["task"]] * loss
            mass += weights[record["task"]] * int((labels[1:] != -100).sum())
        loss = total / mass if mass else total
        model.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= LEARNING_RATE * parameter.grad
        losses.append(loss.item())
    return parameters(model), losses


def deviation(actual: Tensor, reference: Tensor, start: Tensor) -> float:
    """|p - p_ref| / |p_ref - p_0|, for a reference that moved by 1 % or more."""
    moved = (reference - start).norm()
    assert moved >= 0.01 * start.norm(), "the reference hardly moved: nothing would be seen"
    return float((actual - reference).norm() / moved)
