"""The compact arrays: every row that is read, once and in order; in plain torch and in the kernels."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from csrc_triton import compact_kernels as kernels
from csrc_triton.compact import IN_TORCH, RowMoves, compact_rows, compact_to
from csrc_triton.compact_kernels import IN_TRITON
from tests.csrc_triton.compiled import TARGETS, compiled, for_targets

IGNORE = -100
everywhere = pytest.mark.parametrize("moves", [IN_TORCH, IN_TRITON], ids=["torch", "triton"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, and several steps of the count of the rows before one."""
    monkeypatch.setattr(kernels, "BLOCK", 16)
    monkeypatch.setattr(kernels, "STEP", 32)


def rows_of(n_rows: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Whether rows are read, their labels and their weights, 0 at those that are not."""
    generator = torch.Generator().manual_seed(n_rows)
    read = torch.rand(n_rows, generator=generator) < share
    labels = torch.randint(50, (n_rows,), generator=generator)
    return read, labels, (1 + torch.rand(n_rows, generator=generator)) * read


@everywhere
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("n_rows", [1, 2, 50, 100])
@pytest.mark.parametrize("spare", [0, 1, 40])
@pytest.mark.parametrize("is_told", [False, True])
def test_what_is_read_in_its_order(
    moves: RowMoves, n_rows: int, share: float, spare: int, is_told: bool
) -> None:
    read, labels, weights = rows_of(n_rows, share)
    if is_told:
        # Rows of weight 0 may be read.
        weights = weights * (labels % 3 > 0)
    wanted = read.nonzero()[:, 0]
    count, capacity = len(wanted), len(wanted) + spare
    rows, fits = moves.compact_to(
        read if is_told else None, labels, weights, capacity=capacity, count=count, ignore_index=IGNORE
    )
    assert fits
    assert rows.index is not None
    assert rows.n_rows == min(capacity, n_rows)
    if capacity < n_rows:
        assert torch.equal(rows.index[:count], wanted)
        assert (rows.index[count:] == -1).all()
        assert rows.inverse is not None
        assert torch.equal(rows.inverse[read], torch.arange(count))
        assert (rows.inverse[~read] == -1).all()
    else:
        assert rows.inverse is None
        assert torch.equal(rows.index, torch.where(read, torch.arange(n_rows), -1))
    is_row = rows.index >= 0
    assert torch.equal(rows.labels, labels[rows.index].where(is_row, IGNORE))
    assert torch.equal(rows.weights, weights[rows.index].where(is_row, 0))


@everywhere
def test_more_rows_than_were_told_are_seen_and_written_nowhere(moves: RowMoves) -> None:
    read, labels, weights = rows_of(100, 0.5)
    count = int(read.sum())
    for told, capacity in ((count - 1, count + 5), (count - 1, 100), (20, 20), (count, count)):
        rows, fits = moves.compact_to(
            None, labels, weights, capacity=capacity, count=told, ignore_index=IGNORE
        )
        assert bool(fits) == (told == count)
        if moves is IN_TRITON and rows.inverse is not None:
            assert int(rows.inverse.max()) < capacity


@everywhere
@pytest.mark.parametrize("n_rows", [0, 3])
def test_nothing_read(moves: RowMoves, n_rows: int) -> None:
    labels, weights = torch.full((n_rows,), 7), torch.zeros(n_rows)
    for capacity in (0, 2, 5):
        rows, fits = moves.compact_to(None, labels, weights, capacity=capacity, count=0, ignore_index=IGNORE)
        assert fits
        assert rows.n_rows == min(capacity, n_rows)
        assert (rows.labels == IGNORE).all()


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_return_to_their_rows(moves: RowMoves, dtype: torch.dtype) -> None:
    read, labels, weights = rows_of(50, 0.4)
    rows, _ = moves.compact_to(None, labels, weights, capacity=40, count=40, ignore_index=IGNORE)
    assert rows.inverse is not None
    losses = torch.full((40,), float("nan"), dtype=dtype)
    count = int(read.sum())
    losses[:count] = torch.rand(count, dtype=dtype)
    correct = torch.arange(40) % 2 == 0
    put_losses, put_correct = moves.put(losses, correct, rows.inverse)
    assert put_losses.dtype == dtype
    assert put_correct.dtype == torch.bool
    assert torch.equal(put_losses[read], losses[:count])
    assert torch.equal(put_correct[read], correct[:count])
    assert (put_losses[~read] == 0).all()
    assert not put_correct[~read].any()


def counted(read: Tensor, valid_count: int | None) -> tuple[int, bool]:
    """The compact rows, and whether they are others than the rows themselves."""
    labels = torch.arange(len(read))
    rows = compact_rows(
        read, labels, read.float(), ignore_index=IGNORE, valid_count=valid_count, compact_to=compact_to
    )
    return rows.n_rows, rows.index is not None


def test_every_row_read_needs_no_index() -> None:
    assert counted(torch.ones(5, dtype=torch.bool), None) == (5, False)
    assert counted(torch.ones(0, dtype=torch.bool), None) == (0, False)


def test_a_count_is_a_bound() -> None:
    read = torch.tensor([True, False, True, False])
    assert counted(read, 3) == (2, True)
    with pytest.raises(ValueError, match=r"valid_count: expected at least .* 2, got 1; count the labels"):
        counted(read, 1)


@TARGETS
def test_every_kernel_compiles_without_spills(tmp_path: Path, targets: tuple[str, ...]) -> None:
    lines = compiled("compact_compile", tmp_path, *for_targets(targets))
    # Two ways to compact and one to put back, on each GPU.
    assert len(lines) == len(targets) * (2 + 1)
    for line in lines:
        assert line.get("spill_bytes", 0) == 0, line
