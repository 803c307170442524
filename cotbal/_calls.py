"""What the public losses share: the dtype that they start in, what they return."""

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from cotbal._arguments import LossOutputs, RowArguments

# Of these torch cannot be asked whether autocast is on. Found out once: to torch 2.6's compiler this question
# is a graph break.
_WITHOUT_AUTOCAST = tuple(name for name in ("meta", "mps") if not torch.amp.is_autocast_available(name))


class TaskStats(NamedTuple):
    """Per-task sums of one call, detached, each (N,); they come from the same pass as the loss.

    Attributes:
        loss_sum: float32 (float64 for float64 logits), sum of token_weights_r c_r over the task's rows.
        token_count: int64, the number of those rows.
        correct_count: int64, how many of them have their label as the lowest index of the largest logit,
            which a row with a NaN or +inf, whose loss is NaN, does not have.

    A row of weight 0 is not read, so it is in none of the three; that of a task of weight 0 is, where the
    task weights require grad.
    """

    loss_sum: Tensor
    token_count: Tensor
    correct_count: Tensor


# The loss, with `return_stats` a pair with TaskStats. Not a union with it, under which a type checker refuses
# `loss.backward()` of those who ask for the loss alone.
LossAndStats: TypeAlias = Tensor | Any


def finish(outputs: LossOutputs, arguments: RowArguments, labels: Tensor) -> LossAndStats:
    """The loss in the labels' shape for "none", with TaskStats where they are wanted."""
    loss = outputs.loss.reshape(labels.shape) if arguments.reduction == "none" else outputs.loss
    if not arguments.want_correct:
        return loss
    return loss, TaskStats(outputs.loss_sum, outputs.token_count, outputs.correct_count)


def autocast(tensor: Tensor) -> Tensor:
    """`tensor` in autocast's dtype where autocast is on; float64 stays, as in torch's own products."""
    device = tensor.device.type
    is_cast = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32)
    if device not in _WITHOUT_AUTOCAST and torch.is_autocast_enabled(device) and is_cast:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor
