"""A loop of one's own: what cotbal's core gives to those without a Trainer."""

from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cotbal.integrations.huggingface.levels import install_loss
from cotbal.normalizer import StepNormalizer, loss_factor
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.equality.model import tiny_model, trained
from tests.integrations.huggingface.equality.outcome import Outcome
from tests.integrations.huggingface.equality.rows import Row
from tests.integrations.huggingface.equality.samples import (
    BATCH,
    TASKS,
    WEIGHTS,
    pad_to_longest,
    samples,
    task_ids,
)
from tests.integrations.huggingface.equality.stacks import whole_parameters


def train_in_a_loop(row: Row) -> Outcome:
    """Of each window, micro-batch by micro-batch, one for each group of `row.shards` ranks in turn."""
    model = tiny_model(row.lora, row.tied)
    if row.shards > 1:
        _share_attention(row, model)
    optimizer = torch.optim.SGD(trained(model).values(), lr=row.learning_rate)
    scaler = torch.amp.GradScaler("cpu", enabled=row.scaler)
    step_loss, normalizer = StepLoss(len(TASKS)), StepNormalizer(len(TASKS))
    install_loss(model, step_loss, row.level)
    weights = torch.tensor([WEIGHTS[task] for task in TASKS])
    factor = loss_factor("torch", ranks=row.ranks)
    snapshots, losses = [whole_parameters(model)], []
    records = samples(row.data)
    for start in range(0, len(records), BATCH):
        shards = [_shard(row, records[first:][: row.per_device]) for first in _firsts(row, start)]
        for shard in shards:
            normalizer.add(shard["shift_labels"], shard["task_ids"], shift=False)
        step_loss.begin_step(weights, weights.double() @ normalizer.total().counts / factor)
        losses.append(sum(_backward(model, step_loss, shard, scaler) for shard in shards))
        _average_gradients(model)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        snapshots.append(whole_parameters(model))
    return Outcome(snapshots[0], snapshots[1], snapshots[-1], losses)


def _share_attention(row: Row, model: nn.Module) -> None:
    """DeepSpeed's Ulysses: ranks hold parts of the sequence, but in attention parts of the heads."""
    ulysses = import_module("deepspeed.runtime.sequence_parallel.ulysses_sp")
    ulysses.UlyssesSPAttentionHF.register_with_transformers(
        model_name_or_path=model,
        core_attn_implementation="sdpa",
        sequence_parallel_size=row.shards,
        micro_batch_size=row.per_device,
    )


def _firsts(row: Row, start: int) -> range:
    """Where the micro-batches of this rank's group begin in the window from `start` on."""
    group, groups = _rank() // row.shards, row.ranks // row.shards
    return range(start + group * row.per_device, start + BATCH, groups * row.per_device)


def _shard(row: Row, records: list[dict]) -> dict[str, Tensor]:
    """This rank's part of each sequence: task_ids (B,), all else (B, S / shards)."""
    batch = pad_to_longest(records)
    labels = nn.functional.pad(batch.pop("labels")[:, 1:], (0, 1), value=-100)
    mine = _rank() % row.shards
    whole = {**batch, "shift_labels": labels}
    pieces = {key: value.chunk(row.shards, 1)[mine] for key, value in whole.items()}
    return {**pieces, "task_ids": task_ids(records)}


def _backward(
    model: nn.Module, step_loss: StepLoss, shard: dict[str, Tensor], scaler: torch.amp.GradScaler
) -> float:
    inputs = {key: shard[key] for key in ("input_ids", "position_ids", "shift_labels")}
    with step_loss.micro_batch(shard["task_ids"]):
        loss = model(**inputs, labels=shard["shift_labels"], use_cache=False).loss
    scaler.scale(loss).backward()
    return loss.item()


def _average_gradients(model: nn.Module) -> None:
    """As DDP does."""
    if dist.is_initialized():
        for parameter in trained(model).values():
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
