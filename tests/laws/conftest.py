import pytest

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import row_sums, torch_path
from csrc_triton.launch import Launch


def small_row_launch(n_cols: int, *, is_elementwise: bool, **_: bool) -> Launch:
    """One block or two passes, by the columns; steps shorter than the block and longer, as in the table.

    Plain rows of one block are a pipeline: a program goes through several.
    """
    step = 64 if is_elementwise else 16
    return Launch(block=32, num_warps=1, step=0 if n_cols <= 32 else step, by_word=n_cols <= 32, stages=2)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 columns and of a few rows: small inputs then cross every block boundary."""
    monkeypatch.setattr(kernel, "row_launch", small_row_launch)
    monkeypatch.setattr(kernel, "_SCALE_PROGRAMS", 3)
    monkeypatch.setattr(kernel, "stream_launch", lambda n_cols: Launch(block=32, num_warps=1))
    monkeypatch.setattr(torch_path, "_BLOCK_ELEMENTS", 200)
    monkeypatch.setattr(row_sums, "_BLOCK", 4)
    monkeypatch.setattr(row_sums, "_SUM_BLOCK", 4)
