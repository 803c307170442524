"""The linear launcher against autograd in float64, whatever the rows, the chunks and the gradients wanted."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from csrc_triton import linear_gtw_cross_entropy
from csrc_triton.compact import IN_TORCH, Compaction, RowMoves
from csrc_triton.compact_kernels import IN_TRITON
from csrc_triton.linear_gtw_cross_entropy import LinearResult
from csrc_triton.logits_chunks import ChunkMemory, ChunkRows, LogitsChunks
from tests.csrc_triton.linear_cases import IGNORE, LinearCase, torch_row_loss, triton_row_loss
from tests.tolerances import RELATIVE, assert_close

ROW_LOSSES = {"torch": torch_row_loss, "triton": triton_row_loss}
MOVES = {"torch": IN_TORCH, "triton": IN_TRITON}
# A capacity that the host knows and no count: padded as on a GPU, or with nothing to save.
CAPACITIES = {"padded": 56, "in place": 1000}
LOW = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# The logits of a chunk in pieces, the last of which is not full; the last chunk is not full either.
CHUNKS = {"one chunk": None, "one chunk in pieces": (1000, 9), "chunks": (20, 8)}


@pytest.fixture(params=CHUNKS)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pieces where the gradient has a buffer of its own; otherwise the chunks are as small as those."""
    rows = CHUNKS[request.param]
    if rows is not None:

        def chunk_rows(memory: ChunkMemory, *_: object, **__: object) -> ChunkRows:
            return ChunkRows(*rows) if memory.logits_row else ChunkRows(rows[1], rows[1])

        monkeypatch.setattr(ChunkMemory, "chunk_rows", chunk_rows)
    return request.param


def set_capacity(monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
    def compact_rows(
        *rows: Tensor | None, valid_count: int | None, compact_to: Any, **options: int
    ) -> Compaction:
        compaction, fits = compact_to(*rows, capacity=capacity, count=capacity, **options)
        assert fits
        return compaction

    monkeypatch.setattr(linear_gtw_cross_entropy, "compact_rows", compact_rows)


@pytest.fixture(params=["counted", "padded", "in place"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "counted":
        set_capacity(monkeypatch, CAPACITIES[request.param])
    return request.param


def assert_right(result: LinearResult, case: LinearCase) -> None:
    expected = case.by_autograd()
    got = (result.losses, result.hidden_gradient, result.weight_gradient, result.bias_gradient)
    for ours, wanted in zip(got, expected, strict=True):
        assert (ours is None) == (wanted is None)
        if ours is not None and wanted is not None:
            assert_close(ours, wanted, 2 * RELATIVE[case.weight.dtype])
    assert result.hidden_gradient is not None
    assert (result.hidden_gradient[~case.read] == 0).all()
    assert (result.losses[~case.read] == 0).all()
    logits = torch.nn.functional.linear(case.hidden, case.weight, case.bias)
    assert torch.equal(result.correct, (logits.argmax(1) == case.labels) & case.read)


@pytest.mark.usefixtures("chunks", "layout")
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize(
    ("dtype", "row_loss", "moves"),
    [
        (torch.float64, "torch", "torch"),
        (torch.float32, "torch", "triton"),
        (torch.float32, "triton", "torch"),
    ],
)
def test_equals_autograd(dtype: torch.dtype, row_loss: str, moves: str, bias: bool) -> None:
    """Rows that are not read hold NaN: none of it may leak, be it through padding."""
    case = LinearCase.random(dtype, bias=bias)
    before = case.hidden.clone()
    result = case.run(ROW_LOSSES[row_loss](case.denominator), moves=MOVES[moves])
    assert_right(result, case)
    assert torch.equal(case.hidden[case.read], before[case.read])


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("valid_count", [None, 70, 100])
def test_every_row_read(dtype: torch.dtype, valid_count: int | None) -> None:
    case = LinearCase.random(dtype, share=1.0)
    assert_right(case.run(valid_count=valid_count), case)


@pytest.mark.parametrize(("n_rows", "n_cols", "width"), [(1, 1, 1), (3, 2, 1), (5, 1, 4), (2, 64, 3)])
def test_tiny_shapes(n_rows: int, n_cols: int, width: int) -> None:
    case = LinearCase.random(torch.float32, n_rows=n_rows, n_cols=n_cols, width=width, share=1.0)
    assert_right(case.run(), case)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("into", [None, "weight's dtype", "float32"])
def test_low_precision_is_rounded_once(dtype: torch.dtype, into: str | None) -> None:
    """dX, dW and db are half a unit in the last place from the exact products of the gradients in 16 bits."""
    case = LinearCase.random(dtype, n_rows=200, share=0.8, bias=True)
    seen: list[tuple[Tensor, Tensor]] = []

    def row_loss(
        logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert gradient is not None
        before = logits.double()
        result = torch_row_loss(case.denominator)(logits, labels, weights, gradient)
        seen.append((before, gradient.double()))
        return result

    target = None
    if into is not None:
        target = torch.randn(case.weight.shape, generator=torch.Generator().manual_seed(1))
        target = target.to(dtype if into == "weight's dtype" else torch.float32)
    start = 0.0 if target is None else target.double()
    result = case.run(row_loss, weight_gradient_into=target)
    logits, gradient = (torch.cat(parts) for parts in zip(*seen, strict=True))
    hidden, weight = case.hidden[case.read].double(), case.weight.double()
    assert case.bias is not None
    # The logits are not rounded to 16 bits at all.
    torch.testing.assert_close(
        logits, hidden @ weight.t() + case.bias.double(), rtol=RELATIVE[torch.float32], atol=1e-5
    )
    got = result.weight_gradient if target is None else target
    assert got is not None
    assert (result.weight_gradient is None) == (target is not None)
    assert_rounded_once(got, gradient.t() @ hidden + start)
    assert_rounded_once(result.hidden_gradient[case.read], gradient @ weight)
    assert_rounded_once(result.bias_gradient, gradient.sum(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_stands_behind_the_gradients_rows_is_0(dtype: torch.dtype) -> None:
    """A product on a CPU with AMX reads it, and NaN times 0 is NaN."""
    weight = torch.zeros(131, 5, dtype=dtype)
    dtypes = (torch.float32, dtype)
    _, gradient = LogitsChunks(weight, ChunkRows(9, 9), dtypes, keeps_labels_apart=False).buffers(0, 9)
    assert gradient is not None
    whole = gradient.as_strided((9, gradient.stride(0)), gradient.stride())
    assert whole.shape[1] > 131
    assert not whole[:, 131:].any()


def assert_rounded_once(actual: Tensor, exact: Tensor) -> None:
    """Within half a unit in the last place, and float32's sum of at most a few hundred terms."""
    half_unit = torch.finfo(actual.dtype).eps / 2 * exact.abs()
    sums = 64 * torch.finfo(torch.float32).eps * exact.abs().max()
    smallest = torch.finfo(actual.dtype).smallest_normal * torch.finfo(actual.dtype).eps
    assert ((actual.double() - exact).abs() <= half_unit + sums + smallest).all()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_gradient_is_added_to_the_callers_tensor(dtype: torch.dtype) -> None:
    case = LinearCase.random(dtype)
    target = torch.full_like(case.weight, 0.5)
    result = case.run(weight_gradient_into=target)
    assert result.weight_gradient is None
    assert_close(target, case.by_autograd()[2] + 0.5, 2 * RELATIVE[dtype])


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_only_the_gradients_asked_for(hidden: bool, weight: bool, bias: bool) -> None:
    case = LinearCase.random(torch.float32, bias=True)
    asked = {
        "needs_hidden_gradient": hidden,
        "needs_weight_gradient": weight,
        "needs_bias_gradient": bias,
    }
    result = case.run(**asked)
    losses, *expected = case.by_autograd()
    assert_close(result.losses, losses, 2 * RELATIVE[torch.float32])
    got = (result.hidden_gradient, result.weight_gradient, result.bias_gradient)
    for ours, needed, wanted in zip(got, asked.values(), expected, strict=True):
        assert (ours is not None) == needed
        if ours is not None and wanted is not None:
            assert_close(ours, wanted, 2 * RELATIVE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n_rows", "valid_count"), [(0, None), (0, 5), (6, None), (6, 0), (6, 4)])
def test_nothing_read_is_exactly_zero(dtype: torch.dtype, n_rows: int, valid_count: int | None) -> None:
    case = LinearCase.random(dtype, n_rows=n_rows, share=0.0, bias=True)
    target = torch.ones_like(case.weight)
    for into in (None, target):
        result = case.run(valid_count=valid_count, weight_gradient_into=into)
        assert torch.equal(result.losses, torch.zeros(n_rows))
        assert torch.equal(result.correct, torch.zeros(n_rows, dtype=torch.bool))
        assert torch.equal(result.hidden_gradient, torch.zeros_like(case.hidden))
        assert torch.equal(result.bias_gradient, torch.zeros_like(case.bias))
        if into is None:
            assert torch.equal(result.weight_gradient, torch.zeros_like(case.weight))
    assert (target == 1).all()


@pytest.mark.parametrize("kind", ["padding only", "in place"])
def test_padding_alone_is_exactly_zero(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does when the caller's count was too large: nothing but padding goes through."""
    case = LinearCase.random(torch.float32, n_rows=6, share=0.0)
    capacity = 4 if kind == "padding only" else 8
    set_capacity(monkeypatch, capacity)
    result = case.run(torch_row_loss(torch.ones(())))
    for tensor in (result.losses, result.hidden_gradient, result.weight_gradient):
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_read_rows_of_weight_zero_have_a_loss() -> None:
    """Their loss is wanted for the gradient in the task weights; their own gradient is 0."""
    case = LinearCase.random(torch.float32)
    first = int(case.read.nonzero()[0])
    expected = case.run().losses
    case.weights[first] = 0.0
    result = case.run(read=case.read | (torch.arange(70) == first))
    assert torch.equal(result.losses, expected)
    assert (result.hidden_gradient[first] == 0).all()
    assert_close(result.weight_gradient, case.by_autograd()[2], 2 * RELATIVE[torch.float32])


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_hidden_states_of_any_stride(moves: RowMoves) -> None:
    case = LinearCase.random(torch.float32)
    wide = torch.full((70, 25), float("nan"))
    for view in (wide[:, 3:12], wide[:, 3:21:2], wide.t().contiguous().t()[:, :9]):
        view.copy_(case.hidden)
        same = LinearCase(view, case.weight, None, case.labels, case.weights)
        assert_right(same.run(moves=moves), case)


def test_too_small_a_count_raises() -> None:
    case = LinearCase.random(torch.float32)
    count = int(case.read.sum())
    assert_right(case.run(valid_count=count), case)
    with pytest.raises(ValueError, match=rf"valid_count: expected at least .* {count}, got {count - 1}"):
        case.run(valid_count=count - 1)


def test_labels_of_rows_not_read_are_hidden_from_the_row_loss() -> None:
    case = LinearCase.random(torch.float32)
    case.labels[~case.read] = 5
    seen: list[Tensor] = []

    def row_loss(
        logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        seen.append(labels)
        return torch_row_loss(case.denominator)(logits, labels, weights, gradient)

    with pytest.MonkeyPatch.context() as patch:
        set_capacity(patch, 1000)
        case.run(row_loss)
    assert torch.equal(torch.cat(seen) == IGNORE, ~case.read)
