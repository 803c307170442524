"""FLOPs, passes over logits, synchronisations and memory of the linear launcher, counted and not timed.

On fake CUDA tensors the launcher runs as on a GPU: its shapes, its allocations and its order of operations
are real; an operation whose shape or result depends on data raises, as it would wait for the GPU. Products,
the gather kernel and the row loss are stand-ins there: their own launches are not seen.
"""

from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import cotbal
from csrc_triton import linear_gtw_cross_entropy as launcher
from csrc_triton import logits_chunks, products
from csrc_triton.compact import IN_TORCH
from csrc_triton.linear_gtw_cross_entropy import linear_gtw_cross_entropy_forward
from csrc_triton.logits_chunks import GPU_BUDGET, ChunkMemory, ChunkRows
from csrc_triton.products import add_product_
from tests.csrc_triton.linear_cases import LinearCase
from tests.csrc_triton.tally import Tally

# 20 % of 8192 rows at the head of Llama 3, as the collator would count them.
ROWS, VALID, PADDED, VOCABULARY, WIDTH = 8192, 1638, 1664, 128256, 4096
NEEDS = {
    "both": (True, True, 6),
    "frozen head": (True, False, 4),
    "frozen input": (False, True, 4),
    "none": (False, False, 2),
}
needed = pytest.mark.parametrize(("hidden", "weight", "products"), NEEDS.values(), ids=NEEDS)


@pytest.fixture(autouse=True, params=[True])
def adds_wide_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What a GPU's torch would be found to do."""
    for module in (products, logits_chunks):
        monkeypatch.setattr(
            module, "adds_wide_products", lambda device: device.type == "cuda" and request.param
        )
    return request.param


def row_loss_stand_in(
    logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    for rows in (logits, logits if gradient is None else gradient):
        assert rows.stride(1) == 1
        assert rows.stride(0) % 64 == 0
    assert logits.shape[0] == labels.shape[0] == weights.shape[0]
    return torch.zeros_like(weights), torch.zeros_like(labels, dtype=torch.bool)


def gather_stand_in(source: Tensor, index: Tensor, *, out: Tensor, start: int = 0) -> Tensor:
    assert out.shape == (index.shape[0], source.shape[1])
    return out


def on_fake_cuda(
    tally: Tally,
    dtype: torch.dtype = torch.bfloat16,
    *,
    rows: int = ROWS,
    vocabulary: int = VOCABULARY,
    width: int = WIDTH,
    into: torch.dtype | None = None,
    **options: Any,
) -> None:
    defaults = {
        "ignore_index": -100,
        "needs_hidden_gradient": True,
        "needs_weight_gradient": True,
        "needs_bias_gradient": False,
        "memory_budget": None,
        "valid_count": VALID,
    }
    with FakeTensorMode():
        hidden = torch.empty(rows, width, dtype=dtype, device="cuda")
        weight = torch.empty(vocabulary, width, dtype=dtype, device="cuda")
        labels = torch.empty(rows, dtype=torch.int64, device="cuda")
        weights = torch.empty(rows, device="cuda")
        target = None if into is None else torch.empty_like(weight, dtype=into)
        with tally:
            linear_gtw_cross_entropy_forward(
                hidden,
                weight,
                None,
                labels,
                weights,
                row_loss_stand_in,
                weight_gradient_into=target,
                moves=replace(IN_TORCH, gather=gather_stand_in),
                **(defaults | options),
            )


@needed
@pytest.mark.parametrize("memory_budget", [None, 1])
def test_flops_of_the_rows_that_are_read(
    hidden: bool, weight: bool, products: int, memory_budget: int | None
) -> None:
    """6 Nv V D, 4 with a frozen head or input, 2 without gradients: torch's own counter, real tensors."""
    case = LinearCase.random(torch.float32, n_rows=300, share=0.6)
    with FlopCounterMode(display=False) as counter:
        case.run(needs_hidden_gradient=hidden, needs_weight_gradient=weight, memory_budget=memory_budget)
    n_read = int(case.read.sum())
    assert n_read > 64
    assert counter.get_total_flops() == products * n_read * case.weight.numel()


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [(PADDED, PADDED), (PADDED, 384), (384, 384), (640, 256)])
def test_no_synchronisation_and_no_pass_over_logits(
    hidden: bool,
    weight: bool,
    products: int,
    dtype: torch.dtype,
    chunk: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the count, on fake CUDA tensors: products alone touch the logits, rows are padded to 128."""
    is_apart = weight and dtype == torch.bfloat16
    rows = ChunkRows(*chunk) if is_apart else ChunkRows(chunk[1], chunk[1])
    monkeypatch.setattr(ChunkMemory, "chunk_rows", lambda *_, **__: rows)
    tally = Tally(large=128 * VOCABULARY)
    on_fake_cuda(tally, dtype, needs_hidden_gradient=hidden, needs_weight_gradient=weight)
    assert tally.flops == products * PADDED * VOCABULARY * WIDTH
    is_rounded = is_apart and rows.outer < PADDED
    rounding = [("aten._to_copy.default", VOCABULARY * WIDTH)] if is_rounded else []
    assert tally.passes == rounding
    assert "aten._assert_async.msg" in tally.names
    assert tally.devices == {"cuda"}


@pytest.mark.parametrize("into", [torch.bfloat16, torch.float32])
def test_one_chunk_adds_to_an_existing_gradient_without_a_buffer(into: torch.dtype) -> None:
    tally = Tally(large=VOCABULARY * WIDTH)
    on_fake_cuda(tally, into=into, needs_hidden_gradient=False)
    assert tally.passes == []
    # Logits in float32, their gradient and the gathered rows in 16 bits.
    assert tally.peak < 1.1 * (6 * PADDED * VOCABULARY + 2 * PADDED * WIDTH)


@pytest.mark.parametrize("adds_wide_products", [False], indirect=True)
def test_older_torch_needs_no_buffer_of_the_heads_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkMemory, "chunk_rows", lambda *_, **__: ChunkRows(128, 128))
    tally = Tally(large=2**62)
    on_fake_cuda(tally, needs_hidden_gradient=False, into=torch.float32, memory_budget=1)
    assert tally.peak < 0.1 * VOCABULARY * WIDTH * 2


@pytest.mark.parametrize(("reduction", "products"), [("sum", (3, 3)), ("none", (1, 4))])
def test_products_of_a_training_step(
    reduction: str, products: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 Nv V D FLOPs; 8 where the rows' factors come from above, since the logits are made anew."""
    made = []

    def counted(*arguments: Any, **options: Any) -> None:
        made.append(arguments)
        add_product_(*arguments, **options)

    for module in (logits_chunks, launcher):
        monkeypatch.setattr(module, "add_product_", counted)
    hidden, weight = torch.randn(6, 8).requires_grad_(), torch.randn(40, 8).requires_grad_()
    loss = cotbal.linear_gtw_cross_entropy(hidden, weight, torch.arange(6), reduction=reduction)
    assert len(made) == products[0]
    loss.sum().backward()
    assert len(made) == products[1]


def test_without_the_count_a_gpu_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_of", nullcontext)
    with pytest.raises(DataDependentOutputException):
        on_fake_cuda(Tally(large=1), valid_count=None)


@pytest.mark.parametrize("valid_count", [ROWS - 1, ROWS, ROWS + 1])
def test_a_count_of_all_rows_needs_no_scatter(valid_count: int) -> None:
    tally = Tally(large=ROWS * VOCABULARY)
    on_fake_cuda(tally, valid_count=valid_count, memory_budget=2**32)
    assert tally.flops == 6 * ROWS * VOCABULARY * WIDTH
    assert not any("searchsorted" in name for name in tally.names)


SHAPES = {
    "20 % of Llama 3": {"valid_count": VALID},
    "all of Llama 3": {"valid_count": ROWS},
    "many rows": {"rows": 16384, "valid_count": 15000},
    "LLaVA-1.5": {"vocabulary": 32000, "valid_count": 5000},
    "frozen head": {"needs_weight_gradient": False, "valid_count": 5000},
    "frozen input": {"needs_hidden_gradient": False, "valid_count": ROWS},
    "float32": {"dtype": torch.float32, "valid_count": 5000},
    "existing gradient": {"into": torch.bfloat16, "rows": 16384, "valid_count": 10000},
    "existing float32 gradient": {"into": torch.float32, "valid_count": 5000},
}


def peak(options: dict[str, Any], memory_budget: int | str | None) -> int:
    tally = Tally(large=2**62)
    on_fake_cuda(tally, memory_budget=memory_budget, **options)
    return tally.peak


class _AsBefore(Exception):  # noqa: N818 - no error
    """The chunks of another budget; nothing else depends on it."""


@pytest.mark.parametrize("shape", SHAPES)
def test_min_is_the_least_memory_of_all_budgets(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, choose = set[ChunkRows](), ChunkMemory.chunk_rows

    def choose_once(memory: ChunkMemory, *arguments: Any, **options: Any) -> ChunkRows:
        rows = choose(memory, *arguments, **options)
        if rows in chosen:
            raise _AsBefore
        chosen.add(rows)
        return rows

    monkeypatch.setattr(ChunkMemory, "chunk_rows", choose_once)
    peaks = []
    for budget in [1, *(2**power for power in range(25, 38, 2))]:
        with suppress(_AsBefore):
            peaks.append(peak(SHAPES[shape], budget))
    chosen.clear()
    # Chunks are whole tiles of 128 rows.
    assert peak(SHAPES[shape], "min") <= 1.01 * min(peaks)


def test_what_costs_no_memory_is_used() -> None:
    """Chunks peak at accumulator + the larger of logits and dW, one chunk at logits + dW."""
    head = VOCABULARY * WIDTH
    memory = ChunkMemory(kept_row=2 * VOCABULARY, logits_row=0, accumulator=4 * head, rounded=2 * head)
    assert memory.chunk_rows(32768, "min", is_cuda=True) == (WIDTH, WIDTH)
    for budget in ("min", 1, 2 * head):
        assert memory.chunk_rows(2 * WIDTH, budget, is_cuda=True).outer == 2 * WIDTH
        assert memory.chunk_rows(2 * WIDTH + 1, budget, is_cuda=True).outer <= WIDTH + 128
    assert memory.chunk_rows(2 * WIDTH + 1, 2 * head + 2 * VOCABULARY, is_cuda=True).outer == 2 * WIDTH + 1


def test_all_rows_of_llama_3_are_one_chunk_by_default() -> None:
    """dW is one product in its own dtype then, not a sum in float32 that is read and written by chunks."""
    tally = Tally(large=VOCABULARY * WIDTH)
    on_fake_cuda(tally, valid_count=ROWS)
    assert tally.passes == []
    assert tally.peak < peak({"valid_count": 2 * ROWS, "rows": 2 * ROWS}, None)


@pytest.mark.parametrize("n_rows", [8192, 32768])
@pytest.mark.parametrize("budget", [2**28, 2**29, 2**30, GPU_BUDGET, 2**33])
def test_logits_get_what_the_gradient_leaves(n_rows: int, budget: int) -> None:
    """A number of bytes is kept, and used; a chunk's logits are never so few that their product is slow."""
    memory = ChunkMemory(kept_row=2 * 128256 + 8192, logits_row=4 * 128256, accumulator=0, rounded=2**30)
    outer, inner = memory.chunk_rows(n_rows, budget, is_cuda=True)
    assert outer % 128 == inner % 128 == 0
    assert outer * memory.kept_row + inner * memory.logits_row <= budget
    assert inner == outer or inner >= min(512, budget // (memory.kept_row + memory.logits_row) // 128 * 128)
    # Whole tiles in what 512 rows of logits leave, and no more chunks than that takes.
    room = budget - 512 * memory.logits_row - 128 * memory.kept_row
    assert room < 0 or -(-n_rows // outer) < 1 + n_rows * memory.kept_row / room


@pytest.mark.parametrize(
    ("n_rows", "budget", "is_cuda", "expected"),
    [
        (1000, 1000 * 256, False, 1000),  # all at once
        (1000, 999 * 256, False, 500),  # two alike
        (1000, 400 * 256, False, 334),
        (1000, 1, False, 63),  # never fewer than 64 fit, alike again
        (1024, 999 * 256, True, 512),
        (1000, 400 * 256, True, 384),  # whole tiles
        (1000, 1, True, 128),
        (1000, None, False, 1000),
        (10**6, None, False, 500000),  # 128 MiB are 524288 rows of 256 bytes
        (40, "min", False, 40),
        (0, "min", False, 0),
    ],
)
def test_chunk_rows(n_rows: int, budget: int | str | None, is_cuda: bool, expected: int) -> None:
    memory = ChunkMemory(kept_row=256, logits_row=0, accumulator=0, rounded=10**6)
    assert memory.chunk_rows(n_rows, budget, is_cuda=is_cuda) == (expected, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_only_large_thing_on_a_cpu(dtype: torch.dtype) -> None:
    """Real tensors: besides the row loss, nothing makes a tensor of a chunk's size or reads one."""
    case = LinearCase.random(dtype, n_rows=300, n_cols=4000, width=4, share=1.0)
    tally = Tally(large=300 * 4000)
    with tally:
        case.run(row_loss_stand_in)
    assert tally.passes == []
    assert tally.flops == 6 * 300 * case.weight.numel()
    # A gradient in 16 bits beside logits in 32, or over them.
    assert tally.peak < 1.1 * 300 * 4032 * {torch.float32: 4, torch.bfloat16: 6}[dtype]
