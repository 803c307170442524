import pytest

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import torch_path
from csrc_triton.launch import Launch


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 columns and of a few rows: small inputs then cross every block boundary."""
    monkeypatch.setattr(kernel, "row_launch", lambda n_cols: Launch(block=32, num_warps=1))
    monkeypatch.setattr(torch_path, "_BLOCK_ELEMENTS", 200)
