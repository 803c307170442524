"""The training loop: AdamW on cotbal's GTW loss, one batch per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

import cotbal
from cotbal.balancing import Weighting
from cotbal.demo.batches import Batch, Example, collate, epoch_batches
from cotbal.demo.profiles import Profile
from cotbal.demo.records import random_source
from cotbal.normalizer import task_token_counts

Report = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """Means over the last tenth of the steps: the weighted loss, and each task's own (None if absent)."""

    loss: float
    task_loss: list[float | None]


def fit(
    model: LlavaForConditionalGeneration,
    examples: Sequence[Example],
    batches: Iterable[Sequence[int]],
    steps: int,
    weighting: Weighting,
    profile: Profile,
    report: Report,
) -> Outcome:
    """Trains the model in place for `steps` steps and tells how the loss ended.

    Args:
        model: on the device to train on.
        examples: the training data.
        batches: indices into `examples`, one sequence per step; exactly `steps` of them.
        steps: length of the learning rate's schedule.
        weighting: the task weights of each step; bound to the tasks on the model's device.
        profile: the recipe.
        report: called with the number of steps done after each one.
    """
    model.train()
    optimizer, schedule = make_optimizer(model.parameters(), steps, profile.learning_rate, profile.warmup)
    tail = max(1, steps // 10)
    losses: list[Tensor] = []
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    for done, indices in enumerate(batches, start=1):
        batch = collate([examples[index] for index in indices], str(model.device))
        loss, stats = _loss(model, batch, step_weights(weighting, batch))
        update(loss, model, optimizer, schedule)
        weighting.update(stats.loss_sum, stats.token_count)
        if done > steps - tail:
            losses.append(loss.detach())
            sums.append(stats.loss_sum)
            counts.append(stats.token_count)
        report(done)
    if done != steps:
        raise AssertionError(f"{steps} steps were announced, {done} were run")
    return _outcome(losses, sums, counts)


def fit_epochs(
    model: LlavaForConditionalGeneration,
    examples: Sequence[Example],
    weighting: Weighting,
    profile: Profile,
    seed: int,
    report: Report,
) -> Outcome:
    """Trains the model in place for the profile's epochs, in the order of the seed; otherwise as `fit`."""
    lengths = [len(example.ids) for example in examples]
    batches = epoch_batches(lengths, profile.epochs, profile.batch_size, random_source(seed, "order"))
    steps = profile.epochs * -(-len(examples) // profile.batch_size)
    return fit(model, examples, batches, steps, weighting, profile, report)


def step_weights(weighting: Weighting, batch: Batch) -> Tensor:
    """The task weights (N,) of a step of one batch."""
    return weighting.weights(
        task_token_counts(batch.labels, batch.task_ids, len(weighting.tasks), shift=True)
    )


def _loss(
    model: LlavaForConditionalGeneration, batch: Batch, task_weights: Tensor
) -> tuple[Tensor, cotbal.TaskStats]:
    hidden = model.model(**batch.inputs(), use_cache=False).last_hidden_state
    result = cotbal.linear_gtw_cross_entropy(
        hidden,
        model.lm_head.weight,
        batch.labels,
        batch.task_ids,
        task_weights,
        shift=True,
        return_stats=True,
    )
    # With return_stats it is always the pair.
    return cast("tuple[Tensor, cotbal.TaskStats]", result)


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], steps: int, learning_rate: float, warmup_share: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and a learning rate that rises linearly and falls to 0 as a cosine."""
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    warmup = max(1, round(warmup_share * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def update(
    loss: Tensor,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One optimizer step, the gradient's norm clipped to 1."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _outcome(losses: list[Tensor], sums: list[Tensor], counts: list[Tensor]) -> Outcome:
    # Kept as tensors until here: reading a number at each step would stall a GPU.
    total, tokens = torch.stack(sums).sum(0).tolist(), torch.stack(counts).sum(0).tolist()
    means = [loss / count if count else None for loss, count in zip(total, tokens, strict=True)]
    return Outcome(float(torch.stack(losses).mean()), means)
