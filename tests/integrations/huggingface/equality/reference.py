"""The reference: Eq. 2 written out, batches of 8 in one process, plain gradient descent."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.integrations.huggingface.equality.model import tiny_model, trained
from tests.integrations.huggingface.equality.outcome import Outcome, Parameters
from tests.integrations.huggingface.equality.rows import Row
from tests.integrations.huggingface.equality.samples import BATCH, TASKS, WEIGHTS, pad, samples, task_ids


def reference(row: Row) -> Outcome:
    """What `row` must come to; of the row only the data, LoRA and clipping matter."""
    model, records = tiny_model(row.lora), samples(row.data)
    snapshots, losses = [_copy(model)], []
    for start in range(0, len(records), BATCH):
        window = records[start : start + BATCH]
        loss = _weighted_mean(*token_losses(model, window), task_ids(window))
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
    losses, valid = token_losses(tiny_model(row.lora), records)
    ids = task_ids(records)
    sums = [(losses[ids == task].sum() / valid[ids == task].sum()).item() for task in range(len(TASKS))]
    return dict(zip(TASKS, sums, strict=True))


def _weighted_mean(losses: Tensor, valid: Tensor, ids: Tensor) -> Tensor:
    """Eq. 2: sum_r w_r c_r / sum_r w_r; 0 where nothing is valid."""
    weights = torch.tensor([WEIGHTS[task] for task in TASKS], dtype=torch.float64)[ids][:, None] * valid
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)


def _copy(model: nn.Module) -> Parameters:
    return {name: parameter.detach().clone() for name, parameter in trained(model).items()}
