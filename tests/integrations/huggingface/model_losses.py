"""A model in float64 with the balanced loss in it, and Eq. 2 by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.integrations.huggingface.training import (
    WEIGHTS,
    Record,
    collator,
    ignored,
    records,
    tiny_model,
)

# Sums of a few thousand terms, each rounded once, in float64.
BOUND = 1e-12
LEVELS = ("linear", "logits")


def model() -> Any:
    return tiny_model().double().train()


def micro_batches() -> list[list[Record]]:
    """Four of other sizes and shares of tasks; one has nothing to train on, one has one task alone."""
    data = records(16)
    return [data[:3], [*map(ignored, data[3:5])], [data[6], data[7]], data[8:16]]


def batch(rows: Sequence[Record]) -> dict[str, Any]:
    return collator()(rows)


def eq2(model: nn.Module, rows: Sequence[Record]) -> Tensor:
    """sum w c / sum w over the records, one at a time; 0 where there is nothing to train on."""
    mass, total = 0.0, torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(input_ids=ids).logits[0, :-1]
        total = total + WEIGHTS[row["task"]] * nn.functional.cross_entropy(
            logits, labels[1:], reduction="sum"
        )
        mass += WEIGHTS[row["task"]] * int((labels[1:] != -100).sum())
    return total / mass if mass else 0 * total


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([each.grad.flatten() for each in model.parameters()])


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest error over the largest entry; exactly 0 is to be exactly 0."""
    largest = expected.abs().max().item()
    error = (actual - expected).abs().max().item()
    return error / largest if largest else error
