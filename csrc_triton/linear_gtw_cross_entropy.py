"""The product with the vocabulary and the loss in chunks of rows: never more logits than a budget allows.

Rows that are not read are left out before the product. The gradient is formed in the forward pass, chunk by
chunk, so that the logits are never computed twice: 6 Nv V D FLOPs, 4 where the head or the input is frozen.
Logits in float32 come in smaller chunks than their 16-bit gradient, whose products are few and long.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton.compact import IN_TORCH, Compaction, RowMoves, compact_rows
from csrc_triton.logits_chunks import LogitsChunks, LogitsGradient, chunk_memory, logits_dtypes
from csrc_triton.products import add_product_

# fn(logits (C, V), labels (C,), weights (C,), gradient (C, V) or None) -> (c (C,), correct (C,)). Fills
# `gradient`, which may be the logits, with w_r / denominator dc_r/dlogits; both have unit column stride. A
# row of label ignore_index: loss and gradient 0.
RowLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LinearResult:
    """Row losses (R,), top-1 correctness (R,) bool, and the gradients that were asked for.

    `weight_gradient` is None too where it was added to a tensor of the caller's.
    """

    losses: Tensor
    correct: Tensor
    hidden_gradient: Tensor | None
    weight_gradient: Tensor | None
    bias_gradient: Tensor | None


@torch.no_grad()
def linear_gtw_cross_entropy_forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor,
    row_loss: RowLoss,
    *,
    read: Tensor | None = None,
    ignore_index: int,
    needs_hidden_gradient: bool,
    needs_weight_gradient: bool,
    needs_bias_gradient: bool,
    memory_budget: int | str | None,
    valid_count: int | None,
    weight_gradient_into: Tensor | None = None,
    hidden_gradient_dtype: torch.dtype | None = None,
    first_col: int = 0,
    plan_cols: int | None = None,
    moves: RowMoves | None = None,
) -> LinearResult:
    """Returns the losses of logits = hidden @ weight.T + bias and the gradients that `row_loss` scales.

    Args:
        hidden: (R, D) floating point.
        weight: (V, D) of the same dtype.
        bias: (V,) of the same dtype, or None.
        labels: (R,) int64.
        weights: (R,) w_r in the accumulation dtype.
        row_loss: turns a chunk of logits into losses and their gradient.
        read: (R,) bool, the rows that are read; by default those of weight other than 0.
        ignore_index: the label that `row_loss` sees at padding and at rows that are not read.
        needs_hidden_gradient: False (a frozen input) skips that product.
        needs_weight_gradient: False (a frozen head) skips that product.
        needs_bias_gradient: False skips the column sums of the gradient.
        memory_budget: bytes of logits alive at once, "min", or None for the device's default. More where
            one chunk takes no more memory than several and their accumulator; see `ChunkMemory`.
        valid_count: a host int, at least the number of rows read: nothing waits for a GPU then.
        weight_gradient_into: (V, D) of the weight's dtype or the accumulation dtype; dW is added to it.
        hidden_gradient_dtype: the dtype of dX, that of `hidden` or the accumulation dtype; None: the first.
        first_col: the label that stands for the first row of `weight`, where that is a piece of the head.
        plan_cols: V of the plan of chunks in place of the weight's. Ranks whose pieces of the vocabulary
            differ in size must cut the rows into the same chunks.
        moves: how rows are moved; by default Triton's kernels on a GPU, plain torch on a CPU.

    Raises:
        ValueError: more rows are read than `valid_count`, on a CPU; on a GPU a queued assertion fails.
    """
    moves = moves or _default_moves(hidden.is_cuda)
    rows = compact_rows(
        read,
        labels,
        weights,
        ignore_index=ignore_index,
        valid_count=valid_count,
        compact_to=moves.compact_to,
    )
    dtype, into = weights.dtype, weight_gradient_into
    needs_gradient = needs_hidden_gradient or needs_weight_gradient or needs_bias_gradient
    dtypes = logits_dtypes(weight, dtype, needs_gradient=needs_gradient)
    memory = chunk_memory(weight, plan_cols or weight.shape[0], dtypes, dtype, into, needs_weight_gradient)
    chunk_rows = memory.chunk_rows(rows.n_rows, memory_budget, is_cuda=hidden.is_cuda)
    is_single = chunk_rows.outer >= rows.n_rows
    gradient_dtype = (hidden_gradient_dtype or hidden.dtype) if needs_hidden_gradient else None
    states = _States(hidden, rows, chunk_rows.outer, gradient_dtype, moves)
    head = _Head(
        weight,
        bias,
        _WeightGradient(weight, dtype, into, is_single=is_single) if needs_weight_gradient else None,
        weights.new_zeros(weight.shape[0]) if needs_bias_gradient else None,
    )
    if rows.n_rows == 0:
        losses, correct = weights.new_zeros(weights.shape), torch.zeros_like(labels, dtype=torch.bool)
    else:
        # Made in the call: the logits, as the gathered states, are gone when dW is rounded.
        losses, correct = _run_chunks(
            LogitsChunks(weight, chunk_rows, dtypes, keeps_labels_apart=weight.dtype == dtype),
            states,
            head,
            rows,
            row_loss,
            first_col,
        )
        states.gathered = None
        if rows.inverse is not None:
            losses, correct = moves.put(losses, correct, rows.inverse)
    return LinearResult(losses, correct, states.gradient, *head.gradients())


class _States:
    """Hidden states by chunks, and their gradient: written over a chunk's gathered rows, then scattered."""

    def __init__(
        self,
        hidden: Tensor,
        rows: Compaction,
        n_chunk: int,
        gradient_dtype: torch.dtype | None,
        moves: RowMoves,
    ) -> None:
        self.hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
        self.rows, self.gather = rows, moves.gather
        self.gathered = None if rows.index is None else hidden.new_empty(n_chunk, hidden.shape[1])
        new = torch.empty if rows.n_rows else torch.zeros
        self.gradient = None
        if gradient_dtype is not None:
            self.gradient = new(hidden.shape, dtype=gradient_dtype, device=hidden.device)

    def chunk(self, start: int, length: int) -> Tensor:
        """Compact rows start..start+length-1; zeros at padding."""
        if self.rows.index is None or self.gathered is None:
            return self.hidden.narrow(0, start, length)
        index = self.rows.index.narrow(0, start, length)
        return self.gather(self.hidden, index, out=self.gathered.narrow(0, 0, length))

    def add_gradient(self, gradient: LogitsGradient, weight: Tensor, chunk: Tensor, start: int) -> None:
        if self.gradient is None:
            return
        is_direct = self.rows.inverse is None
        product = (
            self.gradient.narrow(0, start, chunk.shape[0]) if is_direct else chunk.to(self.gradient.dtype)
        )
        gradient.write_product(product, weight)
        if self.rows.inverse is not None:
            self.gather(product, self.rows.inverse, out=self.gradient, start=start)


class _WeightGradient:
    """dW over the chunks: one product as it is; several summed in the accumulation dtype, rounded once."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, into: Tensor | None, *, is_single: bool) -> None:
        self.dtype, self.into = weight.dtype, into
        summed = weight.dtype if is_single else dtype
        self.is_direct = into is not None and into.dtype in (summed, dtype)
        if into is not None and self.is_direct:
            self.total, self.beta = into, 1
        else:
            self.total, self.beta = torch.empty(weight.shape, dtype=summed, device=weight.device), 0

    def add(self, gradient: LogitsGradient, chunk: Tensor) -> None:
        gradient.add_transposed_product(self.total, chunk, beta=self.beta)
        self.beta = 1

    def result(self) -> Tensor | None:
        """The sum in the weight's dtype; None where it went into the caller's tensor."""
        if not self.beta:
            self.total.zero_()
        if self.into is None:
            return self.total.to(self.dtype)
        if not self.is_direct:
            self.into.add_(self.total)
        return None


@dataclass(frozen=True)
class _Head:
    """The head, and the sums that become its gradients."""

    weight: Tensor
    bias: Tensor | None
    weight_gradient: _WeightGradient | None
    bias_gradient: Tensor | None

    def write_logits(self, out: Tensor, chunk: Tensor) -> None:
        add_product_(out, chunk, self.weight.t(), beta=0)
        if self.bias is not None:
            out.add_(self.bias)

    def add_gradients(self, gradient: LogitsGradient, chunk: Tensor) -> None:
        if self.weight_gradient is not None:
            self.weight_gradient.add(gradient, chunk)
        if self.bias_gradient is not None:
            self.bias_gradient.add_(gradient.column_sums(self.bias_gradient.dtype))

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        weight = None if self.weight_gradient is None else self.weight_gradient.result()
        return weight, None if self.bias_gradient is None else self.bias_gradient.to(self.weight.dtype)


def _run_chunks(
    chunks: LogitsChunks,
    states: _States,
    head: _Head,
    rows: Compaction,
    row_loss: RowLoss,
    first_col: int,
) -> tuple[Tensor, Tensor]:
    """The losses and correctness of the compact rows; gradients go where `states` and `head` keep them."""
    parts = []
    for start, length in _cut(rows.n_rows, chunks.rows.outer):
        own_labels, chunk = rows.labels.narrow(0, start, length), states.chunk(start, length)
        for first, count in _cut(length, chunks.rows.inner):
            logits, values = chunks.buffers(first, count)
            head.write_logits(logits, chunk.narrow(0, first, count))
            own_weights = rows.weights.narrow(0, start + first, count)
            parts.append(row_loss(logits, own_labels.narrow(0, first, count), own_weights, values))
        gradient = chunks.gradient(own_labels, first_col)
        if gradient is not None:
            head.add_gradients(gradient, chunk)
            states.add_gradient(gradient, head.weight, chunk, start)
    if len(parts) == 1:
        return parts[0]
    losses, correct = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(correct)


def _cut(n_rows: int, at_most: int) -> Iterator[tuple[int, int]]:
    """Where each piece of `at_most` rows starts, and its length."""
    for start in range(0, n_rows, at_most):
        yield start, min(at_most, n_rows - start)


def _default_moves(is_cuda: bool) -> RowMoves:
    if not is_cuda:
        return IN_TORCH
    try:
        from csrc_triton.compact_kernels import IN_TRITON
    except ImportError:
        return IN_TORCH
    return IN_TRITON
