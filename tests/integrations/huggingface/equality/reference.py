"""The reference: Eq. 2 written out, batches of 8 in one process, plain gradient descent."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.integrations.huggingface.equality.model import tiny_model, trained
from tests.integrations.huggingface.equality.outcome import Outcome, Parameters
from tests.integrations.huggingface.equality.rows import Row
from tests.integrations.huggingface.equality.samples import (
    BATCH,
    TASKS,
    TEMPERATURE,
    WEIGHTS,
    pad,
    samples,
    task_ids,
)


def reference(row: Row) -> Outcome:
    """What `row` must come to; of the row only data, LoRA, tying, clipping and dynamic weights matter."""
    model, records = tiny_model(row.lora, row.tied), samples(row.data)
    history: list[list[float | None]] = [[None] * len(TASKS)]
    snapshots, losses = [_copy(model)], []
    for start in range(0, len(records), BATCH):
        window = records[start : start + BATCH]
        weights = _dynamic_weights(history) if row.dynamic else [WEIGHTS[task] for task in TASKS]
        token_loss, valid = token_losses(model, window)
        loss = _weighted_mean(token_loss, valid, torch.tensor(weights, dtype=torch.float64)[task_ids(window)])
        history.append(_last_losses(token_loss, valid, task_ids(window), history[-1]))
        losses.append(loss.item())
        loss.backward()
        if row.clip:
            nn.utils.clip_grad_norm_(model.parameters(), row.clip)
        with torch.no_grad():
            for parameter in trained(model).values():
                parameter -= row.learning_rate * parameter.grad
        model.zero_grad()
        snapshots.append(_copy(model))
    return Outcome(snapshots[0], snapshots[1], snapshots[-1], losses)


def token_losses(model: nn.Module, records: list[dict]) -> tuple[Tensor, Tensor]:
    """The loss of each token in float64, (B, S - 1), 0 where it is not valid, and whether it is valid."""
    batch = pad(records)
    labels = batch.pop("labels")[:, 1:]
    logits = model(**batch).logits[:, :-1].double()
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none"), labels != -100


def task_losses(row: Row) -> dict[str, float]:
    """The mean loss of each task before training."""
    records = samples(row.data)
    losses, valid = token_losses(tiny_model(row.lora, row.tied), records)
    return dict(zip(TASKS, _last_losses(losses, valid, task_ids(records), []), strict=True))


def _weighted_mean(losses: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """Eq. 2: sum_r w_r c_r / sum_r w_r, from one weight per sample; 0 where nothing is valid."""
    weights = weights[:, None] * valid
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)


def _last_losses(
    losses: Tensor, valid: Tensor, ids: Tensor, before: list[float | None]
) -> list[float | None]:
    """The mean loss of each task, what it was `before` where it is absent."""
    counts = [valid[ids == task].sum().item() for task in range(len(TASKS))]
    return [
        losses[ids == task].sum().item() / count if count else before[task]
        for task, count in enumerate(counts)
    ]


def _dynamic_weights(history: list[list[float | None]]) -> list[float]:
    """DWA with windows of one step: N softmax(r / T), r = last loss / the one before; 1 for 2 steps.

    `history` begins with an entry before the first step. A task without a loss before has r = 1.
    """
    if len(history) < 3:
        return [1.0] * len(TASKS)
    ratios = [now / before if before else 1.0 for now, before in zip(history[-1], history[-2], strict=True)]
    powers = [math.exp(ratio / TEMPERATURE) for ratio in ratios]
    return [len(TASKS) * power / sum(powers) for power in powers]


def _copy(model: nn.Module) -> Parameters:
    return {name: parameter.detach().clone() for name, parameter in trained(model).items()}
