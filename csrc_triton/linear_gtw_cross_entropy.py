"""The product with the vocabulary and the loss in chunks of rows: never more logits than a budget allows.

Ignored rows are left out before the product. The gradient is formed in the forward pass, chunk by chunk, so
that the logits are never computed twice: 6 Nv V D FLOPs, 4 where the head or the input is frozen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton.rows import Rows
from csrc_triton.torch_path import softmax_losses_

# fn(logits (C, V), the chunk's rows, scale (C,) or None) -> (c (C,), correct (C,)); in place.
ChunkLoss = Callable[[Tensor, Rows, Tensor | None], tuple[Tensor, Tensor]]

CPU_BUDGET = 128 * 2**20
GPU_BUDGET = 2**30
_MIN_CHUNK_ROWS = 64


@dataclass(frozen=True)
class LinearResult:
    """Row losses (R,), top-1 correctness (R,) bool, and the gradients that were asked for."""

    losses: Tensor
    correct: Tensor
    hidden_gradient: Tensor | None
    weight_gradient: Tensor | None


def chunk_rows(
    n_rows: int, n_cols: int, bytes_per_logit: int, memory_budget: int | str | None, *, is_cuda: bool
) -> int:
    """The rows of a chunk: as many as keep their logits in `memory_budget` bytes, 64 or more.

    "min" is 64 rows; None is 128 MiB on a CPU, 1 GiB on a GPU.
    """
    if memory_budget == "min":
        budget_rows = _MIN_CHUNK_ROWS
    else:
        budget = memory_budget if isinstance(memory_budget, int) else (GPU_BUDGET if is_cuda else CPU_BUDGET)
        budget_rows = max(_MIN_CHUNK_ROWS, budget // (n_cols * bytes_per_logit))
    return max(1, min(n_rows, budget_rows))


def torch_chunk_loss(want_correct: bool) -> ChunkLoss:
    """The chunk loss in plain torch operations; low-precision logits are worked on in a float32 copy."""

    def chunk_loss(logits: Tensor, rows: Rows, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        z = logits if logits.dtype == rows.dtype else logits.to(rows.dtype)
        losses, correct = softmax_losses_(z, rows.labels, scale, want_correct=want_correct)
        if z is not logits and scale is not None:
            logits.copy_(z)
        return losses, correct

    return chunk_loss


def linear_gtw_cross_entropy_forward(
    hidden: Tensor,
    weight: Tensor,
    rows: Rows,
    weights: Tensor,
    scale: Tensor,
    chunk_loss: ChunkLoss,
    *,
    needs_hidden_gradient: bool,
    needs_weight_gradient: bool,
    memory_budget: int | str | None,
) -> LinearResult:
    """Returns the losses of logits = hidden @ weight.T and the gradients of sum_r scale_r c_r.

    Args:
        hidden: (R, D) floating point.
        weight: (V, D) of the same dtype.
        rows: labels and weights of the R rows.
        weights: (R,) w_r in the accumulation dtype; rows of weight 0 are not read.
        scale: (R,) w_r / denominator.
        chunk_loss: turns a chunk of logits into losses and, in place, their gradient.
        needs_hidden_gradient: False skips that product.
        needs_weight_gradient: False (a frozen head) skips that product.
        memory_budget: bytes of logits alive at once, "min", or None for the device's default.
    """
    needs_gradient = needs_hidden_gradient or needs_weight_gradient
    losses = torch.zeros_like(weights)
    correct = torch.zeros_like(rows.labels, dtype=torch.bool)
    hidden_gradient = (
        torch.zeros_like(hidden, memory_format=torch.contiguous_format) if needs_hidden_gradient else None
    )
    weight_gradient = None
    read = torch.nonzero(weights)[:, 0]
    copies = 0 if weights.is_cuda or hidden.dtype == rows.dtype else rows.dtype.itemsize
    n_chunk = chunk_rows(
        read.numel(), weight.shape[0], hidden.element_size() + copies, memory_budget, is_cuda=hidden.is_cuda
    )
    for index in read.split(n_chunk):
        chunk_hidden = hidden[index]
        logits = chunk_hidden @ weight.t()
        losses[index], correct[index] = chunk_loss(
            logits, _select(rows, index), scale[index] if needs_gradient else None
        )
        if hidden_gradient is not None:
            hidden_gradient[index] = logits @ weight
        if needs_weight_gradient:
            weight_gradient = _accumulated(
                weight_gradient, logits.t() @ chunk_hidden, rows.dtype, n_chunk < len(read)
            )
    if needs_weight_gradient:
        weight_gradient = (
            torch.zeros_like(weight) if weight_gradient is None else weight_gradient.to(weight.dtype)
        )
    return LinearResult(losses, correct, hidden_gradient, weight_gradient)


def _select(rows: Rows, index: Tensor) -> Rows:
    return Rows(
        labels=rows.labels[index],
        task_ids=None if rows.task_ids is None else rows.task_ids[index],
        task_weights=rows.task_weights,
        token_weights=None if rows.token_weights is None else rows.token_weights[index],
        ignore_index=rows.ignore_index,
        dtype=rows.dtype,
    )


def _accumulated(total: Tensor | None, product: Tensor, dtype: torch.dtype, is_partial: bool) -> Tensor:
    """The sum over chunks in the accumulation dtype, rounded once at the end; a single chunk as it is."""
    if total is None:
        return product.to(dtype) if is_partial else product
    return total.add_(product)
