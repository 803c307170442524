"""Offsets beyond 2^31 elements, of every kernel over rows of a matrix: of what it reads and what it writes.

The rows lie 2.2 GB apart in memory that is not touched between them, so that it takes none. An offset of 32
bits is most often the end of the process.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from csrc_triton import vocab_parallel
from csrc_triton.gather_rows import gather_rows
from csrc_triton.gtw_cross_entropy import scale_rows_
from csrc_triton.options import LossOptions
from csrc_triton.vocab_pieces import N_STATISTICS, Piece
from tests.csrc_triton.row_kernels import piece_gradient, row_gradient

ROWS, COLUMNS = 3, 40
LABELS = torch.tensor([1, 2, COLUMNS - 1])
# The third row begins beyond 2^31 elements, at the start of a word or not.
STRIDES = pytest.mark.parametrize("stride", [1_100_000_000, 1_100_000_001])


def near() -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).bfloat16()


def far(rows: Tensor, stride: int) -> Tensor:
    """The same rows."""
    storage = rows.new_empty((len(rows) - 1) * stride + rows.shape[1])
    return storage.as_strided(rows.shape, (stride, 1)).copy_(rows)


def gathered(source: Tensor, out: Tensor, labels: Tensor) -> Tensor:
    return gather_rows(source, torch.tensor([2, -1, 0]), out=out)


@STRIDES
@pytest.mark.parametrize("is_far", [(True, False), (False, True)], ids=["read", "written"])
@pytest.mark.parametrize("kernel", [row_gradient, piece_gradient, gathered])
def test_rows_that_are_far_apart(
    kernel: Callable[..., Tensor], is_far: tuple[bool, bool], stride: int
) -> None:
    values = (near(), torch.full_like(near(), torch.nan))
    expected = kernel(*(each.clone() for each in values), LABELS)
    assert expected.isfinite().all()
    source, out = (far(each, stride) if apart else each for each, apart in zip(values, is_far, strict=True))
    assert torch.equal(kernel(source, out, LABELS), expected)


@STRIDES
def test_rows_that_are_scaled(stride: int) -> None:
    rows, factors = far(near(), stride), torch.tensor([0.5, 1.0, 2.0])
    scale_rows_(rows, factors)
    assert torch.equal(rows, near() * factors[:, None].bfloat16())


class FirstRow:
    """A kernel that is launched for the first row alone, however many there are."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.kernel[(1,)]


def test_statistics_that_are_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a row lie as many numbers apart as there are rows."""
    for name in ("piece_statistics_fwd_kernel", "piece_losses_fwd_kernel"):
        monkeypatch.setattr(vocab_parallel, name, FirstRow(getattr(vocab_parallel, name)))
    n_cols, wanted = COLUMNS, {"want_correct": True, "ignore_index": -100}
    piece, options = Piece(0, n_cols, n_cols), LossOptions()
    logits, labels, label_x, weights = near()[:1], LABELS[:1], near()[0, LABELS[:1]].float(), torch.ones(1)
    near_told = vocab_parallel.piece_statistics(logits, labels, label_x, weights, piece, options, **wanted)

    def repeated(n_rows: int) -> tuple[Tensor, ...]:
        return tuple(each.expand(n_rows, *each.shape[1:]) for each in (logits, labels, label_x, weights))

    # The last of four passes 2^31: 11.5 GB, of which a few pages are touched.
    rows = repeated(720_000_000)
    try:
        torch.empty(4, len(rows[0]))
    except RuntimeError:
        pytest.skip("this machine gives no process 12 GB of addresses")
    told = vocab_parallel.piece_statistics(*rows, piece, options, **wanted)
    assert torch.equal(told[:, :1], near_told)
    del told
    # The last of five does.
    logits, labels, _, weights = repeated(550_000_000)
    statistics = torch.empty(N_STATISTICS, len(labels))
    statistics[:, :1] = torch.cat([near_told, label_x[None]])
    losses, _ = vocab_parallel.piece_losses(
        logits, labels, statistics, weights, None, piece, options, gradient=None, **wanted
    )
    expected = torch.nn.functional.cross_entropy(near()[:1].float(), LABELS[:1], reduction="none")
    torch.testing.assert_close(losses[:1], expected)
