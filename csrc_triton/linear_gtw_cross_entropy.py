"""The product with the vocabulary and the loss in chunks of rows: never more logits than a budget allows.

Rows that are not read are left out before the product. The gradient is formed in the forward pass, chunk by
chunk, so that the logits are never computed twice: 6 Nv V D FLOPs, 4 where the head or the input is frozen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from csrc_triton import compact
from csrc_triton.compact import CUDA_ALIGNMENT, Compaction, GatherRows, compact_rows

# fn(logits (C, V), labels (C,), weights (C,), gradient) -> (c (C,), correct (C,)). Overwrites the logits, of
# unit column stride, with w_r / denominator dc_r/dlogits. A row of label ignore_index: loss and gradient 0.
RowLoss = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]

CPU_BUDGET = 128 * 2**20
GPU_BUDGET = 2**30
_MIN_CHUNK_ROWS = 64
# Rows of logits start at multiples of 64 elements: a vocabulary of 32003 would misalign every second row.
_COLUMN_ALIGNMENT = 64
# Rows of the head at a time where a product needs temporaries.
_SLAB_ROWS = 4096


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


@dataclass(frozen=True)
class ChunkMemory:
    """Bytes that a plan of chunks weighs against each other.

    Attributes:
        logits_row: a row of logits.
        accumulator: dW in the accumulation dtype, where several chunks need one of their own.
        rounded: dW in its own dtype: beside the logits of one chunk, but after those of several.
    """

    logits_row: int
    accumulator: int
    rounded: int

    def chunk_rows(self, n_rows: int, memory_budget: int | str | None, *, is_cuda: bool) -> int:
        """The rows of a chunk: as many as `memory_budget` bytes of logits allow, 64 or more, chunks alike.

        None is 128 MiB on a CPU, 1 GiB on a GPU. "min" does not raise the peak: logits as large as dW is
        when it is rounded after them, else 64 rows (128 on a GPU). One chunk needs no accumulator, so it is
        taken wherever it needs no more memory than several.
        """
        if memory_budget == "min":
            budget = self.rounded if self.accumulator else 0
        elif isinstance(memory_budget, int):
            budget = memory_budget
        else:
            budget = GPU_BUDGET if is_cuda else CPU_BUDGET
        at_once = self.accumulator + max(0, budget - self.rounded) if self.accumulator else budget
        if n_rows * self.logits_row <= max(budget, at_once):
            return n_rows
        alignment = CUDA_ALIGNMENT if is_cuda else 1
        fitting = max(_MIN_CHUNK_ROWS, alignment, budget // self.logits_row // alignment * alignment)
        return _round_up(_ceil_div(n_rows, _ceil_div(n_rows, fitting)), alignment)


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
    plan_cols: int | None = None,
    gather: GatherRows | None = None,
) -> LinearResult:
    """Returns the losses of logits = hidden @ weight.T + bias and the gradients that `row_loss` scales.

    Args:
        hidden: (R, D) floating point.
        weight: (V, D) of the same dtype.
        bias: (V,) of the same dtype, or None.
        labels: (R,) int64.
        weights: (R,) w_r in the accumulation dtype.
        row_loss: turns a chunk of logits into losses and, in place, their gradient.
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
        plan_cols: V of the plan of chunks in place of the weight's. Ranks whose pieces of the vocabulary
            differ in size must cut the rows into the same chunks.
        gather: how rows are gathered; by default Triton's kernel on a GPU, plain torch on a CPU.

    Raises:
        ValueError: more rows are read than `valid_count`, on a CPU; on a GPU a queued assertion fails.
    """
    rows = compact_rows(weights != 0 if read is None else read, valid_count)
    dtype, into = weights.dtype, weight_gradient_into
    needs_gradient = needs_hidden_gradient or needs_weight_gradient or needs_bias_gradient
    memory = _chunk_memory(weight, plan_cols or weight.shape[0], dtype, into, needs_weight_gradient)
    n_chunk = memory.chunk_rows(rows.n_rows, memory_budget, is_cuda=hidden.is_cuda)
    is_single = n_chunk >= rows.n_rows
    gradient_dtype = (hidden_gradient_dtype or hidden.dtype) if needs_hidden_gradient else None
    states = _States(hidden, rows, n_chunk, gradient_dtype, gather or _default_gather(hidden.is_cuda))
    head = _Head(
        weight,
        bias,
        _WeightGradient(weight, dtype, into, is_single=is_single) if needs_weight_gradient else None,
        weights.new_zeros(weight.shape[0]) if needs_bias_gradient else None,
    )
    if rows.n_rows == 0:
        losses, correct = weights.new_zeros(weights.shape), torch.zeros_like(labels, dtype=torch.bool)
    else:
        targets = rows.take(labels, ignore_index), rows.take(weights, 0)
        results = _run_chunks(states, head, *targets, row_loss, n_chunk, needs_gradient)
        losses, correct = (rows.put(values) for values in results)
    return LinearResult(losses, correct, states.gradient, *head.gradients())


class _States:
    """Hidden states by chunks, and their gradient: written over a chunk's gathered rows, then scattered."""

    def __init__(
        self,
        hidden: Tensor,
        rows: Compaction,
        n_chunk: int,
        gradient_dtype: torch.dtype | None,
        gather: GatherRows,
    ) -> None:
        self.hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
        self.rows, self.gather = rows, gather
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

    def add_gradient(self, logits_gradient: Tensor, weight: Tensor, chunk: Tensor, start: int) -> None:
        if self.gradient is None:
            return
        if self.rows.inverse is None:
            add_product_(self.gradient.narrow(0, start, chunk.shape[0]), logits_gradient, weight, beta=0)
        else:
            product = chunk.to(self.gradient.dtype)
            add_product_(product, logits_gradient, weight, beta=0)
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

    def add(self, logits_gradient: Tensor, chunk: Tensor) -> None:
        add_product_(self.total, logits_gradient.t(), chunk, beta=self.beta)
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

    def logits(self, chunk: Tensor, out: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(chunk, self.weight.t(), out=out)
        return torch.addmm(self.bias, chunk, self.weight.t(), out=out)

    def add_gradients(self, logits_gradient: Tensor, chunk: Tensor) -> None:
        if self.weight_gradient is not None:
            self.weight_gradient.add(logits_gradient, chunk)
        if self.bias_gradient is not None:
            self.bias_gradient.add_(logits_gradient.sum(0, dtype=self.bias_gradient.dtype))

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        weight = None if self.weight_gradient is None else self.weight_gradient.result()
        return weight, None if self.bias_gradient is None else self.bias_gradient.to(self.weight.dtype)


def _run_chunks(
    states: _States,
    head: _Head,
    labels: Tensor,
    weights: Tensor,
    row_loss: RowLoss,
    n_chunk: int,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The losses and correctness of the compact rows; gradients go where `states` and `head` keep them."""
    n_cols = head.weight.shape[0]
    buffer = head.weight.new_empty(n_chunk, _round_up(n_cols, _COLUMN_ALIGNMENT))
    parts = []
    for start in range(0, len(labels), n_chunk):
        length = min(n_chunk, len(labels) - start)
        chunk = states.chunk(start, length)
        logits = head.logits(chunk, buffer.narrow(0, 0, length).narrow(1, 0, n_cols))
        targets = labels.narrow(0, start, length), weights.narrow(0, start, length)
        parts.append(row_loss(logits, *targets, needs_gradient))
        head.add_gradients(logits, chunk)
        states.add_gradient(logits, head.weight, chunk, start)
    losses, correct = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(correct)


def add_product_(total: Tensor, a: Tensor, b: Tensor, *, beta: int) -> None:
    """Writes beta total + a @ b to `total`, not rounded to 16 bits on the way.

    Args:
        total: (M, N) of the factors' dtype, or float32 for 16-bit factors.
        a: (M, K).
        b: (K, N).
        beta: 1, or 0 where `total` holds nothing yet.
    """
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, beta=beta, out=total)
    elif _adds_wide_products(total.device):
        torch.addmm(total, a, b, beta=beta, out_dtype=total.dtype, out=total)
    elif total.is_cuda:
        # Products in float32 would take ten times as long: each is rounded once, their sum is not.
        total = total if beta else total.zero_()
        for slab, rows in _slabs(total, a):
            slab.add_(rows @ b)
    else:
        b = b.to(total.dtype)
        for slab, rows in _slabs(total, a):
            torch.addmm(slab, rows.to(total.dtype), b, beta=beta, out=slab)


@cache
def _adds_wide_products(device: torch.device) -> bool:
    """Whether this torch adds a 16-bit product to a float32 tensor; some refuse, so a tiny one is tried."""
    if device.type != "cuda" or not hasattr(torch.ops.aten.addmm, "dtype_out"):
        return False
    factor, total = (torch.ones(16, 16, device=device, dtype=dtype) for dtype in (torch.half, torch.float))
    try:
        torch.addmm(total, factor, factor, out_dtype=total.dtype, out=total)
    except RuntimeError:
        return False
    return True


def _slabs(total: Tensor, a: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of both, some at a time: no temporary is as large as the head."""
    return zip(total.split(_SLAB_ROWS), a.split(_SLAB_ROWS), strict=True)


def _chunk_memory(
    weight: Tensor, n_cols: int, dtype: torch.dtype, into: Tensor | None, needs_weight_gradient: bool
) -> ChunkMemory:
    element, n_elements = weight.element_size(), n_cols * weight.shape[1]
    needs_accumulator = needs_weight_gradient and dtype != (weight if into is None else into).dtype
    return ChunkMemory(
        logits_row=_round_up(n_cols, _COLUMN_ALIGNMENT) * element,
        accumulator=n_elements * dtype.itemsize if needs_accumulator else 0,
        rounded=n_elements * element if needs_weight_gradient and into is None else 0,
    )


def _default_gather(is_cuda: bool) -> GatherRows:
    if not is_cuda:
        return compact.gather_rows
    try:
        from csrc_triton.gather_rows import gather_rows
    except ImportError:
        return compact.gather_rows
    return gather_rows


def _ceil_div(count: int, divisor: int) -> int:
    return -(-count // divisor)


def _round_up(count: int, multiple: int) -> int:
    return _ceil_div(count, multiple) * multiple
